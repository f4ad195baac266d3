//! Which VMs somebody is at work on: a job, or what settles what was begun. Never two at once on one VM.

use std::{collections::BTreeSet, sync::Arc};

use crate::{clock::Clock, core::model::VmId, threads::Shared};

/// The VMs that somebody has.
#[derive(Debug, Clone)]
pub(super) struct Held(Arc<Shared<BTreeSet<VmId>>>);

/// One VM, for as long as this lives.
#[derive(Debug)]
#[must_use = "the VM is let go when this is dropped"]
pub(super) struct Hold {
    held: Held,
    pub(super) vm: VmId,
}

impl Held {
    /// Nobody has any.
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared::new(BTreeSet::new(), clock)))
    }

    /// Waits until nobody else has it.
    pub(super) fn take(&self, vm: VmId) -> Hold {
        self.0.wait(|all| all.insert(vm).then_some(()));
        Hold { held: self.clone(), vm }
    }

    /// `None` if somebody has it.
    pub(super) fn try_take(&self, vm: VmId) -> Option<Hold> {
        self.0.change(|all| all.insert(vm)).then(|| Hold { held: self.clone(), vm })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.0.change(|all| all.remove(&self.vm));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn one_has_a_vm_at_a_time_and_the_next_one_when_it_is_let_go() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let (held, vm) = (Held::new(&clock), VmId(uuid::Uuid::from_u128(1)));
        let first = held.take(vm);
        assert!(held.try_take(vm).is_none());
        drop(held.try_take(VmId(uuid::Uuid::from_u128(2))).unwrap());
        let later = {
            let held = held.clone();
            std::thread::spawn(move || held.take(vm).vm)
        };
        drop(first);
        assert_eq!(later.join().unwrap(), vm);
        assert!(held.try_take(vm).is_some());
    }
}
