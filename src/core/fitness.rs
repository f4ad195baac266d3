//! What forbids a snapshot of a VM, said before anything is touched: each with what to do about it.

use super::{
    model::{SnapshotName, VmState},
    text::for_shell,
};

/// libvirt does not read back a snapshot's file of 1 MiB or more: the snapshot is gone after its next restart. Some of
/// it is left for what libvirt adds.
const LARGEST: usize = (1 << 20) - (64 << 10);

/// A VM, as far as this asks.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its state.
    pub state: VmState,
    /// False for a transient one.
    pub persistent: bool,
    /// Its memory was saved.
    pub managed_save: bool,
    /// A block job runs on one of its disks.
    pub block_jobs: bool,
    /// Something else has it.
    pub busy: bool,
    /// A profile decides which files it may open.
    pub confined: bool,
    /// How long its definitions are, in bytes.
    pub xml_bytes: usize,
    /// An internal snapshot that it has.
    pub internal: Option<&'a SnapshotName>,
    /// The disks that are to take part.
    pub disks: Vec<Disk<'a>>,
}

/// A disk that is to take part.
#[derive(Debug, Clone)]
pub struct Disk<'a> {
    /// Its target.
    pub target: &'a str,
    /// libvirt's type of its source.
    pub kind: &'a str,
    /// What the guest takes it for: `disk`, `lun` …
    pub device: &'a str,
    /// The bus it is on.
    pub bus: &'a str,
    /// Other VMs may write to it.
    pub shared: bool,
    /// Its images' paths, from the one that is written to down to the base.
    pub chain: Vec<&'a str>,
    /// What the definition names.
    pub configured: Option<&'a str>,
}

/// How many images a disk may have under it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// As it was configured.
    pub max_chain: usize,
    /// As libvirt can start.
    pub layer_limit: usize,
}

/// Of what kind an obstacle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It cannot be done with this VM as it is.
    Unsupported,
    /// It can be done later.
    Busy,
    /// Somebody changed the disks by hand.
    ChainMismatch,
}

/// Why no snapshot can be taken now, and what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Of what kind.
    pub kind: Kind,
    /// In words, with the VM's name.
    pub text: String,
}

/// What forbids a snapshot of these disks, with a description of so many bytes.
pub fn check(vm: &Facts<'_>, description: usize, limits: Limits) -> Result<(), Unfit> {
    check_vm(vm)?;
    vm.disks.iter().try_for_each(|disk| check_disk(vm, disk, limits))?;
    // Each line is indented deeper there than in what was measured; a disk's part is some hundred bytes.
    let bytes = vm.xml_bytes + vm.xml_bytes / 8 + description + 1024 * (vm.disks.len() + 4);
    if bytes > LARGEST {
        return unfit(
            Kind::Unsupported,
            format!(
                "VM {}'s definition and the description make about {} KiB of metadata, and libvirt loses a snapshot with \
                 1 MiB at its next restart. Make them shorter (`virsh edit`, `virsh metadata`)",
                vm.name,
                bytes / 1024
            ),
        );
    }
    Ok(())
}

fn check_vm(vm: &Facts<'_>) -> Result<(), Unfit> {
    let name = vm.name;
    if !vm.persistent {
        return unfit(
            Kind::Unsupported,
            format!(
                "VM {name} is transient: libvirt forgets its snapshots when it stops. `virsh define` makes it persistent"
            ),
        );
    }
    if vm.managed_save {
        return unfit(
            Kind::Unsupported,
            format!(
                "VM {name} has a managed save, which a changed disk would make unusable; start it, or `virsh \
                 managedsave-remove` first"
            ),
        );
    }
    if vm.state == VmState::PmSuspended {
        return unfit(
            Kind::Unsupported,
            format!("VM {name} is suspended by its guest, and libvirt takes no snapshots of it then"),
        );
    }
    if let Some(internal) = vm.internal {
        return unfit(
            Kind::Unsupported,
            format!(
                "VM {name} has the internal snapshot {internal}; libvirt loses data when internal and external ones are \
                 mixed. Delete it first"
            ),
        );
    }
    if vm.block_jobs {
        return unfit(
            Kind::Busy,
            format!(
                "a block job (a commit, a copy, a pull) runs on a disk of VM {name}: wait for its end, or end it with \
                 `virsh blockjob`"
            ),
        );
    }
    if vm.busy {
        return unfit(
            Kind::Busy,
            format!(
                "something else has VM {name} now (a save, a backup, another snapshot, or its QEMU does not answer): \
                 try again later; `virsh domjobinfo` says more. If that waits as well, and its error names nobody who holds \
                 the lock: {}",
                held_for_nobody(name)
            ),
        );
    }
    Ok(())
}

/// What a lock is that no call holds, and the way out.
///
/// libvirt was killed between the first two times that it wrote down a VM that it was to start: with a job, and without a
/// QEMU. From its next start on it holds that job, and looks for no QEMU of this VM, so that the job never ends (seen with
/// 9.0 and 11.3).
pub fn held_for_nobody(vm: &str) -> String {
    let guest = for_shell(&format!("guest={vm},"));
    format!(
        "libvirt was killed as it started this VM, if `/run/libvirt/qemu/{vm}.xml` says pid='0', and neither `virsh destroy` \
         nor a restart ends that. Look with `pgrep -af {guest}` whether a QEMU of this VM runs all the same, and kill \
         that one; then stop libvirt's daemon with its sockets, remove that file, and start them again. Other VMs run on"
    )
}

fn check_disk(vm: &Facts<'_>, disk: &Disk<'_>, limits: Limits) -> Result<(), Unfit> {
    let (name, target) = (vm.name, disk.target);
    let excluded = "leave it out with `disks`";
    if disk.device != "disk" {
        let device = disk.device;
        return unfit(
            Kind::Unsupported,
            format!("disk {target} of VM {name} is a {device}, which has no snapshots; {excluded}"),
        );
    }
    if disk.kind != "file" {
        let kind = disk.kind;
        return unfit(
            Kind::Unsupported,
            format!(
                "disk {target} of VM {name} is of type {kind}, and there is no place beside it for an overlay; {excluded}"
            ),
        );
    }
    if disk.bus == "sd" {
        return unfit(
            Kind::Unsupported,
            format!("disk {target} of VM {name} is an SD card, of which QEMU takes no snapshots; {excluded}"),
        );
    }
    if disk.shared {
        return unfit(
            Kind::Unsupported,
            format!(
                "disk {target} of VM {name} is shared with others, whose writes it would not see on an overlay; {excluded}"
            ),
        );
    }
    let (depth, limit) = (disk.chain.len(), limits.max_chain.min(limits.layer_limit));
    if depth >= limit {
        let why = if limits.max_chain <= limits.layer_limit {
            format!("max-chain is {limit}")
        } else {
            format!("with more than {limit} this libvirt cannot start it")
        };
        return unfit(
            Kind::Unsupported,
            format!("disk {target} of VM {name} has {depth} layers, and {why}: prune some snapshots first"),
        );
    }
    let Some(top) = disk.chain.first() else { return Ok(()) };
    if disk.configured != Some(top) {
        let configured =
            disk.configured.map_or("has no such disk".to_owned(), |path| format!("names {path}"));
        return unfit(
            Kind::ChainMismatch,
            format!(
                "disk {target} of VM {name} runs on {top}, but the VM's definition {configured}: it would start without \
                 what was written since. Nothing was touched; make them agree (`virsh edit`, or stop the VM), or {excluded}"
            ),
        );
    }
    if vm.confined && ["/etc/", "/boot/"].iter().any(|d| top.starts_with(d)) {
        return unfit(
            Kind::Unsupported,
            format!(
                "disk {target} of VM {name} is at {top}, and the profile that confines the VM allows it no image there; \
                 {excluded}"
            ),
        );
    }
    Ok(())
}

fn unfit(kind: Kind, text: String) -> Result<(), Unfit> {
    Err(Unfit { kind, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_chain: 4, layer_limit: 25 };

    fn disk(target: &str) -> Disk<'_> {
        Disk {
            target,
            kind: "file",
            device: "disk",
            bus: "virtio",
            shared: false,
            chain: vec!["/i/b", "/i/a"],
            configured: Some("/i/b"),
        }
    }

    fn vm(disks: Vec<Disk<'_>>) -> Facts<'_> {
        Facts {
            name: "web",
            state: VmState::Running,
            persistent: true,
            managed_save: false,
            block_jobs: false,
            busy: false,
            confined: false,
            xml_bytes: 8 * 1024,
            internal: None,
            disks,
        }
    }

    #[track_caller]
    fn refused(vm: &Facts<'_>, limits: Limits) -> (Kind, String) {
        let unfit = check(vm, 100, limits).unwrap_err();
        assert!(unfit.text.contains("VM web"), "{}", unfit.text);
        (unfit.kind, unfit.text)
    }

    #[test]
    fn a_vm_with_nothing_against_it_is_fit() {
        for state in [VmState::Running, VmState::Paused, VmState::ShutOff] {
            let vm = Facts { state, confined: true, ..vm(vec![disk("vda"), disk("vdb")]) };
            assert_eq!(check(&vm, 10_000, LIMITS), Ok(()));
        }
    }

    #[test]
    fn each_obstacle_of_the_vm_is_named_with_a_way_out() {
        let internal = SnapshotName::existing("inside");
        let base = || vm(vec![disk("vda")]);
        for (vm, kind, way) in [
            (Facts { persistent: false, ..base() }, Kind::Unsupported, "virsh define"),
            (Facts { managed_save: true, ..base() }, Kind::Unsupported, "managedsave-remove"),
            (Facts { state: VmState::PmSuspended, ..base() }, Kind::Unsupported, "suspended"),
            (Facts { internal: Some(&internal), ..base() }, Kind::Unsupported, "inside"),
            (Facts { block_jobs: true, ..base() }, Kind::Busy, "virsh blockjob"),
            (Facts { busy: true, ..base() }, Kind::Busy, "/run/libvirt/qemu/"),
            (Facts { xml_bytes: 900 * 1024, ..base() }, Kind::Unsupported, "1 MiB"),
        ] {
            let (got, text) = refused(&vm, LIMITS);
            assert_eq!(got, kind, "{text}");
            assert!(text.contains(way), "no {way:?} in {text:?}");
        }
        assert!(check(&base(), 1 << 20, LIMITS).is_err(), "the description counts");
    }

    #[test]
    fn each_obstacle_of_a_disk_is_named_with_a_way_out() {
        for (wrong, kind, way) in [
            (Disk { device: "lun", ..disk("vdb") }, Kind::Unsupported, "lun"),
            (Disk { kind: "network", ..disk("vdb") }, Kind::Unsupported, "type network"),
            (Disk { kind: "nvme", ..disk("vdb") }, Kind::Unsupported, "type nvme"),
            (Disk { bus: "sd", ..disk("vdb") }, Kind::Unsupported, "SD card"),
            (Disk { shared: true, ..disk("vdb") }, Kind::Unsupported, "shared"),
            (Disk { configured: Some("/i/a"), ..disk("vdb") }, Kind::ChainMismatch, "names /i/a"),
            (Disk { configured: None, ..disk("vdb") }, Kind::ChainMismatch, "no such disk"),
        ] {
            let (got, text) = refused(&vm(vec![disk("vda"), wrong]), LIMITS);
            assert_eq!(got, kind, "{text}");
            for part in [way, "disk vdb", "`disks`"] {
                assert!(text.contains(part), "no {part:?} in {text:?}");
            }
        }
        let deep = Disk { chain: vec!["/i/b"; 4], ..disk("vda") };
        assert!(refused(&vm(vec![deep.clone()]), LIMITS).1.contains("max-chain is 4"));
        let libvirt = Limits { max_chain: 30, layer_limit: 4 };
        assert!(refused(&vm(vec![deep]), libvirt).1.contains("more than 4 this libvirt cannot start"));
        for path in ["/etc/a", "/boot/x/a"] {
            let odd = || Disk { chain: vec![path], configured: Some(path), ..disk("vda") };
            assert_eq!(check(&vm(vec![odd()]), 0, LIMITS), Ok(()));
            let (_, text) = refused(&Facts { confined: true, ..vm(vec![odd()]) }, LIMITS);
            assert!(text.contains(path), "{text}");
        }
    }
}
