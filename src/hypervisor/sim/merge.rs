//! Block commits: the same copying, block by block, that a real one does, with a word from outside before each block.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
};

use super::{
    Asked, Entered, Sim, State,
    image::{BLOCK, Blocks},
    op::Op,
    snapshot::mismatch,
};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{
        BlockJob, Commit, Committed, Copied, Error, ErrorKind, Event, JobKind, Merge, Result, Steer,
        WaitingJob,
    },
};

/// A merge that goes on.
#[derive(Debug, Clone)]
pub(super) struct Merging {
    commit: Commit,
    active: bool,
    /// What is to be written, and how many blocks of it are.
    blocks: Blocks,
    done: usize,
    /// Nobody watches it any more.
    left: bool,
    limit: Option<NonZeroU64>,
}

impl Merging {
    fn copied(&self) -> Copied {
        // Something is always to be done: an empty merge is at its end as soon as it begins.
        let total = self.blocks.len().max(1) as u64;
        let done = if self.blocks.is_empty() { 1 } else { self.done as u64 };
        Copied { done: done * BLOCK, total: total * BLOCK }
    }
}

impl State {
    /// What the merge would be; `None` if it is done.
    fn plan_commit(&mut self, vm: VmId, commit: &Commit) -> Result<Option<Merging>> {
        let layer_limit = self.layer_limit;
        let machine = self.machine(vm)?;
        let (state, busy) =
            (machine.state, machine.merging.contains_key(&commit.target) || machine.block_job);
        let active = machine.drive(&commit.target).map_err(|e| mismatch(&e.message))?.active.clone();
        let chain: Vec<String> = self.store.chain(&active).into_iter().map(|l| l.path).collect();
        let at = |path: &str| chain.iter().position(|p| p == path);
        let (top, base) = match (at(&commit.top), at(&commit.base)) {
            (Some(top), Some(base)) if base > top => (top, base),
            (None, Some(_)) => return Ok(None),
            _ => {
                let (chain, Commit { target, base, top }) = (chain.join(" → "), commit);
                return Err(mismatch(&format!(
                    "disk {target} runs on {chain}, where {top} does not lie above {base}"
                )));
            }
        };
        if state == VmState::ShutOff {
            return Err(Error::new(ErrorKind::Unsupported, "the domain is not running"));
        }
        if self.machine(vm)?.ram.inactive {
            return Err(inactive());
        }
        if busy {
            let text = format!("disk '{}' already in active block job", commit.target);
            return Err(Error::new(ErrorKind::Busy, text));
        }
        if self.machine(vm)?.denies() {
            let text = format!(
                "unable to execute QEMU command 'block-commit': Could not open '{base}': Permission denied",
                base = commit.base
            );
            return Err(Error::new(ErrorKind::Denied, text));
        }
        let written_to = self.written_to(vm, &commit.target)?;
        if written_to != active && !self.store.chain(&written_to).iter().any(|l| l.path == commit.top) {
            let text = "unable to execute QEMU command 'block-commit': 'libvirt-3-format' is not in this backing file chain";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        // With too long a chain block jobs fail as starting does.
        self.store.check_openable(&active, layer_limit)?;
        let mut blocks = Blocks::new();
        for image in chain[top..base].iter().rev() {
            blocks.extend(self.store.files.get(image).iter().flat_map(|i| &i.blocks));
        }
        let (commit, active) = (commit.clone(), top == 0);
        Ok(Some(Merging { commit, active, blocks, done: 0, left: false, limit: None }))
    }

    fn merging(&mut self, vm: VmId, target: &str) -> Result<&mut Merging> {
        let gone = || Error::new(ErrorKind::Failed, format!("the merge of disk {target} ended early"));
        self.machine(vm)?.merging.get_mut(target).ok_or_else(gone)
    }

    /// Copies one more block; false if there is none.
    fn copy_one(&mut self, vm: VmId, target: &str) -> Result<bool> {
        let job = self.merging(vm, target)?;
        let (base, next) = (job.commit.base.clone(), job.blocks.iter().nth(job.done));
        let Some((block, value)) = next.map(|(b, v)| (*b, *v)) else { return Ok(false) };
        job.done += 1;
        if let Err(e) = self.store.write(&base, block, value) {
            self.machine(vm)?.merging.remove(target);
            return Err(e);
        }
        self.copied.entry(base).and_modify(|n| *n += 1).or_insert(1);
        Ok(true)
    }

    /// What the guest writes while its active image is merged gets into the base, too.
    pub(super) fn mirror(&mut self, vm: VmId, target: &str, block: u64, value: u64) {
        let job = self.vms.get_mut(&vm).and_then(|m| m.merging.get_mut(target)).filter(|job| job.active);
        let Some(job) = job else { return };
        match job.blocks.keys().position(|b| *b == block) {
            Some(at) if at >= job.done => drop(job.blocks.insert(block, value)),
            _ => {
                let base = job.commit.base.clone();
                // Without room for it the merge fails, as a real one does.
                if self.store.write(&base, block, value).is_err()
                    && let Ok(machine) = self.machine(vm)
                {
                    machine.merging.remove(target);
                }
            }
        }
    }

    /// Takes the images out of the chain; they stay as files.
    fn complete(&mut self, vm: VmId, target: &str) -> Result<()> {
        self.merging(vm, target)?;
        let machine = self.machine(vm)?;
        // libvirt writes the profile anew.
        machine.lifted = false;
        let Some(Merging { commit, active, .. }) = machine.merging.remove(target) else { return Ok(()) };
        if active {
            commit.base.clone_into(&mut machine.drive(target)?.active);
        } else {
            let chain = machine.drive(target)?.active.clone();
            let mut above = chain;
            while let Some(image) = self.store.files.get_mut(&above) {
                match &image.backing {
                    Some(below) if *below == commit.top => {
                        image.backing = Some(commit.base);
                        break;
                    }
                    Some(below) => above.clone_from(below),
                    None => break,
                }
            }
        }
        self.tell(Event::Changed(vm));
        Ok(())
    }

    /// Whoever watched this merge is gone: libvirtd and QEMU carry it out all the same, as far as they can alone.
    fn leave_alone(&mut self, vm: VmId, target: &str) -> Result<()> {
        self.merging(vm, target)?.left = true;
        while self.copy_one(vm, target)? {}
        if self.merging(vm, target)?.active { Ok(()) } else { self.complete(vm, target) }
    }
}

/// Whoever is asked may end without an answer.
struct Alone<'a> {
    sim: &'a Sim,
    vm: VmId,
    target: &'a str,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.sim.with(|s| s.leave_alone(self.vm, self.target));
    }
}

impl Merge for Sim {
    fn commit(&self, vm: VmId, commit: &Commit, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed> {
        let target = commit.target.as_str();
        let asked = Asked::vm(Op::Commit, vm, format!("{target} {} {}", commit.base, commit.top));
        // Before anything is touched, and with nothing of ours locked.
        let Steer::On { limit } = steer(Copied::default()) else { return Err(stopped(target)) };
        let mut before = false;
        let entered = self.enter(asked, |s| {
            match s.plan_commit(vm, commit)? {
                Some(job) => {
                    s.machine(vm)?.merging.insert(target.to_owned(), Merging { limit, ..job });
                }
                None => before = true,
            }
            Ok(())
        });
        let half = entered.half();
        let Entered { mut state, number, mishap, let_in } = entered;
        if let Err(e) = let_in {
            if e.kind == ErrorKind::Disconnected && state.merging(vm, target).is_ok_and(|job| job.done == 0) {
                let _ = state.leave_alone(vm, target);
            }
            return self.leave(state, (number, mishap), Err(e));
        }
        if before {
            return self.leave(state, (number, mishap), Ok(Committed::Before));
        }
        let done = loop {
            let job = match state.merging(vm, target) {
                Ok(job) => job,
                Err(e) => break Err(e),
            };
            if half && job.done >= job.blocks.len() / 2 {
                state.machine(vm).map(|m| m.merging.remove(target)).ok();
                break Ok(());
            }
            let copied = job.copied();
            let era = state.era;
            drop(state);
            let alone = Alone { sim: self, vm, target };
            let guarded = self.guarded(&Asked::vm(Op::Commit, vm, target));
            let word = if guarded.is_ok() { steer(copied) } else { Steer::Stop };
            std::mem::forget(alone);
            state = self.lock();
            if state.era != era || guarded.is_err() {
                let _ = state.leave_alone(vm, target);
                break Err(super::fault::gone("client socket is closed"));
            }
            match word {
                Steer::Stop => {
                    state.machine(vm).map(|m| m.merging.remove(target)).ok();
                    break Err(stopped(target));
                }
                Steer::On { limit } => {
                    if let Ok(job) = state.merging(vm, target) {
                        job.limit = limit;
                    }
                }
            }
            match state.copy_one(vm, target) {
                Ok(true) => {}
                Ok(false) => break state.complete(vm, target),
                Err(e) => break Err(e),
            }
        };
        self.leave(state, (number, mishap), done.map(|()| Committed::Now))
    }

    fn pull(&self, vm: VmId, target: &str, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed> {
        self.pull_disk(vm, target, steer)
    }

    fn block_jobs(&self, vm: VmId) -> Result<Vec<BlockJob>> {
        self.call(Asked::vm(Op::BlockJobs, vm, ""), |s| {
            let machine = s.machine(vm)?;
            let foreign = machine.block_job.then(|| BlockJob {
                target: machine.drives.first().map(|d| d.target.clone()).unwrap_or_default(),
                kind: JobKind::Other,
                copied: Copied::default(),
                ready: false,
                into: None,
            });
            let ours = machine.merging.iter().map(|(target, job)| BlockJob {
                target: target.clone(),
                kind: if job.active { JobKind::ActiveCommit } else { JobKind::Commit },
                copied: job.copied(),
                ready: job.active && job.left,
                into: job.active.then(|| job.commit.base.clone()),
            });
            let pulls = machine.pulling.iter().map(|(target, job)| job.job(target));
            Ok(ours.chain(pulls).chain(foreign).collect())
        })
    }

    fn waiting_jobs(&self, vm: VmId) -> Result<Option<Vec<WaitingJob>>> {
        self.call(Asked::vm(Op::WaitingJobs, vm, ""), |s| {
            let machine = s.machine(vm)?;
            let waits = machine.state == VmState::Paused && machine.job.is_none();
            Ok(Some(machine.waiting.clone()).filter(|jobs| waits && !jobs.is_empty()))
        })
    }

    fn end_block_job(&self, vm: VmId, target: &str) -> Result<()> {
        self.call(Asked::vm(Op::EndBlockJob, vm, target), |s| {
            let machine = s.machine(vm)?;
            machine.pulling.remove(target);
            match machine.merging.get(target) {
                Some(job) if job.active && job.left => s.complete(vm, target),
                Some(_) => {
                    machine.merging.remove(target);
                    Ok(())
                }
                None => {
                    machine.block_job &= machine.drives.first().is_some_and(|d| d.target != target);
                    Ok(())
                }
            }
        })
    }
}

/// What merges need, and what they cost.
impl Sim {
    /// Lets a confined VM write all of its images, until libvirt writes its profile anew: at the end of the next merge.
    pub fn lift(&self, vm: VmId) -> Result<()> {
        self.with(|s| {
            let machine = s.machine(vm)?;
            if !machine.active() {
                return Err(Error::new(ErrorKind::Failed, "the profile is not loaded"));
            }
            machine.lifted = true;
            Ok(())
        })
    }

    /// How many blocks merges have written so far, to each image.
    pub fn blocks_merged(&self) -> BTreeMap<String, u64> {
        self.with(|s| s.copied.clone())
    }

    /// The merges that go on, with the limit of each, in bytes per second.
    pub fn merges(&self, vm: VmId) -> BTreeSet<(String, Option<NonZeroU64>)> {
        self.with(|s| {
            let machine = s.vms.get(&vm);
            machine.into_iter().flat_map(|m| &m.merging).map(|(t, job)| (t.clone(), job.limit)).collect()
        })
    }
}

fn inactive() -> Error {
    let text = "unable to execute QEMU command 'block-commit': Inactive 'libvirt-2-format' can't be a backing child of \
                active '#block080'. The VM stands still since its memory was kept: resume it first";
    Error::new(ErrorKind::Unsupported, text)
}

fn stopped(target: &str) -> Error {
    Error::new(ErrorKind::Cancelled, format!("the merge of disk {target} was stopped"))
}
