//! The program `borg`, through the Python that it is written in.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use virtsnap::core::policy::Keep;

use super::{
    history::History,
    ours::{Stays, counts},
};

/// Debian's Borg belongs to Debian's Python, whatever other Python comes first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

/// What to ask: a zone, the history by its place, the rules, further options.
pub(super) type Question<'a> = (&'a str, usize, Keep, &'a [&'a str]);

/// What `borg prune` would keep, and by which rule, for each question.
pub(super) fn prune(histories: &[History], questions: &[Question<'_>]) -> Vec<Stays> {
    let dir = super::scratch();
    let archives: Vec<Value> = histories
        .iter()
        .enumerate()
        .flat_map(|(i, h)| h.points.iter().map(move |p| json!([format!("{i}-{}", p.name), p.at.as_second()])))
        .collect();
    let asked: Vec<Value> = questions
        .iter()
        .map(|(zone, history, keep, options)| {
            let mut args = vec!["--glob-archives".to_owned(), format!("{history}-*")];
            args.extend(options.iter().map(|o| (*o).to_owned()));
            for (rule, n) in counts(keep) {
                args.extend([format!("--{rule}"), n.to_string()]);
            }
            json!([zone, args])
        })
        .collect();
    let repository = dir.path().join("repository");
    let task = json!({"repository": repository, "archives": archives, "questions": asked});

    let mut python = Command::new(PYTHON)
        .args(["-c", include_str!("borg_peer.py")])
        .current_dir(dir.path())
        .env_clear()
        .env("BORG_BASE_DIR", dir.path())
        .envs([
            ("PATH", "/usr/bin:/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes"),
            // It tests its hash tables at each start, which takes longer than the prune.
            ("BORG_SELFTEST", "disabled"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("this test needs {PYTHON} and Borg: install the package borgbackup: {e}"));
    python.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    let (version, answers) = answers.split_first().unwrap();
    eprintln!("borg {version}");
    assert_eq!(answers.len(), questions.len());
    answers.iter().map(|text| stays(text)).collect()
}

/// What one list says: `Keeping archive (rule: daily #1):   0-name   Sun, 2024-…`, or `Would prune:   0-name  Sun, …`.
fn stays(text: &str) -> Stays {
    let mut stays = Stays::new();
    for line in text.lines() {
        let (what, rest) =
            line.split_once("):").or_else(|| line.split_once(':')).unwrap_or_else(|| panic!("{text}"));
        let archive = rest.split_whitespace().next().unwrap();
        let name = archive.split_once('-').unwrap().1.to_owned();
        if let Some(rule) = what.strip_prefix("Keeping archive (rule: ") {
            let rule = rule.split(' ').next().unwrap();
            // It takes the archives of a second as one.
            let rule = rule.replace("secondly", "last");
            stays.insert(name, [format!("keep-{rule}")].into());
        } else {
            assert!(what.starts_with("Would prune"), "{line}");
        }
    }
    stays
}
