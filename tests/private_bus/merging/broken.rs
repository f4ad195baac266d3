//! libvirt's own deletion that broke off, ended by daemons that are killed at it.

use super::*;

/// A world in which libvirt's own deletion of this snapshot broke off when these disks were off their overlays.
fn broken(state: VmState, name: &SnapshotName, merged: &[&str]) -> World {
    let mut world = World::new(state, "keep-last = 5");
    world.sim.break_deletion(VM, name, merged).unwrap();
    // Of the first one libvirt itself has no mark: nobody can tell that it is not what it was.
    let spoiled = TARGETS.map(|target| world.sim.content_of_snapshot(VM, name, target).unwrap());
    world.oracle.insert(name.clone(), spoiled);
    world
}

fn delete(name: &SnapshotName) -> Operation {
    Operation::Delete { name: name.clone(), pace: Pace::default(), foreign: false }
}

/// As far as there is an image to be read by what the metadata says, it holds what it should.
fn check(world: &World) {
    assert_eq!(world.live(), world.now, "the VM's disks");
    let lost = |r: &virtsnap::hypervisor::SnapshotRecord| !r.lost.is_empty();
    if !world.sim.snapshots(VM).unwrap().iter().any(lost) {
        world.check();
    }
}

#[test]
fn whoever_is_killed_at_ending_it_leaves_it_to_the_next_one() {
    for state in [VmState::Running, VmState::ShutOff] {
        for (name, left) in [
            ("s0", ["s1", "s2", "s3", "s4"]),
            ("s2", ["s0", "s1", "s3", "s4"]),
            ("s4", ["s0", "s1", "s2", "s3"]),
        ] {
            let name = SnapshotName::existing(name);
            for merged in [&[][..], &["vda"], &["vdb"], &TARGETS] {
                let world = broken(state, &name, merged);
                let (counting, count) = ends_at(&world.sim, usize::MAX);
                let done = world.does(counting, delete(&name), drop);
                assert_eq!(done, Outcome::Done(None), "{state} {name} {merged:?}");
                world.check_done(&left, state);
                for at in 0..count.load(Ordering::SeqCst) {
                    let world = broken(state, &name, merged);
                    let (killed, _) = ends_at(&world.sim, at);
                    assert!(matches!(world.does(killed, delete(&name), drop), Outcome::Failed(_)));
                    check(&world);
                    // What was begun a prune ends, as all that is ours.
                    let ended = world.prune();
                    assert!(matches!(ended, Outcome::Done(_)), "{state} {name} {merged:?} {at}: {ended:?}");
                    check(&world);
                    if world.left().contains(&name.to_string()) {
                        assert_eq!(world.does(world.sim.clone(), delete(&name), drop), Outcome::Done(None));
                    }
                    world.check_done(&left, state);
                }
            }
        }
    }
}

#[test]
fn of_several_that_are_to_go_it_goes_first_and_by_itself() {
    let name = SnapshotName::existing("s2");
    let world = broken(VmState::Running, &name, &["vda"]);
    let (run, survivors) = (["s1", "s2", "s3"], ["s0", "s4"]);
    let goes = |n: &SnapshotName| run.contains(&n.as_str());
    let mut world = world;
    world.oracle.retain(|n, _| !goes(n));
    let failed = world.does(world.sim.clone(), delete(&SnapshotName::existing("s1")), drop);
    let Outcome::Failed(failure) = failed else { panic!("s2 comes first") };
    assert!(failure.message.contains("s2"), "{failure:?}");
    for n in ["s2", "s1", "s3"] {
        let done = world.does(world.sim.clone(), delete(&SnapshotName::existing(n)), drop);
        assert_eq!(done, Outcome::Done(None), "{n}");
    }
    world.check_done(&survivors, VmState::Running);
}

/// A refusal is none of "as good as before": it was not that when it was found.
#[test]
fn what_is_refused_then_still_counts_as_failed() {
    let name = SnapshotName::existing("s0");
    let world = broken(VmState::Running, &name, &["vda"]);
    world.sim.inject(Fault::new(Op::Commit, Mishap::Refuse(Error::new(ErrorKind::Busy, "on request"))));
    assert!(matches!(world.does(world.sim.clone(), delete(&name), drop), Outcome::Failed(_)));
    let record = reader::read(world.sim.as_ref(), &world.store, VM).unwrap();
    assert_eq!(record.snapshots[&name].snapshot.state, SnapshotState::Failed);
    assert!(matches!(world.prune(), Outcome::Done(_)), "and goes with the next prune");
    world.check_done(&["s1", "s2", "s3", "s4"], VmState::Running);
}
