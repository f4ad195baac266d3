//! `union` is restic's way: `restic forget` on random histories and rules.
//!
//! One repository holds a history for each zone (as a host each, which restic judges apart), so that one question
//! has six answers.

use std::{collections::BTreeMap, sync::Mutex};

use jiff::SignedDuration;
use virtsnap::core::policy::{Combine, Keep};

use super::{
    dice::Dice,
    history::{History, Point, histories},
    ours::{Stays, assert_same, counts, oldest, verdicts},
    restic_peer::{Restic, side_by_side},
};

const SNAPSHOTS: usize = 36;
const QUESTIONS: usize = 100;

/// What restic keeps where we keep `ours`.
///
/// The one difference among histories like these: since 0.16, a counting rule that has slots left at the end keeps the
/// oldest snapshot too, whatever its bucket. (0.14, of Debian 12, does as we do.)
pub(super) fn known_difference(version: (u32, u32), keep: &Keep, points: &[Point], mut ours: Stays) -> Stays {
    if version < (0, 16) {
        return ours;
    }
    for (rule, slots) in counts(keep) {
        let used = ours.values().filter(|rules| rules.contains(rule)).count();
        if u32::try_from(used).unwrap() < slots {
            ours.entry(oldest(points).name.clone()).or_default().insert(rule.to_owned());
        }
    }
    ours
}

/// Random rules; `keep-within` often reaches exactly from some history's newest to one of its others.
fn question(dice: &mut Dice, histories: &[History]) -> Keep {
    let mut keep = dice.keep();
    if dice.percent(40) {
        let points = &histories[usize::try_from(dice.below(histories.len() as u64)).unwrap()].points;
        let newest = points.iter().map(|p| p.at).max().unwrap();
        let other = points[usize::try_from(dice.below(points.len() as u64)).unwrap()].at;
        // restic counts in hours.
        let hours = newest.duration_since(other).as_hours() + dice.around(1);
        keep.within = Some(SignedDuration::from_hours(hours.max(1)));
    }
    keep
}

#[test]
fn restic_keeps_the_same_for_the_same_reasons() {
    let mut dice = Dice::new(1);
    let histories = histories(&mut dice, SNAPSHOTS);
    let restic = Restic::new();
    restic.take(&histories);
    let questions: Vec<_> =
        (0..QUESTIONS).map(|_| (question(&mut dice, &histories), dice.percent(30))).collect();
    let tally = Mutex::new(BTreeMap::new());
    side_by_side(3, &questions, |(keep, held)| {
        let answers = restic.forget("UTC", keep, *held);
        assert_eq!(answers.len(), histories.len());
        for history in &histories {
            let pinned = |p: &Point| Point { pinned: p.pinned && *held, ..p.clone() };
            let points: Vec<Point> = history.points.iter().map(pinned).collect();
            let ours = verdicts(&points, keep, Combine::Union, &history.tz());
            let expected = known_difference(restic.version, keep, &points, ours);
            let theirs = &answers[history.zone];
            assert_same(theirs, &expected, &format!("{} under {keep:?}", history.zone));
            let mut tally = tally.lock().unwrap();
            for rule in theirs.values().flatten() {
                *tally.entry(rule.clone()).or_insert(0) += 1;
            }
        }
    });
    let tally = tally.into_inner().unwrap();
    eprintln!("{} verdicts of restic's, reasons {tally:?}", QUESTIONS * histories.len() * SNAPSHOTS);
    // Every rule was asked for, often.
    assert_eq!(tally.len(), 8, "{tally:?}");
    assert!(tally.values().all(|n| *n > 100), "{tally:?}");
}
