//! Since when the database knows what happens, and the VMs that are pruned though they have older snapshots.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::{Result, Store, opening::beside};
use crate::core::model::VmId;

/// Moves a damaged database aside, with what SQLite keeps beside it: its new path. Nothing of it is lost.
pub fn set_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let aside = beside(path, &format!(".damaged-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    for end in ["-wal", "-shm"] {
        match fs::rename(beside(path, end), beside(&aside, end)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    // The last one: what is cut short here is damaged still.
    fs::rename(path, &aside)?;
    Ok(aside)
}

impl Store {
    /// A database that was made just now knows what happens from here on.
    pub fn begins(&self, at: Timestamp) -> Result<()> {
        if !self.new {
            return Ok(());
        }
        self.write(
            "INSERT INTO fact VALUES ('begun', ?1) ON CONFLICT (key) DO NOTHING",
            params![at.as_microsecond().to_string()],
        )
    }

    /// Since when it knows all that happens to this VM; `None`: since ever, or a person says that this is enough.
    pub fn knows_since(&self, vm: VmId) -> Result<Option<Timestamp>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT value FROM fact WHERE key = 'begun' AND NOT EXISTS (SELECT 1 FROM trusted WHERE vm = ?1)",
        )?;
        let text: Option<String> =
            statement.query_row(params![vm.to_string()], |row| row.get(0)).optional()?;
        Ok(text.and_then(|t| Timestamp::from_microsecond(t.parse().ok()?).ok()))
    }

    /// A person says that what is known of this VM's snapshots is enough to delete by.
    pub fn trust(&self, vm: VmId) -> Result<()> {
        self.write("INSERT INTO trusted VALUES (?1) ON CONFLICT (vm) DO NOTHING", params![vm.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_new_one_knows_since_when_and_an_old_one_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let [first, later] = [1, 2].map(|s| Timestamp::from_second(s).unwrap());
        let [one, other] = [1, 2].map(|n| VmId(Uuid::from_u128(n)));
        let store = Store::open(&path).unwrap();
        assert_eq!(store.knows_since(one).unwrap(), None, "one of an older version says nothing");
        store.begins(first).unwrap();
        store.begins(later).unwrap();
        assert_eq!(store.knows_since(one).unwrap(), Some(first));
        store.trust(one).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        store.begins(later).unwrap();
        assert_eq!((store.knows_since(one).unwrap(), store.knows_since(other).unwrap()), (None, Some(first)));
    }

    #[test]
    fn what_is_damaged_is_found_and_moved_aside_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        // Not a database at all, and one whose pages are not what they were.
        drop(Store::open(&path).unwrap());
        let mut torn = fs::read(&path).unwrap();
        torn[4096..].fill(0x5a);
        for bytes in [b"this is no database, but long enough to be looked at as one".repeat(9), torn] {
            fs::write(&path, &bytes).unwrap();
            fs::write(directory.path().join("state.db-wal"), b"").unwrap();
            let opened = Store::open(&path);
            assert!(matches!(opened, Err(StoreError::Damaged(_))), "{opened:?}");
            let at = Timestamp::from_second(i64::try_from(bytes.len()).unwrap()).unwrap();
            let aside = set_aside(&path, at).unwrap();
            assert_eq!(fs::read(&aside).unwrap(), bytes);
            assert!(!path.exists() && !directory.path().join("state.db-wal").exists());
            drop(Store::open(&path).unwrap());
        }
    }
}
