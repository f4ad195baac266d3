//! All help texts as they are shown, in one file that a change of any shows in. `INSTA_UPDATE=always cargo nextest run
//! --test client_help` writes it anew.

use std::fmt::Write as _;

use clap::CommandFactory as _;
use virtsnap::cli::args::Cli;

#[test]
fn the_help_texts_are_what_was_agreed_on() {
    let mut client = Cli::command().term_width(100);
    client.build();
    let mut shown = client.render_long_help().to_string();
    for verb in client.get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name().to_owned();
        let _ = write!(shown, "\n\n===== virtsnap {name}\n\n{}", verb.render_help());
        let _ = verb.get_after_long_help().map(|examples| write!(shown, "\n{examples}\n"));
    }
    insta::assert_snapshot!(shown);
}
