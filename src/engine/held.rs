//! Which VMs somebody is at work on: a job, or what settles what was begun. Never two at once on one VM.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::core::model::VmId;

/// The VMs that somebody has.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<(Mutex<BTreeSet<VmId>>, Condvar)>);

/// One VM, for as long as this lives.
#[derive(Debug)]
#[must_use = "the VM is let go when this is dropped"]
pub(super) struct Hold {
    held: Held,
    pub(super) vm: VmId,
}

impl Held {
    /// Waits until nobody else has it.
    pub(super) fn take(&self, vm: VmId) -> Hold {
        let mut all = self.lock();
        while !all.insert(vm) {
            all = self.0.1.wait(all).unwrap_or_else(PoisonError::into_inner);
        }
        Hold { held: self.clone(), vm }
    }

    /// `None` if somebody has it.
    pub(super) fn try_take(&self, vm: VmId) -> Option<Hold> {
        self.lock().insert(vm).then(|| Hold { held: self.clone(), vm })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<VmId>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.lock().remove(&self.vm);
        self.held.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_a_vm_at_a_time_and_the_next_one_when_it_is_let_go() {
        let (held, vm) = (Held::default(), VmId(uuid::Uuid::from_u128(1)));
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
