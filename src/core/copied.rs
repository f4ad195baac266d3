//! A disk that was copied to stand alone ([promote](crate::core::branch)), and of which it is not known whether all of it
//! is on the disk.
//!
//! QEMU lets an image name none below it before it has written all that it copied: a QEMU that is killed in between leaves
//! a disk that reads as zeros where it had not. Nothing is lost by that, as what it was copied from is untouched: to copy it
//! once more, on the images that it stood on, puts it right. So these are kept in mind, and are deleted by nobody.

use super::{
    health::{Finding, Health},
    model::VmId,
    text::for_shell,
};

/// Such a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedDisk {
    /// Its VM.
    pub vm: VmId,
    /// Its target.
    pub target: String,
    /// What it was on before: each image's path and format, the one that is written to first.
    pub images: Vec<(String, String)>,
    /// The VM's life in which it was copied.
    pub life: Option<u64>,
}

/// What is to be made of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is as it was before, or is not the VM's any more: there is nothing to keep in mind.
    Past,
    /// Its QEMU lives, and can be made to write what it has.
    Unwritten,
    /// Its QEMU ended, and nobody knows how.
    Unknown,
}

impl CopiedDisk {
    /// What it is now, where the VM's disk of that name is on these images, and the VM lives this life.
    pub fn standing(&self, chain: &[&str], life: Option<u64>) -> Standing {
        let Some(own) = self.images.first() else { return Standing::Past };
        match chain.iter().position(|path| *path == own.0) {
            Some(at) if at + 1 == chain.len() => {
                if life.is_some() && life == self.life {
                    Standing::Unwritten
                } else {
                    Standing::Unknown
                }
            }
            _ => Standing::Past,
        }
    }

    /// What it stood on first, and may have to be copied from once more.
    pub fn base(&self) -> &str {
        self.images.get(1).map_or("", |(path, _)| path)
    }

    /// What there is to say of one that nobody knows of, of a VM of this name.
    pub fn text(&self, vm: &str) -> String {
        format!(
            "Disk {} of VM {vm} was copied to stand alone, and its QEMU ended before it was known to have written all of \
             that: it may read as zeros in places. Nothing is lost, for {}, which it was copied from, is kept: shut the VM \
             down if it is on, do not start it, and `virtsnap promote {}` copies it once more.",
            self.target,
            self.base(),
            for_shell(vm)
        )
    }
}

/// Those of a VM that nobody knows of.
pub fn findings<'a>(vm: &str, unknown: impl Iterator<Item = &'a CopiedDisk>) -> Vec<Finding> {
    unknown.map(|disk| Finding { health: Health::Broken, text: disk.text(vm), repair: None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_in_mind_as_long_as_it_stands_alone_and_nobody_had_it_written() {
        let images = ["/i/top", "/i/base"].map(|path| (path.to_owned(), "qcow2".to_owned())).to_vec();
        let disk =
            CopiedDisk { vm: VmId(uuid::Uuid::nil()), target: "vda".to_owned(), images, life: Some(3) };
        for (chain, life, standing) in [
            (&["/i/top", "/i/base"][..], Some(3), Standing::Past),
            (&["/i/other"], Some(3), Standing::Past),
            (&[], None, Standing::Past),
            (&["/i/top"], Some(3), Standing::Unwritten),
            (&["/i/top"], Some(4), Standing::Unknown),
            (&["/i/top"], None, Standing::Unknown),
            // Somebody put it under a snapshot.
            (&["/i/new", "/i/top"], Some(4), Standing::Unknown),
        ] {
            assert_eq!(disk.standing(chain, life), standing, "{chain:?} {life:?}");
        }
        let found = findings("web", [&disk].into_iter());
        assert!(found[0].text.contains("`virtsnap promote web`") && found[0].text.contains("/i/base, which"));
    }
}
