//! One VM after the other, and past those that libvirt does not answer of, as where a VM's QEMU or its storage hangs.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{clock::Clock, core::model::VmId, engine::recovering::caught, logging::message, threads::Shared};

/// What takes longer is left behind.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many are left behind at most at the same time: libvirt answers five questions of one connection at a time, and
/// others ask, too.
const BEHIND: u32 = 1;

/// Goes through VMs. What it leaves behind goes on by itself, with its VM in hand.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Line {
    clock: Arc<dyn Clock>,
    /// So many threads have not come back.
    behind: Arc<AtomicU32>,
}

/// Those with which it did not come to an end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Late {
    /// Somebody is still at these.
    pub(super) behind: BTreeSet<VmId>,
    /// Nobody has begun with these, as too many are left behind.
    pub(super) unreached: BTreeSet<VmId>,
}

/// How far it is.
#[derive(Debug)]
struct Way {
    left: BTreeSet<VmId>,
    /// At this one, since then.
    at: Option<(VmId, Duration)>,
    /// The number of the thread that is to go on: all before it were left behind.
    thread: u32,
    over: bool,
}

impl Line {
    /// Nobody is left behind.
    pub(in crate::engine) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), behind: Arc::default() }
    }

    /// As many are left behind as may be.
    #[cfg(test)]
    pub(super) fn full(clock: &Arc<dyn Clock>) -> Self {
        Self { behind: Arc::new(AtomicU32::new(BEHIND + 1)), ..Self::new(clock) }
    }

    /// Does something with each of these, in their order; `late` is told of each that was left behind, when it is done.
    pub(in crate::engine) fn each(
        &self,
        vms: BTreeSet<VmId>,
        work: impl Fn(VmId) + Send + Sync + 'static,
        late: impl Fn(VmId) + Send + Sync + 'static,
    ) -> Late {
        let mut all = Late::default();
        if vms.is_empty() {
            return all;
        }
        let way = Arc::new(Shared::new(Way { left: vms, at: None, thread: 0, over: false }, &self.clock));
        let (work, late) = (Arc::new(work), Arc::new(late));
        loop {
            if self.behind.load(Ordering::SeqCst) > BEHIND {
                // They were told of when they were left behind.
                all.unreached.extend(way.change(|way| std::mem::take(&mut way.left)));
                return all;
            }
            let number = way.look(|way| way.thread);
            let walk = {
                let (line, way) = (self.clone(), Arc::clone(&way));
                let (work, late) = (Arc::clone(&work), Arc::clone(&late));
                move || line.walk(&way, number, &*work, &*late)
            };
            if let Err(e) = self.clock.start("recovery", Box::new(walk.clone())) {
                tracing::error!(
                    MESSAGE_ID = message::INTERNAL_ERROR, error = %e,
                    "no thread for what was begun on VMs: a VM that libvirt does not answer of would hold up the others"
                );
                walk();
            }
            let Some((vm, before)) = self.hangs(&way) else { return all };
            all.behind.insert(vm);
            if before >= BEHIND {
                all.unreached = way.change(|way| std::mem::take(&mut way.left));
                tell(vm, &all.unreached);
                return all;
            }
            tell(vm, &BTreeSet::new());
        }
    }

    fn walk(&self, way: &Shared<Way>, number: u32, work: &dyn Fn(VmId), late: &dyn Fn(VmId)) {
        let mut done = None;
        loop {
            // In one step: who is left behind takes no other one.
            let next = way.change(|way| {
                if way.thread != number {
                    return Err(done);
                }
                let next = way.left.pop_first();
                way.at = next.map(|vm| (vm, self.clock.elapsed()));
                way.over = next.is_none();
                Ok(next)
            });
            match next {
                Ok(Some(vm)) => {
                    caught(|| work(vm));
                    done = Some(vm);
                }
                Ok(None) => return,
                Err(behind) => {
                    self.behind.fetch_sub(1, Ordering::SeqCst);
                    behind.into_iter().for_each(late);
                    return;
                }
            }
        }
    }

    /// Waits until all is done; one that takes too long is left behind, beside so many others.
    fn hangs(&self, way: &Shared<Way>) -> Option<(VmId, u32)> {
        loop {
            let seen = way.look(|way| way.at);
            let until =
                seen.map_or_else(|| self.clock.elapsed(), |(_, since)| since).saturating_add(PATIENCE);
            let moved = way.wait_until(until, |way| (way.over || way.at != seen).then_some(way.over));
            match moved {
                Some(true) => return None,
                Some(false) => {}
                None => {
                    let hangs = way.change(|way| {
                        let (vm, _) = way.at.filter(|_| way.at == seen)?;
                        way.thread += 1;
                        way.at = None;
                        Some((vm, self.behind.fetch_add(1, Ordering::SeqCst)))
                    });
                    if hangs.is_some() {
                        return hangs;
                    }
                }
            }
        }
    }
}

fn tell(vm: VmId, unreached: &BTreeSet<VmId>) {
    let others = if unreached.is_empty() {
        "other VMs go on".to_owned()
    } else {
        let names = unreached.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "as it is not the only one, it is not looked now at what was begun on {names}: that is done before the next job \
             of each, and tried again every few minutes"
        )
    };
    tracing::error!(
        MESSAGE_ID = message::VM_STUCK, VIRTSNAP_VM_UUID = %vm,
        "what was begun on VM {vm} cannot be settled yet: libvirt has not answered for {} s, as where the VM's QEMU or its \
         storage hangs. Nothing else is begun on this VM until it does; {others}. `virsh domcontrol {vm}` says since when \
         QEMU has been busy; `virsh destroy {vm}`, which takes the VM's power away, or a restart of libvirtd ends the call",
        PATIENCE.as_secs()
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use uuid::Uuid;

    use super::*;
    use crate::{
        clock::SystemClock,
        threads::{Bell, SystemBell},
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A clock that stands until a test has time pass.
    #[derive(Debug, Default)]
    struct Standing {
        elapsed: Mutex<Duration>,
        bells: Mutex<Vec<Arc<SystemBell>>>,
    }

    impl Standing {
        fn pass(&self, time: Duration) {
            *self.elapsed.lock().unwrap() += time;
            self.bells.lock().unwrap().iter().for_each(|bell| bell.ring());
        }
    }

    impl Clock for Standing {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn elapsed(&self) -> Duration {
            *self.elapsed.lock().unwrap()
        }

        fn pause(&self, _: Duration) {}

        fn bell(&self) -> Arc<dyn Bell> {
            let bell = Arc::new(SystemBell::default());
            self.bells.lock().unwrap().push(Arc::clone(&bell));
            bell
        }
    }

    fn vms(numbers: &[u128]) -> BTreeSet<VmId> {
        numbers.iter().map(|n| VmId(Uuid::from_u128(*n))).collect()
    }

    #[test]
    fn all_are_done_in_order_and_a_bug_at_one_is_no_other_s() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let (send, done) = mpsc::channel();
        let send = Mutex::new(send);
        let all = vms(&[1, 2, 3]);
        let work = move |vm: VmId| {
            assert_ne!(vm, VmId(Uuid::from_u128(2)), "a bug, as arranged");
            send.lock().unwrap().send(vm).unwrap();
        };
        assert_eq!(Line::new(&clock).each(all, work, |_| unreachable!()), Late::default());
        assert_eq!(done.iter().collect::<BTreeSet<_>>(), vms(&[1, 3]));
    }

    #[test]
    fn those_that_hang_are_left_behind_and_not_too_many() {
        let time = Arc::new(Standing::default());
        let clock: Arc<dyn Clock> = time.clone();
        let line = Line::new(&clock);
        let (send, news) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let (said, gate) = (Mutex::new(send.clone()), Mutex::new(gate));
        let hang = move |vm: VmId| {
            said.lock().unwrap().send((vm, false)).unwrap();
            if vms(&[1, 3]).contains(&vm) {
                // From then on it has hung for longer than anybody waits.
                time.pass(PATIENCE);
                let _ = gate.lock().unwrap().recv();
            }
        };
        let told = Mutex::new(send);
        let late =
            line.each(vms(&[1, 2, 3, 4]), hang, move |vm| told.lock().unwrap().send((vm, true)).unwrap());
        assert_eq!(late, Late { behind: vms(&[1, 3]), unreached: vms(&[4]) });
        // Nor is another one left behind the next time.
        let next = line.each(vms(&[5, 6]), |vm| panic!("{vm} is looked at"), |_| {});
        assert_eq!(next, Late { behind: BTreeSet::new(), unreached: vms(&[5, 6]) });
        drop(open);
        let mut back = BTreeSet::new();
        while back.len() < 2 {
            let (vm, is_late) = news.recv_timeout(DEADLINE).unwrap();
            assert_ne!(vm, VmId(Uuid::from_u128(4)));
            back.extend(is_late.then_some(vm));
        }
        assert_eq!(back, vms(&[1, 3]));
        assert_eq!(line.behind.load(Ordering::SeqCst), 0);
    }
}
