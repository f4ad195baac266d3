//! The committed XML is the documented interface, so it must be the served one.

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::Node;
use virtsnap::{
    core::{
        error_name,
        job::{JobResult, JobState},
        model::{Content, Origin, SnapshotState, Storage},
    },
    hypervisor::sim::VmSpec,
};

use super::{
    client::{MANAGER, none},
    documented::{self, EMITS, emits, file, parse},
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

/// What an interface comes to, comments and order of members apart.
fn structure(xml: &str, interface: &str) -> BTreeMap<String, String> {
    let document = parse(xml);
    let found = document
        .descendants()
        .find(|n| n.has_tag_name("interface") && n.attribute("name") == Some(interface))
        .unwrap_or_else(|| panic!("no {interface} in\n{xml}"));
    // What the annotation of an interface says is said of its properties.
    let members = found.children().filter(|n| n.is_element() && n.attribute("name") != Some(EMITS));
    members.map(member).collect()
}

fn member(node: Node<'_, '_>) -> (String, String) {
    let kind = node.tag_name().name();
    let attribute = |n: Node<'_, '_>, name: &str| n.attribute(name).unwrap_or("").to_owned();
    let args = node.children().filter(|n| n.has_tag_name("arg")).map(|arg| {
        // A signal's arguments go one way.
        let direction = if kind == "signal" { "out".to_owned() } else { attribute(arg, "direction") };
        format!("{} {}: {}", direction, attribute(arg, "name"), attribute(arg, "type"))
    });
    let annotations = node.children().filter(|n| n.has_tag_name("annotation")).filter_map(|a| {
        let (name, value) = (attribute(a, "name"), attribute(a, "value"));
        (name != EMITS).then(|| format!("{name}={value}"))
    });
    let what: Vec<String> = args.chain(annotations).collect();
    let head = if kind == "property" {
        // Where nothing is said, as in what is served, it is so by the specification.
        let emits = emits(node).unwrap_or("true");
        format!("{} {}, changes: {emits} ", attribute(node, "type"), attribute(node, "access"))
    } else {
        String::new()
    };
    (format!("{kind} {}", attribute(node, "name")), format!("{head}({})", what.join(", ")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_what_the_committed_xml_says() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    let snapshot = snapshot_path(id(1), "s1");
    rig.client.until_there(&snapshot, true).await;
    let objects = [
        ("Manager", MANAGER.to_owned()),
        ("VM", vm_path(id(1))),
        ("Snapshot", snapshot),
        ("Policy", policy_path("p")),
        ("Job", job),
    ];
    let mut differences = Vec::new();
    for (interface, path) in objects {
        let name = format!("org.virtsnap1.{interface}");
        let committed = structure(&file(&format!("dbus/{name}.xml")), &name);
        let (served,): (String,) =
            rig.client.call(&path, "org.freedesktop.DBus.Introspectable.Introspect", &()).await.unwrap();
        let served = structure(&served, &name);
        let members: std::collections::BTreeSet<_> = committed.keys().chain(served.keys()).collect();
        for member in members.into_iter().filter(|m| committed.get(*m) != served.get(*m)) {
            differences.push(format!(
                "{name}: {member}: committed {:?}, served {:?}",
                committed.get(member),
                served.get(member)
            ));
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn each_property_says_how_it_tells_of_its_changes() {
    let how: BTreeSet<String> = documented::properties().into_values().collect();
    // A property that changes and does not tell, or tells no value, would leave who only listens behind.
    assert_eq!(how, ["const", "true"].map(str::to_owned).into());
}

/// The comment that documents a property.
fn documented<'a>(xml: &'a str, property: &str) -> &'a str {
    let heading = format!("\n        {property}:\n");
    xml.split(&heading).nth(1).unwrap_or_else(|| panic!("no {property}")).split("-->").next().unwrap()
}

#[test]
fn each_word_that_a_property_may_be_stands_in_its_comment() {
    let snapshot = include_str!("../../dbus/org.virtsnap1.Snapshot.xml");
    let job = include_str!("../../dbus/org.virtsnap1.Job.xml");
    let words = |all: &mut dyn Iterator<Item = &'static str>| all.collect::<Vec<_>>();
    // An operation has more than a name, and so there is no list of all.
    let source = include_str!("../../src/core/job.rs");
    let names = source.split("/// Its name on D-Bus.").nth(1).unwrap().split("/// ").next().unwrap();
    let operations: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
    assert!(operations.len() >= 12 && operations.contains(&"sweep"), "{operations:?}");
    for (xml, property, all) in [
        (snapshot, "State", words(&mut SnapshotState::ALL.iter().map(|w| w.as_str()))),
        (snapshot, "Content", words(&mut Content::ALL.iter().map(|w| w.as_str()))),
        (snapshot, "Storage", words(&mut Storage::ALL.iter().map(|w| w.as_str()))),
        (snapshot, "Origin", words(&mut Origin::ALL.iter().map(|w| w.as_str()))),
        (job, "State", words(&mut JobState::ALL.iter().map(|w| w.as_str()))),
        (job, "Result", words(&mut JobResult::ALL.iter().map(|w| w.as_str()))),
        (job, "Operation", operations),
    ] {
        let text = documented(xml, property);
        for word in all {
            assert!(text.contains(&format!("\"{word}\"")), "{property}: no {word:?} in {text}");
        }
    }
}

#[test]
fn each_name_of_an_error_is_documented_and_no_other() {
    let all: BTreeSet<&str> = error_name::ALL.into_iter().collect();
    assert!(all.iter().eq(error_name::ALL.iter()), "they stand in their order");
    let manager = include_str!("../../dbus/org.virtsnap1.Manager.xml");
    let list = manager.split_once("after org.virtsnap1.Error.,").unwrap().1.split_once("-->").unwrap().0;
    let named = list.lines().filter_map(|line| line.trim_start().split_once(": "));
    assert_eq!(named.map(|(name, _)| name).collect::<BTreeSet<_>>(), all);
    let page = include_str!("../../man/org.virtsnap1.5");
    let list = page.split_once(".SH ERRORS").unwrap().1.split_once(".SH EXAMPLES").unwrap().0;
    let named = list.split(".TP\n.B ").skip(1).map(|entry| entry.lines().next().unwrap());
    assert_eq!(named.collect::<BTreeSet<_>>(), all);
    // What a method lists is among them,
    for (method, (_, comment)) in documented::explained() {
        let Some((_, errors)) = comment.split_once("\n        Errors") else { continue };
        let words = errors.split(|c: char| c.is_whitespace() || "(),;".contains(c));
        let listed =
            words.filter_map(|word| word.strip_prefix("org.virtsnap1.Error.").or(word.strip_prefix('.')));
        for name in listed.map(|name| name.trim_end_matches('.')).filter(|name| !name.is_empty()) {
            assert!(all.contains(name), "{method} lists {name}");
        }
    }
    // and each stands somewhere in the code, beside that list: a failure that has none of them panics in every test.
    let sources = sources();
    for name in all {
        assert!(sources.contains(&format!("\"{name}\"")), "nothing fails with {name}");
    }
}

/// The code of the daemon.
fn sources() -> String {
    let root = format!("{}/src", env!("CARGO_MANIFEST_DIR"));
    let (mut open, mut all) = (vec![root.into()], String::new());
    while let Some(place) = open.pop() {
        let place: std::path::PathBuf = place;
        if place.is_dir() && !place.ends_with("cli") {
            open.extend(std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        } else if place.is_file() && !place.ends_with("error_name.rs") {
            let text = std::fs::read_to_string(&place).unwrap();
            all += text.split("#[cfg(test)]").next().unwrap();
        }
    }
    all
}
