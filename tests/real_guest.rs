//! The main job on real guests: a schedule fires, a guest is frozen, a snapshot is taken, old ones are pruned, and
//! the data of each one that stays is what the guest had.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Bare, Daemon, Gap, Guest, GuestSpec, Testbed, wait_for};

const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
const VM: &str = "org.virtsnap1.VM";

/// A copy of a snapshot's state images, taken right after the snapshot: what they must still hold later.
struct Oracle {
    name: String,
    /// Per disk: its name, the copy, and the counter that the guest had.
    disks: Vec<(String, String, u64)>,
    /// Per disk: the guest's last write before the freeze and its first one after.
    gaps: Vec<Gap>,
}

/// Copies the images that the disks were written to before this snapshot, and looks up in the guest's own log when it
/// wrote what they hold, and when what came after. `None` where the clock fired meanwhile, and they are being merged.
fn remember(tb: &Testbed, guest: &Guest, name: &str, images: &[(String, String)]) -> Option<Oracle> {
    let mut gaps = Vec::new();
    let disks: Option<Vec<_>> = images
        .iter()
        .map(|(disk, image)| {
            guest.wait_counting(disk, 2);
            let state = tb.image_state(image, "qcow2");
            let writes = guest.writes(disk);
            let at = writes.windows(2).find(|w| w[0].counter == state.counter);
            let at =
                at.unwrap_or_else(|| panic!("{name}, {disk}: the guest never wrote {state:?}: {writes:?}"));
            gaps.push(Gap { before: at[0], after: at[1] });
            assert!(!state.needs_recovery, "{name}, {disk}: a frozen file system needs no recovery");
            let copy = format!("/var/tmp/{name}-{disk}.raw");
            let copied = tb.sh(&format!("qemu-img convert -U -O raw {image} {copy}"));
            let merged = copied.stderr.contains("Failed to get \"consistent read\" lock");
            assert!(copied.success() || merged, "{copied}");
            (!merged).then(|| (disk.clone(), copy, state.counter))
        })
        .collect();
    Some(Oracle { name: name.to_owned(), disks: disks?, gaps })
}

/// The state image of a snapshot's disk, as libvirt's metadata names it now: merging an older snapshot moves it.
fn state_image(tb: &Testbed, vm: &str, snapshot: &str, disk: &str) -> String {
    let xml = tb.ok(&format!("virsh snapshot-dumpxml {vm} {snapshot}"));
    let doc = roxmltree::Document::parse(&xml).unwrap();
    let domain = doc.root_element().children().find(|n| n.has_tag_name("domain")).unwrap();
    let is = |n: &roxmltree::Node<'_, '_>| {
        n.has_tag_name("disk")
            && n.children().any(|t| t.has_tag_name("target") && t.attribute("dev") == Some(disk))
    };
    let found = domain.descendants().find(is).unwrap();
    found.children().find_map(|s| s.attribute("file")).unwrap().to_owned()
}

/// The snapshot's state images hold what they held then.
fn check(tb: &Testbed, oracle: &Oracle, vm: &str) {
    for (disk, copy, counter) in &oracle.disks {
        let image = state_image(tb, vm, &oracle.name, disk);
        tb.ok(&format!("qemu-img compare -U -F raw {image} {copy}"));
        assert_eq!(tb.image_state(&image, "qcow2").counter, *counter, "{}: {image}", oracle.name);
        tb.ok(&format!("qemu-img check -q -U {image}"));
    }
}

/// `virsh snapshot-list --tree` and D-Bus tell the same: for a chain, the same names in the same order.
fn same_as_virsh(tb: &Testbed, daemon: &Daemon<'_>, vm: &str) {
    let tree = tb.ok(&format!("virsh snapshot-list --tree {vm}"));
    let virsh: Vec<String> = tree
        .lines()
        .map(|l| l.trim_matches([' ', '|', '+', '-', '\t']).to_owned())
        .filter(|l| !l.is_empty())
        .collect();
    let bus: Vec<String> = daemon.snapshots(vm).into_iter().map(|(name, _)| name).collect();
    assert_eq!(virsh, bus, "virsh says:\n{tree}");
    let mut parent = "/".to_owned();
    for (_, path) in daemon.snapshots(vm) {
        let says: zbus::OwnedObjectPath = daemon.bus.get(&path, SNAPSHOT, "Parent");
        assert_eq!(says.as_str(), parent);
        parent = path;
    }
    let current: zbus::OwnedObjectPath = daemon.bus.get(&daemon.vm(vm), VM, "CurrentSnapshot");
    assert_eq!(current.as_str(), parent);
}

fn images(guest: &Guest) -> Vec<(String, String)> {
    ["vda", "vdb"].map(|disk| (disk.to_owned(), guest.image(disk))).to_vec()
}

harness::on_both! {
    /// The heart of it: two runs by hand and one by the schedule; keep-last prunes the oldest; what stays is right.
    fn a_schedule_creates_keep_last_prunes_and_every_snapshot_holds_what_the_guest_had(tb) {
        let guest = tb.guest(GuestSpec { disks: 2, ..GuestSpec::named("vm1") });
        guest.wait_agent();
        let daemon = Daemon::running(tb, "
            [policy.minute]
            vms = [\"vm*\"]
            schedule = \"* * * * *\"
            quiesce = \"require\"
            keep-last = 2
        ");
        let mut oracles: Vec<Oracle> = Vec::new();
        // Whether by hand or by the clock, each new one is compared with the guest's log at once. The clock fires at
        // least once within the four, for four by hand alone would take less than a minute only if nothing worked.
        let mut scheduled = 0;
        wait_for(Duration::from_secs(150), "the schedule fires and pruning follows", || {
            // In this order: a run of the clock's in between makes two that are new below, never a wrong image here.
            let known: Vec<String> = daemon.snapshots("vm1").into_iter().map(|(n, _)| n).collect();
            let before = images(&guest);
            if oracles.len() < 2 {
                for result in daemon.run("minute") {
                    result.expect("a run by hand succeeds");
                }
            }
            let new = wait_for(Duration::from_secs(75), "a new snapshot", || {
                daemon.snapshots("vm1").into_iter().find(|(n, _)| !known.contains(n))
            });
            let origin: String = daemon.bus.get(&new.1, SNAPSHOT, "Origin");
            scheduled += usize::from(origin == "schedule");
            daemon.wait_idle();
            // If the clock fired in between as well, the images are another snapshot's; then this round is not one.
            let now: Vec<String> = daemon.snapshots("vm1").into_iter().map(|(n, _)| n).collect();
            if now.iter().filter(|n| !known.contains(n)).count() == 1 {
                let oracle = remember(tb, &guest, &new.0, &before)?;
                let consistency: String = daemon.bus.get(&new.1, SNAPSHOT, "Consistency");
                assert_eq!(consistency, "filesystem");
                let frozen_ms = daemon.bus.get::<u64>(&new.1, SNAPSHOT, "FrozenUSec") / 1000;
                for gap in &oracle.gaps {
                    // Held up no longer than we say it was frozen, but for one write's own time; and silent for as
                    // long as that, but for what the freeze's own hook takes before anything is frozen.
                    assert!(gap.blocked_ms() <= frozen_ms + 100, "{gap:?}, FrozenUSec {frozen_ms} ms");
                    assert!(gap.ms() + 250 >= frozen_ms, "{gap:?}, FrozenUSec {frozen_ms} ms");
                }
                oracles.push(oracle);
            }
            (scheduled > 0 && oracles.len() >= 3).then_some(())
        });
        daemon.wait_idle();

        let left: Vec<String> = daemon.snapshots("vm1").into_iter().map(|(n, _)| n).collect();
        assert_eq!(left.len(), 2, "keep-last = 2: {left:?}");
        assert!(!left.contains(&oracles[0].name), "the oldest went: {left:?}");
        let stays: Vec<&Oracle> = oracles.iter().filter(|o| left.contains(&o.name)).collect();
        assert!(!stays.is_empty());
        for oracle in stays {
            check(tb, oracle, "vm1");
        }
        same_as_virsh(tb, &daemon, "vm1");
        for disk in ["vda", "vdb"] {
            guest.assert_no_write_lost(disk);
            tb.ok(&format!("qemu-img check -q -U {}", guest.image(disk)));
        }
        assert_eq!(guest.freeze_status(), "thawed");
        // Nothing lies about: two bases, and two overlays of each of two disks.
        let files = tb.ok("ls /var/lib/libvirt/images | grep -c '^vm1-vd'");
        assert_eq!(files.trim(), "6", "{}", tb.ok("ls -l /var/lib/libvirt/images"));
    }

    /// What a desktop or a script does: create, read, delete over D-Bus; oldest, middle and newest; also when off.
    fn snapshots_come_and_go_over_d_bus_on_a_running_and_on_a_stopped_vm(tb) {
        let guest = tb.guest(GuestSpec { disks: 2, ..GuestSpec::named("vm1") });
        guest.wait_agent();
        let daemon = Daemon::running(tb, "");
        let base = images(&guest);
        for name in ["one", "two", "thr<e> & 'four'"] {
            daemon.create("vm1", name).expect("it is taken");
        }
        same_as_virsh(tb, &daemon, "vm1");
        let depth: u32 = daemon.bus.get(&daemon.vm("vm1"), VM, "ChainDepth");
        assert_eq!(depth, 4);
        assert_eq!(daemon.create("vm1", "two").unwrap_err().0, "org.virtsnap1.Error.Exists");
        assert_eq!(daemon.create("vm1", "a/b").unwrap_err().0, "org.virtsnap1.Error.InvalidArgument");
        assert_eq!(daemon.create("vm1", "a\nb").unwrap_err().0, "org.virtsnap1.Error.InvalidArgument");
        daemon.delete("vm1", "two").expect("the middle one goes");
        daemon.delete("vm1", "one").expect("the oldest goes");
        same_as_virsh(tb, &daemon, "vm1");
        daemon.delete("vm1", "thr<e> & 'four'").expect("the newest goes");
        assert_eq!(images(&guest), base, "all is merged back into the bases");
        assert!(daemon.snapshots("vm1").is_empty());
        guest.assert_no_write_lost("vda");

        guest.shutdown();
        let off = daemon.create("vm1", "off").expect("a stopped VM has snapshots, too");
        assert_eq!(daemon.bus.get::<String>(&off, SNAPSHOT, "Consistency"), "offline");
        daemon.create("vm1", "off2").expect("and another");
        guest.start();
        guest.wait_counting("vda", 2);
        guest.shutdown();
        daemon.delete("vm1", "off").expect("and they go");
        assert_eq!(guest.state(), "shut off");
        daemon.delete("vm1", "off2").expect("and they go");
        guest.start();
        guest.wait_counting("vdb", 2);
        guest.assert_no_write_lost("vdb");
    }

    /// What others made is shown, never pruned and never deleted; a chain that they changed is left alone.
    fn what_others_made_is_never_touched(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        // With a name that nobody should choose, and that libvirt takes. The file has another: libvirt writes a line
        // break in a path so that it reads back as a space.
        let strange = "their\nown <one>";
        tb.push_file(
            "/var/tmp/theirs.xml",
            "<domainsnapshot><name>their&#10;own &lt;one&gt;</name><disks><disk name='vda' snapshot='external'>\
             <source file='/var/lib/libvirt/images/vm1 &lt;theirs&gt; &amp; co.qcow2'/></disk></disks></domainsnapshot>",
            0o644,
        );
        guest.virsh("snapshot-create {} /var/tmp/theirs.xml --disk-only --atomic");
        let daemon = Daemon::running(tb, "
            [policy.tight]
            vms = [\"*\"]
            schedule = \"0 0 1 1 *\"
            keep-last = 1
        ");
        for _ in 0..2 {
            for result in daemon.run("tight") {
                result.expect("a run succeeds");
            }
        }
        daemon.wait_idle();
        let names: Vec<String> = daemon.snapshots("vm1").into_iter().map(|(n, _)| n).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0], strange);
        let (_, theirs) = &daemon.snapshots("vm1")[0];
        assert!(theirs.ends_with("/their_0aown_20_3cone_3e"), "{theirs}");
        assert!(!daemon.ok("list vm1").contains("their\nown"), "a terminal gets no line break from a name");
        assert!(!daemon.bus.get::<bool>(theirs, SNAPSHOT, "Managed"));
        assert_eq!(daemon.bus.get::<String>(theirs, SNAPSHOT, "Origin"), "foreign");
        assert_eq!(daemon.delete("vm1", strange).unwrap_err().0, "org.virtsnap1.Error.NotManaged");

        // Somebody merges the chain behind libvirt's metadata: from then on nothing is deleted or put on top.
        guest.virsh("blockcommit {} vda --active --pivot --wait");
        let ours = &names[1];
        let (error, text) = daemon.delete("vm1", ours).unwrap_err();
        assert_eq!(error, "org.virtsnap1.Error.ChainMismatch", "{text}");
        assert!(text.contains("vm1") && text.contains("Nothing was touched"), "{text}");
        let (error, text) = daemon.create("vm1", "more").unwrap_err();
        assert_eq!(error, "org.virtsnap1.Error.ChainMismatch", "{text}");
        assert!(tb.ok("virsh snapshot-list --name vm1").contains(ours.as_str()));
        guest.wait_counting("vda", 2);
    }

    /// What an administrator does to put a VM under a policy: the README's command, and no waiting for the next listing.
    fn a_tag_that_virsh_sets_puts_the_vm_under_its_policy_at_once(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        let daemon = Daemon::running(tb, "
            [policy.tagged]
            vms = [\"tag:prod\"]
            schedule = \"0 0 1 1 *\"
            keep-last = 1
        ");
        let under = |number: usize| {
            // The daemon lists all VMs anew every five minutes: that would be late.
            wait_for(Duration::from_secs(30), "the policies that hold for it", || {
                let now: Vec<zbus::OwnedObjectPath> = daemon.bus.get(&daemon.vm("vm1"), VM, "Policies");
                (now.len() == number).then_some(())
            });
        };
        under(0);
        guest.virsh(
            "metadata {} --uri urn:virtsnap:vm:1 --key virtsnap --set '<vm><tag>prod</tag></vm>' --live --config",
        );
        under(1);
        guest.virsh("metadata {} --uri urn:virtsnap:vm:1 --remove --live --config");
        under(0);
    }

    /// libvirt has no event for any of this: the daemon looks, every half minute.
    fn what_virsh_does_to_snapshots_is_seen_in_bounded_time(tb) {
        let vm = Bare::define(tb, "vm1", 1);
        let daemon = Daemon::running(tb, "");
        let seen = |names: &[&str]| {
            // It lists all anew every five minutes: that would be late.
            wait_for(Duration::from_secs(60), "what virsh did is seen", || {
                let now: Vec<String> = daemon.snapshots(vm.name()).into_iter().map(|(name, _)| name).collect();
                (now == names).then_some(())
            });
        };
        seen(&[]);
        tb.ok("virsh -q snapshot-create-as vm1 k1 --disk-only && virsh -q snapshot-create-as vm1 k2 --disk-only
            virsh -q snapshot-delete vm1 k1 --metadata");
        seen(&["k2"]);
        let tree = daemon.ok("list vm1 --tree");
        assert!(tree.contains("k2") && tree.contains("3 images under the deepest disk"), "{tree}");
        let held = daemon.json("list vm1")["snapshots"][0]["held_bytes"].as_u64();
        assert!(held.is_some_and(|bytes| bytes >= 65_536), "{held:?}");
    }

    /// The client, as a person at a terminal or a script uses it.
    fn the_client_shows_takes_plans_and_deletes(tb) {
        let guest = tb.guest(GuestSpec { name: "db 01".into(), ..GuestSpec::named("x") });
        guest.wait_agent();
        let daemon = Daemon::running(tb, "
            [policy.hand]
            vms = [\"db*\"]
            schedule = \"0 0 1 1 *\"
            keep-last = 1
        ");
        assert!(daemon.ok("list").contains("db 01"));
        daemon.ok("create 'db 01' --name before --description 'a <test>' --quiesce require");
        daemon.ok("run hand");
        daemon.ok("run hand");
        daemon.wait_idle();
        let list = daemon.json("list 'db 01'");
        let text = list.to_string();
        assert!(text.contains("\"before\"") && text.contains("filesystem"), "{text}");
        let plan = daemon.ok("plan 'db 01'");
        assert!(plan.contains("before") && plan.contains("keep"), "{plan}");
        assert!(daemon.ok("status").contains("db 01"));
        let refused = daemon.client("delete 'db 01' nothing-of-that-name --yes");
        assert_eq!(refused.status, 3, "{refused}");
        daemon.ok("delete 'db 01' before --yes");
        assert!(!tb.ok("virsh snapshot-list --name 'db 01'").contains("before"));

        let as_nobody = daemon.as_nobody("virtsnap list");
        assert!(as_nobody.success() && as_nobody.stdout.contains("db 01"), "reading is free: {as_nobody}");
        let refused = daemon.as_nobody("virtsnap create 'db 01'");
        assert_eq!(refused.status, 4, "{refused}");
        daemon.stop();
        tb.ok("systemctl mask --runtime virtsnapd");
        let unreachable = daemon.client("list");
        assert_eq!(unreachable.status, 5, "{unreachable}");
    }
}
