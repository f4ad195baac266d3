//! A VM's memory is written in one call, all of it: how far that is is asked meanwhile.

use std::{
    panic::resume_unwind,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{Connections, domain};
use crate::{
    core::model::VmId,
    hypervisor::{Copied, Result},
};

/// How often it is asked.
const LOOK: Duration = Duration::from_millis(500);

/// Makes the call on another thread, and tells on this one how far it is until it has ended.
pub(super) fn watched<T: Send>(
    connections: &Connections,
    id: VmId,
    told: &mut dyn FnMut(Copied),
    call: impl Fn() -> T + Sync,
) -> T {
    thread::scope(|scope| {
        let (ends, ended) = mpsc::channel::<()>();
        let made = thread::Builder::new().name("memory".into()).spawn_scoped(scope, || {
            let _ends = ends;
            call()
        });
        // Without a thread there is nothing to tell.
        let Ok(made) = made else { return call() };
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            // What cannot be told now may be told later; how it ends is what the call says.
            if let Ok(Some(copied)) = far(connections, id) {
                told(copied);
            }
        }
        made.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// libvirt writes the memory by a migration into a file, and counts that as a job.
fn far(connections: &Connections, id: VmId) -> Result<Option<Copied>> {
    let stats = domain(&connections.control, id)?.job_stats(0)?;
    Ok(match (stats.data_processed, stats.data_remaining) {
        (Some(done), Some(left)) if stats.r#type != 0 => Some(Copied { done, total: done + left }),
        _ => None,
    })
}
