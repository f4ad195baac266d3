//! The daemon's own steps on a driver: for what is more than one call.

use std::{collections::BTreeMap, sync::Arc};

use virtsnap::{
    access::Access,
    apparmor::Answer,
    clock::{Clock, SystemClock},
    config::Environment,
    core::{
        job::{Asker, CreateJob, Failure, Job, Made, Operation, Outcome, RevertJob},
        label::Label,
        model::{Origin, SnapshotName, VmId, VmState},
        policy::{How, Memory, Mountpoints, Quiesce},
        revert::{DefinitionOf, Then},
        settings::{Daemon as DaemonSettings, Settings},
    },
    freeze::{Freezer, helper::Nobody},
    hypervisor::{self, Hypervisor},
    store::Store,
    worker::{self, CutShort, Tools, Wire},
};

use super::name;

/// No VM here is confined, so nobody asks for a right.
#[derive(Debug)]
struct NotAsked;

impl Access for NotAsked {
    fn possible(&self, vm: VmId) -> hypervisor::Result<()> {
        panic!("{vm} is not confined");
    }

    fn grant(&self, vm: VmId) -> hypervisor::Result<Answer> {
        panic!("{vm} is not confined");
    }

    fn tidy(&self) -> hypervisor::Result<()> {
        Ok(())
    }
}

/// The daemon's own steps, on this driver.
pub(crate) struct Daemon {
    pub(crate) tools: Tools,
    settings: Settings,
}

impl Daemon {
    pub(crate) fn new(hv: &Arc<dyn Hypervisor>) -> Self {
        let store = Arc::new(Store::in_memory().unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let freezer = Freezer::new(
            Arc::clone(hv),
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::new(Nobody),
            Box::new(|_, _| {}),
        );
        let environment = Environment { timezone: jiff::tz::TimeZone::UTC, cores: 2 };
        // The machine's own hooks are none of a test's business.
        let daemon =
            DaemonSettings { hooks: "/nonexistent".into(), ..DaemonSettings::defaults(&environment) };
        let settings = Settings::new(daemon, []);
        let access = Arc::new(NotAsked);
        let (hypervisor, rooms) = (Arc::clone(hv), Arc::default());
        Self {
            tools: Tools { hypervisor, store, access, clock, freezer, rooms, cut_short: CutShort::default() },
            settings,
        }
    }

    pub(crate) fn run(&self, vm: VmId, operation: Operation) -> Outcome {
        let asker = Asker { origin: Origin::Manual, uid: 0 };
        let job = Job { id: 1, vm, operation, asker, asked: self.tools.clock.now() };
        let wire = Wire {
            cancel: Arc::default(),
            progress: Box::new(|_| {}),
            merged: Box::new(|_| {}),
            passed: Box::new(|_| {}),
        };
        worker::run(&self.tools, &self.settings, &job, &BTreeMap::new(), &wire)
    }

    pub(crate) fn ask(&self, vm: VmId, revert: RevertJob) -> Result<Option<SnapshotName>, Failure> {
        let outcome = self.run(vm, Operation::Revert(Box::new(revert)));
        let mut begun = self.tools.store.intents().unwrap();
        // What others lie on stays on the list of what is to be removed.
        begun.retain(|intent| !intent.is_named());
        assert_eq!(begun, [], "it ended, whichever way");
        match outcome {
            Outcome::Done(None) => Ok(None),
            Outcome::Done(Some(Made::Snapshot(safety))) => Ok(Some(safety)),
            Outcome::Done(made) => panic!("{made:?}"),
            Outcome::Failed(failure) => Err(failure),
            Outcome::Cancelled(text) => panic!("nobody cancelled it: {text}"),
        }
    }

    /// As usual; the safety snapshot.
    pub(crate) fn revert(&self, vm: VmId, label: &str) -> SnapshotName {
        self.ask(vm, usual(label)).unwrap().unwrap()
    }
}

/// As a person asks for it, without a freeze.
pub(crate) fn usual(label: &str) -> RevertJob {
    let how = How {
        quiesce: Quiesce::Never,
        freeze_timeout: jiff::SignedDuration::from_secs(8),
        mountpoints: Mountpoints::Auto,
        memory: Memory::Never,
        when: [VmState::Running, VmState::Paused, VmState::ShutOff].into(),
        skip_unchanged: false,
        name: format!("before-revert-{label}-{{timestamp}}"),
    };
    let safety = CreateJob {
        name: None,
        description: String::new(),
        policies: [].into(),
        how,
        disks: None,
        label: Label::default(),
    };
    RevertJob {
        name: name(label),
        then: Then::AsBefore,
        definition: DefinitionOf::Snapshot,
        safety: Some(safety),
    }
}
