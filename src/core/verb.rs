//! What whoever decides about it sees of a change: a verb, and what it is done to.

use super::{
    job::{AdoptJob, JobId},
    machine::{Change, Edit, Whose},
    model::{PolicyName, SnapshotName, VmId},
    view::View,
};

/// Makes the enumeration with, for each verb, the polkit action's name after `org.virtsnap1.` and what it comes to.
macro_rules! verbs {
    ($($(#[$doc:meta])+ $verb:ident = $action:literal, $doing:literal;)+) => {
        /// What may be allowed to somebody or not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Verb {
            $($(#[$doc])+ $verb,)+
        }

        impl Verb {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$verb,)+];

            /// The name of its polkit action.
            pub const fn action(self) -> &'static str {
                match self {
                    $(Self::$verb => concat!("org.virtsnap1.", $action),)+
                }
            }

            /// What one does, as it follows "may" and "to".
            pub const fn doing(self) -> &'static str {
                match self {
                    $(Self::$verb => $doing,)+
                }
            }
        }
    };
}

verbs! {
    /// To take a snapshot by hand.
    Create = "create", "take a snapshot";
    /// To delete a snapshot, or its metadata.
    Delete = "delete", "delete a snapshot";
    /// To put a VM back.
    Revert = "revert", "revert to a snapshot";
    /// To make another VM on a snapshot.
    Branch = "branch", "branch a VM off a snapshot";
    /// To make a VM independent of other VMs' images.
    Promote = "promote", "make a VM independent";
    /// To prune a VM.
    Prune = "prune", "prune snapshots";
    /// To hold a snapshot.
    Pin = "pin", "pin a snapshot";
    /// To take one's own pin off.
    Unpin = "unpin", "take a pin off a snapshot";
    /// To take somebody else's pin off.
    UnpinOthers = "unpin-others", "take the pins of others off a snapshot";
    /// To change what people say of a snapshot, its expiry included.
    Update = "update", "change a snapshot's description, tags or expiry";
    /// To take over what others made.
    Adopt = "adopt", "adopt what others made";
    /// To run a policy out of turn.
    RunPolicy = "run-policy", "run a policy";
    /// To have a policy not run, or run again.
    SuspendPolicy = "suspend-policy", "suspend or resume a policy";
    /// To end a job.
    CancelJob = "cancel-job", "cancel a job";
    /// To have all that nobody asked for held.
    Inhibit = "inhibit", "hold automatic runs";
    /// To read the configuration again.
    Reload = "reload", "reload the configuration";
}

/// A verb, and what it is done to. Who was allowed one was allowed no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matter {
    verb: Verb,
    vm: Option<VmId>,
    snapshot: Option<SnapshotName>,
    adopted: Option<AdoptJob>,
    new_vm: Option<String>,
    policy: Option<PolicyName>,
    job: Option<JobId>,
    /// What is announced.
    operation: Option<String>,
    /// Also what others made.
    foreign: bool,
    /// Also beyond what one prune may delete, by whatever clock.
    all: bool,
}

impl Matter {
    const fn plain(verb: Verb) -> Self {
        Self {
            verb,
            vm: None,
            snapshot: None,
            adopted: None,
            new_vm: None,
            policy: None,
            job: None,
            operation: None,
            foreign: false,
            all: false,
        }
    }

    /// That of a reload.
    pub const fn reload() -> Self {
        Self::plain(Verb::Reload)
    }

    /// That of what people say of a snapshot.
    pub fn update(vm: VmId, name: SnapshotName) -> Self {
        Self { vm: Some(vm), snapshot: Some(name), ..Self::plain(Verb::Update) }
    }

    /// That of a change, asked for by this user: whose name tells their own pins, and none of them if it is not known.
    pub fn of(change: &Change, user: Option<&str>) -> Self {
        let on_vm = |verb, vm: &VmId| Self { vm: Some(*vm), ..Self::plain(verb) };
        let on = |verb, vm, name: &SnapshotName| Self { snapshot: Some(name.clone()), ..on_vm(verb, vm) };
        let by = |verb, policy: &PolicyName, vm: &Option<VmId>| Self {
            vm: *vm,
            policy: Some(policy.clone()),
            ..Self::plain(verb)
        };
        match change {
            Change::Create { vm, name, .. } => Self { snapshot: name.clone(), ..on_vm(Verb::Create, vm) },
            Change::Delete { vm, name, foreign, .. } => {
                Self { foreign: *foreign, ..on(Verb::Delete, vm, name) }
            }
            Change::Forget { vm, name } => on(Verb::Delete, vm, name),
            Change::Describe { vm, name, .. } => Self::update(*vm, name.clone()),
            Change::Label { vm, name, edit } => on(verb_of(edit, user), vm, name),
            Change::Adopt { vm, adopt } => Self { adopted: Some(adopt.clone()), ..on_vm(Verb::Adopt, vm) },
            Change::Revert { vm, name, .. } => on(Verb::Revert, vm, name),
            Change::Branch { vm, job } => {
                Self { new_vm: Some(job.new_vm.clone()), ..on(Verb::Branch, vm, &job.name) }
            }
            Change::Promote { vm, .. } => on_vm(Verb::Promote, vm),
            Change::Prune { vm, all, .. } => Self { all: *all, ..on_vm(Verb::Prune, vm) },
            Change::Run { policy, vm } => by(Verb::RunPolicy, policy, vm),
            Change::Suspend { policy, vm, .. } | Change::Resume { policy, vm } => {
                by(Verb::SuspendPolicy, policy, vm)
            }
            Change::Before { vm, operation } => {
                Self { operation: Some(operation.clone()), ..on_vm(Verb::RunPolicy, vm) }
            }
            Change::Inhibit { .. } => Self::plain(Verb::Inhibit),
            Change::Cancel(job) => Self { job: Some(*job), ..Self::plain(Verb::CancelJob) },
        }
    }

    /// What is done.
    pub const fn verb(&self) -> Verb {
        self.verb
    }

    /// What it is done to, by the names of polkit's details; with a job comes what it works on. What is not about one
    /// VM has no `vm`, so that no rule for one VM takes it for that one's.
    pub fn details(&self, view: &View) -> Vec<(&'static str, String)> {
        let job = self.job.and_then(|id| view.jobs.get(&id));
        let vm = self.vm.or_else(|| job.map(|j| j.vm));
        let name = vm.and_then(|vm| view.vms.get(&vm)).map(|vm| vm.record.name.clone());
        let announced = self.operation.as_ref().zip(vm.and_then(|vm| view.vms.get(&vm)));
        let before = announced.and_then(|(operation, vm)| vm.before.get(operation));
        let before = before.map(joined);
        let said = |so: bool| so.then(|| "true".to_owned());
        let adopted = self.adopted.as_ref();
        let counted = adopted.filter(|adopt| !adopt.policies.is_empty()).map(|a| joined(&a.policies));
        let snapshot = self.snapshot.as_ref().or(adopted.and_then(only));
        let snapshot = snapshot.or_else(|| job.and_then(|j| j.snapshot.as_ref()));
        // As JSON, which a rule can take apart whatever is in a name; all of them, as a rule goes by what it is told.
        let names = adopted.filter(|adopt| !adopt.snapshots.is_empty());
        let names =
            names.map(|a| a.snapshots.iter().map(SnapshotName::as_str).collect::<serde_json::Value>());
        // To take away the metadata alone says no more than which one it is about.
        let by_others = self.verb == Verb::Delete && {
            let record = vm.and_then(|vm| view.vms.get(&vm)).zip(snapshot);
            let record = record.and_then(|(vm, name)| vm.record.snapshots.get(name));
            record.is_some_and(|record| !record.snapshot.managed)
        };
        let all = [
            ("vm", name),
            ("vm-uuid", vm.map(|vm| vm.to_string())),
            ("snapshot", snapshot.map(ToString::to_string)),
            ("snapshots", names.map(|names| names.to_string())),
            ("orphans", said(adopted.is_some_and(|adopt| !adopt.strays.is_empty()))),
            ("layers", said(adopted.is_some_and(|adopt| adopt.layers))),
            ("new-vm", self.new_vm.clone()),
            ("policy", self.policy.as_ref().map(ToString::to_string).or(before).or(counted)),
            ("job", self.job.map(|id| id.to_string())),
            ("operation", self.operation.clone().or_else(|| job.map(|j| j.operation.to_owned()))),
            ("started-by-uid", job.map(|j| j.asker.uid.to_string())),
            ("foreign", said(self.foreign || by_others)),
            ("all", said(self.all)),
        ];
        all.into_iter().filter_map(|(key, value)| value.map(|v| (key, v))).collect()
    }

    /// What is done to what, in words, as it follows "may" and "to".
    pub fn sentence(&self, view: &View) -> String {
        let of: Vec<String> = self
            .details(view)
            .into_iter()
            .filter_map(|(key, value)| match key {
                "vm" => Some(format!("VM {value:?}")),
                "new-vm" => Some(format!("new VM {value:?}")),
                "job" => Some(format!("job {value}")),
                "operation" => self.operation.as_ref().map(|announced| format!("before {announced:?}")),
                "foreign" => Some("made by others".to_owned()),
                "all" => Some("however many".to_owned()),
                "snapshot" => Some(format!("snapshot {}", shown(&value))),
                "snapshots" => self.adopted.as_ref().filter(|adopt| only(adopt).is_none()).map(several),
                "orphans" => Some("files that belong to nobody".to_owned()),
                "layers" => Some("layers without a snapshot".to_owned()),
                "policy" => Some(format!("{key} {value:?}")),
                _ => None,
            })
            .collect();
        if of.is_empty() {
            self.verb.doing().to_owned()
        } else {
            format!("{} ({})", self.verb.doing(), of.join(", "))
        }
    }
}

/// The snapshot, where it is about one and about nothing else.
fn only(adopt: &AdoptJob) -> Option<&SnapshotName> {
    match &adopt.snapshots[..] {
        [one] if adopt.strays.is_empty() && !adopt.layers => Some(one),
        _ => None,
    }
}

/// No policy's name has a comma.
fn joined<'a>(policies: impl IntoIterator<Item = &'a PolicyName>) -> String {
    policies.into_iter().map(PolicyName::as_str).collect::<Vec<_>>().join(",")
}

/// So many names stand in a sentence.
const NAMED: usize = 3;

/// Of more than one snapshot the first few names.
fn several(adopt: &AdoptJob) -> String {
    let names: Vec<_> = adopt.snapshots.iter().take(NAMED).map(|name| shown(name.as_str())).collect();
    let more = match adopt.snapshots.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("snapshots {}{more}", names.join(", "))
}

/// A name in a sentence. Who asks may have made it up: it is cut where no snapshot of ours has more.
fn shown(name: &str) -> String {
    match name.char_indices().nth(SnapshotName::MAX_NEW) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

fn verb_of(edit: &Edit, user: Option<&str>) -> Verb {
    match edit {
        Edit::Pin(_) => Verb::Pin,
        Edit::Unpin(Whose::Owner(owner)) if user == Some(owner) => Verb::Unpin,
        Edit::Unpin(_) => Verb::UnpinOthers,
        Edit::Set { .. } => Verb::Update,
    }
}
