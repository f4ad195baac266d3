use super::*;

fn on(path: &str) -> File {
    File::On(Some((path.to_owned(), false)))
}

fn vm(name: &str, own: bool, images: &[&str]) -> Holder {
    let named = |path: &&str| Named { path: (*path).to_owned(), raw: false, vital: true };
    Holder { user: User::Vm(name.to_owned()), own, names: images.iter().map(named).collect() }
}

fn snapshot(of: &str, images: &[&str]) -> Holder {
    let mut holder = vm(of, false, images);
    holder.names.iter_mut().for_each(|n| n.vital = false);
    holder.user = User::Snapshot { vm: of.to_owned(), name: SnapshotName::existing("s1") };
    holder
}

fn family(files: &[(&str, File)], holders: Vec<Holder>) -> Family {
    let files = files.iter().map(|(path, file)| ((*path).to_owned(), file.clone())).collect();
    Family { files, holders, ..Family::default() }
}

fn users(family: &Family, images: &[&str]) -> Vec<String> {
    let images = images.iter().map(|i| (*i).to_owned()).collect();
    family.users(&images).unwrap().into_iter().map(|(image, user)| format!("{image}: {user}")).collect()
}

/// `a` on `base`, on which others lie as well.
fn shared() -> Vec<(&'static str, File)> {
    vec![("/base", File::On(None)), ("/a", on("/base")), ("/b", on("/base")), ("/c", on("/b"))]
}

#[test]
fn whoever_stands_on_it_however_far_above_is_found() {
    let mine = || vm("mine", true, &["/a"]);
    assert_eq!(users(&family(&shared()[..2], vec![mine()]), &["/base", "/a"]), [""; 0]);
    let clone = family(&shared(), vec![mine(), vm("clone", false, &["/c"])]);
    assert_eq!(users(&clone, &["/base"]), ["/base: VM clone"]);
    assert_eq!(users(&clone, &["/a"]), [""; 0]);
    let kept = family(&shared(), vec![mine(), vm("clone", false, &[]), snapshot("clone", &["/b"])]);
    assert_eq!(
        users(&kept, &["/base"]),
        ["/base: snapshot s1 of VM clone", "/base: /c, which no VM has"],
        "and what lies on the snapshot's image is nobody's"
    );
}

#[test]
fn an_image_that_nobody_has_counts_and_those_asked_about_do_not_stand_in_their_own_way() {
    let all = family(&shared(), vec![vm("mine", true, &["/a"])]);
    assert_eq!(users(&all, &["/base"]), ["/base: /b, which no VM has", "/base: /c, which no VM has"]);
    assert_eq!(users(&all, &["/base", "/b", "/c"]), [""; 0]);
    assert_eq!(users(&all, &["/b"]), ["/b: /c, which no VM has"]);
}

#[test]
fn what_cannot_be_followed_is_no_answer() {
    let images = BTreeSet::from(["/base".to_owned()]);
    let unknown = |file: Option<File>, holder: Holder| {
        let mut files = shared();
        files.truncate(2);
        files.extend(file.map(|f| ("/lost", f)));
        family(&files, vec![vm("mine", true, &["/a", "/gone"]), holder]).users(&images).unwrap_err()
    };
    for file in [None, Some(File::Missing), Some(on("/deeper")), Some(File::Unreadable("is locked".into()))] {
        let deeper = matches!(file, Some(File::On(_)));
        let e = unknown(file, vm("clone", false, &["/lost"]));
        assert_eq!(e.path, if deeper { "/deeper" } else { "/lost" });
        assert!(e.to_string().contains("VM clone"), "{e}");
    }
    let e = unknown(Some(File::Unreadable("is locked".into())), snapshot("clone", &["/lost"]));
    assert!(e.to_string().contains("/lost is locked"), "{e}");
    // A snapshot whose image is gone is lost already: nothing can be taken from it.
    let lost = family(&shared()[..2], vec![snapshot("clone", &["/lost"])]);
    assert_eq!(users(&lost, &["/base"]), ["/base: /a, which no VM has"]);
}

/// An image that is gone was on what metadata says.
#[test]
fn what_metadata_says_of_a_missing_image_is_followed() {
    let told = |told: &[(&str, &[&str])]| {
        let mut family = family(&shared(), vec![vm("mine", true, &["/a"]), vm("other", false, &["/lost"])]);
        let on = |below: &[&str]| below.iter().map(|path| ((*path).to_owned(), false)).collect();
        family.told = told.iter().map(|(path, below)| ((*path).to_owned(), on(below))).collect();
        family.files.remove("/c");
        family
    };
    let base = BTreeSet::from(["/base".to_owned()]);
    // On something else, or on nothing: it is not in the way.
    for elsewhere in [&[("/lost", &["/x"][..]), ("/x", &[])][..], &[("/lost", &[])]] {
        let found = told(elsewhere).users(&base).unwrap();
        assert_eq!(found, [("/base".to_owned(), User::Volume("/b".to_owned()))]);
    }
    // On one that lies on it, be that but one of two.
    for on_it in [&[("/lost", &["/b"][..])][..], &[("/lost", &["/b", "/x"]), ("/x", &[])]] {
        assert_eq!(users(&told(on_it), &["/base"]), ["/base: VM other"]);
    }
    // What nothing says anything of may lie on it.
    let unknown = told(&[("/lost", &["/x"])]);
    assert_eq!(unknown.users(&base).unwrap_err().path, "/x");
    assert!(unknown.unexplored().contains("/x"));
    // What is there says it itself.
    let mut there = told(&[("/lost", &["/b"])]);
    there.files.insert("/lost".to_owned(), File::On(None));
    assert_eq!(users(&there, &["/base"]), ["/base: /b, which no VM has"]);
    there.files.insert("/lost".to_owned(), File::Unreadable("is locked".to_owned()));
    assert_eq!(there.users(&base).unwrap_err().path, "/lost");
}

/// A guest can write what looks like a header to its raw disk: it must not make others' images look used.
#[test]
fn a_raw_image_names_no_other() {
    let mut forger = vm("forger", false, &["/raw"]);
    forger.names[0].raw = true;
    let files = [("/base", File::On(None)), ("/raw", on("/base"))];
    assert_eq!(users(&family(&files, vec![forger.clone()]), &["/base"]), [""; 0]);
    let both = family(&files, vec![forger, vm("b", false, &["/raw"])]);
    assert_eq!(users(&both, &["/base"]), ["/base: VM b"], "for it the header counts");
    let below =
        [("/base", File::On(None)), ("/raw", on("/base")), ("/top", File::On(Some(("/raw".into(), true))))];
    assert_eq!(users(&family(&below, vec![vm("v", false, &["/top"])]), &["/base"]), [""; 0]);
}

#[test]
fn what_is_not_known_yet_is_named_and_a_ring_ends() {
    let mut files = shared();
    files.truncate(2);
    files.push(("/x", on("/elsewhere")));
    let family = family(&files, vec![vm("v", false, &["/y", "/a"])]);
    assert_eq!(family.unexplored().into_iter().collect::<Vec<_>>(), ["/elsewhere", "/y"]);
    let ring = [("/a", on("/b")), ("/b", on("/a"))];
    let ring = ring.map(|(p, f)| (p.to_owned(), f)).into();
    let ring = super::Family { files: ring, ..super::Family::default() };
    assert_eq!(users(&ring, &["/b"]), ["/b: /a, which no VM has"]);
}
