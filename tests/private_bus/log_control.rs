//! systemd's way to see and change how much is logged.

use std::process::{Command, Stdio};

use tracing::{Level, enabled};
use virtsnap::{hypervisor::sim::VmSpec, logging};

use super::{
    authorisation::{as_nobody, as_user},
    client::Client,
    rig::Rig,
};

const PATH: &str = "/org/freedesktop/LogControl1";
const INTERFACE: &str = "org.freedesktop.LogControl1";

async fn get(rig: &Rig, property: &str) -> String {
    rig.client.text(PATH, &format!("{INTERFACE}.{property}")).await
}

/// As `systemctl service-log-level` does it.
async fn set(client: &Client, property: &str, to: &str) -> Result<(), (String, String)> {
    let body = (INTERFACE, property, zbus::Variant::from(to));
    client.call(PATH, "org.freedesktop.DBus.Properties.Set", &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_changes_how_much_is_logged_and_nobody_else_does() {
    logging::init();
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    assert_eq!(get(&rig, "LogLevel").await, "info");
    assert_eq!(get(&rig, "LogTarget").await, "console");
    assert_eq!(get(&rig, "SyslogIdentifier").await, "virtsnapd");
    let ours = || {
        [Level::DEBUG, Level::INFO, Level::WARN].map(|level| match level {
            Level::DEBUG => enabled!(target: "virtsnap::engine", Level::DEBUG),
            Level::INFO => enabled!(target: "virtsnap::engine", Level::INFO),
            _ => enabled!(target: "virtsnap::engine", Level::WARN),
        })
    };
    assert_eq!(ours(), [false, true, true]);
    set(&rig.client, "LogLevel", "debug").await.unwrap();
    assert_eq!((get(&rig, "LogLevel").await.as_str(), ours()), ("debug", [true, true, true]));
    assert!(
        !enabled!(target: "zbus::connection", Level::DEBUG),
        "what libraries tell of themselves is left out"
    );
    set(&rig.client, "LogLevel", "warning").await.unwrap();
    assert_eq!((get(&rig, "LogLevel").await.as_str(), ours()), ("warning", [false, false, true]));

    for wrong in ["", "Debug", "trace", &"x".repeat(10_000)] {
        let (name, text) = set(&rig.client, "LogLevel", wrong).await.unwrap_err();
        assert!(name == "InvalidArgument" && text.contains("stays \"warning\""), "{name}: {text}");
    }
    set(&rig.client, "LogTarget", "null").await.unwrap_err();
    let call = ["set-property", "org.virtsnap1", PATH, INTERFACE, "LogLevel", "s", "debug"];
    // First the bus says no, and where an administrator has that let it through, the daemon.
    for (who, loosened) in [("Rejected send message", false), ("only root may", true)] {
        if loosened {
            rig.loosen_bus().await;
        }
        for output in [as_nobody(&rig, &call).await, as_user(1, &rig, &call).await] {
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && log.contains(who), "{log}");
        }
    }
    let read = as_nobody(&rig, &["get-property", "org.virtsnap1", PATH, INTERFACE, "LogLevel"]).await;
    assert_eq!(String::from_utf8_lossy(&read.stdout), "s \"warning\"\n");
    assert_eq!(ours(), [false, false, true]);
}

/// The log of a process of its own is all that tells.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_told_where_the_log_shows_it() {
    let rig = Rig::without_daemon("", |_| {}).await;
    rig.write_main("uri = \"test:///default\"\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnapd"));
    command.arg("--config-dir").arg(rig.directory().join("etc"));
    command.arg("--state-dir").arg(rig.directory().join("state"));
    command.arg("--bus-address").arg(rig.address()).env_remove(logging::FILTER);
    let mut daemon = command.stderr(Stdio::piped()).spawn().unwrap();
    rig.client.until_name_is(true).await;
    for level in ["warning", "err", "debug"] {
        set(&rig.client, "LogLevel", level).await.unwrap();
    }
    daemon.kill().unwrap();
    let output = daemon.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let told: Vec<&str> =
        log.lines().filter_map(|line| Some(line.split_once("sets the log level from ")?.1)).collect();
    // From one level to another, neither of which shows it, nothing is told.
    assert_eq!(told, ["info to warning", "err to debug"], "{log}");
}
