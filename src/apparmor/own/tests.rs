use std::collections::BTreeMap;

use uuid::Uuid;

use super::*;
use crate::hypervisor::sim::{DiskSpec, Op, Sim, VmSpec};

/// A file system in which each path is a file of its own, unless said otherwise.
#[derive(Default)]
struct Disk {
    files: BTreeMap<String, Option<Found>>,
}

impl Disk {
    fn with(mut self, path: &str, real: &str, inode: u64, plain: bool) -> Self {
        self.files.insert(path.to_owned(), Some(Found { real: real.to_owned(), file: (1, inode), plain }));
        self
    }

    fn without(mut self, path: &str) -> Self {
        self.files.insert(path.to_owned(), None);
        self
    }
}

impl Look for Disk {
    fn look(&self, path: &str) -> io::Result<Option<Found>> {
        if path == "/unreadable" {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let own = || {
            let inode = path.bytes().fold(0, |sum: u64, b| sum.wrapping_mul(257) + u64::from(b));
            Some(Found { real: path.to_owned(), file: (0, inode), plain: true })
        };
        Ok(self.files.get(path).cloned().unwrap_or_else(own))
    }
}

fn id(number: u128) -> VmId {
    VmId(Uuid::from_u128(number))
}

fn with_disk(name: &str, number: u128, disk: DiskSpec) -> VmSpec {
    VmSpec { disks: vec![disk], ..VmSpec::new(name, number) }
}

fn why(own: &Own, path: &str) -> String {
    own.left_out.iter().find(|l| l.path == path).map(|l| l.why.clone()).unwrap_or_default()
}

#[test]
fn all_images_of_all_its_snapshots_are_its_own() {
    let sim = Sim::new();
    sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    sim.add_vm(VmSpec::new("db", 2));
    sim.make_foreign_snapshot(id(1), "s1").unwrap();
    let s1 = sim.snapshots(id(1)).unwrap()[0].name.clone();
    sim.make_foreign_snapshot(id(1), "s2").unwrap();
    sim.stop(id(1)).unwrap();
    sim.revert(id(1), &s1).unwrap();
    let named: BTreeSet<String> = sim
        .snapshots(id(1))
        .unwrap()
        .into_iter()
        .flat_map(|r| r.disks)
        .flat_map(|d| [d.overlay, d.state_image])
        .chain(sim.vm(id(1)).unwrap().disks.into_iter().flat_map(|d| d.chain).map(|l| l.path))
        .collect();
    let own = own(&sim, &Disk::default(), id(1)).unwrap();
    assert_eq!(own.images.iter().cloned().collect::<BTreeSet<_>>(), named);
    assert!(named.len() > 5, "the branch that it left counts: {named:?}");
    assert_eq!(own.left_out, []);
}

#[test]
fn what_another_vm_lies_on_is_not() {
    let sim = Sim::new();
    sim.add_vm(with_disk("template", 1, DiskSpec::new("vda", "/i/base.qcow2")));
    sim.make_foreign_snapshot(id(1), "s1").unwrap();
    let clone =
        DiskSpec { backing: Some("/i/base.qcow2".to_owned()), ..DiskSpec::new("vda", "/i/clone.qcow2") };
    sim.add_vm(with_disk("clone", 2, clone));
    let of_template = own(&sim, &Disk::default(), id(1)).unwrap();
    assert_eq!(of_template.images.len(), 1, "its overlay: {of_template:?}");
    assert!(why(&of_template, "/i/base.qcow2").contains("something else has it"), "{of_template:?}");
    let of_clone = own(&sim, &Disk::default(), id(2)).unwrap();
    assert_eq!(of_clone.images, ["/i/clone.qcow2"]);
}

#[test]
fn what_an_image_that_no_vm_has_lies_on_is_not() {
    let sim = Sim::new();
    sim.add_vm(with_disk("web", 1, DiskSpec::new("vda", "/i/web.qcow2")));
    sim.make_foreign_snapshot(id(1), "s1").unwrap();
    sim.make_image("/i/spare.qcow2", "/i/web.qcow2").unwrap();
    let own = own(&sim, &Disk::default(), id(1)).unwrap();
    assert_eq!(own.images.len(), 1, "its overlay: {own:?}");
    assert!(why(&own, "/i/web.qcow2").contains("/i/spare.qcow2"), "{own:?}");
}

#[test]
fn what_another_vm_has_by_another_name_is_not_either() {
    let sim = Sim::new();
    sim.add_vm(with_disk("mine", 1, DiskSpec::new("vda", "/home/m/disk.qcow2")));
    sim.add_vm(with_disk("theirs", 2, DiskSpec::new("vda", "/i/disk.qcow2")));
    let linked = Disk::default().with("/home/m/disk.qcow2", "/home/m/disk.qcow2", 7, true).with(
        "/i/disk.qcow2",
        "/i/disk.qcow2",
        7,
        true,
    );
    let own_now = own(&sim, &linked, id(1)).unwrap();
    assert_eq!(own_now.images, [""; 0]);
    assert!(why(&own_now, "/home/m/disk.qcow2").contains("something else has it"));
    // A link to what no VM has.
    let link = Disk::default().with("/home/m/disk.qcow2", "/home/m/disk.qcow2", 8, false);
    let own_now = own(&sim, &link, id(1)).unwrap();
    assert_eq!(own_now.images, [""; 0]);
    assert!(why(&own_now, "/home/m/disk.qcow2").contains("plain file"));
}

#[test]
fn a_linked_directory_is_named_as_apparmor_sees_it() {
    let sim = Sim::new();
    sim.add_vm(with_disk("web", 1, DiskSpec::new("vda", "/i/web.qcow2")));
    let moved = Disk::default().with("/i/web.qcow2", "/data/images/web.qcow2", 7, true);
    assert_eq!(own(&sim, &moved, id(1)).unwrap().images, ["/data/images/web.qcow2"]);
    let into_etc = Disk::default().with("/i/web.qcow2", "/etc/web.qcow2", 7, true);
    let own_now = own(&sim, &into_etc, id(1)).unwrap();
    assert_eq!(own_now.images, [""; 0]);
    assert!(why(&own_now, "/i/web.qcow2").contains("system"), "{own_now:?}");
}

#[test]
fn only_files_that_it_writes_are() {
    let sim = Sim::new();
    let mut spec = VmSpec::new("web", 1).with_disks(&["vda"]);
    spec.disks.push(DiskSpec { writable: false, ..DiskSpec::new("sda", "/i/cd.iso") });
    spec.disks.push(DiskSpec { kind: "block".to_owned(), ..DiskSpec::new("vdb", "/dev/vg/lv") });
    spec.disks.push(DiskSpec { kind: "network".to_owned(), ..DiskSpec::new("vdc", "pool/volume") });
    sim.add_vm(spec);
    assert_eq!(own(&sim, &Disk::default(), id(1)).unwrap().images, ["/images/web-vda.qcow2"]);
}

#[test]
fn an_image_that_is_gone_is_passed_over_and_one_that_cannot_be_looked_at_is_not() {
    let sim = Sim::new();
    sim.add_vm(VmSpec::new("web", 1).with_disks(&["vda", "vdb"]));
    let gone = Disk::default().without("/images/web-vdb.qcow2");
    assert_eq!(own(&sim, &gone, id(1)).unwrap().images, ["/images/web-vda.qcow2"]);
    sim.add_vm(with_disk("other", 2, DiskSpec::new("vda", "/unreadable")));
    let error = own(&sim, &Disk::default(), id(1)).unwrap_err();
    assert!(error.message.contains("/unreadable"), "{error}");
}

#[test]
fn a_vm_that_cannot_be_read_may_have_them_all() {
    let sim = Sim::new();
    sim.add_vm(VmSpec::new("web", 1));
    sim.add_vm(VmSpec::new("other", 2));
    for op in [Op::Vm, Op::Snapshots, Op::Vms, Op::Users] {
        sim.fail_next(op, Error::new(ErrorKind::Failed, "no"));
        assert!(own(&sim, &Disk::default(), id(1)).is_err(), "{op:?}");
        assert!(own(&sim, &Disk::default(), id(1)).is_ok(), "{op:?}");
    }
}
