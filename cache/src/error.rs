//! What can go wrong in the store. Every I/O fault names the operation and the path; nobody here words it for a user.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Blake3, BlobDigest};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("store: {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `"open"`, `"rename into place"`.
        operation: &'static str,
        /// The object of the operation.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that should have had one digest have another; nothing was stored.
    #[error("blob {expected} has other bytes: they hash to {actual}")]
    DigestMismatch {
        /// The digest that was asked for.
        expected: BlobDigest,
        /// The digest of what came.
        actual: BlobDigest,
    },
    /// The caller's cancel function said so while waiting.
    #[error("canceled")]
    Cancelled,
    /// A cache mount cannot be removed while somebody uses it.
    #[error("cache mount {key} is in use{}", .holder.map(|p| format!(" by process {p}")).unwrap_or_default())]
    Busy {
        /// The mount.
        key: Blake3,
        /// The process that holds its lock, when known.
        holder: Option<u32>,
    },
    /// The ceiling leaves no room, even after everything removable was removed.
    #[error("store is full: {needed} bytes needed, {used} of {limit} in use and nothing more can be removed")]
    Full {
        /// How many bytes were to be written.
        needed: u64,
        /// How many bytes the store holds.
        used: u64,
        /// The ceiling.
        limit: u64,
    },
}

impl StoreError {
    /// Whether the file system (not the ceiling) has no space left.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Io { source, .. } => source.kind(),
            StoreError::DigestMismatch { .. } => io::ErrorKind::InvalidData,
            StoreError::Cancelled => io::ErrorKind::Other,
            StoreError::Busy { .. } => io::ErrorKind::ResourceBusy,
            StoreError::Full { .. } => io::ErrorKind::QuotaExceeded,
        };
        io::Error::new(kind, error)
    }
}

/// Short for this crate's results.
pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Adds the operation and its object to an I/O fault.
pub(crate) trait At<T> {
    /// Names what was tried on what.
    fn at(self, operation: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T> {
        self.map_err(|e| StoreError::Io { operation, path: path.to_owned(), source: e.into() })
    }
}
