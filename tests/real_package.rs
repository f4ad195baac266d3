//! The Debian package on a real Debian, as an administrator has it: installed, upgraded, removed, purged.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::{collections::HashMap, path::Path, process::Command, time::Duration};

use harness::{Bare, BareDisk, Daemon, GuestSpec, Suite, Testbed, byte_in, wait_for};
use virtsnap::logging::message;

const SETTINGS: &str = "[daemon]\nmin-free = \"1%\"\nmetrics-textfile = \"/run/virtsnap/virtsnap.prom\"\n";
const DEADLINE: Duration = Duration::from_secs(60);
const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
const MIB: u64 = 1 << 20;

/// Makes this package, with this revision, from the binaries under test; its path in the container.
fn package(tb: &Testbed, format: &str, revision: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binaries = Path::new(env!("CARGO_BIN_EXE_virtsnapd")).parent().unwrap();
    let out = tempfile::tempdir().unwrap();
    let built = Command::new(format!("packaging/{format}.sh"))
        .current_dir(root)
        .args([binaries, out.path(), Path::new(revision)])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let package = String::from_utf8(built.stdout).unwrap();
    let inside = format!("/var/tmp/virtsnap-{revision}.{format}");
    std::fs::copy(package.trim(), tb.path(&inside)).unwrap();
    inside
}

/// As `apt install ./….deb` does it, without asking.
fn install(tb: &Testbed, package: &str) {
    tb.ok(&format!(
        "DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Options::=--force-confold install {package}"
    ));
}

/// A VM whose snapshot `old` is so large that its merge, at the speed that is asked for, takes a while. The snapshot's object.
fn large(tb: &Testbed, daemon: &Daemon<'_>) -> (Bare, String) {
    let image = "/var/lib/libvirt/images/large.qcow2".to_owned();
    tb.ok(&format!("qemu-img create -q -f qcow2 {image} 64M"));
    let vm = Bare::define_on(tb, "large", &[BareDisk { image, format: "qcow2".to_owned() }], "", "");
    tb.ok("virsh -q start large");
    daemon.wait_running();
    daemon.create("large", "old").unwrap();
    vm.qemu_io("vda", &format!("\"write -P 2 0 {}\"", 24 * MIB));
    daemon.create("large", "new").unwrap();
    vm.qemu_io("vda", &format!("\"write -P 3 0 {MIB}\""));
    let (_, path) = daemon.snapshots("large").into_iter().find(|(name, _)| name == "old").unwrap();
    (vm, path)
}

harness::on_both! {
    fn it_installs_upgrades_and_purges_and_never_takes_a_snapshot_with_it(tb) {
        let (first, second) = (package(tb, "deb", "1"), package(tb, "deb", "2"));
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let rules = "stat -c '%U %G %a' /etc/polkit-1/rules.d";
        let before = tb.ok(rules);
        install(tb, &first);
        assert_eq!(tb.ok(rules), before, "the directory is polkit's");
        let daemon = Daemon::attach(tb);
        daemon.wait_running();
        assert_eq!(tb.ok("systemctl is-enabled virtsnapd").trim(), "enabled");
        assert!(tb.ok("ps -o user= -C virtsnapd").contains("virtsnap"));
        let wants = tb.ok("dpkg-query -W -f '${Depends}' virtsnap");
        assert!(wants.contains("libc6 (>= 2.") && wants.contains("libvirt0 (>="), "what it is linked to: {wants}");
        tb.ok("test -e /etc/virtsnap/policies.d/README");
        tb.ok("systemctl is-active virtsnap-thaw.socket");
        // The file as it is shipped holds nothing but defaults, and the machine's memory is this disk: room enough
        // is not to be expected there.
        tb.push_file("/etc/virtsnap/virtsnapd.toml", SETTINGS, 0o644);
        daemon.ok("reload");
        tb.ok("systemd-run --quiet --collect --unit=monitor busctl monitor org.virtsnap1");
        let monitored = |text: &str| {
            let shown = tb.ok("journalctl --sync && journalctl --no-pager -o cat -u monitor");
            shown.contains(text).then_some(())
        };
        wait_for(DEADLINE, "busctl listens", || monitored("Monitoring bus message stream"));
        daemon.ok("create vm1 --name kept");
        for signal in ["JobNew", "InterfacesAdded", "PropertiesChanged"] {
            wait_for(DEADLINE, "busctl shows the signals", || monitored(&format!("Member={signal}")));
        }
        tb.ok("systemctl stop monitor");
        let taken = format!("journalctl --sync && journalctl -x --no-pager MESSAGE_ID={}", message::SNAPSHOT_TAKEN);
        let explained = tb.ok(&taken);
        for text in ["snapshot kept of VM vm1 taken", "Subject: Snapshot kept of VM vm1 was taken", "Defined-By: virtsnapd"] {
            assert!(explained.contains(text), "{text}: {explained}");
        }

        assert_eq!(tb.ok("systemctl service-log-level virtsnapd").trim(), "info");
        tb.ok("systemctl service-log-level virtsnapd debug");
        assert_eq!(tb.ok("systemctl service-log-level virtsnapd").trim(), "debug");
        assert_eq!(tb.ok("systemctl service-log-target virtsnapd").trim(), "journal");
        tb.ok("systemctl service-log-level virtsnapd info");

        // Under the unit's umask, in its read-only system: who collects metrics is another user.
        wait_for(DEADLINE, "the metrics", || {
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

        // Upgraded in the middle of a merge: the changed file stays, the one that was removed does not come back, the
        // daemon runs, what it knew is known, and what it was at comes to an end.
        let rule = "/etc/polkit-1/rules.d/50-virtsnap-libvirt.rules";
        tb.ok(&format!("rm {rule}"));
        let daemon = Daemon::attach(tb);
        let (large, old) = large(tb, &daemon);
        let slowly = HashMap::from([("bandwidth", zbus::Variant::from(MIB))]);
        let job: (zbus::OwnedObjectPath,) = daemon.bus.call(&old, SNAPSHOT, "Delete", &(slowly,)).unwrap();
        wait_for(DEADLINE, "some of it is copied", || {
            (daemon.bus.get::<f64>(job.0.as_str(), "org.virtsnap1.Job", "Progress") > 0.1).then_some(())
        });
        assert!(daemon.bus.get::<f64>(job.0.as_str(), "org.virtsnap1.Job", "Progress") < 0.5, "in the middle");
        install(tb, &second);
        assert_eq!(tb.ok("dpkg-query -W -f '${Version}' virtsnap").rsplit('-').next(), Some("2"));
        let daemon = Daemon::attach(tb);
        daemon.wait_running();
        assert!(!tb.sh(&format!("test -e {rule}")).success(), "somebody who removed it did not want it");
        assert!(tb.ok("cat /etc/virtsnap/virtsnapd.toml").contains("min-free = \"1%\""));
        wait_for(DEADLINE, "the merge is finished", || {
            let left: Vec<_> = daemon.snapshots("large").into_iter().map(|(name, _)| name).collect();
            (left == ["new"]).then_some(())
        });
        assert_eq!(large.opened("vda").len(), 2);
        assert_eq!(byte_in(tb, &large.active("vda"), 0), 3);
        assert_eq!(byte_in(tb, &large.active("vda"), 2 * MIB / 65_536), 2);
        let (_, snapshot) = &daemon.snapshots("vm1")[0];
        let consistency: String = daemon.bus.get(snapshot, SNAPSHOT, "Consistency");
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

/// Debian has no package that an RPM could be installed beside: what it holds is laid out, and its scripts run as rpm
/// runs them.
#[test]
fn an_rpm_installs_upgrades_and_goes() {
    let tb = &Testbed::start(Suite::Trixie);
    let rpm = tb.path(package(tb, "rpm", "1"));
    let script = |name: &str, count: u32| {
        let asked =
            Command::new("rpm").args(["-qp", "--qf", &format!("%{{{name}}}")]).arg(&rpm).output().unwrap();
        let text = String::from_utf8(asked.stdout).unwrap();
        assert!(text.contains("virtsnapd"), "{name}: {text}");
        tb.push_file("/var/tmp/script", text, 0o644);
        tb.ok(&format!("sh -e /var/tmp/script {count}"));
    };
    let unpacked = Command::new("sh")
        .args(["-c", "rpm2cpio \"$0\" | cpio --quiet -idu -D \"$1\""])
        .args([rpm.as_path(), tb.path("/").as_path()])
        .status()
        .unwrap();
    assert!(unpacked.success());
    script("POSTIN", 1);
    assert_eq!(tb.ok("systemctl is-enabled virtsnapd").trim(), "enabled");
    tb.ok("systemctl start virtsnapd");
    Daemon::attach(tb).wait_running();
    let was = tb.ok("systemctl show -P MainPID virtsnapd");

    script("POSTIN", 2);
    script("PREUN", 1);
    script("POSTUN", 1);
    Daemon::attach(tb).wait_running();
    assert_ne!(tb.ok("systemctl show -P MainPID virtsnapd"), was, "the new one runs");

    script("PREUN", 0);
    for unit in ["virtsnapd.service", "virtsnap-thaw.socket"] {
        assert!(!tb.sh(&format!("systemctl is-active {unit}")).success(), "{unit} runs on");
    }
    assert_ne!(tb.sh("systemctl is-enabled virtsnapd").stdout.trim(), "enabled");
}
