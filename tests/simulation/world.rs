//! A host, and one life of the daemon after the other on it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::sync::oneshot;
use virtsnap::{
    access::NoAccess,
    config::{self, ConfigRoots, Settings},
    core::{
        job::{JobId, Outcome},
        label::Label,
        machine::{Change, Reply, Request},
        model::{SnapshotName, VmId, VmState},
        policy::{Memory, Quiesce},
    },
    daemon::{self, Bus, Options},
    engine::{Answer, Control, Engine},
    freeze::helper::Nobody,
    hypervisor::sim::{Sim, VmSpec},
    store::Store,
};

use super::{
    checks::Jobs,
    panics::Panics,
    plan::Plan,
    turns::{Time, Turns, TurnsClock},
};

/// How often the engine looks up.
const LOOK: Duration = Duration::from_secs(60);
/// So many times something may have to wait for time before all is at rest.
const WAITS: usize = 60;

/// The VM that something is done to.
pub const WEB: VmId = VmId(uuid::Uuid::from_u128(1));
/// One that is not ours to touch.
pub const OTHER: VmId = VmId(uuid::Uuid::from_u128(9));

/// Numbers that a seed decides (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides.max(1) as u64).unwrap()
    }
}

/// One life of the daemon.
pub struct Life {
    pub engine: Engine,
    pub turns: Arc<Turns>,
    pub store: Arc<Store>,
    pub jobs: Jobs,
    control: Control,
    next_look: Duration,
}

/// All of it.
pub struct World {
    pub sim: Arc<Sim>,
    pub time: Arc<Time>,
    pub plan: Arc<Plan>,
    pub life: Option<Life>,
    pub dice: Dice,
    /// What broke an invariant on the way.
    pub broken: Vec<String>,
    /// What was said on the way that may explain something.
    pub notes: Vec<String>,
    pub panics: Arc<Panics>,
    /// Nothing was in the way of anything.
    pub undisturbed: bool,
    settings: Settings,
    roots: ConfigRoots,
    directory: TempDir,
}

fn directory() -> TempDir {
    // Nothing has to outlive the machine.
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

impl World {
    /// A host without VMs, and no daemon yet.
    pub fn new(seed: u64, policies: &str) -> Self {
        Self::with(seed, "max-jobs = 2", policies)
    }

    /// The same, with these keys of `[daemon]`.
    pub fn with(seed: u64, keys: &str, policies: &str) -> Self {
        let directory = directory();
        let path = directory.path();
        std::fs::create_dir_all(path.join("etc/policies.d")).unwrap();
        let main = format!(
            "[daemon]\ntimezone = \"UTC\"\n{keys}\nhooks = \"{}/hooks.d\"\nhooks-frozen = true\n",
            path.display()
        );
        std::fs::write(path.join("etc/virtsnapd.toml"), main).unwrap();
        std::fs::write(path.join("etc/policies.d/test.toml"), policies).unwrap();
        let roots = ConfigRoots::new([path.join("etc")]);
        let settings = match config::load(&roots) {
            Ok(loaded) => loaded.settings,
            Err(e) => panic!("{}", e.render(config::Style::Plain)),
        };
        let (sim, time) = (Arc::new(Sim::new()), Arc::new(Time::new()));
        let plan = Plan::new(&sim, &time, WEB);
        let guard = Arc::clone(&plan);
        sim.before_each_call(move |asked| guard.before_call(asked));
        Panics::watch();
        let (life, broken, notes, panics) = (None, Vec::new(), Vec::new(), Arc::default());
        Self {
            sim,
            time,
            plan,
            life,
            dice: Dice(seed),
            broken,
            notes,
            panics,
            undisturbed: false,
            settings,
            roots,
            directory,
        }
    }

    /// Puts an administrator's hooks in place, which write down that they were run.
    pub fn add_hooks(&self) {
        use std::os::unix::fs::PermissionsExt as _;
        let (hooks, log) = (self.directory.path().join("hooks.d"), self.hook_log());
        std::fs::create_dir_all(&hooks).unwrap();
        for name in ["10-first", "20-second"] {
            let path = hooks.join(name);
            let text = format!("#!/bin/sh\necho \"$VIRTSNAP_VM {name} $1\" >>{}\n", log.display());
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn hook_log(&self) -> PathBuf {
        self.directory.path().join("hook-log")
    }

    /// What is wrong with what the hooks were told: each that was run before a job is told how that ended.
    pub fn wrongly_told(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.hook_log()).unwrap_or_default();
        let mut open = std::collections::BTreeSet::new();
        let mut wrong = Vec::new();
        for line in text.lines() {
            let (hook, event) = line.rsplit_once(' ').unwrap_or((line, ""));
            if event == "frozen" {
                if !open.contains(hook) {
                    wrong.push(format!(
                        "hook {hook} is run in the middle of a job that it was not told of:\n{text}"
                    ));
                }
            } else if event != "before" {
                open.remove(hook);
            } else if !open.insert(hook) {
                wrong.push(format!("hook {hook} was not told how a job ended before the next one:\n{text}"));
            }
        }
        wrong.extend(
            open.into_iter().map(|hook| format!("hook {hook} is not told how the job ended:\n{text}")),
        );
        wrong
    }

    /// Makes a VM, and has somebody write to it.
    pub fn add_vm(&self, spec: VmSpec) -> VmId {
        let targets: Vec<String> = spec.disks.iter().map(|d| d.target.clone()).collect();
        let state = spec.state;
        let vm = self.sim.add_vm(spec);
        self.plan.oracle.powered(vm, state);
        self.plan.oracle.watch(vm, &targets.iter().map(String::as_str).collect::<Vec<_>>());
        self.plan.oracle.write(vm);
        vm
    }

    /// Its owner starts or stops it, if that goes.
    pub fn power(&self, vm: VmId, on: bool) {
        let done = if on { self.sim.start(vm) } else { self.sim.stop(vm) };
        if done.is_ok() {
            self.plan.oracle.powered(vm, if on { VmState::Running } else { VmState::ShutOff });
        }
    }

    /// The store, on a connection of its own.
    pub fn open_store(&self) -> Store {
        Store::open(&self.directory.path().join(daemon::DATABASE)).unwrap()
    }

    /// Starts the daemon.
    pub fn boot(&mut self) {
        assert!(self.life.is_none(), "one is enough");
        let store = Arc::new(self.open_store());
        let turns = Turns::new(&self.time, &self.panics);
        let clock = Arc::new(TurnsClock(Arc::clone(&turns)));
        let options = Options {
            roots: self.roots.clone(),
            settings: self.settings.clone(),
            bus: Bus::System,
            state: self.directory.path().to_owned(),
            runtime: None,
        };
        let (mut engine, _, control) = daemon::assemble(
            options,
            Arc::clone(&store),
            Arc::clone(&self.sim) as _,
            Arc::new(NoAccess),
            Arc::new(Nobody),
            clock,
        )
        .unwrap();
        let guard = Arc::clone(&self.plan);
        store.before_each_write(move || guard.before_write());
        turns.as_engine(|| engine.begin());
        let next_look = self.time.elapsed();
        self.life = Some(Life { engine, turns, store, jobs: Jobs::default(), control, next_look });
    }

    /// One step of somebody; false if nobody can take one now.
    pub fn turn(&mut self) -> bool {
        let jumped = self.plan.jumped();
        self.sim.set_time(self.time.now());
        let Some(life) = &mut self.life else { return false };
        if life.turns.is_dead() {
            self.bury();
            return false;
        }
        if self.plan.stops() {
            life.control.stop();
        }
        life.turns.ring_alarm(jumped);
        let now = self.time.elapsed();
        if life.next_look <= now {
            life.next_look = now + LOOK;
            life.turns.as_engine(|| life.engine.look_up());
        }
        let mut ready = life.turns.ready();
        if life.engine.has_input() {
            ready.push(u64::MAX);
        }
        if ready.is_empty() {
            return false;
        }
        match ready[self.dice.roll(ready.len())] {
            u64::MAX => {
                life.turns.as_engine(|| life.engine.step());
                self.broken.extend(life.jobs.check(&life.engine));
                if life.engine.has_stopped() {
                    life.turns.kill();
                }
            }
            thread => life.turns.give(thread),
        }
        true
    }

    /// Kills it, if it lives.
    pub fn bury(&mut self) {
        if let Some(life) = self.life.take() {
            life.turns.kill();
            life.turns.bury();
        }
    }

    /// Goes on until nothing happens but by a schedule, or the daemon is dead.
    pub fn rest(&mut self) {
        for _ in 0..WAITS {
            while self.turn() {}
            let Some(life) = &self.life else { return };
            let now = self.time.elapsed();
            let Some(next) = life.turns.next_time().filter(|next| *next > now) else { return };
            self.time.pass(next.saturating_sub(now));
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        let until = self.time.elapsed() + time;
        loop {
            while self.turn() {}
            let Some(life) = &self.life else { return };
            let now = self.time.elapsed();
            let alarm = life.turns.alarm().map(|at| {
                let left = at.duration_since(self.time.now());
                now + Duration::try_from(left).unwrap_or_default().max(Duration::from_millis(1))
            });
            let next = [life.turns.next_time(), Some(life.next_look), alarm];
            let next = next.into_iter().flatten().min().unwrap_or(until);
            if now >= until {
                return;
            }
            self.time.pass(next.min(until).saturating_sub(now).max(Duration::from_micros(1)));
        }
    }

    /// So many guests may be frozen at once.
    pub fn max_frozen(&self) -> usize {
        self.settings.daemon.max_frozen as usize
    }

    /// A client asks; the answer comes with the next steps.
    pub fn ask(&mut self, change: Change) -> oneshot::Receiver<Answer> {
        let life = self.life.as_mut().expect("the daemon lives");
        life.turns.as_engine(|| life.engine.ask(Request::Change(change, 0)))
    }

    /// How a job of this life ended, if it did.
    pub fn outcome(&self, job: JobId) -> Option<Outcome> {
        self.life.as_ref()?.engine.view().jobs.get(&job)?.outcome.clone()
    }

    /// A client asks and waits; `None` if the daemon dies meanwhile, or the job does not end.
    pub fn done(&mut self, change: Change) -> Option<Result<(), String>> {
        let mut answer = self.ask(change);
        self.rest();
        let job = match answer.try_recv().ok()?.0 {
            Ok(Reply::Job(job)) => job,
            Ok(_) => return Some(Ok(())),
            Err(refusal) => return Some(Err(refusal.message)),
        };
        Some(match self.outcome(job)? {
            Outcome::Done(_) => Ok(()),
            Outcome::Failed(failure) => Err(format!("{}: {}", failure.name, failure.message)),
            Outcome::Cancelled(text) => Err(text),
        })
    }

    /// The same, where it has to work.
    pub fn must(&mut self, change: Change) {
        let asked = format!("{change:?}");
        assert_eq!(self.done(change), Some(Ok(())), "{asked}");
    }

    /// A snapshot, after the guest wrote something.
    pub fn snapshot(&mut self, vm: VmId, label: &str) {
        self.plan.oracle.write(vm);
        self.must(create(vm, label));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.bury();
        }
    }
}

pub fn name(label: &str) -> SnapshotName {
    SnapshotName::existing(label)
}

/// A snapshot of all disks.
pub fn create(vm: VmId, label: &str) -> Change {
    create_with(vm, label, Quiesce::Prefer, Memory::Never, None)
}

/// A snapshot.
pub fn create_with(vm: VmId, named: &str, quiesce: Quiesce, memory: Memory, disk: Option<&str>) -> Change {
    Change::Create {
        vm,
        name: Some(name(named)),
        description: String::new(),
        label: Label::default(),
        quiesce: Some(quiesce),
        memory,
        disks: disk.map(|d| vec![d.to_owned()]),
    }
}
