//! The profiles' files, the parser and the kernel's list: all that is read, written and run here.
//!
//! A file is never written in place: the parser, libvirt's or ours, must not load half of one. libvirt's helper does
//! write in place, without a lock. So a file is read, its successor is written beside it and renamed over it, and then
//! the *old* one is read once more: what libvirt wrote into it meanwhile is taken up and the change made in that.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    fcntl::OFlag,
    unistd::{getegid, geteuid},
};

use super::{
    ANSWERS, Answers, Failure, VmId,
    own::{Found, Look},
    parser::Version,
    uuid,
};

/// libvirt reads no longer profile.
const LONGEST: u64 = 1024 * 1024;
/// So often it is tried to be quicker than libvirt.
const TRIES: u32 = 5;

/// Where AppArmor is.
#[derive(Debug, Clone)]
pub struct Host {
    profiles: PathBuf,
    kernel: PathBuf,
    parser: PathBuf,
    answers: Answers,
}

/// A file that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    name: String,
    before: String,
    after: String,
}

impl Change {
    /// It changed anything.
    pub(super) fn is_one(&self) -> bool {
        self.before != self.after
    }
}

impl Host {
    /// This machine. No argument and no variable leads anywhere else.
    pub fn system() -> Self {
        Self {
            profiles: "/etc/apparmor.d/libvirt".into(),
            kernel: "/sys/kernel/security/apparmor".into(),
            // As libvirt calls it.
            parser: "/sbin/apparmor_parser".into(),
            answers: Answers::at(ANSWERS),
        }
    }

    /// A made-up one: `profiles`, `kernel`, `parser` and `answers` in this directory.
    #[cfg(test)]
    pub(super) fn at(directory: &Path) -> Self {
        let [profiles, kernel, parser] = ["profiles", "kernel", "parser"].map(|name| directory.join(name));
        Self { profiles, kernel, parser, answers: Answers::at(directory.join("answers")) }
    }

    /// Where it is put down what was granted.
    pub(super) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// The kernel's list of loaded profiles.
    pub(super) fn loaded_profiles(&self) -> Result<String, Failure> {
        let path = self.kernel.join("profiles");
        fs::read_to_string(&path).map_err(|e| {
            let text = format!("AppArmor is not there: {}: {e}. Nothing was changed", path.display());
            if e.kind() == io::ErrorKind::NotFound { Failure::Nothing(text) } else { Failure::Failed(text) }
        })
    }

    /// The parser's version.
    pub(super) fn parser_version(&self) -> Result<Version, Failure> {
        let printed = self.run(&["--version".as_ref()]).map_err(Failure::Failed)?;
        Version::read(&printed).ok_or_else(|| {
            let text = format!("the version of {} cannot be read from {printed:?}", self.parser.display());
            Failure::Failed(text + ". Nothing was changed")
        })
    }

    /// Loads a profile in place of the one that is loaded; what the parser says if it does not.
    pub(super) fn load(&self, name: &str) -> Result<(), String> {
        // Past any cache: what is in the file is what is to hold.
        let path = self.path(name);
        self.run(&["--replace".as_ref(), "--skip-cache".as_ref(), path.as_os_str()]).map(drop)
    }

    fn run(&self, arguments: &[&std::ffi::OsStr]) -> Result<String, String> {
        let mut command = Command::new(&self.parser);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("{} cannot be run: {e}", self.parser.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line: Vec<_> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        Err(format!("{}: {}", output.status, line.join(" / ")))
    }

    /// The VMs that have a profile's file.
    pub(super) fn vms_with_profile(&self) -> Result<Vec<VmId>, Failure> {
        let failed = |e: io::Error| Failure::Failed(format!("{}: {e}", self.profiles.display()));
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.profiles) {
            Ok(entries) => entries,
            // No AppArmor here.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(failed(e)),
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let vm = name.to_str().and_then(|n| n.strip_prefix("libvirt-")).and_then(uuid);
            found.extend(vm);
        }
        found.sort_unstable();
        Ok(found)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.profiles.join(name)
    }

    /// Changes one of the profiles' files.
    pub(super) fn change(
        &self,
        name: &str,
        change: impl Fn(&str) -> Result<String, Failure>,
    ) -> Result<Change, Failure> {
        let path = self.path(name);
        let failed = |e: io::Error| Failure::Failed(format!("{} cannot be changed: {e}", path.display()));
        for _ in 0..TRIES {
            let (mut old, mode) = open(&path).map_err(failed)?;
            let before = text(&mut old).map_err(failed)?;
            let after = change(&before)?;
            let done = Change { name: name.to_owned(), before, after };
            if !done.is_one() {
                return Ok(done);
            }
            self.write(name, &done.after, mode).map_err(failed)?;
            let meanwhile = text(&mut old).map_err(failed)?;
            if meanwhile == done.before {
                return Ok(done);
            }
            self.write(name, &meanwhile, mode).map_err(failed)?;
        }
        Err(failed(io::Error::other("libvirt writes it at the same time, again and again")))
    }

    /// Whether the file still is what it was made.
    pub(super) fn is_still(&self, change: &Change) -> Result<bool, Failure> {
        let path = self.path(&change.name);
        let read = open(&path).and_then(|(mut file, _)| text(&mut file));
        let read = read.map_err(|e| Failure::Failed(format!("{} cannot be read: {e}", path.display())))?;
        Ok(read == change.after)
    }

    /// Makes the file what it was before, unless somebody else wrote it since.
    pub(super) fn put_back(&self, change: &Change) -> Result<(), Failure> {
        let back =
            |text: &str| Ok(if text == change.after { change.before.clone() } else { text.to_owned() });
        self.change(&change.name, back).map(drop)
    }

    /// Puts a file in place of another one, whole.
    fn write(&self, name: &str, text: &str, mode: u32) -> io::Result<()> {
        if text.len() as u64 > LONGEST {
            return Err(io::Error::other("it would be too long for libvirt to read"));
        }
        // Not a name that libvirt, or the parser when it loads a directory, takes for a profile.
        let new = self.path(&format!(".{name}.virtsnap~"));
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            // What another life left behind.
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&new)?;
        let written = file
            .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&new, self.path(name)))
            .and_then(|()| File::open(&self.profiles)?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

/// Opens a file that is ours alone to write, and no link to another; and its mode.
fn open(path: &Path) -> io::Result<(File, u32)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.nlink() != 1 {
        return Err(io::Error::other("it is not a plain file with one name"));
    }
    if about.uid() != geteuid().as_raw() || about.gid() != getegid().as_raw() || about.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than root own it or may write to it"));
    }
    Ok((file, about.mode() & 0o777))
}

fn text(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other("it is longer than what libvirt reads"));
    }
    Ok(text)
}

impl Look for Host {
    fn look(&self, path: &str) -> io::Result<Option<Found>> {
        let missing = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(e),
        };
        let path = Path::new(path);
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other("it is no file's path"));
        };
        let real = match directory.canonicalize() {
            Ok(directory) => directory.join(name),
            Err(e) => return missing(e),
        };
        let (itself, about) = match fs::symlink_metadata(&real).and_then(|s| Ok((s, fs::metadata(&real)?))) {
            Ok(both) => both,
            Err(e) => return missing(e),
        };
        let Some(real) = real.to_str() else {
            return Err(io::Error::other("its directory's name is not UTF-8"));
        };
        let plain = itself.is_file() && itself.nlink() == 1;
        Ok(Some(Found { real: real.to_owned(), file: (about.dev(), about.ino()), plain }))
    }
}

#[cfg(test)]
mod tests;
