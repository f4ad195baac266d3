//! The examples of `man/org.virtsnap1.5` and those in `examples/`, each run as it stands.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use virtsnap::hypervisor::sim::VmSpec;

use super::{
    client::soon,
    rig::{Rig, id},
};

const PAGE: &str = include_str!("../../man/org.virtsnap1.5");

struct Example {
    program: &'static str,
    prints: String,
    text: String,
}

/// A line as a reader sees it.
fn shown(line: &str) -> String {
    let line = line.replace("\\(aq", "'").replace("\\(dq", "\"").replace("\\-", "-");
    line.replace("\\e", "\\")
}

fn examples() -> Vec<Example> {
    let parts = PAGE.split(".\\\" example: ").skip(1);
    parts
        .map(|part| {
            let (program, rest) = part.split_once('\n').unwrap();
            let prints = rest.strip_prefix(".\\\" prints: ").unwrap().lines().next().unwrap();
            let text = rest.split_once(".EX\n").unwrap().1.split_once("\n.EE").unwrap().0;
            let program = match program {
                "sh" => "/bin/sh",
                // Debian's, which has Debian's modules.
                "python3" => "/usr/bin/python3",
                "gjs" => "/usr/bin/gjs",
                other => panic!("how is {other} run?"),
            };
            Example {
                program,
                prints: shown(prints),
                text: text.lines().map(shown).collect::<Vec<_>>().join("\n"),
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_example_of_the_page_does_what_it_says() {
    let policies = "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nbefore = \"backup\"\n";
    let rig = Rig::start(policies, |sim| {
        sim.add_vm(VmSpec::new("web1", 1));
    })
    .await;
    let all = examples();
    assert!(all.len() >= 6, "the page has {} examples", all.len());
    assert_eq!(all.len(), PAGE.matches(".EX\n").count(), "each says how it is run");
    for example in all {
        let mut command = Command::new(example.program);
        command.arg("-c").arg(&example.text);
        let run = on_bus(command, &rig).await;
        let (out, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{}\n{out}{log}", example.text);
        assert!(out.contains(&example.prints), "{}\nno {:?} in {out}{log}", example.text, example.prints);
    }
}

async fn on_bus(mut command: Command, rig: &Rig) -> Output {
    command.env("DBUS_SYSTEM_BUS_ADDRESS", rig.address());
    let program = command.get_program().to_owned();
    let run = soon("an example", tokio::task::spawn_blocking(move || command.output())).await;
    run.unwrap().unwrap_or_else(|e| panic!("{}: {e}", program.display()))
}

/// Where a reader of the page finds them.
#[test]
fn the_page_names_each_program() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(PAGE.contains(&name), "{name}");
    }
}

/// Cargo builds examples along with the tests, beside them.
fn rust_example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples/snapshot")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_each_language_takes_a_snapshot() {
    let rig = Rig::start("", |sim| {
        sim.add_vm(VmSpec::new("web1", 1));
    })
    .await;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    // Debian's, whatever else of that name is on this machine.
    let scripts = [("/usr/bin/python3", "snapshot.py"), ("/usr/bin/gjs", "snapshot.js")];
    let scripts = scripts.map(|(program, script)| {
        let mut command = Command::new(program);
        command.arg(directory.join(script));
        command
    });
    for mut command in scripts.into_iter().chain([Command::new(rust_example())]) {
        let before = rig.client.snapshots(id(1)).await.len();
        command.arg("web1");
        let what = format!("{command:?}");
        let run = on_bus(command, &rig).await;
        let (out, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{what}: {out}{log}");
        assert!(out.starts_with("done: snapshot ") && out.ends_with(" consistent\n"), "{what}: {out}{log}");
        assert_eq!(rig.client.snapshots(id(1)).await.len(), before + 1, "{what}: {out}{log}");
    }

    // What went wrong is said, too.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(directory.join("snapshot.py")).arg("nobody");
    let run = on_bus(command, &rig).await;
    let log = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && log.starts_with("org.virtsnap1.Error.NoSuchVM: "), "{log}");
}
