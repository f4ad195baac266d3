//! What a VM runs on and what it would start on, who else stands on an image, and what keeps a VM occupied.

use virtsnap::{core::model::VmId, hypervisor::Hypervisor};

use super::{Rig, RigVm, connected, overlays, spec, take};

const STOPPED: RigVm = RigVm { disks: 1, running: false, agent: false };
const RUNNING: RigVm = RigVm { disks: 1, running: true, agent: false };

/// A hand on images and definitions.
pub(crate) trait Images {
    /// Another program edits the definition: this disk is on this image from the next start on.
    fn edit_definition(&mut self, vm: VmId, target: &str, image: &str);
    /// Some megabytes are written to the running VM's disk.
    fn fill(&mut self, vm: VmId, target: &str);
    /// Another program begins a job on the disk of a running VM that has data below its active layer, and the job goes
    /// on until it is ended.
    fn begin_block_job(&mut self, vm: VmId, target: &str);
    /// Ends it.
    fn end_block_job(&mut self, vm: VmId, target: &str);
}

fn configured(hv: &dyn Hypervisor, vm: VmId) -> Vec<Option<String>> {
    hv.vm(vm).unwrap().disks.into_iter().map(|d| d.configured).collect()
}

fn active(hv: &dyn Hypervisor, vm: VmId) -> Vec<Option<String>> {
    hv.vm(vm).unwrap().disks.into_iter().map(|d| Some(d.chain[0].path.clone())).collect()
}

pub(crate) fn the_definition_names_what_the_vm_runs_on(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RigVm { disks: 2, ..STOPPED });
    let base = hv.vm(vm).unwrap().disks[0].chain[0].path.clone();
    assert_eq!(configured(&*hv, vm), active(&*hv, vm));
    assert!(hv.vm(vm).unwrap().xml_bytes > 500);
    let mut only_vdb = overlays(rig, &*hv, vm);
    only_vdb.remove(0);
    hv.prepare(vm, &only_vdb).unwrap();
    hv.create(vm, &spec("s1", &only_vdb)).unwrap();
    assert_eq!(configured(&*hv, vm), [Some(base.clone()), Some(only_vdb[0].path.clone())]);
    rig.start_vm(vm);
    assert_eq!(configured(&*hv, vm), active(&*hv, vm));
    take(rig, &*hv, vm, "s2");
    assert_eq!(configured(&*hv, vm), active(&*hv, vm));

    let before = active(&*hv, vm);
    rig.edit_definition(vm, "vda", &base);
    assert_eq!(active(&*hv, vm), before);
    assert_eq!(configured(&*hv, vm), [Some(base), before[1].clone()]);
}

pub(crate) fn a_running_block_job_is_told(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    rig.fill(vm, "vda");
    take(rig, &*hv, vm, "s1");
    let occupied = || {
        let vm = hv.vm(vm).unwrap();
        (vm.block_jobs, vm.busy)
    };
    assert_eq!(occupied(), (false, false));
    rig.begin_block_job(vm, "vda");
    assert_eq!(occupied(), (true, false));
    rig.end_block_job(vm, "vda");
    assert_eq!(occupied(), (false, false));
}
