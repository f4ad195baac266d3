//! The agent's misbehaviours.

use super::*;

fn one(disks: &[&str]) -> (Sim, VmId) {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1).with_disks(disks));
    (sim, vm)
}

#[test]
fn a_frozen_guest_cannot_write_and_can_after_the_thaw() {
    let (sim, vm) = one(&["vda", "vdb"]);
    assert_eq!(sim.freeze(vm, None, LIMIT), Ok(2));
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Frozen));
    assert!(!sim.write(vm, "vda", 0, 1));
    assert_eq!(sim.thaw(vm, LIMIT), Ok(2));
    assert!(sim.write(vm, "vda", 0, 1));
    assert_eq!(sim.thaw(vm, LIMIT), Ok(0));
}

#[test]
fn a_freeze_of_some_mount_points_passes_over_unknown_ones() {
    let (sim, vm) = one(&["vda", "vdb"]);
    assert_eq!(sim.freeze(vm, Some(&["/nowhere".into()]), LIMIT), Ok(0));
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Thawed));
    assert_eq!(sim.freeze(vm, Some(&["/mnt/vdb".into(), "/nowhere".into()]), LIMIT), Ok(1));
    assert!(sim.write(vm, "vda", 0, 1));
    assert!(!sim.write(vm, "vdb", 0, 1));
}

#[test]
fn while_frozen_the_agent_answers_only_status_and_thaw() {
    let (sim, vm) = one(&["vda"]);
    sim.freeze_behind(vm).unwrap();
    let twice = sim.freeze(vm, None, LIMIT).unwrap_err();
    assert_eq!(twice.kind, ErrorKind::Refused);
    assert!(twice.message.contains("guest-fsfreeze-freeze has been disabled"), "{twice}");
    assert_eq!(kind(sim.file_systems(vm, LIMIT)), ErrorKind::Refused);
    assert_eq!(sim.thaw(vm, LIMIT), Ok(1));
    assert_eq!(sim.file_systems(vm, LIMIT).unwrap()[0].disks, ["vda"]);
}

#[test]
fn a_freeze_that_timed_out_freezes_the_guest_later() {
    let (sim, vm) = one(&["vda"]);
    sim.agent_stuck(vm, true).unwrap();
    assert_eq!(kind(sim.freeze(vm, None, LIMIT)), ErrorKind::AgentTimeout);
    assert!(sim.frozen(vm).unwrap().is_empty());
    // It never gets this one: libvirt cannot get in step with it.
    let thaw = sim.thaw(vm, LIMIT).unwrap_err();
    assert_eq!(thaw.kind, ErrorKind::AgentTimeout);
    assert!(thaw.message.contains("synchronization"), "{thaw}");
    sim.agent_stuck(vm, false).unwrap();
    assert!(!sim.write(vm, "vda", 0, 1));
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Frozen));
    assert_eq!(sim.thaw(vm, LIMIT), Ok(1));
}

#[test]
fn a_stuck_agent_that_was_only_asked_its_status_freezes_nothing_later() {
    let (sim, vm) = one(&["vda"]);
    sim.agent_stuck(vm, true).unwrap();
    assert_eq!(kind(sim.freeze_status(vm, LIMIT)), ErrorKind::AgentTimeout);
    assert_eq!(kind(sim.freeze(vm, None, LIMIT)), ErrorKind::AgentTimeout);
    sim.agent_stuck(vm, false).unwrap();
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Thawed));
}

#[test]
fn an_agent_can_get_stuck_between_the_freeze_and_the_thaw() {
    let (sim, vm) = one(&["vda"]);
    sim.agent_sticks_at(vm, Op::Thaw).unwrap();
    assert_eq!(sim.freeze(vm, None, LIMIT), Ok(1));
    assert_eq!(kind(sim.thaw(vm, LIMIT)), ErrorKind::AgentTimeout);
    assert!(!sim.write(vm, "vda", 0, 1));
    // Asked before it was stuck for good, so it thaws as soon as it moves.
    sim.agent_stuck(vm, false).unwrap();
    assert!(sim.write(vm, "vda", 0, 1));
}

#[test]
fn a_failing_hook_freezes_nothing() {
    let (sim, vm) = one(&["vda"]);
    sim.hook_fails(vm, true).unwrap();
    assert_eq!(kind(sim.freeze(vm, None, LIMIT)), ErrorKind::AgentFailed);
    assert!(sim.frozen(vm).unwrap().is_empty());
    sim.hook_fails(vm, false).unwrap();
    assert_eq!(sim.freeze(vm, None, LIMIT), Ok(1));
}

#[test]
fn a_thaw_fails_as_often_as_it_is_told_to() {
    let (sim, vm) = one(&["vda"]);
    sim.thaw_fails(vm, 2).unwrap();
    sim.freeze(vm, None, LIMIT).unwrap();
    assert_eq!(kind(sim.thaw(vm, LIMIT)), ErrorKind::AgentFailed);
    assert_eq!(kind(sim.thaw(vm, LIMIT)), ErrorKind::AgentFailed);
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Frozen));
    assert_eq!(sim.thaw(vm, LIMIT), Ok(1));
}

#[test]
fn what_was_thawed_behind_the_agent_shows_only_in_the_count() {
    let (sim, vm) = one(&["vda", "vdb"]);
    sim.thaw_behind(vm, 1).unwrap();
    assert_eq!(sim.freeze(vm, None, LIMIT), Ok(2));
    assert!(sim.write(vm, "vda", 0, 1), "somebody thawed it");
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Frozen));
    assert_eq!(sim.thaw(vm, LIMIT), Ok(1));
}

#[test]
fn an_agent_that_is_not_there_is_unavailable_in_every_way() {
    let (sim, vm) = one(&["vda"]);
    let without = sim.add_vm(VmSpec::new("old", 2).with_agent(Agent::Absent));
    assert_eq!(kind(sim.freeze(without, None, LIMIT)), ErrorKind::AgentUnavailable);
    sim.agent_connected(vm, false).unwrap();
    assert_eq!(sim.vm(vm).unwrap().agent, Agent::Disconnected);
    assert_eq!(kind(sim.freeze(vm, None, LIMIT)), ErrorKind::AgentUnavailable);
    sim.agent_connected(vm, true).unwrap();
    sim.pause(vm).unwrap();
    assert_eq!(kind(sim.freeze(vm, None, LIMIT)), ErrorKind::AgentUnavailable);
    sim.stop(vm).unwrap();
    assert_eq!(kind(sim.thaw(vm, LIMIT)), ErrorKind::AgentUnavailable);
}

#[test]
fn a_freeze_outlives_the_agent_and_libvirtd_but_not_the_guest() {
    let (sim, vm) = one(&["vda"]);
    sim.freeze(vm, None, LIMIT).unwrap();
    sim.agent_connected(vm, false).unwrap();
    sim.disconnect("killed");
    sim.connect();
    sim.agent_connected(vm, true).unwrap();
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Frozen));
    sim.managed_save(vm).unwrap();
    sim.start(vm).unwrap();
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Frozen));
    sim.stop(vm).unwrap();
    sim.start(vm).unwrap();
    assert_eq!(sim.freeze_status(vm, LIMIT), Ok(FreezeStatus::Thawed));
}
