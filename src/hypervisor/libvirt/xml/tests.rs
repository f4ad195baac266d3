//! What is read of XML as libvirt writes it, and that what is written reads back.

use super::*;
use crate::hypervisor::{CreateSpec, Overlay};

const DOMAIN: &str = r"<domain type='qemu' id='1'><name>web &lt;1&gt;</name>
    <uuid>0cc175b9-c0f1-b6a8-31c3-99e269772661</uuid>
    <metadata><v:vm xmlns:v='urn:virtsnap:vm:1'><v:tag>prod</v:tag></v:vm></metadata>
    <seclabel type='dynamic' model='apparmor' relabel='yes'/><seclabel type='none' model='dac'/>
    <devices>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a.s1.qcow2'/>
        <backingStore type='file'><format type='raw'/><source file='/i/a.raw'/><backingStore/></backingStore>
        <target dev='vda' bus='virtio'/>
        <address type='pci' domain='0x0000' bus='0x00' slot='0x0a' function='0x0'/></disk>
      <disk type='file' device='cdrom'><source file='/i/x.iso'/><target dev='sda'/><readonly/></disk>
      <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
    </devices></domain>";

#[test]
fn a_domain_is_read_with_its_chain_agent_tags_and_labels() {
    let d = domain(DOMAIN).unwrap();
    assert_eq!(d.name, "web <1>");
    assert_eq!(d.agent, Agent::Connected);
    assert!(d.tags.contains("prod"));
    assert_eq!(d.seclabels, [("apparmor".into(), true), ("dac".into(), false)]);
    let vda = &d.disks[0];
    assert_eq!(vda.pci, Some([0, 0, 10, 0]));
    assert!(vda.disk.writable && !d.disks[1].disk.writable);
    let paths: Vec<_> = vda.disk.chain.iter().map(|l| (l.path.as_str(), l.format.as_str())).collect();
    assert_eq!(paths, [("/i/a.s1.qcow2", "qcow2"), ("/i/a.raw", "raw")]);
}

#[test]
fn a_snapshot_is_read_with_overlay_and_state_image() {
    let s = snapshot(
        r"<domainsnapshot><name>a
b</name><description>d</description><parent><name>p</name></parent><creationTime>1700000000</creationTime>
        <memory snapshot='no'/><disks><disk name='vda' snapshot='external' type='file'><driver type='qcow2'/>
        <snapshotDeleteInProgress/><source file='/i/a.new.qcow2'/></disk><disk name='vdb' snapshot='no'/></disks>
        <domain><devices><disk type='file' device='disk'><source file='/i/a.qcow2'/><target dev='vda'/></disk></devices></domain>
        </domainsnapshot>",
    )
    .unwrap();
    assert_eq!(s.name.as_str(), "a\nb");
    assert_eq!((s.content, s.storage), (Content::Disk, Storage::External));
    assert_eq!(s.disks.len(), 1);
    assert_eq!(
        (s.disks[0].overlay.as_str(), s.disks[0].state_image.as_str()),
        ("/i/a.new.qcow2", "/i/a.qcow2")
    );
    assert_eq!(s.created.as_second(), 1_700_000_000);
    assert_eq!(s.delete_in_progress, ["vda"]);
}

#[test]
fn what_is_written_reads_back_whatever_it_holds() {
    let name = "a<b>&'\"\n ü";
    let spec = CreateSpec {
        name: SnapshotName::existing(name),
        description: "x < y\nline two".into(),
        overlays: vec![Overlay {
            target: "vda".into(),
            path: "/i/it's & <that>.qcow2".into(),
            backing: Layer { path: "/i/a".into(), format: "raw".into() },
        }],
        memory: None,
    };
    let xml = snapshot_request(&spec, &["vda".into(), "vdb".into()]);
    let back = snapshot(&xml).unwrap();
    assert_eq!((back.content, back.memory_file), (Content::Disk, None));
    let memory = Some("/i/it's <memory>".to_owned());
    let with =
        snapshot(&snapshot_request(&CreateSpec { memory: memory.clone(), ..spec.clone() }, &[])).unwrap();
    assert_eq!((with.content, with.storage, with.memory_file), (Content::Full, Storage::External, memory));
    assert_eq!(back.name.as_str(), name);
    assert_eq!(back.description, spec.description);
    assert_eq!(back.disks[0].overlay, spec.overlays[0].path);
    assert!(xml.contains("<disk snapshot='no' name='vdb'/>"));
    let v = volume(&overlay_volume("n", &spec.overlays[0], 4096, None)).unwrap();
    assert_eq!((v.capacity, v.format.as_str()), (4096, "qcow2"));
    assert_eq!(v.backing, Some(spec.overlays[0].backing.clone()));
}

#[test]
fn broken_xml_is_an_error_not_a_panic() {
    assert!(domain("<domain>").is_err());
    assert!(domain("<!DOCTYPE a [<!ENTITY b 'c'>]><domain/>").is_err());
    assert!(snapshot("<domainsnapshot/>").is_err());
}

#[test]
fn firmware_tpm_and_copies_are_seen() {
    let read = |inside: &str| {
        domain(&format!("<domain><uuid>0cc175b9-c0f1-b6a8-31c3-99e269772661</uuid>{inside}</domain>"))
            .unwrap()
    };
    let nvram = |os: &str| read(&format!("<os>{os}</os>")).nvram.map(|n| (n.kind, n.path, n.format));
    let of = |kind: &str, path: &str, format: &str| Some((kind.into(), path.into(), format.into()));
    assert_eq!(nvram("<nvram template='/t'>/v/a.fd</nvram>"), of("file", "/v/a.fd", "raw"));
    assert_eq!(
        nvram("<nvram type='file' format='qcow2'><source file='/v/a.qcow2'/></nvram>"),
        of("file", "/v/a.qcow2", "qcow2")
    );
    assert_eq!(nvram("<nvram type='block'><source dev='/dev/x'/></nvram>"), of("block", "/dev/x", "raw"));
    assert_eq!(nvram("<nvram template='/t'/>"), None, "libvirt makes the file at the first start");
    assert_eq!(nvram("<type>hvm</type>"), None);

    assert_eq!(read("<memory unit='KiB'>98304</memory>").ram, 96 << 20);
    let tpm = |backend: &str| {
        let tpm = read(&format!("<devices><tpm>{backend}</tpm></devices>")).tpm;
        tpm.map(|tpm| tpm.state.map(|path| path.replace("0cc175b9-c0f1-b6a8-31c3-99e269772661", "U")))
    };
    assert_eq!(tpm("<backend type='passthrough'><device path='/dev/tpm0'/></backend>"), None);
    let at = |path: &str| Some(Some(path.to_owned()));
    let usual = at("/var/lib/libvirt/swtpm/U/tpm2/tpm2-00.permall");
    assert_eq!(tpm("<backend type='emulator'/>"), usual);
    assert_eq!(tpm("<backend type='emulator' version='2.0'/>"), usual);
    let old = at("/var/lib/libvirt/swtpm/U/tpm1.2/tpm-00.permall");
    assert_eq!(tpm("<backend type='emulator' version='1.2'/>"), old);
    for (source, path) in [("type='dir' path='/t/'", "/t/tpm2-00.permall"), ("type='file' path='/t'", "/t")] {
        assert_eq!(tpm(&format!("<backend type='emulator'><source {source}/></backend>")), at(path));
    }
    assert_eq!(tpm("<backend type='emulator'><source type='later'/></backend>"), Some(None));
    let disk = |inside| read(&format!("<devices><disk type='file'>{inside}</disk></devices>")).mirrors;
    assert!(disk("<mirror type='file' job='active-commit'/>") && !disk("<source file='/a'/>"));
}

#[test]
fn a_volume_is_read_with_its_owner_and_one_like_it_gets_the_same() {
    let v = volume(
        "<volume type='file'><capacity unit='bytes'>8388608</capacity><allocation unit='bytes'>200704</allocation>
         <target><path>/i/a</path><format type='qcow2'/><permissions><mode>0640</mode><owner>64055</owner>
         <group>994</group></permissions></target><backingStore><path>/i/b</path><format type='raw'/>
         <permissions><mode>0600</mode><owner>0</owner><group>0</group></permissions></backingStore></volume>",
    )
    .unwrap();
    assert_eq!((v.path.as_str(), v.capacity, v.allocation), ("/i/a", 8_388_608, 200_704));
    assert_eq!(v.backing, Some(Layer { path: "/i/b".into(), format: "raw".into() }));
    let access = v.access.unwrap();
    assert_eq!(
        (access.owner.as_str(), access.group.as_str(), access.mode.as_str()),
        ("64055", "994", "0640")
    );
    let like = volume(&file_volume("n", 7, Some(&access))).unwrap();
    assert_eq!((like.capacity, like.access.as_ref()), (7, Some(&access)));
    let backing = Layer { path: "/i/b".into(), format: "raw".into() };
    let overlay = Overlay { target: "vda".into(), path: "/i/o".into(), backing };
    let made = volume(&overlay_volume("o", &overlay, 7, Some(&access))).unwrap().access.unwrap();
    assert_eq!(
        (made.owner, made.mode.as_str()),
        (access.owner, "0600"),
        "others' right to read is not passed on"
    );
}

#[test]
fn all_images_of_a_snapshot_are_found() {
    let disk =
        |path| format!("<disk type='file' name='vda'><driver type='qcow2'/><source file='{path}'/></disk>");
    let (before, above, memory) = snapshot_images(&format!(
        "<domainsnapshot><memory snapshot='external' file='/m'/>
         <disks>{}<disk snapshot='no' name='vdb'/></disks><revertDisks>{}</revertDisks>
         <domain><devices>{}{}</devices></domain><inactiveDomain><devices>{}</devices></inactiveDomain>
         </domainsnapshot>",
        disk("/o"),
        disk("/r"),
        disk("/a"),
        disk("/b"),
        disk("/c")
    ))
    .unwrap();
    let before: Vec<_> = before.iter().map(|d| d.disk.chain[0].path.as_str()).collect();
    assert_eq!(
        (before, above),
        (vec!["/a", "/b", "/c"], ["o", "r"].map(|d| ("vda".to_owned(), format!("/{d}"))).to_vec())
    );
    assert_eq!(memory.as_deref(), Some("/m"));
}
