//! What `--help` says of a command, an option or an argument, and what `man/virtsnap.1` says of it: the page begins with the
//! same words, and may say more after them.

use clap::{Arg, Command, CommandFactory as _};
use virtsnap::cli::args::Cli;

use super::{options, page, parts};

/// A tagged paragraph of the page: what it is about, and what it says.
struct Entry {
    head: String,
    text: String,
}

/// Lines as a reader sees them, without their fonts.
fn plain(lines: &[&str]) -> String {
    let seen = |line: &&str| match line.strip_prefix('.').and_then(|line| line.split_once(' ')) {
        Some((macro_, rest)) => arguments(rest).join(if macro_.len() == 1 { " " } else { "" }),
        None => (*line).to_owned(),
    };
    let mut text = lines.iter().map(seen).collect::<Vec<_>>().join(" ");
    for (written, shown) in [("\\-", "-"), ("\\(dq", "\""), ("\\(aq", "'"), ("\\e", "\\")] {
        text = text.replace(written, shown);
    }
    for font in ["\\fR", "\\fP", "\\fB", "\\fI"] {
        text = text.replace(font, "");
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A macro's, of which those with spaces stand in quotes.
fn arguments(rest: &str) -> Vec<String> {
    let quoted = rest.split('"').enumerate();
    let words = quoted.flat_map(|(at, part)| match at % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    });
    words.collect()
}

/// Up to the next paragraph.
fn paragraph<'a>(lines: &'a [&'a str]) -> &'a [&'a str] {
    let end = lines.iter().position(|line| [".PP", ".TP", ".EX"].contains(line));
    &lines[..end.unwrap_or(lines.len())]
}

fn entries(lines: &[&str]) -> Vec<Entry> {
    let mut all = Vec::new();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| **line == ".TP") {
        all.push(Entry { head: plain(&lines[at + 1..=at + 1]), text: plain(paragraph(&lines[at + 2..])) });
    }
    all
}

/// What an option or an argument is called where the page has a paragraph on it.
fn is_about(entry: &Entry, arg: &Arg) -> bool {
    if let Some(long) = arg.get_long() {
        return options([&entry.head.as_str()]).contains(long);
    }
    let name = arg.get_value_names().unwrap()[0].trim_end_matches('S');
    entry.head.split([' ', '.']).next() == Some(name)
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// What is wrong with what the page says of something, against its help text and what its values mean.
fn disagreement(help: &str, values: &[(String, String)], told: &str) -> Option<String> {
    let help = help.replace('`', "");
    let (body, default) = match help.split_once(" [default: ") {
        Some((body, default)) => (body, Some(default.trim_end_matches(']'))),
        None => (help.as_str(), None),
    };
    let rest = lower_first(told).strip_prefix(&lower_first(body)).map(str::to_owned);
    if rest.is_none_or(|rest| rest.starts_with(char::is_alphanumeric)) {
        return Some(format!("{body:?} is the help text, {told:?} the page's"));
    }
    let default = default.map(|default| format!("efault: {default}"));
    let values = values.iter().map(|(name, help)| format!("{name}: {}", lower_first(help)));
    let lacks = default.into_iter().chain(values).find(|part| !told.contains(part));
    lacks.map(|part| format!("{part:?} is not in {told:?}"))
}

fn values(arg: &Arg) -> Vec<(String, String)> {
    let all = arg.get_possible_values();
    all.iter().map(|v| (v.get_name().to_owned(), v.get_help().unwrap().to_string())).collect()
}

#[test]
fn the_page_says_what_the_help_texts_say() {
    let page = page("virtsnap.1");
    let commands = parts(&page, ".SS");
    let shared = entries(&parts(&page, ".SH")["OPTIONS"]);
    let of = |verb: &str| entries(&commands[verb]);
    let mut client = Cli::command();
    client.build();
    let mut wrong = Vec::new();
    for verb in client.get_subcommands().filter(|verb: &&Command| !verb.is_hide_set()) {
        let name = verb.get_name();
        let lines = &commands[name];
        let told = lines.iter().position(|line| *line == ".PP").expect("what it does, after its usage");
        let about = verb.get_about().unwrap().to_string();
        let said = disagreement(&about, &[], &plain(paragraph(&lines[told + 1..])));
        wrong.extend(said.map(|said| format!("{name}: {said}")));
        let own = of(name);
        for arg in verb.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help") {
            let found = own.iter().chain(&shared).find(|entry| is_about(entry, arg));
            let elsewhere = found.and_then(|entry| entry.text.split_once("s with virtsnap "));
            let told = match elsewhere.map(|(_, verb)| of(verb.trim_end_matches('.'))) {
                Some(there) => {
                    there.iter().find(|entry| is_about(entry, arg)).map(|entry| entry.text.clone())
                }
                None => found.map(|entry| entry.text.clone()),
            };
            let said = match told {
                Some(told) => disagreement(&arg.get_help().unwrap().to_string(), &values(arg), &told),
                None => Some("the page says nothing of it".to_owned()),
            };
            wrong.extend(said.map(|said| format!("{name}, {}: {said}", arg.get_id())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_drifts_apart_is_found() {
    let values = [("never".to_owned(), "Don't freeze them".to_owned())];
    let help = "Whether to freeze [default: prefer]";
    let told = |text| disagreement(help, &values, text);
    assert_eq!(told("Whether to freeze, that is; never: don't freeze them. Default: prefer."), None);
    for text in [
        "Freeze. never: don't freeze them. Default: prefer.",
        "Whether to freezer. never: don't freeze them. Default: prefer.",
        "Whether to freeze. never: don't freeze them. Default: never.",
        "Whether to freeze. never: freeze nothing. Default: prefer.",
    ] {
        assert!(told(text).is_some(), "{text}");
    }
    let lines = [".TP", ".BI \\-\\-to \" TIME\"", "To", ".BR ssh (1)", "or \\(dqso\\(dq.", ".PP", "No more."];
    let entry = entries(&lines).pop().unwrap();
    assert_eq!((entry.head.as_str(), entry.text.as_str()), ("--to TIME", "To ssh(1) or \"so\"."));
}
