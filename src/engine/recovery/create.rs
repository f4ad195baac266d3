//! A snapshot that was being taken: it is there, or is given the name that it lacks, or its overlays go.

use super::{find, told};
use crate::{
    core::{
        inventory::Quality,
        model::Content,
        taking::{self, Became, Part, Stand, TakingPlan},
        text::for_shell,
    },
    hypervisor::{Error, ErrorKind, Layer, NewRecord, OpenedDisk, Result, SnapshotDisk, SnapshotRecord, Vm},
    store::{Intent, StoreError},
    worker::{Tools, never_kept},
};

type Stored = std::result::Result<(), StoreError>;

pub(super) fn settle(
    tools: &Tools,
    intent: &Intent,
    plan: &TakingPlan,
    records: &[SnapshotRecord],
) -> Result<Stored> {
    let name = &intent.name;
    if let Some(record) = find(records, intent.vm, intent.id) {
        if intent.is_wrong() {
            let vm = told::name(tools, intent.vm);
            let left = format_args!(
                "snapshot {name} of VM {vm} is not what libvirt said of it when it was taken; it is left for a person to \
                 look at"
            );
            told::interrupted(&vm, intent, left);
            return Ok(Ok(()));
        }
        let kept = record.content == Content::Full && !never_kept(tools, intent.vm, &record.name)?;
        return Ok(complete(tools, intent, plan, kept));
    }
    let vm = match tools.hypervisor.vm(intent.vm) {
        // Its images went with it, or are its new owner's business.
        Err(e) if e.kind == ErrorKind::NoSuchVm => {
            let gone = format_args!(
                "snapshot {name} of VM {} was interrupted, and the VM is gone since: nothing is left to do",
                intent.vm
            );
            told::interrupted(&intent.vm.to_string(), intent, gone);
            return Ok(tools.store.abandoned(intent.id));
        }
        vm => vm?,
    };
    let opened = tools.hypervisor.opened(vm.id)?;
    match taking::became(&plan.parts, &stands(&vm, opened.as_deref())) {
        Became::Nothing => {
            tools.hypervisor.discard(intent.vm, &intent.overlays)?;
            let undone = format_args!(
                "snapshot {name} of VM {} was interrupted before it was taken; its overlays are removed",
                vm.name
            );
            told::interrupted(&vm.name, intent, undone);
            Ok(tools.store.discarded(&intent.overlays).and_then(|()| tools.store.abandoned(intent.id)))
        }
        Became::Taken(behind) => {
            define(tools, &vm, plan, &behind)?;
            give_name(tools, intent, plan, records)?;
            Ok(complete(tools, intent, plan, false))
        }
        Became::Adrift(behind) => {
            // Before that is put right: whoever sees the definition changed has to know why.
            super::note_adrift(tools, intent)?;
            define(tools, &vm, plan, &behind)?;
            Err(Error::new(
                ErrorKind::ChainMismatch,
                format!(
                    "libvirtd ended in the middle of snapshot {name} of VM {}: its QEMU writes to {}, of which libvirt does not \
                     know. The VM's definition names that, so nothing is lost: shut the VM down and start it again",
                    vm.name,
                    plan.parts.iter().map(|p| p.overlay.as_str()).collect::<Vec<_>>().join(", ")
                ),
            ))
        }
        Became::Used => {
            let used = format_args!(
                "snapshot {name} of VM {} was interrupted, and its images are in use without it by now: they stay, and \
                 `virtsnap adopt {} --layers` makes snapshots of what has none",
                vm.name,
                for_shell(&vm.name)
            );
            told::interrupted(&vm.name, intent, used);
            Ok(tools.store.abandoned(intent.id))
        }
    }
}

fn complete(tools: &Tools, intent: &Intent, plan: &TakingPlan, with_memory: bool) -> Stored {
    let vm = told::name(tools, intent.vm);
    let ended = format_args!("snapshot {} of VM {vm} was interrupted, and is complete", intent.name);
    told::interrupted(&vm, intent, ended);
    let mut quality = Quality { requested: plan.quiesce, ..Quality::unknown(with_memory) };
    if !with_memory {
        quality.also(
            "the daemon was interrupted while it was taken, so nobody knows whether the freeze had held",
        );
    }
    tools.store.created(intent, &quality)
}

fn stands<'a>(vm: &'a Vm, opened: Option<&'a [OpenedDisk]>) -> Vec<Stand<'a>> {
    let paths = |chain: &'a [Layer]| chain.iter().map(|layer| layer.path.as_str()).collect::<Vec<_>>();
    let by_qemu = |target: &str| {
        opened.map(|all| all.iter().find(|d| d.target == target).map_or(Vec::new(), |d| paths(&d.chain)))
    };
    vm.disks
        .iter()
        .map(|disk| Stand {
            target: &disk.target,
            chain: paths(&disk.chain),
            opened: by_qemu(&disk.target),
            configured: disk.configured.as_deref(),
        })
        .collect()
}

/// The next start is to be on what the VM writes to.
fn define(tools: &Tools, vm: &Vm, plan: &TakingPlan, targets: &[String]) -> Result<()> {
    if targets.is_empty() {
        return Ok(());
    }
    let overlay =
        |part: &Part| (part.target.clone(), Layer { path: part.overlay.clone(), format: "qcow2".to_owned() });
    let sources: Vec<_> = plan.parts.iter().filter(|p| targets.contains(&p.target)).map(overlay).collect();
    tools.hypervisor.name_for_next_start(vm.id, &sources)
}

/// All of it is there but the metadata.
fn give_name(tools: &Tools, intent: &Intent, plan: &TakingPlan, records: &[SnapshotRecord]) -> Result<()> {
    let disk = |part: &Part| SnapshotDisk {
        target: part.target.clone(),
        overlay: part.overlay.clone(),
        state_image: part.image.clone(),
        format: part.format.clone(),
    };
    let new = NewRecord {
        name: intent.name.clone(),
        description: plan.description.clone(),
        created: plan.created,
        parent: records.iter().find(|r| r.current).map(|r| r.name.clone()),
        disks: plan.parts.iter().map(disk).collect(),
    };
    tools.hypervisor.name_layer(intent.vm, &new)?;
    // What there is of the memory is of no use without its metadata.
    plan.memory
        .as_ref()
        .map_or(Ok(()), |path| tools.hypervisor.discard(intent.vm, std::slice::from_ref(path)))
}
