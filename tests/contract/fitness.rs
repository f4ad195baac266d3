//! What is refused before anything is made, and what is not: VMs and disks of every kind.

use virtsnap::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{ErrorKind, Event, Layer},
    merging,
};

use super::{
    Rig, RigVm, chain, connected, daemon::Daemon, name, overlays, records, refused, run, spec, take,
    wait_for, watched,
};

const STOPPED: RigVm = RigVm { disks: 1, running: false, agent: false };
const RUNNING: RigVm = RigVm { disks: 1, running: true, agent: false };

/// A hand on VMs of other kinds.
pub(crate) trait Kinds {
    /// Makes a VM, not running, whose only disk `vda` is a raw image of 8 MiB.
    fn new_raw_vm(&mut self) -> VmId;
    /// Makes a VM, not running, of this name, with one qcow2 disk in a directory of this name.
    fn new_strange_vm(&mut self, name: &str, directory: &str) -> VmId;
    /// Stops a running VM's CPUs.
    fn pause_vm(&mut self, vm: VmId);
    /// Lets them go on.
    fn resume_vm(&mut self, vm: VmId);
    /// Gives the stopped VM a description of so many bytes.
    fn describe_vm(&mut self, vm: VmId, bytes: usize);
    /// Who owns a file, and its mode.
    fn access(&self, path: &str) -> String;
}

pub(crate) fn a_running_block_job_refuses_before_anything_is_made(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    rig.fill(vm, "vda");
    take(rig, &*hv, vm, "s1");
    rig.begin_block_job(vm, "vda");
    let overlays = overlays(rig, &*hv, vm);
    refused(hv.prepare(vm, &overlays), ErrorKind::Busy);
    assert!(!rig.file_exists(&overlays[0].path));
    rig.end_block_job(vm, "vda");
    hv.prepare(vm, &overlays).unwrap();
    hv.create(vm, &spec("s2", &overlays)).unwrap();
}

pub(crate) fn a_definition_that_names_another_image_refuses(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    let base = chain(&*hv, vm, "vda").remove(0);
    let on_s1 = take(rig, &*hv, vm, "s1").remove(0).path;
    rig.edit_definition(vm, "vda", &base);
    let overlays = overlays(rig, &*hv, vm);
    refused(hv.prepare(vm, &overlays), ErrorKind::ChainMismatch);
    assert!(!rig.file_exists(&overlays[0].path));
    rig.edit_definition(vm, "vda", &on_s1);
    hv.prepare(vm, &overlays).unwrap();
    hv.create(vm, &spec("s2", &overlays)).unwrap();
}

/// A chain may be as long as libvirt can start, and no snapshot makes it longer.
pub(crate) fn a_chain_at_the_limit_takes_no_more(rig: &mut dyn Rig) {
    let hv = rig.hv();
    let events = watched(&*hv);
    let connected = wait_for(&events, "the connection", |e| matches!(e, Event::Connected(_)));
    let Event::Connected(info) = connected else { unreachable!() };
    let limit = info.features.layer_limit as usize;
    let vm = rig.new_vm(STOPPED);
    let top = rig.images_on(&chain(&*hv, vm, "vda")[0], limit - 2);
    let vm = rig.vm_on(&top);
    assert_eq!(chain(&*hv, vm, "vda").len(), limit - 1);
    take(rig, &*hv, vm, "s1");
    rig.start_vm(vm);
    assert_eq!(chain(&*hv, vm, "vda").len(), limit);
    let overlays = overlays(rig, &*hv, vm);
    refused(hv.prepare(vm, &overlays), ErrorKind::Unsupported);
    assert!(!rig.file_exists(&overlays[0].path));
    rig.stop_vm(vm);
    refused(hv.prepare(vm, &overlays), ErrorKind::Unsupported);
    rig.start_vm(vm);
}

/// libvirt writes a snapshot's file of any length, and reads none of a mebibyte.
pub(crate) fn metadata_near_a_mebibyte_is_refused_and_what_is_taken_is_found_again(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    // A running VM's snapshots hold its definition twice.
    rig.describe_vm(vm, 400 * 1024);
    rig.start_vm(vm);
    take(rig, &*hv, vm, "s1");
    rig.disconnect();
    wait_for(&events, "the loss", |e| matches!(e, Event::Disconnected(_)));
    rig.reconnect();
    wait_for(&events, "the return", |e| matches!(e, Event::Connected(_)));
    assert_eq!(records(&*hv, vm).len(), 1);
    rig.stop_vm(vm);
    rig.describe_vm(vm, 470 * 1024);
    rig.start_vm(vm);
    let overlays = overlays(rig, &*hv, vm);
    refused(hv.prepare(vm, &overlays), ErrorKind::Unsupported);
    assert!(!rig.file_exists(&overlays[0].path));
}

pub(crate) fn prepared_overlays_are_what_was_asked_for(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    for running in [false, true] {
        let vm = rig.new_vm(RigVm { disks: 2, running, agent: false });
        let overlays = overlays(rig, &*hv, vm);
        hv.prepare(vm, &overlays).unwrap();
        for overlay in &overlays {
            let top = Layer { path: overlay.path.clone(), format: "qcow2".to_owned() };
            let images = hv.chain(&top).unwrap();
            assert_eq!(images[0].backing.as_ref(), Some(&overlay.backing));
            assert_eq!((images.len(), images[0].capacity), (2, images[1].capacity));
            let owner = |path| rig.access(path).split(' ').next().unwrap().to_owned();
            assert_eq!(owner(&overlay.path), owner(&overlay.backing.path));
            assert!(rig.access(&overlay.path).ends_with(" 600"), "{}", rig.access(&overlay.path));
        }
        hv.create(vm, &spec("s1", &overlays)).unwrap();
        assert!(rig.access(&overlays[0].path).ends_with(" 600"));
    }
}

pub(crate) fn eight_disks_go_together(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 8, ..RUNNING });
    let targets: Vec<String> = hv.vm(vm).unwrap().disks.into_iter().map(|d| d.target).collect();
    assert_eq!(targets.len(), 8);
    for (value, target) in targets.iter().enumerate() {
        rig.write_marker(vm, target, value as u64 + 1);
    }
    take(rig, &*hv, vm, "s1");
    for target in &targets {
        rig.write_marker(vm, target, 99);
    }
    assert_eq!(records(&*hv, vm)[0].disks.len(), 8);
    for (value, target) in targets.iter().enumerate() {
        assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), target), value as u64 + 1);
        assert_eq!(chain(&*hv, vm, target).len(), 2);
    }
    hv.delete(vm, &name("s1")).unwrap();
    assert!(targets.iter().all(|target| rig.marker_now(vm, target) == 99));
}

pub(crate) fn a_raw_disk_becomes_the_base_of_a_chain(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_raw_vm();
    let base = hv.vm(vm).unwrap().disks[0].chain.clone();
    assert_eq!((base.len(), base[0].format.as_str()), (1, "raw"));
    for (label, running) in [("s1", false), ("s2", true)] {
        if running {
            rig.start_vm(vm);
        }
        take(rig, &*hv, vm, label);
    }
    let layers = hv.vm(vm).unwrap().disks[0].chain.clone();
    let formats: Vec<_> = layers.iter().map(|l| l.format.as_str()).collect();
    assert_eq!(formats, ["qcow2", "qcow2", "raw"]);
    rig.stop_vm(vm);
    assert_eq!(hv.vm(vm).unwrap().disks[0].chain, layers);
    for label in ["s1", "s2"] {
        hv.delete(vm, &name(label)).unwrap();
    }
    assert_eq!(hv.vm(vm).unwrap().disks[0].chain, base);
    rig.start_vm(vm);
}

/// The safety snapshot of a revert has all disks, also those that no other one has.
pub(crate) fn a_raw_disk_of_a_snapshot_on_another_branch_is_in_no_merge_s_way(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_raw_vm();
    rig.attach(vm, "vdb", false);
    let take_vdb = |rig: &mut dyn Rig, label: &str| {
        let mut on = overlays(rig, &*hv, vm);
        on.retain(|o| o.target == "vdb");
        hv.prepare(vm, &on).unwrap();
        hv.create(vm, &spec(label, &on)).unwrap();
    };
    take_vdb(rig, "s1");
    take_vdb(rig, "s2");
    let safety = daemon.revert(vm, "s1");
    take_vdb(rig, "s3");
    let records = hv.snapshots(vm).unwrap();
    let of_vda = &records.iter().find(|r| r.name == safety).unwrap().disks[0];
    assert_eq!((of_vda.target.as_str(), of_vda.format.as_str()), ("vda", "raw"));
    assert!(merging::ground(&*hv, &hv.vm(vm).unwrap(), &records).is_some(), "what a plan goes by");
    run::merge(&*hv, vm, &["s3"]);
    assert_eq!(hv.snapshots(vm).unwrap().len(), 3);
}

pub(crate) fn a_paused_vm_is_snapshotted_and_stays_paused(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    rig.write_marker(vm, "vda", 41);
    rig.pause_vm(vm);
    assert_eq!(hv.vm(vm).unwrap().state, VmState::Paused);
    take(rig, &*hv, vm, "s1");
    assert_eq!(hv.vm(vm).unwrap().state, VmState::Paused);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), "vda"), 41);
    take(rig, &*hv, vm, "s2");
    hv.delete(vm, &name("s1")).unwrap();
    assert_eq!(hv.vm(vm).unwrap().state, VmState::Paused);
    rig.resume_vm(vm);
    assert_eq!(hv.vm(vm).unwrap().state, VmState::Running);
}

/// Whatever people call their VMs, directories and snapshots.
pub(crate) fn strange_names_and_paths_are_taken_as_they_are(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let strange = "it's <a> \"b\" & ü";
    let vm = rig.new_strange_vm(strange, strange);
    assert_eq!(hv.vm(vm).unwrap().name, strange);
    let long = "ü".repeat(100);
    let labels = [strange, "two\nlines", long.as_str(), "a:b*?$(c)"];
    for (i, label) in labels.iter().enumerate() {
        if i == 1 {
            rig.start_vm(vm);
        }
        let mut overlays = overlays(rig, &*hv, vm);
        let directory = overlays[0].backing.path.rsplit_once('/').unwrap().0.to_owned();
        overlays[0].path = format!("{directory}/it's & ü {i}.qcow2");
        hv.prepare(vm, &overlays).unwrap();
        hv.create(vm, &spec(label, &overlays)).unwrap();
        assert_eq!(chain(&*hv, vm, "vda")[0], overlays[0].path);
    }
    let found: Vec<SnapshotName> = records(&*hv, vm).into_iter().map(|r| r.name).collect();
    assert!(labels.iter().all(|label| found.contains(&name(label))), "{found:?}");
    for label in labels {
        hv.delete(vm, &name(label)).unwrap();
    }
    assert_eq!(chain(&*hv, vm, "vda").len(), 1);
}
