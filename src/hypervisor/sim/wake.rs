//! Waking a stopped VM, and letting it sleep again.

use super::{Asked, Op, Sim};
use crate::{
    core::model::{VmId, VmState},
    hypervisor::{Error, ErrorKind, Result, Wake},
};

impl Wake for Sim {
    fn wake(&self, vm: VmId) -> Result<()> {
        self.call(Asked::vm(Op::Wake, vm, ""), |s| {
            let busy = |e: Error| Error::new(ErrorKind::Busy, e.message);
            s.check_bootable(vm).map_err(busy)?;
            s.set_state(vm, &[VmState::ShutOff], VmState::Paused).map_err(busy)
        })
    }

    fn let_sleep(&self, vm: VmId) -> Result<()> {
        self.call(Asked::vm(Op::LetSleep, vm, ""), |s| match s.machine(vm)?.state {
            VmState::ShutOff => Ok(()),
            VmState::Paused => s.power_off(vm),
            state => Err(Error::new(ErrorKind::Busy, format!("the VM is {state} now: somebody has it"))),
        })
    }

    fn life(&self, vm: VmId) -> Result<Option<u64>> {
        self.call(Asked::vm(Op::Life, vm, ""), |s| {
            let machine = s.machine(vm)?;
            Ok(machine.active().then_some(machine.life))
        })
    }
}
