//! libvirt's XML, changed in places: text in, text out. No calls.
//!
//! What nobody asks to be changed stays byte for byte, elements that we do not know included; so a change that is made
//! already gives back the very same text.

use std::ops::Range;

use roxmltree::Node;

use super::nodes::{broken, child, child_text, escape, overlays, parse, source_in};
use crate::core::model::SnapshotName;
use crate::hypervisor::{Error, ErrorKind, Layer, Redefine, Result, RevertDisks};

/// What is to be put in the place of parts of a text.
#[derive(Debug, Default)]
pub(super) struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    pub(super) fn replace(&mut self, range: Range<usize>, new: impl Into<String>) {
        self.0.push((range, new.into()));
    }

    pub(super) fn insert(&mut self, at: usize, new: impl Into<String>) {
        self.replace(at..at, new);
    }

    pub(super) fn remove(&mut self, range: Range<usize>) {
        self.replace(range, "");
    }

    pub(super) fn apply(self, text: &str) -> String {
        self.apply_within(text, 0..text.len())
    }

    /// That part of the text, with what was to be done in it.
    pub(super) fn apply_within(mut self, text: &str, part: Range<usize>) -> String {
        // From the end on, so that the places before stay what they are. Two at one place keep their order.
        self.0.reverse();
        self.0.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        let mut out = text[part.clone()].to_owned();
        for (range, new) in self.0 {
            out.replace_range(range.start - part.start..range.end - part.start, &new);
        }
        out
    }
}

/// A snapshot's XML with these changes made, and with no `<backingStore>` in it. One of a VM that was off has no memory: a
/// QEMU that dies just as its memory is to be kept leaves one that says so all the same (seen with 9.0 and 11.3), which
/// libvirt takes from nobody, itself included when it is started again.
pub(super) fn snapshot(text: &str, change: &Redefine) -> Result<String> {
    let doc = parse(text)?;
    let root = doc.root_element();
    let mut edits = Edits::default();
    for disk in definitions(root).flat_map(disks) {
        forget_chain(disk, &mut edits);
        let Some((path, _)) = source_in(disk) else { continue };
        if let Some((_, to)) = change.images.iter().find(|(from, _)| *from == path) {
            put_on(disk, to, &mut edits);
        }
    }
    if let Some(memory) = child(root, "memory").filter(|m| m.attribute("snapshot") == Some("external"))
        && child_text(root, "state").as_deref() == Some("shutoff")
    {
        edits.replace(memory.range(), "<memory snapshot='no'/>".to_owned());
    }
    for (target, overlay) in &change.overlays {
        set_overlay(root, &change.name.to_string(), target, overlay, &mut edits)?;
    }
    set_revert_disks(root, &change.revert, &mut edits)?;
    if change.unmark {
        let rows = child(root, "disks").into_iter().flat_map(|d| d.children());
        for mark in rows.filter_map(|row| child(row, "snapshotDeleteInProgress")) {
            edits.remove(with_its_line(mark));
        }
    }
    if let Some(description) = &change.description {
        set_description(root, description, &mut edits);
    }
    Ok(edits.apply(text))
}

/// A snapshot's XML, as that of a child of this one, or of none.
pub(super) fn under(text: &str, parent: Option<&SnapshotName>) -> Result<String> {
    let doc = parse(text)?;
    let root = doc.root_element();
    let mut edits = Edits::default();
    let before = child(root, "parent");
    let is = before.and_then(|node| child_text(node, "name"));
    match (before, parent) {
        _ if is.as_deref() == parent.map(SnapshotName::as_str) => {}
        (Some(node), None) => edits.remove(with_its_line(node)),
        (before, Some(parent)) => {
            let new = format!("<parent><name>{}</name></parent>", escaped(parent.as_str()));
            match (before, child(root, "name")) {
                (Some(node), _) => edits.replace(node.range(), new),
                (None, Some(name)) => edits.insert(name.range().end, new),
                (None, None) => return Err(broken("a snapshot without a name")),
            }
        }
        (None, None) => {}
    }
    Ok(edits.apply(text))
}

/// The `<domain>`, and the `<inactiveDomain>` of one that was taken while the VM ran.
fn definitions<'a, 'i>(root: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    root.children().filter(|n| n.has_tag_name("domain") || n.has_tag_name("inactiveDomain"))
}

pub(super) fn disks<'a, 'i>(domain: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    let devices = child(domain, "devices");
    devices.into_iter().flat_map(|d| d.children()).filter(|n| n.has_tag_name("disk"))
}

pub(super) fn target<'a>(disk: Node<'a, '_>) -> Option<&'a str> {
    child(disk, "target")?.attribute("dev")
}

/// Takes the chain out that libvirt wrote down: what is under an image, its header says, and that changes.
pub(super) fn forget_chain(disk: Node<'_, '_>, edits: &mut Edits) {
    for store in disk.children().filter(|n| n.has_tag_name("backingStore")) {
        edits.remove(with_its_line(store));
    }
}

/// A node's place with the white space before it.
pub(super) fn with_its_line(node: Node<'_, '_>) -> Range<usize> {
    let blank = node.prev_sibling().filter(Node::is_text);
    let text = blank.and_then(|b| b.text()).unwrap_or_default();
    let space = text.len() - text.trim_end().len();
    let range = node.range();
    // Only as it stands in the text: an escaped blank takes more room there.
    let start = blank.filter(|b| b.range().len() == text.len()).map_or(range.start, |_| range.start - space);
    start..range.end
}

/// Another image in a disk's place.
pub(super) fn put_on(disk: Node<'_, '_>, image: &Layer, edits: &mut Edits) {
    let Some((path, attribute)) = source_in(disk) else { return };
    if path != image.path {
        set_value(disk, "source", attribute, &image.path, edits);
    }
    set_format(disk, &image.format, edits);
}

fn set_format(disk: Node<'_, '_>, format: &str, edits: &mut Edits) {
    match child(disk, "driver") {
        Some(driver) if driver.attribute("type") == Some(format) => {}
        Some(driver) if driver.has_attribute("type") => set_value(disk, "driver", "type", format, edits),
        Some(driver) => {
            let after = driver.range().start + "<driver".len();
            edits.insert(after, format!(" type='{}'", escaped(format)));
        }
        None => {
            if let Some(source) = child(disk, "source") {
                edits.insert(
                    source.range().start,
                    format!("<driver name='qemu' type='{}'/>", escaped(format)),
                );
            }
        }
    }
}

fn set_value(node: Node<'_, '_>, element: &str, attribute: &str, value: &str, edits: &mut Edits) {
    if let Some(found) = child(node, element).and_then(|n| n.attribute_node(attribute)) {
        edits.replace(found.range_value(), escaped(value));
    }
}

fn set_overlay(root: Node<'_, '_>, name: &str, target: &str, overlay: &str, edits: &mut Edits) -> Result<()> {
    let row = child(root, "disks").into_iter().flat_map(|d| d.children()).find(|d| {
        d.has_tag_name("disk")
            && d.attribute("name") == Some(target)
            && d.attribute("snapshot") == Some("external")
    });
    let Some((path, attribute)) = row.and_then(source_in) else {
        return Err(Error::new(
            ErrorKind::ChainMismatch,
            format!("snapshot {name} has no overlay of disk {target}. Nothing was touched"),
        ));
    };
    if let Some(row) = row.filter(|_| path != overlay) {
        set_value(row, "source", attribute, overlay, edits);
    }
    Ok(())
}

fn set_revert_disks(root: Node<'_, '_>, revert: &RevertDisks, edits: &mut Edits) -> Result<()> {
    let found = child(root, "revertDisks");
    match (revert, found) {
        (RevertDisks::Keep, _) | (RevertDisks::Drop, None) => {}
        (RevertDisks::Drop, Some(node)) => edits.remove(with_its_line(node)),
        (RevertDisks::Set(wanted), found) => {
            if found.is_some_and(|node| overlays(node) == *wanted) {
                return Ok(());
            }
            let mut new = "<revertDisks>".to_owned();
            for (target, overlay) in wanted {
                new.push_str("<disk name='");
                escape(&mut new, target);
                new.push_str("' snapshot='external' type='file'><driver type='qcow2'/><source file='");
                escape(&mut new, overlay);
                new.push_str("'/></disk>");
            }
            new.push_str("</revertDisks>");
            match (found, child(root, "disks")) {
                (Some(node), _) => edits.replace(node.range(), new),
                (None, Some(disks)) => edits.insert(disks.range().end, new),
                (None, None) => return Err(broken("a snapshot without disks")),
            }
        }
    }
    Ok(())
}

fn set_description(root: Node<'_, '_>, description: &str, edits: &mut Edits) {
    let new = format!("<description>{}</description>", escaped(description));
    match child(root, "description") {
        Some(old) if old.text().unwrap_or_default() == description => {}
        Some(old) => edits.replace(old.range(), new),
        None => {
            if let Some(name) = child(root, "name") {
                edits.insert(name.range().end, new);
            }
        }
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    escape(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::{super::xml, *};

    /// Of a running VM with a qcow2 disk, a raw one and a loaded CD-ROM; the second snapshot of two.
    const SEEN: [&str; 2] = [include_str!("seen/snapshot-9.0.xml"), include_str!("seen/snapshot-11.3.xml")];

    fn change() -> Redefine {
        Redefine::new(SnapshotName::existing("s2"))
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    /// What nobody asked to be changed is there, to the letter.
    fn kept(before: &str, after: &str) {
        for line in before.lines().filter(|l| {
            !["<source", "<backingStore", "</backingStore", "<format", "<driver"]
                .iter()
                .any(|w| l.trim().starts_with(w))
        }) {
            assert!(after.contains(line.trim()), "{line} is gone from {after}");
        }
    }

    #[test]
    fn nothing_but_the_backing_chains_goes_and_a_second_time_nothing() {
        for text in SEEN {
            assert!(text.contains("<backingStore"));
            let once = snapshot(text, &change()).unwrap();
            assert!(!once.contains("backingStore"), "{once}");
            kept(text, &once);
            assert_eq!(once.matches("passwd='secret'").count(), 2);
            assert_eq!(once.matches("<driver name='qemu' type='raw'/>").count(), 2, "the CD-ROM's");
            assert_eq!(snapshot(&once, &change()).unwrap(), once);
        }
    }

    #[test]
    fn a_vm_that_was_off_had_no_memory_to_keep() {
        let with = |state: &str| {
            format!(
                "<domainsnapshot><name>s2</name><state>{state}</state>\n  <memory snapshot='external' file='/m'/>\n\
                 </domainsnapshot>"
            )
        };
        for state in ["running", "paused"] {
            assert_eq!(snapshot(&with(state), &change()).unwrap(), with(state));
        }
        let off = with("shutoff");
        let right = off.replace("<memory snapshot='external' file='/m'/>", "<memory snapshot='no'/>");
        assert_eq!(snapshot(&off, &change()).unwrap(), right);
        assert_eq!(snapshot(&right, &change()).unwrap(), right);
    }

    #[test]
    fn an_image_is_replaced_with_its_format_in_both_definitions() {
        for text in SEEN {
            let to = Layer { path: "/i/it's <raw> & old".into(), format: "raw".into() };
            let images = vec![
                ("/var/lib/libvirt/images/a-vdb.s1".into(), to.clone()),
                ("/not/there".into(), to.clone()),
            ];
            let wanted = Redefine { images, ..change() };
            let after = snapshot(text, &wanted).unwrap();
            kept(text, &after);
            assert_eq!(after.matches("file='/i/it&apos;s &lt;raw&gt; &amp; old'").count(), 2);
            assert_eq!(after.matches("type='raw'").count(), 4, "two disks' and two CD-ROMs': {after}");
            assert!(!after.contains("a-vdb.s1'"));
            let read = xml::snapshot(&after).unwrap();
            assert!(read.sources.contains(&("vdb".to_owned(), to.path.clone())));
            assert_eq!(read.disks.iter().find(|d| d.target == "vdb").unwrap().state_image, to.path);
            assert_eq!(snapshot(&after, &wanted).unwrap(), after);
        }
    }

    #[test]
    fn its_overlays_are_replaced_and_no_other_disk_gets_one() {
        for text in SEEN {
            let wanted = Redefine { overlays: pairs(&[("vda", "/i/new")]), ..change() };
            let after = snapshot(text, &wanted).unwrap();
            kept(text, &after);
            let overlays: Vec<_> =
                xml::snapshot(&after).unwrap().disks.into_iter().map(|d| d.overlay).collect();
            assert_eq!(overlays, ["/i/new", "/var/lib/libvirt/images/a-vdb.s2"]);
            for target in ["hdc", "vdc"] {
                let error = snapshot(text, &Redefine { overlays: pairs(&[(target, "/i/new")]), ..change() });
                assert_eq!(error.unwrap_err().kind, ErrorKind::ChainMismatch);
            }
        }
    }

    #[test]
    fn the_overlays_of_a_revert_are_set_kept_and_dropped() {
        for text in SEEN {
            let two = pairs(&[("vda", "/i/r1"), ("vdb", "/i/'r2'")]);
            let set = |disks: &[(String, String)]| Redefine {
                revert: RevertDisks::Set(disks.to_vec()),
                ..change()
            };
            let after = snapshot(text, &set(&two)).unwrap();
            kept(text, &after);
            assert_eq!(xml::snapshot(&after).unwrap().revert_disks, two);
            assert!(after.contains("</disks><revertDisks>"), "{after}");
            assert_eq!(snapshot(&after, &set(&two)).unwrap(), after);
            assert_eq!(snapshot(&after, &change()).unwrap(), after);
            let other = snapshot(&after, &set(&two[..1])).unwrap();
            assert_eq!(xml::snapshot(&other).unwrap().revert_disks, two[..1]);
            let dropped = snapshot(&other, &Redefine { revert: RevertDisks::Drop, ..change() }).unwrap();
            assert_eq!(dropped, snapshot(text, &change()).unwrap());
        }
    }

    #[test]
    fn the_marks_of_a_deletion_go_when_that_is_asked_for_alone() {
        for text in SEEN {
            let row = "<disk name='vdb' snapshot='external' type='file'>";
            let marked = text.replace(row, &format!("{row}\n      <snapshotDeleteInProgress/>"));
            assert_eq!(xml::snapshot(&marked).unwrap().delete_in_progress, ["vdb"]);
            let kept = snapshot(&marked, &change()).unwrap();
            assert_eq!(xml::snapshot(&kept).unwrap().delete_in_progress, ["vdb"]);
            let over = snapshot(&marked, &Redefine { unmark: true, ..change() }).unwrap();
            assert_eq!(over, snapshot(text, &change()).unwrap());
        }
    }

    #[test]
    fn a_description_is_set_whether_there_was_one_or_not() {
        for text in SEEN {
            let had =
                text.replace("<name>s2</name>", "<name>s2</name><description>one\n&lt;x></description>");
            for text in [text, &had] {
                let words = "a < b & c\nsecond line";
                let wanted = Redefine { description: Some(words.to_owned()), ..change() };
                let after = snapshot(text, &wanted).unwrap();
                assert_eq!(xml::snapshot(&after).unwrap().description, words);
                assert_eq!(after.matches("<description>").count(), 1);
                assert_eq!(snapshot(&after, &wanted).unwrap(), after);
            }
        }
    }

    #[test]
    fn it_is_put_under_another_parent_or_none() {
        for text in SEEN {
            let parent = |text: &str| xml::snapshot(text).unwrap().parent;
            let was = parent(text).expect("it has one");
            assert_eq!(under(text, Some(&was)).unwrap(), text);
            let other = SnapshotName::existing("a & <b>");
            let moved = under(text, Some(&other)).unwrap();
            assert_eq!(parent(&moved), Some(other));
            let first = under(&moved, None).unwrap();
            assert_eq!((parent(&first), under(&first, None).unwrap() == first), (None, true));
            let back = under(&first, Some(&was)).unwrap();
            assert_eq!(parent(&back), Some(was));
            kept(&text.replace("<parent>", "").replace("</parent>", ""), &back);
        }
    }
}
