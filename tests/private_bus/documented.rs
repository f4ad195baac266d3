//! The documented interface, as the XML in `dbus/` has it.

use std::collections::BTreeMap;

use roxmltree::{Document, Node, ParsingOptions};

/// The annotation that says how a property tells of its changes.
pub const EMITS: &str = "org.freedesktop.DBus.Property.EmitsChangedSignal";

/// A file of the sources.
pub fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A text as XML.
pub fn parse(text: &str) -> Document<'_> {
    Document::parse_with_options(text, ParsingOptions { allow_dtd: true, ..ParsingOptions::default() })
        .unwrap()
}

/// The texts of all files.
fn texts() -> impl Iterator<Item = String> {
    let directory = std::fs::read_dir(format!("{}/dbus", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let names = directory.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.strip_suffix(".xml").is_some()).map(|name| file(&format!("dbus/{name}")))
}

/// All methods, as `VM.Prune`, with the types of what goes in.
pub fn methods() -> BTreeMap<String, String> {
    explained().into_iter().map(|(method, (types, _))| (method, types)).collect()
}

/// The same, and what is said of each.
pub fn explained() -> BTreeMap<String, (String, String)> {
    let mut methods = BTreeMap::new();
    for text in texts() {
        for method in parse(&text).descendants().filter(|n| n.has_tag_name("method")) {
            let interface = method.parent().unwrap().attribute("name").unwrap();
            let interface = interface.strip_prefix("org.virtsnap1.").expect("an interface of ours");
            let all = method.children().filter(|n| n.has_tag_name("arg"));
            let into = all.filter(|arg| arg.attribute("direction") == Some("in"));
            let types = into.map(|arg| arg.attribute("type").unwrap()).collect();
            let before = std::iter::successors(method.prev_sibling(), Node::prev_sibling);
            let text = before.take_while(|n| !n.is_element()).find(Node::is_comment);
            let text = text.and_then(|n| n.text()).unwrap_or_default().to_owned();
            methods.insert(format!("{interface}.{}", method.attribute("name").unwrap()), (types, text));
        }
    }
    methods
}

/// All properties, by interface and name, and how each tells of its changes.
pub fn properties() -> BTreeMap<(String, String), String> {
    let mut properties = BTreeMap::new();
    for text in texts() {
        for property in parse(&text).descendants().filter(|n| n.has_tag_name("property")) {
            let interface = property.parent().unwrap().attribute("name").unwrap().to_owned();
            let name = property.attribute("name").unwrap().to_owned();
            let emits =
                emits(property).unwrap_or_else(|| panic!("{interface}.{name} says nothing of changes"));
            properties.insert((interface, name), emits.to_owned());
        }
    }
    properties
}

/// What is said of a property's changes: of itself, or else of all of its interface.
pub fn emits<'a>(property: Node<'a, '_>) -> Option<&'a str> {
    let said = |of: Node<'a, '_>| {
        let mut all = of.children().filter(|n| n.has_tag_name("annotation"));
        all.find(|n| n.attribute("name") == Some(EMITS)).and_then(|n| n.attribute("value"))
    };
    said(property).or_else(|| property.parent().and_then(said))
}
