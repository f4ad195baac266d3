//! Many VMs at once.

use std::{collections::BTreeMap, time::Duration};

use virtsnap::{
    core::model::VmId,
    hypervisor::{Hypervisor as _, sim::VmSpec},
};

use super::world::World;

/// So many if `VIRTSNAP_VMS` does not say it.
const VMS: u128 = 300;

#[test]
fn vms_by_the_thousand_that_are_due_in_the_same_second_get_one_snapshot_each() {
    let vms = std::env::var("VIRTSNAP_VMS").ok().and_then(|n| n.parse().ok()).unwrap_or(VMS);
    // Fewer guests may be frozen than jobs run, or the jobs' limit would hold for them too.
    let limits = "max-jobs = 6\nmax-frozen = 2";
    let mut world = World::with(
        1,
        limits,
        "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 13 * * *\"\nkeep-last = 3\n",
    );
    for number in 1..=vms {
        world.sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
    }
    world.boot();
    world.pass(Duration::from_secs(600));
    assert_eq!(world.life.as_ref().unwrap().engine.view().vms.len() as u128, vms, "all are known before");
    world.pass(Duration::from_secs(3 * 3600));
    let taken: BTreeMap<VmId, usize> =
        world.vms().into_iter().map(|vm| (vm, world.sim.snapshots(vm).unwrap().len())).collect();
    assert_eq!(taken.len() as u128, vms);
    let others: Vec<_> = taken.into_iter().filter(|(_, count)| *count != 1).collect();
    assert!(others.is_empty(), "not one each: {others:?}");
    let (most, allowed) = (world.plan.oracle.most_frozen(), world.max_frozen());
    assert_eq!(most, allowed, "guests that were frozen at once");
    assert_eq!(world.faults(&[]), Vec::<String>::new());
}
