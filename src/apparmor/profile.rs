//! `libvirt-UUID`, a VM's profile, with rules that stand above libvirt's denials. For parsers from 4.1 on.
//!
//! libvirt makes this file once, at the VM's first start, and never writes it again: not at later starts, not for
//! commits, not even when the VM is undefined. So what stands here holds, and has to be tidied away. The
//! administrator may have written here as well: only lines that end with our mark are ours.

use std::fmt;

use super::{MARK, VmId, image, profile_name, without_ours};

/// Why there is no place for rules in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// No `profile libvirt-UUID … {` line.
    NoProfile,
    /// The line with its closing brace is not there.
    NotClosed,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoProfile => "it has no line that begins the VM's profile",
            Self::NotClosed => "it has no line of its own with the brace that closes the VM's profile",
        })
    }
}

/// The profile's text with a rule for each of these images, which must be such that [`image::quoted`] takes them (others
/// are passed over), and with no other rule of ours. [`super::without_ours`] takes them away again, to the letter.
pub fn with_rules(text: &str, vm: VmId, images: &[String]) -> Result<String, NoPlace> {
    let text = without_ours(text);
    let end = closing_line(&text, vm)?;
    let mut rules = format!("  {HEADER} {MARK}\n");
    for path in images.iter().filter_map(|path| image::quoted(path).ok()) {
        rules.extend(["  priority=1 ", &path, " rwk, ", MARK, "\n"]);
    }
    Ok(format!("{}{rules}{}", &text[..end], &text[end..]))
}

const HEADER: &str =
    "# What merging this VM's snapshots writes; virtsnap-apparmor writes lines that end so anew.";

/// Where the line begins that closes the VM's profile. Profiles inside it are passed over.
fn closing_line(text: &str, vm: VmId) -> Result<usize, NoPlace> {
    let name = profile_name(vm);
    let begins = |code: &str| {
        let rest = code.strip_prefix("profile").map(str::trim_start);
        rest.and_then(|r| r.strip_prefix(name.as_str())).is_some_and(|r| r.starts_with([' ', '\t', '{']))
    };
    let (mut at, mut depth) = (0, 0_usize);
    for line in text.split_inclusive('\n') {
        let code = code(line);
        match depth {
            0 if begins(code) && code.ends_with('{') => depth = 1,
            0 => {}
            1 if code == "}" => return Ok(at),
            _ if code == "}" => depth -= 1,
            // `} else {` leaves it as it is.
            _ if code.ends_with('{') && !code.starts_with('}') => depth += 1,
            _ => {}
        }
        at += line.len();
    }
    Err(if depth == 0 { NoPlace::NoProfile } else { NoPlace::NotClosed })
}

/// A line without its comment and the blanks around it.
fn code(line: &str) -> &str {
    let mut quoted = false;
    let comment = line.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '#' && !quoted
    });
    line[..comment.map_or(line.len(), |(at, _)| at)].trim()
}

#[cfg(test)]
mod tests;
