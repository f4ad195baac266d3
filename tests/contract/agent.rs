//! Freezing and thawing.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use virtsnap::hypervisor::{Agent, ErrorKind, Event, FreezeStatus, GuestSystem, Hypervisor};

use super::{
    AGENT, Capability, DEADLINE, Rig, RigVm, connected, name, overlays, refused, spec, targets, wait_for,
};
use virtsnap::core::model::VmId;

/// A hand on guests with Windows.
pub(crate) trait Windows {
    /// Has this guest run Windows.
    fn run_windows(&mut self, vm: VmId);
    /// Has its next freeze last for longer than Windows holds it.
    fn hold_for_too_long(&mut self, vm: VmId);
}

const GUEST: RigVm = RigVm { disks: 2, running: true, agent: true };

pub(crate) fn what_is_frozen_is_counted_reported_and_thawed(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    assert_eq!(hv.vm(vm).unwrap().agent, Agent::Connected);
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Thawed));
    assert_eq!(hv.freeze(vm, None, AGENT), Ok(2));
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Frozen));
    assert_eq!(hv.thaw(vm, AGENT), Ok(2));
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Thawed));
    rig.write_marker(vm, "vda", 41);
    assert_eq!(rig.marker_now(vm, "vda"), 41);
}

pub(crate) fn thawing_what_is_not_frozen_is_harmless(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    assert_eq!(hv.thaw(vm, AGENT), Ok(0));
    hv.freeze(vm, None, AGENT).unwrap();
    assert_eq!(hv.thaw(vm, AGENT), Ok(2));
    assert_eq!(hv.thaw(vm, AGENT), Ok(0));
}

pub(crate) fn a_second_freeze_fails_and_the_first_stays(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    assert_eq!(hv.freeze(vm, None, AGENT), Ok(2));
    refused(hv.freeze(vm, None, AGENT), ErrorKind::Refused);
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Frozen));
    assert_eq!(hv.thaw(vm, AGENT), Ok(2));
}

pub(crate) fn some_mount_points_can_be_frozen_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    let systems = hv.file_systems(vm, AGENT).unwrap();
    let of_vdb = systems.into_iter().find(|f| f.disks == ["vdb"]).unwrap();
    assert_eq!(hv.freeze(vm, Some(&[of_vdb.mountpoint, "/nowhere".to_owned()]), AGENT), Ok(1));
    rig.write_marker(vm, "vda", 42);
    assert_eq!(hv.thaw(vm, AGENT), Ok(1));
}

pub(crate) fn a_snapshot_taken_while_frozen_holds_what_was_written(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    for target in targets(&*hv, vm) {
        rig.write_marker(vm, &target, 43);
    }
    let overlays = overlays(rig, &*hv, vm);
    hv.prepare(vm, &overlays).unwrap();
    assert_eq!(hv.freeze(vm, None, AGENT), Ok(2));
    hv.create(vm, &spec("s1", &overlays)).unwrap();
    assert_eq!(hv.thaw(vm, AGENT), Ok(2));
    for target in targets(&*hv, vm) {
        rig.write_marker(vm, &target, 44);
        assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), &target), 43);
        assert_eq!(rig.marker_now(vm, &target), 44);
    }
}

pub(crate) fn the_guest_names_its_file_systems_and_their_disks(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    let systems = hv.file_systems(vm, AGENT).unwrap();
    assert_eq!(systems.len(), 2, "{systems:?}");
    let disks: BTreeSet<_> = systems.into_iter().flat_map(|f| f.disks).collect();
    assert_eq!(disks, targets(&*hv, vm).into_iter().collect());
}

pub(crate) fn the_guest_says_what_it_runs_while_it_is_not_frozen(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    assert_eq!(hv.guest_system(vm, AGENT), Ok(GuestSystem::Other));
    assert_eq!(hv.freeze(vm, None, AGENT), Ok(2));
    refused(hv.guest_system(vm, AGENT), ErrorKind::Refused);
    assert_eq!(hv.thaw(vm, AGENT), Ok(2));
    if rig.capabilities().contains(&Capability::Windows) {
        rig.run_windows(vm);
        assert_eq!(hv.guest_system(vm, AGENT), Ok(GuestSystem::Windows));
    }
}

pub(crate) fn windows_lets_go_and_the_thaw_says_so_and_proves_it(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    rig.run_windows(vm);
    rig.hold_for_too_long(vm);
    assert_eq!(hv.freeze(vm, None, AGENT), Ok(2));
    // So its agent says, and disks are written to.
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Frozen));
    rig.write_marker(vm, "vda", 47);
    refused(hv.thaw(vm, AGENT), ErrorKind::LetGo);
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Thawed));
    assert_eq!(hv.thaw(vm, AGENT), Ok(0));
    assert_eq!(hv.freeze(vm, None, AGENT), Ok(2));
    assert_eq!(hv.thaw(vm, AGENT), Ok(2));
}

pub(crate) fn a_vm_without_an_agent_has_none_available(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 1, running: true, agent: false });
    assert_eq!(hv.vm(vm).unwrap().agent, Agent::Absent);
    none_available(&*hv, vm);
}

pub(crate) fn a_stopped_vm_has_no_agent_available(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { running: false, ..GUEST });
    assert_eq!(hv.vm(vm).unwrap().agent, Agent::Disconnected);
    none_available(&*hv, vm);
}

fn none_available(hv: &dyn Hypervisor, vm: VmId) {
    refused(hv.freeze(vm, None, AGENT), ErrorKind::AgentUnavailable);
    refused(hv.freeze_status(vm, AGENT), ErrorKind::AgentUnavailable);
    refused(hv.thaw(vm, AGENT), ErrorKind::AgentUnavailable);
    refused(hv.file_systems(vm, AGENT), ErrorKind::AgentUnavailable);
}

pub(crate) fn an_agent_that_went_is_unavailable_and_its_return_is_told(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    let told = |agent| {
        let fits = |e: &Event| *e == Event::Changed(vm) && hv.vm(vm).unwrap().agent == agent;
        wait_for(&events, "the agent's change", fits);
    };
    rig.agent_kill(vm);
    told(Agent::Disconnected);
    none_available(&*hv, vm);
    while events.try_recv().is_ok() {}
    rig.agent_start(vm);
    told(Agent::Connected);
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Thawed));
}

pub(crate) fn a_failing_hook_fails_the_freeze_and_nothing_is_frozen(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    rig.hook_fail(vm, true);
    refused(hv.freeze(vm, None, AGENT), ErrorKind::AgentFailed);
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Thawed));
    rig.write_marker(vm, "vda", 45);
    rig.hook_fail(vm, false);
    assert_eq!(hv.freeze(vm, None, AGENT), Ok(2));
    assert_eq!(hv.thaw(vm, AGENT), Ok(2));
}

/// The freeze that timed out is carried out when the agent goes on; a thaw that succeeds undoes it for good.
pub(crate) fn a_stuck_agent_costs_the_time_limit_at_most_and_thaws_after(rig: &mut dyn Rig) {
    const LIMIT: Duration = Duration::from_secs(2);
    let (hv, events) = connected(rig);
    let vm = rig.new_vm(GUEST);
    rig.agent_stop(vm);
    // It returns at all: the agent goes on only after it.
    let error = hv.freeze(vm, None, LIMIT).unwrap_err();
    assert_eq!(error.kind, ErrorKind::AgentTimeout, "{error}");

    let began = Instant::now();
    rig.agent_cont(vm);
    while let Err(e) = hv.thaw(vm, AGENT) {
        assert!(began.elapsed() < DEADLINE, "{e}");
        // Nothing is awaited there; it only keeps the tries apart.
        let _event = events.recv_timeout(Duration::from_millis(100));
    }
    assert_eq!(hv.freeze_status(vm, AGENT), Ok(FreezeStatus::Thawed));
    rig.write_marker(vm, "vda", 46);
    assert_eq!(rig.marker_now(vm, "vda"), 46);
}
