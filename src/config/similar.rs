//! "did you mean": the word that was probably meant.

/// Words that other tools use for ours.
const KNOWN_AS: &[(&str, &str)] = &[
    ("cron", "schedule"),
    ("timer", "schedule"),
    ("tz", "timezone"),
    ("zone", "timezone"),
    ("freeze", "quiesce"),
    ("domains", "vms"),
    ("guests", "vms"),
    ("policies", "policy"),
    ("vms", "vm"),
    ("domain", "vm"),
    ("disable-after", "suspend-after"),
    ("max-failures", "suspend-after"),
    ("pause-after", "suspend-after"),
    ("max-staleness", "stale-after"),
];

/// The candidate that `given` is probably a slip of; `None` if none is near.
pub(super) fn closest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long word is near nothing, and the distance is quadratic.
    if given.is_empty() || given.len() > 100 {
        return None;
    }
    let folded = fold(given);
    let length = folded.chars().count();
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in candidates {
        let other = candidate.chars().count();
        let allowed = (length.max(other) / 3).max(1);
        let far = if KNOWN_AS.contains(&(folded.as_str(), candidate)) {
            0
        } else if length.abs_diff(other) > allowed {
            // Each letter more or less is an edit: of hundreds of zones few are worth a closer look.
            continue;
        } else {
            distance(&folded, &fold(candidate))
        };
        if far <= allowed && best.is_none_or(|(least, _)| far < least) {
            best = Some((far, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Case and the choice of separator are the likeliest slips of all.
fn fold(word: &str) -> String {
    word.trim().to_lowercase().replace(['_', ' '], "-")
}

/// Edits between two words: insert, delete, replace, swap two neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_far_words_are_not() {
        let keys = ["keep-daily", "keep-last", "schedule", "timezone", "vms", "max-size"];
        for (given, meant) in [
            ("keep-dayly", Some("keep-daily")),
            ("keep_daily", Some("keep-daily")),
            ("Keep Daily", Some("keep-daily")),
            ("shcedule", Some("schedule")),
            ("tz", Some("timezone")),
            ("domains", Some("vms")),
            ("vm", Some("vms")),
            ("compress", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(closest(given, keys), meant, "{given}");
        }
        assert_eq!(closest(&"k".repeat(100_000), keys), None);
    }
}
