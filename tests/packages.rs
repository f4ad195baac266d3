//! What the packages hold: all that `make install-files` installs, for both formats, and nothing that lintian minds.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

/// Tags that lintian has for whoever builds a package on a machine of their own: its maintainer is root there.
const BUILT_LOCALLY: &str = "bogus-mail-host,bogus-mail-host-in-debian-changelog,root-in-contact";

/// All files of both packages: the mode, which of the two holds it if only one does, or that it is an administrator's to
/// change, and the path. All are root's. Licences and zsh's completion have a place of their own in each format.
const FILES: &str = "\
644 conf /etc/polkit-1/rules.d/50-virtsnap-libvirt.rules
644 conf /etc/virtsnap/policies.d/README
644 conf /etc/virtsnap/virtsnapd.toml
755 /usr/bin/virtsnap
755 /usr/bin/virtsnapd
644 /usr/lib/systemd/catalog/virtsnap.catalog
644 /usr/lib/systemd/system-preset/90-virtsnapd.preset
644 /usr/lib/systemd/system/virtsnap-apparmor-tidy.service
644 /usr/lib/systemd/system/virtsnap-apparmor@.service
644 /usr/lib/systemd/system/virtsnap-thaw.service
644 /usr/lib/systemd/system/virtsnap-thaw.socket
644 /usr/lib/systemd/system/virtsnapd.service
644 /usr/lib/sysusers.d/virtsnap.conf
644 /usr/lib/tmpfiles.d/virtsnap.conf
755 /usr/sbin/virtsnap-apparmor
644 /usr/share/bash-completion/completions/virtsnap
644 /usr/share/dbus-1/interfaces/org.virtsnap1.Job.xml
644 /usr/share/dbus-1/interfaces/org.virtsnap1.Manager.xml
644 /usr/share/dbus-1/interfaces/org.virtsnap1.Policy.xml
644 /usr/share/dbus-1/interfaces/org.virtsnap1.Snapshot.xml
644 /usr/share/dbus-1/interfaces/org.virtsnap1.VM.xml
644 /usr/share/dbus-1/system-services/org.virtsnap1.service
644 /usr/share/dbus-1/system.d/org.virtsnap1.conf
644 /usr/share/doc/virtsnap/README.md
644 deb /usr/share/doc/virtsnap/changelog.Debian.gz
644 deb /usr/share/doc/virtsnap/copyright
644 /usr/share/doc/virtsnap/examples/all-keys.toml
644 /usr/share/doc/virtsnap/examples/developer.toml
644 /usr/share/doc/virtsnap/examples/nightly.toml
644 /usr/share/doc/virtsnap/examples/snapshot.js
644 /usr/share/doc/virtsnap/examples/snapshot.py
644 /usr/share/doc/virtsnap/examples/snapshot.rs
644 /usr/share/doc/virtsnap/third-party-licenses.txt.gz
644 /usr/share/fish/vendor_completions.d/virtsnap.fish
644 rpm /usr/share/licenses/virtsnap/LICENSE
644 deb /usr/share/lintian/overrides/virtsnap
644 /usr/share/man/man1/virtsnap.1.gz
644 /usr/share/man/man5/org.virtsnap1.5.gz
644 /usr/share/man/man5/virtsnap-policy.5.gz
644 /usr/share/man/man8/virtsnap-apparmor.8.gz
644 /usr/share/man/man8/virtsnapd.8.gz
644 /usr/share/polkit-1/actions/org.virtsnap1.policy
644 /usr/share/polkit-1/rules.d/60-virtsnap.rules
644 rpm /usr/share/zsh/site-functions/_virtsnap
644 deb /usr/share/zsh/vendor-completions/_virtsnap
";

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

/// The lines of the list: the mode, which package or what it is, the path.
fn listed() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    FILES.lines().map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [mode, path] => (mode, "", path),
        [mode, what, path] => (mode, what, path),
        _ => panic!("{line}"),
    })
}

/// What is to be in a package, as the other functions here tell it.
fn expected(format: &str) -> BTreeSet<String> {
    let other = if format == "deb" { "rpm" } else { "deb" };
    listed()
        .filter(|(_, what, _)| *what != other)
        .map(|(mode, _, path)| format!("{mode} root/root {path}"))
        .collect()
}

/// The files that are an administrator's to change.
fn configuration() -> BTreeSet<&'static str> {
    listed().filter(|(_, what, _)| *what == "conf").map(|(.., path)| path).collect()
}

/// The directories above these files, each for all to enter.
fn above(files: &BTreeSet<String>) -> BTreeSet<String> {
    let path = |line: &String| Path::new(line.rsplit(' ').next().unwrap()).to_owned();
    let above = files.iter().flat_map(|file| {
        let file = path(file);
        let above: Vec<_> = file.ancestors().skip(1).map(|dir| dir.display().to_string()).collect();
        above
    });
    above.filter(|dir| dir != "/").map(|dir| format!("755 root/root {dir}/")).collect()
}

/// What tar says of a file, as the mode in octal, the owner and the path.
fn in_tar(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let [letters, owner, .., path] = words[..] else { panic!("{line}") };
    let bits = letters.bytes().skip(1).fold(0, |bits, letter| bits << 1 | u32::from(letter != b'-'));
    assert!(letters.bytes().skip(1).all(|letter| b"rwx-".contains(&letter)), "no other bit: {line}");
    let owner = if owner == "0/0" { "root/root" } else { owner };
    format!("{bits:o} {owner} {}", path.trim_start_matches('.'))
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

    let listed = run(Command::new("sh")
        .args(["-c", "dpkg-deb --fsys-tarfile \"$0\" | tar -tv --numeric-owner"])
        .arg(&deb));
    let in_deb: BTreeSet<String> = listed.lines().map(in_tar).collect();
    let (directories, files): (BTreeSet<_>, BTreeSet<_>) = in_deb.into_iter().partition(|f| f.ends_with('/'));
    assert_eq!(files, expected("deb"));
    assert_eq!(directories, above(&files));
    let listed = run(Command::new("rpm")
        .args(["-qp", "--qf"])
        .arg("[%{FILEMODES:octal} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]")
        .arg(&rpm));
    let in_rpm: BTreeSet<String> = listed.lines().map(|l| l.replacen("100", "", 1)).collect();
    assert_eq!(in_rpm, expected("rpm"));

    // What an administrator changed stays.
    let conffiles = run(Command::new("dpkg-deb").arg("-I").args([&deb, Path::new("conffiles")]));
    assert_eq!(conffiles.lines().collect::<BTreeSet<_>>(), configuration());
    let config = run(Command::new("rpm").args(["-qp", "--configfiles"]).arg(&rpm));
    assert_eq!(config.lines().collect::<BTreeSet<_>>(), configuration());
}
