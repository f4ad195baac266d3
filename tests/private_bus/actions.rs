//! Which method is free, and which wants which action: for all methods that the documented interface has, held against
//! the verbs of the code and the shipped policy file.

use std::collections::{BTreeMap, BTreeSet};

use virtsnap::core::verb::Verb;

use super::documented::{explained, file, parse};

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

#[test]
fn every_method_is_free_or_wants_an_action() {
    let told: Vec<&str> = READERS.into_iter().chain(CHANGERS.iter().map(|(method, ..)| *method)).collect();
    let once: BTreeSet<&str> = told.iter().copied().collect();
    assert_eq!(once.len(), told.len(), "one stands there twice");
    let documented = explained();
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
    let text = file("polkit/org.virtsnap1.policy");
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
    let unit = file("systemd/virtsnapd.service");
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
