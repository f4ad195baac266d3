//! What goes wrong on real hosts, made to go wrong: agents, hooks, libvirtd, disks, signals, files. Nothing hangs,
//! nothing is lost, no guest stays frozen, and the message says what to do.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod harness;

use std::time::Duration;

use harness::{Bare, Daemon, Guest, GuestSpec, wait_for};

const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
const VM: &str = "org.virtsnap1.VM";

/// Two policies on all VMs, both by hand: one that insists on a freeze, one that would like one.
const TWO: &str = "
    [policy.must]
    vms = [\"*\"]
    schedule = \"0 0 1 1 *\"
    quiesce = \"require\"
    freeze-timeout = \"3s\"
    [policy.may]
    vms = [\"*\"]
    schedule = \"0 0 1 1 *\"
    quiesce = \"prefer\"
    freeze-timeout = \"3s\"
";

/// `must` fails and leaves nothing behind; `may` takes a crash-consistent snapshot and says why.
fn neither_frozen_nor_stuck(daemon: &Daemon<'_>, guest: &Guest, why: &str) {
    let images_before = guest.image("vda");
    for result in daemon.run("must") {
        let (error, text) = result.expect_err("a freeze is required and cannot be had");
        assert_eq!(error, "org.virtsnap1.Error.QuiesceFailed", "{text}");
        assert!(text.contains(guest.name()) && text.contains(why), "{text}");
    }
    assert_eq!(guest.image("vda"), images_before, "nothing was switched");
    let before = daemon.snapshots(guest.name()).len();
    for result in daemon.run("may") {
        result.expect("without a freeze it goes on");
    }
    let all = daemon.snapshots(guest.name());
    assert_eq!(all.len(), before + 1);
    let newest = &all.last().expect("there is one").1;
    assert_eq!(daemon.bus.get::<String>(newest, SNAPSHOT, "Consistency"), "crash");
    assert_eq!(daemon.bus.get::<String>(newest, SNAPSHOT, "ConsistencyRequested"), "filesystem");
    let note: String = daemon.bus.get(newest, SNAPSHOT, "ConsistencyNote");
    assert!(note.contains(why), "{note}");
}

fn is_thawed(daemon: &Daemon<'_>, guest: &Guest) {
    wait_for(Duration::from_secs(60), "the guest is thawed, and known to be", || {
        let known: bool = daemon.bus.get(&daemon.vm(guest.name()), VM, "Frozen");
        (!known && guest.freeze_status() == "thawed").then_some(())
    });
    guest.wait_counting("vda", 2);
    guest.assert_no_write_lost("vda");
}

harness::on_both! {
    /// No channel in the VM's definition.
    fn a_vm_without_an_agent_follows_the_policys_quiesce(tb) {
        let guest = tb.guest(GuestSpec { channel: false, ..GuestSpec::named("vm1") });
        guest.wait_counting("vda", 2);
        let daemon = Daemon::running(tb, TWO);
        neither_frozen_nor_stuck(&daemon, &guest, "no channel for the QEMU guest agent");
    }

    /// The agent hangs, fails its hook, is too slow: one after the other on the same guest.
    fn an_agent_that_misbehaves_leaves_no_guest_frozen(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let daemon = Daemon::running(tb, TWO);

        guest.hook_fail(true);
        neither_frozen_nor_stuck(&daemon, &guest, "hook");
        is_thawed(&daemon, &guest);
        guest.hook_fail(false);

        guest.agent_stop();
        neither_frozen_nor_stuck(&daemon, &guest, "respond");
        guest.agent_cont();
        is_thawed(&daemon, &guest);

        // The hook takes longer than the freeze may: the command is carried out after we gave up, and the guest
        // freezes late. It is thawed all the same.
        guest.hook_sleep_freeze(6);
        for result in daemon.run("must") {
            let (error, text) = result.expect_err("too slow");
            assert_eq!(error, "org.virtsnap1.Error.QuiesceFailed", "{text}");
        }
        guest.hook_sleep_freeze(0);
        is_thawed(&daemon, &guest);
        for result in daemon.run("must") {
            result.expect("a good agent again");
        }
        is_thawed(&daemon, &guest);
    }

    /// One VM's failure is that VM's.
    fn a_failure_of_one_vm_never_stops_the_others(tb) {
        let bad = tb.guest(GuestSpec { channel: false, ..GuestSpec::named("bad") });
        let good = tb.guest(GuestSpec { name: "good <vm> & 'co'".into(), ..GuestSpec::named("x") });
        good.wait_agent();
        bad.wait_counting("vda", 1);
        let daemon = Daemon::running(tb, TWO);
        let mut results = daemon.run("must");
        results.sort_by_key(Result::is_ok);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true], "{results:?}");
        assert_eq!(daemon.snapshots("good <vm> & 'co'").len(), 1);
        let error: String = daemon.bus.get(&daemon.vm("bad"), VM, "LastError");
        assert!(error.contains("bad"), "{error}");

        // One that vanishes while it waits for its turn or is worked on is an error, too, and no more than that.
        tb.ok("virsh destroy bad; virsh undefine bad");
        let mut left = 0;
        for result in daemon.run("must") {
            match result {
                Ok(_) => left += 1,
                // The daemon had not heard of it when it began.
                Err((name, text)) => assert_eq!(name, "org.virtsnap1.Error.NoSuchVM", "{text}"),
            }
        }
        assert_eq!(left, 1, "the one that is left");
        wait_for(Duration::from_secs(10), "the VM that went is gone from the bus", || {
            let vms = daemon.bus.managed().into_iter().filter(|(_, i)| i.iter().any(|i| i == VM)).count();
            (vms == 1).then_some(())
        });
    }

    /// libvirtd is not there at start, comes, goes, comes again.
    fn libvirtd_may_come_late_and_go_and_come_again(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        tb.stop_libvirtd();
        let daemon = Daemon::install(tb, TWO);
        daemon.start();
        assert!(!daemon.manager::<bool>("HypervisorConnected"));
        assert_eq!(daemon.manager::<String>("State"), "starting");
        let status = tb.ok("systemctl show virtsnapd -p StatusText -p ActiveState");
        assert!(status.contains("Waiting for libvirt") && status.contains("ActiveState=active"), "{status}");
        tb.start_libvirtd();
        daemon.wait_running();
        guest.wait_agent();
        daemon.create("vm1", "first").expect("and gets to work");

        tb.kill_libvirtd();
        wait_for(Duration::from_secs(30), "the loss is noticed", || {
            (!daemon.manager::<bool>("HypervisorConnected")).then_some(())
        });
        // What happens meanwhile is seen, though no event tells of it.
        tb.ok("pkill -KILL qemu-system");
        tb.start_libvirtd();
        wait_for(Duration::from_secs(60), "all is listed anew", || {
            let state: String = daemon.bus.get(&daemon.vm("vm1"), VM, "State");
            (daemon.manager::<bool>("HypervisorConnected") && state == "shut-off").then_some(())
        });
        guest.start();
        guest.wait_agent();
        daemon.create("vm1", "second").expect("and goes on");
        daemon.delete("vm1", "second").expect("and goes on");
        assert_eq!(guest.freeze_status(), "thawed");
    }

    /// libvirtd was killed between the first two times that it writes down a VM that it starts: nobody can ask for that
    /// moment, so what it leaves is written here.
    fn a_vm_that_libvirtd_was_killed_over_as_it_started_it_has_a_way_out(tb) {
        let vm = Bare::define(tb, "vm1", 1);
        tb.ok("virsh -q start vm1");
        let file = "/run/libvirt/qemu/vm1.xml";
        let left = "<domstatus state='paused' reason='starting up' pid='0'><job type='none' async='start' flags='0x0'/>";
        tb.stop_libvirtd();
        let write = format!("sed -i \"0,/<domstatus[^>]*>/s||{left}|\" {file} && grep -q async= {file}");
        tb.ok(&format!("pkill -KILL qemu-system; {write}"));
        tb.start_libvirtd();
        // What is said to be of no use is. It would wait for half a minute.
        let locked = || tb.sh("timeout 5 virsh -q domjobinfo vm1").status == 124;
        assert!(locked());
        tb.kill_libvirtd();
        tb.start_libvirtd();
        assert!(locked());
        tb.forget_start("vm1");
        tb.start_libvirtd();
        tb.ok("virsh -q start vm1");
        assert!(!locked());
        vm.write("vda", 0, 1);
        Daemon::running(tb, "").create("vm1", "s1").expect("and goes on");
    }

    /// A file that makes libvirt give up a whole directory, for a reason that it does not tell.
    fn a_broken_file_beside_a_disk_is_named_as_the_reason(tb) {
        tb.ok("mkdir -p -m 711 /images");
        let guest = tb.guest(GuestSpec { disk_dir: Some("/images".into()), ..GuestSpec::named("vm1") });
        guest.wait_agent();
        let daemon = Daemon::running(tb, TWO);
        daemon.create("vm1", "before").expect("all is well");
        tb.ok("qemu-img create -q -f qcow2 /images/whole 10M && head -c 60 /images/whole >/images/broken.qcow2");
        let (_, text) = daemon.create("vm1", "beside-it").unwrap_err();
        assert!(text.contains("vm1") && text.contains("find /images -maxdepth 1"), "{text}");
        assert_eq!(tb.ok("find /images -maxdepth 1 -type f -size 1").trim(), "/images/broken.qcow2");
        tb.ok("rm /images/broken.qcow2");
        daemon.create("vm1", "after").expect("and goes on");
    }

    /// The file system of the images has no room left.
    fn a_full_disk_is_refused_before_anything_is_touched(tb) {
        tb.ok("mkdir -p /images && mount -t tmpfs -o size=96M,mode=711 images /images");
        let guest = tb.guest(GuestSpec { disk_dir: Some("/images".into()), ..GuestSpec::named("vm1") });
        guest.wait_agent();
        let daemon = Daemon::running(tb, TWO);
        daemon.create("vm1", "fits").expect("there is room");
        tb.ok("fallocate -l $(($(stat -f -c '%a*%S' /images) - 65536)) /images/filler");
        let (error, text) = daemon.create("vm1", "too-much").unwrap_err();
        assert_eq!(error, "org.virtsnap1.Error.NoSpace", "{text}");
        assert!(text.contains("vm1") && text.contains("min-free"), "{text}");
        assert_eq!(tb.ok("ls /images | grep -c too-much || true").trim(), "0");
        tb.ok("rm /images/filler");
        daemon.create("vm1", "again").expect("there is room again");
        guest.wait_counting("vda", 2);
        guest.assert_no_write_lost("vda");
    }

    /// A broken file at start, and at a reload.
    fn a_broken_policy_is_shown_with_a_caret_and_never_takes_effect(tb) {
        let broken = "[policy.nightly]\nvms = [\"*\"]\nschedule = \"30 2 * * *\"\nkeep-dayly = 7\n";
        let daemon = Daemon::install(tb, broken);
        tb.ok("! systemctl start virtsnapd");
        let state = tb.ok("systemctl show virtsnapd -p ExecMainStatus -p NRestarts");
        assert!(state.contains("ExecMainStatus=78") && state.contains("NRestarts=0"), "{state}");
        let said = daemon.journal();
        for part in ["test.toml:4:1", "keep-dayly", "^^^^", "keep-daily"] {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
        let check = tb.sh("virtsnapd --check");
        assert_eq!(check.status, 78, "{check}");

        daemon.policies(TWO);
        tb.ok("systemctl reset-failed virtsnapd");
        daemon.start();
        daemon.wait_running();
        daemon.policies(broken);
        let refused = daemon.client("reload");
        assert!(!refused.success() && refused.stderr.contains("keep-dayly"), "{refused}");
        let refused = tb.sh("systemctl reload virtsnapd");
        assert!(!refused.success(), "whoever reloads is told: {refused}");
        assert!(tb.ok("systemctl is-active virtsnapd").contains("active"), "it runs on");
        wait_for(Duration::from_secs(10), "the journal tells", || {
            (daemon.journal().matches("the old settings stay in force").count() >= 2).then_some(())
        });
        let policies = |i: &str| daemon.bus.managed().into_iter().filter(|(p, _)| p.contains(i)).count();
        assert_eq!(policies("/policy/"), 2, "the old settings stay");
        daemon.policies("[policy.new]\nvms = [\"*\"]\nschedule = \"@daily\"\n");
        tb.ok("systemctl reload virtsnapd");
        wait_for(Duration::from_secs(10), "the new policy is there and the old ones are not", || {
            (policies("/policy/") == 1 && policies("/policy/new") == 1).then_some(())
        });
    }

    /// `systemctl stop` and `kill -9` while the guest is frozen.
    fn neither_a_stop_nor_a_kill_leaves_a_guest_frozen(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let daemon = Daemon::running(tb, &TWO.replace("\"3s\"", "\"30s\""));
        // Slow hooks hold the guest on the way into the freeze and out of it. (How long it is frozen in between
        // nobody can set, and the agent answers nobody else meanwhile.)
        guest.hook_sleep_freeze(3);
        guest.hook_sleep_thaw(2);
        tb.ok("virtsnap create vm1 --name stopped --no-wait");
        wait_freezing(&guest);
        daemon.stop();
        assert_eq!(guest.freeze_status(), "thawed");
        assert_eq!(tb.ok("systemctl show virtsnapd -p Result").trim(), "Result=success");
        assert!(tb.ok("virsh snapshot-list --name vm1").contains("stopped"), "what ran was finished");

        daemon.start();
        daemon.wait_running();
        guest.hook_sleep_thaw(0);
        tb.ok("virtsnap create vm1 --name killed --no-wait");
        wait_freezing(&guest);
        // With this no daemon starts again: the unit's ExecStopPost is the only one left to thaw.
        tb.push_file("/etc/virtsnap/policies.d/broken.toml", "[policy", 0o644);
        tb.ok("systemctl kill -s KILL virtsnapd");
        wait_for(Duration::from_secs(60), "the guest is thawed, and the unit failed", || {
            let failed = tb.sh("systemctl is-failed virtsnapd").success();
            (failed && guest.freeze_status() == "thawed").then_some(())
        });
        assert!(guest.exec("tail -n 1 /run/hook.log").contains("thaw"), "it was frozen before");
        tb.ok("rm /etc/virtsnap/policies.d/broken.toml; systemctl reset-failed virtsnapd");
        daemon.start();
        daemon.wait_running();
        is_thawed(&daemon, &guest);
        guest.hook_sleep_freeze(0);
        assert!(!tb.ok("virsh snapshot-list --name vm1").contains("killed"));
        assert_eq!(tb.ok("ls /var/lib/libvirt/images | grep -c killed || true").trim(), "0", "no overlay is left");
        daemon.create("vm1", "after").expect("and it goes on");
    }
}

/// The freeze has begun, and its hook runs: what it logged last is no thaw.
fn wait_freezing(guest: &Guest) {
    wait_for(Duration::from_secs(20), "the freeze hook is at it", || {
        guest
            .exec("cat /run/hook.log 2>/dev/null || true")
            .lines()
            .last()
            .is_some_and(|l| l.contains("freeze"))
            .then_some(())
    });
}
