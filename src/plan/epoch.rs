//! `SOURCE_DATE_EPOCH`: from the build-arg or a global ARG to seconds, or to nothing.
//!
//! Reads no clock and no repository: times of contexts come with the options.

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::Dockerfile;
use crate::plan::env::Origin;
use crate::plan::options::{NamedContext, PlanOptions};
use crate::plan::scope::{Globals, SOURCE_DATE_EPOCH};
use crate::plan::site::Site;
use crate::plan::stage::MAIN_CONTEXT;

/// The epoch, and with it in place of what was written the options and global scope that stages see.
pub(crate) fn resolve(
    file: &Dockerfile,
    options: &PlanOptions,
    globals: &mut Globals,
) -> Result<(Option<i64>, PlanOptions), Diagnostic> {
    let mut options = options.clone();
    let given = options.build_arg(SOURCE_DATE_EPOCH);
    let declared = globals.env.get(SOURCE_DATE_EPOCH).filter(|value| !value.is_empty());
    let Some(value) = given.or(declared).map(str::to_owned) else { return Ok((None, options)) };
    let epoch = seconds(&value, file, &options)?;
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
    Ok((epoch, options))
}

fn seconds(value: &str, file: &Dockerfile, options: &PlanOptions) -> Result<Option<i64>, Diagnostic> {
    if value.is_empty() {
        return Ok(None);
    }
    if let Ok(seconds) = value.parse() {
        return Ok(Some(seconds));
    }
    if value == MAIN_CONTEXT {
        return Ok(options.context_epoch);
    }
    if let Some((_, context)) = options.named_contexts.iter().find(|(name, _)| *name == value) {
        return Ok(match context {
            NamedContext::Files { epoch } => *epoch,
            NamedContext::Image(_) | NamedContext::Layout(_) => None,
        });
    }
    let named = file.stages.iter().find(|stage| stage.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(value)));
    if let Some(stage) = named {
        let text =
            format!("SOURCE_DATE_EPOCH from stage {value:?} is not supported: give seconds, `context` or a context");
        return Err(Site::from_line(file, stage).fault("source-date-epoch", text));
    }
    let declared = file.global_args.iter().map(|arg| Site::instruction(file, arg)).next_back();
    let site = declared.unwrap_or_else(|| Site::from_line(file, &file.stages[0]));
    Err(site.fault("source-date-epoch", format!("invalid SOURCE_DATE_EPOCH: {value}")))
}
