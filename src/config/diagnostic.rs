//! What is wrong with the files, where, and what to write instead: collected, not thrown, so that all of it is
//! said at once.

use std::{fmt, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};

use crate::core::{
    policy::Source,
    text::{harmless, is_harmless},
};

/// Rendering stops after so many: nobody reads more, and a broken file can have thousands.
const RENDER_MAX: usize = 200;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The settings are not taken.
    Error,
    /// They are taken, but hardly do what was meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A file as it was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path, for people.
    pub path: String,
    /// What it holds.
    pub text: String,
    /// Where its lines start, the first left out: places are asked for far more often than files are read.
    line_starts: Vec<usize>,
}

impl SourceFile {
    /// A file of that path and text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        let text = text.into();
        let line_starts = text.match_indices('\n').map(|(i, _)| i + 1).collect();
        Arc::new(Self { path: path.into(), text, line_starts })
    }

    /// Line and column of a byte, both from 1, the column in characters.
    pub fn line_column(&self, byte: usize) -> (usize, usize) {
        let byte = floor(&self.text, byte);
        let line = self.line(byte);
        let start = line.checked_sub(2).map_or(0, |i| self.line_starts[i]);
        // A byte order mark is no character of the first line.
        let column = self.text[start..byte].chars().filter(|c| *c != '\u{feff}').count();
        (line, column + 1)
    }

    /// The line alone, from 1: a file can be one long line, and then it is the column that takes its time.
    pub fn line(&self, byte: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= byte) + 1
    }
}

/// A stretch of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The bytes.
    pub span: Range<usize>,
}

impl Place {
    /// `span` is cut to what the file has.
    pub fn new(file: &Arc<SourceFile>, span: Range<usize>) -> Self {
        let start = floor(&file.text, span.start);
        let end = floor(&file.text, span.end).max(start);
        Self { file: Arc::clone(file), span: start..end }
    }

    /// What stands there.
    pub fn text(&self) -> &str {
        &self.file.text[self.span.clone()]
    }

    /// The file and the line.
    pub fn source(&self) -> Source {
        Source { file: self.file.path.clone(), line: self.file.line(self.span.start) }
    }
}

/// The nearest character boundary at or before `byte`.
fn floor(text: &str, byte: usize) -> usize {
    let mut byte = byte.min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence that stands alone.
    pub message: String,
    /// The file.
    pub file: Arc<SourceFile>,
    /// The bytes of the file that are wrong; `None` if it is about the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is said at the caret.
    pub label: Option<String>,
    /// What to write instead, what is allowed there.
    pub help: Option<String>,
    /// Other places that have to do with it.
    pub also: Vec<(Place, String)>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(at: &Place, message: impl AsRef<str>) -> Self {
        Self::new(Severity::Error, at, message.as_ref())
    }

    /// A warning at a place.
    pub fn warning(at: &Place, message: impl AsRef<str>) -> Self {
        Self::new(Severity::Warning, at, message.as_ref())
    }

    fn new(severity: Severity, at: &Place, message: &str) -> Self {
        Self {
            severity,
            message: printable(message),
            file: Arc::clone(&at.file),
            span: Some(at.span.clone()),
            label: None,
            help: None,
            also: Vec::new(),
        }
    }

    /// About a file as a whole.
    pub fn of_file(severity: Severity, path: impl Into<String>, message: impl AsRef<str>) -> Self {
        let file = SourceFile::new(path, "");
        Self { span: None, ..Self::new(severity, &Place::new(&file, 0..0), message.as_ref()) }
    }

    /// Says something at the caret.
    #[must_use]
    pub fn label(mut self, label: impl AsRef<str>) -> Self {
        self.label = Some(printable(label.as_ref()));
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl AsRef<str>) -> Self {
        self.help = Some(printable(help.as_ref()));
        self
    }

    /// Shows another place.
    #[must_use]
    pub fn also(mut self, at: &Place, label: impl AsRef<str>) -> Self {
        self.also.push((at.clone(), printable(label.as_ref())));
        self
    }

    /// `file:line:column: error: message`, for the journal and for D-Bus errors.
    pub fn line(&self) -> String {
        let path = printable(&self.file.path);
        let Self { severity, message, .. } = self;
        match &self.span {
            Some(span) => {
                let (line, column) = self.file.line_column(span.start);
                format!("{path}:{line}:{column}: {severity}: {message}")
            }
            None => format!("{path}: {severity}: {message}"),
        }
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group: Group<'_> = Group::with_title(level.primary_title(&self.message));
        group = match &self.span {
            Some(span) => group.element(snippet(&self.file, span, self.label.as_deref(), true)),
            None => group.element(Origin::path(printable(&self.file.path))),
        };
        for (place, label) in &self.also {
            group = group.element(snippet(&place.file, &place.span, Some(label), false));
        }
        if let Some(help) = &self.help {
            group = group.element(Element::from(Level::HELP.message(help)));
        }
        renderer.render(&[group])
    }
}

/// The line of `span`, with `span` marked; of a longer one what is on its first line.
fn snippet<'a>(
    file: &'a SourceFile,
    span: &Range<usize>,
    label: Option<&'a str>,
    primary: bool,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let text = &file.text;
    // What a caret at the end of a file points at is the end of its last line.
    let anchor = if span.start == text.len() && text.ends_with('\n') && span.start > 0 {
        text.trim_end_matches(['\n', '\r']).len()
    } else {
        span.start
    };
    let anchor = floor(text, anchor);
    let from = text[..anchor].rfind('\n').map_or(0, |i| i + 1);
    let to = text[anchor..].find('\n').map_or(text.len(), |i| anchor + i);
    let bom = if text[from..to].starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let from = from + bom;
    let line = text[from..to].trim_end_matches('\r');
    let start = anchor.saturating_sub(from).min(line.len());
    let end = floor(text, span.end).saturating_sub(from).clamp(start, line.len());
    let (start, end) = (shown(&line[..start]).len(), shown(&line[..end]).len());
    let kind = if primary { AnnotationKind::Primary } else { AnnotationKind::Context };
    Snippet::source(shown(line))
        .line_start(file.line(anchor))
        .path(printable(&file.path))
        .annotation(kind.span(start..end).label(label))
}

/// The renderer takes care of the controls of ASCII, not of those above, which old terminals act on, too.
fn shown(line: &str) -> String {
    line.replace(|c: char| !c.is_ascii() && !is_harmless(c), "\u{fffd}")
}

/// Plain for files and pipes, coloured for terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Text only.
    #[default]
    Plain,
    /// With escape sequences.
    Colour,
}

/// All that is wrong, in the order of files and places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds those of another list.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// True if nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many are errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// All, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// One line each: `file:line:column: error: message`.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(Diagnostic::line).collect()
    }

    /// The way `rustc` shows them, with an empty line between two and a line break at the end.
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Colour => Renderer::styled(),
        };
        let mut out: Vec<_> = self.0.iter().take(RENDER_MAX).map(|d| d.render(&renderer) + "\n").collect();
        if self.0.len() > RENDER_MAX {
            out.push(format!("and {} more\n", self.0.len() - RENDER_MAX));
        }
        out.join("\n")
    }

    /// By file and place; what is about a whole file first.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|a, b| {
            let key = |d: &Diagnostic| d.span.as_ref().map(|s| s.start);
            a.file.path.cmp(&b.file.path).then_with(|| key(a).cmp(&key(b)))
        });
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl std::error::Error for Diagnostics {}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<T: IntoIterator<Item = Diagnostic>>(&mut self, iter: T) {
        self.0.extend(iter);
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<T: IntoIterator<Item = Diagnostic>>(iter: T) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// A file's text and its name may hold anything; a terminal must not act on it, and a line stays one line.
pub(crate) fn printable(text: &str) -> String {
    harmless(text)
}

/// What someone wrote, to be quoted in a message: cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    const MAX: usize = 60;
    if text.chars().count() > MAX {
        format!("`{}…`", text.chars().take(MAX).collect::<String>())
    } else {
        format!("`{text}`")
    }
}
