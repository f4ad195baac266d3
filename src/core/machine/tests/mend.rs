use jiff::SignedDuration;

use super::*;
use crate::core::health::{Finding, Health, Repair};

fn broken(name: &str) -> VmRecord {
    let repair = Some(Repair::MakeCurrent(SnapshotName::existing(name)));
    let finding = Finding { health: Health::Broken, text: format!("{name} should be current."), repair };
    VmRecord { findings: vec![finding], ..record(1, &[("ours", true)]) }
}

fn read(bench: &mut Bench, record: VmRecord) -> Vec<Job> {
    started(&bench.send(Event::VmRead(Box::new(record))))
}

#[test]
fn a_fault_is_mended_once_and_told_until_it_is_gone() {
    let mut bench = Bench::new("", "2026-01-01T12:00:00Z", None);
    bench.connect(&[1]);
    let jobs = read(&mut bench, broken("a"));
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!((&jobs[0].operation, jobs[0].asker.origin), (&Operation::Repair, Origin::Safety));

    assert!(read(&mut bench, broken("between")).is_empty());
    let told = |bench: &Bench| bench.machine.view().vms[&vm(1)].record.findings.clone();
    assert_eq!(told(&bench), broken("a").findings, "what is read in the middle of it shows its steps");

    bench.send(Event::Ended(jobs[0].id, Outcome::Failed(Failure::new("Failed", "it did not help"))));
    assert!(read(&mut bench, broken("a")).is_empty(), "the same is not tried again");
    assert_eq!(told(&bench), broken("a").findings);
    bench.now += SignedDuration::from_mins(10);
    let jobs = read(&mut bench, broken("a"));
    assert_eq!(jobs.len(), 1, "but after a while it is");
    bench.send(Event::Ended(jobs[0].id, Outcome::Failed(Failure::new("Failed", "it did not help"))));
    assert_eq!(read(&mut bench, broken("b")).len(), 1, "another one is at once");
}

/// A row of jobs on one VM: what each leaves is told at its end, although the next one begins at once.
#[test]
fn what_a_job_leaves_is_told_at_its_end() {
    let mut bench = Bench::new("", "2026-01-01T12:00:00Z", None);
    bench.connect(&[1]);
    let told = |bench: &Bench| bench.machine.view().vms[&vm(1)].record.findings.clone();
    let sound = || record(1, &[("ours", true)]);
    let prune = |all| Change::Prune { vm: vm(1), all, pace: Pace::default() };
    let jobs = read(&mut bench, broken("a"));
    for (n, all) in [false, true].into_iter().enumerate() {
        let asked = Event::Request(n as u64, Request::Change(prune(all), 0));
        assert!(started(&bench.send(asked)).is_empty(), "one at a time");
    }
    read(&mut bench, sound());
    let next = started(&bench.send(Event::Ended(jobs[0].id, Outcome::Done(None))));
    assert_eq!(next.len(), 1, "the next one begins");
    assert_eq!(told(&bench), []);
    // This one's steps are nobody's business, and where the VM could not be read after it what was known stays.
    read(&mut bench, broken("between"));
    bench.send(Event::VmUnreadable(vm(1), "libvirt says no".to_owned()));
    bench.send(Event::Ended(next[0].id, Outcome::Done(None)));
    assert_eq!(told(&bench), []);
}

#[test]
fn the_log_is_told_when_it_changes() {
    let mut bench = Bench::new("", "2026-01-01T12:00:00Z", None);
    bench.connect(&[1]);
    let told = |effects: &[Effect]| -> Vec<(Health, String)> {
        let health = effects.iter().filter_map(|e| match e {
            Effect::Log(Note::Health { vm: id, health, text, .. }) if *id == vm(1) => {
                Some((*health, text.clone()))
            }
            _ => None,
        });
        health.collect()
    };
    let theirs = |findings| Event::VmRead(Box::new(VmRecord { findings, ..record(1, &[("theirs", false)]) }));
    assert!(told(&bench.send(theirs(Vec::new()))).is_empty());
    let found = told(&bench.send(theirs(broken("a").findings)));
    assert!(
        matches!(&found[..], [(Health::Broken, text)] if text.contains("a should be current.")),
        "{found:?}"
    );
    assert!(told(&bench.send(theirs(broken("a").findings))).is_empty(), "once");
    assert_eq!(told(&bench.send(theirs(Vec::new()))), [(Health::Ok, String::new())]);
}

#[test]
fn a_vm_without_a_snapshot_of_ours_is_left_alone() {
    let mut bench = Bench::new("", "2026-01-01T12:00:00Z", None);
    bench.connect(&[1]);
    let foreign = VmRecord { findings: broken("a").findings, ..record(1, &[("theirs", false)]) };
    assert!(read(&mut bench, foreign).is_empty());
    assert_eq!(bench.machine.view().vms[&vm(1)].record.findings.len(), 1, "but it is told");
}

#[test]
fn what_comes_back_is_mended_again() {
    let mut bench = Bench::new("", "2026-01-01T12:00:00Z", None);
    bench.connect(&[1]);
    let jobs = read(&mut bench, broken("a"));
    bench.send(Event::Ended(jobs[0].id, Outcome::Done(None)));
    assert!(read(&mut bench, record(1, &[])).is_empty());
    assert!(bench.machine.view().vms[&vm(1)].record.findings.is_empty());
    assert_eq!(read(&mut bench, broken("a")).len(), 1);
}
