//! `--cache-to` after a build: every cache is written, and what went wrong becomes a warning unless the user wants it otherwise.

use super::Failure;
use super::request::{BuildRequest, OutputSpec};
use super::world::Opened;
use crate::exchange::{ExchangeError, Exports};
use crate::export::output::Kind;
use crate::pipeline::{Built, World};

/// Writes all caches; the failures that are only warnings.
pub(super) fn write(
    request: &BuildRequest,
    world: &World<'_>,
    opened: &Opened,
    built: &Built,
) -> Result<Vec<String>, Failure> {
    let pushed = request.outputs.iter().flat_map(|output| match output {
        OutputSpec::Export(output) if matches!(output.kind, Kind::Image(Some(_))) => output.names.as_slice(),
        OutputSpec::Export(_) | OutputSpec::Load(_) => &[],
    });
    let exports = Exports {
        layers: opened.layers.clone(),
        puller: world.puller.clone(),
        imported: built.imported.clone(),
        runtime: opened.runtime.handle().clone(),
        progress: world.progress.clone(),
        cancel: opened.cancel.clone(),
        threads: opened.threads,
        pushed: pushed.map(crate::oci::reference::Reference::repository).collect(),
    };
    let mut failures = Vec::new();
    for target in &request.cache_to {
        match exports.export(&built.results, target) {
            Ok(()) => {}
            Err(error) if target.ignore_error && !matches!(error, ExchangeError::Cancelled(_)) => {
                failures.push(format!("the cache was not exported: {error}"));
            }
            Err(error) => return Err(Failure::of(&error)),
        }
    }
    Ok(failures)
}
