use super::*;

/// Names that live as long as the tests.
fn name(text: &str) -> &'static SnapshotName {
    Box::leak(Box::new(SnapshotName::existing(text)))
}

fn disk(chain: &[&'static str]) -> DiskFacts<'static> {
    let configured = chain.first().copied();
    DiskFacts { target: "vda", chain: chain.to_vec(), configured, written_out: None, lost: None }
}

fn snapshot(
    named: &str,
    parent: Option<&str>,
    overlay: &'static str,
    state_image: &'static str,
) -> SnapshotFacts<'static> {
    SnapshotFacts {
        name: name(named),
        parent: parent.map(name),
        current: false,
        internal: false,
        marked: false,
        disks: vec![("vda", overlay, state_image)],
        reverted: vec![],
        lost: vec![],
        memory_lost: None,
        xml_bytes: 9_000,
    }
}

/// Three in a row, the VM on top of them.
fn sound() -> Facts<'static> {
    let mut snapshots = vec![
        snapshot("s1", None, "o1", "base"),
        snapshot("s2", Some("s1"), "o2", "o1"),
        snapshot("s3", Some("s2"), "o3", "o2"),
    ];
    snapshots[2].current = true;
    Facts {
        disks: vec![disk(&["o3", "o2", "o1", "base"])],
        snapshots,
        keeps_revert_disks: true,
        layer_limit: 25,
        unfinished: false,
    }
}

#[track_caller]
fn only(facts: &Facts<'_>) -> Finding {
    let mut found = examine(facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn what_is_sound_has_no_finding() {
    assert_eq!(examine(&sound()), []);
    assert_eq!(worst(&[]), Health::Ok);
    let none = Facts { snapshots: vec![], ..sound() };
    assert_eq!(examine(&none), [], "nobody has to be current where nobody is");
    // A disk that no snapshot has may be on anything.
    let mut facts = sound();
    facts.disks.push(DiskFacts { target: "vdb", ..disk(&["b2", "b1"]) });
    assert_eq!(examine(&facts), []);
}

#[test]
fn a_definition_that_writes_out_what_is_under_a_disk_has_to_be_right() {
    let written = |images: &[&'static str], ends| {
        let written_out = Some(Written { images: images.to_vec(), ends });
        let disk = DiskFacts { written_out, ..disk(&["o3", "o2", "o1", "base"]) };
        Facts { disks: vec![disk], ..sound() }
    };
    let with = |images: &[&'static str]| written(images, true);
    assert_eq!(examine(&with(&["o3", "o2", "o1", "base"])), []);
    // What is left out the images say.
    assert_eq!(examine(&written(&["o3", "o2"], false)), []);
    for (images, ends) in [(&["o3", "o2"][..], true), (&["o3", "o1"], false)] {
        assert_eq!(only(&written(images, ends)).health, Health::Broken, "{images:?}");
    }
    let found = only(&with(&["o3", "o1", "base"]));
    assert_eq!((found.health, &found.repair), (Health::Broken, &None));
    for words in ["vda runs on o3 → o2 → o1 → base", "writes out o3 → o1 → base", "<backingStore>"]
    {
        assert!(found.text.contains(words), "{found:?}");
    }
    let still = Facts { unfinished: true, ..with(&["o3", "o1", "base"]) };
    assert_eq!(examine(&still), [], "a job that goes on changes it");
}

#[test]
fn an_image_of_a_stopped_vm_that_is_not_there_is_told_with_the_way_out() {
    let mut facts = sound();
    facts.disks[0].lost = Some("base");
    let found = only(&facts);
    assert_eq!((found.health, &found.repair), (Health::Broken, &None));
    for words in ["vda lies on base", "cannot start", "detach-disk"] {
        assert!(found.text.contains(words), "{}", found.text);
    }
}

#[test]
fn memory_that_is_not_there_is_told_with_what_is_left() {
    let mut facts = sound();
    facts.snapshots[1].memory_lost = Some("/i/m");
    let found = only(&facts);
    assert_eq!((found.health, &found.repair), (Health::Degraded, &None));
    assert!(found.text.starts_with("The memory of snapshot s2 is lost: /i/m"), "{}", found.text);
    assert!(found.text.contains("--off"), "{}", found.text);
}

#[test]
fn without_a_current_one_the_images_prove_which_it_is() {
    let mut facts = sound();
    facts.snapshots[2].current = false;
    let found = only(&facts);
    assert_eq!(found.repair, Some(Repair::MakeCurrent(name("s3").clone())));
    assert_eq!(found.health, Health::Broken);
    assert!(found.text.contains("No snapshot is the current one") && found.text.ends_with("from s3."));
}

#[test]
fn what_layers_without_a_name_lie_on_is_told_where_libvirt_lost_the_current_one() {
    let mut facts = sound();
    facts.snapshots[2].current = false;
    facts.disks = vec![disk(&["x", "o3", "o2", "o1", "base"])];
    let found = only(&facts);
    assert_eq!((found.health, &found.repair), (Health::Broken, &None));
    assert!(found.text.contains("No snapshot is the current one") && found.text.contains("those lie on s3:"));
    for way in ["`virsh snapshot-current`", "adopt --layers"] {
        assert!(found.text.contains(way), "{}", found.text);
    }
    // A branch from s2 that starts on the same image: it may have been either of them.
    facts.snapshots.push(snapshot("b3", Some("s2"), "o3", "o2"));
    assert!(!only(&facts).text.contains("those lie on"));
}

#[test]
fn a_wrong_current_one_is_told_from_the_right_one() {
    let mut facts = sound();
    facts.snapshots[2].current = false;
    facts.snapshots[0].current = true;
    let found = only(&facts);
    assert_eq!(found.repair, Some(Repair::MakeCurrent(name("s3").clone())));
    assert!(found.text.starts_with("s1 is the current snapshot, but disk vda runs on o3"), "{}", found.text);
}

#[test]
fn where_nothing_fits_nothing_is_repaired() {
    let mut facts = sound();
    facts.disks = vec![disk(&["base"])];
    let found = only(&facts);
    assert_eq!(found.repair, None);
    assert!(found.text.contains("nothing is merged, deleted or reverted"));
    // A layer that nobody's metadata has, on top.
    facts.disks = vec![disk(&["x", "o3", "o2", "o1", "base"])];
    assert_eq!(only(&facts).repair, None);
    // A snapshot without disks fits anything, and proves nothing.
    let mut facts = sound();
    facts.disks = vec![disk(&["base"])];
    facts.snapshots.push(SnapshotFacts { disks: vec![], ..snapshot("empty", None, "", "") });
    assert_eq!(only(&facts).repair, None);
}

#[test]
fn what_is_not_finished_yet_is_not_judged() {
    let mut facts = sound();
    facts.snapshots[2].current = false;
    facts.unfinished = true;
    assert_eq!(examine(&facts), []);
    facts.disks[0].configured = Some("o2");
    assert_eq!(examine(&facts).len(), 1, "but what is wrong in any case is told");
}

#[test]
fn a_revert_that_is_not_written_down_is_found_and_put_right() {
    let mut facts = sound();
    facts.snapshots[2].current = false;
    facts.snapshots[0].current = true;
    facts.disks = vec![disk(&["r1", "base"])];
    let on = vec![("vda".to_owned(), "r1".to_owned())];
    assert_eq!(only(&facts).repair, Some(Repair::SetRevertDisks(name("s1").clone(), on)));
    facts.snapshots[0].reverted = vec![("vda", "r0")];
    assert!(only(&facts).repair.is_some(), "it says something else");
    facts.snapshots[0].reverted = vec![("vda", "r1")];
    assert_eq!(examine(&facts), []);
    // libvirt 9 has no place for it, and does not go by it.
    facts.snapshots[0].reverted = vec![];
    facts.keeps_revert_disks = false;
    assert_eq!(examine(&facts), []);
}

#[test]
fn a_definition_that_names_another_image_is_found() {
    let mut facts = sound();
    facts.disks[0].configured = Some("o2");
    assert!(only(&facts).text.contains("runs on o3, but the VM's definition names o2"));
    facts.disks[0].configured = None;
    assert_eq!(examine(&facts), [], "a transient VM has none");
}

#[test]
fn a_chain_that_is_too_deep_is_found() {
    let facts = Facts { layer_limit: 3, ..sound() };
    assert!(only(&facts).text.contains("Disk vda has 4 images"));
    assert_eq!(examine(&Facts { layer_limit: 4, ..sound() }), []);
}

#[test]
fn lost_images_marks_and_long_metadata_are_found_the_worst_first() {
    let mut facts = sound();
    facts.snapshots[0].marked = true;
    facts.snapshots[1].lost = vec!["o1"];
    facts.snapshots[2].xml_bytes = NEAR;
    let found = examine(&facts);
    let health: Vec<_> = found.iter().map(|f| f.health).collect();
    assert_eq!(health, [Health::Broken, Health::Degraded, Health::Degraded], "{found:#?}");
    assert!(found[0].text.starts_with("Snapshot s2 is lost: o1 is not there"));
    assert!(found[1].text.contains("A deletion of s1") && found[2].text.contains("896 KiB"));
    facts.snapshots[2].xml_bytes = READ_BACK;
    assert_eq!(worst(&examine(&facts)), Health::Broken);
    facts.snapshots[2].xml_bytes = NEAR - 1;
    assert_eq!(examine(&facts).len(), 2);
}

#[test]
fn parents_that_are_not_there_or_form_a_ring_are_found_and_end() {
    let mut facts = sound();
    facts.snapshots[1].parent = Some(name("gone"));
    assert!(only(&facts).text.starts_with("s2's parent gone is not there"));
    facts.snapshots[1].parent = Some(name("s3"));
    assert!(only(&facts).text.contains("ring"));
}

#[test]
fn two_kinds_in_one_vm_are_told() {
    let mut facts = sound();
    let internal = SnapshotFacts { internal: true, disks: vec![], ..snapshot("i", Some("s3"), "", "") };
    facts.snapshots.push(internal);
    let found = only(&facts);
    assert_eq!(found.health, Health::Degraded);
    assert!(found.text.contains("(i and s1)"));
}
