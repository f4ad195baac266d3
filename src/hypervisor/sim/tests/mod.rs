//! The simulator's own tests: each misbehaviour as real hosts show it. What it shares with real hosts is in
//! `tests/contract.rs`.

mod agent;
mod data;
mod faults;
mod images;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{DiskSpec, EMPTY_IMAGE, Fault, Mishap, Op, Sim, VmSpec};
use crate::{
    core::model::{Content, SnapshotName, Storage, VmId, VmState},
    hypervisor::{
        Agent, CreateSpec, Error, ErrorKind, Event, FreezeStatus, Hypervisor, Layer, Overlay, SnapshotRecord,
    },
};

/// A time limit that a simulator never waits for.
const LIMIT: Duration = Duration::from_secs(5);
/// How long another thread may take.
const DEADLINE: Duration = Duration::from_secs(20);

fn name(text: &str) -> SnapshotName {
    SnapshotName::existing(text)
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "on request")
}

/// Overlays called `label` on all writable disks, as they are now.
fn overlays(sim: &Sim, vm: VmId, label: &str) -> Vec<Overlay> {
    let disks = sim.vm(vm).unwrap().disks.into_iter().filter(|d| d.writable);
    disks
        .map(|d| Overlay {
            path: format!("/images/{label}-{}.qcow2", d.target),
            backing: d.chain[0].clone(),
            target: d.target,
        })
        .collect()
}

fn spec(sim: &Sim, vm: VmId, label: &str) -> CreateSpec {
    CreateSpec {
        name: name(label),
        description: String::new(),
        overlays: overlays(sim, vm, label),
        memory: None,
    }
}

/// Prepares and creates.
fn snapshot(sim: &Sim, vm: VmId, label: &str) -> Result<(), Error> {
    let spec = spec(sim, vm, label);
    sim.prepare(vm, &spec.overlays)?;
    sim.create(vm, &spec)
}

fn record(sim: &Sim, vm: VmId, label: &str) -> SnapshotRecord {
    sim.snapshots(vm).unwrap().into_iter().find(|r| r.name == name(label)).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind
}

/// All events, from now on.
fn listen(sim: &Sim) -> Arc<Mutex<Vec<Event>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    sim.watch(Box::new(move |event| ears.lock().unwrap().push(event)));
    heard
}

fn heard(events: &Mutex<Vec<Event>>) -> Vec<Event> {
    std::mem::take(&mut events.lock().unwrap())
}

#[test]
fn what_libvirt_keeps_to_itself_and_what_it_tells() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    let events = listen(&sim);
    assert!(matches!(heard(&events)[..], [Event::Connected(_)]));

    sim.freeze(vm, None, LIMIT).unwrap();
    snapshot(&sim, vm, "s1").unwrap();
    sim.thaw(vm, LIMIT).unwrap();
    sim.make_foreign_snapshot(vm, "theirs").unwrap();
    assert_eq!(heard(&events), []);

    sim.delete(vm, &name("s1")).unwrap();
    assert_eq!(heard(&events), vec![Event::Changed(vm); 2], "one for each disk's block job");

    sim.stop(vm).unwrap();
    sim.rename(vm, "www").unwrap();
    assert_eq!(heard(&events), vec![Event::Changed(vm); 2]);
    sim.start(vm).unwrap();
    assert_eq!(heard(&events), vec![Event::Changed(vm); 2], "started, and the agent connected");
    sim.stop(vm).unwrap();
    sim.undefine(vm).unwrap();
    assert_eq!(heard(&events), [Event::Changed(vm), Event::Gone(vm)]);
    assert_eq!(kind(sim.vm(vm)), ErrorKind::NoSuchVm);
}

#[test]
fn a_transient_vm_takes_its_snapshots_with_it_and_says_only_that_it_changed() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1));
    sim.make_foreign_snapshot(vm, "s1").unwrap();
    sim.undefine(vm).unwrap();
    assert!(!sim.vm(vm).unwrap().persistent);
    assert_eq!(kind(snapshot(&sim, vm, "s2")), ErrorKind::Unsupported);

    let events = listen(&sim);
    sim.stop(vm).unwrap();
    assert_eq!(heard(&events)[1..], [Event::Changed(vm)]);
    assert_eq!(kind(sim.snapshots(vm)), ErrorKind::NoSuchVm);
}

#[test]
fn while_disconnected_every_call_fails_and_what_happens_is_never_told() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1));
    let events = listen(&sim);
    sim.disconnect("libvirtd stopped");
    sim.stop(vm).unwrap();
    assert_eq!(kind(sim.vms()), ErrorKind::Disconnected);
    assert_eq!(kind(sim.thaw(vm, LIMIT)), ErrorKind::Disconnected);
    sim.connect();
    assert_eq!(sim.vm(vm).unwrap().state, VmState::ShutOff);
    let events = heard(&events);
    assert_eq!(events[1], Event::Disconnected("libvirtd stopped".into()));
    assert!(matches!(events[2..], [Event::Connected(_)]), "{events:?}");
}

#[test]
fn a_watcher_may_call_back() {
    let sim = Arc::new(Sim::new());
    let vm = sim.add_vm(VmSpec::new("web", 1));
    let states = Arc::new(Mutex::new(Vec::new()));
    let (inner, seen) = (Arc::downgrade(&sim), Arc::clone(&states));
    sim.watch(Box::new(move |event| {
        if event == Event::Changed(vm) {
            let state = inner.upgrade().unwrap().vm(vm).unwrap().state;
            seen.lock().unwrap().push(state);
        }
    }));
    sim.pause(vm).unwrap();
    assert_eq!(*states.lock().unwrap(), [VmState::Paused]);
}

#[test]
fn the_log_says_what_was_asked_in_order_and_how_it_ended() {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1));
    let spec = spec(&sim, vm, "s1");
    sim.clear_calls();
    sim.prepare(vm, &spec.overlays).unwrap();
    sim.freeze(vm, None, LIMIT).unwrap();
    sim.create(vm, &spec).unwrap();
    sim.thaw(vm, LIMIT).unwrap();
    assert_eq!(kind(sim.create(vm, &spec)), ErrorKind::Exists);
    assert_eq!(sim.changes(), [Op::Prepare, Op::Freeze, Op::Create, Op::Thaw, Op::Create]);
    let calls = sim.calls();
    assert_eq!((calls[1].timeout, calls[1].vm), (Some(LIMIT), Some(vm)));
    assert_eq!((calls[2].about.as_str(), calls[2].ended), ("s1", Some(Ok(()))));
    assert_eq!(calls[4].ended, Some(Err(ErrorKind::Exists)));
}
