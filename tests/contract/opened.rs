//! What QEMU itself says of a VM's disks, and the next start.

use virtsnap::{
    core::model::VmId,
    hypervisor::{Hypervisor, Layer},
};

use super::{Rig, RigVm, chain, connected, overlays, take};

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };

fn configured(hv: &dyn Hypervisor, vm: VmId, target: &str) -> Option<String> {
    hv.vm(vm).unwrap().disks.into_iter().find(|d| d.target == target).unwrap().configured
}

pub(crate) fn what_a_running_vm_has_open_is_what_libvirt_says_too(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(TWO);
    take(rig, &*hv, vm, "s1");
    take(rig, &*hv, vm, "s2");
    let opened = hv.opened(vm).unwrap().unwrap();
    for target in ["vda", "vdb"] {
        let disk = opened.iter().find(|d| d.target == target).unwrap();
        let paths: Vec<_> = disk.chain.iter().map(|layer| layer.path.as_str()).collect();
        assert_eq!(paths, chain(&*hv, vm, target));
        assert!(disk.chain.iter().all(|layer| layer.format == "qcow2"), "{disk:?}");
    }
    rig.stop_vm(vm);
    assert_eq!(hv.opened(vm).unwrap(), None, "it is off");
}

pub(crate) fn the_next_start_is_on_what_was_named_for_it_and_this_life_goes_on(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(TWO);
    rig.write_marker(vm, "vda", 1);
    rig.write_marker(vm, "vdb", 1);
    let before = ["vda", "vdb"].map(|target| chain(&*hv, vm, target));
    let new = overlays(rig, &*hv, vm).remove(0);
    assert_eq!(new.target, "vda");
    hv.prepare(vm, std::slice::from_ref(&new)).unwrap();
    let layer = Layer { path: new.path.clone(), format: "qcow2".to_owned() };
    hv.name_for_next_start(vm, &[("vda".to_owned(), layer)]).unwrap();
    assert_eq!(["vda", "vdb"].map(|target| chain(&*hv, vm, target)), before);
    assert_eq!(configured(&*hv, vm, "vda"), Some(new.path.clone()));
    assert_eq!(configured(&*hv, vm, "vdb").as_ref(), before[1].first());
    rig.stop_vm(vm);
    rig.start_vm(vm);
    assert_eq!(chain(&*hv, vm, "vda"), [&[new.path][..], &before[0]].concat());
    assert_eq!(chain(&*hv, vm, "vdb"), before[1]);
    assert_eq!((rig.marker_now(vm, "vda"), rig.marker_now(vm, "vdb")), (1, 1));
}

pub(crate) fn a_disk_that_is_not_there_cannot_be_named(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(TWO);
    let layer = Layer { path: "/nowhere".to_owned(), format: "qcow2".to_owned() };
    hv.name_for_next_start(vm, &[("vdz".to_owned(), layer)]).unwrap_err();
    let first = chain(&*hv, vm, "vda").into_iter().next();
    assert_eq!(configured(&*hv, vm, "vda"), first);
}
