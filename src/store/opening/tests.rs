use std::fs;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::core::model::VmId;

const VM: VmId = VmId(Uuid::from_u128(7));
const AT: Timestamp = Timestamp::UNIX_EPOCH;

/// A database with a guest that may be frozen, and what stands beside its file in the way of others.
struct Found(tempfile::TempDir);

impl Found {
    fn new() -> Self {
        let found = Self(tempfile::tempdir().unwrap());
        let store = Store::open(&found.path()).unwrap();
        store.set_uri("test:///default").unwrap();
        store.freeze_begins(VM, AT).unwrap();
        found
    }

    fn path(&self) -> PathBuf {
        // Of what means something in a URI.
        self.0.path().join("state %3f?#.db")
    }

    /// SQLite can neither make nor open it.
    fn bar(&self, ends: &[&str]) {
        for end in ends {
            fs::create_dir(beside(&self.path(), end)).unwrap();
        }
    }

    fn lift(&self, ends: &[&str]) {
        for end in ends {
            fs::remove_dir(beside(&self.path(), end)).unwrap();
        }
    }
}

#[test]
fn it_is_read_where_sqlite_can_have_no_files_of_its_own_and_written_to_as_soon_as_it_can() {
    for barred in [&["-shm"][..], &["-shm", "-wal"]] {
        let found = Found::new();
        found.bar(barred);
        let store = Store::open(&found.path()).unwrap();
        assert_eq!(store.frozen().unwrap(), [VM].into(), "{barred:?}");
        assert_eq!(store.uri().unwrap().as_deref(), Some("test:///default"));
        // Of the first alone SQLite reads what is there.
        store.probe();
        let trouble = store.trouble().unwrap();
        assert!(trouble.contains("readonly"), "{trouble}");
        store.freeze_ended(VM).unwrap_err();
        found.lift(barred);
        store.attend();
        store.freeze_ended(VM).unwrap();
        assert_eq!(store.trouble(), None);
        drop(store);
        assert!(Store::open(&found.path()).unwrap().frozen().unwrap().is_empty());
    }
}

#[test]
fn what_waits_beside_it_is_not_missed() {
    let found = Found::new();
    fs::write(beside(&found.path(), "-wal"), "changes").unwrap();
    let opened = unchanging(&found.path());
    assert!(matches!(opened, Err(StoreError::Unreadable(_))), "{opened:?}");
}

#[test]
fn what_is_up_to_date_is_opened_without_a_write() {
    let found = Found::new();
    let mut other = usual(&found.path()).unwrap();
    // Whoever began to write has it until it is over.
    let _held = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let store = Store::open(&found.path()).unwrap();
    store.set_uri("test:///default").unwrap();
    assert_eq!(store.frozen().unwrap(), [VM].into());
}

#[test]
fn another_libvirt_that_cannot_be_written_down_yet_is_with_the_first_freeze() {
    let found = Found::new();
    let ends = ["-shm", "-wal"];
    found.bar(&ends);
    let store = Store::open(&found.path()).unwrap();
    store.set_uri("test:///other").unwrap_err();
    store.freeze_begins(VM, AT).unwrap_err();
    found.lift(&ends);
    store.freeze_begins(VM, AT).unwrap();
    assert_eq!(store.uri().unwrap().as_deref(), Some("test:///other"));
}

#[test]
fn a_file_that_is_removed_while_it_is_in_use_is_put_back() {
    let found = Found::new();
    let store = Store::open(&found.path()).unwrap();
    for what in ["a change", "time"] {
        fs::remove_file(found.path()).unwrap();
        if what == "time" {
            store.attend();
        } else {
            store.time_passed(Timestamp::from_second(5).unwrap()).unwrap();
        }
        let again = Store::salvage(&found.path()).unwrap();
        assert_eq!(again.frozen().unwrap(), [VM].into(), "{what}");
        assert_eq!(again.last_plausible().unwrap(), Timestamp::from_second(5).ok());
        assert_eq!(store.trouble(), None);
    }
    drop(store);
    assert_eq!(Store::open(&found.path()).unwrap().frozen().unwrap(), [VM].into());
}

#[test]
fn of_whatever_version_it_is_what_is_frozen_can_be_read() {
    let found = Found::new();
    for version in [1, 99] {
        usual(&found.path()).unwrap().pragma_update(None, "user_version", version).unwrap();
        assert_eq!(Store::salvage(&found.path()).unwrap().frozen().unwrap(), [VM].into());
    }
}
