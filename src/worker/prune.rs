//! Pruning one VM: decide anew on fresh facts, then step by step, the oldest first, and
//! each run of consecutive ones in one merge.

use super::{Stop, Work, delete, merge};
use crate::{
    core::{
        doubt,
        inventory::VmRecord,
        job::Failure,
        merge::Step,
        model::SnapshotName,
        prune::{Circumstances, Decision, decide},
        select::VmFacts,
        text::for_shell,
    },
    logging::message,
    reader,
};

#[expect(clippy::cast_precision_loss, reason = "a progress bar's precision")]
pub(super) fn run(work: &Work<'_>, all: bool) -> Result<(), Stop> {
    let tools = work.tools;
    // As long as one is not ended nothing else can be merged; what was left behind goes all the same.
    let unfinished = match merge::finish(work, &tools.hypervisor.vm(work.job.vm)?) {
        Ok(_) => None,
        Err(Stop::Failed(failure)) => Some(failure),
        Err(stop @ Stop::Cancelled(_)) => return Err(stop),
    };
    work.phase("deciding", None, None);
    let record = reader::read(tools.hypervisor.as_ref(), &tools.store, work.job.vm).map_err(|e| match e {
        reader::ReadError::Hypervisor(e) => Stop::from(e),
        reader::ReadError::Store(e) => Stop::from(e),
    })?;
    match record.known_since {
        None => {}
        Some(_) if all => tools.store.trust(record.id)?,
        Some(since) => {
            return Err(Stop::Failed(Failure::new(
                "StateLost",
                format!(
                    "no snapshot of VM {} was deleted: it has some that are older than the state database, which begins at \
                     {since}, so nobody knows whether a merge of them was cut short. If it is to be pruned all the same: {}",
                    record.name,
                    doubt::way_out(&record.name)
                ),
            )));
        }
    }
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
    let runs = if unfinished.is_some() { dropped(&decision) } else { runs(&record, &decision) };
    let mut failures: Vec<Failure> = unfinished.into_iter().collect();
    for (i, run) in runs.iter().enumerate() {
        work.safe_point()?;
        for name in run {
            let why = decision.sentences.iter().find(|s| s.name == *name).map_or("", |s| s.text.as_str());
            tracing::info!(
                VIRTSNAP_VM = %record.name, VIRTSNAP_VM_UUID = %record.id, VIRTSNAP_SNAPSHOT = %name,
                "pruning snapshot {name} of VM {}: {why}", record.name
            );
        }
        let share = (i as f64 / runs.len() as f64, (i + 1) as f64 / runs.len() as f64);
        work.phase("pruning", Some(share.0), run.first());
        match delete::all(work, run, share) {
            Ok(()) => {}
            Err(stop @ Stop::Cancelled(_)) => return Err(stop),
            // Since the decision; what else was to go with it goes with the next prune.
            Err(Stop::Failed(failure)) if failure.name == "Pinned" => {
                tracing::info!(VIRTSNAP_VM = %record.name, VIRTSNAP_VM_UUID = %record.id, "{}", failure.message);
            }
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

/// What goes without a merge.
fn dropped(decision: &Decision) -> Vec<Vec<SnapshotName>> {
    let drops = decision.plan.steps.iter().filter_map(|step| match step {
        Step::DropBranch { snapshot, .. } => Some(vec![snapshot.clone()]),
        Step::Merge { .. } | Step::DeleteInternal { .. } => None,
    });
    drops.collect()
}

/// What goes together, in order.
fn runs(record: &VmRecord, decision: &Decision) -> Vec<Vec<SnapshotName>> {
    let half_deleted = |name: &SnapshotName| record.snapshots.get(name).is_some_and(|s| s.half_deleted);
    let mut runs: Vec<Vec<SnapshotName>> = Vec::new();
    for step in &decision.plan.steps {
        match step {
            // What libvirt's own deletion left half done is ended for itself.
            Step::Merge { run, .. } if run.iter().any(half_deleted) => {
                runs.extend(run.iter().map(|name| vec![name.clone()]));
            }
            Step::Merge { run, .. } => runs.push(run.clone()),
            Step::DropBranch { snapshot, .. } | Step::DeleteInternal { snapshot, .. } => {
                runs.push(vec![snapshot.clone()]);
            }
        }
    }
    // And first: as long as it is not, libvirt's metadata forbids every other merge.
    runs.sort_by_key(|run| !run.iter().any(half_deleted));
    runs
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
            MESSAGE_ID = message::CHAIN_FULL, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id,
            "the keep rules want more snapshots of VM {} than max-chain has room for: {full} give way. Keep fewer, or \
             raise max-chain",
            vm.name
        );
    }
    let braked = by("max-delete", true);
    if !braked.is_empty() {
        tracing::warn!(
            MESSAGE_ID = message::PRUNE_HELD_BACK, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id,
            "more snapshots of VM {} are to go than max-delete allows in one prune: {braked} stay until the next one, or \
             until somebody runs `virtsnap prune {} --all`",
            vm.name, for_shell(&vm.name)
        );
    }
}
