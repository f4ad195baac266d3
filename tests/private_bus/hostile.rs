//! Callers that want no good, or are broken: what they send is refused, and nobody else notices.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::join_all;
use jiff::SignedDuration;
use tokio::sync::mpsc;
use virtsnap::{
    core::model::VmId,
    hypervisor::sim::{Op, VmSpec},
};
use zbus::{DBusError as _, Message, Variant, message::Flags};

use super::{
    actions::{CHANGERS, READERS},
    authorisation::as_nobody,
    client::{Client, Failure, MANAGER, Options, none, options, soon},
    rig::{DEADLINE, Rig, held, id, policy_path, snapshot_path, vm_path},
};

const HOURLY: &str = "[policy.p]\nvms = [\"db\"]\nschedule = \"5 * * * *\"\n";

/// So many calls of one user may be under way, as the documented interface has it,
const PER_USER: usize = 512;
/// and so many may wait for jobs.
const WAITS: usize = 4096;
/// A `dbus-daemon` has one connection wait for so many answers.
const PER_CONNECTION: usize = 125;

async fn two() -> Rig {
    Rig::start(HOURLY, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await
}

/// A job that does not end before the gate is opened.
async fn stuck_on(rig: &Rig, vm: VmId) -> (String, virtsnap::hypervisor::sim::Gate<'_>) {
    let gate = rig.sim.gate_vm(Op::Create, vm);
    let job = rig.client.ask_create(vm, "held", none()).await.unwrap();
    held(&gate);
    (job, gate)
}

/// Calls a method that takes options alone, and waits however long that takes.
async fn ask(client: &Client, path: &str, method: &str, options: Options) -> Result<(), String> {
    let (interface, member) = method.split_once('.').unwrap();
    let (name, interface) = ("org.virtsnap1", format!("org.virtsnap1.{interface}"));
    let body = (options,);
    match client.connection.call_method(Some(name), path, Some(interface.as_str()), member, &body).await {
        Ok(_) => Ok(()),
        Err(zbus::Error::MethodError(name, ..)) => Err(name.to_string()),
        Err(zbus::Error::FDO(e)) => Err(e.name().to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Who calls, and how each call ended.
type Flood = (Vec<Client>, mpsc::UnboundedReceiver<Result<(), String>>);

/// So many connections, each with as many of these calls as a bus lets it have; how each call ended comes out of the
/// channel.
async fn flood(
    rig: &Rig,
    path: &str,
    method: &'static str,
    options: fn() -> Options,
    connections: usize,
) -> Flood {
    let address = rig.address();
    let clients = join_all((0..connections).map(|_| Client::connect(&address))).await;
    let (sender, ends) = mpsc::unbounded_channel();
    for client in &clients {
        for _ in 0..PER_CONNECTION {
            let (client, sender) = (client.clone(), sender.clone());
            let path = path.to_owned();
            tokio::spawn(async move {
                let _ = sender.send(ask(&client, &path, method, options()).await);
            });
        }
    }
    (clients, ends)
}

/// The next so many ends.
async fn next(
    ends: &mut mpsc::UnboundedReceiver<Result<(), String>>,
    count: usize,
) -> Vec<Result<(), String>> {
    let mut all = Vec::with_capacity(count);
    let taking = async {
        while all.len() < count {
            all.push(ends.recv().await.expect("calls are under way"));
        }
    };
    let taken = tokio::time::timeout(6 * DEADLINE, taking).await;
    assert!(taken.is_ok(), "{} of {count} calls were answered", all.len());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_at_once_stop_neither_scheduled_runs_nor_other_users() {
    let rig = two().await;
    let (job, gate) = stuck_on(&rig, id(1)).await;
    let (clients, mut ends) = flood(&rig, &job, "Job.Wait", none, 80).await;
    let refused = next(&mut ends, 80 * PER_CONNECTION - WAITS).await;
    let limit = Err("org.virtsnap1.Error.LimitExceeded".to_owned());
    assert!(refused.iter().all(|end| *end == limit), "{:?}", refused.iter().find(|end| **end != limit));

    // While all that one user may have is under way, another one's calls are answered,
    let explain = ["call", "org.virtsnap1", &vm_path(id(1)), "org.virtsnap1.VM", "Explain", "a{sv}", "0"];
    let output = as_nobody(&rig, &explain).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // that one reads and changes all the same,
    assert_eq!(rig.client.text(MANAGER, "Manager.State").await, "running");
    rig.client.call::<_, ()>(MANAGER, "Manager.Reload", &(none(),)).await.unwrap();
    let (name, text) = rig.client.wait(&job).await.unwrap_err();
    assert!(name == "LimitExceeded" && text.contains("user 0 has 4096 calls that wait"), "{name}: {text}");
    assert!(text.contains("the job goes on"), "{text}");
    // and the schedule goes on.
    rig.clock.advance(SignedDuration::from_hours(1));
    rig.sim.set_tags(id(2), &["later"]).unwrap();
    rig.client.until(&vm_path(id(2)), "VM.LastSuccessUSec", |at: &u64| *at > 0).await;

    gate.open();
    let done = next(&mut ends, WAITS).await;
    assert!(done.iter().all(Result::is_ok), "{:?}", done.iter().find(|end| end.is_err()));
    drop(clients);
    rig.client.create(id(1), "after", none()).await.unwrap();
}

/// Sets how much is logged over and over, a hundred times for each answer it waits for.
async fn flood_of_sets(address: String, going: Arc<AtomicBool>) {
    let client = Client::connect(&address).await;
    let (path, properties) = ("/org/freedesktop/LogControl1", "org.freedesktop.DBus.Properties");
    let body = ("org.freedesktop.LogControl1", "LogLevel", Variant::from("none such"));
    while going.load(Ordering::Relaxed) {
        for _ in 0..100 {
            let set = Message::method_call(path, "Set").with_flags(Flags::NO_REPLY_EXPECTED);
            let set = set.destination("org.virtsnap1").interface(properties).build(&body);
            client.connection.send(&set.unwrap()).await.unwrap();
        }
        client.call::<_, ()>(path, &format!("{properties}.Set"), &body).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_that_set_a_property_stops_no_object_from_coming_or_going() {
    let rig = two().await;
    let going = Arc::new(AtomicBool::new(true));
    let floods = (0..3).map(|_| tokio::spawn(flood_of_sets(rig.address(), Arc::clone(&going))));
    let floods: Vec<_> = floods.collect();
    for _ in 0..8 {
        let made = rig.client.create(id(1), "s", none()).await.unwrap();
        rig.client.job(&made, "Snapshot.Delete", none()).await.unwrap();
    }
    going.store(false, Ordering::Relaxed);
    for flood in floods {
        soon("the flood's end", flood).await.unwrap();
    }
    assert_eq!(rig.client.snapshots(id(1)).await, [] as [String; 0]);
}

/// Who floods goes while all those calls are under way, and there is room again for what counts with them.
async fn vanish(rig: &Rig, (clients, mut ends): Flood, most: usize, counted: (&str, &str)) {
    next(&mut ends, clients.len() * PER_CONNECTION - most).await;
    // Whether there is room is seen before what it wants is.
    let wrong = || options([("none such", true.into())]);
    let room = async || rig.client.call::<_, ()>(counted.0, counted.1, &(wrong(),)).await.unwrap_err().0;
    assert_eq!(room().await, "LimitExceeded");
    for client in clients {
        client.connection.close().await.unwrap();
    }
    soon("room again, though the job goes on", async {
        loop {
            match room().await.as_str() {
                "InvalidArgument" => return,
                name => assert_eq!(name, "LimitExceeded"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_vanishes_while_waiting_leaves_nothing_behind() {
    let rig = two().await;
    let (job, gate) = stuck_on(&rig, id(1)).await;
    let before = rig.client.match_rules().await;
    let mut waiting = flood(&rig, &job, "Job.Wait", none, 35).await;
    let refused = next(&mut waiting.1, 1).await;
    assert!(refused[0].is_err(), "all wait that may");
    // A bus has a connection listen for so many things, and there may be more callers than those.
    let meanwhile = rig.client.match_rules().await;
    assert!(meanwhile <= before + 1, "{before} rules for nobody, {meanwhile} for many");
    vanish(&rig, waiting, WAITS + 1, (&job, "Job.Wait")).await;
    soon("no rule for nobody", async { while rig.client.match_rules().await > before {} }).await;
    assert_eq!(rig.client.text(&job, "Job.State").await, "running");
    gate.open();
    rig.client.wait(&job).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_who_vanishes_before_what_they_change_is_changed() {
    let describe: fn() -> Options = || options([("description", "x".into())]);
    let adopt: fn() -> Options = || options([("orphans", vec!["/images/none"].into())]);
    let (web, snapshot) = (vm_path(id(1)), snapshot_path(id(1), "s1"));
    for (path, method, given) in [(&snapshot, "Snapshot.Update", describe), (&web, "VM.Adopt", adopt)] {
        let rig = two().await;
        rig.client.create(id(1), "s1", none()).await.unwrap();
        // All of them want the same, which is one job that waits for this one.
        let (_, gate) = stuck_on(&rig, id(1)).await;
        let changing = flood(&rig, path, method, given, 5).await;
        vanish(&rig, changing, PER_USER, (&web, "VM.Explain")).await;
        gate.open();
        rig.client.until_idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_the_wrong_type_or_too_large_or_elsewhere_is_refused_and_changes_nothing() {
    let rig = two().await;
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    rig.client.until_idle().await;
    let before = rig.client.managed().await;
    let place = |interface: &str| match interface {
        "Manager" => MANAGER.to_owned(),
        "VM" => vm_path(id(1)),
        "Snapshot" => snapshot_path(id(1), "s1"),
        "Policy" => policy_path("p"),
        "Job" => job.clone(),
        other => panic!("where is {other}?"),
    };
    let huge = "\u{1}\"".repeat(1 << 20);
    let nested = || Variant::from(vec![vec![1_u8; 100]]);
    for method in READERS.into_iter().chain(CHANGERS.map(|(method, ..)| method)) {
        let interface = method.split_once('.').unwrap().0;
        let at = place(interface);
        let call = async |path: &str, what: &str, answer: Result<(), Failure>| {
            let (name, _) = answer.expect_err(&format!("{method} of {path} with {what}"));
            assert_ne!(name, "org.freedesktop.DBus.Error.NoReply", "{method} with {what}");
        };
        call(&at, "a number", rig.client.call(&at, method, &(1_u32,)).await).await;
        call(&at, "many numbers", rig.client.call(&at, method, &(vec![1_u64; 1000],)).await).await;
        call(&at, "structs", rig.client.call(&at, method, &((1_u8, ("x", 2.0)), "y")).await).await;
        let unknown = options([("no such option", nested())]);
        call(&at, "an option", rig.client.call(&at, method, &(unknown,)).await).await;
        call(&at, "a huge text", rig.client.call(&at, method, &(&huge,)).await).await;
        call(&at, "two", rig.client.call(&at, method, &(&huge, none())).await).await;
        let long = options([("description", Variant::from(huge.clone()))]);
        call(&at, "a huge option", rig.client.call(&at, method, &("x", long)).await).await;
        for elsewhere in
            ["Manager", "VM", "Snapshot", "Policy", "Job"].into_iter().filter(|e| *e != interface)
        {
            let path = place(elsewhere);
            call(&path, "nothing", rig.client.call(&path, method, &(none(),)).await).await;
        }
        for nowhere in ["/", "/org", "/org/virtsnap1/vm/x", &vm_path(id(9)), &snapshot_path(id(2), "s1")] {
            call(nowhere, "nothing", rig.client.call(nowhere, method, &(none(),)).await).await;
        }
    }
    let long = options([("description", Variant::from(huge.clone()))]);
    let (name, text) = rig.client.ask_create(id(1), "x", long).await.unwrap_err();
    assert!(name == "LimitExceeded" && text.contains("more than 65536"), "{name}: {text}");
    for (name, option) in [("x", "description"), ("y", "tags")] {
        let value = "x".repeat(60_000);
        let value = if option == "tags" { Variant::from(vec![value]) } else { Variant::from(value) };
        let refused = rig.client.ask_create(id(1), name, options([(option, value)])).await.unwrap_err();
        assert_eq!(refused.0, "InvalidArgument", "{option}: {}", refused.1);
    }
    let refused = rig.client.ask_create(id(1), &"x".repeat(60_000), none()).await.unwrap_err();
    assert_eq!(refused.0, "InvalidArgument");
    assert_eq!(rig.client.managed().await, before);
}
