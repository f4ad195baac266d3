//! What was granted and what was not, for who asked: systemd tells of a unit that it ended well, and nothing else.
//!
//! It is put down before the unit ends, whatever it is; where it cannot be, the unit fails. So once that has ended well
//! what is found here is of then, or nothing is.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::VmId;

/// Where [`Answers`] of this machine are. The unit has it as its `RuntimeDirectory=`.
pub const ANSWERS: &str = "/run/virtsnap-apparmor";

/// An image that the VM has and is not let write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its path, as libvirt has it.
    pub path: String,
    /// Why.
    pub why: String,
    /// What a person can do about it, as a sentence without its full stop.
    pub way_out: String,
}

/// What became of each of a VM's images.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    /// It may write these now; by the paths that libvirt has for them.
    pub may_write: BTreeSet<String>,
    /// And not these.
    pub left_out: Vec<LeftOut>,
}

impl Answer {
    /// The first of these images that the VM may not write. One of which nothing is said is such a one.
    pub fn lacks(&self, images: &[String]) -> Option<LeftOut> {
        let path = images.iter().find(|path| !self.may_write.contains(*path))?;
        let told = self.left_out.iter().find(|l| l.path == *path).cloned();
        Some(told.unwrap_or_else(|| LeftOut {
            path: path.clone(),
            why: "it was not among the VM's images when those were looked at".to_owned(),
            way_out: "Try again when nobody else changes the VM".to_owned(),
        }))
    }
}

/// The directory with each VM's last answer.
#[derive(Debug, Clone)]
pub struct Answers(PathBuf);

impl Answers {
    /// In this directory.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    fn path(&self, vm: VmId) -> PathBuf {
        self.0.join(format!("{vm}.json"))
    }

    /// A VM's last one.
    pub fn read(&self, vm: VmId) -> io::Result<Answer> {
        let path = self.path(vm);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let text = fs::read_to_string(&path).map_err(named)?;
        serde_json::from_str(&text).map_err(|e| named(e.into()))
    }

    /// Puts down a VM's.
    pub(super) fn put(&self, vm: VmId, answer: &Answer) -> io::Result<()> {
        let text = serde_json::to_string(answer)?;
        // Whoever runs this by hand may be the first.
        fs::create_dir_all(&self.0)?;
        let (path, new) = (self.path(vm), self.0.join(format!(".{vm}.json~")));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(|e| {
            let _ = fs::remove_file(&new);
            io::Error::new(e.kind(), format!("{}: {e}", Path::display(&path)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::VM, *};

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn what_is_put_down_is_what_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (answers, vm) = (Answers::at(directory.path().join("made")), VM.parse().unwrap());
        assert!(answers.read(vm).unwrap_err().to_string().contains(VM), "none yet");
        let odd = "/i/a\n\"b\\[1].qcow2".to_owned();
        let left_out = LeftOut { path: odd, why: "it holds '['".to_owned(), way_out: "Rename it".to_owned() };
        let first =
            Answer { may_write: paths(&["/i/b", "/i/ü c"]).into_iter().collect(), left_out: vec![left_out] };
        for answer in [first, Answer::default()] {
            answers.put(vm, &answer).unwrap();
            assert_eq!(answers.read(vm).unwrap(), answer);
        }
        fs::write(answers.path(vm), "{\"may_write\": [\"/i/b\"").unwrap();
        assert!(answers.read(vm).is_err(), "half of one is none");
    }

    #[test]
    fn what_is_not_granted_is_lacking_whether_a_reason_is_told_or_not() {
        let left_out = LeftOut { path: "/i/odd".to_owned(), why: "odd".to_owned(), way_out: String::new() };
        let answer = Answer {
            may_write: paths(&["/i/a", "/i/b"]).into_iter().collect(),
            left_out: vec![left_out.clone()],
        };
        assert_eq!(answer.lacks(&paths(&["/i/b", "/i/a"])), None);
        assert_eq!(answer.lacks(&paths(&["/i/a", "/i/odd"])), Some(left_out));
        let new = answer.lacks(&paths(&["/i/new", "/i/odd"])).unwrap();
        assert_eq!((new.path.as_str(), new.why.contains("not among")), ("/i/new", true));
    }
}
