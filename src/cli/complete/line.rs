//! What is typed so far, as the command line's own definition has it.
//!
//! Pure: words in, what they are out.

use clap::{Arg, ArgAction, Command};

/// The words before the one that is being typed.
#[derive(Debug, Default)]
pub(super) struct Line<'a> {
    /// What is to be done, if it is said.
    pub(super) verb: Option<&'a Command>,
    /// What is named.
    pub(super) given: Vec<&'a str>,
    /// The long options that are there.
    pub(super) options: Vec<&'a str>,
    /// The option that waits for its value.
    pub(super) pending: Option<&'a Arg>,
    /// Whether no more options follow.
    pub(super) only_names: bool,
    /// The machine whose daemon is meant.
    pub(super) host: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// Nothing where the verb is none. `command` is built.
    pub(super) fn read(command: &'a Command, before: &'a [String]) -> Option<Self> {
        let mut line = Self::default();
        for word in before {
            if let Some(option) = line.pending.take() {
                line.is_value_of(option, word);
                continue;
            }
            let known = line.verb.unwrap_or(command);
            match word.strip_prefix("--").filter(|_| !line.only_names) {
                Some("") => line.only_names = true,
                Some(long) => {
                    let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
                    line.options.push(name);
                    match (option(known, name).filter(|a| takes_value(a)), value) {
                        (Some(option), Some(value)) => line.is_value_of(option, value),
                        (option, _) => line.pending = option,
                    }
                }
                None if word.starts_with('-') && word.len() > 1 && !line.only_names => {
                    let mut letters = word[1..].chars();
                    let short = letters.next();
                    let found = known.get_arguments().find(|a| short.is_some() && a.get_short() == short);
                    let found = found.filter(|a| takes_value(a));
                    match (found, letters.as_str()) {
                        (found, "") => line.pending = found,
                        (Some(option), joined) => {
                            line.is_value_of(option, joined.strip_prefix('=').unwrap_or(joined));
                        }
                        (None, _) => {}
                    }
                }
                None => match line.verb {
                    None => line.verb = Some(command.find_subcommand(word)?),
                    Some(_) => line.given.push(word),
                },
            }
        }
        Some(line)
    }

    fn is_value_of(&mut self, option: &Arg, value: &'a str) {
        if option.get_id() == "host" {
            self.host = Some(value);
        }
    }
}

/// The verb's option of this long name.
pub(super) fn option<'a>(verb: &'a Command, long: &str) -> Option<&'a Arg> {
    verb.get_arguments().find(|arg| arg.get_long() == Some(long))
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn the_machine_is_where_the_words_have_it() {
        let mut command = Cli::command();
        command.build();
        let host = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            Line::read(&command, &words).and_then(|line| line.host.map(str::to_owned))
        };
        for words in [
            &["-H", "far", "list"][..],
            &["-Hfar", "list"],
            &["-H=far", "list"],
            &["--host", "far", "list"],
            &["list", "--host=far"],
            &["guard", "-H", "far", "web", "--", "ssh", "-H", "other"],
            &["-H", "near", "list", "-H", "far"],
        ] {
            assert_eq!(host(words).as_deref(), Some("far"), "{words:?}");
        }
        for words in [
            &["list", "web"][..],
            &["create", "web", "--description", "-H", "far"],
            &["guard", "web", "--", "ssh", "-H", "far"],
            &["nonsense", "-H", "far"],
        ] {
            assert_eq!(host(words), None, "{words:?}");
        }
    }
}
