//! One guest, watched: what the daemon says of it, and the thaw when it says nothing.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use super::{Thawer, Told, Word};
use crate::{
    core::model::{VmId, VmState},
    freeze::{
        telling,
        thaw::{Thaw, Thawed, thaw_again, thaw_once},
    },
    hypervisor::{ErrorKind, Hypervisor},
};

/// Watches one guest.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
pub(super) struct Rescue<'a> {
    thawer: &'a Thawer,
    vm: VmId,
    host: &'a dyn Hypervisor,
    told: &'a Receiver<Told>,
    /// A freeze has begun: without that there is nothing to thaw, whatever happens.
    begun: bool,
    /// When the next word has to have come, on the clock that only goes forward.
    due: Option<Duration>,
    gone: bool,
    over: bool,
    /// It was thawed here.
    proven: bool,
    /// Somebody waits for the end.
    hurried: bool,
}

impl<'a> Rescue<'a> {
    pub(super) fn new(
        thawer: &'a Thawer,
        vm: VmId,
        host: &'a dyn Hypervisor,
        told: &'a Receiver<Told>,
    ) -> Self {
        Self {
            thawer,
            vm,
            host,
            told,
            begun: false,
            due: None,
            gone: false,
            over: false,
            proven: false,
            hurried: false,
        }
    }

    /// Until the daemon says that it is over, or it is proven here that it is.
    pub(super) fn watch(mut self) {
        loop {
            // That may have been told while it was being thawed.
            let in_time = self.gone || self.over || self.wait(None);
            if self.over {
                return;
            }
            if self.gone {
                if self.begun {
                    telling::abandoned(self.vm);
                    self.thaw();
                    // The daemon may have asked for the freeze with its last breath, and libvirt carry it out only now.
                    if !self.hurried {
                        self.wait(Some(self.thawer.pauses.settling));
                    }
                    if !self.over {
                        self.thaw();
                    }
                }
                return;
            }
            if !in_time {
                telling::unheard(self.vm);
                self.due = None;
                self.thaw();
            }
        }
    }

    /// Waits for one thing to be told, up to `most` or until a word is due; false if nothing was.
    fn wait(&mut self, most: Option<Duration>) -> bool {
        let left = self.due.map(|due| due.saturating_sub(self.thawer.clock.elapsed()));
        let told = match most.or(left) {
            Some(time) => self.told.recv_timeout(time),
            None => self.told.recv().map_err(RecvTimeoutError::from),
        };
        match told {
            Ok(Told::Word(Word::Freezing(limit) | Word::Frozen(limit))) => {
                self.begun = true;
                self.due = Some(self.thawer.clock.elapsed() + limit);
            }
            Ok(Told::Word(Word::Over)) => self.over = true,
            // Who says that now is not to be trusted with the end either.
            Ok(Told::Word(Word::Watch { .. }) | Told::Gone) | Err(RecvTimeoutError::Disconnected) => {
                self.gone = true;
            }
            Ok(Told::Hurry) => self.hurried = true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
        true
    }

    /// Thaws until that is proven, here or by the daemon.
    fn thaw(&mut self) {
        let (mut pause, longest) = self.thawer.pauses.tries;
        let mut thaw: Thaw = thaw_once;
        while !self.over {
            match thaw(self.host, self.thawer.clock.as_ref(), self.vm) {
                Ok(Thawed { count, .. }) => {
                    // Of a second thaw only what it found is worth a word.
                    if count > 0 || !self.proven {
                        telling::thawed_outside(self.vm, count);
                    }
                    self.proven = true;
                    return;
                }
                // A VM that is off or gone has nothing frozen.
                Err(e) if e.kind == ErrorKind::NoSuchVm || self.is_off() => return,
                Err(e) => telling::frozen(self.vm, &e, &format_args!("trying again in {pause:?}")),
            }
            thaw = thaw_again;
            if !self.wait(Some(pause)) {
                pause = (pause * 2).min(longest);
            }
        }
    }

    fn is_off(&self) -> bool {
        self.host.vm(self.vm).is_ok_and(|vm| vm.state == VmState::ShutOff)
    }
}
