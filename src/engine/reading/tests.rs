use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::*;
use crate::{
    clock::SystemClock,
    core::model::SnapshotName,
    hypervisor::sim::{Op, Sim, VmSpec},
};

#[test]
fn a_vm_that_somebody_waits_for_is_read_before_all_others() {
    let vm = |n| VmId(uuid::Uuid::from_u128(n));
    let mut wanted = Wanted { vms: (1..=5).map(vm).collect(), ..Wanted::default() };
    assert_eq!([wanted.wait_for(vm(4)), wanted.wait_for(vm(9)), wanted.wait_for(vm(4))], [1, 2, 3]);
    let one = |next| match next {
        Next::One(vm, numbers) => Some((vm, numbers)),
        Next::All { .. } => None,
    };
    let order: Vec<_> = std::iter::from_fn(|| wanted.next()).filter_map(one).collect();
    let expected = [(4, vec![1, 3]), (9, vec![2]), (1, vec![]), (2, vec![]), (3, vec![]), (5, vec![])];
    assert_eq!(order, expected.map(|(n, numbers)| (vm(n), numbers.into_iter().collect())));
}

#[test]
fn what_takes_long_is_left_behind_and_its_vm_waits_for_the_answer() {
    let [a, b] = [1, 2].map(|n| VmId(uuid::Uuid::from_u128(n)));
    let mut wanted = Wanted { vms: [a, b].into(), ..Wanted::default() };
    let at = Duration::from_secs;
    let vm = |turn| match turn {
        Some(Turn::Next(next)) => next.vm(),
        _ => None,
    };
    assert_eq!(wanted.take_over(at(1000)), None, "it is at nothing");
    assert_eq!(vm(wanted.turn(0, at(1000))), Some(a));
    wanted.vms.insert(a);
    assert_eq!(wanted.take_over(at(1059)), None);
    assert_eq!(wanted.take_over(at(1060)), Some((1, Some(a))));
    assert_eq!(vm(wanted.turn(1, at(1060))), Some(b));
    assert!(wanted.turn(1, at(1061)).is_none(), "a is asked for, and being read");
    assert_eq!(wanted.take_over(at(9999)), None, "it waits");
    wanted.reading = [a].into();
    for (thread, more) in [(1, Some((2, Some(b)))), (2, None)] {
        wanted.vms.insert(b);
        assert_eq!(vm(wanted.turn(thread, at(2000))), Some(b));
        assert_eq!(wanted.take_over(at(3000)), more, "there are no more than so many");
        wanted.reading.remove(&b);
    }
    // The first one comes back.
    wanted.reading.clear();
    assert!(matches!(wanted.turn(0, at(3001)), Some(Turn::Over)));
    assert_eq!(wanted.take_over(at(3001)), Some((3, Some(b))));
    assert_eq!(vm(wanted.turn(3, at(3001))), Some(a));
}

/// Of all VMs at once libvirt answers nothing where it does not answer of one.
#[test]
fn only_one_thread_looks_at_all_vms_and_no_vm_waits_behind_that() {
    let [a, b] = [1, 2].map(|n| VmId(uuid::Uuid::from_u128(n)));
    let mut wanted = Wanted { list: true, glance: true, vms: [a].into(), ..Wanted::default() };
    let at = Duration::from_secs;
    assert_eq!(wanted.wait_for(b), 1);
    assert!(matches!(wanted.turn(0, at(0)), Some(Turn::Next(Next::One(vm, _))) if vm == b), "a job waits");
    assert!(matches!(wanted.turn(0, at(1)), Some(Turn::Next(Next::All { list: true }))));
    assert_eq!(wanted.take_over(at(61)), Some((1, None)));
    (wanted.list, wanted.glance) = (true, true);
    assert!(matches!(wanted.turn(1, at(62)), Some(Turn::Next(Next::One(vm, _))) if vm == a));
    assert!(wanted.turn(1, at(63)).is_none());
    assert_eq!(wanted.take_over(at(9999)), None, "it waits, and is no other's to leave");
    wanted.looking = None;
    assert!(matches!(wanted.turn(1, at(64)), Some(Turn::Next(Next::All { list: true }))));
}

#[test]
fn a_bug_in_the_look_at_all_vms_ends_neither_the_thread_nor_their_listing() {
    let sim = Arc::new(Sim::new());
    let web = sim.add_vm(VmSpec::new("web", 1));
    let bug = Arc::new(AtomicBool::new(true));
    let is_bug = Arc::clone(&bug);
    sim.before_each_call(move |asked| {
        assert!(!is_bug.load(Ordering::SeqCst) || ![Op::Glance, Op::Vms].contains(&asked.op), "a bug");
        Ok(())
    });
    let (send, events) = mpsc::channel();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let store = Arc::new(Store::in_memory().unwrap());
    let answer = move |event| send.send(event).unwrap();
    let reader = Reader::start(sim, store, &clock, answer).unwrap();
    let next = || events.recv_timeout(Duration::from_secs(60)).unwrap();
    reader.list();
    reader.read(web);
    assert!(matches!(next(), Event::VmRead(record) if record.id == web));
    bug.store(false, Ordering::SeqCst);
    reader.glance();
    assert!(matches!(next(), Event::Listed(vms) if vms == [web]), "it was asked for");
}

#[test]
fn a_glance_finds_what_others_did_to_snapshots_and_nothing_else() {
    let sim = Sim::new();
    let ids: Vec<VmId> = (1..=3).map(|n| sim.add_vm(VmSpec::new(&format!("vm{n}"), n))).collect();
    let seen = Mutex::default();
    let now = || changed(&sim, &seen, &|| false);
    sim.make_foreign_snapshot(ids[0], "a").unwrap();
    assert_eq!(now(), [ids[0]].into());
    assert!(now().is_empty());

    sim.make_foreign_snapshot(ids[0], "b").unwrap();
    sim.make_internal_snapshot(ids[1], "c").unwrap();
    assert_eq!(now(), [ids[0], ids[1]].into());
    assert!(now().is_empty());

    sim.forget_current(ids[0]).unwrap();
    assert_eq!(now(), [ids[0]].into());
    sim.forget_snapshot(ids[1], &SnapshotName::existing("c")).unwrap();
    assert_eq!(now(), [ids[1]].into(), "it has none any more");

    sim.make_foreign_snapshot(ids[2], "d").unwrap();
    sim.disconnect("gone");
    assert!(now().is_empty());
    sim.connect();
    assert_eq!(now(), [ids[2]].into(), "what was missed is found later");
}
