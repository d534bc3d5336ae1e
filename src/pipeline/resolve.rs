//! Loop 1: plan, find the images the plan asks for, plan again.
//!
//! Configs only; no layer is fetched here. The time of a source is [`time`](super::time)'s to find.

use std::collections::BTreeMap;

use super::{BuildError, Spec, World};
use crate::catalog::Image;
use crate::catalog::pull::{PullError, Resolved, Source};
use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{Dockerfile, Lint};
use crate::event::Outcome;
use crate::oci::manifest::ManifestError;
use crate::oci::platform::Platform;
use crate::plan::graph::Plan;
use crate::plan::{self, Facts, ImageFacts, ImageRequest, Needs, PlanOptions, Planned};
use crate::source::Span;

/// ONBUILD triggers may ask for images whose triggers ask for images; nobody nests deeper.
const MAX_ROUNDS: usize = 32;

/// The plan, what is noteworthy about the Dockerfile, and the images by handle.
pub type Resolution = (Plan, Vec<Lint>, BTreeMap<String, Image>);

/// What a question about a Dockerfile came to.
#[derive(Debug)]
pub enum Asked<T> {
    /// The answer.
    Answer(T),
    /// This is needed first.
    Needs(Needs),
}

/// Plans until nothing is missing.
pub fn resolve_plan(
    world: &World<'_>,
    spec: &Spec<'_>,
    options: &PlanOptions,
    file: &Dockerfile,
) -> Result<Resolution, BuildError> {
    let ((plan, lints), images) = resolve(world, spec, options, file, |facts| {
        Ok(match plan::plan(file, options, facts)? {
            Planned::Plan(plan, lints) => Asked::Answer((plan, lints)),
            Planned::Needs(requests) => Asked::Needs(requests),
        })
    })?;
    Ok((plan, lints, images))
}

/// Asks until nothing is missing; returns the images that were needed, too, by handle.
pub fn resolve<T>(
    world: &World<'_>,
    spec: &Spec<'_>,
    options: &PlanOptions,
    file: &Dockerfile,
    ask: impl Fn(&Facts) -> Result<Asked<T>, Vec<Diagnostic>>,
) -> Result<(T, BTreeMap<String, Image>), BuildError> {
    let (mut facts, mut images) = (Facts::new(), BTreeMap::new());
    for _ in 0..MAX_ROUNDS {
        let requests = match ask(&facts).map_err(BuildError::Dockerfile)? {
            Asked::Answer(answer) => return Ok((answer, images)),
            Asked::Needs(Needs::Time(request)) => {
                match super::time::find(world, file, &request) {
                    Ok(time) => facts.answer_time(&request, time),
                    Err(BuildError::Dockerfile(mut faults)) => {
                        faults.extend(plan::faults_without_images(file, options, &facts));
                        return Err(BuildError::Dockerfile(faults));
                    }
                    Err(other @ (BuildError::Cancelled(_) | BuildError::Step { .. } | BuildError::World { .. })) => {
                        return Err(other);
                    }
                }
                continue;
            }
            Asked::Needs(Needs::Images(requests)) => requests,
        };
        let answers = ask_all(world, spec, requests);
        world.cancel.check()?;
        let mut faults = Vec::new();
        for (request, found) in answers {
            let resolved = match found {
                Ok(resolved) => resolved,
                Err(error) => {
                    faults.push(refused(file, &request, &error));
                    continue;
                }
            };
            let config = resolved.image.parsed().map_err(|e| BuildError::world(request.reference.clone(), &e))?;
            let handle = resolved.id.to_string();
            let digest = resolved.digest.map(|digest| digest.to_string());
            images.insert(handle.clone(), resolved.image);
            facts.answer(&request, ImageFacts { handle, config, digest });
        }
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.lines);
            faults.extend(plan::faults_without_images(file, options, &facts));
            return Err(BuildError::Dockerfile(faults));
        }
    }
    let reason = format!("ONBUILD triggers still ask for images after {MAX_ROUNDS} rounds");
    Err(BuildError::World { doing: "plan the build".to_owned(), reason })
}

/// The faults of instructions that need images which cannot be had.
pub(super) fn unavailable(
    world: &World<'_>,
    spec: &Spec<'_>,
    file: &Dockerfile,
    requests: Vec<ImageRequest>,
) -> Vec<Diagnostic> {
    let answers = ask_all(world, spec, requests);
    answers.iter().filter_map(|(request, found)| Some(refused(file, request, found.as_ref().err()?))).collect()
}

/// Asks for all of them at once.
fn ask_all(
    world: &World<'_>,
    spec: &Spec<'_>,
    requests: Vec<ImageRequest>,
) -> Vec<(ImageRequest, Result<Resolved, PullError>)> {
    world.runtime.block_on(async {
        let tasks: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let (puller, policy, progress) = (world.puller.clone(), spec.pull, world.progress.clone());
                tokio::spawn(async move {
                    let vertex = progress.vertex(request.vertex.clone(), &[]);
                    vertex.start();
                    let found = match (
                        Source::parse(&request.reference),
                        Platform::parse(&request.platform, &Platform::host()),
                    ) {
                        (Ok(source), Ok(platform)) => puller.resolve(&source, &platform, policy, Some(&vertex)).await,
                        (Err(error), _) => Err(error),
                        (_, Err(error)) => {
                            Err(PullError::Unusable { what: request.platform.clone(), message: error.to_string() })
                        }
                    };
                    vertex.finish(match &found {
                        Ok(_) => Outcome::Done,
                        Err(error) => Outcome::Error(error.to_string()),
                    });
                    (request, found)
                })
            })
            .collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            match task.await {
                Ok(answer) => answers.push(answer),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        answers
    })
}

/// The fault of the instruction that needs an image which cannot be had.
fn refused(file: &Dockerfile, request: &ImageRequest, error: &PullError) -> Diagnostic {
    let (reference, source, lines) = (&request.reference, &file.source, request.lines);
    let reason = match error {
        // The image is there, so its name is not the reason.
        PullError::Manifest { source: source @ ManifestError::NoMatch { .. }, .. } => source.to_string(),
        error => error.to_string(),
    };
    let mut message = format!("{}: failed to resolve source metadata for {reference}: {reason}", request.written);
    if let Some(suggestion) = &request.suggestion {
        message += &format!(" (did you mean {suggestion}?)");
    }
    // The name as it stands there, or the whole instruction where variables make it up.
    let (start, end) = (source.line_start(lines.first) as usize, source.line_start(lines.last + 1) as usize);
    let text = source.text[start..end].trim_end();
    let span = match text.find(&request.written) {
        Some(at) => Span::new(start + at, start + at + request.written.len()),
        None => Span::new(start + (text.len() - text.trim_start().len()), start + text.len()),
    };
    let fault = Diagnostic::meaning("image-unavailable", message, source, span, lines);
    let suggested = request.suggestion.as_ref().map(|name| format!("there is a stage or image named {name}"));
    match suggested.or_else(|| error.help()) {
        Some(help) => fault.with_help(help),
        None => fault,
    }
}
