//! What it costs to prune ten consecutive snapshots that all rewrote the same 32 MiB; the newest, an eleventh, stays.

use std::time::{Duration, Instant};

use crate::harness::{Bare, BareDisk, Daemon, Suite, Testbed};

const SNAPSHOTS: usize = 10;
const MIB: u64 = 32;
const BYTES_BAR: f64 = 0.11;
const TIME_BAR: f64 = 0.25;

pub(crate) fn measure() {
    let tb = Testbed::start(Suite::Trixie);
    let daemon = Daemon::running(&tb, "[policy.bench]\nvms = [\"ours\"]\nquiesce = \"never\"\n");

    let theirs = vm(&tb, "theirs");
    for i in 0..=SNAPSHOTS {
        rewrite(&theirs, i);
        tb.ok(&format!("virsh -q snapshot-create-as theirs s{i} --disk-only --atomic"));
    }
    let (their_bytes, their_time) = cost(&tb, "theirs", || {
        let names: Vec<_> = (0..SNAPSHOTS).map(|i| format!("s{i}")).collect();
        let script = format!(
            "set -e; for name in {}; do virsh -q snapshot-delete theirs $name >&2; done",
            names.join(" ")
        );
        tb.ok_within(Duration::from_mins(5), &script);
    });

    let ours = vm(&tb, "ours");
    for i in 0..=SNAPSHOTS {
        rewrite(&ours, i);
        let made = daemon.run("bench");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }
    daemon.policies("[policy.bench]\nvms = [\"ours\"]\nkeep-last = 1\n");
    daemon.ok("reload");
    let (our_bytes, our_time) = cost(&tb, "ours", || {
        daemon.ok("prune ours --all --yes");
    });
    assert_eq!(daemon.snapshots("ours").len(), 1);
    println!(
        "pruning {SNAPSHOTS} snapshots of the same {MIB} MiB: virtsnapd {:.0} MiB in {:.2} s, \
         virsh snapshot-delete {:.0} MiB in {:.2} s: bytes {:.3}, the bar is {BYTES_BAR}; time {:.2}, the bar is {TIME_BAR}",
        our_bytes,
        our_time,
        their_bytes,
        their_time,
        our_bytes / their_bytes,
        our_time / their_time
    );
}

fn vm(tb: &Testbed, name: &str) -> Bare {
    let image = format!("/var/lib/libvirt/images/{name}.qcow2");
    tb.ok(&format!("qemu-img create -q -f qcow2 {image} 128M"));
    let bare = Bare::define_on(tb, name, &[BareDisk { image, format: "qcow2".to_owned() }], "", "");
    tb.ok(&format!("virsh -q start {name}"));
    bare
}

fn rewrite(vm: &Bare, round: usize) {
    vm.qemu_io("vda", &format!("\"write -P {} 0 {MIB}M\"", round + 1));
}

/// What the VM's QEMU wrote meanwhile, in MiB, and how long it took, in seconds.
fn cost(tb: &Testbed, name: &str, work: impl FnOnce()) -> (f64, f64) {
    let written = || -> f64 {
        let text = tb.ok(&format!("sed -n 's/^wchar: //p' /proc/$(cat /run/libvirt/qemu/{name}.pid)/io"));
        text.trim().parse::<f64>().unwrap() / f64::from(1 << 20)
    };
    let (before, begun) = (written(), Instant::now());
    work();
    let time = begun.elapsed().as_secs_f64();
    (written() - before, time)
}
