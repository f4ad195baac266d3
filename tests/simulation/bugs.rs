//! What the daemon does where it has a bug, and where there is no thread for it.

use std::time::Duration;

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

#[test]
fn what_there_was_no_thread_to_settle_on_a_connection_is_settled_later() {
    let mut world = World::new(1, "");
    world.add_vm(VmSpec::new("web", 1));
    world.boot();
    world.life.as_ref().unwrap().turns.refuse_thread("recovery");
    world.rest();
    let connected = |world: &World| {
        world.life.as_ref().is_some_and(|life| life.engine.view().manager.hypervisor_connected)
    };
    assert!(!connected(&world));
    world.pass(Duration::from_secs(120));
    assert!(connected(&world));
    world.must(create(WEB, "new"));
}
