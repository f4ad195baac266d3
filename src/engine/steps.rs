//! The engine's loop, and its steps one by one: whoever has the engine may take them as the daemon does, or in an order
//! and at a time of its own.

use std::{io, time::Duration};

use tokio::sync::oneshot;

use super::{Answer, Ask, Engine, Input, looking};
use crate::{
    core::{
        machine::{Event, Machine, Request},
        view::View,
    },
    systemd,
};

/// How often the engine looks up when systemd does not ask for it.
const TICK: Duration = Duration::from_secs(60);
/// How often all VMs are listed anew, whatever events say.
const LISTING: Duration = Duration::from_secs(300);

/// How often the engine looked up, and what is done at how many of these.
pub(super) struct Ticks {
    every: Duration,
    count: u64,
    per_listing: u64,
    per_look: u64,
}

impl Ticks {
    pub(super) fn new() -> Self {
        let every = systemd::watchdog_interval().unwrap_or(TICK);
        let per = |time: Duration| (time.as_secs() / every.as_secs().max(1)).max(1);
        Self { every, count: 0, per_listing: per(LISTING), per_look: per(looking::PAUSE) }
    }
}

impl Engine {
    /// Runs until it is told to stop and all is at rest.
    pub async fn run(mut self) -> io::Result<()> {
        let mut watchdog = tokio::time::interval(self.ticks.every);
        watchdog.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.begin();
        while !self.stopped {
            tokio::select! {
                biased;
                _ = watchdog.tick() => self.look_up(),
                Some(input) = self.inputs.recv() => self.take(input),
                Some(ask) = self.requests.recv() => self.take_request(ask),
            }
        }
        Ok(())
    }

    /// Before the first step.
    pub fn begin(&mut self) {
        let events = self.send.clone();
        self.tools.hypervisor.watch(Box::new(move |event| {
            let _ = events.send(Input::Hypervisor(event));
        }));
        self.handle(Event::Timer);
    }

    /// Takes one input, if one is there: what comes from inside first. False if none is.
    pub fn step(&mut self) -> bool {
        if let Ok(input) = self.inputs.try_recv() {
            self.take(input);
            return true;
        }
        let asked = self.requests.try_recv();
        asked.map(|ask| self.take_request(ask)).is_ok()
    }

    /// An input is there.
    pub fn has_input(&self) -> bool {
        !self.inputs.is_empty() || !self.requests.is_empty()
    }

    /// It was told to stop, and all is at rest.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// What is published, by who needs no authorisation for it.
    pub fn view(&self) -> &View {
        self.machine.view()
    }

    /// The mind itself.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What a client asks who was authorised elsewhere: whoever has the engine may do anything with it.
    pub fn ask(&mut self, request: Request) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.request(request, reply);
        answer
    }

    /// Looks up, as often as systemd's watchdog wants it. No wake-up of its own for what libvirt has no event for (a
    /// snapshot that others take or delete): a glance at each of these, and all anew from time to time.
    pub fn look_up(&mut self) {
        systemd::ping();
        self.attend_to_store();
        self.recover_late();
        self.reader.attend();
        let lists = self.ticks.count.is_multiple_of(self.ticks.per_listing);
        self.remember_again();
        if !self.cancels.is_empty() {
            // A job of which nothing is heard sends no event either.
            self.handle(Event::Timer);
        }
        if lists {
            self.metrics.again();
        }
        if self.machine.view().manager.hypervisor_connected {
            self.look_due |= self.ticks.count.is_multiple_of(self.ticks.per_look);
            if lists {
                self.reader.list();
                self.recover_again();
            }
            self.reader.glance();
        }
        self.ticks.count += 1;
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Hypervisor(event) => self.take_hypervisor(event),
            Input::Recovered(number, info, skipped) => self.recovered(number, info, skipped),
            Input::Machine(event) => self.handle(event),
            Input::Ended(job, outcome) => self.ended(job, outcome),
            Input::Stop => {
                systemd::stopping();
                self.handle(Event::Stop);
            }
            Input::Reload => self.reload(None),
            Input::Loaded(loaded, waiting) => self.take_settings(loaded, waiting),
        }
    }

    fn take_request(&mut self, ask: Ask) {
        match ask {
            Ask::Reload(_, reply) => self.reload(Some(reply)),
            Ask::Released(id) => self.handle(Event::Released(id)),
            Ask::Query(query, reply) => self.request(Request::Query(query), reply),
            Ask::Change(change, reply) => {
                let (change, uid) = change.into_parts();
                self.request(Request::Change(change, uid), reply);
            }
        }
    }
}
