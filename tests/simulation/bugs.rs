//! What the daemon does where it has a bug.

use virtsnap::{
    hypervisor::{
        Hypervisor as _,
        sim::{Op, VmSpec},
    },
    store::{Begun, Intent},
};

use super::world::{WEB, World, create, name};

#[test]
fn a_job_does_not_begin_on_what_a_bug_left_unsettled() {
    let mut world = World::new(1, "");
    world.add_vm(VmSpec::new("web", 1));
    world.boot();
    world.rest();
    let left = Intent::new(uuid::Uuid::from_u128(5), WEB, name("left"), Begun::Create(Box::default()));
    world.life.as_ref().unwrap().store.begin(&left, world.time.now()).unwrap();
    world.plan.panic_once("job-", Op::Snapshots);
    let refused = world.done(create(WEB, "new")).expect("it ends").unwrap_err();
    assert!(refused.contains("a bug in virtsnapd"), "{refused}");
    assert!(world.sim.snapshots(WEB).unwrap().is_empty());
    world.must(create(WEB, "new"));
    world.settle();
    assert_eq!(world.faults(&[]), Vec::<String>::new());
}
