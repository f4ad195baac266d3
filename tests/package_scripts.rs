//! What the packages' scripts do to files, in a directory for a root. There no systemd runs, so that this is all they do.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use virtsnap::{
    apparmor::{ANSWERS, files, profile, profile_name},
    core::model::VmId,
};

const PROFILES: &str = "etc/apparmor.d/libvirt";
/// As libvirt has them, and an administrator who wrote into one.
const PROFILE: &str = "#include <tunables/global>\n\nprofile NAME flags=(attach_disconnected) {\n  \
                       #include <abstractions/libvirt-qemu>\n  #include <libvirt/NAME.files>\n  \
                       # by hand, with virtsnap in mind\n  \"/srv/iso/\" r,\n}\n";
const INCLUDED: &str =
    "  \"/i/web.s1.qcow2\" rwk,\n  \"/i/web.qcow2\" rk,\n  deny \"/i/web.qcow2\" w,\n  \"/i/cd.iso\" rk,\n";

/// Its text as it would run with this directory for a root. Nothing of it may reach the real one.
fn in_root(text: &str, root: &Path) -> String {
    let root = root.to_str().unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut moved = String::new();
    for line in code {
        let words = line.split(' ').map(|word| match word.strip_prefix('/') {
            Some(path) => format!("{root}/{path}"),
            None => word.to_owned(),
        });
        moved += &(words.collect::<Vec<_>>().join(" ") + "\n");
    }
    let rest = moved.replace(&format!("{root}/"), "");
    for outside in ["/etc", "/run", "/usr", "/var"] {
        assert!(!rest.contains(outside), "{outside}: {rest}");
    }
    moved
}

/// Runs a script as the package's manager does.
fn run(script: &str, argument: &str, root: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(script);
    let text = in_root(&fs::read_to_string(&path).unwrap(), root);
    let done = Command::new("sh").args(["-ec", &text, script, argument]).output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && told.is_empty(), "{script} {argument}: {told}");
}

/// A host with two VMs' profiles; of the first one's, each file and what was in it before it was let write.
fn host() -> (TempDir, [(PathBuf, String); 2]) {
    let root = tempfile::tempdir().unwrap();
    let profiles = root.path().join(PROFILES);
    fs::create_dir_all(&profiles).unwrap();
    let [web, db] = [1, 2].map(|number| VmId(uuid::Uuid::from_u128(number)));
    let text = |vm| PROFILE.replace("NAME", &profile_name(vm));
    let (own, included) = (profiles.join(profile_name(web)), profiles.join(profile_name(web) + ".files"));
    let images = ["/i/web.qcow2", "/i/web s1.qcow2"].map(str::to_owned);
    fs::write(&own, profile::with_rules(&text(web), web, &images).unwrap()).unwrap();
    fs::write(&included, files::lifted(INCLUDED, &images)).unwrap();
    fs::write(profiles.join(profile_name(db)), text(db)).unwrap();
    // libvirt itself writes the denials again.
    let lifted = INCLUDED.replace("  deny \"/i/web.qcow2\" w,\n", "");
    (root, [(own, text(web)), (included, lifted)])
}

#[test]
fn what_vms_were_let_write_is_taken_back_when_the_package_goes_and_not_at_an_upgrade() {
    for (script, upgraded, removed) in [("debian/prerm", "upgrade", "remove"), ("rpm/preun.sh", "1", "0")] {
        let (root, of_web) = host();
        let granted = of_web.clone().map(|(file, _)| fs::read_to_string(file).unwrap());
        assert!(granted.iter().all(|text| text.contains("rwk, # virtsnap\n")), "{granted:?}");
        run(script, upgraded, root.path());
        assert_eq!(of_web.clone().map(|(file, _)| fs::read_to_string(file).unwrap()), granted, "{script}");
        run(script, removed, root.path());
        for (file, before) in of_web {
            assert_eq!(fs::read_to_string(&file).unwrap(), before, "{script}: {}", file.display());
        }
        let db = profile_name(VmId(uuid::Uuid::from_u128(2)));
        let left = fs::read_to_string(root.path().join(PROFILES).join(&db)).unwrap();
        assert_eq!(left, PROFILE.replace("NAME", &db), "{script}");
        assert_eq!(fs::read_dir(root.path().join(PROFILES)).unwrap().count(), 3, "{script}");
    }
}

#[test]
fn where_there_is_no_apparmor_the_package_goes_all_the_same() {
    for (script, removed) in [("debian/prerm", "remove"), ("rpm/preun.sh", "0")] {
        run(script, removed, tempfile::tempdir().unwrap().path());
    }
}

#[test]
fn the_helpers_answers_go_with_the_package_and_stay_at_an_upgrade() {
    for (script, kept, gone) in
        [("debian/postrm", &["upgrade", "remove"][..], "purge"), ("rpm/postun.sh", &["1"], "0")]
    {
        let root = tempfile::tempdir().unwrap();
        let answers = root.path().join(ANSWERS.trim_start_matches('/'));
        fs::create_dir_all(&answers).unwrap();
        fs::write(answers.join("00000000-0000-0000-0000-000000000001.json"), "{}").unwrap();
        for argument in kept {
            run(script, argument, root.path());
            assert!(answers.is_dir(), "{script} {argument}");
        }
        run(script, gone, root.path());
        assert!(!answers.exists(), "{script} {gone}");
        // A second time, as after what was cut short.
        run(script, gone, root.path());
    }
}
