//! Snapshots that get too old.

use super::{
    owed::{Lives, by_nightly},
    *,
};

const DAYS: &str =
    "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nstale-after = \"2d\"\nwhen = \"running\"\n";

/// What is told of it: VM, and whether it is stale.
fn told(effects: &[Effect]) -> Vec<(VmId, bool)> {
    let one = |effect: &Effect| match effect {
        Effect::Log(Note::Stale { vm, .. }) => Some((*vm, true)),
        Effect::Log(Note::Fresh { vm, .. }) => Some((*vm, false)),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

fn stale(l: &Lives) -> Vec<(VmId, Option<Timestamp>)> {
    let of = |vm: &Arc<crate::core::view::VmView>| {
        assert!(vm.stale.iter().all(|(policy, _)| *policy == nightly()));
        vm.stale.first().map(|(_, newest)| (vm.record.id, *newest))
    };
    l.bench.machine.view().vms.values().filter_map(of).collect()
}

/// At this time; the jobs that begin are not what this is about, and fail.
fn tick(l: &mut Lives, time: &str) -> Vec<(VmId, bool)> {
    l.bench.now = at(time);
    let effects = l.send(Event::Timer);
    let mut all = told(&effects);
    for job in started(&effects) {
        let outcome = Outcome::Failed(Failure::new("NoSpace", "full"));
        all.extend(told(&l.send(Event::Ended(job.id, outcome))));
    }
    all
}

fn state(l: &mut Lives, state: VmState) -> Vec<(VmId, bool)> {
    told(&l.send(Event::VmRead(Box::new(VmRecord { state, ..record(1, &[]) }))))
}

#[test]
fn it_is_told_once_at_its_time_over_restarts_and_once_when_it_is_over() {
    let mut l = Lives::new(DAYS, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    let effects = l.send(by_nightly(1, "2026-03-01T02:30:00Z"));
    assert_eq!((told(&effects), stale(&l)), (vec![], vec![]));
    assert_eq!(tick(&mut l, "2026-03-02T02:30:00Z"), []);
    // It is awaited since noon: what is from before is as old as that.
    assert_eq!(tick(&mut l, "2026-03-03T02:30:00Z"), []);
    assert_eq!(wake(&l.send(Event::Timer)), Some(at("2026-03-03T12:00:00Z")));
    assert_eq!(tick(&mut l, "2026-03-03T12:00:00Z"), [(vm(1), true)]);
    let newest = Some(at("2026-03-01T02:30:00Z"));
    assert_eq!(stale(&l), [(vm(1), newest)]);
    assert_eq!(tick(&mut l, "2026-03-03T13:00:00Z"), []);
    l.restart();
    l.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    l.send(Event::Listed(vec![vm(1)]));
    let effects = l.send(by_nightly(1, "2026-03-01T02:30:00Z"));
    assert_eq!((told(&effects), stale(&l)), (vec![], vec![(vm(1), newest)]));
    l.bench.now = at("2026-03-04T02:31:00Z");
    let effects = l.send(by_nightly(1, "2026-03-04T02:30:00Z"));
    assert_eq!((told(&effects), stale(&l)), (vec![(vm(1), false)], vec![]));
    assert_eq!(tick(&mut l, "2026-03-06T02:29:00Z"), []);
    assert_eq!(tick(&mut l, "2026-03-06T02:30:00Z"), [(vm(1), true)]);
}

#[test]
fn a_vm_that_is_off_is_not_late_because_of_it() {
    let mut l = Lives::new(DAYS, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    assert_eq!(state(&mut l, VmState::ShutOff), []);
    assert_eq!(l.store.awaited().unwrap(), BTreeMap::new());
    assert_eq!(tick(&mut l, "2026-04-01T12:00:00Z"), []);
    assert_eq!(state(&mut l, VmState::Running), []);
    assert_eq!(tick(&mut l, "2026-04-03T11:59:00Z"), []);
    assert_eq!(tick(&mut l, "2026-04-03T12:00:00Z"), [(vm(1), true)]);
    assert_eq!(stale(&l), [(vm(1), None)]);
    assert_eq!(state(&mut l, VmState::ShutOff), [(vm(1), false)]);
    assert_eq!(stale(&l), []);
}

#[test]
fn nothing_is_judged_by_a_wrong_clock_or_without_libvirt() {
    let mut l = Lives::new(DAYS, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    l.send(Event::Passed(l.bench.now));
    assert_eq!(tick(&mut l, "2036-03-01T12:00:00Z"), []);
    assert_eq!(tick(&mut l, "1970-01-01T00:00:07Z"), []);
    assert_eq!(tick(&mut l, "2026-03-02T12:00:00Z"), []);
    l.send(Event::Disconnected);
    assert_eq!(tick(&mut l, "2026-03-05T12:00:00Z"), []);
    assert_eq!(told(&l.connect(&[1])), [(vm(1), true)]);
}

/// Whatever was taken while the clock was a year ahead.
#[test]
fn one_of_a_time_that_has_not_come_does_not_hide_that_there_is_none() {
    let mut l = Lives::new(DAYS, "2026-03-01T12:00:00Z");
    l.connect(&[1]);
    let effects = l.send(by_nightly(1, "2027-02-01T02:30:00Z"));
    assert_eq!((told(&effects), stale(&l)), (vec![], vec![]));
    assert_eq!(tick(&mut l, "2026-03-03T12:00:00Z"), [(vm(1), true)]);
    assert_eq!(stale(&l), [(vm(1), None)]);
    let metrics = crate::core::view::metrics(l.bench.machine.view(), "1", l.bench.now);
    let last = metrics.lines().find(|line| line.starts_with("virtsnap_last_success_timestamp_seconds{"));
    assert!(last.is_some_and(|line| line.ends_with(" 0")), "{metrics}");
}

#[test]
fn whoever_does_not_want_it_or_is_gone_is_told_nothing_more() {
    let mut l = Lives::new(DAYS, "2026-03-01T12:00:00Z");
    l.connect(&[1, 2, 3]);
    let own = format!("{DAYS}[vm.vm1]\npolicy.nightly.stale-after = \"never\"\n");
    l.send(Event::Settings(settings(&own)));
    assert_eq!(tick(&mut l, "2026-03-03T12:00:00Z"), [(vm(2), true), (vm(3), true)]);
    assert_eq!(told(&l.send(Event::VmGone(vm(2)))), []);
    assert_eq!(l.store.awaited().unwrap().into_keys().collect::<Vec<_>>(), [vm(3)]);
    let effects = l.send(Event::Settings(settings(NIGHTLY)));
    assert_eq!((told(&effects), l.store.awaited().unwrap()), (vec![(vm(3), false)], BTreeMap::new()));
}
