//! The state database full, damaged and lost: nothing is begun that cannot be written down, and no snapshot is lost.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use harness::{Bare, Daemon, byte_in};

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
        tb.ok(&format!("rm {STATE}/filler"));
        daemon.create("full", "after").unwrap();
        daemon.delete("full", "s1").unwrap();
        assert_eq!(daemon.json("list full")["vm"]["health"], "ok", "{}", daemon.journal());
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
