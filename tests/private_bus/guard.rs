//! `virtsnap guard`: what becomes of the VM for each way in which a command can end.

mod back;
mod signals;
mod told;

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::Value;
use virtsnap::{
    core::model::VmState,
    hypervisor::{
        Hypervisor as _,
        sim::{Blocks, VmSpec},
    },
};
use zbus::OwnedVariant;

use super::{
    client::soon,
    rig::{Rig, id, snapshot_path, vm_path},
};

const POLICIES: &str = "[policy.careful]
vms = [\"web\"]
before = \"upgrade\"
name = \"{operation}-{sequence}\"
keep-last = 2
";

async fn web() -> Rig {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 1)));
    rig
}

fn all(value: u64) -> Blocks {
    (0..4).map(|block| (block, value)).collect()
}

/// Whatever of signals is ignored around the tests.
const DEFAULT: [&str; 2] = ["env", "--default-signal"];

/// A guard at work, whose command waits to be told to go on.
struct Guarded {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    /// What was read of that.
    said: String,
    gate: File,
}

/// Runs `then` in a shell, after a line from the gate; comes back when it waits there.
async fn begin(rig: &Rig, options: &[&str], then: &str) -> Guarded {
    begin_through(&DEFAULT, rig, options, then).await
}

/// The same for a guard that another program becomes.
async fn begin_through(through: &[&str], rig: &Rig, options: &[&str], then: &str) -> Guarded {
    let gate = rig.directory().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let address = rig.address();
    let client = [env!("CARGO_BIN_EXE_virtsnap"), "--bus-address", &address, "guard", "web"];
    // The daemon's clock is ahead of the client's.
    let kept: &[&str] = if options.contains(&"--operation") { &[] } else { &["--keep-for", "2041-01-01"] };
    let script = format!("exec <{}; echo up; read line; {then}", gate.display());
    let words = [through, &client, options, kept, &["--", "sh", "-c", &script]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("TZ", "UTC").stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    // Opening waits for the other side.
    let opened = tokio::task::spawn_blocking(move || File::options().write(true).open(gate));
    let gate = soon("the command", opened).await.unwrap().unwrap();
    let (line, out) = soon(
        "the command's word",
        tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            (line, out)
        }),
    )
    .await
    .unwrap();
    assert_eq!(line, "up\n", "standard output is the command's");
    let err = BufReader::new(child.stderr.take().unwrap());
    Guarded { child, out, err, said: String::new(), gate }
}

impl Guarded {
    fn go_on(&self) {
        (&self.gate).write_all(b"go\n").unwrap();
    }

    fn tell(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until it has said that.
    async fn until(mut self, text: &'static str) -> Self {
        let saying = tokio::task::spawn_blocking(move || {
            while !self.said.contains(text) {
                let more = self.err.read_line(&mut self.said).unwrap();
                assert_ne!(more, 0, "no {text:?} in {:?}", self.said);
            }
            self
        });
        soon(text, saying).await.unwrap()
    }

    /// Its exit status, what came after the command's first word, and its complaints.
    async fn ended(mut self) -> (Option<i32>, String, String) {
        let rest = soon(
            "the guard's end",
            tokio::task::spawn_blocking(move || {
                let mut out = String::new();
                self.out.read_to_string(&mut out).unwrap();
                self.err.read_to_string(&mut self.said).unwrap();
                (self.child.wait().unwrap().code(), out, self.said)
            }),
        );
        rest.await.unwrap()
    }
}

/// The only snapshot that is none of safety.
async fn point(rig: &Rig) -> String {
    let names = rig.client.snapshots(id(1)).await;
    let mut points = names.into_iter().filter(|name| !name.starts_with("before-revert-"));
    let point = points.next().expect("one was taken");
    assert_eq!(points.next(), None);
    point
}

async fn pins(rig: &Rig) -> Vec<(String, String, u64)> {
    let pins: OwnedVariant = rig.client.get(&snapshot_path(id(1), &point(rig).await), "Snapshot.Pins").await;
    pins.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_well_leaves_the_vm_and_a_snapshot_that_expires() {
    let rig = web().await;
    let guarded = begin(&rig, &["--tag", "try"], "echo done").await;
    let held = pins(&rig).await;
    assert!(held[0].0.starts_with("virtsnap guard runs sh -c "), "no prune takes it meanwhile: {held:?}");
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    guarded.go_on();
    let (code, out, err) = guarded.ended().await;
    assert_eq!((code, out.as_str()), (Some(0), "done\n"), "{err}");
    assert!(err.contains(", kept until 2041-01-01 00:00:00"), "{err}");
    assert_eq!(rig.sim.read(id(1), "vda").unwrap(), all(2));
    assert_eq!(pins(&rig).await, []);
    let path = snapshot_path(id(1), &point(&rig).await);
    assert_eq!(rig.client.get::<u64>(&path, "Snapshot.ExpiresUSec").await, 2_240_611_200_000_000);
    assert!(rig.client.text(&path, "Snapshot.Description").await.starts_with("before: sh -c"));
    assert_eq!(rig.client.get::<Vec<String>>(&path, "Snapshot.Tags").await, ["try"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_has_the_vm_put_back_with_the_power_state_that_it_had() {
    for (before, after) in [(VmState::Running, VmState::ShutOff), (VmState::ShutOff, VmState::Running)] {
        let rig = web().await;
        if before == VmState::ShutOff {
            rig.sim.stop(id(1)).unwrap();
            rig.client.until(&vm_path(id(1)), "VM.State", |s: &String| s == "shut-off").await;
        }
        let guarded = begin(&rig, &["--json"], "exit 7").await;
        // What the command does.
        if after == VmState::Running { rig.sim.start(id(1)) } else { rig.sim.stop(id(1)) }.unwrap();
        if after == VmState::Running {
            assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
        }
        guarded.go_on();
        let (code, out, err) = guarded.ended().await;
        assert_eq!(code, Some(7), "{err}");
        assert_eq!(rig.sim.read(id(1), "vda").unwrap(), all(1));
        assert_eq!(rig.sim.vm(id(1)).unwrap().state, before);
        assert_eq!(pins(&rig).await, []);
        let answer: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&answer["exit_status"], &answer["rolled_back"]), (&7.into(), &true.into()), "{answer}");
        assert_eq!(answer["snapshot"]["name"], point(&rig).await);
        assert_eq!(answer["safety"]["origin"], "safety", "and that can be gone back from");
        assert!(err.contains("ended with exit status 7") && err.contains("was put back"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_is_told_the_command_is_told_and_the_vm_is_put_back() {
    for (signal, then, wanted) in [
        (Signal::SIGTERM, "", 143),
        (Signal::SIGINT, "", 130),
        (Signal::SIGHUP, "", 129),
        // One that ends in peace was interrupted all the same.
        (Signal::SIGTERM, "0", 143),
        (Signal::SIGTERM, "9", 9),
    ] {
        let rig = web().await;
        let trap = if then.is_empty() { String::new() } else { format!("trap 'exit {then}' TERM; ") };
        // The line that it waits for never comes.
        let mut guarded = begin(&rig, &[], &format!("{trap}echo trapped; read line")).await;
        assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
        guarded.go_on();
        let mut line = String::new();
        guarded.out.read_line(&mut line).unwrap();
        assert_eq!(line, "trapped\n");
        guarded.tell(signal);
        let (code, _, err) = guarded.ended().await;
        assert_eq!(code, Some(wanted), "{signal} {then}: {err}");
        assert!(err.contains("was put back to snapshot"), "{err}");
        assert_eq!(rig.sim.read(id(1), "vda").unwrap(), all(1));
        assert_eq!(rig.sim.vm(id(1)).unwrap().state, VmState::Running);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn left_as_it_is_if_that_is_wanted() {
    let rig = web().await;
    let guarded = begin(&rig, &["--no-rollback"], "exit 7").await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    guarded.go_on();
    let (code, _, err) = guarded.ended().await;
    assert_eq!(code, Some(7), "{err}");
    assert!(err.contains("was left as it is") && err.contains("`virtsnap revert web "), "{err}");
    assert_eq!(rig.sim.read(id(1), "vda").unwrap(), all(2));
    assert_eq!(pins(&rig).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_has_the_snapshot_of_the_policies_that_list_it() {
    let rig = web().await;
    let guarded = begin(&rig, &["--operation", "upgrade"], "exit 3").await;
    assert!((0..4).all(|block| rig.sim.write(id(1), "vda", block, 2)));
    guarded.go_on();
    let (code, _, err) = guarded.ended().await;
    assert_eq!(code, Some(3), "{err}");
    assert_eq!(point(&rig).await, "upgrade-1");
    let path = snapshot_path(id(1), "upgrade-1");
    assert_eq!(rig.client.text(&path, "Snapshot.Origin").await, "operation");
    assert_eq!(rig.client.get::<u64>(&path, "Snapshot.ExpiresUSec").await, 0, "the policy decides");
    assert_eq!(rig.sim.read(id(1), "vda").unwrap(), all(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_how_a_plain_one_is_taken_is_not_dropped_without_a_word() {
    let rig = web().await;
    let address = rig.address();
    let guard = ["--bus-address", &address, "guard", "web", "--operation", "upgrade", "--keep-for", "never"];
    let run = async |more: &[&str]| {
        super::command_line::virtsnap(&[&guard[..], more, &["--", "true"]].concat()).await
    };
    let (code, _, err) = run(&["--name", "mine", "--quiesce", "require"]).await;
    assert_eq!(code, Some(0), "{err}");
    let said =
        "--name, --quiesce are not used: the policies that list \"upgrade\" take the snapshot of \"web\"";
    assert!(err.contains(said), "{err}");
    assert_eq!(rig.client.snapshots(id(1)).await, ["upgrade-1"]);
    let (_, _, err) = run(&[]).await;
    assert!(!err.contains("not used"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_no_policy_lists_has_a_plain_one_and_a_word() {
    let rig = web().await;
    let address = rig.address();
    let guard = ["--bus-address", &address, "guard", "web", "--operation", "delete", "--keep-for", "never"];
    let (code, _, err) =
        super::command_line::virtsnap(&[&guard[..], &["--name", "mine", "--", "true"]].concat()).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("no policy takes a snapshot of \"web\" before \"delete\": a plain one"), "{err}");
    assert_eq!(point(&rig).await, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn for_what_cannot_be_run_nothing_is_done() {
    let rig = web().await;
    let address = rig.address();
    let guard = async |more: &[&str]| {
        super::command_line::virtsnap(&[&["--bus-address", &address, "guard"], more].concat()).await
    };
    let (code, _, err) = guard(&["web", "--", "no-such-command-anywhere"]).await;
    assert_eq!(code, Some(127));
    assert!(err.contains("there is no such command; nothing was done"), "{err}");
    assert_eq!(guard(&["web", "--", "/etc/passwd"]).await.0, Some(126));
    assert_eq!(guard(&["nobody", "--", "true"]).await.0, Some(3));
    assert_eq!(guard(&["web", "--keep-for", "soon", "--", "true"]).await.0, Some(2));
    assert_eq!(rig.client.snapshots(id(1)).await, [] as [&str; 0]);
    // Nor is the command run where there is nothing to go back to.
    rig.sim.block_job(id(1), true).unwrap();
    let marker = rig.directory().join("ran");
    let touch = ["web", "--keep-for", "never", "--", "touch", marker.to_str().unwrap()];
    let (code, _, err) = guard(&touch).await;
    assert_eq!(code, Some(75), "{err}");
    assert!(err.contains("the command was not run") && !marker.exists(), "{err}");
}
