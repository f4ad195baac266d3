//! Schedules against `systemd-analyze calendar`: cron fields translated to `OnCalendar=` expressions must run at the same
//! times, but for what is listed at [`known_differences`].

use std::{collections::BTreeSet, process::Command};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use virtsnap::core::schedule::Schedule;

const ITERATIONS: usize = 12;

/// Asks for the next times of each expression after `base`.
fn systemd(expressions: &[String], base: Timestamp) -> Vec<Vec<Timestamp>> {
    let output = Command::new("systemd-analyze")
        .arg("calendar")
        .arg(format!("--base-time=@{}", base.as_second()))
        .arg(format!("--iterations={ITERATIONS}"))
        .args(expressions)
        .envs([("TZ", "UTC"), ("LC_ALL", "C"), ("SYSTEMD_COLORS", "0")])
        .output()
        .expect("this test needs `systemd-analyze`: install the package systemd");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    let mut answers: Vec<Vec<Timestamp>> = Vec::new();
    for line in text.lines() {
        let Some((label, value)) = line.trim().split_once(": ") else { continue };
        if label == "Normalized form" {
            answers.push(Vec::new());
        } else if label == "Next elapse" || label.starts_with("Iter.") {
            // "Sun 2024-03-31 02:30:00 UTC", or "never".
            let [_, date, time, "UTC"] = value.split(' ').collect::<Vec<_>>()[..] else { continue };
            let at = format!("{date}T{time}Z").parse().expect("a time");
            answers.last_mut().expect("an expression before its times").push(at);
        }
    }
    assert_eq!(answers.len(), expressions.len(), "{text}");
    answers
}

/// One field in cron's and in systemd's words.
type Field = (String, String);

///
/// A step over days or months must end in the field: after a bare `1/14` systemd (252) goes on from what would be day
/// 43 of December, and misses the first days of January, or gives up with EDEADLK.
fn field(min: u8, max: u8, top: u8) -> impl Strategy<Value = Field> {
    let pair = move || (min..=max, min..=max).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        Just(("*".to_owned(), "*".to_owned())),
        (2..=max / 2).prop_map(move |n| (format!("*/{n}"), format!("{min}..{top}/{n}"))),
        (min..=max).prop_map(|a| (a.to_string(), a.to_string())),
        pair().prop_map(|(a, b)| (format!("{a},{b}"), format!("{a},{b}"))),
        pair().prop_map(|(a, b)| (format!("{a}-{b}"), format!("{a}..{b}"))),
        (pair(), 1..=max).prop_map(|((a, b), n)| (format!("{a}-{b}/{n}"), format!("{a}..{b}/{n}"))),
    ]
}

/// Days of the week: cron's field, and systemd's names (empty: any day).
fn weekday() -> impl Strategy<Value = Field> {
    const NAMES: [&str; 8] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let names = |days: Vec<usize>| days.iter().map(|d| NAMES[*d]).collect::<BTreeSet<_>>();
    let list = move |days| names(days).into_iter().collect::<Vec<_>>().join(",");
    prop_oneof![
        3 => Just(("*".to_owned(), String::new())),
        1 => (2..6_usize).prop_map(move |n| (format!("*/{n}"), list((0..8).step_by(n).collect()))),
        1 => (0..8_usize).prop_map(move |a| (a.to_string(), list(vec![a]))),
        1 => (0..8_usize).prop_map(move |a| (NAMES[a].to_lowercase(), list(vec![a]))),
        1 => (0..8_usize, 0..8_usize).prop_map(move |(a, b)| (format!("{a},{b}"), list(vec![a, b]))),
        1 => (0..8_usize, 0..8_usize).prop_map(move |(a, b)| {
            let (a, b) = (a.min(b), a.max(b));
            (format!("{a}-{b}"), list((a..=b).collect()))
        }),
    ]
}

/// A cron schedule, and the expressions of systemd whose union it is.
fn pair(zone: &str) -> impl Strategy<Value = (String, Vec<String>)> {
    let zone = zone.to_owned();
    let day = prop_oneof![Just(("*".to_owned(), "*".to_owned())), field(1, 28, 31)];
    let month = prop_oneof![2 => Just(("*".to_owned(), "*".to_owned())), 1 => field(1, 12, 12)];
    (field(0, 59, 59), field(0, 23, 23), day, month, weekday()).prop_map(
        move |(minute, hour, day, month, weekday)| {
            let expression = |weekday: &str, day: &str| {
                format!("{weekday} *-{}-{day} {}:{}:00 {zone}", month.1, hour.1, minute.1)
                    .trim_start()
                    .to_owned()
            };
            let expressions = if day.0.starts_with('*') || weekday.0.starts_with('*') {
                vec![expression(&weekday.1, &day.1)]
            } else {
                // Either day: systemd has only "and".
                vec![expression("", &day.1), expression(&weekday.1, "*")]
            };
            (format!("{} {} {} {} {}", minute.0, hour.0, day.0, month.0, weekday.0), expressions)
        },
    )
}

/// True within a day and a half of a change of the zone's offset.
fn near_transition(at: Timestamp, tz: &TimeZone) -> bool {
    let margin = SignedDuration::from_hours(36);
    tz.to_offset(at - margin) != tz.to_offset(at) || tz.to_offset(at + margin) != tz.to_offset(at)
}

#[test]
fn systemd_runs_at_the_same_times() {
    let zones = [
        "UTC",
        "Europe/Vienna",
        "America/New_York",
        "America/Sao_Paulo",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Antarctica/Troll",
        "Asia/Kathmandu",
    ];
    // The same cases every time: a test of the translation, not a search.
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut compared = 0;
    for zone in zones {
        let tz = TimeZone::get(zone).unwrap();
        let cases: Vec<(String, Vec<String>)> =
            (0..25).map(|_| pair(zone).new_tree(&mut runner).unwrap().current()).collect();
        let base = (1_300_000_000..1_900_000_000_i64).new_tree(&mut runner).unwrap().current();
        let base = Timestamp::from_second(base).unwrap();
        let expressions: Vec<String> = cases.iter().flat_map(|(_, e)| e.clone()).collect();
        let mut answers = systemd(&expressions, base).into_iter();
        for (text, expressions) in cases {
            let theirs: Vec<_> = answers.by_ref().take(expressions.len()).collect();
            // The union is complete up to where the first of them stops.
            let end = theirs.iter().filter_map(|t| t.last()).min().copied().unwrap_or(base);
            let schedule = Schedule::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let ours =
                std::iter::successors(schedule.next_after(base, &tz), |t| schedule.next_after(*t, &tz));
            let plain = |t: &Timestamp| *t <= end && !near_transition(*t, &tz);
            let theirs: BTreeSet<_> = theirs.into_iter().flatten().filter(plain).collect();
            let ours: BTreeSet<_> = ours.take_while(|t| *t <= end).filter(plain).collect();
            assert_eq!(ours, theirs, "`{text}` as {expressions:?} after {base}");
            compared += ours.len();
        }
    }
    assert!(compared > 1500, "only {compared} times compared");
}

#[test]
fn known_differences() {
    let vienna = TimeZone::get("Europe/Vienna").unwrap();
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let both = |cron: &str, calendar: &str, base: &str, nth: usize| {
        let schedule = Schedule::parse(cron).unwrap();
        let ours =
            std::iter::successors(Some(at(base)), |t| schedule.next_after(*t, &vienna)).nth(nth).unwrap();
        (ours, systemd(&[calendar.to_owned()], at(base))[0][nth - 1])
    };
    // In a gap systemd skips the day; we run when the gap ends.
    assert_eq!(
        both("30 2 * * *", "*-*-* 02:30:00 Europe/Vienna", "2024-03-30T12:00:00Z", 1),
        (at("2024-03-31T03:00:00+02:00"), at("2024-04-01T02:30:00+02:00"))
    );
    // In a fold it runs wildcard times once; we, as cron, twice.
    assert_eq!(
        both("*/30 * * * *", "*-*-* *:0/30:00 Europe/Vienna", "2024-10-27T00:30:00Z", 1),
        (at("2024-10-27T02:00:00+01:00"), at("2024-10-27T03:00:00+01:00"))
    );
    // Fixed times once and the first time: there we agree.
    let (ours, theirs) = both("30 2 * * *", "*-*-* 02:30:00 Europe/Vienna", "2024-10-26T12:00:00Z", 1);
    assert_eq!((ours, theirs), (at("2024-10-27T02:30:00+02:00"), at("2024-10-27T02:30:00+02:00")));
    assert_eq!(
        both("30 2 * * *", "*-*-* 02:30:00 Europe/Vienna", "2024-10-26T12:00:00Z", 2).0,
        at("2024-10-28T02:30:00+01:00")
    );
}
