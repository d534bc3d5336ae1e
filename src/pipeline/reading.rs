//! From the text to a Dockerfile, or to all that can be said to be wrong with it.
//!
//! Asks registries only for what nobody else can tell; builds nothing.

use super::{BuildError, Spec, World, resolve, sources};
use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::{self, Reading, frontend};
use crate::event::Outcome;
use crate::plan::{self, PlanOptions};

/// Parses the Dockerfile, shown as the internal steps BuildKit has for it.
pub(super) fn load(world: &World<'_>, spec: &Spec<'_>) -> Result<Dockerfile, BuildError> {
    let vertex = world.progress.vertex(format!("[internal] load build definition from {}", spec.source.name), &[]);
    vertex.start();
    vertex.status("transferring dockerfile:", spec.source.text.len() as u64, 0, true);
    let read = read(spec);
    vertex.finish(Outcome::Done);
    let reading = read?;
    if reading.faults.is_empty() {
        return Ok(reading.file);
    }
    let error = BuildError::Dockerfile(faults_of(world, spec, &reading, spec.plan));
    Err(sources::beside(spec, error, || plan::wanted_for_certain(&reading.file, reading.lost, spec.plan)))
}

/// Refuses a file that is written for another front end.
pub fn refuse_other_frontend(spec: &Spec<'_>) -> Result<(), Diagnostic> {
    let given = spec.plan.build_args.get(frontend::SYNTAX_ARG).and_then(Option::as_deref);
    frontend::refuse_other(&spec.source, given)
}

/// What cannot be read of a Dockerfile, what is wrong with the rest, and images of it that are most likely slips and do not exist.
pub fn faults_of(world: &World<'_>, spec: &Spec<'_>, reading: &Reading, options: &PlanOptions) -> Vec<Diagnostic> {
    let mut faults = plan::all_faults(reading, options);
    faults.extend(resolve::unavailable(world, spec, &reading.file, plan::doubtful_images(reading, options)));
    faults
}

/// Parses the Dockerfile if it is written for us. What is wrong with the plan of the rest is told with what cannot be read.
pub fn parse(world: &World<'_>, spec: &Spec<'_>) -> Result<Dockerfile, BuildError> {
    let reading = read(spec)?;
    if reading.faults.is_empty() {
        return Ok(reading.file);
    }
    Err(BuildError::Dockerfile(faults_of(world, spec, &reading, spec.plan)))
}

fn read(spec: &Spec<'_>) -> Result<Reading, BuildError> {
    refuse_other_frontend(spec).map_err(|fault| BuildError::Dockerfile(vec![fault]))?;
    Ok(dockerfile::read(spec.source.clone()))
}
