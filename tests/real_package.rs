//! The Debian package on a real Debian, as an administrator has it: installed, upgraded, removed, purged.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    process::Command,
    thread::JoinHandle,
    time::Duration,
};

use harness::{
    Bare, BareDisk, Daemon, GuestSpec, Output, Suite, Testbed, byte_in, install, install_offline, package,
    wait_for,
};
use virtsnap::logging::message;

const SETTINGS: &str = "[daemon]\nmin-free = \"1%\"\nmetrics-textfile = \"/run/virtsnap/virtsnap.prom\"\n";
const DEADLINE: Duration = Duration::from_secs(60);
const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
const JOB: &str = "org.virtsnap1.Job";
const EVERY_MINUTE: &str = "* * * * *";
/// Not while this test runs.
const YEARLY: &str = "0 0 1 1 *";
const MIB: u64 = 1 << 20;

/// A policy with this schedule, of the VMs whose snapshots it shall take.
fn ticks(schedule: &str) -> String {
    format!("[policy.ticks]\nvms = [\"vm1\", \"large\"]\nschedule = \"{schedule}\"\n")
}

/// The jobs of a VM that wait, by their origin, in order.
fn waiting(daemon: &Daemon<'_>, vm: &str) -> Vec<String> {
    let vm = daemon.vm(vm);
    let is = |path: &String| {
        let objects: Vec<zbus::OwnedObjectPath> = daemon.bus.get(path, JOB, "Objects");
        daemon.bus.get::<String>(path, JOB, "State") == "queued" && objects.iter().any(|o| o.as_str() == vm)
    };
    let jobs = daemon.bus.managed().into_iter().map(|(path, _)| path);
    let mut found: Vec<_> = jobs.filter(|p| p.starts_with("/org/virtsnap1/job/")).filter(is).collect();
    found.sort();
    found.iter().map(|path| daemon.bus.get(path, JOB, "Origin")).collect()
}

/// How consistent each of a VM's snapshots is that a schedule took.
fn scheduled(daemon: &Daemon<'_>, vm: &str) -> Vec<String> {
    let of = |path: &str, property: &str| daemon.bus.get::<String>(path, SNAPSHOT, property);
    let all = daemon.snapshots(vm).into_iter().filter(|(_, path)| of(path, "Origin") == "schedule");
    all.map(|(_, path)| of(&path, "Consistency")).collect()
}

/// `systemctl reload` with a file that is wrong: it fails, what is wrong is in the journal, the old settings stay.
fn a_broken_file_changes_nothing(tb: &Testbed, daemon: &Daemon<'_>) {
    daemon.policies(&format!("{}keep-dayly = 7\n", ticks("0 5 * * *")));
    let refused = tb.sh("systemctl reload virtsnapd");
    assert!(!refused.success(), "whoever reloads is told: {refused}");
    wait_for(DEADLINE, "the journal tells", || {
        daemon.journal().contains("the old settings stay in force").then_some(())
    });
    assert!(daemon.journal().contains("policies.d/test.toml:4:1"), "{}", daemon.journal());
    let schedule =
        || daemon.bus.get::<Vec<String>>("/org/virtsnap1/policy/ticks", "org.virtsnap1.Policy", "Schedule");
    assert_eq!(schedule(), [YEARLY]);
    daemon.policies(&ticks(EVERY_MINUTE));
    tb.ok("systemctl reload virtsnapd");
    wait_for(DEADLINE, "the new settings", || (schedule() == [EVERY_MINUTE]).then_some(()));
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

/// `busctl monitor` shows the signals, `journalctl -x` explains an event, systemctl turns the log up and down.
fn shown_and_explained(tb: &Testbed, daemon: &Daemon<'_>) {
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
    let taken =
        format!("journalctl --sync && journalctl -x --no-pager MESSAGE_ID={}", message::SNAPSHOT_TAKEN);
    let explained = tb.ok(&taken);
    for text in [
        "snapshot kept of VM vm1 taken",
        "Subject: Snapshot kept of VM vm1 was taken",
        "Defined-By: virtsnapd",
    ] {
        assert!(explained.contains(text), "{text}: {explained}");
    }

    assert_eq!(tb.ok("systemctl service-log-level virtsnapd").trim(), "info");
    tb.ok("systemctl service-log-level virtsnapd debug");
    assert_eq!(tb.ok("systemctl service-log-level virtsnapd").trim(), "debug");
    assert_eq!(tb.ok("systemctl service-log-target virtsnapd").trim(), "journal");
    tb.ok("systemctl service-log-level virtsnapd info");
}

/// Has this snapshot be merged, slowly, and a run of a policy, which is loaded meanwhile, and a snapshot by hand wait for
/// that; who waits for the latter.
fn busy(tb: &Testbed, daemon: &Daemon<'_>, old: &str) -> JoinHandle<Output> {
    let slowly = HashMap::from([("bandwidth", zbus::Variant::from(MIB / 16))]);
    let job: (zbus::OwnedObjectPath,) = daemon.bus.call(old, SNAPSHOT, "Delete", &(slowly,)).unwrap();
    let progress = || daemon.bus.get::<f64>(job.0.as_str(), JOB, "Progress");
    wait_for(DEADLINE, "some of it is copied", || (progress() > 0.01).then_some(()));
    a_broken_file_changes_nothing(tb, daemon);
    wait_for(2 * DEADLINE, "the schedule fires", || {
        (!scheduled(daemon, "vm1").is_empty() && waiting(daemon, "large") == ["schedule"]).then_some(())
    });
    assert_eq!(scheduled(daemon, "vm1")[0], "filesystem");
    assert!(tb.ok("virsh -q snapshot-list vm1 --name").contains("ticks-"));
    // From here on a run of it is one that was waiting.
    daemon.policies(&ticks(YEARLY));
    tb.ok("virtsnap reload");
    let by_hand = {
        let tb = tb.clone();
        std::thread::spawn(move || tb.sh_within(4 * DEADLINE, "virtsnap create large --name by-hand"))
    };
    wait_for(DEADLINE, "two wait", || (waiting(daemon, "large") == ["schedule", "manual"]).then_some(()));
    assert!(progress() < 0.8, "in the middle");
    assert_eq!(scheduled(daemon, "large"), [""; 0]);
    by_hand
}

/// Removed, and installed again with a configuration that is wrong, which is no failure of the installation: all that was
/// known and set is there.
fn removed_and_back(tb: &Testbed, package: &str) {
    tb.ok("apt-get -qy remove virtsnap");
    tb.ok("! test -e /usr/bin/virtsnap && test -e /var/lib/virtsnap/state.db && test -e /etc/virtsnap/virtsnapd.toml");
    let policies = "/etc/virtsnap/policies.d/test.toml";
    tb.push_file(policies, "[policy.ticks", 0o644);
    let told = install(tb, package);
    assert!(told.contains("virtsnapd did not start; see: journalctl -u virtsnapd"), "{told}");
    assert_eq!(tb.ok("systemctl show -P ExecMainStatus virtsnapd").trim(), "78");
    tb.push_file(policies, ticks(YEARLY), 0o644);
    tb.ok("systemctl restart virtsnapd");
    let daemon = Daemon::attach(tb);
    daemon.wait_running();
    let (_, snapshot) = &daemon.snapshots("vm1")[0];
    let consistency: String = daemon.bus.get(snapshot, SNAPSHOT, "Consistency");
    assert_eq!(consistency, "filesystem", "known from the database");
}

/// Where no systemd runs, all is there for when one does.
fn installed_offline(tb: &Testbed, package: &str) {
    tb.ok("userdel virtsnap");
    install_offline(tb, package);
    assert_eq!(tb.ok("id -nG virtsnap").trim(), "virtsnap libvirt");
    assert_eq!(tb.ok("stat -c '%U %a' /var/lib/virtsnap").trim(), "virtsnap 700");
    assert_eq!(tb.ok("systemctl is-enabled virtsnapd").trim(), "enabled");
    assert_eq!(tb.sh("systemctl is-active virtsnapd").stdout.trim(), "inactive");
    tb.ok("systemctl daemon-reload && systemctl reload dbus && systemctl start virtsnapd");
    Daemon::attach(tb).wait_running();
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
        let daemon = Daemon::settled(tb, SETTINGS, &ticks(YEARLY));
        assert_eq!(tb.ok("systemctl is-enabled virtsnapd").trim(), "enabled");
        assert!(tb.ok("ps -o user= -C virtsnapd").contains("virtsnap"));
        let wants = tb.ok("dpkg-query -W -f '${Depends}' virtsnap");
        assert!(wants.contains("libc6 (>= 2.") && wants.contains("libvirt0 (>="), "what it is linked to: {wants}");
        tb.ok("test -e /etc/virtsnap/policies.d/README");
        tb.ok("systemctl is-active virtsnap-thaw.socket");
        shown_and_explained(tb, &daemon);

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
        // daemon runs, what it knew is known, what it was at comes to an end, and what waited for that is done then, for
        // the schedule as for who waits for it all the while.
        let rule = "/etc/polkit-1/rules.d/50-virtsnap-libvirt.rules";
        tb.ok(&format!("rm {rule}"));
        let daemon = Daemon::attach(tb);
        let (large, old) = large(tb, &daemon);
        let by_hand = busy(tb, &daemon, &old);
        install(tb, &second);
        assert_eq!(tb.ok("dpkg-query -W -f '${Version}' virtsnap").rsplit('-').next(), Some("2"));
        let daemon = Daemon::attach(tb);
        daemon.wait_running();
        assert!(!tb.sh(&format!("test -e {rule}")).success(), "somebody who removed it did not want it");
        assert!(tb.ok("cat /etc/virtsnap/virtsnapd.toml").contains("min-free = \"1%\""));
        let by_hand = by_hand.join().unwrap();
        assert!(by_hand.success() && by_hand.stdout.contains("by-hand"), "{by_hand}");
        assert!(by_hand.stderr.contains("waiting for the daemon to start again"), "{by_hand}");
        wait_for(DEADLINE, "the merge is finished, and what waited is done", || {
            let left = daemon.snapshots("large");
            let old = left.iter().any(|(name, _)| name == "old");
            (!old && left.len() == 3 && scheduled(&daemon, "large") == ["crash"]).then_some(())
        });
        daemon.wait_idle();
        assert_eq!(large.opened("vda").len(), 4);
        assert_eq!(byte_in(tb, &large.active("vda"), 0), 3);
        assert_eq!(byte_in(tb, &large.active("vda"), 2 * MIB / 65_536), 2);
        removed_and_back(tb, &second);

        // Where there is AppArmor, virtsnap-apparmor@.service leaves it.
        tb.ok("mkdir -p /run/virtsnap-apparmor && touch /run/virtsnap-apparmor/UUID.json");
        tb.ok("dpkg --purge virtsnap");
        assert!(!tb.sh("systemctl is-active virtsnapd").success());
        // A pool of images that libvirt had none for is libvirt's, until it or the host is restarted.
        let others = "-not -path '/run/libvirt/*' -not -name virtsnap-guest -not -path '/var/tmp/*'";
        let left = tb.ok(&format!("find / /run -xdev -iname '*virtsnap*' {others}"));
        assert_eq!(left, "/etc/virtsnap", "for what is not the package's: {left}");
        assert_eq!(tb.ok("find /etc/virtsnap -type f"), "/etc/virtsnap/policies.d/test.toml");
        let helper = "systemctl is-active virtsnap-thaw.socket virtsnap-thaw.service || test -e /run/virtsnap-thaw.socket";
        assert!(!tb.sh(helper).success());
        assert!(tb.ok("virsh snapshot-list --name vm1").contains("kept"));
        installed_offline(tb, &second);
        guest.wait_counting("vda", 2);
        guest.assert_no_write_lost("vda");
    }
}

/// What rpm does with it, in a directory for a root: there it has all but a systemd.
fn handled_by_rpm(package: &Path) {
    let root = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut rpm = Command::new("rpm");
        rpm.env("LC_ALL", "C").arg("--root").arg(root.path()).args(["--dbpath", "/var/lib/rpm"]);
        let done = rpm.args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.success(), text(&done.stdout), text(&done.stderr))
    };
    let at = |path: &str| root.path().join(path);
    let package = package.to_str().unwrap();

    // With nothing there, it misses what every distribution has and nothing else.
    let (done, _, told) = run(&["-i", "--test", package]);
    let missing: BTreeSet<_> =
        told.lines().filter_map(|l| Some(l.trim().split_once(" is needed by ")?.0)).collect();
    assert!(!done && missing.contains("libvirt.so.0()(64bit)"), "{told}");
    let others: Vec<_> = missing.into_iter().filter(|m| !m.ends_with("(64bit)")).collect();
    assert_eq!(others, ["/bin/sh", "dbus", "rtld(GNU_HASH)", "systemd >= 252"]);

    let alone = ["--nodeps", "--noscripts", package];
    let (done, _, told) = run(&[&["-i"], &alone[..]].concat());
    assert!(done, "{told}");
    assert_eq!(run(&["-V", "--nodeps", "virtsnap"]).1, "", "all is as it is in the package");
    let settings = at("etc/virtsnap/virtsnapd.toml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let removed =
        ["etc/polkit-1/rules.d/50-virtsnap-libvirt.rules", "etc/virtsnap/policies.d/README"].map(at);
    for file in &removed {
        std::fs::remove_file(file).unwrap();
    }
    let (done, _, told) = run(&[&["-U", "--replacepkgs"], &alone[..]].concat());
    assert!(done, "{told}");
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), SETTINGS, "what was changed stays");
    assert!(removed.iter().all(|file| !file.exists()), "who removed it did not want it");

    let (done, _, told) = run(&["-e", "--noscripts", "virtsnap"]);
    assert!(done, "{told}");
    assert!(!at("usr/bin/virtsnap").exists() && !settings.exists());
    assert_eq!(std::fs::read_to_string(at("etc/virtsnap/virtsnapd.toml.rpmsave")).unwrap(), SETTINGS);
}

/// Debian has no package that an RPM could be installed beside: what it holds is laid out, and its scripts run as rpm
/// runs them.
#[test]
fn an_rpm_installs_upgrades_and_goes() {
    let tb = &Testbed::start(Suite::Trixie);
    let rpm = tb.path(package(tb, "rpm", "1"));
    handled_by_rpm(&rpm);
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

    // Directories of its own go with it, but for one that holds something of somebody else's.
    let held = Command::new("rpm").args(["-qp", "--list"]).arg(&rpm).output().unwrap();
    tb.push_file("/var/tmp/held", held.stdout, 0o644);
    tb.ok("xargs rm </var/tmp/held && echo mine >/etc/virtsnap/policies.d/mine.toml");
    script("POSTUN", 0);
    tb.ok("test -e /etc/virtsnap/policies.d/mine.toml");
    tb.ok("! test -e /usr/share/doc/virtsnap && ! test -e /usr/share/licenses/virtsnap");
    tb.ok("rm /etc/virtsnap/policies.d/mine.toml");
    script("POSTUN", 0);
    tb.ok("! test -e /etc/virtsnap");
}
