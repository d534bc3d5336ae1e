//! Dockerfile text to typed instructions.
//!
//! Two stages: [`split`] cuts the file into logical lines by hand, because the escape character and heredoc ends are chosen
//! in the file itself; the pest grammar reads each logical line, and [`lower`] gives it a type. One bad instruction does not
//! hide the faults of the others. [`words`] expands variables when the plan knows their values.
//!
//! Pure: opens no file, knows no image, resolves no stage.

pub mod advice;
pub mod ast;
pub mod directive;
pub mod frontend;
mod grammar;
mod heredoc;
pub mod lint;
mod lower;
pub mod mount;
mod pattern;
pub mod quote;
pub mod rules;
mod split;
pub mod words;

use std::sync::Arc;

use self::ast::{Dockerfile, Instruction, InstructionKind, Stage};
use self::lower::{Fault, Framed, Lowered};
use self::split::{LogicalLine, SplitFault, Splitter};
use crate::diagnostic::{Diagnostic, Kind};
use crate::source::{Lines, Source, Span};

/// Reads a whole file. On failure all its faults are reported, in the order of their lines.
pub fn parse(source: Arc<Source>) -> Result<Dockerfile, Vec<Diagnostic>> {
    let Reading { file, faults, .. } = read(source);
    if faults.is_empty() { Ok(file) } else { Err(faults) }
}

/// A file as far as it could be read.
#[derive(Debug)]
pub struct Reading {
    /// The instructions that could be read.
    pub file: Dockerfile,
    /// What is wrong with the others, in the order of their lines.
    pub faults: Vec<Diagnostic>,
    /// What is therefore not known of the file.
    pub lost: Lost,
}

/// What nobody can know of a file because of instructions that could not be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    /// The line of the last FROM that could not be read. What its stage is called and holds is not known.
    pub stage: Option<u32>,
    /// Something before the first FROM could not be read: it may have been an ARG.
    pub globals: bool,
}

/// Reads what can be read of a file, and says what cannot.
pub fn read(source: Arc<Source>) -> Reading {
    let mut reader = Reader { source: &source, splitter: Splitter::new(&source), faults: Vec::new() };
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let (mut any, mut stray, mut lost) = (false, false, Lost::default());
    // Whether the FROM above could be read; what follows one that could not is of no known stage.
    let mut readable = true;
    while let Some(read) = reader.next() {
        any = true;
        match read {
            Read::Stage(stage) => {
                stages.push(*stage);
                readable = true;
            }
            Read::BadStage(line) => {
                lost.stage = Some(line);
                readable = false;
            }
            Read::BadInstruction => lost.globals |= readable && stages.is_empty(),
            Read::Instruction(_) if !readable => {}
            Read::Instruction(instruction) => match stages.last_mut() {
                Some(stage) => stage.instructions.push(*instruction),
                None if matches!(instruction.kind, InstructionKind::Arg(_)) => global_args.push(*instruction),
                None => {
                    if !stray {
                        let text = "no build stage in current context";
                        let (span, lines) = (instruction.span, instruction.lines);
                        reader.faults.push(
                            Diagnostic {
                                kind: Kind::Syntax,
                                ..Diagnostic::meaning("no-stage", text, &source, span, lines)
                            }
                            .with_help("only ARG may come before the first FROM"),
                        );
                    }
                    stray = true;
                }
            },
        }
    }
    let Reader { splitter, mut faults, .. } = reader;
    // A heredoc of an instruction that could not be read may have been read as instructions.
    let may_have_body = |fault: &Diagnostic| {
        fault.lines.is_some_and(|lines| (lines.first..=lines.last).any(|line| source.line(line).contains("<<")))
    };
    if !splitter.faults.is_empty() || faults.iter().any(may_have_body) {
        // Where instructions begin and end is in doubt.
        lost = Lost { stage: Some(u32::MAX), globals: true };
    }
    faults.extend(splitter.faults.iter().map(|fault| of_split(&source, fault)));
    faults.sort_by_key(|fault| fault.lines.map_or(u32::MAX, |lines| lines.first));
    if faults.is_empty() && stages.is_empty() {
        faults.push(if source.text.is_empty() {
            of_file(&source, "empty-file", "the Dockerfile cannot be empty")
        } else if any {
            of_file(&source, "no-stages", "dockerfile contains no stages to build")
        } else {
            of_file(&source, "no-instructions", "file with no instructions")
        });
    }
    let (directives, lints) = (splitter.directives, splitter.lints);
    Reading { file: Dockerfile { source, directives, global_args, stages, lints }, faults, lost }
}

/// Reads the text of an ONBUILD trigger: one instruction, with backslash as escape, heredocs included. Faults point into
/// the trigger; [`Diagnostic::moved_to`] puts them at the FROM that pulled it in.
pub fn parse_trigger(text: &str) -> Result<Vec<Instruction>, Vec<Diagnostic>> {
    let source = Source::new("ONBUILD trigger", text);
    let whole = Span::new(0, text.len());
    let lines = Lines { first: 1, last: source.line_count().max(1) };
    let refused = |code, text: &str| vec![Diagnostic::meaning(code, text, &source, whole, lines)];
    let mut reader = Reader { source: &source, splitter: Splitter::new(&source), faults: Vec::new() };
    let mut instructions = Vec::new();
    let mut count = 0;
    let mut stage = false;
    while let Some(read) = reader.next() {
        count += 1;
        match read {
            Read::Instruction(instruction) => instructions.push(*instruction),
            Read::Stage(_) | Read::BadStage(_) => stage = true,
            Read::BadInstruction => {}
        }
    }
    let Reader { splitter, mut faults, .. } = reader;
    faults.extend(splitter.faults.iter().map(|fault| of_split(&source, fault)));
    for fault in &mut faults {
        // The line number would be one of the trigger, which the reader does not see.
        fault.kind = Kind::Meaning;
    }
    match count {
        _ if !faults.is_empty() => Err(faults),
        0 => Err(refused("no-instructions", "file with no instructions")),
        1 if stage => Err(refused("onbuild-trigger", "FROM isn't allowed as an ONBUILD trigger")),
        1 => Ok(instructions),
        _ => Err(refused("onbuild-several", "onbuild trigger should be a single expression")),
    }
}

/// Reads logical lines one after the other and collects faults.
struct Reader<'a> {
    source: &'a Arc<Source>,
    splitter: Splitter<'a>,
    faults: Vec<Diagnostic>,
}

/// What a logical line turned out to be.
enum Read {
    Stage(Box<Stage>),
    Instruction(Box<Instruction>),
    /// With its line.
    BadStage(u32),
    BadInstruction,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Read> {
        let mut line = self.splitter.next_line()?;
        let escape = self.splitter.directives.escape;
        let is_from = line.text.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from"));
        let bad = if is_from { Read::BadStage(line.lines.first) } else { Read::BadInstruction };
        let bodies = match self.bodies(&mut line, escape) {
            Ok(bodies) => bodies,
            Err(fault) => {
                self.report(fault, &line);
                return Some(bad);
            }
        };
        let framed = Framed::new(&line, escape);
        match lower::lower(framed.parse(), &framed, escape, bodies, self.source) {
            Ok(Lowered::Stage(stage)) => Some(Read::Stage(stage)),
            Ok(Lowered::Instruction(instruction)) => Some(Read::Instruction(instruction)),
            Err(fault) => {
                self.report(fault, &line);
                Some(bad)
            }
        }
    }

    /// Takes the bodies that belong to a line.
    fn bodies(&mut self, line: &mut LogicalLine, escape: char) -> Result<lower::Bodies<'a>, Fault> {
        if !line.text.contains("<<") {
            return Ok(Vec::new());
        }
        let takes = {
            let framed = Framed::new(line, escape);
            framed.parse().is_some_and(|pair| lower::takes_bodies(&pair, escape))
        };
        if !takes {
            return Ok(Vec::new());
        }
        let markers = heredoc::markers(&line.text).map_err(|error| Fault {
            kind: Kind::Syntax,
            code: "invalid-heredoc",
            text: error.to_string(),
            at: 0..line.text.trim_end().len(),
            help: None,
        })?;
        Ok(self.splitter.bodies(markers, line))
    }

    fn report(&mut self, fault: Fault, line: &LogicalLine) {
        self.faults.push(Diagnostic {
            code: fault.code,
            text: fault.text,
            source: Arc::clone(self.source),
            span: line.span(fault.at.start, fault.at.end),
            lines: Some(line.lines),
            help: fault.help,
            kind: fault.kind,
        });
    }
}

fn of_file(source: &Arc<Source>, code: &'static str, text: &str) -> Diagnostic {
    Diagnostic {
        code,
        text: text.to_owned(),
        source: Arc::clone(source),
        span: Span::default(),
        lines: None,
        help: None,
        kind: Kind::Syntax,
    }
}

fn of_split(source: &Arc<Source>, fault: &SplitFault) -> Diagnostic {
    Diagnostic {
        kind: Kind::Syntax,
        help: fault.help.clone(),
        ..Diagnostic::meaning(fault.code, fault.text.clone(), source, fault.span, fault.lines)
    }
}
