//! What instructions take from contexts, looked for before anything runs: all that is missing is told at once, and with the other
//! faults of the Dockerfile.
//!
//! Only contexts that are here are looked into; nothing is fetched for that, and no content is read. What can only be told by
//! doing a step is left to it.

use super::{BuildError, Spec, World};
use crate::diagnostic::Diagnostic;
use crate::event::Outcome;
use crate::plan::Wanted;
use crate::plan::graph::{CopySource, From};
use crate::transfer::{self, Source, TransferError};

/// What is missing, in the order of the instructions.
pub fn missing(spec: &Spec<'_>, wanted: &[Wanted]) -> Vec<Diagnostic> {
    wanted.iter().flat_map(|wanted| missing_of(spec, wanted)).collect()
}

/// The same, shown as the steps that fail for it.
pub(super) fn refuse_missing(world: &World<'_>, spec: &Spec<'_>, wanted: &[Wanted]) -> Vec<Diagnostic> {
    let mut all = Vec::new();
    for wanted in wanted {
        let faults = missing_of(spec, wanted);
        if let Some(first) = faults.first() {
            let vertex = world.progress.vertex(wanted.name.clone(), &[]);
            vertex.start();
            vertex.finish(Outcome::Error(first.message()));
        }
        all.extend(faults);
    }
    all
}

/// Faults of the Dockerfile with what is missing in contexts behind them; that is looked for only if there are some.
pub(super) fn beside(spec: &Spec<'_>, error: BuildError, wanted: impl FnOnce() -> Vec<Wanted>) -> BuildError {
    match error {
        BuildError::Dockerfile(mut faults) => {
            faults.extend(missing(spec, &wanted()));
            BuildError::Dockerfile(faults)
        }
        other @ (BuildError::Cancelled(_) | BuildError::Step { .. } | BuildError::World { .. }) => other,
    }
}

fn missing_of(spec: &Spec<'_>, wanted: &Wanted) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    for (index, source) in wanted.copy.sources.iter().enumerate() {
        let CopySource::Path { from: From::Context(name), path, unpack } = source else { continue };
        let Some(tree) = spec.contexts.get(name).filter(|_| spec.at_hand.contains(name)) else { continue };
        let source = Source::Path { tree: tree.as_ref(), path, unpack: *unpack, label: name };
        let Err(error) = transfer::check(&wanted.copy, index, &source) else { continue };
        let of_instruction = match error {
            TransferError::NotFound { .. }
            | TransferError::NoDirectory { .. }
            | TransferError::Wildcard { .. }
            | TransferError::TooManyLinks(_) => false,
            // One fault, whatever the number of sources.
            TransferError::Pattern(_) => true,
            // What cannot be looked at now may be readable when it is needed; whoever needs it tells.
            TransferError::Tree(_)
            | TransferError::NonDirectory(_)
            | TransferError::OverDirectory(_)
            | TransferError::NotADirectory(_)
            | TransferError::Chmod(_)
            | TransferError::NoUserFile { .. }
            | TransferError::UserFile(_)
            | TransferError::Archive { .. }
            | TransferError::Spool(_) => continue,
        };
        let fault = wanted.fault(index, error.to_string());
        faults.push(match error.help() {
            Some(help) => fault.with_help(help),
            None => fault,
        });
        if of_instruction {
            break;
        }
    }
    faults
}
