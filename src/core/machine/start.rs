//! What the machine begins with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Failed, Owed, Place};
use crate::core::{
    awaited::Awaited,
    deferred::Deferred,
    model::{PolicyName, VmId},
    settings::Settings,
    suspend::OfPolicy,
};

/// Where the daemon begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// The settings.
    pub settings: Arc<Settings>,
    /// How far each policy got.
    pub places: BTreeMap<PolicyName, Place>,
    /// What each policy owes.
    pub owed: BTreeMap<PolicyName, BTreeMap<VmId, Owed>>,
    /// What waited when an earlier life was told to stop.
    pub deferred: Vec<Deferred>,
    /// What failed last on VMs, and was not made up for.
    pub failed: BTreeMap<VmId, Failed>,
    /// How policies stand on VMs.
    pub standings: BTreeMap<PolicyName, OfPolicy>,
    /// What policies await of VMs.
    pub watched: BTreeMap<VmId, BTreeMap<PolicyName, Awaited>>,
    /// The newest time that is known to have passed.
    pub last_plausible: Option<Timestamp>,
    /// It is the daemon's first start since the host's: `@reboot` fires.
    pub fresh_boot: bool,
    /// The user that jobs of our own run for.
    pub own_uid: u32,
    /// VMs that may be frozen from before.
    pub frozen: BTreeSet<VmId>,
}

impl Start {
    /// Of a daemon that nothing is known of from before, run by root, on a host that was up already.
    pub fn first(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            places: BTreeMap::new(),
            owed: BTreeMap::new(),
            deferred: Vec::new(),
            failed: BTreeMap::new(),
            standings: BTreeMap::new(),
            watched: BTreeMap::new(),
            last_plausible: None,
            fresh_boot: false,
            own_uid: 0,
            frozen: BTreeSet::new(),
        }
    }
}
