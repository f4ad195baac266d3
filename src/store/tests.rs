use super::*;
use crate::core::{
    job::JobResult,
    machine::{Entry, Owed, Place},
    model::{Consistency, PolicyName},
    policy::Quiesce,
};

fn intent() -> Intent {
    Intent {
        id: Uuid::from_u128(1),
        vm: VmId(Uuid::from_u128(2)),
        name: SnapshotName::existing("a\nb"),
        create: true,
        overlays: vec!["/i/x y.qcow2".into(), "/i/z\n.qcow2".into()],
    }
}

#[test]
fn what_is_written_is_read_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let quality = Quality {
        reached: Consistency::Filesystem,
        requested: Some(Quiesce::Require),
        note: "n".into(),
        frozen: SignedDuration::from_micros(123_456),
    };
    let at = Timestamp::from_microsecond(1_763_692_200_123_456).unwrap();
    {
        let store = Store::open(&path).unwrap();
        store.begin(&intent(), at).unwrap();
        store.freeze_begins(intent().vm, at).unwrap();
        store.remember(&[place("nightly", at)]).unwrap();
        store.set_last_plausible(at).unwrap();
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(store.intents().unwrap(), [intent()]);
    assert_eq!(store.frozen().unwrap(), [intent().vm].into());
    assert_eq!(store.places().unwrap(), [(policy("nightly"), full(at))].into());
    assert_eq!(store.last_plausible().unwrap(), Some(at));
    store.created(&intent(), &quality).unwrap();
    store.freeze_ended(intent().vm).unwrap();
    assert_eq!(store.intents().unwrap(), []);
    assert!(store.frozen().unwrap().is_empty());
    assert_eq!(store.qualities(intent().vm).unwrap(), [(intent().id, quality)].into());
    store.gone(intent().id).unwrap();
    assert!(store.qualities(intent().vm).unwrap().is_empty());
}

#[test]
fn the_newest_time_that_passed_goes_back_for_a_person_alone() {
    let store = Store::in_memory().unwrap();
    // As text, the one of nine digits would be the newer one.
    let [early, late] = [999_999_999, 1_000_000_000].map(|us| Timestamp::from_microsecond(us).unwrap());
    assert_eq!(store.time_passed(early).unwrap(), early);
    assert_eq!(store.time_passed(late).unwrap(), late);
    assert_eq!(store.time_passed(early).unwrap(), late);
    assert_eq!(store.last_plausible().unwrap(), Some(late));
    assert_eq!(store.set_last_plausible(early).unwrap(), early);
    assert_eq!(store.last_plausible().unwrap(), Some(early));
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    drop(Store::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
}

fn policy(name: &str) -> PolicyName {
    name.parse().unwrap()
}

fn full(at: Timestamp) -> Place {
    let (times, last_result) = ("UTC\n@daily".to_owned(), Some(JobResult::Failed));
    Place { handled: at, peak: Some(at), times, last_run: Some(at), last_result }
}

fn place(name: &str, handled: Timestamp) -> Entry {
    Entry::Place(policy(name), full(handled))
}

#[test]
fn what_is_owed_is_kept_until_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let at = |second| Timestamp::from_second(second).unwrap();
    let vm = |n| VmId(Uuid::from_u128(n));
    let owed = |fired, not_before| Owed { fired: at(fired), not_before: at(not_before) };
    let (a, b) = (policy("a"), policy("b"));
    {
        let store = Store::open(&path).unwrap();
        let rows = |owed| (1..=1000).map(|n| (vm(n), owed)).collect::<Vec<_>>();
        let entries = [
            place("a", at(9)),
            Entry::Owed(a.clone(), rows(owed(9, 10))),
            Entry::Owed(b.clone(), rows(owed(9, 9))),
        ];
        store.remember(&entries).unwrap();
        // Fired again, settled, and of no interest any more.
        let settled: Vec<_> = (3..=1000).map(|n| Entry::Settled(a.clone(), vm(n))).collect();
        store.remember(&settled).unwrap();
        store.remember(&[Entry::Owed(a.clone(), vec![(vm(2), owed(11, 12))]), Entry::Cleared(b)]).unwrap();
    }
    let store = Store::open(&path).unwrap();
    let left = [(vm(1), owed(9, 10)), (vm(2), owed(11, 12))];
    assert_eq!(store.owed().unwrap(), [(a.clone(), left.into())].into());
    store.remember(&[Entry::Gone(a)]).unwrap();
    assert!(store.owed().unwrap().is_empty() && store.places().unwrap().is_empty());
}

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.execute("INSERT INTO handled VALUES ('nightly', 1000000)", []).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    let store = Store::open(&path).unwrap();
    let handled = Timestamp::from_second(1).unwrap();
    assert_eq!(store.places().unwrap(), [(policy("nightly"), Place::new(handled))].into());
    assert!(store.owed().unwrap().is_empty());
}
