//! The state database full, damaged and lost: nothing is begun that cannot be written down, and no snapshot is lost.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Bare, Daemon, GuestSpec, byte_in, wait_for, wait_or};

const DEADLINE: Duration = Duration::from_secs(60);

const STATE: &str = "/var/lib/virtsnap";
const POLICY: &str = "[policy.few]\nvms = [\"kept\"]\nquiesce = \"never\"\n";

harness::on_both! {
    fn a_full_file_system_under_it_stops_what_is_asked_before_anything_is_touched(tb) {
        let vm = Bare::define(tb, "full", 1);
        tb.ok("virsh -q start full");
        let daemon = Daemon::install(tb, "");
        tb.ok(&format!("mkdir -p {STATE} && mount -t tmpfs -o size=1M,mode=700 tmpfs {STATE}"));
        tb.ok(&format!("chown virtsnap: {STATE}"));
        daemon.start();
        daemon.wait_running();
        daemon.create("full", "s1").unwrap();
        vm.write("vda", 0, 11);
        let before = (vm.opened("vda"), tb.ok("ls /var/lib/libvirt/images"));
        tb.sh(&format!("dd if=/dev/zero of={STATE}/filler bs=4k"));
        let mut refused = None;
        // What SQLite has of its file takes some more; each attempt either holds or changes nothing.
        for number in 2..40 {
            if let Err(e) = daemon.create("full", &format!("s{number}")) {
                refused = Some((number, e));
                break;
            }
        }
        let (number, (error, text)) = refused.expect("it fills");
        assert!(error.ends_with("Failed") && text.contains("state database"), "{error}: {text}");
        assert!(text.contains("full"), "it says why: {text}");
        if number == 2 {
            assert_eq!((vm.opened("vda"), tb.ok("ls /var/lib/libvirt/images")), before);
        }
        assert!(!tb.ok("virsh -q snapshot-list --name full").contains(&format!("s{number}")));
        // Nor is anything else begun.
        let stands = || {
            let snapshots = tb.ok("virsh -q snapshot-list --tree full; ls -i /var/lib/libvirt/images");
            (snapshots, vm.opened("vda"), vm.state())
        };
        let before = stands();
        let (_, s1) = daemon.snapshots("full").remove(0);
        let none = || std::collections::HashMap::<&str, zbus::Variant<'_>>::new();
        for verb in ["Delete", "Revert"] {
            let job = daemon.bus.call(&s1, "org.virtsnap1.Snapshot", verb, &(none(),));
            let (job,): (zbus::OwnedObjectPath,) = job.unwrap();
            let (error, text) = daemon.wait(job.as_str()).unwrap_err();
            assert!(error.ends_with("Failed") && text.contains("full"), "{verb}: {error}: {text}");
            assert_eq!(stands(), before, "{verb}");
        }
        let warned = daemon.manager::<Vec<String>>("Warnings");
        assert!(warned[0].contains("nothing can be written down"), "{warned:?}");
        tb.ok(&format!("rm {STATE}/filler"));
        daemon.create("full", "after").unwrap();
        daemon.delete("full", "s1").unwrap();
        assert_eq!(daemon.json("list full")["vm"]["health"], "ok", "{}", daemon.journal());
        assert_eq!(daemon.manager::<Vec<String>>("Warnings"), Vec::<String>::new());
    }

    /// The helper is gone, and the disk filled up after the intent was written down.
    fn a_guest_is_thawed_and_the_daemon_starts_on_a_full_file_system(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let daemon = Daemon::install(tb, "");
        let alone = "[Service]\nRestart=no\n";
        tb.push_file("/etc/systemd/system/virtsnapd.service.d/alone.conf", alone, 0o644);
        tb.ok(&format!("systemctl daemon-reload; mkdir -p {STATE} && mount -t tmpfs -o size=1M,mode=700 tmpfs {STATE}"));
        tb.ok(&format!("chown virtsnap: {STATE}"));
        daemon.start();
        daemon.wait_running();
        daemon.create("vm1", "s1").unwrap();
        guest.hook_sleep_freeze(3);
        tb.ok("virtsnap create vm1 --name s2 --no-wait");
        let log = || guest.exec("cat /run/hook.log 2>/dev/null || true");
        let is_at_it = || log().lines().last().is_some_and(|l| l.contains("freeze"));
        wait_for(DEADLINE, "the freeze hook is at it", || is_at_it().then_some(()));
        // Whoever starts another one by hand meanwhile is told so, and changes nothing.
        let second = tb.sh("runuser -u virtsnap -- /usr/bin/virtsnapd");
        assert_eq!(second.status, 75, "{second}");
        assert!(second.stderr.contains("another virtsnapd"), "{second}");

        tb.ok("systemctl kill -s KILL virtsnap-thaw.service && systemctl stop virtsnap-thaw.socket");
        tb.sh(&format!("dd if=/dev/zero of={STATE}/filler bs=4k"));
        tb.ok("systemctl kill --kill-who=main -s KILL virtsnapd");
        wait_or(Duration::from_secs(60), || log().lines().last().is_some_and(|l| l.contains("thaw")).then_some(()), || {
            panic!("it is not thawed:\n{}", daemon.journal())
        });
        guest.hook_sleep_freeze(0);
        let gone = "systemctl show virtsnapd -p ActiveState --value | grep -qx 'failed\\|inactive'";
        wait_for(DEADLINE, "the unit has ended", || tb.sh(gone).success().then_some(()));

        // What SQLite had beside its file went with the last one who had it open.
        tb.sh(&format!("rm -f {STATE}/state.db-shm; dd if=/dev/zero of={STATE}/filler2 bs=1k"));
        tb.ok("systemctl reset-failed virtsnapd");
        daemon.start();
        daemon.wait_running();
        let warned = daemon.manager::<Vec<String>>("Warnings");
        assert!(warned.iter().any(|w| w.contains("nothing can be written down")), "{warned:?}\n{}", daemon.journal());
        let status = daemon.client("status");
        let says = status.stdout.contains("nothing can be written down");
        assert!(status.status == 1 && says, "that is a problem: {status}");
        let (error, text) = daemon.create("vm1", "refused").unwrap_err();
        assert!(error.ends_with("Failed") && text.contains("state database"), "{error}: {text}");
        assert_eq!(guest.freeze_status(), "thawed");
        tb.ok(&format!("rm {STATE}/filler {STATE}/filler2"));
        daemon.create("vm1", "after").unwrap();
        assert_eq!(daemon.manager::<Vec<String>>("Warnings"), Vec::<String>::new());
        assert!(daemon.json("list vm1")["snapshots"].to_string().contains("\"s1\""));
        guest.wait_counting("vda", 2);
        guest.assert_no_write_lost("vda");
    }

    fn on_a_read_only_file_system_it_shows_what_there_is_and_works_again_when_that_is_over(tb) {
        let _vm = Bare::define(tb, "shown", 1);
        tb.ok("virsh -q start shown");
        let daemon = Daemon::install(tb, "");
        tb.ok(&format!("mkdir -p {STATE} && mount -t tmpfs -o size=9M,mode=700 tmpfs {STATE} && chown virtsnap: {STATE}"));
        let alone = "[Service]\nRestart=no\n";
        tb.push_file("/etc/systemd/system/virtsnapd.service.d/alone.conf", alone, 0o644);
        tb.ok("systemctl daemon-reload");
        daemon.start();
        daemon.wait_running();
        for (number, killed) in [false, true].into_iter().enumerate() {
            daemon.create("shown", &format!("s{number}")).unwrap();
            if killed {
                tb.ok("systemctl kill --kill-who=main -s KILL virtsnapd");
            } else {
                daemon.stop();
            }
            let gone = "systemctl show virtsnapd -p ActiveState --value | grep -qx 'failed\\|inactive'";
            wait_for(DEADLINE, "the unit has ended", || tb.sh(gone).success().then_some(()));
            tb.ok(&format!("mount -o remount,ro {STATE}; systemctl reset-failed virtsnapd || true"));
            daemon.start();
            daemon.wait_running();
            let shown = daemon.json("list shown")["snapshots"].clone();
            let all = shown.as_array().unwrap();
            assert!(all.len() == number + 1 && all.iter().all(|s| s["managed"] == true), "{shown}");
            assert!(all.iter().all(|s| s["consistency"] == "crash" && s["consistency_note"] != ""), "{shown}");
            let (error, text) = daemon.create("shown", "refused").unwrap_err();
            assert!(error.ends_with("Failed") && text.contains("readonly"), "{error}: {text}");
            let warned = daemon.manager::<Vec<String>>("Warnings");
            assert!(warned.iter().any(|w| w.contains("nothing can be written down")), "{warned:?}");
            tb.ok(&format!("mount -o remount,rw {STATE}"));
            // The unit's own view of the file system was made when it was read-only, and stays so.
            daemon.stop();
            daemon.start();
            daemon.wait_running();
            daemon.create("shown", &format!("after{number}")).unwrap();
            assert_eq!(daemon.manager::<Vec<String>>("Warnings"), Vec::<String>::new());
            daemon.delete("shown", &format!("after{number}")).unwrap();
        }
    }

    fn one_that_is_removed_under_the_daemon_is_put_back(tb) {
        let _vm = Bare::define(tb, "kept", 1);
        tb.ok("virsh -q start kept");
        let daemon = Daemon::running(tb, "");
        daemon.create("kept", "s1").unwrap();
        let quality = || {
            let (_, s1) = daemon.snapshots("kept").remove(0);
            daemon.bus.get::<String>(&s1, "org.virtsnap1.Snapshot", "ConsistencyNote")
        };
        let before = quality();
        assert_ne!(before, "");
        tb.ok(&format!("rm {STATE}/state.db"));
        daemon.create("kept", "s2").unwrap();
        assert!(daemon.journal().contains("was removed while it was in use: it is put back"), "{}", daemon.journal());
        tb.ok(&format!("[ \"$(stat -c '%U %a' {STATE}/state.db)\" = 'virtsnap 600' ]"));
        daemon.kill();
        assert_eq!(daemon.snapshots("kept").len(), 2);
        assert_eq!(quality(), before, "what was known of it is known still");
        daemon.delete("kept", "s1").unwrap();
    }

    fn one_that_is_damaged_is_kept_and_nothing_is_pruned_until_somebody_says_so(tb) {
        let vm = Bare::define(tb, "kept", 1);
        tb.ok("virsh -q start kept");
        let daemon = Daemon::running(tb, POLICY);
        for value in [11, 12, 13] {
            vm.write("vda", 0, value);
            let made = daemon.run("few");
            assert!(made.iter().all(Result::is_ok), "{made:?}");
        }
        daemon.policies(&format!("{POLICY}keep-last = 1\n"));
        let names = || tb.ok("virsh -q snapshot-list --name kept");
        let before = names();
        daemon.stop();
        tb.ok(&format!("dd if=/dev/urandom of={STATE}/state.db bs=4k count=8 conv=notrunc"));
        daemon.start();
        daemon.wait_running();
        let kept = tb.ok(&format!("ls {STATE}"));
        assert!(kept.contains("state.db.damaged-"), "{kept}");
        assert!(daemon.journal().contains("is damaged"), "{}", daemon.journal());
        let listed = daemon.json("list kept");
        assert_eq!(listed["vm"]["health"], "degraded", "{listed}");
        assert!(listed["vm"]["health_reason"].as_str().unwrap().contains("virtsnap prune kept --all"), "{listed}");
        assert!(listed["snapshots"].as_array().unwrap().iter().all(|s| s["managed"] == true), "{listed}");
        let refused = daemon.client("prune kept --yes");
        assert!(!refused.success() && refused.stderr.contains("prune kept --all"), "{refused}");
        assert_eq!(names(), before, "nothing went");
        // A person says so, and from then on it goes on as before.
        let pruned = daemon.client("prune kept --all --yes");
        assert!(pruned.success(), "{pruned}");
        assert_eq!(names().split_whitespace().count(), 1);
        assert_eq!(byte_in(tb, &vm.active("vda"), 0), 13);
        vm.write("vda", 0, 14);
        let again = daemon.client("prune kept --yes");
        assert!(again.success(), "{again}");
        assert_eq!(daemon.json("list kept")["vm"]["health"], "ok");
    }
}
