//! Expansion of words against the variables of a scope, and the global scope of the FROM lines.
//!
//! `dockerfile::words` knows how text expands; this module knows which variables there are and who is told when one is
//! missing. It knows no stage graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{Dockerfile, Instruction, InstructionKind};
use crate::dockerfile::words::{self, Expanded};
use crate::plan::env::{Env, Origin};
use crate::plan::options::PlanOptions;
use crate::plan::site::Site;
use crate::source::Lines;

/// Variables BuildKit reads itself: an ARG may declare them, no process sees them.
pub(crate) const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The build-arg and ARG that sets the time of all that is new in the image.
pub(crate) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Expands one word; quotes and escapes are resolved.
pub(crate) fn expand(text: &str, escape: char, env: &Env) -> Result<Expanded, String> {
    words::expand(text, &|name| env.get(name).map(str::to_owned), escape).map_err(|error| error.to_string())
}

/// Expands one word and splits the result at blanks that were not quoted (EXPOSE).
pub(crate) fn expand_split(text: &str, escape: char, env: &Env) -> Result<Vec<String>, String> {
    words::expand_list(text, &|name| env.get(name).map(str::to_owned), escape).map_err(|error| error.to_string())
}

/// Expands a heredoc body.
pub(crate) fn expand_body(text: &str, env: &Env) -> Result<Expanded, String> {
    words::expand_heredoc(text, &|name| env.get(name).map(str::to_owned)).map_err(|error| error.to_string())
}

/// One ARG as `--call=outline` and the lints want to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArgInfo {
    /// Its value, if it has one.
    pub(crate) value: Option<String>,
    /// Variables its default uses.
    pub(crate) uses: BTreeSet<String>,
    /// The ARG instruction.
    pub(crate) lines: Lines,
    /// Text of the comment above that describes it.
    pub(crate) description: Option<String>,
}

/// The scope of the FROM lines: platform arguments and the ARGs before the first FROM.
#[derive(Clone, Debug)]
pub(crate) struct Globals {
    pub(crate) env: Env,
    pub(crate) declared: BTreeMap<String, ArgInfo>,
    pub(crate) escape: char,
}

impl Globals {
    /// Evaluates the global ARGs with the build-args that were passed, up to the first that is faulty.
    pub(crate) fn new(file: &Dockerfile, options: &PlanOptions) -> (Self, Option<Diagnostic>) {
        Self::evaluate(file, options, |name| options.build_arg(name))
    }

    /// The same as if no build-arg had been passed for a declared ARG.
    pub(crate) fn defaults(file: &Dockerfile, options: &PlanOptions) -> (Self, Option<Diagnostic>) {
        Self::evaluate(file, options, |_| None)
    }

    fn evaluate<'o>(
        file: &Dockerfile,
        options: &'o PlanOptions,
        build_arg: impl Fn(&str) -> Option<&'o str>,
    ) -> (Self, Option<Diagnostic>) {
        let escape = file.directives.escape;
        let mut globals = Self { env: predefined(file, options), declared: BTreeMap::new(), escape };
        let mut declared = file.global_args.iter();
        let fault = declared.find_map(|instruction| {
            globals.declare(instruction, &Site::instruction(file, instruction), &build_arg).err()
        });
        (globals, fault)
    }

    fn declare<'o>(
        &mut self,
        instruction: &Instruction,
        site: &Site,
        build_arg: impl Fn(&str) -> Option<&'o str>,
    ) -> Result<(), Diagnostic> {
        let InstructionKind::Arg(declarations) = &instruction.kind else { return Ok(()) };
        for declaration in declarations {
            let name = &declaration.key.text;
            let mut uses = BTreeSet::new();
            let value = match (build_arg(name), &declaration.default) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => {
                    let expansion = expand(&default.text, self.escape, &self.env)
                        .map_err(|text| site.at(default.span).fault("expansion", text))?;
                    uses = expansion.matched;
                    if uses.remove(name)
                        && let Some(earlier) = self.declared.get(name)
                    {
                        uses.extend(earlier.uses.iter().cloned());
                    }
                    Some(expansion.text)
                }
                (None, None) => None,
            };
            if let Some(value) = &value {
                self.env.set(name, value, Origin::Arg);
            }
            let description = description(&instruction.comments, name);
            self.declared.insert(name.clone(), ArgInfo { value, uses, lines: instruction.lines, description });
        }
        Ok(())
    }

    /// Expands a word of a FROM line.
    pub(crate) fn expand(&self, text: &str) -> Result<Expanded, String> {
        expand(text, self.escape, &self.env)
    }

    /// Every name that may stand in a FROM line, whether it has a value or not.
    pub(crate) fn known_names(&self) -> BTreeSet<&str> {
        self.env.names().chain(self.declared.keys().map(String::as_str)).collect()
    }
}

/// BUILD*, TARGET* and TARGETSTAGE; build-args of these names come first.
fn predefined(file: &Dockerfile, options: &PlanOptions) -> Env {
    let build = &options.build_platforms[0];
    let target = options.target_platform();
    let last = file.stages.last().and_then(|stage| stage.name.as_deref());
    let stage = options.target.as_deref().filter(|name| !name.is_empty()).or(last).unwrap_or("default");
    let mut env = Env::default();
    for (name, value) in [
        ("BUILDPLATFORM", build.short()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage.to_owned()),
    ] {
        let value = options.build_arg(name).unwrap_or(&value);
        env.set(name, value, Origin::Arg);
    }
    env
}

/// The description a comment block gives to `name`: what follows it on the line that starts with it.
pub(crate) fn description(comments: &[String], name: &str) -> Option<String> {
    comments.iter().find_map(|line| {
        let rest = line.trim().strip_prefix(name)?.strip_prefix(' ')?;
        Some(rest.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_follow_the_name() {
        let comments = ["other".to_owned(), "VERSION which one to take".to_owned()];
        assert_eq!(description(&comments, "VERSION").as_deref(), Some("which one to take"));
        assert_eq!(description(&comments, "other"), None);
    }
}
