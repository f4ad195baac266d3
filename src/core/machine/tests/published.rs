//! What is published and told of the settings.

use super::*;
use crate::core::view::metrics;

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
    // That nothing can be begun comes first, whatever is read anew meanwhile.
    b.send(Event::Stored(Some("the disk is full".to_owned())));
    let mut new = (*settings("[policy.q]\nvms = [\"*\"]\n")).clone();
    new.warnings = vec!["of the files".to_owned()];
    b.send(Event::Settings(Arc::new(new)));
    let both = published(&b);
    assert!(both.len() == 2 && both[0].contains("the disk is full") && both[1] == "of the files", "{both:?}");
    b.send(Event::Stored(None));
    assert_eq!(published(&b), ["of the files"]);
}

#[test]
fn metrics_say_what_was_done_and_escape_what_a_name_holds() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T12:00:00Z", None);
    b.connect(&[1]);
    let says = |b: &Bench, line: &str| {
        let text = metrics(b.machine.view(), "1.2", b.now);
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    };
    let uuid = "00000000-0000-0000-0000-000000000001";
    says(&b, "virtsnap_build_info{version=\"1.2\"} 1");
    says(&b, "virtsnap_libvirt_connected 1");
    let of = format!("policy=\"nightly\",vm=\"vm1\",uuid=\"{uuid}\"");
    says(&b, &format!("virtsnap_run_failures_total{{{of}}} 0"));
    says(&b, &format!("virtsnap_last_success_timestamp_seconds{{{of}}} 0"));
    says(&b, "virtsnap_policy_next_run_timestamp_seconds{policy=\"nightly\"} 1772505000");

    let run = |b: &mut Bench| {
        let Ok(Reply::Jobs(jobs)) = b.ask(Change::Run { policy: nightly(), vm: None }) else {
            panic!("it runs")
        };
        jobs[0]
    };
    let job = run(&mut b);
    b.send(Event::Held(vm(1), SignedDuration::from_micros(20_003)));
    b.send(Event::Ended(job, Outcome::Failed(Failure::new("Failed", "no agent"))));
    says(&b, &format!("virtsnap_run_failures_total{{{of}}} 1"));
    says(&b, "virtsnap_jobs_total{operation=\"create\",result=\"failed\"} 1");
    says(&b, "virtsnap_job_errors_total{operation=\"create\",error=\"Failed\"} 1");
    let vm1 = format!("vm=\"vm1\",uuid=\"{uuid}\"");
    says(&b, &format!("virtsnap_vm_failed{{{vm1}}} 1"));

    let job = run(&mut b);
    let mut taken = record(1, &[("ours", true), ("theirs", false)]);
    let ours = taken.snapshots.get_mut(&SnapshotName::existing("ours")).unwrap();
    ours.snapshot.policies.insert(nightly());
    b.send(Event::VmRead(Box::new(taken.clone())));
    b.send(Event::Ended(job, Outcome::Done(Some(Made::Snapshot(SnapshotName::existing("ours"))))));
    b.send(Event::Held(vm(1), SignedDuration::from_secs(1)));
    b.send(Event::Merged(vm(1), 1000));
    b.send(Event::Merged(vm(1), 24));
    says(&b, &format!("virtsnap_runs_total{{{of}}} 2"));
    says(&b, &format!("virtsnap_run_failures_total{{{of}}} 1"));
    says(&b, &format!("virtsnap_last_success_timestamp_seconds{{{of}}} 1767225600"));
    says(&b, &format!("virtsnap_vm_failed{{{vm1}}} 0"));
    says(&b, &format!("virtsnap_vm_frozen_seconds_total{{{vm1}}} 1.020003"));
    says(&b, &format!("virtsnap_vm_merged_bytes_total{{{vm1}}} 1024"));
    says(&b, &format!("virtsnap_vm_snapshots{{{vm1},managed=\"yes\"}} 1"));
    says(&b, &format!("virtsnap_vm_snapshots{{{vm1},managed=\"no\"}} 1"));
    says(&b, &format!("virtsnap_vm_snapshot_bytes{{{vm1}}} 2"));

    taken.name = "a\\b\"c\nd".to_owned();
    b.send(Event::VmRead(Box::new(taken)));
    says(&b, &format!("virtsnap_vm_failed{{vm=\"a\\\\b\\\"c\\nd\",uuid=\"{uuid}\"}} 0"));
    b.send(Event::VmGone(vm(1)));
    let (text, counts) = (metrics(b.machine.view(), "1.2", b.now), &b.machine.view().counts);
    assert!(!text.contains(uuid) && counts.runs.is_empty() && counts.merged.is_empty(), "{text}");
}

#[test]
fn metrics_say_what_keeps_the_daemon_from_its_work() {
    let mut b = Bench::new(NIGHTLY, "2026-03-02T12:00:00Z", None);
    b.connect(&[1]);
    let says = |b: &Bench, wanted: &[(&str, u64)]| {
        let text = metrics(b.machine.view(), "1.2", b.now);
        for (name, value) in wanted {
            let line = format!("virtsnap_{name} {value}");
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
    };
    let nightly_missed = "runs_missed_total{policy=\"nightly\"}";
    let merges = "interrupted_total{operation=\"merge\"}";
    let fine = [
        ("config_last_reload_successful", 1),
        ("config_warnings", 0),
        ("state_writable", 1),
        ("clock_implausible", 0),
        ("jobs_stuck", 0),
        (nightly_missed, 0),
        (merges, 0),
    ];
    says(&b, &fine);
    b.send(Event::Refused("test.toml:3:1: error: no such key".to_owned()));
    says(&b, &[("config_last_reload_successful", 0), ("config_warnings", 0), ("state_writable", 1)]);
    b.send(Event::Stored(Some("the disk is full".to_owned())));
    says(&b, &[("config_last_reload_successful", 0), ("state_writable", 0)]);
    b.send(Event::Settings(settings(NIGHTLY)));
    b.send(Event::Stored(None));
    says(&b, &fine);

    b.send(Event::Interrupted("merge"));
    says(&b, &[(merges, 1)]);
    let back = b.now - SignedDuration::from_hours(3);
    let forth = std::mem::replace(&mut b.now, back);
    b.send(Event::Timer);
    says(&b, &[("clock_implausible", 1)]);
    b.now = forth;
    b.send(Event::Timer);
    says(&b, &[("clock_implausible", 0)]);
    // Two days later nobody had woken it, and the policy looks back for some hours alone.
    b.send(Event::Settings(settings(&format!("{NIGHTLY}catch-up-within = \"1h\"\n"))));
    b.now = forth + SignedDuration::from_hours(48);
    b.send(Event::Timer);
    says(&b, &[(nightly_missed, 1)]);
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
