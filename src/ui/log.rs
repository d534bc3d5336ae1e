//! Output of one step as lines, each stamped with the seconds since the step began.
//!
//! Pure. Bytes come in any split and are kept as they are (`\r` and invalid UTF-8 included); both streams share the line that is
//! being written, as on a terminal.

use std::time::Duration;

/// A line longer than this is broken: somebody writes without ever ending a line, and the open line is held in memory.
const LONGEST_LINE: usize = 1 << 20;

/// `SECONDS ` as shown before a line: fewer decimals the longer it takes.
pub(super) fn stamp(since_start: Duration) -> String {
    let seconds = since_start.as_secs_f64();
    let decimals = if seconds < 10.0 {
        3
    } else if seconds < 100.0 {
        2
    } else {
        1
    };
    format!("{seconds:.decimals$} ")
}

/// Lines not yet taken away.
#[derive(Debug, Default)]
pub(super) struct Log {
    lines: Vec<Vec<u8>>,
    open: bool,
}

impl Log {
    /// Adds output written `since_start` after the step's begin.
    pub(super) fn push(&mut self, since_start: Duration, data: &[u8]) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            match self.lines.last_mut() {
                Some(line) if self.open => line.extend_from_slice(text),
                _ => {
                    let mut line = stamp(since_start).into_bytes();
                    line.extend_from_slice(text);
                    self.lines.push(line);
                }
            }
            let held = self.lines.last().map_or(0, Vec::len);
            self.open = !piece.ends_with(b"\n") && held < LONGEST_LINE;
        }
    }

    /// All lines held; the last one may still grow, see [`Log::is_open`].
    pub(super) fn lines(&self) -> &[Vec<u8>] {
        &self.lines
    }

    /// Whether the last line has no line end yet.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Takes away the lines that are complete.
    pub(super) fn take_complete(&mut self) -> Vec<Vec<u8>> {
        let keep = usize::from(self.open && !self.lines.is_empty());
        let rest = self.lines.split_off(self.lines.len() - keep);
        std::mem::replace(&mut self.lines, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = b"one\n\ntwo\r\nthree";
        for cut in 0..=text.len() {
            let mut log = Log::default();
            log.push(Duration::from_millis(1500), &text[..cut]);
            log.push(Duration::from_millis(1500), &text[cut..]);
            let lines: Vec<_> = log.lines().iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
            assert_eq!(lines, ["1.500 one", "1.500 ", "1.500 two\r", "1.500 three"], "cut at {cut}");
            assert!(log.is_open());
            assert_eq!(log.take_complete().len(), 3);
            assert_eq!(log.lines(), [b"1.500 three"]);
        }
    }

    #[test]
    fn stamps_lose_decimals() {
        assert_eq!(stamp(Duration::from_millis(123)), "0.123 ");
        assert_eq!(stamp(Duration::from_millis(12_345)), "12.35 ");
        assert_eq!(stamp(Duration::from_millis(123_456)), "123.5 ");
    }
}
