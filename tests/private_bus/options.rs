//! Options that a method does not know, or that are of another type: refused by name, and nothing is done.

use std::collections::BTreeMap;

use virtsnap::hypervisor::sim::VmSpec;
use zbus::{ObjectPath, OwnedVariant, Structure, Variant};

use super::{
    client::{MANAGER, Options, none, options, soon},
    documented::explained,
    rig::{Rig, id, policy_path, snapshot_path, vm_path},
};

const UNKNOWN: &str = "no-such-option";

/// The options that the documentation of a method names, and their types: each begins a line of the paragraph `Options`, or
/// stands behind `@options`.
fn told(comment: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut of_options = false;
    for line in comment.lines().map(str::trim) {
        let behind = line.strip_prefix("@options: ");
        of_options = line.starts_with("Options") || (of_options && !line.is_empty());
        let Some(line) = behind.or(of_options.then_some(line)) else { continue };
        let named = line.split_once(" (").and_then(|(key, rest)| Some((key, rest.split_once(')')?.0)));
        if let Some((key, kind)) = named
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && ["b", "s", "t", "as", "o"].contains(&kind)
        {
            all.insert(key.to_owned(), kind.to_owned());
        }
    }
    all
}

/// One value of each type that is one of an option, and of some that are none's.
fn values() -> Vec<Variant<'static>> {
    let path = || ObjectPath::try_from("/org/virtsnap1/vm/x").unwrap();
    vec![
        true.into(),
        "x".into(),
        7_u64.into(),
        vec!["x"].into(),
        path().into(),
        vec![path()].into(),
        7_u32.into(),
        (-7_i64).into(),
        0.5.into(),
        vec![vec![7_u8]].into(),
        Variant::new(Variant::from(true)),
        Variant::from(options([("x", true.into())])),
    ]
}

/// Arguments of these types, the last of which are the options.
fn arguments(types: &str, given: Options) -> Structure<'static> {
    let mut all = Structure::builder();
    for kind in types.strip_suffix("a{sv}").unwrap().chars() {
        all = all.append_field(match kind {
            's' => "upgrade".into(),
            't' => 0_u64.into(),
            'o' => ObjectPath::try_from(vm_path(id(1))).unwrap().into(),
            other => panic!("what is of type {other}?"),
        });
    }
    all.append_field(given.into()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_those_of_the_documentation_and_of_its_types_and_others_do_nothing() {
    let rig = Rig::start("[policy.p]\nvms = [\"*\"]\nbefore = \"upgrade\"\n", |sim| {
        sim.add_vm(VmSpec::new("web", 1));
    })
    .await;
    let job = rig.client.ask_create(id(1), "s1", none()).await.unwrap();
    rig.client.wait(&job).await.unwrap();
    rig.client.until_idle().await;
    let before = rig.client.managed().await;
    let refused = async |method: &str, types: &str, given: Options| {
        let path = match method.split_once('.').unwrap().0 {
            "Manager" => MANAGER.to_owned(),
            "VM" => vm_path(id(1)),
            "Snapshot" => snapshot_path(id(1), "s1"),
            "Policy" => policy_path("p"),
            "Job" => job.clone(),
            other => panic!("where is {other}?"),
        };
        let what = format!("{method} with {given:?}");
        let (interface, member) = method.split_once('.').unwrap();
        let interface = format!("org.virtsnap1.{interface}");
        let (bus, body) = (&rig.client.connection, arguments(types, given));
        let call =
            bus.call_method(Some("org.virtsnap1"), path.as_str(), Some(interface.as_str()), member, &body);
        match soon(&what, call).await {
            Err(zbus::Error::MethodError(name, text, _)) => {
                assert_eq!(name.as_str(), "org.virtsnap1.Error.InvalidArgument", "{what}: {text:?}");
                text.unwrap()
            }
            other => panic!("{what}: {other:?}"),
        }
    };
    let mut tried = 0;
    for (method, (types, comment)) in explained() {
        if !types.ends_with("a{sv}") {
            assert_eq!(method, "Manager.LookupVM", "it may want options some day");
            continue;
        }
        let text = refused(&method, &types, options([(UNKNOWN, true.into())])).await;
        assert!(text.contains(UNKNOWN), "{method}: {text}");
        let known = told(&comment);
        let names = match text.split_once("; there are ") {
            Some((_, names)) => names.split(", ").map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let mut sorted = names.clone();
        sorted.sort();
        assert!(
            sorted.iter().eq(known.keys()),
            "{method} takes {names:?}, and the documentation names {known:?}"
        );
        for (key, kind) in &known {
            let values = values().into_iter();
            for wrong in values.filter(|value| *value.value_signature() != kind.as_str()) {
                let key: &'static str = key.clone().leak();
                let text = refused(&method, &types, options([(key, wrong)])).await;
                assert!(text.contains(&format!("{key:?} must be ")), "{method}: {text}");
                tried += 1;
            }
        }
    }
    assert!(tried > 250, "{tried} options were tried");
    rig.client.until_idle().await;
    assert_eq!(rig.client.managed().await, before);
    let inhibitors: OwnedVariant = rig.client.get(MANAGER, "Manager.Inhibitors").await;
    assert_eq!(Vec::<(String, String, u32, u64)>::try_from(inhibitors).unwrap(), []);
}
