//! The text of one file the user wrote, with its name and line table; spans point into it.
//!
//! Knows nothing of Dockerfile syntax and opens no file.

use std::ops::Range;
use std::sync::Arc;

/// A byte range in a [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The span from `start` to one before `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }
    /// As a range for slicing.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// First and last line of something, both 1-based and inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lines {
    /// First line, 1-based.
    pub first: u32,
    /// Last line, 1-based, inclusive (heredoc bodies count).
    pub last: u32,
}

/// A named text. Offsets are bytes of `text` as the user wrote it (BOM and `\r` included).
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The name shown in messages: the file name as BuildKit shows it, e.g. `Dockerfile`.
    pub name: String,
    /// The text. Invalid UTF-8 was replaced when it was read.
    pub text: String,
    line_starts: Vec<u32>,
}

impl Source {
    /// A text under a name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        let text = text.into();
        let mut line_starts = vec![0];
        line_starts.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i as u32 + 1));
        Arc::new(Self { name: name.into(), text, line_starts })
    }

    /// 1-based line and 1-based column (in characters) of a byte offset.
    pub fn position(&self, offset: u32) -> (u32, u32) {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts[line - 1] as usize;
        let end = (offset as usize).min(self.text.len());
        let column = self.text.get(start..end).map_or(0, |s| s.chars().count());
        (line as u32, column as u32 + 1)
    }

    /// How many lines the text has; a final newline does not start another one.
    pub fn line_count(&self) -> u32 {
        let n = self.line_starts.len() as u32;
        if self.text.ends_with('\n') { n - 1 } else { n }
    }

    /// The text of a 1-based line without its line end; empty beyond the last one.
    pub fn line(&self, line: u32) -> &str {
        let Some(start) = self.line_starts.get(line.wrapping_sub(1) as usize) else { return "" };
        let end = self.line_starts.get(line as usize).map_or(self.text.len(), |e| *e as usize);
        self.text[*start as usize..end].trim_end_matches(['\n', '\r'])
    }

    /// Offset of the first byte of a 1-based line; the end of the text beyond the last one.
    pub fn line_start(&self, line: u32) -> u32 {
        self.line_starts.get(line.wrapping_sub(1) as usize).copied().unwrap_or(self.text.len() as u32)
    }

    /// The lines a span touches.
    pub fn lines(&self, span: Span) -> Lines {
        let last = if span.end > span.start { span.end - 1 } else { span.start };
        Lines { first: self.position(span.start).0, last: self.position(last).0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let source = Source::new("Dockerfile", "FROM a\r\nRUN é x\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(8), (2, 1));
        assert_eq!(source.position(14), (2, 6));
        assert_eq!(source.line(1), "FROM a");
        assert_eq!(source.line(2), "RUN é x");
        assert_eq!(source.line_count(), 2);
        assert_eq!(source.lines(Span::new(0, 15)), Lines { first: 1, last: 2 });
    }
}
