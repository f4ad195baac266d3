//! Who is still frozen has a place and is not frozen again; and what is said of a guest that did not hold still.

use std::sync::mpsc;

use super::*;
use crate::threads;

fn refused() -> Mishap {
    Mishap::Refuse(Error::new(ErrorKind::AgentFailed, "on request"))
}

#[test]
fn who_cannot_be_thawed_yet_keeps_the_place_and_is_not_frozen_again_until_then() {
    for late in [false, true] {
        let world = world("ready\n");
        if late {
            // The freeze is carried out, and nobody hears of it.
            let lost = Mishap::Lose(Error::new(ErrorKind::AgentTimeout, "guest agent didn't respond"));
            world.sim.inject(Fault::new(Op::Freeze, lost));
        }
        world.sim.inject(Fault::new(Op::Thaw, refused()).always());
        let quality = world.around(Quiesce::Prefer, || Ok(())).unwrap();
        assert!(quality.note.contains("on request"), "{}", quality.note);
        assert!(!world.sim.frozen(VM).unwrap().is_empty());
        assert!(world.freezer.slots.take_within(1, Duration::ZERO).is_none(), "it is frozen still");
        let freezes = || world.sim.calls().iter().filter(|call| call.op == Op::Freeze).count();
        let error = world.around(Quiesce::Require, || Ok(())).unwrap_err();
        assert!(error.message.contains("still being thawed"), "{error}");
        assert_eq!(freezes(), 1, "what thaws the first one would thaw the second one as well");
        world.sim.heal();
        drop(world.freezer.slots.take(1).expect("it is thawed at last"));
        assert!(world.sim.frozen(VM).unwrap().is_empty());
        assert_eq!(world.around(Quiesce::Require, || Ok(())).unwrap().reached, Consistency::Filesystem);
        assert_eq!(freezes(), 2);
    }
}

/// A clock that stands, and whose alarms ring when a test has them do so.
#[derive(Default)]
struct Rung {
    elapsed: Mutex<Duration>,
    alarms: Mutex<Vec<threads::Work>>,
}

impl std::fmt::Debug for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rung").finish_non_exhaustive()
    }
}

impl Rung {
    fn pass(&self, time: Duration) {
        *self.elapsed.lock().unwrap() += time;
        let due = std::mem::take(&mut *self.alarms.lock().unwrap());
        for ring in due {
            ring();
        }
    }
}

impl Clock for Rung {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap()
    }

    fn pause(&self, _: Duration) {}

    fn start(&self, name: &str, work: threads::Work) -> io::Result<()> {
        if name == "alarm" {
            self.alarms.lock().unwrap().push(work);
            return Ok(());
        }
        threads::start(name, work)
    }
}

#[test]
fn of_a_snapshot_that_took_too_long_it_is_told_who_thawed() {
    let World { sim, ear, .. } = world("ready\n");
    let clock = Arc::new(Rung::default());
    let (send, news) = mpsc::channel();
    let send = Mutex::new(send);
    let report = Box::new(move |_, told| send.lock().unwrap().send(told).unwrap());
    let store = Arc::new(Store::in_memory().unwrap());
    let freezer = Freezer::new(sim.clone(), store, clock.clone(), ear, report);
    let quality = around(&freezer, &sim, Quiesce::Require, || {
        clock.pass(LONGEST);
        while news.recv_timeout(DEADLINE).expect("it is thawed meanwhile") != News::Thawed {}
        assert!(freezer.slots.take(1).is_some(), "nor does it count any more");
        clock.pass(LONGEST);
        Ok(())
    });
    let quality = quality.unwrap();
    assert_eq!(quality.reached, Consistency::Crash);
    assert!(quality.note.contains("took longer than 30 s"), "{}", quality.note);
    assert!(!quality.note.contains("somebody"), "{}", quality.note);
    assert_eq!(quality.frozen, SignedDuration::try_from(LONGEST).unwrap(), "and no longer");
}

/// A clock that stands, but for what a test does.
#[derive(Debug, Default)]
struct Standing(Mutex<Duration>);

impl Clock for Standing {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn pause(&self, _: Duration) {}
}

#[test]
fn who_cannot_be_thawed_for_minutes_takes_freezing_away_from_nobody_else() {
    let World { sim, .. } = world("ready\n");
    let clock = Arc::new(Standing::default());
    let store = Arc::new(Store::in_memory().unwrap());
    let freezer = Freezer::new(sim.clone(), store, clock.clone(), Arc::new(Nobody), Box::new(|_, _| {}));
    sim.inject(Fault::new(Op::Thaw, refused()).always());
    around(&freezer, &sim, Quiesce::Prefer, || Ok(())).unwrap();
    assert!(freezer.slots.take_within(1, Duration::ZERO).is_none(), "it may still be thawed soon");
    *clock.0.lock().unwrap() += COUNTS;
    let others = freezer.slots.take(1).expect("others have their turn");
    // It is thawed on all the same.
    let error = around(&freezer, &sim, Quiesce::Require, || Ok(())).unwrap_err();
    assert!(error.message.contains("still being thawed"), "{error}");
    sim.heal();
    drop(others);
}

#[test]
fn a_snapshot_that_windows_did_not_hold_still_for_does_not_count_as_consistent() {
    for (windows, lets_go, seconds, held) in [
        (false, false, 29, true),
        (true, false, 9, true),
        // The agent counts as it would have without.
        (true, false, 11, false),
        (true, true, 2, false),
    ] {
        let World { sim, .. } = world("ready\n");
        if windows {
            sim.runs_windows(VM).unwrap();
        }
        if lets_go {
            sim.lets_go(VM).unwrap();
        }
        let clock = Arc::new(Standing::default());
        let store = Arc::new(Store::in_memory().unwrap());
        let (time, nobody) = (clock.clone(), Arc::new(Nobody));
        let freezer = Freezer::new(sim.clone(), store.clone(), time, nobody, Box::new(|_, _| {}));
        let quality = around(&freezer, &sim, Quiesce::Require, || {
            *clock.0.lock().unwrap() += Duration::from_secs(seconds);
            Ok(())
        });
        let quality = quality.unwrap();
        let case = format!("{windows} {lets_go} {seconds}: {}", quality.note);
        assert_eq!(quality.reached == Consistency::Filesystem, held, "{case}");
        assert_eq!(quality.note.contains("Windows lets go"), !held, "{case}");
        assert_eq!(store.frozen().unwrap(), [].into(), "{case}");
        // It is thawed, and nobody goes on about it.
        assert_eq!(sim.changes(), [Op::Freeze, Op::Thaw], "{case}");
    }
}

#[test]
fn who_an_earlier_life_left_frozen_counts_among_those_that_may_be() {
    let world = world("ready\n");
    world.sim.freeze_behind(VM).unwrap();
    world.sim.inject(Fault::new(Op::Thaw, refused()).always());
    world.freezer.keep_thawing(VM);
    world.freezer.keep_thawing(VM);
    assert!(world.freezer.slots.take_within(1, Duration::ZERO).is_none(), "it is frozen");
    assert!(world.freezer.slots.take_within(2, Duration::ZERO).is_some(), "and is one");
    world.sim.heal();
    drop(world.freezer.slots.take(1).expect("it is thawed at last"));
    assert!(world.sim.frozen(VM).unwrap().is_empty());
}

/// A clock on which whoever waits has waited for as long as he would, and nothing has come.
#[derive(Debug, Default)]
struct Hurried(Arc<Mutex<Duration>>);

impl Clock for Hurried {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn pause(&self, _: Duration) {}

    fn start(&self, name: &str, work: threads::Work) -> io::Result<()> {
        // Nor does an alarm ring that nobody waits for.
        if name == "alarm" { Ok(()) } else { threads::start(name, work) }
    }

    fn bell(&self) -> Arc<dyn threads::Bell> {
        Arc::new(Self(Arc::clone(&self.0)))
    }
}

impl threads::Bell for Hurried {
    fn rung(&self) -> u64 {
        0
    }

    fn ring(&self) {}

    fn wait(&self, _: u64, limit: Option<Duration>) -> bool {
        *self.0.lock().unwrap() += limit.expect("nobody waits for ever");
        false
    }
}

#[test]
fn where_all_places_are_taken_for_too_long_it_is_put_off_and_nobody_is_frozen() {
    let World { sim, ear, .. } = world("ready\n");
    let clock = Arc::new(Hurried::default());
    let store = Arc::new(Store::in_memory().unwrap());
    let freezer = Freezer::new(sim.clone(), store, clock, ear, Box::new(|_, _| {}));
    let others = [freezer.slots.add(), freezer.slots.add()];
    let error = around(&freezer, &sim, Quiesce::Require, || panic!("there is no snapshot")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy, "a policy tries again later, and is not at fault");
    assert!(error.message.contains("2 other guests are frozen"), "{error}");
    let quality = around(&freezer, &sim, Quiesce::Prefer, || Ok(())).unwrap();
    assert_eq!(quality.reached, Consistency::Crash);
    assert!(quality.note.contains("2 other guests are frozen"), "{}", quality.note);
    assert_eq!(sim.changes(), [], "nobody is frozen");
    drop(others);
    assert_eq!(around(&freezer, &sim, Quiesce::Require, || Ok(())).unwrap().reached, Consistency::Filesystem);
}
