//! What holds: all files put together, and what of it is for one VM.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use jiff::tz::TimeZone;

use super::{
    Environment,
    check::summary,
    diagnostic::Place,
    explanation::{About, Explanation},
    fragment::Keys,
    keys::apply_all,
};
use crate::core::{
    model::{PolicyName, VmId},
    policy::{Policy, Source, VmSettings},
    select::{SelectorSet, Verdict, VmFacts, parse_uuid},
};

/// `[daemon]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Daemon {
    /// Which libvirt.
    pub uri: String,
    /// The zone of policies that name none.
    pub timezone: TimeZone,
    /// Jobs at once on this host.
    pub max_jobs: u32,
    /// Guests frozen at once.
    pub max_frozen: u32,
    /// Below it, no new snapshot.
    pub min_free: MinFree,
    /// Layers under one disk, the base included.
    pub max_chain: u32,
    /// Where metrics are written for `node_exporter`'s textfile collector; `None`: nowhere.
    pub metrics_textfile: Option<PathBuf>,
    /// The directory of hooks.
    pub hooks: PathBuf,
    /// They are run while guests are frozen, too.
    pub hooks_frozen: bool,
}

/// How much of a file system must stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// So much of its size; 0 is no check.
    Percent(u8),
    /// So many bytes.
    Bytes(u64),
}

impl MinFree {
    /// The bytes that must stay free on a file system of `size` bytes.
    pub fn bytes_of(self, size: u64) -> u64 {
        match self {
            // Divided first: sizes times 99 may not fit.
            Self::Percent(percent) => size / 100 * u64::from(percent) + size % 100 * u64::from(percent) / 100,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// How many snapshots can stay on a chain of so many layers after a prune: one layer is the base, and one is left for
/// the snapshot that comes next. The newest good one stays whatever the number.
pub const fn room(max_chain: u32) -> u32 {
    if max_chain > 3 { max_chain - 2 } else { 1 }
}

impl Daemon {
    /// How many snapshots can stay on a VM's chain after a prune.
    pub const fn room(&self) -> u32 {
        room(self.max_chain)
    }

    /// What holds where the files say nothing.
    pub fn defaults(environment: &Environment) -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            timezone: environment.timezone.clone(),
            max_jobs: 2,
            max_frozen: environment.cores.max(1),
            min_free: MinFree::Percent(10),
            max_chain: 16,
            metrics_textfile: None,
            hooks: PathBuf::from("/etc/virtsnap/hooks.d"),
            hooks_frozen: false,
        }
    }
}

/// The key of a `[vm.KEY]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum VmKey {
    /// The VM of this name, exactly.
    Name(String),
    /// The VM of this UUID, whatever its name.
    Uuid(VmId),
}

impl VmKey {
    /// A UUID in its usual form is one, all else is a name.
    pub fn new(text: &str) -> Self {
        parse_uuid(text).map_or_else(|| Self::Name(text.to_owned()), Self::Uuid)
    }
}

impl fmt::Display for VmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Uuid(id) => id.fmt(f),
        }
    }
}

/// A `[vm.KEY]`.
#[derive(Debug, Clone, PartialEq)]
pub struct VmEntry {
    /// What belongs to the VM itself.
    pub settings: VmSettings,
    pub(super) place: Place,
    pub(super) disks: Option<Place>,
    pub(super) max_size: Option<Place>,
    /// By policy: where its name stands, and the exceptions to it.
    pub(super) exceptions: BTreeMap<PolicyName, (Place, Keys)>,
}

/// What is known of a policy beside what it says.
#[derive(Debug, Clone)]
pub(super) struct Detail {
    selectors: SelectorSet,
    /// Each selector's text and line.
    pub(super) selector_places: Vec<Place>,
    selector_sources: Vec<Source>,
    pub(super) keys: Keys,
    pub(super) place: Option<Place>,
}

impl Detail {
    pub(super) fn new(
        policy: &Policy,
        keys: Keys,
        place: Option<Place>,
        selector_places: Vec<Place>,
    ) -> Self {
        let mut selector_sources: Vec<_> = selector_places.iter().map(Place::source).collect();
        selector_sources.resize(policy.vms.len(), policy.source.clone());
        let selectors = SelectorSet::new(&policy.vms);
        Self { selectors, selector_places, selector_sources, keys, place }
    }
}

/// Everything that the files say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// All policies.
    pub policies: BTreeMap<PolicyName, Arc<Policy>>,
    /// All `[vm.*]`.
    pub vms: BTreeMap<VmKey, VmEntry>,
    /// What hardly was meant by the files, as it was found when they were read: one line each.
    pub warnings: Vec<String>,
    pub(super) details: BTreeMap<PolicyName, Detail>,
}

/// What holds for one VM, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct VmPlan {
    /// Its policies by name, each with the VM's exceptions.
    pub policies: Vec<Arc<Policy>>,
    /// The disks to snapshot; `None`: all writable ones.
    pub disks: Option<Vec<String>>,
    /// A limit over all its policies' snapshots, in bytes.
    pub max_size: Option<u64>,
    /// Where each part of it comes from.
    pub why: Vec<Explanation>,
}

impl Settings {
    /// Settings that do not come from files.
    pub fn new(daemon: Daemon, policies: impl IntoIterator<Item = Policy>) -> Self {
        let policies: BTreeMap<_, _> = policies.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect();
        let details = policies
            .iter()
            .map(|(name, policy)| (name.clone(), Detail::new(policy, Keys::new(), None, Vec::new())))
            .collect();
        Self { daemon, policies, vms: BTreeMap::new(), warnings: Vec::new(), details }
    }

    /// True if a policy selects a VM.
    pub fn selects(&self, policy: &PolicyName, vm: &VmFacts<'_>) -> bool {
        matches!(self.verdict(policy, vm), Verdict::Selected(_))
    }

    fn verdict(&self, policy: &PolicyName, vm: &VmFacts<'_>) -> Verdict {
        self.details.get(policy).map_or(Verdict::NotSelected, |d| d.selectors.verdict(vm))
    }

    /// True if the selector at `index` of a policy matches a VM, `!` or not.
    pub(super) fn selector_matches(&self, policy: &PolicyName, index: usize, vm: &VmFacts<'_>) -> bool {
        self.details.get(policy).is_some_and(|d| d.selectors.matches(index, vm))
    }

    /// The `[vm.*]` for a VM, the one that wins last: that of its UUID.
    pub(super) fn entries(&self, vm: &VmFacts<'_>) -> impl Iterator<Item = &VmEntry> {
        let by_name = self.vms.get(&VmKey::Name(vm.name.to_owned()));
        by_name.into_iter().chain(self.vms.get(&VmKey::Uuid(vm.id)))
    }

    /// What holds for one VM, and why.
    pub fn for_vm(&self, vm: &VmFacts<'_>) -> VmPlan {
        let mut plan = VmPlan { policies: Vec::new(), disks: None, max_size: None, why: Vec::new() };
        for (name, policy) in &self.policies {
            let selected = self.explain_selection(name, policy, vm, &mut plan.why);
            let mut policy = Arc::clone(policy);
            for entry in self.entries(vm) {
                let Some((place, exceptions)) = entry.exceptions.get(name) else { continue };
                if !selected {
                    plan.why.push(Explanation {
                        about: About::Unused,
                        policy: Some(name.clone()),
                        key: None,
                        text: name.to_string(),
                        source: place.source(),
                        instead_of: None,
                    });
                    continue;
                }
                self.explain_exceptions(name, exceptions, &mut plan.why);
                apply_all(&mut policy, exceptions.values());
            }
            if selected {
                plan.policies.push(policy);
            }
        }
        for entry in self.entries(vm) {
            if let Some(place) = &entry.disks {
                plan.disks.clone_from(&entry.settings.disks);
                explain_set("disks", place, &mut plan.why);
            }
            if let Some(place) = &entry.max_size {
                plan.max_size = entry.settings.max_size;
                explain_set("max-size", place, &mut plan.why);
            }
        }
        plan
    }

    /// Why things are for one VM as they are, and what they come to.
    pub fn explain(&self, vm: &VmFacts<'_>) -> Vec<Explanation> {
        let plan = self.for_vm(vm);
        let holds = plan.policies.iter().map(|policy| Explanation {
            about: About::Holds,
            policy: Some(policy.name.clone()),
            key: None,
            text: summary(policy),
            source: policy.source.clone(),
            instead_of: None,
        });
        plan.why.into_iter().chain(holds).collect()
    }

    fn explain_selection(
        &self,
        name: &PolicyName,
        policy: &Policy,
        vm: &VmFacts<'_>,
        why: &mut Vec<Explanation>,
    ) -> bool {
        let said = |index: usize| {
            let text = policy.vms.get(index).map(ToString::to_string).unwrap_or_default();
            let source = self.details.get(name).and_then(|d| d.selector_sources.get(index));
            (text, source.unwrap_or(&policy.source).clone())
        };
        let (about, (text, source), instead_of) = match self.verdict(name, vm) {
            Verdict::Selected(by) => (About::Selected, said(by), None),
            Verdict::Excluded { by, although } => (About::Excluded, said(by), Some(said(although))),
            Verdict::NotSelected => (About::NotSelected, (String::new(), policy.source.clone()), None),
        };
        why.push(Explanation { about, policy: Some(name.clone()), key: None, text, source, instead_of });
        about == About::Selected
    }

    fn explain_exceptions(&self, name: &PolicyName, exceptions: &Keys, why: &mut Vec<Explanation>) {
        for given in exceptions.values() {
            // An earlier exception, else what the policy itself says, else the default.
            let earlier = why
                .iter()
                .rev()
                .find(|e| e.policy.as_ref() == Some(name) && e.key.as_deref() == Some(given.key))
                .map(|e| (e.text.clone(), e.source.clone()));
            let own = || {
                let given = self.details.get(name)?.keys.get(given.key)?;
                Some((one_line(given.place.text()), given.source.clone()))
            };
            why.push(Explanation {
                about: About::Overridden,
                policy: Some(name.clone()),
                key: Some(given.key.to_owned()),
                text: one_line(given.place.text()),
                source: given.source.clone(),
                instead_of: earlier.or_else(own),
            });
        }
    }
}

fn explain_set(key: &str, place: &Place, why: &mut Vec<Explanation>) {
    let instead_of = why
        .iter()
        .position(|e| e.about == About::Set && e.key.as_deref() == Some(key))
        .map(|index| why.remove(index))
        .map(|e| (e.text, e.source));
    why.push(Explanation {
        about: About::Set,
        policy: None,
        key: Some(key.to_owned()),
        text: one_line(place.text()),
        source: place.source(),
        instead_of,
    });
}

/// A value may be a list over several lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
