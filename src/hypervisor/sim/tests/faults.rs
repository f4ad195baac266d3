//! Faults and gates.

use super::*;

fn one(disks: &[&str]) -> Arc<Sim> {
    let sim = Sim::new();
    sim.add_vm(VmSpec::new("web", 1).with_disks(disks));
    Arc::new(sim)
}

const VM: VmId = VmId(uuid::Uuid::from_u128(1));

/// Calls from another thread.
fn meanwhile<T: Send + 'static>(
    sim: &Arc<Sim>,
    call: impl FnOnce(&Sim) -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let sim = Arc::clone(sim);
    std::thread::spawn(move || call(&sim))
}

#[test]
fn faults_hit_the_calls_that_they_are_for() {
    let sim = one(&["vda"]);
    let other = sim.add_vm(VmSpec::new("db", 2));
    sim.fail_next(Op::Vms, error(ErrorKind::Denied));
    sim.fail_at(Op::Vms, 3, error(ErrorKind::Busy));
    assert_eq!(kind(sim.vms()), ErrorKind::Denied);
    assert_eq!(sim.vms().unwrap(), [VM, other]);
    assert_eq!(kind(sim.vms()), ErrorKind::Busy);
    assert!(sim.vms().is_ok());

    sim.inject(Fault::new(Op::Vm, Mishap::Refuse(error(ErrorKind::Failed))).on(other).always());
    sim.inject(Fault::new(Op::Vm, Mishap::Refuse(error(ErrorKind::Busy))).on(VM).after(1).times(2));
    assert_eq!(kind(sim.vm(other)), ErrorKind::Failed);
    assert!(sim.vm(VM).is_ok());
    assert_eq!(kind(sim.vm(VM)), ErrorKind::Busy);
    assert_eq!(kind(sim.vm(VM)), ErrorKind::Busy);
    assert!(sim.vm(VM).is_ok());
    assert_eq!(kind(sim.vm(other)), ErrorKind::Failed);
    sim.heal();
    assert!(sim.vm(other).is_ok());
}

#[test]
fn libvirtd_killed_in_a_create_leaves_switched_disks_and_no_metadata() {
    let sim = one(&["vda", "vdb"]);
    let events = listen(&sim);
    let spec = spec(&sim, VM, "s1");
    sim.prepare(VM, &spec.overlays).unwrap();
    sim.die_in_next_create();
    assert_eq!(kind(sim.create(VM, &spec)), ErrorKind::Disconnected);
    assert_eq!(kind(sim.vms()), ErrorKind::Disconnected);
    assert!(matches!(heard(&events)[1..], [Event::Disconnected(_)]));
    sim.connect();
    assert_eq!(sim.snapshots(VM).unwrap(), []);
    for (disk, overlay) in sim.vm(VM).unwrap().disks.iter().zip(&spec.overlays) {
        assert_eq!(disk.chain[0].path, overlay.path);
    }
    assert_eq!(kind(sim.discard(VM, &[spec.overlays[0].path.clone()])), ErrorKind::Busy);
}

#[test]
fn an_answer_that_got_lost_belongs_to_work_that_was_done() {
    let sim = one(&["vda"]);
    sim.inject(Fault::new(Op::Create, Mishap::Lose(error(ErrorKind::Disconnected))));
    assert_eq!(kind(snapshot(&sim, VM, "s1")), ErrorKind::Disconnected);
    sim.connect();
    assert!(record(&sim, VM, "s1").current);
}

#[test]
fn a_delete_that_ends_half_way_spoils_the_snapshot_and_marks_its_parent() {
    let sim = one(&["vda", "vdb"]);
    snapshot(&sim, VM, "s1").unwrap();
    for block in 0..4 {
        assert!(sim.write(VM, "vdb", block, 1));
    }
    snapshot(&sim, VM, "s2").unwrap();
    for block in 0..4 {
        assert!(sim.write(VM, "vdb", block, 2));
    }
    snapshot(&sim, VM, "s3").unwrap();
    let now = sim.read(VM, "vdb").unwrap();
    sim.inject(Fault::new(Op::Delete, Mishap::Half(error(ErrorKind::Failed))));
    assert_eq!(kind(sim.delete(VM, &name("s2"))), ErrorKind::Failed);

    assert_eq!(sim.read(VM, "vdb").unwrap(), now, "the VM itself is unharmed");
    let spoilt = sim.content_of_snapshot(VM, &name("s2"), "vdb").unwrap();
    assert_eq!(spoilt.values().copied().collect::<Vec<_>>(), [2, 2, 1, 1]);
    assert!(!record(&sim, VM, "s1").delete_in_progress.is_empty());
    assert!(sim.vm(VM).unwrap().disks.iter().all(|d| d.chain.len() == 4), "each runs on what it ran on");
    assert_eq!(kind(sim.delete(VM, &name("s3"))), ErrorKind::ChainMismatch);
    sim.delete(VM, &name("s2")).unwrap();
    assert!(record(&sim, VM, "s1").delete_in_progress.is_empty());
    assert_eq!(sim.read(VM, "vdb").unwrap(), now);
}

#[test]
fn a_prepare_that_dies_leaves_an_orphan() {
    let sim = one(&["vda", "vdb"]);
    let overlays = overlays(&sim, VM, "s1");
    sim.inject(Fault::new(Op::Prepare, Mishap::Half(error(ErrorKind::Disconnected))));
    assert_eq!(kind(sim.prepare(VM, &overlays)), ErrorKind::Disconnected);
    sim.connect();
    let paths: Vec<_> = overlays.iter().map(|o| o.path.clone()).collect();
    assert!(sim.files().contains_key(&paths[0]) && !sim.files().contains_key(&paths[1]));
    sim.discard(VM, &paths).unwrap();
    assert!(!sim.files().contains_key(&paths[0]));
}

#[test]
fn a_held_create_is_listed_and_has_the_vm_but_not_its_agent() {
    let sim = one(&["vda"]);
    let gate = sim.gate(Op::Create);
    let create = meanwhile(&sim, |s| snapshot(s, VM, "s1"));
    assert!(gate.wait_for_call(DEADLINE));

    assert!(!record(&sim, VM, "s1").current);
    assert_eq!(sim.vm(VM).unwrap().disks[0].chain.len(), 1);
    assert_eq!(kind(sim.delete(VM, &name("s1"))), ErrorKind::Busy);
    assert_eq!(sim.freeze(VM, None, LIMIT), Ok(1));
    assert_eq!(sim.thaw(VM, LIMIT), Ok(1));

    gate.open();
    create.join().unwrap().unwrap();
    assert!(record(&sim, VM, "s1").current);
    assert_eq!(sim.snapshots(VM).unwrap().len(), 1);
}

#[test]
fn a_held_create_is_no_longer_listed_when_libvirtd_goes() {
    let sim = one(&["vda"]);
    let gate = sim.gate(Op::Create);
    let create = meanwhile(&sim, |s| snapshot(s, VM, "s1"));
    assert!(gate.wait_for_call(DEADLINE));
    sim.disconnect("killed");
    sim.connect();
    assert_eq!(kind(create.join().unwrap()), ErrorKind::Disconnected);
    assert_eq!(sim.snapshots(VM).unwrap(), []);
}

#[test]
fn a_held_delete_has_its_parent_marked_and_gives_up_when_libvirtd_goes() {
    let sim = one(&["vda"]);
    snapshot(&sim, VM, "s1").unwrap();
    snapshot(&sim, VM, "s2").unwrap();
    let gate = sim.gate_vm(Op::Delete, VM);
    let delete = meanwhile(&sim, |s| s.delete(VM, &name("s2")));
    assert!(gate.wait_for_call(DEADLINE));
    assert!(!record(&sim, VM, "s1").delete_in_progress.is_empty());

    sim.disconnect("killed");
    sim.connect();
    assert_eq!(kind(delete.join().unwrap()), ErrorKind::Disconnected);
    assert!(sim.vms().is_ok(), "the new connection stays");
    assert!(record(&sim, VM, "s2").current);
    assert!(!record(&sim, VM, "s1").delete_in_progress.is_empty());
}

#[test]
fn a_gate_for_one_vm_lets_the_others_pass_and_opens_when_dropped() {
    let sim = one(&["vda"]);
    let other = sim.add_vm(VmSpec::new("db", 2));
    let gate = sim.gate_vm(Op::Freeze, VM);
    let freeze = meanwhile(&sim, |s| s.freeze(VM, None, LIMIT));
    assert!(gate.wait_for_call(DEADLINE));
    assert_eq!(sim.freeze(other, None, LIMIT), Ok(1));
    assert_eq!(kind(sim.thaw(VM, LIMIT)), ErrorKind::Busy, "the agent does one thing at a time");
    assert_eq!(sim.calls().iter().filter(|c| c.ended.is_none()).count(), 1);
    drop(gate);
    assert_eq!(freeze.join().unwrap(), Ok(1));
    assert!(!sim.gate(Op::Freeze).wait_for_call(Duration::ZERO));
}

#[test]
fn a_vm_that_vanishes_under_a_held_call_is_not_found() {
    let sim = one(&["vda"]);
    let gate = sim.gate(Op::Create);
    let create = meanwhile(&sim, |s| snapshot(s, VM, "s1"));
    assert!(gate.wait_for_call(DEADLINE));
    sim.stop(VM).unwrap();
    sim.undefine(VM).unwrap();
    gate.open();
    assert_eq!(kind(create.join().unwrap()), ErrorKind::NoSuchVm);
}
