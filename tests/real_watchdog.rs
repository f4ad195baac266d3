//! The watchdog: a libvirtd that stands still is no reason to end the daemon, and a daemon that does is ended.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Daemon, GuestSpec, Testbed, wait_for, wait_or};

const DEADLINE: Duration = Duration::from_secs(60);

/// A daemon whose watchdog has no patience.
fn watched(tb: &Testbed) -> Daemon<'_> {
    let drop_in = "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n";
    tb.push_file("/etc/systemd/system/virtsnapd.service.d/watched.conf", drop_in, 0o644);
    Daemon::running(tb, "")
}

fn shown(tb: &Testbed, property: &str) -> String {
    tb.ok(&format!("systemctl show virtsnapd -p {property} --value"))
}

harness::on_both! {
    fn a_libvirtd_that_stands_still_holds_up_neither_the_watchdog_nor_those_who_ask(tb) {
        let _vm = harness::Bare::define(tb, "still", 1);
        tb.ok("virsh -q start still");
        let daemon = watched(tb);
        tb.ok("systemctl kill --kill-who=main -s STOP libvirtd");
        // It has asked libvirtd in between: at each of these it glances at the VMs.
        for _ in 0..3 {
            let before = shown(tb, "WatchdogTimestampMonotonic");
            wait_for(DEADLINE, "the watchdog is told", || {
                (shown(tb, "WatchdogTimestampMonotonic") != before).then_some(())
            });
        }
        assert!(daemon.ok("list").contains("still"));
        assert!(daemon.client("status").stdout.contains("virtsnapd"));
        assert_eq!(shown(tb, "NRestarts"), "0");
        tb.ok("systemctl kill --kill-who=main -s CONT libvirtd");
        daemon.create("still", "s1").unwrap();
        assert_eq!(shown(tb, "NRestarts"), "0");
    }

    fn a_daemon_that_stands_still_is_ended_and_comes_back_and_its_guest_is_thawed(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let daemon = watched(tb);
        guest.hook_sleep_freeze(3);
        tb.ok("virtsnap create vm1 --name s1 --no-wait");
        let log = || guest.exec("cat /run/hook.log 2>/dev/null || true");
        let last = |what: &str| log().lines().last().is_some_and(|l| l.contains(what)).then_some(());
        wait_for(DEADLINE, "the freeze hook is at it", || last("freeze"));
        tb.ok("systemctl kill --kill-who=main -s STOP virtsnapd");
        let restarted = || (shown(tb, "NRestarts") == "1").then_some(());
        wait_or(DEADLINE, restarted, || panic!("nobody ended it:\n{}", daemon.journal()));
        wait_or(DEADLINE, || last("thaw"), || panic!("it is not thawed:\n{}", daemon.journal()));
        guest.hook_sleep_freeze(0);
        wait_for(DEADLINE, "it is there again", || tb.sh("systemctl is-active virtsnapd").success().then_some(()));
        daemon.wait_running();
        daemon.wait_idle();
        assert_eq!(guest.freeze_status(), "thawed");
        daemon.create("vm1", "after").unwrap();
        guest.wait_counting("vda", 2);
        guest.assert_no_write_lost("vda");
        assert_eq!(shown(tb, "NRestarts"), "1");
    }
}
