//! Each kind of device beside the disks.

use super::*;

#[test]
fn a_network_interface_has_a_mac_address_and_a_name_of_its_own() {
    assert_eq!(
        device(
            "<interface type='network'><mac address='52:54:00:6d:90:01'/><source network='default'/><target dev='tap0'/><model type='virtio'/></interface>"
        ),
        "<interface type='network'><source network='default'/><target /><model type='virtio'/></interface>"
    );
    assert_eq!(
        device(
            "<interface type='bridge'><source bridge='br0'/><virtualport type='openvswitch'><parameters interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f' profileid='p'/></virtualport></interface>"
        ),
        "<interface type='bridge'><source bridge='br0'/><virtualport type='openvswitch'><parameters profileid='p'/></virtualport></interface>"
    );
    assert_eq!(
        device("<interface type='user'><backend type='passt' logFile='/l/p.log'/></interface>"),
        "<interface type='user'><backend type='passt' logFile='/l/p-1f8ba2d0.log'/></interface>"
    );
    for once in [
        "<interface type='hostdev' managed='yes'><source/></interface>",
        "<interface type='vhostuser'><source type='unix' path='/s' mode='server'/></interface>",
        "<interface type='server'><source address='127.0.0.1' port='5558'/></interface>",
        "<interface type='ethernet'><target dev='mytap' managed='no'/></interface>",
    ] {
        assert!(left_out(once).contains("network interface"));
    }
}

#[test]
fn displays_find_their_ports_and_sockets() {
    for (text, after) in [
        (
            "<graphics type='vnc' port='5901' autoport='no' websocket='5700' passwd='x'/>",
            "<graphics port='-1' autoport='yes' type='vnc' websocket='-1' passwd='x'/>",
        ),
        (
            "<graphics type='spice' port='5900' tlsPort='5901' autoport='no'/>",
            "<graphics port='-1' autoport='yes' type='spice' />",
        ),
        (
            "<graphics type='vnc' port='-1' autoport='yes'/>",
            "<graphics port='-1' autoport='yes' type='vnc' />",
        ),
        (
            "<graphics type='vnc' socket='/s'><listen type='socket' socket='/s'/></graphics>",
            "<graphics type='vnc' ><listen type='socket' /></graphics>",
        ),
        ("<graphics type='sdl' display=':0.0'/>", "<graphics type='sdl' display=':0.0'/>"),
        ("<graphics type='egl-headless'/>", "<graphics type='egl-headless'/>"),
    ] {
        assert_eq!(device(text), after);
    }
}

#[test]
fn character_devices_lead_to_places_of_their_own() {
    let agent = "<target type='virtio' name='org.qemu.guest_agent.0'/>";
    for (text, after) in [
        (
            format!("<channel type='unix'><source mode='bind' path='/c/domain-1-a/org'/>{agent}</channel>"),
            format!("<channel type='unix'>{agent}</channel>"),
        ),
        (format!("<channel type='unix'>{agent}</channel>"), format!("<channel type='unix'>{agent}</channel>")),
        (
            format!("<serial type='unix'><source mode='bind' path='/run/{OLD}.sock'/></serial>"),
            format!("<serial type='unix'><source mode='bind' path='/run/{NEW}.sock'/></serial>"),
        ),
        (
            "<serial type='unix'><source mode='bind' path='/run/v.d/a'/></serial>".into(),
            "<serial type='unix'><source mode='bind' path='/run/v.d/a-1f8ba2d0'/></serial>".into(),
        ),
        (
            "<serial type='unix'><source mode='connect' path='/run/server'/></serial>".into(),
            "<serial type='unix'><source mode='connect' path='/run/server'/></serial>".into(),
        ),
        (
            "<serial type='file'><source path='/l/a.log' append='on'/></serial>".into(),
            "<serial type='file'><source path='/l/a-1f8ba2d0.log' append='on'/></serial>".into(),
        ),
        (
            "<console type='pty'><log file='/l/.hidden'/><target type='virtio' port='0'/></console>".into(),
            "<console type='pty'><log file='/l/.hidden-1f8ba2d0'/><target type='virtio' port='0'/></console>".into(),
        ),
        (
            "<serial type='tcp'><source mode='bind' host='::' service='4555'/><protocol type='telnet'/><target port='0'/></serial>".into(),
            "<serial type='pty'><target port='0'/></serial>".into(),
        ),
        (
            "<serial type='udp'><source mode='bind' service='1'/><source mode='connect' service='2'/></serial>".into(),
            "<serial type='pty'></serial>".into(),
        ),
        (
            "<serial type='tcp'><source mode='connect' host='h' service='4555'/></serial>".into(),
            "<serial type='tcp'><source mode='connect' host='h' service='4555'/></serial>".into(),
        ),
        ("<serial type='dev'><source path='/dev/ttyS0'/></serial>".into(), "<serial type='pty'></serial>".into()),
        ("<channel type='spicevmc'/>".into(), "<channel type='spicevmc'/>".into()),
    ] {
        assert_eq!(device(&text), after);
    }
}

#[test]
fn what_the_host_has_once_is_left_out() {
    for text in [
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address bus='0x06'/></source></hostdev>",
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='x'/></source></hostdev>",
        "<input type='passthrough' bus='virtio'><source evdev='/dev/input/event1'/></input>",
        "<input type='evdev'><source dev='/dev/input/event1'/></input>",
        "<lease><lockspace>l</lockspace><key>k</key><target path='/l'/></lease>",
        "<redirdev bus='usb' type='tcp'><source mode='bind' host='l' service='4000'/></redirdev>",
        "<smartcard mode='host'/>",
        "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
        "<filesystem type='mount'><driver type='virtiofs'/><source socket='/s'/><target dir='t'/></filesystem>",
    ] {
        assert!(!left_out(text).is_empty());
    }
    for kept in [
        "<input type='tablet' bus='usb'/>",
        "<redirdev bus='usb' type='spicevmc'/>",
        "<smartcard mode='passthrough' type='spicevmc'/>",
        "<filesystem type='mount'><source dir='/export'/><target dir='t'/></filesystem>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<memballoon model='virtio'/>",
    ] {
        assert_eq!(device(kept), kept);
    }
}

#[test]
fn addresses_and_states_that_one_vm_has_are_found_anew() {
    assert_eq!(
        device("<vsock model='virtio'><cid auto='no' address='3'/></vsock>"),
        "<vsock model='virtio'><cid auto='yes'/></vsock>"
    );
    assert_eq!(
        device("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"),
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    );
    assert_eq!(
        device(
            "<tpm model='tpm-crb'><backend type='emulator'><source type='dir' path='/t'/></backend></tpm>"
        ),
        "<tpm model='tpm-crb'><backend type='emulator'></backend></tpm>"
    );
    assert_eq!(
        device("<pstore backend='acpi-erst'><path>/p/a.erst</path></pstore>"),
        "<pstore backend='acpi-erst'><path>/p/a-1f8ba2d0.erst</path></pstore>"
    );
}
