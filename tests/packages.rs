//! What the packages hold: all that `make install-files` installs, for both formats, and nothing that lintian minds.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

/// Tags that lintian has for whoever builds a package on a machine of their own: its maintainer is root there.
const BUILT_LOCALLY: &str = "bogus-mail-host,bogus-mail-host-in-debian-changelog,root-in-contact";

/// What a command says; it must succeed.
fn run(command: &mut Command) -> String {
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Makes the package in a directory of the test's own. Its path.
fn package(format: &str, out: &Path) -> PathBuf {
    let binaries = Path::new(env!("CARGO_BIN_EXE_virtsnapd")).parent().unwrap();
    run(Command::new(format!("packaging/{format}.sh")).args([binaries, out])).trim().into()
}

/// The files among these lines, without what each format has a place of its own for: licences, zsh's completion, and the
/// changelog and overrides that are Debian's.
fn files<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let own = ["/copyright", "/LICENSE", "/_virtsnap", "/changelog.Debian.gz", "/lintian/overrides/virtsnap"];
    lines.filter(|l| !l.ends_with('/') && !own.iter().any(|o| l.ends_with(o))).map(str::to_owned).collect()
}

#[test]
fn both_formats_hold_the_same_and_lintian_is_content() {
    let out = tempfile::tempdir().unwrap();
    let deb = package("deb", out.path());
    let rpm = package("rpm", out.path());

    // C is the only locale that is there for sure; as root, lintian warns of that.
    let complaints = run(Command::new("lintian")
        .args(["--allow-root", "--fail-on", "none", "--suppress-tags", BUILT_LOCALLY])
        .arg(&deb));
    assert_eq!(complaints, "");

    let listed = run(Command::new("sh").args(["-c", "dpkg-deb --fsys-tarfile \"$0\" | tar -t"]).arg(&deb));
    let in_deb = files(listed.lines().map(|l| l.strip_prefix('.').unwrap_or(l)));
    let listed = run(Command::new("rpm").args(["-qp", "--list"]).arg(&rpm));
    assert_eq!(files(listed.lines()), in_deb);
    for file in [
        "/usr/bin/virtsnap",
        "/usr/bin/virtsnapd",
        "/usr/sbin/virtsnap-apparmor",
        "/usr/lib/systemd/system/virtsnapd.service",
        "/usr/lib/tmpfiles.d/virtsnap.conf",
        "/usr/share/dbus-1/interfaces/org.virtsnap1.Manager.xml",
        "/usr/share/doc/virtsnap/third-party-licenses.txt.gz",
    ] {
        assert!(in_deb.contains(file), "no {file}");
    }

    // What an administrator changed stays.
    let ours = ["/etc/polkit-1/rules.d/50-virtsnap-libvirt.rules", "/etc/virtsnap/virtsnapd.toml"];
    let conffiles = run(Command::new("dpkg-deb").arg("-I").args([&deb, Path::new("conffiles")]));
    let config = run(Command::new("rpm").args(["-qp", "--configfiles"]).arg(&rpm));
    for file in ours {
        assert!(conffiles.lines().any(|l| l == file), "{file}: {conffiles}");
        assert!(config.lines().any(|l| l == file), "{file}: {config}");
    }
}
