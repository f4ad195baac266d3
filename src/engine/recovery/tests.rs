use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    access::NoAccess,
    clock::SystemClock,
    core::model::SnapshotName,
    freeze::{Freezer, helper::Nobody},
    hypervisor::{
        Metadata as _, Redefine,
        sim::{Fault, Mishap, Op, Sim, VmSpec},
    },
    store::Store,
    worker::CutShort,
};

const VM: VmId = VmId(Uuid::from_u128(1));
const LEFT: &str = "/images/left.qcow2";

struct World {
    sim: Arc<Sim>,
    tools: Tools,
}

impl World {
    /// A VM, and an image that is to be removed.
    fn new() -> Self {
        let (sim, store) = (Arc::new(Sim::new()), Arc::new(Store::in_memory().unwrap()));
        sim.add_vm(VmSpec::new("web", 1));
        sim.make_image(LEFT, "/images/web-vda.qcow2").unwrap();
        let clock: Arc<dyn crate::clock::Clock> = Arc::new(SystemClock::default());
        let freezer = Freezer::new(
            sim.clone(),
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::new(Nobody),
            Box::new(|_, _| {}),
        );
        let world = Self {
            tools: Tools {
                hypervisor: sim.clone(),
                store,
                access: Arc::new(NoAccess),
                clock,
                freezer,
                rooms: Arc::default(),
                cut_short: CutShort::default(),
            },
            sim,
        };
        world.begin(2, Begun::Drop, &[LEFT]);
        world
    }

    fn begin(&self, id: u128, what: Begun, overlays: &[&str]) {
        let intent = Intent::new(Uuid::from_u128(id), VM, SnapshotName::existing("s"), what);
        let overlays = overlays.iter().map(|path| (*path).to_owned()).collect();
        self.tools.store.begin(&Intent { overlays, ..intent }, self.tools.clock.now()).unwrap();
    }

    fn left(&self) -> (usize, bool) {
        (self.tools.store.intents().unwrap().len(), self.sim.files().contains_key(LEFT))
    }
}

fn run(tools: &Tools, held: &Held) -> Left {
    let late: Late = Arc::new(|vm, _| panic!("VM {vm} is late"));
    super::run(tools, held, &Line::new(&tools.clock), &late)
}

fn again(tools: &Tools, held: &Held) -> BTreeSet<VmId> {
    super::again(tools, held, &Line::new(&tools.clock))
}

#[test]
fn what_cannot_be_settled_on_a_connection_is_tried_again_later() {
    let world = World::new();
    let held = Held::new(&world.tools.clock);
    let busy = Error::new(ErrorKind::Busy, "a pool is being refreshed");
    world.sim.inject(Fault::new(Op::Discard, Mishap::Refuse(busy)));
    let left = run(&world.tools, &held);
    assert!(left.merges.is_empty() && left.skipped.is_empty());
    assert_eq!(world.left(), (1, true));
    again(&world.tools, &held);
    assert_eq!(world.left(), (0, false));
}

#[test]
fn what_is_about_a_vm_that_a_job_has_is_that_job_s() {
    let world = World::new();
    let held = Held::new(&world.tools.clock);
    world.tools.store.wakes(VM, world.tools.clock.now()).unwrap();
    world.sim.pause(VM).unwrap();
    world.sim.clear_calls();
    let job = held.take(VM);
    assert_eq!(run(&world.tools, &held).skipped, [VM].into());
    again(&world.tools, &held);
    assert_eq!((world.left(), world.sim.changes()), ((1, true), vec![]));
    drop(job);
    again(&world.tools, &held);
    assert_eq!(world.left(), (0, false));
    assert!(world.tools.store.awake().unwrap().is_empty());
}

#[test]
fn what_a_job_is_to_end_is_left_to_it_and_said_at_a_connection_alone() {
    let world = World::new();
    let held = Held::new(&world.tools.clock);
    world.begin(3, Begun::Delete, &[]);
    let recipe = crate::core::merge::Recipe {
        run: vec![],
        disks: vec![],
        told: vec![],
        files: vec![],
        current: None,
        marked: vec![],
        begun: false,
    };
    let s = world.sim.make_foreign_snapshot(VM, "s").map(|()| SnapshotName::existing("s")).unwrap();
    let marker = marker::Marker {
        vm: VM,
        id: Uuid::from_u128(3),
        created: world.tools.clock.now(),
        origin: crate::core::model::Origin::Manual,
        policies: [].into(),
        nvram: false,
        tpm: false,
    };
    let ours = Redefine { description: Some(marker::compose("", &marker)), ..Redefine::new(s.clone()) };
    world.sim.redefine(VM, &ours).unwrap();
    world.begin(4, Begun::Merge(recipe), &[]);
    again(&world.tools, &held);
    assert_eq!(world.left(), (2, false));
    assert_eq!(run(&world.tools, &held).merges, [VM].into());
    // What libvirt has done only has to be written down, and nobody waits for a connection for that.
    world.sim.forget_snapshot(VM, &s).unwrap();
    again(&world.tools, &held);
    assert_eq!(world.left().0, 1);
    world.begin(5, Begun::Delete, &[]);
    before_job(&world.tools, VM, &Operation::Finish).unwrap();
    assert_eq!(world.left().0, 1);
}

#[test]
fn those_that_nobody_came_to_are_told_with_their_merges() {
    let world = World::new();
    let recipe = crate::core::merge::Recipe {
        run: vec![],
        disks: vec![],
        told: vec![],
        files: vec![],
        current: None,
        marked: vec![],
        begun: false,
    };
    world.begin(4, Begun::Merge(recipe), &[]);
    let other = VmId(Uuid::from_u128(7));
    let told = Arc::new(Mutex::new(Vec::new()));
    let late: Late = {
        let told = Arc::clone(&told);
        Arc::new(move |vm, merges| told.lock().unwrap().push((vm, merges)))
    };
    let line = Line::full(&world.tools.clock);
    the_skipped(&world.tools, &line, [VM, other].into(), |vm| panic!("VM {vm} is come to"), &late);
    assert_eq!(*told.lock().unwrap(), [(VM, true), (other, false)]);
}

#[test]
fn a_merge_that_nobody_sees_any_more_is_ended_without_a_new_connection() {
    let world = World::new();
    let held = Held::new(&world.tools.clock);
    let s = SnapshotName::existing("s");
    world.sim.make_foreign_snapshot(VM, "s").unwrap();
    let recipe = crate::core::merge::Recipe {
        run: vec![crate::core::merge::Doomed { name: s.clone(), id: None }],
        disks: vec![],
        told: vec![],
        files: vec![],
        current: None,
        marked: vec![],
        begun: true,
    };
    world.begin(4, Begun::Merge(recipe), &[]);
    assert!(again(&world.tools, &held).is_empty(), "who asked for its deletion sees it");
    world.sim.forget_snapshot(VM, &s).unwrap();
    let job = held.take(VM);
    assert!(again(&world.tools, &held).is_empty(), "a job has the VM");
    drop(job);
    assert_eq!(again(&world.tools, &held), [VM].into());
}

#[test]
fn a_thaw_that_the_store_could_not_be_told_of_is_noted_later() {
    let world = World::new();
    let held = Held::new(&world.tools.clock);
    let store = &world.tools.store;
    store.freeze_begins(VM, world.tools.clock.now()).unwrap();
    let full = Arc::new(AtomicBool::new(true));
    let is_full = Arc::clone(&full);
    store.before_each_write(move || {
        let full = || crate::store::StoreError::Damaged("full".to_owned());
        if is_full.load(Ordering::SeqCst) { Err(full()) } else { Ok(()) }
    });
    assert!(world.tools.freezer.thaw_left_over(&[VM].into()).is_empty());
    assert_eq!(store.frozen().unwrap(), [VM].into());
    full.store(false, Ordering::SeqCst);
    world.sim.clear_calls();
    again(&world.tools, &held);
    assert!(store.frozen().unwrap().is_empty());
    assert!(!world.sim.changes().contains(&Op::Thaw), "it is thawed");
}

/// Nothing may be begun on such a VM, whether or not that can be written down.
#[test]
fn a_vm_that_is_adrift_is_refused_also_where_that_cannot_be_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut world = World::new();
    world.tools.store = Arc::new(Store::open(&path).unwrap());
    // QEMU is on the overlay, and libvirt says that it is on what is below.
    let [overlay, below] = ["/images/web-vda.qcow2", LEFT];
    let part = crate::core::taking::Part {
        target: "vda".to_owned(),
        overlay: overlay.to_owned(),
        image: below.to_owned(),
        format: "qcow2".to_owned(),
    };
    let plan = crate::core::taking::TakingPlan { parts: vec![part], ..Default::default() };
    world.begin(5, Begun::Create(Box::new(plan)), &[overlay]);
    world.sim.lose_track(VM, "vda", below).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    let full = "CREATE TRIGGER full BEFORE UPDATE ON intent BEGIN SELECT RAISE(ABORT, 'full'); END";
    other.execute_batch(full).unwrap();
    let refused = before_job(&world.tools, VM, &Operation::Finish).unwrap_err();
    assert_eq!(refused.name, "ChainMismatch", "{}", refused.message);
    assert!(refused.message.contains("full"), "it says why: {}", refused.message);
    assert_eq!(world.sim.changes(), [], "who sees the definition changed could not know why");
    other.execute_batch("DROP TRIGGER full").unwrap();
    let refused = before_job(&world.tools, VM, &Operation::Finish).unwrap_err();
    assert!(refused.message.contains("shut the VM down"), "{}", refused.message);
}

/// It is tried again, and until then it stays as it was begun.
#[test]
fn what_became_of_it_is_not_settled_before_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut world = World::new();
    world.tools.store = Arc::new(Store::open(&path).unwrap());
    world.begin(5, Begun::Create(Box::default()), &[]);
    let other = rusqlite::Connection::open(&path).unwrap();
    let full = "CREATE TRIGGER full BEFORE DELETE ON intent BEGIN SELECT RAISE(ABORT, 'full'); END";
    other.execute_batch(full).unwrap();
    let failed = settle_those(&world.tools, |_| true);
    assert!(matches!(&failed[..], [(_, e)] if e.message.contains("full")), "{failed:?}");
    other.execute_batch("DROP TRIGGER full").unwrap();
    assert!(settle_those(&world.tools, |_| true).is_empty());
    assert_eq!(world.tools.store.intents().unwrap(), []);
}

type Begin = Box<dyn FnOnce(&World)>;

/// `journalctl VIRTSNAP_VM=web MESSAGE_ID=…` finds each.
#[test]
fn what_became_of_each_is_told_with_its_vm_and_its_snapshot() {
    use crate::logging::{heard::heard, message};
    let world = World::new();
    settle_those(&world.tools, |_| true);
    let busy = Error::new(ErrorKind::Busy, "a pool is being refreshed");
    let gone = |what| move |world: &World| world.begin(5, what, &[]);
    let begun: [(Begin, &str); 3] = [
        (
            Box::new(gone(Begun::Create(Box::default()))),
            "snapshot s of VM web was interrupted before it was taken",
        ),
        (
            Box::new(gone(Begun::Delete)),
            "the deletion of snapshot s of VM web was interrupted, and is complete",
        ),
        (
            Box::new(move |world| {
                world.begin(5, Begun::Create(Box::default()), &[LEFT]);
                world.sim.inject(Fault::new(Op::Discard, Mishap::Refuse(busy)));
            }),
            "snapshot s of VM web was begun and interrupted, and cannot be settled yet: a pool is being refreshed",
        ),
    ];
    for (begin, text) in begun {
        begin(&world);
        let told = heard(|| drop(settle_those(&world.tools, |_| true)));
        let [entry] = &told[..] else { panic!("{text}: {told:?}") };
        assert_eq!(entry.one("MESSAGE_ID"), message::INTERRUPTED);
        let fields = ["VIRTSNAP_VM", "VIRTSNAP_VM_UUID", "VIRTSNAP_SNAPSHOT"].map(|field| entry.one(field));
        assert_eq!(fields, ["web", &VM.to_string(), "s"]);
        assert!(entry.one("message").starts_with(text), "{}", entry.one("message"));
    }
}

/// Else the count would grow while nothing happens.
#[test]
fn what_was_cut_short_is_counted_once_however_often_it_is_tried() {
    let mut world = World::new();
    let counted = Arc::new(Mutex::new(Vec::new()));
    let count = Arc::clone(&counted);
    world.tools.cut_short = CutShort::told_to(move |operation| count.lock().unwrap().push(operation));
    world.begin(5, Begun::Create(Box::default()), &[LEFT]);
    let busy = || Error::new(ErrorKind::Busy, "a pool is being refreshed");
    world.sim.inject(Fault::new(Op::Discard, Mishap::Refuse(busy())));
    for _ in 0..3 {
        settle_those(&world.tools, |_| true);
    }
    assert!(world.tools.store.intents().unwrap().is_empty());
    // The image that waited for its removal had been given up by what came to its end.
    assert_eq!(*counted.lock().unwrap(), ["create"]);
}
