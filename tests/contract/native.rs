//! libvirt's own deletion and revert, on what our merges left: whoever uses `virsh` beside the daemon finds nothing
//! unusual, also when libvirt has read its files anew.

use std::sync::mpsc::Receiver;

use virtsnap::{
    core::model::{SnapshotName, VmId},
    hypervisor::{Event, Hypervisor},
};

use super::{
    Rig, connected, name,
    run::{TARGETS, check, merge, with_five},
    wait_for,
};

/// A hand that does it as other programs do.
pub(crate) trait Native {
    /// Another program deletes this snapshot with libvirt's own deletion.
    fn delete_natively(&mut self, vm: VmId, name: &SnapshotName);
    /// Another program reverts the VM to this snapshot with libvirt's own revert; it runs then.
    fn revert_natively(&mut self, vm: VmId, name: &SnapshotName);
}

type Run = ([&'static str; 2], [&'static str; 3]);

/// What is merged away of five snapshots, and what stays.
const MERGES: [Run; 3] = [
    (["s1", "s2"], ["s3", "s4", "s5"]),
    (["s2", "s3"], ["s1", "s4", "s5"]),
    (["s4", "s5"], ["s1", "s2", "s3"]),
];

/// A VM for each of these merges, which was done; libvirt was away since.
fn merged(
    rig: &mut dyn Rig,
    hv: &dyn Hypervisor,
    events: &Receiver<Event>,
    merges: &[Run],
) -> Vec<(VmId, [&'static str; 3])> {
    let mut vms = Vec::new();
    for (run, left) in merges {
        let vm = with_five(rig, hv);
        merge(hv, vm, run);
        vms.push((vm, *left));
    }
    rig.disconnect();
    wait_for(events, "the loss", |e| matches!(e, Event::Disconnected(_)));
    rig.reconnect();
    wait_for(events, "the return", |e| matches!(e, Event::Connected(_)));
    vms
}

pub(crate) fn what_a_merge_left_is_deleted_natively_after_a_restart(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    for (vm, left) in merged(rig, &*hv, &events, &MERGES) {
        check(rig, &*hv, vm, &left);
        let [oldest, middle, newest] = left;
        for (gone, stays) in [(middle, &[oldest, newest][..]), (oldest, &[newest]), (newest, &[])] {
            rig.delete_natively(vm, &name(gone));
            check(rig, &*hv, vm, stays);
        }
    }
}

pub(crate) fn what_a_merge_left_is_reverted_to_natively_after_a_restart(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let value = |label: &str| label[1..].parse::<u64>().unwrap();
    // One before what went, the one right after it, and one after that.
    for (vm, left) in merged(rig, &*hv, &events, &MERGES[1..2]) {
        let [oldest, middle, newest] = left;
        for label in [middle, oldest, newest, oldest] {
            rig.revert_natively(vm, &name(label));
            for target in TARGETS {
                assert_eq!(rig.marker_now(vm, target), value(label), "{target} after a revert to {label}");
                for label in left {
                    let held = rig.marker_in_snapshot(vm, &name(label), target);
                    assert_eq!(held, value(label), "{target} in {label}");
                }
                rig.write_marker(vm, target, 9);
            }
        }
    }
}
