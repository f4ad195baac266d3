//! The view and the counts, as Prometheus' text format has them.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>: each metric's samples stand together, after its help
//! and its type; times are seconds since the epoch, 0 where there is none, so that "too long ago" is true of "never".

use std::fmt::{Display, Write as _};

use jiff::{SignedDuration, Timestamp};

use super::{View, VmView};
use crate::core::{
    awaited::newest_good,
    health::{self, Health},
    model::PolicyName,
    trouble::Trouble,
};

/// What kind a metric is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// It only grows, but for restarts of the daemon, from which on it counts anew.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// All of it as of `now`, with a line feed at its end. `version`: the daemon's.
pub fn metrics(view: &View, version: &str, now: Timestamp) -> String {
    let mut out = Text(String::new());
    out.about("build_info", Kind::Gauge, "The version of virtsnapd; always 1.");
    out.sample("build_info", &[("version", version)], 1);
    out.about("libvirt_connected", Kind::Gauge, "Whether virtsnapd is connected to libvirt.");
    out.sample("libvirt_connected", &[], u8::from(view.manager.hypervisor_connected));
    daemon(view, &mut out);
    jobs(view, &mut out);
    let held = "Since when somebody has scheduled runs and prunes wait, in seconds since the epoch; 0 if nobody does.";
    out.about("inhibited_since_timestamp_seconds", Kind::Gauge, held);
    let first = view.manager.inhibitors.iter().map(|i| i.since).min();
    out.sample("inhibited_since_timestamp_seconds", &[], seconds(first));
    policies(view, &mut out);
    runs(view, now, &mut out);
    vms(view, &mut out);
    out.0
}

fn daemon(view: &View, out: &mut Text) {
    let troubles = &view.manager.troubles;
    let has = |which: fn(&Trouble) -> bool| troubles.iter().any(which);
    let reload =
        "Whether the configuration could be taken when it was read last; else an older one is in force.";
    out.about("config_last_reload_successful", Kind::Gauge, reload);
    out.sample(
        "config_last_reload_successful",
        &[],
        u8::from(!has(|t| matches!(t, Trouble::Configuration(_)))),
    );
    out.about(
        "config_warnings",
        Kind::Gauge,
        "What of the configuration hardly was meant, or has no effect.",
    );
    out.sample("config_warnings", &[], view.manager.warnings.len().saturating_sub(troubles.len()));
    let state = "Whether the state database can be written to; else no job is begun.";
    out.about("state_writable", Kind::Gauge, state);
    out.sample("state_writable", &[], u8::from(!has(|t| matches!(t, Trouble::Store(_)))));
    let clock = "Whether policies wait, as the clock shows what cannot be.";
    out.about("clock_implausible", Kind::Gauge, clock);
    out.sample("clock_implausible", &[], u8::from(view.manager.clock_implausible));
}

fn jobs(view: &View, out: &mut Text) {
    out.about("jobs_total", Kind::Counter, "Jobs that ended since the start, by operation and result.");
    for ((operation, result), count) in &view.counts.jobs {
        out.sample("jobs_total", &[("operation", operation), ("result", result.as_str())], count);
    }
    let errors = "Jobs that failed since the start, by operation and the error's name.";
    out.about("job_errors_total", Kind::Counter, errors);
    for ((operation, error), count) in &view.counts.errors {
        out.sample("job_errors_total", &[("operation", operation), ("error", error)], count);
    }
    out.about("jobs_stuck", Kind::Gauge, "Jobs that libvirt does not answer any more.");
    out.sample("jobs_stuck", &[], view.jobs.values().filter(|job| job.stuck).count());
    let interrupted =
        "Operations that were found cut short since the start, each once, whatever became of them.";
    out.about("interrupted_total", Kind::Counter, interrupted);
    // All of them from the beginning: what appears with the first one has nothing before it that it could have grown from.
    for operation in ["branch", "create", "delete", "merge", "revert"] {
        let count = view.counts.interrupted.get(operation).copied().unwrap_or_default();
        out.sample("interrupted_total", &[("operation", operation)], count);
    }
}

fn policies(view: &View, out: &mut Text) {
    let next = "When the policy runs next, in seconds since the epoch; 0 if never.";
    out.about("policy_next_run_timestamp_seconds", Kind::Gauge, next);
    for policy in view.policies.values() {
        let labels = [("policy", policy.name.as_str())];
        out.sample("policy_next_run_timestamp_seconds", &labels, seconds(policy.next_run));
    }
    let last = "When the policy ran last, well or not, in seconds since the epoch; 0 if never.";
    out.about("policy_last_run_timestamp_seconds", Kind::Gauge, last);
    for policy in view.policies.values() {
        let labels = [("policy", policy.name.as_str())];
        out.sample("policy_last_run_timestamp_seconds", &labels, seconds(policy.last_run));
    }
    let missed = "Times of the policy that passed without a run since the start, and are not caught up.";
    out.about("runs_missed_total", Kind::Counter, missed);
    for policy in view.policies.values() {
        let count = view.counts.missed.get(&policy.name).copied().unwrap_or_default();
        out.sample("runs_missed_total", &[("policy", policy.name.as_str())], count);
    }
}

/// One sample for each policy and each VM that it is for, also before its first run: what appears with a failure has no
/// value before it that it could have grown from.
fn runs(view: &View, now: Timestamp, out: &mut Text) {
    let all: Vec<(&PolicyName, &VmView)> = view
        .policies
        .values()
        .flat_map(|p| p.vms.iter().filter_map(|vm| view.vms.get(vm)).map(|vm| (&p.name, &**vm)))
        .collect();
    let of = |policy: &PolicyName, vm: &VmView| {
        view.counts.runs.get(&(policy.clone(), vm.record.id)).copied().unwrap_or_default()
    };
    out.of_runs(
        "runs_total",
        Kind::Counter,
        "Runs of the policy on the VM that ended.",
        &all,
        |policy, vm| of(policy, vm).ended,
    );
    let failed = "Runs of the policy on the VM that failed.";
    out.of_runs("run_failures_total", Kind::Counter, failed, &all, |policy, vm| of(policy, vm).failed);
    let last = "When the newest good snapshot that counts for the policy was taken, in seconds since the epoch; 0 if \
                there is none.";
    out.of_runs("last_success_timestamp_seconds", Kind::Gauge, last, &all, |policy, vm| {
        seconds(newest_good(&vm.record, policy, now))
    });
    let stale = "Whether the newest good snapshot of the VM that counts for the policy is older than its stale-after.";
    out.of_runs("policy_stale", Kind::Gauge, stale, &all, |policy, vm| {
        u8::from(vm.stale.iter().any(|(name, _)| name == policy))
    });
    let suspended =
        "Whether the policy's schedule does not run it on the VM: it was suspended, by failures or by hand.";
    out.of_runs("policy_suspended", Kind::Gauge, suspended, &all, |policy, vm| {
        u8::from(vm.suspended.iter().any(|(name, _)| name == policy))
    });
}

fn vms(view: &View, out: &mut Text) {
    use Kind::{Counter, Gauge};
    let counts = &view.counts;
    let last = "When the newest good snapshot that virtsnap made was taken, in seconds since the epoch; 0 if there is \
                none.";
    out.of_vms("vm_last_success_timestamp_seconds", Gauge, last, view, |vm| seconds(vm.last_success));
    let failed = "Whether the last thing that was tried with the VM failed.";
    out.of_vms("vm_failed", Gauge, failed, view, |vm| u8::from(!vm.last_error.is_empty()));
    let health = "What is known of its disks and snapshots: 0 ok, 1 degraded, 2 broken.";
    out.of_vms("vm_health", Gauge, health, view, |vm| match health::worst(&vm.record.findings) {
        Health::Ok => 0,
        Health::Degraded => 1,
        Health::Broken => 2,
    });
    out.of_vms("vm_frozen", Gauge, "Whether the guest's file systems are frozen, or may be.", view, |vm| {
        u8::from(vm.frozen)
    });
    let frozen = "For how long the guest was frozen for snapshots, also for those that failed.";
    out.of_vms("vm_frozen_seconds_total", Counter, frozen, view, |vm| {
        Seconds(counts.frozen.get(&vm.record.id).copied().unwrap_or_default())
    });
    let merged = "What images held that were merged into others, in bytes.";
    out.of_vms("vm_merged_bytes_total", Counter, merged, view, |vm| {
        counts.merged.get(&vm.record.id).copied().unwrap_or_default()
    });
    out.about("vm_snapshots", Gauge, "Snapshots, by whether virtsnap made or took them over.");
    for vm in view.vms.values() {
        let uuid = vm.record.id.to_string();
        let [name, uuid] = labels(vm, &uuid);
        for (managed, word) in [(true, "yes"), (false, "no")] {
            let count = vm.record.snapshots.values().filter(|s| s.snapshot.managed == managed).count();
            out.sample("vm_snapshots", &[name, uuid, ("managed", word)], count);
        }
    }
    let bytes = "What the images of all its snapshots take, in bytes.";
    out.of_vms("vm_snapshot_bytes", Gauge, bytes, view, |vm| vm.record.snapshot_bytes());
    let depth = "The most images under one of its writable disks.";
    out.of_vms("vm_chain_depth", Gauge, depth, view, |vm| vm.record.chain_depth);
}

fn seconds(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_second)
}

fn labels<'a>(vm: &'a VmView, uuid: &'a str) -> [(&'static str, &'a str); 2] {
    [("vm", vm.record.name.as_str()), ("uuid", uuid)]
}

struct Seconds(SignedDuration);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros().unsigned_abs())
    }
}

struct Text(String);

impl Text {
    /// The head of a metric; its samples follow.
    fn about(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP virtsnap_{name} {help}\n# TYPE virtsnap_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str("virtsnap_");
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if i == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn of_vms<V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        view: &View,
        value: impl Fn(&VmView) -> V,
    ) {
        self.about(name, kind, help);
        for vm in view.vms.values() {
            self.sample(name, &labels(vm, &vm.record.id.to_string()), value(vm));
        }
    }

    fn of_runs<V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        all: &[(&PolicyName, &VmView)],
        value: impl Fn(&PolicyName, &VmView) -> V,
    ) {
        self.about(name, kind, help);
        for (policy, vm) in all {
            let uuid = vm.record.id.to_string();
            let [vm_label, uuid] = labels(vm, &uuid);
            self.sample(name, &[("policy", policy.as_str()), vm_label, uuid], value(policy, vm));
        }
    }
}
