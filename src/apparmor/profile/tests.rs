use super::{
    super::{tests::VM, uuid},
    *,
};

/// As libvirt 9.0.0's virt-aa-helper makes it of its template, to the letter.
const BOOKWORM: &str = "\
#
# This profile is for the domain whose UUID matches this file.
#

#include <tunables/global>

profile libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b flags=(attach_disconnected) {
  #include <abstractions/libvirt-qemu>
  #include <libvirt/libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b.files>

}
";

fn vm() -> VmId {
    uuid(VM).unwrap()
}

/// 11.3's differs in one line.
fn trixie() -> String {
    BOOKWORM.replace("#include <libvirt/", "#include if exists <libvirt/")
}

fn images(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

#[test]
fn the_rules_stand_before_the_brace_that_closes_the_profile() {
    for text in [BOOKWORM.to_owned(), trixie()] {
        let made = with_rules(&text, vm(), &images(&["/i/web.qcow2", "/i/web s1.qcow2"])).unwrap();
        let added = "  # What merging this VM's snapshots writes; virtsnap-apparmor writes lines that end so anew. # virtsnap\n  \
                     priority=1 \"/i/web.qcow2\" rwk, # virtsnap\n  \
                     priority=1 \"/i/web s1.qcow2\" rwk, # virtsnap\n";
        assert_eq!(made, format!("{}{added}}}\n", text.strip_suffix("}\n").unwrap()));
    }
}

#[test]
fn written_again_it_is_the_same_and_taken_away_as_before() {
    let text = trixie();
    let first = with_rules(&text, vm(), &images(&["/i/a.qcow2", "/i/b.qcow2"])).unwrap();
    let again = with_rules(&first, vm(), &images(&["/i/a.qcow2", "/i/b.qcow2"])).unwrap();
    assert_eq!(again, first);
    assert_eq!(without_ours(&first), text);
    assert_eq!(without_ours(&text), text);
    // What is the VM's no more, as a linked clone lies on it now, goes.
    let fewer = with_rules(&first, vm(), &images(&["/i/b.qcow2"])).unwrap();
    assert!(!fewer.contains("/i/a.qcow2") && fewer.contains("priority=1 \"/i/b.qcow2\" rwk,"), "{fewer}");
}

#[test]
fn what_the_administrator_wrote_stays_where_it_is() {
    let text = "\
# a profile libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b { in words
include <tunables/global>
profile other {
}
profile libvirt-0d2f5b3c-7a4e-4c1b-9d57-3f9d7f0c1a2b flags=(attach_disconnected,complain) { # theirs {
  #include <abstractions/libvirt-qemu>
  \"/srv/{a,b}/#1 {\" r, # see }
  ^hat {
    /x r,
}
  if defined $x {
    /y r,
  } else {
    /z r,
  }
  # the last one: }
  } # closed here
profile another {
}
";
    let made = with_rules(text, vm(), &images(&["/i/a.qcow2"])).unwrap();
    let (before, after) = made.split_once("  # What merging").unwrap();
    assert!(before.ends_with("  # the last one: }\n"), "{made}");
    assert!(after.ends_with("rwk, # virtsnap\n  } # closed here\nprofile another {\n}\n"), "{made}");
    assert_eq!(without_ours(&made), text);
    // Moved elsewhere by them, our lines are still found.
    let moved: String = made.split_inclusive('\n').rev().collect();
    assert!(!without_ours(&moved).contains("/i/a.qcow2"));
}

#[test]
fn without_a_place_for_rules_there_is_no_text() {
    let no = |text: &str| with_rules(text, vm(), &images(&["/i/a"])).unwrap_err();
    assert_eq!(no(""), NoPlace::NoProfile);
    assert_eq!(no(&BOOKWORM.replace("1a2b flags", "1a2c flags")), NoPlace::NoProfile);
    assert_eq!(no(&BOOKWORM.replace("1a2b flags", "1a2b//x flags")), NoPlace::NoProfile);
    assert_eq!(no(BOOKWORM.strip_suffix("}\n").unwrap()), NoPlace::NotClosed);
}

#[test]
fn a_path_that_is_a_pattern_gets_no_rule() {
    let made = with_rules(BOOKWORM, vm(), &images(&["/i/*", "/i/a\" rwk,\n  \"/**", "/etc/shadow", "/i/b"]))
        .unwrap();
    let rules: Vec<_> = made.lines().filter(|l| l.contains("priority=")).collect();
    assert_eq!(rules, ["  priority=1 \"/i/b\" rwk, # virtsnap"]);
}
