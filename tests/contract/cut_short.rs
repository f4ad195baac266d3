//! Merges that were cut short: what may be done before they are ended, and what ends them.

use uuid::Uuid;
use virtsnap::{
    core::{
        branch::BranchJob,
        job::{Failure, Made, Operation, Outcome, Pace},
        merge::Recipe,
        model::{SnapshotName, VmId},
    },
    hypervisor::{ErrorKind, Hypervisor},
    merging::{self, Earlier},
    store::{Begun, Intent},
};

use super::{
    Rig, chain, connected,
    daemon::{Daemon, usual},
    name, records, refused,
    run::{Noted, TARGETS, check, with_five},
};

const AGAIN: Earlier = Earlier { begun: true, woken: false };

/// Of vda it is over, of vdb it was stopped in the middle.
fn cut_short(hv: &dyn Hypervisor, vm: VmId, run: &[&str]) -> Recipe {
    let run: Vec<SnapshotName> = run.iter().map(|n| name(n)).collect();
    let recipe = merging::look(hv, vm, &run).unwrap();
    let mut stops = Noted::stopping_at(1);
    merging::carry_out(hv, vm, &recipe, Earlier::default(), &mut stops).unwrap_err();
    recipe
}

/// And the daemon knows of it.
fn noted(daemon: &Daemon, vm: VmId, recipe: &Recipe) {
    let begun = Begun::Merge(recipe.clone());
    let intent = Intent::new(Uuid::new_v4(), vm, recipe.run[0].name.clone(), begun);
    daemon.tools.store.begin(&intent, daemon.tools.clock.now()).unwrap();
}

fn names(hv: &dyn Hypervisor, vm: VmId) -> Vec<String> {
    records(hv, vm).iter().map(|r| r.name.to_string()).collect()
}

pub(crate) fn it_is_not_ended_into_what_another_vm_has_by_now(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = with_five(rig, &*hv);
    let recipe = cut_short(&*hv, vm, &["s2", "s3"]);
    let base = &recipe.disks.iter().find(|d| d.target == "vdb").unwrap().base;
    let clone = rig.image_on(base);
    let other = rig.vm_on(&clone);
    let before = (records(&*hv, vm), chain(&*hv, vm, "vdb"));
    let mut none = Noted::default();
    refused(merging::carry_out(&*hv, vm, &recipe, AGAIN, &mut none), ErrorKind::InUse);
    assert_eq!((records(&*hv, vm), chain(&*hv, vm, "vdb")), before);
    rig.undefine_vm(other);
    rig.remove_file(&clone);
    merging::carry_out(&*hv, vm, &recipe, AGAIN, &mut Noted::default()).unwrap();
    check(rig, &*hv, vm, &["s1", "s4", "s5"]);
}

/// libvirtd ends between the end of a merge and the writing of the definition: the next start would be without what the
/// guest wrote since.
pub(crate) fn a_definition_that_lags_behind_it_is_put_right(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    for with_next_start in [false, true] {
        let vm = with_five(rig, &*hv);
        let recipe = cut_short(&*hv, vm, &["s4", "s5"]);
        let (left, on) = (&recipe.disks[0].top, &recipe.disks[0].base);
        assert_eq!((recipe.disks[0].target.as_str(), &chain(&*hv, vm, "vda")[0]), ("vda", on));
        rig.edit_definition(vm, "vda", left);
        let configured =
            || hv.vm(vm).unwrap().disks.into_iter().find(|d| d.target == "vda").unwrap().configured;
        assert_eq!(configured().as_ref(), Some(left));
        if with_next_start {
            merging::put_right(&*hv, vm, &recipe.disks).unwrap();
            assert_eq!(configured().as_ref(), Some(on));
            rig.stop_vm(vm);
            rig.start_vm(vm);
        }
        merging::carry_out(&*hv, vm, &recipe, AGAIN, &mut Noted::default()).unwrap();
        check(rig, &*hv, vm, &["s1", "s2", "s3"]);
    }
}

pub(crate) fn a_branch_waits_for_what_it_lies_on_and_nothing_else(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = with_five(rig, &*hv);
    let recipe = cut_short(&*hv, vm, &["s3", "s4"]);
    noted(&daemon, vm, &recipe);
    let branch = |label: &str| {
        let new_vm = format!("{}-on-{label}", hv.vm(vm).unwrap().name);
        let job = BranchJob { name: name(label), new_vm, start: false, leave_out: false };
        match daemon.run(vm, Operation::Branch(job)) {
            Outcome::Done(Some(Made::Vm(made))) => Ok(made),
            Outcome::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    };
    let older = branch("s1").unwrap();
    rig.adopt_vm(older);
    assert_eq!(daemon.tools.store.intents().unwrap().len(), 1, "it did not have to wait");
    let Err(Failure { name: kind, message }) = branch("s4") else { panic!("it goes with the merge") };
    assert!(kind == "Unsupported" && message.contains("s4"), "{kind}: {message}");
    assert_eq!(names(&*hv, vm), ["s1", "s2", "s3", "s4", "s5"]);
    let newer = branch("s5").unwrap();
    rig.adopt_vm(newer);
    assert_eq!(daemon.tools.store.intents().unwrap(), []);
    check(rig, &*hv, vm, &["s1", "s2", "s5"]);
    for target in TARGETS {
        assert_eq!((rig.marker_now(older, target), rig.marker_now(newer, target)), (1, 5));
    }
}

/// libvirt saves a VM's memory when the host goes down, which cuts a merge short as well.
pub(crate) fn it_waits_for_a_managed_save_to_be_used(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = with_five(rig, &*hv);
    let recipe = cut_short(&*hv, vm, &["s2", "s3"]);
    noted(&daemon, vm, &recipe);
    rig.managed_save(vm);
    let before = (hv.vm(vm).unwrap(), records(&*hv, vm), daemon.tools.store.intents().unwrap());
    let delete = || Operation::Delete { name: name("s5"), pace: Pace::default(), foreign: true };
    for operation in [Operation::Finish, delete()] {
        let Outcome::Failed(failure) = daemon.run(vm, operation) else { panic!("it used up the save") };
        assert!(
            failure.name == "Unsupported"
                && failure.message.contains("managed save")
                && failure.message.contains("snapshots s2, s3 of"),
            "{failure:?}"
        );
    }
    refused(merging::carry_out(&*hv, vm, &recipe, AGAIN, &mut Noted::default()), ErrorKind::Unsupported);
    assert_eq!((hv.vm(vm).unwrap(), records(&*hv, vm), daemon.tools.store.intents().unwrap()), before);
    rig.start_vm(vm);
    assert_eq!(daemon.run(vm, Operation::Finish), Outcome::Done(None));
    check(rig, &*hv, vm, &["s1", "s4", "s5"]);
}

pub(crate) fn a_revert_ends_it_first(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let daemon = Daemon::new(&hv);
    let vm = with_five(rig, &*hv);
    let recipe = cut_short(&*hv, vm, &["s3", "s4"]);
    noted(&daemon, vm, &recipe);
    let Outcome::Failed(failure) = daemon.run(vm, Operation::Revert(Box::new(usual("s3")))) else {
        panic!("it goes with the merge")
    };
    assert_eq!(failure.name, "Unsupported", "{failure:?}");
    let safety = daemon.revert(vm, "s1");
    let mut left = names(&*hv, vm);
    left.sort();
    assert_eq!(left, [safety.as_str(), "s1", "s2", "s5"], "and it is over");
    assert!(recipe.removed().iter().all(|image| !rig.file_exists(image)));
    for target in TARGETS {
        assert_eq!(rig.marker_now(vm, target), 1);
        for (label, value) in [("s2", 2), ("s5", 5), (safety.as_str(), 6)] {
            assert_eq!(rig.marker_in_snapshot(vm, &name(label), target), value, "{label}");
        }
    }
}
