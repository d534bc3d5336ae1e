//! What the grammar found in one logical line, turned into a typed instruction or a fault.
//!
//! Knows one line at a time: no stages, no variables' values. Faults are worded as BuildKit words them.

mod command;
mod copy;
mod duration;
mod flags;
mod json;

use std::ops::Range;

use pest::Parser as _;
use pest::iterators::{Pair, Pairs};

use self::flags::Flags;
use super::ast::{ArgDeclaration, CommandLine, Heredoc, Instruction, InstructionKind, KeyValue, Stage, Word};
use super::directive;
use super::grammar::line::{LineParser, Rule};
use super::quote::quoted;
use super::split::LogicalLine;
use crate::diagnostic::{Kind, with_suggestion};
use crate::source::{Lines, Source, Span};

/// All instructions, for suggestions.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A fault in a logical line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) code: &'static str,
    pub(super) text: String,
    /// Bytes of the logical line.
    pub(super) at: Range<usize>,
    pub(super) help: Option<String>,
}

impl Fault {
    /// A fault in what an instruction says.
    fn new(code: &'static str, text: impl Into<String>, at: Range<usize>) -> Self {
        Self { kind: Kind::Instruction, code, text: text.into(), at, help: None }
    }

    /// A fault in a line's shape: BuildKit finds these before it looks at instructions.
    fn shape(code: &'static str, text: impl Into<String>, at: Range<usize>) -> Self {
        Self { kind: Kind::Syntax, ..Self::new(code, text, at) }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A line's content.
#[derive(Debug)]
pub(super) enum Lowered {
    Stage(Box<Stage>),
    Instruction(Box<Instruction>),
}

/// A logical line framed for the grammar: the escape character, then the text without blanks around it.
#[derive(Debug)]
pub(super) struct Framed<'a> {
    text: String,
    /// Where the framed text begins in the logical line.
    lead: usize,
    line: &'a LogicalLine,
}

impl<'a> Framed<'a> {
    /// Frames a line.
    pub(super) fn new(line: &'a LogicalLine, escape: char) -> Self {
        let lead = line.text.len() - line.text.trim_start().len();
        Self { text: format!("{escape}{}", line.text.trim()), lead, line }
    }

    /// Runs the grammar. It takes every line; should pest give up on one, nobody can say what instruction it is.
    pub(super) fn parse(&self) -> Option<Pair<'_, Rule>> {
        LineParser::parse(Rule::line, &self.text).ok()?.next()
    }

    fn at(&self, position: usize) -> usize {
        position - 1 + self.lead
    }

    /// The bytes of the logical line that a pair covers.
    fn range(&self, pair: &Pair<'_, Rule>) -> Range<usize> {
        let span = pair.as_span();
        self.at(span.start())..self.at(span.end())
    }

    fn span(&self, at: Range<usize>) -> Span {
        self.line.span(at.start, at.end)
    }

    fn word(&self, pair: &Pair<'_, Rule>) -> Word {
        Word { text: pair.as_str().to_owned(), span: self.span(self.range(pair)) }
    }

    /// The word without its first `start` bytes, or only `start..end` of it.
    fn part(&self, pair: &Pair<'_, Rule>, part: Range<usize>) -> Word {
        let at = self.range(pair);
        Word {
            text: pair.as_str()[part.clone()].to_owned(),
            span: self.span(at.start + part.start..at.start + part.end),
        }
    }

    /// The whole line.
    fn all(&self) -> Range<usize> {
        self.lead..self.lead + self.text.len() - 1
    }

    fn keyword(&self) -> &str {
        first_word(&self.text[1..])
    }
}

/// A trigger's or line's text up to its first blank.
fn first_word(text: &str) -> &str {
    text.split([' ', '\t', '\u{0b}', '\u{0c}', '\r']).next().unwrap_or(text)
}

/// Whether heredoc bodies may follow a line: RUN, COPY, ADD and ONBUILD of these, not in exec form.
pub(super) fn takes_bodies(pair: &Pair<'_, Rule>, escape: char) -> bool {
    if !pair.as_str().contains("<<") {
        return false;
    }
    match pair.as_rule() {
        Rule::run | Rule::copy | Rule::add => pair.clone().into_inner().all(|part| part.as_rule() != Rule::exec_form),
        Rule::onbuild => pair.clone().into_inner().any(|part| {
            part.as_rule() == Rule::trigger && !first_word(part.as_str()).eq_ignore_ascii_case("onbuild") && {
                let framed = format!("{escape}{}", part.as_str());
                let parsed = LineParser::parse(Rule::line, &framed).ok().and_then(|mut pairs| pairs.next());
                parsed.is_some_and(|inner| takes_bodies(&inner, escape))
            }
        }),
        _ => false,
    }
}

/// Bodies that were taken for a line, each with its text before tabs were stripped.
pub(super) type Bodies<'a> = Vec<(Heredoc, &'a str)>;

/// Turns a parsed line into an instruction.
pub(super) fn lower(
    pair: Option<Pair<'_, Rule>>,
    framed: &Framed<'_>,
    escape: char,
    bodies: Bodies<'_>,
    source: &Source,
) -> Result<Lowered, Fault> {
    let line = framed.line;
    let whole = framed.all();
    let mut span = framed.span(whole.clone());
    if !bodies.is_empty() {
        let last = line.lines.last;
        span.end = source.line_start(last) + source.line(last).len() as u32;
    }
    let context = Context { framed, lines: line.lines, span, escape };
    let keyword = framed.keyword().to_owned();
    let Some(pair) = pair else { return Err(unknown(&keyword, whole)) };
    if pair.as_rule() == Rule::from {
        return context.from(pair).map(|stage| Lowered::Stage(Box::new(stage)));
    }
    let kind = context.kind(pair, bodies)?;
    Ok(Lowered::Instruction(Box::new(Instruction {
        kind,
        span,
        lines: line.lines,
        keyword,
        original: line.text.trim().to_owned(),
        check: directive::check_in_comments(&line.comments),
        comments: line.comments.clone(),
    })))
}

fn unknown(keyword: &str, at: Range<usize>) -> Fault {
    let text = with_suggestion(format!("unknown instruction: {keyword}"), keyword, KEYWORDS, false);
    Fault::new("unknown-instruction", text, at.start..at.start + keyword.len())
}

/// One line while it is lowered.
struct Context<'a> {
    framed: &'a Framed<'a>,
    lines: Lines,
    span: Span,
    escape: char,
}

/// A word and the bytes of the logical line it comes from.
type Placed = (Word, Range<usize>);

/// The parts of an instruction behind its keyword.
struct Parts<'i> {
    flags: Flags,
    rest: Pairs<'i, Rule>,
}

impl Context<'_> {
    /// A fault about the instruction as a whole, pointing at its arguments if there are any.
    fn fault(&self, code: &'static str, text: impl Into<String>) -> Fault {
        Fault::new(code, text, self.framed.all())
    }

    fn at_least_one(&self, name: &str) -> Fault {
        self.fault("missing-argument", format!("{name} requires at least one argument"))
    }

    fn parts<'i>(&self, pair: Pair<'i, Rule>) -> Parts<'i> {
        let mut rest = pair.into_inner();
        let flags = match rest.next() {
            Some(flags) => Flags::read(flags, self.framed),
            None => Flags::default(),
        };
        Parts { flags, rest }
    }

    fn kind(&self, pair: Pair<'_, Rule>, bodies: Bodies<'_>) -> Result<InstructionKind, Fault> {
        let rule = pair.as_rule();
        if rule == Rule::unknown {
            return Err(unknown(self.framed.keyword(), self.framed.all()));
        }
        let parts = self.parts(pair);
        match rule {
            Rule::run => self.run(parts, bodies).map(InstructionKind::Run),
            Rule::copy => self.copy(parts, bodies, "COPY").map(InstructionKind::Copy),
            Rule::add => self.copy(parts, bodies, "ADD").map(InstructionKind::Add),
            Rule::env => self.pairs(parts, "ENV").map(InstructionKind::Env),
            Rule::label => self.pairs(parts, "LABEL").map(InstructionKind::Label),
            Rule::arg => self.arg(parts).map(InstructionKind::Arg),
            Rule::workdir => self.rest_of_line(parts, "WORKDIR").map(InstructionKind::Workdir),
            Rule::user => self.rest_of_line(parts, "USER").map(InstructionKind::User),
            Rule::cmd => self.cmd(parts).map(InstructionKind::Cmd),
            Rule::entrypoint => self.cmd(parts).map(InstructionKind::Entrypoint),
            Rule::expose => self.expose(parts).map(InstructionKind::Expose),
            Rule::volume => self.volume(parts).map(InstructionKind::Volume),
            Rule::stopsignal => {
                // BuildKit does not look at this instruction's flags.
                let word = parts.rest.peek().map(|pair| self.framed.word(&pair));
                word.map(InstructionKind::Stopsignal).ok_or_else(|| self.exactly_one("STOPSIGNAL"))
            }
            Rule::healthcheck => self.healthcheck(parts).map(InstructionKind::Healthcheck),
            Rule::shell => self.shell(parts).map(InstructionKind::Shell),
            Rule::maintainer => {
                self.rest_of_line(parts, "MAINTAINER").map(|word| InstructionKind::Maintainer(word.text))
            }
            Rule::onbuild => self.onbuild(parts, &bodies).map(InstructionKind::Onbuild),
            _ => Err(unknown(self.framed.keyword(), self.framed.all())),
        }
    }

    fn exactly_one(&self, name: &str) -> Fault {
        self.fault("missing-argument", format!("{name} requires exactly one argument"))
    }

    fn from(&self, pair: Pair<'_, Rule>) -> Result<Stage, Fault> {
        let Parts { flags, rest } = self.parts(pair);
        let (mut base, mut as_keyword, mut stage_name) = (None, None, None);
        for part in rest {
            match part.as_rule() {
                Rule::base => base = Some(self.framed.word(&part)),
                Rule::as_keyword => as_keyword = Some(part.as_str().to_owned()),
                Rule::stage_name => {
                    let valid = is_stage_name(&part.as_str().to_lowercase());
                    if !valid {
                        let name = quoted(part.as_str());
                        let text = format!(
                            "invalid name for build stage: {name}, name can't start with a number or contain symbols"
                        );
                        return Err(Fault::new("invalid-stage-name", text, self.framed.range(&part))
                            .help("a name is a letter and then letters, digits, \"-\", \"_\" and \".\""));
                    }
                    stage_name = Some(self.framed.word(&part));
                }
                _ => {
                    let at = if part.as_str().is_empty() { self.framed.all() } else { self.framed.range(&part) };
                    return Err(Fault::new("from-arguments", "FROM requires either one or three arguments", at)
                        .help("write FROM image, or FROM image AS name"));
                }
            }
        }
        let Some(base) = base else {
            return Err(self.fault("from-arguments", "FROM requires either one or three arguments"));
        };
        flags.check(&[("platform", flags::Takes::Text)])?;
        let line = self.framed.line;
        Ok(Stage {
            base,
            platform: flags.text("platform"),
            name: stage_name.as_ref().map(|name| name.text.to_lowercase()),
            name_as_written: stage_name,
            keywords: (self.framed.keyword().to_owned(), as_keyword),
            span: self.span,
            lines: self.lines,
            original: line.text.trim().to_owned(),
            check: directive::check_in_comments(&line.comments),
            comments: line.comments.clone(),
            instructions: Vec::new(),
        })
    }

    fn rest_of_line(&self, parts: Parts<'_>, name: &str) -> Result<Word, Fault> {
        let word = parts.rest.peek().map(|pair| self.framed.word(&pair));
        let word = word.ok_or_else(|| self.exactly_one(name))?;
        parts.flags.check(&[])?;
        Ok(word)
    }

    fn pairs(&self, parts: Parts<'_>, name: &str) -> Result<Vec<KeyValue>, Fault> {
        let mut pairs = Vec::new();
        for part in parts.rest {
            if part.as_rule() == Rule::legacy_pair {
                let mut inner = part.into_inner();
                let (Some(key), Some(value)) = (inner.next(), inner.next()) else {
                    return Err(Fault::shape(
                        "missing-value",
                        format!("{name} must have two arguments"),
                        self.framed.all(),
                    )
                    .help(format!("write {name} name=value")));
                };
                pairs.push((self.framed.word(&key), self.framed.word(&value), true, self.framed.range(&key)));
                continue;
            }
            let text = part.as_str();
            let Some(equals) = text.find('=') else {
                let fault = format!("Syntax error - can't find = in {}. Must be of the form: name=value", quoted(text));
                let help = if text.starts_with('#') {
                    "a comment needs a line of its own".to_owned()
                } else {
                    format!("a value with blanks must be in quotes: {name} name=\"a value\"")
                };
                return Err(Fault::shape("missing-equals", fault, self.framed.range(&part)).help(help));
            };
            let (key, value) = (self.framed.part(&part, 0..equals), self.framed.part(&part, equals + 1..text.len()));
            pairs.push((key, value, false, self.framed.range(&part)));
        }
        parts.flags.check(&[])?;
        if pairs.is_empty() {
            return Err(self.at_least_one(name));
        }
        if let Some((.., at)) = pairs.iter().find(|(key, ..)| key.text.is_empty()) {
            return Err(Fault::new("blank-name", format!("{name} names can not be blank"), at.clone()));
        }
        Ok(pairs.into_iter().map(|(key, value, legacy, _)| KeyValue { key, value, legacy }).collect())
    }

    fn arg(&self, parts: Parts<'_>) -> Result<Vec<ArgDeclaration>, Fault> {
        // BuildKit does not look at this instruction's flags.
        let mut declarations = Vec::new();
        for part in parts.rest {
            let text = part.as_str();
            declarations.push(match text.find('=') {
                Some(0) => {
                    return Err(Fault::new("blank-name", "ARG names can not be blank", self.framed.range(&part)));
                }
                Some(equals) => ArgDeclaration {
                    key: self.framed.part(&part, 0..equals),
                    default: Some(self.framed.part(&part, equals + 1..text.len())),
                },
                None => ArgDeclaration { key: self.framed.word(&part), default: None },
            });
        }
        if declarations.is_empty() { Err(self.at_least_one("ARG")) } else { Ok(declarations) }
    }

    fn expose(&self, parts: Parts<'_>) -> Result<Vec<Word>, Fault> {
        let mut ports: Vec<Word> = parts.rest.map(|pair| self.framed.word(&pair)).collect();
        if ports.is_empty() {
            return Err(self.at_least_one("EXPOSE"));
        }
        parts.flags.check(&[])?;
        ports.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(ports)
    }

    fn volume(&self, parts: Parts<'_>) -> Result<Vec<Word>, Fault> {
        let (words, _) = self.path_words(parts.rest)?;
        if words.is_empty() {
            return Err(self.at_least_one("VOLUME"));
        }
        parts.flags.check(&[])?;
        words
            .into_iter()
            .map(|(word, at)| {
                let text = word.text.trim().to_owned();
                if text.is_empty() {
                    return Err(Fault::new("empty-volume", "VOLUME specified can not be an empty string", at));
                }
                Ok(Word { text, span: word.span })
            })
            .collect()
    }

    /// The words of COPY, ADD and VOLUME with their places, and whether they were in JSON.
    fn path_words(&self, rest: Pairs<'_, Rule>) -> Result<(Vec<Placed>, bool), Fault> {
        let mut words = Vec::new();
        let mut json = false;
        for part in rest {
            if part.as_rule() == Rule::exec_form {
                json = true;
                for string in part.into_inner() {
                    let text = json::decode(string.as_str());
                    let at = self.framed.range(&string);
                    words.push((Word { text, span: self.framed.span(at.clone()) }, at));
                }
            } else {
                if words.is_empty() {
                    self.no_other_array(&part)?;
                }
                words.push((self.framed.word(&part), self.framed.range(&part)));
            }
        }
        Ok((words, json))
    }

    /// Refuses a JSON array of other things than strings; `first` is where the arguments begin.
    fn no_other_array(&self, first: &Pair<'_, Rule>) -> Result<(), Fault> {
        let start = first.as_span().start();
        if json::is_other_array(&self.framed.text[start..]) {
            let text = "when using JSON array syntax, arrays must be comprised of strings only";
            return Err(Fault::shape("array-of-non-strings", text, self.framed.at(start)..self.framed.all().end)
                .help("put each element in double quotes"));
        }
        Ok(())
    }

    /// Exec or shell form; nothing is the shell form of nothing.
    fn command_line(&self, rest: Pairs<'_, Rule>) -> Result<CommandLine, Fault> {
        let Some(part) = rest.peek() else { return Ok(CommandLine::Shell(String::new())) };
        if part.as_rule() == Rule::exec_form {
            return Ok(CommandLine::Exec(part.into_inner().map(|string| json::decode(string.as_str())).collect()));
        }
        self.no_other_array(&part)?;
        Ok(CommandLine::Shell(part.as_str().to_owned()))
    }
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}
