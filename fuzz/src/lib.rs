//! What each fuzz target does with its input: it panics where virtsnap breaks a promise.
//!
//! Here, and not in the targets, so that `tests/fuzz_seeds.rs` replays what fuzzing found without libFuzzer.

pub mod cron;
pub mod policy_file;
pub mod retention;
pub mod simulate;

/// True for what may move a cursor, change colours, or make a line read as another one.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
