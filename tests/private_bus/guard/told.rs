//! The exit status says how the command ended, whoever reads the rest or does not.

use std::io::{self, ErrorKind};

use clap::Parser as _;
use jiff::tz::TimeZone;
use serde_json::Value;
use virtsnap::{
    cli::{
        self,
        args::Cli,
        console::{Console, Screen},
        place::Place,
        render::Watch,
    },
    clock::Clock as _,
};

use super::{
    super::{
        client::soon,
        command_line::virtsnap,
        rig::{Rig, id},
    },
    begin, pins, web,
};

/// Nobody reads there any more.
struct Gone(ErrorKind);

impl io::Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        // There is never anything to send off.
        Ok(())
    }
}

/// Guards a command with these ends.
async fn guard(
    rig: &Rig,
    options: &[&str],
    ends: (&mut dyn io::Write, &mut dyn io::Write),
    command: &str,
) -> u8 {
    let address = rig.address();
    let before = ["virtsnap", "--no-ask-password", "--bus-address", &address];
    let verb = ["guard", "web", "--keep-for", "never", "--", command];
    let cli = Cli::try_parse_from([&before, options, &verb].concat()).unwrap();
    let mut console = Console {
        out: ends.0,
        err: ends.1,
        input: &mut io::empty(),
        interactive: true,
        screen: Screen { columns: Some(80), clock: &*rig.clock },
        json: cli.global.json,
        place: Place::default(),
        watch: Watch { zone: TimeZone::UTC, now: rig.clock.now() },
    };
    soon("the guard", cli::run(&cli, None, &mut console)).await.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_has_gone_keeps_nothing_from_being_put_back() {
    let rig = web().await;
    let mut gone = Gone(ErrorKind::Other);
    assert_eq!(guard(&rig, &[], (&mut io::sink(), &mut gone), "false").await, 1);
    assert_eq!(rig.client.snapshots(id(1)).await.len(), 2, "that of safety, too");
    assert_eq!(pins(&rig).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_json_does_not_change_how_it_ended() {
    let rig = web().await;
    for (kind, said) in [(ErrorKind::BrokenPipe, false), (ErrorKind::StorageFull, true)] {
        for (command, wanted) in [("true", 0), ("false", 1)] {
            let mut err = Vec::new();
            assert_eq!(guard(&rig, &["--json"], (&mut Gone(kind), &mut err), command).await, wanted);
            let err = String::from_utf8(err).unwrap();
            assert_eq!(err.contains("how it went could not be told"), said, "{kind}: {err}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_has_gone_meanwhile_does_not_change_it_either() {
    let mut rig = web().await;
    let guarded = begin(&rig, &["--json"], "exit 0").await;
    rig.stop().await;
    guarded.go_on();
    let (code, out, err) = guarded.ended().await;
    assert_eq!(code, Some(0), "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&answer["exit_status"], &answer["rolled_back"]), (&0.into(), &false.into()), "{answer}");
    assert!(answer["snapshot"].is_null() && err.contains("is still pinned"), "{answer} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_kept_as_wanted_is_let_go_of() {
    let rig = web().await;
    let address = rig.address();
    let marker = rig.directory().join("ran");
    // By the daemon's clock that has passed.
    let guard =
        ["--bus-address", &address, "guard", "web", "--operation", "upgrade", "--keep-for", "1h", "--"];
    let touch = ["touch", marker.to_str().unwrap()];
    let (code, _, err) = virtsnap(&[&guard[..], &touch].concat()).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("the command was not run") && !marker.exists(), "{err}");
    assert_eq!(pins(&rig).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_policies_may_go_earlier_than_it_is_to_be_kept() {
    let rig = web().await;
    let guarded = begin(&rig, &["--operation", "upgrade", "--keep-for", "2041-01-01"], "exit 0").await;
    guarded.go_on();
    let (code, _, err) = guarded.ended().await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains(", kept until 2041-01-01 00:00:00 (in ") && err.contains(" d) at most\n"), "{err}");
}
