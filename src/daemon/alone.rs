//! One daemon for one state directory: a second one would write to what the first goes by, and take its snapshots for
//! interrupted ones, long before the bus tells that the name is taken.

use std::{
    fmt,
    fs::{self, File},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::logging::message;

/// Who has it, for people: a number.
const PID: &str = "virtsnapd.pid";

/// The directory is this process's, for as long as this lives.
///
/// The directory itself is locked: there needs to be no room for that, and no leave to write.
#[derive(Debug)]
pub struct Alone {
    _lock: Option<Flock<File>>,
}

/// Somebody else has the directory.
#[derive(Debug, thiserror::Error)]
pub struct Another {
    directory: String,
    pid: Option<u32>,
}

impl fmt::Display for Another {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another virtsnapd ")?;
        if let Some(pid) = self.pid {
            write!(f, "(process {pid}) ")?;
        }
        write!(
            f,
            "uses {}: this one has touched nothing. Is it that of the unit (`systemctl status virtsnapd`)?",
            self.directory
        )
    }
}

impl Alone {
    /// Takes the directory, which is there.
    pub fn take(directory: &Path) -> Result<Self, Another> {
        let file = match File::open(directory) {
            Ok(file) => file,
            Err(e) => return Ok(Self::cannot(directory, &e)),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                // Of a full disk it is empty: nobody is misled.
                if let Err(e) = fs::write(directory.join(PID), format!("{}\n", std::process::id())) {
                    tracing::debug!(error = %e, "who uses {} is not written down", directory.display());
                }
                Ok(Self { _lock: Some(lock) })
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let pid = fs::read_to_string(directory.join(PID)).ok();
                let pid = pid.and_then(|text| text.trim().parse().ok());
                Err(Another { directory: directory.display().to_string(), pid })
            }
            Err((_, e)) => Ok(Self::cannot(directory, &e)),
        }
    }

    /// Some file systems have no locks. The bus has one name for one daemon still.
    fn cannot(directory: &Path, why: &dyn fmt::Display) -> Self {
        tracing::warn!(
            MESSAGE_ID = message::STORE_FAILED,
            "whether another virtsnapd uses {} cannot be told: {why}",
            directory.display()
        );
        Self { _lock: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_until_it_ends_and_the_next_one_says_which() {
        let directory = tempfile::tempdir().unwrap();
        let first = Alone::take(directory.path()).unwrap();
        let text = Alone::take(directory.path()).unwrap_err().to_string();
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        assert!(text.contains(&directory.path().display().to_string()), "{text}");
        // Whose disk was full.
        fs::write(directory.path().join(PID), "").unwrap();
        let text = Alone::take(directory.path()).unwrap_err().to_string();
        assert!(text.starts_with("another virtsnapd uses"), "{text}");
        drop(first);
        Alone::take(directory.path()).unwrap();
    }
}
