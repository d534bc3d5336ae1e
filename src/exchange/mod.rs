//! Results of steps on their way to other machines and back: `--cache-to` and `--cache-from`.
//!
//! ```text
//! spec     what was asked for                     format   what a cache looks like (docs/cache-format.md)
//! import   manifest and config at the start;      export   after the build: what the place lacks, then config, then manifest
//!          blobs when a step reads them           local    a directory that holds what is referenced, and nothing else
//! inline   results inside an image's config       mounts   contents of cache mounts, in parts
//! ```
//! A cache is a claim. Whoever names it trusts it to say which files a step makes, as he trusts a registry with an image; but
//! what is fetched is put into the store only under the names it really has. Nothing here makes a build fail: a cache that
//! cannot be read is none, one that cannot be written is reported. Knows how results are recorded (`engine`'s records), but
//! not how steps are done.

mod export;
mod format;
mod import;
mod inline;
mod local;
mod mounts;
pub mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rbuild_cache::digest::{Blake3, LayerId};

pub use export::Exports;
pub use import::{Form, Imported, Pending};
pub use inline::embed;

use crate::cancel::Cancelled;
use crate::catalog::pull::PullError;
use crate::engine::Memo;
use crate::layers::LayerError;
use crate::oci::manifest::ManifestError;
use crate::registry::Error;

/// What a build came to, as far as a cache is concerned.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Of every step.
    pub steps: Vec<Arc<Memo>>,
    /// The layers of the images.
    pub layers: BTreeSet<LayerId>,
    /// The cache mounts of its steps, with their ids.
    pub mounts: BTreeMap<Blake3, String>,
}

impl Results {
    /// Adds those of another build.
    pub fn extend(&mut self, other: Self) {
        self.steps.extend(other.steps);
        self.layers.extend(other.layers);
        self.mounts.extend(other.mounts);
    }
}

/// A cache cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The build was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A registry or layout did not give or take something.
    #[error(transparent)]
    Registry(#[from] Error),
    /// A blob cannot be had.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// A layer cannot be packed or read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// What should be a cache is something else.
    #[error("{what}: {source}")]
    Manifest {
        /// Where it is from.
        what: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// It is an image or another tool's cache.
    #[error("{what}: {message}")]
    Unusable {
        /// Where it is from.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// Files of a cache directory.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
