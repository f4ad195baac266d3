//! What fits where the cursor is, as far as the command line's own definition tells.
//!
//! Pure: words in, what is wanted out; who asks the daemon for names is the caller.

use clap::{Arg, ArgAction, Command};

use super::line::{Line, option};

/// What could stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One of these, each with what it is for.
    Words(Vec<(String, String)>),
    /// A VM's name.
    Vm,
    /// The name of a snapshot of this VM.
    Snapshot(String),
    /// A tag of one of this VM's snapshots.
    Tag(String),
    /// A policy's name.
    Policy,
    /// A job's number.
    Job,
    /// A file or a directory.
    Files,
    /// Something that nobody can know.
    Anything,
}

/// What is wanted for the last of these words, which follow the program's name; and of which machine, if they say one.
/// `command` is built.
pub(super) fn wanted<'a>(command: &'a Command, words: &'a [String]) -> (Wanted, Option<&'a str>) {
    let Some((current, before)) = words.split_last() else { return (Wanted::Anything, None) };
    match Line::read(command, before) {
        Some(line) => (of_line(command, &line, current), line.host),
        None => (Wanted::Anything, None),
    }
}

fn of_line(command: &Command, line: &Line<'_>, current: &str) -> Wanted {
    let Line { verb, ref given, ref options, pending, only_names, .. } = *line;
    if let Some(option) = pending {
        return value(option, given);
    }
    if let Some(long) = current.strip_prefix("--").filter(|_| !only_names)
        && let Some((name, _)) = long.split_once('=')
    {
        let Some(option) = option(verb.unwrap_or(command), name) else { return Wanted::Anything };
        return match value(option, given) {
            Wanted::Words(words) => {
                Wanted::Words(words.into_iter().map(|(w, what)| (format!("--{name}={w}"), what)).collect())
            }
            // Names would have to come with the option before them, and files cannot.
            _ => Wanted::Anything,
        };
    }
    if current.starts_with('-') && !only_names {
        return Wanted::Words(long_options(verb.unwrap_or(command), options));
    }
    let Some(verb) = verb else { return Wanted::Words(verbs(command)) };
    if verb.get_name() == "help" && given.is_empty() {
        return Wanted::Words(verbs(command));
    }
    let mut many = verb.get_positionals().filter(|p| is_many(p));
    let place = verb.get_positionals().nth(given.len()).or_else(|| many.next());
    place.map_or(Wanted::Anything, |place| value(place, given))
}

fn verbs(command: &Command) -> Vec<(String, String)> {
    let all = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    all.map(|verb| (verb.get_name().to_owned(), first_line(verb.get_about()))).collect()
}

fn long_options(verb: &Command, given: &[&str]) -> Vec<(String, String)> {
    let again = |arg: &Arg| matches!(arg.get_action(), ArgAction::Append);
    let fits = |arg: &&Arg| {
        !arg.is_hide_set() && arg.get_long().is_some_and(|long| again(arg) || !given.contains(&long))
    };
    let all = verb.get_arguments().filter(fits);
    all.map(|arg| (format!("--{}", arg.get_long().unwrap_or_default()), first_line(arg.get_help()))).collect()
}

fn first_line(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn is_many(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|n| n.max_values() > 1)
}

/// What an option's or an argument's value is, which its name tells.
fn value(arg: &Arg, given: &[&str]) -> Wanted {
    let possible: Vec<_> = arg
        .get_possible_values()
        .iter()
        .map(|v| (v.get_name().to_owned(), first_line(v.get_help())))
        .collect();
    if !possible.is_empty() {
        return Wanted::Words(possible);
    }
    match arg.get_id().as_str() {
        "vm" => Wanted::Vm,
        "snapshot" | "snapshots" => {
            given.first().map_or(Wanted::Anything, |vm| Wanted::Snapshot((*vm).to_owned()))
        }
        "tags" | "untag" => given.first().map_or(Wanted::Anything, |vm| Wanted::Tag((*vm).to_owned())),
        "policy" | "policies" => Wanted::Policy,
        "job" | "jobs" => Wanted::Job,
        "config_dir" | "policy_file" | "input" | "command" => Wanted::Files,
        _ => Wanted::Anything,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::args::Cli;

    fn at(words: &[&str]) -> Wanted {
        let mut command = Cli::command();
        command.build();
        wanted(&command, &words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).0
    }

    fn words(of: &[&str]) -> Vec<String> {
        match at(of) {
            Wanted::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{of:?}: {other:?}"),
        }
    }

    #[test]
    fn first_comes_a_verb_and_hidden_ones_are_not_offered() {
        let verbs = words(&[""]);
        assert!(verbs.contains(&"list".to_owned()) && verbs.contains(&"prune".to_owned()), "{verbs:?}");
        assert!(!verbs.contains(&"complete".to_owned()), "{verbs:?}");
        assert_eq!(words(&["help", ""]), verbs);
        assert_eq!(words(&["--json", "l"]), verbs, "what does not begin so is left out by whoever asks");
        assert_eq!(at(&["nonsense", ""]), Wanted::Anything);
    }

    #[test]
    fn names_are_wanted_where_the_definition_has_them() {
        assert_eq!(at(&["list", ""]), Wanted::Vm);
        assert_eq!(at(&["revert", "web", ""]), Wanted::Snapshot("web".into()));
        assert_eq!(at(&["revert", "--start", "web", "a"]), Wanted::Snapshot("web".into()));
        assert_eq!(at(&["adopt", "web", "a", "b", ""]), Wanted::Snapshot("web".into()));
        assert_eq!(at(&["adopt", "web", "--policy", ""]), Wanted::Policy);
        assert_eq!(at(&["pin", "web", ""]), Wanted::Snapshot("web".into()));
        assert_eq!(at(&["modify", "web", "s", "--untag", ""]), Wanted::Tag("web".into()));
        assert_eq!(at(&["list", "--tag", ""]), Wanted::Anything);
        assert_eq!(at(&["run", ""]), Wanted::Policy);
        assert_eq!(at(&["run", "p", "--vm", ""]), Wanted::Vm);
        assert_eq!(at(&["cancel", ""]), Wanted::Job);
        assert_eq!(at(&["wait", "7", ""]), Wanted::Job);
        assert_eq!(at(&["check", "--config-dir", "/e"]), Wanted::Files);
        assert_eq!(at(&["branch", "web", "s", ""]), Wanted::Anything, "the new VM's name");
        assert_eq!(at(&["create", "web", ""]), Wanted::Anything, "the new snapshot's name");
        assert_eq!(at(&["list", "web", ""]), Wanted::Anything, "there is no more to give");
        assert_eq!(at(&["list", "--", "-"]), Wanted::Vm);
        assert_eq!(at(&["-H", "far", "list", ""]), Wanted::Vm);
        assert_eq!(at(&["time-travel", ""]), Wanted::Vm);
        assert_eq!(
            at(&["guard", "web", "--", ""]),
            Wanted::Files,
            "of another program's words files are likely"
        );
    }

    #[test]
    fn options_are_those_of_the_verb_that_can_still_be_given() {
        let all = words(&["create", "web", "-"]);
        for option in ["--quiesce", "--disk", "--no-wait", "--json", "--help"] {
            assert!(all.contains(&option.to_owned()), "{option}: {all:?}");
        }
        assert!(!all.contains(&"--tree".to_owned()) && !all.contains(&"--bus-address".to_owned()), "{all:?}");
        let rest = words(&["create", "web", "--quiesce", "never", "--disk", "vda", "--"]);
        assert!(!rest.contains(&"--quiesce".to_owned()) && rest.contains(&"--disk".to_owned()), "{rest:?}");
        assert_eq!(words(&["create", "web", "--quiesce", ""]), ["require", "prefer", "never"]);
        let joined = words(&["create", "web", "--quiesce=p"]);
        assert_eq!(joined, ["--quiesce=require", "--quiesce=prefer", "--quiesce=never"]);
        assert_eq!(words(&["completion", ""]), ["bash", "zsh", "fish"]);
    }
}
