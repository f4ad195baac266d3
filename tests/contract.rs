//! One contract for everything that implements [`virtsnap::hypervisor::Hypervisor`].
//!
//! The engine is tested against the simulator, so the simulator must do what real hosts do: each contract is
//! written once and runs against every driver. What a driver cannot show is declared where it is
//! instantiated, and a test of its own holds it to exactly that.
//!
//! A further driver implements `contract::Rig` and instantiates `contract::contracts!` below.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the contracts are tests, in functions of their own"
)]

#[path = "contract/mod.rs"]
mod contract;
#[allow(unused_macros, reason = "the contracts have a macro of their own")]
mod harness;

mod sim {
    crate::contract::contracts!(crate::contract::sim::SimRig::new(), cannot: [NativeRevert]);
}

mod testdriver {
    crate::contract::contracts!(
        crate::contract::testdriver::TestRig::new(),
        cannot: [Images, Agent, AgentTrouble, Windows, Mismatch, Branches, MergeTrouble, Disconnect, RevertDisks, NativeRevert]
    );
}

mod trixie {
    use crate::{contract::real::RealRig, harness::Suite};

    crate::contract::contracts!(by group RealRig::new(Suite::Trixie), cannot: [Windows]);
}

mod bookworm {
    use crate::{contract::real::RealRig, harness::Suite};

    crate::contract::contracts!(by group RealRig::new(Suite::Bookworm), cannot: [Windows, RevertDisks, NativeRevert]);
}
