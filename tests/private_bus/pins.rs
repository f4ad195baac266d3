//! What people attach to snapshots: pins, tags, expiries, descriptions.

use jiff::SignedDuration;
use virtsnap::{
    clock::Clock as _,
    hypervisor::sim::{Op, VmSpec},
};
use zbus::Variant;

use super::{
    client::{Failure, Options, none, options},
    command_line::virtsnap,
    rig::{Rig, held, id, snapshot_path, vm_path},
};

/// Reason, owner, expiry.
type Pins = Vec<(String, String, u64)>;

/// A VM with snapshots of ours, `a` the oldest, and one that others made.
async fn world(policies: &str, names: &[&str]) -> Rig {
    let rig = Rig::start(policies, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
        sim.make_foreign_snapshot(id(2), "theirs").unwrap();
    })
    .await;
    for name in names {
        rig.client.create(id(1), name, none()).await.unwrap();
    }
    rig
}

async fn pin(rig: &Rig, path: &str, reason: &str, expires: u64) -> Result<(), Failure> {
    rig.client.call(path, "Snapshot.Pin", &(reason, expires, none())).await
}

async fn unpin(rig: &Rig, path: &str, options: Options) -> Result<(), Failure> {
    rig.client.call(path, "Snapshot.Unpin", &(options,)).await
}

async fn update(rig: &Rig, path: &str, options: Options) -> Result<(), Failure> {
    rig.client.call(path, "Snapshot.Update", &(options,)).await
}

async fn pins(rig: &Rig, path: &str) -> Pins {
    rig.client.get(path, "Snapshot.Pins").await
}

fn tags(words: &[&'static str]) -> Variant<'static> {
    words.to_vec().into()
}

/// The daemon's time in so many hours, in µs.
fn in_hours(rig: &Rig, hours: i64) -> u64 {
    (rig.clock.now() + SignedDuration::from_hours(hours)).as_microsecond().try_into().unwrap()
}

/// Lets hours pass, and has the daemon look at the clock.
fn hours(rig: &Rig, hours: i64) {
    rig.clock.advance(SignedDuration::from_hours(hours));
    let tag = rig.clock.now().to_string();
    rig.sim.set_tags(id(2), &[&tag]).unwrap();
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Failure>, name: &str, parts: &[&str]) {
    let (error, text) = answer.unwrap_err();
    assert_eq!(error, name, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_holds_over_prunes_deletions_and_restarts_until_it_is_taken_off() {
    let mut rig = world("[policy.p]\nvms = [\"web\"]\nmax-count = 1\n", &[]).await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        rig.write_policies("[policy.p]\nvms = [\"web\"]\nmax-count = 9\n");
        rig.client.call::<_, ()>("/org/virtsnap1", "Manager.Reload", &(none(),)).await.unwrap();
        let job = rig.client.run("p", none()).await.unwrap().remove(0);
        taken.push(rig.client.wait(&job).await.unwrap());
        rig.client.until_idle().await;
    }
    let first = taken[0].clone();
    pin(&rig, &first, "audit 2026", 0).await.unwrap();
    assert_eq!(pins(&rig, &first).await, [("audit 2026".to_owned(), "root".to_owned(), 0)]);
    refused(
        rig.client.job(&first, "Snapshot.Delete", none()).await,
        "Pinned",
        &["root (audit 2026)", "VM web", "virtsnap unpin web", "Nothing was touched"],
    );
    let forget = options([("metadata-only", true.into())]);
    refused(rig.client.job(&first, "Snapshot.Delete", forget).await, "Pinned", &[]);

    rig.write_policies("[policy.p]\nvms = [\"web\"]\nmax-count = 1\n");
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(pins(&rig, &first).await.len(), 1);
    let job = rig.client.run("p", none()).await.unwrap().remove(0);
    rig.client.wait(&job).await.unwrap();
    rig.client.until_idle().await;
    rig.client.until_there(&taken[1], false).await;
    let left = rig.client.snapshots(id(1)).await;
    assert_eq!(left.len(), 2, "the pinned one does not count against max-count: {left:?}");
    assert_eq!(snapshot_path(id(1), &left[0]), first);

    // Pinned anew it has another reason and an end.
    let end = in_hours(&rig, 5);
    pin(&rig, &first, "", end).await.unwrap();
    assert_eq!(pins(&rig, &first).await, [(String::new(), "root".to_owned(), end)]);
    unpin(&rig, &first, none()).await.unwrap();
    refused(unpin(&rig, &first, none()).await, "NotPinned", &["VM web"]);
    rig.client.job(&vm_path(id(1)), "VM.Prune", none()).await.unwrap();
    rig.client.until_there(&first, false).await;
    rig.stop().await;
    let labels = rig.store().labels(id(1)).unwrap();
    assert!(labels.is_empty(), "it goes with the snapshot: {labels:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_pins_are_taken_off_can_be_said() {
    let mut rig = world("", &["a"]).await;
    let a = snapshot_path(id(1), "a");
    pin(&rig, &a, "mine", 0).await.unwrap();
    rig.stop().await;
    rig.in_store("INSERT INTO pin SELECT id, 'alice', 'hers', NULL FROM label");
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(pins(&rig, &a).await.len(), 2);
    let both = options([("all", true.into()), ("owner", "alice".into())]);
    refused(unpin(&rig, &a, both).await, "InvalidArgument", &["exclude"]);
    refused(
        unpin(&rig, &a, options([("owner", "bob".into())])).await,
        "NotPinned",
        &["alice (hers)", "root"],
    );
    unpin(&rig, &a, none()).await.unwrap();
    assert_eq!(pins(&rig, &a).await, [("hers".to_owned(), "alice".to_owned(), 0)]);
    unpin(&rig, &a, options([("owner", "alice".into())])).await.unwrap();
    pin(&rig, &a, "", 0).await.unwrap();
    unpin(&rig, &a, options([("all", true.into())])).await.unwrap();
    assert_eq!(pins(&rig, &a).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_over_by_itself_and_so_is_a_snapshot() {
    let mut rig = world("", &["a"]).await;
    let a = snapshot_path(id(1), "a");
    let end = in_hours(&rig, 2);
    let given =
        options([("expires", end.into()), ("tags", tags(&["x"])), ("description", "soon over".into())]);
    let b = rig.client.create(id(1), "b", given).await.unwrap();
    assert_eq!(rig.client.get::<u64>(&b, "Snapshot.ExpiresUSec").await, end);
    assert_eq!(rig.client.text(&b, "Snapshot.Description").await, "soon over");
    assert_eq!(rig.client.get::<Vec<String>>(&b, "Snapshot.Tags").await, ["x"]);
    update(&rig, &a, options([("expires", end.into())])).await.unwrap();
    pin(&rig, &a, "", in_hours(&rig, 4)).await.unwrap();

    // The newest good one stays, and what is pinned.
    hours(&rig, 3);
    rig.client.until_idle().await;
    assert_eq!(rig.client.snapshots(id(1)).await, ["a", "b"]);
    let jobs = rig.client.managed().await.into_keys().filter(|path| path.contains("/job/")).count();
    assert_eq!(jobs, 2, "no prune for nothing");
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    hours(&rig, 1);
    rig.client.until_there(&a, false).await;
    rig.client.create(id(1), "c", none()).await.unwrap();
    rig.client.until_there(&b, false).await;
    assert_eq!(rig.client.snapshots(id(1)).await, ["c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_expiry_and_description_are_changed_one_by_one() {
    let mut rig = world("", &["a"]).await;
    let a = snapshot_path(id(1), "a");
    update(&rig, &a, options([("tags", tags(&["prod", "ticket:7", "prod"]))])).await.unwrap();
    update(&rig, &a, options([("description", "before <the> upgrade\nof all".into())])).await.unwrap();
    update(&rig, &a, options([("expires", in_hours(&rig, 9).into())])).await.unwrap();
    update(&rig, &a, none()).await.unwrap();
    rig.stop().await;
    rig.boot().await;
    rig.until_running().await;
    assert_eq!(rig.client.get::<Vec<String>>(&a, "Snapshot.Tags").await, ["prod", "ticket:7"]);
    assert_eq!(rig.client.text(&a, "Snapshot.Description").await, "before <the> upgrade\nof all");
    assert!(rig.client.get::<u64>(&a, "Snapshot.ExpiresUSec").await > 0);
    assert!(rig.client.get::<bool>(&a, "Snapshot.Managed").await, "its marker is still there");
    let all = options([("tags", tags(&[])), ("expires", 0_u64.into()), ("description", "".into())]);
    update(&rig, &a, all).await.unwrap();
    assert_eq!(rig.client.get::<Vec<String>>(&a, "Snapshot.Tags").await, [] as [String; 0]);
    assert_eq!(rig.client.get::<u64>(&a, "Snapshot.ExpiresUSec").await, 0);
    assert_eq!(rig.client.text(&a, "Snapshot.Description").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let rig = world("", &["a"]).await;
    let (a, theirs) = (snapshot_path(id(1), "a"), snapshot_path(id(2), "theirs"));
    let invalid = |answer, parts: &[&str]| refused::<()>(answer, "InvalidArgument", parts);
    for method in ["Pin", "Unpin", "Update"] {
        let wrong = options([("reasons", "x".into())]);
        let method = format!("Snapshot.{method}");
        let answer = match method.as_str() {
            "Snapshot.Pin" => rig.client.call(&a, &method, &("", 0_u64, wrong)).await,
            _ => rig.client.call(&a, &method, &(wrong,)).await,
        };
        invalid(answer, &["unknown option \"reasons\""]);
    }
    invalid(pin(&rig, &a, "", 5).await, &["has passed already"]);
    invalid(pin(&rig, &a, "", u64::MAX).await, &["is no time"]);
    invalid(pin(&rig, &a, &"x".repeat(1025), 0).await, &["1025"]);
    invalid(update(&rig, &a, options([("tags", tags(&["a b"]))])).await, &["option \"tags\"", "\"a b\""]);
    invalid(update(&rig, &a, options([("expires", 1_u64.into())])).await, &["has passed already"]);
    let both = options([("description", "a\u{7}b".into()), ("tags", tags(&["x"]))]);
    invalid(update(&rig, &a, both).await, &["control character"]);
    assert_eq!(rig.client.get::<Vec<String>>(&a, "Snapshot.Tags").await, [] as [String; 0]);
    for bad in [("tags", tags(&[""])), ("expires", 1_u64.into()), ("expires", "soon".into())] {
        refused(rig.client.ask_create(id(1), "x", options([bad])).await, "InvalidArgument", &[]);
    }

    let managed = |answer| refused::<()>(answer, "NotManaged", &["theirs", "virtsnap adopt db theirs"]);
    managed(pin(&rig, &theirs, "", 0).await);
    managed(unpin(&rig, &theirs, none()).await);
    managed(update(&rig, &theirs, options([("tags", tags(&["x"]))])).await);
    managed(update(&rig, &theirs, options([("description", "x".into())])).await);
    let none_such = snapshot_path(id(1), "none");
    refused(pin(&rig, &none_such, "", 0).await, "org.freedesktop.DBus.Error.UnknownObject", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_going_already_cannot_be_pinned_any_more_and_libvirt_is_not_needed() {
    let rig = world("", &["a", "b"]).await;
    let (a, b) = (snapshot_path(id(1), "a"), snapshot_path(id(1), "b"));
    assert!(rig.sim.write(id(1), "vda", 0, 7));
    let gate = rig.sim.gate(Op::Commit);
    let (job,): (zbus::OwnedObjectPath,) = rig.client.call(&a, "Snapshot.Delete", &(none(),)).await.unwrap();
    held(&gate);
    refused(pin(&rig, &a, "", 0).await, "Busy", &["being deleted already"]);
    pin(&rig, &b, "", 0).await.unwrap();
    gate.open();
    rig.client.wait(job.as_str()).await.unwrap();

    rig.sim.disconnect("it is upgraded");
    rig.client.until("/org/virtsnap1", "Manager.HypervisorConnected", |c: &bool| !c).await;
    unpin(&rig, &b, none()).await.unwrap();
    assert_eq!(pins(&rig, &b).await, []);
    refused(update(&rig, &b, options([("description", "x".into())])).await, "Disconnected", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_while_a_prune_is_under_way_stays_and_the_prune_is_no_failure() {
    let rig = world("[policy.p]\nvms = [\"web\"]\nkeep-last = 9\n", &[]).await;
    let mut taken = Vec::new();
    for by_hand in ["x", "y"] {
        let job = rig.client.run("p", none()).await.unwrap().remove(0);
        taken.push(rig.client.wait(&job).await.unwrap());
        rig.client.until_idle().await;
        // What stays between them makes it two runs.
        rig.client.create(id(1), by_hand, none()).await.unwrap();
    }
    let job = rig.client.run("p", none()).await.unwrap().remove(0);
    rig.client.wait(&job).await.unwrap();
    rig.client.until_idle().await;
    rig.write_policies("[policy.p]\nvms = [\"web\"]\nkeep-last = 1\n");
    rig.client.call::<_, ()>("/org/virtsnap1", "Manager.Reload", &(none(),)).await.unwrap();
    assert!(rig.sim.write(id(1), "vda", 0, 7));
    let gate = rig.sim.gate(Op::Commit);
    let (job,): (zbus::OwnedObjectPath,) =
        rig.client.call(&vm_path(id(1)), "VM.Prune", &(none(),)).await.unwrap();
    held(&gate);
    pin(&rig, &taken[1], "just in time", 0).await.unwrap();
    gate.open();
    rig.client.wait(job.as_str()).await.unwrap();
    rig.client.until_there(&taken[0], false).await;
    assert_eq!(pins(&rig, &taken[1]).await.len(), 1);
    assert_eq!(rig.client.text(&taken[1], "Snapshot.State").await, "ready");
    assert_eq!(rig.client.text(&vm_path(id(1)), "VM.LastError").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_pins_modifies_and_shows_what_becomes_of_each() {
    let rig = world("[policy.p]\nvms = [\"web\"]\nmax-count = 1\n", &[]).await;
    let address = rig.address();
    let told = async |verb: &[&str]| virtsnap(&[&["--bus-address", address.as_str()], verb].concat()).await;
    let well = async |verb: &[&str]| {
        let (code, out, err) = told(verb).await;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{verb:?}: {out}");
        out
    };
    let json = async |verb: &[&str]| -> serde_json::Value {
        serde_json::from_str(&well(&[verb, &["--json"]].concat()).await).unwrap()
    };
    // The daemon's time is ahead of the client's by years, and nothing is to expire here.
    let end = "2045-01-01";
    well(&["create", "web", "--name", "a", "--tag", "prod", "--tag", "x", "--expires", end]).await;
    well(&["create", "web", "--name", "b", "--description", "plain"]).await;
    let out = well(&["pin", "web", "a", "--reason", "audit", "--until", "2044-01-01 12:00"]).await;
    assert!(out.starts_with("web: snapshot \"a\" is pinned until 2044-01-01 12:00:00 (in "), "{out}");

    let out = well(&["list", "web"]).await;
    let row = out.lines().find(|line| line.starts_with('p')).unwrap_or_else(|| panic!("{out}"));
    assert!(row.split_whitespace().nth(1) == Some("a"), "{out}");
    for part in [
        "(* = current, p = pinned)",
        "\"a\": pinned by root until 2044-",
        ": audit; expires 2045-",
        "tagged prod, x",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    for only in [&["--tag", "prod", "--tag", "x"][..], &["--pinned"]] {
        let out = well(&[&["list", "web"], only].concat()).await;
        assert!(out.contains("1 of 2 snapshots") && !out.contains(" b "), "{out}");
        let listed = json(&[&["list", "web"], only].concat()).await;
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1, "{listed}");
    }
    let shown = json(&["show", "web", "a"]).await;
    let of = &shown["snapshot"];
    assert_eq!((&of["tags"], &of["pins"][0]["owner"]), (&serde_json::json!(["prod", "x"]), &"root".into()));
    assert!(of["expires"].as_str().unwrap().starts_with("204"), "{shown}");
    let out = well(&["show", "web", "a"]).await;
    assert!(out.contains("Pinned by:") && out.contains("Tags:") && out.contains("Expires:"), "{out}");
    let out = well(&["plan", "web"]).await;
    assert!(out.contains("it is pinned by root until") && out.contains("(audit)"), "{out}");

    let out = well(&["list", "web", "--timeline"]).await;
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("WHEN") && lines[1].contains("  b  ") && lines[2].contains("  a  "),
        "{out}"
    );
    assert!(lines[1].contains("newest good one") && lines[2].contains("pinned by root"), "{out}");
    let timeline = json(&["list", "web", "--timeline", "--tag", "prod"]).await;
    let point = &timeline["snapshots"][0];
    assert_eq!((&point["name"], &point["next"]["keep"]), (&"a".into(), &true.into()), "{timeline}");

    let (code, _, err) = told(&["delete", "web", "a", "--yes"]).await;
    assert!(code == Some(1) && err.contains("pinned by root") && err.contains("virtsnap unpin"), "{err}");
    let (code, _, err) = told(&["pin", "web", "a", "--until", "yesterday"]).await;
    assert!(code == Some(2) && err.contains("--until \"yesterday\""), "{err}");
    assert_eq!(told(&["pin", "web", "none"]).await.0, Some(3));
    assert_eq!(told(&["modify", "web", "a"]).await.0, Some(2), "nothing to change");
    let (code, _, err) = told(&["pin", "db", "theirs"]).await;
    assert!(code == Some(1) && err.contains("virtsnap adopt db theirs"), "{err}");
    let changed =
        ["modify", "web", "a", "--tag", "y", "--untag", "x", "--expires", "never", "--description", "new"];
    assert_eq!(well(&changed).await, "web: snapshot \"a\" is modified\n");
    let of = json(&["show", "web", "a"]).await["snapshot"].clone();
    assert_eq!((&of["tags"], &of["description"]), (&serde_json::json!(["prod", "y"]), &"new".into()));
    assert!(of["expires"].is_null(), "{of}");
    let unpinned = json(&["unpin", "web", "a"]).await;
    assert_eq!((&unpinned["vm"], &unpinned["snapshot"]["pins"]), (&"web".into(), &serde_json::json!([])));
    let (code, _, err) = told(&["unpin", "web", "a", "--owner", "alice"]).await;
    assert!(code == Some(1) && err.contains("is not pinned"), "{err}");
    let (code, _, err) = told(&["unpin", "web", "a", "--owner", "alice", "--all"]).await;
    assert_eq!(code, Some(2), "{err}");
}
