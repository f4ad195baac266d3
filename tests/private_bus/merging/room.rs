//! Merges and the room that they take: a guest whose disk finds none left stands still.

use virtsnap::{
    core::{
        job::RevertJob,
        revert::{DefinitionOf, Then},
        settings::MinFree,
    },
    hypervisor::sim::{BLOCK, EMPTY_IMAGE},
};

use super::{
    super::{
        client::{none, options},
        rig::{Rig, held, id, snapshot_path, vm_path},
    },
    *,
};

/// What pruning to one snapshot may write: of four on two disks the images, with four clusters that all rewrote and one
/// of each.
const NEED: u64 = 2 * 4 * (EMPTY_IMAGE / BLOCK + 5);

#[test]
fn a_merge_leaves_free_what_is_to_stay_free_and_is_refused_before_anything_is_touched() {
    let mut world = World::new(VmState::Running, "keep-last = 1");
    world.settings.daemon.min_free = MinFree::Bytes(100 * BLOCK);
    world.sim.leave_room_for(NEED + 9);
    world.sim.clear_calls();
    let Outcome::Failed(failure) = world.prune() else { panic!("there is no room") };
    assert_eq!(failure.name, "NoSpace", "{failure:?}");
    assert!(failure.message.contains("1 MiB, a tenth of min-free, are to stay free"), "{failure:?}");
    assert!(failure.message.contains("Nothing was touched"), "{failure:?}");
    assert_eq!(world.sim.changes(), []);
    assert_eq!(world.store.intents().unwrap(), []);
    assert_eq!(world.left().len(), 5);
    world.check();
    world.sim.leave_room_for(NEED + 10);
    assert!(matches!(world.prune(), Outcome::Done(_)));
    world.check_done(&["s4"], VmState::Running);
}

#[test]
fn one_that_was_cut_short_asks_again_for_what_is_still_to_be_merged() {
    let mut world = World::new(VmState::Running, "keep-last = 1");
    world.settings.daemon.min_free = MinFree::Bytes(0);
    // Of what is copied first something is new to the base.
    for target in TARGETS {
        assert!((100..120).all(|block| world.sim.write(VM, target, block, 1)));
    }
    let name = SnapshotName::existing("s5");
    world.take(&name);
    world.now = world.live();
    world.oracle.insert(name, world.live());
    let need = NEED + 2 * (EMPTY_IMAGE / BLOCK + 5 + 20);
    let before = world.sim.files();
    let cut = Error::new(ErrorKind::Failed, "cut short, as arranged");
    world.sim.inject(Fault::new(Op::Commit, Mishap::Half(cut)));
    assert!(matches!(world.prune(), Outcome::Failed(_)));
    let grown: u64 = world.sim.files().iter().map(|(path, bytes)| bytes - before[path]).sum::<u64>() / BLOCK;
    assert!(grown > 0 && grown < need, "{grown}");

    world.sim.leave_room_for(need - grown - 1);
    world.sim.clear_calls();
    for _ in 0..2 {
        let Outcome::Failed(failure) = world.prune() else { panic!("there is no room") };
        assert_eq!(failure.name, "NoSpace", "{failure:?}");
        for words in
            ["snapshots s0, s1, s2, s3, s4 of VM web, which was cut short", "count as failed", "may grow by"]
        {
            assert!(failure.message.contains(words), "{failure:?}");
        }
        assert_eq!(world.sim.changes(), []);
        assert_eq!(world.store.intents().unwrap().len(), 1);
        let record = reader::read(world.sim.as_ref(), &world.store, VM).unwrap();
        let failed = record.snapshots.values().filter(|s| s.snapshot.state == SnapshotState::Failed);
        assert_eq!(failed.count(), 5);
        world.check();
    }
    // What has come already needs no room any more.
    world.sim.leave_room_for(need - grown);
    assert!(matches!(world.prune(), Outcome::Done(_)));
    world.check_done(&["s5"], VmState::Running);
}

/// QEMU's job ends, and nobody says why.
#[test]
fn one_whose_room_others_took_meanwhile_says_so_and_is_ended_when_there_is_some() {
    for full in [true, false] {
        let mut world = World::new(VmState::Running, "keep-last = 1");
        world.settings.daemon.min_free = MinFree::Bytes(0);
        let sim = Arc::clone(&world.sim);
        let hooked = Hooked::new(&world.sim, move |op| {
            if op == Op::Commit {
                sim.leave_room_for(if full { 3 } else { NEED });
            }
        });
        let cut = Error::new(ErrorKind::Failed, "the merge ended early");
        world.sim.inject(Fault::new(Op::Commit, Mishap::Half(cut)));
        let Outcome::Failed(failure) = world.run(hooked, drop) else { panic!("it was cut short") };
        assert_eq!(failure.name, if full { "NoSpace" } else { "Failed" }, "{failure:?}");
        let said = ["may still grow by", "Make room"].map(|words| failure.message.contains(words));
        assert_eq!(said, [full; 2], "{failure:?}");
        assert!(failure.message.contains("count as failed"), "{failure:?}");
        world.check();
        world.sim.leave_room_for(NEED);
        assert!(matches!(world.prune(), Outcome::Done(_)));
        world.check_done(&["s4"], VmState::Running);
    }
}

/// What was left behind needs no merge to go, and gives room for one.
#[test]
fn where_one_that_was_cut_short_cannot_be_ended_yet_what_was_left_behind_goes_all_the_same() {
    let mut world = World::new(VmState::ShutOff, "keep-last = 1");
    world.settings.daemon.min_free = MinFree::Bytes(0);
    let to = RevertJob {
        name: SnapshotName::existing("s1"),
        then: Then::AsBefore,
        definition: DefinitionOf::Snapshot,
        safety: None,
    };
    let reverted = world.does(world.sim.clone(), Operation::Revert(Box::new(to)), drop);
    assert!(matches!(reverted, Outcome::Done(None)), "{reverted:?}");
    for (n, name) in ["s5", "s6"].into_iter().enumerate() {
        for target in TARGETS {
            world.sim.write_behind(VM, target, 50 + n as u64, 1).unwrap();
        }
        let name = SnapshotName::existing(name);
        world.take(&name);
        world.oracle.insert(name, world.live());
    }
    world.now = world.live();
    let cut = Error::new(ErrorKind::Failed, "cut short, as arranged");
    world.sim.inject(Fault::new(Op::Commit, Mishap::Half(cut)));
    let s5 = Operation::Delete { name: SnapshotName::existing("s5"), pace: Pace::default(), foreign: false };
    assert!(matches!(world.does(world.sim.clone(), s5, drop), Outcome::Failed(_)));

    world.sim.leave_room_for(1);
    let Outcome::Failed(failure) = world.prune() else { panic!("there is no room") };
    assert!(failure.name == "NoSpace" && failure.message.contains("which was cut short"), "{failure:?}");
    assert_eq!(world.left(), ["s0", "s1", "s5", "s6"], "{failure:?}");
    world.check();
    let ended = world.prune();
    assert!(matches!(ended, Outcome::Done(_)), "{ended:?}");
    world.check_done(&["s6"], VmState::ShutOff);
}

/// Two VMs with snapshots s1 and s2, and so much written between the two; and what deleting s1 of one may write.
async fn two() -> (Rig, u64) {
    let rig = Rig::start("", |sim| {
        for number in [1, 2] {
            sim.add_vm(VmSpec::new(if number == 1 { "one" } else { "two" }, number));
        }
    })
    .await;
    for vm in [id(1), id(2)] {
        rig.client.create(vm, "s1", none()).await.unwrap();
        assert!((0..40).all(|block| rig.sim.write(vm, "vda", block, 7)));
        rig.client.create(vm, "s2", none()).await.unwrap();
    }
    (rig, EMPTY_IMAGE + 40 * BLOCK)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_do_not_count_on_the_same_room() {
    let (rig, need) = two().await;
    // For one and a half, with the tenth that is to stay free.
    let used: u64 = rig.sim.files().values().sum();
    rig.sim.set_capacity((used + need * 3 / 2) / 9 * 10);
    let delete = async |vm| rig.client.job(&snapshot_path(vm, "s1"), "Snapshot.Delete", none()).await;

    let gate = rig.sim.gate_vm(Op::Commit, id(1));
    let path = snapshot_path(id(1), "s1");
    let (first,): (zbus::OwnedObjectPath,) =
        rig.client.call(&path, "Snapshot.Delete", &(none(),)).await.unwrap();
    held(&gate);
    rig.sim.clear_calls();
    let (kind, text) = delete(id(2)).await.unwrap_err();
    assert_eq!(kind, "NoSpace", "{text}");
    assert!(
        text.contains("other jobs at work may need 3 MiB") && text.contains("Nothing was touched"),
        "{text}"
    );
    let says = |said: &String| said.contains("too little room for the merge");
    rig.client.until(&vm_path(id(2)), "VM.LastError", says).await;
    assert_eq!(rig.sim.changes(), []);
    // Nor does a snapshot with memory, which takes more than that.
    let memory = options([("memory", "require".into())]);
    let (kind, text) = rig.client.create(id(2), "s3", memory).await.unwrap_err();
    assert!(kind == "NoSpace" && text.contains("other jobs at work"), "{text}");
    gate.open();
    rig.client.wait(&first).await.unwrap();
    delete(id(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_fails_or_is_cancelled_gives_its_room_back() {
    let (rig, need) = two().await;
    let used: u64 = rig.sim.files().values().sum();
    rig.sim.set_capacity((used + need * 3 / 2) / 9 * 10);
    let delete = async |vm| rig.client.job(&snapshot_path(vm, "s1"), "Snapshot.Delete", none()).await;
    rig.sim.inject(Fault::new(Op::Commit, Mishap::Refuse(Error::new(ErrorKind::Failed, "on request"))));
    delete(id(1)).await.unwrap_err();
    let gate = rig.sim.gate_vm(Op::Commit, id(1));
    let path = snapshot_path(id(1), "s1");
    let (first,): (zbus::OwnedObjectPath,) =
        rig.client.call(&path, "Snapshot.Delete", &(none(),)).await.unwrap();
    held(&gate);
    let () = rig.client.call(&first, "Job.Cancel", &(none(),)).await.unwrap();
    gate.open();
    assert_eq!(rig.client.wait(&first).await.unwrap_err().0, "Cancelled");
    delete(id(2)).await.unwrap();
}
