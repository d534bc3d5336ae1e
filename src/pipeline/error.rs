//! Why a build ended without an image; carries what `cli` needs to show it, and words only what has one wording.

use std::sync::Arc;

use crate::cancel::Cancelled;
use crate::diagnostic::{Diagnostic, headline};
use crate::dockerfile::ast::Lint;
use crate::engine::StepError;
use crate::source::{Lines, Source};

/// A build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The user asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The Dockerfile cannot be built as written, or an image it names cannot be had; all faults found.
    #[error("{}", headline(.0).map(Diagnostic::message).unwrap_or_default())]
    Dockerfile(Vec<Diagnostic>),
    /// A step failed.
    #[error("{error}")]
    Step {
        /// The Dockerfile.
        file: Arc<Source>,
        /// The step's lines.
        lines: Lines,
        /// Why.
        error: StepError,
        /// Findings about the Dockerfile, which may be the cause.
        lints: Vec<Lint>,
    },
    /// The world failed us.
    #[error("{doing}: {reason}")]
    World {
        /// The operation and its object.
        doing: String,
        /// What went wrong.
        reason: String,
    },
}

impl BuildError {
    /// A fault of the world while doing something.
    pub fn world(doing: impl Into<String>, error: &dyn std::error::Error) -> Self {
        match StepError::world(doing, error) {
            StepError::World { doing, reason } => Self::World { doing, reason },
            other @ (StepError::Cancelled(_)
            | StepError::Lost(_)
            | StepError::Exit { .. }
            | StepError::Changed(_)
            | StepError::Refused { .. }) => Self::World { doing: "build".to_owned(), reason: other.to_string() },
        }
    }
}
