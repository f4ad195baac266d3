//! The client's verbs that only look, and how waiting looks on a terminal.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
};

use clap::Parser as _;
use jiff::{Timestamp, tz::TimeZone};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use virtsnap::{
    cli::{
        self,
        args::Cli,
        console::{Console, Screen},
        place::Place,
        render::Watch,
    },
    clock::SystemClock,
    hypervisor::sim::{Op, VmSpec},
};

use super::{
    client::{none, soon},
    command_line::virtsnap,
    rig::{DEADLINE, Rig, held, id},
};

const POLICIES: &str = "[policy.day]
vms = [\"web\"]
schedule = \"30 2 * * *\"
keep-daily = 7
max-size = \"2GiB\"
";

async fn web() -> Rig {
    let rig = Rig::start(POLICIES, |sim| {
        sim.add_vm(VmSpec::new("web", 1));
        sim.add_vm(VmSpec::new("db", 2));
    })
    .await;
    rig.client.create(id(1), "s1", none()).await.unwrap();
    rig.client.create(id(1), "s2", none()).await.unwrap();
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_a_snapshot_and_the_policies_are_shown_as_a_whole() {
    let rig = web().await;
    let address = rig.address();
    let told = async |verb: &[&str]| virtsnap(&[&["--bus-address", &address], verb].concat()).await;
    let (code, out, err) = told(&["show", "web"]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for line in ["Name:          web", "Policies:      day", "Goes on from:  s2"] {
        assert!(out.lines().any(|l| l == line), "{line}: {out}");
    }
    assert!(out.contains("Snapshots:     2 snapshots, "), "{out}");
    let (code, out, _) = told(&["show", "web", "s1"]).await;
    assert_eq!(code, Some(0));
    let fact = |name: &str| {
        let line = out.lines().find(|l| l.starts_with(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name} in {out}")).split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!((fact("Name"), fact("VM"), fact("Under")), ("s1".into(), "web".into(), "s2".into()));
    assert_eq!((fact("State"), fact("Taken by")), ("ready".into(), "manual".into()));
    assert_eq!(told(&["show", "web", "s9"]).await.0, Some(3));
    let (_, out, _) = told(&["--json", "show", "web", "s1"]).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["vm"]["name"], &json["snapshot"]["name"]), (&"web".into(), &"s1".into()));

    let (code, out, _) = told(&["policies"]).await;
    assert_eq!(code, Some(0));
    for part in [
        "Policy:      day\n",
        "Runs:        30 2 * * * (UTC)\n",
        "keep-daily 7, max-delete 10, max-size 2 GiB\n",
        "mountpoints auto, name {policy}-{timestamp}, quiesce prefer, skip-unchanged no, when running shut-off\n",
        "catch-up once, ",
        "test.toml:1\n",
    ] {
        assert!(out.contains(part), "no {part:?} in {out}");
    }
    let (_, out, _) = told(&["--json", "policies"]).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    let day = &json["policies"][0];
    assert_eq!((&day["keep"]["keep-daily"], &day["limits"]["max-size"]), (&7.into(), &(2_u64 << 30).into()));
    assert_eq!(day["timezone"], "UTC");
    let settings = &day["settings"];
    assert_eq!((&settings["mountpoints"][0], &settings["skip-unchanged"]), (&"auto".into(), &false.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_a_line_each_as_text_and_as_json() {
    let rig = web().await;
    let watch = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtsnap"));
        command.args(["--bus-address", &rig.address(), "watch"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, heard) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines() {
                let _ = lines.send(line.unwrap());
            }
        });
        (child, heard)
    };
    let (mut text, lines) = watch(&["web"]);
    let (mut json, objects) = watch(&["--json"]);
    // That they listen shows when they tell something, so there is something until they do.
    let mut flip = false;
    let mut first = None;
    let mut all = None;
    while first.is_none() || all.is_none() {
        flip = !flip;
        rig.sim.agent_connected(id(1), flip).unwrap();
        rig.client.until(&super::rig::vm_path(id(1)), "VM.AgentConnected", |now: &bool| *now == flip).await;
        first = first.or_else(|| lines.try_recv().ok());
        all = all.or_else(|| objects.try_recv().ok());
    }
    let (time, first) = first.as_deref().unwrap().split_at("2026-11-23 16:44:00 ".len());
    assert!(time.trim_end().parse::<jiff::civil::DateTime>().is_ok(), "{time}");
    assert!(first.starts_with("VM \"web\": AgentConnected "), "{first}");
    let all: Value = serde_json::from_str(&all.unwrap()).unwrap();
    assert!(all["time"].as_str().unwrap().parse::<Timestamp>().is_ok(), "{all}");
    assert_eq!((&all["event"], &all["kind"], &all["name"]), (&"changed".into(), &"vm".into(), &"web".into()));
    assert!(all["properties"]["AgentConnected"].is_boolean(), "{all}");

    rig.client.create(id(2), "not-of-web", none()).await.unwrap();
    // It is seen in one phase and then in another: what follows so fast that nobody saw it is one change.
    let [first, second] = [Op::Prepare, Op::Create].map(|op| rig.sim.gate(op));
    let job = rig.client.ask_create(id(1), "s3", none()).await.unwrap();
    for (gate, phase) in [(first, "preparing overlays"), (second, "taking the snapshot")] {
        held(&gate);
        rig.client.until(&job, "Job.Phase", |now: &String| now == phase).await;
        gate.open();
    }
    rig.client.wait(&job).await.unwrap();
    let until = |wanted: &str| {
        let mut before = Vec::new();
        while let Ok(line) = lines.recv_timeout(DEADLINE) {
            if line.contains(wanted) {
                return before;
            }
            before.push(line);
        }
        panic!("no {wanted:?} in {before:?}");
    };
    let before = until("snapshot \"s3\" of VM \"web\": is there (");
    assert!(before.iter().all(|line| line.contains("web")), "it was only about one: {before:?}");
    assert!(
        before.iter().any(|line| line.contains(" job ") && line.contains("Phase taking the snapshot")),
        "{before:?}"
    );
    let mut snapshot = None;
    while snapshot.is_none() {
        let line: Value = serde_json::from_str(&objects.recv_timeout(DEADLINE).unwrap()).unwrap();
        snapshot = (line["kind"] == "snapshot" && line["vm"] == "db").then_some(line);
    }
    assert_eq!(snapshot.unwrap()["properties"]["Origin"], "manual");

    kill(Pid::from_raw(text.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(text.wait().unwrap().code(), Some(0));
    let mut rig = rig;
    rig.stop().await;
    assert_eq!(json.wait().unwrap().code(), Some(5), "the daemon stopped");
    let mut err = String::new();
    json.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("it has stopped"), "{err}");
}

/// Where a person would read, for a test to read along.
struct Terminal(mpsc::Sender<String>);

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_it_shows_how_far_a_job_is() {
    let rig = web().await;
    let (address, sim) = (rig.address(), Arc::clone(&rig.sim));
    assert!(sim.write(id(1), "vda", 0, 7));
    let (closed, is_closed) = mpsc::channel();
    let (screen, shown) = mpsc::channel::<String>();
    // The merge goes on when its line was seen.
    let reader = std::thread::spawn(move || {
        let gate = sim.gate(Op::Commit);
        closed.send(()).unwrap();
        let mut seen = String::new();
        while !seen.contains("merging vda") {
            seen.push_str(&shown.recv_timeout(DEADLINE).expect("it shows what the job is at"));
        }
        gate.open();
        while let Ok(more) = shown.recv_timeout(DEADLINE) {
            seen.push_str(&more);
        }
        seen
    });
    is_closed.recv().unwrap();
    let cli = Cli::try_parse_from([
        "virtsnap",
        "--no-ask-password",
        "--bus-address",
        &address,
        "delete",
        "web",
        "s1",
        "--yes",
    ])
    .unwrap();
    let mut out = Vec::new();
    let mut terminal = Terminal(screen);
    let mut console = Console {
        out: &mut out,
        err: &mut terminal,
        input: &mut io::empty(),
        interactive: true,
        screen: Screen { columns: Some(80), clock: &SystemClock::default() },
        json: false,
        place: Place::default(),
        watch: Watch { zone: TimeZone::UTC, now: Timestamp::UNIX_EPOCH },
    };
    let exit = soon("the verb", cli::run(&cli, None, &mut console)).await;
    assert_eq!(exit.code(), 0);
    drop(terminal);
    let seen = soon("the reader", tokio::task::spawn_blocking(move || reader.join())).await.unwrap().unwrap();
    assert!(seen.contains("\r\u{1b}[2K[") && seen.contains(" %  merging vda (1/1)"), "{seen:?}");
    assert!(seen.ends_with("\r\u{1b}[2K"), "the line is taken away again: {seen:?}");
    assert_eq!(String::from_utf8(out).unwrap(), "web: snapshot \"s1\" deleted\n");
}
