//! Files that have several names: through a directory that is a link, or as hard links.
//!
//! libvirt compares paths as texts, and so knows nothing of it. Whoever merges into an image or removes it hits all that
//! use it by another name, so here a file is what the file system says it is, where that can be asked: by a daemon on the
//! libvirt of another host, or for a directory that it may not enter, it is its path.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
};

use virt::connect::Connect;

/// Device and inode.
type Id = (u64, u64);

/// Files, by what the file system says they are.
pub(super) struct Same(bool);

impl Same {
    /// As this libvirt's files are seen from here.
    pub(super) fn on(connection: &Connect) -> Self {
        Self(connection.uri().is_ok_and(|uri| is_here(&uri)))
    }

    /// The paths among those that are known which are one of these files, by whatever name; and these themselves.
    pub(super) fn named<'a>(
        &self,
        files: &[String],
        known: impl IntoIterator<Item = &'a String>,
    ) -> BTreeSet<String> {
        let ids: BTreeSet<Id> = files.iter().filter_map(|path| self.id(path)).collect();
        let other = |path: &&String| self.id(path).is_some_and(|id| ids.contains(&id));
        let others =
            if ids.is_empty() { BTreeSet::new() } else { known.into_iter().filter(other).cloned().collect() };
        files.iter().cloned().chain(others).collect()
    }

    /// Those of these files that have another name among the paths that are known.
    pub(super) fn also_named<'a>(
        &self,
        files: &[String],
        known: impl IntoIterator<Item = &'a String>,
    ) -> BTreeSet<String> {
        let mut names: BTreeMap<Id, BTreeSet<&String>> = BTreeMap::new();
        for path in known {
            if let Some(id) = self.id(path) {
                names.entry(id).or_default().insert(path);
            }
        }
        let several = |path: &&String| {
            let others = self.id(path).and_then(|id| names.get(&id));
            others.is_some_and(|others| others.iter().any(|other| other != path))
        };
        files.iter().filter(several).cloned().collect()
    }

    fn id(&self, path: &str) -> Option<Id> {
        let found = if self.0 { std::fs::metadata(path).ok()? } else { return None };
        Some((found.dev(), found.ino()))
    }
}

/// Whether it is the libvirt of this host: no other one is named.
fn is_here(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(_, rest)| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_known_by_all_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(at("real")).unwrap();
        symlink(at("real"), at("link")).unwrap();
        for name in ["real/a", "real/b"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::hard_link(at("real/a"), at("hard")).unwrap();
        let known = ["real/a", "real/b", "link/a", "hard", "gone"].map(at);
        let (here, elsewhere) = (Same(true), Same(false));
        let a = [at("real/a")];
        assert_eq!(here.named(&a, &known), ["real/a", "link/a", "hard"].map(at).into());
        assert_eq!(elsewhere.named(&a, &known), a.clone().into());
        assert_eq!(here.named(&[at("gone")], &known), [at("gone")].into());
        assert_eq!(here.also_named(&["link/a", "real/b", "gone"].map(at), &known), [at("link/a")].into());
        assert!(elsewhere.also_named(&a, &known).is_empty());
    }

    #[test]
    fn another_host_s_files_are_not_ours() {
        for (uri, here) in [
            ("qemu:///system", true),
            ("qemu+unix:///session?socket=/x", true),
            ("qemu+ssh://root@host/system", false),
            ("qemu+tls://host/system", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_here(uri), here, "{uri}");
        }
    }
}
