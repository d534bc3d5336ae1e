//! Wildcards of COPY and ADD sources: Go's `path.Match` for one name, with its quirks.
//!
//! `*` and `?` never cross a slash because only single names come in here; `[!a]` is *not* a negation (it is the set of `!`
//! and `a`), `[^a]` is (observed 20). Knows no directory: walking is `select`'s business.

/// The pattern has a syntax error, e.g. an open bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether a path text contains wildcards. A backslash takes the meaning from the character after it.
pub fn has_wildcards(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(b) = bytes.next() {
        match b {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

/// Whether `name`, a single path component, matches `pattern`.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    check(pattern)?;
    Ok(matches_checked(pattern, name))
}

/// Checks the syntax of a whole pattern (slashes allowed).
pub fn check(mut pattern: &[u8]) -> Result<(), BadPattern> {
    while let Some((first, rest)) = pattern.split_first() {
        pattern = match first {
            b'[' => Class::parse(rest)?.1,
            b'\\' => rest.get(1..).ok_or(BadPattern)?,
            _ => rest,
        };
    }
    Ok(())
}

fn matches_checked(mut pattern: &[u8], mut name: &[u8]) -> bool {
    // The state right after the last star, to come back to with the star one character longer.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            pattern = rest;
            retry = Some((pattern, name));
            continue;
        }
        if pattern.is_empty() && name.is_empty() {
            return true;
        }
        if let Some((p, n)) = step(pattern, name) {
            (pattern, name) = (p, n);
            continue;
        }
        match retry {
            Some((p, n)) if !n.is_empty() && n[0] != b'/' => {
                let shorter = &n[1..];
                retry = Some((p, shorter));
                (pattern, name) = (p, shorter);
            }
            _ => return false,
        }
    }
}

/// Matches one item that is not a star; returns what is left of both.
fn step<'p, 'n>(pattern: &'p [u8], name: &'n [u8]) -> Option<(&'p [u8], &'n [u8])> {
    let (first, rest) = pattern.split_first()?;
    let (character, width) = decode(name)?;
    match first {
        b'?' => (character != '/').then(|| (rest, &name[width..])),
        b'[' => {
            let (class, rest) = Class::parse(rest).ok()?;
            class.contains(character).then(|| (rest, &name[width..]))
        }
        b'\\' => {
            let (literal, rest) = rest.split_first()?;
            (*literal == name[0]).then(|| (rest, &name[1..]))
        }
        literal => (*literal == name[0]).then(|| (rest, &name[1..])),
    }
}

/// The first character and its width; a byte that is not UTF-8 counts as one replacement character.
pub(super) fn decode(bytes: &[u8]) -> Option<(char, usize)> {
    let head = &bytes[..bytes.len().min(4)];
    let chunk = head.utf8_chunks().next()?;
    Some(chunk.valid().chars().next().map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8())))
}

/// A set of characters: `[a-z]`, `[^a]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    /// Parses what follows `[`; returns the rest after `]`.
    pub(super) fn parse(mut text: &[u8]) -> Result<(Self, &[u8]), BadPattern> {
        let negated = text.first() == Some(&b'^');
        if negated {
            text = &text[1..];
        }
        let mut ranges = Vec::new();
        loop {
            match text.first() {
                Some(b']') if !ranges.is_empty() => return Ok((Self { negated, ranges }, &text[1..])),
                _ => {
                    let (low, rest) = Self::member(text)?;
                    text = rest;
                    let mut high = low;
                    if text.first() == Some(&b'-') {
                        (high, text) = Self::member(&text[1..])?;
                    }
                    ranges.push((low, high));
                }
            }
        }
    }

    fn member(mut text: &[u8]) -> Result<(char, &[u8]), BadPattern> {
        match text.first() {
            None | Some(b'-' | b']') => return Err(BadPattern),
            Some(b'\\') => text = &text[1..],
            Some(_) => {}
        }
        let (c, width) = decode(text).ok_or(BadPattern)?;
        if (c == char::REPLACEMENT_CHARACTER && width == 1) || text.len() == width {
            return Err(BadPattern);
        }
        Ok((c, &text[width..]))
    }

    /// Whether some range ends before it begins; where that is no fault, the range is empty.
    pub(super) fn has_reversed_range(&self) -> bool {
        self.ranges.iter().any(|(low, high)| low > high)
    }

    /// Whether the set has this character.
    pub(super) fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_table(table: &[(&str, &str, Result<bool, BadPattern>)]) {
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), *expected, "{pattern:?} on {name:?}");
        }
    }

    #[test]
    fn go_s_own_table() {
        check_table(&[
            ("abc", "abc", Ok(true)),
            ("*", "abc", Ok(true)),
            ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)),
            ("a*", "ab/c", Ok(false)),
            ("a*b*c*d*e*", "axbxcxdxe", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
            ("ab[c]", "abc", Ok(true)),
            ("ab[b-d]", "abc", Ok(true)),
            ("ab[e-g]", "abc", Ok(false)),
            ("ab[^c]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a\\*b", "ab", Ok(false)),
            ("a?b", "a☺b", Ok(true)),
            ("a[^a]b", "a☺b", Ok(true)),
            ("a???b", "a☺b", Ok(false)),
            ("[a-ζ]*", "α", Ok(true)),
            ("*[a-ζ]", "A", Ok(false)),
            ("a?b", "a/b", Ok(false)),
            ("a*b", "a/b", Ok(false)),
            ("[\\]a]", "]", Ok(true)),
            ("[\\-]", "-", Ok(true)),
            ("[x\\-]", "z", Ok(false)),
            ("[]a]", "]", Err(BadPattern)),
            ("[-]", "-", Err(BadPattern)),
            ("[x-]", "x", Err(BadPattern)),
            ("[a-b-c]", "a", Err(BadPattern)),
            ("[", "a", Err(BadPattern)),
            ("[^", "a", Err(BadPattern)),
            ("[^bc", "a", Err(BadPattern)),
            ("a[", "a", Err(BadPattern)),
            ("a[", "ab", Err(BadPattern)),
            ("\\", "a", Err(BadPattern)),
            ("*x", "xxx", Ok(true)),
        ]);
    }

    #[test]
    fn observed_20_exclamation_mark_is_an_ordinary_member() {
        check_table(&[
            ("[!a]*", "abc", Ok(true)),
            ("[!a]*", "!x", Ok(true)),
            ("[!a]*", "xyz", Ok(false)),
            ("[*]", "*", Ok(true)),
            ("[*]", "x", Ok(false)),
        ]);
    }

    #[test]
    fn wildcards_are_seen_unless_escaped() {
        assert!(has_wildcards(b"a*") && has_wildcards(b"[") && has_wildcards(b"a?"));
        assert!(!has_wildcards(b"a\\*") && !has_wildcards(b"]") && !has_wildcards(b""));
    }
}
