//! Which files count, and what they hold: the only part of this module that touches the disk.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::tz::TimeZone;

use super::{
    diagnostic::{Diagnostic, Diagnostics, Place, Severity, SourceFile},
    fragment::FileKind,
};

/// The name of the file with `[daemon]`.
pub const MAIN_FILE: &str = "virtsnapd.toml";
/// The directory of the others.
pub const DROP_INS: &str = "policies.d";
/// The name of a zone that has none.
pub(super) const SYSTEM_ZONE: &str = "system";
/// A thousand VMs with ten exceptions each fit ten times.
const FILE_MAX: u64 = 4 << 20;

/// The directories in which files are looked for, the one that wins first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRoots {
    directories: Vec<PathBuf>,
    /// Someone named these: that one is not there is worth a word.
    named: bool,
}

impl Default for ConfigRoots {
    fn default() -> Self {
        let directories = ["/etc/virtsnap", "/run/virtsnap", "/usr/lib/virtsnap"];
        Self { directories: directories.map(PathBuf::from).to_vec(), named: false }
    }
}

impl ConfigRoots {
    /// These directories instead of the usual ones.
    pub fn new(directories: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self { directories: directories.into_iter().map(Into::into).collect(), named: true }
    }

    /// The directories, the one that wins first.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }
}

/// All files that count, in the order in which they are read. One that cannot be read is noted and left out.
pub(super) fn read(roots: &ConfigRoots, out: &mut Diagnostics) -> Vec<(FileKind, Arc<SourceFile>)> {
    let mut main = None;
    let mut drop_ins: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in &roots.directories {
        let path = directory.join(MAIN_FILE);
        // A link to nowhere is there, too: that it cannot be read is an error, not a reason to look further.
        if main.is_none() && fs::symlink_metadata(&path).map_or_else(|e| !is_absent(&e), |_| true) {
            main = Some(path);
        }
        let path = directory.join(DROP_INS);
        match names(&path) {
            Ok(names) => {
                for name in names {
                    drop_ins.entry(name.clone()).or_insert_with(|| path.join(name));
                }
            }
            Err(e) if is_absent(&e) => {
                if roots.named && !directory.is_dir() {
                    out.push(Diagnostic::of_file(
                        Severity::Warning,
                        directory.to_string_lossy(),
                        "there is no such directory",
                    ));
                }
            }
            Err(e) => out.push(unreadable(&path, &e)),
        }
    }
    let main = main.into_iter().map(|path| (FileKind::Main, path));
    let drop_ins = drop_ins.into_values().map(|path| (FileKind::DropIn, path));
    main.chain(drop_ins).filter_map(|(kind, path)| Some((kind, read_text(&path, out)?))).collect()
}

/// The system's zone: what TZ names, else what `localtime` (/etc/localtime) is now.
pub(super) fn system_zone(localtime: &Path, out: &mut Diagnostics) -> TimeZone {
    let mut utc = |what: &str, message: String| {
        out.push(Diagnostic::of_file(Severity::Warning, what, message + ": UTC is used").help(
            "[daemon] timezone = \"Europe/Vienna\" in virtsnapd.toml says it for policies, whatever the system's is",
        ));
        TimeZone::UTC
    };
    if let Some(tz) = std::env::var_os("TZ") {
        return TimeZone::try_system()
            .unwrap_or_else(|_| utc("TZ", format!("{} names no time zone", tz.display())));
    }
    match local_zone(localtime) {
        Ok(zone) => zone,
        // Then it is UTC, says localtime(5).
        Err(e) if is_absent(&e) && fs::symlink_metadata(localtime).is_err() => TimeZone::UTC,
        Err(e) => utc(&localtime.to_string_lossy(), format!("this is no time zone: {e}")),
    }
}

/// What /etc/localtime is: a link to a zone of the database, or a zone's data, whose name nobody knows then.
fn local_zone(path: &Path) -> io::Result<TimeZone> {
    if let Ok(target) = fs::read_link(path)
        && let Some((_, name)) = target.to_str().and_then(|target| target.rsplit_once("zoneinfo/"))
        && let Ok(zone) = TimeZone::get(name)
    {
        return Ok(zone);
    }
    TimeZone::tzif(SYSTEM_ZONE, &read_bytes(path)?).map_err(io::Error::other)
}

/// One file that somebody named, whatever it holds.
pub fn read_file(path: &Path) -> Result<Arc<SourceFile>, Diagnostics> {
    let mut out = Diagnostics::default();
    read_text(path, &mut out).ok_or(out)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The names of the files of a drop-in directory that count, whatever they are.
fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        // Editors' and package managers' leftovers end in something else or start with a dot.
        if name.as_bytes().ends_with(b".toml") && !name.as_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    Ok(names)
}

fn read_text(path: &Path, out: &mut Diagnostics) -> Option<Arc<SourceFile>> {
    let shown = path.to_string_lossy();
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(e) => {
            out.push(unreadable(path, &e));
            return None;
        }
    };
    match decode(shown, bytes) {
        Ok(file) => Some(file),
        Err(diagnostic) => {
            out.push(*diagnostic);
            None
        }
    }
}

/// A file of these bytes, wherever they come from; an error if they are no text.
pub fn decode(path: impl Into<String>, bytes: Vec<u8>) -> Result<Arc<SourceFile>, Box<Diagnostic>> {
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(SourceFile::new(path, text)),
        Err(e) => e,
    };
    let at = error.utf8_error().valid_up_to();
    let file = SourceFile::new(path, String::from_utf8_lossy(error.as_bytes()));
    let place = Place::new(&file, at..at + '\u{fffd}'.len_utf8());
    Err(Box::new(
        Diagnostic::error(&place, "this is not UTF-8")
            .label("from here")
            .help("`iconv -f latin1 -t utf8` converts older files"),
    ))
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // Looked at first: to open a pipe would wait for a writer.
    let metadata = fs::metadata(path)?;
    if metadata.file_type().is_char_device() && fs::canonicalize(path)? == Path::new("/dev/null") {
        return Ok(Vec::new());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let diagnostic =
        Diagnostic::of_file(Severity::Error, path.to_string_lossy(), format!("this cannot be read: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            diagnostic.help("the daemon reads it as its own user: `chmod o+r`, or a group that it is in")
        }
        _ => diagnostic,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_system_s_zone_is_the_present_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("localtime");
        let zone = || local_zone(&path).unwrap().iana_name().unwrap().to_owned();
        symlink("/usr/share/zoneinfo/Europe/Vienna", &path).unwrap();
        assert_eq!(zone(), "Europe/Vienna");
        fs::remove_file(&path).unwrap();
        symlink("../usr/share/zoneinfo/America/New_York", &path).unwrap();
        assert_eq!(zone(), "America/New_York");
        fs::remove_file(&path).unwrap();
        fs::copy("/usr/share/zoneinfo/Europe/Vienna", &path).unwrap();
        assert_eq!(zone(), "system");
        fs::write(&path, "Europe/Vienna").unwrap();
        assert!(local_zone(&path).is_err(), "a text is no zone");
    }
}
