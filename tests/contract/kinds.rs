//! VMs and disks of other kinds, through the daemon's own steps, and what it keeps away from.

use virtsnap::{
    core::{
        job::{CreateJob, Failure, Operation, Outcome, Pace, RevertJob},
        model::{SnapshotName, VmId},
        revert::Then,
        stray,
    },
    hypervisor::{ErrorKind, Hypervisor},
};

use super::{
    Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, overlays, records, refused,
};

const RUNNING: RigVm = RigVm { disks: 1, running: true, agent: false };

/// A hand on them.
pub(crate) trait Kept {
    /// Makes a VM, not running, of this name, with one raw disk in a directory of this name, in a file that ends in
    /// `.img`.
    fn new_raw_vm_at(&mut self, name: &str, directory: &str, file: &str) -> VmId;
    /// Makes a VM, not running, with a disk and an emulated TPM that has a state. Where that is.
    fn new_tpm_vm(&mut self) -> (VmId, String);
    /// Gives the stopped VM's TPM another state.
    fn renew_tpm(&mut self, vm: VmId, state: &str);
    /// Another program begins a backup of the running VM, which goes on until it is ended.
    fn begin_backup(&mut self, vm: VmId);
    /// Ends it.
    fn end_backup(&mut self, vm: VmId);
    /// Removes the definition of a running VM, which runs on.
    fn make_transient(&mut self, vm: VmId);
    /// Stops such a one, which is gone then.
    fn end_transient(&mut self, vm: VmId);
}

fn create(daemon: &Daemon, vm: VmId, label: &str) -> Result<(), Failure> {
    let safety = usual(label).safety.unwrap();
    match daemon.run(vm, Operation::Create(CreateJob { name: Some(name(label)), ..safety })) {
        Outcome::Done(_) => Ok(()),
        Outcome::Failed(failure) => Err(failure),
        Outcome::Cancelled(text) => panic!("nobody cancelled it: {text}"),
    }
}

fn delete(daemon: &Daemon, vm: VmId, label: &str) -> Result<(), Failure> {
    match daemon.run(vm, Operation::Delete { name: name(label), pace: Pace::default(), foreign: false }) {
        Outcome::Done(_) => Ok(()),
        Outcome::Failed(failure) => Err(failure),
        Outcome::Cancelled(text) => panic!("nobody cancelled it: {text}"),
    }
}

/// Of a stopped VM, and of one that is on.
pub(crate) fn firmware_variables_are_put_back_by_a_revert(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_firmware_vm();
    let own = hv.vm(vm).unwrap().nvram.unwrap().path;
    let variables = |value: u8| vec![value; 64 * 1024];
    rig.put_bytes(&own, &variables(1));
    rig.write_marker(vm, "vda", 1);
    create(&daemon, vm, "s1").unwrap();
    rig.put_bytes(&own, &variables(2));
    rig.write_marker(vm, "vda", 2);
    // Its CPUs do not run: there is nothing in its firmware.
    hv.start(vm, true).unwrap();
    create(&daemon, vm, "s2").unwrap();
    hv.stop(vm).unwrap();
    rig.put_bytes(&own, &variables(3));
    rig.write_marker(vm, "vda", 3);

    let now = |rig: &dyn Rig| {
        let bytes = rig.bytes_of(&own);
        assert_eq!(bytes, variables(bytes[0]));
        (u64::from(bytes[0]), rig.marker_now(vm, "vda"))
    };
    let first = daemon.revert(vm, "s1");
    assert_eq!(now(rig), (1, 1));
    let paused = RevertJob { then: Then::Paused, ..usual("s2") };
    daemon.ask(vm, paused.clone()).unwrap();
    assert_eq!(now(rig), (2, 2));
    // From one that is on to one that is on, and to what was there before all of them.
    daemon.ask(vm, RevertJob { name: name("s1"), ..paused.clone() }).unwrap();
    assert_eq!(now(rig), (1, 1));
    daemon.ask(vm, RevertJob { name: first, ..paused }).unwrap();
    assert_eq!(now(rig), (3, 3));
}

/// Of a stopped VM, and of one that is on; also where the state is longer or shorter than then.
pub(crate) fn a_tpm_s_state_is_put_back_by_a_revert(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let (vm, own) = rig.new_tpm_vm();
    assert_eq!(hv.vm(vm).unwrap().tpm.unwrap().state, Some(own.clone()));
    let access = rig.access(&own);
    let first = rig.bytes_of(&own);
    let disk = hv.vm(vm).unwrap().disks[0].chain[0].path.clone();
    let kept =
        || hv.images_beside(&disk).unwrap().iter().filter(|i| stray::kept_with(&i.path).is_some()).count();
    create(&daemon, vm, "s0").unwrap();
    assert_eq!(kept(), 1);
    delete(&daemon, vm, "s0").unwrap();
    assert_eq!(kept(), 0);
    rig.write_marker(vm, "vda", 1);
    create(&daemon, vm, "s1").unwrap();
    rig.renew_tpm(vm, &own);
    let second = rig.bytes_of(&own);
    assert_ne!(first, second);
    rig.write_marker(vm, "vda", 2);
    // Its CPUs do not run: nothing changes the TPM.
    hv.start(vm, true).unwrap();
    let second = if rig.bytes_of(&own) == second { second } else { rig.bytes_of(&own) };
    create(&daemon, vm, "s2").unwrap();
    hv.stop(vm).unwrap();
    rig.renew_tpm(vm, &own);
    let third = rig.bytes_of(&own);
    rig.write_marker(vm, "vda", 3);

    let off = |snapshot: &SnapshotName| RevertJob { then: Then::ShutOff, ..usual(snapshot.as_str()) };
    let now = |rig: &dyn Rig| (rig.bytes_of(&own), rig.marker_now(vm, "vda"));
    let three = daemon.revert(vm, "s1");
    assert_eq!(now(rig), (first.clone(), 1));
    daemon.ask(vm, off(&name("s2"))).unwrap();
    assert_eq!(now(rig), (second, 2));
    daemon.ask(vm, off(&three)).unwrap();
    assert_eq!(now(rig), (third, 3));
    assert_eq!(rig.access(&own), access);
    // It is one that a VM can be started with.
    daemon.ask(vm, RevertJob { then: Then::Paused, ..usual("s1") }).unwrap();
    hv.stop(vm).unwrap();
}

/// Whatever people call their VMs, directories and files, also below what is written to.
pub(crate) fn a_raw_base_of_a_strange_name_is_merged_into_and_reverted_to(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let strange = "it's 100%, <a> \"b\" & ü; c=d";
    let vm = rig.new_raw_vm_at(strange, strange, "a, b='1' 50% ö.img");
    let base = hv.vm(vm).unwrap().disks[0].chain.clone();
    assert_eq!((base.len(), base[0].format.as_str()), (1, "raw"));
    let labels = ["one, 1%", "two=\"2\" ü", "three's", "four"];
    for (label, value) in labels.iter().zip(1..) {
        rig.write_marker(vm, "vda", value);
        create(&daemon, vm, label).unwrap();
        if value == 2 {
            rig.start_vm(vm);
        }
    }
    rig.write_marker(vm, "vda", 5);
    let holds = |rig: &dyn Rig, all: &[u64]| {
        for value in all {
            let label = labels[usize::try_from(*value).unwrap() - 1];
            assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vda"), *value, "{label}");
        }
    };
    holds(rig, &[1, 2, 3, 4]);
    // Between qcow2 ones; to the one that is on the raw one itself, and back; and into the raw one.
    delete(&daemon, vm, labels[2]).unwrap();
    holds(rig, &[1, 2, 4]);
    let five = daemon.revert(vm, labels[0]);
    assert_eq!(rig.marker_now(vm, "vda"), 1);
    assert_eq!(hv.vm(vm).unwrap().disks[0].chain[1..], base);
    holds(rig, &[1, 2, 4]);
    let one = daemon.revert(vm, five.as_str());
    assert_eq!(rig.marker_now(vm, "vda"), 5);
    for gone in [one.as_str(), labels[0], labels[1], labels[3], five.as_str()] {
        delete(&daemon, vm, gone).unwrap_or_else(|e| panic!("{gone}: {}", e.message));
        assert_eq!(rig.marker_now(vm, "vda"), 5, "{gone}");
    }
    assert_eq!(hv.vm(vm).unwrap().disks[0].chain, base);
    rig.stop_vm(vm);
    assert_eq!(rig.marker_now(vm, "vda"), 5);
}

/// Nothing is made, and nothing is merged.
fn assert_refused(
    rig: &mut dyn Rig,
    hv: &dyn Hypervisor,
    daemon: &Daemon,
    vm: VmId,
    kind: ErrorKind,
    says: &str,
) {
    let before = (chain(hv, vm, "vda"), records(hv, vm));
    let failure = create(daemon, vm, "more").unwrap_err();
    assert_eq!(failure.name, kind.as_str(), "{}", failure.message);
    assert!(failure.message.contains(says), "{}", failure.message);
    let overlays = overlays(rig, hv, vm);
    refused(hv.prepare(vm, &overlays), kind);
    assert!(!rig.file_exists(&overlays[0].path));
    if before.1.iter().any(|r| r.name == name("s1")) {
        let failure = delete(daemon, vm, "s1").unwrap_err();
        assert_eq!(failure.name, kind.as_str(), "{}", failure.message);
    }
    assert_eq!((chain(hv, vm, "vda"), records(hv, vm)), before);
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
}

pub(crate) fn a_vm_that_is_backed_up_or_saved_or_transient_is_left_alone(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RUNNING);
    rig.write_marker(vm, "vda", 1);
    create(&daemon, vm, "s1").unwrap();
    rig.write_marker(vm, "vda", 2);
    rig.begin_backup(vm);
    assert_refused(rig, &*hv, &daemon, vm, ErrorKind::Busy, "domjobinfo");
    rig.end_backup(vm);
    create(&daemon, vm, "s2").unwrap();
    rig.managed_save(vm);
    assert_refused(rig, &*hv, &daemon, vm, ErrorKind::Unsupported, "managedsave-remove");
    rig.start_vm(vm);
    delete(&daemon, vm, "s1").unwrap();
    assert_eq!((rig.marker_now(vm, "vda"), rig.marker_in_snapshot(vm, &name("s2"), "vda")), (2, 2));

    let vm = rig.new_vm(RUNNING);
    rig.make_transient(vm);
    assert_refused(rig, &*hv, &daemon, vm, ErrorKind::Unsupported, "virsh define");
    rig.end_transient(vm);
}
