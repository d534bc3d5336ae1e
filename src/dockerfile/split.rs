//! A file cut into logical lines: directives read, continuation lines joined, comments and blank lines dropped, heredoc
//! bodies taken from the lines that follow. Hand-written because the escape character is chosen inside the file and
//! because a heredoc's end is a word of the line that opened it; neither fits a static grammar.
//!
//! Knows no instruction: whoever reads a logical line says whether heredoc bodies follow it.

use std::collections::BTreeSet;

use super::ast::{Directives, Heredoc, Lint};
use super::directive::{self, Name};
use super::heredoc::{self, Marker};
use crate::source::{Lines, Source, Span};

/// Longest physical line, without its newline. BuildKit's limit; without one a file without newlines would be read whole
/// only to be refused.
const MAX_LINE: usize = 65535;

/// A line's text with its place in the file.
#[derive(Debug)]
pub(super) struct LogicalLine {
    /// The joined text, as it stands: blanks at its end included.
    pub(super) text: String,
    /// Where in the file pieces of `text` come from: (offset in `text`, offset in the file), ascending.
    map: Vec<(u32, u32)>,
    /// Physical lines without heredoc bodies.
    pub(super) lines: Lines,
    /// Comments above it.
    pub(super) comments: Vec<String>,
}

impl LogicalLine {
    /// The span in the file of a range of `text`.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let from = self.offset(start);
        let to = if end > start { self.offset(end - 1) + 1 } else { from };
        Span::new(from, to)
    }

    fn offset(&self, at: usize) -> usize {
        let index = self.map.partition_point(|(logical, _)| *logical as usize <= at).max(1) - 1;
        self.map.get(index).map_or(0, |(logical, source)| *source as usize + (at - *logical as usize))
    }
}

/// A fault found while splitting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SplitFault {
    /// Stable name.
    pub(super) code: &'static str,
    /// BuildKit's words.
    pub(super) text: String,
    /// Where.
    pub(super) span: Span,
    /// Its lines.
    pub(super) lines: Lines,
    /// What to do about it.
    pub(super) help: Option<String>,
}

/// Cuts a source into logical lines.
#[derive(Debug)]
pub(super) struct Splitter<'a> {
    source: &'a Source,
    /// Offset of the next physical line, and its number counted from 1.
    at: usize,
    number: u32,
    zone: DirectiveZone,
    seen: BTreeSet<&'static str>,
    /// What the directives said.
    pub(super) directives: Directives,
    /// Empty continuation lines.
    pub(super) lints: Vec<Lint>,
    /// Faults in the order found.
    pub(super) faults: Vec<SplitFault>,
}

/// Whether the next line may still be a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirectiveZone {
    /// All of them.
    Open,
    /// Behind a `#!` line: syntax and check count, escape does not.
    BehindShebang,
    /// Over.
    Closed,
}

/// One physical line.
#[derive(Clone, Copy)]
struct Physical<'a> {
    /// With its line end.
    raw: &'a str,
    /// Offset in the file.
    start: usize,
    number: u32,
}

impl<'a> Physical<'a> {
    fn text(&self) -> &'a str {
        self.raw.trim_end_matches(['\r', '\n'])
    }
    fn is_comment(&self) -> bool {
        self.raw.trim_start().starts_with('#')
    }
}

impl<'a> Splitter<'a> {
    /// Starts at the beginning of a file.
    pub(super) fn new(source: &'a Source) -> Self {
        let at = if source.text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self {
            source,
            at,
            number: 0,
            zone: DirectiveZone::Open,
            seen: BTreeSet::new(),
            directives: Directives { syntax: None, escape: '\\', check: None },
            lints: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// The next logical line; `None` at the end of the file.
    pub(super) fn next_line(&mut self) -> Option<LogicalLine> {
        let mut comments = Vec::new();
        loop {
            let line = self.physical()?;
            let text = line.text();
            let trimmed = text.trim_start();
            if let Some(comment) = trimmed.strip_prefix('#') {
                if self.is_directive(comment, line) {
                    continue;
                }
                match comment.trim() {
                    // An empty comment ends the block that describes the instruction below.
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            self.zone = DirectiveZone::Closed;
            if trimmed.is_empty() {
                continue;
            }
            return Some(self.joined(line, trimmed, comments));
        }
    }

    /// Takes the bodies of heredocs from the lines that follow, each also as it stands in the file. `line` becomes as long
    /// as what was taken.
    pub(super) fn bodies(&mut self, markers: Vec<Marker>, line: &mut LogicalLine) -> Vec<(Heredoc, &'a str)> {
        let mut taken = Vec::with_capacity(markers.len());
        for marker in markers {
            let start = self.at;
            let mut end = None;
            while let Some(body_line) = self.physical() {
                let text = body_line.text();
                if (if marker.chomp { text.trim_start_matches('\t') } else { text }) == marker.name {
                    end = Some(body_line.start);
                    break;
                }
            }
            let Some(end) = end else {
                let lines = Lines { first: line.lines.first, last: self.number };
                let span = line.span(0, line.text.trim_end().len());
                self.faults.push(SplitFault {
                    code: "unterminated-heredoc",
                    text: "unterminated heredoc".into(),
                    span,
                    lines,
                    help: Some(format!("no line below consists of {} alone", marker.name)),
                });
                line.lines.last = self.number;
                return taken;
            };
            let raw = &self.source.text[start..end];
            let heredoc = Heredoc {
                name: marker.name,
                fd: marker.fd,
                expand: marker.expand,
                chomp: marker.chomp,
                content: if marker.chomp { heredoc::without_leading_tabs(raw) } else { raw.to_owned() },
                span: Span::new(start, end),
            };
            taken.push((heredoc, raw));
            line.lines.last = self.number;
        }
        taken
    }

    fn physical(&mut self) -> Option<Physical<'a>> {
        let rest = &self.source.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let line = Physical { raw: &rest[..length], start: self.at, number: self.number + 1 };
        self.at += length;
        self.number += 1;
        let without_newline = line.raw.strip_suffix('\n').unwrap_or(line.raw).len();
        if without_newline > MAX_LINE {
            self.faults.push(SplitFault {
                code: "line-too-long",
                text: format!("dockerfile line greater than max allowed size of {MAX_LINE}"),
                span: Span::new(line.start + MAX_LINE, line.start + without_newline),
                lines: Lines { first: line.number, last: line.number },
                help: None,
            });
        }
        Some(line)
    }

    fn joined(&mut self, first: Physical<'a>, trimmed: &str, comments: Vec<String>) -> LogicalLine {
        let escape = self.directives.escape;
        let indent = first.text().len() - trimmed.len();
        let mut line = LogicalLine {
            text: String::new(),
            map: vec![(0, (first.start + indent) as u32)],
            lines: Lines { first: first.number, last: first.number },
            comments,
        };
        let (part, mut continues) = without_continuation(trimmed, escape);
        line.text.push_str(part);
        let mut empty_line = None;
        while continues {
            let Some(next) = self.physical() else { break };
            line.lines.last = next.number;
            if next.is_comment() {
                continue;
            }
            let text = next.text();
            if text.trim().is_empty() {
                empty_line = Some(next.number);
                continue;
            }
            let (part, more) = without_continuation(text, escape);
            line.map.push((line.text.len() as u32, next.start as u32));
            line.text.push_str(part);
            continues = more;
        }
        if empty_line.is_some() {
            let last = line.lines.last;
            self.lints.push(Lint {
                rule: "NoEmptyContinuation",
                message: "Empty continuation line".into(),
                lines: Lines { first: last, last },
            });
        }
        line
    }

    /// Reads a comment as a directive while directives count.
    fn is_directive(&mut self, comment: &str, line: Physical<'_>) -> bool {
        if self.zone == DirectiveZone::Closed {
            return false;
        }
        let Some((name, value)) = directive::read(comment) else {
            let shebang = line.number == 1 && comment.starts_with('!');
            self.zone = if shebang { DirectiveZone::BehindShebang } else { DirectiveZone::Closed };
            return false;
        };
        if name == Name::Escape && self.zone == DirectiveZone::BehindShebang {
            return false;
        }
        let fault = if self.seen.insert(name.text()) {
            self.obey(name, value).err().map(|text| ("invalid-directive", text))
        } else {
            Some(("duplicate-directive", format!("only one {} parser directive can be used", name.text())))
        };
        if let Some((code, text)) = fault {
            let end = line.start + line.text().len();
            let lines = Lines { first: line.number, last: line.number };
            let start = end - line.text().trim_start().len();
            self.faults.push(SplitFault { code, text, span: Span::new(start, end), lines, help: None });
        }
        true
    }

    fn obey(&mut self, name: Name, value: &str) -> Result<(), String> {
        match (name, value) {
            (Name::Syntax, value) => self.directives.syntax = Some(value.to_owned()),
            (Name::Escape, "\\") => self.directives.escape = '\\',
            (Name::Escape, "`") => self.directives.escape = '`',
            (Name::Escape, other) => return Err(format!("invalid escape token '{other}' does not match ` or \\")),
            (Name::Check, value) => {
                let check = directive::parse_check(directive::up_to_blank(value));
                self.directives.check = Some(check.map_err(|text| format!("failed to parse check options: {text}"))?);
            }
        }
        Ok(())
    }
}

/// The line without an escape character at its end (blanks may follow it), and whether there was one. Two in a row are
/// not one, and neither are three.
fn without_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        Some(_) | None => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logical lines as `first-last text`, then what the comments above were.
    fn check(text: &str, expected: &[&str]) {
        let source = Source::new("Dockerfile", text);
        let mut splitter = Splitter::new(&source);
        let mut shown = Vec::new();
        while let Some(line) = splitter.next_line() {
            let comments: Vec<&str> = std::iter::once("").chain(line.comments.iter().map(String::as_str)).collect();
            shown.push(format!("{}-{} {}{}", line.lines.first, line.lines.last, line.text, comments.join(" #")));
        }
        shown.extend(splitter.lints.iter().map(|lint| format!("lint {} {}", lint.lines.first, lint.message)));
        shown.extend(splitter.faults.iter().map(|fault| format!("fault {} {}", fault.lines.first, fault.text)));
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn continuation_lines_keep_their_indentation() {
        // features.md D004-D008, observed.md 1
        check("RUN x\\\n   y\n", &["1-2 RUN x   y"]);
        check("  RUN x \\  \n# c\n  # d\ny", &["1-4 RUN x y"]);
        check("RUN x \\\n\n\ny\n", &["1-4 RUN x y", "lint 4 Empty continuation line"]);
        check("RUN x \\\\\ny", &["1-1 RUN x \\\\", "2-2 y"]);
        check("RUN x \\\\\\\ny", &["1-1 RUN x \\\\\\", "2-2 y"]);
        check("RUN x \\\r\ny\r\n", &["1-2 RUN x y"]);
        check("RUN x \\", &["1-1 RUN x "]);
        check("\\\nRUN x", &["1-2 RUN x"]);
        check("RUN x \\\n\n", &["1-2 RUN x ", "lint 2 Empty continuation line"]);
    }

    #[test]
    fn directives_end_at_the_first_other_line() {
        // features.md D001, D020, D023
        check("# escape=`\nRUN x `\ny", &["2-3 RUN x y"]);
        check("\u{feff}# escape=`\nRUN x `\ny", &["2-3 RUN x y"]);
        check("#\n# escape=`\nRUN x `\ny", &["3-3 RUN x ` #escape=`", "4-4 y"]);
        check("\n# escape=`\nRUN x `", &["3-3 RUN x ` #escape=`"]);
        check("# foo=bar\n# escape=`\nRUN x `", &["3-3 RUN x ` #foo=bar #escape=`"]);
        check("#Escape = `\n# escape=`\nx", &["3-3 x", "fault 2 only one escape parser directive can be used"]);
        check("# escape=x\nx", &["2-2 x", "fault 1 invalid escape token 'x' does not match ` or \\"]);
        check("# check=skp=x\nx", &["2-2 x", "fault 1 failed to parse check options: invalid check option \"skp\""]);
    }

    #[test]
    fn comments_belong_to_what_follows() {
        // features.md D017
        check("# a\n# b\nRUN x\nRUN y", &["3-3 RUN x #a #b", "4-4 RUN y"]);
        check("# a\n#\n# b\nRUN x", &["4-4 RUN x #b"]);
        check("# syntax=x\n# b\nRUN x", &["3-3 RUN x #b"]);
    }

    #[test]
    fn physical_lines_have_a_limit() {
        // features.md D002
        let fault = "fault 1 dockerfile line greater than max allowed size of 65535";
        let long = format!("#{}", "x".repeat(MAX_LINE));
        check(&long, &[fault]);
        check(&format!("{long}\n"), &[fault]);
        check(&format!("#{}\n", "\u{20}".repeat(MAX_LINE - 1)), &[]);
    }

    #[test]
    fn spans_lead_back_to_the_file() {
        let source = Source::new("Dockerfile", "  RUN a \\\n # c\n  bc \\\nd");
        let line = Splitter::new(&source).next_line().unwrap();
        assert_eq!(line.text, "RUN a   bc d");
        let at = |word: &str| {
            let start = line.text.find(word).unwrap();
            &source.text[line.span(start, start + word.len()).range()]
        };
        assert_eq!(at("RUN"), "RUN");
        assert_eq!(at("bc"), "bc");
        assert_eq!(at("d"), "d");
        assert_eq!(&source.text[line.span(4, 10).range()], "a \\\n # c\n  bc");
    }

    #[test]
    fn bodies_end_at_a_whole_line() {
        // features.md D192, D193, observed.md 6
        let source = Source::new("Dockerfile", "RUN <<-A <<B\n\tx\n\tA \n\tA\r\n\ty\nB\nRUN z");
        let mut splitter = Splitter::new(&source);
        let mut line = splitter.next_line().unwrap();
        let markers = heredoc::markers(&line.text).unwrap();
        let bodies: Vec<_> = splitter.bodies(markers, &mut line).into_iter().map(|(h, _)| h.content).collect();
        assert_eq!(bodies, ["x\nA \n", "\ty\n"]);
        assert_eq!(line.lines, Lines { first: 1, last: 6 });
        assert_eq!(splitter.next_line().unwrap().text, "RUN z");
    }
}
