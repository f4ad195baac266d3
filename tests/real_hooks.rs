//! Hooks as the daemon runs them in its sandbox, on a real VM.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use harness::{Bare, Daemon};

const HOOK: &str = "#!/bin/sh
echo \"$1 of $2 for $VIRTSNAP_VM as $(id -un): $VIRTSNAP_SNAPSHOT$VIRTSNAP_ERROR_NAME\"
[ $1 != before ] || ! [ -e /etc/virtsnap/no ]
";

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
}
