//! A guest is frozen for as long as the test wants, where a snapshot takes a moment, and whatever can go wrong then
//! does: it is thawed, its writes go on and none is lost, the result is honest, and nothing is left.
//!
//! The daemon stands still right before libvirt is asked for the snapshot: see `tests/testbed/stops.c`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it does, and expects by failing"
)]

mod harness;

use std::{collections::HashMap, time::Duration};

use harness::{Daemon, Guest, GuestSpec, Stopping, Testbed, When, wait_for, wait_or};

const SNAPSHOT: &str = "org.virtsnap1.Snapshot";
const VM: &str = "org.virtsnap1.VM";
const DEADLINE: Duration = Duration::from_mins(2);

type Done = Result<String, (String, String)>;

/// A daemon with stops, and a guest for it.
struct Lab<'a> {
    tb: &'a Testbed,
    stops: Stopping<'a>,
    daemon: Daemon<'a>,
    guest: Guest,
}

impl<'a> Lab<'a> {
    fn new(tb: &'a Testbed) -> Self {
        let guest = tb.guest(GuestSpec::named("vm1"));
        guest.wait_agent();
        let stops = Stopping::install(tb);
        Self { tb, stops, daemon: Daemon::running(tb, ""), guest }
    }

    /// Has a snapshot taken, up to the moment when the guest is frozen and libvirt not asked yet; its job.
    fn frozen(&self, name: &str) -> String {
        let job = self.stopped(name, When::Before, (1, "virDomainSnapshotCreateXML"));
        assert_eq!(self.guest.freeze_status(), "frozen");
        job
    }

    /// Has a snapshot taken, up to this call of this function; its job.
    fn stopped(&self, name: &str, when: When, (nth, function): (usize, &str)) -> String {
        println!("{name}");
        let known =
            || self.daemon.bus.get::<bool>(&self.daemon.vm("vm1"), VM, "AgentConnected").then_some(());
        wait_for(DEADLINE, "the daemon knows of the agent", known);
        self.stops.arm_at(when, nth, function);
        let job = self.ask(name);
        wait_or(DEADLINE, || self.stops.at(), || panic!("it does not come there: {}", self.daemon.journal()));
        job
    }

    /// Asks for one of a frozen guest; its job.
    fn ask(&self, name: &str) -> String {
        let options = HashMap::from([("quiesce", zbus::Variant::from("require"))]);
        let vm = self.daemon.vm("vm1");
        let (job,): (zbus::OwnedObjectPath,) =
            self.daemon.bus.call(&vm, VM, "CreateSnapshot", &(name, options)).unwrap();
        job.to_string()
    }

    /// Its writes go on, none was lost, and all know that it is not frozen.
    fn thawed(&self) {
        let writes = "ls /mnt/vda >/dev/null; touch /mnt/vda/after && echo yes";
        wait_or(
            DEADLINE,
            || {
                self.guest
                    .try_exec(writes, DEADLINE)
                    .is_ok_and(|(_, said)| said.contains("yes"))
                    .then_some(())
            },
            || panic!("it is frozen still\n{}", self.daemon.journal()),
        );
        self.guest.wait_counting("vda", 2);
        self.guest.assert_no_write_lost("vda");
        self.daemon.wait_running();
        wait_for(DEADLINE, "the agent says that it is thawed, and the daemon knows", || {
            let known: bool = self.daemon.bus.get(&self.daemon.vm("vm1"), VM, "Frozen");
            (!known && self.guest.freeze_status() == "thawed").then_some(())
        });
    }

    /// It was taken, and says how consistent it is, and why no more, if so; or it was not, and nothing is left of it.
    fn is_honest(&self, name: &str, done: &Done) -> Option<String> {
        println!("  {done:?}");
        let reached = self.reached(name);
        assert_eq!(done.is_ok(), reached.is_some(), "{}", self.daemon.journal());
        reached
    }

    fn reached(&self, name: &str) -> Option<String> {
        self.daemon.wait_idle();
        let listed = self.daemon.snapshots("vm1");
        let taken = listed.iter().find(|(n, _)| n == name);
        let reached = taken.map(|(_, path)| {
            let get = |property| self.daemon.bus.get::<String>(path, SNAPSHOT, property);
            let (reached, note) = (get("Consistency"), get("ConsistencyNote"));
            println!("  {reached}: {note}");
            assert_eq!(get("State"), "ready");
            assert!(reached == "filesystem" || !note.is_empty(), "{reached}, and it does not say why");
            reached
        });
        self.nothing_is_left(name, taken.is_some());
        reached
    }

    fn nothing_is_left(&self, name: &str, taken: bool) {
        assert_eq!(self.tb.ok("virsh -q snapshot-list --name vm1").lines().any(|n| n == name), taken);
        let files = self.tb.ok(&format!("find /var/lib/libvirt/images -name '*.{name}.*'"));
        assert_eq!(!files.is_empty(), taken, "{files}\n{}", self.daemon.journal());
        assert_eq!(self.guest.image("vda").contains(&format!(".{name}.")), taken);
        if taken {
            self.daemon.delete("vm1", name).unwrap();
        }
    }

    /// Nothing that went wrong is in the way of the next one.
    fn goes_on(&self) {
        let all_well = self.daemon.create("vm1", "well").unwrap();
        assert_eq!(self.daemon.bus.get::<String>(&all_well, SNAPSHOT, "Consistency"), "filesystem");
        self.daemon.delete("vm1", "well").unwrap();
        self.thawed();
    }
}

harness::on_both! {
    /// Killed, stopped, and with a hook that takes longer than a thaw may.
    fn an_agent_that_fails_in_the_frozen_window(tb) {
        let lab = Lab::new(tb);
        let job = lab.frozen("killed");
        lab.guest.agent_kill();
        lab.stops.let_go();
        let done = lab.daemon.wait(&job);
        lab.guest.agent_start();
        lab.thawed();
        lab.is_honest("killed", &done);
        lab.goes_on();

        let job = lab.frozen("stopped");
        lab.guest.agent_stop();
        lab.stops.let_go();
        let done = lab.daemon.wait(&job);
        lab.guest.agent_cont();
        lab.thawed();
        lab.is_honest("stopped", &done);
        lab.goes_on();

        lab.guest.hook_sleep_thaw(12);
        let job = lab.frozen("slow");
        lab.stops.let_go();
        let done = lab.daemon.wait(&job);
        lab.thawed();
        lab.guest.hook_sleep_thaw(0);
        lab.is_honest("slow", &done);
        lab.goes_on();
    }

    /// libvirtd, the daemon and QEMU, one after the other.
    fn a_kill_in_the_frozen_window(tb) {
        let lab = Lab::new(tb);
        let job = lab.frozen("libvirtd");
        let before = lab.daemon.connections();
        lab.tb.kill_libvirtd();
        lab.stops.let_go();
        lab.tb.start_libvirtd();
        wait_for(DEADLINE, "the daemon has a new connection", || (lab.daemon.connections() > before).then_some(()));
        let done = lab.daemon.wait(&job);
        lab.thawed();
        lab.is_honest("libvirtd", &done);
        lab.goes_on();

        lab.frozen("daemon");
        lab.daemon.kill();
        lab.thawed();
        lab.is_honest("daemon", &Err(("killed".to_owned(), String::new())));
        lab.goes_on();

        let job = lab.frozen("qemu");
        lab.tb.ok("kill -KILL $(cat /run/libvirt/qemu/vm1.pid)");
        lab.stops.let_go();
        let done = lab.daemon.wait(&job);
        wait_for(DEADLINE, "it is off", || (lab.guest.state() == "shut off").then_some(()));
        lab.guest.start();
        lab.guest.wait_agent();
        lab.thawed();
        // There was no guest any more that could have been written to: nothing says whether it was thawed before.
        lab.is_honest("qemu", &done);
        lab.goes_on();
    }

    /// On either side of each call: by default of those in and beside the frozen window, with `VIRTSNAP_EVERY=1` of all.
    fn a_kill_at_a_call_of_a_snapshot_of_a_frozen_guest(tb) {
        let lab = Lab::new(tb);
        lab.stops.count();
        let job = lab.ask("whole");
        let done = lab.daemon.wait(&job);
        let calls = lab.stops.counted();
        println!("{}", calls.join(" "));
        assert_eq!(lab.is_honest("whole", &done).as_deref(), Some("filesystem"));
        let all = std::env::var("VIRTSNAP_EVERY").is_ok_and(|every| every == "1");
        let beside = ["freeze", "virDomainSnapshotCreateXML", "thaw"];
        assert!(beside.iter().all(|function| calls.iter().any(|call| call == function)), "{calls:?}");
        let mut serial = 0;
        for (at, function) in calls.iter().enumerate().filter(|(_, f)| all || beside.contains(&f.as_str())) {
            let nth = calls[..=at].iter().filter(|call| *call == function).count();
            for when in [When::Before, When::After] {
                for libvirtd in [false, true] {
                    serial += 1;
                    let (victim, name) = (if libvirtd { "libvirtd" } else { "the daemon" }, format!("k{serial}"));
                    println!("{victim} {} {function} {nth}", when.name());
                    let job = lab.stopped(&name, when, (nth, function));
                    if libvirtd {
                        let before = lab.daemon.connections();
                        tb.kill_libvirtd();
                        lab.stops.let_go();
                        tb.start_libvirtd();
                        wait_for(DEADLINE, "the daemon has a new connection", || {
                            (lab.daemon.connections() > before).then_some(())
                        });
                        println!("  {:?}", lab.daemon.wait(&job));
                    } else {
                        lab.daemon.kill();
                    }
                    lab.thawed();
                    wait_for(DEADLINE, "it is connected", || {
                        lab.daemon.manager::<bool>("HypervisorConnected").then_some(())
                    });
                    lab.reached(&name);
                }
            }
        }
        lab.goes_on();
    }

    /// A stop ends what is under way, a reload lets it be.
    fn a_signal_in_the_frozen_window(tb) {
        let lab = Lab::new(tb);
        let job = lab.frozen("hup");
        tb.ok("systemctl kill --kill-who=main -s HUP virtsnapd");
        lab.stops.let_go();
        let done = lab.daemon.wait(&job);
        lab.thawed();
        assert_eq!(lab.is_honest("hup", &done).as_deref(), Some("filesystem"));

        lab.frozen("term");
        tb.ok("systemctl stop --no-block virtsnapd");
        wait_for(DEADLINE, "it is about to stop", || {
            tb.ok("systemctl show virtsnapd -p ActiveState").contains("deactivating").then_some(())
        });
        lab.stops.let_go();
        // `is-active` says no while it is still about to stop, too.
        wait_for(DEADLINE, "it has stopped", || {
            tb.ok("systemctl show virtsnapd -p ActiveState").contains("=inactive").then_some(())
        });
        assert_eq!(lab.guest.freeze_status(), "thawed");
        assert_eq!(tb.ok("systemctl show virtsnapd -p Result").trim(), "Result=success");
        lab.daemon.start();
        lab.thawed();
        // What could be finished was.
        let reached = lab.is_honest("term", &Ok(String::new()));
        assert_eq!(reached.as_deref(), Some("filesystem"));
        lab.goes_on();
    }

    /// libvirt does not answer, and the guest cannot wait for it.
    fn a_guest_that_was_frozen_for_too_long_is_thawed_meanwhile(tb) {
        let lab = Lab::new(tb);
        let job = lab.frozen("long");
        lab.guest.wait_counting("vda", 2);
        lab.thawed();
        assert!(lab.stops.at().is_some(), "it stands still");
        lab.stops.let_go();
        let done = lab.daemon.wait(&job);
        // It was required to be consistent.
        assert_ne!(lab.is_honest("long", &done).as_deref(), Some("filesystem"));
        lab.thawed();
        lab.goes_on();
    }
}
