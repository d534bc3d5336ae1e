//! `--check` and `--call`: from a question about the Dockerfile to what is printed, and how the command ends.
//!
//! Builds nothing; only configs of base images may have to be fetched. What the answers look like is `command_call`'s.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::clutter;
use super::command_call as answers;
use super::contexts::Inputs;
use super::env::Env;
use super::request::{BuildRequest, Call, CheckFormat, ContextSource, DockerfileSource};
use super::{Done, Failure, print};
use crate::diagnostic::{Diagnostic, headline, render_all};
use crate::dockerfile::ast::{Check, Dockerfile, Lint};
use crate::dockerfile::lint::is_skipped;
use crate::dockerfile::rules::{Origin, RULES, Rule};
use crate::dockerfile::{self, Lost};
use crate::pipeline::{self, Asked, BuildError, Spec, World};
use crate::plan::{self, Checked, Facts, Outlined, Planned, Wanted, outline};
use crate::source::Lines;

/// The answer to a question.
pub(super) struct Said {
    /// For stdout.
    pub(super) stdout: String,
    /// How to end.
    pub(super) code: ExitCode,
    /// What keeps the Dockerfile from being built, for stderr.
    pub(super) failure: Option<Failure>,
}

impl Said {
    fn text(stdout: String) -> Self {
        Self { stdout, code: ExitCode::SUCCESS, failure: None }
    }
}

/// Answers.
pub(super) fn call(
    call: &Call,
    world: &World<'_>,
    spec: &Spec<'_>,
    inputs: &Inputs,
    request: &BuildRequest,
    env: &Env,
) -> Result<Said, BuildError> {
    let source = &spec.source;
    let parse = || pipeline::parse(world, spec);
    match call {
        Call::Check { format, ignore_status } => {
            let (report, error) = check(world, spec, inputs, request)?;
            let stdout = match format {
                CheckFormat::Text => answers::check(&report),
                CheckFormat::Json => answers::check_json(&report),
                CheckFormat::Sarif => answers::sarif(&report, &uri(request, env)),
                CheckFormat::Github => answers::github(&report, &path(request, env)),
            };
            let bad = !report.lints.is_empty() && !ignore_status;
            let failure = match (error, headline(&report.faults)) {
                (Some(error), _) => Some(super::build::explained(&error, String::new())),
                (None, Some(first)) => Some(refused(&report.faults, first, !report.lints.is_empty())),
                (None, None) => None,
            };
            Ok(Said { stdout, code: if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }, failure })
        }
        Call::Outline { json } => {
            let file = parse()?;
            let ask = |facts: &Facts| {
                Ok(match plan::outline(&file, spec.plan, facts)? {
                    Outlined::Outline(outline) => Asked::Answer(outline),
                    Outlined::Needs(requests) => Asked::Needs(requests),
                })
            };
            let (found, _) = pipeline::resolve(world, spec, spec.plan, &file, ask)?;
            Ok(Said::text(answers::outline(source, &found, *json)))
        }
        Call::Targets { json } => {
            let file = parse()?;
            Ok(Said::text(answers::targets(source, &outline::targets(&file), *json)))
        }
        Call::Describe { json } => Ok(Said::text(answers::questions(*json))),
    }
}

/// Looks for all that is noteworthy. When an image cannot be had, what the text alone shows is reported beside the error.
fn check(
    world: &World<'_>,
    spec: &Spec<'_>,
    inputs: &Inputs,
    request: &BuildRequest,
) -> Result<(answers::Report, Option<BuildError>), BuildError> {
    let source = spec.source.clone();
    let mut report = answers::Report { source, lints: Vec::new(), notes: Vec::new(), faults: Vec::new() };
    if let Err(fault) = pipeline::refuse_other_frontend(spec) {
        return Ok((answers::Report { faults: vec![fault], ..report }, None));
    }
    let reading = dockerfile::read(spec.source.clone());
    if !reading.faults.is_empty() {
        let lints = plan::check_unreadable(&reading, spec.plan);
        let faults = pipeline::faults_of(world, spec, &reading, &plan::check_options(spec.plan));
        let wanted = plan::wanted_for_certain(&reading.file, reading.lost, spec.plan);
        let notes = notes_on_sources(spec, &reading.file, &wanted);
        return Ok((answers::Report { lints, notes, faults, ..report }, None));
    }
    let file = reading.file;
    let ask = |facts: &Facts| {
        Ok(match plan::check(&file, spec.plan, facts) {
            Checked::Done { lints, notes, faults } => {
                // Not of all stages that were checked: what the target does not need may be missing.
                let wanted = match plan::plan(&file, spec.plan, facts) {
                    Ok(Planned::Plan(plan, _)) => Some(plan.wanted),
                    Ok(Planned::Needs(_)) | Err(_) => None,
                };
                Asked::Answer((lints, notes, faults, wanted))
            }
            Checked::Needs(requests) => Asked::Needs(requests),
        })
    };
    let options = plan::check_options(spec.plan);
    let mut wanted = None;
    let error = match pipeline::resolve(world, spec, &options, &file, ask) {
        Ok(((lints, notes, faults, of_target), _)) => {
            (report.lints, report.notes, report.faults, wanted) = (lints, notes, faults, of_target);
            None
        }
        Err(error @ BuildError::Cancelled(_)) => return Err(error),
        Err(error) => {
            (report.lints, report.notes) = plan::check_without_images(&file, spec.plan);
            match error {
                BuildError::Dockerfile(faults) => {
                    report.faults = faults;
                    None
                }
                other => Some(other),
            }
        }
    };
    let wanted = wanted.unwrap_or_else(|| plan::wanted_for_certain(&file, Lost::default(), spec.plan));
    report.notes.extend(notes_on_sources(spec, &file, &wanted));
    report.notes.extend(notes_on_context(&file, inputs, request));
    report.notes.sort_by_key(|note| note.lines.first);
    Ok((report, error))
}

/// What a build would not find in contexts.
fn notes_on_sources(spec: &Spec<'_>, file: &Dockerfile, wanted: &[Wanted]) -> Vec<Lint> {
    const RULE: &str = "MissingSource";
    let instructions = file.stages.iter().flat_map(|stage| &stage.instructions);
    let checks: BTreeMap<u32, &Check> =
        instructions.filter_map(|one| Some((one.lines.first, one.check.as_ref()?))).collect();
    let skipped = |lines: Lines| is_skipped(RULE, file.directives.check.as_ref(), checks.get(&lines.first).copied());
    let notes = pipeline::missing(spec, wanted).into_iter().filter_map(|fault| {
        let lines = fault.lines.filter(|lines| !skipped(*lines))?;
        let help = fault.help.map_or(String::new(), |help| format!(" ({help})"));
        Some(Lint { rule: RULE, message: format!("The build would fail: {}{help}", fault.text), lines })
    });
    notes.collect()
}

fn notes_on_context(file: &Dockerfile, inputs: &Inputs, request: &BuildRequest) -> Vec<Lint> {
    match (&request.context, &inputs.ignore) {
        (ContextSource::Directory(dir), Some(context)) => clutter::notes(file, dir, context.ignore()),
        _ => Vec::new(),
    }
}

/// All faults with carets, then the first in BuildKit's form: message and excerpt.
fn refused(faults: &[Diagnostic], first: &Diagnostic, after_warnings: bool) -> Failure {
    let above = render_all(faults);
    let last = format!("{}\n{}", first.message(), first.excerpt());
    let gap = if after_warnings { "\n" } else { "" };
    Failure::text(last.trim_end().to_owned()).after(format!("{gap}{above}"))
}

/// The Dockerfile as tools want it: relative to the current directory, if it is below.
fn path(request: &BuildRequest, env: &Env) -> String {
    match &request.dockerfile {
        DockerfileSource::File(path) => path.strip_prefix(&env.cwd).unwrap_or(path).display().to_string(),
        DockerfileSource::InContext(path) => path.clone().unwrap_or_else(|| "Dockerfile".to_owned()),
        DockerfileSource::Stdin => "Dockerfile".to_owned(),
        DockerfileSource::Http(url) => url.clone(),
    }
}

/// The same as a URI, relative or with its scheme.
fn uri(request: &BuildRequest, env: &Env) -> String {
    match &request.dockerfile {
        DockerfileSource::Http(url) => url.clone(),
        DockerfileSource::File(_) | DockerfileSource::InContext(_) | DockerfileSource::Stdin => {
            answers::uri_of_path(&path(request, env))
        }
    }
}

/// `rbuild explain-rule`: the page of a rule, or the list of all.
pub(super) fn explain_rule(name: Option<&str>) -> Done {
    let Some(name) = name else { return print(rule_list().as_bytes()) };
    match Rule::find(name) {
        Some(rule) => print(rule.page.as_bytes()),
        None => {
            let near = crate::diagnostic::suggest(name, RULES.iter().map(|rule| rule.name), false)
                .and_then(|near| Rule::find(&near))
                .map_or(String::new(), |rule| format!(" (did you mean {}?)", rule.name));
            Err(Failure::text(format!("there is no lint rule {name:?}{near}; \"rbuild explain-rule\" lists all")))
        }
    }
}

fn rule_list() -> String {
    let list = |heading: &str, of: &[Origin]| {
        let rules = RULES.iter().filter(|rule| of.contains(&rule.origin));
        rules.fold(format!("{heading}\n"), |out, rule| format!("{out}  {:32} {}\n", rule.name, rule.description))
    };
    list("BuildKit's rules (warnings):", &[Origin::BuildKit, Origin::Experimental])
        + &list("\nrbuild's own (notes of --check):", &[Origin::Ours])
        + &list("\nPolicies (errors, when asked for):", &[Origin::Policy])
        + "\n\"rbuild explain-rule NAME\" prints a rule's page.\n"
}
