//! A merge that ends at any point, as by a crash: whoever comes next ends it, and nobody's data is lost on the way.

mod broken;
mod room;

mod slow;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use virtsnap::{
    clock::Clock as _,
    config::{self, ConfigRoots},
    core::{
        job::{Asker, CreateJob, Job, Operation, Outcome, Pace},
        label::Label,
        marker::{self, Marker},
        model::{Origin, SnapshotName, SnapshotState, VmId, VmState},
        settings::Settings,
    },
    freeze::{Freezer, helper::Nobody},
    hypervisor::{
        CreateSpec, Error, ErrorKind, Hypervisor, JobKind, Merge as _, Overlay,
        sim::{Blocks, Fault, Mishap, Op, Sim, VmSpec},
    },
    reader,
    store::Store,
    worker::{self, CutShort, Progress, Tools, Wire},
};

use super::{clock::TestClock, hooked::Hooked, rig::TestAccess};

const VM: VmId = VmId(uuid::Uuid::from_u128(1));
const TARGETS: [&str; 2] = ["vda", "vdb"];

/// A host with a VM and its snapshots, and what a daemon has of it on its disk.
struct World {
    sim: Arc<Sim>,
    store: Arc<Store>,
    clock: Arc<TestClock>,
    settings: Settings,
    /// What each snapshot held when it was taken.
    oracle: BTreeMap<SnapshotName, [Blocks; 2]>,
    now: [Blocks; 2],
}

impl World {
    /// s0 to s4, which all rewrote the same four clusters of both disks, and a fifth only theirs.
    fn new(state: VmState, keep: &str) -> Self {
        let sim = Arc::new(Sim::new());
        sim.add_vm(VmSpec::new("web", 1).with_disks(&TARGETS));
        let (store, clock) = (Arc::new(Store::in_memory().unwrap()), Arc::new(TestClock::new()));
        let directory = tempfile::tempdir().unwrap();
        let text = format!("[policy.p]\nvms = [\"*\"]\nschedule = \"@daily\"\n{keep}\n");
        std::fs::create_dir(directory.path().join("policies.d")).unwrap();
        std::fs::write(directory.path().join("policies.d/p.toml"), text).unwrap();
        let settings = config::load(&ConfigRoots::new([directory.path()])).unwrap().settings;
        let mut world =
            Self { sim, store, clock, settings, oracle: BTreeMap::new(), now: Default::default() };
        for value in 0..5 {
            world.write(value);
            let name = SnapshotName::existing(format!("s{value}"));
            world.take(&name);
            world.oracle.insert(name, world.live());
        }
        world.write(9);
        world.now = world.live();
        if state == VmState::ShutOff {
            world.sim.stop(VM).unwrap();
        }
        world
    }

    fn write(&self, value: u64) {
        for target in TARGETS {
            assert!([0, 1, 2, 3, 10 + value].iter().all(|block| self.sim.write(VM, target, *block, value)));
        }
    }

    fn live(&self) -> [Blocks; 2] {
        TARGETS.map(|target| self.sim.read(VM, target).unwrap())
    }

    fn take(&self, name: &SnapshotName) {
        let overlay = |disk: virtsnap::hypervisor::Disk| Overlay {
            path: format!("/images/{name}-{}.qcow2", disk.target),
            target: disk.target,
            backing: disk.chain[0].clone(),
        };
        let marker = Marker {
            vm: VM,
            id: uuid::Uuid::new_v4(),
            created: self.clock.now(),
            origin: Origin::Schedule,
            policies: ["p".parse().unwrap()].into(),
            nvram: false,
            tpm: false,
        };
        let spec = CreateSpec {
            name: name.clone(),
            description: marker::compose("", &marker),
            overlays: self.sim.vm(VM).unwrap().disks.into_iter().map(overlay).collect(),
            memory: None,
        };
        self.sim.prepare(VM, &spec.overlays).unwrap();
        self.sim.create(VM, &spec).unwrap();
    }

    /// What a daemon does that is told to prune, on this host as `hypervisor` shows it.
    fn run(&self, hypervisor: Arc<dyn Hypervisor>, progress: impl Fn(Progress) + Send + 'static) -> Outcome {
        self.does(hypervisor, Operation::Prune { all: false, pace: Pace::default() }, progress)
    }

    fn does(
        &self,
        hypervisor: Arc<dyn Hypervisor>,
        operation: Operation,
        progress: impl Fn(Progress) + Send + 'static,
    ) -> Outcome {
        let clock: Arc<dyn virtsnap::clock::Clock> = self.clock.clone();
        let freezer = Freezer::new(
            Arc::clone(&hypervisor),
            Arc::clone(&self.store),
            Arc::clone(&clock),
            Arc::new(Nobody),
            Box::new(|_, _| {}),
        );
        let (store, access) = (Arc::clone(&self.store), Arc::new(TestAccess::on(&self.sim)));
        let rooms = Arc::default();
        let tools =
            Tools { hypervisor, store, access, clock, freezer, rooms, cut_short: CutShort::default() };
        let asker = Asker { origin: Origin::Manual, uid: 0 };
        let job = Job { id: 1, vm: VM, operation, asker, asked: self.clock.now() };
        let wire = Wire {
            cancel: Arc::new(AtomicBool::new(false)),
            progress: Box::new(progress),
            merged: Box::new(|_| {}),
            passed: Box::new(|_| {}),
        };
        worker::run(&tools, &self.settings, &job, &BTreeMap::new(), &wire)
    }

    fn prune(&self) -> Outcome {
        self.run(self.sim.clone(), drop)
    }

    /// Every snapshot that is offered holds what it held, and the VM reads what it read.
    fn check(&self) {
        assert_eq!(self.live(), self.now, "the VM's disks");
        let record = reader::read(self.sim.as_ref(), &self.store, VM).unwrap();
        for (name, snapshot) in record.snapshots {
            if snapshot.snapshot.state == SnapshotState::Ready {
                let held = TARGETS.map(|target| self.sim.content_of_snapshot(VM, &name, target).unwrap());
                assert_eq!(held, self.oracle[&name], "{name}");
            }
        }
    }

    fn left(&self) -> Vec<String> {
        self.sim.snapshots(VM).unwrap().into_iter().map(|r| r.name.to_string()).collect()
    }

    /// All is as after a prune that nothing went wrong in.
    fn check_done(&self, left: &[&str], state: VmState) {
        self.check();
        assert_eq!(self.left(), left);
        assert_eq!(self.store.intents().unwrap(), []);
        assert!(self.store.awake().unwrap().is_empty());
        assert!(self.store.copies(VM).unwrap().is_empty());
        let vm = self.sim.vm(VM).unwrap();
        assert_eq!(vm.state, state);
        let used: usize = vm.disks.iter().map(|d| d.chain.len()).sum();
        assert_eq!(used, 2 * (left.len() + 1));
        assert_eq!(self.sim.files().len(), used, "{:?}", self.sim.files());
    }
}

/// The simulator, which ends whoever works with it at the n-th call from now: nothing that would come after is done.
fn ends_at(sim: &Arc<Sim>, n: usize) -> (Arc<Hooked>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let hooked = Hooked::new(sim, move |_| {
        assert!(counting.fetch_add(1, Ordering::SeqCst) != n, "killed, as arranged");
    });
    (hooked, count)
}

fn delete_newest() -> Operation {
    Operation::Delete { name: SnapshotName::existing("s4"), pace: Pace::default(), foreign: false }
}

/// How many calls a prune takes.
fn calls(state: VmState) -> usize {
    let world = World::new(state, "keep-last = 2");
    let (counting, count) = ends_at(&world.sim, usize::MAX);
    assert!(matches!(world.run(counting, drop), Outcome::Done(_)));
    world.check_done(&["s3", "s4"], state);
    count.load(Ordering::SeqCst)
}

#[test]
fn a_daemon_that_is_killed_at_any_call_of_a_merge_loses_nothing_and_the_next_one_ends_it() {
    for state in [VmState::Running, VmState::ShutOff] {
        let all = calls(state);
        assert!(all > 15, "{all}");
        for first in 0..all {
            // And the one that comes next is killed as well, where it hurts or not.
            for second in [None, Some(3), Some(first / 2), Some(all / 2), Some(all - 4)] {
                let world = World::new(state, "keep-last = 2");
                let (killed, _) = ends_at(&world.sim, first);
                assert!(matches!(world.run(killed, drop), Outcome::Failed(_)));
                world.check();
                if let Some(second) = second {
                    let (killed, _) = ends_at(&world.sim, second);
                    drop(world.run(killed, drop));
                    world.check();
                }
                let ended = world.prune();
                assert!(matches!(ended, Outcome::Done(_)), "{state} {first} {second:?}: {ended:?}");
                world.check_done(&["s3", "s4"], state);
            }
        }
    }
}

#[test]
fn a_run_is_copied_once_and_a_cluster_that_all_rewrote_only_once() {
    let world = World::new(VmState::Running, "keep-last = 1");
    assert!(matches!(world.prune(), Outcome::Done(_)));
    world.check_done(&["s4"], VmState::Running);
    // Four that all have, and one of each of the four, on both disks; one after the other it would be 4 × 4 + 4.
    assert_eq!(world.sim.blocks_merged().values().sum::<u64>(), 2 * (4 + 4));
}

#[test]
fn a_merge_that_goes_on_without_its_daemon_is_awaited_by_the_next_one() {
    for state in [VmState::Running, VmState::ShutOff] {
        for (keep, left) in [("keep-last = 2", &["s3", "s4"][..]), ("max-count = 1", &["s4"])] {
            for (at, crash) in (0..40).flat_map(|at| [(at, true), (at, false)]) {
                let world = World::new(state, keep);
                // In the middle of copying: QEMU goes on alone.
                let (looks, sim) = (AtomicUsize::new(0), Arc::clone(&world.sim));
                let outcome = world.run(world.sim.clone(), move |p| {
                    if p.phase.starts_with("merging") && looks.fetch_add(1, Ordering::SeqCst) == at {
                        assert!(!crash, "killed, as arranged");
                        sim.disconnect("libvirtd was killed, as arranged");
                    }
                });
                world.sim.connect();
                world.check();
                if matches!(outcome, Outcome::Done(_)) {
                    // It was over by then.
                    assert!(at > 10);
                    break;
                }
                let ended = world.prune();
                assert!(matches!(ended, Outcome::Done(_)), "{state} {at} {crash}: {ended:?}");
                world.check_done(left, state);
            }
        }
    }
}

#[test]
fn the_newest_one_is_merged_into_the_one_before_it_and_finished_when_it_was_cut_short() {
    let world = World::new(VmState::Running, "keep-last = 5");
    let (looks, sim) = (AtomicUsize::new(0), Arc::clone(&world.sim));
    let newest = delete_newest();
    let outcome = world.does(world.sim.clone(), newest.clone(), move |p| {
        if p.phase.starts_with("merging") && looks.fetch_add(1, Ordering::SeqCst) == 5 {
            sim.disconnect("libvirtd was killed, as arranged");
        }
    });
    assert!(matches!(outcome, Outcome::Failed(_)));
    world.sim.connect();
    let jobs = world.sim.block_jobs(VM).unwrap();
    assert!(
        jobs.iter().all(|job| job.kind == JobKind::ActiveCommit && job.ready) && !jobs.is_empty(),
        "{jobs:?}"
    );
    let ended = world.does(world.sim.clone(), newest, drop);
    assert!(matches!(ended, Outcome::Done(_)), "{ended:?}");
    world.check_done(&["s0", "s1", "s2", "s3"], VmState::Running);
}

/// libvirt takes a snapshot off its list when it cannot write its file.
#[test]
fn metadata_that_is_lost_while_it_is_changed_is_put_back() {
    for nth in 0..2 {
        let world = World::new(VmState::Running, "keep-last = 2");
        let full = Error::new(ErrorKind::Failed, "cannot write: No space left on device");
        world.sim.inject(Fault::new(Op::Redefine, Mishap::Half(full)).after(nth));
        assert!(matches!(world.prune(), Outcome::Failed(_)));
        assert!(world.left().len() < 5, "it is lost");
        world.check();
        let ended = world.prune();
        assert!(matches!(ended, Outcome::Done(_)), "{ended:?}");
        world.check_done(&["s3", "s4"], VmState::Running);
    }
}

#[test]
fn a_snapshot_on_top_of_a_merge_that_was_cut_short_keeps_what_it_holds() {
    for at in [1, 5, 9] {
        let mut world = World::new(VmState::Running, "max-count = 3");
        let looks = AtomicUsize::new(0);
        let newest = delete_newest();
        let outcome = world.does(world.sim.clone(), newest, move |p| {
            let merging = p.phase.starts_with("merging");
            assert!(!merging || looks.fetch_add(1, Ordering::SeqCst) != at, "killed, as arranged");
        });
        assert!(matches!(outcome, Outcome::Failed(_)));
        for job in world.sim.block_jobs(VM).unwrap() {
            world.sim.end_block_job(VM, &job.target).unwrap();
        }
        let name = SnapshotName::existing("s5");
        world.take(&name);
        world.oracle.insert(name, world.live());
        world.check();
        let ended = world.prune();
        assert!(matches!(ended, Outcome::Done(_)), "{at}: {ended:?}");
        world.check_done(&["s2", "s3", "s5"], VmState::Running);
    }
}

#[test]
fn images_that_cannot_be_removed_now_go_with_the_next_prune() {
    let world = World::new(VmState::Running, "keep-last = 2");
    let busy = Error::new(ErrorKind::Busy, "storage pool 'images' is refreshing");
    world.sim.inject(Fault::new(Op::Discard, Mishap::Refuse(busy)));
    let Outcome::Failed(failure) = world.prune() else { panic!("they cannot be removed") };
    assert!(failure.message.contains("are deleted, but"), "{failure:?}");
    assert_eq!(world.left(), ["s3", "s4"]);
    assert!(!world.store.unfinished(VM).unwrap(), "nothing else waits for that");
    world.check();
    assert!(matches!(world.prune(), Outcome::Done(_)));
    world.check_done(&["s3", "s4"], VmState::Running);
}

/// Only a snapshot that was taken is followed by a prune: what forbade it would never end.
#[test]
fn a_merge_that_was_cut_short_forbids_no_snapshot() {
    let all = (0..14).flat_map(|at| [(at, true), (at, false)]);
    for ((at, disconnect), doomed) in all.flat_map(|how| ["s4", "s2", "s0"].map(|name| (how, name))) {
        let world = World::new(VmState::Running, "keep-last = 5");
        let (looks, sim) = (AtomicUsize::new(0), Arc::clone(&world.sim));
        let name = SnapshotName::existing(doomed);
        let delete = Operation::Delete { name, pace: Pace::default(), foreign: false };
        drop(world.does(world.sim.clone(), delete, move |p| {
            if p.phase.starts_with("merging") && looks.fetch_add(1, Ordering::SeqCst) == at {
                assert!(disconnect, "killed, as arranged");
                sim.disconnect("libvirtd was killed, as arranged");
            }
        }));
        world.sim.connect();
        let stays = world.left().contains(&doomed.to_owned()) && !world.store.unfinished(VM).unwrap();
        let how = world.settings.policies.values().next().unwrap().how.clone();
        let name = Some(SnapshotName::existing("s5"));
        let create = CreateJob {
            name,
            description: String::new(),
            policies: [].into(),
            how,
            disks: None,
            label: Label::default(),
        };
        let taken = world.does(world.sim.clone(), Operation::Create(create), drop);
        assert!(matches!(taken, Outcome::Done(Some(_))), "{doomed} {at} {disconnect}: {taken:?}");
        assert!(matches!(world.prune(), Outcome::Done(_)), "and the merge is finished");
        assert_eq!(world.sim.block_jobs(VM), Ok(Vec::new()));
        assert_eq!(world.store.intents().unwrap(), []);
        assert_eq!(world.live(), world.now);
        let all = ["s0", "s1", "s2", "s3", "s4", "s5"];
        let left: Vec<_> = all.into_iter().filter(|name| stays || *name != doomed).collect();
        assert_eq!(world.left(), left, "{doomed} {at} {disconnect}");
    }
}
