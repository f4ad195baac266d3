//! One thread at a time: who has the turn runs until it waits, and whoever drives the simulation says who is next.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use virtsnap::{
    clock::{Clock, WakeUp},
    threads::{Bell, Work},
};

use super::panics::Panics;

/// So long a thread may keep its turn, in real time: one that blocks on something real would hang the test.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a thread of a daemon that was killed ends with.
struct Killed;

thread_local! {
    static ME: RefCell<Option<(Arc<Turns>, u64)>> = const { RefCell::new(None) };
}

/// Virtual time, which lives on when a daemon dies.
#[derive(Debug)]
pub struct Time {
    elapsed: Mutex<Duration>,
    ahead: Mutex<SignedDuration>,
}

impl Time {
    /// Noon on a Friday.
    const START: Timestamp = Timestamp::constant(2_223_374_400, 0);

    pub fn new() -> Self {
        Self { elapsed: Mutex::default(), ahead: Mutex::default() }
    }

    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.elapsed()).unwrap();
        Self::START + elapsed + *self.ahead.lock().unwrap()
    }

    pub fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap()
    }

    pub fn pass(&self, time: Duration) {
        *self.elapsed.lock().unwrap() += time;
    }

    /// Somebody sets the wall clock.
    pub fn jump(&self, by: SignedDuration) {
        *self.ahead.lock().unwrap() += by;
    }
}

/// What a thread waits for.
#[derive(Debug, Clone)]
enum Waits {
    Nothing,
    Time(Duration),
    Bell(Arc<AtomicU64>, u64, Option<Duration>),
}

impl Waits {
    fn is_over(&self, now: Duration) -> bool {
        match self {
            Self::Nothing => true,
            Self::Time(until) => *until <= now,
            Self::Bell(rung, seen, until) => {
                rung.load(Ordering::SeqCst) != *seen || until.is_some_and(|until| until <= now)
            }
        }
    }

    fn until(&self) -> Option<Duration> {
        match self {
            Self::Nothing => None,
            Self::Time(until) => Some(*until),
            Self::Bell(_, _, until) => *until,
        }
    }
}

#[derive(Debug)]
struct Thread {
    name: String,
    waits: Waits,
    turn: Arc<Condvar>,
}

#[derive(Debug, Default)]
struct State {
    whose: Option<u64>,
    next: u64,
    threads: BTreeMap<u64, Thread>,
    alarm: Option<Timestamp>,
}

/// The threads of one life of the daemon.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    back: Condvar,
    pub time: Arc<Time>,
    dead: AtomicBool,
    woken: Mutex<Option<Woken>>,
    /// The next thread of this name cannot be started.
    refused: Mutex<Option<&'static str>>,
    pub panics: Arc<Panics>,
}

struct Woken(Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Woken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Woken").finish_non_exhaustive()
    }
}

/// Who runs: the life, and the thread's name; the engine's own is "engine". `None` for the test's own thread.
pub fn current() -> Option<(Arc<Turns>, String)> {
    let (turns, id) = ME.with_borrow(Clone::clone)?;
    let name = turns.lock().threads.get(&id).map_or_else(|| "engine".to_owned(), |t| t.name.clone());
    Some((turns, name))
}

/// Whose thread this is, where nothing may be waited for.
pub fn life() -> Option<Arc<Turns>> {
    ME.try_with(|me| me.try_borrow().ok()?.as_ref().map(|(turns, _)| Arc::clone(turns))).ok()?
}

impl Turns {
    pub fn new(time: &Arc<Time>, panics: &Arc<Panics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            back: Condvar::new(),
            time: Arc::clone(time),
            dead: AtomicBool::new(false),
            woken: Mutex::default(),
            refused: Mutex::default(),
            panics: Arc::clone(panics),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn refuse_thread(&self, name: &'static str) {
        *self.refused.lock().unwrap() = Some(name);
    }

    /// From here on nothing of this life has an effect.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Does something as the engine's task.
    pub fn as_engine<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        ME.set(Some((Arc::clone(self), u64::MAX)));
        let done = act();
        ME.set(None);
        done
    }

    /// The threads that can go on.
    pub fn ready(&self) -> Vec<u64> {
        let now = self.time.elapsed();
        self.lock().threads.iter().filter(|(_, t)| t.waits.is_over(now)).map(|(id, _)| *id).collect()
    }

    /// When the next one can that only waits for time.
    pub fn next_time(&self) -> Option<Duration> {
        self.lock().threads.values().filter_map(|t| t.waits.until()).min()
    }

    pub fn alarm(&self) -> Option<Timestamp> {
        self.lock().alarm
    }

    /// The timer rings if it is due; after a jump of the clock in any case.
    pub fn ring_alarm(&self, jumped: bool) {
        let due = self.lock().alarm.take_if(|at| *at <= self.time.now()).is_some();
        let woken = self.woken.lock().unwrap().as_ref().map(|w| Arc::clone(&w.0));
        if let Some(woken) = woken.filter(|_| due || jumped) {
            woken();
        }
    }

    /// Gives a thread the turn, and waits until it comes back.
    pub fn give(&self, id: u64) {
        let mut state = self.lock();
        let Some(thread) = state.threads.get_mut(&id) else { return };
        thread.waits = Waits::Nothing;
        let (turn, name) = (Arc::clone(&thread.turn), thread.name.clone());
        state.whose = Some(id);
        turn.notify_one();
        let (state, waited) = self
            .back
            .wait_timeout_while(state, DEADLINE, |s| s.whose.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        assert!(!waited.timed_out(), "thread {name} keeps its turn");
    }

    /// All threads of a life that was killed end.
    pub fn bury(&self) {
        assert!(self.is_dead());
        loop {
            let Some(id) = self.lock().threads.keys().next().copied() else { break };
            self.give(id);
        }
        *self.woken.lock().unwrap() = None;
    }

    /// Hands the turn over, until it comes again. The engine's task keeps it.
    pub fn hand_over(&self) {
        if !self.is_dead() {
            self.wait(Waits::Nothing);
        }
    }

    fn wait(&self, waits: Waits) {
        let Some(id) = ME.with_borrow(|me| me.as_ref().map(|(_, id)| *id)) else {
            panic!("the test's own thread cannot wait");
        };
        if id == u64::MAX {
            assert!(matches!(waits, Waits::Nothing), "the engine waits");
            return;
        }
        let mut state = self.lock();
        let thread = state.threads.get_mut(&id).unwrap();
        thread.waits = waits;
        let turn = Arc::clone(&thread.turn);
        state.whose = None;
        self.back.notify_one();
        while state.whose != Some(id) {
            state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits, or ends the thread of a daemon that was killed.
    fn block(&self, waits: Waits) {
        if !self.is_dead() {
            self.wait(waits);
        }
        if self.is_dead() && !std::thread::panicking() {
            resume_unwind(Box::new(Killed));
        }
    }

    fn ended(&self, id: u64) {
        let mut state = self.lock();
        state.threads.remove(&id);
        state.whose = None;
        self.back.notify_one();
    }
}

/// The clock of one life.
#[derive(Debug, Clone)]
pub struct TurnsClock(pub Arc<Turns>);

impl Clock for TurnsClock {
    fn now(&self) -> Timestamp {
        // No two things happen at the same time.
        self.0.time.pass(Duration::from_micros(1));
        self.0.time.now()
    }

    fn elapsed(&self) -> Duration {
        self.0.time.elapsed()
    }

    fn pause(&self, time: Duration) {
        self.0.block(Waits::Time(self.0.time.elapsed() + time));
    }

    fn start(&self, name: &str, work: Work) -> io::Result<()> {
        if self.0.is_dead() {
            return Err(io::Error::other("killed"));
        }
        if self.0.refused.lock().unwrap().take_if(|refused| *refused == name).is_some() {
            return Err(io::Error::other("no thread is left"));
        }
        let turn = Arc::new(Condvar::new());
        let mut state = self.0.lock();
        state.next += 1;
        let id = state.next;
        let thread = Thread { name: name.to_owned(), waits: Waits::Nothing, turn: Arc::clone(&turn) };
        state.threads.insert(id, thread);
        drop(state);
        let turns = Arc::clone(&self.0);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            ME.set(Some((Arc::clone(&turns), id)));
            let mut state = turns.lock();
            while state.whose != Some(id) {
                state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            // A panic was counted when it began.
            let _ended = catch_unwind(AssertUnwindSafe(|| {
                // One that had not begun when the daemon was killed never does.
                if !turns.is_dead() {
                    work();
                }
            }));
            turns.ended(id);
        })?;
        Ok(())
    }

    fn bell(&self) -> Arc<dyn Bell> {
        Arc::new(TurnsBell { turns: Arc::clone(&self.0), rung: Arc::default() })
    }

    fn wake_up(&self, woken: Box<dyn Fn() + Send + Sync>) -> io::Result<Box<dyn WakeUp>> {
        *self.0.woken.lock().unwrap() = Some(Woken(Arc::from(woken)));
        Ok(Box::new(Alarm(Arc::clone(&self.0))))
    }
}

#[derive(Debug)]
struct Alarm(Arc<Turns>);

impl WakeUp for Alarm {
    fn arm(&self, at: Option<Timestamp>, _: Timestamp) -> io::Result<()> {
        self.0.lock().alarm = at;
        Ok(())
    }
}

#[derive(Debug)]
struct TurnsBell {
    turns: Arc<Turns>,
    rung: Arc<AtomicU64>,
}

impl Bell for TurnsBell {
    fn rung(&self) -> u64 {
        self.rung.load(Ordering::SeqCst)
    }

    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
    }

    fn wait(&self, seen: u64, limit: Option<Duration>) -> bool {
        let until = limit.map(|limit| self.turns.time.elapsed() + limit);
        self.turns.block(Waits::Bell(Arc::clone(&self.rung), seen, until));
        self.rung() != seen
    }
}
