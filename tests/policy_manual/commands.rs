//! Examples of commands: those that want no daemon are run, the client's others are parsed as the client does, and those
//! of other programs at least name what is there.

use std::{collections::BTreeSet, path::Path, process::Command};

use clap::{CommandFactory as _, Parser as _};
use virt::{connect::Connect, sys};
use virtsnap::{
    cli::args::Cli,
    core::model::VmId,
    hypervisor::{Event, Hypervisor as _, libvirt::Libvirt},
};

use super::{
    Page,
    page::{self, Example, wrapped},
};

/// Programs of others that the page may name.
const OTHERS: &[&str] = &["systemctl", "journalctl", "ln", "virsh", "sudo"];

/// A command as a shell would split it; single quotes alone, which is all that the page uses.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    assert!(!quoted, "{command}");
    words.retain(|word| !word.is_empty());
    words
}

/// The commands of a display: lines that begin with a prompt, up to where no `\` continues them.
fn commands(example: &Example) -> Vec<Vec<String>> {
    let text = example.text.replace("\\\n", " ");
    let all: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# ").or(line.strip_prefix("$ ")))
        .map(words)
        .collect();
    assert!(!all.is_empty(), "line {}: there is no command in it", example.line);
    all
}

/// Commands for a shell that want a daemon: they are understood, but not run.
pub fn shell(_: &Page, example: &Example) -> String {
    for command in commands(example) {
        match command[0].as_str() {
            "virtsnap" => {
                Cli::try_parse_from(&command).unwrap_or_else(|e| panic!("line {}: {e}", example.line));
            }
            "virtsnapd" => {
                let help = daemons_help();
                for option in &command[1..] {
                    assert!(help.contains(option), "line {}: virtsnapd has no {option}", example.line);
                }
            }
            other => assert!(OTHERS.contains(&other), "line {}: what is {other}?", example.line),
        }
    }
    example.text.clone()
}

/// A `virsh metadata` that gives a VM its `tags=A,B`: what it does is done to a VM of libvirt's test driver, and the
/// daemon's driver then reads these tags.
pub fn tags(_: &Page, example: &Example) -> String {
    let [command] = &commands(example)[..] else { panic!("one command") };
    assert_eq!(command[..2], ["virsh", "metadata"]);
    let option = |name: &str| {
        let at = command.iter().position(|word| word == name).unwrap_or_else(|| panic!("no {name}"));
        command[at + 1].as_str()
    };
    let connection = Connect::open(Some("test:///default")).unwrap();
    let domain = connection.lookup_domain_by_name("test").unwrap();
    domain
        .set_metadata(
            sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed(),
            Some(option("--set")),
            Some(option("--key")),
            Some(option("--uri")),
            sys::VIR_DOMAIN_AFFECT_CURRENT,
        )
        .unwrap();
    let libvirt = Libvirt::new("test:///default");
    let (send, connected) = std::sync::mpsc::channel();
    libvirt.watch(Box::new(move |event| {
        if let Event::Connected(_) = event {
            let _ = send.send(());
        }
    }));
    connected.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    let found = libvirt.vm(VmId(domain.uuid().unwrap())).unwrap().tags;
    let expected = example.argument("tags").split(',').map(str::to_owned).collect();
    assert_eq!(found, expected, "line {}", example.line);
    example.text.clone()
}

/// An input for `simulate`, which some example uses.
pub fn json(page: &Page, example: &Example) -> String {
    let file = format!("{}.json", example.argument("name"));
    let used = page.examples.iter().any(|e| e.kind == "simulate" && e.text.contains(&file));
    assert!(used, "line {}: no example uses {file}", example.line);
    example.text.clone()
}

/// Commands that are run by a shell, with the examples of the page as the files that they name, and what they print:
/// errors first, and lines that are too long broken.
pub fn simulate(page: &Page, example: &Example) -> String {
    let directory = tempfile::tempdir().unwrap();
    for file in &page.examples {
        let ending = if file.kind == "json" { "json" } else { "toml" };
        if let Some(name) = file.get("name") {
            std::fs::write(directory.path().join(format!("{name}.{ending}")), &file.text).unwrap();
        }
    }
    let binaries = Path::new(env!("CARGO_BIN_EXE_virtsnap")).parent().unwrap();
    let mut out = String::new();
    let mut lines = example.text.lines();
    while let Some(first) = lines.find(|line| line.starts_with("$ ")) {
        let mut shown = vec![first];
        while shown.last().is_some_and(|line| line.ends_with(['\\', '|'])) {
            shown.push(lines.next().unwrap());
        }
        let command = shown.join("\n");
        let ran = Command::new("sh")
            .args(["-c", &command["$ ".len()..]])
            .current_dir(directory.path())
            .env("PATH", format!("{}:/usr/bin:/bin", binaries.display()))
            .env("TZ", "Europe/Vienna")
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let printed = String::from_utf8(ran.stderr).unwrap() + &String::from_utf8(ran.stdout).unwrap();
        out.push_str(&(command + "\n"));
        for line in printed.lines() {
            out.push_str(&wrapped(line, 0, 4));
        }
    }
    out
}

fn daemons_help() -> String {
    let ran = Command::new(env!("CARGO_BIN_EXE_virtsnapd")).arg("--help").output().unwrap();
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn every_option_that_the_page_names_is_there() {
    let client = Cli::command();
    let verbs = client.get_subcommands().chain([&client]);
    let mut known: BTreeSet<String> = verbs
        .flat_map(clap::Command::get_arguments)
        .filter_map(|a| Some(format!("--{}", a.get_long()?)))
        .collect();
    known.extend(["--config", "--live", "--uri", "--key", "--set"].map(str::to_owned));
    let help = daemons_help();
    known.extend(help.split_whitespace().filter(|word| word.starts_with("--")).map(str::to_owned));
    for (line, text) in page::lines() {
        let text = text.replace("\\-", "-");
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        let options = words.filter(|w| w.len() > 2 && w.starts_with("--") && !w.starts_with("---"));
        for option in options {
            assert!(known.contains(option), "line {line}: nobody has {option}");
        }
    }
}
