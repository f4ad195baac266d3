//! A VM's definition, put together from how it was and how it is: text in, text out. No calls.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::{
    edit::{Edits, disks, forget_chain, put_on, target, with_its_line},
    nodes::{attribute, broken, child, child_text, parse, source},
};
use crate::hypervisor::{Error, ErrorKind, Layer, Result};

/// What is the VM's own, whatever becomes of its disks.
const ITS_OWN: [&str; 4] = ["name", "title", "description", "metadata"];

/// The definition in a snapshot's metadata: for the next start, if there were two.
pub(super) fn of_snapshot(text: &str) -> Result<String> {
    let doc = parse(text)?;
    let root = doc.root_element();
    let Some(node) = child(root, "inactiveDomain").or_else(|| child(root, "domain")) else {
        return Err(broken("a snapshot without a definition"));
    };
    let text = &text[node.range()];
    let inner = text.strip_prefix("<inactiveDomain").and_then(|t| t.strip_suffix("</inactiveDomain>"));
    Ok(inner.map_or_else(|| text.to_owned(), |inner| format!("<domain{inner}</domain>")))
}

/// The definition of `then`, with these images for these disks, and all else that is not then's business as it is `now`.
pub(super) fn put_together(then: &str, now: &str, sources: &[(String, Layer)]) -> Result<String> {
    let (then_doc, now_doc) = (parse(then)?, parse(now)?);
    let (old, new) = (then_doc.root_element(), now_doc.root_element());
    if child_text(old, "uuid") != child_text(new, "uuid") {
        return Err(Error::new(ErrorKind::Failed, "the definition is another VM's"));
    }
    let mut edits = Edits::default();
    for element in ITS_OWN {
        keep(now, element, (old, new), &mut edits)?;
    }
    let new_disks: Vec<_> = disks(new).collect();
    let of_now = |name: Option<&str>| new_disks.iter().find(|d| name.is_some() && target(**d) == name);
    if let Some((name, _)) = sources.iter().find(|(name, _)| of_now(Some(name)).is_none()) {
        return Err(Error::new(
            ErrorKind::ChainMismatch,
            format!("the VM has no disk {name} any more. Nothing was touched"),
        ));
    }
    for disk in disks(old) {
        let Some(is) = of_now(target(disk)) else {
            edits.remove(with_its_line(disk));
            continue;
        };
        let source = sources.iter().find(|(name, _)| Some(name.as_str()) == target(disk));
        match source {
            Some((_, layer)) if disk.attribute("type") == Some("file") => {
                put_on(disk, layer, &mut edits);
                forget_chain(disk, &mut edits);
            }
            // Where it was plugged in is then's business: something else may have its place there.
            _ => edits.replace(disk.range(), as_it_is(now, *is, source.map(|(_, l)| l), address(then, disk))),
        }
    }
    let Some(devices) = child(old, "devices") else { return Err(broken("a VM without devices")) };
    let taken: BTreeSet<&str> = devices.children().filter_map(|d| address(then, d)).collect();
    let end = devices.range().end - "</devices>".len();
    let known: BTreeSet<_> = disks(old).filter_map(target).collect();
    for disk in new_disks.iter().filter(|d| target(**d).is_some_and(|t| !known.contains(t))) {
        let source = sources.iter().find(|(name, _)| Some(name.as_str()) == target(*disk));
        // What has its place there keeps it, and libvirt finds another one for this disk.
        let place = address(now, *disk).filter(|a| !taken.contains(a));
        edits.insert(end, as_it_is(now, *disk, source.map(|(_, layer)| layer), place));
    }
    Ok(edits.apply(then))
}

/// The definition that kept memory goes with, `then`, with these images for these disks, and for all others what they
/// are on `now`. Nothing else may differ: the guest knows it.
pub(super) fn with_memory(then: &str, now: &str, sources: &[(String, Layer)]) -> Result<String> {
    let (then_doc, now_doc) = (parse(then)?, parse(now)?);
    let (old, new) = (then_doc.root_element(), now_doc.root_element());
    let refuse = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
    for (element, what) in [("uuid", "UUID"), ("name", "name")] {
        let (was, is) = (child_text(old, element), child_text(new, element));
        if was != is {
            let (was, is) = (was.unwrap_or_default(), is.unwrap_or_default());
            return refuse(format!("the VM's {what} was {was} then, and is {is} now"));
        }
    }
    let mut edits = Edits::default();
    for disk in disks(old) {
        let name = target(disk);
        let Some(is) = disks(new).find(|d| name.is_some() && target(*d) == name) else {
            return refuse(format!("the VM has no disk {} any more", name.unwrap_or_default()));
        };
        let layer = sources.iter().find(|(target, _)| Some(target.as_str()) == name).map(|(_, l)| l.clone());
        forget_chain(disk, &mut edits);
        match layer.or_else(|| image(is)) {
            Some(layer) if disk.attribute("type") == Some("file") => put_on(disk, &layer, &mut edits),
            // A drive that was emptied.
            None if disk.attribute("type") == Some("file") => {
                edits.remove(child(disk, "source").map_or(0..0, with_its_line));
            }
            _ => {}
        }
    }
    Ok(edits.apply(then))
}

/// A definition that says of these disks which images they are on, one upon the other, the one that is written to first.
pub(super) fn with_chains(now: &str, chains: &[(String, Vec<Layer>)]) -> Result<String> {
    let doc = parse(now)?;
    let mut edits = Edits::default();
    for (name, chain) in chains {
        let disk = disks(doc.root_element()).find(|disk| target(*disk) == Some(name));
        let Some((disk, at)) = disk.and_then(|disk| Some((disk, child(disk, "source")?))) else {
            return Err(broken("a VM without that disk"));
        };
        if source(disk) != chain.first().map(|layer| layer.path.clone()) {
            let text = format!("disk {name} is on another image than it was. Nothing was touched");
            return Err(Error::new(ErrorKind::ChainMismatch, text));
        }
        edits.insert(at.range().end, below(chain.get(1..).unwrap_or_default()));
        forget_chain(disk, &mut edits);
    }
    Ok(edits.apply(now))
}

fn below(chain: &[Layer]) -> String {
    let Some((first, rest)) = chain.split_first() else { return "<backingStore/>".to_owned() };
    let mut x = "<backingStore type='file'><format".to_owned();
    attribute(&mut x, "type", &first.format);
    x.push_str("/><source");
    attribute(&mut x, "file", &first.path);
    x.push_str("/>");
    x + &below(rest) + "</backingStore>"
}

/// What a disk that is a file is on.
fn image(disk: Node<'_, '_>) -> Option<Layer> {
    let path = source(disk).filter(|_| disk.attribute("type") == Some("file"))?;
    let format = child(disk, "driver").and_then(|d| d.attribute("type")).unwrap_or("raw").to_owned();
    Some(Layer { path, format })
}

/// One element of the VM's own, as it is now.
fn keep(now: &str, element: &str, (old, new): (Node<'_, '_>, Node<'_, '_>), edits: &mut Edits) -> Result<()> {
    let is = child(new, element).map(|n| &now[n.range()]);
    match (child(old, element), is) {
        (None, None) => {}
        (Some(was), Some(is)) => edits.replace(was.range(), is),
        (Some(was), None) => edits.remove(with_its_line(was)),
        (None, Some(is)) => {
            let Some(uuid) = child(old, "uuid") else { return Err(broken("a VM without a UUID")) };
            edits.insert(uuid.range().end, is);
        }
    }
    Ok(())
}

/// A disk as it is now, with another image if one is given, at that place.
fn as_it_is(now: &str, disk: Node<'_, '_>, layer: Option<&Layer>, place: Option<&str>) -> String {
    let mut edits = Edits::default();
    forget_chain(disk, &mut edits);
    if let Some(layer) = layer {
        put_on(disk, layer, &mut edits);
    }
    match (child(disk, "address"), place) {
        (Some(is), Some(place)) => edits.replace(is.range(), place),
        (Some(is), None) => edits.remove(with_its_line(is)),
        (None, Some(place)) => edits.insert(disk.range().end - "</disk>".len(), place),
        (None, None) => {}
    }
    edits.apply_within(now, disk.range())
}

fn address<'t>(text: &'t str, device: Node<'_, '_>) -> Option<&'t str> {
    child(device, "address").map(|a| &text[a.range()])
}

#[cfg(test)]
mod tests {
    use super::{super::xml, *};

    const SEEN: [&str; 2] = [include_str!("seen/snapshot-9.0.xml"), include_str!("seen/snapshot-11.3.xml")];

    fn layer(path: &str, format: &str) -> Layer {
        Layer { path: path.into(), format: format.into() }
    }

    fn images(text: &str) -> Vec<(String, String)> {
        let doc = parse(text).unwrap();
        let root = doc.root_element();
        disks(root).map(|d| (target(d).unwrap().to_owned(), source(d).unwrap_or_default())).collect()
    }

    #[test]
    fn what_a_disk_lies_on_is_written_out_for_that_disk_alone() {
        let now = of_snapshot(SEEN[1]).unwrap();
        let on = |target: &str| images(&now).into_iter().find(|(name, _)| name == target).unwrap().1;
        let chain = [layer(&on("vda"), "qcow2"), layer("/i/it's <b>", "qcow2"), layer("/i/c", "raw")];
        let after = with_chains(&now, &[("vda".to_owned(), chain.to_vec())]).unwrap();
        assert_eq!(images(&after), images(&now));
        let read = xml::domain(&after).unwrap().disks;
        let of = |target: &str| &read.iter().find(|d| d.disk.target == target).unwrap().disk.chain;
        assert_eq!(*of("vda"), chain);
        assert_eq!(after.matches("<backingStore/>").count(), 1 + now.matches("<backingStore/>").count());
        let other = [("vda".to_owned(), vec![layer("/i/x", "qcow2")])];
        assert_eq!(with_chains(&now, &other).unwrap_err().kind, ErrorKind::ChainMismatch);
        assert!(with_chains(&now, &[("vdz".to_owned(), Vec::new())]).is_err());
    }

    fn pair(target: &str, path: &str) -> (String, String) {
        (target.to_owned(), path.to_owned())
    }

    #[test]
    fn the_definition_for_the_next_start_is_taken_out_of_a_snapshot() {
        for text in SEEN {
            let definition =
                of_snapshot(&text.replacen("<vcpu placement='static'>1<", "<vcpu>9<", 1)).unwrap();
            assert!(definition.starts_with("<domain type='qemu'>") && definition.ends_with("</domain>"));
            assert!(definition.contains("<vcpu placement='static'>1</vcpu>"), "not the live one's");
            assert!(definition.contains("passwd='secret'"));
            assert_eq!(xml::domain(&definition).unwrap().name, "a");
            // Of one that was off there is but one.
            let end = text.find("  <inactiveDomain").unwrap();
            let off = format!("{}</domainsnapshot>", &text[..end]);
            assert_eq!(xml::domain(&of_snapshot(&off).unwrap()).unwrap().name, "a");
            assert!(of_snapshot("<domainsnapshot/>").is_err());
        }
    }

    #[test]
    fn the_disks_of_then_get_their_images_and_no_chain_is_left() {
        for text in SEEN {
            let then = of_snapshot(text).unwrap();
            let sources =
                [("vda".to_owned(), layer("/i/n'ew", "qcow2")), ("vdb".into(), layer("/i/r", "raw"))];
            let after = put_together(&then, &then, &sources).unwrap();
            assert!(!after.contains("backingStore"), "{after}");
            let iso = "/var/lib/libvirt/images/a.iso";
            assert_eq!(images(&after), [pair("vda", "/i/n'ew"), pair("vdb", "/i/r"), pair("hdc", iso)]);
            let read = xml::domain(&after).unwrap();
            assert_eq!(read.disks[1].disk.chain, [layer("/i/r", "raw")]);
            assert_eq!(put_together(&after, &after, &sources).unwrap(), after);
            assert_eq!(put_together(&then, &after, &sources).unwrap(), after);
        }
    }

    #[test]
    fn what_is_the_vm_s_own_is_as_it_is_now_and_all_else_as_it_was() {
        for text in SEEN {
            let then = of_snapshot(text).unwrap();
            let now = then
                .replace("<name>a</name>", "<name>b &amp; c</name>")
                .replace("<v:tag>prod</v:tag>", "<v:tag>test</v:tag>")
                .replace("<memory unit='KiB'>16384", "<title>T</title><memory unit='KiB'>32768")
                .replace("passwd='secret'", "passwd='new'");
            let after = put_together(&then, &now, &[]).unwrap();
            assert!(after.contains("<memory unit='KiB'>16384") && after.contains("passwd='secret'"));
            assert!(after.contains("<title>T</title>"));
            let read = xml::domain(&after).unwrap();
            assert_eq!((read.name.as_str(), read.tags.len()), ("b & c", 1));
            assert!(read.tags.contains("test"));
            let back = put_together(&after, &then, &[]).unwrap();
            assert!(!back.contains("title") && back.contains("<name>a</name>") && back.contains(">prod<"));
        }
    }

    #[test]
    fn a_disk_that_takes_no_part_is_as_it_is_now_whether_it_is_new_or_gone() {
        for text in SEEN {
            let then = of_snapshot(text).unwrap();
            let start = then.find("<disk type='file' device='cdrom'>").unwrap();
            let end = start + then[start..].find("</disk>").unwrap() + "</disk>".len();
            let added = "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/i/c'/>
                <target dev='vdc' bus='virtio'/><address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/></disk>";
            let now = format!("{}{added}{}", &then[..start], &then[end..])
                .replace("/var/lib/libvirt/images/a-vdb.s1", "/i/vdb.later");
            let sources = [("vda".to_owned(), layer("/i/new", "qcow2"))];
            let after = put_together(&then, &now, &sources).unwrap();
            let expected = [pair("vda", "/i/new"), pair("vdb", "/i/vdb.later"), pair("vdc", "/i/c")];
            assert_eq!(images(&after), expected);
            assert_eq!(after.matches("slot='0x03'").count(), 1, "two at one place: {after}");
            // Its image is as it is now, its place as it was then.
            let moved = now.replace("slot='0x04'", "slot='0x0b'");
            assert!(put_together(&then, &moved, &sources).unwrap().contains("slot='0x04'"));
            let gone = [("hdc".to_owned(), layer("/i/new", "raw"))];
            assert_eq!(put_together(&then, &now, &gone).unwrap_err().kind, ErrorKind::ChainMismatch);
        }
    }

    #[test]
    fn memory_gets_its_disks_images_and_keeps_all_else_that_the_guest_knows() {
        for text in SEEN {
            let then = of_snapshot(text).unwrap();
            let now = then
                .replace("<memory unit='KiB'>16384", "<memory unit='KiB'>32768")
                .replace("/var/lib/libvirt/images/a-vdb.s1", "/i/vdb.later")
                .replace("/var/lib/libvirt/images/a.iso", "/i/b.iso");
            let sources = [("vda".to_owned(), layer("/i/new", "qcow2"))];
            let after = with_memory(&then, &now, &sources).unwrap();
            let expected = [pair("vda", "/i/new"), pair("vdb", "/i/vdb.later"), pair("hdc", "/i/b.iso")];
            assert_eq!(images(&after), expected);
            assert!(!after.contains("backingStore") && after.contains("<memory unit='KiB'>16384"));
            assert!(after.contains("passwd='secret'"));
            assert_eq!(with_memory(&after, &now, &sources).unwrap(), after);

            let emptied = now.replace("<source file='/i/b.iso'/>", "");
            let after = with_memory(&then, &emptied, &sources).unwrap();
            assert_eq!(images(&after)[2], pair("hdc", ""));
            let start = now.find("<disk type='file' device='cdrom'>").unwrap();
            let end = start + now[start..].find("</disk>").unwrap() + "</disk>".len();
            let gone = format!("{}{}", &now[..start], &now[end..]);
            for (now, sign) in [
                (gone, "no disk hdc any more"),
                (now.replace("<name>a</name>", "<name>b</name>"), "name was a then, and is b now"),
            ] {
                let error = with_memory(&then, &now, &sources).unwrap_err();
                assert!(error.kind == ErrorKind::Unsupported && error.message.contains(sign), "{error}");
            }
        }
    }

    #[test]
    fn another_vm_s_definition_is_refused() {
        let then = of_snapshot(SEEN[1]).unwrap();
        assert!(put_together(&then, &of_snapshot(SEEN[0]).unwrap(), &[]).is_err());
    }
}
