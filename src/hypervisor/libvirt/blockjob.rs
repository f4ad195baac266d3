//! Block commits, one disk at a time, watched until libvirt's own XML says that they are done.
//!
//! They are explicit jobs: they outlive this process and libvirtd. An inner one ends by itself; one of the active
//! layer becomes ready and waits for the pivot.

use std::time::Duration;

use virt::domain::Domain;

use super::{
    super::ffi::block::{self, Job},
    Connections, domain, storage,
    xml::{self, DiskXml},
};
use crate::{
    clock,
    core::model::VmId,
    hypervisor::{BlockJob, Commit, Committed, Copied, Error, ErrorKind, JobKind, Result, Steer},
    logging::message,
};

/// The first pause between two looks at a job, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// So many looks more, at the longest pause, when the job is gone and the XML does not show it yet.
const SETTLE: u32 = 20;
/// So often a look is tried that the VM's lock was in the way of: libvirt waits 30 s for it by itself. When a job ends
/// libvirt holds the lock while AppArmor's profile is written and loaded anew for each image of the disk, which on a busy
/// host takes longer.
const LOCKED: u32 = 10;

pub(super) fn commit(
    connections: &Connections,
    id: VmId,
    commit: &Commit,
    steer: &mut dyn FnMut(Copied) -> Steer,
) -> Result<Committed> {
    let running = Running { domain: domain(&connections.work, id)?, commit };
    let place = running.place()?;
    if place == Place::Done {
        return Ok(Committed::Before);
    }
    if !running.domain.is_active()? {
        return Err(Error::new(ErrorKind::Unsupported, "the VM is off, and images are merged by its QEMU"));
    }
    if block::job(&running.domain, &commit.target)?.is_some() {
        let text = format!("disk {} has another block job. Nothing was touched", commit.target);
        return Err(Error::new(ErrorKind::Busy, text));
    }
    let Steer::On { limit } = steer(Copied::default()) else { return Err(cancelled(commit)) };
    let speed = limit.map_or(0, u64::from);
    let (base, top) = (commit.base.as_str(), commit.top.as_str());
    block::commit(&running.domain, &commit.target, (base, top), speed, place == Place::Active)
        .map_err(|e| running.refused(e))?;
    let committed = running.watch(speed, steer).inspect_err(|_| running.leave_nothing())?;
    // Else a pool would go on telling the chain of a stopped VM as it was.
    storage::refresh_pools(&connections.work, [commit.base.clone(), commit.top.clone()].into_iter());
    Ok(committed)
}

/// Where a merge's images are in the disk's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `top` is written to.
    Active,
    /// Under what is written to.
    Inner,
    /// `top` is no longer there.
    Done,
}

struct Running<'a> {
    domain: Domain,
    commit: &'a Commit,
}

impl Running<'_> {
    fn disk(&self) -> Result<DiskXml> {
        let read = xml::domain(&self.domain.xml_desc(0)?)?;
        let disk = read.disks.into_iter().find(|d| d.disk.target == self.commit.target);
        disk.ok_or_else(|| {
            let text = format!("the VM has no disk {}. Nothing was touched", self.commit.target);
            Error::new(ErrorKind::ChainMismatch, text)
        })
    }

    fn place(&self) -> Result<Place> {
        let disk = self.disk()?.disk;
        let at = |path: &str| disk.chain.iter().position(|l| l.path == path);
        match (at(&self.commit.top), at(&self.commit.base)) {
            (Some(0), Some(base)) if base > 0 => Ok(Place::Active),
            (Some(top), Some(base)) if base > top => Ok(Place::Inner),
            (None, Some(_)) => Ok(Place::Done),
            _ => {
                let chain: Vec<_> = disk.chain.iter().map(|l| l.path.as_str()).collect();
                Err(Error::new(
                    ErrorKind::ChainMismatch,
                    format!(
                        "disk {} runs on {}, where {} does not lie above {}. Nothing was touched",
                        self.commit.target,
                        chain.join(" → "),
                        self.commit.top,
                        self.commit.base
                    ),
                ))
            }
        }
    }

    /// Until it is done, or stopped, or ended by itself.
    fn watch(&self, mut speed: u64, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<Committed> {
        let mut pause = PAUSE.0;
        let target = &self.commit.target;
        while let Some(job) = self.job()? {
            match steer(Copied { done: job.done, total: job.total }) {
                Steer::Stop => {
                    let looks = if self.end(false)? { 1 } else { SETTLE };
                    return self.outcome(looks).map_err(|_| cancelled(self.commit));
                }
                Steer::On { limit } => {
                    let wanted = limit.map_or(0, u64::from);
                    if wanted != speed {
                        block::set_speed(&self.domain, target, wanted)
                            .map_err(|e| self.error("goes on at the old speed", e))?;
                        speed = wanted;
                    }
                }
            }
            if job.total > 0 && job.done == job.total && self.disk().map_err(started)?.ready {
                self.end(true)?;
                break;
            }
            clock::pause(pause);
            pause = (pause * 3 / 2).min(PAUSE.1);
        }
        self.outcome(SETTLE)
    }

    /// Whoever was to end the job is gone by an error: one of the active layer would wait for its pivot for ever, and
    /// forbid every snapshot meanwhile. What cannot be ended now is ended by whoever finishes the merge.
    fn leave_nothing(&self) {
        if let Err(e) = self.end(false) {
            tracing::warn!(
                MESSAGE_ID = message::LEFT_BEHIND, error = %e,
                "a block job goes on that nobody watches"
            );
        }
    }

    /// Ends the job, and waits for its end; whether it was this that ended it, and the XML shows it already.
    fn end(&self, pivot: bool) -> Result<bool> {
        match block::end(&self.domain, &self.commit.target, pivot) {
            Ok(()) => Ok(true),
            // It may have ended by itself just now; and what a failed pivot left is in the XML.
            Err(_) if self.job()?.is_none() => Ok(false),
            Err(e) => Err(self.error("cannot be ended", e)),
        }
    }

    fn job(&self) -> Result<Option<Job>> {
        let look = || Ok(block::job(&self.domain, &self.commit.target)?);
        patient(LOCKED, look).map_err(started)
    }

    /// There is no job any more: what did it do? Where it ended by itself the XML follows a moment later.
    fn outcome(&self, looks: u32) -> Result<Committed> {
        for look in 0..looks {
            if self.place().map_err(started)? == Place::Done {
                // What comes next wants the lock that libvirt may still have. A VM that is off by now has none.
                let _ = self.job();
                return Ok(Committed::Now);
            }
            if look + 1 < looks && self.job()?.is_none() {
                clock::pause(PAUSE.1);
            }
        }
        Err(Error::new(
            ErrorKind::Failed,
            format!(
                "the merge of disk {} into {} ended early, and libvirt keeps the reason to itself (a full file system is \
                 the likeliest; of anything else its journal may have more)",
                self.commit.target, self.commit.base
            ),
        ))
    }

    /// The job did not come to be. Where that is certain nothing was copied, which its kind says.
    fn refused(&self, e: virt::error::Error) -> Error {
        let kept = block::job(&self.domain, &self.commit.target) == Ok(None)
            && self.place().is_ok_and(|place| place != Place::Done);
        let mut error = self.error("cannot begin", e);
        if kept {
            // Locked by another process it may go soon; what else QEMU or libvirt say has to be dealt with.
            let locked = error.message.contains(" lock");
            error.kind = if locked { ErrorKind::Busy } else { ErrorKind::Unsupported };
            // QEMU leaves a paused VM's images inactive until its CPUs run: 10 and 7.2 after they wrote its memory, 10
            // also after it took it from a file.
            if ["Inactive '", "Block node is read-only"].iter().any(|sign| error.message.contains(sign)) {
                error.message += ". A paused VM whose memory was kept, or that went on from it, is merged only after it \
                                  was resumed or stopped (`virsh resume`, `virsh destroy`)";
            }
        }
        error
    }

    fn error(&self, what: &str, e: virt::error::Error) -> Error {
        begun(e).context(format_args!("the merge of disk {} {what}", self.commit.target))
    }
}

/// An error after the job was asked for: whatever libvirt says, something may have been copied.
fn begun(e: virt::error::Error) -> Error {
    started(e.into())
}

fn started(mut e: Error) -> Error {
    if e.kind.untouched() {
        e.kind = ErrorKind::Failed;
    }
    e
}

/// Looks again, up to so often in all, while something else has the VM.
fn patient<T>(tries: u32, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..tries {
        match look() {
            Err(e) if e.kind == ErrorKind::Busy => {}
            done => return done,
        }
    }
    look()
}

fn cancelled(commit: &Commit) -> Error {
    Error::new(ErrorKind::Cancelled, format!("the merge of disk {} was stopped", commit.target))
}

pub(super) fn jobs(connections: &Connections, id: VmId) -> Result<Vec<BlockJob>> {
    let domain = domain(&connections.control, id)?;
    if !domain.is_active()? {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for disk in xml::domain(&domain.xml_desc(0)?)?.disks {
        if let Some(Job { kind, done, total }) = block::job(&domain, &disk.disk.target)? {
            all.push(BlockJob {
                target: disk.disk.target,
                kind: match kind {
                    virt_sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT => JobKind::Commit,
                    virt_sys::VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT => JobKind::ActiveCommit,
                    _ => JobKind::Other,
                },
                copied: Copied { done, total },
                ready: disk.ready,
                into: disk.mirror,
            });
        }
    }
    Ok(all)
}

pub(super) fn end(connections: &Connections, id: VmId, target: &str) -> Result<()> {
    let Some(job) = jobs(connections, id)?.into_iter().find(|j| j.target == target) else { return Ok(()) };
    let domain = domain(&connections.work, id)?;
    let lost = job.only_completes();
    let pivot = job.kind == JobKind::ActiveCommit && job.ready || lost;
    match block::end(&domain, target, pivot) {
        Ok(()) => Ok(()),
        Err(_) if block::job(&domain, target)?.is_none() => Ok(()),
        Err(e) if lost => Err(begun(e).context(format_args!(
            "libvirtd was restarted during a merge of disk {target} and lost sight of it: it cannot be ended while the VM runs. \
             Nothing is lost; shut the VM down and start it again, then the merge can go on"
        ))),
        Err(e) => Err(begun(e).context(format_args!("the block job on disk {target} cannot be ended"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_and_not_for_ever() {
        let busy = || Err(Error::new(ErrorKind::Busy, "cannot acquire state change lock"));
        let asked = |until: u32| {
            let mut looks = 0;
            let mut look = || {
                looks += 1;
                if looks < until { busy() } else { Ok(()) }
            };
            let done = patient(3, &mut look);
            (done.is_ok(), looks)
        };
        assert_eq!(asked(1), (true, 1));
        assert_eq!(asked(3), (true, 3));
        assert_eq!(asked(4), (false, 3));
        let mut looks = 0;
        let gone: Result<()> = patient(3, || {
            looks += 1;
            Err(Error::new(ErrorKind::Disconnected, "client socket is closed"))
        });
        assert_eq!((gone.map_err(|e| e.kind), looks), (Err(ErrorKind::Disconnected), 1));
    }
}
