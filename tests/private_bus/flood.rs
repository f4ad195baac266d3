//! The client's real binary while more signals come than it reads at a time.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

use virtsnap::{
    core::text::for_shell,
    hypervisor::sim::{Op, VmSpec},
};
use zbus::{Connection, Variant, connection::Builder, fdo::ManagedObjects, interface};

use super::{
    client::{MANAGER, soon},
    rig::{DEADLINE, Rig},
};

/// What tells so much while it is asked for all objects that no client could keep it unread.
struct Loud;

/// So often.
const SIGNALS: u32 = 500;

#[interface(name = "org.freedesktop.DBus.ObjectManager")]
impl Loud {
    async fn get_managed_objects(&self, #[zbus(connection)] bus: &Connection) -> ManagedObjects {
        for number in 1..=SIGNALS {
            let changed = HashMap::from([("Warnings", Variant::from(format!("news {number}")))]);
            let body = ("org.virtsnap1.Manager", changed, Vec::<String>::new());
            bus.emit_signal(
                None::<&str>,
                MANAGER,
                "org.freedesktop.DBus.Properties",
                "PropertiesChanged",
                &body,
            )
            .await
            .unwrap();
        }
        ManagedObjects::new()
    }
}

/// Ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_all_that_comes_while_it_asks_what_there_is() {
    let rig = Rig::without_daemon("", |_| {}).await;
    let address = rig.address();
    let loud = Builder::address(address.as_str()).name("org.virtsnap1").serve_at(MANAGER, Loud).build();
    let _loud = soon("the bus", loud).await.unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_virtsnap"))
        .args(["--bus-address", &address, "watch"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Process)
        .unwrap();
    let out = BufReader::new(watch.0.stdout.take().unwrap());
    let all = tokio::task::spawn_blocking(move || {
        let lines = out.lines().map(Result::unwrap).filter(|line| line.contains("Warnings news "));
        lines.take(usize::try_from(SIGNALS).unwrap()).collect::<Vec<_>>()
    });
    let all = tokio::time::timeout(DEADLINE, all).await;
    // The lines end with it.
    drop(watch);
    let all = all.expect("it shows them all").unwrap();
    for (number, line) in (1..).zip(&all) {
        assert!(line.ends_with(&format!("Warnings news {number}")), "{line}");
    }
    assert_eq!(all.len(), usize::try_from(SIGNALS).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_many_jobs_are_is_drawn_on_a_terminal_until_they_have_ended() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        for number in 1..=100 {
            sim.add_vm(VmSpec::new(&format!("vm{number}"), number));
        }
    })
    .await;
    // All are held until something was drawn: they may be done before that.
    let gate = rig.sim.gate(Op::Create);
    let line = [env!("CARGO_BIN_EXE_virtsnap"), "--bus-address", &rig.address(), "run", "p"].map(for_shell);
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]).stdin(Stdio::null());
    let mut terminal = terminal.stdout(Stdio::piped()).spawn().map(Process).unwrap();
    let mut out = terminal.0.stdout.take().unwrap();
    let (drawn, is_drawn) = tokio::sync::oneshot::channel();
    let all = tokio::task::spawn_blocking(move || {
        let mut drawn = Some(drawn);
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        loop {
            match out.read(&mut some) {
                Ok(0) => return Ok(String::from_utf8_lossy(&all).into_owned()),
                Ok(read) => all.extend_from_slice(&some[..read]),
                Err(e) => return Err(e),
            }
            if String::from_utf8_lossy(&all).contains(" of 100 done") {
                drawn.take().map(|drawn| drawn.send(()));
            }
        }
    });
    tokio::time::timeout(DEADLINE, is_drawn).await.expect("something is drawn").expect("it goes on");
    gate.open();
    let all = tokio::time::timeout(4 * DEADLINE, all).await;
    if all.is_err() {
        drop(terminal);
        panic!("it goes on for ever");
    }
    let all = all.unwrap().unwrap().unwrap();
    assert!(terminal.0.wait().unwrap().success(), "{all}");
    assert_eq!(all.matches(": snapshot ").count(), 100, "{all}");
}
