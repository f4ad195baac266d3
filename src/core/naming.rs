//! Names for what we make: snapshots from a policy's template, overlays beside their disk.

use jiff::Timestamp;
use uuid::Uuid;

use super::model::{NameError, SnapshotName};

/// What a template's placeholders stand for.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `{policy}`: the policies' names, joined with `+`.
    pub policy: &'a str,
    /// `{vm}`: the VM's name.
    pub vm: &'a str,
    /// `{operation}`: the announced operation, or `manual`.
    pub operation: &'a str,
    /// `{timestamp}`: UTC, `20261121T013000Z`, so that names sort by time in every zone.
    pub at: Timestamp,
    /// `{sequence}`: one more than the snapshots there are.
    pub sequence: usize,
}

/// A snapshot's name from a template, made unique among `taken` by `-2`, `-3` …
pub fn snapshot_name(
    template: &str,
    parts: &Parts<'_>,
    taken: impl Fn(&SnapshotName) -> bool,
) -> Result<SnapshotName, NameError> {
    let filled = template
        .replace("{policy}", parts.policy)
        .replace("{timestamp}", &timestamp(parts.at))
        .replace("{operation}", parts.operation)
        .replace("{sequence}", &parts.sequence.to_string())
        // Last, since a VM's name may hold anything, the other placeholders included.
        .replace("{vm}", parts.vm);
    let clean: String = filled.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    let mut base = clean.trim_start_matches(['.', '-']);
    // Room for the suffix. A long VM name is cut, not refused: the time must not be lost with it.
    let limit = SnapshotName::MAX_NEW - 8;
    while base.len() > limit {
        let mut cut = base.len() - limit;
        while !base.is_char_boundary(cut) {
            cut += 1;
        }
        base = base[cut..].trim_start_matches(['.', '-']);
    }
    let mut name = SnapshotName::for_new(base)?;
    let mut suffix = 2_u32;
    while taken(&name) {
        name = SnapshotName::for_new(&format!("{base}-{suffix}"))?;
        suffix += 1;
    }
    Ok(name)
}

/// The path of a new overlay: in the active image's directory, named after the disk's base image, the snapshot
/// and the snapshot's own id, which makes it unique, and ending in `.qcow2`, which AppArmor's helper wants.
pub fn overlay_path(active: &str, base: &str, snapshot: &SnapshotName, id: Uuid) -> String {
    let directory = active.rsplit_once('/').map_or("", |(d, _)| d);
    let file = base.rsplit_once('/').map_or(base, |(_, f)| f);
    let stem = file.rsplit_once('.').map_or(file, |(s, _)| if s.is_empty() { file } else { s });
    let short = &id.simple().to_string()[..8];
    format!("{directory}/{}.{}.{short}.qcow2", safe(stem, 80), safe(snapshot.as_str(), 100))
}

/// Whether a file has the name of an overlay that was made for this snapshot: when it was taken, or reverted to.
pub fn is_overlay_of(path: &str, snapshot: &SnapshotName) -> bool {
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    let parts = file.strip_suffix(".qcow2").and_then(|rest| rest.rsplit_once('.'));
    parts.is_some_and(|(rest, id)| {
        let stem = rest.strip_suffix(safe(snapshot.as_str(), 100).as_str());
        id.len() == 8
            && id.bytes().all(|b| b.is_ascii_hexdigit())
            && stem.is_some_and(|stem| stem.len() > 1 && stem.ends_with('.'))
    })
}

fn safe(s: &str, most: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
    s.chars().map(plain).take(most).collect()
}

fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts<'static> {
        Parts {
            policy: "hourly+nightly",
            vm: "web 1\n{timestamp}",
            operation: "manual",
            at: "2026-11-21T01:30:00.5Z".parse().unwrap(),
            sequence: 3,
        }
    }

    #[test]
    fn templates_are_filled_and_made_unique() {
        let name = |template, taken: &[&str]| {
            snapshot_name(template, &parts(), |n| taken.contains(&n.as_str())).unwrap().to_string()
        };
        assert_eq!(name("{policy}-{timestamp}", &[]), "hourly+nightly-20261121T013000Z");
        assert_eq!(name("a-{sequence}", &["a-3", "a-3-2"]), "a-3-3");
        assert_eq!(name("{vm}-{sequence}", &[]), "web 1_{timestamp}-3");
        assert!(name(&format!("{}-{{timestamp}}", "ü".repeat(90)), &[]).ends_with("ü-20261121T013000Z"));
    }

    #[test]
    fn overlays_lie_beside_the_disk_and_end_in_qcow2() {
        let s = SnapshotName::existing("a b:<c>/é");
        let id = Uuid::from_u128(0x1234_5678 << 96);
        assert_eq!(
            overlay_path("/i/x y/vm1.s1.qcow2", "/base/vm1.raw", &s, id),
            "/i/x y/vm1.a_b__c___.12345678.qcow2"
        );
        assert_eq!(overlay_path("/i/.hidden", "/i/.hidden", &s, id), "/i/.hidden.a_b__c___.12345678.qcow2");
        assert!(is_overlay_of(&overlay_path("/i/x", "/i/vm1.raw", &s, id), &s));
        let other = SnapshotName::existing("b");
        for (path, of) in [
            ("/i/vm1.qcow2", &other),
            ("/i/vm1.b.qcow2", &other),
            ("/i/.b.12345678.qcow2", &other),
            ("/i/vm1.b.12345678.raw", &other),
            ("/i/vm1.ab.12345678.qcow2", &other),
            ("/i/vm1.b.1234567x.qcow2", &other),
            ("/i/vm1.b.12345678.qcow2", &s),
        ] {
            assert!(!is_overlay_of(path, of), "{path}");
        }
        assert!(is_overlay_of("/i/vm1.b.12345678.qcow2", &other));
    }
}
