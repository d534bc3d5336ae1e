//! What can go wrong with a layer. Names the operation and the object, keeps the source; words nothing for a user.

use std::io;
use std::path::{Path, PathBuf};

use rbuild_cache::StoreError;
use rbuild_cache::digest::{DiffId, LayerId};

use super::encoding::DecodeError;
use super::index::IndexError;
use crate::cancel::Cancelled;
use crate::tar::TarError;
use crate::tar::entry::LayerPath;

/// Why a layer could not be made, read or turned into another form.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The build was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tar cannot be read, or an entry cannot be written into one.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A stored index is damaged.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Entries make no layer.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The file system refused something inside a tree.
    #[error("{operation} {}{path}: {source}", root.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The tree.
        root: PathBuf,
        /// The path in it.
        path: LayerPath,
        /// What the system said.
        source: io::Error,
    },
    /// A stream that a layer was to be made from failed.
    #[error("{operation}: {source}")]
    Stream {
        /// What was being done.
        operation: &'static str,
        /// What the source said.
        source: io::Error,
    },
    /// A source file is not what it was when the step's key was computed.
    #[error("context changed while being read: {0}")]
    ContextChanged(LayerPath),
    /// The content of a source file cannot be read.
    #[error("read {path}: {source}")]
    Content {
        /// The file's path in the layer.
        path: LayerPath,
        /// What the system said.
        source: io::Error,
    },
    /// An uncompressed layer is not what its image says.
    #[error("layer has other content: diff ID {expected} expected, {actual} found")]
    DiffIdMismatch {
        /// From the image config or our record.
        expected: DiffId,
        /// Of the bytes at hand.
        actual: DiffId,
    },
    /// A layer that should be one of ours has other entries or times.
    #[error("layer has other entries: {expected} expected, {actual} found")]
    LayerIdMismatch {
        /// What it was called.
        expected: LayerId,
        /// What it is.
        actual: LayerId,
    },
    /// Entries of a foreign tar contradict one another.
    #[error("invalid layer at offset {offset}: {reason}")]
    Inconsistent {
        /// Where the entry's header begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file of a layer is not what its index says.
    #[error("stored layer {0} is damaged: {1} differs; the next build makes it again")]
    DamagedTree(LayerId, LayerPath),
    /// The store has no record of this layer, or none of the forms asked for can be made.
    #[error("layer {0} is not in the store any more")]
    Missing(LayerId),
}

impl LayerError {
    /// Whether a stored layer turned out to be damaged, be it while a file of it was read.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::DamagedTree(..) => true,
            Self::Content { source, .. } | Self::Stream { source, .. } | Self::Io { source, .. } => {
                source.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).is_some_and(Self::is_damage)
            }
            Self::Cancelled(_)
            | Self::Store(_)
            | Self::Tar(_)
            | Self::Decode(_)
            | Self::Index(_)
            | Self::ContextChanged(_)
            | Self::DiffIdMismatch { .. }
            | Self::LayerIdMismatch { .. }
            | Self::Inconsistent { .. }
            | Self::Missing(_) => false,
        }
    }
}

/// Short for this module's results.
pub type Result<T, E = LayerError> = std::result::Result<T, E>;

/// Adds operation, tree and path to an I/O fault.
pub(super) trait InTree<T> {
    fn in_tree(self, operation: &'static str, root: &Path, path: &LayerPath) -> Result<T>;
}

impl<T, E: Into<io::Error>> InTree<T> for Result<T, E> {
    fn in_tree(self, operation: &'static str, root: &Path, path: &LayerPath) -> Result<T> {
        self.map_err(|e| LayerError::Io { operation, root: root.to_owned(), path: path.clone(), source: e.into() })
    }
}
