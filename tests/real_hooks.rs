//! Hooks as the daemon runs them in its sandbox, on a real VM.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Bare, Daemon, GuestSpec, wait_or};

const HOOK: &str = "#!/bin/sh
echo \"$1 of $2 for $VIRTSNAP_VM as $(id -un): $VIRTSNAP_SNAPSHOT$VIRTSNAP_ERROR_NAME\"
[ $1 != before ] || ! [ -e /etc/virtsnap/no ]
";

/// It asks the guest itself, and hangs where the test says so, with what it has started.
const FROZEN: &str = r#"#!/bin/sh
[ $1 = frozen ] || exit 0
status='{"execute":"guest-fsfreeze-status"}'
echo "$VIRTSNAP_SNAPSHOT: $(virsh -c qemu:///system qemu-agent-command $VIRTSNAP_VM $status)"
! [ -e /etc/virtsnap/hang ] || tail -f /etc/virtsnap/hang
"#;

const SNAPSHOT: &str = "org.virtsnap1.Snapshot";

harness::on_both! {
    /// See the module.
    fn they_are_run_as_the_daemon_s_user_and_what_they_say_is_in_the_journal(tb) {
        tb.ok("mkdir -p /etc/virtsnap/hooks.d");
        tb.push_file("/etc/virtsnap/hooks.d/50-db", HOOK, 0o755);
        let vm = Bare::define(tb, "vm1", 1);
        tb.ok("virsh -q start vm1");
        let daemon = Daemon::running(tb, "");
        vm.write("vda", 0, 1);
        daemon.ok("create vm1 --name s1");
        let said = |daemon: &Daemon<'_>, words: &str| {
            let journal = daemon.journal();
            assert!(journal.contains(words), "{words}: {journal}");
        };
        for event in ["before", "after"] {
            said(&daemon, &format!("{event} of create for vm1 as virtsnap: s1"));
        }
        tb.ok("touch /etc/virtsnap/no");
        let refused = daemon.client("revert vm1 s1 --yes");
        assert_eq!(refused.status, 6, "{refused}");
        for words in ["hook 50-db failed", "Nothing was touched", "before of revert for vm1", "journalctl"] {
            assert!(refused.stderr.contains(words), "{words}: {refused}");
        }
        said(&daemon, "failed of revert for vm1 as virtsnap: s1HookFailed");
        assert_eq!(vm.state(), "running");
        tb.ok("rm /etc/virtsnap/no");
        daemon.ok("revert vm1 s1 --yes");
    }

    /// Where that is asked for; and whatever they do, it is thawed.
    fn they_are_run_while_the_guest_is_frozen_and_one_that_hangs_does_not_keep_it_so(tb) {
        tb.ok("mkdir -p /etc/virtsnap/hooks.d");
        tb.push_file("/etc/virtsnap/hooks.d/50-db", FROZEN, 0o755);
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let daemon = Daemon::running(tb, "");
        let thawed = || {
            assert_eq!(guest.freeze_status(), "thawed");
            guest.wait_counting("vda", 2);
            guest.assert_no_write_lost("vda");
        };
        let consistency = |path: &str| daemon.bus.get::<String>(path, SNAPSHOT, "Consistency");
        let path = daemon.create("vm1", "unasked").unwrap();
        assert_eq!(consistency(&path), "filesystem");
        assert!(!daemon.journal().contains("unasked: "), "nobody asked for it");

        daemon.stop();
        tb.ok("sed -i 's/^\\[daemon\\]/&\\nhooks-frozen = true/' /etc/virtsnap/virtsnapd.toml");
        daemon.start();
        daemon.wait_running();
        let path = daemon.create("vm1", "s1").unwrap();
        assert_eq!(consistency(&path), "filesystem");
        let said = "s1: {\"return\":\"frozen\"}";
        wait_or(Duration::from_mins(1), || daemon.journal().contains(said).then_some(()), || {
            panic!("{said}: {}", daemon.journal())
        });
        thawed();

        tb.ok("touch /etc/virtsnap/hang");
        let (error, text) = daemon.create("vm1", "s2").unwrap_err();
        assert!(error.ends_with("HookFailed") && text.contains("hook 50-db was killed"), "{error}: {text}");
        thawed();
        assert!(!tb.sh("pgrep -f '[t]ail -f /etc/virtsnap/hang'").success(), "what it had started goes on");
        assert_eq!(tb.ok("virsh -q snapshot-list --name vm1").split_whitespace().collect::<Vec<_>>(), ["s1", "unasked"]);
        assert_eq!(tb.ok("find /var/lib/libvirt/images -name '*.s2.*'"), "", "an overlay is left");

        // The daemon dies in it, or right after it: whoever comes next thaws, and nothing is left.
        let options = std::collections::HashMap::from([("quiesce", zbus::Variant::from("require"))]);
        let (_job,): (zbus::OwnedObjectPath,) =
            daemon.bus.call(&daemon.vm("vm1"), "org.virtsnap1.VM", "CreateSnapshot", &("s2", options)).unwrap();
        let waits = || tb.sh("pgrep -f '[t]ail -f /etc/virtsnap/hang'").success().then_some(());
        wait_or(Duration::from_mins(1), waits, || panic!("it is not run: {}", daemon.journal()));
        daemon.kill();
        thawed();
        daemon.wait_idle();
        assert!(!tb.sh("pgrep -f '[t]ail -f /etc/virtsnap/hang'").success(), "what it had started goes on");
        assert_eq!(tb.ok("find /var/lib/libvirt/images -name '*.s2.*'"), "", "an overlay is left");

        // By its name that is no reason.
        tb.ok("mv /etc/virtsnap/hooks.d/50-db /etc/virtsnap/hooks.d/50-db.optional");
        let path = daemon.create("vm1", "s3").unwrap();
        assert_eq!(consistency(&path), "filesystem");
        thawed();
    }
}
