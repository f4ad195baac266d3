//! Freezing: what is done in which order, what is reached, and that nobody stays frozen.

use virtsnap::{
    core::model::VmState,
    hypervisor::{
        Agent, Error, ErrorKind,
        sim::{Op, Sim, VmSpec},
    },
};

use super::{
    client::{Failure, none, options},
    hooked::Hooked,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

async fn web(arrange: impl FnOnce(&Sim)) -> Rig {
    Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
        arrange(sim);
    })
    .await
}

async fn create(rig: &Rig, name: &str, quiesce: &'static str) -> Result<String, Failure> {
    rig.client.create(id(1), name, options([("quiesce", quiesce.into())])).await
}

/// What was reached, what had been asked for in the same words, and why they differ.
async fn consistency(rig: &Rig, name: &str) -> (String, String, String) {
    let path = snapshot_path(id(1), name);
    rig.client.until_there(&path, true).await;
    (
        rig.client.text(&path, "Snapshot.Consistency").await,
        rig.client.text(&path, "Snapshot.ConsistencyRequested").await,
        rig.client.text(&path, "Snapshot.ConsistencyNote").await,
    )
}

/// A guest whose file systems cannot be frozen: with `prefer` the snapshot says so, with `require` there is none, and
/// with `never` nobody asks. Nothing is left over, and the guest goes on.
async fn cannot_freeze(rig: &Rig, why: &str) {
    create(rig, "preferred", "prefer").await.unwrap();
    let (reached, requested, note) = consistency(rig, "preferred").await;
    assert_eq!((reached.as_str(), requested.as_str()), ("crash", "filesystem"));
    assert!(note.contains(why), "{note}");
    assert_eq!(rig.client.get::<u64>(&snapshot_path(id(1), "preferred"), "Snapshot.FrozenUSec").await, 0);

    let (images, snapshots) = (rig.images(), rig.client.snapshots(id(1)).await);
    let (error, text) = create(rig, "required", "require").await.unwrap_err();
    assert_eq!(error, "QuiesceFailed", "{text}");
    assert!(text.contains("VM web") && text.contains("required") && text.contains(why), "{text}");
    assert_eq!(rig.images(), images, "overlays were left over");
    assert_eq!(rig.store().intents().unwrap(), []);
    assert_eq!(rig.client.snapshots(id(1)).await, snapshots);

    rig.sim.clear_calls();
    create(rig, "never", "never").await.unwrap();
    let asked: Vec<Op> = rig.sim.calls().into_iter().map(|c| c.op).filter(|op| op.asks_agent()).collect();
    assert_eq!(asked, [], "never means that the agent is left alone");
    let (reached, requested, note) = consistency(rig, "never").await;
    assert_eq!((reached.as_str(), requested.as_str(), note.as_str()), ("crash", "crash", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_are_prepared_before_the_freeze_and_nothing_but_the_switch_is_between_freeze_and_thaw() {
    let rig = web(|_| {}).await;
    rig.sim.clear_calls();
    create(&rig, "s1", "require").await.unwrap();
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Freeze, Op::Create, Op::Thaw]);
    let calls: Vec<Op> = rig.sim.calls().into_iter().filter(|c| c.vm == Some(id(1))).map(|c| c.op).collect();
    let freeze = calls.iter().position(|op| *op == Op::Freeze).unwrap();
    assert_eq!(calls[freeze..freeze + 3], [Op::Freeze, Op::Create, Op::Thaw], "{calls:?}");
    let (reached, _, note) = consistency(&rig, "s1").await;
    assert_eq!((reached.as_str(), note.as_str()), ("filesystem", ""));
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_guest_is_frozen_the_bus_and_the_store_say_so() {
    let rig = web(|_| {}).await;
    let gate = rig.sim.gate(Op::Create);
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    held(&gate);
    rig.client.until(&vm_path(id(1)), "VM.Frozen", |f: &bool| *f).await;
    assert_eq!(rig.store().frozen().unwrap(), [id(1)].into());
    assert_eq!(rig.store().intents().unwrap().len(), 1);
    gate.open();
    rig.client.wait(&job).await.unwrap();
    rig.assert_thawed(id(1)).await;
    assert_eq!(rig.store().intents().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_an_agent_is_not_frozen() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1).with_agent(Agent::Absent));
    })
    .await;
    cannot_freeze(&rig, "no channel for the QEMU guest agent").await;
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_agent_is_stopped_is_not_frozen() {
    let rig = web(|sim| sim.agent_connected(id(1), false).unwrap()).await;
    cannot_freeze(&rig, "not running in the guest").await;
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_is_found_out_before_anything_can_be_frozen() {
    let rig = web(|sim| sim.agent_stuck(id(1), true).unwrap()).await;
    rig.sim.clear_calls();
    cannot_freeze(&rig, "didn't respond").await;
    assert!(rig.sim.calls().iter().all(|c| c.op != Op::Freeze));
    rig.sim.agent_stuck(id(1), false).unwrap();
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_freeze_hook_is_answered_with_a_thaw() {
    let rig = web(|sim| sim.hook_fails(id(1), true).unwrap()).await;
    rig.sim.clear_calls();
    create(&rig, "s0", "prefer").await.unwrap();
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Freeze, Op::Thaw, Op::Create]);
    rig.client.until_there(&snapshot_path(id(1), "s0"), true).await;
    rig.client.job(&snapshot_path(id(1), "s0"), "Snapshot.Delete", none()).await.unwrap();
    cannot_freeze(&rig, "hook: exit status 1").await;
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_somebody_else_froze_is_left_as_it_is() {
    let rig = web(|sim| {
        sim.freeze_behind(id(1)).unwrap();
    })
    .await;
    rig.sim.clear_calls();
    cannot_freeze(&rig, "already frozen").await;
    assert!(rig.sim.calls().iter().all(|c| c.op != Op::Thaw));
    assert_eq!(rig.sim.frozen(id(1)).unwrap().len(), 2);
    assert!(!rig.client.get::<bool>(&vm_path(id(1)), "VM.Frozen").await, "it is not us who hold it");
    assert!(rig.store().frozen().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_comes_after_its_time_out_is_thawed_as_soon_as_the_agent_answers() {
    let rig = web(|_| {}).await;
    for (name, quiesce) in [("s1", "prefer"), ("s2", "require")] {
        rig.sim.agent_sticks_at(id(1), Op::Freeze).unwrap();
        let made = create(&rig, name, quiesce).await;
        match quiesce {
            "prefer" => {
                made.unwrap();
                let (reached, _, note) = consistency(&rig, name).await;
                assert_eq!(reached, "crash");
                assert!(note.contains("didn't respond"), "{note}");
            }
            _ => assert_eq!(made.unwrap_err().0, "QuiesceFailed"),
        }
        // It may be frozen any moment, so it counts as frozen.
        assert!(rig.client.get::<bool>(&vm_path(id(1)), "VM.Frozen").await);
        assert_eq!(rig.store().frozen().unwrap(), [id(1)].into());
        rig.sim.agent_stuck(id(1), false).unwrap();
        rig.assert_thawed(id(1)).await;
        assert!(rig.sim.write(id(1), "vda", 0, 1), "the guest writes again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thaw_that_fails_is_tried_until_it_succeeds_and_nothing_is_claimed() {
    let rig = web(|_| {}).await;
    // More often than a job waits for.
    rig.sim.thaw_fails(id(1), 10).unwrap();
    create(&rig, "s1", "prefer").await.unwrap();
    let (reached, _, note) = consistency(&rig, "s1").await;
    assert_eq!(reached, "crash");
    assert!(note.contains("thaw failed"), "{note}");
    rig.assert_thawed(id(1)).await;

    // One failure is nothing to speak of.
    rig.sim.thaw_fails(id(1), 1).unwrap();
    create(&rig, "s2", "require").await.unwrap();
    assert_eq!(consistency(&rig, "s2").await.0, "filesystem");
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_thawed_behind_our_back_is_not_called_consistent() {
    let rig = web(|sim| sim.thaw_behind(id(1), 1).unwrap()).await;
    create(&rig, "s1", "prefer").await.unwrap();
    let (reached, requested, note) = consistency(&rig, "s1").await;
    assert_eq!((reached.as_str(), requested.as_str()), ("crash", "filesystem"));
    assert!(note.contains("thawed them before"), "{note}");
    rig.assert_thawed(id(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_is_consistent_and_a_paused_one_cannot_be_asked() {
    let rig = web(|sim| sim.stop(id(1)).unwrap()).await;
    rig.sim.clear_calls();
    create(&rig, "off", "require").await.unwrap();
    assert_eq!(consistency(&rig, "off").await, ("offline".into(), "filesystem".into(), String::new()));
    assert!(rig.sim.calls().iter().all(|c| !c.op.asks_agent()));

    rig.sim.start(id(1)).unwrap();
    rig.sim.pause(id(1)).unwrap();
    rig.client.until(&vm_path(id(1)), "VM.State", |s: &String| s == VmState::Paused.as_str()).await;
    cannot_freeze(&rig, "paused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_is_thawed_if_the_switch_fails() {
    let rig = web(|_| {}).await;
    let images = rig.images();
    rig.sim.clear_calls();
    rig.sim.fail_next(Op::Create, Error::new(ErrorKind::Failed, "on request"));
    let (error, text) = create(&rig, "s1", "require").await.unwrap_err();
    assert_eq!(error, "Failed");
    assert!(text.contains("VM web") && text.contains("on request"), "{text}");
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Freeze, Op::Create, Op::Thaw, Op::Discard]);
    rig.assert_thawed(id(1)).await;
    assert_eq!(rig.images(), images);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_is_thawed_if_a_bug_ends_the_job() {
    let mut rig = Rig::without_daemon("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    rig.hypervisor = Hooked::panics_once(&rig.sim, Op::Create);
    rig.boot().await;
    rig.until_running().await;
    rig.sim.clear_calls();
    let (error, text) = create(&rig, "s1", "require").await.unwrap_err();
    assert_eq!(error, "Failed");
    assert!(text.contains("a bug in virtsnapd"), "{text}");
    // Thawed first; then what was begun is settled, while the VM is still this job's.
    assert_eq!(rig.sim.changes(), [Op::Prepare, Op::Freeze, Op::Thaw, Op::Discard]);
    rig.assert_thawed(id(1)).await;
    // And the daemon goes on.
    create(&rig, "s1", "require").await.unwrap();
    assert_eq!(consistency(&rig, "s1").await.0, "filesystem");
}
