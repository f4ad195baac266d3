//! The examples of `man/org.virtsnap1.5`, each run as it stands.

use std::process::Command;

use virtsnap::hypervisor::sim::VmSpec;

use super::{client::soon, rig::Rig};

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
    assert!(all.len() >= 5, "the page has {} examples", all.len());
    for example in all {
        let mut command = Command::new(example.program);
        command.arg("-c").arg(&example.text).env("DBUS_SYSTEM_BUS_ADDRESS", rig.address());
        let run = soon("an example", tokio::task::spawn_blocking(move || command.output())).await;
        let run = run.unwrap().unwrap_or_else(|e| panic!("{}: {e}", example.program));
        let (out, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{}\n{out}{log}", example.text);
        assert!(out.contains(&example.prints), "{}\nno {:?} in {out}{log}", example.text, example.prints);
    }
}
