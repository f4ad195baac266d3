//! How a snapshot of ours is recognised: by one line at the end of its libvirt description.
//!
//! libvirt is the truth about what exists, and the description lasts as long as the snapshot does: over restarts,
//! redefinitions and the loss of our database. The line names the VM, so that a copy on another VM is not ours.
//!
//! ```text
//! before the upgrade
//! [virtsnap:1 vm=… id=… created=1763692200123456 origin=schedule policies=hourly,nightly]
//! ```

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;
use uuid::Uuid;

use super::model::{Origin, PolicyName, VmId};

const START: &str = "[virtsnap:1 ";

/// How long the line may get, in bytes, however many policies a snapshot counts for.
pub const LONGEST: usize = 16 * 1024;

/// What the line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The VM that the snapshot was made of.
    pub vm: VmId,
    /// Our own identity of it: names are used again.
    pub id: Uuid,
    /// When it was taken, to the microsecond: libvirt keeps seconds.
    pub created: Timestamp,
    /// Who asked for it.
    pub origin: Origin,
    /// The policies it counts for.
    pub policies: BTreeSet<PolicyName>,
    /// The variables of the VM's firmware are kept in a file beside its images.
    pub nvram: bool,
    /// The state of its emulated TPM is.
    pub tpm: bool,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vm, id, created, origin, policies, nvram, tpm } = self;
        write!(f, "{START}vm={vm} id={id} created={} origin={origin}", created.as_microsecond())?;
        // Only where there are any: all others read as they always did.
        f.write_str(if *nvram { " nvram=kept" } else { "" })?;
        f.write_str(if *tpm { " tpm=kept policies=" } else { " policies=" })?;
        for (i, p) in policies.iter().enumerate() {
            write!(f, "{}{p}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

/// A description with the marker's line after it.
pub fn compose(description: &str, marker: &Marker) -> String {
    if description.is_empty() { marker.to_string() } else { format!("{description}\n{marker}") }
}

/// A description without the marker's line, and the marker if there is one that is for this VM.
pub fn split(description: &str, vm: VmId) -> (&str, Option<Marker>) {
    let (text, line) = description.rsplit_once('\n').unwrap_or(("", description));
    match parse(line).filter(|m| m.vm == vm) {
        Some(marker) => (text, Some(marker)),
        None => (description, None),
    }
}

fn parse(line: &str) -> Option<Marker> {
    let body = line.trim_end().strip_prefix(START)?.strip_suffix(']')?;
    let value = |key: &str| body.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let policies = value("policies")?;
    Some(Marker {
        vm: value("vm")?.parse().ok()?,
        id: value("id")?.parse().ok()?,
        created: Timestamp::from_microsecond(value("created")?.parse().ok()?).ok()?,
        origin: value("origin")?.parse().ok()?,
        policies: policies
            .split(',')
            .filter(|p| !p.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?,
        nvram: value("nvram") == Some("kept"),
        tpm: value("tpm") == Some("kept"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            vm: VmId(Uuid::from_u128(7)),
            id: Uuid::from_u128(9),
            created: Timestamp::from_microsecond(1_763_692_200_123_456).unwrap(),
            origin: Origin::Schedule,
            policies: ["hourly", "nightly"].map(|p| p.parse().unwrap()).into(),
            nvram: false,
            tpm: false,
        }
    }

    #[test]
    fn what_is_composed_splits_again() {
        for text in ["", "one line", "two\nlines <&>\n", "[virtsnap:1 not really"] {
            let whole = compose(text, &marker());
            assert_eq!(split(&whole, marker().vm), (text, Some(marker())), "{whole}");
        }
        for (nvram, tpm) in [(true, false), (false, true), (true, true)] {
            let kept = Marker { nvram, tpm, ..marker() };
            assert_eq!(split(&compose("x", &kept), kept.vm), ("x", Some(kept.clone())));
        }
        let none = Marker { policies: BTreeSet::new(), ..marker() };
        assert_eq!(split(&compose("x", &none), none.vm).1, Some(none));
    }

    #[test]
    fn a_marker_of_another_vm_or_a_broken_one_is_not_ours() {
        let whole = compose("x", &marker());
        assert_eq!(split(&whole, VmId(Uuid::from_u128(8))), (whole.as_str(), None));
        for broken in ["", "x", "[virtsnap:1 ]", "[virtsnap:2 vm=a]", &whole[..whole.len() - 1]] {
            assert_eq!(split(broken, marker().vm), (broken, None));
        }
    }
}
