//! What the store says was begun: nothing, and the journal says so, where it cannot be read.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    core::model::VmId,
    logging::message,
    store::{Begun, Intent, StoreError},
    worker::Tools,
};

pub(super) fn intents(tools: &Tools) -> Vec<Intent> {
    read("what was begun", tools.store.intents())
}

/// The VMs with merges.
pub(super) fn merges(tools: &Tools) -> BTreeSet<VmId> {
    let merge = |i: &Intent| matches!(i.what, Begun::Merge(_));
    intents(tools).into_iter().filter(merge).map(|i| i.vm).collect()
}

pub(super) fn frozen(tools: &Tools) -> BTreeSet<VmId> {
    read("which VMs may be frozen", tools.store.frozen())
}

pub(super) fn awake(tools: &Tools) -> BTreeSet<VmId> {
    read("which VMs may be awake", tools.store.awake())
}

pub(super) fn stilled(tools: &Tools) -> BTreeMap<VmId, u64> {
    read("which VMs' CPUs may stand still", tools.store.stilled())
}

/// The VMs with disks that were copied and may not be whole.
pub(super) fn unsure(tools: &Tools) -> BTreeSet<VmId> {
    let unsure = read("which disks were copied and may not be whole", tools.store.unsure());
    unsure.into_iter().map(|disk| disk.vm).collect()
}

pub(super) fn redefined(tools: &Tools) -> BTreeSet<VmId> {
    read("whose metadata was being changed", tools.store.redefined())
}

pub(super) fn hooked(tools: &Tools) -> Vec<VmId> {
    read("which hooks were begun", tools.store.hooked())
}

fn read<T: Default>(what: &str, answer: Result<T, StoreError>) -> T {
    answer.unwrap_or_else(|e| {
        tracing::error!(MESSAGE_ID = message::STORE_FAILED, error = %e, "cannot read {what}");
        T::default()
    })
}
