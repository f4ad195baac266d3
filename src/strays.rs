//! Looking for files that nobody has, and writing down what was found.
//!
//! | what | when |
//! |---|---|
//! | a look | with each new connection, every hour, and before a file is put in quarantine or removed |
//! | quarantine | when a person asks for it; the file stays where it is |
//! | out of it again | as soon as a look finds that somebody has it, that it was written to, or that it is gone |
//! | removal | after a week, by a job on the VM that looks once more: who cannot be read may have it |

use std::collections::BTreeSet;

use crate::{
    core::model::VmId,
    hypervisor::Hypervisor,
    reader::ReadError,
    store::{Found, Store, StoreError},
};

/// Looks at all of the host; the VMs of which something else is known now.
pub fn look(hypervisor: &dyn Hypervisor, store: &Store) -> Result<BTreeSet<VmId>, ReadError> {
    // What is being made has no owner yet, and what is being removed none any more: both are written down. Before the
    // look and after it, as some of it may begin or end meanwhile.
    let mut skipped = at_work(store)?;
    let found = hypervisor.strays()?;
    skipped.extend(at_work(store)?);
    let found: Vec<Found> = found
        .into_iter()
        .map(|stray| Found {
            vm: stray.vm,
            path: stray.image.path,
            bytes: stray.image.allocation,
            stamp: stray.stamp,
        })
        .collect();
    let news = store.strays_found(&found, &skipped)?;
    for path in news.released {
        tracing::info!("{path} is out of quarantine: somebody has it, it was written to, or it is gone");
    }
    Ok(news.vms)
}

fn at_work(store: &Store) -> Result<BTreeSet<VmId>, StoreError> {
    Ok(store.intents()?.into_iter().map(|intent| intent.vm).collect())
}
