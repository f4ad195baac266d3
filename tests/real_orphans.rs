//! What `virsh` and broken operations leave on a real VM: found and told by the daemon, and taken over by the client.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Bare, Daemon, byte_in, wait_for};

const VM: &str = "org.virtsnap1.VM";
/// What has no event is seen with the watchdog's tick.
const SOON: Duration = Duration::from_secs(75);

fn told(daemon: &Daemon<'_>, vm: &Bare, health_is: &str, words: &str) {
    let get = |property| daemon.bus.get::<String>(&daemon.vm(vm.name()), VM, property);
    wait_for(SOON, &format!("{} is {health_is}: {words}", vm.name()), || {
        (get("Health") == health_is && get("HealthReason").contains(words)).then_some(())
    });
}

fn listed(daemon: &Daemon<'_>, vm: &str, words: &str) {
    wait_for(SOON, &format!("{vm}: {words}"), || {
        daemon.client(&format!("list {vm}")).stdout.contains(words).then_some(())
    });
}

harness::on_both! {
    fn what_virsh_took_is_ours_by_command_and_deleted_like_ours(tb) {
        let vm = Bare::define(tb, "theirs", 2);
        tb.ok("virsh -q start theirs");
        for (snapshot, value) in [("f1", 11), ("f2", 12)] {
            vm.write("vda", 0, value);
            tb.ok(&format!("virsh -q snapshot-create-as theirs {snapshot} --disk-only --atomic"));
        }
        vm.write("vda", 0, 13);
        let daemon = Daemon::running(tb, "");
        listed(&daemon, "theirs", "f2");
        let refused = daemon.client("delete theirs f1 --yes");
        assert!(refused.status == 1 && refused.stderr.contains("--foreign"), "{refused}");
        daemon.ok("adopt theirs f1");
        assert!(tb.ok("virsh snapshot-dumpxml theirs f1").contains("origin=foreign"));
        daemon.ok("delete theirs f1 --yes");
        assert_eq!(byte_in(tb, &vm.active("vda"), 0), 13);
        assert_eq!(tb.ok("virsh -q snapshot-list --name theirs").trim(), "f2");
        daemon.ok("delete theirs f2 --foreign --yes");
        assert!(vm.active("vda").ends_with("theirs-vda.qcow2"));
        assert_eq!(byte_in(tb, &vm.active("vda"), 0), 13);
        told(&daemon, &vm, "ok", "");
    }

    fn a_file_that_nobody_has_goes_to_quarantine_and_one_that_is_used_again_leaves_it(tb) {
        let vm = Bare::define(tb, "left", 1);
        let on = vm.active("vda");
        let [stray, other] = ["stray", "other"].map(|name| on.replace("left-vda", name));
        for path in [&stray, &other] {
            tb.ok(&format!("qemu-img create -q -f qcow2 -b {on} -F qcow2 {path}"));
        }
        let daemon = Daemon::running(tb, "");
        told(&daemon, &vm, "degraded", &other);
        let asked = daemon.ok("adopt left --orphans --yes");
        assert!(asked.contains(&stray) && asked.contains(&other), "{asked}");
        told(&daemon, &vm, "ok", "");
        tb.ok(&format!("test -e {stray} && test -e {other}"));
        listed(&daemon, "left", "in quarantine, removed");
        // Somebody has one of them again, and writes to the other.
        let disk = harness::BareDisk { image: stray.clone(), format: "qcow2".to_owned() };
        let _again = Bare::define_on(tb, "again", &[disk], "", "");
        tb.ok(&format!("qemu-io -f qcow2 -c 'write -P 1 0 64k' {other}"));
        let looked = daemon.ok("adopt left --orphans --yes");
        // That both lie on the same disk makes it one of two VMs: nobody's to tell.
        assert!(looked.contains("no file outside of quarantine"), "{looked}");
        assert!(!daemon.client("list left").stdout.contains("quarantine"));
        assert!(daemon.journal().contains("is out of quarantine"));
    }

    fn metadata_without_images_is_told_and_forgotten_by_command(tb) {
        let daemon = Daemon::running(tb, "");
        let vm = Bare::define(tb, "lost", 1);
        listed(&daemon, "lost", "");
        for (snapshot, value) in [("s1", 11), ("s2", 12)] {
            vm.write("vda", 0, value);
            daemon.create("lost", snapshot).unwrap();
        }
        vm.write("vda", 0, 13);
        tb.ok("virsh -q start lost");
        // Everything into the base, past all metadata; and the images that are in no chain any more go.
        let images = tb.ok("virsh snapshot-dumpxml lost s2 | grep -o \"/var[^']*qcow2\" | sort -u");
        tb.ok("virsh -q blockcommit lost vda --active --pivot --wait");
        let base = vm.active("vda");
        for image in images.lines().filter(|image| **image != base) {
            tb.ok(&format!("rm -f {image}"));
        }
        tb.ok("virsh -q desc lost --title --live 'without'");
        told(&daemon, &vm, "broken", "Snapshot s2 is lost");
        let kept = daemon.client("delete lost s1 --metadata-only --yes");
        assert!(kept.status == 6 && kept.stderr.contains("its images are there"), "{kept}");
        daemon.ok("delete lost s2 --metadata-only --yes");
        assert_eq!(tb.ok("virsh -q snapshot-list --name lost").trim(), "s1");
        assert_eq!(byte_in(tb, &base, 0), 13);
    }

    /// The images' directory has a second name, which other VMs use: a path alone does not tell whose a file is.
    fn a_file_that_others_have_by_another_name_is_theirs(tb) {
        tb.ok("ln -s /var/lib/libvirt/images /srv/images");
        let vm = Bare::define(tb, "plain", 1);
        vm.write("vda", 0, 11);
        let daemon = Daemon::running(tb, "");
        daemon.create("plain", "s1").unwrap();
        vm.write("vda", 0, 12);
        tb.ok("cd /srv/images && qemu-img create -q -f qcow2 -b /srv/images/plain-vda.qcow2 -F qcow2 clone.qcow2");
        let disk = harness::BareDisk { image: "/srv/images/clone.qcow2".to_owned(), format: "qcow2".to_owned() };
        let clone = Bare::define_on(tb, "clone", &[disk], "", "");
        let (error, text) = daemon.delete("plain", "s1").unwrap_err();
        assert!(error.ends_with("InUse") && text.contains("VM clone"), "{error}: {text}");
        assert_eq!(byte_in(tb, "/srv/images/clone.qcow2", 0), 11);
        // What virsh puts on top of the clone has the second name alone, and the pool knows it by the first one.
        tb.ok("virsh -q snapshot-create-as clone c1 --disk-only --no-metadata");
        tb.ok("virsh -q pool-refresh $(virsh -q pool-list --name | head -n 1)");
        let looked = daemon.ok("adopt clone --orphans --yes");
        assert!(looked.contains("no file outside of quarantine"), "{looked}");
        tb.ok(&format!("virsh -q undefine {}", clone.uuid()));
        tb.ok("rm /srv/images/clone.*");
        daemon.delete("plain", "s1").unwrap();
        assert_eq!(byte_in(tb, "/srv/images/plain-vda.qcow2", 0), 12);
    }
}
