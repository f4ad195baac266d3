//! Name patterns: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, `\` before a character that stands for itself.
//!
//! Of a whole name, case-sensitive, by characters. Made for names, not for paths: crates for paths match bytes
//! (`?` is then half an `ü`) and give `/` and `**/` meanings of their own. There is no backtracking over more
//! than one `*`: a pattern from a file cannot make a match slow.

use std::ops::Range;

/// The longest pattern, in bytes: libvirt's names are shorter.
const MAX_LEN: usize = 1024;
/// What a pattern's braces may multiply out to.
const MAX_ALTERNATIVES: usize = 256;
/// What all alternatives together may hold: each brace copies what is before it, and a line of empty ones would
/// copy the longest pattern hundreds of times.
const MAX_TOKENS: usize = 16 * 1024;
/// How deep braces may nest.
const MAX_DEPTH: usize = 16;

/// A pattern, ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    /// Braces are multiplied out: any of these must match.
    alternatives: Vec<Vec<Token>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Many,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct GlobError {
    /// What is wrong.
    pub(crate) message: &'static str,
    /// Where in the text, in bytes.
    pub(crate) span: Range<usize>,
}

impl Glob {
    /// Reads a pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, GlobError> {
        if text.len() > MAX_LEN {
            return Err(GlobError { message: "the pattern is longer than any name", span: 0..text.len() });
        }
        let mut parser = Parser { text, at: 0 };
        let alternatives = parser.sequence(0)?;
        match parser.peek() {
            None => Ok(Self { alternatives }),
            // `sequence` stops before a `,` or `}` that no brace has opened; a `,` stands for itself there.
            Some(_) => {
                Err(GlobError { message: "`}` without a `{` before it", span: parser.at..parser.at + 1 })
            }
        }
    }

    /// True if the whole of `name` matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.alternatives.iter().any(|tokens| matches(tokens, name))
    }
}

/// The usual two-finger match: on a mismatch, the last `*` takes one character more.
fn matches(tokens: &[Token], name: &str) -> bool {
    let mut t = 0;
    let mut rest = name.chars();
    let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let mut after = rest.clone();
        match (tokens.get(t), after.next()) {
            (None, None) => return true,
            (Some(Token::Many), _) => {
                t += 1;
                retry = Some((t, rest.clone()));
                continue;
            }
            (Some(token), Some(c)) if token.accepts(c) => {
                t += 1;
                rest = after;
                continue;
            }
            _ => {}
        }
        let Some((star, from)) = &mut retry else { return false };
        if from.next().is_none() {
            return false;
        }
        t = *star;
        rest = from.clone();
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::Any => true,
            Self::Many => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Up to the end, or up to a `,` or `}` that belongs to the brace outside.
    fn sequence(&mut self, depth: usize) -> Result<Vec<Vec<Token>>, GlobError> {
        let mut done: Vec<Vec<Token>> = vec![Vec::new()];
        while let Some(c) = self.peek() {
            let start = self.at;
            if c == '}' || (c == ',' && depth > 0) {
                break;
            }
            self.bump();
            let token = match c {
                '*' => Token::Many,
                '?' => Token::Any,
                '[' => self.class(start)?,
                '\\' => match self.bump() {
                    Some(c) => Token::Char(c),
                    None => return Err(self.error("`\\` at the end stands before nothing", start)),
                },
                '{' => {
                    done = self.braces(start, depth + 1, &done)?;
                    continue;
                }
                c => Token::Char(c),
            };
            for tokens in &mut done {
                // `**` is `*`: nothing is gained by trying twice.
                if token != Token::Many || tokens.last() != Some(&Token::Many) {
                    tokens.push(token.clone());
                }
            }
        }
        Ok(done)
    }

    fn braces(
        &mut self,
        start: usize,
        depth: usize,
        before: &[Vec<Token>],
    ) -> Result<Vec<Vec<Token>>, GlobError> {
        if depth > MAX_DEPTH {
            return Err(self.error("braces nest too deep", start));
        }
        let mut all: Vec<Vec<Token>> = Vec::new();
        let mut tokens = 0;
        loop {
            for one in self.sequence(depth)? {
                for head in before {
                    tokens += head.len() + one.len();
                    if all.len() == MAX_ALTERNATIVES || tokens > MAX_TOKENS {
                        return Err(self.error("the braces stand for too many alternatives", start));
                    }
                    all.push(head.iter().chain(&one).cloned().collect());
                }
            }
            match self.bump() {
                Some(',') => {}
                Some(_) => return Ok(all),
                None => return Err(self.error("`{` without a `}`", start)),
            }
        }
    }

    fn class(&mut self, start: usize) -> Result<Token, GlobError> {
        let negated = matches!(self.peek(), Some('!' | '^'));
        if negated {
            self.bump();
        }
        let mut ranges = Vec::new();
        loop {
            let from_at = self.at;
            let from = match self.bump() {
                // A `]` right at the start stands for itself, as in the shell.
                Some(']') if !ranges.is_empty() => return Ok(Token::Class { negated, ranges }),
                Some('\\') => self.bump(),
                c => c,
            };
            let Some(from) = from else { return Err(self.error("`[` without a `]`", start)) };
            let mut rest = self.text[self.at..].chars();
            if rest.next() == Some('-') && rest.next().is_some_and(|c| c != ']') {
                self.bump();
                let to = match self.bump() {
                    Some('\\') => self.bump(),
                    c => c,
                };
                let Some(to) = to else { return Err(self.error("`[` without a `]`", start)) };
                if to < from {
                    return Err(self.error("the range runs backwards", from_at));
                }
                ranges.push((from, to));
            } else {
                ranges.push((from, from));
            }
        }
    }

    fn error(&self, message: &'static str, start: usize) -> GlobError {
        GlobError { message, span: start..self.at.max(start + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn m(glob: &str, name: &str) -> bool {
        Glob::parse(glob).unwrap().matches(name)
    }

    #[test]
    fn whole_names_match_by_characters() {
        for (glob, yes, no) in [
            ("web*", &["web", "web1", "web/é\n"][..], &["aweb", "Web1"][..]),
            ("*-scratch", &["-scratch", "a-scratch-scratch"], &["scratch"]),
            ("w?b", &["web", "wüb", "w*b"], &["wb", "weeb"]),
            ("db[0-9][!a-c]", &["db0d", "db9ü"], &["db0a", "dbx9"]),
            ("[]x]", &["]", "x"], &["y"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[äö]*", &["ä", "öx"], &["a"]),
            ("{web,db}{1,2}", &["web1", "db2"], &["web3", "web"]),
            ("a{,b{c,*d}}", &["a", "abc", "abxxd"], &["ab"]),
            ("a,b", &["a,b"], &["a"]),
            (r"\*\{x", &["*{x"], &["a{x"]),
            ("a*b*c", &["abc", "a1b2c", "abcbc"], &["ab", "abcd"]),
            ("**", &["", "x"], &[]),
            ("a]", &["a]"], &["a"]),
        ] {
            for name in yes {
                assert!(m(glob, name), "{glob:?} must match {name:?}");
            }
            for name in no {
                assert!(!m(glob, name), "{glob:?} must not match {name:?}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_says_where() {
        for (glob, span) in [
            ("ab[c", 2..4),
            ("[]", 0..2),
            ("a{b,c", 1..5),
            ("ab}", 2..3),
            ("x\\", 1..2),
            ("[x-b]", 1..4),
            ("a[\\", 1..3),
            ("a[b-\\", 1..5),
        ] {
            assert_eq!(Glob::parse(glob).unwrap_err().span, span, "{glob:?}");
        }
    }

    #[test]
    fn no_pattern_is_slow_or_large() {
        let stars = "a*".repeat(500);
        assert!(!m(&stars, &"a".repeat(10_000)[..499]));
        assert!(!m(&format!("{}b", "*a".repeat(400)), &"a".repeat(20_000)));
        assert!(Glob::parse(&"{a,b}".repeat(100)).is_err());
        assert!(Glob::parse(&"{".repeat(1000)).is_err());
        let copied = format!("{}{}{}", "{a,b}".repeat(8), "x".repeat(400), "{}".repeat(280));
        assert_eq!(Glob::parse(&copied).unwrap_err().message, "the braces stand for too many alternatives");
        assert!(m(
            &format!("{}{}", "{a,b}".repeat(8), "x".repeat(400)),
            &format!("{}{}", "a".repeat(8), "x".repeat(400))
        ));
        assert!(Glob::parse(&"x".repeat(5000)).is_err());
    }
}
