//! `virtsnap time-travel`: what it finds, what it says of it, and where the VM is then.

use clap::Parser as _;
use jiff::{SignedDuration, tz::TimeZone};
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
    hypervisor::sim::VmSpec,
};

use super::{
    client::{none, soon},
    rig::{Rig, id},
};

/// A verb inside of the test, by the daemon's clock, with a person who gives this reply, or without one.
pub async fn told(rig: &Rig, reply: Option<&str>, verb: &[&str]) -> (u8, String, String) {
    let address = rig.address();
    let cli =
        Cli::try_parse_from([&["virtsnap", "--no-ask-password", "--bus-address", &address], verb].concat())
            .unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        input: &mut reply.unwrap_or_default().as_bytes(),
        interactive: reply.is_some(),
        screen: Screen { columns: reply.map(|_| 80), clock: &*rig.clock },
        json: cli.global.json,
        place: Place::default(),
        watch: Watch { zone: TimeZone::UTC, now: rig.clock.now() },
    };
    let exit = soon("the verb", cli::run(&cli, None, &mut console)).await;
    (exit.code(), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Snapshots of 1 and of 2, an hour apart; then 3 is written, and an hour passes.
async fn web() -> Rig {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    for (name, value) in [("first", 1), ("second", 2)] {
        assert!(rig.sim.write(id(1), "vda", 0, value));
        rig.client.create(id(1), name, none()).await.unwrap();
        rig.clock.advance(SignedDuration::from_hours(1));
    }
    assert!(rig.sim.write(id(1), "vda", 0, 3));
    rig
}

fn holds(rig: &Rig) -> u64 {
    rig.sim.read(id(1), "vda").unwrap()[&0]
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_to_the_newest_restore_point_before_that_time_if_a_person_agrees() {
    let rig = web().await;
    let (code, out, err) = told(&rig, Some("n\n"), &["time-travel", "web", "--to", "90min ago"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(out.starts_with("web: the newest restore point before "), "{out}");
    assert!(out.contains("is snapshot \"first\", taken ") && out.contains(" before that\n"), "{out}");
    assert!(out.contains("taken 30 min "), "{out}");
    assert!(err.contains("\"before-revert-first-(time)\"") && err.contains("nothing was changed"), "{err}");
    assert_eq!(holds(&rig), 3);

    let (code, out, err) = told(&rig, Some("y\n"), &["time-travel", "web", "--to", "90min ago"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("web: reverted to snapshot \"first\"; the way back is snapshot \"before-revert-"),
        "{out}"
    );
    assert_eq!(holds(&rig), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_it_all_and_does_nothing() {
    let rig = web().await;
    let before = rig.client.snapshots(id(1)).await;
    let (code, out, err) = told(&rig, None, &["time-travel", "web", "--to", "now", "--dry-run"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("snapshot \"second\"") && out.contains("before-revert-second-"), "{out}");
    let asked = ["time-travel", "web", "--to", "now", "--dry-run", "--json"];
    let (_, out, _) = told(&rig, None, &asked).await;
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["snapshot"]["name"], "second");
    let off = found["off_usec"].as_u64().unwrap();
    assert!((3_600_000_000..3_700_000_000).contains(&off), "{found}");
    assert!(found["job"].is_null(), "{found}");
    assert_eq!((rig.client.snapshots(id(1)).await, holds(&rig)), (before, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_say_yes_and_get_the_way_back() {
    let rig = web().await;
    let (code, _, err) = told(&rig, None, &["time-travel", "web", "--to", "now"]).await;
    assert_eq!(code, 2, "nobody can be asked: {err}");
    let asked = ["time-travel", "web", "--to", "now", "--yes", "--json", "--off"];
    let (code, out, err) = told(&rig, None, &asked).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let done: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&done["snapshot"]["name"], &done["job"]["result"]), (&"second".into(), &"done".into()));
    assert_eq!(done["safety"]["origin"], "safety");
    assert_eq!(holds(&rig), 2);
    assert!(rig.sim.is_off(id(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_old_enough_the_oldest_is_named() {
    let rig = web().await;
    let (code, _, err) = told(&rig, None, &["time-travel", "web", "--to", "1d ago", "--yes"]).await;
    assert_eq!(code, 3);
    assert!(
        err.contains("no restore point before ") && err.contains("its oldest is snapshot \"first\""),
        "{err}"
    );
    for wrong in ["soon", "2099-01-01"] {
        assert_eq!(told(&rig, None, &["time-travel", "web", "--to", wrong, "--yes"]).await.0, 2, "{wrong}");
    }
    assert_eq!(holds(&rig), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_by_a_revert_is_not_what_it_was_afterwards() {
    let rig = web().await;
    let (code, _, err) = told(&rig, None, &["revert", "web", "first", "--yes"]).await;
    assert_eq!(code, 0, "{err}");
    rig.clock.advance(SignedDuration::from_hours(1));
    let found = async |to: &str| {
        let asked = ["time-travel", "web", "--to", to, "--dry-run", "--json"];
        let (code, out, err) = told(&rig, None, &asked).await;
        assert_eq!(code, 0, "{err}");
        let found: Value = serde_json::from_str(&out).unwrap();
        (found["snapshot"]["name"].as_str().unwrap().to_owned(), found["on_line"].as_bool().unwrap())
    };
    assert_eq!(found("30min ago").await, ("first".to_owned(), true));
    assert_eq!(found("90min ago").await, ("second".to_owned(), true), "it was on that one then");
    let (_, out, _) = told(&rig, None, &["time-travel", "web", "--to", "30min ago", "--dry-run"]).await;
    assert!(
        out.contains(
            "; passed over, as the VM had been put back from there: \"second\", \"before-revert-first-"
        ),
        "{out}"
    );
}
