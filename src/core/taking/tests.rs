use super::*;

fn part(target: &str) -> Part {
    Part {
        target: target.into(),
        overlay: format!("{target}.new"),
        image: format!("{target}.old"),
        format: "qcow2".into(),
    }
}

fn parts() -> Vec<Part> {
    vec![part("vda"), part("vdb")]
}

fn stand<'a>(
    target: &'a str,
    chain: &[&'a str],
    opened: Option<&[&'a str]>,
    configured: &'a str,
) -> Stand<'a> {
    Stand { target, chain: chain.to_vec(), opened: opened.map(<[_]>::to_vec), configured: Some(configured) }
}

const OLD: [&[&str]; 2] = [&["vda.old"], &["vdb.old"]];
const NEW: [&[&str]; 2] = [&["vda.new", "vda.old"], &["vdb.new", "vdb.old"]];

fn stands(
    live: [&[&'static str]; 2],
    opened: Option<[&[&'static str]; 2]>,
    named: &'static str,
) -> Vec<Stand<'static>> {
    let configured = |target| match (target, named) {
        ("vda", "old") => "vda.old",
        ("vdb", "old") => "vdb.old",
        ("vda", _) => "vda.new",
        _ => "vdb.new",
    };
    ["vda", "vdb"]
        .into_iter()
        .enumerate()
        .map(|(i, target)| stand(target, live[i], opened.map(|o| o[i]), configured(target)))
        .collect()
}

fn both() -> Vec<String> {
    vec!["vda".to_owned(), "vdb".to_owned()]
}

#[test]
fn overlays_that_nothing_is_on_can_go() {
    assert_eq!(became(&parts(), &stands(OLD, Some(OLD), "old")), Became::Nothing);
    assert_eq!(became(&parts(), &stands(OLD, None, "old")), Became::Nothing);
    assert_eq!(became(&[], &stands(NEW, Some(NEW), "new")), Became::Nothing, "it made none");
    assert_eq!(became(&parts(), &[]), Became::Nothing, "the VM has none of these disks");
}

#[test]
fn what_qemu_writes_to_counts_and_not_what_libvirt_says() {
    assert_eq!(became(&parts(), &stands(OLD, Some(NEW), "old")), Became::Adrift(both()));
    assert_eq!(
        became(&parts(), &stands(OLD, Some(NEW), "new")),
        Became::Adrift(vec![]),
        "it was set right before"
    );
}

#[test]
fn what_libvirt_knows_is_a_snapshot_without_a_name() {
    assert_eq!(became(&parts(), &stands(NEW, Some(NEW), "new")), Became::Taken(vec![]));
    assert_eq!(became(&parts(), &stands(NEW, Some(NEW), "old")), Became::Taken(both()));
    assert_eq!(became(&parts(), &stands(NEW, None, "new")), Became::Taken(vec![]), "it is off by now");
}

#[test]
fn what_is_in_a_chain_in_any_other_way_is_not_removed() {
    let later: [&[&str]; 2] = [&["later", "vda.new", "vda.old"], &["vdb.old"]];
    assert_eq!(became(&parts(), &stands(later, Some(later), "old")), Became::Used);
    assert_eq!(became(&parts(), &stands(OLD, Some(later), "old")), Became::Used);
    let half: [&[&str]; 2] = [NEW[0], OLD[1]];
    assert_eq!(became(&parts(), &stands(OLD, Some(half), "old")), Became::Used);
    assert_eq!(became(&parts(), &stands(OLD, Some(OLD), "new")), Became::Used, "its next start is on them");
}
