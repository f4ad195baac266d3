mod devices;

use uuid::Uuid;

use super::{
    super::{definition, xml},
    *,
};
use crate::{core::model::VmId, hypervisor::Layer};

const SEEN: [&str; 2] = [include_str!("../seen/snapshot-9.0.xml"), include_str!("../seen/snapshot-11.3.xml")];
/// Of a stopped VM with ports, sockets and files of its own.
const DEVICES: &str = include_str!("../seen/devices-11.3.xml");
const OLD: &str = "ca4fbfc1-ebb9-42cc-a136-cdf44b4905b9";
const NEW: &str = "1f8ba2d0-0000-4000-8000-000000000007";

fn layer(path: &str) -> Layer {
    Layer { path: path.into(), format: "qcow2".into() }
}

fn new() -> NewVm {
    NewVm {
        id: VmId(Uuid::parse_str(NEW).unwrap()),
        name: "tri<al".into(),
        images: vec![("vda".into(), layer("/i/t-vda")), ("vdb".into(), layer("/i/t-vdb"))],
        nvram: None,
        leave_out: false,
    }
}

/// A VM on vda with more in these places.
fn domain(top: &str, os: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>a</name>
  <uuid>{OLD}</uuid>
  {top}
  <memory unit='KiB'>16384</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    {os}
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/i/a.qcow2'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
    </disk>
    {devices}
  </devices>
</domain>"
    )
}

fn on_vda() -> NewVm {
    NewVm { images: vec![("vda".into(), layer("/i/t-vda"))], ..new() }
}

#[track_caller]
fn drawn(text: &str, new: &NewVm) -> String {
    let (drawn, left_out) = redraw(text, new).unwrap();
    assert_eq!(left_out, [] as [&str; 0], "{drawn}");
    assert!(!drawn.contains(OLD), "{drawn}");
    xml::domain(&drawn).unwrap();
    drawn
}

/// Of a VM with this device: what becomes of it, white space apart.
#[track_caller]
fn device(text: &str) -> String {
    let bare = drawn(&domain("", "", ""), &on_vda());
    let with = drawn(&domain("", "", text), &on_vda());
    let (before, after) = bare.split_once("</disk>").unwrap();
    let (rest, end) = (with.strip_prefix(before).unwrap(), after.trim_start());
    let rest = rest.strip_prefix("</disk>").unwrap().trim();
    rest.strip_suffix(end).unwrap_or(rest).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Of a VM with this device: it is not there, and this is said.
#[track_caller]
fn left_out(text: &str) -> String {
    let (with, left_out) = redraw(&domain("", "", text), &on_vda()).unwrap();
    let without: String = with.split_whitespace().collect();
    let bare: String = redraw(&domain("", "", ""), &on_vda()).unwrap().0.split_whitespace().collect();
    assert_eq!(without, bare);
    assert_eq!(left_out.len(), 1);
    left_out.concat()
}

#[track_caller]
fn refused(text: &str, new: &NewVm) -> String {
    let error = redraw(text, new).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    error.message
}

#[test]
fn it_is_another_vm_on_other_images_and_all_else_is_as_it_was() {
    for text in SEEN {
        let then = definition::of_snapshot(text).unwrap();
        let then = then.replace("passwd='secret'", "");
        let after = drawn(&then, &new());
        let read = xml::domain(&after).unwrap();
        assert_eq!((read.id.to_string().as_str(), read.name.as_str()), (NEW, "tri<al"));
        let images: Vec<_> = read.disks.iter().map(|d| (d.disk.target.as_str(), &d.disk.chain)).collect();
        assert_eq!(images[0], ("vda", &vec![layer("/i/t-vda")]));
        assert_eq!(images[1], ("vdb", &vec![layer("/i/t-vdb")]));
        let iso = Layer { path: "/var/lib/libvirt/images/a.iso".into(), format: "raw".into() };
        assert_eq!(images[2], ("hdc", &vec![iso]), "a CD-ROM may be in both");
        assert!(read.tags.is_empty() && !after.contains("urn:virtsnap"), "{after}");
        assert!(!after.contains("backingStore"), "{after}");
        let touched =
            ["<name>", "<uuid>", "<source", "backingStore", "<format", "<driver", "v:", "<graphics"];
        for line in then.lines().filter(|l| !touched.iter().any(|t| l.contains(t))) {
            assert!(after.contains(line.trim()), "{line} is gone from {after}");
        }
        assert_eq!(redraw(&then, &new()).unwrap().0, after);
    }
}

#[test]
fn nothing_that_a_vm_has_alone_is_left_and_all_else_is() {
    let after = drawn(DEVICES, &on_vda());
    for its in ["rich", "91ce9637", "180b752a", "52:54:00", "5907", "5777", "4555", "telnet", "rich.agent"] {
        assert!(DEVICES.contains(its) && (its == "rich" || !after.contains(its)), "{its} is in {after}");
    }
    for new in ["/var/log/libvirt/qemu/rich-serial-1f8ba2d0.log", "/var/lib/libvirt/qemu/rich-1f8ba2d0.sock"]
    {
        assert!(after.contains(new), "{new} is not in {after}");
    }
    let its_own = [
        "name>",
        "uuid>",
        "genid",
        "title>",
        "v:",
        "<mac ",
        "<source",
        "<protocol",
        "type='tcp'",
        "<graphics",
    ];
    for line in DEVICES.lines().filter(|l| !its_own.iter().any(|t| l.contains(t))) {
        assert!(after.contains(line.trim()), "{line} is gone from {after}");
    }
}

#[test]
fn a_disk_of_the_snapshot_s_that_was_not_there_is_a_contradiction() {
    let lost = NewVm { images: vec![("vdz".into(), layer("/i/z"))], leave_out: true, ..new() };
    assert_eq!(redraw(&domain("", "", ""), &lost).unwrap_err().kind, ErrorKind::ChainMismatch);
}

#[test]
fn what_identifies_a_vm_is_its_own() {
    let top = format!(
        "<genid>{OLD}</genid><title>The old one</title><description>serves</description>
         <hwuuid>{OLD}</hwuuid>
         <metadata><v:vm xmlns:v='urn:virtsnap:vm:1'><v:tag>prod</v:tag></v:vm>
           <o:os xmlns:o='http://libosinfo.org/xmlns/libvirt/domain/1.0' id='debian'/></metadata>
         <sysinfo type='smbios'><system><entry name='manufacturer'>M</entry><entry name='uuid'>{OLD}</entry></system></sysinfo>
         <seclabel type='static' model='apparmor'><label>libvirt-{OLD}</label></seclabel>
         <seclabel type='dynamic' model='dac' relabel='yes'/>"
    );
    let after = drawn(&domain(&top, "", ""), &on_vda());
    assert!(after.contains("<name>tri&lt;al</name>") && after.contains("<genid/>"), "{after}");
    assert!(
        !after.contains("The old one") && !after.contains("prod") && !after.contains("hwuuid"),
        "{after}"
    );
    for kept in ["serves", "libosinfo", "<entry name='manufacturer'>M</entry>", "model='dac'"] {
        assert!(after.contains(kept), "{kept} is gone from {after}");
    }
    assert!(after.contains(&format!("<entry name='uuid'>{NEW}</entry>")), "{after}");
    assert!(!after.contains("static"), "{after}");
}

#[test]
fn the_firmware_s_variables_are_the_copy_however_they_are_written() {
    let with = NewVm { nvram: Some("/nv/t&.fd".into()), ..on_vda() };
    let loader = "<loader readonly='yes' type='pflash'>/code.fd</loader>";
    for nvram in [
        "<nvram template='/vars.fd'>/nv/a.fd</nvram>",
        "<nvram template='/vars.fd' type='file'>\n      <source file='/nv/a.fd'/>\n    </nvram>",
    ] {
        let text = domain("", &format!("{loader}{nvram}"), "");
        let after = drawn(&text, &with);
        assert_eq!(xml::domain(&after).unwrap().nvram.unwrap().path, "/nv/t&.fd", "{after}");
        assert!(after.contains("template='/vars.fd'") && after.contains("/code.fd"), "{after}");
        assert!(refused(&text, &on_vda()).contains("not kept"));
    }
    assert!(refused(&domain("", loader, ""), &with).contains("no place"));
    drawn(&domain("", &format!("{loader}<nvram template='/vars.fd'/>"), ""), &on_vda());
    for (os, nvram) in [
        ("<nvram type='block'><source dev='/dev/x'/></nvram>", &with),
        ("<loader type='pflash'>/both.fd</loader>", &on_vda()),
        ("<varstore path='/x'/>", &on_vda()),
    ] {
        refused(&domain("", os, ""), nvram);
    }
}

#[test]
fn what_both_would_write_to_is_refused_or_left_out() {
    let raw = "<disk type='file' device='disk'><source file='/i/shared.raw'/><target dev='vdc' bus='virtio'/><shareable/></disk>";
    let block =
        "<disk type='block' device='lun'><source dev='/dev/sdz'/><target dev='sda' bus='scsi'/></disk>";
    let network =
        "<disk type='network' device='disk'><source protocol='nbd' name='x'/><target dev='vdd'/></disk>";
    let floppy =
        "<disk type='file' device='floppy'><source file='/i/f.img'/><target dev='fda' bus='fdc'/></disk>";
    let nvdimm = "<memory model='nvdimm'><source><path>/i/nvdimm</path></source><target/></memory>";
    for (text, what) in
        [(raw, "/i/shared.raw"), (block, "sda"), (network, "vdd"), (floppy, "fda"), (nvdimm, "/i/nvdimm")]
    {
        let text = domain("", "", text);
        assert!(refused(&text, &on_vda()).contains(what));
        let (after, left_out) = redraw(&text, &NewVm { leave_out: true, ..on_vda() }).unwrap();
        assert_eq!(left_out.len(), 1);
        assert!(!after.contains(what) && after.contains("/i/t-vda"), "{after}");
    }
    let both = refused(&domain("", "", &format!("{raw}{block}")), &on_vda());
    assert!(both.contains("vdc") && both.contains("sda"), "{both}");
    let path = |text: &str| {
        let top =
            format!("<qemu:commandline><qemu:arg value='{text}'/><qemu:arg value='x'/></qemu:commandline>");
        domain(&top, "", "")
    };
    assert!(refused(&path("-drive"), &NewVm { leave_out: true, ..on_vda() }).contains("-drive"));
    drawn(&path("-fw_cfg"), &on_vda());
}

#[test]
fn what_nobody_writes_to_is_shared() {
    for disk in [
        "<disk type='file' device='cdrom'> <source file='/i/a.iso'/> <target dev='sda' bus='sata'/> <readonly/> </disk>",
        "<disk type='file' device='cdrom'> <target dev='sda' bus='sata'/> <readonly/> </disk>",
        "<disk type='file' device='disk'> <source file='/i/ro'/> <target dev='vdc'/> <readonly/> </disk>",
        "<disk type='file' device='floppy'> <target dev='fda' bus='fdc'/> </disk>",
    ] {
        assert_eq!(device(disk), disk);
    }
}

#[test]
fn disks_that_no_overlay_can_be_put_on_are_refused() {
    let of = |disk: &str| {
        let text = domain("", "", disk);
        refused(&text, &NewVm { images: vec![("vdc".into(), layer("/i/t-vdc"))], leave_out: true, ..new() })
    };
    assert!(
        of("<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdc'/></disk>")
            .contains("vdc")
    );
    let secret = "<encryption format='luks'><secret type='passphrase' uuid='x'/></encryption>";
    for disk in [
        format!("<disk type='file'><source file='/i/c'>{secret}</source><target dev='vdc'/></disk>"),
        format!("<disk type='file'><source file='/i/c'/><target dev='vdc'/>{secret}</disk>"),
    ] {
        assert!(of(&disk).contains("encrypted"));
    }
}

#[test]
fn what_is_no_domain_is_an_error() {
    for text in ["", "<domain/>", "<domain><name>a</name><uuid/></domain>"] {
        assert!(redraw(text, &new()).is_err(), "{text}");
    }
}
