//! One disk's merge, steered.

use std::num::NonZeroU64;

use virtsnap::{
    core::model::VmId,
    hypervisor::{Commit, Committed, Copied, ErrorKind, Hypervisor, JobKind, Steer},
};

use super::{Rig, RigVm, chain, connected, name, records, refused, take};

const RUNNING: RigVm = RigVm { disks: 1, running: true, agent: false };
/// So little that nothing gets further than its first step, and so few that a test may wait for all of them.
const CRAWL: Steer = Steer::On { limit: NonZeroU64::new(1) };
const FREE: Steer = Steer::On { limit: None };

/// A VM with three snapshots, the marker being 1, 2, 3 in them and 4 on the disk, and its chain, the base first.
fn with_three(rig: &mut dyn Rig, hv: &dyn Hypervisor) -> (VmId, Vec<String>) {
    let vm = rig.new_vm(RUNNING);
    for (label, value) in [("s1", 1), ("s2", 2), ("s3", 3)] {
        rig.write_clusters(vm, "vda", &[0, 9, 40], value);
        take(rig, hv, vm, label);
    }
    rig.write_clusters(vm, "vda", &[0, 9, 40], 4);
    let mut images = chain(hv, vm, "vda");
    images.reverse();
    (vm, images)
}

fn commit(base: &str, top: &str) -> Commit {
    Commit { target: "vda".to_owned(), base: base.to_owned(), top: top.to_owned() }
}

fn free(_: Copied) -> Steer {
    FREE
}

pub(crate) fn an_inner_commit_takes_its_images_out_and_keeps_the_files(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    let before = records(&*hv, vm);
    assert_eq!(hv.commit(vm, &commit(&images[0], &images[2]), &mut free), Ok(Committed::Now));
    assert_eq!(chain(&*hv, vm, "vda"), [images[3].clone(), images[0].clone()]);
    for image in &images {
        assert!(rig.file_exists(image), "{image}");
    }
    assert_eq!(records(&*hv, vm).len(), before.len(), "metadata is somebody else's business");
    assert_eq!(rig.marker_now(vm, "vda"), 4);
    assert_eq!(
        rig.marker_in_snapshot(vm, &name("s1"), "vda"),
        3,
        "the base holds what the newest of them held"
    );
    assert_eq!(rig.marker_in_snapshot(vm, &name("s3"), "vda"), 3, "and who stays is as it was");
    rig.stop_vm(vm);
    assert_eq!(chain(&*hv, vm, "vda"), [images[3].clone(), images[0].clone()], "also for the next start");
    rig.start_vm(vm);
    assert_eq!(rig.marker_now(vm, "vda"), 4);
}

pub(crate) fn an_active_commit_pivots_and_the_definition_follows(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    assert_eq!(hv.commit(vm, &commit(&images[1], &images[3]), &mut free), Ok(Committed::Now));
    assert_eq!(chain(&*hv, vm, "vda"), [images[1].clone(), images[0].clone()]);
    assert!(images.iter().all(|image| rig.file_exists(image)));
    assert_eq!(hv.block_jobs(vm), Ok(Vec::new()));
    rig.write_marker(vm, "vda", 5);
    rig.stop_vm(vm);
    assert_eq!(chain(&*hv, vm, "vda"), [images[1].clone(), images[0].clone()]);
    rig.start_vm(vm);
    assert_eq!(rig.marker_now(vm, "vda"), 5);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), "vda"), 1);
}

pub(crate) fn a_second_commit_of_the_same_finds_it_done(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    for (base, top) in [(0, 1), (2, 3)] {
        let commit = commit(&images[base], &images[top]);
        assert_eq!(hv.commit(vm, &commit, &mut free), Ok(Committed::Now));
        let before = chain(&*hv, vm, "vda");
        let mut asked = 0;
        let mut steer = |_| {
            asked += 1;
            FREE
        };
        assert_eq!(hv.commit(vm, &commit, &mut steer), Ok(Committed::Before));
        assert_eq!(chain(&*hv, vm, "vda"), before);
    }
    // Of a stopped VM, too.
    rig.stop_vm(vm);
    assert_eq!(hv.commit(vm, &commit(&images[0], &images[1]), &mut free), Ok(Committed::Before));
}

pub(crate) fn a_limited_commit_tells_its_progress_and_can_be_hastened(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    for (base, top, kind) in [(0, 2, JobKind::Commit), (0, 3, JobKind::ActiveCommit)] {
        let mut told: Vec<Copied> = Vec::new();
        let mut seen = None;
        let mut crawl = |copied: Copied| {
            told.push(copied);
            if copied.done == 0 {
                return CRAWL;
            }
            seen.get_or_insert_with(|| hv.block_jobs(vm).unwrap());
            FREE
        };
        assert_eq!(hv.commit(vm, &commit(&images[base], &images[top]), &mut crawl), Ok(Committed::Now));
        assert!(told.is_sorted_by_key(|c| c.done), "{told:?}");
        assert!(told.iter().all(|c| c.done <= c.total) && told[0].total == 0, "{told:?}");
        let [job] = &seen.unwrap()[..] else { panic!("one job while it went on") };
        assert_eq!((job.target.as_str(), job.kind), ("vda", kind));
        assert!(
            job.copied.done > 0 && job.copied.done < job.copied.total,
            "{job:?}: the limit holds it back"
        );
        assert!(!job.ready);
    }
    assert_eq!(rig.marker_now(vm, "vda"), 4);
}

pub(crate) fn a_stopped_commit_leaves_the_disk_right_and_is_done_later(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    for (base, top) in [(0, 2), (0, 3)] {
        let before = chain(&*hv, vm, "vda");
        let commit = commit(&images[base], &images[top]);
        let mut stop = |copied: Copied| if copied.done == 0 { CRAWL } else { Steer::Stop };
        refused(hv.commit(vm, &commit, &mut stop), ErrorKind::Cancelled);
        assert_eq!(chain(&*hv, vm, "vda"), before);
        assert_eq!(hv.block_jobs(vm), Ok(Vec::new()));
        assert_eq!(rig.marker_now(vm, "vda"), 4);
        assert_eq!(rig.marker_in_snapshot(vm, &name("s3"), "vda"), 3, "who stays is as it was");
        assert!(rig.marker_in_snapshot(vm, &name("s1"), "vda") > 1, "this one is not what it was");
        assert_eq!(hv.commit(vm, &commit, &mut free), Ok(Committed::Now));
    }
    assert_eq!(rig.marker_now(vm, "vda"), 4);
    assert_eq!(chain(&*hv, vm, "vda"), [images[0].clone()]);
}

pub(crate) fn a_commit_stopped_when_it_is_ready_leaves_the_disk_on_its_overlay(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    let before = chain(&*hv, vm, "vda");
    let mut stop = |copied: Copied| {
        let ready = copied.total > 0 && copied.done == copied.total;
        if ready { Steer::Stop } else { FREE }
    };
    let commit = commit(&images[2], &images[3]);
    refused(hv.commit(vm, &commit, &mut stop), ErrorKind::Cancelled);
    assert_eq!(chain(&*hv, vm, "vda"), before);
    rig.write_marker(vm, "vda", 5);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s3"), "vda"), 4, "it is lost");
    assert_eq!(rig.marker_in_snapshot(vm, &name("s2"), "vda"), 2);
    assert_eq!(hv.commit(vm, &commit, &mut free), Ok(Committed::Now));
    assert_eq!(rig.marker_now(vm, "vda"), 5);
}

pub(crate) fn a_commit_stopped_before_it_begins_touches_nothing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    let mut stop = |_| Steer::Stop;
    refused(hv.commit(vm, &commit(&images[0], &images[1]), &mut stop), ErrorKind::Cancelled);
    assert_eq!(chain(&*hv, vm, "vda").len(), 4);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), "vda"), 1);
}

pub(crate) fn a_commit_of_an_unknown_image_touches_nothing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    let stranger = rig.overlay_path(vm, "vda");
    rig.make_file(&stranger);
    let before = chain(&*hv, vm, "vda");
    for (base, top) in [(&stranger, &images[1]), (&images[1], &images[0]), (&images[1], &images[1])] {
        refused(hv.commit(vm, &commit(base, top), &mut free), ErrorKind::ChainMismatch);
    }
    let of_no_disk = Commit { target: "vdz".to_owned(), ..commit(&images[0], &images[1]) };
    let error = hv.commit(vm, &of_no_disk, &mut free).unwrap_err();
    assert!(error.kind.untouched() && error.message.contains("vdz"), "{error:?}");
    assert_eq!(chain(&*hv, vm, "vda"), before);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), "vda"), 1);
}

pub(crate) fn a_stopped_vm_merges_nothing(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    rig.stop_vm(vm);
    refused(hv.commit(vm, &commit(&images[0], &images[1]), &mut free), ErrorKind::Unsupported);
    assert_eq!(hv.block_jobs(vm), Ok(Vec::new()));
    assert_eq!(hv.end_block_job(vm, "vda"), Ok(()));
    assert_eq!(chain(&*hv, vm, "vda").len(), 4);
}

pub(crate) fn a_block_job_of_others_is_seen_and_nothing_is_merged_meanwhile(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    take(rig, &*hv, vm, "s4");
    rig.begin_block_job(vm, "vda");
    let jobs = hv.block_jobs(vm).unwrap();
    assert_eq!(
        jobs.iter().map(|j| (j.target.as_str(), j.kind)).collect::<Vec<_>>(),
        [("vda", JobKind::Other)]
    );
    refused(hv.commit(vm, &commit(&images[0], &images[1]), &mut free), ErrorKind::Busy);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), "vda"), 1);
    rig.end_block_job(vm, "vda");
    assert_eq!(hv.commit(vm, &commit(&images[0], &images[1]), &mut free), Ok(Committed::Now));
}

pub(crate) fn a_base_that_cannot_be_written_is_left_as_it_was(rig: &mut dyn Rig) {
    let (hv, _events) = connected(rig);
    let (vm, images) = with_three(rig, &*hv);
    let before = chain(&*hv, vm, "vda");
    rig.merge_fails(vm, &name("s1"), true);
    let error = hv.commit(vm, &commit(&images[0], &images[1]), &mut free).unwrap_err();
    rig.merge_fails(vm, &name("s1"), false);
    assert!(error.kind.untouched() && error.message.contains("lock"), "{error:?}");
    assert_eq!(chain(&*hv, vm, "vda"), before);
    assert_eq!(rig.marker_in_snapshot(vm, &name("s1"), "vda"), 1);
    assert_eq!(hv.commit(vm, &commit(&images[0], &images[1]), &mut free), Ok(Committed::Now));
}
