//! What others need for the same, in the same run: restic, and the counting rules in plain Python.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan as _};

#[allow(clippy::unwrap_used, reason = "it is the tests'")]
#[path = "../../tests/retention_oracle/restic_repository.rs"]
mod restic_repository;

use restic_repository::{PASSWORD, ROOMS, make, move_files};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Snapshots that restic takes, and how often their number is doubled then.
const TAKEN: usize = 300;
const DOUBLINGS: usize = 3;
/// How many snapshots restic judges.
pub(super) const RESTIC: usize = TAKEN << DOUBLINGS;

/// Each rule of [`super::keep`], as restic's options.
const KEEP: [&str; 12] = [
    "--keep-last",
    "10",
    "--keep-hourly",
    "24",
    "--keep-daily",
    "30",
    "--keep-weekly",
    "12",
    "--keep-monthly",
    "24",
    "--keep-yearly",
    "5",
];

fn restic(dir: &Path, repository: &str, args: &[&str]) -> Result<Output> {
    let output = Command::new("restic")
        .args(args)
        .args(["--no-cache", "--quiet"])
        .current_dir(dir)
        .envs([("RESTIC_PASSWORD", PASSWORD), ("RESTIC_REPOSITORY", repository), ("TZ", "UTC")])
        .output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("restic {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Takes one snapshot every two hours, in eight repositories at once, whose sum is `all`.
fn take(dir: &Path, end: Timestamp) -> Result<()> {
    const SHARES: usize = 8;
    fs::write(dir.join("file"), "tiny")?;
    thread::scope(|scope| {
        let shares: Vec<_> = (0..SHARES)
            .map(|share| {
                scope.spawn(move || {
                    let repository = format!("share-{share}");
                    make(&dir.join(&repository));
                    for age in (share..TAKEN).step_by(SHARES) {
                        let at = end - i64::try_from(age * 2).unwrap_or(i64::MAX).hours();
                        let time = at.strftime("%Y-%m-%d %H:%M:%S").to_string();
                        restic(dir, &repository, &["backup", "--time", &time, "file"])
                            .map_err(|e| e.to_string())?;
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        shares.into_iter().try_for_each(|share| share.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    for share in 0..SHARES {
        for room in ROOMS {
            move_files(&dir.join(format!("share-{share}/{room}")), &dir.join("all").join(room));
        }
    }
    Ok(())
}

/// Twice as many: a new tag makes a new snapshot of each and removes the old one, which is put back.
fn double(dir: &Path, tag: &str) -> Result<()> {
    let (snapshots, old) = (dir.join("all/snapshots"), dir.join("old"));
    fs::create_dir_all(&old)?;
    for entry in fs::read_dir(&snapshots)? {
        let entry = entry?;
        fs::copy(entry.path(), old.join(entry.file_name()))?;
    }
    restic(dir, "all", &["tag", "--add", tag])?;
    move_files(&old, &snapshots);
    Ok(())
}

/// The time of `restic forget --dry-run` for [`RESTIC`] snapshots, with and without its start-up: what it needs for none.
pub(super) fn restic_forget(end: Timestamp) -> Result<(Duration, Duration)> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    make(&dir.join("none"));
    make(&dir.join("all"));
    let version = restic(dir, "none", &["version"])?;
    println!("{}", String::from_utf8_lossy(&version.stdout).trim());
    take(dir, end)?;
    for n in 0..DOUBLINGS {
        double(dir, &format!("copy-{n}"))?;
    }
    let count = fs::read_dir(dir.join("all/snapshots"))?.count();
    if count != RESTIC {
        return Err(format!("{count} snapshots, not {RESTIC}").into());
    }
    let mut args = vec!["forget", "--no-lock", "--dry-run", "--group-by", "host"];
    args.extend(KEEP);
    let forget = |repository: &str| -> Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..super::ROUNDS {
            let start = Instant::now();
            restic(dir, repository, &args)?;
            best = best.min(start.elapsed());
        }
        Ok(best)
    };
    let (all, none) = (forget("all")?, forget("none")?);
    Ok((all, all.saturating_sub(none)))
}

/// The same rules over as many datetimes, which have their zone already: best time in order, and shuffled (it sorts them).
///
/// Each rule stops when it has no slots left; then each snapshot gets its verdict.
const PYTHON: &str = r#"
import datetime, random, sys, time
from zoneinfo import ZoneInfo

count, end, rounds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
zone = ZoneInfo("Europe/Vienna")
ordered = [datetime.datetime.fromtimestamp(end - 120 * age, zone) for age in range(count)]
shuffled = ordered[:]
random.Random(7).shuffle(shuffled)
RULES = [
    (24, lambda t: (t.year, t.month, t.day, t.hour)),
    (30, lambda t: (t.year, t.month, t.day)),
    (12, lambda t: t.isocalendar()[:2]),
    (24, lambda t: (t.year, t.month)),
    (5, lambda t: t.year),
]

def judge(times):
    order = sorted(range(len(times)), key=times.__getitem__, reverse=True)
    keep = [False] * len(times)
    for i in order[:10]:
        keep[i] = True
    for slots, bucket in RULES:
        last = None
        for i in order:
            here = bucket(times[i])
            if here != last:
                if slots == 0:
                    break
                keep[i] = True
                last = here
                slots -= 1
    return [("keep" if k else "go") for k in keep]

for times in ordered, shuffled:
    best = None
    for _ in range(rounds):
        start = time.perf_counter()
        verdicts = judge(times)
        spent = time.perf_counter() - start
        best = spent if best is None else min(best, spent)
    print(best, verdicts.count("keep"))
"#;

/// Best time and the number kept, in order and shuffled.
pub(super) fn python(count: usize, end: Timestamp) -> Result<[(Duration, usize); 2]> {
    let output = Command::new("python3")
        .args(["-c", PYTHON, &count.to_string(), &end.as_second().to_string(), "3"])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut results = Vec::new();
    for line in text.lines() {
        let (seconds, kept) = line.split_once(' ').ok_or("two numbers a line")?;
        results.push((Duration::from_secs_f64(seconds.parse()?), kept.parse()?));
    }
    results.try_into().map_err(|_| format!("python3 said {text:?}").into())
}
