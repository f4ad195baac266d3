//! Reverts on real guests that are cut short: the daemon or libvirtd is killed in the middle, wherever that is.
//!
//! Whatever is found half done is ended or taken back: both disks hold what they held, or what the snapshot holds; the
//! definition names what the VM runs on; it runs; every snapshot holds its own data; and no file is left that nobody
//! owns.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does, and expects by failing"
)]

mod harness;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use harness::{Bare, Daemon, Testbed, byte_in, quote, wait_for, wait_or};

const DEADLINE: Duration = Duration::from_secs(60);
const IMAGES: &str = "/var/lib/libvirt/images";
const JOB: &str = "org.virtsnap1.Job";
const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
const DISKS: [&str; 2] = ["vda", "vdb"];

/// What it says it does, in this order. It is killed when it has come so far, or a little further.
const PHASES: [&str; 7] = [
    "taking the safety snapshot",
    "preparing overlays",
    "stopping",
    "defining",
    "updating metadata",
    "starting",
    "verifying",
];

fn write(vm: &Bare, value: u8) {
    for target in DISKS {
        vm.write(target, 0, value);
    }
}

/// The same on both disks, or something was done by halves.
fn value_now(tb: &Testbed, vm: &Bare) -> u8 {
    let [one, other] = DISKS.map(|target| byte_in(tb, &vm.active(target), 0));
    assert_eq!(one, other, "the disks are of different times");
    one
}

/// The image at `top` and all that it lies on.
fn chain(tb: &Testbed, top: &str) -> Vec<String> {
    let text = tb.ok(&format!("qemu-img info -U --backing-chain {}", quote(top)));
    text.lines().filter_map(|line| line.strip_prefix("image: ")).map(str::to_owned).collect()
}

/// The images that the disks in this part of an XML text name, by target.
fn sources(text: &str, part: Option<&str>) -> HashMap<String, String> {
    let doc = roxmltree::Document::parse(text).unwrap();
    let root = doc.root_element();
    let at = part.map_or(root, |name| root.children().find(|n| n.has_tag_name(name)).unwrap());
    harness::sources(at).into_iter().collect()
}

fn check(tb: &Testbed, daemon: &Daemon<'_>, vm: &Bare, known: &[(String, u8)]) {
    let inactive = tb.ok("virsh dumpxml --inactive rev");
    for (target, path) in sources(&inactive, None) {
        assert_eq!(path, vm.active(&target), "the definition names what {target} runs on");
    }
    let mut owned: BTreeSet<String> = DISKS.iter().flat_map(|target| chain(tb, &vm.active(target))).collect();
    for (name, path) in daemon.snapshots("rev") {
        assert_eq!(daemon.bus.get::<String>(&path, SNAPSHOT, "State"), "ready", "{name}");
        let text = tb.ok(&format!("virsh snapshot-dumpxml rev {}", quote(&name)));
        owned.extend(sources(&text, Some("disks")).into_values());
        for (target, image) in sources(&text, Some("domain")) {
            if let Some((_, value)) = known.iter().find(|(n, _)| *n == name) {
                assert_eq!(byte_in(tb, &image, 0), *value, "{target} in {name}");
            }
            owned.extend(chain(tb, &image));
        }
    }
    let files = tb.ok(&format!("find {IMAGES} -type f -name '*rev*'"));
    let left: Vec<_> = files.lines().filter(|f| !owned.contains(*f)).collect();
    assert!(left.is_empty(), "nobody owns {left:?}\n{}", daemon.journal());
}

/// The snapshots that are not among these.
fn new_ones(daemon: &Daemon<'_>, known: &[(String, u8)]) -> Vec<String> {
    let names = daemon.snapshots("rev").into_iter().map(|(name, _)| name);
    names.filter(|name| known.iter().all(|(n, _)| n != name)).collect()
}

harness::on_both! {
    /// See the module.
    fn a_revert_that_is_cut_short_is_ended_or_taken_back(tb) {
        let vm = Bare::define(tb, "rev", 2);
        tb.ok("virsh -q start rev");
        let daemon = Daemon::running(tb, "");
        let mut known = vec![("s1".to_owned(), 1), ("s2".to_owned(), 2)];
        for (name, value) in &known {
            write(&vm, *value);
            daemon.create("rev", name).unwrap();
        }
        let mut ended = 0;
        for (round, phase) in (10_u8..).zip(PHASES.iter().cycle().take(2 * PHASES.len())) {
            write(&vm, round);
            let (_, s1) = daemon.snapshots("rev").into_iter().find(|(name, _)| name == "s1").unwrap();
            // With a safety snapshot it says some of these twice.
            let with = HashMap::from([("safety", zbus::Variant::from(*phase == PHASES[0]))]);
            let (job,): (zbus::OwnedObjectPath,) = daemon.bus.call(&s1, SNAPSHOT, "Revert", &(with,)).unwrap();
            let far = |name: &str| PHASES.iter().position(|p| *p == name);
            wait_for(DEADLINE, "it came so far", || {
                let now: String = daemon.bus.get(&job, JOB, "Phase");
                let state: String = daemon.bus.get(&job, JOB, "State");
                (state == "done" || far(&now) >= far(phase)).then_some(())
            });
            if usize::from(round) < 10 + PHASES.len() {
                daemon.kill();
            } else {
                daemon.kill_libvirtd();
            }
            daemon.wait_idle();
            // Killed as it starts a VM, libvirt may keep that VM's lock for nobody: what is told then ends it. Nothing else
            // excuses a VM that is locked.
            if !tb.sh("timeout 25 virsh -q domjobinfo rev").success() {
                let journal = tb.ok("journalctl -b --no-pager -u libvirtd -n 200");
                let nobody = journal.contains("current job is (none, none, start) owned by (0 <null>");
                assert!(nobody, "{round}, {phase:?}: the VM is locked: {journal}\n{}", daemon.journal());
                println!("{round}: libvirtd holds the VM for a start that was cut short");
                daemon.forget_start("rev");
                daemon.wait_idle();
            }
            let runs = || daemon.manager::<bool>("HypervisorConnected") && vm.state() == "running";
            wait_or(DEADLINE, || runs().then_some(()), || {
                panic!("{round}, {phase:?}: it is {}, and not running again: {}", vm.state(), daemon.journal())
            });
            if vm.put_right(|| daemon.says_adrift("rev")) {
                // What was cut short is settled before the next job, whatever comes of that one.
                println!("{:?}", daemon.prune("rev"));
            }
            let value = value_now(tb, &vm);
            println!("{round}: killed at {phase:?}: the disks hold {value}");
            assert!(value == round || value == 1, "{value} is of no time: {}", daemon.journal());
            ended += u8::from(value == 1);
            // A safety snapshot holds what was there before, however the revert ended.
            let new = new_ones(&daemon, &known);
            assert!(new.iter().all(|name| name.starts_with("before-revert-s1-")), "{new:?}");
            known.extend(new.into_iter().map(|name| (name, round)));
            check(tb, &daemon, &vm, &known);
        }
        println!("{ended} were ended, the others taken back or not begun");
        // The last phase is one that nothing is taken back from.
        assert!(ended > 0, "none was ended: each was killed before it did anything");
        // Nothing of it is in the way of the next one, with and without a way back.
        for (arguments, safety) in [("rev s2 --yes", 1), ("rev s1 --no-safety --yes", 0)] {
            let before = value_now(tb, &vm);
            daemon.ok(&format!("revert {arguments}"));
            let new = new_ones(&daemon, &known);
            assert_eq!(new.len(), safety, "{new:?}");
            known.extend(new.into_iter().map(|name| (name, before)));
            check(tb, &daemon, &vm, &known);
        }
        assert_eq!(value_now(tb, &vm), 1);
    }
}
