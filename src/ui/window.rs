//! The last lines a running step printed, as the live display shows them beneath the step.
//!
//! Pure. A poor man's terminal: a carriage return starts the line over, escape sequences and control characters vanish.

use std::collections::VecDeque;

/// Of one line no more than this is held; the window is narrower anyway.
const LONGEST_LINE: usize = 4096;

/// A few lines of output.
#[derive(Debug)]
pub(super) struct Window {
    height: usize,
    lines: VecDeque<Vec<u8>>,
    /// The line being written.
    open: Vec<u8>,
    /// The next byte starts the open line over.
    restart: bool,
}

impl Window {
    /// An empty window of `height` lines.
    pub(super) fn new(height: usize) -> Self {
        Self { height, lines: VecDeque::new(), open: Vec::new(), restart: false }
    }

    /// Takes output in.
    pub(super) fn push(&mut self, data: &[u8]) {
        for byte in data {
            match byte {
                b'\n' => {
                    self.restart = false;
                    self.lines.push_back(std::mem::take(&mut self.open));
                    while self.lines.len() > self.height {
                        self.lines.pop_front();
                    }
                }
                b'\r' => self.restart = true,
                byte => {
                    if std::mem::take(&mut self.restart) {
                        self.open.clear();
                    }
                    if self.open.len() < LONGEST_LINE {
                        self.open.push(*byte);
                    }
                }
            }
        }
    }

    /// Up to `height` non-empty lines, the latest last.
    pub(super) fn lines(&self) -> Vec<String> {
        let all = self.lines.iter().chain(std::iter::once(&self.open));
        let mut shown: Vec<_> = all.map(|line| plain_text(line)).filter(|line| !line.trim().is_empty()).collect();
        shown.drain(..shown.len().saturating_sub(self.height));
        shown
    }
}

/// `bytes` without escape sequences and control characters; tabs become a blank.
fn plain_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // CSI: parameters up to a final byte.
                Some('[') => while chars.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {},
                // OSC: up to BEL or ESC \.
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(height: usize, data: &str) -> Vec<String> {
        let mut window = Window::new(height);
        window.push(data.as_bytes());
        window.lines()
    }

    #[test]
    fn shows_the_last_lines_as_a_terminal_would() {
        assert_eq!(shown(2, "a\nb\nc\n"), ["b", "c"]);
        assert_eq!(shown(2, "a\nb\nc"), ["b", "c"]);
        assert_eq!(shown(2, "a\n\n\nb\n"), ["b"]);
        assert_eq!(shown(6, "10%\r20%\r30%"), ["30%"]);
        assert_eq!(shown(6, "10%\r\nx\r\n"), ["10%", "x"]);
        assert_eq!(shown(6, "\u{1b}[1;31mred\u{1b}[0m\tend\u{7}\n"), ["red end"]);
        assert_eq!(shown(6, "\u{1b}]0;title\u{7}text\n"), ["text"]);
    }
}
