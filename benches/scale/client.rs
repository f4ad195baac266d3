//! What the client takes to show all of it, beside the one call that it cannot do without.

use crate::{host::Host, median};

const ROUNDS: usize = 5;
/// Times the call.
const LIST_BAR: f64 = 2.0;
/// Milliseconds until a process that asks nobody has ended.
const START_BAR: f64 = 20.0;

/// `call`: the seconds that this call takes.
pub(crate) fn measure(host: &Host, call: f64) {
    let list = median(&timed(host, "virtsnap list"));
    let one = median(&timed(host, "virtsnap list vm7"));
    let start = 1e3 * median(&timed(host, "virtsnap --version"));
    println!(
        "virtsnap list: {list:.2} s, {:.1} times that call; of one VM {one:.2} s; the bar is {LIST_BAR} times. Its start: \
         {start:.0} ms; the bar is {START_BAR} ms (medians of {ROUNDS})",
        list / call
    );
}

/// Seconds of each round, with the shell's own share.
fn timed(host: &Host, command: &str) -> Vec<f64> {
    let script = format!(
        "for n in $(seq {ROUNDS}); do
           begin=$EPOCHREALTIME; {command} >/dev/null; end=$EPOCHREALTIME
           echo $((${{end/./}} - ${{begin/./}}))
         done"
    );
    let times = host.tb.ok(&script);
    times.lines().map(|micros| micros.parse::<f64>().unwrap() / 1e6).collect()
}
