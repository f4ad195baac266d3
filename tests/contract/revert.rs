//! Reverting, and what a VM is good for after it.

use super::{Rig, RigVm, chain, connected, name, records, take};

const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
const DISKS: [&str; 2] = ["vda", "vdb"];

fn write(rig: &mut dyn Rig, vm: virtsnap::core::model::VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

/// Neither libvirt says for long what such a VM runs on, and yet all of it is as it should be.
pub(crate) fn after_a_revert_to_one_with_children_snapshots_are_taken_and_merged(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(TWO);
    for (label, value) in [("s1", 1), ("s2", 2)] {
        write(rig, vm, value);
        take(rig, &*hv, vm, label);
    }
    write(rig, vm, 3);
    rig.stop_vm(vm);
    rig.revert(vm, &name("s1"));
    rig.start_vm(vm);
    let reverted = chain(&*hv, vm, "vda");
    for (label, value) in [("s3", 4), ("s4", 5)] {
        write(rig, vm, value);
        take(rig, &*hv, vm, label);
    }
    write(rig, vm, 6);
    for gone in ["s4", "s3"] {
        hv.delete(vm, &name(gone)).unwrap();
        for target in DISKS {
            assert_eq!(rig.marker_now(vm, target), 6);
            for (label, value) in [("s1", 1), ("s2", 2)] {
                assert_eq!(rig.marker_in_snapshot(vm, &name(label), target), value, "{label} after {gone}");
            }
        }
    }
    let [s1, s2] = &records(&*hv, vm)[..] else { panic!("not two snapshots") };
    assert_eq!((s1.current, s2.current, s2.parent.as_ref()), (true, false, Some(&s1.name)));
    assert_eq!(chain(&*hv, vm, "vda"), reverted);
    // Where there is a place for it, it says so again.
    if rig.capabilities().contains(&super::Capability::RevertDisks) {
        assert!(s1.revert_disks.contains(&("vda".to_owned(), reverted[0].clone())), "{s1:?}");
    }
    take(rig, &*hv, vm, "s5");
}
