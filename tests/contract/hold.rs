//! Holding a driver to contracts: one, or several on one rig.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use super::{Capability, Rig};

/// Runs one contract if the driver can show it; whether it can.
pub(crate) fn hold(rig: &mut dyn Rig, name: &str, needs: Needs, contract: fn(&mut dyn Rig)) -> bool {
    let can = rig.capabilities();
    let lacking = needs.into_iter().flatten().find(|c| !can.contains(c));
    match lacking {
        Some(lacking) => {
            println!("{name}: not shown here, since this driver has declared not to have {lacking:?}");
        }
        None => contract(rig),
    }
    lacking.is_none()
}

/// What all contracts of a group need, and what one needs beside that.
pub(crate) type Needs = [&'static [Capability]; 2];
/// A contract: its name, what it needs, and how it is held.
pub(crate) type Contract = (&'static str, Needs, fn(&mut dyn Rig));

/// Runs several contracts one after the other, and fails at the end with all that failed.
pub(crate) fn hold_all(rig: &mut dyn Rig, contracts: &[Contract]) {
    let mut failed = Vec::new();
    for (name, needs, contract) in contracts {
        let began = Instant::now();
        // The panic's message and place are on stderr already, right after this.
        println!("{name}");
        let held = catch_unwind(AssertUnwindSafe(|| hold(rig, name, *needs, *contract)));
        let so = match held {
            Ok(true) => "held",
            Ok(false) => "not shown",
            Err(_) => "BROKEN",
        };
        println!("{name}: {so} in {:.1?}", began.elapsed());
        failed.extend(held.is_err().then_some(*name));
        rig.tidy();
    }
    assert!(failed.is_empty(), "{} of {} are broken: {}", failed.len(), contracts.len(), failed.join(", "));
}

/// What a driver cannot do must be what was declared for it, no more and no less.
pub(crate) fn declared(rig: &dyn Rig, cannot: &[Capability]) {
    let can = rig.capabilities();
    let lacking: BTreeSet<_> = Capability::ALL.into_iter().filter(|c| !can.contains(c)).collect();
    assert_eq!(lacking, cannot.iter().copied().collect());
}
