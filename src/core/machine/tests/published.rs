//! What is published and told of the settings.

use super::*;

fn told(effects: &[Effect]) -> Vec<&str> {
    let warning = |e| if let &Effect::Log(Note::Warning(ref line)) = e { Some(line.as_str()) } else { None };
    effects.iter().filter_map(warning).collect()
}

#[test]
fn settings_in_vain_are_told_once_and_published_as_long_as_they_are() {
    let mut b = Bench::new("[policy.p]\nvms = [\"web\"]\n", "2026-03-02T12:00:00Z", None);
    let published = |b: &Bench| b.machine.view().manager.warnings.to_vec();
    b.send(Event::Connected { uri: "sim:".into(), version: "1".into() });
    b.send(Event::Listed(vec![vm(1), vm(2)]));
    assert_eq!(told(&b.send(Event::VmRead(Box::new(record(1, &[]))))), [] as [&str; 0]);
    assert!(published(&b).is_empty(), "not all VMs are known");
    let effects = b.send(Event::VmRead(Box::new(record(2, &[]))));
    let line = "test.toml:2:7: warning: policy p is for no VM that is there";
    assert_eq!((told(&effects), published(&b)), (vec![line], vec![line.to_owned()]));

    // A listing that brings nothing new, and one VM more: nothing new is found.
    let policies = b.machine.view().policies.clone();
    assert!(told(&b.send(Event::Listed(vec![vm(1), vm(2)]))).is_empty());
    let same = b.machine.view().policies.iter().zip(&policies).all(|((_, a), (_, b))| Arc::ptr_eq(a, b));
    assert!(same, "nothing changed, so nothing is made anew");
    assert!(told(&b.send(Event::VmRead(Box::new(record(3, &[]))))).is_empty());
    assert_eq!(published(&b), [line]);

    let mut web = record(3, &[]);
    web.name = "web".to_owned();
    b.send(Event::VmRead(Box::new(web)));
    assert!(published(&b).is_empty());
    assert_eq!(told(&b.send(Event::VmGone(vm(3)))), [line]);
    let mut new = (*settings("[policy.q]\nvms = [\"*\"]\n")).clone();
    new.warnings = vec!["of the files".to_owned()];
    assert!(told(&b.send(Event::Settings(Arc::new(new)))).is_empty());
    assert_eq!(published(&b), ["of the files"]);
}

#[test]
fn a_zone_without_a_name_is_not_called_utc() {
    let file = SourceFile::new("test.toml", NIGHTLY);
    let timezone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let environment = Environment { timezone, cores: 2 };
    let loaded = config::parse(&[(FileKind::Main, file)], &environment).unwrap();
    let mut b = Bench::new("", "2026-03-02T12:00:00Z", None);
    b.send(Event::Settings(Arc::new(loaded.settings)));
    assert_eq!(b.machine.view().policies[&"nightly".parse().unwrap()].timezone, "system");
}
