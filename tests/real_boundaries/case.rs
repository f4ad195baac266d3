//! One stop at one boundary of one operation, and who dies there; and which of all these are tried.

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    harness::{Suite, Testbed, When, wait_for, wait_or},
    operations::Operation,
    scene::{Begun, DEADLINE, How, Lab, Scene},
};

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    /// And once more, before the call with this number with which it settles what that left.
    Twice(usize),
    Libvirtd,
    /// Where one runs.
    Qemu,
}

const VICTIMS: [Victim; 4] = [Victim::Daemon, Victim::Libvirtd, Victim::Qemu, Victim::Twice(1)];

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => write!(f, "daemon"),
            Self::Twice(again) => write!(f, "daemon+{again}"),
            Self::Libvirtd => write!(f, "libvirtd"),
            Self::Qemu => write!(f, "qemu"),
        }
    }
}

#[derive(Clone, Copy)]
struct Case {
    operation: &'static Operation,
    number: usize,
    when: When,
    victim: Victim,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}/{}", self.operation.name, self.when.name(), self.number, self.victim)
    }
}

/// Which are tried.
enum Chosen {
    /// Two of each operation, and others on the other Debian.
    Some,
    /// Each so manieth.
    Every(usize),
    One(String),
}

impl Chosen {
    fn from_environment() -> Self {
        match (std::env::var("VIRTSNAP_CASE"), std::env::var("VIRTSNAP_EVERY")) {
            (Ok(case), _) => Self::One(case),
            (_, Ok(every)) => Self::Every(every.parse().expect("VIRTSNAP_EVERY is a number")),
            _ => Self::Some,
        }
    }

    /// Those of an operation with these calls. `turn`: another one for each operation, and on each Debian.
    fn of(&self, operation: &'static Operation, calls: &[String], turn: usize) -> Vec<Case> {
        let sides =
            (1..=calls.len()).flat_map(|number| [When::Before, When::After].map(|when| (number, when)));
        let all: Vec<_> = sides.collect();
        let case = |victim, at: usize| {
            let (number, when) = all[at % all.len()];
            Case { operation, number, when, victim }
        };
        // What a life settles takes few calls, mostly none: one of the first.
        let twice = |at| Victim::Twice(1 + at % 3);
        let each = |victim: Victim, at| {
            case(if matches!(victim, Victim::Twice(_)) { twice(at) } else { victim }, at)
        };
        let every = |step: usize| {
            let of = |victim| (turn % step..all.len()).step_by(step).map(move |at| each(victim, at));
            VICTIMS.into_iter().flat_map(of).collect::<Vec<_>>()
        };
        if operation.name == "promote" && matches!(self, Self::Some) {
            let pulls: Vec<_> = (0..calls.len()).filter(|at| calls[*at] == "virDomainBlockPull").collect();
            let [first, second] = pulls[..] else { panic!("it has two disks: {calls:?}") };
            return vec![
                case(Victim::Daemon, turn * 5),
                case(Victim::Libvirtd, turn * 3 + 1),
                // It has copied the first disk, and may not have written it.
                case(Victim::Qemu, 2 * (first + 1)),
                // In the second disk's copy, when the first one is on the disk for sure.
                case(Victim::Qemu, 2 * second),
            ];
        }
        match self {
            Self::Every(step) => every(*step),
            Self::One(name) => every(1).into_iter().filter(|case| format!("{case}") == *name).collect(),
            // The daemon dies in each of them, and of the others one.
            Self::Some => {
                vec![case(Victim::Daemon, turn * 5 + turn / 2), each(VICTIMS[1 + turn % 3], turn * 3 + 1)]
            }
        }
    }
}

/// All operations of a list, each undisturbed first. What fails does not keep the others from being tried.
pub(crate) fn run_all(suite: Suite, operations: &'static [Operation]) {
    let chosen = Chosen::from_environment();
    let mut waiting: VecDeque<&'static Operation> = operations.iter().collect();
    if let Chosen::One(one) = &chosen {
        waiting.retain(|operation| one.split('/').next() == Some(operation.name));
    }
    let mut cases = VecDeque::new();
    let mut failed = Vec::new();
    let mut serial = 0;
    while !waiting.is_empty() || !cases.is_empty() {
        // What failed may have broken more than its own VM.
        let tb = Testbed::start(suite);
        let lab = Lab::new(&tb);
        let mut attempt = |what: &str, f: &mut dyn FnMut(&str)| {
            serial += 1;
            println!("{what}");
            let done = catch_unwind(AssertUnwindSafe(|| f(&format!("b{serial}x")))).is_ok();
            if !done {
                println!("  FAILED: VIRTSNAP_CASE={what}");
                failed.push(what.to_owned());
            }
            done
        };
        loop {
            if let Some(case) = cases.pop_front() {
                if !attempt(&format!("{case}"), &mut |vm| cut_short(&lab, case, vm)) {
                    break;
                }
            } else if let Some(operation) = waiting.pop_front() {
                let mut calls = Vec::new();
                if !attempt(operation.name, &mut |vm| calls = undisturbed(&lab, operation, vm)) {
                    break;
                }
                let turn = 2 * waiting.len() + usize::from(suite == Suite::Bookworm);
                cases = chosen.of(operation, &calls, turn).into();
            } else {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "replay each with VIRTSNAP_CASE=…: {failed:#?}");
}

/// Nothing happens to it; the calls that it takes.
fn undisturbed(lab: &Lab<'_>, operation: &Operation, vm: &str) -> Vec<String> {
    let mut scene = (operation.scene)(lab, vm);
    lab.stops.count();
    let begun = (scene.ask)(lab, &scene);
    lab.wait(&begun).unwrap_or_else(|e| panic!("{e:?}\n{}", lab.daemon.journal()));
    if matches!(begun, Begun::Look) {
        // It is begun some time after the start, and is over when what it removes is gone.
        wait_for(DEADLINE, "its look is over", || scene.check_files(lab).then_some(()));
    }
    let calls = lab.stops.counted();
    println!("  {}", calls.join(" "));
    assert!(!calls.is_empty(), "it changes nothing");
    scene.check(lab);
    let left: Vec<_> = scene.doomed.iter().collect();
    assert!(left.is_empty(), "{left:?} should have gone");
    scene.end(lab);
    calls
}

fn cut_short(lab: &Lab<'_>, case: Case, vm: &str) {
    let mut scene = (case.operation.scene)(lab, vm);
    lab.stops.arm(case.when, case.number);
    let begun = (scene.ask)(lab, &scene);
    let at =
        wait_or(DEADLINE, || lab.stops.at(), || panic!("it does not come there:\n{}", lab.daemon.journal()));
    println!("  at {at}");
    match case.victim {
        Victim::Daemon => lab.daemon.kill(),
        Victim::Twice(again) => twice(lab, again),
        Victim::Libvirtd => without_libvirtd(lab, &begun),
        Victim::Qemu => without_qemu(lab, &scene, &begun),
    }
    lab.daemon.wait_running();
    wait_for(DEADLINE, "it is connected", || lab.daemon.manager::<bool>("HypervisorConnected").then_some(()));
    lab.daemon.wait_idle();
    if case.victim == Victim::Libvirtd && scene.vm.put_right(|| lab.daemon.says_adrift(vm)) {
        println!("    libvirt left its images in QEMU: {:?}", lab.daemon.prune(vm));
    }
    // What may have run from its memory does not run from it again: it is off, and that is said.
    let off = format!(
        "VM {vm} was about to go on from the memory of snapshot s1 when that was interrupted, and is off"
    );
    if scene.how == How::Memory && scene.vm.state() == "shut off" && lab.daemon.journal().contains(&off) {
        lab.tb.ok(&format!("virsh -q start {vm}"));
    }
    scene.check(lab);
    go_on(lab, &mut scene);
    scene.end(lab);
}

fn twice(lab: &Lab<'_>, again: usize) {
    // Its next life stops where it is told, if it does so much.
    lab.stops.arm(When::Before, again);
    lab.daemon.kill_then(|| {
        let settled = || lab.daemon.manager::<bool>("HypervisorConnected") && lab.daemon.is_idle();
        wait_for(DEADLINE, "it stops, or has settled all", || {
            (lab.stops.at().is_some() || settled()).then_some(())
        });
    });
    lab.stops.disarm();
    // That it is connected is told before the jobs that finish something are there.
    let at = wait_for(DEADLINE, "it stops, or has settled all", || {
        lab.stops.at().map(Some).or_else(|| lab.daemon.is_idle().then_some(None))
    });
    if let Some(at) = at {
        println!("    again at {at}");
        lab.daemon.kill();
    }
}

fn without_libvirtd(lab: &Lab<'_>, begun: &Begun) {
    let before = lab.daemon.connections();
    lab.tb.kill_libvirtd();
    lab.stops.let_go();
    lab.tb.start_libvirtd();
    wait_for(DEADLINE, "the daemon has a new connection", || {
        (lab.daemon.connections() > before).then_some(())
    });
    println!("    {:?}", lab.wait(begun));
}

fn without_qemu(lab: &Lab<'_>, scene: &Scene, begun: &Begun) {
    let killed = lab.tb.sh(&format!("kill -KILL $(cat /run/libvirt/qemu/{}.pid)", scene.dies)).success();
    if scene.dies != scene.vm.name() {
        // libvirt says of one that it is to end at that very moment that it ended it.
        let state = || lab.tb.ok(&format!("virsh -q domstate {}", scene.dies));
        wait_for(DEADLINE, "libvirt sees its end", || state().contains("shut off").then_some(()));
    }
    lab.stops.let_go();
    println!("    there was a QEMU: {killed}; {:?}", lab.wait(begun));
    // Its owner starts it again.
    if scene.runs && scene.vm.state() != "running" {
        lab.tb.ok(&format!("virsh -q start {}", scene.vm.name()));
    }
}

/// What was to be done is done when that is asked again, as far as it is not; and then the next operations work.
fn go_on(lab: &Lab<'_>, scene: &mut Scene) {
    let name = scene.vm.name().to_owned();
    let fails = |e: (String, String)| panic!("{e:?}\n{}", lab.daemon.journal());
    if !scene.is_whole(lab) {
        lab.wait(&(scene.ask)(lab, scene)).unwrap_or_else(fails);
    }
    if let Some(other) = &mut scene.other {
        other.there = true;
        other.alone = scene.dies == other.name;
    }
    for doomed in scene.doomed.clone() {
        if scene.lost.contains(&doomed) || scene.how == How::Inside {
            let begun = (scene.ask)(lab, scene);
            lab.wait(&begun).unwrap_or_else(fails);
        } else if lab.daemon.snapshots(&name).iter().any(|(there, _)| *there == doomed) {
            // One merge takes all that were to go in one.
            lab.daemon.delete(&name, &doomed).unwrap_or_else(fails);
        }
    }
    if scene.goes_on {
        scene.now.clear();
        for value in [200, 201] {
            lab.tb.ok(&format!("set -e\n{}", scene.writes(value)));
            scene.now = vec![value];
            if value == 200 && scene.how != How::Inside {
                lab.daemon.create(&name, "after").unwrap_or_else(fails);
                scene.known.insert("after".to_owned(), value);
            }
        }
        if scene.how != How::Inside {
            lab.daemon.delete(&name, "after").unwrap_or_else(fails);
            scene.doomed.insert("after".to_owned());
        }
    }
    scene.check(lab);
    assert!(scene.doomed.is_empty(), "{:?} are still there\n{}", scene.doomed, lab.daemon.journal());
    if scene.goes_on {
        scene.is_well(lab);
    }
}
