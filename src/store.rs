//! What must outlive the process, in SQLite: intents, results, and how far each policy got.
//!
//! It is not the truth about what exists; libvirt is. A lost database loses no snapshot, only what is known of how
//! well each was taken, and of what was cut short: VMs with snapshots of ours that are older than the database are not
//! pruned until a person says so. Every write is one transaction, and on the disk when the call returns
//! (`synchronous=FULL`): an intent is stored before the hypervisor is asked, a result before it is published.

mod awaited;
mod begun;
mod birth;
mod branches;
mod copied;
mod deferred;
mod forgotten;
mod half_deleted;
mod hooks;
mod kept;
mod labels;
mod laid;
mod opening;
mod redefining;
mod runs;
mod standings;
mod strays;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use uuid::Uuid;

pub use self::{
    begun::{Begun, Intent},
    birth::set_aside,
    branches::Branched,
    half_deleted::HalfDeleted,
    hooks::HooksBegun,
    redefining::Redefined,
    strays::{Found, News},
};
use crate::core::{inventory::Quality, model::VmId};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system does not give it.
    #[error("the state database cannot be had: {0}")]
    Unreadable(String),
    /// SQLite's own error.
    #[error("the state database failed: {0}")]
    Database(rusqlite::Error),
    /// What is in the file is not what was written to it.
    #[error("the state database is damaged: {0}")]
    Damaged(String),
    /// It was written by a newer version of this program.
    #[error(
        "the state database has version {found}, and this program knows versions up to {known}: it was written by a newer virtsnapd; install that one"
    )]
    Newer {
        /// In the file.
        found: u32,
        /// Known here.
        known: u32,
    },
    /// A snapshot that was about to be deleted was pinned meanwhile: nothing was written.
    #[error("it was pinned meanwhile by {0}, and stays; nothing was touched")]
    Pinned(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(e.to_string()),
            _ => Self::Database(e),
        }
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// Each entry takes a database one version further. Never changed once released, only added to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE handled (policy TEXT PRIMARY KEY, at_usec INTEGER NOT NULL) STRICT;
    CREATE TABLE freeze (vm TEXT PRIMARY KEY, since_usec INTEGER NOT NULL) STRICT;
    CREATE TABLE intent (
        id TEXT PRIMARY KEY, vm TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
        at_usec INTEGER NOT NULL, overlays TEXT NOT NULL) STRICT;
    CREATE TABLE quality (
        id TEXT PRIMARY KEY, vm TEXT NOT NULL, name TEXT NOT NULL, reached TEXT NOT NULL, requested TEXT NOT NULL,
        note TEXT NOT NULL, frozen_usec INTEGER NOT NULL) STRICT;
    CREATE INDEX quality_vm ON quality (vm);
", "
    CREATE TABLE due (
        policy TEXT NOT NULL, vm TEXT NOT NULL, fired_usec INTEGER NOT NULL, not_before_usec INTEGER NOT NULL,
        PRIMARY KEY (policy, vm)) STRICT, WITHOUT ROWID;
", "
    ALTER TABLE handled ADD COLUMN peak_usec INTEGER;
", "
    ALTER TABLE handled ADD COLUMN times TEXT NOT NULL DEFAULT '';
    ALTER TABLE handled ADD COLUMN last_run_usec INTEGER;
    ALTER TABLE handled ADD COLUMN last_result TEXT NOT NULL DEFAULT '';
", "
    ALTER TABLE intent ADD COLUMN detail TEXT NOT NULL DEFAULT '';
    ALTER TABLE intent ADD COLUMN phase TEXT NOT NULL DEFAULT '';
    CREATE TABLE awake (vm TEXT PRIMARY KEY, since_usec INTEGER NOT NULL) STRICT;
    CREATE TABLE copy (
        vm TEXT NOT NULL, name TEXT NOT NULL, xml TEXT NOT NULL, at_usec INTEGER NOT NULL,
        PRIMARY KEY (vm, name)) STRICT;
    CREATE TABLE branch (
        image TEXT PRIMARY KEY, vm TEXT NOT NULL, source_vm TEXT NOT NULL, snapshot TEXT NOT NULL) STRICT;
    CREATE TABLE quarantine (
        path TEXT PRIMARY KEY, vm TEXT NOT NULL, since_usec INTEGER NOT NULL, why TEXT NOT NULL) STRICT;
", "
    ALTER TABLE quality ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;
", "
    CREATE TABLE stray (
        path TEXT PRIMARY KEY, vm TEXT NOT NULL, bytes INTEGER NOT NULL, stamp TEXT NOT NULL) STRICT;
    CREATE INDEX stray_vm ON stray (vm);
", "
    ALTER TABLE awake ADD COLUMN life INTEGER;
", "
    CREATE TABLE stilled (vm TEXT PRIMARY KEY, life INTEGER NOT NULL) STRICT;
", "
    CREATE TABLE forgotten (
        vm TEXT NOT NULL, image TEXT NOT NULL, name TEXT NOT NULL, bytes INTEGER NOT NULL, taken_usec INTEGER NOT NULL
        ) STRICT;
    CREATE INDEX forgotten_vm ON forgotten (vm);
", "
    CREATE TABLE trusted (vm TEXT PRIMARY KEY) STRICT;
    CREATE TABLE failed (vm TEXT PRIMARY KEY, effort TEXT NOT NULL, text TEXT NOT NULL) STRICT;
    CREATE TABLE hooked (vm TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (vm, key)) STRICT;
", "
    CREATE TABLE standing (
        policy TEXT NOT NULL, vm TEXT NOT NULL, failures INTEGER NOT NULL, suspended_by TEXT NOT NULL,
        since_usec INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (policy, vm)) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE awaited (
        policy TEXT NOT NULL, vm TEXT NOT NULL, since_usec INTEGER NOT NULL, stale INTEGER NOT NULL,
        PRIMARY KEY (policy, vm)) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE label (
        id TEXT PRIMARY KEY, vm TEXT NOT NULL, tags TEXT NOT NULL, expires_usec INTEGER, revision INTEGER NOT NULL
        ) STRICT;
    CREATE INDEX label_vm ON label (vm);
    CREATE TABLE pin (
        id TEXT NOT NULL, owner TEXT NOT NULL, reason TEXT NOT NULL, expires_usec INTEGER,
        PRIMARY KEY (id, owner)) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE laid (path TEXT PRIMARY KEY, vm TEXT NOT NULL) STRICT;
    CREATE INDEX laid_vm ON laid (vm);
", "
    CREATE TABLE copied (
        vm TEXT NOT NULL, target TEXT NOT NULL, images TEXT NOT NULL, life INTEGER,
        PRIMARY KEY (vm, target)) STRICT, WITHOUT ROWID;
", "
    ALTER TABLE copy ADD COLUMN redefining TEXT;
", "
    CREATE TABLE deferred (place INTEGER PRIMARY KEY, job TEXT NOT NULL, since_usec INTEGER) STRICT;
"];

/// Asked before each write; an error is what comes of it.
type Guard = dyn Fn() -> Result<()> + Send + Sync;

/// The database.
pub struct Store {
    connection: Mutex<Connection>,
    /// Its file, if it has one.
    place: Mutex<Option<opening::Place>>,
    /// Whose hooks are over, which could not be written down.
    hooks_over: Mutex<BTreeSet<VmId>>,
    /// Why nothing can be written.
    trouble: Mutex<Option<String>>,
    /// It is to be opened anew: as it was opened it cannot be written to, whatever becomes of the disk.
    worn: AtomicBool,
    /// The libvirt that all of it is on, if that could not be written down.
    owed_uri: Mutex<Option<String>>,
    /// Which guests an earlier life may have left frozen is lost.
    frozen_lost: AtomicBool,
    guard: OnceLock<Box<Guard>>,
    /// It was made just now.
    new: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("connection", &self.connection)
            .field("new", &self.new)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// One that is gone with the process: for tests.
    pub fn in_memory() -> Result<Self> {
        let mut connection = opening::ready(Connection::open_in_memory()?)?;
        let new = opening::up_to_date(&mut connection)?;
        Ok(Self { new, ..Self::of(connection, None) })
    }

    fn of(connection: Connection, place: Option<opening::Place>) -> Self {
        Self {
            connection: Mutex::new(connection),
            place: Mutex::new(place),
            hooks_over: Mutex::default(),
            trouble: Mutex::default(),
            worn: AtomicBool::new(false),
            owed_uri: Mutex::default(),
            frozen_lost: AtomicBool::new(false),
            guard: OnceLock::new(),
            new: false,
        }
    }

    /// Before each write from now on this is asked, on the writer's thread and with nothing locked: for tests that end or
    /// fail the daemon there. The first one stays.
    pub fn before_each_write(&self, guard: impl Fn() -> Result<()> + Send + Sync + 'static) {
        let _ = self.guard.set(Box::new(guard));
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in another thread left no transaction half done: SQLite rolled it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database, to change it.
    fn writer(&self) -> Result<MutexGuard<'_, Connection>> {
        if let Some(guard) = self.guard.get() {
            guard()?;
        }
        self.look_after();
        Ok(self.lock())
    }

    fn write(&self, sql: &str, values: impl rusqlite::Params) -> Result<()> {
        let connection = self.writer()?;
        self.noted(connection.execute(sql, values).map(drop).map_err(StoreError::from))
    }

    /// Before a freeze: this VM's file systems may be frozen from now on.
    ///
    /// False if that was known before: then it is not this freeze's to say that it is over.
    pub fn freeze_begins(&self, vm: VmId, at: Timestamp) -> Result<bool> {
        let owed = self.owed_uri.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(uri) = owed {
            self.set_uri(&uri)?;
        }
        let connection = self.writer()?;
        let written = connection.execute(
            "INSERT INTO freeze VALUES (?1, ?2) ON CONFLICT (vm) DO NOTHING",
            params![vm.to_string(), at.as_microsecond()],
        );
        Ok(self.noted(written.map_err(StoreError::from))? == 1)
    }

    /// After a proven thaw.
    pub fn freeze_ended(&self, vm: VmId) -> Result<()> {
        self.write("DELETE FROM freeze WHERE vm = ?1", params![vm.to_string()])
    }

    /// The VMs that may be frozen.
    pub fn frozen(&self) -> Result<BTreeSet<VmId>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT vm FROM freeze")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut all = BTreeSet::new();
        for row in rows {
            if let Ok(vm) = row?.parse() {
                all.insert(vm);
            }
        }
        Ok(all)
    }

    /// What was written down of frozen guests is lost with a damaged file.
    pub fn forgot_the_frozen(&self) {
        self.frozen_lost.store(true, Ordering::SeqCst);
    }

    /// False until somebody has looked for them.
    pub fn knows_who_is_frozen(&self) -> bool {
        !self.frozen_lost.load(Ordering::SeqCst)
    }

    /// Somebody has.
    pub fn looked_for_the_frozen(&self) {
        self.frozen_lost.store(false, Ordering::SeqCst);
    }

    /// How well this VM's snapshots were taken, by their own identity.
    pub fn qualities(&self, vm: VmId) -> Result<BTreeMap<Uuid, Quality>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT id, reached, requested, note, frozen_usec, memory FROM quality WHERE vm = ?1",
        )?;
        let text = |row: &rusqlite::Row<'_>, i| row.get::<_, String>(i);
        let rows = statement.query_map(params![vm.to_string()], |row| {
            Ok((
                text(row, 0)?,
                text(row, 1)?,
                text(row, 2)?,
                text(row, 3)?,
                row.get::<_, i64>(4)?,
                row.get(5)?,
            ))
        })?;
        let mut all = BTreeMap::new();
        for row in rows {
            let (id, reached, requested, note, frozen, memory) = row?;
            let (Ok(id), Ok(reached)) = (id.parse(), reached.parse()) else { continue };
            let requested = requested.parse().ok();
            let frozen = SignedDuration::from_micros(frozen);
            all.insert(id, Quality { reached, requested, memory, note, frozen });
        }
        Ok(all)
    }

    /// Before anything is frozen: this is the libvirt that all of it is on. Where it cannot be written down now, nothing
    /// is frozen before it is.
    pub fn set_uri(&self, uri: &str) -> Result<()> {
        if self.uri()?.as_deref() == Some(uri) {
            return Ok(());
        }
        let written = self.write(
            "INSERT INTO fact VALUES ('uri', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
            params![uri],
        );
        let owed = written.is_err().then(|| uri.to_owned());
        *self.owed_uri.lock().unwrap_or_else(PoisonError::into_inner) = owed;
        written
    }

    /// The libvirt that the last daemon was on.
    pub fn uri(&self) -> Result<Option<String>> {
        let connection = self.lock();
        Ok(connection
            .query_row("SELECT value FROM fact WHERE key = 'uri'", [], |row| row.get(0))
            .optional()?)
    }

    /// The newest time that is known to have passed.
    pub fn last_plausible(&self) -> Result<Option<Timestamp>> {
        let connection = self.lock();
        let text: Option<String> = connection
            .query_row("SELECT value FROM fact WHERE key = 'last-plausible'", [], |row| row.get(0))
            .optional()?;
        Ok(text.and_then(|t| Timestamp::from_microsecond(t.parse().ok()?).ok()))
    }

    /// Writes down that this time has passed, unless a newer one has. The newest, then.
    pub fn time_passed(&self, at: Timestamp) -> Result<Timestamp> {
        self.write(
            "INSERT INTO fact VALUES ('last-plausible', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1
             WHERE CAST(value AS INTEGER) < CAST(?1 AS INTEGER)",
            params![at.as_microsecond().to_string()],
        )?;
        Ok(self.last_plausible()?.unwrap_or(at))
    }

    /// Writes down that this is the time, be it before the newest that was known: a person says so.
    pub fn set_last_plausible(&self, at: Timestamp) -> Result<Timestamp> {
        self.write(
            "INSERT INTO fact VALUES ('last-plausible', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
            params![at.as_microsecond().to_string()],
        )?;
        Ok(at)
    }
}

#[cfg(test)]
mod tests;
