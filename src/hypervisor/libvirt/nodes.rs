//! The letters of libvirt's XML: finding one's way in a document, and writing values so that they stay values.

use roxmltree::{Document, Node};

use crate::hypervisor::{Error, ErrorKind, Result};

pub(super) fn parse(xml: &str) -> Result<Document<'_>> {
    Document::parse(xml).map_err(|e| broken(&e.to_string()))
}

pub(super) fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("libvirt's XML cannot be read: {what}"))
}

pub(super) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|n| n.has_tag_name(name))
}

pub(super) fn child_text(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name).map(|n| n.text().unwrap_or_default().to_owned())
}

/// The path of a `<source>`, whatever its kind, and the attribute that has it.
pub(super) fn source_in(node: Node<'_, '_>) -> Option<(String, &'static str)> {
    let s = child(node, "source")?;
    let at = |a: &'static str| s.attribute(a).map(|path| (path.to_owned(), a));
    ["file", "dev", "name", "volume", "path"].into_iter().find_map(at)
}

/// The path of a `<source>`, whatever its kind.
pub(super) fn source(node: Node<'_, '_>) -> Option<String> {
    source_in(node).map(|(path, _)| path)
}

pub(super) fn element(out: &mut String, name: &str, text: &str) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    escape(out, text);
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

pub(super) fn attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("='");
    escape(out, value);
    out.push('\'');
}

pub(super) fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            // Else an attribute's value would be normalised to a space.
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            c => out.push(c),
        }
    }
}

/// Target and overlay of each external disk in a list of them.
pub(super) fn overlays(list: Node<'_, '_>) -> Vec<(String, String)> {
    list.children()
        .filter(|n| n.has_tag_name("disk") && n.attribute("snapshot") == Some("external"))
        .filter_map(|d| Some((d.attribute("name")?.to_owned(), source(d)?)))
        .collect()
}
