//! Waking a stopped VM, and letting it sleep again.

use super::{Asked, Op, Sim, State};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Layer, Result, Slept, Wake},
};

impl State {
    fn wake(&mut self, vm: VmId) -> Result<()> {
        if self.machine(vm)?.managed_save {
            return Err(Error::managed_save());
        }
        let busy = |e: Error| Error::new(ErrorKind::Busy, e.message);
        self.check_bootable(vm).map_err(busy)?;
        self.set_state(vm, &[VmState::ShutOff], VmState::Paused).map_err(busy)
    }
}

impl Wake for Sim {
    fn wake(&self, vm: VmId) -> Result<()> {
        self.call(Asked::vm(Op::Wake, vm, ""), |s| s.wake(vm))
    }

    fn wake_on(&self, vm: VmId, chains: &[(String, Vec<Layer>)]) -> Result<()> {
        self.call(Asked::vm(Op::Wake, vm, "on other images"), |s| {
            for (target, chain) in chains {
                let on = s.machine(vm)?.drive(target)?.active.clone();
                if chain.first().is_none_or(|top| top.path != on) {
                    return Err(Error::new(ErrorKind::ChainMismatch, format!("disk {target} is on {on}")));
                }
            }
            s.wake(vm)?;
            for (target, chain) in chains {
                s.lend(vm, target, chain.get(1).map(|below| below.path.clone()))?;
            }
            Ok(())
        })
    }

    fn let_sleep(&self, vm: VmId) -> Result<Slept> {
        self.call(Asked::vm(Op::LetSleep, vm, ""), |s| match s.machine(vm)? {
            machine if machine.state == VmState::ShutOff => Ok(Slept::WasOff),
            machine if machine.state == VmState::Paused && !machine.ran => {
                s.flush(vm)?;
                s.power_off(vm).map(|()| Slept::Ended)
            }
            _ => Ok(Slept::Taken),
        })
    }

    fn life(&self, vm: VmId) -> Result<Option<u64>> {
        self.call(Asked::vm(Op::Life, vm, ""), |s| {
            let machine = s.machine(vm)?;
            Ok(machine.active().then_some(machine.life))
        })
    }
}
