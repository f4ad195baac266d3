//! Text that others wrote, made safe to show.

/// The text on one line, with an escape for whatever a terminal may act on, and for what can make a line read as
/// another one or as two.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    shown
}

/// In quotes for a shell, where it needs them.
pub fn for_shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:+,@%".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// False for what moves the cursor, changes colours, breaks the line or reorders it.
pub fn is_harmless(c: char) -> bool {
    let reorders_or_breaks =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !reorders_or_breaks
}
