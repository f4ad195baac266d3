//! What a VM runs on and what it would start on, who else stands on an image, and what keeps a VM occupied.

use virtsnap::{
    core::model::VmId,
    hypervisor::{ErrorKind, Hypervisor, Layer, Save, User},
};

use super::{Rig, RigVm, chain, connected, name, overlays, records, refused, spec, take};

const STOPPED: RigVm = RigVm { disks: 1, running: false, agent: false };
const RUNNING: RigVm = RigVm { disks: 1, running: true, agent: false };

/// A hand on images and definitions.
pub(crate) trait Images {
    /// Another program edits the definition: this disk is on this image from the next start on.
    fn edit_definition(&mut self, vm: VmId, target: &str, image: &str);
    /// Some megabytes are written to the running VM's disk.
    fn fill(&mut self, vm: VmId, target: &str);
    /// Another program begins a job on the disk of a running VM that has data below its active layer, and the job goes
    /// on until it is ended.
    fn begin_block_job(&mut self, vm: VmId, target: &str);
    /// Ends it.
    fn end_block_job(&mut self, vm: VmId, target: &str);
    /// Another program makes an image on this qcow2 one; its path.
    fn image_on(&mut self, image: &str) -> String;
    /// So many of them, each on the one before; the path of the last.
    fn images_on(&mut self, image: &str, many: usize) -> String {
        (0..many).fold(image.to_owned(), |image, _| self.image_on(&image))
    }
    /// Another program defines a VM, not running, whose only disk `vda` is this image.
    fn vm_on(&mut self, image: &str) -> VmId;
    /// Another program removes a file.
    fn remove_file(&mut self, path: &str);
    /// Another program writes a small file.
    fn put_bytes(&mut self, path: &str, bytes: &[u8]);
    /// What is in it.
    fn bytes_of(&self, path: &str) -> Vec<u8>;
}

fn configured(hv: &dyn Hypervisor, vm: VmId) -> Vec<Option<String>> {
    hv.vm(vm).unwrap().disks.into_iter().map(|d| d.configured).collect()
}

fn active(hv: &dyn Hypervisor, vm: VmId) -> Vec<Option<String>> {
    hv.vm(vm).unwrap().disks.into_iter().map(|d| Some(d.chain[0].path.clone())).collect()
}

pub(crate) fn the_definition_names_what_the_vm_runs_on(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 2, ..STOPPED });
    let base = hv.vm(vm).unwrap().disks[0].chain[0].path.clone();
    assert_eq!(configured(&*hv, vm), active(&*hv, vm));
    assert!(hv.vm(vm).unwrap().xml_bytes > 500);
    let mut only_vdb = overlays(rig, &*hv, vm);
    only_vdb.remove(0);
    hv.prepare(vm, &only_vdb).unwrap();
    hv.create(vm, &spec("s1", &only_vdb)).unwrap();
    assert_eq!(configured(&*hv, vm), [Some(base.clone()), Some(only_vdb[0].path.clone())]);
    rig.start_vm(vm);
    assert_eq!(configured(&*hv, vm), active(&*hv, vm));
    take(rig, &*hv, vm, "s2");
    assert_eq!(configured(&*hv, vm), active(&*hv, vm));

    let before = active(&*hv, vm);
    rig.edit_definition(vm, "vda", &base);
    assert_eq!(active(&*hv, vm), before);
    assert_eq!(configured(&*hv, vm), [Some(base), before[1].clone()]);
}

pub(crate) fn a_running_block_job_is_told(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    rig.fill(vm, "vda");
    take(rig, &*hv, vm, "s1");
    let occupied = || {
        let vm = hv.vm(vm).unwrap();
        (vm.block_jobs, vm.busy)
    };
    assert_eq!(occupied(), (false, false));
    rig.begin_block_job(vm, "vda");
    assert_eq!(occupied(), (true, false));
    rig.end_block_job(vm, "vda");
    assert_eq!(occupied(), (false, false));
}

pub(crate) fn a_merge_into_what_another_vm_s_chain_has_is_refused(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    let base = chain(&*hv, vm, "vda").remove(0);
    let given = take(rig, &*hv, vm, "s1");
    take(rig, &*hv, vm, "s2");
    assert_eq!(hv.users(&[base.clone(), given[0].path.clone()], vm), Ok(Vec::new()));
    let clone = rig.image_on(&base);
    let other = rig.vm_on(&clone);
    let user = User::Vm(hv.vm(other).unwrap().name);
    for running in [false, true] {
        if running {
            rig.start_vm(other);
        }
        assert_eq!(hv.users(std::slice::from_ref(&base), vm), Ok(vec![(base.clone(), user.clone())]));
        assert_eq!(hv.users(&[given[0].path.clone()], vm), Ok(Vec::new()), "it stands beside that");
        let before = (records(&*hv, vm), chain(&*hv, vm, "vda"));
        refused(hv.delete(vm, &name("s1")), ErrorKind::InUse);
        assert_eq!((records(&*hv, vm), chain(&*hv, vm, "vda")), before);
    }
    hv.delete(vm, &name("s2")).unwrap();
}

/// Reverted to that snapshot, the other VM would read what the merge wrote.
pub(crate) fn a_merge_into_what_another_vm_s_snapshot_has_is_refused(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let base = chain(&*hv, vm, "vda").remove(0);
    take(rig, &*hv, vm, "s1");
    let clone = rig.image_on(&base);
    let other = rig.vm_on(&clone);
    let overlay = take(rig, &*hv, other, "theirs").remove(0).path;
    let elsewhere = rig.new_vm(STOPPED);
    let elsewhere = rig.image_on(&chain(&*hv, elsewhere, "vda")[0]);
    rig.edit_definition(other, "vda", &elsewhere);
    let (vm_name, snapshot) = (hv.vm(other).unwrap().name, name("theirs"));
    let users = hv.users(std::slice::from_ref(&base), vm).unwrap();
    let users: Vec<_> = users.into_iter().map(|(_, user)| user).collect();
    assert_eq!(users, [User::Snapshot { vm: vm_name, name: snapshot }]);
    refused(hv.delete(vm, &name("s1")), ErrorKind::InUse);
    refused(hv.discard(vm, std::slice::from_ref(&clone)), ErrorKind::Busy);
    refused(hv.discard(vm, std::slice::from_ref(&overlay)), ErrorKind::Busy);
    assert!(rig.file_exists(&clone) && rig.file_exists(&overlay));
}

pub(crate) fn a_merge_into_what_an_image_of_nobody_lies_on_is_refused(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let base = chain(&*hv, vm, "vda").remove(0);
    let given = take(rig, &*hv, vm, "s1");
    let below = rig.image_on(&base);
    let above = rig.image_on(&below);
    let mut users = hv.users(std::slice::from_ref(&base), vm).unwrap();
    users.sort();
    let mut expected = [below.clone(), above.clone()];
    expected.sort();
    assert_eq!(users, expected.map(|path| (base.clone(), User::Volume(path))));
    refused(hv.delete(vm, &name("s1")), ErrorKind::InUse);
    refused(hv.discard(vm, std::slice::from_ref(&below)), ErrorKind::Busy);
    hv.discard(vm, &[above.clone(), below.clone()]).unwrap();
    assert!(!rig.file_exists(&above) && !rig.file_exists(&below));
    assert_eq!(hv.users(&[base, given[0].path.clone()], vm), Ok(Vec::new()));
    hv.delete(vm, &name("s1")).unwrap();
}

/// It may stand on anything, so nobody can say that it does not stand on this.
pub(crate) fn a_vm_whose_image_cannot_be_found_lets_nothing_be_merged(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let base = chain(&*hv, vm, "vda").remove(0);
    take(rig, &*hv, vm, "s1");
    let clone = rig.image_on(&base);
    let other = rig.vm_on(&clone);
    rig.remove_file(&clone);
    let error = hv.users(std::slice::from_ref(&base), vm).unwrap_err();
    let told = hv.vm(other).unwrap();
    for words in [told.name.as_str(), clone.as_str(), "detach-disk"] {
        assert!(error.message.contains(words), "{error}");
    }
    assert_eq!(told.disks[0].lost.as_ref(), Some(&clone));
    assert!(hv.vm(vm).unwrap().disks.iter().all(|d| d.lost.is_none()));
    let before = records(&*hv, vm);
    refused(hv.delete(vm, &name("s1")), ErrorKind::Unsupported);
    assert_eq!(records(&*hv, vm), before);
    rig.undefine_vm(other);
    hv.delete(vm, &name("s1")).unwrap();
}

/// Its snapshots say what it lay on, and only who merges that is refused.
pub(crate) fn a_vm_whose_overlay_is_gone_is_in_the_way_of_what_it_lay_on_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let base = chain(&*hv, vm, "vda").remove(0);
    take(rig, &*hv, vm, "s1");
    let clone = rig.image_on(&base);
    let other = rig.vm_on(&clone);
    let overlay = take(rig, &*hv, other, "theirs").remove(0).path;
    let third = rig.new_vm(STOPPED);
    let third_s = chain(&*hv, third, "vda").remove(0);
    take(rig, &*hv, third, "s1");
    take(rig, &*hv, third, "s2");

    rig.remove_file(&overlay);
    assert_eq!(hv.vm(other).unwrap().disks[0].lost, Some(overlay.clone()));
    let users = hv.users(std::slice::from_ref(&base), vm).unwrap();
    let name_of_other = hv.vm(other).unwrap().name;
    assert!(users.contains(&(base.clone(), User::Vm(name_of_other))), "{users:?}");
    refused(hv.delete(vm, &name("s1")), ErrorKind::InUse);
    assert_eq!(hv.users(&[third_s], third), Ok(Vec::new()));
    hv.delete(third, &name("s1")).unwrap();

    // What lies under what it lay on is told by that one's own header, while that is there.
    rig.remove_file(&clone);
    let error = hv.users(std::slice::from_ref(&base), vm).unwrap_err();
    assert!(error.message.contains(&clone), "{error}");
    refused(hv.delete(third, &name("s2")), ErrorKind::Unsupported);
    rig.undefine_vm(other);
    hv.delete(third, &name("s2")).unwrap();
}

pub(crate) fn a_chain_that_cannot_be_followed_is_an_error(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let base = chain(&*hv, vm, "vda").remove(0);
    let middle = rig.image_on(&base);
    let layer = |path: &str, format: &str| Layer { path: path.to_owned(), format: format.to_owned() };
    let top = layer(&rig.image_on(&middle), "qcow2");
    let images = hv.chain(&top).unwrap();
    let paths: Vec<_> = images.iter().map(|i| i.path.as_str()).collect();
    assert_eq!(paths, [&top.path, &middle, &base]);
    assert!(images.iter().all(|i| i.capacity == 8 << 20 && i.allocation > 0 && i.format == "qcow2"));
    assert_eq!(images[0].backing, Some(layer(&middle, "qcow2")));
    assert_eq!(images[2].backing, None);
    let beside = hv.images_beside(&base).unwrap();
    assert!(images.iter().all(|i| beside.contains(i)), "{beside:?}");
    // What a raw image holds is the guest's, also if it looks like a header.
    let raw = hv.chain(&layer(&top.path, "raw")).unwrap();
    assert_eq!((raw.len(), raw[0].backing.as_ref()), (1, None));
    rig.remove_file(&middle);
    refused(hv.chain(&top), ErrorKind::ChainMismatch);
}

pub(crate) fn in_a_directory_that_is_not_there_are_no_images(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let nowhere = format!("{}.gone/vda.qcow2", chain(&*hv, vm, "vda")[0]);
    // Again, as a pool that somebody made of it could be in the way.
    for _ in 0..2 {
        assert_eq!(hv.images_beside(&nowhere), Ok(Vec::new()));
    }
    assert!(!hv.images_beside(&chain(&*hv, vm, "vda")[0]).unwrap().is_empty());
}

pub(crate) fn small_files_are_read_and_written_whole(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let path = rig.overlay_path(vm, "vda");
    let first: Vec<u8> = (0..150_000_u32).map(|i| (i % 251) as u8).collect();
    hv.save(&path, &first, Save::New(Some(&chain(&*hv, vm, "vda")[0]))).unwrap();
    assert_eq!(rig.bytes_of(&path), first);
    assert_eq!(hv.load(&path, 150_000), Ok(first.clone()));
    refused(hv.load(&path, 149_999), ErrorKind::Unsupported);
    refused(hv.save(&path, &first, Save::New(None)), ErrorKind::Exists);
    for other in [vec![7; 150_000], vec![8; 10], vec![9; 70_000]] {
        hv.save(&path, &other, Save::Over).unwrap();
        assert_eq!(rig.bytes_of(&path), other);
    }
    rig.put_bytes(&path, b"somebody's");
    assert_eq!(hv.load(&path, 1 << 20), Ok(b"somebody's".to_vec()));
    hv.discard(vm, std::slice::from_ref(&path)).unwrap();
    assert!(hv.load(&path, 1 << 20).is_err());
    assert!(hv.save(&path, &first, Save::Over).is_err());
    assert!(!rig.file_exists(&path));
}
