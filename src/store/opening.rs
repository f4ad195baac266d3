//! Opening the file, also where SQLite by its own means cannot: its file system is full, or read-only. What is in it can
//! be read then, and nothing more; so guests are thawed that were left frozen, whatever became of the disk since.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, OpenOptions},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{MIGRATIONS, Result, Store, StoreError};
use crate::logging::message;

/// Which file, and how it was opened.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Not in the usual way: it is to be opened anew before it can be written to.
    reduced: bool,
}

/// A way to open it.
type Way = fn(&Path) -> Result<Connection>;

/// The usual one first. Each of the others wants less of the file system, and less can be done in it.
const WAYS: &[Way] = &[usual, alone, unchanging];

fn usual(path: &Path) -> Result<Connection> {
    // SQLite gives the files beside it the same mode. Should this fail, it says why.
    let _ = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    ready(Connection::open(path)?)
}

/// With nobody else beside: what SQLite has in a file for all then is in memory, so there needs to be no room for it.
fn alone(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    ready(connection)
}

/// As a file that never changes, which needs nothing beside it. What waits beside it to be put into it would be missed.
fn unchanging(path: &Path) -> Result<Connection> {
    if fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.is_file() && wal.len() > 0) {
        let why = "it cannot be written to, and its newest changes are in a file beside it that cannot be put into it";
        return Err(StoreError::Unreadable(why.to_owned()));
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(format!("file:{}?immutable=1", quoted(path)), flags)?)
}

/// How all of it is written: durable with each transaction.
pub(super) fn ready(connection: Connection) -> Result<Connection> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Opened in the first way in which `check` finds it good, and how that was; or why not in the usual one.
fn first_way<T>(path: &Path, check: impl Fn(&mut Connection) -> Result<T>) -> Result<(Connection, T, Place)> {
    let mut why = None;
    for (number, way) in WAYS.iter().enumerate() {
        let tried = way(path).and_then(|mut connection| Ok((check(&mut connection)?, connection)));
        match tried {
            Ok((found, connection)) => {
                let place = Place { path: path.to_owned(), reduced: number > 0 };
                return Ok((connection, found, place));
            }
            Err(e) if why.is_some() || e.is_of_the_disk() => why = why.or(Some(e)),
            Err(e) => return Err(e),
        }
    }
    Err(why.unwrap_or_else(|| StoreError::Unreadable("there is no way to open it".to_owned())))
}

/// Brings it up to date, if it is not: what is up to date is not written to. True if it was made just now.
pub(super) fn up_to_date(connection: &mut Connection) -> Result<bool> {
    // Else the damage shows in the middle of something, or a row is silently not there.
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(StoreError::Damaged(found));
    }
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let version =
        |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
    if version(connection)? == known {
        return Ok(false);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: u32 = version(&transaction)?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for step in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(found == 0)
}

impl Store {
    /// Opens it, makes it if it is not there, and brings it up to date. Where there is no room for that, or nothing may be
    /// written, it can be read as it is.
    ///
    /// Nobody but its owner may read it: what it keeps of definitions may hold passwords.
    pub fn open(path: &Path) -> Result<Self> {
        let (connection, new, place) = first_way(path, up_to_date)?;
        Ok(Self { new, ..Self::of(connection, Some(place)) })
    }

    /// Opens it as it is, of whatever version and however damaged, for what can be read of it.
    pub fn salvage(path: &Path) -> Result<Self> {
        let (connection, (), place) = first_way(path, |connection| {
            Ok(connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?)
        })?;
        Ok(Self::of(connection, Some(place)))
    }

    /// Why nothing can be written to it, as far as that is known.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds out whether it can be written to, and puts right what can be put right where it cannot.
    pub fn probe(&self) {
        // The row is the same after it.
        let _ = self.write("UPDATE fact SET value = value WHERE key = 'uri'", []);
    }

    /// From time to time: whether its file is still there; and whether it can be written to again, where it could not.
    pub fn attend(&self) {
        if self.trouble().is_some() {
            self.probe();
        } else {
            self.look_after();
        }
    }

    /// A result of a write, with what is known by it.
    pub(super) fn noted<T>(&self, result: Result<T>) -> Result<T> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(_) => *trouble = None,
            Err(e) if e.is_of_the_disk() => {
                *trouble = Some(e.to_string());
                // Room can come to it as it is.
                let full = |e: &rusqlite::Error| e.sqlite_error_code() == Some(ErrorCode::DiskFull);
                let waits = matches!(e, StoreError::Database(e) if full(e));
                self.worn.store(!waits, Ordering::SeqCst);
            }
            Err(_) => {}
        }
        result
    }

    /// Before a write: the file is the one that it was, and can be written to, as far as that can be had.
    pub(super) fn look_after(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = place.as_mut() else { return };
        let gone = || fs::symlink_metadata(&place.path).is_err_and(|e| e.kind() == NOT_THERE);
        if self.worn.swap(false, Ordering::SeqCst) || place.reduced {
            self.open_anew(place);
        } else if gone()
            && let Err(e) = self.put_back(place)
        {
            tracing::error!(
                MESSAGE_ID = message::STORE_FAILED, error = %e,
                "the state database {} was removed while it was in use, and cannot be put back: what is in it is lost when \
                 virtsnapd ends. It is tried again", place.path.display()
            );
        }
    }

    fn open_anew(&self, place: &mut Place) {
        let mut connection = self.lock();
        // Nobody may have it beside who has it alone.
        let Ok(nothing) = Connection::open_in_memory() else { return };
        drop(std::mem::replace(&mut *connection, nothing));
        match first_way(&place.path, up_to_date) {
            Ok((opened, _, new)) => (*connection, *place) = (opened, new),
            Err(e) => tracing::error!(
                MESSAGE_ID = message::STORE_FAILED, error = %e, "the state database cannot be opened any more"
            ),
        }
    }

    /// All that was in it is in the file that has no name any more.
    fn put_back(&self, place: &mut Place) -> Result<()> {
        let mut connection = self.lock();
        let new = beside(&place.path, ".new");
        let unreadable = |e: std::io::Error| StoreError::Unreadable(e.to_string());
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(e) if e.kind() != NOT_THERE => Err(unreadable(e)),
            _ => Ok(()),
        };
        gone(&new)?;
        OpenOptions::new().append(true).create(true).mode(0o600).open(&new).map_err(unreadable)?;
        connection.execute("VACUUM INTO ?1", [new.to_string_lossy()])?;
        // What these hold is of the old one, and would be taken for the new one's.
        for end in ["-wal", "-shm"] {
            gone(&beside(&place.path, end))?;
        }
        fs::rename(&new, &place.path).map_err(unreadable)?;
        let (opened, _, now) = first_way(&place.path, up_to_date)?;
        (*connection, *place) = (opened, now);
        tracing::error!(
            MESSAGE_ID = message::STORE_FAILED,
            "the state database {} was removed while it was in use: it is put back, with all that was in it",
            place.path.display()
        );
        Ok(())
    }
}

const NOT_THERE: std::io::ErrorKind = std::io::ErrorKind::NotFound;

impl StoreError {
    /// It is for want of room, or of leave to write, that is: of nothing that is in the file.
    fn is_of_the_disk(&self) -> bool {
        let Self::Database(e) = self else { return matches!(self, Self::Unreadable(_)) };
        matches!(
            e.sqlite_error_code(),
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::ReadOnly
                    | ErrorCode::CannotOpen
            )
        )
    }
}

/// The name of a file beside it.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// As it stands in a URI.
fn quoted(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._".contains(byte) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests;
