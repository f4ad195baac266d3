use std::collections::BTreeSet;

use super::{
    super::{Settings, Style, check_against, report},
    policy, read,
};
use crate::core::select::VmFacts;

const ID: &str = "0b2e4c1a-6f0d-4e8e-9a55-0123456789ab";

fn settings(texts: &[(&str, &str)]) -> Settings {
    read(texts).unwrap_or_else(|e| panic!("{e}")).settings
}

fn with_vm<T>(name: &str, tags: &[&str], f: impl FnOnce(&VmFacts<'_>) -> T) -> T {
    let tags: BTreeSet<_> = tags.iter().map(|t| (*t).to_owned()).collect();
    f(&VmFacts { id: ID.parse().unwrap(), name, tags: &tags })
}

fn why(settings: &Settings, name: &str, tags: &[&str]) -> Vec<String> {
    with_vm(name, tags, |vm| settings.for_vm(vm)).why.iter().map(ToString::to_string).collect()
}

const NIGHTLY: &str = "\
[policy.nightly]
vms = [\"web*\", \"db01\",
       \"tag:prod\", \"!*-scratch\"]
schedule = \"30 2 * * *\"
keep-daily = 7

[policy.weekly]
vms = [\"db*\"]
schedule = \"@weekly\"
keep-last = 4

[vm.db01]
disks = [\"vda\",
         \"vdb\"]
max-size = \"50GiB\"
policy.nightly.keep-daily = 14
policy.nightly.quiesce = \"require\"
";

#[test]
fn what_wins_for_a_vm_and_why() {
    let uuid = format!(
        "[vm.{ID}]\nmax-size = \"60GiB\"\npolicy.nightly.keep-daily = \"none\"\npolicy.nightly.max-age = \"10d\"\n"
    );
    let settings = settings(&[("n.toml", NIGHTLY), ("z.toml", &uuid)]);
    let plan = with_vm("db01", &["prod"], |vm| settings.for_vm(vm));
    assert_eq!(
        plan.why.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "nightly: selected by `db01` (n.toml:2)",
            "nightly: keep-daily = 14 (n.toml:16) instead of 7 (n.toml:5)",
            "nightly: quiesce = \"require\" (n.toml:17) instead of the default",
            "nightly: keep-daily = \"none\" (z.toml:3) instead of 14 (n.toml:16)",
            "nightly: max-age = \"10d\" (z.toml:4) instead of the default",
            "weekly: selected by `db*` (n.toml:8)",
            "disks = [\"vda\", \"vdb\"] (n.toml:13) instead of the default",
            "max-size = \"60GiB\" (z.toml:2) instead of \"50GiB\" (n.toml:15)",
        ]
    );
    assert_eq!(plan.disks, Some(vec!["vda".to_owned(), "vdb".to_owned()]));
    assert_eq!(plan.max_size, Some(60 << 30));
    let [nightly, weekly] = &plan.policies[..] else { panic!("{:?}", plan.policies) };
    assert_eq!((nightly.retention.keep.daily, nightly.how.quiesce.as_str()), (None, "require"));
    assert_eq!(weekly.retention.keep.last, Some(4));
    // The policy itself is as it was.
    assert_eq!(settings.policies[&nightly.name].retention.keep.daily, Some(7));
}

#[test]
fn a_vm_that_is_left_out_hears_why() {
    let settings = settings(&[("n.toml", NIGHTLY)]);
    assert_eq!(
        why(&settings, "web-scratch", &[]),
        [
            "nightly: left out by `!*-scratch` (n.toml:3), though `web*` (n.toml:2) selects it",
            "weekly: not selected: none of its selectors matches (n.toml:7)",
        ]
    );
    assert_eq!(why(&settings, "x", &["prod"])[0], "nightly: selected by `tag:prod` (n.toml:3)");
    // An untouched policy is shared, not copied.
    let plan = with_vm("web1", &[], |vm| settings.for_vm(vm));
    assert!(std::sync::Arc::ptr_eq(&plan.policies[0], &settings.policies[&plan.policies[0].name]));
}

#[test]
fn an_exception_to_a_policy_that_does_not_hold_is_said() {
    let text = policy("[vm.a]\npolicy.p.keep-last = 1\n").replace("\"*\"", "\"b\"");
    let settings = settings(&[("p.toml", &text)]);
    assert_eq!(
        why(&settings, "a", &[])[1],
        "p: not selected, so that the exceptions at p.toml:6 have no effect"
    );
    with_vm("a", &[], |vm| {
        assert_eq!(
            check_against(&settings, &[*vm]).lines(),
            [
                "p.toml:2:7: warning: policy p is for no VM that is there",
                "p.toml:6:8: warning: policy p is not for VM a: its exceptions have no effect",
            ]
        );
    });
}

#[test]
fn settings_are_held_against_the_vms_there_are() {
    let text = format!(
        "{}[policy.q]\nvms = [\"web*\", \"db02\", \"{}\", \"!gone\"]\nschedule = \"@hourly\"\nkeep-last = 8\n\
         [vm.\"web*\"]\nmax-size = \"1GiB\"\n",
        policy(""),
        ID.replace('0', "f")
    );
    let settings = settings(&[("p.toml", &text)]);
    with_vm("web1", &[], |vm| {
        let said = check_against(&settings, &[*vm]);
        assert_eq!(
            said.lines(),
            [
                "p.toml:6:16: warning: no VM is named db02".to_owned(),
                format!("p.toml:6:24: warning: no VM has the UUID {}", ID.replace('0', "f")),
                "p.toml:6:64: warning: no VM is named gone".to_owned(),
                "p.toml:9:5: warning: there is no VM web*".to_owned(),
                "p.toml:1:9: warning: the policies p, q together can keep 18 snapshots of VM web1, but a chain of \
                 max-chain = 16 layers holds 14 beside its base and the next one"
                    .to_owned(),
            ]
        );
        assert!(said.to_string().contains("this is a name, not a pattern"), "{said}");
    });
    assert_eq!(
        check_against(&settings, &[]).iter().next().unwrap().help.as_deref(),
        Some("there is no VM at all")
    );
}

#[test]
fn a_tag_that_no_vm_has_is_said_with_those_there_are() {
    let text = policy("").replace("\"*\"", "\"*\", \"tag:prd\", \"tag:web\", \"!tag:no-snapshots\"");
    let settings = settings(&[("p.toml", &text)]);
    with_vm("web1", &["prod", "web"], |vm| {
        let said = check_against(&settings, &[*vm]);
        assert_eq!(said.lines(), ["p.toml:2:13: warning: no VM has the tag prd"]);
        assert_eq!(said.iter().next().unwrap().help.as_deref(), Some("there are prod, web"));
    });
}

#[test]
fn the_report_shows_the_next_runs_in_the_policy_s_zone() {
    let text = "\
[policy.nightly]
vms = [\"*\", \"!*-scratch\"]
schedule = \"30 2 * * *\"
timezone = \"America/New_York\"
keep-last = 3
keep-daily = 7
max-size = \"200GiB\"

[policy.rare]
vms = [\"*\"]
before = \"upgrade\"
spread = \"5min\"
keep-within = \"2d\"

[policy.boot]
vms = [\"*\"]
schedule = [\"@reboot\", \"0 0 29 2 *\"]
keep-yearly = 1
keep-daily = 3
";
    let now = "2026-03-07T12:00:00-05:00".parse().unwrap();
    let loaded = read(&[("p.toml", text)]);
    let shown = report(&loaded, now, Style::Plain);
    assert_eq!(
        shown,
        "\
warning: policy boot: keep-yearly = 1 adds nothing: keep-daily always keeps the same
  --> p.toml:18:1
   |
18 | keep-yearly = 1
   | ^^^^^^^^^^^^^^^
   |
   = help: keep-yearly = 2 also keeps the newest of the year before; or write combine = \"extend\", or omit it

policy boot (p.toml:15)
  vms       *
  schedule  @reboot, 0 0 29 2 * (Europe/Vienna)
  keeps     daily 3, yearly 1 (union)
  next      Tue 2028-02-29 00:00:00 +01:00 (CET)
            Sun 2032-02-29 00:00:00 +01:00 (CET)
            Fri 2036-02-29 00:00:00 +01:00 (CET)
            when the host boots

policy nightly (p.toml:1)
  vms       *, !*-scratch
  schedule  30 2 * * * (America/New_York)
  keeps     last 3, daily 7 (union), at most 200GiB
  next      Sun 2026-03-08 03:00:00 -04:00 (EDT)
            Mon 2026-03-09 02:30:00 -04:00 (EDT)
            Tue 2026-03-10 02:30:00 -04:00 (EDT)

policy rare (p.toml:9)
  vms       *
  schedule  none
  before    upgrade
  keeps     within 2d (union)
  next      before an operation, or by hand

1 file, 3 policies, 0 errors, 1 warning
",
        "\n{shown}"
    );
    let broken = read(&[("p.toml", "x = 1")]);
    assert!(report(&broken, now, Style::Plain).ends_with("\n1 error, 0 warnings\n"));
    assert!(report(&broken, now, Style::Colour).contains("\u{1b}["));
    assert_eq!(
        report(&read(&[]), now, Style::Plain),
        "no file, no policy: nothing will run, 0 errors, 0 warnings\n"
    );
}
