//! How long a guest is frozen.
//!
//! On the host from the reply to the freeze until the thaw is sent, as libvirtd's own log has it, whoever asked; in the
//! guest from one run of its freeze hook, right before it freezes, to the next, right after it has thawed.

use std::time::Duration;

use crate::{
    harness::{Daemon, Guest, GuestSpec, Suite, Testbed},
    median,
};

const ROUNDS: usize = 11;
/// Of the host's part, with four disks and more.
const BAR: f64 = 0.6;
const LOG: &str = "/var/log/agent.log";

pub(crate) fn measure(disks: u32) {
    let tb = Testbed::start(Suite::Trixie);
    let guest = tb.guest(GuestSpec { disks, writers: false, ..GuestSpec::named("vm1") });
    guest.wait_agent();
    // Before the daemon connects: what is asked by whom must not depend on it.
    tb.ok(&format!(
        "virt-admin daemon-log-outputs 1:file:{LOG}; virt-admin daemon-log-filters 1:qemu.qemu_agent"
    ));
    let daemon = Daemon::running(&tb, "[policy.bench]\nvms = [\"vm1\"]\nquiesce = \"require\"\n");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // In turn who is first: the second finds one more layer under it.
        for who in [round % 2, (round + 1) % 2] {
            if who == 0 {
                let made = daemon.run("bench");
                assert!(made.iter().all(Result::is_ok), "{made:?}");
                ours.push(last(&tb, &guest));
            } else {
                tb.ok("virsh -q snapshot-create-as vm1 theirs --disk-only --atomic --quiesce");
                theirs.push(last(&tb, &guest));
            }
        }
        tb.ok_within(
            Duration::from_mins(2),
            "set -e; for name in $(virsh snapshot-list vm1 --name --topological | tac); do
               virsh -q snapshot-delete vm1 $name >&2
             done",
        );
    }
    let part =
        |of: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| median(&of.iter().map(part).collect::<Vec<_>>());
    for (place, of, bar) in
        [("host ", (|w| w.0) as fn(&(f64, f64)) -> f64, disks >= 4), ("guest", |w| w.1, false)]
    {
        let (we, they) = (part(&ours, of), part(&theirs, of));
        let bar = if bar { format!(", the bar is {BAR}") } else { String::new() };
        println!(
            "frozen, {disks} disks, {place}: virtsnapd {we:.0} ms, virsh --quiesce {they:.0} ms (medians of {ROUNDS}): \
             ratio {:.2}{bar}",
            we / they
        );
    }
}

/// The last freeze's length on the host and in the guest, in ms.
fn last(tb: &Testbed, guest: &Guest) -> (f64, f64) {
    let log = tb.ok(&format!("cat {LOG}"));
    let lines: Vec<&str> = log.lines().collect();
    let thaw = lines.iter().rposition(|l| l.contains("guest-fsfreeze-thaw") && l.contains("Send")).unwrap();
    let freeze = lines[..thaw]
        .iter()
        .rposition(|l| l.contains("guest-fsfreeze-freeze") && l.contains("Send"))
        .unwrap();
    let replied = lines[freeze..thaw].iter().find(|l| l.contains("Receive command reply")).unwrap();
    let hook = guest.exec("tail -n 2 /run/hook.log");
    let at = |what: &str| -> f64 {
        let line =
            hook.lines().find_map(|l| l.strip_prefix(what)).unwrap_or_else(|| panic!("no {what}: {hook}"));
        line.trim().parse().unwrap()
    };
    (clock(lines[thaw]) - clock(replied), (at("thaw") - at("freeze")) * 1e3)
}

/// The time of day of a line of libvirtd's log, in ms.
fn clock(line: &str) -> f64 {
    let time = line.split([' ', '+']).nth(1).unwrap();
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap()) * 1e3
}
