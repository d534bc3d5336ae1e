//! Faults in a text the user wrote: what is wrong in BuildKit's words, where, and how it looks on a terminal.
//!
//! Knows no Dockerfile syntax and prints nothing; `cli` decides where a rendering goes. Two renderings exist because two
//! kinds of readers do: people get a caret under the fault, log scrapers get BuildKit's block of lines.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use crate::source::{Lines, Source, Span};

/// Which part of reading found a fault; it decides how the message starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The shape of the file or line: directives, continuation, heredocs, words. The message stands alone.
    Syntax,
    /// What one instruction says: `dockerfile parse error on line N: ` comes first.
    Instruction,
    /// Found when the instruction's meaning was worked out (expansion, stages). The message stands alone.
    Meaning,
}

/// A fault with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable short name of the fault, e.g. `unknown-instruction`.
    pub code: &'static str,
    /// What is wrong, without the prefix that `kind` asks for; [`Diagnostic::message`] adds it.
    pub text: String,
    /// The file.
    pub source: Arc<Source>,
    /// The part to point at; empty when the whole file is meant.
    pub span: Span,
    /// The lines of the instruction it belongs to; `None` when the whole file is meant.
    pub lines: Option<Lines>,
    /// One line on what to do about it.
    pub help: Option<String>,
    /// Which part of reading found it.
    pub kind: Kind,
}

/// How many lines a caret excerpt shows of a fault that spans more.
const MAX_CARET_LINES: u32 = 6;
/// How many characters of a line a caret excerpt shows; of a longer line it shows the part with the fault.
const MAX_CARET_WIDTH: usize = 160;
/// How many bytes of a line BuildKit's block shows here: generated files have lines of megabytes.
const MAX_EXCERPT_WIDTH: usize = 4096;

impl Diagnostic {
    /// A fault of what an instruction means, to be reported at that instruction.
    pub fn meaning(
        code: &'static str,
        text: impl Into<String>,
        source: &Arc<Source>,
        span: Span,
        lines: Lines,
    ) -> Self {
        Self {
            code,
            text: text.into(),
            source: Arc::clone(source),
            span,
            lines: Some(lines),
            help: None,
            kind: Kind::Meaning,
        }
    }

    /// The same fault with a line of help.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same fault shown at another place; faults of ONBUILD triggers are shown at the FROM that pulled them in.
    #[must_use]
    pub fn moved_to(mut self, source: &Arc<Source>, span: Span, lines: Lines) -> Self {
        self.source = Arc::clone(source);
        self.span = span;
        self.lines = Some(lines);
        self
    }

    /// The full message in BuildKit's words, e.g. `dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)`.
    pub fn message(&self) -> String {
        match (self.kind, self.lines) {
            (Kind::Instruction, Some(lines)) => {
                format!("dockerfile parse error on line {}: {}", lines.first, self.text)
            }
            (Kind::Instruction | Kind::Syntax | Kind::Meaning, _) => self.text.clone(),
        }
    }

    /// Whether it keeps BuildKit from reading any instruction.
    pub fn is_of_shape(&self) -> bool {
        self.kind == Kind::Syntax && self.code != "no-stage"
    }

    /// Our form: `Dockerfile:7:12: what is wrong`, the line with a caret under the fault, and the help.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let Some(lines) = self.lines else {
            let _ = write!(out, "{}: {}", self.source.name, self.text);
            self.render_help(&mut out, 1);
            return out;
        };
        let (line, column) = self.source.position(self.span.start);
        let _ = writeln!(out, "{}:{line}:{column}: {}", self.source.name, self.text);
        let last_offset = self.span.end.max(self.span.start + 1) - 1;
        let last =
            self.source.position(last_offset).0.clamp(line, line.max(lines.last)).min(line + MAX_CARET_LINES - 1);
        let width = last.to_string().len();
        for number in line..=last {
            let text = self.source.line(number);
            let (from, to) = self.columns_on(number, text);
            let (shown, lead, carets) = window(text, from, to);
            let _ = writeln!(out, " {number:>width$} | {shown}");
            let _ = writeln!(out, " {:width$} | {}{}", "", " ".repeat(lead), "^".repeat(carets));
        }
        out.truncate(out.trim_end_matches('\n').len());
        self.render_help(&mut out, width);
        out
    }

    fn render_help(&self, out: &mut String, width: usize) {
        if let Some(help) = &self.help {
            let _ = write!(out, "\n {:width$} = help: {help}", "");
        }
    }

    /// The bytes of a line that the span covers, as offsets in the line.
    fn columns_on(&self, number: u32, text: &str) -> (usize, usize) {
        let start = self.source.line_start(number) as usize;
        let from = (self.span.start as usize).saturating_sub(start).min(text.len());
        let to = (self.span.end as usize).saturating_sub(start).clamp(from, text.len());
        let indent = text.len() - text.trim_start().len();
        let from = if (self.span.start as usize) < start { indent.min(to) } else { from };
        (floor_char(text, from), floor_char(text, to))
    }

    /// BuildKit's block of lines around the fault; empty when the whole file is meant.
    pub fn excerpt(&self) -> String {
        self.lines.map_or_else(String::new, |lines| excerpt(&self.source, lines))
    }
}

/// The fault that BuildKit, which stops at one, would have met: it reads the shape of all lines before any instruction.
pub fn headline(faults: &[Diagnostic]) -> Option<&Diagnostic> {
    faults.iter().find(|fault| fault.is_of_shape()).or_else(|| faults.first())
}

/// All faults in the order of their lines; those of the whole file first.
pub fn in_order(faults: &[Diagnostic]) -> Vec<&Diagnostic> {
    let mut sorted: Vec<&Diagnostic> = faults.iter().collect();
    sorted.sort_by_key(|fault| (fault.lines.map_or(0, |lines| lines.first), fault.span.start));
    sorted
}

/// All faults in order, with carets.
pub fn render_all(faults: &[Diagnostic]) -> String {
    in_order(faults).into_iter().map(|fault| fault.render() + "\n").collect()
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Diagnostic {}

/// The lines with two lines around them (one, when there are several), marked with `>>>`, as BuildKit prints them.
pub fn excerpt(source: &Source, lines: Lines) -> String {
    const RULE: &str = "--------------------\n";
    // A final newline makes one more, empty, line here.
    let count = source.text.split('\n').count() as u32;
    if lines.first < 1 || lines.first > count {
        return String::new();
    }
    let last_marked = lines.last.clamp(lines.first, count);
    let (mut first, mut last) = (lines.first, last_marked);
    let wanted = if first == last { 4 } else { 2 };
    let mut padded = 0;
    while padded < wanted {
        if first > 1 {
            first -= 1;
            padded += 1;
        }
        if last != count {
            last += 1;
            padded += 1;
        }
        padded += 1;
    }
    let mut out = format!("{}:{}\n{RULE}", source.name, lines.first);
    for number in first..=last {
        let mark = if (lines.first..=last_marked).contains(&number) { ">>>" } else { "   " };
        let text = source.line(number);
        let (shown, more) =
            (&text[..floor_char(text, text.len().min(MAX_EXCERPT_WIDTH))], text.len() > MAX_EXCERPT_WIDTH);
        let _ = writeln!(out, " {number:>3} | {mark} {shown}{}", if more { "…" } else { "" });
    }
    out.push_str(RULE);
    out
}

/// The option closest to `typed`, if one is at most two edits away; none if one is equal (then something else is wrong).
/// Without `case_sensitive` the answer takes the letter case of what was typed.
pub fn suggest<'a>(typed: &str, options: impl IntoIterator<Item = &'a str>, case_sensitive: bool) -> Option<String> {
    const MAX_DISTANCE: usize = 2;
    // Nothing this far from any keyword, flag or name can be two edits away from one.
    const MAX_LENGTH: usize = 256;
    if typed.len() > MAX_LENGTH {
        return None;
    }
    let fold = |text: &str| if case_sensitive { text.to_owned() } else { text.to_lowercase() };
    let wanted: Vec<char> = fold(typed).chars().collect();
    let mut best: Option<(usize, String)> = None;
    for option in options {
        let candidate: Vec<char> = fold(option).chars().collect();
        if candidate == wanted {
            return None;
        }
        if candidate.len().abs_diff(wanted.len()) > MAX_DISTANCE {
            continue;
        }
        let distance = edit_distance(&wanted, &candidate);
        if distance <= MAX_DISTANCE && best.as_ref().is_none_or(|(least, _)| distance < *least) {
            best = Some((distance, candidate.iter().collect()));
        }
    }
    let (_, found) = best?;
    if case_sensitive {
        return Some(found);
    }
    Some(if typed == typed.to_lowercase() {
        found
    } else if typed == typed.to_uppercase() {
        found.to_uppercase()
    } else {
        found
    })
}

/// `text (did you mean option?)`, or `text` alone when nothing is close.
pub fn with_suggestion<'a>(
    text: String,
    typed: &str,
    options: impl IntoIterator<Item = &'a str>,
    case_sensitive: bool,
) -> String {
    match suggest(typed, options, case_sensitive) {
        Some(option) => format!("{text} (did you mean {option}?)"),
        None => text,
    }
}

/// Levenshtein distance.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The part of a line to show for a fault in its bytes `from..to`, the width before the fault and the fault's width.
fn window(text: &str, from: usize, to: usize) -> (String, usize, usize) {
    const BEFORE: usize = MAX_CARET_WIDTH / 4;
    let before = text[..from].chars().rev();
    let cut = before.clone().count() > BEFORE && text.chars().count() > MAX_CARET_WIDTH;
    let start = if cut { from - before.take(BEFORE).map(char::len_utf8).sum::<usize>() } else { 0 };
    let end = text[start..].char_indices().nth(MAX_CARET_WIDTH).map_or(text.len(), |(at, _)| start + at);
    let tabs_wide = |part: &str| part.replace('\t', "    ");
    let (lead, fault) = (tabs_wide(&text[start..from]), tabs_wide(&text[from..to.min(end).max(from)]));
    let ellipsis = |there: bool| if there { "…" } else { "" };
    let shown = format!("{}{}{}", ellipsis(start > 0), tabs_wide(&text[start..end]), ellipsis(end < text.len()));
    (shown, lead.chars().count() + usize::from(start > 0), fault.chars().count().max(1))
}

fn floor_char(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str, find: &str) -> Diagnostic {
        let source = Source::new("Dockerfile", text);
        let at = text.find(find).unwrap();
        let span = Span::new(at, at + find.len());
        let lines = source.lines(span);
        Diagnostic {
            code: "unknown-instruction",
            text: "unknown instruction: RUNN (did you mean RUN?)".into(),
            source,
            span,
            lines: Some(lines),
            help: None,
            kind: Kind::Instruction,
        }
    }

    #[test]
    fn caret_form_points_at_the_fault() {
        let shown = fault("FROM a\n\tRUNN x\n", "RUNN").with_help("write RUN").render();
        assert_eq!(
            shown,
            "Dockerfile:2:2: unknown instruction: RUNN (did you mean RUN?)\n 2 |     RUNN x\n   |     ^^^^\n   = help: write RUN"
        );
    }

    #[test]
    fn a_span_over_lines_marks_each() {
        let shown = fault("FROM a\nRUN x \\\n  yé\n", "x \\\n  yé").render();
        assert_eq!(
            shown,
            "Dockerfile:2:5: unknown instruction: RUNN (did you mean RUN?)\n 2 | RUN x \\\n   |     ^^^\n 3 |   yé\n   |   ^^"
        );
    }

    #[test]
    fn of_a_long_line_only_the_part_with_the_fault_is_shown() {
        let shown = fault(&format!("{}BAD{}", "a".repeat(500), "b".repeat(500)), "BAD").render();
        let expected = format!(" 1 | …{}BAD{}…\n   | {}^^^", "a".repeat(40), "b".repeat(117), " ".repeat(41));
        assert_eq!(shown.split_once('\n').unwrap().1, expected);
    }

    #[test]
    fn message_of_an_instruction_names_the_line() {
        assert_eq!(
            fault("FROM a\nRUNN x\n", "RUNN").message(),
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)"
        );
    }

    #[test]
    fn excerpt_is_buildkits() {
        // features.md L37, oracle error/unknown-instruction
        let shown = fault("FROM a\n\n# c\nRUNN echo\n", "RUNN").excerpt();
        assert_eq!(
            shown,
            "Dockerfile:4\n--------------------\n   2 |     \n   3 |     # c\n   4 | >>> RUNN echo\n   5 |     \n--------------------\n"
        );
        let source = Source::new("Dockerfile", "a\nb\nc\nd\ne");
        assert_eq!(
            excerpt(&source, Lines { first: 2, last: 3 }),
            "Dockerfile:2\n--------------------\n   1 |     a\n   2 | >>> b\n   3 | >>> c\n   4 |     d\n--------------------\n"
        );
        assert_eq!(
            excerpt(&source, Lines { first: 1, last: 1 }),
            "Dockerfile:1\n--------------------\n   1 | >>> a\n   2 |     b\n   3 |     c\n--------------------\n"
        );
    }

    #[test]
    fn suggestions_are_at_most_two_edits_away() {
        let options = ["RUN", "FROM", "COPY", "EXPOSE"];
        assert_eq!(suggest("RUNN", options, false), Some("RUN".into()));
        assert_eq!(suggest("form", options, false), Some("from".into()));
        assert_eq!(suggest("Expos", options, false), Some("expose".into()));
        assert_eq!(suggest("copy", options, false), None, "equal: something else is wrong");
        assert_eq!(suggest("BOGUS", options, false), None);
        assert_eq!(suggest("form", ["from"], true), Some("from".into()));
        assert_eq!(suggest("FRO", ["from"], true), None);
    }
}
