//! What goes wrong, and at which boundary.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;
use virtsnap::{
    clock::Clock as _,
    core::model::{VmId, VmState},
    hypervisor::{
        Error, ErrorKind,
        sim::{Asked, Fault, Mishap, Op, Sim},
    },
    store::StoreError,
};

use super::{
    oracle::Oracle,
    panics::ON_REQUEST,
    turns::{Time, TurnsClock, current},
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The daemon is killed.
    Kill,
    /// libvirt goes before the call.
    Lost,
    /// It goes in the middle of the call.
    Half,
    /// It goes when the call is done, and takes the answer with it.
    Answer,
    /// It goes, and is back at once.
    Restart,
    /// The store cannot be written any more.
    StoreFull,
    /// One write fails.
    StoreFails,
    /// The images' disk is full.
    DiskFull,
    /// The call is refused once.
    Refused,
    /// The guest's agent hangs.
    AgentStuck,
    /// The VM's QEMU dies.
    QemuDies,
    /// The call takes long.
    Slow,
    /// The wall clock is set back by a year, or forward.
    Back,
    Forward,
    /// The daemon is told to stop, and ends by itself.
    Stop,
}

impl Trouble {
    pub const ALL: [Self; 15] = [
        Self::Kill,
        Self::Lost,
        Self::Half,
        Self::Answer,
        Self::Restart,
        Self::StoreFull,
        Self::StoreFails,
        Self::DiskFull,
        Self::Refused,
        Self::AgentStuck,
        Self::QemuDies,
        Self::Slow,
        Self::Back,
        Self::Forward,
        Self::Stop,
    ];

    /// It makes a difference there.
    fn fits(self, at: &Boundary<'_>, thread: &str) -> bool {
        let looks = ["inventory", "look", "tidy"].contains(&thread);
        match (self, at) {
            (Self::Kill | Self::Stop | Self::StoreFull | Self::StoreFails, Boundary::Write) => true,
            (_, Boundary::Write) | (Self::StoreFull | Self::StoreFails, _) => false,
            (Self::Lost | Self::Restart | Self::Refused, Boundary::Call(_)) => !looks,
            (Self::DiskFull, Boundary::Call(asked)) => asked.op.changes() && !asked.op.asks_agent(),
            (Self::AgentStuck, Boundary::Call(asked)) => asked.op.asks_agent(),
            (_, Boundary::Call(asked)) => asked.op.changes(),
        }
    }
}

/// Between two steps.
#[derive(Debug)]
enum Boundary<'a> {
    Write,
    Call(&'a Asked),
}

#[derive(Debug, Default)]
struct Armed {
    /// What, and at the how manieth that it fits.
    trouble: Option<(Trouble, usize)>,
    passed: usize,
    /// Where it happened.
    happened: Option<String>,
    store_full: bool,
    jumped: bool,
    stop: bool,
    /// On the thread whose name begins so, in this call, once.
    panics: Option<(&'static str, Op)>,
}

/// The one of a simulation.
#[derive(Debug)]
pub struct Plan {
    armed: Mutex<Armed>,
    sim: Arc<Sim>,
    time: Arc<Time>,
    pub oracle: Oracle,
    /// Whose guest has troubles.
    vm: VmId,
    /// The images' disk was: a guest that writes then stands still until somebody lets it go on.
    was_full: AtomicBool,
}

impl Plan {
    pub fn new(sim: &Arc<Sim>, time: &Arc<Time>, vm: VmId) -> Arc<Self> {
        let (sim, time) = (Arc::clone(sim), Arc::clone(time));
        Arc::new(Self {
            armed: Mutex::default(),
            oracle: Oracle::new(&sim),
            sim,
            time,
            vm,
            was_full: AtomicBool::default(),
        })
    }

    /// Counts from here, and does that at this place.
    pub fn arm(&self, trouble: Trouble, at: usize) {
        *self.armed.lock().unwrap() = Armed { trouble: Some((trouble, at)), ..Armed::default() };
    }

    /// Counts no longer: how many places there were.
    pub fn disarm(&self) -> usize {
        let mut armed = self.armed.lock().unwrap();
        armed.trouble = None;
        armed.passed
    }

    /// The next such call of a thread whose name begins so panics.
    pub fn panic_once(&self, thread: &'static str, op: Op) {
        self.armed.lock().unwrap().panics = Some((thread, op));
    }

    pub fn happened(&self) -> Option<String> {
        self.armed.lock().unwrap().happened.clone()
    }

    /// True if somebody has to let guests go on that found the disk full.
    pub fn was_full(&self) -> bool {
        self.was_full.swap(false, Ordering::SeqCst)
    }

    pub fn heal(&self) {
        self.disarm();
        self.armed.lock().unwrap().store_full = false;
    }

    pub fn fill_store(&self, full: bool) {
        self.armed.lock().unwrap().store_full = full;
    }

    /// The clock was set since it was last asked.
    pub fn jumped(&self) -> bool {
        std::mem::take(&mut self.armed.lock().unwrap().jumped)
    }

    /// Somebody tells the daemon to stop.
    pub fn stops(&self) -> bool {
        std::mem::take(&mut self.armed.lock().unwrap().stop)
    }

    pub fn before_call(&self, asked: &Asked) -> Result<(), Error> {
        let gone = || Err(Error::new(ErrorKind::Disconnected, "killed"));
        let Some((turns, thread)) = current() else { return Ok(()) };
        turns.hand_over();
        if turns.is_dead() {
            return gone();
        }
        let mut armed = self.armed.lock().unwrap();
        let bug = |at: &mut (&str, Op)| at.1 == asked.op && thread.starts_with(at.0);
        let bug = armed.panics.take_if(bug).is_some();
        drop(armed);
        assert!(!bug, "{}", ON_REQUEST);
        let trouble = self.pass(&Boundary::Call(asked), &thread);
        if let (Op::Resume, Some(vm), Some(Trouble::Kill | Trouble::Lost | Trouble::Half)) =
            (asked.op, asked.vm, trouble)
        {
            // Memory goes on once and no more: where nobody saw whether it did, the VM is left off, and that is told.
            self.oracle.either(vm, VmState::ShutOff);
        }
        match trouble {
            None => {}
            Some(Trouble::Kill) => {
                turns.kill();
                return gone();
            }
            Some(Trouble::Slow) => TurnsClock(Arc::clone(&turns)).pause(Duration::from_secs(45)),
            Some(Trouble::Refused) => return Err(Error::new(ErrorKind::Failed, "refused on request")),
            Some(other) => self.trouble(other, Some((asked.op, asked.vm))),
        }
        self.oracle.before(asked);
        Ok(())
    }

    pub fn before_write(&self) -> Result<(), StoreError> {
        let full = || {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            Err(StoreError::Database(rusqlite::Error::SqliteFailure(code, None)))
        };
        let Some((turns, thread)) = current() else { return Ok(()) };
        turns.hand_over();
        if turns.is_dead() {
            return full();
        }
        match self.pass(&Boundary::Write, &thread) {
            Some(Trouble::Kill) => {
                turns.kill();
                return full();
            }
            Some(Trouble::StoreFails) => return full(),
            Some(other) => self.trouble(other, None),
            None => {}
        }
        if self.armed.lock().unwrap().store_full { full() } else { Ok(()) }
    }

    fn pass(&self, at: &Boundary<'_>, thread: &str) -> Option<Trouble> {
        let mut armed = self.armed.lock().unwrap();
        let (trouble, place) = armed.trouble.filter(|(trouble, _)| trouble.fits(at, thread))?;
        armed.passed += 1;
        if armed.passed - 1 != place {
            return None;
        }
        armed.happened = Some(match at {
            Boundary::Write => format!("{thread} writes"),
            Boundary::Call(asked) => format!("{thread} calls {:?} {}", asked.op, asked.about),
        });
        Some(trouble)
    }

    /// Happens now, to the call that is on its way.
    pub fn trouble(&self, trouble: Trouble, call: Option<(Op, Option<VmId>)>) {
        let lost = || Error::new(ErrorKind::Disconnected, "client socket is closed");
        let inject = |mishap| {
            let Some((op, vm)) = call else { return };
            let fault = Fault::new(op, mishap);
            self.sim.inject(if let Some(vm) = vm { fault.on(vm) } else { fault });
        };
        match trouble {
            Trouble::Lost => self.sim.disconnect("libvirtd was stopped"),
            Trouble::Restart => {
                self.sim.disconnect("libvirtd was restarted");
                self.sim.connect();
            }
            Trouble::Half => inject(Mishap::Half(lost())),
            Trouble::Answer => inject(Mishap::Lose(lost())),
            Trouble::StoreFull => self.fill_store(true),
            Trouble::DiskFull => {
                self.was_full.store(true, Ordering::SeqCst);
                self.sim.leave_room_for(0);
            }
            Trouble::AgentStuck => drop(self.sim.agent_stuck(self.vm, true)),
            Trouble::QemuDies => {
                if self.sim.stop(self.vm).is_ok() {
                    self.oracle.died(self.vm);
                }
            }
            Trouble::Back | Trouble::Forward => {
                let year = SignedDuration::from_hours(365 * 24);
                self.time.jump(if trouble == Trouble::Back { -year } else { year });
                self.armed.lock().unwrap().jumped = true;
            }
            Trouble::Stop => self.armed.lock().unwrap().stop = true,
            Trouble::Kill | Trouble::Slow | Trouble::StoreFails | Trouble::Refused => {}
        }
    }
}
