//! Hooks that are to be told how it ended, also by another life of the daemon.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{MutexGuard, PoisonError},
};

use rusqlite::{TransactionBehavior, params};

use super::{Result, Store};
use crate::core::{hook::Event, model::VmId};

/// The keys that the directory and the event are under: no variable has them.
const DIRECTORY: &str = "";
const EVENT: &str = "=";

/// What was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksBegun {
    /// Where they are.
    pub directory: PathBuf,
    /// What they are told.
    pub told: Vec<(String, String)>,
    /// How it ended, if that was known: they may have been told by then.
    pub ended: Option<Event>,
}

impl Store {
    /// Hooks are about to be run before a job of this VM.
    pub fn hooks_begin(&self, vm: VmId, directory: &Path, told: &[(&str, String)]) -> Result<()> {
        self.hooks_at(vm, directory, told, None)
    }

    /// They are about to be told how it ended. Each time they are told, it is the same.
    pub fn hooks_tell(
        &self,
        vm: VmId,
        directory: &Path,
        told: &[(&str, String)],
        event: Event,
    ) -> Result<()> {
        self.hooks_at(vm, directory, told, Some(event))
    }

    fn hooks_at(
        &self,
        vm: VmId,
        directory: &Path,
        told: &[(&str, String)],
        event: Option<Event>,
    ) -> Result<()> {
        let mut connection = self.writer()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("DELETE FROM hooked WHERE vm = ?1", params![vm.to_string()])?;
        let directory = (DIRECTORY, directory.to_string_lossy().into_owned());
        let event = event.map(|event| (EVENT, event.as_str().to_owned()));
        for (key, value) in told.iter().chain([&directory]).chain(&event) {
            transaction
                .execute("INSERT INTO hooked VALUES (?1, ?2, ?3)", params![vm.to_string(), key, value])?;
        }
        transaction.commit()?;
        self.hooks_over().remove(&vm);
        Ok(())
    }

    /// All of them have been told how it ended. Where that cannot be written down, it is known for as long as this lives.
    pub fn hooks_end(&self, vm: VmId) -> Result<()> {
        let ended = self.write("DELETE FROM hooked WHERE vm = ?1", params![vm.to_string()]);
        if ended.is_ok() {
            self.hooks_over().remove(&vm);
        } else {
            self.hooks_over().insert(vm);
        }
        ended
    }

    fn hooks_over(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.hooks_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was begun on this VM, and not ended.
    pub fn hooks_begun(&self, vm: VmId) -> Result<Option<HooksBegun>> {
        if self.hooks_over().contains(&vm) {
            return self.hooks_end(vm).map(|()| None);
        }
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT key, value FROM hooked WHERE vm = ?1 ORDER BY rowid")?;
        let rows = statement.query_map(params![vm.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (directory, told): (Vec<_>, Vec<(String, String)>) =
            rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().partition(|(key, _)| key == DIRECTORY);
        let (ended, told): (Vec<_>, Vec<_>) = told.into_iter().partition(|(key, _)| key == EVENT);
        let ended = ended.into_iter().find_map(|(_, event)| event.parse().ok());
        let directory = directory.into_iter().next();
        Ok(directory.map(|(_, directory)| HooksBegun { directory: directory.into(), told, ended }))
    }

    /// The VMs with any.
    pub fn hooked(&self) -> Result<Vec<VmId>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT DISTINCT vm FROM hooked ORDER BY vm")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let ids = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_there_until_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("state.db")).unwrap();
        let [one, other] = [1, 2].map(|n| VmId(uuid::Uuid::from_u128(n)));
        assert_eq!((store.hooked().unwrap(), store.hooks_begun(one).unwrap()), (vec![], None));
        store.hooks_begin(one, Path::new("/old"), &[("K", "x".to_owned())]).unwrap();
        store.hooks_begin(one, Path::new("/h"), &[("K", "v".to_owned()), ("L", String::new())]).unwrap();
        assert_eq!(store.hooked().unwrap(), [one]);
        let told = [("K", "v"), ("L", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
        let begun = HooksBegun { directory: "/h".into(), told: told.clone(), ended: None };
        assert_eq!(store.hooks_begun(one).unwrap(), Some(begun.clone()));
        let again: Vec<(&str, String)> = told.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        store.hooks_tell(one, Path::new("/h"), &again, Event::After).unwrap();
        let ended = HooksBegun { ended: Some(Event::After), ..begun };
        assert_eq!(store.hooks_begun(one).unwrap(), Some(ended));
        store.hooks_end(other).unwrap();
        store.hooks_end(one).unwrap();
        assert!(store.hooked().unwrap().is_empty());
    }
}
