//! The host, its VMs, and what it tells.

use uuid::Uuid;
use virtsnap::{
    core::model::{VmId, VmState},
    hypervisor::{Agent, CreateSpec, Disk, ErrorKind, Event, Vm},
};

use super::{AGENT, DEADLINE, Rig, RigVm, connected, name, refused, wait_for, watched};

const STOPPED: RigVm = RigVm { disks: 1, running: false, agent: false };

pub(crate) fn a_vm_that_is_not_there_is_not_found(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let nobody = VmId(Uuid::from_u128(0xdead_beef));
    refused(hv.vm(nobody), ErrorKind::NoSuchVm);
    refused(hv.snapshots(nobody), ErrorKind::NoSuchVm);
    let spec =
        CreateSpec { name: name("s1"), description: String::new(), overlays: Vec::new(), memory: None };
    refused(hv.create(nobody, &spec), ErrorKind::NoSuchVm);
    refused(hv.delete(nobody, &name("s1")), ErrorKind::NoSuchVm);
    refused(hv.file_systems(nobody, AGENT), ErrorKind::NoSuchVm);
    refused(hv.freeze_status(nobody, AGENT), ErrorKind::NoSuchVm);
    refused(hv.freeze(nobody, None, AGENT), ErrorKind::NoSuchVm);
    refused(hv.thaw(nobody, AGENT), ErrorKind::NoSuchVm);
}

pub(crate) fn vms_are_described_as_they_are(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 2, ..STOPPED });
    assert!(hv.vms().unwrap().contains(&vm));
    let seen = hv.vm(vm).unwrap();
    assert_eq!((seen.id, seen.state, seen.agent), (vm, VmState::ShutOff, Agent::Absent));
    assert!(!seen.name.is_empty() && seen.persistent && !seen.managed_save);
    assert_eq!(seen.disks.iter().map(|d| d.target.as_str()).collect::<Vec<_>>(), ["vda", "vdb"]);
    for disk in &seen.disks {
        assert!(disk.writable);
        assert_eq!((disk.kind.as_str(), disk.chain.len()), ("file", 1));
        assert_eq!(disk.chain[0].format, "qcow2");
        assert!(rig.file_exists(&disk.chain[0].path));
    }
    assert_eq!(hv.snapshots(vm), Ok(Vec::new()));
    rig.start_vm(vm);
    assert_eq!(hv.vm(vm).unwrap().state, VmState::Running);
    // libvirt's test driver has no images, so that each is lost while the VM is off.
    let there = |vm: Vm| vm.disks.into_iter().map(|d| Disk { lost: None, ..d }).collect::<Vec<_>>();
    assert_eq!(there(hv.vm(vm).unwrap()), there(seen));
}

pub(crate) fn the_room_for_images_is_known(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    let image = hv.vm(vm).unwrap().disks[0].chain[0].path.clone();
    let space = hv.space(&image).unwrap();
    assert!(0 < space.available && space.available <= space.capacity, "{space:?}");
}

pub(crate) fn what_happens_is_told_beginning_with_the_connection(rig: &mut dyn Rig) {
    let hv = rig.hv();
    let events = watched(&*hv);
    let first = events.recv_timeout(DEADLINE).unwrap();
    let Event::Connected(info) = first else { panic!("first came {first:?}") };
    assert!(!info.uri.is_empty() && !info.version.is_empty());

    let vm = rig.new_vm(STOPPED);
    let drain = || while events.try_recv().is_ok() {};
    drain();
    rig.start_vm(vm);
    wait_for(&events, "the start", |e| *e == Event::Changed(vm));
    drain();
    rig.stop_vm(vm);
    wait_for(&events, "the stop", |e| *e == Event::Changed(vm));
    rig.undefine_vm(vm);
    wait_for(&events, "the end", |e| *e == Event::Gone(vm));
    refused(hv.vm(vm), ErrorKind::NoSuchVm);
}

pub(crate) fn a_lost_connection_is_told_and_comes_back(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let vm = rig.new_vm(STOPPED);
    rig.disconnect();
    wait_for(&events, "the loss", |e| matches!(e, Event::Disconnected(_)));
    refused(hv.vms(), ErrorKind::Disconnected);
    refused(hv.vm(vm), ErrorKind::Disconnected);
    refused(hv.thaw(vm, AGENT), ErrorKind::Disconnected);
    rig.reconnect();
    wait_for(&events, "the return", |e| matches!(e, Event::Connected(_)));
    assert!(hv.vms().unwrap().contains(&vm));
    // It is a connection that tells, not only one that answers.
    rig.start_vm(vm);
    wait_for(&events, "the start", |e| *e == Event::Changed(vm));
}

pub(crate) fn a_glance_changes_with_what_others_do_to_snapshots(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (one, other) = (rig.new_vm(STOPPED), rig.new_vm(STOPPED));
    assert!(!hv.glance().unwrap().contains_key(&one), "it has none");
    let mut seen = Vec::new();
    for label in ["k1", "k2"] {
        rig.foreign_snapshot(one, label);
        let now = hv.glance().unwrap();
        assert_eq!(now, hv.glance().unwrap(), "nothing was done in between");
        assert!(!now.contains_key(&other));
        seen.push(now[&one]);
    }
    assert_ne!(seen[0], seen[1]);
}
