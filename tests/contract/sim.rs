//! The simulator as a driver. The marker is the disk's first block.

mod branches;
mod broken;
mod images;
mod inside;
mod kept;
mod kinds;
mod memory;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use virtsnap::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{
        Agent, Error, ErrorKind, Hypervisor,
        sim::{DiskSpec, Fault, Mishap, Op, Sim, VmSpec},
    },
};

use super::{Capability, Rig, RigVm, agent::Windows};

const MARKER: u64 = 0;

pub(crate) struct SimRig {
    sim: Arc<Sim>,
    made: u32,
}

impl SimRig {
    pub(crate) fn new() -> Self {
        Self { sim: Arc::new(Sim::new()), made: 0 }
    }

    fn number(&mut self) -> u32 {
        self.made += 1;
        self.made
    }
}

impl Rig for SimRig {
    fn capabilities(&self) -> BTreeSet<Capability> {
        Capability::ALL.into_iter().filter(|c| *c != Capability::NativeRevert).collect()
    }

    fn hv(&self) -> Arc<dyn Hypervisor> {
        self.sim.clone()
    }

    fn new_vm(&mut self, spec: RigVm) -> VmId {
        let number = self.number();
        let state = if spec.running { VmState::Running } else { VmState::ShutOff };
        let agent = if spec.agent { Agent::Connected } else { Agent::Absent };
        let vm = VmSpec::new(&format!("vm{number}"), number.into())
            .with_disks(&["vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg", "vdh"][..spec.disks]);
        self.sim.add_vm(vm.in_state(state).with_agent(agent))
    }

    fn start_vm(&mut self, vm: VmId) {
        self.sim.start(vm).unwrap();
    }

    fn stop_vm(&mut self, vm: VmId) {
        self.sim.stop(vm).unwrap();
    }

    fn undefine_vm(&mut self, vm: VmId) {
        self.sim.undefine(vm).unwrap();
    }

    fn overlay_path(&mut self, _vm: VmId, target: &str) -> String {
        format!("/images/overlay-{}-{target}.qcow2", self.number())
    }

    fn make_file(&mut self, path: &str) {
        self.sim.put_file(path, 1);
    }

    fn file_exists(&self, path: &str) -> bool {
        self.sim.files().contains_key(path)
    }

    fn write_marker(&mut self, vm: VmId, target: &str, value: u64) {
        self.sim.write_behind(vm, target, MARKER, value).unwrap();
    }

    fn write_clusters(&mut self, vm: VmId, target: &str, clusters: &[u64], value: u64) {
        for cluster in clusters {
            self.sim.write_behind(vm, target, *cluster, value).unwrap();
        }
    }

    fn marker_now(&self, vm: VmId, target: &str) -> u64 {
        self.sim.read(vm, target).unwrap().get(&MARKER).copied().unwrap_or(0)
    }

    fn marker_in_snapshot(&self, vm: VmId, snapshot: &SnapshotName, target: &str) -> u64 {
        self.sim.content_of_snapshot(vm, snapshot, target).unwrap().get(&MARKER).copied().unwrap_or(0)
    }

    fn definitions(&self, vm: VmId, snapshot: &SnapshotName) -> Vec<BTreeMap<String, String>> {
        let records = self.sim.snapshots(vm).unwrap();
        let record = records.into_iter().find(|r| r.name == *snapshot).unwrap();
        vec![record.sources.into_iter().collect()]
    }

    fn written_chains(&self, _vm: VmId, _snapshot: &SnapshotName) -> usize {
        0
    }

    fn set_memory(&mut self, vm: VmId, mib: u64) {
        self.sim.set_memory(vm, mib).unwrap();
    }

    fn memory(&self, vm: VmId) -> u64 {
        self.sim.memory(vm).unwrap()
    }

    fn attach(&mut self, vm: VmId, target: &str, cdrom: bool) {
        let path = format!("/images/attached-{}", self.number());
        self.sim.attach(vm, DiskSpec { writable: !cdrom, ..DiskSpec::new(target, &path) }).unwrap();
    }

    fn managed_save(&mut self, vm: VmId) {
        self.sim.managed_save(vm).unwrap();
    }

    fn foreign_snapshot(&mut self, vm: VmId, name: &str) {
        self.sim.make_foreign_snapshot(vm, name).unwrap();
    }

    fn merge_chain_behind(&mut self, vm: VmId) {
        for disk in self.sim.vm(vm).unwrap().disks {
            self.sim.merge_chain_behind(vm, &disk.target).unwrap();
        }
    }

    fn revert(&mut self, vm: VmId, name: &SnapshotName) {
        self.sim.revert(vm, name).unwrap();
    }

    fn agent_stop(&mut self, vm: VmId) {
        self.sim.agent_stuck(vm, true).unwrap();
    }

    fn agent_cont(&mut self, vm: VmId) {
        self.sim.agent_stuck(vm, false).unwrap();
    }

    fn agent_kill(&mut self, vm: VmId) {
        self.sim.agent_connected(vm, false).unwrap();
    }

    fn agent_start(&mut self, vm: VmId) {
        self.sim.agent_connected(vm, true).unwrap();
    }

    fn hook_fail(&mut self, vm: VmId, fail: bool) {
        self.sim.hook_fails(vm, fail).unwrap();
    }

    fn merge_fails(&mut self, vm: VmId, _name: &SnapshotName, fails: bool) {
        self.sim.heal();
        if fails {
            let text = "'block-commit': Failed to get \"write\" lock";
            let refuse = Mishap::Refuse(Error::new(ErrorKind::Busy, text));
            self.sim.inject(Fault::new(Op::Commit, refuse).on(vm).always());
            let error = Error::new(ErrorKind::Failed, text);
            self.sim.inject(Fault::new(Op::Delete, Mishap::Half(error)).on(vm).always());
        }
    }

    fn disconnect(&mut self) {
        self.sim.disconnect("libvirtd was stopped");
    }

    fn reconnect(&mut self) {
        self.sim.connect();
    }
}

impl Windows for SimRig {
    fn run_windows(&mut self, vm: VmId) {
        self.sim.runs_windows(vm).unwrap();
    }

    fn hold_for_too_long(&mut self, vm: VmId) {
        self.sim.lets_go(vm).unwrap();
    }
}
