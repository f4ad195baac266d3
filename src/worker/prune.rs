//! Pruning one VM: decide anew on fresh facts, then delete step by step, the oldest first.

use super::{Stop, Work, delete};
use crate::{
    core::{
        inventory::VmRecord,
        job::Failure,
        merge::Step,
        model::SnapshotName,
        prune::{Circumstances, Decision, decide},
        select::VmFacts,
    },
    reader,
};

#[expect(clippy::cast_precision_loss, reason = "a progress bar's precision")]
pub(super) fn run(work: &Work<'_>, all: bool) -> Result<(), Stop> {
    work.phase("deciding", None, None);
    let tools = work.tools;
    let record = reader::read(tools.hypervisor.as_ref(), &tools.store, work.job.vm).map_err(|e| match e {
        reader::ReadError::Hypervisor(e) => Stop::from(e),
        reader::ReadError::Store(e) => Stop::from(e),
    })?;
    let plan = work.settings.for_vm(&VmFacts { id: record.id, name: &record.name, tags: &record.tags });
    let now = tools.clock.now();
    let decision = decide(
        &record,
        &plan,
        Circumstances {
            max_chain: Some(work.settings.daemon.max_chain),
            last_plausible: tools.store.last_plausible()?,
            needed: work.needed,
            all,
            ..Circumstances::new(now)
        },
    );
    if let Some(fault) = &decision.clock {
        // Its time is not stored: else the next prune would take it for one that has passed, and delete.
        return Err(Stop::Failed(Failure::new(
            "ClockImplausible",
            format!(
                "no snapshot of VM {} was deleted, as the clock cannot be believed: {fault}; {}",
                record.name,
                fault.way_out(&record.name)
            ),
        )));
    }
    // A person may know better than the time that is stored, be it ahead or behind; who else comes only moves it on.
    let passed = if all { tools.store.set_last_plausible(now)? } else { tools.store.time_passed(now)? };
    (work.wire.passed)(passed);
    for held in &decision.plan.held {
        tracing::info!(
            VIRTSNAP_VM = %record.name, VIRTSNAP_VM_UUID = %record.id, VIRTSNAP_SNAPSHOT = %held.name,
            "snapshot {} of VM {} would go, but stays for now: {}", held.name, record.name, held.text()
        );
    }
    warn(&record, &decision);
    let mut names: Vec<SnapshotName> = Vec::new();
    for step in &decision.plan.steps {
        match step {
            Step::Merge { run, .. } => names.extend(run.iter().cloned()),
            Step::DropBranch { snapshot, .. } | Step::DeleteInternal { snapshot, .. } => {
                names.push(snapshot.clone());
            }
        }
    }
    // What was begun is finished first: as long as it is not, libvirt's metadata forbids every other merge.
    names.sort_by_key(|name| !record.snapshots.get(name).is_some_and(|s| s.half_deleted));
    let mut failures: Vec<Failure> = Vec::new();
    for (i, name) in names.iter().enumerate() {
        work.safe_point()?;
        let why = decision.sentences.iter().find(|s| s.name == *name).map_or("", |s| s.text.as_str());
        tracing::info!(
            VIRTSNAP_VM = %record.name, VIRTSNAP_VM_UUID = %record.id, VIRTSNAP_SNAPSHOT = %name,
            "pruning snapshot {name} of VM {}: {why}", record.name
        );
        work.phase("pruning", Some(i as f64 / names.len() as f64), Some(name));
        match delete::run(work, name) {
            Ok(()) => {}
            Err(Stop::Cancelled) => return Err(Stop::Cancelled),
            // One that does not go is no reason to keep the others: each is checked for itself.
            Err(Stop::Failed(failure)) => failures.push(failure),
        }
    }
    match failures.as_slice() {
        [] => Ok(()),
        [one] => Err(Stop::Failed(one.clone())),
        [first, more @ ..] => Err(Stop::Failed(Failure::new(
            first.name,
            format!("{} (and {} more could not be pruned either)", first.message, more.len()),
        ))),
    }
}

/// Says what is not as the policies want it, once for a prune.
fn warn(vm: &VmRecord, decision: &Decision) {
    let by = |rule: &str, keep: bool| {
        let of = decision.sentences.iter().filter(|s| s.keep == keep);
        let names: Vec<_> =
            of.filter(|s| s.reasons.iter().any(|(r, _, _)| r == rule)).map(|s| s.name.as_str()).collect();
        names.join(", ")
    };
    let full = by("chain-full", false);
    if !full.is_empty() {
        tracing::warn!(
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id,
            "the keep rules want more snapshots of VM {} than max-chain has room for: {full} give way. Keep fewer, or \
             raise max-chain",
            vm.name
        );
    }
    let braked = by("max-delete", true);
    if !braked.is_empty() {
        tracing::warn!(
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id,
            "more snapshots of VM {} are to go than max-delete allows in one prune: {braked} stay until the next one, or \
             until somebody runs `virtsnap prune --all`",
            vm.name
        );
    }
}
