//! The program `restic`, with a repository of its own.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use jiff::{
    Timestamp,
    tz::{AmbiguousOffset, TimeZone},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    history::{History, Point},
    ours::{Stays, counts},
    restic_repository::{PASSWORD, ROOMS, make, move_files},
};
use virtsnap::core::policy::Keep;

/// The tag of what is pinned.
const HELD: &str = "held";

/// restic with a repository on a file system in memory, where there is one.
#[derive(Debug)]
pub(super) struct Restic {
    dir: TempDir,
    /// Major and minor.
    pub(super) version: (u32, u32),
}

/// What `forget` reads from.
const MAIN: &str = "repository";

impl Restic {
    /// An empty repository.
    pub(super) fn new() -> Self {
        let mut restic = Self { dir: super::scratch(), version: (0, 0) };
        fs::write(restic.dir.path().join("file"), "what is backed up does not matter here").unwrap();
        make(&restic.dir.path().join(MAIN));
        let line = restic.run(MAIN, "UTC", &["version"]);
        // "restic 0.14.0 compiled with …"
        let version = line.split(' ').nth(1).unwrap_or_default();
        let mut parts = version.split('.').map(|part| part.parse().unwrap());
        restic.version = (parts.next().unwrap(), parts.next().unwrap());
        eprintln!("{}", line.trim());
        restic
    }

    /// What it says of options that are no policy, on whichever stream: 0.14 shrugs, later ones fail.
    pub(super) fn refused(&self, options: &[&str]) -> String {
        let mut args = vec!["forget", "--no-cache", "--no-lock", "--dry-run"];
        args.extend(options);
        let output = self.command(MAIN, "UTC", &args);
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
    }

    /// What it prints.
    fn run(&self, repository: &str, zone: &str, args: &[&str]) -> String {
        let output = self.command(repository, zone, args);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "restic {args:?}: {}\n{text}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    fn command(&self, repository: &str, zone: &str, args: &[&str]) -> Output {
        Command::new("restic")
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs([
                ("RESTIC_PASSWORD", PASSWORD),
                ("RESTIC_REPOSITORY", repository),
                ("TZ", zone),
                ("GOMAXPROCS", "1"),
            ])
            .output()
            .expect("this test needs `restic`: install the package restic")
    }

    /// One backup of each point, as a client in the history's zone takes it, under the zone as its host.
    pub(super) fn take(&self, histories: &[History]) {
        let all = histories.iter().flat_map(|h| h.points.iter().map(move |p| (h, p)));
        let points: Vec<_> = all.map(|(h, p)| (h.zone, p, client_zone(&h.tz(), h.zone, p.at))).collect();
        self.take_as(&points);
        self.check_times(histories);
    }

    /// One backup of each point: its host, and the zone of the client's clock.
    ///
    /// Each backup waits a fifth of a second for others' locks, and several at once stumble over each other's and
    /// wait long. So each of eight has a repository of its own. They have one key, so all their files together are a
    /// repository, too.
    pub(super) fn take_as(&self, points: &[(&str, &Point, String)]) {
        let share: Vec<_> = points.chunks(points.len().div_ceil(8)).enumerate().collect();
        side_by_side(8, &share, |(number, points)| {
            let repository = format!("repository-{number}");
            make(&self.dir.path().join(&repository));
            for (host, point, zone) in *points {
                self.backup(&repository, host, point, zone);
            }
        });
        for (number, _) in share {
            for room in ROOMS {
                let from = self.dir.path().join(format!("repository-{number}/{room}"));
                move_files(&from, &self.dir.path().join(MAIN).join(room));
            }
        }
    }

    fn backup(&self, repository: &str, host: &str, point: &Point, client_zone: &str) {
        let local = point.at.to_zoned(TimeZone::get(client_zone).unwrap());
        let time = local.strftime("%Y-%m-%d %H:%M:%S").to_string();
        let name = format!("name:{}", point.name);
        let mut args =
            vec!["backup", "--no-cache", "--quiet", "--host", host, "--time", &time, "--tag", &name];
        if point.pinned {
            args.extend(["--tag", HELD]);
        }
        args.push("file");
        self.run(repository, client_zone, &args);
    }

    /// What was stored is what was meant: the instant, and the time on the wall, by which restic's buckets go.
    fn check_times(&self, histories: &[History]) {
        let listed: Value =
            serde_json::from_str(&self.run(MAIN, "UTC", &["snapshots", "--no-cache", "--no-lock", "--json"]))
                .unwrap();
        let mut stored: BTreeMap<String, String> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|s| (name_of(s), s["time"].as_str().unwrap().to_owned()))
            .collect();
        for history in histories {
            for point in &history.points {
                let time = stored.remove(&point.name).unwrap();
                let (at, offset) =
                    (time.parse::<Timestamp>().unwrap(), time.trim_end_matches('Z').to_owned());
                let wall = point.at.to_zoned(history.tz()).datetime().to_string();
                assert_eq!(at, point.at, "{time}");
                assert!(offset.starts_with(&wall), "{}: {time}, not {wall}", history.zone);
            }
        }
        assert!(stored.is_empty(), "{stored:?}");
    }

    /// What `restic forget` would keep of each host's, and why, in our words; of a host without any, nothing.
    ///
    /// The zone is the one in which it counts the days of `keep-within`: see
    /// [`restic_differences`](super::restic_differences).
    pub(super) fn forget(&self, zone: &str, keep: &Keep, held: bool) -> BTreeMap<String, Stays> {
        let mut args: Vec<String> =
            counts(keep).into_iter().flat_map(|(rule, n)| [format!("--{rule}"), n.to_string()]).collect();
        if let Some(within) = keep.within {
            let (days, hours) = (within.as_hours() / 24, within.as_hours() % 24);
            let mut span = String::new();
            for (n, unit) in [(days, 'd'), (hours, 'h')] {
                if n != 0 {
                    write!(span, "{n}{unit}").unwrap();
                }
            }
            args.extend(["--keep-within".to_owned(), span]);
        }
        if held {
            args.extend(["--keep-tag".to_owned(), HELD.to_owned()]);
        }
        self.forget_with(zone, &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same for options as they are.
    pub(super) fn forget_with(&self, zone: &str, options: &[&str]) -> BTreeMap<String, Stays> {
        let mut args = vec!["forget", "--no-cache", "--no-lock", "--dry-run", "--json", "--group-by", "host"];
        args.extend(options);
        let text = self.run(MAIN, zone, &args);
        let groups: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("restic {args:?}: {e}\n{text}"));
        let groups = groups.as_array().unwrap().iter();
        groups.map(|group| (group["host"].as_str().unwrap().to_owned(), stays(group))).collect()
    }
}

/// One group of its answer.
fn stays(group: &Value) -> Stays {
    let list = |key: &str| group[key].as_array().cloned().unwrap_or_default();
    let (kept, reasons) = (list("keep"), list("reasons"));
    assert_eq!(kept.len(), reasons.len());
    kept.iter()
        .zip(reasons)
        .map(|(snapshot, reason)| {
            let matches = reason["matches"].as_array().unwrap();
            (name_of(snapshot), matches.iter().map(|m| our_word(m.as_str().unwrap())).collect())
        })
        .collect()
}

fn name_of(snapshot: &Value) -> String {
    let tags = snapshot["tags"].as_array().unwrap();
    tags.iter().find_map(|tag| tag.as_str()?.strip_prefix("name:")).unwrap().to_owned()
}

/// Our word for one of its reasons. Since 0.18 it says "oldest …" of some.
fn our_word(reason: &str) -> String {
    let word = reason.strip_prefix("oldest ").unwrap_or(reason).split(' ').next().unwrap();
    match word {
        "last" | "hourly" | "daily" | "weekly" | "monthly" | "yearly" | "within" => format!("keep-{word}"),
        "has" => "pinned".to_owned(),
        _ => panic!("a reason without a word of ours: {reason}"),
    }
}

/// A zone whose wall clock shows the same, and in which restic finds this instant.
///
/// restic takes local times only, and of the two that a repeated hour has, Go takes the one or the other. Where there
/// are two, a zone without changes stands in, if there is one with this offset. (There is none for the second pass of
/// Lord Howe's repeated half hour; that one Go takes.)
fn client_zone(tz: &TimeZone, name: &str, at: Timestamp) -> String {
    let offset = tz.to_offset(at).seconds();
    let twice = matches!(
        tz.to_ambiguous_timestamp(at.to_zoned(tz.clone()).datetime()).offset(),
        AmbiguousOffset::Fold { .. }
    );
    if twice && offset % 3_600 == 0 {
        // POSIX signs: west is positive.
        format!("Etc/GMT{:+}", -offset / 3_600)
    } else {
        name.to_owned()
    }
}

/// Works on all items with so many threads.
pub(super) fn side_by_side<T: Sync>(threads: usize, items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}
