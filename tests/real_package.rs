//! The Debian package on a real Debian, as an administrator has it: installed, upgraded, removed, purged.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::{path::Path, process::Command, time::Duration};

use harness::{Daemon, GuestSpec, Testbed, wait_for};
use virtsnap::logging::message;

const SETTINGS: &str = "[daemon]\nmin-free = \"1%\"\nmetrics-textfile = \"/run/virtsnap/virtsnap.prom\"\n";

/// Builds the package from the binaries under test and puts it into the container.
fn package(tb: &Testbed) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binaries = Path::new(env!("CARGO_BIN_EXE_virtsnapd")).parent().unwrap();
    let out = tempfile::tempdir().unwrap();
    // Compressed as fast as it can be: these binaries are many times as large as those of a release.
    let built = Command::new("packaging/deb.sh")
        .current_dir(root)
        .args([binaries, out.path(), Path::new("0")])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let package = String::from_utf8(built.stdout).unwrap();
    std::fs::copy(package.trim(), tb.path("/var/tmp/virtsnap.deb")).unwrap();
}

harness::on_both! {
    fn it_installs_upgrades_and_purges_and_never_takes_a_snapshot_with_it(tb) {
        package(tb);
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let rules = "stat -c '%U %G %a' /etc/polkit-1/rules.d";
        let before = tb.ok(rules);
        tb.ok("dpkg -i /var/tmp/virtsnap.deb");
        assert_eq!(tb.ok(rules), before, "the directory is polkit's");
        let daemon = Daemon::attach(tb);
        daemon.wait_running();
        assert_eq!(tb.ok("systemctl is-enabled virtsnapd").trim(), "enabled");
        assert!(tb.ok("ps -o user= -C virtsnapd").contains("virtsnap"));
        assert!(tb.ok("dpkg -s virtsnap").contains("Depends: libc6 (>= 2."), "what it is linked to is what it wants");
        tb.ok("test -e /etc/virtsnap/policies.d/README");
        tb.ok("systemctl is-active virtsnap-thaw.socket");
        // The file as it is shipped holds nothing but defaults, and the machine's memory is this disk: room enough
        // is not to be expected there.
        tb.push_file("/etc/virtsnap/virtsnapd.toml", SETTINGS, 0o644);
        daemon.ok("reload");
        daemon.ok("create vm1 --name kept");
        let taken = format!("journalctl --sync && journalctl -x --no-pager MESSAGE_ID={}", message::SNAPSHOT_TAKEN);
        let explained = tb.ok(&taken);
        for text in ["snapshot kept of VM vm1 taken", "Subject: Snapshot kept of VM vm1 was taken", "Defined-By: virtsnapd"] {
            assert!(explained.contains(text), "{text}: {explained}");
        }

        // Under the unit's umask, in its read-only system: who collects metrics is another user.
        wait_for(Duration::from_secs(60), "the metrics", || {
            let read = daemon.as_nobody("cat /run/virtsnap/virtsnap.prom").stdout;
            let mut of_ours = read.lines().filter(|l| l.starts_with("virtsnap_vm_snapshots{vm=\"vm1\","));
            of_ours.any(|l| l.ends_with(",managed=\"yes\"} 1")).then_some(())
        });

        // The bus starts it for whoever asks, and for nobody once it was disabled.
        tb.ok("systemctl stop virtsnapd");
        let asked = daemon.as_nobody("virtsnap list");
        assert_eq!(asked.status, 0, "{asked}");
        tb.ok("systemctl is-active virtsnapd");
        tb.ok("systemctl disable --now virtsnapd");
        let asked = daemon.as_nobody("virtsnap list");
        assert_eq!(asked.status, 5, "{asked}");
        assert!(!tb.sh("systemctl is-active virtsnapd").success(), "somebody who asked started it");
        tb.ok("systemctl enable --now virtsnapd");
        Daemon::attach(tb).wait_running();

        // Upgraded (to itself): the changed file stays, the one that was removed does not come back, the daemon runs, what
        // it knew is known.
        let rule = "/etc/polkit-1/rules.d/50-virtsnap-libvirt.rules";
        tb.ok(&format!("rm {rule}"));
        tb.ok("dpkg --force-confold -i /var/tmp/virtsnap.deb");
        let daemon = Daemon::attach(tb);
        daemon.wait_running();
        assert!(!tb.sh(&format!("test -e {rule}")).success(), "somebody who removed it did not want it");
        assert!(tb.ok("cat /etc/virtsnap/virtsnapd.toml").contains("min-free = \"1%\""));
        let (_, snapshot) = &daemon.snapshots("vm1")[0];
        let consistency: String = daemon.bus.get(snapshot, "org.virtsnap1.Snapshot", "Consistency");
        assert_eq!(consistency, "filesystem", "known from the database");

        tb.ok("dpkg --purge virtsnap");
        assert!(!tb.sh("systemctl is-active virtsnapd").success());
        assert!(!tb.sh("test -e /var/lib/virtsnap || test -e /usr/bin/virtsnap").success());
        let helper = "systemctl is-active virtsnap-thaw.socket virtsnap-thaw.service || test -e /run/virtsnap-thaw.socket";
        assert!(!tb.sh(helper).success());
        assert!(tb.ok("virsh snapshot-list --name vm1").contains("kept"));
        guest.wait_counting("vda", 2);
        guest.assert_no_write_lost("vda");
    }
}
