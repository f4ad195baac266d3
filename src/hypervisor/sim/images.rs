//! Images as files, and whom a change of one would hit.

use std::{collections::BTreeSet, time::Duration};

use super::{Asked, Sim, State, guest::Machine, image::Image as Stored, op::Op, snapshot::mismatch};
use crate::{
    core::{
        family::{Family, File, Holder, Named, User},
        model::VmId,
    },
    hypervisor::{Error, ErrorKind, Image, Images, Layer, Result, Save, Stray},
};

/// A disk's size: all have the same.
const CAPACITY: u64 = 8 << 20;

impl Images for Sim {
    fn images_beside(&self, path: &str) -> Result<Vec<Image>> {
        self.call(Asked::host(Op::ImagesBeside, path), |s| {
            let files = s.store.files.iter().filter(|(p, _)| directory(p) == directory(path));
            Ok(files.map(|(path, file)| image(s, path, file)).collect())
        })
    }

    fn chain(&self, top: &Layer) -> Result<Vec<Image>> {
        self.call(Asked::host(Op::Chain, top.path.as_str()), |s| {
            let mut images: Vec<Image> = Vec::new();
            let mut next = Some(top.clone());
            while let Some(layer) = next {
                if images.iter().any(|i| i.path == layer.path) {
                    return Err(mismatch(&format!("{} lies on itself", layer.path)));
                }
                let Some(file) = s.store.files.get(&layer.path) else {
                    return Err(mismatch(&format!("image {} is not there", layer.path)));
                };
                if layer.format != "raw" && layer.format != file.format {
                    return Err(mismatch(&format!("image {} is {}", layer.path, file.format)));
                }
                let found = image(s, &layer.path, file);
                next = found.backing.clone().filter(|_| layer.format != "raw");
                images.push(Image { format: layer.format, backing: next.clone(), ..found });
            }
            Ok(images)
        })
    }

    fn users(&self, images: &[String], of: VmId) -> Result<Vec<(String, User)>> {
        self.call(Asked::vm(Op::Users, of, images.join(" ")), |s| s.users(images, of))
    }

    fn strays(&self) -> Result<Vec<Stray>> {
        self.call(Asked::host(Op::Strays, ""), |s| Ok(s.strays()))
    }

    fn load(&self, path: &str, at_most: u64) -> Result<Vec<u8>> {
        self.call(Asked::host(Op::Load, path), |s| {
            let Some(file) = s.store.files.get(path) else { return Err(not_there(path)) };
            if file.allocation() > at_most {
                let text = format!("reading {path}: it has more than {at_most} bytes");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            Ok(file.bytes.clone())
        })
    }

    fn save(&self, path: &str, bytes: &[u8], how: Save<'_>) -> Result<()> {
        self.call_in_two(
            Asked::host(Op::Save, path),
            |_| Ok(()),
            |s, half| match how {
                Save::New(like) => {
                    if let Some(like) = like.filter(|like| !s.store.files.contains_key(*like)) {
                        return Err(not_there(like));
                    }
                    if s.store.files.contains_key(path) {
                        let text = format!("storage volume '{path}' exists already");
                        return Err(Error::new(ErrorKind::Exists, text));
                    }
                    if s.store.available() < bytes.len() as u64 {
                        let text = format!("writing {path}: No space left on device");
                        return Err(Error::new(ErrorKind::NoSpace, text));
                    }
                    s.store.files.insert(path.to_owned(), Stored::small(bytes));
                    Ok(())
                }
                Save::Over => {
                    let file = s.store.files.get_mut(path).ok_or_else(|| not_there(path))?;
                    // No upload makes a file longer or shorter: it is removed and made anew.
                    if half && file.bytes.len() != bytes.len() {
                        s.store.files.remove(path);
                        return Ok(());
                    }
                    *file = Stored::small(bytes);
                    Ok(())
                }
            },
        )
    }
}

impl State {
    /// Who but the VM `of` and its snapshots has one of these images under it.
    pub(super) fn users(&self, images: &[String], of: VmId) -> Result<Vec<(String, User)>> {
        self.find(images, |vm, _| Some(vm == of))
    }

    /// Who has one of these under it, the VM itself included; but its snapshots' overlays do not count.
    pub(super) fn in_use(&self, images: &[String], of: VmId) -> Result<Vec<(String, User)>> {
        self.find(images, |vm, overlays| (!(vm == of && overlays)).then_some(false))
    }

    fn find(
        &self,
        images: &[String],
        counts: impl Fn(VmId, bool) -> Option<bool>,
    ) -> Result<Vec<(String, User)>> {
        let images: BTreeSet<String> = images.iter().cloned().collect();
        let family = self.family(counts);
        family.users(&images).map_err(|e| Error::new(ErrorKind::Unsupported, e.to_string()))
    }

    fn strays(&self) -> Vec<Stray> {
        let family = self.family(|_, _| Some(false));
        let of = |(path, name): (&str, &str)| {
            let (vm, machine) = self.vms.iter().find(|(_, m)| m.name == name)?;
            let file = self.store.files.get(path).filter(|_| !machine.block_job)?;
            Some(Stray { vm: *vm, image: image(self, path, file), stamp: format!("{:?}", file.blocks) })
        };
        family.strays().into_iter().filter_map(of).collect()
    }

    fn family(&self, counts: impl Fn(VmId, bool) -> Option<bool>) -> Family {
        let below = |file: &Stored| {
            let path = file.backing.clone()?;
            let raw = self.store.files.get(&path).is_some_and(|f| f.format == "raw");
            Some((path, raw))
        };
        let files =
            self.store.files.iter().map(|(path, file)| (path.clone(), File::On(below(file)))).collect();
        let mut family = Family { files, ..Family::default() };
        for (id, machine) in &self.vms {
            for saved in machine.snapshots.values() {
                let put_on = saved.disks.iter().flat_map(|d| {
                    let again = saved.revert_disks.iter().filter(|(target, _)| *target == d.target);
                    let overlays = again.map(|(_, overlay)| overlay).chain([&d.overlay]);
                    overlays.map(|overlay| (overlay.clone(), d.state_image.clone()))
                });
                for (overlay, below) in put_on {
                    let raw = self.store.files.get(&below).is_some_and(|f| f.format == "raw");
                    family.told.entry(overlay).or_default().insert((below, raw));
                }
            }
            for (user, overlays, names) in holders(machine) {
                let raw = |path: &str| self.store.files.get(path).is_some_and(|f| f.format == "raw");
                let vital = matches!(user, User::Vm(_));
                let names = names.into_iter().map(|path| Named { raw: raw(&path), path, vital }).collect();
                family.holders.extend(counts(*id, overlays).map(|own| Holder { user, own, names }));
            }
        }
        family
    }

    /// What a small file holds; a hand for tests that look at what was written.
    fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.store.files.get(path).map(|f| f.bytes.clone())
    }
}

/// What a VM and its snapshots name: who, whether as what a snapshot put on top, and the paths.
fn holders(machine: &Machine) -> Vec<(User, bool, Vec<String>)> {
    let active = machine.drives.iter().map(|d| d.active.clone());
    let configured = machine.drives.iter().filter_map(|d| d.configured.clone());
    let mut all = vec![(User::Vm(machine.name.clone()), false, active.chain(configured).collect())];
    for (name, saved) in &machine.snapshots {
        let user = User::Snapshot { vm: machine.name.clone(), name: name.clone() };
        let states = saved.disks.iter().map(|d| &d.state_image).chain(&saved.memory_file).cloned();
        all.push((user.clone(), false, states.collect()));
        let reverted = saved.revert_disks.iter().map(|(_, overlay)| overlay.clone());
        all.push((user, true, saved.disks.iter().map(|d| d.overlay.clone()).chain(reverted).collect()));
    }
    all
}

/// Files, by the test's hand.
impl Sim {
    /// `qemu-img create`: a new image on another one.
    pub fn make_image(&self, path: &str, backing: &str) -> Result<()> {
        self.with(|s| s.store.make(path, backing))
    }

    /// Puts a small file there, or another content into it.
    pub fn put_bytes(&self, path: &str, bytes: &[u8]) {
        self.with(|s| s.store.files.insert(path.to_owned(), Stored::small(bytes)));
    }

    /// What a small file holds.
    pub fn bytes_of(&self, path: &str) -> Option<Vec<u8>> {
        self.with(|s| s.bytes(path))
    }
}

fn image(state: &State, path: &str, file: &Stored) -> Image {
    let format = |path: &str| state.store.files.get(path).map_or("raw", |f| f.format.as_str()).to_owned();
    Image {
        path: path.to_owned(),
        format: file.format.clone(),
        capacity: CAPACITY,
        allocation: file.allocation(),
        backing: file.backing.clone().map(|path| Layer { format: format(&path), path }),
        // No two writes are at the same time.
        modified: state.now.checked_add(Duration::from_nanos(file.written)).ok(),
    }
}

fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn not_there(path: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("{path} is not there"))
}
