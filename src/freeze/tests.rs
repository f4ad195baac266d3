//! The freeze as the helper outside sees it: on every path it is told before, and told when the thaw is proven.

mod held;
mod places;

use std::{
    io::{ErrorKind as IoError, Read as _, Write as _},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use uuid::Uuid;

use super::{helper::Nobody, *};
use crate::{
    clock::SystemClock,
    core::policy::Mountpoints,
    hypervisor::sim::{Fault, Mishap, Op, Sim, VmSpec},
};

const VM: VmId = VmId(Uuid::from_u128(1));
const DEADLINE: Duration = Duration::from_secs(20);

const ASKED: &str = "watch 00000000-0000-0000-0000-000000000001 sim:";
const FREEZING: &str = "freezing 18000";
const FROZEN: &str = "frozen 40000";

/// The other ends of all lines. What is written to one is there at once, so that nothing has to be waited for.
#[derive(Debug)]
struct Ear {
    reply: &'static str,
    lines: Mutex<Vec<UnixStream>>,
}

impl Helper for Ear {
    fn call(&self) -> io::Result<Option<UnixStream>> {
        let (line, mut its) = UnixStream::pair()?;
        its.write_all(self.reply.as_bytes())?;
        self.lines.lock().unwrap().push(its);
        Ok(Some(line))
    }

    fn uri(&self) -> &'static str {
        "sim:"
    }
}

struct World {
    sim: Arc<Sim>,
    ear: Arc<Ear>,
    freezer: Arc<Freezer>,
}

fn world(reply: &'static str) -> World {
    let sim = Arc::new(Sim::new());
    sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    let ear = Arc::new(Ear { reply, lines: Mutex::default() });
    let freezer = freezer(&sim, ear.clone());
    World { sim, ear, freezer }
}

fn freezer(sim: &Arc<Sim>, helper: Arc<dyn Helper>) -> Arc<Freezer> {
    let store = Arc::new(Store::in_memory().unwrap());
    Freezer::new(sim.clone(), store, Arc::new(SystemClock::default()), helper, Box::new(|_, _| {}))
}

fn how(quiesce: Quiesce) -> How {
    How {
        quiesce,
        freeze_timeout: SignedDuration::from_secs(8),
        mountpoints: Mountpoints::All,
        memory: Memory::Never,
        when: [VmState::Running].into(),
        skip_unchanged: false,
        name: String::new(),
    }
}

impl World {
    fn around(&self, quiesce: Quiesce, transaction: impl FnOnce() -> Result<()>) -> Result<Quality> {
        around(&self.freezer, &self.sim, quiesce, transaction)
    }

    /// All that was said on the newest line, and `end` if it is closed.
    fn said(&self) -> Vec<String> {
        let mut lines = self.ear.lines.lock().unwrap();
        let line = lines.last_mut().expect("nobody called");
        line.set_nonblocking(true).unwrap();
        let mut text = Vec::new();
        let ended = match line.read_to_end(&mut text) {
            Ok(_) => true,
            Err(e) if e.kind() == IoError::WouldBlock => false,
            // What was answered before it was asked, unread.
            Err(e) if e.kind() == IoError::ConnectionReset => true,
            Err(e) => panic!("{e}"),
        };
        let text = String::from_utf8(text).unwrap();
        text.lines().map(str::to_owned).chain(ended.then(|| "end".to_owned())).collect()
    }

    /// Waits for the line's end; what was said until then.
    fn at_last(&self) -> Vec<String> {
        let mut lines = self.ear.lines.lock().unwrap();
        let line = lines.last_mut().expect("nobody called");
        line.set_nonblocking(false).unwrap();
        line.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut text = String::new();
        line.read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn around(
    freezer: &Arc<Freezer>,
    sim: &Sim,
    quiesce: Quiesce,
    transaction: impl FnOnce() -> Result<()>,
) -> Result<Quality> {
    let vm = sim.vm(VM).unwrap();
    let how = how(quiesce);
    let called = freezer.call(&vm, &how);
    freezer.around(&vm, &how, &[], 2, called, transaction).map(|((), quality)| quality)
}

#[test]
fn it_is_told_before_the_freeze_and_after_the_proof() {
    let world = world("ready\n");
    let gates = [Op::Freeze, Op::Thaw].map(|op| (op, world.sim.gate(op)));
    let during = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let done = scope.spawn(|| {
            world.around(Quiesce::Require, || {
                during.lock().unwrap().extend(world.said());
                Ok(())
            })
        });
        for (op, gate) in gates {
            assert!(gate.wait_for_call(DEADLINE), "{op:?}");
            match op {
                Op::Freeze => assert_eq!(world.said(), [ASKED, FREEZING]),
                _ => assert_eq!(world.said(), Vec::<String>::new()),
            }
            let proof = world.sim.gate(Op::FreezeStatus);
            gate.open();
            if op == Op::Thaw {
                assert!(proof.wait_for_call(DEADLINE));
                assert_eq!(world.said(), Vec::<String>::new(), "it is thawed, and that is not proven yet");
            }
        }
        assert_eq!(done.join().unwrap().unwrap().reached, Consistency::Filesystem);
    });
    assert_eq!(*during.lock().unwrap(), [FROZEN]);
    assert_eq!(world.said(), ["over", "end"]);
}

#[test]
fn it_is_told_of_the_end_however_the_snapshot_ends() {
    let world = world("ready\n");
    let error = Error::new(ErrorKind::Failed, "on request");
    world.around(Quiesce::Require, || Err(error)).unwrap_err();
    assert_eq!(world.said(), [ASKED, FREEZING, FROZEN, "over", "end"]);

    let bug = catch_unwind(AssertUnwindSafe(|| world.around(Quiesce::Require, || panic!("on request"))));
    assert!(bug.is_err());
    assert_eq!(world.said(), [ASKED, FREEZING, FROZEN, "over", "end"]);

    world.sim.hook_fails(VM, true).unwrap();
    world.around(Quiesce::Require, || Ok(())).unwrap_err();
    assert_eq!(world.said(), [ASKED, FREEZING, "over", "end"]);
    assert!(world.sim.frozen(VM).unwrap().is_empty());
}

#[test]
fn it_watches_on_until_a_thaw_that_failed_is_proven() {
    let world = world("ready\n");
    // The freeze times out, and is carried out later.
    world.sim.agent_sticks_at(VM, Op::Freeze).unwrap();
    world.around(Quiesce::Prefer, || Ok(())).unwrap();
    assert_eq!(world.said(), [ASKED, FREEZING], "and the line stays open");
    world.sim.agent_stuck(VM, false).unwrap();
    assert_eq!(world.at_last(), ["over"]);
    assert!(world.sim.frozen(VM).unwrap().is_empty());
}

#[test]
fn a_thaw_whose_hook_takes_longer_than_it_may_is_proven_by_what_the_guest_says() {
    let world = world("ready\n");
    let late = Error::new(ErrorKind::AgentTimeout, "guest agent didn't respond");
    world.sim.inject(Fault::new(Op::Thaw, Mishap::Lose(late)).always());
    world.around(Quiesce::Prefer, || Ok(())).unwrap();
    assert_eq!(world.at_last(), [ASKED, FREEZING, FROZEN, "over"]);
    let thaws = world.sim.calls().into_iter().filter(|call| call.op == Op::Thaw);
    assert_eq!(thaws.count(), 1, "it did not have to run again");
}

#[test]
fn it_hears_of_no_freeze_where_there_is_none() {
    let world = world("ready\n");
    world.sim.freeze_behind(VM).unwrap();
    world.around(Quiesce::Prefer, || Ok(())).unwrap();
    assert_eq!(world.said(), [ASKED, "end"], "frozen by somebody else, whom nobody must thaw");
    world.sim.stop(VM).unwrap();
    let calls = world.ear.lines.lock().unwrap().len();
    world.around(Quiesce::Require, || Ok(())).unwrap();
    assert_eq!(world.ear.lines.lock().unwrap().len(), calls, "there was nothing to watch");
}

#[test]
fn a_guest_that_is_still_being_thawed_from_outside_is_not_frozen_again() {
    let world = world("busy\n");
    let error = world.around(Quiesce::Require, || Ok(())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::QuiesceFailed);
    assert!(error.message.contains("still being thawed"), "{error}");
    let quality = world.around(Quiesce::Prefer, || Ok(())).unwrap();
    assert_eq!(quality.reached, Consistency::Crash);
    assert!(quality.note.contains("still being thawed"), "{}", quality.note);
    assert_eq!(world.sim.changes(), []);
}

/// What there is without it, the next start above all, is as it was before.
#[test]
fn without_a_helper_guests_are_frozen_all_the_same() {
    for reply in ["no libvirt\n", "", "what?\n"] {
        let world = world(reply);
        world.ear.lines.lock().unwrap().clear();
        let helper: Arc<dyn Helper> = match reply {
            "" => Arc::new(Deaf),
            _ => world.ear.clone(),
        };
        let freezer = freezer(&world.sim, helper);
        let quality = around(&freezer, &world.sim, Quiesce::Require, || Ok(())).unwrap();
        assert_eq!(quality.reached, Consistency::Filesystem, "{reply}");
    }
    let sim = world("").sim;
    let quality = around(&freezer(&sim, Arc::new(Nobody)), &sim, Quiesce::Require, || Ok(())).unwrap();
    assert_eq!(quality.reached, Consistency::Filesystem);
}

/// Nobody takes up the call, or somebody does and hangs up.
#[derive(Debug)]
struct Deaf;

impl Helper for Deaf {
    fn call(&self) -> io::Result<Option<UnixStream>> {
        UnixStream::pair().map(|(line, _)| Some(line))
    }

    fn uri(&self) -> &'static str {
        "sim:"
    }
}

#[test]
fn a_helper_that_goes_meanwhile_is_missed_and_nothing_else() {
    let world = world("ready\n");
    let lines = &world.ear.lines;
    let quality = world.around(Quiesce::Require, || {
        lines.lock().unwrap().clear();
        Ok(())
    });
    assert_eq!(quality.unwrap().reached, Consistency::Filesystem);
    assert!(world.sim.frozen(VM).unwrap().is_empty());
}

/// Somebody else freezes the guest when the intent is written down.
#[derive(Debug)]
struct Meddling {
    sim: Arc<Sim>,
    meddles: AtomicBool,
}

impl Clock for Meddling {
    fn now(&self) -> jiff::Timestamp {
        if self.meddles.swap(false, Ordering::SeqCst) {
            self.sim.freeze_behind(VM).unwrap();
        }
        jiff::Timestamp::UNIX_EPOCH
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn pause(&self, _: Duration) {}
}

#[test]
fn somebody_else_s_freeze_that_comes_in_between_is_left_alone() {
    for (late, left_over) in [(false, false), (true, false), (true, true)] {
        let World { sim, ear, .. } = world("ready\n");
        let store = Arc::new(Store::in_memory().unwrap());
        if left_over {
            // An earlier freeze of ours, which is on its way until the opposite is proven.
            store.freeze_begins(VM, jiff::Timestamp::UNIX_EPOCH).unwrap();
        }
        let clock = Arc::new(Meddling { sim: sim.clone(), meddles: AtomicBool::new(!late) });
        let reported = Arc::new(Mutex::new(BTreeMap::new()));
        let (report, host) = (Arc::clone(&reported), sim.clone());
        let freezer = Freezer::new(
            sim.clone(),
            store.clone(),
            clock,
            ear.clone(),
            Box::new(move |vm, news| {
                report.lock().unwrap().insert(vm, news == News::Frozen);
                // Told right before the freeze.
                if late && news == News::Frozen {
                    host.freeze_behind(VM).unwrap();
                }
            }),
        );
        let quality = around(&freezer, &sim, Quiesce::Prefer, || Ok(())).unwrap();
        let case = format!("{late} {left_over}: {}", quality.note);
        assert_eq!(quality.reached, Consistency::Crash, "{case}");
        assert_eq!(
            quality.note.contains("left as"),
            !left_over || quality.note.contains("somebody"),
            "{case}"
        );
        assert_eq!(sim.frozen(VM).unwrap().is_empty(), left_over, "{case}");
        assert_eq!(store.frozen().unwrap(), [].into(), "{case}");
        assert_eq!(*reported.lock().unwrap(), [(VM, false)].into(), "{case}");
        let said = World { sim, ear, freezer }.said();
        let freezing = [ASKED, FREEZING, "over", "end"];
        assert_eq!(said, if late { &freezing[..] } else { &[ASKED, "end"] }, "{case}");
    }
}

#[test]
fn what_a_policy_names_and_the_guest_has_not_mounted_is_told() {
    let world = world("ready\n");
    let vm = world.sim.vm(VM).unwrap();
    let mounted = world.sim.file_systems(VM, DEADLINE).unwrap().remove(0).mountpoint;
    let take = |list: &[&str], quiesce| {
        let list = list.iter().map(|path| (*path).to_owned()).collect();
        let how = How { mountpoints: Mountpoints::List(list), ..how(quiesce) };
        let called = world.freezer.call(&vm, &how);
        world.freezer.around(&vm, &how, &[], 2, called, || Ok(())).map(|((), quality)| quality)
    };
    let all = take(&[&mounted], Quiesce::Require).unwrap();
    assert_eq!((all.reached, all.note.as_str()), (Consistency::Filesystem, ""));
    let some = take(&[&mounted, "/dtaa"], Quiesce::Prefer).unwrap();
    assert_eq!(some.reached, Consistency::Crash, "not all was held that was to be");
    assert!(some.note.contains("/dtaa") && !some.note.contains(&format!("{mounted},")), "{}", some.note);
    world.sim.clear_calls();
    let refused = take(&[&mounted, "/dtaa"], Quiesce::Require).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::QuiesceFailed);
    assert!(refused.message.contains("/dtaa"), "{refused}");
    assert_eq!(world.sim.changes(), [], "nothing was frozen");
}
