//! What goes wrong on request, what is held up on request, and what was asked: the tests' side of every call.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Sim, State,
    op::{Asked, Op},
};
use crate::{
    core::model::VmId,
    hypervisor::{Error, ErrorKind},
};

/// How a call goes wrong.
///
/// An error of kind [`ErrorKind::Disconnected`] takes the connection with it: `Event::Disconnected` follows,
/// and every call fails until [`Sim::connect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing happens but this error.
    Refuse(Error),
    /// The work stops in the middle, and this error is the answer:
    ///
    /// * `prepare` and `prepare_on` have made the first overlay and do not remove it;
    /// * `create` has switched the disks and writes no metadata (libvirtd killed in between);
    /// * `delete` has copied the data of all disks but the last, and half of that one; the disks run on what they
    ///   ran on, and the next older snapshot is marked;
    /// * `redefine` has lost the snapshot's metadata (a full disk, and no way to put it back);
    /// * `forget` has forgotten the snapshot and lost its parent's metadata, where that is written anew;
    /// * `commit` and `pull` have copied half of what they are to copy, and the disk runs on what it ran on;
    /// * all others do nothing.
    Half(Error),
    /// The work is done, and this error is the answer all the same: the true one got lost on the way.
    Lose(Error),
}

/// A mishap, and the calls that it happens to.
#[derive(Debug, Clone)]
pub struct Fault {
    op: Op,
    vm: Option<VmId>,
    pass: u32,
    times: Option<u32>,
    mishap: Mishap,
}

impl Fault {
    /// Happens once, to the next call of this operation.
    pub fn new(op: Op, mishap: Mishap) -> Self {
        Self { op, vm: None, pass: 0, times: Some(1), mishap }
    }

    /// Only calls for this VM.
    #[must_use]
    pub fn on(mut self, vm: VmId) -> Self {
        self.vm = Some(vm);
        self
    }

    /// Lets so many calls pass first.
    #[must_use]
    pub fn after(mut self, calls: u32) -> Self {
        self.pass = calls;
        self
    }

    /// Happens so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Happens until [`Sim::heal`].
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }
}

/// One call, in the order in which they began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its place among all calls.
    pub number: usize,
    /// What was called.
    pub op: Op,
    /// For which VM.
    pub vm: Option<VmId>,
    /// The snapshot's name, or the paths, or the mount points.
    pub about: String,
    /// The time limit that it was given.
    pub timeout: Option<Duration>,
    /// How it ended; `None` while it goes on.
    pub ended: Option<Result<(), ErrorKind>>,
}

/// Holds calls up as long as it lives; see [`Sim::gate`].
#[derive(Debug)]
#[must_use = "the gate opens when this is dropped"]
pub struct Gate<'a> {
    sim: &'a Sim,
    id: u64,
}

impl Gate<'_> {
    /// Waits until a call stands at the gate; false if none came before the deadline.
    pub fn wait_for_call(&self, deadline: Duration) -> bool {
        let state = self.sim.lock();
        let (_state, waited) = self
            .sim
            .moved
            .wait_timeout_while(state, deadline, |s| {
                !s.gates.iter().any(|g| g.id == self.id && g.waiting > 0)
            })
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    /// Lets the calls go on, and later ones pass.
    pub fn open(self) {}
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.sim.lock().gates.retain(|g| g.id != self.id);
        self.sim.moved.notify_all();
    }
}

#[derive(Debug)]
pub(super) struct Closed {
    id: u64,
    op: Op,
    vm: Option<VmId>,
    waiting: u32,
}

impl Closed {
    fn stops(&self, op: Op, vm: Option<VmId>) -> bool {
        self.op == op && (self.vm.is_none() || self.vm == vm)
    }
}

/// Faults, gates and the log of calls.
impl Sim {
    /// Arranges a fault. Of several that fit a call, the one arranged first happens.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Refuses the next call of this operation.
    pub fn fail_next(&self, op: Op, error: Error) {
        self.inject(Fault::new(op, Mishap::Refuse(error)));
    }

    /// Refuses the `n`-th call of this operation from now; the next one is the first.
    pub fn fail_at(&self, op: Op, n: u32, error: Error) {
        self.inject(Fault::new(op, Mishap::Refuse(error)).after(n.saturating_sub(1)));
    }

    /// The next create switches the disks, and then libvirtd dies: no metadata, and no connection.
    pub fn die_in_next_create(&self) {
        self.inject(Fault::new(Op::Create, Mishap::Half(gone("Connection reset by peer"))));
    }

    /// Before each call from now on, and before each block of a merge, this is asked on the caller's thread and with nothing
    /// locked: an error is the answer, and nothing is done. The first one stays.
    pub fn before_each_call(&self, guard: impl Fn(&Asked) -> Result<(), Error> + Send + Sync + 'static) {
        let _ = self.guard.set(Box::new(guard));
    }

    pub(super) fn guarded(&self, asked: &Asked) -> Result<(), Error> {
        self.guard.get().map_or(Ok(()), |guard| guard(asked))
    }

    /// Forgets all faults that have not happened.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Holds up every call of this operation until the gate is opened or dropped.
    ///
    /// A held `create` or `delete` has its VM's job, a held agent's command has the agent: meanwhile others
    /// of that kind are `Busy` at once, where libvirt makes them wait for 30 s first. A held `create` is
    /// listed already, as libvirt lists a snapshot whose creation goes on; a held `delete` has its parent
    /// marked. A held `commit` shows its block job. When the connection goes, a held call ends as `Disconnected` with
    /// nothing done; but of a `commit` libvirt and QEMU carry out what they can.
    pub fn gate(&self, op: Op) -> Gate<'_> {
        self.close(op, None)
    }

    /// Like [`Sim::gate`], for one VM's calls only.
    pub fn gate_vm(&self, op: Op, vm: VmId) -> Gate<'_> {
        self.close(op, Some(vm))
    }

    fn close(&self, op: Op, vm: Option<VmId>) -> Gate<'_> {
        let mut state = self.lock();
        state.next_id += 1;
        let id = state.next_id;
        state.gates.push(Closed { id, op, vm, waiting: 0 });
        Gate { sim: self, id }
    }

    /// All calls so far, in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// What changed something, or tried to, in order: for assertions such as "freeze, create, thaw, and
    /// nothing between them".
    pub fn changes(&self) -> Vec<Op> {
        self.lock().calls.iter().map(|c| c.op).filter(|op| op.changes()).collect()
    }

    /// Forgets the calls so far.
    pub fn clear_calls(&self) {
        self.lock().calls.clear();
    }

    /// Stands at the gate, if there is a closed one, with the VM's job or agent in hand.
    pub(super) fn hold<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        op: Op,
        vm: Option<VmId>,
    ) -> (MutexGuard<'a, State>, Result<(), Error>) {
        if !state.gates.iter().any(|g| g.stops(op, vm)) {
            return (state, Ok(()));
        }
        let era = state.era;
        state.claim(op, vm, true);
        for gate in state.gates.iter_mut().filter(|g| g.stops(op, vm)) {
            gate.waiting += 1;
        }
        self.moved.notify_all();
        while state.era == era && state.gates.iter().any(|g| g.stops(op, vm)) {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        for gate in state.gates.iter_mut().filter(|g| g.stops(op, vm)) {
            gate.waiting = gate.waiting.saturating_sub(1);
        }
        state.claim(op, vm, false);
        let still = if state.era == era { Ok(()) } else { Err(gone("client socket is closed")) };
        (state, still)
    }
}

impl State {
    pub(super) fn admit(&mut self, op: Op, vm: Option<VmId>) -> Result<(), Error> {
        if !self.connected {
            return Err(gone("not connected to libvirt"));
        }
        let Some(machine) = vm.and_then(|id| self.vms.get(&id)) else { return Ok(()) };
        let holder = match machine.job {
            Some(job) if op.is_job() => format!("{job:?}"),
            _ if op.asks_agent() && machine.agent.taken => "agent".to_owned(),
            _ => return Ok(()),
        };
        let text = format!("Timed out during operation: cannot acquire state change lock (held by {holder})");
        Err(Error::new(ErrorKind::Busy, text))
    }

    pub(super) fn mishap(&mut self, op: Op, vm: Option<VmId>) -> Option<Mishap> {
        let fits = |f: &Fault| f.op == op && (f.vm.is_none() || f.vm == vm);
        let mut found = None;
        for fault in self.faults.iter_mut().filter(|f| fits(f)) {
            if fault.pass > 0 {
                fault.pass -= 1;
            } else if found.is_none() && fault.times != Some(0) {
                fault.times = fault.times.map(|t| t - 1);
                found = Some(match fault.mishap.clone() {
                    Mishap::Half(e)
                        if !matches!(
                            op,
                            Op::Prepare
                                | Op::PrepareOn
                                | Op::Create
                                | Op::Delete
                                | Op::Redefine
                                | Op::Forget
                                | Op::Commit
                                | Op::Pull
                                | Op::Save
                        ) =>
                    {
                        Mishap::Refuse(e)
                    }
                    mishap => mishap,
                });
            }
        }
        self.faults.retain(|f| f.times != Some(0));
        found
    }

    pub(super) fn began(
        &mut self,
        op: Op,
        vm: Option<VmId>,
        about: String,
        timeout: Option<Duration>,
    ) -> usize {
        self.next_call += 1;
        self.calls.push(Call { number: self.next_call, op, vm, about, timeout, ended: None });
        self.next_call
    }

    pub(super) fn ended(&mut self, number: usize, how: Result<(), ErrorKind>) {
        if let Some(call) = self.calls.iter_mut().rev().find(|c| c.number == number) {
            call.ended = Some(how);
        }
    }

    /// Takes or gives back what only one call at a time can have of a VM.
    fn claim(&mut self, op: Op, vm: Option<VmId>, take: bool) {
        let Some(machine) = vm.and_then(|id| self.vms.get_mut(&id)) else { return };
        if op.is_job() {
            machine.job = take.then_some(op);
            if !take {
                machine.making = None;
            }
        } else if op.asks_agent() {
            machine.agent.taken = take;
        }
    }
}

/// The connection is gone.
pub(super) fn gone(why: &str) -> Error {
    Error::new(ErrorKind::Disconnected, why)
}
