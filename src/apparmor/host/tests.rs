use std::{cell::Cell, os::unix::fs::PermissionsExt as _};

use tempfile::TempDir;

use super::*;

fn host() -> (TempDir, Host) {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::at(directory.path());
    fs::create_dir(&host.profiles).unwrap();
    (directory, host)
}

fn put(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

fn refused(host: &Host, name: &str) -> String {
    let made = host.change(name, |text| Ok(format!("{text}more\n")));
    made.expect_err("it is refused").to_string()
}

#[test]
fn a_change_is_whole_keeps_the_mode_and_leaves_nothing_beside_it() {
    let (_directory, host) = host();
    let path = put(&host, "p", "one\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    put(&host, ".p.virtsnap~", "left by one that was killed");
    let change = host.change("p", |text| Ok(format!("{text}two\n"))).unwrap();
    assert!(change.is_one() && host.is_still(&change).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(&host.profiles).unwrap().count(), 1);
    host.put_back(&change).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
    assert!(!host.is_still(&change).unwrap());
}

#[test]
fn what_is_right_already_is_not_written() {
    let (_directory, host) = host();
    let path = put(&host, "p", "one\n");
    let before = fs::metadata(&path).unwrap().ino();
    assert!(!host.change("p", |text| Ok(text.to_owned())).unwrap().is_one());
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
}

#[test]
fn what_libvirt_writes_at_the_same_time_is_not_lost() {
    let (_directory, host) = host();
    let path = put(&host, "p", "one\n");
    let times = Cell::new(0);
    let change = host
        .change("p", |text| {
            times.set(times.get() + 1);
            if times.get() == 1 {
                fs::write(&path, "libvirt's\n").unwrap();
            }
            Ok(format!("{text}ours\n"))
        })
        .unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "libvirt's\nours\n");
    assert_eq!(change.before, "libvirt's\n");
    // One that never ends is an error, and libvirt's text stays.
    let number = Cell::new(0);
    let failure = host.change("p", |text| {
        number.set(number.get() + 1);
        fs::write(&path, format!("libvirt's {}\n", number.get())).unwrap();
        Ok(format!("{text}ours\n"))
    });
    assert!(failure.unwrap_err().to_string().contains("again and again"));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("libvirt's {TRIES}\n"));
}

#[test]
fn what_somebody_else_wrote_since_is_not_put_back() {
    let (_directory, host) = host();
    let path = put(&host, "p", "one\n");
    let change = host.change("p", |_| Ok("two\n".to_owned())).unwrap();
    fs::write(&path, "three\n").unwrap();
    host.put_back(&change).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
}

#[test]
fn only_a_plain_file_that_root_alone_can_write_is_changed() {
    let (directory, host) = host();
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, "theirs\n").unwrap();
    std::os::unix::fs::symlink(&elsewhere, host.path("link")).unwrap();
    refused(&host, "link");
    fs::hard_link(&elsewhere, host.path("hard")).unwrap();
    assert!(refused(&host, "hard").contains("plain file"));
    fs::create_dir(host.path("directory")).unwrap();
    refused(&host, "directory");
    let open_to_all = put(&host, "open", "x\n");
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(refused(&host, "open").contains("others"));
    put(&host, "long", &"x".repeat(1024 * 1024 + 1));
    assert!(refused(&host, "long").contains("longer"));
    put(&host, "full", &"x".repeat(1024 * 1024 - 2));
    assert!(refused(&host, "full").contains("too long"));
    refused(&host, "missing");
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "theirs\n");
    assert!(!host.path(".full.virtsnap~").exists());
}

#[test]
fn files_are_looked_at_as_apparmor_sees_them() {
    let (directory, host) = host();
    let root = directory.path().canonicalize().unwrap();
    fs::create_dir(root.join("real")).unwrap();
    std::os::unix::fs::symlink(root.join("real"), root.join("linked")).unwrap();
    fs::write(root.join("real/a"), "").unwrap();
    std::os::unix::fs::symlink("a", root.join("real/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("real/broken")).unwrap();
    let look = |name: &str| host.look(root.join(name).to_str().unwrap()).unwrap();
    let a = look("linked/a").unwrap();
    assert_eq!(a.real, root.join("real/a").to_str().unwrap());
    assert!(a.plain);
    let link = look("real/link").unwrap();
    assert_eq!((link.file, link.plain), (a.file, false));
    for missing in ["real/missing", "real/broken", "missing/a", "real/a/below"] {
        assert_eq!(look(missing), None, "{missing}");
    }
    fs::hard_link(root.join("real/a"), root.join("real/b")).unwrap();
    assert!(!look("real/a").unwrap().plain);
    assert!(!look("real").unwrap().plain);
}
