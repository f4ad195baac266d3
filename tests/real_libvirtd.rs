//! A libvirtd that dies between QEMU's answer and its own notes: QEMU is on images that libvirt does not know of, and
//! nothing that was written to them may be lost.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what it did, and what it expects by failing"
)]

mod harness;

use std::time::Duration;

use harness::{Bare, Daemon, Dying, Testbed, byte_in, quote, wait_for};

const VM: &str = "org.virtsnap1.VM";
const IMAGES: &str = "/var/lib/libvirt/images";
const DEADLINE: Duration = Duration::from_mins(1);
const DISKS: [&str; 2] = ["vda", "vdb"];

/// A cluster full of this, to both disks, by the QEMU that runs them: to whatever it has.
fn write(vm: &Bare, value: u8) {
    for disk in DISKS {
        vm.qemu_io(disk, &format!("\"write -P {value} 0 64k\""));
    }
}

/// What both disks hold.
fn holds(tb: &Testbed, vm: &Bare) -> Vec<u8> {
    DISKS.iter().map(|disk| byte_in(tb, &vm.active(disk), 0)).collect()
}

/// What a snapshot holds.
fn holds_at(tb: &Testbed, vm: &Bare, snapshot: &str) -> Vec<u8> {
    let text = tb.ok(&format!("virsh snapshot-dumpxml {} {}", vm.uuid(), quote(snapshot)));
    let doc = roxmltree::Document::parse(&text).unwrap();
    let domain = doc.root_element().children().find(|n| n.has_tag_name("domain")).unwrap();
    let disks = domain.descendants().filter(|n| n.has_tag_name("disk"));
    let image = |n: roxmltree::Node<'_, '_>| {
        let source = n.children().find(|c| c.has_tag_name("source"))?;
        source.attribute("file").map(str::to_owned)
    };
    disks.filter_map(image).map(|image| byte_in(tb, &image, 0)).collect()
}

fn health(daemon: &Daemon<'_>, vm: &Bare) -> (String, String) {
    let path = daemon.vm(vm.name());
    (daemon.bus.get(&path, VM, "Health"), daemon.bus.get(&path, VM, "HealthReason"))
}

fn wait_health(daemon: &Daemon<'_>, vm: &Bare, wanted: &str) {
    wait_for(DEADLINE, &format!("its health is {wanted}"), || (health(daemon, vm).0 == wanted).then_some(()));
}

fn names(daemon: &Daemon<'_>, vm: &Bare) -> Vec<String> {
    daemon.snapshots(vm.name()).into_iter().map(|(name, _)| name).collect()
}

/// All that there is of the VM's images is in its disks' chains, or in its snapshots'.
fn assert_nothing_left(tb: &Testbed, daemon: &Daemon<'_>, vm: &Bare) {
    let mut owned = String::new();
    for disk in DISKS {
        owned += &tb.ok(&format!("qemu-img info -U --backing-chain {}", quote(&vm.active(disk))));
    }
    for name in names(daemon, vm) {
        owned += &tb.ok(&format!("virsh snapshot-dumpxml {} {}", vm.uuid(), quote(&name)));
    }
    let files = tb.ok(&format!("find {IMAGES} -type f -name '{}*'", vm.name()));
    let left: Vec<_> = files.lines().filter(|file| !owned.contains(*file)).collect();
    assert!(left.is_empty(), "nobody owns {left:?}\n{}", daemon.journal());
}

/// Off and on again, as its owner does it who was told to.
fn power_cycle(tb: &Testbed, vm: &Bare) {
    tb.ok(&format!("virsh -q destroy {0} && virsh -q start {0}", vm.uuid()));
}

/// libvirt calls it shut off, and its QEMU runs: the first disk is off its upper image. Its owner does what is said.
fn look_for_it(tb: &Testbed, daemon: &Daemon<'_>, vm: &Bare, before: &[(&str, Vec<String>)]) {
    tb.ok(&format!("pgrep -f [g]uest={},", vm.name()));
    wait_health(daemon, vm, "broken");
    let (_, reason) = health(daemon, vm);
    assert!(reason.contains("its QEMU may run on"), "{reason}");
    let (error, text) = daemon.create(vm.name(), "s3").unwrap_err();
    assert_eq!(error, "org.virtsnap1.Error.ChainMismatch", "{text}");
    let (_, chain) = &before[0];
    assert!(text.contains(&format!("let the definition name {}", chain[1])), "{text}");
    // What the guest wrote before it was shut down from inside.
    tb.ok(&format!("pkill -9 -f [g]uest={},", vm.name()));
    for image in [&chain[1], &before[1].1[0]] {
        let write = quote("write -P 4 0 64k");
        wait_for(DEADLINE, "its QEMU has let go of the image", || {
            tb.sh(&format!("qemu-io -f qcow2 -c {write} {}", quote(image))).success().then_some(())
        });
    }
    let definition = tb.ok(&format!("virsh dumpxml --inactive {}", vm.uuid()));
    let (head, disk) = definition.split_at(definition.find(&chain[0]).expect("the first disk"));
    let end = disk.find("</disk>").unwrap();
    let below = disk[..end]
        .find("<backingStore")
        .map_or(0..0, |at| at..disk[..end].rfind("</backingStore>").unwrap() + "</backingStore>".len());
    let disk = format!("{}{}", &disk[..below.start], &disk[below.end..]).replacen(&chain[0], &chain[1], 1);
    tb.push_file("/var/tmp/lost.xml", format!("{head}{disk}"), 0o600);
    tb.ok(&format!("virsh -q define /var/tmp/lost.xml >&2 && virsh -q start {}", vm.uuid()));
}

harness::on_both! {
    /// The worst of it: what the guest writes from then on goes to overlays that nothing names. Whoever takes them for
    /// left over removes it.
    fn what_is_written_to_overlays_that_libvirt_missed_is_kept(tb) {
        let dying = Dying::install(tb);
        let vm = Bare::define(tb, "adr", 2);
        tb.ok("virsh -q start adr");
        let daemon = Daemon::running(tb, "");
        write(&vm, 1);

        let before = daemon.connections();
        dying.at("a\"transaction\"");
        let (error, text) = daemon.create("adr", "s1").unwrap_err();
        assert!(dying.died(), "{error}: {text}");
        dying.wait_back(&daemon, before);

        let overlays: Vec<String> = DISKS.iter().map(|disk| vm.opened(disk).remove(0)).collect();
        for (disk, overlay) in DISKS.iter().zip(&overlays) {
            assert_ne!(*overlay, vm.active(disk), "libvirt knows nothing of it");
            tb.ok(&format!("test -e {}", quote(overlay)));
        }
        wait_health(&daemon, &vm, "broken");
        let (_, reason) = health(&daemon, &vm);
        assert!(reason.contains("shut the VM down and start it again"), "{reason}");
        let inactive = tb.ok("virsh dumpxml --inactive adr");
        assert!(overlays.iter().all(|o| inactive.contains(o.as_str())), "its next start is on them: {inactive}");
        let (error, text) = daemon.create("adr", "s2").unwrap_err();
        assert_eq!(error, "org.virtsnap1.Error.ChainMismatch", "{text}");
        assert!(text.contains("shut the VM down and start it again"), "{text}");

        write(&vm, 2);
        power_cycle(tb, &vm);
        assert_eq!(holds(tb, &vm), [2, 2], "what was written since");
        daemon.create("adr", "s2").unwrap();
        assert_eq!(names(&daemon, &vm), ["s1", "s2"], "{}", daemon.journal());
        assert_eq!((holds_at(tb, &vm, "s1"), holds_at(tb, &vm, "s2")), (vec![1, 1], vec![2, 2]));
        wait_health(&daemon, &vm, "ok");
        write(&vm, 3);
        for name in ["s1", "s2"] {
            daemon.delete("adr", name).unwrap();
        }
        assert_eq!(holds(tb, &vm), [3, 3]);
        assert_nothing_left(tb, &daemon, &vm);
    }

    /// Merges of the image that is written to, and of one below it, cut short at each message about their end.
    fn a_merge_whose_end_libvirt_missed_loses_nothing(tb) {
        let dying = Dying::install(tb);
        let daemon = Daemon::running(tb, "");
        let moments = [
            ("rBLOCK_JOB_READY", "s2"),
            ("a\"job-complete\"", "s2"),
            ("r\"concluded\"", "s1"),
            ("a\"job-dismiss\"", "s2"),
            ("a\"job-dismiss\"", "s1"),
            ("a\"blockdev-del\"", "s2"),
            ("a\"blockdev-del\"", "s1"),
            // Its definition is not written: the next start would be on what the disk has left.
            ("n/etc/libvirt/qemu/VM.xml", "s2"),
            // The status is not: after its restart libvirt does not know where the merge writes.
            ("a\"block-commit\"", "s2"),
        ];
        for (number, (moment, gone)) in moments.into_iter().enumerate() {
            let name = format!("adr{number}");
            let vm = Bare::define(tb, &name, 2);
            tb.ok(&format!("virsh -q start {name}"));
            write(&vm, 1);
            daemon.create(&name, "s1").unwrap();
            write(&vm, 2);
            daemon.create(&name, "s2").unwrap();
            write(&vm, 3);

            let tops: Vec<(&str, Vec<String>)> = DISKS.iter().map(|disk| (*disk, vm.opened(disk))).collect();
            let before = daemon.connections();
            dying.at(&moment.replace("VM", &name));
            let deleted = daemon.delete(&name, gone);
            assert!(dying.died(), "{moment}: {deleted:?}");
            dying.wait_back(&daemon, before);
            daemon.wait_idle();
            if moment.starts_with('n') {
                assert!(daemon.journal().contains("still names what disk vda has left"), "{}", daemon.journal());
                write(&vm, 4);
                power_cycle(tb, &vm);
                assert_eq!(holds(tb, &vm), [4, 4], "{}", daemon.journal());
            }
            let lost = vm.state() == "shut off";
            println!("{moment}, {gone}: {deleted:?}; libvirt lost sight of the VM: {lost}");
            if lost {
                look_for_it(tb, &daemon, &vm, &tops);
            } else {
                write(&vm, 4);
            }
            // The merge may be looked at until a job is refused for it, and Health tells of it after that.
            if let Err((error, text)) = daemon.create(&name, "s3") {
                println!("  {error}: {text}");
                assert!(!lost, "its owner did what was said");
                assert_eq!(error, "org.virtsnap1.Error.ChainMismatch", "{text}");
                wait_health(&daemon, &vm, "broken");
                let (_, reason) = health(&daemon, &vm);
                assert!(reason.contains("shut the VM down and start it again"), "{reason}");
                power_cycle(tb, &vm);
                assert_eq!(holds(tb, &vm), [4, 4], "{}", daemon.journal());
                daemon.create(&name, "s3").unwrap();
            }
            assert_eq!(holds(tb, &vm), [4, 4], "{}", daemon.journal());
            if names(&daemon, &vm).iter().any(|n| n == gone) {
                daemon.delete(&name, gone).unwrap();
            }
            let (stays, value) = if gone == "s1" { ("s2", 2) } else { ("s1", 1) };
            assert_eq!(names(&daemon, &vm), [stays, "s3"]);
            assert_eq!((holds_at(tb, &vm, stays), holds_at(tb, &vm, "s3")), (vec![value; 2], vec![4, 4]));
            wait_health(&daemon, &vm, "ok");
            assert_nothing_left(tb, &daemon, &vm);
            tb.ok(&format!("virsh -q destroy {name}"));
            let libvirtd = tb.ok("journalctl -b --no-pager -u libvirtd");
            assert!(!libvirtd.contains("status=11/SEGV"), "{moment}: what was done crashed it: {libvirtd}");
        }
    }
}
