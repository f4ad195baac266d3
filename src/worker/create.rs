//! Taking a snapshot: look, refuse or prepare, freeze, switch, thaw, verify.
//!
//! | step | if it fails, or the daemon dies after it |
//! |---|---|
//! | preflight | nothing was touched |
//! | intent stored | the next start finds nothing made, and forgets the intent |
//! | overlays prepared | they are removed, and what is there of the memory, now or at the next start: nothing uses them yet |
//! | frozen, where the memory is not kept | thawed, in any case |
//! | switched (`create`) | libvirt does all disks and the metadata or none; what it says is verified |
//! | result stored | the marker in the description says whose it is; its quality is then unknown |

mod preflight;

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Stop, Work,
    beside::{self, What},
    how, memory, merge, prune,
};
use crate::{
    core::{
        inventory::Quality,
        job::{CreateJob, Failure},
        marker::{self, Marker},
        model::{Origin, PolicyName, SnapshotName},
        naming::{self, Parts},
        taking::{Part, TakingPlan},
    },
    hypervisor::{CreateSpec, Disk, Error, ErrorKind, OpenedDisk, Overlay, SnapshotRecord, Vm},
    logging::message,
    store::{Begun, Intent},
};

pub(super) fn run(work: &Work<'_>, create: &CreateJob) -> Result<SnapshotName, Stop> {
    take(work, create, work.job.asker.origin)
}

/// Takes one for that reason.
pub(super) fn take(work: &Work<'_>, create: &CreateJob, origin: Origin) -> Result<SnapshotName, Stop> {
    let hypervisor = &work.tools.hypervisor;
    work.phase("looking", None, create.name.as_ref());
    let mut vm = hypervisor.vm(work.job.vm)?;
    if !create.policies.is_empty() && is_full(work, &vm) {
        // Else a policy could never recover from a chain that something else filled: only a success prunes.
        make_room(work, &vm.name);
        work.phase("looking", None, create.name.as_ref());
        vm = hypervisor.vm(vm.id)?;
    }
    if merge::is_in_the_way(work, &vm)? {
        merge::finish(work, &vm)?;
        vm = hypervisor.vm(vm.id)?;
    }
    let records = hypervisor.snapshots(vm.id)?;
    let disks = preflight::check(work, create, origin, &vm, &records)?;

    let id = Uuid::new_v4();
    let now = work.tools.clock.now();
    let name = choose_name(create, &vm, &records, now)?;
    let overlays: Vec<Overlay> = disks
        .iter()
        .filter_map(|d| {
            let (active, base) = (d.chain.first()?, d.chain.last()?);
            let path = naming::overlay_path(&active.path, &base.path, &name, id);
            Some(Overlay { target: d.target.clone(), path, backing: active.clone() })
        })
        .collect();
    let wish = memory::wish(work, &create.how, &vm, &overlays, id)?;
    let kept = beside::read(hypervisor.as_ref(), &vm, &overlays, id)?;
    let beside = kept.paths().chain(wish.path());
    let made = overlays.iter().map(|o| &o.path).chain(beside).cloned().collect();
    let (policies, nvram, tpm) = (create.policies.clone(), kept.has(What::Variables), kept.has(What::Tpm));
    let marker = Marker { vm: vm.id, id, created: now, origin, policies, nvram, tpm };
    let spec = CreateSpec {
        name: name.clone(),
        description: marker::compose(&create.description, &marker),
        overlays,
        memory: wish.path().cloned(),
    };
    let what = Begun::Create(Box::new(plan(&spec, now, create)));
    let intent = Intent { overlays: made, ..Intent::new(id, vm.id, name.clone(), what) };

    work.safe_point()?;
    work.tools.store.begin(&intent, now)?;
    work.phase("preparing overlays", None, Some(&name));
    let called = work.tools.freezer.call(&vm, &create.how);
    let prepared = hypervisor.prepare(vm.id, &spec.overlays);
    let exists = prepared.as_ref().is_err_and(|e| e.kind == ErrorKind::Exists);
    if let Err(e) = prepared.and_then(|()| kept.keep(hypervisor.as_ref())) {
        if exists {
            // What is there is somebody else's: not to be taken back.
            work.tools.store.abandoned(id)?;
        } else {
            undo(work, &vm, &intent, &e.message);
        }
        let kind = e.kind.as_str();
        let e = e.context(format_args!("snapshot {name} of VM {} was not taken", vm.name));
        let state = how::it_is(hypervisor.as_ref(), &vm);
        return Err(Stop::Failed(Failure::new(kind, format!("{e}. {state}"))));
    }
    if let Err(stop) = work.safe_point() {
        undo(work, &vm, &intent, "cancelled");
        return Err(stop);
    }
    work.phase("taking the snapshot", None, Some(&name));
    match memory::take(work, &create.how, &vm, spec, &wish, called) {
        Ok(taken) => {
            work.phase("verifying", None, Some(&name));
            // From here on nothing is taken back: libvirt has it.
            let (spec, mut quality) = memory::as_taken(work, &vm, taken)?;
            verify(work, &vm, &spec, &intent)?;
            kept.keep_up(hypervisor.as_ref(), &mut quality);
            work.tools.store.created(&intent, &quality)?;
            tell_taken(work, &vm, create, (&name, &quality));
            memory::check_kept(&create.how, &vm, &spec, &wish)?;
            Ok(name)
        }
        Err(e) => {
            let state = if is_off_them(work, &vm, &intent, &e) && undo(work, &vm, &intent, &e.message) {
                how::it_is(hypervisor.as_ref(), &vm)
            } else {
                how::NOT_KNOWN.to_owned()
            };
            let kind = e.kind.as_str();
            let e = e.context(format_args!("snapshot {name} of VM {} was not taken", vm.name));
            Err(Stop::Failed(Failure::new(kind, format!("{e}. {state}"))))
        }
    }
}

fn tell_taken(work: &Work<'_>, vm: &Vm, create: &CreateJob, (name, quality): (&SnapshotName, &Quality)) {
    tracing::info!(
        MESSAGE_ID = message::SNAPSHOT_TAKEN,
        VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
        VIRTSNAP_POLICY = %join(&create.policies), VIRTSNAP_JOB = work.job.id,
        "snapshot {name} of VM {} taken: {} consistent{}{}",
        vm.name,
        quality.reached,
        if quality.frozen.is_zero() { String::new() } else { format!(", frozen for {} ms", quality.frozen.as_millis()) },
        if quality.note.is_empty() { String::new() } else { format!(" ({})", quality.note) },
    );
}

/// What whoever finds it cut short must know.
fn plan(spec: &CreateSpec, now: Timestamp, create: &CreateJob) -> TakingPlan {
    let part = |o: &Overlay| Part {
        target: o.target.clone(),
        overlay: o.path.clone(),
        image: o.backing.path.clone(),
        format: o.backing.format.clone(),
    };
    let parts = spec.overlays.iter().map(part).collect();
    let (description, memory, label) = (spec.description.clone(), spec.memory.clone(), create.label.clone());
    TakingPlan { description, created: now, parts, memory, label, quiesce: Some(create.how.quiesce) }
}

/// A disk's chain has as many layers as it may have.
fn is_full(work: &Work<'_>, vm: &Vm) -> bool {
    let limit = work.settings.daemon.max_chain as usize;
    vm.disks.iter().any(|disk| disk.writable && disk.chain.len() >= limit)
}

/// Prunes before a snapshot instead of after it. What could not be deleted shows in the chain's length.
fn make_room(work: &Work<'_>, name: &str) {
    tracing::warn!(
        MESSAGE_ID = message::CHAIN_FULL, VIRTSNAP_VM = %name, VIRTSNAP_VM_UUID = %work.job.vm,
        "the chain of VM {name} is full: it is pruned before the next snapshot"
    );
    if let Err(Stop::Failed(failure)) = prune::run(work, false) {
        tracing::error!(
            MESSAGE_ID = message::CHAIN_FULL, VIRTSNAP_VM = %name, VIRTSNAP_VM_UUID = %work.job.vm,
            "the full chain of VM {name} could not be pruned: {}", failure.message
        );
    }
}

/// The name that was asked for, if it is free, or one made from the policy's template.
pub(super) fn choose_name(
    create: &CreateJob,
    vm: &Vm,
    records: &[SnapshotRecord],
    at: Timestamp,
) -> Result<SnapshotName, Stop> {
    let taken = |name: &SnapshotName| records.iter().any(|r| r.name == *name);
    match &create.name {
        Some(name) if taken(name) => {
            refuse("Exists", format!("VM {} already has a snapshot {name}", vm.name))
        }
        Some(name) => Ok(name.clone()),
        None => {
            let policy = join(&create.policies);
            let sequence = records.len() + 1;
            let parts = Parts { policy: &policy, vm: &vm.name, operation: "manual", at, sequence };
            naming::snapshot_name(&create.how.name, &parts, taken).or_else(|e| {
                refuse("InvalidArgument", format!("no name can be made for VM {}: {e}", vm.name))
            })
        }
    }
}

/// libvirt said yes: is it so? A snapshot that nobody can find later is worse than an error now, and a definition that
/// still names the old image would let the VM start on it, past all that was written since.
fn verify(work: &Work<'_>, vm: &Vm, spec: &CreateSpec, intent: &Intent) -> Result<(), Stop> {
    let records = work.tools.hypervisor.snapshots(vm.id)?;
    let after = work.tools.hypervisor.vm(vm.id)?;
    let listed = records.iter().find(|r| r.name == spec.name && r.current);
    let on = |overlay: &Overlay, is: fn(&Disk) -> Option<&str>| {
        let disk = after.disks.iter().find(|d| d.target == overlay.target);
        disk.and_then(is) == Some(overlay.path.as_str())
    };
    let metadata = |o: &Overlay| {
        listed.is_some_and(|r| r.disks.iter().any(|d| d.target == o.target && d.overlay == o.path))
    };
    let all = |is: &dyn Fn(&Overlay) -> bool| spec.overlays.iter().all(is);
    let wrong = if !all(&metadata) || listed.is_some_and(|r| r.memory_file != spec.memory) {
        "its metadata is missing or different"
    } else if !all(&|o| on(o, |d| d.chain.first().map(|l| l.path.as_str()))) {
        "the VM does not run on its overlays"
    } else if !all(&|o| on(o, |d| d.configured.as_deref())) {
        "the VM's definition does not name its overlays, so that it would start without what was written since"
    } else {
        return Ok(());
    };
    // So whoever comes next neither takes it for complete nor takes it back.
    work.tools.store.reached(intent.id, Intent::WRONG)?;
    refuse(
        "ChainMismatch",
        format!(
            "libvirt reported snapshot {} of VM {} as taken, but {wrong}; it is left as it is for a person to look at \
             (`virsh snapshot-list --tree`, `virsh domblklist`, `virsh domblklist --inactive`)",
            spec.name, vm.name
        ),
    )
}

/// After libvirt was asked for it: whether QEMU is certainly not on the overlays, whatever libvirt says. What is not
/// known is left to whoever settles it.
fn is_off_them(work: &Work<'_>, vm: &Vm, intent: &Intent, e: &Error) -> bool {
    if e.kind.untouched() || e.kind == ErrorKind::QuiesceFailed {
        return true;
    }
    let opened = match e.kind {
        // Somebody else's libvirtd, by now.
        ErrorKind::Disconnected => return false,
        _ => work.tools.hypervisor.opened(vm.id),
    };
    let images = |disks: Vec<OpenedDisk>| disks.into_iter().flat_map(|d| d.chain).map(|l| l.path).collect();
    match opened {
        Ok(disks) => {
            let images: Vec<String> = disks.map_or(Vec::new(), images);
            !intent.overlays.iter().any(|path| images.contains(path))
        }
        Err(e) => {
            tracing::warn!(
                MESSAGE_ID = message::UNREADABLE, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, error = %e,
                "what the QEMU of VM {} writes to cannot be told", vm.name
            );
            false
        }
    }
}

/// Takes back what was prepared, and says whether it did. Overlays that a VM runs on are refused by the hypervisor, and
/// then the intent stays for the next start to look at.
fn undo(work: &Work<'_>, vm: &Vm, intent: &Intent, why: &str) -> bool {
    let discarded = work.tools.hypervisor.discard(vm.id, &intent.overlays);
    let done = discarded.is_ok();
    match discarded {
        Ok(()) => {
            let store = &work.tools.store;
            if let Err(e) = store.discarded(&intent.overlays).and_then(|()| store.abandoned(intent.id)) {
                tracing::warn!(
                    MESSAGE_ID = message::STORE_FAILED, VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, error = %e,
                    "cannot take back a stored intent"
                );
            }
        }
        Err(e) if e.kind == ErrorKind::Busy => tracing::error!(
            MESSAGE_ID = message::LEFT_BEHIND,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %intent.name,
            "the snapshot failed ({why}), and yet the VM runs on its overlays: {e}"
        ),
        Err(e) => tracing::warn!(
            MESSAGE_ID = message::LEFT_BEHIND,
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %intent.name,
            error = %e, "overlays of a failed snapshot could not be removed; the next start tries again"
        ),
    }
    done
}

fn join(policies: &BTreeSet<PolicyName>) -> String {
    policies.iter().map(PolicyName::as_str).collect::<Vec<_>>().join("+")
}

fn refuse<T>(name: &'static str, message: String) -> Result<T, Stop> {
    Err(Stop::Failed(Failure::new(name, message)))
}
