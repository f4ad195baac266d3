//! A guest is frozen, or about to be, and the daemon that was to thaw it is killed or stands still: the helper outside
//! does, whatever else could is taken away.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Daemon, Guest, GuestSpec, Testbed, wait_for, wait_or};
use virtsnap::logging::message;

const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
/// How long a freeze's hook takes. Nothing can stand between a freeze and its thaw for so long: with this the freeze is
/// carried out after what happened to the daemon meanwhile.
const HOOK: u32 = 3;

/// A daemon that nobody starts again, and a guest with a slow hook. `last_resort`: its unit thaws after its end.
fn one(tb: &Testbed, last_resort: bool) -> (Daemon<'_>, Guest) {
    let guest = tb.guest(GuestSpec::named("vm1"));
    guest.wait_agent();
    let nothing_else = if last_resort { "" } else { "ExecStopPost=\n" };
    let drop_in = format!("[Service]\nRestart=no\n{nothing_else}");
    tb.push_file("/etc/systemd/system/virtsnapd.service.d/alone.conf", drop_in, 0o644);
    let daemon = Daemon::running(tb, "");
    guest.hook_sleep_freeze(HOOK);
    (daemon, guest)
}

/// Has a snapshot taken, up to the freeze: its hook is at it.
fn freezing(tb: &Testbed, guest: &Guest) {
    tb.ok("virtsnap create vm1 --name s1 --no-wait");
    let log = || guest.exec("cat /run/hook.log 2>/dev/null || true");
    wait_for(Duration::from_secs(20), "the freeze hook is at it", || {
        log().lines().last().is_some_and(|l| l.contains("freeze")).then_some(())
    });
}

/// The freeze was carried out, and so was a thaw; the guest writes, and has lost nothing.
fn frozen_and_thawed(guest: &Guest, daemon: &Daemon<'_>, helper: &str) {
    let thawed = || guest.exec("cat /run/hook.log").lines().last().is_some_and(|l| l.contains("thaw"));
    let still = || panic!("it is not thawed:\n{}\n{helper}", daemon.journal());
    wait_or(Duration::from_secs(90), || thawed().then_some(()), still);
    guest.wait_counting("vda", 2);
    guest.assert_no_write_lost("vda");
    wait_for(Duration::from_secs(30), "the agent says so", || {
        (guest.freeze_status() == "thawed").then_some(())
    });
}

fn is_gone(tb: &Testbed) {
    assert!(!tb.sh("systemctl is-active virtsnapd").success(), "somebody started a daemon, which thaws, too");
}

/// How often the helper told this.
fn told(tb: &Testbed, kind: &str) -> usize {
    tb.ok(&format!(
        "journalctl --sync; journalctl -u virtsnap-thaw --no-pager -o cat MESSAGE_ID={kind} || true"
    ))
    .lines()
    .filter(|l| !l.starts_with("--"))
    .count()
}

harness::on_both! {
    /// Its unit runs no command after it, and does not start it again.
    fn a_killed_daemons_guest_is_thawed_by_the_helper_alone(tb) {
        let (daemon, guest) = one(tb, false);
        freezing(tb, &guest);
        tb.ok("systemctl is-active virtsnap-thaw.service");
        tb.ok("systemctl kill --kill-who=main -s KILL virtsnapd");
        frozen_and_thawed(&guest, &daemon, "the helper");
        is_gone(tb);
        wait_for(Duration::from_secs(30), "the helper says so", || {
            (told(tb, message::GUEST_THAWED) > 0).then_some(())
        });
        assert_eq!(told(tb, message::GUEST_FROZEN), 1, "that the daemon is gone");
        let end = "! systemctl is-failed virtsnap-thaw.service";
        tb.ok(end);

        // All goes on, and is told of what is over: the helper has nothing to say of it.
        guest.hook_sleep_freeze(0);
        let before = told(tb, message::GUEST_THAWED);
        daemon.start();
        daemon.wait_running();
        let snapshot = daemon.create("vm1", "after").expect("it goes on");
        assert_eq!(daemon.bus.get::<String>(&snapshot, SNAPSHOT, "Consistency"), "filesystem");
        daemon.stop();
        assert_eq!((told(tb, message::GUEST_THAWED), told(tb, message::GUEST_FROZEN)), (before, 1));
    }

    /// Nothing of it runs, and its watchdog would take a minute to notice.
    fn a_daemon_that_stands_still_has_its_guest_thawed_meanwhile(tb) {
        let (daemon, guest) = one(tb, false);
        freezing(tb, &guest);
        tb.ok("systemctl kill --kill-who=main -s STOP virtsnapd");
        frozen_and_thawed(&guest, &daemon, "the helper");
        let state = "grep '^State' /proc/$(systemctl show -p MainPID --value virtsnapd)/status";
        assert!(tb.ok(state).contains("T (stopped)"), "it stood still all the time");
        assert_eq!(told(tb, message::GUEST_FROZEN), 1);

        // It goes on, and does not take for consistent what was thawed in between.
        guest.hook_sleep_freeze(0);
        tb.ok("systemctl kill --kill-who=main -s CONT virtsnapd");
        daemon.wait_idle();
        let snapshots = daemon.snapshots("vm1");
        let (_, snapshot) = snapshots.last().expect("it was taken all the same");
        assert_eq!(daemon.bus.get::<String>(snapshot, SNAPSHOT, "Consistency"), "crash");
        let note: String = daemon.bus.get(snapshot, SNAPSHOT, "ConsistencyNote");
        assert!(!note.is_empty());
        assert_eq!(guest.freeze_status(), "thawed");
        let again = daemon.create("vm1", "again").expect("it goes on");
        assert_eq!(daemon.bus.get::<String>(&again, SNAPSHOT, "Consistency"), "filesystem");
    }

    /// Nobody answers when the daemon dies, and for a while after that.
    fn a_guest_that_cannot_be_thawed_is_thawed_as_soon_as_it_can_be(tb) {
        let (daemon, guest) = one(tb, false);
        freezing(tb, &guest);
        guest.agent_stop();
        tb.ok("systemctl kill --kill-who=main -s KILL virtsnapd");
        wait_for(Duration::from_secs(120), "the helper fails, twice, and goes on", || {
            (told(tb, message::GUEST_FROZEN) >= 3).then_some(())
        });
        guest.agent_cont();
        frozen_and_thawed(&guest, &daemon, "the helper");
        is_gone(tb);
    }

    /// The helper dies first: then there is the unit's last command.
    fn without_its_helper_a_killed_daemons_guest_is_thawed_by_its_unit(tb) {
        let (daemon, guest) = one(tb, true);
        freezing(tb, &guest);
        tb.ok("systemctl kill -s KILL virtsnap-thaw.service && systemctl stop virtsnap-thaw.socket");
        tb.ok("systemctl kill --kill-who=main -s KILL virtsnapd");
        frozen_and_thawed(&guest, &daemon, "the unit");
        is_gone(tb);
        assert_eq!(told(tb, message::GUEST_THAWED), 0);
    }

    /// An administrator has masked the socket, or the daemon was started by hand: a child does what it can.
    fn without_a_socket_a_child_thaws_in_the_place_of_a_daemon_that_stands_still(tb) {
        tb.ok("systemctl mask --runtime virtsnap-thaw.socket");
        let (daemon, guest) = one(tb, false);
        freezing(tb, &guest);
        tb.ok("pgrep -f '[v]irtsnapd --thawer line'");
        tb.ok("systemctl kill --kill-who=main -s STOP virtsnapd");
        frozen_and_thawed(&guest, &daemon, "the child");
        tb.ok("systemctl kill --kill-who=main -s CONT virtsnapd");
        daemon.wait_idle();
        wait_for(Duration::from_secs(30), "the child ends with its line", || {
            (!tb.sh("pgrep -f '[v]irtsnapd --thawer line'").success()).then_some(())
        });
        assert!(!daemon.journal().contains(message::UNWATCHED));
        assert_eq!(guest.freeze_status(), "thawed");
    }

    /// What both run in is as tight as it says.
    fn neither_unit_is_exposed(tb) {
        let daemon = Daemon::running(tb, "");
        let shown = tb.ok("systemd-analyze security --no-pager --threshold=10 virtsnapd.service virtsnap-thaw.service");
        assert_eq!(shown.matches("Overall exposure level").count(), 2, "{shown}");
        daemon.stop();
    }
}
