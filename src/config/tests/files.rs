use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use tempfile::TempDir;

use super::{
    super::{ConfigRoots, Style, load, report},
    policy,
};

fn put(root: &TempDir, path: &str, text: impl AsRef<[u8]>) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn named(name: &str) -> String {
    policy("").replace("[policy.p]", &format!("[policy.{name}]"))
}

fn roots(root: &TempDir) -> ConfigRoots {
    ConfigRoots::new(["etc", "run", "usr"].map(|d| root.path().join(d)))
}

fn names(root: &TempDir) -> Vec<String> {
    let loaded = load(&roots(root)).unwrap_or_else(|e| panic!("{e}"));
    loaded.settings.policies.keys().map(ToString::to_string).collect()
}

fn errors(root: &TempDir) -> Vec<String> {
    let prefix = format!("{}/", root.path().display());
    load(&roots(root)).unwrap_err().lines().iter().map(|l| l.replace(&prefix, "")).collect()
}

#[test]
fn the_earlier_directory_wins_and_masks() {
    let root = TempDir::new().unwrap();
    put(&root, "usr/policies.d/a.toml", named("usr-a"));
    put(&root, "usr/policies.d/b.toml", named("usr-b"));
    put(&root, "usr/policies.d/c.toml", named("usr-c"));
    put(&root, "usr/policies.d/d.toml", named("usr-d"));
    put(&root, "run/policies.d/a.toml", named("run-a"));
    put(&root, "etc/policies.d/b.toml", named("etc-b"));
    put(&root, "etc/policies.d/c.toml", "");
    symlink("/dev/null", root.path().join("etc/policies.d/d.toml")).unwrap();
    // Not ours.
    put(&root, "etc/policies.d/.hidden.toml", "broken");
    put(&root, "etc/policies.d/e.toml~", "broken");
    put(&root, "etc/policies.d/README", "broken");
    assert_eq!(names(&root), ["etc-b", "run-a"]);
}

#[test]
fn the_main_file_is_the_first_there_is() {
    let root = TempDir::new().unwrap();
    put(&root, "usr/virtsnapd.toml", "[daemon]\nmax-jobs = 7\n");
    put(
        &root,
        "run/virtsnapd.toml",
        "[daemon]\nmax-jobs = 5\n[policy.p]\nvms = [\"*\"]\nbefore = \"upgrade\"\n",
    );
    let loaded = load(&roots(&root)).unwrap();
    assert_eq!(loaded.settings.daemon.max_jobs, 5);
    assert_eq!(loaded.files, [root.path().join("run/virtsnapd.toml")]);
    symlink("/dev/null", {
        fs::create_dir_all(root.path().join("etc")).unwrap();
        root.path().join("etc/virtsnapd.toml")
    })
    .unwrap();
    assert_eq!(load(&roots(&root)).unwrap().settings.daemon.max_jobs, 2);
}

#[test]
fn what_this_version_does_not_do_is_said_at_its_place_and_counted() {
    let root = TempDir::new().unwrap();
    put(&root, "etc/virtsnapd.toml", "[daemon]\nmax-jobs = 3\nhooks = \"/srv/hooks\"\n");
    put(
        &root,
        "etc/policies.d/p.toml",
        policy("skip-unchanged = true\n[vm.db]\npolicy.p.skip-unchanged = true\n"),
    );
    let roots = ConfigRoots::new([root.path().join("etc")]);
    let loaded = load(&roots);
    let shown = report(&loaded, "2026-11-21T12:00:00Z".parse().unwrap(), Style::Plain);
    let etc = format!("{}/etc/", root.path().display());
    let lines: Vec<_> =
        loaded.unwrap().warnings.lines().iter().map(|l| l.strip_prefix(&etc).unwrap().to_owned()).collect();
    assert_eq!(
        lines,
        [
            "policies.d/p.toml:5:1: warning: policy p: `skip-unchanged` has no effect in this version: each run takes a \
             snapshot",
            "policies.d/p.toml:7:10: warning: policy p for VM db: `skip-unchanged` has no effect in this version: each run \
             takes a snapshot",
        ]
    );
    assert!(shown.contains("\n5 | skip-unchanged = true\n  | ^^^^^^^^^^^^^^^^^^^^^\n"), "{shown}");
    assert!(shown.ends_with("\n2 files, 1 policy, 0 errors, 2 warnings\n"), "{shown}");
}

#[test]
fn no_directory_is_no_error_but_a_named_one_is_worth_a_word() {
    let root = TempDir::new().unwrap();
    let loaded = load(&roots(&root)).unwrap();
    assert_eq!(loaded.warnings.len(), 3);
    assert!(loaded.warnings.lines()[0].ends_with("/etc: warning: there is no such directory"));
    let usual = ConfigRoots::default();
    assert_eq!(usual.directories()[0], Path::new("/etc/virtsnap"));
}

#[test]
fn what_cannot_be_read_is_an_error_with_the_reason() {
    let root = TempDir::new().unwrap();
    put(&root, "etc/policies.d/a.toml", b"[policy.p]\nvms = [\"\xe4\"]\n");
    symlink("/nowhere/at/all", root.path().join("etc/policies.d/b.toml")).unwrap();
    fs::create_dir(root.path().join("etc/policies.d/c.toml")).unwrap();
    assert!(
        Command::new("mkfifo").arg(root.path().join("etc/policies.d/d.toml")).status().unwrap().success()
    );
    put(&root, "etc/policies.d/e.toml", "#".repeat(5 << 20));
    fs::create_dir(root.path().join("usr")).unwrap();
    // May be an exception to what could not be read.
    put(&root, "etc/policies.d/f.toml", "[vm.x]\npolicy.p.keep-last = 1\n");
    put(&root, "run/policies.d/b.toml", named("behind-a-broken-link"));
    assert_eq!(
        errors(&root),
        [
            "etc/policies.d/a.toml:2:9: error: this is not UTF-8",
            "etc/policies.d/b.toml: error: this cannot be read: No such file or directory (os error 2)",
            "etc/policies.d/c.toml: error: this cannot be read: it is not a file",
            "etc/policies.d/d.toml: error: this cannot be read: it is not a file",
            "etc/policies.d/e.toml: error: this cannot be read: it is larger than 4 MiB",
        ]
    );
    let shown = load(&roots(&root)).unwrap_err().to_string();
    assert!(shown.contains("^ from here"), "{shown}");
}

#[test]
fn a_file_without_permission_is_an_error() {
    let root = TempDir::new().unwrap();
    put(&root, "etc/policies.d/a.toml", "");
    let path = root.path().join("etc/policies.d/a.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything.
    if fs::File::open(&path).is_ok() {
        return;
    }
    assert_eq!(
        errors(&root),
        ["etc/policies.d/a.toml: error: this cannot be read: Permission denied (os error 13)"]
    );
}
