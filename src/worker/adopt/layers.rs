//! Layers that no snapshot names become snapshots: each by one write of metadata, the lowest first, so that whatever
//! cuts it short leaves some of them named and the rest for another time.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    core::{
        job::Failure,
        layer::{self, Layer},
        marker::{self, Marker},
        model::{Origin, PolicyName},
        naming::{self, Parts},
    },
    hypervisor::{self, NewRecord, SnapshotDisk, Vm},
    worker::{Stop, Work},
};

/// What they are called.
const NAME: &str = "adopted-{timestamp}";

pub(super) fn run(work: &Work<'_>, policies: &BTreeSet<PolicyName>) -> Result<(), Stop> {
    let (hypervisor, store) = (&work.tools.hypervisor, &work.tools.store);
    let vm = hypervisor.vm(work.job.vm)?;
    let fail = |kind, why: &str| {
        let text = format!("no layer of VM {} was made a snapshot. {why} Nothing was touched", vm.name);
        Err(Stop::Failed(Failure::new(kind, text)))
    };
    if vm.busy || vm.block_jobs || store.unfinished(vm.id)? {
        return fail("Busy", "Something is at work on it: try again later.");
    }
    let records = hypervisor.snapshots(vm.id)?;
    let facts = hypervisor::facts(&vm, &records, hypervisor.features()?, false);
    let layers = match layer::unnamed(&facts) {
        Ok(layers) if layers.is_empty() => return fail("InvalidArgument", "Each of them has one."),
        Ok(layers) => layers,
        Err(why) => return fail("Unsupported", &why),
    };
    if records.is_empty() {
        // Whether what it lies on is a base for others, nobody wrote down; where others are on it, it is one.
        let images: Vec<String> =
            layers.iter().flat_map(|l| &l.disks).map(|(.., image)| (*image).to_owned()).collect();
        if let Some((image, user)) = hypervisor.users(&images, vm.id)?.first() {
            return fail("InUse", &format!("{image} is also under {user}, so the VM is a clone of it."));
        }
    }
    let mut parent = records.iter().find(|r| r.current).map(|r| r.name.clone());
    let mut earliest = records.iter().find(|r| r.current).map_or(Timestamp::UNIX_EPOCH, |r| r.created);
    let mut taken: Vec<_> = records.iter().map(|r| r.name.clone()).collect();
    for layer in layers {
        work.safe_point()?;
        earliest = earliest.max(written(work, &vm, &layer)?);
        let parts =
            Parts { policy: "", vm: &vm.name, operation: "adopt", at: earliest, sequence: taken.len() + 1 };
        let name = match naming::snapshot_name(NAME, &parts, |name| taken.contains(name)) {
            Ok(name) => name,
            Err(e) => return fail("InvalidArgument", &format!("No name can be made: {e}.")),
        };
        work.phase("writing metadata", None, Some(&name));
        let marker = Marker {
            vm: vm.id,
            id: Uuid::new_v4(),
            created: earliest,
            origin: Origin::Foreign,
            policies: policies.clone(),
            nvram: false,
            tpm: false,
        };
        let new = NewRecord {
            name: name.clone(),
            description: marker::compose("", &marker),
            created: earliest,
            parent: parent.replace(name.clone()),
            disks: layer.disks.iter().map(|disk| part(&vm, *disk)).collect(),
        };
        hypervisor.name_layer(vm.id, &new)?;
        tracing::info!(
            VIRTSNAP_VM = %vm.name, VIRTSNAP_VM_UUID = %vm.id, VIRTSNAP_SNAPSHOT = %name,
            VIRTSNAP_JOB = work.job.id, "a layer of VM {} that no snapshot had is snapshot {name} now", vm.name
        );
        taken.push(name);
    }
    Ok(())
}

fn part(vm: &Vm, (target, overlay, image): (&str, &str, &str)) -> SnapshotDisk {
    let chain = vm.disks.iter().filter(|d| d.target == target).flat_map(|d| &d.chain);
    let format = chain.filter(|l| l.path == image).map(|l| l.format.clone()).next();
    SnapshotDisk {
        target: target.to_owned(),
        overlay: overlay.to_owned(),
        state_image: image.to_owned(),
        format: format.unwrap_or_default(),
    }
}

/// When what is under this layer was written to last: that is when the layer was put on top.
fn written(work: &Work<'_>, vm: &Vm, layer: &Layer<'_>) -> Result<Timestamp, Stop> {
    let now = work.tools.clock.now();
    let mut last = None;
    for (target, _, image) in &layer.disks {
        let disks = vm.disks.iter().filter(|d| d.target == *target);
        let Some(top) = disks.flat_map(|d| &d.chain).find(|l| l.path == *image) else { continue };
        let images = work.tools.hypervisor.chain(top)?;
        last = last.max(images.first().and_then(|image| image.modified));
    }
    Ok(last.unwrap_or(now).min(now))
}
