//! The real daemon under a flood of calls that are not counted, whose answers nobody wants: each is a task of its own.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use zbus::{Message, message::Flags};

use super::{
    client::{Client, MANAGER, soon},
    rig::{DEADLINE, Rig},
    scene::to_daemon,
};

/// So many calls, from one connection.
const CALLS: usize = 100_000;

/// So many times what it had before the daemon may have after it: with all those calls in it, it would be more.
const MOST_OF_BEFORE: u64 = 2;

/// Ends with this.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    fn start(rig: &Rig) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnapd"));
        command.arg("--config-dir").arg(rig.directory().join("etc"));
        command.arg("--state-dir").arg(rig.directory().join("state"));
        command.arg("--bus-address").arg(rig.address());
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    /// So many KiB of memory are its.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS")).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// What is called, in turns.
fn calls() -> [Message; 4] {
    let call = |interface: &'static str, member| {
        to_daemon(MANAGER, interface, member).with_flags(Flags::NO_REPLY_EXPECTED)
    };
    let properties = "org.freedesktop.DBus.Properties";
    [
        call(properties, "Get").build(&("org.virtsnap1.Manager", "State")).unwrap(),
        call(properties, "GetAll").build(&("org.virtsnap1.Manager",)).unwrap(),
        call("org.virtsnap1.Manager", "LookupVM").build(&("test",)).unwrap(),
        call("org.freedesktop.DBus.Introspectable", "Introspect").build(&()).unwrap(),
    ]
}

/// Makes them all without waiting for anything, and one more that is answered when all before it were taken.
async fn flood(client: Client, going: Arc<AtomicBool>) {
    for call in calls().iter().cycle().take(CALLS) {
        client.connection.send(call).await.unwrap();
    }
    let (name, interface) = (Some("org.virtsnap1"), Some("org.freedesktop.DBus.Peer"));
    let last = client.connection.call_method(name, MANAGER, interface, "Ping", &());
    tokio::time::timeout(6 * DEADLINE, last).await.expect("the flood ends").unwrap();
    going.store(false, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_that_nobody_wants_answered_holds_up_nobody_and_leaves_nothing() {
    let rig = Rig::without_daemon("", |_| {}).await;
    rig.write_main("uri = \"test:///default\"\n");
    let daemon = Daemon::start(&rig);
    rig.client.until_name_is(true).await;
    let state = async || rig.client.text(MANAGER, "Manager.State").await;
    rig.client.until(MANAGER, "Manager.State", |s: &String| s == "running").await;
    let before = daemon.resident();
    let going = Arc::new(AtomicBool::new(true));
    let flood = tokio::spawn(flood(Client::connect(&rig.address()).await, Arc::clone(&going)));
    // Others are answered meanwhile.
    while going.load(Ordering::Relaxed) && !flood.is_finished() {
        assert_eq!(state().await, "running");
    }
    flood.await.unwrap();
    soon("the memory that it had before", async {
        while daemon.resident() > MOST_OF_BEFORE * before {
            assert_eq!(state().await, "running");
        }
    })
    .await;
}
