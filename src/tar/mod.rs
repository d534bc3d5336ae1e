//! Tars as bytes: the canonical writer, the safe reader, and the compressions archives come in.
//!
//! Everything works on bytes handed in; nothing here opens a file or knows what a layer is. The writer decides every byte
//! itself so that the same entries give the same tar on any machine; the reader trusts nothing it reads. Headers are laid
//! out by the `tar` crate's structs; which values are believed is decided here.

pub mod compression;
pub mod entry;
mod pax;
pub mod pipe;
pub mod reader;
mod sparse;
pub mod writer;

pub use compression::{Compression, detect};
pub use reader::{RawEntry, RawKind, Whiteouts};
pub use writer::{TAR_VERSION, TarWriter};

/// Size of a tar block: headers are one block, content is padded to whole blocks.
pub const BLOCK: usize = 512;

/// What precedes the name of a deleted file in a layer tar.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The name that makes its directory hide all that lower layers have in it.
pub const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// What AUFS called its own bookkeeping; such names are in some old images and mean nothing any more.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// A tar cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are not a tar that makes sense.
    #[error("invalid tar at offset {offset}: {reason}")]
    Malformed {
        /// Where the entry's header begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The archive is larger in some way than we are willing to process.
    #[error("tar exceeds a limit at offset {offset}: {what} (limit {limit})")]
    Limit {
        /// Where the entry's header begins.
        offset: u64,
        /// What there is too much of.
        what: &'static str,
        /// The most we accept.
        limit: u64,
    },
    /// An entry has no form in a tar.
    #[error("{path:?} cannot be part of a layer: {reason}")]
    Unrepresentable {
        /// The entry.
        path: entry::LayerPath,
        /// Why.
        reason: &'static str,
    },
}

/// `bytes` rounded up to whole blocks; `None` on overflow.
pub fn padded(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(BLOCK as u64)
}
