//! Docker's pattern lists: what `.dockerignore` and `--exclude` (and `--parents` sources) are made of.
//!
//! Not gitignore: patterns are anchored at the top, `**` takes any depth, `!` takes back, the last match wins, and a path is
//! also matched when a directory above it is (D181-D183, observed 39). Directory results are handed down while walking, as
//! Docker does; a pattern that was not consulted for a directory is not consulted for it again below, which can be told
//! apart from matching each path on its own (`*/bar` then `!foo` excludes `foo/bar`).
//!
//! Two oddities of Docker's are not followed: its translation to a regular expression makes `[*]` and `\d` mean something
//! that neither its documentation nor `path.Match` says. Here they mean a star and a `d`.
//!
//! Pure; opens nothing and knows no tree.

use std::fmt;

use super::glob::{self, BadPattern, Class};

/// A list of patterns in order.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
}

/// A pattern as its user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// 1-based line it stands on, or its place in a list of flags.
    pub line: u32,
    /// `!`: takes matches back.
    pub negated: bool,
    text: Vec<u8>,
    shape: Shape,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.negated { "!" } else { "" }, String::from_utf8_lossy(&self.text))
    }
}

/// A pattern list cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A lone `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclamation,
    /// Bad syntax.
    #[error("syntax error in pattern {0:?}")]
    Syntax(String),
}

/// Which patterns matched a directory; handed to what is below it. The default is for what has no parent.
#[derive(Clone, Debug, Default)]
pub struct Matched(Vec<bool>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Exact,
    /// `x**` at the end of plain text: anything that starts with the text before it.
    Prefix,
    /// `**x` before plain text: anything that ends in the text after it, or is it without a leading slash.
    Suffix(Vec<u8>),
    Tokens(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(Vec<u8>),
    /// `?`
    One,
    /// `*`
    Star,
    /// `**` at the end: anything.
    Rest,
    /// `**` or `**/` elsewhere: nothing, or anything up to and including a slash.
    Deep,
    Class(Class),
}

impl Patterns {
    /// Builds a list from texts with their line numbers. Blank ones are dropped; each is trimmed and cleaned.
    pub fn new<'a>(patterns: impl IntoIterator<Item = (u32, &'a [u8])>) -> Result<Self, PatternError> {
        let mut list = Vec::new();
        for (line, text) in patterns {
            let text = trim(text);
            if text.is_empty() {
                continue;
            }
            let cleaned = clean(text);
            let (negated, text) = match cleaned.strip_prefix(b"!") {
                Some(b"") => return Err(PatternError::LoneExclamation),
                Some(rest) => (true, rest.to_vec()),
                None => (false, cleaned),
            };
            let syntax = |_: BadPattern| PatternError::Syntax(String::from_utf8_lossy(&text).into_owned());
            glob::check(&text).map_err(syntax)?;
            let shape = Shape::of(&text).map_err(syntax)?;
            list.push(Pattern { line, negated, text, shape });
        }
        Ok(Self { list })
    }

    /// Builds a list from flag values.
    pub fn from_flags<S: AsRef<str>>(values: &[S]) -> Result<Self, PatternError> {
        Self::new(values.iter().zip(1..).map(|(value, n)| (n, value.as_ref().as_bytes())))
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any pattern starts with `!`.
    pub fn has_negated(&self) -> bool {
        self.list.iter().any(|p| p.negated)
    }

    /// The patterns in order.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.list.iter()
    }

    /// Whether `path` (clean, relative) is matched, given what matched the directory it is in.
    pub fn matches_below(&self, path: &[u8], parent: &Matched) -> (bool, Matched) {
        let (deciding, matched) = self.deciding_below(path, parent);
        (deciding.is_some_and(|i| !self.list[i].negated), matched)
    }

    /// Whether `path` is matched, working down from the top.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some_and(|pattern| !pattern.negated)
    }

    /// The pattern that has the last word on `path`: the one that excludes it or that took it back.
    pub fn deciding(&self, path: &[u8]) -> Option<&Pattern> {
        let mut parent = Matched::default();
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        for end in slashes {
            parent = self.deciding_below(&path[..end], &parent).1;
        }
        self.deciding_below(path, &parent).0.map(|i| &self.list[i])
    }

    fn deciding_below(&self, path: &[u8], parent: &Matched) -> (Option<usize>, Matched) {
        let mut deciding = None;
        let mut excluded = false;
        let mut matched = vec![false; self.list.len()];
        for (i, pattern) in self.list.iter().enumerate() {
            let inherited = parent.0.get(i).copied().unwrap_or(false);
            // A pattern that could not change the result so far is not looked at, and so is not handed down either.
            if inherited || (pattern.negated == excluded && pattern.matches(path)) {
                matched[i] = true;
                excluded = !pattern.negated;
                deciding = Some(i);
            }
        }
        (deciding, Matched(matched))
    }

    /// Whether something below the directory `path` could be matched by a pattern with this sign. Errs on the side of yes.
    pub fn may_match_below(&self, path: &[u8], negated: bool) -> bool {
        self.list.iter().filter(|p| p.negated == negated).any(|pattern| pattern.may_match_below(path))
    }
}

impl Pattern {
    fn matches(&self, path: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact => path == self.text,
            Shape::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Shape::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|rest| rest == path)
            }
            Shape::Tokens(tokens) => {
                if let Some(Token::Literal(start)) = tokens.first()
                    && !path.starts_with(start)
                {
                    return false;
                }
                if let Some(Token::Literal(end)) = tokens.last()
                    && !path.ends_with(end)
                {
                    return false;
                }
                let wild = tokens.iter().filter(|t| matches!(t, Token::Star | Token::Deep)).count();
                let mut failed = if wild > 2 { vec![false; tokens.len() * (path.len() + 1)] } else { Vec::new() };
                match_tokens(tokens, 0, path, 0, &mut failed)
            }
        }
    }

    fn may_match_below(&self, path: &[u8]) -> bool {
        // A name in the pattern with `**` in it, or one that brackets make hard to split, may stand for anything.
        if self.text.windows(2).any(|w| w == b"**") || self.text.contains(&b'[') || self.text.contains(&b'\\') {
            let plain = self.text.iter().position(|b| b"*?[\\".contains(b)).unwrap_or(self.text.len());
            let dir = self.text[..plain].iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
            let fixed = &self.text[..dir];
            let mut below = path.to_vec();
            below.push(b'/');
            return below.starts_with(fixed) || fixed.starts_with(&below);
        }
        let mut names = self.text.split(|b| *b == b'/');
        for name in path.split(|b| *b == b'/') {
            match names.next() {
                Some(pattern) if glob::matches(pattern, name).unwrap_or(true) => {}
                _ => return false,
            }
        }
        names.next().is_some()
    }
}

impl Shape {
    fn of(text: &[u8]) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut literal = Vec::new();
        let (mut rest, mut plain, mut leading, mut trailing) = (text, true, false, false);
        while let Some((first, after)) = rest.split_first() {
            let mut token = None;
            match first {
                b'*' if after.first() == Some(&b'*') => {
                    let at_start = rest.len() == text.len();
                    rest = after[1..].strip_prefix(b"/").unwrap_or(&after[1..]);
                    leading |= at_start;
                    if rest.is_empty() {
                        trailing = true;
                        token = Some(Token::Rest);
                    } else {
                        token = Some(Token::Deep);
                        plain &= at_start;
                    }
                }
                b'*' => (token, rest, plain) = (Some(Token::Star), after, false),
                b'?' => (token, rest, plain) = (Some(Token::One), after, false),
                b'[' => {
                    let (class, after) = Class::parse(after)?;
                    if class.has_reversed_range() {
                        return Err(BadPattern);
                    }
                    (token, rest, plain) = (Some(Token::Class(class)), after, false);
                }
                b'\\' => {
                    plain = false;
                    literal.push(*after.first().ok_or(BadPattern)?);
                    rest = &after[1..];
                }
                b']' => {
                    plain = false;
                    literal.push(b']');
                    rest = after;
                }
                other => {
                    literal.push(*other);
                    rest = after;
                }
            }
            if let Some(token) = token {
                if !literal.is_empty() {
                    tokens.push(Token::Literal(std::mem::take(&mut literal)));
                }
                tokens.push(token);
            }
        }
        if !literal.is_empty() {
            tokens.push(Token::Literal(literal));
        }
        Ok(match (plain, leading, trailing) {
            (true, false, false) => Self::Exact,
            (true, false, true) => Self::Prefix,
            // Note that here the slash after `**` belongs to the text: `**/x` is `…/x` or `x`, but `**x` is `…x`.
            (true, true, false) => Self::Suffix(text[2..].to_vec()),
            _ => Self::Tokens(tokens),
        })
    }
}

fn match_tokens(tokens: &[Token], at: usize, path: &[u8], pos: usize, failed: &mut [bool]) -> bool {
    let slot = at * (path.len() + 1) + pos;
    if failed.get(slot) == Some(&true) {
        return false;
    }
    let rest = &path[pos..];
    let found = match tokens.get(at) {
        None => rest.is_empty(),
        Some(Token::Rest) => true,
        Some(Token::Literal(text)) => {
            rest.starts_with(text) && match_tokens(tokens, at + 1, path, pos + text.len(), failed)
        }
        Some(Token::One) => glob::decode(rest)
            .is_some_and(|(c, width)| c != '/' && match_tokens(tokens, at + 1, path, pos + width, failed)),
        Some(Token::Class(class)) => glob::decode(rest)
            .is_some_and(|(c, width)| class.contains(c) && match_tokens(tokens, at + 1, path, pos + width, failed)),
        Some(Token::Star) => {
            let name = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            (0..=name).any(|n| match_tokens(tokens, at + 1, path, pos + n, failed))
        }
        Some(Token::Deep) => {
            match_tokens(tokens, at + 1, path, pos, failed)
                || (0..rest.len()).any(|n| rest[n] == b'/' && match_tokens(tokens, at + 1, path, pos + n + 1, failed))
        }
    };
    if !found && let Some(slot) = failed.get_mut(slot) {
        *slot = true;
    }
    found
}

/// Removes blanks around a line; Unicode's where the line is text.
pub fn trim(line: &[u8]) -> &[u8] {
    std::str::from_utf8(line).map_or(line.trim_ascii(), |text| text.trim().as_bytes())
}

/// The shortest equivalent of a path, by text alone (Go's `path.Clean`).
pub fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|p| *p != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            name => parts.push(name),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
