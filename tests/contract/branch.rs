//! VMs of their own on another one's snapshots.

use virtsnap::{
    core::{
        branch::BranchJob,
        job::{CreateJob, Failure, Made, Operation, Outcome},
        model::{VmId, VmState},
    },
    hypervisor::{ErrorKind, Hypervisor, User},
    merging,
};

use super::{
    Rig, RigVm, chain, connected,
    daemon::{Daemon, usual},
    name, overlays, records, refused, spec, take,
};

pub(super) const TWO: RigVm = RigVm { disks: 2, running: true, agent: false };
pub(super) const DISKS: [&str; 2] = ["vda", "vdb"];

/// A hand on VMs that the driver made.
pub(crate) trait Branches {
    /// From now on this VM is the rig's, as if it had made it: to be written to, and to go at the end.
    fn adopt_vm(&mut self, vm: VmId);
    /// Makes a stopped VM with one disk, and with firmware that keeps its variables in a file.
    fn new_firmware_vm(&mut self) -> VmId;
    /// Kills the QEMU of this VM, which is off then.
    fn kill_qemu(&mut self, vm: VmId);
}

pub(super) fn write(rig: &mut dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        rig.write_marker(vm, target, value);
    }
}

#[track_caller]
pub(super) fn markers(rig: &dyn Rig, vm: VmId, value: u64) {
    for target in DISKS {
        assert_eq!(rig.marker_now(vm, target), value, "{target}");
    }
}

/// s1 and s2 with their own data, and the VM with newer.
pub(super) fn two(rig: &mut dyn Rig, hv: &dyn Hypervisor, spec: RigVm) -> VmId {
    let vm = rig.new_vm(spec);
    for (label, value) in [("s1", 1), ("s2", 2)] {
        write(rig, vm, value);
        take(rig, hv, vm, label);
    }
    write(rig, vm, 3);
    vm
}

pub(super) fn job(hv: &dyn Hypervisor, vm: VmId, label: &str) -> BranchJob {
    let new_vm = format!("{}-trial", hv.vm(vm).unwrap().name);
    BranchJob { name: name(label), new_vm, start: false, leave_out: false }
}

pub(super) fn ask(rig: &mut dyn Rig, daemon: &Daemon, vm: VmId, job: BranchJob) -> Result<VmId, Failure> {
    let outcome = daemon.run(vm, Operation::Branch(job));
    assert_eq!(daemon.tools.store.intents().unwrap(), [], "it ended, whichever way");
    match outcome {
        Outcome::Done(Some(Made::Vm(branch))) => {
            rig.adopt_vm(branch);
            Ok(branch)
        }
        Outcome::Failed(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn a_branch_holds_the_snapshot_s_data_and_pins_it(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let before = (hv.vm(vm).unwrap(), records(&*hv, vm));
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s2")).unwrap();
    assert_eq!((hv.vm(vm).unwrap(), records(&*hv, vm)), before, "the one is as it was");
    markers(rig, branch, 2);
    let made = hv.vm(branch).unwrap();
    assert_eq!((made.state, made.id), (VmState::ShutOff, branch));
    assert_eq!(records(&*hv, branch), []);
    for target in DISKS {
        let (its, state) = (chain(&*hv, branch, target), chain(&*hv, vm, target));
        assert_eq!(its[1..], state[1..], "its own overlay, on what the snapshot lies on");
        assert!(!state.contains(&its[0]));
        let user = (state[1].clone(), User::Vm(made.name.clone()));
        assert!(hv.users(&state[1..2], vm).unwrap().contains(&user));
    }
    // Neither the snapshot nor what is under it goes, whoever asks and however.
    for label in ["s1", "s2"] {
        refused(hv.delete(vm, &name(label)), ErrorKind::InUse);
        refused(merging::look(&*hv, vm, &[name(label)]), ErrorKind::InUse);
    }
    assert_eq!((hv.vm(vm).unwrap(), records(&*hv, vm)), before);
    // What is on top of it does.
    take(rig, &*hv, vm, "s3");
    hv.delete(vm, &name("s3")).unwrap();
    rig.start_vm(branch);
    markers(rig, branch, 2);
    markers(rig, vm, 3);
}

pub(crate) fn writes_in_either_are_not_seen_in_the_other(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let branch = ask(rig, &daemon, vm, BranchJob { start: true, ..job(&*hv, vm, "s1") }).unwrap();
    assert_eq!(hv.vm(branch).unwrap().state, VmState::Running);
    markers(rig, branch, 1);
    write(rig, branch, 7);
    write(rig, vm, 4);
    markers(rig, branch, 7);
    markers(rig, vm, 4);
    for (label, value) in [("s1", 1), ("s2", 2)] {
        assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vda"), value, "{label}");
    }
    // It is a VM like any other: it has snapshots of its own, and so has a branch of that.
    take(rig, &*hv, branch, "b1");
    write(rig, branch, 8);
    let second = ask(rig, &daemon, branch, job(&*hv, branch, "b1")).unwrap();
    markers(rig, second, 7);
    refused(hv.delete(branch, &name("b1")), ErrorKind::InUse);
    daemon.revert(vm, "s2");
    for (vm, value) in [(vm, 2), (branch, 8), (second, 7)] {
        markers(rig, vm, value);
    }
    for vm in [vm, branch] {
        rig.stop_vm(vm);
        rig.start_vm(vm);
    }
    markers(rig, branch, 8);
}

pub(crate) fn a_branch_of_a_stopped_vm(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    rig.set_memory(vm, 24);
    take(rig, &*hv, vm, "s3");
    rig.set_memory(vm, 32);
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s3")).unwrap();
    assert_eq!(
        (hv.vm(vm).unwrap().state, hv.vm(branch).unwrap().state),
        (VmState::ShutOff, VmState::ShutOff)
    );
    assert_eq!(rig.memory(branch), 24, "the definition is that of then");
    // Of one that the VM has left since.
    daemon.revert(vm, "s1");
    let other = BranchJob { new_vm: "another".to_owned(), ..job(&*hv, vm, "s2") };
    let other = ask(rig, &daemon, vm, other).unwrap();
    markers(rig, other, 2);
    for vm in [branch, other, vm] {
        rig.start_vm(vm);
    }
    markers(rig, branch, 3);
    markers(rig, vm, 1);
}

pub(crate) fn a_taken_name_is_refused(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, RigVm { running: false, ..TWO });
    let own = hv.vm(vm).unwrap().name;
    assert_eq!(hv.named(&own), Ok(Some(vm)));
    let beside = hv.images_beside(&chain(&*hv, vm, "vda")[0]).unwrap();
    let mut no = |new_vm: &str, kind: &str| {
        let failure = ask(rig, &daemon, vm, BranchJob { new_vm: new_vm.into(), ..job(&*hv, vm, "s1") });
        let failure = failure.unwrap_err();
        assert_eq!(failure.name, kind, "{}", failure.message);
        assert_eq!(hv.images_beside(&chain(&*hv, vm, "vda")[0]).unwrap(), beside);
    };
    no(&own, "Exists");
    for bad in ["", "a/b", ".x", "a\nb"] {
        no(bad, "InvalidArgument");
    }
    // Taken at the last moment, too, and by a name's or a UUID's owner.
    let free = "never there";
    assert_eq!(hv.named(free), Ok(None));
    let branch = ask(rig, &daemon, vm, BranchJob { new_vm: free.into(), ..job(&*hv, vm, "s1") }).unwrap();
    assert_eq!(hv.named(free), Ok(Some(branch)));
    for (label, id) in [("other", branch), (free, VmId(uuid::Uuid::from_u128(99)))] {
        let new = virtsnap::hypervisor::NewVm {
            id,
            name: label.to_owned(),
            images: hv
                .vm(branch)
                .unwrap()
                .disks
                .into_iter()
                .map(|d| (d.target, d.chain[0].clone()))
                .collect(),
            nvram: None,
            leave_out: false,
        };
        let drawn = hv.draw(vm, &name("s1"), &new).unwrap();
        refused(hv.define_new(id, &drawn.definition), ErrorKind::Exists);
    }
    assert_eq!(hv.vm(branch).unwrap().name, free);
}

pub(crate) fn what_a_branch_cannot_have_is_refused_or_left_out(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_vm(RigVm { running: false, ..TWO });
    rig.attach(vm, "hdc", true);
    write(rig, vm, 1);
    let mut only = overlays(rig, &*hv, vm);
    only.retain(|o| o.target == "vda");
    hv.prepare(vm, &only).unwrap();
    hv.create(vm, &spec("s1", &only)).unwrap();
    let failure = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap_err();
    assert_eq!(failure.name, "Unsupported");
    assert!(
        failure.message.contains("vdb") && failure.message.contains("nothing touched"),
        "{}",
        failure.message
    );
    let branch = ask(rig, &daemon, vm, BranchJob { leave_out: true, ..job(&*hv, vm, "s1") }).unwrap();
    assert_eq!(chain(&*hv, branch, "hdc"), chain(&*hv, vm, "hdc"), "a CD-ROM may be in both");
    let targets: Vec<_> = hv.vm(branch).unwrap().disks.into_iter().map(|d| d.target).collect();
    assert_eq!(targets, ["vda", "hdc"]);
    rig.start_vm(vm);
    rig.start_vm(branch);
    assert_eq!(rig.marker_now(branch, "vda"), 1);
}

pub(crate) fn firmware_variables_are_its_own(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = rig.new_firmware_vm();
    let own = hv.vm(vm).unwrap().nvram.unwrap().path;
    rig.put_bytes(&own, b"those of then");
    rig.write_marker(vm, "vda", 1);
    let safety = usual("s1").safety.unwrap();
    let create = Operation::Create(CreateJob { name: Some(name("s1")), ..safety });
    assert!(matches!(daemon.run(vm, create), Outcome::Done(Some(_))));
    rig.put_bytes(&own, b"newer ones");
    take(rig, &*hv, vm, "without");
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap();
    let copy = hv.vm(branch).unwrap().nvram.unwrap().path;
    assert_ne!(copy, own);
    assert_eq!(
        (rig.bytes_of(&copy), rig.bytes_of(&own)),
        (b"those of then".to_vec(), b"newer ones".to_vec())
    );
    assert_eq!(rig.marker_now(branch, "vda"), 1);
    let failure = ask(rig, &daemon, vm, BranchJob { new_vm: "x".into(), ..job(&*hv, vm, "without") });
    let failure = failure.unwrap_err();
    assert!(failure.name == "Unsupported" && failure.message.contains("variables"), "{}", failure.message);
}

pub(crate) fn a_branch_that_went_unpins(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = two(rig, &*hv, TWO);
    let branch = ask(rig, &daemon, vm, job(&*hv, vm, "s1")).unwrap();
    let made: Vec<String> = DISKS.map(|target| chain(&*hv, branch, target).remove(0)).into();
    refused(hv.undefine_new(vm), ErrorKind::Busy);
    // By its owner: its images stay, and as long as they do they stand on the snapshot.
    rig.undefine_vm(branch);
    assert_eq!(hv.undefine_new(branch), Ok(()), "it is gone already");
    assert!(made.iter().all(|path| rig.file_exists(path)));
    let error = hv.delete(vm, &name("s1")).unwrap_err();
    assert!(error.kind == ErrorKind::InUse && error.message.contains(&made[0]), "{error}");
    hv.discard(vm, &made).unwrap();
    hv.delete(vm, &name("s1")).unwrap();
    markers(rig, vm, 3);
}
