//! Lint rules that need expanded values, stages or image configs. What text alone shows is linted by `dockerfile`.
//!
//! A rule runs unless a `# check=` directive, the comment above the instruction or `BUILDKIT_DOCKERFILE_CHECK` skips it.

use crate::diagnostic::{Diagnostic, suggest};
use crate::dockerfile::advice::advice;
use crate::dockerfile::ast::{self, Check, Dockerfile, Lint};
use crate::dockerfile::directive::parse_check;
use crate::dockerfile::lint::is_skipped;
use crate::dockerfile::rules;
use crate::dockerfile::words::Expanded;
use crate::oci::config::ImageConfig;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::plan::env::Env;
use crate::plan::options::PlanOptions;
use crate::plan::paths;
use crate::plan::scope::{Globals, NOT_IN_ENV};
use crate::plan::site;
use crate::source::Lines;

/// Collects the findings of one instruction.
#[derive(Debug)]
pub(crate) struct Linter<'a> {
    file: Option<Check>,
    above: Option<&'a Check>,
    out: &'a mut Vec<Lint>,
}

impl<'a> Linter<'a> {
    pub(crate) fn new(
        file: &Dockerfile,
        options: &PlanOptions,
        above: Option<&'a Check>,
        out: &'a mut Vec<Lint>,
    ) -> Self {
        Self { file: check_of_file(file, options), above, out }
    }

    pub(crate) fn report(&mut self, rule: &'static str, lines: Lines, message: String) {
        if !is_skipped(rule, self.file.as_ref(), self.above) {
            self.out.push(Lint { rule, message, lines });
        }
    }
}

/// The build argument that replaces the check directive.
const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// The check options of the whole file: the build-arg replaces the directive.
pub(crate) fn check_of_file(file: &Dockerfile, options: &PlanOptions) -> Option<Check> {
    match options.build_arg(CHECK_ARG) {
        // That it can be read was checked before.
        Some(text) => parse_check(text).ok(),
        None => file.directives.check.clone(),
    }
}

/// Refuses a build argument that has no check options in it.
pub(crate) fn build_arg_is_readable(file: &Dockerfile, options: &PlanOptions) -> Result<(), Diagnostic> {
    let Some(Err(text)) = options.build_arg(CHECK_ARG).map(parse_check) else { return Ok(()) };
    let fault = site::of_file(file, "bad-check", format!("failed to parse build-arg:{CHECK_ARG}: {text}"));
    Err(fault.with_help(r#"options are "skip=RULE,…", "error=true" and "experimental=RULE,…", joined by ";""#))
}

/// L09
pub(crate) fn undefined_in_from(linter: &mut Linter<'_>, globals: &Globals, expansion: &Expanded, lines: Lines) {
    let known = globals.known_names();
    for name in expansion.unmatched.iter().filter(|name| !known.contains(name.as_str())) {
        let hint = suggest(name, known.iter().copied(), true).map(|near| format!(" (did you mean {near}?)"));
        let message = format!("FROM argument '{name}' is not declared{}", hint.unwrap_or_default());
        linter.report("UndefinedArgInFrom", lines, message);
    }
}

/// L15 and L18
pub(crate) fn platform_of_from(
    linter: &mut Linter<'_>,
    globals: &Globals,
    stage: &ast::Stage,
    written: &str,
    expansion: &Expanded,
) {
    const TARGET: &str = "TARGETPLATFORM";
    let only_target = expansion.unmatched.is_empty() && expansion.matched.iter().eq([TARGET]);
    if only_target && globals.env.get(TARGET) == Some(&expansion.text) {
        let message =
            format!("Setting platform to predefined {written} in FROM is redundant as this is the default behavior");
        linter.report("RedundantTargetPlatform", stage.lines, message);
    }
    if expansion.matched.is_empty() && expansion.unmatched.is_empty() {
        let Ok(platform) = Platform::parse(&expansion.text, &Platform::new("linux", "amd64", "")) else { return };
        let name = stage.name.as_deref().unwrap_or_default();
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value {:?}", expansion.text);
            linter.report("FromPlatformFlagConstDisallowed", stage.lines, message);
        }
    }
}

/// L11
pub(crate) fn undefined_variables(
    linter: &mut Linter<'_>,
    env: &Env,
    declared: &[(String, Option<String>)],
    expansion: &Expanded,
    lines: Lines,
) {
    for name in &expansion.unmatched {
        if declared.iter().any(|(arg, _)| arg == name) || NOT_IN_ENV.contains(&name.as_str()) {
            continue;
        }
        let hint = suggest(name, env.names(), true).map(|near| format!(" (did you mean ${near}?)"));
        let message = format!("Usage of undefined variable '${name}'{}", hint.unwrap_or_default());
        linter.report("UndefinedVar", lines, message);
    }
}

/// L07
pub(crate) fn shell_form(linter: &mut Linter<'_>, config: &ImageConfig, keyword: &str, lines: Lines) {
    if config.config.shell.as_ref().is_none_or(Vec::is_empty) {
        let message =
            format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals");
        linter.report("JSONArgsRecommended", lines, message);
    }
}

/// L10
pub(crate) fn relative_workdir(linter: &mut Linter<'_>, path: &str, lines: Lines) {
    if !path.starts_with('/') {
        let message = format!("Relative workdir {path:?} can have unexpected results if the base image changes");
        linter.report("WorkdirRelativePath", lines, message);
    }
}

/// L14
pub(crate) fn base_platform(
    linter: &mut Linter<'_>,
    written: &str,
    wanted: &Platform,
    config: &ImageConfig,
    lines: Lines,
) {
    if wanted.os == config.os && wanted.architecture == config.architecture {
        return;
    }
    let actual = Platform::new(&config.os, &config.architecture, &config.variant);
    let (wanted, actual) = (wanted.normalize().to_string(), actual.to_string());
    let message =
        format!("Base image {written} was pulled with platform {actual:?}, expected {wanted:?} for current build");
    linter.report("InvalidBaseImagePlatform", lines, message);
}

/// L17: base names that only make sense with a build-arg.
pub(crate) fn default_base_names(file: &Dockerfile, options: &PlanOptions, out: &mut Vec<Lint>) {
    let (defaults, None) = Globals::defaults(file, options) else { return };
    for stage in &file.stages {
        let Ok(base) = defaults.expand(&stage.base.text) else { return };
        if Reference::parse(&base.text).is_err() {
            let message =
                format!("Default value for ARG {} results in empty or invalid base image name", stage.base.text);
            let mut linter = Linter::new(file, options, stage.check.as_ref(), out);
            linter.report("InvalidDefaultArgInFrom", stage.lines, message);
        }
    }
}

/// L19: a source of COPY or ADD from the main context that `.dockerignore` hides.
pub(crate) fn ignored_source(linter: &mut Linter<'_>, options: &PlanOptions, path: &str, add: bool, lines: Lines) {
    let path = paths::clean_keeping_relative(path);
    if options.ignored.as_ref().is_some_and(|ignored| ignored.0(&path)) {
        let verb = if add { "Add" } else { "Copy" };
        let message = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
        linter.report("CopyIgnoredFile", lines, message);
    }
}

/// Findings of our own rules: those that a check option makes warnings, and the rest.
pub(crate) fn advise(
    file: &Dockerfile,
    check: Option<&Check>,
    reached: &dyn Fn(usize) -> bool,
) -> (Vec<Lint>, Vec<Lint>) {
    let above = |lint: &Lint| {
        let mut instructions = file.stages.iter().flat_map(|stage| &stage.instructions);
        instructions.find(|instruction| instruction.lines == lint.lines).and_then(|i| i.check.as_ref())
    };
    advice(file, check, reached).into_iter().partition(|lint| rules::counts(lint, check, above(lint)))
}

/// The fault of a file whose check options say `error=true` and that has findings.
pub(crate) fn violation(check: Option<&Check>, lints: &[Lint]) -> Option<String> {
    if lints.is_empty() || !check.is_some_and(|check| check.error) {
        return None;
    }
    let rules: std::collections::BTreeSet<&str> = lints.iter().map(|lint| lint.rule).collect();
    let rules: Vec<&str> = rules.into_iter().collect();
    Some(format!("lint violation found for rules: {}", rules.join(", ")))
}
