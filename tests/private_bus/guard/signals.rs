//! Signals that come before the command, and those that whoever started the guard has ignored.

use std::process::{Command, Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use virtsnap::hypervisor::sim::Op;

use super::{
    super::{
        client::soon,
        rig::{held, id},
    },
    DEFAULT, all, begin_through, web,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ignored_stays_ignored_for_the_command_too() {
    let rig = web().await;
    let nohup = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    let guarded = begin_through(&nohup, &rig, &[], "kill -HUP $$; echo done").await;
    guarded.tell(Signal::SIGHUP);
    guarded.go_on();
    let (code, out, err) = guarded.ended().await;
    assert_eq!((code, out.as_str()), (Some(0), "done\n"), "{err}");
    assert!(!err.contains("put back"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_the_command_ended_is_known_to_who_was_started_without_such_news() {
    let rig = web().await;
    let careless = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"];
    let guarded = begin_through(&careless, &rig, &[], "exit 7").await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    guarded.go_on();
    let (code, _, err) = guarded.ended().await;
    assert_eq!(code, Some(7), "{err}");
    assert!(err.contains("was put back to snapshot"), "{err}");
    assert_eq!(rig.sim.read(id(1), "vda").unwrap(), all(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_interrupts_before_the_command_has_it_not_run() {
    for (signal, wanted) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGQUIT, 131)] {
        let rig = web().await;
        let marker = rig.directory().join("ran");
        let gate = rig.sim.gate(Op::Create);
        let mut command = Command::new(DEFAULT[0]);
        command.args(&DEFAULT[1..]).arg(env!("CARGO_BIN_EXE_virtsnap"));
        command.args(["--bus-address", &rig.address(), "guard", "web", "--keep-for", "never", "--", "touch"]);
        let child = command.arg(&marker).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        held(&gate);
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let ended = soon("the guard's end", ended).await.unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(wanted), "{err}");
        // Before or after the job is known to the client: it goes on either way.
        assert!(err.contains("the command was not run"), "{err}");
        assert!(!marker.exists());
        gate.open();
    }
}
