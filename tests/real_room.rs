//! A file system of images that is nearly full: what would fill it is refused before anything is touched, as a guest whose
//! disk finds no room left stands still.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::{collections::HashMap, time::Duration};

use harness::{Bare, BareDisk, Daemon, Testbed, byte_in, wait_for};

const VM: &str = "org.virtsnap1.VM";
const JOB: &str = "org.virtsnap1.Job";
const NO_SPACE: &str = "org.virtsnap1.Error.NoSpace";
const MIB: u64 = 1 << 20;

/// A running VM whose image is on a file system of its own of 96 MiB, and the daemon, which keeps 8 MiB of it free.
fn small(tb: &Testbed) -> (Bare, Daemon<'_>) {
    tb.ok("mkdir -p /images && mount -t tmpfs -o size=96M,mode=711 images /images
           qemu-img create -q -f qcow2 /images/vda.qcow2 64M");
    let disk = BareDisk { image: "/images/vda.qcow2".to_owned(), format: "qcow2".to_owned() };
    let vm = Bare::define_on(tb, "small", &[disk], "", "");
    tb.ok("virsh -q start small");
    let daemon = Daemon::install(tb, "");
    tb.push_file("/etc/virtsnap/virtsnapd.toml", "[daemon]\nmin-free = \"8MiB\"\n", 0o644);
    daemon.start();
    daemon.wait_running();
    (vm, daemon)
}

/// Leaves so much of the file system free.
fn leave(tb: &Testbed, mib: u64) {
    tb.ok("rm -f /images/filler");
    let free = || -> u64 {
        tb.ok("stat -f -c '%a %S' /images").split(' ').map(|n| n.parse::<u64>().unwrap()).product()
    };
    tb.ok(&format!("fallocate -l {} /images/filler", free() - mib * MIB));
    assert_eq!(free() / MIB, mib);
}

/// What is written where, in MiB.
fn fill(vm: &Bare, value: u8, from: u64, mib: u64) {
    vm.qemu_io("vda", &format!("\"write -P {value} {} {}\"", from * MIB, mib * MIB));
}

/// All that a refusal must leave as it is.
fn state(tb: &Testbed) -> String {
    tb.ok("cd /images && stat -c '%n %b %Y' * && virsh -q snapshot-list small --tree && virsh -q domblklist small
           virsh -q domstate small")
}

/// The number of the cluster there.
fn cluster(mib: u64) -> u64 {
    mib * MIB / 65_536
}

harness::on_both! {
    fn a_nearly_full_file_system_refuses_before_anything_is_touched(tb) {
        let (vm, daemon) = small(tb);
        fill(&vm, 1, 0, 4);
        daemon.create("small", "s1").unwrap();
        fill(&vm, 2, 4, 12);
        daemon.create("small", "s2").unwrap();
        fill(&vm, 3, 0, 1);

        leave(tb, 7);
        let before = state(tb);
        let (error, text) = daemon.create("small", "s3").unwrap_err();
        assert!(error == NO_SPACE && text.contains("min-free"), "{error}: {text}");
        assert_eq!(state(tb), before);

        // There is room for what the merge takes, but not for what is to stay free beside that.
        leave(tb, 13);
        let before = state(tb);
        let (error, text) = daemon.delete("small", "s1").unwrap_err();
        assert!(error == NO_SPACE && text.contains("may grow by 13 MiB"), "{error}: {text}");
        assert!(text.contains("a tenth of min-free") && text.contains("Nothing was touched"), "{text}");
        assert_eq!(state(tb), before);
        let says = daemon.bus.get::<String>(&daemon.vm("small"), VM, "LastError");
        assert!(says.contains("too little room for the merge"), "{says}");

        leave(tb, 22);
        daemon.delete("small", "s1").unwrap();
        assert_eq!(tb.ok("virsh -q snapshot-list small --name").trim(), "s2");
        let on = vm.active("vda");
        for (at, value) in [(cluster(0), 3), (cluster(2), 1), (cluster(5), 2), (cluster(15), 2), (cluster(17), 0)] {
            assert_eq!(byte_in(tb, &on, at), value, "cluster {at}");
        }
        assert_eq!(vm.state(), "running");
    }

    fn a_merge_that_was_cut_short_waits_for_room_and_is_ended_then(tb) {
        let (vm, daemon) = small(tb);
        daemon.create("small", "s1").unwrap();
        fill(&vm, 2, 0, 24);
        daemon.create("small", "s2").unwrap();
        fill(&vm, 3, 0, 1);

        let (_, s1) = daemon.snapshots("small").remove(0);
        let none = HashMap::<&str, zbus::Variant<'_>>::new();
        let slowly = HashMap::from([("bandwidth", zbus::Variant::from(2 * MIB))]);
        let (job,): (zbus::OwnedObjectPath,) =
            daemon.bus.call(&s1, "org.virtsnap1.Snapshot", "Delete", &(slowly,)).unwrap();
        wait_for(Duration::from_secs(60), "some of it is copied", || {
            (daemon.bus.get::<f64>(job.as_str(), JOB, "Progress") > 0.1).then_some(())
        });
        let () = daemon.bus.call(job.as_str(), JOB, "Cancel", &(none,)).unwrap();
        daemon.wait(job.as_str()).unwrap_err();

        leave(tb, 10);
        let before = state(tb);
        let (error, text) = daemon.delete("small", "s1").unwrap_err();
        assert!(error == NO_SPACE && text.contains("was cut short"), "{error}: {text}");
        assert_eq!(state(tb), before);
        let failed = daemon.bus.get::<String>(&s1, "org.virtsnap1.Snapshot", "State");
        assert_eq!(failed, "failed", "what is half merged is not offered");

        leave(tb, 34);
        daemon.delete("small", "s1").unwrap();
        assert_eq!(tb.ok("virsh -q snapshot-list small --name").trim(), "s2");
        let on = vm.active("vda");
        for (at, value) in [(cluster(0), 3), (cluster(2), 2), (cluster(23), 2), (cluster(25), 0)] {
            assert_eq!(byte_in(tb, &on, at), value, "cluster {at}");
        }
        assert_eq!(vm.state(), "running");
    }
}
