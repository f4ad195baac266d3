//! `extend` is Borg's way, but where weeks are not parts of months: `borg prune` on random histories and rules.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use virtsnap::core::policy::{Combine, Keep};

use super::{
    borg_peer::prune,
    dice::Dice,
    history::{History, Point, histories},
    ours::{Stays, assert_same, counts, oldest, verdicts},
};

const SNAPSHOTS: usize = 36;
const QUESTIONS: usize = 14;

/// What Borg keeps where we keep what `verdicts` says. The two differences among histories like these:
///
/// - A month is covered for us (as for Proxmox) if anything of it is kept. For Borg only the newest of each month
///   matters, and it uses no slot only if it is kept already. For rules whose buckets are parts of each other that is
///   the same; a week may be a part of two months, or years.
/// - The finest rule that has slots left at the end keeps the oldest archive too, whatever its bucket.
pub(super) fn known_difference(keep: &Keep, points: &[Point], zone: &TimeZone) -> Stays {
    let asks = |n: Option<u32>| n.unwrap_or(0) > 0;
    let overlapping = asks(keep.weekly) && (asks(keep.monthly) || asks(keep.yearly));
    let ours = if overlapping {
        let up_to_weeks = Keep { monthly: None, yearly: None, ..keep.clone() };
        verdicts(points, &up_to_weeks, Combine::Extend, zone)
    } else {
        verdicts(points, keep, Combine::Extend, zone)
    };
    let mut borg = Stays::new();
    for (rule, slots) in counts(keep) {
        let before = borg.len();
        if overlapping && ["keep-monthly", "keep-yearly"].contains(&rule) {
            newest_of_each(&mut borg, points, zone, rule, slots);
        } else {
            let its = ours.iter().filter(|(_, rules)| rules.contains(rule));
            for (name, rules) in its {
                assert_eq!(rules.len(), 1, "one rule each: {name} {rules:?}");
                borg.entry(name.clone()).or_insert_with(|| rules.clone());
            }
        }
        if u32::try_from(borg.len() - before).unwrap() < slots {
            borg.entry(oldest(points).name.clone()).or_insert_with(|| [format!("{rule}[oldest]")].into());
        }
    }
    borg
}

/// Borg's rule for months and years.
fn newest_of_each(borg: &mut Stays, points: &[Point], zone: &TimeZone, rule: &str, slots: u32) {
    let mut newest_first: Vec<&Point> = points.iter().collect();
    newest_first.sort_by_key(|p| std::cmp::Reverse(p.at));
    let (mut seen, mut free) = (BTreeSet::new(), slots);
    for point in newest_first {
        let date = point.at.to_zoned(zone.clone()).date();
        let period = (date.year(), if rule == "keep-monthly" { date.month() } else { 0 });
        if free > 0 && seen.insert(period) && !borg.contains_key(&point.name) {
            borg.insert(point.name.clone(), [rule.to_owned()].into());
            free -= 1;
        }
    }
}

#[test]
fn borg_keeps_the_same_by_the_same_rules() {
    let mut dice = Dice::new(2);
    let histories = histories(&mut dice, SNAPSHOTS);
    // Borg knows no pins.
    let histories: Vec<History> = histories
        .into_iter()
        .map(|History { zone, points }| {
            let points = points.into_iter().map(|p| Point { pinned: false, ..p }).collect();
            History { zone, points }
        })
        .collect();
    let none: &[&str] = &[];
    let questions: Vec<_> = (0..QUESTIONS * histories.len())
        .map(|i| (histories[i % histories.len()].zone, i % histories.len(), dice.keep(), none))
        .collect();
    let mut tally = BTreeMap::new();
    for (theirs, (zone, history, keep, _)) in prune(&histories, &questions).iter().zip(&questions) {
        let history = &histories[*history];
        let expected = known_difference(keep, &history.points, &history.tz());
        assert_same(theirs, &expected, &format!("{zone} under {keep:?}"));
        for rule in theirs.values().flatten() {
            *tally.entry(rule.clone()).or_insert(0) += 1;
        }
    }
    eprintln!("{} verdicts of Borg's, rules {tally:?}", questions.len() * SNAPSHOTS);
    for rule in ["last", "hourly", "daily", "weekly", "monthly", "yearly"] {
        assert!(tally[&format!("keep-{rule}")] > 20, "{tally:?}");
    }
}
