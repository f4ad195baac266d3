//! What `virtsnap --help` says of the whole: the commands in groups, with what each is for.

use std::fmt::Write as _;

use clap::{Command, Subcommand as _, builder::Styles};

use super::Verb;

/// What people come for, and which commands are for that.
const GROUPS: [(&str, &[&str]); 7] = [
    ("See what there is", &["list", "show", "status", "watch"]),
    ("Take and keep snapshots", &["create", "guard", "pin", "unpin", "modify", "adopt"]),
    ("Go back", &["revert", "time-travel", "branch", "promote"]),
    ("Delete snapshots", &["delete", "plan", "prune"]),
    ("Policies", &["policies", "explain", "run", "suspend", "resume", "check", "simulate"]),
    ("Jobs", &["jobs", "wait", "cancel"]),
    ("Other", &["reload", "completion", "help"]),
];

/// After the options: what a script needs, and where more is said.
pub(super) const AFTER: &str = "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 not authorised, 5 daemon unreachable, 6 job failed or \
     cancelled, 75 busy (try again later), 130 interrupted (the job goes on); of guard, its command's, 125 if the VM could \
     not be put back.\n\n\
     `virtsnap COMMAND --help` says more of a command, and the man page virtsnap(1) of all of them.";

/// clap has one list for all commands; here it is one for each group.
pub(super) fn template() -> String {
    let styles = Styles::styled();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let all = Verb::augment_subcommands(Command::default());
    let widest = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or_default();
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n\n".to_owned();
    for (group, names) in GROUPS {
        let _ = writeln!(text, "{header}{group}:{header:#}");
        for name in names {
            let about = all.find_subcommand(name).and_then(Command::get_about).cloned().unwrap_or_default();
            let _ = writeln!(text, "  {literal}{name:widest$}{literal:#}  {about}");
        }
        text.push('\n');
    }
    let _ = write!(text, "{header}Options:{header:#}\n{{options}}{{after-help}}");
    text
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{super::Cli, *};

    #[test]
    fn every_command_is_in_one_group_and_fits_on_a_line() {
        let help = Cli::command().term_width(80).render_help().to_string();
        let mut verbs: Vec<String> = Cli::command().get_subcommands().map(|v| v.get_name().into()).collect();
        verbs.retain(|name| name != "complete");
        for name in &verbs {
            let lines: Vec<&str> =
                help.lines().filter(|line| line.split_whitespace().next() == Some(name.as_str())).collect();
            assert!(matches!(lines[..], [line] if line.starts_with("  ")), "{name}: {lines:?}");
            assert!(lines[0].len() <= 80, "{}", lines[0]);
        }
        let grouped = GROUPS.iter().flat_map(|(_, names)| *names);
        assert!(grouped.clone().all(|name| verbs.iter().any(|verb| verb == name)), "{verbs:?}");
        assert_eq!(grouped.count(), verbs.len(), "each has its place: {verbs:?}");
    }

    #[test]
    fn examples_are_what_the_client_takes() {
        let mut seen = 0;
        for verb in Cli::command().get_subcommands() {
            let Some(text) = verb.get_after_long_help().map(ToString::to_string) else { continue };
            assert!(text.starts_with("Examples:\n"), "{text}");
            for line in text.lines().skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                assert_eq!(words[..2], ["virtsnap", verb.get_name()], "{line}");
                assert!(line.len() <= 80, "{line}");
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok(), "{line}: {parsed:?}");
                seen += 1;
            }
        }
        assert!(seen >= 8, "{seen}");
    }
}
