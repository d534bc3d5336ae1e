//! The globs of `${name#pattern}`, `%` and `/pattern/replacement`: `*` and `?`, with `\*`, `\?`, `\\` as themselves.
//!
//! Knows no variables. BuildKit turns these globs into regular expressions; the matcher here gives the same answers for the
//! few shapes that can occur, in time proportional to pattern times value: stars never cross a newline, `#` and `%` take
//! the shortest match, everything else the longest.

use std::fmt::Write as _;

/// A parsed glob: pieces of plain characters; between two pieces stands a star.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<Vec<Atom>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Atom {
    Char(char),
    /// Any character but a newline.
    Any,
}

/// How far stars reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

impl Pattern {
    /// Reads a glob; the error names the escape that means nothing.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = vec![Vec::new()];
        let mut chars = text.chars().peekable();
        let mut push = |piece: Option<Atom>| match (piece, pieces.last_mut()) {
            (Some(atom), Some(last)) => last.push(atom),
            (None | Some(_), _) => pieces.push(Vec::new()),
        };
        while let Some(c) = chars.next() {
            match c {
                '*' => push(None),
                '?' => push(Some(Atom::Any)),
                '\\' => match chars.next() {
                    // `}` and `/` must be escaped inside `${}`; the backslash is not part of the pattern.
                    Some(c @ ('}' | '/' | '*' | '?' | '\\')) => push(Some(Atom::Char(c))),
                    Some(c) => return Err(format!("invalid escape '\\{c}'")),
                    None => return Err("invalid escape '\\'".into()),
                },
                c => push(Some(Atom::Char(c))),
            }
        }
        Ok(Self { pieces })
    }

    /// `value` without the part at its start that matches.
    pub(super) fn trim_start(&self, value: &str, reach: Reach) -> String {
        let chars: Vec<char> = value.chars().collect();
        let end = self.match_at(&chars, 0, reach).unwrap_or(0);
        chars[end..].iter().collect()
    }

    /// `value` without the part at its end that matches.
    pub(super) fn trim_end(&self, value: &str, reach: Reach) -> String {
        let mut chars: Vec<char> = value.chars().collect();
        chars.reverse();
        let mut pieces = self.pieces.clone();
        pieces.reverse();
        for piece in &mut pieces {
            piece.reverse();
        }
        let end = Self { pieces }.match_at(&chars, 0, reach).unwrap_or(0);
        chars[end..].iter().rev().collect()
    }

    /// `value` with the first match replaced by `replacement` as it is.
    pub(super) fn replace_first(&self, value: &str, replacement: &str) -> String {
        let chars: Vec<char> = value.chars().collect();
        let Some((start, end)) = self.find(&chars, 0) else { return value.to_owned() };
        let mut out: String = chars[..start].iter().collect();
        out.push_str(replacement);
        out.extend(&chars[end..]);
        out
    }

    /// `value` with every match replaced. Here `replacement` is a template as in Go's regexp package: `$0` is the match,
    /// `$$` a dollar sign, any other `$name` is empty. `None` when that would make more than `limit` bytes.
    pub(super) fn replace_all(&self, value: &str, replacement: &str, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let (mut from, mut search) = (0, 0);
        let mut previous_end = None;
        while search <= chars.len() {
            let Some((start, end)) = self.find(&chars, search) else { break };
            out.extend(&chars[from..start]);
            // An empty match right behind a match is none.
            if end > start || previous_end != Some(start) {
                fill_template(&mut out, replacement, &chars[start..end], limit)?;
            }
            from = end;
            previous_end = Some(end);
            if end > start {
                search = end;
            } else {
                if let Some(c) = chars.get(end) {
                    out.push(*c);
                }
                from = (end + 1).min(chars.len());
                search = end + 1;
            }
        }
        out.extend(&chars[from..]);
        Some(out)
    }

    /// The leftmost match at or after `from`, the longest there.
    fn find(&self, chars: &[char], from: usize) -> Option<(usize, usize)> {
        let newline_in_pattern = self.pieces.iter().flatten().any(|atom| *atom == Atom::Char('\n'));
        let mut start = from;
        while start <= chars.len() {
            if let Some(end) = self.match_at(chars, start, Reach::Longest) {
                return Some((start, end));
            }
            // With a leading star, what failed here fails everywhere up to the next newline.
            start = match chars[start..].iter().position(|c| *c == '\n') {
                Some(offset) if self.starts_with_star() && !newline_in_pattern => start + offset + 1,
                None if self.starts_with_star() => return None,
                Some(_) | None => start + 1,
            };
        }
        None
    }

    fn starts_with_star(&self) -> bool {
        self.pieces.len() > 1 && self.pieces[0].is_empty()
    }

    /// Where a match that begins at `start` ends.
    fn match_at(&self, chars: &[char], start: usize, reach: Reach) -> Option<usize> {
        let (first, rest) = self.pieces.split_first()?;
        if !piece_at(first, chars, start) {
            return None;
        }
        let mut at = start + first.len();
        let Some((last, middle)) = rest.split_last() else { return Some(at) };
        for piece in middle {
            at = star_then(piece, chars, at, Reach::Shortest)?;
        }
        star_then(last, chars, at, reach)
    }
}

/// The end of `piece` after a star at `at`.
fn star_then(piece: &[Atom], chars: &[char], at: usize, reach: Reach) -> Option<usize> {
    let line_end = chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |offset| at + offset);
    let found = match reach {
        Reach::Shortest => (at..=line_end).find(|start| piece_at(piece, chars, *start)),
        Reach::Longest => (at..=line_end).rev().find(|start| piece_at(piece, chars, *start)),
    };
    found.map(|start| start + piece.len())
}

fn piece_at(piece: &[Atom], chars: &[char], at: usize) -> bool {
    chars.get(at..at + piece.len()).is_some_and(|window| {
        piece.iter().zip(window).all(|(atom, c)| match atom {
            Atom::Char(wanted) => wanted == c,
            Atom::Any => *c != '\n',
        })
    })
}

/// Appends `template` with the match put in. `None` when `out` got more than `limit` bytes.
fn fill_template(out: &mut String, template: &str, matched: &[char], limit: usize) -> Option<()> {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        if out.len() > limit {
            return None;
        }
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        match template_name(rest) {
            Some((name, after)) => {
                if name.bytes().all(|b| b == b'0') {
                    out.extend(matched);
                }
                rest = after;
            }
            None => out.push('$'),
        }
    }
    let _ = write!(out, "{rest}");
    (out.len() <= limit).then_some(())
}

/// `name` or `{name}` at the start of `text`, and what follows.
fn template_name(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let inner = braced.unwrap_or(text);
    let length = inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len());
    let (name, after) = inner.split_at(length);
    if name.is_empty() {
        return None;
    }
    if braced.is_some() { after.strip_prefix('}').map(|after| (name, after)) } else { Some((name, after)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn trims() {
        use Reach::{Longest, Shortest};
        for (value, pattern, reach, start, end) in [
            ("a/b/c", "*/", Shortest, "b/c", "a/b/c"),
            ("a/b/c", "*/", Longest, "c", "a/b/c"),
            ("a/b/c", "/*", Shortest, "a/b/c", "a/b"),
            ("a/b/c", "/*", Longest, "a/b/c", "a"),
            ("abc", "?", Shortest, "bc", "ab"),
            ("abc", "", Longest, "abc", "abc"),
            ("abc", "*", Shortest, "abc", "abc"),
            ("abc", "*", Longest, "", ""),
            ("a*b", "a\\*", Shortest, "b", "a*b"),
            ("한국어", "?", Shortest, "국어", "한국"),
            ("xaxa", "x*a", Longest, "", ""),
            ("xaxa", "x*a", Shortest, "xa", "xa"),
        ] {
            assert_eq!(p(pattern).trim_start(value, reach), start, "{value}#{pattern} {reach:?}");
            assert_eq!(p(pattern).trim_end(value, reach), end, "{value}%{pattern} {reach:?}");
        }
    }

    #[test]
    fn replaces() {
        for (value, pattern, with, first, all) in [
            ("abcabc", "b", "X", "aXcabc", "aXcaXc"),
            ("abcabc", "b*", "X", "aX", "aX"),
            ("abc", "", "-", "-abc", "-a-b-c-"),
            ("abc", "z", "-", "abc", "abc"),
            ("abc", "?", "$0$0", "$0$0bc", "aabbcc"),
            ("abc", "b", "$1", "a$1c", "ac"),
            ("abc", "b", "${x}$$", "a${x}$$c", "a$c"),
            ("abc", "*", "x", "x", "x"),
            ("a\nb", "*", "x", "x\nb", "x\nx"),
        ] {
            assert_eq!(p(pattern).replace_first(value, with), first, "{value}/{pattern}/{with}");
            assert_eq!(p(pattern).replace_all(value, with, 1000).as_deref(), Some(all), "{value}//{pattern}/{with}");
        }
    }

    #[test]
    fn only_some_escapes_mean_something() {
        assert_eq!(Pattern::parse("\\x"), Err("invalid escape '\\x'".into()));
        assert_eq!(Pattern::parse("a\\"), Err("invalid escape '\\'".into()));
        assert_eq!(p("\\}\\/").trim_start("}/x", Reach::Shortest), "x");
    }
}
