//! Loop 1: plan, find the images the plan asks for, plan again.
//!
//! Configs only; no layer is fetched here.

use std::collections::BTreeMap;

use super::{BuildError, Spec, World};
use crate::catalog::Image;
use crate::catalog::pull::{PullError, Resolved, Source};
use crate::dockerfile::ast::{Dockerfile, Lint};
use crate::event::Outcome;
use crate::oci::platform::Platform;
use crate::plan::graph::Plan;
use crate::plan::{self, Facts, ImageFacts, ImageRequest, Planned};

/// ONBUILD triggers may ask for images whose triggers ask for images; nobody nests deeper.
const MAX_ROUNDS: usize = 32;

/// The plan, what is noteworthy about the Dockerfile, and the images by handle.
pub(crate) type Resolution = (Plan, Vec<Lint>, BTreeMap<String, Image>);

/// Plans until nothing is missing.
pub fn resolve_plan(world: &World<'_>, spec: &Spec<'_>, file: &Dockerfile) -> Result<Resolution, BuildError> {
    let (mut facts, mut images) = (Facts::new(), BTreeMap::new());
    for _ in 0..MAX_ROUNDS {
        let requests = match plan::plan(file, spec.plan, &facts).map_err(BuildError::Dockerfile)? {
            Planned::Plan(plan, lints) => return Ok((plan, lints, images)),
            Planned::Needs(requests) => requests,
        };
        for (request, found) in ask_all(world, spec, requests) {
            let resolved = found.map_err(|error| refused(file, &request, &error))?;
            world.cancel.check()?;
            let config = resolved.image.parsed().map_err(|e| BuildError::world(request.reference.clone(), &e))?;
            let handle = resolved.id.to_string();
            let digest = resolved.digest.map(|digest| digest.to_string());
            images.insert(handle.clone(), resolved.image);
            facts.answer(&request, ImageFacts { handle, config, digest });
        }
    }
    let reason = format!("ONBUILD triggers still ask for images after {MAX_ROUNDS} rounds");
    Err(BuildError::World { doing: "plan the build".to_owned(), reason })
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

fn refused(file: &Dockerfile, request: &ImageRequest, error: &PullError) -> BuildError {
    let reference = &request.reference;
    let mut message = format!("{}: failed to resolve source metadata for {reference}: {error}", request.written);
    let mut help = None;
    if let Some(suggestion) = &request.suggestion {
        message += &format!(" (did you mean {suggestion}?)");
        help = Some(format!("there is a stage or image named {suggestion}"));
    }
    BuildError::Image { file: file.source.clone(), lines: request.lines, message, help }
}
