//! What the contracts begin with, and look at.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    time::Instant,
};

use virtsnap::{
    core::model::{SnapshotName, VmId},
    hypervisor::{CreateSpec, ErrorKind, Event, Hypervisor, Overlay, Result, SnapshotRecord},
};

use super::{DEADLINE, Rig};

/// A VM to be made, with the disks `vda`, `vdb` and so on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RigVm {
    pub(crate) disks: usize,
    pub(crate) running: bool,
    /// Whether it has the agent's channel, and an agent at its end.
    pub(crate) agent: bool,
}

/// The driver with its connection standing, and what it tells from there on.
pub(crate) fn connected(rig: &dyn Rig) -> (Arc<dyn Hypervisor>, Receiver<Event>) {
    let hv = rig.hv();
    let events = watched(&*hv);
    wait_for(&events, "the connection", |e| matches!(e, Event::Connected(_)));
    (hv, events)
}

/// What the driver tells, from the first word on.
pub(crate) fn watched(hv: &dyn Hypervisor) -> Receiver<Event> {
    let (tell, events) = mpsc::channel();
    // A real driver goes on telling after the contract is over.
    hv.watch(Box::new(move |event| drop(tell.send(event))));
    events
}

/// Takes events until one fits.
pub(crate) fn wait_for(events: &Receiver<Event>, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
    let until = Instant::now() + DEADLINE;
    let mut others = Vec::new();
    loop {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(event) if fits(&event) => return event,
            Ok(event) => others.push(event),
            Err(e) => panic!("waited for {what}: {e}; there were {others:?}"),
        }
    }
}

pub(crate) fn name(text: &str) -> SnapshotName {
    SnapshotName::existing(text)
}

/// The disks' targets, in order.
pub(crate) fn targets(hv: &dyn Hypervisor, vm: VmId) -> Vec<String> {
    hv.vm(vm).unwrap().disks.into_iter().map(|d| d.target).collect()
}

/// The paths of a disk's chain, the active layer first.
pub(crate) fn chain(hv: &dyn Hypervisor, vm: VmId, target: &str) -> Vec<String> {
    let disk = hv.vm(vm).unwrap().disks.into_iter().find(|d| d.target == target).unwrap();
    disk.chain.into_iter().map(|l| l.path).collect()
}

/// An overlay for each of the VM's disks, as they are now.
pub(crate) fn overlays(rig: &mut dyn Rig, hv: &dyn Hypervisor, vm: VmId) -> Vec<Overlay> {
    let disks = hv.vm(vm).unwrap().disks;
    disks
        .into_iter()
        .map(|d| Overlay {
            path: rig.overlay_path(vm, &d.target),
            backing: d.chain[0].clone(),
            target: d.target,
        })
        .collect()
}

pub(crate) fn spec(label: &str, overlays: &[Overlay]) -> CreateSpec {
    let description = format!("the description of {label},\nwith <two> lines");
    CreateSpec { name: name(label), description, overlays: overlays.to_vec(), memory: None }
}

/// Prepares and takes a snapshot of all disks.
pub(crate) fn take(rig: &mut dyn Rig, hv: &dyn Hypervisor, vm: VmId, label: &str) -> Vec<Overlay> {
    let overlays = overlays(rig, hv, vm);
    hv.prepare(vm, &overlays).unwrap();
    hv.create(vm, &spec(label, &overlays)).unwrap();
    overlays
}

/// All snapshots, by name. How long their text is says nothing of what they are.
pub(crate) fn records(hv: &dyn Hypervisor, vm: VmId) -> Vec<SnapshotRecord> {
    let mut records = hv.snapshots(vm).unwrap();
    for record in &mut records {
        assert!(record.xml_bytes > record.description.len());
        record.xml_bytes = 0;
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    let error = result.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    assert!(!error.message.is_empty());
}
