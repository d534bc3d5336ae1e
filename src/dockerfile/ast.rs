//! A Dockerfile as data: stages of typed instructions with their words still unexpanded, every part with its span.
//!
//! Knows no variables' values, no stage graph and no file beside the Dockerfile.

use std::sync::Arc;
use std::time::Duration;

use crate::source::{Lines, Source, Span};

/// A whole file.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// The text.
    pub source: Arc<Source>,
    /// `# syntax=`, `# escape=`, `# check=`.
    pub directives: Directives,
    /// ARG instructions before the first FROM, in order.
    pub global_args: Vec<Instruction>,
    /// The stages in order; at least one.
    pub stages: Vec<Stage>,
    /// What split and lower found lint-worthy themselves (empty continuation lines, …); plan-time lints are added later.
    pub lints: Vec<Lint>,
}

/// Parser directives as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// Value of `# syntax=`.
    pub syntax: Option<String>,
    /// `\` or backtick.
    pub escape: char,
    /// Value of `# check=`, already parsed.
    pub check: Option<Check>,
}

/// `skip=…;error=…;experimental=…` of a check directive or comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Rules to skip; `all` skips every one.
    pub skip: Vec<String>,
    /// Whether a violation fails the build.
    pub error: bool,
    /// Experimental rules to run; `all` for every one.
    pub experimental: Vec<String>,
}

/// A finding of a lint rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Rule name, e.g. `StageNameCasing`.
    pub rule: &'static str,
    /// The message in BuildKit's words.
    pub message: String,
    /// Where; BuildKit reports whole lines.
    pub lines: Lines,
}

/// A stage: `FROM …` and what follows it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Text after FROM before expansion, e.g. `${BASE}:1`.
    pub base: Word,
    /// `--platform=` before expansion.
    pub platform: Option<Word>,
    /// Name after AS, lower-cased.
    pub name: Option<String>,
    /// Name as written (for lint and excerpts).
    pub name_as_written: Option<Word>,
    /// The `FROM` keyword and the `AS` keyword as written (for casing lints).
    pub keywords: (String, Option<String>),
    /// The FROM instruction's own place.
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
    /// The logical text of the FROM line as written.
    pub original: String,
    /// Comment lines right above, without `#` and one blank.
    pub comments: Vec<String>,
    /// `# check=` comment right above, if any.
    pub check: Option<Check>,
    /// The instructions after FROM.
    pub instructions: Vec<Instruction>,
}

/// A piece of text with its place; quotes and `$` still in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// What it says.
    pub kind: InstructionKind,
    /// From the keyword to the end of the last line (heredocs included).
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
    /// The keyword as written, e.g. `Run`.
    pub keyword: String,
    /// The logical line: continuation joined, comments dropped; no heredoc bodies. The step's shown text comes from here.
    pub original: String,
    /// Comment lines right above, without `#` and one blank.
    pub comments: Vec<String>,
    /// `# check=` comment right above, if any.
    pub check: Option<Check>,
}

/// All instructions but FROM.
#[derive(Clone, Debug)]
pub enum InstructionKind {
    /// RUN
    Run(Run),
    /// COPY
    Copy(Copy),
    /// ADD
    Add(Copy),
    /// WORKDIR with the rest of the line.
    Workdir(Word),
    /// ENV
    Env(Vec<KeyValue>),
    /// LABEL
    Label(Vec<KeyValue>),
    /// ARG
    Arg(Vec<ArgDeclaration>),
    /// USER
    User(Word),
    /// CMD
    Cmd(CommandLine),
    /// ENTRYPOINT
    Entrypoint(CommandLine),
    /// EXPOSE, words unexpanded.
    Expose(Vec<Word>),
    /// VOLUME
    Volume(Vec<Word>),
    /// STOPSIGNAL
    Stopsignal(Word),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// SHELL
    Shell(Vec<String>),
    /// MAINTAINER
    Maintainer(String),
    /// ONBUILD: the trigger's text verbatim (heredoc bodies appended after newlines); parsed when triggered.
    Onbuild(String),
}

/// Shell or exec form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// Exec form: the words.
    Exec(Vec<String>),
    /// Shell form: the text for the shell.
    Shell(String),
}

/// A captured heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// Delimiter without quotes; the file name for COPY.
    pub name: String,
    /// File descriptor before `<<`; 0 if none.
    pub fd: u32,
    /// Whether variables expand (no quote in the delimiter).
    pub expand: bool,
    /// Whether it was `<<-`; tabs are already stripped from `content`.
    pub chomp: bool,
    /// The body, each line with its line end.
    pub content: String,
    /// The body's place.
    pub span: Span,
}

/// RUN
#[derive(Clone, Debug)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// Its heredocs in order. A single one that makes up the whole command is given to the shell as a script (or run itself
    /// when it starts with `#!`); otherwise the text with bodies goes to the shell.
    pub heredocs: Vec<Heredoc>,
    /// `--mount` values, raw, in order.
    pub mounts: Vec<Word>,
    /// `--network` value.
    pub network: Option<Word>,
    /// `--security` value.
    pub security: Option<Word>,
    /// `--device` values, raw.
    pub devices: Vec<Word>,
}

/// COPY and ADD
#[derive(Clone, Debug)]
pub struct Copy {
    /// Sources, unexpanded, heredocs excluded.
    pub sources: Vec<Word>,
    /// Heredoc sources in order.
    pub heredocs: Vec<Heredoc>,
    /// Sources in the order written: index into `sources` or `heredocs`.
    pub order: Vec<SourceRef>,
    /// Destination, unexpanded.
    pub destination: Word,
    /// `--from` (COPY only).
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents` (COPY only).
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Word>,
    /// `--checksum` (ADD only).
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD only).
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD only).
    pub unpack: Option<bool>,
}

/// Which kind of source stands at a place of a COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceRef {
    /// `Copy::sources[i]`
    Path(usize),
    /// `Copy::heredocs[i]`
    Heredoc(usize),
}

/// One pair of ENV or LABEL; both sides unexpanded, quotes kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Left of `=`.
    pub key: Word,
    /// Right of `=`.
    pub value: Word,
    /// Legacy `ENV key value` form.
    pub legacy: bool,
}

/// One name of an ARG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name (unexpanded).
    pub key: Word,
    /// Default, unexpanded, if given.
    pub default: Option<Word>,
}

/// HEALTHCHECK
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`
    None,
    /// `CMD …`
    Cmd {
        /// The check.
        command: CommandLine,
        /// `--interval`
        interval: Option<Duration>,
        /// `--timeout`
        timeout: Option<Duration>,
        /// `--start-period`
        start_period: Option<Duration>,
        /// `--start-interval`
        start_interval: Option<Duration>,
        /// `--retries`
        retries: Option<u32>,
    },
}
