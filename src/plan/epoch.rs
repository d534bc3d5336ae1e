//! `SOURCE_DATE_EPOCH`: from the build-arg or a global ARG to seconds, or to nothing.
//!
//! Its value is seconds, or names what has a time: a context, or a stage that is nothing but one remote source. Reads no clock
//! and no repository: times of contexts come with the options, that of a stage's source with the facts.

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{ArgDeclaration, Copy, Dockerfile, InstructionKind, Stage};
use crate::plan::copy;
use crate::plan::env::{Env, Origin};
use crate::plan::facts::{Facts, TimeRequest, TimeSource};
use crate::plan::options::{NamedContext, PlanOptions};
use crate::plan::scope::{self, Globals, SOURCE_DATE_EPOCH};
use crate::plan::site::Site;
use crate::plan::stage::MAIN_CONTEXT;

/// What became of the value.
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub(crate) enum Epoch {
    /// The epoch, and the options with it in place of what was given.
    Resolved(Option<i64>, PlanOptions),
    /// It is the time of a stage's source.
    Needs(TimeRequest),
}

/// What a value means.
enum Meaning {
    Seconds(Option<i64>),
    Needs(TimeRequest),
}

/// Finds the epoch, and puts it in place of what was written into the global scope.
pub(crate) fn resolve(
    file: &Dockerfile,
    options: &PlanOptions,
    facts: &Facts,
    globals: &mut Globals,
) -> Result<Epoch, Diagnostic> {
    let mut options = options.clone();
    let given = options.build_arg(SOURCE_DATE_EPOCH);
    let declared = globals.env.get(SOURCE_DATE_EPOCH).filter(|value| !value.is_empty());
    let Some(value) = given.or(declared).map(str::to_owned) else { return Ok(Epoch::Resolved(None, options)) };
    let epoch = match meaning(&value, file, &options, facts, globals)? {
        Meaning::Seconds(epoch) => epoch,
        Meaning::Needs(time) => return Ok(Epoch::Needs(time)),
    };
    let text = epoch.map(|seconds| seconds.to_string());
    if options.build_args.contains_key(SOURCE_DATE_EPOCH) {
        options.build_args.insert(SOURCE_DATE_EPOCH.to_owned(), text.clone());
    }
    if globals.env.get(SOURCE_DATE_EPOCH).is_some() {
        match text {
            Some(text) => globals.env.set(SOURCE_DATE_EPOCH, &text, Origin::Arg),
            None => globals.env.remove(SOURCE_DATE_EPOCH),
        }
    }
    Ok(Epoch::Resolved(epoch, options))
}

fn meaning(
    value: &str,
    file: &Dockerfile,
    options: &PlanOptions,
    facts: &Facts,
    globals: &Globals,
) -> Result<Meaning, Diagnostic> {
    if value.is_empty() {
        return Ok(Meaning::Seconds(None));
    }
    if let Ok(seconds) = value.parse() {
        return Ok(Meaning::Seconds(Some(seconds)));
    }
    if value == MAIN_CONTEXT {
        return Ok(Meaning::Seconds(options.context_epoch));
    }
    if let Some((_, context)) = options.named_contexts.iter().find(|(name, _)| *name == value) {
        return Ok(Meaning::Seconds(match context {
            NamedContext::Files { epoch } => *epoch,
            NamedContext::Image(_) | NamedContext::Layout(_) => None,
        }));
    }
    let named = |stage: &&Stage| stage.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(value));
    if let Some(stage) = file.stages.iter().find(named) {
        let source = source_of(stage, options, globals).map_err(|text| {
            let help = "SOURCE_DATE_EPOCH names this stage: it must be FROM scratch with one ADD, of a git repository or http(s)";
            Site::from_line(file, stage).fault("source-date-epoch", text).with_help(help)
        })?;
        if let Some(time) = facts.time(&source) {
            return Ok(Meaning::Seconds(time.seconds));
        }
        let name = stage.name.as_deref().unwrap_or(value);
        let vertex = format!("[internal] resolve SOURCE_DATE_EPOCH source stage {}", name.to_ascii_lowercase());
        return Ok(Meaning::Needs(TimeRequest { source, vertex, span: stage.span, lines: stage.lines }));
    }
    let declared = file.global_args.iter().map(|arg| Site::instruction(file, arg)).next_back();
    let site = declared.unwrap_or_else(|| Site::from_line(file, &file.stages[0]));
    Err(site.fault("source-date-epoch", format!("invalid SOURCE_DATE_EPOCH: {value}")))
}

/// The one source of a stage that has nothing else. Unlike elsewhere it sees global ARGs that it does not declare.
fn source_of(stage: &Stage, options: &PlanOptions, globals: &Globals) -> Result<TimeSource, String> {
    let mut env = globals.env.clone();
    env.remove(SOURCE_DATE_EPOCH);
    if scope::expand(&stage.base.text, globals.escape, &env)?.text != "scratch" {
        return Err("SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned());
    }
    let mut found = None;
    for instruction in &stage.instructions {
        match &instruction.kind {
            InstructionKind::Arg(declarations) => declare(declarations, options, globals.escape, &mut env)?,
            InstructionKind::Add(_) if found.is_some() => {
                return Err("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD".to_owned());
            }
            InstructionKind::Add(add) => found = Some(added(add, globals.escape, &env)?),
            _ => {
                return Err(format!(
                    "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {} instruction",
                    instruction.keyword
                ));
            }
        }
    }
    found.ok_or_else(|| "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD".to_owned())
}

fn declare(declarations: &[ArgDeclaration], options: &PlanOptions, escape: char, env: &mut Env) -> Result<(), String> {
    for ArgDeclaration { key, default } in declarations {
        let value = match (options.build_arg(&key.text), default) {
            (Some(given), _) => given.to_owned(),
            (None, Some(default)) => scope::expand(&default.text, escape, env)?.text,
            (None, None) => continue,
        };
        env.set(&key.text, &value, Origin::Arg);
    }
    Ok(())
}

fn added(add: &Copy, escape: char, env: &Env) -> Result<TimeSource, String> {
    let [word] = add.sources.as_slice() else {
        return Err("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source".to_owned());
    };
    if !add.heredocs.is_empty() {
        return Err("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source".to_owned());
    }
    let checksum = add.checksum.as_ref().map(|word| scope::expand(&word.text, escape, env)).transpose()?;
    let text = scope::expand(&word.text, escape, env)?.text;
    copy::remote_source(&text, checksum.map(|found| found.text), add.keep_git_dir)?
        .ok_or_else(|| "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD".to_owned())
}
