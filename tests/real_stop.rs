//! `systemctl stop` in the middle of a merge, while the guest writes.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Daemon, GuestSpec, wait_for};

const DEADLINE: Duration = Duration::from_secs(60);

harness::on_both! {
    /// One below the newest is committed into what is under it, the newest while the guest writes to what is merged.
    fn it_ends_in_time_and_the_next_start_goes_on(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let daemon = Daemon::running(tb, "");
        for (name, text) in [("s1", "one"), ("s2", "two"), ("s3", "three")] {
            daemon.create("vm1", name).unwrap();
            guest.exec(&format!("echo {text} >/mnt/vda/mark; dd if=/dev/urandom of=/mnt/vda/{text} bs=1M count=8 2>/dev/null; sync"));
        }
        let sums = || guest.exec("cat /mnt/vda/mark; md5sum /mnt/vda/one /mnt/vda/two /mnt/vda/three");
        let before = sums();
        for name in ["s2", "s3"] {
            // So slow that it would take minutes.
            daemon.ok(&format!("delete vm1 {name} --yes --no-wait --bandwidth 64KiB"));
            wait_for(DEADLINE, "it merges", || {
                let jobs = daemon.json("jobs");
                let job = jobs["jobs"].as_array().unwrap().last().unwrap().clone();
                assert_eq!(job["state"], "running", "{job}");
                (job["bytes_done"].as_u64() > Some(0)).then_some(())
            });
            daemon.stop();
            let ended = tb.ok("systemctl show virtsnapd -p Result -p ActiveState");
            assert!(ended.contains("Result=success") && ended.contains("ActiveState=inactive"), "{ended}");
            guest.wait_counting("vda", 1);
            assert!(tb.ok("virsh snapshot-list vm1 --name").lines().any(|l| l == name), "it is not half gone");

            daemon.start();
            daemon.wait_running();
            wait_for(DEADLINE, "the next start ends it", || {
                daemon.snapshots("vm1").iter().all(|(there, _)| there != name).then_some(())
            });
            assert_eq!(sums(), before, "after {name}");
        }
        assert_eq!(daemon.json("show vm1")["vm"]["health"], "ok");
        guest.assert_no_write_lost("vda");
        let image = guest.image("vda");
        assert_eq!(tb.ok(&format!("qemu-img info -U --backing-chain {image} | grep -c ^image:")).trim(), "2");
        guest.virsh("shutdown {}");
        wait_for(DEADLINE, "it is off", || (guest.state() == "shut off").then_some(()));
        tb.ok(&format!("qemu-img check -q {image}"));
    }
}
