//! Which method is free, and which wants which action: for all methods that the documented interface has, held against
//! the verbs of the code and the shipped policy file.

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::{Document, ParsingOptions};
use virtsnap::core::verb::Verb;

/// What changes nothing, and is free.
pub const READERS: [&str; 5] =
    ["Manager.LookupVM", "VM.PreviewPrune", "VM.Explain", "Policy.Preview", "Job.Wait"];

/// What changes something, in an order in which all can be called: what wants the action, and with which arguments.
pub const CHANGERS: [(&str, Verb, &[&str]); 17] = [
    ("Manager.Reload", Verb::Reload, &["0"]),
    (
        "Manager.BeforeOperation",
        Verb::RunPolicy,
        &["/org/virtsnap1/vm/00000000_0000_0000_0000_000000000001", "upgrade", "0"],
    ),
    ("Manager.Inhibit", Verb::Inhibit, &["x", "y", "0"]),
    ("VM.CreateSnapshot", Verb::Create, &["x", "0"]),
    ("VM.Prune", Verb::Prune, &["0"]),
    ("VM.Adopt", Verb::Adopt, &["1", "snapshots", "as", "1", "s1"]),
    ("VM.Promote", Verb::Promote, &["0"]),
    ("Snapshot.Pin", Verb::Pin, &["x", "0", "0"]),
    ("Snapshot.Unpin", Verb::Unpin, &["0"]),
    ("Snapshot.Update", Verb::Update, &["1", "tags", "as", "1", "x"]),
    ("Snapshot.Revert", Verb::Revert, &["0"]),
    ("Snapshot.Branch", Verb::Branch, &["x", "0"]),
    ("Snapshot.Delete", Verb::Delete, &["0"]),
    ("Policy.Run", Verb::RunPolicy, &["0"]),
    ("Policy.Suspend", Verb::SuspendPolicy, &["x", "0"]),
    ("Policy.Resume", Verb::SuspendPolicy, &["0"]),
    ("Job.Cancel", Verb::CancelJob, &["0"]),
];

/// What cannot be told by the method alone: these are tested by themselves.
const BY_ARGUMENTS: [Verb; 1] = [Verb::UnpinOthers];

fn xml(file: &str) -> String {
    std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn parse(text: &str) -> Document<'_> {
    Document::parse_with_options(text, ParsingOptions { allow_dtd: true, ..ParsingOptions::default() })
        .unwrap()
}

/// All methods of the documented interface, as `VM.Prune`, with the types of what goes in.
pub fn methods() -> BTreeMap<String, String> {
    documented().into_iter().map(|(method, (types, _))| (method, types)).collect()
}

/// The same, and what is said of each.
pub fn documented() -> BTreeMap<String, (String, String)> {
    let directory = std::fs::read_dir(format!("{}/dbus", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let files = directory.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut methods = BTreeMap::new();
    for file in files.filter(|file| file.strip_suffix(".xml").is_some()) {
        let text = xml(&format!("dbus/{file}"));
        for method in parse(&text).descendants().filter(|n| n.has_tag_name("method")) {
            let interface = method.parent().unwrap().attribute("name").unwrap();
            let interface = interface.strip_prefix("org.virtsnap1.").expect("an interface of ours");
            let all = method.children().filter(|n| n.has_tag_name("arg"));
            let into = all.filter(|arg| arg.attribute("direction") == Some("in"));
            let types = into.map(|arg| arg.attribute("type").unwrap()).collect();
            let before = std::iter::successors(method.prev_sibling(), roxmltree::Node::prev_sibling);
            let text = before.take_while(|n| !n.is_element()).find(roxmltree::Node::is_comment);
            let text = text.and_then(|n| n.text()).unwrap_or_default().to_owned();
            methods.insert(format!("{interface}.{}", method.attribute("name").unwrap()), (types, text));
        }
    }
    methods
}

#[test]
fn every_method_is_free_or_wants_an_action() {
    let told: Vec<&str> = READERS.into_iter().chain(CHANGERS.iter().map(|(method, ..)| *method)).collect();
    let once: BTreeSet<&str> = told.iter().copied().collect();
    assert_eq!(once.len(), told.len(), "one stands there twice");
    let documented = documented();
    assert_eq!(once, documented.keys().map(String::as_str).collect());
    for (method, verb, _) in CHANGERS {
        let said = format!("Action: {}", verb.action());
        assert!(documented[method].1.contains(&said), "{method} does not say {said:?}");
    }
    for method in READERS {
        assert!(!documented[method].1.contains("Action:"), "{method} is free");
    }
    let wanted = CHANGERS.iter().map(|(_, verb, _)| verb.action()).chain(BY_ARGUMENTS.map(Verb::action));
    assert_eq!(
        wanted.collect::<BTreeSet<_>>(),
        Verb::ALL.iter().map(|verb| verb.action()).collect(),
        "a verb that no method wants, or the other way round"
    );
}

#[test]
fn the_policy_file_has_an_action_for_each_verb() {
    let text = xml("polkit/org.virtsnap1.policy");
    let document = parse(&text);
    let mut actions = BTreeMap::new();
    for action in document.descendants().filter(|n| n.has_tag_name("action")) {
        let child = |name: &str| {
            let mut all = action.descendants().filter(|n| n.has_tag_name(name));
            let text = all.next().and_then(|n| n.text()).unwrap_or_else(|| panic!("no {name}"));
            assert!(all.next().is_none(), "{name} twice");
            text
        };
        let defaults = ["allow_any", "allow_inactive", "allow_active"].map(child);
        assert_eq!(defaults, [defaults[0]; 3]);
        let owner = action.children().find(|n| n.has_tag_name("annotate")).unwrap();
        assert_eq!(owner.attribute("key"), Some("org.freedesktop.policykit.owner"));
        assert_eq!(owner.text(), Some("unix-user:virtsnap"), "the user that the unit gives it");
        let (first, rest) = child("description").split_at(1);
        let said = (first.to_lowercase() + rest, child("message").to_owned(), defaults[0].to_owned());
        let id = action.attribute("id").unwrap().to_owned();
        assert!(actions.insert(id, said).is_none());
    }
    let unit = xml("systemd/virtsnapd.service");
    assert!(unit.lines().any(|line| line == "User=virtsnap"), "whom the annotations name");
    let expected = Verb::ALL.iter().map(|verb| {
        let doing = verb.doing();
        // Nothing is lost by these; nothing else is kept, as polkit would keep it for all VMs.
        let keep = if matches!(verb, Verb::Create | Verb::Pin) { "_keep" } else { "" };
        let said =
            (doing.to_owned(), format!("Authentication is required to {doing}"), format!("auth_admin{keep}"));
        (verb.action().to_owned(), said)
    });
    assert_eq!(actions, expected.collect::<BTreeMap<_, _>>());
}
