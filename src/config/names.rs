//! Texts that become names elsewhere: of snapshots in libvirt, of file systems in a guest, of disks, of
//! operations.

use super::values::ValueError;
use crate::core::model::SnapshotName;

/// What a name's template may hold in braces, with what it may become: to try whether the rest can be a name.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("policy", "nightly"),
    ("timestamp", "20260131T023000.000000Z"),
    ("vm", "vm"),
    ("operation", "upgrade"),
    ("sequence", "1"),
];
const TEMPLATE_HELP: &str = "known: {policy} {timestamp} {vm} {operation} {sequence}";

/// Checks a template for snapshot names.
pub(super) fn name_template(text: &str) -> Result<String, ValueError> {
    let mut sample = String::new();
    let mut unique = false;
    let mut at = 0;
    while let Some(offset) = text[at..].find(['{', '}']) {
        let open = at + offset;
        sample.push_str(&text[at..open]);
        if text[open..].starts_with('}') {
            return Err(ValueError::new("`}` without a `{` before it", TEMPLATE_HELP).at(open..open + 1));
        }
        let Some(length) =
            text[open + 1..].find(['{', '}']).filter(|i| text[open + 1 + i..].starts_with('}'))
        else {
            return Err(ValueError::new("`{` without a `}`", TEMPLATE_HELP).at(open..open + 1));
        };
        let close = open + 1 + length;
        let word = &text[open + 1..close];
        let Some((_, example)) = PLACEHOLDERS.iter().find(|(name, _)| *name == word) else {
            return Err(
                ValueError::new(format!("{{{word}}} stands for nothing"), TEMPLATE_HELP).at(open..close + 1)
            );
        };
        unique |= matches!(word, "timestamp" | "sequence");
        sample.push_str(example);
        at = close + 1;
    }
    sample.push_str(&text[at..]);
    if !unique {
        return Err(ValueError::new(
            "every snapshot of this policy would have the same name",
            "add {timestamp} or {sequence}",
        ));
    }
    match SnapshotName::for_new(&sample) {
        Ok(_) => Ok(text.to_owned()),
        Err(e) => Err(ValueError::new(
            format!("no snapshot can have such a name: {e}"),
            "a name has at most 120 bytes, no `/`, no control characters and no `.` or `-` at its start",
        )),
    }
}

/// Checks a file system's path in the guest: absolute, or a drive of Windows.
pub(super) fn mountpoint(text: &str) -> Result<String, ValueError> {
    let drive = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && text[1..].starts_with(":\\");
    if (text.starts_with('/') || drive) && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::new(
            format!("{text:?} is not a path in the guest"),
            "an absolute path, as in \"/srv\"; or \"C:\\\\\" on Windows",
        ))
    }
}

/// Checks the name of an operation that a client announces.
pub(super) fn operation(text: &str) -> Result<String, ValueError> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=32).contains(&text.len()) && text.bytes().all(good) && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err(ValueError::new(
            format!("{text:?} is not the name of an operation"),
            "lower-case letters, digits and `-`, at most 32, as in \"upgrade\"",
        ))
    }
}

/// The same for who announces one.
pub fn operation_name(text: &str) -> Result<(), String> {
    operation(text).map(drop).map_err(|e| format!("{}: {}", e.message, e.help))
}

/// Checks a disk's target name.
pub(super) fn disk(text: &str) -> Result<String, ValueError> {
    if !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        Ok(text.to_owned())
    } else {
        Err(ValueError::new(
            format!("{text:?} is not a disk's target"),
            "the target as `virsh domblklist` shows it, as in \"vda\"",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_operations_and_disks() {
        assert!(mountpoint("/srv").is_ok() && mountpoint("C:\\").is_ok());
        for bad in ["", "srv", "C", "ü:\\", "/a\n"] {
            assert!(mountpoint(bad).is_err(), "{bad}");
        }
        assert!(operation("dist-upgrade").is_ok());
        for bad in ["", "Upgrade", "-x", "a b", &"x".repeat(33)] {
            assert!(operation(bad).is_err(), "{bad}");
        }
        assert!(disk("vda").is_ok() && disk("").is_err() && disk("/dev/vda").is_err());
    }

    #[test]
    fn templates_make_unique_legal_names() {
        for good in ["{policy}-{timestamp}", "{vm} {sequence}", "Sicherung-{timestamp}-ü"] {
            assert_eq!(name_template(good), Ok(good.to_owned()));
        }
        for (text, message, span) in [
            ("{policy}", "every snapshot of this policy would have the same name", None),
            ("{date}-{timestamp}", "{date} stands for nothing", Some(0..6)),
            ("a{timestamp", "`{` without a `}`", Some(1..2)),
            ("a{{timestamp}}", "`{` without a `}`", Some(1..2)),
            ("a}{timestamp}", "`}` without a `{` before it", Some(1..2)),
            ("-{timestamp}", "no snapshot can have such a name: a name must not start with '-'", None),
            ("a/{timestamp}", "no snapshot can have such a name: a name must not contain '/'", None),
        ] {
            let e = name_template(text).unwrap_err();
            assert_eq!((e.message.as_str(), e.span), (message, span), "{text}");
        }
        assert!(name_template(&format!("{}{{sequence}}", "x".repeat(120))).is_err());
    }
}
