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
    assert_eq!(read(&mut bench, broken("b")).len(), 1, "another one is");
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
