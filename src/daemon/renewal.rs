//! A new database in the place of a damaged one, which is kept. No snapshot is lost by it: libvirt has them.

use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;

use super::{DATABASE, open_store, unusable};
use crate::{
    core::model::VmId,
    logging::message,
    store::{self, Store},
};

pub(super) fn renewed(directory: &Path, what: &str, now: Timestamp) -> anyhow::Result<Store> {
    let path = directory.join(DATABASE);
    let aside = store::set_aside(&path, now)
        .with_context(|| format!("the state database is damaged ({what}), and cannot be moved aside"))?;
    tracing::error!(
        MESSAGE_ID = message::STORE_RENEWED,
        "the state database {} is damaged ({what}): it is kept as {}, and a new one begins. No snapshot is lost, only what \
         was noted of them and of what was cut short: VMs with snapshots are not pruned until somebody says so, each by \
         `virtsnap prune VM --all`",
        path.display(),
        aside.display()
    );
    let store = open_store(directory).with_context(|| unusable(directory))?;
    // Which guests may be frozen must not be lost with it.
    match Store::salvage(&aside).and_then(|old| old.frozen()) {
        Ok(frozen) => {
            for vm in frozen {
                store.freeze_begins(vm, now)?;
                told_salvaged(vm);
            }
        }
        Err(e) => {
            tracing::debug!(error = %e, "nothing of the damaged database can be read");
            store.forgot_the_frozen();
        }
    }
    Ok(store)
}

fn told_salvaged(vm: VmId) {
    tracing::warn!(
        MESSAGE_ID = message::GUEST_FROZEN, VIRTSNAP_VM_UUID = %vm,
        "the damaged database says that the guest may be frozen: it is thawed as soon as libvirt answers"
    );
}

#[cfg(test)]
mod tests {
    use std::fs;

    use uuid::Uuid;

    use super::*;

    /// What is spoilt is told by where: SQLite's pages are found by their kind and what is on them.
    #[test]
    fn who_may_be_frozen_is_read_from_what_is_damaged_elsewhere_and_else_it_is_known_that_nobody_knows() {
        let vm = VmId(Uuid::from_u128(9));
        for all in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(DATABASE);
            let store = Store::open(&path).unwrap();
            store.freeze_begins(vm, Timestamp::UNIX_EPOCH).unwrap();
            store.set_uri("a-libvirt").unwrap();
            drop(store);
            let mut bytes = fs::read(&path).unwrap();
            if all {
                bytes[100..].fill(0x5a);
            } else {
                // The page with the facts is not one any more.
                let at = bytes.windows(9).position(|w| w == b"a-libvirt").unwrap();
                bytes[at / 4096 * 4096] = 0x5a;
            }
            fs::write(&path, bytes).unwrap();
            let damaged = Store::open(&path);
            assert!(matches!(damaged, Err(store::StoreError::Damaged(_))), "{damaged:?}");
            let new = renewed(directory.path(), "spoilt", Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(new.frozen().unwrap().contains(&vm), !all);
            assert_eq!(new.knows_who_is_frozen(), !all);
        }
    }
}
