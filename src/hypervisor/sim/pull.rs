//! Block pulls: what lies under an image goes into it, block by block, with a word from outside before each block.

use std::collections::BTreeSet;

use super::{
    Asked, Entered, Sim, State,
    image::{BLOCK, Blocks},
    op::Op,
};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{BlockJob, Committed, Copied, Error, ErrorKind, Event, JobKind, Result, Steer},
};

/// A pull that goes on.
#[derive(Debug, Clone)]
pub(super) struct Pulling {
    /// What is seen below, and how many blocks of it were looked at.
    blocks: Blocks,
    done: usize,
}

impl Pulling {
    fn copied(&self) -> Copied {
        // Something is always to be done: an empty one is at its end as soon as it begins.
        let total = self.blocks.len().max(1) as u64;
        let done = if self.blocks.is_empty() { 1 } else { self.done as u64 };
        Copied { done: done * BLOCK, total: total * BLOCK }
    }

    pub(super) fn job(&self, target: &str) -> BlockJob {
        BlockJob {
            target: target.to_owned(),
            kind: JobKind::Other,
            copied: self.copied(),
            ready: false,
            into: None,
        }
    }
}

/// Image, block and value.
pub(super) type Unflushed = BTreeSet<(String, u64, u64)>;

impl State {
    /// Until this QEMU ends, this disk's image lies on that one.
    pub(super) fn lend(&mut self, vm: VmId, target: &str, below: Option<String>) -> Result<()> {
        let machine = self.machine(vm)?;
        let active = machine.drive(target)?.active.clone();
        machine.lent.insert(active.clone());
        if let Some(image) = self.store.files.get_mut(&active) {
            image.backing = below;
        }
        Ok(())
    }

    /// What was pulled is on the disks.
    pub(super) fn flush(&mut self, vm: VmId) -> Result<()> {
        self.machine(vm)?.unflushed.clear();
        Ok(())
    }

    /// QEMU ends, and what is in its memory alone goes with it.
    pub(super) fn lose_unflushed(&mut self, vm: VmId) -> Result<()> {
        let machine = self.machine(vm)?;
        let (lost, lent) = (std::mem::take(&mut machine.unflushed), std::mem::take(&mut machine.lent));
        for (image, block, value) in lost {
            let blocks = self.store.files.get_mut(&image).map(|image| &mut image.blocks);
            if let Some(blocks) = blocks.filter(|blocks| blocks.get(&block) == Some(&value)) {
                blocks.remove(&block);
            }
        }
        for image in lent {
            self.store.files.get_mut(&image).map(|image| image.backing.take());
        }
        Ok(())
    }

    /// What the pull would be; `None` if the disk lies on nothing.
    fn plan_pull(&mut self, vm: VmId, target: &str) -> Result<Option<Pulling>> {
        let layer_limit = self.layer_limit;
        let machine = self.machine(vm)?;
        let state = machine.state;
        let busy =
            machine.block_job || machine.merging.contains_key(target) || machine.pulling.contains_key(target);
        let active = machine.drive(target)?.active.clone();
        if state == VmState::ShutOff {
            return Err(Error::new(ErrorKind::Unsupported, "the domain is not running"));
        }
        let chain = self.store.chain(&active);
        let Some(below) = chain.get(1) else { return Ok(None) };
        if busy {
            return Err(Error::new(ErrorKind::Busy, format!("disk '{target}' already in active block job")));
        }
        self.store.check_openable(&active, layer_limit)?;
        Ok(Some(Pulling { blocks: self.store.read(&below.path), done: 0 }))
    }

    fn pulling(&mut self, vm: VmId, target: &str) -> Result<&mut Pulling> {
        let gone = || Error::new(ErrorKind::Failed, format!("the pull of disk {target} ended early"));
        self.machine(vm)?.pulling.get_mut(target).ok_or_else(gone)
    }

    /// Copies one more block; false if there is none.
    fn pull_one(&mut self, vm: VmId, target: &str) -> Result<bool> {
        let job = self.pulling(vm, target)?;
        let Some((block, value)) = job.blocks.iter().nth(job.done).map(|(b, v)| (*b, *v)) else {
            return Ok(false);
        };
        job.done += 1;
        let active = self.machine(vm)?.drive(target)?.active.clone();
        // What the guest has written is newer.
        if self.store.files.get(&active).is_some_and(|f| f.blocks.contains_key(&block)) {
            return Ok(true);
        }
        if let Err(e) = self.store.write(&active, block, value) {
            self.machine(vm)?.pulling.remove(target);
            return Err(e);
        }
        self.machine(vm)?.unflushed.insert((active, block, value));
        Ok(true)
    }

    /// The disk lies on nothing any more.
    fn pulled(&mut self, vm: VmId, target: &str) -> Result<()> {
        self.pulling(vm, target)?;
        let machine = self.machine(vm)?;
        machine.pulling.remove(target);
        let active = machine.drive(target)?.active.clone();
        machine.lent.remove(&active);
        if let Some(image) = self.store.files.get_mut(&active) {
            image.backing = None;
        }
        self.tell(Event::Changed(vm));
        Ok(())
    }

    /// Whoever watched it is gone: libvirtd and QEMU carry it out all the same.
    fn pull_alone(&mut self, vm: VmId, target: &str) -> Result<()> {
        while self.pull_one(vm, target)? {}
        self.pulled(vm, target)
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
        let _ = self.sim.with(|s| s.pull_alone(self.vm, self.target));
    }
}

impl Sim {
    pub(super) fn pull_disk(
        &self,
        vm: VmId,
        target: &str,
        steer: &mut dyn FnMut(Copied) -> Steer,
    ) -> Result<Committed> {
        let Steer::On { .. } = steer(Copied::default()) else { return Err(stopped(target)) };
        let mut before = false;
        let entered = self.enter(Asked::vm(Op::Pull, vm, target), |s| {
            match s.plan_pull(vm, target)? {
                Some(job) => drop(s.machine(vm)?.pulling.insert(target.to_owned(), job)),
                None => before = true,
            }
            Ok(())
        });
        let half = entered.half();
        let Entered { mut state, number, mishap, let_in } = entered;
        if let Err(e) = let_in {
            return self.leave(state, (number, mishap), Err(e));
        }
        if before {
            return self.leave(state, (number, mishap), Ok(Committed::Before));
        }
        let done = loop {
            let job = match state.pulling(vm, target) {
                Ok(job) => job,
                Err(e) => break Err(e),
            };
            if half && job.done >= job.blocks.len() / 2 {
                state.machine(vm).map(|m| m.pulling.remove(target)).ok();
                break Ok(());
            }
            let copied = job.copied();
            let era = state.era;
            drop(state);
            let alone = Alone { sim: self, vm, target };
            let guarded = self.guarded(&Asked::vm(Op::Pull, vm, target));
            let word = if guarded.is_ok() { steer(copied) } else { Steer::Stop };
            std::mem::forget(alone);
            state = self.lock();
            if state.era != era || guarded.is_err() {
                let _ = state.pull_alone(vm, target);
                break Err(super::fault::gone("client socket is closed"));
            }
            if word == Steer::Stop {
                state.machine(vm).map(|m| m.pulling.remove(target)).ok();
                break Err(stopped(target));
            }
            match state.pull_one(vm, target) {
                Ok(true) => {}
                Ok(false) => break state.pulled(vm, target),
                Err(e) => break Err(e),
            }
        };
        self.leave(state, (number, mishap), done.map(|()| Committed::Now))
    }
}

fn stopped(target: &str) -> Error {
    Error::new(ErrorKind::Cancelled, format!("the pull of disk {target} was stopped"))
}
