//! Proves the test bed itself, on real guests on both libvirts: what all other tests rest on.

mod harness;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{GuestSpec, Testbed, wait_for};

harness::on_both! {
    /// The writer writes, a freeze holds it up and shows, nothing is lost.
    fn guest_writes_and_freezes(tb) {
        let guest = tb.guest(GuestSpec { disks: 2, ..GuestSpec::named("vm1") });
        guest.wait_agent();
        guest.wait_counting("vda", 3);
        guest.wait_counting("vdb", 3);
        assert_eq!(guest.freeze_status(), "thawed");

        let mark = guest.uptime_ms();
        guest.virsh("domfsfreeze {}");
        assert_eq!(guest.freeze_status(), "frozen");
        let frozen_at = guest.counter("vda");
        let frozen_since = guest.uptime_ms();
        let frozen_ms = wait_for(Duration::from_secs(30), "the frozen guest lives on for a second", || {
            let frozen_ms = guest.uptime_ms() - frozen_since;
            (frozen_ms > 1000).then_some(frozen_ms)
        });
        assert_eq!(guest.counter("vda"), frozen_at, "the writer wrote on a frozen file system");
        guest.virsh("domfsthaw {}");
        assert_eq!(guest.freeze_status(), "thawed");
        for disk in ["vda", "vdb"] {
            guest.wait_counting(disk, 2);
            let gap = guest.frozen_gap(disk, mark);
            assert!(gap.ms() >= frozen_ms, "{disk}: {gap:?}, frozen for over {frozen_ms} ms");
            guest.assert_no_write_lost(disk);
        }
    }

    /// An image's counter and state can be read offline, also through a backing chain.
    fn images_tell_the_counter(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        guest.wait_counting("vda", 2);
        let base = guest.image("vda");

        guest.virsh("domfsfreeze {}");
        let frozen_at = guest.counter("vda");
        guest.virsh("snapshot-create-as {} s1 --disk-only --atomic");
        guest.virsh("domfsthaw {}");
        let state = tb.image_state(&base, "qcow2");
        assert_eq!(state.counter, frozen_at);
        assert!(state.clean && !state.needs_recovery, "a frozen file system is clean: {state:?}");

        // Without a freeze the counter is whole all the same, but the file system is not clean.
        let before = guest.wait_counting("vda", 2);
        let middle = guest.image("vda");
        assert_ne!(middle, base);
        guest.virsh("snapshot-create-as {} s2 --disk-only --atomic");
        let state = tb.image_state(&middle, "qcow2");
        assert!(state.needs_recovery, "{state:?}");
        assert!(state.counter >= before && state.counter <= guest.counter("vda"), "{before}: {state:?}");

        guest.shutdown();
        let state = tb.image_state(&guest.image("vda"), "qcow2");
        assert!(state.clean && !state.needs_recovery, "an orderly shutdown unmounts: {state:?}");
    }

    /// The agent's misbehaviours, and that the guest can be looked into meanwhile.
    fn agent_misbehaves(tb) {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        guest.agent_stop();
        let output = guest.agent(r#"{"execute":"guest-ping"}"#);
        assert!(!output.success() && output.stderr.contains("agent"), "a stopped agent answered: {output}");
        guest.wait_counting("vda", 2);
        guest.agent_cont();
        guest.wait_agent();

        guest.agent_kill();
        wait_for(Duration::from_secs(10), "libvirt notices", || {
            guest.agent(r#"{"execute":"guest-ping"}"#).stderr.contains("not connected").then_some(())
        });
        guest.agent_start();

        guest.hook_fail(true);
        let output = tb.sh(&format!("virsh -q domfsfreeze {}", guest.uuid()));
        assert!(!output.success(), "a freeze succeeded though its hook failed: {output}");
        assert_eq!(guest.freeze_status(), "thawed");
        guest.hook_fail(false);

        guest.hook_sleep_freeze(2);
        // By the host's clock: what is slow only makes it longer.
        let start = Instant::now();
        guest.virsh("domfsfreeze {}");
        assert!(start.elapsed() >= Duration::from_secs(2), "the hook did not take its time");
        guest.virsh("domfsthaw {}");

        // 40 KB of output come in pieces, and whole.
        let large = guest.exec("seq 100000 108000");
        assert_eq!(large.lines().count(), 8001);
        assert!(large.ends_with("108000"));
    }

    /// libvirtd goes and comes, and both it and the bus are within reach from outside.
    fn libvirtd_and_bus(tb) {
        let guest = tb.guest(GuestSpec { channel: false, ..GuestSpec::named("a <b> & 'c'") });
        guest.wait_counting("vda", 1);
        assert_eq!(guest.virsh("domname {}").trim(), guest.name());
        for gone in [Testbed::stop_libvirtd, Testbed::kill_libvirtd] {
            gone(tb);
            assert!(!tb.sh("virsh -q list").success(), "libvirtd answers though it is gone");
            guest.wait_counting("vda", 2);
            tb.start_libvirtd();
            assert_eq!(guest.state(), "running");
            // libvirt 9.0 says that a moment before it has found its QEMU again, and "not running" to who wants it to end.
            wait_for(Duration::from_secs(30), "libvirtd has the VM in hand", || {
                tb.sh(&format!("virsh -q domcontrol {}", guest.uuid())).stdout.contains("ok").then_some(())
            });
        }
        for address in [tb.libvirt_uri(), tb.bus_address()] {
            let socket = address.rsplit('=').next().expect("a path");
            std::os::unix::net::UnixStream::connect(Path::new(socket)).expect(&address);
        }
        guest.destroy();
        assert_eq!(guest.state(), "shut off");
        guest.undefine();
    }

    /// Files get in, commands have a deadline, and a failure is told in full.
    fn commands_and_files(tb) {
        tb.push_file("/etc/virtsnap/policies.d/x.toml", "keep-last = 3\n", 0o640);
        assert_eq!(tb.ok("stat -c %a:%U /etc/virtsnap/policies.d/x.toml; cat /etc/virtsnap/policies.d/*"),
            "640:root\nkeep-last = 3");
        let mode = std::fs::metadata(tb.path("/etc/virtsnap/policies.d/x.toml")).expect("it is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o640);
        tb.ok("test -e /src/tests/testbed/container.sh && test -d /target && test -e /guest/vmlinux");
        let output = tb.sh("echo out; echo err >&2; exit 3");
        assert_eq!((output.status, &*output.stdout, &*output.stderr), (3, "out\n", "err\n"));
        // It would never end by itself.
        let output = tb.sh_within(Duration::from_secs(1), "sleep infinity");
        assert_eq!(output.status, 124);
    }
}
