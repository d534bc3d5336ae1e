//! Variable expansion and quote removal in one word, a list of words, or a heredoc body.
//!
//! Knows no instruction and no scope: the caller says what a name means. One pass over the text with an explicit stack of
//! open `${…}` and one output buffer that all of them share, so that deep nesting costs neither stack nor copies.

use std::collections::BTreeSet;
use std::fmt;

use super::pattern::{Pattern, Reach};
use super::quote::quoted;

/// What a name means; `None` when it is not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The result of an expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text with variables replaced and quotes removed.
    pub text: String,
    /// Names that were looked up and set.
    pub matched: BTreeSet<String>,
    /// Names that were looked up and not set.
    pub unmatched: BTreeSet<String>,
    /// Places of unquoted blanks in `text`.
    breaks: Vec<usize>,
    /// Places in `text` before which the word they are in loses its beginning.
    cuts: Vec<usize>,
}

impl Expanded {
    /// The words between unquoted blanks; blanks that came out of a variable count. As in BuildKit, what stands in a word before
    /// a `${…}` with an argument is lost: `80${A:-1}` is the word `1`.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut from = 0;
        let mut cuts = self.cuts.iter().copied().peekable();
        for at in self.breaks.iter().copied().chain([self.text.len()]) {
            while let Some(cut) = cuts.next_if(|cut| *cut <= at) {
                from = from.max(cut);
            }
            let word = &self.text[from..at];
            if !word.is_empty() {
                words.push(word.to_owned());
            }
            from = at + self.text[at..].chars().next().map_or(0, char::len_utf8);
        }
        words
    }
}

/// Why a word could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordError {
    /// The whole word as written.
    pub word: String,
    /// The fault in BuildKit's words.
    pub reason: String,
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to process {}: {}", quoted(&self.word), self.reason)
    }
}

impl std::error::Error for WordError {}

/// Expands one word: variables are replaced, quotes and escapes removed. Blanks do not split it.
pub fn expand(word: &str, env: Env<'_>, escape: char) -> Result<Expanded, WordError> {
    Machine::new(word, env, escape, Mode::Word).run()
}

/// Expands a word and splits the result at unquoted blanks (EXPOSE).
pub fn expand_list(word: &str, env: Env<'_>, escape: char) -> Result<Vec<String>, WordError> {
    Ok(expand(word, env, escape)?.words())
}

/// Expands the body of a COPY or ADD heredoc: quotes are ordinary characters and the escape is always a backslash.
pub fn expand_heredoc(body: &str, env: Env<'_>) -> Result<Expanded, WordError> {
    Machine::new(body, env, '\\', Mode::Body).run()
}

/// An instruction as a step's name shows it: variables replaced, unset ones and quotes kept. Text that cannot be expanded
/// (shell syntax of its own, say) is shown as it is.
pub fn expand_for_show(text: &str, env: Env<'_>, escape: char) -> String {
    Machine::new(text, env, escape, Mode::Show).run().map_or_else(|_| text.to_owned(), |expanded| expanded.text)
}

/// Splits a line into raw words (quotes and escapes kept) to look for heredoc markers; nothing if quotes do not balance.
pub(super) fn raw_words(line: &str) -> Vec<String> {
    Machine::new(line, &|_| None, '\\', Mode::Raw).run().map_or_else(|_| Vec::new(), |expanded| expanded.words())
}

/// The words of a heredoc delimiter with and without its quotes.
pub(super) fn delimiter_words(text: &str) -> Result<(Vec<String>, Vec<String>), WordError> {
    let unquoted = Machine::new(text, &|_| None, '\\', Mode::Delimiter).run()?.words();
    let kept = Machine::new(text, &|_| None, '\\', Mode::Show).run()?.words();
    Ok((unquoted, kept))
}

/// What is done with quotes, escapes and unset variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// All removed.
    Word,
    /// Quotes mean nothing.
    Body,
    /// Quotes and unset variables stay.
    Show,
    /// Quotes, escapes and unset variables stay.
    Raw,
    /// Unset variables stay.
    Delimiter,
}

impl Mode {
    fn keeps_unset(self) -> bool {
        match self {
            Self::Word | Self::Body => false,
            Self::Show | Self::Raw | Self::Delimiter => true,
        }
    }
    fn keeps_quotes(self) -> bool {
        match self {
            Self::Word | Self::Body | Self::Delimiter => false,
            Self::Show | Self::Raw => true,
        }
    }
    fn keeps_escapes(self) -> bool {
        self == Self::Raw
    }
    fn reads_quotes(self) -> bool {
        self != Self::Body
    }
}

/// Text up to `stop`, being written to the shared output from `start` on.
struct Frame {
    part: Part,
    start: usize,
    stop: Option<char>,
    keeps_escapes: bool,
    in_double: bool,
}

/// What a frame's text is for.
enum Part {
    /// The whole text.
    Top,
    /// `w` in `${name:-w}`; also the pattern of `#` and `%`.
    Argument { variable: Variable, colon: bool, operator: char },
    /// `p` in `${name/p/r}`.
    Pattern { variable: Variable, all: bool },
    /// `r` in `${name/p/r}`, with `p`.
    Replacement { variable: Variable, all: bool, pattern: String },
}

/// A variable that was looked up.
struct Variable {
    name: String,
    value: Option<String>,
    /// It is not set and stays as written; the part before the argument is in the output already.
    kept: bool,
}

struct Machine<'a> {
    text: &'a str,
    at: usize,
    env: Env<'a>,
    escape: char,
    mode: Mode,
    out: String,
    frames: Vec<Frame>,
    /// Where the value of the outermost open `$` begins, when its blanks split words.
    splitting_from: Option<usize>,
    /// Where the last `$` or quoted text outside of any `${…}` begins.
    piece_from: usize,
    result: Expanded,
}

/// How many bytes an expansion may have. Replacements in replacements, and variables made of variables, multiply: without an
/// end a line of a hundred bytes fills the memory. No process could be given a variable this long.
const MAX_EXPANDED: usize = 16 << 20;

const MISSING_BRACE: &str = "syntax error: missing '}'";

impl<'a> Machine<'a> {
    fn new(text: &'a str, env: Env<'a>, escape: char, mode: Mode) -> Self {
        let top =
            Frame { part: Part::Top, start: 0, stop: None, keeps_escapes: mode.keeps_escapes(), in_double: false };
        Self {
            text,
            at: 0,
            env,
            escape,
            mode,
            out: String::with_capacity(text.len()),
            frames: vec![top],
            splitting_from: None,
            piece_from: 0,
            result: Expanded::default(),
        }
    }

    fn run(mut self) -> Result<Expanded, WordError> {
        loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => {
                    self.result.text = self.out;
                    return Ok(self.result);
                }
                Err(reason) => {
                    let reason = self.as_seen_from_outside(reason);
                    return Err(WordError { word: self.text.to_owned(), reason });
                }
            }
        }
    }

    /// At the end of the text every fault is a `${` left open, whatever it was inside; the outermost one is named.
    fn as_seen_from_outside(&self, reason: String) -> String {
        match self.frames.get(1).map(|frame| &frame.part) {
            Some(Part::Pattern { .. }) if self.peek().is_none() => "syntax error: missing '/' in ${}".into(),
            Some(Part::Argument { .. } | Part::Replacement { .. }) if self.peek().is_none() => MISSING_BRACE.into(),
            Some(_) | None => reason,
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the top frame is never popped: it has no stop character")
    }

    /// Handles one character or construct; `false` at the end.
    fn step(&mut self) -> Result<bool, String> {
        let (stop, in_double) = (self.frame().stop, self.frame().in_double);
        let Some(c) = self.peek() else {
            if in_double {
                return Err("unexpected end of statement while looking for matching double-quote".into());
            }
            return match stop {
                None => Ok(false),
                Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            };
        };
        if in_double {
            self.step_in_double(c)?;
        } else if stop == Some(c) {
            self.next();
            self.close()?;
        } else {
            self.step_plain(c)?;
        }
        Ok(true)
    }

    fn step_plain(&mut self, c: char) -> Result<(), String> {
        match c {
            '$' => {
                if self.frames.len() == 1 {
                    self.piece_from = self.out.len();
                    self.splitting_from = Some(self.out.len());
                }
                self.dollar()
            }
            '\'' if self.mode.reads_quotes() => self.single_quoted(),
            '"' if self.mode.reads_quotes() => {
                if self.frames.len() == 1 {
                    self.piece_from = self.out.len();
                }
                self.next();
                self.keep_quote('"');
                self.frame().in_double = true;
                Ok(())
            }
            '<' => {
                self.maybe_heredoc();
                Ok(())
            }
            c if c == self.escape => {
                self.next();
                if self.frame().keeps_escapes {
                    self.out.push(c);
                }
                // An escape at the very end is dropped.
                if let Some(next) = self.next() {
                    self.out.push(next);
                }
                Ok(())
            }
            c => {
                self.next();
                if c.is_whitespace() && self.frames.len() == 1 {
                    self.result.breaks.push(self.out.len());
                }
                self.out.push(c);
                Ok(())
            }
        }
    }

    fn step_in_double(&mut self, c: char) -> Result<(), String> {
        match c {
            '"' => {
                self.next();
                self.keep_quote('"');
                self.frame().in_double = false;
                Ok(())
            }
            '$' => self.dollar(),
            c if c == self.escape => {
                self.next();
                if self.frame().keeps_escapes {
                    self.out.push(c);
                }
                match self.peek() {
                    None => {}
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        self.next();
                        self.out.push(next);
                    }
                    // Any other escape stays (and where escapes are kept for a pattern, it is itself escaped).
                    Some(_) => self.out.push(c),
                }
                Ok(())
            }
            c => {
                self.next();
                self.out.push(c);
                Ok(())
            }
        }
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        self.next();
        let Some(length) = self.text[self.at..].find('\'') else {
            self.at = self.text.len();
            return Err("unexpected end of statement while looking for matching single-quote".into());
        };
        self.keep_quote('\'');
        self.out.push_str(&self.text[self.at..self.at + length]);
        self.keep_quote('\'');
        self.at += length + 1;
        Ok(())
    }

    fn keep_quote(&mut self, quote: char) {
        if self.mode.keeps_quotes() {
            self.out.push(quote);
        }
    }

    /// Blanks between `<<` and the delimiter do not split words.
    fn maybe_heredoc(&mut self) {
        self.next();
        self.out.push('<');
        if self.peek() != Some('<') {
            return;
        }
        self.next();
        self.out.push('<');
        while let Some(c @ ('\t' | '\r' | ' ')) = self.peek() {
            self.next();
            self.out.push(c);
        }
    }

    fn dollar(&mut self) -> Result<(), String> {
        self.next();
        if self.peek() == Some('{') {
            self.next();
            return self.braced();
        }
        let name = self.name();
        if name.is_empty() {
            self.out.push('$');
        } else {
            let variable = self.look_up(name);
            if variable.kept {
                self.out.push('$');
                self.out.push_str(&variable.name);
            } else {
                self.out.push_str(variable.value.as_deref().unwrap_or_default());
            }
        }
        self.value_done()
    }

    fn braced(&mut self) -> Result<(), String> {
        match self.peek() {
            None => return Err(MISSING_BRACE.into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        let Some(c) = self.next() else { return Err(MISSING_BRACE.into()) };
        match c {
            '}' => {
                let variable = self.look_up(name);
                if variable.kept {
                    self.out.push_str("${");
                    self.out.push_str(&variable.name);
                    self.out.push('}');
                } else {
                    self.out.push_str(variable.value.as_deref().unwrap_or_default());
                }
                self.value_done()
            }
            ':' => {
                let Some(operator) = self.next() else { return Err(MISSING_BRACE.into()) };
                if operator == '#' || operator == '%' {
                    return Err(unsupported(true, operator));
                }
                let variable = self.look_up(name);
                self.open_argument(variable, true, operator);
                Ok(())
            }
            '+' | '-' | '?' | '#' | '%' => {
                let variable = self.look_up(name);
                self.open_argument(variable, false, c);
                Ok(())
            }
            '/' => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                let variable = self.look_up(name);
                self.keep_opening(&variable, if all { "//" } else { "/" });
                self.open(Part::Pattern { variable, all }, '/', true);
                Ok(())
            }
            operator => Err(unsupported(false, operator)),
        }
    }

    fn open_argument(&mut self, variable: Variable, colon: bool, operator: char) {
        let mut written = String::from(if colon { ":" } else { "" });
        written.push(operator);
        self.keep_opening(&variable, &written);
        let keeps_escapes = operator == '#' || operator == '%';
        self.open(Part::Argument { variable, colon, operator }, '}', keeps_escapes);
    }

    fn keep_opening(&mut self, variable: &Variable, operator: &str) {
        if variable.kept {
            self.out.push_str("${");
            self.out.push_str(&variable.name);
            self.out.push_str(operator);
        }
    }

    fn open(&mut self, part: Part, stop: char, keeps_escapes: bool) {
        if self.result.cuts.last() != Some(&self.piece_from) {
            self.result.cuts.push(self.piece_from);
        }
        self.frames.push(Frame { part, start: self.out.len(), stop: Some(stop), keeps_escapes, in_double: false });
    }

    /// The text of the last frame is complete: turns it into the value of its `${…}`.
    fn close(&mut self) -> Result<(), String> {
        let Some(Frame { part, start, .. }) = self.frames.pop() else { return Ok(()) };
        match part {
            Part::Top => {}
            Part::Pattern { variable, all } => {
                let pattern = self.out[start..].to_owned();
                if variable.kept {
                    self.out.push('/');
                } else {
                    self.out.truncate(start);
                }
                self.open(Part::Replacement { variable, all, pattern }, '}', true);
                return Ok(());
            }
            Part::Argument { variable, .. } | Part::Replacement { variable, .. } if variable.kept => self.out.push('}'),
            Part::Argument { variable, colon, operator } => self.close_argument(variable, colon, operator, start)?,
            Part::Replacement { variable, all, pattern } => {
                let parsed = Pattern::parse(&pattern).map_err(|why| invalid_pattern(&pattern, &why))?;
                let value = variable.value.unwrap_or_default();
                let replacement = &self.out[start..];
                let replaced = if all {
                    parsed.replace_all(&value, replacement, MAX_EXPANDED).ok_or_else(too_long)?
                } else {
                    parsed.replace_first(&value, replacement)
                };
                self.put(start, &replaced);
            }
        }
        self.value_done()
    }

    fn close_argument(&mut self, variable: Variable, colon: bool, operator: char, start: usize) -> Result<(), String> {
        let usable = variable.value.as_deref().filter(|value| !(colon && value.is_empty()));
        match operator {
            '-' => {
                if let Some(value) = usable {
                    self.put(start, value);
                }
            }
            '+' => {
                if usable.is_none() {
                    self.out.truncate(start);
                }
            }
            '?' => {
                let Some(value) = usable else {
                    let said = &self.out[start..];
                    let why = match (said.is_empty(), &variable.value) {
                        (false, _) => said,
                        (true, None) => "is not allowed to be unset",
                        (true, Some(_)) => "is not allowed to be empty",
                    };
                    return Err(format!("{}: {why}", variable.name));
                };
                self.put(start, value);
            }
            '#' | '%' => {
                let written = self.out[start..].to_owned();
                let (glob, reach) = match written.strip_prefix(operator) {
                    Some(glob) => (glob, Reach::Longest),
                    None => (written.as_str(), Reach::Shortest),
                };
                let pattern = Pattern::parse(glob).map_err(|why| invalid_pattern(glob, &why))?;
                let value = variable.value.unwrap_or_default();
                let trimmed =
                    if operator == '#' { pattern.trim_start(&value, reach) } else { pattern.trim_end(&value, reach) };
                self.put(start, &trimmed);
            }
            operator => return Err(unsupported(colon, operator)),
        }
        Ok(())
    }

    fn put(&mut self, start: usize, value: &str) {
        self.out.truncate(start);
        self.out.push_str(value);
    }

    /// Notes the blanks in the value of a `$` that stands by itself: they split words.
    fn value_done(&mut self) -> Result<(), String> {
        if self.out.len() > MAX_EXPANDED {
            return Err(too_long());
        }
        if self.frames.len() > 1 || self.frame().in_double {
            return Ok(());
        }
        if let Some(start) = self.splitting_from.take() {
            let blanks = self.out[start..].char_indices().filter(|(_, c)| c.is_whitespace());
            self.result.breaks.extend(blanks.map(|(at, _)| start + at));
        }
        Ok(())
    }

    fn look_up(&mut self, name: String) -> Variable {
        let value = (self.env)(&name);
        let names = if value.is_some() { &mut self.result.matched } else { &mut self.result.unmatched };
        if !names.contains(&name) {
            names.insert(name.clone());
        }
        let kept = value.is_none() && self.mode.keeps_unset();
        Variable { name, value, kept }
    }

    /// A variable's name: letters, digits and `_`; or digits only; or one special character; or nothing.
    fn name(&mut self) -> String {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return String::new() };
        let length = if is_digit(first) {
            rest.find(|c| !is_digit(c)).unwrap_or(rest.len())
        } else if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            1
        } else {
            rest.find(|c: char| !(c == '_' || is_letter(c) || is_digit(c))).unwrap_or(rest.len())
        };
        self.at += length;
        rest[..length].to_owned()
    }
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || (!c.is_ascii() && pest::unicode::LETTER(c))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && pest::unicode::DECIMAL_NUMBER(c))
}

fn unsupported(colon: bool, operator: char) -> String {
    format!("unsupported modifier ({}{operator}) in substitution", if colon { ":" } else { "" })
}

fn too_long() -> String {
    format!("the value has more than {MAX_EXPANDED} bytes")
}

fn invalid_pattern(pattern: &str, why: &str) -> String {
    format!("invalid pattern ({pattern}) in substitution: {why}")
}
