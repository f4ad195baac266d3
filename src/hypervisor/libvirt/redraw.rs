//! One VM's definition made into another's, which can run beside it: text in, text out. No calls.
//!
//! | of the one | for the other |
//! |---|---|
//! | name, UUID, generation ID, MAC addresses, the UUID its firmware shows | its own |
//! | tags | none: no policy is for it that was for the one |
//! | disks of the snapshot | on the images given |
//! | CD-ROMs, read-only disks | as they are |
//! | disks that are written to and have no part in the snapshot | refused, or left out if that was asked for |
//! | the firmware's variables | the copy given |
//! | an emulated TPM | one without a state |
//! | ports, sockets, files that it listens on or writes to | found by libvirt, or renamed |
//! | what a host has once (passed-through devices, its serial ports, a switch's sockets) | left out |

mod devices;
#[cfg(test)]
mod tests;

use roxmltree::Node;

use super::{
    edit::{Edits, disks, forget_chain, put_on, target, with_its_line},
    nodes::{broken, child, child_text, escape, parse, source},
    xml::NAMESPACE,
};
use crate::hypervisor::{Error, ErrorKind, NewVm, Result};

/// Arguments of a QEMU command line that give it images past libvirt.
const IMAGES: [&str; 9] =
    ["-drive", "-blockdev", "-pflash", "-hda", "-hdb", "-hdc", "-hdd", "-sd", "-mtdblock"];

/// The new VM's definition, and what it does not have, in words.
pub(super) fn redraw(then: &str, new: &NewVm) -> Result<(String, Vec<String>)> {
    let doc = parse(then)?;
    let root = doc.root_element();
    let old = child_text(root, "uuid").unwrap_or_default().trim().to_owned();
    let mut draft = Draft { new, old, edits: Edits::default(), left_out: Vec::new() };
    draft.identity(root)?;
    draft.firmware(root)?;
    draft.disks(root)?;
    let Some(all) = child(root, "devices") else { return Err(broken("a VM without devices")) };
    for device in all.children().filter(Node::is_element) {
        draft.device(device);
    }
    Ok((draft.edits.apply(then), draft.left_out))
}

/// What is being made of it.
struct Draft<'a> {
    new: &'a NewVm,
    /// The other VM's UUID.
    old: String,
    edits: Edits,
    left_out: Vec<String>,
}

impl Draft<'_> {
    fn identity(&mut self, root: Node<'_, '_>) -> Result<()> {
        let (Some(name), Some(uuid)) = (child(root, "name"), child(root, "uuid")) else {
            return Err(broken("a VM without a name or a UUID"));
        };
        self.edits.replace(name.range(), format!("<name>{}</name>", escaped(&self.new.name)));
        self.edits.replace(uuid.range(), format!("<uuid>{}</uuid>", self.new.id));
        if let Some(genid) = child(root, "genid") {
            self.edits.replace(genid.range(), "<genid/>");
        }
        for element in ["title", "hwuuid"] {
            self.edits.remove_all(child(root, element));
        }
        let kept = child(root, "metadata").into_iter().flat_map(|m| m.children());
        self.edits.remove_all(kept.filter(|n| n.is_element() && n.tag_name().namespace() == Some(NAMESPACE)));
        // libvirt wants the same UUID there.
        let shown = root.children().filter(|n| n.has_tag_name("sysinfo")).flat_map(|n| n.descendants());
        for entry in shown.filter(|n| n.has_tag_name("entry") && n.attribute("name") == Some("uuid")) {
            self.edits.replace(entry.range(), format!("<entry name='uuid'>{}</entry>", self.new.id));
        }
        let old = self.old.clone();
        let names_it = |n: &Node<'_, '_>| n.descendants().filter_map(|d| d.text()).any(|t| t.contains(&old));
        let labels = root.children().filter(|n| n.has_tag_name("seclabel"));
        self.edits.remove_all(labels.filter(names_it));
        let arguments = root.descendants().filter(|n| n.tag_name().name() == "arg");
        match arguments.filter_map(|a| a.attribute("value")).find(|v| IMAGES.contains(v)) {
            Some(argument) => unsupported(format!(
                "the VM's definition gives QEMU images past libvirt (`{argument}` of its command line), which the \
                 branch would write to as well"
            )),
            None => Ok(()),
        }
    }

    fn firmware(&mut self, root: Node<'_, '_>) -> Result<()> {
        let Some(os) = child(root, "os") else { return Ok(()) };
        let flash = |n: &Node<'_, '_>| n.attribute("type") == Some("pflash");
        if child(os, "loader").filter(flash).is_some_and(|n| n.attribute("readonly") != Some("yes"))
            || child(os, "varstore").is_some()
        {
            return unsupported(
                "the VM's firmware writes its variables to a file that is not kept with snapshots".to_owned(),
            );
        }
        let node = child(os, "nvram");
        let text = node.and_then(|n| n.children().find(|t| t.is_text() && !is_blank(*t)));
        let path = node.and_then(|n| child(n, "source")).and_then(|n| n.attribute_node("file"));
        let elsewhere = node.is_some_and(|n| n.attribute("type").is_some_and(|t| t != "file"));
        match (node.filter(|_| path.is_some() || text.is_some() || elsewhere), &self.new.nvram) {
            (None, None) => Ok(()),
            (None, Some(_)) => unsupported(
                "the firmware's variables were kept with the snapshot, but the VM's definition of then has no place \
                 for them"
                    .to_owned(),
            ),
            (Some(_), None) => unsupported(
                "the firmware's variables were not kept with the snapshot, and without them the branch might not boot"
                    .to_owned(),
            ),
            (Some(_), Some(_)) if elsewhere => {
                unsupported("the firmware's variables are in no file of this host".to_owned())
            }
            (Some(_), Some(new)) => {
                let place = path.map(|a| a.range_value()).or(text.map(|t| t.range()));
                self.edits.replace(place.unwrap_or_default(), escaped(new));
                Ok(())
            }
        }
    }

    fn disks(&mut self, root: Node<'_, '_>) -> Result<()> {
        let mut left = self.new.images.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>();
        let mut written = Vec::new();
        for disk in disks(root) {
            let name = target(disk).unwrap_or_default();
            left.retain(|t| *t != name);
            let encrypted =
                child(disk, "encryption").or(child(disk, "source").and_then(|s| child(s, "encryption")));
            match self.new.images.iter().find(|(t, _)| t == name) {
                Some(_) if disk.attribute("type") != Some("file") => {
                    return unsupported(format!("disk {name} was no image file when the snapshot was taken"));
                }
                Some(_) if encrypted.is_some() => {
                    return unsupported(format!(
                        "disk {name} is encrypted, which an overlay on it would not be"
                    ));
                }
                Some((_, layer)) => {
                    put_on(disk, layer, &mut self.edits);
                    forget_chain(disk, &mut self.edits);
                }
                None if !is_written(disk) => forget_chain(disk, &mut self.edits),
                None if self.new.leave_out => self.leave_out(disk, format!("disk {name}")),
                None => written.push(format!("disk {name} ({})", source(disk).unwrap_or_default())),
            }
        }
        if let Some(lost) = left.first() {
            return Err(Error::new(
                ErrorKind::ChainMismatch,
                format!("the VM's definition of then has no disk {lost}"),
            ));
        }
        let memories = child(root, "devices").into_iter().flat_map(|d| d.children());
        for memory in memories.filter(|n| n.has_tag_name("memory")) {
            let path = child(memory, "source").and_then(|s| child_text(s, "path"));
            match path {
                None => {}
                Some(_) if self.new.leave_out => self.leave_out(memory, "memory in a file".to_owned()),
                Some(path) => written.push(format!("memory in a file ({path})")),
            }
        }
        if written.is_empty() {
            return Ok(());
        }
        unsupported(format!(
            "what has no part in the snapshot would be written to by both: {}. A branch can be made without it, if \
             that is asked for",
            written.join(", ")
        ))
    }

    fn leave_out(&mut self, device: Node<'_, '_>, what: String) {
        self.edits.remove(with_its_line(device));
        self.left_out.push(what);
    }

    /// A path that is this VM's own, wherever that other one is.
    fn renamed(&self, path: &str) -> String {
        if !self.old.is_empty() && path.contains(&self.old) {
            return path.replace(&self.old, &self.new.id.to_string());
        }
        let (directory, file) = path.rsplit_once('/').map_or(("", path), |(d, f)| (&path[..=d.len()], f));
        let (stem, ending) = match file.rsplit_once('.') {
            Some((stem, _)) if !stem.is_empty() => file.split_at(stem.len()),
            _ => (file, ""),
        };
        let short = &self.new.id.0.simple().to_string()[..8];
        format!("{directory}{stem}-{short}{ending}")
    }
}

/// Whether the guest can write to what is in it.
fn is_written(disk: Node<'_, '_>) -> bool {
    let loaded = source(disk).is_some() || disk.attribute("type").is_some_and(|t| t != "file");
    loaded && disk.attribute("device") != Some("cdrom") && child(disk, "readonly").is_none()
}

fn is_blank(text: Node<'_, '_>) -> bool {
    text.text().is_none_or(|t| t.trim().is_empty())
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    escape(&mut out, text);
    out
}

fn unsupported<T>(what: String) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, what))
}

impl Edits {
    fn remove_all<'a, 'i: 'a>(&mut self, nodes: impl IntoIterator<Item = Node<'a, 'i>>) {
        for node in nodes {
            self.remove(with_its_line(node));
        }
    }
}
