//! What a VM's devices hold of the host: ports, sockets, files and devices that there are but once.

use roxmltree::Node;

use super::{super::nodes::child, Draft, escaped};

/// What is told as left out where a network interface is something that only one VM can have.
fn once(interface: Node<'_, '_>) -> Option<&'static str> {
    let unmanaged = || child(interface, "target")?.attribute("managed").filter(|m| *m == "no");
    match interface.attribute("type")? {
        "hostdev" | "vdpa" => Some("a network interface that is a device of the host"),
        "vhostuser" => Some("a network interface on a switch's socket"),
        "server" | "udp" => Some("a network interface that listens on a port"),
        "ethernet" if unmanaged().is_some() => Some("a network interface on a device that others manage"),
        _ => None,
    }
}

impl Draft<'_> {
    pub(super) fn device(&mut self, device: Node<'_, '_>) {
        let kind = device.attribute("type").unwrap_or_default();
        match device.tag_name().name() {
            "interface" => match once(device) {
                Some(what) => self.leave_out(device, what.to_owned()),
                None => self.interface(device),
            },
            "graphics" if matches!(kind, "vnc" | "spice" | "rdp") => self.graphics(device),
            "serial" | "parallel" | "console" | "channel" => self.character_device(device, kind),
            "hostdev" => self.leave_out(device, "a device of the host".to_owned()),
            "input" if matches!(kind, "passthrough" | "evdev") => {
                self.leave_out(device, "an input device of the host".to_owned());
            }
            "lease" => self.leave_out(device, "a lock manager's lease".to_owned()),
            "redirdev" if kind != "spicevmc" => self.leave_out(device, "a redirected USB device".to_owned()),
            "smartcard" if kind != "spicevmc" => self.leave_out(device, "a smartcard".to_owned()),
            "filesystem" if child(device, "source").is_some_and(|s| s.has_attribute("socket")) => {
                self.leave_out(device, "a file system that another program serves".to_owned());
            }
            "vsock" => {
                if let Some(cid) = child(device, "cid") {
                    self.edits.replace(cid.range(), "<cid auto='yes'/>");
                }
            }
            "tpm" => match child(device, "backend") {
                Some(backend) if backend.attribute("type") == Some("emulator") => {
                    self.edits.remove_all(child(backend, "source"));
                }
                _ => self.leave_out(device, "a TPM of the host".to_owned()),
            },
            "pstore" => {
                if let Some(path) = child(device, "path") {
                    let new = self.renamed(path.text().unwrap_or_default());
                    self.edits.replace(path.range(), format!("<path>{}</path>", escaped(&new)));
                }
            }
            _ => {}
        }
    }

    /// libvirt finds a MAC address and a name on the host.
    fn interface(&mut self, interface: Node<'_, '_>) {
        self.edits.remove_all(child(interface, "mac"));
        if let Some(dev) = child(interface, "target").and_then(|t| t.attribute_node("dev")) {
            self.edits.remove(dev.range());
        }
        if let Some(port) = child(interface, "virtualport").and_then(|v| child(v, "parameters")) {
            let own = port.attributes().filter(|a| matches!(a.name(), "interfaceid" | "instanceid"));
            own.for_each(|a| self.edits.remove(a.range()));
        }
        if let Some(file) = child(interface, "backend").and_then(|b| b.attribute_node("logFile")) {
            let new = self.renamed(file.value());
            self.edits.replace(file.range_value(), escaped(&new));
        }
    }

    /// libvirt finds its ports, and a place for its socket.
    fn graphics(&mut self, graphics: Node<'_, '_>) {
        let listens = || graphics.children().filter(|n| n.has_tag_name("listen"));
        let at_socket =
            graphics.has_attribute("socket") || listens().any(|l| l.attribute("type") == Some("socket"));
        let fixed =
            graphics.attributes().filter(|a| matches!(a.name(), "port" | "tlsPort" | "autoport" | "socket"));
        fixed.for_each(|a| self.edits.remove(a.range()));
        listens().filter_map(|l| l.attribute_node("socket")).for_each(|a| self.edits.remove(a.range()));
        if let Some(port) = graphics.attribute_node("websocket") {
            self.edits.replace(port.range_value(), "-1");
        }
        if !at_socket {
            self.edits.insert(graphics.range().start + "<graphics".len(), " port='-1' autoport='yes'");
        }
    }

    fn character_device(&mut self, device: Node<'_, '_>, kind: &str) {
        let log = child(device, "log").and_then(|l| l.attribute_node("file"));
        let sources = || device.children().filter(|n| n.has_tag_name("source"));
        let listens = sources().any(|s| s.attribute("mode") == Some("bind"));
        let to_guest = child(device, "target").and_then(|t| t.attribute("type")) == Some("virtio");
        match kind {
            // Where none is said, libvirt has one of its own for each VM.
            "unix" if listens && device.has_tag_name("channel") && to_guest => {
                self.edits.remove_all(sources());
            }
            "unix" if listens => self.rename(sources().find_map(|s| s.attribute_node("path"))),
            "file" => self.rename(sources().find_map(|s| s.attribute_node("path"))),
            "dev" | "pipe" => self.make_terminal(device),
            "tcp" | "udp" if listens => self.make_terminal(device),
            _ => {}
        }
        self.rename(log);
    }

    fn rename(&mut self, path: Option<roxmltree::Attribute<'_, '_>>) {
        if let Some(path) = path {
            let new = self.renamed(path.value());
            self.edits.replace(path.range_value(), escaped(&new));
        }
    }

    /// It leads to a terminal of its own, and no longer to a port or a device that the other VM has.
    fn make_terminal(&mut self, device: Node<'_, '_>) {
        if let Some(kind) = device.attribute_node("type") {
            self.edits.replace(kind.range_value(), "pty");
        }
        let to = device.children().filter(|n| n.has_tag_name("source") || n.has_tag_name("protocol"));
        self.edits.remove_all(to);
    }
}
