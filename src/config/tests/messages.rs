use super::{
    super::{Style, not_yet, report},
    lines, policy, read, said,
};

#[track_caller]
fn assert_shown(text: &str, expected: &str) {
    let shown = said(text).to_string();
    assert_eq!(shown, expected, "\n{shown}");
}

#[test]
fn an_unknown_key_is_shown_with_what_was_meant() {
    assert_shown(
        &policy("keep-dayly = 7\n"),
        "\
error: unknown key `keep-dayly` in [policy.p]
 --> p.toml:5:1
  |
5 | keep-dayly = 7
  | ^^^^^^^^^^ did you mean `keep-daily`?
  |
  = help: allowed here: vms, schedule, timezone, catch-up, catch-up-within, spread, before, quiesce, freeze-timeout, mountpoints, memory, when, skip-unchanged, name, keep-last, keep-hourly, keep-daily, keep-weekly, keep-monthly, keep-yearly, keep-within, combine, max-count, max-age, max-size, max-delete, suspend-after, stale-after
",
    );
}

#[test]
fn an_error_inside_a_string_is_marked_there() {
    assert_shown(
        "[policy.p]\nvms = ['web*', 'db[1-']\nschedule = \"30 25 * * *\"\n",
        "\
error: `vms`: `[` without a `]`
 --> p.toml:2:19
  |
2 | vms = ['web*', 'db[1-']
  |                   ^^^
  |
  = help: `*`, `?`, `[a-z]` and `{a,b}` match several names; `\\` takes the next character literally

error: `schedule`: 25 is out of range for the hour field
 --> p.toml:3:16
  |
3 | schedule = \"30 25 * * *\"
  |                ^^
  |
  = help: the hour field takes 0 to 23
",
    );
}

#[test]
fn two_policies_of_one_name_show_both_places() {
    let errors =
        read(&[("a.toml", &policy("")), ("b.toml", "# again\n\n[policy.p]\nvms = [\"x\"]\n")]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "\
error: there are two policies named p
 --> b.toml:3:9
  |
3 | [policy.p]
  |         ^ here again
  |
 ::: a.toml:1:9
  |
1 | [policy.p]
  |         - first here
  |
  = help: to replace a packaged file, put one of its name into /etc/virtsnap/policies.d
"
    );
}

#[test]
fn toml_errors_look_the_same_and_bring_no_others() {
    assert_shown(
        "[policy.p]\nvms = [\"*\"\nschedule = 5\n",
        "\
error: missing comma between array elements, expected `,`
 --> p.toml:3:1
  |
3 | schedule = 5
  | ^
",
    );
    assert_eq!(lines("x = \n\ny = [\n\n\n\n").len(), 2);
    assert_eq!(lines("[policy.p]\nvms = [\"*\"]\nvms = [\"x\"]\n"), ["3:1: error: duplicate key"]);
    // The exception's policy may be in the broken file.
    let errors = read(&[("a.toml", "[policy"), ("b.toml", "[vm.x]\npolicy.p.keep-last = 1\n")]).unwrap_err();
    assert_eq!(errors.lines(), ["a.toml:1:8: error: unclosed table, expected `]`"]);
}

#[test]
fn everything_wrong_is_said_at_once() {
    assert_eq!(
        lines(
            "polices = 1\n[policy.'a b']\n[policy.q]\nvms = 5\nschedule = [\"@dayly\", 5]\nquiesce = \"pefer\"\n\
             freeze-timeout = \"10min\"\nwhen = [\"pm-suspended\", \"off\"]\nkeep-last = 0\nkeep-daily = -1\n\
             keep-weekly = 1.5\nkeep-monthly = \"3\"\nkeep-within = \"2m\"\nmax-size = \"5G\"\nmax-age = 99999999999999999999\n\
             name = \"{date}\"\nskip-unchanged = \"no\"\nmountpoints = [\"srv\"]\nbefore = [\"up\", \"up\"]\n\
             timezone = \"Europe/Wien\"\ncombine = true\n[daemon]\n"
        ),
        [
            "1:1: error: unknown key `polices` in a configuration file",
            "2:9: error: `a b` cannot be a policy's name: a name must not contain ' '",
            "4:7: error: `vms` must be a list of selectors such as [\"web*\", \"tag:prod\", \"!*-scratch\"], not an integer",
            "5:14: error: `schedule`: unknown macro `@dayly`",
            "5:23: error: `schedule` must be a cron expression such as \"30 2 * * *\", or a list of them, not an integer",
            "6:11: error: `quiesce`: `pefer` is not known here",
            "7:18: error: `freeze-timeout` must be from 1s to 5min",
            "8:9: error: `when`: libvirt takes no snapshot of a VM that its guest suspended to memory",
            "8:25: error: `when`: `off` is not known here",
            "9:13: error: `keep-last` must be a whole number from 1 to 100000, not 0",
            "10:14: error: `keep-daily` must be a whole number from 1 to 100000, not -1",
            "11:15: error: `keep-weekly` must be a whole number, not a float",
            "12:16: error: `keep-monthly` must be a whole number, not a string",
            "13:17: error: `keep-within`: \"m\" is not a unit of time",
            "14:14: error: `max-size`: \"G\" is not a unit of size",
            "15:11: error: `max-age` must be a duration such as \"20min\", not an integer",
            "16:9: error: `name`: {date} stands for nothing",
            "17:18: error: `skip-unchanged` must be true or false, not a string",
            "18:16: error: `mountpoints`: \"srv\" is not a path in the guest",
            "19:17: error: `up` stands twice in `before`",
            "20:12: error: `timezone`: \"Europe/Wien\" is not a time zone",
            "21:11: error: `combine` must be \"union\" or \"extend\", not a boolean",
            "22:2: error: [daemon] belongs in virtsnapd.toml",
        ]
    );
}

#[test]
fn help_says_what_would_be_right() {
    let help = |keys: &str| said(&policy(keys)).iter().map(|d| d.help.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        help("quiesce = \"pefer\""),
        ["did you mean \"prefer\"? Allowed: \"require\", \"prefer\" or \"never\""]
    );
    assert_eq!(help("timezone = \"Vienna\""), ["did you mean \"Europe/Vienna\"?"]);
    assert_eq!(help("timezone = \"Europe/Viena\""), ["did you mean \"Europe/Vienna\"?"]);
    assert_eq!(help("keep-last = 0"), ["omit it instead"]);
    assert_eq!(
        help("keep-within = \"3m\""),
        ["`m` could be minutes or months: write `min`, or days (`30d`)"]
    );
    assert_eq!(help("max-size = \"5G\""), ["write `GiB` (powers of 1024) or `GB` (powers of 1000)"]);
}

#[test]
fn a_policy_says_which_vms_it_is_for() {
    assert_eq!(
        lines("[policy.p]\nschedule = \"@daily\"\nmax-count = 5\n"),
        ["1:9: error: policy p does not say which VMs it is for"]
    );
    assert_eq!(
        lines("[policy.p]\nvms = [\"!a\", \"!b\"]\nschedule = \"@daily\"\n"),
        ["2:7: error: `vms` only leaves VMs out, so that none is selected"]
    );
    assert_eq!(
        lines("[policy.p]\nvms = []\nschedule = \"@daily\"\nmax-count = 5\n"),
        ["2:7: warning: policy p is for no VM: `vms` is empty"]
    );
}

#[test]
fn a_selector_that_hardly_means_what_it_says_is_told() {
    let text = "[policy.p]\nvms = [\"*\", \"tag:prod*\", \"!TAG:dev\", \"Tag:x\", \"tag:x\", \"tagged\", \"ü:ü\"]\n\
                schedule = \"@daily\"\nmax-count = 5\n";
    assert_eq!(
        lines(text),
        [
            "2:13: warning: tags are matched whole: `*` is a part of the tag `prod*` here",
            "2:26: warning: `TAG:dev` is a VM's name, not a tag",
            "2:38: warning: `Tag:x` is a VM's name, not a tag",
        ]
    );
    assert!(
        said(text).to_string().contains("= help: write \"tag:dev\": `tag:` is lower-case"),
        "{}",
        said(text)
    );
}

#[test]
fn positions_count_characters_after_any_start() {
    // A byte order mark, wide characters and tabs before the place.
    assert_eq!(lines("\u{feff}x = 1\n"), ["1:1: error: unknown key `x` in a configuration file"]);
    let text = "[policy.p]\n\tvms = ['ü日', '[']\r\nschedule = \"@daily\"\nmax-count = 3\n";
    assert_eq!(lines(text), ["2:16: error: `vms`: `[` without a `]`"]);
    assert!(said(text).to_string().contains("p.toml:2:16\n"), "{}", said(text));
    // Escapes make the text another one than the file's: all of it is marked.
    assert_eq!(
        lines(&policy("max-size = \"\\u0035G\"")),
        ["5:12: error: `max-size`: \"G\" is not a unit of size"]
    );
    assert_eq!(
        lines(&policy("max-size = '''\n5G'''")),
        ["6:2: error: `max-size`: \"G\" is not a unit of size"]
    );
}

#[test]
fn what_a_file_holds_does_not_reach_the_terminal() {
    let text = "\"\\u001b[31m\\u202e\" = 1\n[policy.p]\nvms = [\"\u{1b}[2J\"]\n";
    let rendered = format!("{}{}", said(text), said(text).lines().concat());
    assert!(!rendered.contains(['\u{1b}', '\u{202e}']), "{rendered:?}");
    let rendered = format!("{}", said("\"\\u001b[31m\\u202e\\n\" = 1\n"));
    assert!(rendered.starts_with("error: unknown key `\\u{1b}[31m\\u{202e}\\n` in"), "{rendered}");
}

#[test]
fn keys_of_one_vm() {
    assert_eq!(
        lines(&format!(
            "{}[vm.a]\ndisk = [\"vda\"]\ndisks = []\nmax-size = \"0GiB\"\nkeep-daily = 5\npolicy.p.keep-last = 0\n\
             policy.p.schedule = \"@daily\"\npolicy.p.vms = [\"a\"]\npolicy.p.keep-lsat = 1\npolicy.P.keep-last = 1\n\
             policy.p.max-delete = \"none\"\n[vm.\"\"]\n[vm]\nb = 5\n",
            policy("")
        ).replace("[vm]\nb = 5\n", "")),
        [
            "6:1: error: unknown key `disk` in [vm.a]",
            "7:9: error: `disks` names no disk",
            "8:12: error: `max-size`: a size of 0 leaves nothing",
            "9:1: error: `keep-daily` is a policy's key",
            "10:22: error: `keep-last` must be a whole number from 1 to 100000, not 0",
            "11:10: error: `schedule` cannot be set for one VM",
            "12:10: error: `vms` cannot be set for one VM",
            "13:10: error: unknown key `keep-lsat` in the exceptions to policy p",
            "14:8: error: there is no policy P",
            "15:23: error: `max-delete` must be a whole number, not a string",
            "16:5: error: no VM has an empty name",
        ]
    );
    let errors = read(&[
        ("a.toml", &policy("[vm.a]\npolicy.p.keep-last = 1\nmax-size = \"1GiB\"\n")),
        ("b.toml", "[vm.a]\npolicy.p.keep-last = 2\npolicy.p.max-count = 9\n[vm.a.policy.q]\n"),
    ])
    .unwrap_err();
    assert_eq!(
        errors.lines(),
        [
            "b.toml:2:10: error: `policy.p.keep-last` of VM a is set twice",
            "b.toml:4:14: error: there is no policy q"
        ]
    );
}

#[test]
fn keys_of_the_daemon() {
    let text = "[daemon]\nuri = \"xen:///\"\ntimezone = \"Nowhere\"\nmax-jobs = 0\nmax-frozen = \"all\"\nmin-free = \"10\"\n\
                max-chain = 2\nmetrics-textfile = \"metrics\"\nhooks = \"hooks\"\nhooks-frozen = \"yes\"\nmax_jobs = 3\n";
    assert_eq!(
        read(&[("virtsnapd.toml", text)]).unwrap_err().lines(),
        [
            "virtsnapd.toml:2:7: error: `uri`: \"xen:///\" is not a URI of libvirt's QEMU driver",
            "virtsnapd.toml:3:12: error: `timezone`: \"Nowhere\" is not a time zone",
            "virtsnapd.toml:4:12: error: `max-jobs` must be a whole number from 1 to 1024, not 0",
            "virtsnapd.toml:5:14: error: `max-frozen` must be a whole number, not a string",
            "virtsnapd.toml:6:12: error: `min-free`: the size \"10\" has no unit",
            "virtsnapd.toml:7:13: error: `max-chain` must be a whole number from 3 to 25, not 2",
            "virtsnapd.toml:8:20: error: `metrics-textfile`: \"metrics\" is not an absolute path",
            "virtsnapd.toml:9:9: error: `hooks`: \"hooks\" is not an absolute path",
            "virtsnapd.toml:10:16: error: `hooks-frozen` must be true or false, not a string",
            "virtsnapd.toml:11:1: error: unknown key `max_jobs` in [daemon]",
        ]
    );
    let text = "[daemon]\nmetrics-textfile = \"/run/metrics\"\n";
    let warnings = read(&[("virtsnapd.toml", text)]).unwrap().warnings;
    assert_eq!(
        warnings.lines(),
        ["virtsnapd.toml:2:20: warning: node_exporter only reads files that end in `.prom`"]
    );
}

#[test]
fn wrong_kinds_of_tables() {
    for (text, expected) in [
        ("policy = 5", "1:10: error: `policy` must be tables [policy.NAME], not an integer"),
        ("[[policy]]\nvms = [\"*\"]", "1:1: error: `policy` must be tables [policy.NAME], not an array"),
        ("[policy]\nvms = [\"*\"]", "2:7: error: `vms` must be a table [policy.vms], not an array"),
        ("[policy.\"a.b\"]\n", "1:9: error: `a.b` cannot be a policy's name: a name must not contain '.'"),
        ("vm.x = 5", "1:8: error: `x` must be a table [vm.x], not an integer"),
        ("vm.x.policy = 5", "1:15: error: `policy` must be `policy.NAME.KEY = …`, not an integer"),
        (
            "vm.x.policy.p = 5",
            "1:17: error: `p` must be a table of keys: `policy.NAME.KEY = …`, not an integer",
        ),
    ] {
        assert_eq!(lines(text), [expected], "{text}");
    }
}

/// Escapes in a file can write anything into a name, and a file's own name can hold anything but `/`.
#[test]
fn a_report_holds_nothing_that_a_terminal_acts_on() {
    let text = policy("skip-unchanged = true\n")
        .replace("\"*\"", r#""web\u001b]0;x", "a\nb", "\u009b1m", "\u202e\u2028\u200f""#)
        .replace("30 2", "30\\t2");
    let name = "p\u{1b}[31m\n\u{202e}.toml";
    let now = "2026-11-21T12:00:00Z".parse().unwrap();
    let loaded = read(&[(name, &text)]);
    let shown = report(&loaded, now, Style::Plain);
    let mut lines = shown.lines().skip_while(|line| !line.starts_with("policy p"));
    assert_eq!(lines.next(), Some("policy p (p\\u{1b}[31m\\n\\u{202e}.toml:1)"));
    let vms = r"  vms       web\u{1b}]0;x, a\nb, \u{9b}1m, \u{202e}\u{2028}\u{200f}";
    assert_eq!(lines.next(), Some(vms));
    assert_eq!(lines.next(), Some("  schedule  30 2 * * * (Europe/Vienna)"));
    let told = not_yet::warnings(&loaded.unwrap().settings).lines();
    assert!(
        told[0].starts_with("p\\u{1b}[31m\\n\\u{202e}.toml:5:1: warning: ")
            && told[0].contains("skip-unchanged"),
        "{told:?}"
    );
    assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\u{2028}', '\u{200f}']), "{shown}");
    // A file may hold such characters itself, and is quoted where it is wrong.
    let wrong = read(&[("p.toml", "x\u{9b} = \"\u{61c}\u{2028}\" # \u{2066}\n")]).unwrap_err();
    assert!(!wrong.render(Style::Plain).contains(['\u{9b}', '\u{61c}', '\u{2028}', '\u{2066}']), "{wrong}");
}
