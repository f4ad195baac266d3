//! Block pulls: what lies under an image goes into it, until the disk stands alone.

use std::time::Duration;

use virt::domain::Domain;

use super::{super::ffi::block, Connections, domain, storage, xml};
use crate::{
    clock,
    core::model::VmId,
    hypervisor::{Committed, Copied, Error, ErrorKind, Result, Steer},
};

/// The first pause between two looks at a job, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// So many looks more, at the longest pause, when the job is gone and the XML does not show it yet.
const SETTLE: u32 = 20;

pub(super) fn pull(
    connections: &Connections,
    id: VmId,
    target: &str,
    steer: &mut dyn FnMut(Copied) -> Steer,
) -> Result<Committed> {
    let pull = Pull { domain: domain(&connections.work, id)?, target };
    if !pull.domain.is_active()? {
        return Err(Error::new(ErrorKind::Unsupported, "the VM is off, and images are copied by its QEMU"));
    }
    let images = pull.images()?;
    if images.len() < 2 {
        return Ok(Committed::Before);
    }
    if block::job(&pull.domain, target)?.is_some() {
        let text = format!("disk {target} has another block job. Nothing was touched");
        return Err(Error::new(ErrorKind::Busy, text));
    }
    let Steer::On { limit } = steer(Copied::default()) else { return Err(pull.stopped()) };
    let speed = limit.map_or(0, u64::from);
    block::pull(&pull.domain, target, speed).map_err(|e| pull.error("cannot begin", e))?;
    pull.watch(speed, steer)?;
    storage::refresh_pools(&connections.work, images.into_iter());
    Ok(Committed::Now)
}

struct Pull<'a> {
    domain: Domain,
    target: &'a str,
}

impl Pull<'_> {
    /// What the disk runs on, from the top down.
    fn images(&self) -> Result<Vec<String>> {
        let disks = xml::domain(&self.domain.xml_desc(0)?)?.disks;
        let disk = disks.into_iter().map(|d| d.disk).find(|d| d.target == self.target);
        let disk = disk.ok_or_else(|| {
            Error::new(ErrorKind::ChainMismatch, format!("the VM has no disk {}", self.target))
        })?;
        Ok(disk.chain.into_iter().map(|layer| layer.path).collect())
    }

    /// Until it is done, or stopped, or ended by itself.
    fn watch(&self, mut speed: u64, steer: &mut dyn FnMut(Copied) -> Steer) -> Result<()> {
        let mut pause = PAUSE.0;
        while let Some(job) = block::job(&self.domain, self.target)? {
            match steer(Copied { done: job.done, total: job.total }) {
                Steer::Stop => {
                    match block::end(&self.domain, self.target, false) {
                        // It may have ended by itself just now.
                        Err(_) if block::job(&self.domain, self.target)?.is_none() => {}
                        done => done.map_err(|e| self.error("cannot be ended", e))?,
                    }
                    return self.outcome(1).map_err(|_| self.stopped());
                }
                Steer::On { limit } => {
                    let wanted = limit.map_or(0, u64::from);
                    if wanted != speed {
                        block::set_speed(&self.domain, self.target, wanted)
                            .map_err(|e| self.error("goes on at the old speed", e))?;
                        speed = wanted;
                    }
                }
            }
            clock::pause(pause);
            pause = (pause * 3 / 2).min(PAUSE.1);
        }
        self.outcome(SETTLE)
    }

    /// There is no job any more: is the disk alone? The XML follows a moment later.
    fn outcome(&self, looks: u32) -> Result<()> {
        for look in 0..looks {
            if self.images()?.len() < 2 {
                return Ok(());
            }
            if look + 1 < looks {
                clock::pause(PAUSE.1);
            }
        }
        Err(Error::new(
            ErrorKind::Failed,
            format!(
                "the copying of what disk {} lies on ended early, and libvirt keeps the reason to itself (its journal and \
                 the VM's log in /var/log/libvirt/qemu may have it; a full file system is the likeliest). The disk is \
                 as it was",
                self.target
            ),
        ))
    }

    fn stopped(&self) -> Error {
        Error::new(
            ErrorKind::Cancelled,
            format!("the copying of what disk {} lies on was stopped", self.target),
        )
    }

    fn error(&self, what: &str, e: virt::error::Error) -> Error {
        Error::from(e).context(format_args!("the copying of what disk {} lies on {what}", self.target))
    }
}
