//! `man/virtsnap.1` and `man/virtsnapd.8` against the programs: what these take is in the pages, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "client_manual/texts.rs"]
mod texts;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use clap::CommandFactory as _;
use virtsnap::cli::{args::Cli, exit::Exit};

fn page(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
    std::fs::read_to_string(file).unwrap()
}

/// A page's parts by their heading, of this macro (`.SH`, `.SS`), without comments.
fn parts<'a>(page: &'a str, heading: &str) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut parts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut at = "";
    for line in page.lines().filter(|line| !line.starts_with(".\\\"")) {
        match line.strip_prefix(heading) {
            Some(title) => {
                at = title.trim();
                assert!(parts.insert(at, vec![]).is_none(), "{at} is there twice");
            }
            None if heading == ".SS" && line.starts_with(".SH") => at = "",
            None => parts.entry(at).or_default().push(line),
        }
    }
    parts
}

/// The long options that lines name, as a reader sees them.
fn options<'a>(lines: impl IntoIterator<Item = &'a &'a str>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in lines {
        let line = line.replace("\\-", "-").replace("\\fR", " ").replace("\\fP", " ");
        let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let long = words.filter_map(|word| word.strip_prefix("--")).filter(|word| !word.is_empty());
        all.extend(long.map(str::to_owned));
    }
    all
}

/// Those that a paragraph is about.
fn explained(lines: &[&str]) -> BTreeSet<String> {
    let heads = lines.iter().zip(lines.iter().skip(1)).filter(|(before, _)| [".TP", ".TQ"].contains(*before));
    options(heads.map(|(_, head)| head).collect::<Vec<_>>())
}

#[test]
fn each_command_is_there_with_its_usage_and_all_of_its_options() {
    let page = page("virtsnap.1");
    let sections = parts(&page, ".SH");
    let shared = explained(&sections["OPTIONS"]);
    let mut commands = parts(&page, ".SS");
    commands.remove("");
    let mut client = Cli::command();
    client.build();
    let everywhere: BTreeSet<&str> = ["json", "system", "host", "no-ask-password", "help", "version"].into();
    for verb in client.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        let lines = commands.remove(name).unwrap_or_else(|| panic!("the page has no {name}"));
        assert_eq!(
            lines[0].replace("\\-", "-"),
            format!(".B virtsnap {name}"),
            "{name}: its usage comes first"
        );
        let takes: BTreeSet<String> = verb
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
            .flat_map(|arg| arg.get_long().into_iter().chain(arg.get_visible_aliases().unwrap_or_default()))
            .filter(|long| !everywhere.contains(long))
            .map(str::to_owned)
            .collect();
        assert_eq!(options(&lines), takes, "{name}: what the page has, and what it takes");
        let own = explained(&lines);
        let missing: Vec<_> = takes.iter().filter(|o| !own.contains(*o) && !shared.contains(*o)).collect();
        assert!(missing.is_empty(), "{name}: {missing:?} are not explained");
        let usage: Vec<&str> = lines.iter().copied().take_while(|line| *line != ".PP").collect();
        let usage = usage.join(" ");
        for place in verb.get_positionals().filter(|place| !place.is_hide_set()) {
            let called = place.get_value_names().unwrap()[0].trim_end_matches('S').to_owned();
            assert!(usage.contains(&called), "{name}: no {called} in {usage:?}");
        }
    }
    assert!(commands.is_empty(), "there are no such commands: {:?}", commands.keys());
    assert!(everywhere.iter().all(|option| shared.contains(*option)), "{shared:?}");
}

#[test]
fn every_exit_status_is_there_and_no_other() {
    let page = page("virtsnap.1");
    let lines = &parts(&page, ".SH")["EXIT STATUS"];
    let told: Vec<u8> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    let all = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::NotAuthorised,
        Exit::Unreachable,
        Exit::JobFailed,
        Exit::Busy,
        Exit::NotRolledBack,
        Exit::OfCommand(126),
        Exit::OfCommand(127),
        Exit::Interrupted,
    ];
    assert_eq!(told, all.map(Exit::code));
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let line =
        readme.split("The client's exit statuses:").nth(1).unwrap().split("The daemon's").next().unwrap();
    for code in told {
        assert!(line.contains(&format!("{code} ")), "{code} in {line}");
    }
}

#[test]
fn the_readme_has_the_daemon_s_exit_statuses_that_its_page_has() {
    let page = page("virtsnapd.8");
    let lines = &parts(&page, ".SH")["EXIT STATUS"];
    let told: Vec<u8> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(told, [0, 1, 2, 75, 78]);
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let line = readme.split("The daemon's: ").nth(1).unwrap().split('.').next().unwrap();
    let words: Vec<u8> = line.split([' ', ',', '\n']).filter_map(|word| word.parse().ok()).collect();
    assert_eq!(words, told, "{line}");
}

#[test]
fn the_daemon_s_options_are_its_own() {
    let help = Command::new(env!("CARGO_BIN_EXE_virtsnapd")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let takes: BTreeSet<String> = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split("--").nth(1)?.split([' ', '=']).next())
        .map(str::to_owned)
        .collect();
    assert!(takes.len() >= 5, "{help}");
    let page = page("virtsnapd.8");
    assert_eq!(explained(&parts(&page, ".SH")["OPTIONS"]), takes);
}

#[test]
fn troff_has_nothing_to_say_about_the_pages() {
    let man = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let mut pages: Vec<_> = std::fs::read_dir(man).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() >= 4, "{pages:?}");
    for page in pages {
        let run = Command::new("groff").args(["-man", "-ww", "-z", "-Tutf8"]).arg(&page).output();
        let said = run.expect("groff is installed").stderr;
        assert!(said.is_empty(), "{}: {}", page.display(), String::from_utf8_lossy(&said));
    }
}
