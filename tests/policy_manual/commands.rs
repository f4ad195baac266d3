//! Examples of commands: the client's are parsed as the client does, those of others at least name what is there.

use clap::Parser as _;
use virt::{connect::Connect, sys};
use virtsnap::{
    cli::args::Cli,
    core::model::VmId,
    hypervisor::{Event, Hypervisor as _, libvirt::Libvirt},
};

use super::{Page, page::Example};

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
                let help = std::process::Command::new(env!("CARGO_BIN_EXE_virtsnapd"))
                    .arg("--help")
                    .output()
                    .unwrap();
                let help = String::from_utf8(help.stdout).unwrap();
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
