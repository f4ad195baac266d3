//! What the engine tells people: systemd's status line, and the log.

use std::{collections::btree_set, fmt::Write as _};

use jiff::{SignedDuration, Timestamp};

use crate::config::show_duration;
use crate::core::{
    health::Health,
    inhibit::Inhibitor,
    job::{Job, JobState, Operation, Outcome},
    machine::Note,
    model::{PolicyName, SnapshotName, VmId, VmState},
    settings::Settings,
    suspend::Suspension,
    text::for_shell,
    view::View,
};
use crate::logging::message;

/// One line for `systemctl status`.
pub(super) fn status_line(view: &View, settings: &Settings, store_fails: bool) -> String {
    if store_fails {
        return "Nothing can be written down, so nothing is begun: is the disk full, or read-only?"
            .to_owned();
    }
    if !view.manager.hypervisor_connected {
        return format!("Waiting for libvirt at {}", view.manager.hypervisor_uri);
    }
    let next = view.manager.next_run.map_or_else(
        || "no run is scheduled".to_owned(),
        |at| {
            format!(
                "next run {}",
                at.to_zoned(settings.daemon.timezone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z")
            )
        },
    );
    let running = view.jobs.values().filter(|j| j.state == JobState::Running).count();
    format!("{} VMs, {} policies, {running} jobs at work; {next}", view.vms.len(), view.policies.len())
}

fn put_off(policy: &PolicyName, vm: VmId, until: Timestamp) {
    tracing::info!(
        VIRTSNAP_POLICY = %policy, VIRTSNAP_VM_UUID = %vm,
        "policy {policy} tries VM {vm}, which is busy or in a state that it is not for, again at {until:.0}"
    );
}

fn deferred(jobs: usize, kept_for: SignedDuration) {
    tracing::info!(
        "jobs that were asked for and have not begun: {jobs}. They are kept: a virtsnapd that starts within {} does them",
        show_duration(kept_for)
    );
}

/// The journal's entry for a note, with its fields.
pub(super) fn log(note: &Note) {
    match note {
        Note::Fired { policy, at, vms, suspended, missed } => {
            let mut more =
                if *missed == 0 { String::new() } else { format!(", standing for {missed} missed ones too") };
            if *suspended > 0 {
                let _ = write!(more, "; it is suspended on {suspended} more");
            }
            tracing::info!(VIRTSNAP_POLICY = %policy, "policy {policy} runs for {at} on {vms} VMs{more}");
        }
        Note::Health { vm, vm_name, health: Health::Ok, .. } => {
            tracing::info!(
                MESSAGE_ID = message::VM_HEALTHY, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
                "nothing is wrong with VM {vm_name} any more"
            );
        }
        Note::Health { vm, vm_name, health, text } => {
            tracing::error!(
                MESSAGE_ID = message::VM_UNHEALTHY, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
                "VM {vm_name} is {health}: {text}"
            );
        }
        Note::Warning(line) => tracing::warn!(MESSAGE_ID = message::CONFIGURATION_WARNING, "{line}"),
        Note::Skipped { policy, at, why } => {
            tracing::warn!(
                MESSAGE_ID = message::RUN_MISSED, VIRTSNAP_POLICY = %policy,
                "policy {policy} did not run at {at}: {why}"
            );
        }
        Note::Dropped { policy, vm, at, done: true } => {
            tracing::info!(
                VIRTSNAP_POLICY = %policy, VIRTSNAP_VM_UUID = %vm,
                "the run of policy {policy} for {at} on VM {vm} was done before the daemon restarted"
            );
        }
        Note::Dropped { policy, vm, at, done: false } => {
            tracing::warn!(
                MESSAGE_ID = message::RUN_MISSED, VIRTSNAP_POLICY = %policy, VIRTSNAP_VM_UUID = %vm,
                "policy {policy} did not run for {at} on VM {vm}: the daemon was off for too long"
            );
        }
        Note::PutOff { policy, vm, until } => put_off(policy, *vm, *until),
        Note::ClockReset { policy, handled, now } => {
            tracing::warn!(
                MESSAGE_ID = message::CLOCK_WRONG, VIRTSNAP_POLICY = %policy,
                "the clock shows {now:.0}, more than a day before {handled:.0}, up to which policy {policy} had run: it \
                 begins anew from now"
            );
        }
        Note::ClockBehind { policy, handled, now } => {
            tracing::warn!(
                MESSAGE_ID = message::CLOCK_WRONG, VIRTSNAP_POLICY = %policy,
                "the clock shows {now:.0}, but policy {policy} has run up to {handled:.0} already: it pauses until then"
            );
        }
        Note::ClockTooEarly { now } => {
            tracing::warn!(
                MESSAGE_ID = message::CLOCK_WRONG,
                "the clock shows {now:.0}, long past: no policy runs until it is set"
            );
        }
        Note::Deferred { jobs, kept_for } => deferred(*jobs, *kept_for),
        Note::Idle { policy, at } => {
            tracing::info!(VIRTSNAP_POLICY = %policy, "policy {policy} does not run for {at}: it is suspended");
        }
        Note::Suspended { policy, on, suspension, by_uid } => {
            suspended(policy, on.as_ref(), suspension, *by_uid);
        }
        Note::Resumed { policy, on, by_uid } => resumed(policy, on.as_ref(), *by_uid),
        Note::Labelled { vm, vm_name, name, text, by_uid } => labelled((*vm, vm_name), name, text, *by_uid),
        Note::Stale { policy, vm, vm_name, newest, stale_after } => {
            stale(policy, (*vm, vm_name), *newest, *stale_after);
        }
        Note::Fresh { policy, vm, vm_name } => {
            tracing::info!(
                MESSAGE_ID = message::SNAPSHOTS_FRESH,
                VIRTSNAP_POLICY = %policy, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
                "policy {policy} is not late with VM {vm_name} any more"
            );
        }
        Note::Stuck { job, vm, vm_name, text } => {
            tracing::error!(
                MESSAGE_ID = message::JOB_STUCK,
                VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm, VIRTSNAP_JOB = job, "{text}"
            );
        }
        Note::GoesOn { job, vm, vm_name, operation } => {
            tracing::info!(
                MESSAGE_ID = message::JOB_GOES_ON,
                VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm, VIRTSNAP_JOB = job,
                "job {job} ({operation} of VM {vm_name}) is not stuck any more"
            );
        }
        Note::NotBefore { policy, vm, vm_name, operation, state } => {
            not_before(policy, (*vm, vm_name), operation, *state);
        }
        Note::HeldLong(inhibitor) => held_long(inhibitor),
        Note::Inhibited(inhibitor) => inhibited(inhibitor),
        Note::Released { inhibitor, held, last } => released(inhibitor, *held, *last),
        Note::Ended { job, vm_name, snapshot, outcome } => ended(job, vm_name, snapshot.as_ref(), outcome),
    }
}

/// The journal takes a field more than once, and finds an entry by each: by each policy, so many of them at most.
fn ended(job: &Job, vm_name: &str, snapshot: Option<&SnapshotName>, outcome: &Outcome) {
    let operation = job.operation.as_str();
    let mut policies = match &job.operation {
        Operation::Create(create) => create.policies.iter(),
        _ => btree_set::Iter::default(),
    };
    let [first, second, third, fourth] = std::array::from_fn(|_| policies.next().map(PolicyName::as_str));
    let snapshot = snapshot.map(SnapshotName::as_str);
    match outcome {
        Outcome::Done(_) => tracing::debug!(
            VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %job.vm, VIRTSNAP_JOB = job.id,
            "job {} ({operation} on VM {vm_name}) done", job.id
        ),
        Outcome::Failed(f) => tracing::error!(
            MESSAGE_ID = message::JOB_FAILED,
            VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %job.vm, VIRTSNAP_JOB = job.id,
            VIRTSNAP_SNAPSHOT = snapshot, VIRTSNAP_ERROR_NAME = f.name,
            VIRTSNAP_POLICY = first, VIRTSNAP_POLICY = second, VIRTSNAP_POLICY = third, VIRTSNAP_POLICY = fourth,
            "job {} ({operation} on VM {vm_name}) failed: {}", job.id, f.message
        ),
        Outcome::Cancelled(text) => tracing::warn!(
            MESSAGE_ID = message::JOB_CANCELLED,
            VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %job.vm, VIRTSNAP_JOB = job.id,
            VIRTSNAP_SNAPSHOT = snapshot,
            VIRTSNAP_POLICY = first, VIRTSNAP_POLICY = second, VIRTSNAP_POLICY = third, VIRTSNAP_POLICY = fourth,
            "{text}"
        ),
    }
}

fn inhibited(Inhibitor { who, why, uid, .. }: &Inhibitor) {
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    tracing::info!(
        MESSAGE_ID = message::INHIBITED,
        "{who} of user {uid} has all scheduled runs and prunes wait{because}"
    );
}

fn not_before(policy: &PolicyName, (vm, vm_name): (VmId, &str), operation: &str, state: VmState) {
    tracing::info!(
        VIRTSNAP_POLICY = %policy, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
        "policy {policy} does not run before {operation} on VM {vm_name}: it is {state}, which is not in the policy's `when`"
    );
}

fn held_long(Inhibitor { who, why, uid, since }: &Inhibitor) {
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    tracing::warn!(
        MESSAGE_ID = message::HELD_LONG,
        "{who} of user {uid} has all scheduled runs and prunes wait since {since:.0}{because}; nothing is taken by itself \
         until that program lets go or ends"
    );
}

fn released(Inhibitor { who, uid, .. }: &Inhibitor, held: SignedDuration, last: bool) {
    let then = if last { "what waited begins" } else { "others hold them still" };
    tracing::info!(
        MESSAGE_ID = message::RELEASED,
        "{who} of user {uid} does not hold scheduled runs and prunes any more, after {}: {then}",
        show_duration(held)
    );
}

fn suspended(policy: &PolicyName, on: Option<&(VmId, String)>, why: &Suspension, uid: Option<u32>) {
    let reason = if why.reason.is_empty() { String::new() } else { format!(": {}", why.reason) };
    match (on, uid) {
        (Some((vm, vm_name)), None) => tracing::error!(
            MESSAGE_ID = message::POLICY_SUSPENDED,
            VIRTSNAP_POLICY = %policy, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
            "policy {policy} is suspended on VM {vm_name}, and takes no snapshots of it, until a run by hand works \
             (`virtsnap run {policy} --vm {0}`) or it is resumed (`virtsnap resume {policy} --vm {0}`){reason}",
            for_shell(vm_name)
        ),
        (Some((vm, vm_name)), Some(uid)) => tracing::warn!(
            MESSAGE_ID = message::POLICY_SUSPENDED,
            VIRTSNAP_POLICY = %policy, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
            "user {uid} suspended policy {policy} on VM {vm_name}{reason}"
        ),
        (None, uid) => tracing::warn!(
            MESSAGE_ID = message::POLICY_SUSPENDED, VIRTSNAP_POLICY = %policy,
            "user {} suspended policy {policy} for all of its VMs{reason}", uid.unwrap_or_default()
        ),
    }
}

fn resumed(policy: &PolicyName, on: Option<&(VmId, String)>, uid: Option<u32>) {
    let who = uid.map_or_else(|| "it was run, and worked".to_owned(), |uid| format!("user {uid} said so"));
    if let Some((vm, vm_name)) = on {
        tracing::info!(
            MESSAGE_ID = message::POLICY_RESUMED,
            VIRTSNAP_POLICY = %policy, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
            "policy {policy} is resumed on VM {vm_name}: {who}"
        );
    } else {
        tracing::info!(
            MESSAGE_ID = message::POLICY_RESUMED, VIRTSNAP_POLICY = %policy,
            "policy {policy} is resumed for all of its VMs: {who}"
        );
    }
}

fn stale(policy: &PolicyName, (vm, vm_name): (VmId, &str), newest: Option<Timestamp>, after: SignedDuration) {
    let newest = newest.map_or_else(|| "there is none".to_owned(), |at| format!("it is of {at:.0}"));
    tracing::error!(
        MESSAGE_ID = message::SNAPSHOTS_STALE,
        VIRTSNAP_POLICY = %policy, VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm,
        "the newest good snapshot of VM {vm_name} by policy {policy} is older than it may be ({}): {newest}",
        show_duration(after)
    );
}

fn labelled((vm, vm_name): (VmId, &str), name: &SnapshotName, text: &str, uid: Option<u32>) {
    let who = uid.map_or_else(|| "its time has come".to_owned(), |uid| format!("user {uid} said so"));
    tracing::info!(
        MESSAGE_ID = message::SNAPSHOT_LABELLED,
        VIRTSNAP_VM = %vm_name, VIRTSNAP_VM_UUID = %vm, VIRTSNAP_SNAPSHOT = %name,
        "snapshot {name} of VM {vm_name} {text}: {who}"
    );
}

#[cfg(test)]
mod tests;
