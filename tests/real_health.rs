//! The broken states that people and libvirt itself leave behind, each made on a real VM with `virsh` alone: they are
//! found, told, and put right where that is proven.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Bare, BareDisk, Daemon, Suite, Testbed, byte_in, wait_for, wait_or};

const VM: &str = "org.virtsnap1.VM";
/// What has no event is seen with the watchdog's tick.
const SOON: Duration = Duration::from_secs(75);

fn health(daemon: &Daemon<'_>, vm: &Bare) -> (String, String) {
    let get = |property| daemon.bus.get::<String>(&daemon.vm(vm.name()), VM, property);
    (get("Health"), get("HealthReason"))
}

/// Waits until this is told of it.
fn told(daemon: &Daemon<'_>, vm: &Bare, health_is: &str, words: &str) {
    let so = || {
        let (now, reason) = health(daemon, vm);
        (now == health_is && reason.contains(words)).then_some(())
    };
    wait_or(SOON, so, || panic!("{} is not {health_is} ({words}) but {:?}", vm.name(), health(daemon, vm)));
}

fn current(tb: &Testbed, vm: &Bare) -> String {
    tb.sh(&format!("virsh -q snapshot-current --name {}", vm.uuid())).stdout.trim().to_owned()
}

/// A VM with three snapshots of ours; 11, 12 and 13 are what its disk held at them, and 14 is what it holds.
fn with_three(tb: &Testbed, daemon: &Daemon<'_>, name: &str) -> Bare {
    let vm = Bare::define(tb, name, 1);
    wait_for(SOON, "the daemon knows the VM", || {
        daemon.client(&format!("list {name}")).success().then_some(())
    });
    for (snapshot, value) in [("s1", 11), ("s2", 12), ("s3", 13)] {
        vm.write("vda", 0, value);
        daemon.create(name, snapshot).unwrap();
    }
    vm.write("vda", 0, 14);
    told(daemon, &vm, "ok", "");
    vm
}

/// What a snapshot's disk holds, read from the image that its metadata names.
fn held(tb: &Testbed, vm: &Bare, snapshot: &str) -> u8 {
    let xml = tb.ok(&format!("virsh snapshot-dumpxml {} {snapshot}", vm.uuid()));
    let doc = roxmltree::Document::parse(&xml).unwrap();
    let domain = doc.root_element().children().find(|n| n.has_tag_name("domain")).unwrap();
    let source = domain.descendants().find(|n| n.has_tag_name("source") && n.has_attribute("file")).unwrap();
    byte_in(tb, source.attribute("file").unwrap(), 0)
}

/// A definition of one disk that says nothing of what that lies on: 11.3 has written it out.
fn without_chain(xml: &str) -> String {
    let end = "</backingStore>";
    match (xml.find("<backingStore"), xml.rfind(end)) {
        (Some(from), Some(to)) => [&xml[..from], &xml[to + end.len()..]].concat(),
        _ => xml.to_owned(),
    }
}

/// A disk's definition with what it lies on, and `end` after that, as nothing but a person's hand or libvirt itself
/// writes it.
fn written_out(chain: &[String], end: &str) -> String {
    let below = chain[1..].iter().rev().fold(end.to_owned(), |inner, path| {
        format!(
            "<backingStore type='file'><format type='qcow2'/><source file='{path}'/>{inner}</backingStore>"
        )
    });
    format!("<source file='{}'/>{below}", chain[0])
}

harness::on_both! {
    /// `virsh snapshot-current` takes any snapshot for the current one, and with a wrong one, or none, libvirt 11.3
    /// unlinks images that are in use, or crashes.
    fn the_current_snapshot_is_put_right(tb) {
        let daemon = Daemon::running(tb, "");
        let (wrong, none) = (with_three(tb, &daemon, "wrong"), with_three(tb, &daemon, "none"));
        tb.ok("virsh -q snapshot-current wrong s1
            virsh -q snapshot-current none s1 && virsh -q snapshot-delete none s1 --metadata");
        assert_eq!(current(tb, &none), "", "that is how it comes about");
        let mut mended = vec![&wrong];
        if tb.suite() == Suite::Bookworm {
            // libvirt 9.0 lets s2 name s1's image when it forgets s1: nothing is proven any more.
            told(&daemon, &none, "broken", "No snapshot is the current one");
            assert_eq!(current(tb, &none), "", "so it is left as it is");
        } else {
            mended.push(&none);
        }
        for vm in mended {
            wait_for(SOON, &format!("s3 of {} is current again", vm.name()), || {
                (current(tb, vm) == "s3").then_some(())
            });
            told(&daemon, vm, "ok", "");
            assert_eq!((held(tb, vm, "s2"), held(tb, vm, "s3")), (12, 13));
            assert_eq!(byte_in(tb, &vm.active("vda"), 0), 14);
        }
        assert!(daemon.journal().contains("was put right: s1 is the current snapshot"), "it is said what was done");
    }

    /// A libvirt that cannot write a snapshot's file takes the snapshot off its list, be it the current one.
    fn a_snapshot_that_libvirt_loses_while_it_is_described_is_put_back(tb) {
        let daemon = Daemon::running(tb, "");
        for (name, lost, dies) in [("middle", "s2", false), ("newest", "s3", false), ("killed", "s3", true)] {
            let vm = with_three(tb, &daemon, name);
            let directory = format!("/var/lib/libvirt/qemu/snapshot/{name}");
            let tree = || tb.ok(&format!("virsh -q snapshot-list --tree {name}"));
            let before = tree();
            tb.ok(&format!("mount --bind {directory} {directory} && mount -o remount,ro,bind {directory}"));
            let (_, path) = daemon.snapshots(name).into_iter().find(|(n, _)| n == lost).unwrap();
            let given = std::collections::HashMap::from([("description", zbus::Variant::from("before the upgrade"))]);
            let (_, text) = daemon.bus.call::<_, ()>(&path, "org.virtsnap1.Snapshot", "Update", &(given,)).unwrap_err();
            assert!(text.contains("unable to save metadata") && text.contains("is tried again"), "{text}");
            let there = tb.ok(&format!("virsh -q snapshot-list --name {name}"));
            assert!(!there.lines().any(|l| l.trim() == lost), "libvirt has it on its list:\n{there}");
            if dies {
                daemon.kill();
                daemon.start();
                daemon.wait_running();
            }
            let (error, text) = daemon.create(name, "refused").unwrap_err();
            assert!(error.ends_with("Busy") && text.contains(&format!("snapshot {lost} of VM {name}")), "{error}: {text}");
            tb.ok(&format!("umount {directory}"));
            daemon.create(name, "after").unwrap();
            let after = tree();
            assert!(before.lines().all(|line| after.contains(line.trim_end())), "{before}\nand now:\n{after}");
            assert_eq!((held(tb, &vm, "s2"), held(tb, &vm, "s3"), held(tb, &vm, "after")), (12, 13, 14));
            daemon.kill_libvirtd();
            assert_eq!(tree(), after, "it is kept over a restart");
            told(&daemon, &vm, "ok", "");
            for doomed in ["s2", "s3"] {
                daemon.delete(name, doomed).unwrap();
            }
            assert_eq!((held(tb, &vm, "s1"), held(tb, &vm, "after"), byte_in(tb, &vm.active("vda"), 0)), (11, 14, 14));
        }
        assert!(daemon.journal().contains("is put back as it was before that"), "it is said what was done");
    }

    /// With native calls alone: revert, create, delete, revert, and libvirt 11.3 unlinks an image under two snapshots.
    fn a_native_revert_that_libvirt_forgets_is_written_down_again(tb) {
        if tb.suite() == Suite::Bookworm {
            // It has no native revert to forget.
            let vm = Bare::define(tb, "vm1", 1);
            tb.ok("virsh -q snapshot-create-as vm1 k1 --disk-only");
            let refused = tb.sh("virsh snapshot-revert vm1 k1");
            assert!(refused.stderr.contains("not supported yet"), "{refused}");
            assert_eq!(current(tb, &vm), "k1");
            return;
        }
        let daemon = Daemon::running(tb, "");
        let vm = with_three(tb, &daemon, "vm1");
        tb.ok("virsh -q snapshot-revert vm1 s1
            virsh -q snapshot-create-as vm1 n4 --disk-only && virsh -q snapshot-delete vm1 n4");
        let says = || tb.ok("virsh snapshot-dumpxml vm1 s1").contains("<revertDisks>");
        wait_for(SOON, "s1 says again what the VM is on", || says().then_some(()));
        told(&daemon, &vm, "ok", "");
        assert!(daemon.journal().contains("was reverted to s1"), "it is said what was done");
        tb.ok("virsh -q snapshot-revert vm1 s3 --running");
        assert_eq!((held(tb, &vm, "s2"), held(tb, &vm, "s3")), (12, 13));
        assert_eq!(byte_in(tb, &vm.active("vda"), 0), 13);
    }

    /// What no metadata can put right is told to people, with what to do, and monitoring sees it.
    fn what_cannot_be_put_right_is_told(tb) {
        let daemon = Daemon::running(tb, "");
        let (lost, stray) = (with_three(tb, &daemon, "lost"), with_three(tb, &daemon, "stray"));

        let text = tb.ok("virsh snapshot-dumpxml lost s2");
        let doc = roxmltree::Document::parse(&text).unwrap();
        let domain = doc.root_element().children().find(|n| n.has_tag_name("domain")).unwrap();
        let image = domain.descendants().find_map(|n| n.attribute("file")).unwrap().to_owned();
        tb.ok(&format!("mv {image} /var/tmp/"));
        // A file that goes has no event; any change of the VM has it read.
        tb.ok("virsh -q desc lost --title --config without");
        told(&daemon, &lost, "broken", &format!("Snapshot s2 is lost: {image} is not there"));
        let status = daemon.client("status");
        assert_eq!(status.status, 1, "{status}");
        assert!(status.stdout.contains("Snapshot s2 is lost"), "{status}");
        tb.ok(&format!("mv /var/tmp/$(basename {image}) {image} && virsh -q desc lost --title --config with"));
        told(&daemon, &lost, "ok", "");

        tb.ok("virsh -q start stray");
        let runs_on = stray.active("vda");
        let old = format!("{}/stray-vda.qcow2", runs_on.rsplit_once('/').unwrap().0);
        tb.ok(&format!(
            "virsh dumpxml --inactive stray | sed 's|{runs_on}|{old}|' >/var/tmp/stray.xml
             virsh -q define /var/tmp/stray.xml"
        ));
        told(&daemon, &stray, "broken", &format!("Disk vda runs on {runs_on}, but the VM's definition names {old}"));
    }

    /// libvirt puts one image more on a running VM than it can start it on: from then on it merges nothing, and its own
    /// restart may kill the VM.
    fn a_chain_that_libvirt_cannot_work_with_is_told(tb) {
        let daemon = Daemon::running(tb, "");
        let limit = if tb.suite() == Suite::Trixie { 25 } else { 200 };
        let directory = "/var/lib/libvirt/images/deep";
        tb.ok(&format!(
            "set -e; mkdir {directory}; cd {directory}; qemu-img create -q -f qcow2 1.qcow2 8M
             for n in $(seq 2 {limit}); do
               qemu-img create -q -f qcow2 -u -b {directory}/$((n - 1)).qcow2 -F qcow2 $n.qcow2 8M
             done"
        ));
        let top = |n: usize| BareDisk { image: format!("{directory}/{n}.qcow2"), format: "qcow2".to_owned() };
        let vm = Bare::define_on(tb, "deep", &[top(limit)], "", "");
        tb.ok("virsh -q start deep");
        vm.write("vda", 0, 1);
        wait_for(SOON, "the daemon knows the VM", || daemon.client("list deep").success().then_some(()));
        told(&daemon, &vm, "ok", "");
        let more = format!(
            "virsh -q snapshot-create-as deep more --disk-only --no-metadata --diskspec vda,file={}",
            top(limit + 1).image
        );
        let put = tb.sh(&more);
        if tb.suite() == Suite::Bookworm {
            // There the limit is one that libvirt itself looks at.
            assert!(put.stderr.contains("more than 200 layers deep are not supported"), "{put}");
            told(&daemon, &vm, "ok", "");
            return;
        }
        assert!(put.success(), "libvirt lets people do that: {put}");
        // A layer without metadata has no event; any change of the VM has it read.
        tb.ok("virsh -q desc deep --title --config more");
        vm.write("vda", 0, 2);
        let words = format!("Disk vda has {} images, and this libvirt cannot work with more than {limit}", limit + 1);
        told(&daemon, &vm, "broken", &words);
        tb.ok("virsh -q destroy deep");
        told(&daemon, &vm, "broken", &words);
        let start = tb.sh("virsh start deep");
        assert!(!start.success(), "what is told is so: {start}");
        // As it says.
        let (base, above) = (top(limit - 1).image, top(limit + 1).image);
        tb.ok(&format!(
            "set -e; qemu-img commit -q -d -b {base} {above}; qemu-img rebase -u -b {base} -F qcow2 {above}
             for pool in $(virsh pool-list --name); do virsh -q pool-refresh $pool; done
             virsh -q desc deep --title --config less"
        ));
        // libvirt has written out the image that the disk lay on: that has to go as well.
        let xml = tb.ok("virsh dumpxml --inactive deep");
        let end = "</backingStore>";
        let (from, to) = (xml.find("<backingStore type").unwrap(), xml.rfind(end).unwrap());
        tb.push_file("/var/tmp/deep.xml", [&xml[..from], &xml[to + end.len()..]].concat(), 0o644);
        tb.ok("virsh -q define /var/tmp/deep.xml");
        told(&daemon, &vm, "ok", "");
        tb.ok("virsh -q start deep");
        assert_eq!(byte_in(tb, &vm.active("vda"), 0), 2);
    }

    /// What others write into a description counts, and libvirt forgets what gets too long.
    fn metadata_that_libvirt_will_forget_is_told(tb) {
        let daemon = Daemon::running(tb, "");
        let vm = Bare::define(tb, "vm1", 1);
        tb.ok("virsh -q start vm1");
        wait_for(SOON, "the daemon knows the VM", || daemon.client("list vm1").success().then_some(()));
        for (value, name, kib) in [(1, "long", 900), (2, "longer", 1030)] {
            vm.write("vda", 0, value);
            let text = format!(
                "<domainsnapshot><name>{name}</name><description>{}</description></domainsnapshot>",
                "x".repeat(kib * 1024)
            );
            tb.push_file("/var/tmp/long.xml", text, 0o644);
            tb.ok("virsh -q snapshot-create vm1 /var/tmp/long.xml --disk-only --atomic >&2");
            let health = if kib < 1024 { "degraded" } else { "broken" };
            told(&daemon, &vm, health, &format!("The metadata of {name} is "));
        }
        let reason = health(&daemon, &vm).1;
        assert!(reason.starts_with("The metadata of longer is 103"), "the worst first: {reason}");
        assert!(reason.contains("The metadata of long is 90"), "{reason}");
        daemon.restart_libvirtd();
        let listed = tb.ok("virsh -q snapshot-list vm1 --name");
        assert_eq!(listed.lines().next(), Some("long"), "what is told is so: {listed}");
        // It was the current one: no snapshot is now.
        told(&daemon, &vm, "broken", "on layers that belong to no snapshot, and those lie on long");
        tb.ok("virsh -q snapshot-current vm1 long");
        told(&daemon, &vm, "broken", "there are layers that belong to no snapshot");
        daemon.ok("adopt vm1 --layers --yes");
        told(&daemon, &vm, "degraded", "The metadata of long is ");
        assert_eq!(held(tb, &vm, "long"), 1);
    }

    /// libvirt opens what the definition writes out, not what the images say: after a merge by hand that is old data, or
    /// nothing at all.
    fn a_definition_that_still_writes_out_what_was_merged_is_told(tb) {
        let daemon = Daemon::running(tb, "");
        let vm = Bare::define(tb, "vm1", 1);
        tb.ok("virsh -q start vm1");
        for (layer, value) in [("l1", 1), ("l2", 2)] {
            vm.write("vda", 0, value);
            tb.ok(&format!("virsh -q snapshot-create-as vm1 {layer} --disk-only --no-metadata"));
        }
        let top = vm.active("vda");
        tb.ok("virsh -q destroy vm1");
        let said = tb.ok(&format!("qemu-img info --backing-chain {top}"));
        let mut chain: Vec<String> =
            said.lines().filter_map(|line| line.strip_prefix("image: ")).map(str::to_owned).collect();
        assert_eq!(chain.len(), 3, "{said}");
        let xml = without_chain(&tb.ok("virsh dumpxml --inactive vm1"));
        let source = format!("<source file='{top}'/>");
        assert!(xml.contains(&source), "{xml}");
        tb.push_file("/var/tmp/vm1.xml", xml.replace(&source, &written_out(&chain, "<backingStore/>")), 0o644);
        tb.ok("virsh -q define /var/tmp/vm1.xml");
        assert!(tb.ok("virsh dumpxml --inactive vm1").contains("<backingStore type='file'>"), "libvirt keeps it");
        wait_for(SOON, "the daemon knows the VM", || daemon.client("list vm1").success().then_some(()));
        tb.ok("virsh -q start vm1");
        told(&daemon, &vm, "ok", "");
        tb.ok("virsh -q destroy vm1");

        let middle = chain.remove(1);
        tb.ok(&format!("qemu-img commit -q -d {middle} && qemu-img rebase -u -b {} -F qcow2 {top}", chain[1]));
        // What a file lies on libvirt knows from when it last looked at its directory.
        tb.ok("for pool in $(virsh pool-list --name); do virsh -q pool-refresh $pool; done
            virsh -q desc vm1 --title --config merged");
        let words = format!("but the VM's definition writes out {top} → {middle} → {}", chain[1]);
        told(&daemon, &vm, "broken", &words);
        // Neither may what is left open at its end name what was merged, as 11.3 writes it.
        let open = written_out(&[top.clone(), middle.clone()], "");
        tb.push_file("/var/tmp/vm1.xml", xml.replace(&source, &open), 0o644);
        tb.ok("virsh -q define /var/tmp/vm1.xml");
        told(&daemon, &vm, "broken", &format!("but the VM's definition writes out {top} → {middle}: its next start"));
        tb.push_file("/var/tmp/vm1.xml", &xml, 0o644);
        tb.ok("virsh -q define /var/tmp/vm1.xml");
        told(&daemon, &vm, "ok", "");
    }
}
