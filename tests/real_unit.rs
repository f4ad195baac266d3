//! What is there for systemd, on a real systemd: the units in their order, and each file by itself.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::{collections::BTreeSet, path::Path, time::Duration};

use harness::{Bare, Daemon, Testbed, wait_for};

const DEADLINE: Duration = Duration::from_secs(60);
/// Whatever is to wait reads this, so that it waits until it is let go.
const HELD: &str = "/bin/sh -c 'read _ </run/held'";

/// Debian has libvirt's one daemon and none of the modular ones. It is taken for virtqemud here: at its place, with its
/// socket, as its unit. (What both are told by their clients is the same.)
const VIRTQEMUD: &str = "\
[Unit]
Requires=virtlogd.socket
After=virtlogd.socket dbus.service
[Service]
Type=notify
ExecStart=/usr/sbin/virtqemud
KillMode=process
";
const VIRTQEMUD_SOCKET: &str = "\
[Socket]
ListenStream=/run/libvirt/virtqemud-sock
# The name that it knows it by.
FileDescriptorName=libvirtd.socket
Service=virtqemud.service
SocketMode=0666
";

/// A unit's property.
fn shown(tb: &Testbed, unit: &str, property: &str) -> String {
    tb.ok(&format!("systemctl show {unit} -P {property}")).trim().to_owned()
}

/// systemd finds nothing to mind in any unit of ours.
fn verified(tb: &Testbed) {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let units =
        std::fs::read_dir(units).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let units: Vec<_> =
        units.filter(|name| name.ends_with(".service") || name.ends_with(".socket")).collect();
    assert!(units.len() >= 5, "{units:?}");
    let verified =
        tb.sh(&format!("cd /usr/lib/systemd/system && systemd-analyze verify --man=no {}", units.join(" ")));
    assert!(verified.success() && verified.stdout.is_empty() && verified.stderr.is_empty(), "{verified}");
}

/// All that systemd counts as exposed, our unit says something about.
fn exposed_as_it_says(tb: &Testbed) {
    let told = tb.ok("systemd-analyze security --json=short virtsnapd.service");
    let told: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
    assert!(told.len() > 50, "{told:?}");
    let unit = tb.ok("cat /usr/lib/systemd/system/virtsnapd.service");
    for open in told.iter().filter(|t| t["set"] == false) {
        let name = open["name"].as_str().unwrap();
        let (setting, _) = name.split_once('=').unwrap();
        assert!(unit.contains(&format!("{setting}=")), "{open}");
    }
}

/// The user, and the directories: made by their files alone, as promised, and only once.
fn made_by_themselves(tb: &Testbed) {
    let databases = "cat /etc/passwd /etc/group /etc/shadow /etc/gshadow";
    tb.ok("userdel virtsnap && gpasswd -d virtsnap libvirt 2>/dev/null; ! id virtsnap 2>/dev/null");
    assert!(!tb.ok(databases).contains("virtsnap"));
    tb.ok("systemd-sysusers virtsnap.conf");
    let user = tb.ok("getent passwd virtsnap");
    let fields: Vec<_> = user.split(':').collect();
    assert_eq!(fields[4..], ["virtsnap snapshot daemon", "/var/lib/virtsnap", "/usr/sbin/nologin"], "{user}");
    assert!(fields[2].parse::<u32>().unwrap() < 1000, "a user of the system: {user}");
    assert_eq!(tb.ok("id -nG virtsnap"), "virtsnap libvirt");
    assert!(tb.ok("getent shadow virtsnap").starts_with("virtsnap:!*:"), "nobody logs in as it");
    let before = tb.ok(databases);
    tb.ok("systemd-sysusers virtsnap.conf");
    assert_eq!(tb.ok(databases), before);

    let directories = "find /run/virtsnap /var/lib/virtsnap -printf '%p %u %g %m %s\\n'";
    assert!(!tb.sh(directories).success(), "there are none yet");
    tb.ok("systemd-tmpfiles --create virtsnap.conf");
    let modes = "stat -c '%n %U %G %a' /run/virtsnap /var/lib/virtsnap";
    let promised = "/run/virtsnap virtsnap virtsnap 755\n/var/lib/virtsnap virtsnap virtsnap 700";
    assert_eq!(tb.ok(modes), promised);
    tb.ok("mkdir -m 755 /run/virtsnap/policies.d && echo kept >/var/lib/virtsnap/other");
    let before = tb.ok(directories);
    tb.ok("systemd-tmpfiles --create virtsnap.conf");
    assert_eq!(tb.ok(directories), before);
    // The unit makes the same of them.
    tb.ok("systemctl start virtsnapd && systemctl stop virtsnapd");
    assert_eq!(tb.ok(modes), promised);
    assert_eq!(
        tb.ok("stat -c '%U %G %a' /run/virtsnap/policies.d; cat /var/lib/virtsnap/other"),
        "root root 755\nkept"
    );
}

/// Where presets leave all else off, ours has the daemon on, and an administrator's before it has it off.
fn preset(tb: &Testbed) {
    tb.push_file("/etc/systemd/system-preset/99-default.preset", "disable *\n", 0o644);
    let after = || {
        tb.ok("systemctl preset virtsnapd.service");
        let enabled = tb.sh("systemctl is-enabled virtsnapd.service").stdout;
        (enabled.trim().to_owned(), tb.sh("test -L /etc/systemd/system/dbus-org.virtsnap1.service").success())
    };
    assert_eq!(after(), ("enabled".to_owned(), true));
    tb.push_file("/etc/systemd/system-preset/10-site.preset", "disable virtsnapd.service\n", 0o644);
    assert_eq!(after(), ("disabled".to_owned(), false));
    tb.ok("rm /etc/systemd/system-preset/10-site.preset");
    assert_eq!(after(), ("enabled".to_owned(), true));
}

/// Which of libvirt's daemons a host runs is its own choice: we are started after each, and want none.
fn in_order(tb: &Testbed) {
    let words = |unit: &str, property: &str| -> BTreeSet<String> {
        shown(tb, unit, property).split_whitespace().map(str::to_owned).collect()
    };
    let libvirt = ["libvirtd.socket", "libvirtd.service", "virtqemud.socket", "virtqemud.service"];
    for unit in ["virtsnapd.service", "virtsnap-thaw.service", "virtsnap-apparmor@a.service"] {
        let after = words(unit, "After");
        for other in libvirt {
            assert!(after.contains(other), "{unit}: {other}: {after:?}");
        }
        for property in ["Wants", "Requires", "BindsTo", "Requisite", "PartOf"] {
            let pulled = words(unit, property);
            assert!(
                !pulled.iter().any(|p| p.starts_with("virtq") || p.starts_with("libvirt")),
                "{unit}: {pulled:?}"
            );
        }
    }
    let after = words("virtsnapd.service", "After");
    for other in
        ["virtstoraged.socket", "virtstoraged.service", "virtsnap-thaw.socket", "virtsnap-thaw.service"]
    {
        assert!(after.contains(other), "{other}: {after:?}");
    }
    for other in ["libvirt-guests.service", "time-sync.target", "dbus.socket"] {
        assert!(after.contains(other), "{other}: {after:?}");
    }
    assert!(words("virtsnapd.service", "Wants").contains("virtsnap-thaw.socket"));
}

/// Waits until a job of systemd's waits for another.
fn until_waiting(tb: &Testbed, job: &str) {
    wait_for(DEADLINE, job, || {
        let jobs = tb.ok("systemctl list-jobs --no-legend --no-pager");
        let mut jobs = jobs.lines().map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "));
        jobs.any(|j| j == job).then_some(())
    });
}

harness::on_both! {
    fn each_file_for_systemd_does_what_it_says(tb) {
        let daemon = Daemon::install(tb, "");
        verified(tb);
        exposed_as_it_says(tb);
        made_by_themselves(tb);
        preset(tb);
        in_order(tb);
        daemon.start();
        assert_eq!(shown(tb, "virtsnapd", "ConditionResult"), "yes", "there is libvirtd");
        daemon.stop();
    }

    /// The bus would say after 25 seconds that it took too long, and no more.
    fn who_calls_a_daemon_that_cannot_start_learns_why(tb) {
        let daemon = Daemon::install(tb, "");
        tb.ok("systemctl enable virtsnapd");
        let says = |why: &str| {
            let out = daemon.client("list");
            assert!(out.status == 5 && out.stderr.contains(why), "{out}");
        };
        daemon.policies("[policy");
        says("`virtsnap check`");
        // So that the bus, too, knows that it is over.
        daemon.policies("");
        daemon.start();
        daemon.wait_running();
        daemon.stop();
        tb.ok("mv /usr/sbin/libvirtd /usr/sbin/elsewhere");
        says("is libvirt installed?");
        tb.ok("mv /usr/sbin/elsewhere /usr/sbin/libvirtd");
        daemon.start();
        assert_eq!(daemon.client("list").status, 0);
    }

    fn with_the_modular_daemon_it_works_as_with_the_one(tb) {
        Bare::define(tb, "vm1", 1);
        let daemon = Daemon::install(tb, "");
        tb.stop_libvirtd();

        // With neither there is nothing to do, which is no failure.
        tb.ok("mv /usr/sbin/libvirtd /usr/sbin/elsewhere && systemctl start virtsnapd");
        assert_eq!(shown(tb, "virtsnapd", "ConditionResult"), "no");
        assert_eq!(shown(tb, "virtsnapd", "ActiveState"), "inactive");

        tb.ok("mv /usr/sbin/elsewhere /usr/sbin/virtqemud");
        tb.ok("systemctl mask libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket");
        tb.push_file("/etc/systemd/system/virtqemud.service", VIRTQEMUD, 0o644);
        tb.push_file("/etc/systemd/system/virtqemud.socket", VIRTQEMUD_SOCKET, 0o644);
        tb.push_file(
            "/etc/systemd/system/virtqemud.service.d/held.conf",
            format!("[Service]\nExecStartPre={HELD}\n"),
            0o644,
        );
        tb.push_file(
            "/etc/systemd/system/virtsnapd.service.d/held.conf",
            format!("[Service]\nExecStop={HELD}\n"),
            0o644,
        );
        tb.ok("mkfifo -m 666 /run/held && systemctl daemon-reload && systemctl start virtqemud.socket");
        let let_go = || tb.ok("echo >/run/held");

        tb.ok("systemctl start --no-block virtqemud.service && systemctl start --no-block virtsnapd.service");
        until_waiting(tb, "virtsnapd.service start waiting");
        assert_eq!(shown(tb, "virtqemud", "ActiveState"), "activating");
        let_go();
        let both = |state| ["virtqemud.service", "virtsnapd.service"].map(|unit| shown(tb, unit, "ActiveState")) == [state; 2];
        wait_for(DEADLINE, "both run", || both("active").then_some(()));
        assert_eq!(shown(tb, "virtsnapd", "ConditionResult"), "yes");
        daemon.wait_running();
        daemon.create("vm1", "s1").unwrap();
        assert_eq!(tb.ok("virsh -q -c qemu:///system snapshot-list --name vm1").trim(), "s1");
        daemon.delete("vm1", "s1").unwrap();

        tb.ok("systemctl stop --no-block virtsnapd.service && systemctl stop --no-block virtqemud.service");
        until_waiting(tb, "virtqemud.service stop waiting");
        assert_eq!(shown(tb, "virtqemud", "ActiveState"), "active", "it is there until we have stopped");
        let_go();
        wait_for(DEADLINE, "both are gone", || both("inactive").then_some(()));
    }
}
