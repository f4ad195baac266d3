//! Who may do what on a real Debian, with its polkit: as the shipped files have it, and as rules of an administrator.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::{path::Path, time::Duration};

use harness::{Bare, Daemon, Output, Testbed, quote, wait_for};

const RULES: &str = "/etc/polkit-1/rules.d";

/// Runs a command as a user with all of the user's groups.
fn run_as(tb: &Testbed, user: &str, script: &str) -> Output {
    let script = quote(script);
    tb.sh(&format!("setpriv --reuid=$(id -u {user}) --regid=$(id -g {user}) --init-groups bash -c {script}"))
}

/// The rule that the daemon's manual page shows, for the VM `web1` and the group `developers`.
fn documented_rule() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/virtsnapd.8");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) =
        page.split_once("// /etc/polkit\\-1/rules.d/50\\-virtsnap\\-web1.rules\n").expect("a rule");
    rest.split_once(".EE").expect("an end").0.replace("\\-", "-")
}

/// Waits until a user may do this, as polkit notices other rules by and by.
fn until_may(tb: &Testbed, user: &str, script: &str, may: bool) -> Output {
    wait_for(Duration::from_secs(60), &format!("{user} may do so ({may}): {script}"), || {
        let output = run_as(tb, user, script);
        (output.status == if may { 0 } else { 4 }).then_some(output)
    })
}

#[track_caller]
fn assert_refused(output: &Output, text: &str) {
    assert_eq!(output.status, 4, "{output}");
    assert!(output.stderr.contains(text), "{output}");
}

harness::on_both! {
    fn each_may_what_polkit_lets_them(tb) {
        for vm in ["web1", "db1"] {
            Bare::define(tb, vm, 1);
        }
        let daemon = Daemon::packaged(tb, "");
        tb.ok("groupadd developers && useradd joe && useradd -G developers dev && useradd -G libvirt ann");
        for vm in ["web1", "db1"] {
            daemon.ok(&format!("create {vm} --name kept"));
        }
        let kept = |vm: &str| daemon.snapshots(vm).iter().any(|(name, _)| name == "kept");

        // Anybody reads. Who is nobody special would have to authenticate as an administrator, and there is no agent.
        for read in ["virtsnap list", "virtsnap show web1 kept", "virtsnap plan web1", "virtsnap status"] {
            let output = run_as(tb, "joe", read);
            assert!(output.success(), "{read}: {output}");
        }
        for change in ["delete web1 kept --yes", "revert web1 kept --yes", "create web1", "pin web1 kept", "reload"] {
            let output = run_as(tb, "joe", &format!("virtsnap {change}"));
            assert_refused(&output, "only after authentication for org.virtsnap1.");
            assert!(output.stderr.contains("no agent is there"), "{output}");
            assert!(output.stderr.contains("man virtsnapd"), "{output}");
        }
        let snapshot = &daemon.snapshots("web1")[0].1;
        let state = format!("busctl get-property org.virtsnap1 {snapshot} org.virtsnap1.Snapshot State");
        assert_eq!(run_as(tb, "joe", &state).stdout, "s \"ready\"\n");
        let delete = format!(
            "busctl --allow-interactive-authorization=no call org.virtsnap1 {snapshot} org.virtsnap1.Snapshot Delete 'a{{sv}}' 0"
        );
        let output = run_as(tb, "joe", &delete);
        assert!(!output.success() && output.stderr.contains("ALLOW_INTERACTIVE_AUTHORIZATION"), "{output}");
        // A program goes by the error's name.
        let delete = format!(
            "import dbus\n\
             snapshot = dbus.SystemBus().get_object('org.virtsnap1', '{snapshot}')\n\
             options = dbus.Dictionary(signature='sv')\n\
             try: snapshot.Delete(options, dbus_interface='org.virtsnap1.Snapshot')\n\
             except dbus.DBusException as e: print(e.get_dbus_name())"
        );
        let output = run_as(tb, "joe", &format!("python3 -c {}", quote(&delete)));
        assert_eq!(
            output.stdout.trim(),
            "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
            "{output}"
        );
        assert!(kept("web1"));

        // Members of libvirt take snapshots and nothing more.
        let output = run_as(tb, "ann", "virtsnap create web1 --name of-ann");
        assert!(output.success(), "{output}\n{}", daemon.journal());
        for change in ["delete web1 of-ann --yes", "revert web1 kept --yes", "pin web1 of-ann"] {
            assert_refused(&run_as(tb, "ann", &format!("virtsnap {change}")), "only after authentication");
        }

        // The manual's rule: everything on one VM, for its group alone.
        assert_refused(&run_as(tb, "dev", "virtsnap create web1 --name of-dev"), "only after authentication");
        tb.push_file(format!("{RULES}/50-virtsnap-web1.rules"), documented_rule(), 0o644);
        until_may(tb, "dev", "virtsnap create web1 --name of-dev", true);
        for change in ["pin web1 kept", "unpin web1 kept", "delete web1 kept --yes"] {
            let output = run_as(tb, "dev", &format!("virtsnap {change}"));
            assert!(output.success(), "{change}: {output}");
        }
        assert!(!kept("web1"));
        for change in ["create db1", "delete db1 kept --yes", "reload"] {
            assert_refused(&run_as(tb, "dev", &format!("virtsnap {change}")), "only after authentication");
        }
        assert_refused(&run_as(tb, "joe", "virtsnap delete web1 of-dev --yes"), "only after authentication");
        assert!(kept("db1"));

        // An administrator has a rule of their own come before the group's, and takes that away.
        let stricter = "polkit.addRule(function (action) {
            if (action.id == \"org.virtsnap1.create\") { return polkit.Result.NO; }
        });";
        tb.push_file(format!("{RULES}/40-site.rules"), stricter, 0o644);
        let output = until_may(tb, "ann", "virtsnap create db1", false);
        assert_refused(&output, "org.virtsnap1.create");
        tb.ok(&format!("rm {RULES}/40-site.rules"));
        until_may(tb, "ann", "virtsnap create db1", true);
        tb.ok(&format!("rm {RULES}/50-virtsnap-libvirt.rules"));
        let output = until_may(tb, "ann", "virtsnap create db1", false);
        assert_refused(&output, "only after authentication for org.virtsnap1.create");

        // Where polkit is not, and where it does not answer, root may all the same.
        tb.ok("systemctl kill -s STOP polkit");
        daemon.ok("create db1 --name beside-a-hung-polkit");
        tb.ok("systemctl kill -s KILL polkit; systemctl mask --runtime --now polkit");
        let output = run_as(tb, "dev", "virtsnap create web1");
        assert_refused(&output, "polkit is not on the bus");
        assert!(run_as(tb, "joe", "virtsnap list").success());
        daemon.ok("create db1 --name without-polkit");
    }

    fn a_person_is_asked_for_the_password_of_an_administrator(tb) {
        Bare::define(tb, "web1", 1);
        let daemon = Daemon::running(tb, "");
        daemon.ok("create web1 --name kept");
        tb.ok("useradd joe && echo root:secret | chpasswd && mkdir -m 777 /tmp/t && mkfifo -m 666 /tmp/t/go /tmp/t/keys");
        let path = &daemon.snapshots("web1")[0].1;
        // The agent is for one process, whose number is known before it calls.
        let call = format!(
            "cd /tmp/t; echo $$ >pid; read _ <go; exec busctl --timeout=100 call org.virtsnap1 {path} \
             org.virtsnap1.Snapshot Delete 'a{{sv}}' 0 >out 2>&1"
        );
        let agent = "cd /tmp/t; exec script -qfec \"pkttyagent --process $(cat pid)\" tty 0<>keys";
        let behind = |script: &str| {
            let started = run_as(tb, "joe", &format!("bash -c {} >/dev/null 2>&1 &", quote(script)));
            assert!(started.success(), "{started}");
        };
        let soon = Duration::from_secs(60);
        behind(&call);
        let pid = wait_for(soon, "the caller", || {
            let pid = tb.sh("cat /tmp/t/pid").stdout.trim().to_owned();
            (!pid.is_empty()).then_some(pid)
        });
        behind(agent);
        wait_for(soon, "the agent", || {
            let registered = format!("Registered Authentication Agent for unix-process:{pid}:");
            tb.ok("journalctl --no-pager -o cat").contains(&registered).then_some(())
        });
        tb.ok("echo >/tmp/t/go");
        let asked = wait_for(soon, "a question for the password", || {
            let shown = tb.ok("cat /tmp/t/tty");
            shown.contains("Password:").then_some(shown)
        });
        assert!(asked.contains("AUTHENTICATING FOR org.virtsnap1.delete"), "{asked}");
        let question = "Authentication is required to delete a snapshot (VM \"web1\", snapshot \"kept\")";
        assert!(asked.contains(question), "{asked}");
        assert!(!daemon.snapshots("web1").is_empty(), "nothing is done before the password is there");
        tb.ok("echo secret >/tmp/t/keys");
        let answer = wait_for(soon, "the answer", || {
            let out = tb.ok("cat /tmp/t/out");
            (!out.is_empty()).then_some(out)
        });
        assert!(answer.contains("/org/virtsnap1/job/"), "{answer}\n{}", tb.ok("cat /tmp/t/tty"));
        daemon.wait_idle();
        assert_eq!(daemon.snapshots("web1"), []);
    }
}
