//! A run of snapshots merged away in one pass: what stays is whole, also for those who use libvirt directly.

use virtsnap::{
    core::model::{SnapshotName, VmId, VmState},
    hypervisor::{Copied, ErrorKind, Hypervisor, Result, Slept, SnapshotXml, Steer},
    merging::{self, Earlier, Watcher},
};

use super::{Rig, RigVm, chain, connected, name, overlays, records, refused, spec, take};

const RUNNING: RigVm = RigVm { disks: 2, running: true, agent: false };
pub(super) const TARGETS: [&str; 2] = ["vda", "vdb"];

/// Remembers what it was told.
#[derive(Default)]
pub(super) struct Noted {
    awake: Vec<bool>,
    kept: Vec<SnapshotName>,
    merged: Vec<String>,
    /// Stops at this disk, once something of it is copied.
    stop_at: Option<usize>,
}

impl Noted {
    /// Stops there.
    pub(super) fn stopping_at(disk: usize) -> Self {
        Self { stop_at: Some(disk), ..Self::default() }
    }
}

impl Watcher for Noted {
    fn steer(&mut self, disk: usize, copied: Copied) -> Steer {
        match self.stop_at {
            Some(at) if at == disk && copied.done > 0 => Steer::Stop,
            Some(at) if at == disk => Steer::On { limit: std::num::NonZeroU64::new(1) },
            _ => Steer::On { limit: None },
        }
    }

    fn awake(&mut self, awake: bool) -> Result<()> {
        self.awake.push(awake);
        Ok(())
    }

    fn merged(&mut self, part: &virtsnap::core::merge::DiskPart) -> Result<()> {
        self.merged.push(part.target.clone());
        Ok(())
    }

    fn keep(&mut self, name: &SnapshotName, _xml: &SnapshotXml) -> Result<()> {
        self.kept.push(name.clone());
        Ok(())
    }
}

pub(super) fn merge(hv: &dyn Hypervisor, vm: VmId, run: &[&str]) -> Noted {
    let run: Vec<_> = run.iter().map(|n| name(n)).collect();
    let recipe = merging::look(hv, vm, &run).unwrap();
    let mut noted = Noted::default();
    merging::carry_out(hv, vm, &recipe, Earlier::default(), &mut noted).unwrap();
    noted
}

/// Five snapshots, s1 to s5, of two disks, with the markers 1 to 5 in them and 6 now.
pub(super) fn with_five(rig: &mut dyn Rig, hv: &dyn Hypervisor) -> VmId {
    let vm = rig.new_vm(RUNNING);
    for value in 1..=5 {
        for target in TARGETS {
            rig.write_marker(vm, target, value);
        }
        rig.write_clusters(vm, "vdb", &[40 + value], value);
        take(rig, hv, vm, &format!("s{value}"));
    }
    for target in TARGETS {
        rig.write_marker(vm, target, 6);
    }
    vm
}

/// Whoever is left holds what it held, and libvirt knows the tree.
pub(super) fn check(rig: &dyn Rig, hv: &dyn Hypervisor, vm: VmId, left: &[&str]) {
    let records = records(hv, vm);
    let names: Vec<_> = records.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, left);
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record.parent, i.checked_sub(1).map(|i| name(left[i])), "{}", record.name);
        assert_eq!(record.current, i + 1 == left.len());
        assert!(record.delete_in_progress.is_empty());
        let value: u64 = left[i][1..].parse().unwrap();
        for target in TARGETS {
            assert_eq!(
                rig.marker_in_snapshot(vm, &record.name, target),
                value,
                "{target} of {}",
                record.name
            );
        }
    }
    for target in TARGETS {
        assert_eq!(rig.marker_now(vm, target), 6, "{target} now");
        assert_eq!(chain(hv, vm, target).len(), left.len() + 1);
    }
    let configured =
        hv.vm(vm).unwrap().disks.into_iter().map(|d| (d.configured, Some(d.chain[0].path.clone())));
    assert!(configured.into_iter().all(|(configured, active)| configured == active));
}

fn goes(rig: &mut dyn Rig, run: &[&str], left: &[&str]) {
    let (hv, _events) = connected(rig);
    let vm = with_five(rig, &*hv);
    let before: Vec<_> = TARGETS.iter().flat_map(|t| chain(&*hv, vm, t)).collect();
    let noted = merge(&*hv, vm, run);
    assert_eq!((noted.awake, noted.merged), (Vec::new(), vec!["vda".to_owned(), "vdb".to_owned()]));
    check(rig, &*hv, vm, left);
    let after: Vec<_> = TARGETS.iter().flat_map(|t| chain(&*hv, vm, t)).collect();
    for image in before {
        assert_eq!(rig.file_exists(&image), after.contains(&image), "{image}");
    }
    // Whoever uses libvirt directly finds nothing unusual; the newest goes last, since it is what the others are under.
    for gone in left {
        hv.delete(vm, &name(gone)).unwrap();
    }
    for target in TARGETS {
        assert_eq!((rig.marker_now(vm, target), chain(&*hv, vm, target).len()), (6, 1));
    }
}

pub(crate) fn a_run_of_the_oldest_goes_in_one_pass(rig: &mut dyn Rig) {
    goes(rig, &["s1", "s2", "s3"], &["s4", "s5"]);
}

pub(crate) fn a_run_in_the_middle_goes_in_one_pass(rig: &mut dyn Rig) {
    goes(rig, &["s2", "s3"], &["s1", "s4", "s5"]);
}

pub(crate) fn a_run_of_the_newest_goes_in_one_pass(rig: &mut dyn Rig) {
    goes(rig, &["s4", "s5"], &["s1", "s2", "s3"]);
}

pub(crate) fn a_run_of_all_goes_in_one_pass(rig: &mut dyn Rig) {
    goes(rig, &["s1", "s2", "s3", "s4", "s5"], &[]);
}

pub(crate) fn what_stays_can_be_reverted_to_also_after_a_restart(rig: &mut dyn Rig) {
    let (hv, events) = connected(rig);
    let vm = with_five(rig, &*hv);
    merge(&*hv, vm, &["s2", "s3"]);
    rig.disconnect();
    super::wait_for(&events, "the loss", |e| matches!(e, virtsnap::hypervisor::Event::Disconnected(_)));
    rig.reconnect();
    super::wait_for(&events, "the return", |e| matches!(e, virtsnap::hypervisor::Event::Connected(_)));
    check(rig, &*hv, vm, &["s1", "s4", "s5"]);
    rig.stop_vm(vm);
    for (label, value) in [("s4", 4), ("s1", 1), ("s5", 5)] {
        rig.revert(vm, &name(label));
        rig.start_vm(vm);
        for target in TARGETS {
            assert_eq!(rig.marker_now(vm, target), value);
        }
        rig.stop_vm(vm);
    }
}

pub(crate) fn snapshots_of_some_disks_are_merged_between_each_other(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = rig.new_vm(RUNNING);
    // s1 has vda, s2 vdb, s3 vda, s4 both.
    for (value, has) in [(1, "vda"), (2, "vdb"), (3, "vda"), (4, "")] {
        for target in TARGETS {
            rig.write_marker(vm, target, value);
        }
        let mut overlays = overlays(rig, &*hv, vm);
        overlays.retain(|o| o.target.contains(has));
        hv.prepare(vm, &overlays).unwrap();
        hv.create(vm, &spec(&format!("s{value}"), &overlays)).unwrap();
    }
    for target in TARGETS {
        rig.write_marker(vm, target, 5);
    }
    let (vda, vdb) = (chain(&*hv, vm, "vda"), chain(&*hv, vm, "vdb"));
    merge(&*hv, vm, &["s1", "s2"]);
    assert_eq!(chain(&*hv, vm, "vda"), [&vda[..2], &vda[3..]].concat());
    assert_eq!(chain(&*hv, vm, "vdb"), [&vdb[..1], &vdb[2..]].concat());
    assert_eq!(rig.marker_in_snapshot(vm, &name("s3"), "vda"), 3);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s4"), "vda"), 4);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s4"), "vdb"), 4);
    merge(&*hv, vm, &["s3"]);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s4"), "vda"), 4);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s4"), "vdb"), 4);
    hv.delete(vm, &name("s4")).unwrap();
    for target in TARGETS {
        assert_eq!((rig.marker_now(vm, target), chain(&*hv, vm, target).len()), (5, 1));
    }
}

pub(crate) fn a_stopped_vm_is_woken_and_sleeps_again(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = with_five(rig, &*hv);
    rig.stop_vm(vm);
    let noted = merge(&*hv, vm, &["s1", "s2"]);
    assert_eq!(noted.awake, [true, false]);
    assert_eq!(noted.kept, ["s3", "s4", "s5"].map(name));
    assert_eq!(hv.vm(vm).unwrap().state, VmState::ShutOff);
    check(rig, &*hv, vm, &["s3", "s4", "s5"]);
    merge(&*hv, vm, &["s4", "s5"]);
    assert_eq!(hv.vm(vm).unwrap().state, VmState::ShutOff);
    check(rig, &*hv, vm, &["s3"]);
    rig.start_vm(vm);
    check(rig, &*hv, vm, &["s3"]);
}

/// Whose CPUs somebody lets go on after the first disk, and then stops or not.
struct Taken<'a> {
    hv: &'a dyn Hypervisor,
    vm: VmId,
    suspends: bool,
    awake: Vec<bool>,
}

impl Watcher for Taken<'_> {
    fn awake(&mut self, awake: bool) -> Result<()> {
        self.awake.push(awake);
        Ok(())
    }

    fn merged(&mut self, part: &virtsnap::core::merge::DiskPart) -> Result<()> {
        if part.target == "vda" {
            self.hv.go_on(self.vm)?;
            if self.suspends {
                assert_eq!(self.hv.suspend(self.vm), Ok(true));
            }
        }
        Ok(())
    }
}

pub(crate) fn a_woken_vm_that_somebody_let_go_on_is_theirs_and_its_merge_is_told(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = with_five(rig, &*hv);
    for (suspends, run, left) in
        [(true, ["s1", "s2"], vec!["s3", "s4", "s5"]), (false, ["s4", "s5"], vec!["s3"])]
    {
        rig.stop_vm(vm);
        let recipe = merging::look(&*hv, vm, &run.map(name)).unwrap();
        let mut taken = Taken { hv: &*hv, vm, suspends, awake: Vec::new() };
        merging::carry_out(&*hv, vm, &recipe, Earlier::default(), &mut taken).unwrap();
        assert_eq!(taken.awake, [true, false]);
        let state = if suspends { VmState::Paused } else { VmState::Running };
        assert_eq!(hv.vm(vm).unwrap().state, state);
        check(rig, &*hv, vm, &left);
        assert_eq!(hv.let_sleep(vm), Ok(Slept::Taken));
        refused(hv.wake(vm), ErrorKind::Busy);
        assert_eq!(hv.vm(vm).unwrap().state, state);
    }
    rig.stop_vm(vm);
    assert_eq!(hv.let_sleep(vm), Ok(Slept::WasOff));
    hv.wake(vm).unwrap();
    assert_eq!(hv.let_sleep(vm), Ok(Slept::Ended));
    rig.start_vm(vm);
    check(rig, &*hv, vm, &["s3"]);
}

pub(crate) fn a_merge_that_was_stopped_is_finished_later(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = with_five(rig, &*hv);
    for (stop_at, run, left) in [(0, ["s2", "s3"], vec!["s1", "s4", "s5"]), (1, ["s4", "s5"], vec!["s1"])] {
        let recipe = merging::look(&*hv, vm, &run.map(name)).unwrap();
        let mut stops = Noted::stopping_at(stop_at);
        let stopped = merging::carry_out(&*hv, vm, &recipe, Earlier::default(), &mut stops).unwrap_err();
        assert!(!stopped.kind.untouched(), "{stopped:?}");
        assert_eq!(stops.merged.len(), stop_at);
        for target in TARGETS {
            assert_eq!(rig.marker_now(vm, target), 6);
            assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), target), 1, "who stays is right");
        }
        assert_eq!(hv.block_jobs(vm), Ok(Vec::new()));
        for _again in 0..2 {
            let earlier = Earlier { begun: true, ..Earlier::default() };
            merging::carry_out(&*hv, vm, &recipe, earlier, &mut Noted::default()).unwrap();
            check(rig, &*hv, vm, &left);
        }
    }
}

/// Nobody is told or forgotten, and nothing is removed, where the disks are on something else by then.
pub(crate) fn a_merge_that_was_stopped_is_not_ended_on_other_images(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    for (run, back_to) in [(["s4"], "s4"), (["s5"], "s4"), (["s3"], "s1")] {
        let vm = with_five(rig, &*hv);
        let recipe = merging::look(&*hv, vm, &run.map(name)).unwrap();
        let mut stops = Noted::stopping_at(1);
        merging::carry_out(&*hv, vm, &recipe, Earlier::default(), &mut stops).unwrap_err();
        rig.stop_vm(vm);
        rig.revert(vm, &name(back_to));
        let before = records(&*hv, vm);
        let earlier = Earlier { begun: true, ..Earlier::default() };
        let ended = merging::carry_out(&*hv, vm, &recipe, earlier, &mut Noted::default());
        refused(ended, ErrorKind::ChainMismatch);
        assert_eq!(records(&*hv, vm), before);
        for image in recipe.removed() {
            assert!(rig.file_exists(&image), "{image}");
        }
    }
}

pub(crate) fn a_snapshot_taken_meanwhile_is_told_as_well(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = with_five(rig, &*hv);
    let recipe = merging::look(&*hv, vm, &[name("s5")]).unwrap();
    let mut stops = Noted::stopping_at(1);
    merging::carry_out(&*hv, vm, &recipe, Earlier::default(), &mut stops).unwrap_err();
    take(rig, &*hv, vm, "s6");
    let earlier = Earlier { begun: true, ..Earlier::default() };
    merging::carry_out(&*hv, vm, &recipe, earlier, &mut Noted::default()).unwrap();
    for target in TARGETS {
        assert_eq!(rig.marker_in_snapshot(vm, &name("s6"), target), 6);
        assert_eq!(chain(&*hv, vm, target).len(), 6);
    }
    assert!(recipe.removed().iter().all(|image| !rig.file_exists(image)));
    for gone in ["s1", "s2", "s3", "s4", "s6"] {
        hv.delete(vm, &name(gone)).unwrap();
    }
    for target in TARGETS {
        assert_eq!((rig.marker_now(vm, target), chain(&*hv, vm, target).len()), (6, 1));
    }
}

pub(crate) fn what_forbids_a_merge_is_said_before_anything_is_touched(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let vm = with_five(rig, &*hv);
    let look = |run: &[&str]| {
        let run: Vec<_> = run.iter().map(|n| name(n)).collect();
        merging::look(&*hv, vm, &run).map(drop)
    };
    refused(look(&["s1", "s9"]), ErrorKind::NoSuchSnapshot);
    refused(look(&["s1", "s3"]), ErrorKind::Unsupported);
    let job_on = chain(&*hv, vm, "vdb").len();
    // It has data below what it writes to that is not there too.
    rig.begin_block_job(vm, "vdb");
    refused(look(&["s1"]), ErrorKind::Busy);
    rig.end_block_job(vm, "vdb");
    assert_eq!(chain(&*hv, vm, "vdb").len(), job_on);
    assert_eq!(look(&["s1", "s2"]), Ok(()));
    rig.stop_vm(vm);
    rig.revert(vm, &name("s2"));
    // s3 to s5 are on a branch that it left, which stands on s2's image.
    refused(look(&["s3"]), ErrorKind::Unsupported);
    refused(look(&["s1", "s2"]), ErrorKind::Unsupported);
    assert_eq!(records(&*hv, vm).len(), 5);
    for (label, value) in [("s1", 1), ("s2", 2), ("s5", 5)] {
        assert_eq!(rig.marker_in_snapshot(vm, &name(label), "vda"), value);
    }
}
