//! libvirt's own test driver, `test:///default`: a hypervisor in the memory of whoever asks, without images, agents or
//! QEMU. It shows that what we ask of any libvirt is asked right: VMs, events, snapshots that others made, metadata.
//!
//! All connections of a process share that hypervisor, so the rig has one of its own beside the driver's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
};

use tempfile::TempDir;
use virt::{connect::Connect, domain::Domain};
use virtsnap::{
    core::model::{SnapshotName, VmId},
    hypervisor::{Hypervisor, libvirt::Libvirt},
};

use super::{
    Capability, Rig, RigVm, agent::Windows, branch::Branches, broken::Broken, fitness::Kinds, images::Images,
    internal::Inside, kinds::Kept, layers::Layers, memory::Memory, native::Native,
};

const URI: &str = "test:///default";

pub(crate) struct TestRig {
    connection: Connect,
    /// Where the files are that the definitions name: the driver never opens them.
    files: TempDir,
    made: u32,
}

impl TestRig {
    pub(crate) fn new() -> Self {
        let connection = Connect::open(Some(URI)).unwrap();
        Self { connection, files: tempfile::tempdir().unwrap(), made: 0 }
    }

    fn domain(&self, vm: VmId) -> Domain {
        self.connection.lookup_domain_by_uuid(vm.0).unwrap()
    }
}

/// What nobody asks of a rig that has declared that it cannot; in brackets how it would have the rig.
macro_rules! declared_not_to {
    ($(fn $name:ident[$($how:tt)+]($($arg:ident: $kind:ty),*) $(-> $gives:ty)?;)+) => {
        $(
            #[allow(unused_variables, reason = "nobody calls it")]
            fn $name($($how)+ $(, $arg: $kind)*) $(-> $gives)? {
                panic!("{} is beyond libvirt's test driver", stringify!($name))
            }
        )+
    };
}

impl Rig for TestRig {
    fn capabilities(&self) -> BTreeSet<Capability> {
        BTreeSet::from([Capability::Foreign])
    }

    fn hv(&self) -> Arc<dyn Hypervisor> {
        Arc::new(Libvirt::new(URI))
    }

    fn new_vm(&mut self, spec: RigVm) -> VmId {
        assert!(!spec.agent, "there is no guest");
        self.made += 1;
        let mut disks = String::new();
        for letter in ('a'..='z').take(spec.disks) {
            let image = self.files.path().join(format!("vm{}-vd{letter}.qcow2", self.made));
            std::fs::write(&image, "").unwrap();
            let _ = write!(
                disks,
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>
                 <target dev='vd{letter}' bus='virtio'/></disk>",
                image.display()
            );
        }
        let xml = format!(
            "<domain type='test'><name>vm{}</name><memory unit='MiB'>16</memory><os><type>hvm</type></os>
             <devices>{disks}</devices></domain>",
            self.made
        );
        let domain = self.connection.define_domain_xml(&xml).unwrap();
        if spec.running {
            domain.create().unwrap();
        }
        VmId(domain.uuid().unwrap())
    }

    fn start_vm(&mut self, vm: VmId) {
        self.domain(vm).create().unwrap();
    }

    fn stop_vm(&mut self, vm: VmId) {
        self.domain(vm).destroy().unwrap();
    }

    fn undefine_vm(&mut self, vm: VmId) {
        self.domain(vm).undefine().unwrap();
    }

    fn file_exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }

    fn foreign_snapshot(&mut self, vm: VmId, name: &str) {
        let xml = format!("<domainsnapshot><name>{name}</name></domainsnapshot>");
        self.domain(vm).create_snapshot_xml(&xml, 0).unwrap();
    }

    declared_not_to! {
        fn overlay_path[&mut self](vm: VmId, target: &str) -> String;
        fn make_file[&mut self](path: &str);
        fn write_marker[&mut self](vm: VmId, target: &str, value: u64);
        fn write_clusters[&mut self](vm: VmId, target: &str, clusters: &[u64], value: u64);
        fn marker_now[&self](vm: VmId, target: &str) -> u64;
        fn marker_in_snapshot[&self](vm: VmId, snapshot: &SnapshotName, target: &str) -> u64;
        fn definitions[&self](vm: VmId, snapshot: &SnapshotName) -> Vec<BTreeMap<String, String>>;
        fn written_chains[&self](vm: VmId, snapshot: &SnapshotName) -> usize;
        fn set_memory[&mut self](vm: VmId, mib: u64);
        fn memory[&self](vm: VmId) -> u64;
        fn attach[&mut self](vm: VmId, target: &str, cdrom: bool);
        fn managed_save[&mut self](vm: VmId);
        fn merge_chain_behind[&mut self](vm: VmId);
        fn revert[&mut self](vm: VmId, name: &SnapshotName);
        fn agent_stop[&mut self](vm: VmId);
        fn agent_cont[&mut self](vm: VmId);
        fn agent_kill[&mut self](vm: VmId);
        fn agent_start[&mut self](vm: VmId);
        fn hook_fail[&mut self](vm: VmId, fail: bool);
        fn merge_fails[&mut self](vm: VmId, name: &SnapshotName, fails: bool);
        fn disconnect[&mut self]();
        fn reconnect[&mut self]();
    }
}

impl Kinds for TestRig {
    declared_not_to! {
        fn new_raw_vm[&mut self]() -> VmId;
        fn new_strange_vm[&mut self](name: &str, directory: &str) -> VmId;
        fn pause_vm[&mut self](vm: VmId);
        fn resume_vm[&mut self](vm: VmId);
        fn describe_vm[&mut self](vm: VmId, bytes: usize);
        fn access[&self](path: &str) -> String;
    }
}

impl Kept for TestRig {
    declared_not_to! {
        fn new_tpm_vm[&mut self]() -> (VmId, String);
        fn renew_tpm[&mut self](vm: VmId, state: &str);
        fn new_raw_vm_at[&mut self](name: &str, directory: &str, file: &str) -> VmId;
        fn begin_backup[&mut self](vm: VmId);
        fn end_backup[&mut self](vm: VmId);
        fn make_transient[&mut self](vm: VmId);
        fn end_transient[&mut self](vm: VmId);
    }
}

impl Native for TestRig {
    declared_not_to! {
        fn delete_natively[&mut self](vm: VmId, name: &SnapshotName);
        fn revert_natively[&mut self](vm: VmId, name: &SnapshotName);
    }
}

impl Inside for TestRig {
    declared_not_to! {
        fn internal_snapshot[&mut self](vm: VmId, name: &str);
        fn inside[&self](vm: VmId, target: &str) -> Vec<String>;
    }
}

impl Windows for TestRig {
    declared_not_to! {
        fn run_windows[&mut self](vm: VmId);
        fn hold_for_too_long[&mut self](vm: VmId);
    }
}

impl Layers for TestRig {
    declared_not_to! {
        fn put_on_top[&mut self](vm: VmId, disks: &[&str]);
    }
}

impl Broken for TestRig {
    declared_not_to! {
        fn break_deletion[&mut self](vm: VmId, name: &SnapshotName, merged: &[&str]);
        fn leave_deletion[&mut self](vm: VmId, name: &SnapshotName, merged: bool);
    }
}

impl Images for TestRig {
    declared_not_to! {
        fn edit_definition[&mut self](vm: VmId, target: &str, image: &str);
        fn fill[&mut self](vm: VmId, target: &str);
        fn begin_block_job[&mut self](vm: VmId, target: &str);
        fn end_block_job[&mut self](vm: VmId, target: &str);
        fn image_on[&mut self](image: &str) -> String;
        fn vm_on[&mut self](image: &str) -> VmId;
        fn remove_file[&mut self](path: &str);
        fn put_bytes[&mut self](path: &str, bytes: &[u8]);
        fn bytes_of[&self](path: &str) -> Vec<u8>;
    }
}

impl Memory for TestRig {
    declared_not_to! {
        fn new_bound_vm[&mut self]() -> VmId;
        fn lived[&self](vm: VmId) -> u64;
        fn live[&mut self](vm: VmId);
    }
}

impl Branches for TestRig {
    declared_not_to! {
        fn adopt_vm[&mut self](vm: VmId);
        fn new_firmware_vm[&mut self]() -> VmId;
        fn kill_qemu[&mut self](vm: VmId);
    }
}
