//! Room, files, and what a deletion refuses.

use super::*;

fn one() -> (Sim, VmId) {
    let sim = Sim::new();
    let vm = sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    (sim, vm)
}

#[test]
fn without_room_for_both_overlays_none_is_made() {
    let (sim, vm) = one();
    sim.leave_room_for(EMPTY_IMAGE / super::super::BLOCK + 1);
    let before = sim.files();
    assert_eq!(kind(sim.prepare(vm, &overlays(&sim, vm, "s1"))), ErrorKind::NoSpace);
    assert_eq!(sim.files(), before);
    sim.set_capacity(1 << 30);
    assert!(sim.prepare(vm, &overlays(&sim, vm, "s1")).is_ok());
    let space = sim.space("/images").unwrap();
    assert_eq!(space.available, (1 << 30) - sim.files().values().sum::<u64>());
}

#[test]
fn an_overlay_goes_on_the_active_layer_of_a_writable_disk_only() {
    let (sim, vm) = one();
    let mut wrong = overlays(&sim, vm, "s1");
    wrong[1].backing = Layer { path: "/images/other.qcow2".into(), format: "qcow2".into() };
    assert_eq!(kind(sim.prepare(vm, &wrong)), ErrorKind::ChainMismatch);

    let cd =
        DiskSpec { writable: false, format: "raw".into(), ..DiskSpec::new("sda", "/images/install.iso") };
    let mut with_cd = VmSpec::new("new", 2);
    with_cd.disks.push(cd);
    let vm = sim.add_vm(with_cd);
    let backing = sim.vm(vm).unwrap().disks[1].chain[0].clone();
    let overlay = Overlay { target: "sda".into(), path: "/images/sda.qcow2".into(), backing };
    assert_eq!(kind(sim.prepare(vm, &[overlay])), ErrorKind::Unsupported);
}

#[test]
fn a_full_file_system_pauses_a_guest_that_writes() {
    let (sim, vm) = one();
    sim.leave_room_for(1);
    assert!(sim.write(vm, "vda", 0, 1));
    assert!(sim.write(vm, "vda", 0, 2), "a block that is there needs no room");
    assert!(!sim.write(vm, "vda", 1, 1));
    assert_eq!(sim.vm(vm).unwrap().state, VmState::Paused);
}

#[test]
fn a_merge_that_runs_out_of_room_leaves_the_vm_right_and_the_snapshot_wrong() {
    let (sim, vm) = one();
    snapshot(&sim, vm, "s1").unwrap();
    for block in 0..4 {
        assert!(sim.write(vm, "vda", block, 7));
    }
    snapshot(&sim, vm, "s2").unwrap();
    sim.leave_room_for(2);
    assert_eq!(kind(sim.delete(vm, &name("s1"))), ErrorKind::NoSpace);
    assert_eq!(sim.read(vm, "vda").unwrap().len(), 4);
    assert_eq!(sim.content_of_snapshot(vm, &name("s1"), "vda").unwrap().len(), 2);
    assert!(record(&sim, vm, "s2").delete_in_progress.is_empty(), "the first one has no parent to be marked");
    // Nothing of the chain has changed, so that another try goes through.
    sim.set_capacity(1 << 40);
    sim.delete(vm, &name("s1")).unwrap();
    assert_eq!(sim.content_of_snapshot(vm, &name("s2"), "vda").unwrap().len(), 4);
}

#[test]
fn what_a_snapshot_would_free_is_what_its_overlays_take() {
    let (sim, vm) = one();
    snapshot(&sim, vm, "s1").unwrap();
    assert!(sim.write(vm, "vda", 0, 1));
    assert_eq!(record(&sim, vm, "s1").size, 2 * EMPTY_IMAGE + super::super::BLOCK);
}

#[test]
fn a_deletion_is_refused_where_real_ones_lose_data_or_crash() {
    let (sim, vm) = one();
    for label in ["s1", "s2"] {
        snapshot(&sim, vm, label).unwrap();
    }
    let refused = |why| assert_eq!(kind(sim.delete(vm, &name("s1"))), why);
    sim.block_job(vm, true).unwrap();
    refused(ErrorKind::Busy);
    sim.block_job(vm, false).unwrap();
    sim.managed_save(vm).unwrap();
    refused(ErrorKind::Unsupported);
    sim.start(vm).unwrap();
    let mut clone = VmSpec::new("clone", 2);
    clone.disks[0].backing = Some(record(&sim, vm, "s2").disks[0].state_image.clone());
    sim.add_vm(clone);
    refused(ErrorKind::InUse);
    sim.undefine(VmId(uuid::Uuid::from_u128(2))).unwrap();
    sim.stop(VmId(uuid::Uuid::from_u128(2))).unwrap();
    sim.forget_current(vm).unwrap();
    refused(ErrorKind::ChainMismatch);
}

#[test]
fn confinement_and_internal_snapshots_stop_a_merge() {
    let sim = Sim::new();
    let mut confined = VmSpec::new("web", 1);
    confined.confined_by = Some("apparmor".into());
    let vm = sim.add_vm(confined);
    snapshot(&sim, vm, "s1").unwrap();
    assert_eq!(kind(sim.delete(vm, &name("s1"))), ErrorKind::Unsupported);

    let vm = sim.add_vm(VmSpec::new("db", 2));
    assert!(sim.write(vm, "vda", 0, 1));
    sim.make_internal_snapshot(vm, "inside").unwrap();
    assert!(sim.write(vm, "vda", 0, 2));
    snapshot(&sim, vm, "outside").unwrap();
    let inside = record(&sim, vm, "inside");
    assert_eq!((inside.content, inside.storage), (Content::Full, Storage::Internal));
    assert_eq!(sim.content_of_snapshot(vm, &name("inside"), "vda").unwrap()[&0], 1);
    assert_eq!(kind(sim.delete(vm, &name("outside"))), ErrorKind::Unsupported);
    // libvirt deletes inside the images that the VM is on; of one that is off it looks for the right ones.
    assert_eq!(kind(sim.delete(vm, &name("inside"))), ErrorKind::Unsupported);
    sim.stop(vm).unwrap();
    sim.delete(vm, &name("inside")).unwrap();
    sim.start(vm).unwrap();
    sim.delete(vm, &name("outside")).unwrap();
}

#[test]
fn beyond_the_layer_limit_only_others_create_and_merging_and_starting_fail() {
    let (sim, vm) = one();
    sim.set_layer_limit(3);
    for label in ["s1", "s2"] {
        snapshot(&sim, vm, label).unwrap();
    }
    sim.delete(vm, &name("s1")).unwrap();
    snapshot(&sim, vm, "s3").unwrap();
    assert_eq!(kind(snapshot(&sim, vm, "s4")), ErrorKind::Unsupported);
    sim.make_foreign_snapshot(vm, "s4").unwrap();
    assert_eq!(kind(sim.delete(vm, &name("s2"))), ErrorKind::Failed);
    sim.stop(vm).unwrap();
    assert_eq!(kind(sim.start(vm)), ErrorKind::Failed);
}

#[test]
fn a_foreign_snapshot_without_metadata_leaves_files_and_a_chain_that_nothing_names() {
    let (sim, vm) = one();
    sim.make_foreign_snapshot(vm, "theirs").unwrap();
    assert_eq!(record(&sim, vm, "theirs").disks[0].overlay, "/images/web-vda.theirs");
    snapshot(&sim, vm, "ours").unwrap();
    sim.forget_snapshot(vm, &name("theirs")).unwrap();
    assert_eq!(record(&sim, vm, "ours").parent, None);
    assert_eq!(sim.vm(vm).unwrap().disks[0].chain.len(), 3);
    sim.delete(vm, &name("ours")).unwrap();
    assert_eq!(sim.vm(vm).unwrap().disks[0].chain.len(), 2);
}
