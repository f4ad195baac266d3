//! Who may change something: root, and whom polkit lets.

use std::{
    process::{Command, Output},
    time::Duration,
};

use virtsnap::{core::verb::Verb, dbus::Patience, hypervisor::sim::Op};
use zbus::Variant;

use super::{
    actions::CHANGERS,
    client::{Client, MANAGER, none, options, soon},
    fake_polkit::{FakePolkit, Says},
    readers::everything_is_answered,
    rig::{Rig, held, id, snapshot_path, vm_path},
    scene::{Scene, world},
};

const DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
const PASSWORD: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";

/// What may be done and cannot: what each of these is answered with.
const NOT_IN_SCENE: [(&str, &str); 1] = [("Job.Cancel", "org.virtsnap1.Error.NotCancelable")];
/// The same of jobs: the VM is made independent while it has snapshots, and what is deleted had another VM branched off.
const JOBS_NOT_IN_SCENE: [(&str, &str); 2] =
    [("promote", "org.virtsnap1.Error.Unsupported"), ("delete", "org.virtsnap1.Error.InUse")];

/// A user that every system has: the bus wants to know the groups of who comes.
const DAEMON: u32 = 1;

/// `busctl` as a user who is not root.
pub async fn as_user(uid: u32, rig: &Rig, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    let uid = uid.to_string();
    command.args(["--reuid", &uid, "--regid", "65534", "--clear-groups", "busctl", "--timeout=15"]);
    command.arg(format!("--address={}", rig.address())).args(arguments);
    // In its log it says the name of the error, which it shows nowhere else.
    command.env("SYSTEMD_LOG_LEVEL", "debug");
    let run = tokio::task::spawn_blocking(move || command.output());
    soon("busctl", run).await.unwrap().expect("setpriv is installed")
}

/// `busctl` as the user `nobody`, who may do nothing on any system.
pub async fn as_nobody(rig: &Rig, arguments: &[&str]) -> Output {
    as_user(65534, rig, arguments).await
}

/// The name and the text of the error, if it is one.
fn error(output: &Output) -> Option<(String, String)> {
    if output.status.success() {
        return None;
    }
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = log.split_once("type=error ").unwrap_or_else(|| panic!("no answer: {log}")).1;
    let name = answer.split_once("error-name=").expect("an error has a name").1;
    Some((name.split_whitespace().next().unwrap().to_owned(), log))
}

/// Every method that changes something, called so: what it was answered.
async fn each(
    rig: &Rig,
    scene: &Scene,
    interactive: bool,
) -> Vec<(&'static str, Verb, Option<(String, String)>)> {
    let mut answers = Vec::new();
    for (method, verb, arguments) in CHANGERS {
        let call = scene.call(method, arguments, interactive);
        let call: Vec<&str> = call.iter().map(String::as_str).collect();
        answers.push((method, verb, error(&as_nobody(rig, &call).await)));
        // What one has begun is not to be in another's way.
        rig.client.until_idle().await;
    }
    answers
}

/// Every method that changes something is refused with this error, whose text has this, and nothing changes. What changes
/// nothing is answered.
async fn each_is_refused(rig: &Rig, scene: &Scene, interactive: bool, name: &str, text: &str) {
    everything_is_answered(&Client::connect_as_nobody(&rig.address()).await, scene).await;
    let before = rig.client.managed().await;
    for (method, verb, answer) in each(rig, scene, interactive).await {
        let (said, log) = answer.unwrap_or_else(|| panic!("{method} was let through"));
        assert_eq!(said, name, "{method}: {log}");
        assert!(log.contains(text), "{method}: {log}");
        assert!(
            log.contains(&format!("user 65534 may {}", if name == DENIED { "not " } else { "" })),
            "{log}"
        );
        assert!(log.contains(verb.doing()), "{method}: {log}");
    }
    assert_eq!(rig.client.managed().await, before);
}

/// The error that this ends with, by one of these lists; none if it is not there.
fn expected_of(list: &[(&str, &'static str)], what: &str) -> &'static str {
    list.iter().find(|(of, _)| *of == what).map_or("", |(_, error)| error)
}

/// Every method does what it is for, where the scene permits that, and so does every job.
async fn each_is_let_through(rig: &Rig, scene: &Scene, interactive: bool) {
    everything_is_answered(&Client::connect_as_nobody(&rig.address()).await, scene).await;
    for (method, _, answer) in each(rig, scene, interactive).await {
        let (name, log) = answer.unwrap_or_default();
        assert_eq!(name, expected_of(&NOT_IN_SCENE, method), "{method}: {log}");
    }
    let jobs = rig.client.managed().await.into_keys().filter(|p| p.contains("/job/"));
    for job in jobs {
        let operation = rig.client.text(&job, "Job.Operation").await;
        let message = rig.client.text(&job, "Job.ErrorMessage").await;
        let name = rig.client.text(&job, "Job.ErrorName").await;
        assert_eq!(name, expected_of(&JOBS_NOT_IN_SCENE, &operation), "{operation}: {message}");
    }
}

/// It was asked once about each method that changes something and about no other, about who called, and not more than the
/// caller allowed.
fn assert_asked(polkit: &FakePolkit, interactive: bool) {
    let questions = polkit.questions();
    let actions: Vec<&str> = questions.iter().map(|q| q.action.as_str()).collect();
    assert_eq!(actions, CHANGERS.map(|(_, verb, _)| verb.action()));
    for question in questions {
        assert_eq!(question.interactive, interactive, "{question:?}");
        assert_eq!(question.subject.0, "system-bus-name", "{question:?}");
        assert!(question.subject.1.starts_with(":1."), "{question:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_polkit_lets_may_change_things() {
    let (rig, scene) = world().await;
    let polkit = FakePolkit::start(&rig, Says::Yes).await;
    each_is_let_through(&rig, &scene, false).await;
    assert_asked(&polkit, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_polkit_does_not_let_may_change_nothing() {
    let (rig, scene) = world().await;
    let polkit = FakePolkit::start(&rig, Says::No).await;
    each_is_refused(&rig, &scene, false, DENIED, "polkit says no to org.virtsnap1.").await;
    assert_asked(&polkit, false);
    polkit.says(Says::Unknown);
    each_is_refused(&rig, &scene, true, DENIED, "is not registered").await;
    assert_asked(&polkit, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_only_where_the_call_allows_it() {
    let (rig, scene) = world().await;
    let polkit = FakePolkit::start(&rig, Says::Password).await;
    each_is_refused(&rig, &scene, false, PASSWORD, "ALLOW_INTERACTIVE_AUTHORIZATION").await;
    assert_asked(&polkit, false);
    polkit.says(Says::PasswordOfNobody);
    each_is_refused(&rig, &scene, true, PASSWORD, "no agent is there").await;
    assert_asked(&polkit, true);
    polkit.says(Says::Dismissed);
    each_is_refused(&rig, &scene, true, DENIED, "dismissed").await;
    assert_asked(&polkit, true);
    polkit.says(Says::Password);
    each_is_let_through(&rig, &scene, true).await;
    assert_asked(&polkit, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_polkit_only_root_may() {
    let (rig, scene) = world().await;
    for interactive in [false, true] {
        each_is_refused(&rig, &scene, interactive, DENIED, "polkit is not on the bus").await;
    }
    rig.client.create(id(1), "s3", none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_not_asked_about() {
    let (rig, _) = world().await;
    let polkit = FakePolkit::start(&rig, Says::No).await;
    rig.client.create(id(1), "s3", none()).await.unwrap();
    let unpin = (options([("all", Variant::from(true))]),);
    let _: Result<(), _> = rig.client.call(&snapshot_path(id(1), "s3"), "Snapshot.Unpin", &unpin).await;
    assert_eq!(polkit.questions(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_sees_what_a_call_is_about() {
    let (rig, scene) = world().await;
    let both = ["o", "p"].map(|name| format!("[policy.{name}]\nvms = [\"*\"]\nbefore = \"upgrade\"\n"));
    rig.write_policies(&both.concat());
    let () = rig.client.call(MANAGER, "Manager.Reload", &(none(),)).await.unwrap();
    let polkit = FakePolkit::start(&rig, Says::No).await;
    each(&rig, &scene, false).await;
    let (web, uuid) = (("vm", "web"), ("vm-uuid", "00000000-0000-0000-0000-000000000001"));
    let job = scene.job.rsplit('/').next().unwrap();
    for (question, (method, verb, _)) in polkit.questions().into_iter().zip(CHANGERS) {
        let mut details = question.details;
        let message = details.remove("polkit.message").expect("what a person is asked");
        assert!(message.starts_with(&format!("Authentication is required to {}", verb.doing())), "{message}");
        let expected: Vec<(&str, &str)> = match method {
            "VM.CreateSnapshot" => vec![web, uuid, ("snapshot", "x")],
            "VM.Adopt" => vec![web, uuid, ("snapshot", "s1"), ("snapshots", r#"["s1"]"#)],
            "Snapshot.Branch" => vec![web, uuid, ("snapshot", "s1"), ("new-vm", "x")],
            "Manager.BeforeOperation" => {
                assert!(message.ends_with("(VM \"web\", policy \"o,p\", before \"upgrade\")"), "{message}");
                vec![web, uuid, ("policy", "o,p"), ("operation", "upgrade")]
            }
            "Manager.Reload" | "Manager.Inhibit" => vec![],
            "Job.Cancel" => {
                vec![
                    web,
                    uuid,
                    ("snapshot", "s2"),
                    ("job", job),
                    ("operation", "create"),
                    ("started-by-uid", "0"),
                ]
            }
            m if m.starts_with("Policy.") => vec![("policy", "p")],
            m if m.starts_with("VM.") => vec![web, uuid],
            _ => {
                assert!(message.contains("(VM \"web\", snapshot \"s1\")"), "{message}");
                vec![web, uuid, ("snapshot", "s1")]
            }
        };
        let expected = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(details, expected, "{method}");
    }
    // What goes further than usual says so.
    for (method, arguments, key, said) in [
        ("Snapshot.Delete", &["1", "foreign", "b", "true"][..], "foreign", "made by others"),
        ("VM.Prune", &["1", "all", "b", "true"], "all", "however many"),
    ] {
        let call = scene.call(method, arguments, false);
        as_nobody(&rig, &call.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let question = polkit.questions().remove(0);
        assert_eq!(question.details[key], "true", "{method}");
        assert!(question.details["polkit.message"].contains(said), "{:?}", question.details);
    }
    // A policy's run on one VM is about that one.
    let db = vm_path(id(2));
    let run = scene.call("Policy.Run", &["1", "vm", "o", &db], false);
    as_nobody(&rig, &run.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(polkit.questions()[0].details["vm"], "db");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_one_vm_allows_nothing_on_others() {
    let (rig, scene) = world().await;
    let _polkit = FakePolkit::start(&rig, Says::YesForWeb).await;
    let other = Scene { vm: vm_path(id(2)), snapshot: snapshot_path(id(2), "d1"), ..scene };
    for method in ["VM.Prune", "Snapshot.Pin", "Snapshot.Delete", "Policy.Run"] {
        let (_, _, arguments) = CHANGERS.into_iter().find(|(m, ..)| *m == method).unwrap();
        let call = other.call(method, arguments, false);
        let answer = error(&as_nobody(&rig, &call.iter().map(String::as_str).collect::<Vec<_>>()).await);
        assert_eq!(answer.expect("it is refused").0, DENIED, "{method}");
    }
    let web = Scene { vm: vm_path(id(1)), ..other };
    let call = web.call("VM.CreateSnapshot", &["mine", "0"], false);
    let call: Vec<&str> = call.iter().map(String::as_str).collect();
    assert_eq!(error(&as_nobody(&rig, &call).await), None);
    rig.client.until_there(&snapshot_path(id(1), "mine"), true).await;
    rig.client.until_idle().await;
    let jobs = rig.client.managed().await.into_keys().filter(|p| p.contains("/job/"));
    let mut by = Vec::new();
    for job in jobs {
        by.push(rig.client.get::<u32>(&job, "Job.StartedByUID").await);
    }
    assert!(by.contains(&65534), "{by:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn to_take_off_what_others_pinned_is_another_action() {
    let (rig, scene) = world().await;
    let polkit = FakePolkit::start(&rig, Says::Yes).await;
    let unpin = async |arguments: &[&str]| {
        let call = scene.call("Snapshot.Unpin", arguments, false);
        as_nobody(&rig, &call.iter().map(String::as_str).collect::<Vec<_>>()).await;
        polkit.questions().into_iter().map(|q| q.action).collect::<Vec<_>>()
    };
    assert_eq!(unpin(&["0"]).await, ["org.virtsnap1.unpin"]);
    assert_eq!(unpin(&["1", "owner", "s", "nobody"]).await, ["org.virtsnap1.unpin"]);
    assert_eq!(unpin(&["1", "owner", "s", "root"]).await, ["org.virtsnap1.unpin-others"]);
    assert_eq!(unpin(&["1", "all", "b", "true"]).await, ["org.virtsnap1.unpin-others"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_polkit_holds_up_nobody_else() {
    let (rig, scene) = world().await;
    let polkit = FakePolkit::start(&rig, Says::Nothing).await;
    let call = scene.call("VM.CreateSnapshot", &["", "0"], true);
    let call: Vec<&str> = call.iter().map(String::as_str).collect();
    let many = futures_util::future::join_all((0..20).map(|_| as_nobody(&rig, &call)));
    let others = async {
        // So many of one user and no more, and another user has a turn of their own.
        polkit.until_asked(8).await;
        let other = as_user(DAEMON, &rig, &call);
        let meanwhile = async {
            polkit.until_asked(9).await;
            // Root changes things, and everybody reads.
            rig.client.create(id(1), "meanwhile", none()).await.unwrap();
            let read = ["get-property", "org.virtsnap1", MANAGER, "org.virtsnap1.Manager", "State"];
            assert!(as_nobody(&rig, &read).await.status.success());
            assert_eq!(polkit.peak(), 9);
            polkit.says(Says::Yes);
        };
        tokio::join!(other, meanwhile).0
    };
    let (many, other) = tokio::join!(many, others);
    for output in many.iter().chain([&other]) {
        assert_eq!(error(output), None);
    }
    assert_eq!(polkit.questions().len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polkit_that_does_not_answer_is_given_up() {
    let (mut rig, scene) = world().await;
    rig.stop().await;
    rig.patience = Patience { rules: Duration::from_millis(50), person: Duration::from_millis(100) };
    rig.boot().await;
    rig.until_running().await;
    let polkit = FakePolkit::start(&rig, Says::Nothing).await;
    for interactive in [false, true] {
        let call = scene.call("VM.CreateSnapshot", &["late", "0"], interactive);
        let call: Vec<&str> = call.iter().map(String::as_str).collect();
        let (name, log) = error(&as_nobody(&rig, &call).await).expect("it is refused");
        assert_eq!(name, DENIED);
        assert!(log.contains("polkit did not answer"), "{log}");
        let question = polkit.questions().remove(0);
        // Nobody is asked for a password that nothing waits for.
        polkit.until_taken_back(&question.number).await;
    }
    // An answer that comes too late changes nothing.
    polkit.says(Says::Yes);
    rig.client.create(id(1), "s3", none()).await.unwrap();
    assert!(!rig.client.snapshots(id(1)).await.contains(&"late".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polkit_that_comes_later_is_asked() {
    let (rig, scene) = world().await;
    let call = scene.call("VM.CreateSnapshot", &["", "0"], false);
    let call: Vec<&str> = call.iter().map(String::as_str).collect();
    assert_eq!(error(&as_nobody(&rig, &call).await).expect("it is refused").0, DENIED);
    let _polkit = FakePolkit::start(&rig, Says::Yes).await;
    // A job can be cancelled by whom polkit lets.
    let gate = rig.sim.gate(Op::Create);
    let running = rig.client.ask_create(id(1), "", none()).await.unwrap();
    held(&gate);
    let waiting = rig.client.ask_create(id(1), "", none()).await.unwrap();
    let scene = Scene { job: waiting.clone(), ..scene };
    let cancel = scene.call("Job.Cancel", &["0"], false);
    assert_eq!(error(&as_nobody(&rig, &cancel.iter().map(String::as_str).collect::<Vec<_>>()).await), None);
    gate.open();
    rig.client.wait(&running).await.unwrap();
    assert_eq!(rig.client.wait(&waiting).await.unwrap_err().0, "Cancelled");
}
