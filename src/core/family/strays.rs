//! Files that nobody has: what others, or a libvirt that was killed, left on a VM's images.

use std::collections::{BTreeMap, BTreeSet};

use super::{Family, File, User};

impl Family {
    /// Files that nobody names, that nothing lies under that anybody names, and that lie on the images of one VM alone:
    /// the path, and the VM's name. What lies on an image of several, such as a new disk on a base that they share, is
    /// not told: whose it is cannot be.
    pub fn strays(&self) -> Vec<(&str, &str)> {
        let raw = self.raw();
        let mut of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for holder in &self.holders {
            let (User::Vm(vm) | User::Snapshot { vm, .. }) = &holder.user else { continue };
            for named in &holder.names {
                let (below, _) = self.below(&named.path, named.raw, &raw);
                for image in below {
                    of.entry(image).or_default().insert(vm);
                }
            }
        }
        let nobody_s = |path: &str, file: &File| !of.contains_key(path) && matches!(file, File::On(Some(_)));
        let files = self.files.iter().filter(|(path, file)| nobody_s(path, file));
        let whose = |path: &'_ str| {
            let (below, _) = self.below(path, false, &raw);
            let vms = below.iter().find_map(|image| of.get(image))?;
            if vms.len() == 1 { vms.first().copied() } else { None }
        };
        let mut found = Vec::new();
        for (path, _) in files {
            found.extend(whose(path).map(|vm| (path.as_str(), vm)));
        }
        found
    }
}
