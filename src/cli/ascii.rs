//! For who cannot be shown more than ASCII: signs of our own become what looks like them, and others' letters escapes.
//!
//! What goes elsewhere than to a terminal keeps its letters: a script that asks for a name wants it as it is.

use std::{
    ffi::OsString,
    io::{self, Write},
};

/// What is written in the place of what cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// All can be shown.
    Nothing,
    /// Signs, for what is no terminal.
    Signs,
    /// Signs, and escapes as in names that could drive a terminal.
    Escapes,
    /// JSON's own escapes: it stays what it is.
    Json,
}

impl Instead {
    /// What it is for this locale, and who reads it.
    pub fn of(utf8: bool, terminal: bool, json: bool) -> Self {
        match (utf8, terminal, json) {
            (true, ..) | (_, false, true) => Self::Nothing,
            (_, false, false) => Self::Signs,
            (_, true, false) => Self::Escapes,
            (_, true, true) => Self::Json,
        }
    }

    fn put(self, c: char, into: &mut String) {
        if c.is_ascii() || self == Self::Nothing {
            into.push(c);
        } else if self == Self::Json {
            let mut units = [0; 2];
            into.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else if let Some(alike) = alike(c) {
            into.push_str(alike);
        } else if self == Self::Signs {
            into.push(c);
        } else {
            into.extend(c.escape_unicode());
        }
    }
}

fn alike(c: char) -> Option<&'static str> {
    Some(match c {
        '…' => "...",
        '→' => "->",
        '–' | '—' | '─' => "-",
        '│' | '├' => "|",
        '└' => "`",
        '×' => "x",
        'µ' => "u",
        '≤' => "<=",
        '≥' => ">=",
        _ => return None,
    })
}

/// Whether the locale that the environment names has UTF-8. As the C library has it: the first that is not empty counts.
pub fn is_utf8(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let named = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|name| !name.is_empty());
    let named = named.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    named.split(['.', '@']).any(|part| part == "utf-8" || part == "utf8")
}

/// Writes what can be shown.
#[derive(Debug)]
pub struct Ascii<W> {
    to: W,
    instead: Instead,
    /// The beginning of a letter whose end is still to come.
    begun: Vec<u8>,
}

impl<W: Write> Ascii<W> {
    /// Writes there.
    pub fn new(to: W, instead: Instead) -> Self {
        Self { to, instead, begun: vec![] }
    }
}

impl<W: Write> Write for Ascii<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.instead == Instead::Nothing {
            return self.to.write(bytes);
        }
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let mut text = String::new();
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            for c in chunk.valid().chars() {
                self.instead.put(c, &mut text);
            }
            let last = chunks.peek().is_none();
            // It may be whole with the next bytes, unless it is too long for that.
            if last && (1..4).contains(&chunk.invalid().len()) {
                chunk.invalid().clone_into(&mut self.begun);
            } else if !chunk.invalid().is_empty() {
                text.push('?');
            }
        }
        self.to.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(instead: Instead, parts: &[&[u8]]) -> String {
        let mut seen = Vec::new();
        let mut to = Ascii::new(&mut seen, instead);
        for part in parts {
            to.write_all(part).unwrap();
        }
        String::from_utf8(seen).unwrap()
    }

    #[test]
    fn signs_become_what_looks_like_them_and_letters_escapes() {
        let text = "größe … a → b\n".as_bytes();
        for (instead, expected) in [
            (Instead::Nothing, "größe … a → b\n"),
            (Instead::Signs, "größe ... a -> b\n"),
            (Instead::Escapes, "gr\\u{f6}\\u{df}e ... a -> b\n"),
            (Instead::Json, "gr\\u00f6\\u00dfe \\u2026 a \\u2192 b\n"),
        ] {
            assert_eq!(shown(instead, &[text]), expected, "{instead:?}");
            let each: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(shown(instead, &each), expected, "byte by byte, {instead:?}");
        }
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::json!({ "größe": "快 💾 …" });
        let text = shown(Instead::Json, &[value.to_string().as_bytes()]);
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn the_first_variable_that_says_something_names_the_locale() {
        for (set, utf8) in [
            (&[][..], false),
            (&[("LANG", "de_AT.UTF-8")], true),
            (&[("LANG", "C.utf8")], true),
            (&[("LANG", "de_AT.UTF-8@euro")], true),
            (&[("LANG", "de_AT.ISO-8859-15@euro")], false),
            (&[("LANG", "de_AT.UTF-8"), ("LC_ALL", "C")], false),
            (&[("LANG", "de_AT.UTF-8"), ("LC_ALL", "")], true),
            (&[("LANG", "C"), ("LC_CTYPE", "en_US.UTF-8")], true),
        ] {
            let variable =
                |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into());
            assert_eq!(is_utf8(variable), utf8, "{set:?}");
        }
    }

    #[test]
    fn who_is_no_terminal_gets_names_and_json_as_they_are() {
        assert_eq!(Instead::of(true, true, true), Instead::Nothing);
        assert_eq!(Instead::of(false, false, true), Instead::Nothing);
        assert_eq!(Instead::of(false, false, false), Instead::Signs);
        assert_eq!(Instead::of(false, true, false), Instead::Escapes);
        assert_eq!(Instead::of(false, true, true), Instead::Json);
    }
}
