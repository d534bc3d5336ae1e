//! A root for a step, made from layers: an overlay of their trees, or a copy of them.
//!
//! Knows nothing of processes or mounts: it only arranges directories; `exec` mounts the overlay inside the step.

mod copied;
mod overlay;

use std::io;
use std::path::{Path, PathBuf};

pub use crate::layers::OverlayXattrs;

pub use copied::Copied;
pub use overlay::Overlay;

/// What a root is made of.
#[derive(Clone, Debug)]
pub enum Root {
    /// An overlay: read-only trees, a directory for what changes, and overlay's work directory.
    Overlay {
        /// Unpacked layers from the bottom to the top; at least one (an empty directory for scratch).
        lowers: Vec<PathBuf>,
        /// Where changes go; exists and is empty.
        upper: PathBuf,
        /// On the same file system as `upper`; exists and is empty.
        work: PathBuf,
    },
    /// A plain directory that is changed in place (copied trees; no overlay to be had).
    Directory(PathBuf),
}

/// Makes roots.
pub trait Snapshots: Send + Sync + std::fmt::Debug {
    /// A root that shows `lowers` (trees with overlay's marks, from the bottom to the top) and can be changed without
    /// changing them. What it needs is made in `scratch`, an empty directory on the store's file system that the caller
    /// removes.
    fn prepare(&self, lowers: &[PathBuf], scratch: &Path) -> io::Result<Root>;
}
