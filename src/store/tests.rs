use super::*;
use crate::core::{
    copied::CopiedDisk,
    job::JobResult,
    machine::{Effort, Entry, Failed, Owed, Place},
    merge::{DiskPart, Doomed, Recipe},
    model::{Consistency, PolicyName, SnapshotName},
    policy::Quiesce,
};

fn intent() -> Intent {
    Intent {
        id: Uuid::from_u128(1),
        vm: VmId(Uuid::from_u128(2)),
        name: SnapshotName::existing("a\nb"),
        what: Begun::Create(Box::default()),
        overlays: vec!["/i/x y.qcow2".into(), "/i/z\n.qcow2".into()],
        phase: String::new(),
    }
}

#[test]
fn what_is_written_is_read_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let quality = Quality {
        reached: Consistency::Filesystem,
        requested: Some(Quiesce::Require),
        memory: true,
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

fn recipe(run: &[(&str, Option<u128>)]) -> Recipe {
    let doomed = |&(name, id): &(&str, Option<u128>)| Doomed {
        name: SnapshotName::existing(name),
        id: id.map(Uuid::from_u128),
    };
    Recipe {
        run: run.iter().map(doomed).collect(),
        disks: vec![DiskPart {
            target: "vda".into(),
            base: "/i/base\"\n.qcow2".into(),
            base_format: "raw".into(),
            top: "/i/b.qcow2".into(),
            gone: vec!["/i/a.qcow2".into(), "/i/b.qcow2".into()],
            above: Some("/i/c.qcow2".into()),
            base_bytes: Some(65_536),
        }],
        told: vec![SnapshotName::existing("c")],
        files: vec!["/i/a.memory".into()],
        current: None,
        marked: vec![SnapshotName::existing("m")],
        begun: true,
    }
}

#[test]
fn a_merge_is_read_back_with_its_recipe_and_how_far_it_got() {
    let store = Store::in_memory().unwrap();
    let vm = VmId(Uuid::from_u128(9));
    let mut begun = Intent::new(
        Uuid::from_u128(1),
        vm,
        SnapshotName::existing("a"),
        Begun::Merge(recipe(&[("a", Some(1)), ("b", Some(2))])),
    );
    store.begin(&begun, Timestamp::UNIX_EPOCH).unwrap();
    store.reached(begun.id, "vda").unwrap();
    "vda".clone_into(&mut begun.phase);
    assert_eq!(store.intents().unwrap(), [begun.clone()]);
    store.all_gone([1, 2].map(Uuid::from_u128)).unwrap();
    assert_eq!(store.intents().unwrap(), []);
    assert_eq!(store.half_deleted(vm).unwrap(), HalfDeleted::default());
}

#[test]
fn all_of_an_interrupted_run_count_as_half_deleted_and_nothing_else_does() {
    let store = Store::in_memory().unwrap();
    let (vm, other) = (VmId(Uuid::from_u128(8)), VmId(Uuid::from_u128(9)));
    let begin = |vm, id: u128, name: &str, what| {
        let intent = Intent::new(Uuid::from_u128(id), vm, SnapshotName::existing(name), what);
        store.begin(&intent, Timestamp::UNIX_EPOCH).unwrap();
    };
    begin(vm, 1, "a", Begun::Merge(recipe(&[("a", Some(1)), ("b", Some(2)), ("theirs", None)])));
    begin(vm, 3, "c", Begun::Delete);
    begin(vm, 4, "d", Begun::Create(Box::default()));
    begin(other, 5, "e", Begun::Delete);
    let half = store.half_deleted(vm).unwrap();
    let has = |name: &str, id: Option<u128>| half.has(&SnapshotName::existing(name), id.map(Uuid::from_u128));
    assert!(has("a", Some(1)) && has("b", Some(2)) && has("c", Some(3)) && has("theirs", None));
    assert!(!has("d", Some(4)) && !has("e", Some(5)), "one is made, one is another VM's");
    assert!(!has("a", Some(7)) && !has("theirs", Some(7)) && !has("a", None), "names are used again");
}

#[test]
fn a_detail_that_nobody_can_read_is_no_intent_and_its_snapshot_is_not_trusted() {
    let store = Store::in_memory().unwrap();
    let intent = Intent::new(Uuid::from_u128(1), intent().vm, SnapshotName::existing("a"), Begun::Delete);
    store.begin(&intent, Timestamp::UNIX_EPOCH).unwrap();
    store.write("UPDATE intent SET kind = 'merge', detail = '{'", []).unwrap();
    assert_eq!(store.intents().unwrap(), []);
    assert!(store.half_deleted(intent.vm).unwrap().has(&intent.name, Some(intent.id)));
}

#[test]
fn who_was_woken_and_how_metadata_was_is_known_until_it_is_settled() {
    let store = Store::in_memory().unwrap();
    let (vm, other) = (VmId(Uuid::from_u128(8)), VmId(Uuid::from_u128(9)));
    let at = |second| Timestamp::from_second(second).unwrap();
    for vm in [vm, other, vm] {
        store.wakes(vm, at(1)).unwrap();
    }
    store.sleeps(other).unwrap();
    assert_eq!(store.awake().unwrap(), [vm].into());
    assert!(store.is_awake(vm, Some(4)).unwrap(), "which life that is nobody knows yet");
    store.woken(vm, 4).unwrap();
    assert!(store.is_awake(vm, Some(4)).unwrap());
    assert!(!store.is_awake(vm, Some(5)).unwrap() && !store.is_awake(vm, None).unwrap());
    assert!(!store.is_awake(other, Some(4)).unwrap());
    store.wakes(vm, at(2)).unwrap();
    assert!(store.is_awake(vm, Some(5)).unwrap(), "it is another one");

    store.stills(vm, 4).unwrap();
    store.stills(other, u64::from(u32::MAX)).unwrap();
    store.stills(vm, 5).unwrap();
    assert_eq!(store.stilled().unwrap(), [(vm, 5), (other, u64::from(u32::MAX))].into());
    store.goes_on(other).unwrap();
    assert_eq!(store.stilled().unwrap(), [(vm, 5)].into());

    let (a, b) = (SnapshotName::existing("a\n"), SnapshotName::existing("b"));
    store.keep_copy(vm, &b, "<b/>", at(2)).unwrap();
    store.keep_copy(vm, &a, "<a/>", at(3)).unwrap();
    store.keep_copy(vm, &b, "<changed/>", at(4)).unwrap();
    assert_eq!(store.copies(vm).unwrap(), [b.clone(), a.clone()]);
    assert_eq!(store.copy(vm, &b).unwrap().as_deref(), Some("<b/>"), "as it was before the first change");
    assert_eq!(store.copy(other, &b).unwrap(), None);
    store.drop_copy(vm, &b).unwrap();
    assert_eq!(store.copies(vm).unwrap(), [a]);
}

#[test]
fn with_another_boot_of_the_host_all_lives_are_others() {
    let store = Store::in_memory().unwrap();
    let vm = VmId(Uuid::from_u128(7));
    let disk = CopiedDisk { vm, target: "vda".to_owned(), images: Vec::new(), life: Some(4) };
    let lives = || {
        (
            store.is_awake(vm, Some(4)).unwrap(),
            store.stilled().unwrap().len(),
            store.unsure().unwrap()[0].life,
        )
    };
    store.wakes(vm, Timestamp::UNIX_EPOCH).unwrap();
    store.woken(vm, 4).unwrap();
    store.stills(vm, 4).unwrap();
    store.copying(&disk).unwrap();
    for boot in ["one", "one"] {
        store.boots(boot).unwrap();
        assert_eq!(lives(), (true, 1, Some(4)), "as far as is known");
    }
    store.boots("two").unwrap();
    assert_eq!(lives(), (false, 0, None));
    assert_eq!(store.awake().unwrap(), BTreeSet::new());
}

#[test]
fn images_that_wait_for_their_removal_leave_nothing_unfinished() {
    let store = Store::in_memory().unwrap();
    let at = Timestamp::UNIX_EPOCH;
    store.begin(&Intent { what: Begun::Drop, ..intent() }, at).unwrap();
    assert!(!store.unfinished(intent().vm).unwrap());
    store.begin(&Intent { id: Uuid::from_u128(7), what: Begun::Delete, ..intent() }, at).unwrap();
    assert!(store.unfinished(intent().vm).unwrap());
    assert!(!store.unfinished(VmId(Uuid::from_u128(3))).unwrap());
    assert_eq!(store.intents().unwrap()[0].what, Begun::Drop, "it is read back as what it is");
}

#[test]
fn what_was_begun_becomes_the_rest_of_it_at_once_or_stays() {
    let store = Store::in_memory().unwrap();
    let at = Timestamp::UNIX_EPOCH;
    store
        .begin(&Intent { what: Begun::Merge(recipe(&[("a", Some(1)), ("b", Some(2))])), ..intent() }, at)
        .unwrap();
    let rest = Intent { id: Uuid::from_u128(7), what: Begun::Drop, ..intent() };
    store
        .write("CREATE TRIGGER full BEFORE INSERT ON intent BEGIN SELECT RAISE(ABORT, 'full'); END", [])
        .unwrap();
    store.becomes([1, 2].map(Uuid::from_u128), &rest, at).unwrap_err();
    assert!(matches!(store.intents().unwrap()[..], [Intent { what: Begun::Merge(_), .. }]));
    store.write("DROP TRIGGER full", []).unwrap();
    store.becomes([1, 2].map(Uuid::from_u128), &rest, at).unwrap();
    assert_eq!(store.intents().unwrap(), std::slice::from_ref(&rest));
    // Under the same identity, too.
    let again = Intent { overlays: Vec::new(), ..rest };
    store.becomes([again.id], &again, at).unwrap();
    assert_eq!(store.intents().unwrap(), [again]);
}

#[test]
fn nobody_else_may_read_it_and_it_knows_its_libvirt() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.uri().unwrap(), None);
    for uri in ["qemu:///system", "qemu+ssh://host/system"] {
        store.set_uri(uri).unwrap();
        assert_eq!(store.uri().unwrap().as_deref(), Some(uri));
    }
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
}

#[test]
fn what_failed_last_is_known_until_it_is_made_up_for() {
    let store = Store::in_memory().unwrap();
    let vm = |n| VmId(Uuid::from_u128(n));
    let failed = |effort, text: &str| Failed { effort, text: text.to_owned() };
    let first = failed(Effort::Taking, "no agent");
    let second = failed(Effort::Deleting, "no room");
    store.remember(&[Entry::Failed(vm(1), first), Entry::Failed(vm(1), second.clone())]).unwrap();
    store.remember(&[Entry::Failed(vm(2), failed(Effort::Other, ""))]).unwrap();
    store.remember(&[Entry::Worked(vm(2)), Entry::Worked(vm(3))]).unwrap();
    assert_eq!(store.failed().unwrap(), [(vm(1), second)].into());
}
