//! Compressed blobs of layers: derived, recorded, the same ever after.
//!
//! ```text
//! derived-v1/…/layer-<diff ID>-gzip-<level>-v<version>     {"digest":"sha256:…","size":N}
//! ```
//! The name says everything the bytes depend on, so a record never goes stale; its blob may go and be made again, with the
//! same digest.

use std::io::{self, Read, Write};

use rbuild_cache::digest::{BlobDigest, LayerId};
use rbuild_cache::{BlobWriter, Kind, ObjectRef};
use serde::{Deserialize, Serialize};

use super::chunks::{self, Earlier};
use super::error::{LayerError, Result};
use super::gzip::{self, GZIP_VERSION};
use super::{Layers, Record};
use crate::oci::manifest::Packing;

/// Version of our use of zstd; its library's version is pinned by the lock file.
const ZSTD_VERSION: u32 = 1;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// How a layer is to be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Framing {
    /// Not at all.
    None,
    /// gzip; level 0 to 9.
    Gzip {
        /// Level.
        level: u32,
    },
    /// Zstandard; level 1 to 22, 0 is its own default.
    Zstd {
        /// Level.
        level: i32,
    },
}

impl Framing {
    /// As outputs and caches are asked for it; without a level it is a usual one.
    pub fn new(packing: Packing, level: Option<u8>) -> Self {
        match packing {
            Packing::Tar => Self::None,
            Packing::Gzip => Self::Gzip { level: level.map_or(gzip::DEFAULT_LEVEL, u32::from) },
            Packing::Zstd => Self::Zstd { level: level.map_or(ZSTD_LEVEL, i32::from) },
        }
    }

    /// What a media type of a layer ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip { .. } => "+gzip",
            Self::Zstd { .. } => "+zstd",
        }
    }

    /// Everything the compressed bytes depend on besides the plain ones.
    pub(super) fn name(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Gzip { level } => format!("gzip-{level}-v{GZIP_VERSION}"),
            Self::Zstd { level } => format!("zstd-{level}-v{ZSTD_VERSION}"),
        }
    }
}

/// A blob of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compressed {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its size.
    pub size: u64,
}

const PREFIX: &str = "layer-";
/// Parts of layers: `parts.rs`.
pub(super) const PART_PREFIX: &str = "part-";

impl Layers {
    /// The compressed blob if it was made before, in the store or not: enough to write a manifest.
    pub fn known_compressed(&self, record: &Record, framing: Framing) -> Result<Option<Compressed>> {
        if framing == Framing::None {
            return Ok(Some(Compressed { digest: BlobDigest(record.diff_id.0), size: record.size }));
        }
        self.derived(&derived_name(record, framing))
    }

    /// A blob that was made before under this name.
    pub(super) fn derived(&self, name: &str) -> Result<Option<Compressed>> {
        let Some(bytes) = self.store.get(Kind::Derived, name)? else { return Ok(None) };
        self.store.touch(Kind::Derived, name)?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Remembers a blob under the name of what it was made of.
    pub(super) fn keep_derived(&self, name: &str, made: Compressed) -> Result<()> {
        let json = serde_json::to_vec(&made)
            .map_err(|e| LayerError::Stream { operation: "encode layer record", source: e.into() })?;
        Ok(self.store.put(Kind::Derived, name, &json)?)
    }

    /// The layer's tar as a blob in the store, compressed as asked with up to `threads` threads. The bytes do not depend on
    /// the number of threads.
    pub fn compressed(&self, id: &LayerId, framing: Framing, threads: usize) -> Result<Compressed> {
        let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
        if let Some(known) = self.stored(&record, framing)? {
            return Ok(known);
        }
        // Not the layer's own lock: a step may want its tree meanwhile.
        let _lock = self.lock_named(derived_name(&record, framing).as_bytes())?;
        if let Some(known) = self.stored(&record, framing)? {
            return Ok(known);
        }
        let earlier = Earlier::new(self.store.clone(), framing.name());
        let recall = |hash: &_, first| earlier.recall(hash, first);
        let (writer, pieces) = self.pack(self.tar(id)?, framing, threads, &recall)?;
        let expected = (framing == Framing::None).then_some(BlobDigest(record.diff_id.0));
        let (digest, size) = writer.commit(expected)?;
        let compressed = Compressed { digest, size };
        if framing != Framing::None {
            self.keep_derived(&derived_name(&record, framing), compressed)?;
        }
        earlier.note(digest, &pieces)?;
        Ok(compressed)
    }

    /// Compresses a stream into a blob that is to be committed.
    pub(super) fn pack(
        &self,
        plain: Box<dyn Read + Send>,
        framing: Framing,
        threads: usize,
        recall: &gzip::Recall<'_>,
    ) -> Result<(BlobWriter, Vec<gzip::Piece>)> {
        let mut plain = Cancellable { inner: plain, layers: self.clone() };
        let mut writer = self.store.blob_writer()?;
        let made = match framing {
            Framing::None => io::copy(&mut plain, &mut writer).map(|_| (writer, Vec::new())),
            Framing::Gzip { level } => gzip::compress(plain, writer, level, threads, recall),
            Framing::Zstd { level } => zstd(plain, writer, level, threads).map(|writer| (writer, Vec::new())),
        };
        self.cancel.check()?;
        made.map_err(failed)
    }

    fn stored(&self, record: &Record, framing: Framing) -> Result<Option<Compressed>> {
        let Some(known) = self.known_compressed(record, framing)? else { return Ok(None) };
        Ok(self.store.blob(&known.digest)?.map(|_| known))
    }
}

fn derived_name(record: &Record, framing: Framing) -> String {
    format!("{PREFIX}{}-{}", record.diff_id.0.hex(), framing.name())
}

/// What a record of this file needs.
pub(super) fn references(name: &str, bytes: &[u8]) -> Option<Vec<ObjectRef>> {
    if let Some(references) = chunks::references(name, bytes) {
        return Some(references);
    }
    name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(PART_PREFIX))?;
    let compressed: Compressed = serde_json::from_slice(bytes).ok()?;
    Some(vec![ObjectRef::RemakableBlob(compressed.digest)])
}

fn zstd<W: Write>(mut tar: impl Read, writer: W, level: i32, threads: usize) -> io::Result<W> {
    let mut encoder = zstd::stream::write::Encoder::new(writer, level)?;
    encoder.include_checksum(true)?;
    // One worker at least: without workers the bytes would be others.
    encoder.multithread(threads.clamp(1, 64) as u32)?;
    let mut piece = vec![0; 256 << 10];
    loop {
        match tar.read(&mut piece) {
            Ok(0) => return encoder.finish(),
            Ok(n) => encoder.write_all(&piece[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Tells the store's failures from the source's.
fn failed(error: io::Error) -> LayerError {
    let error = match error.downcast::<rbuild_cache::StoreError>() {
        Ok(store) => return LayerError::Store(store),
        Err(error) => error,
    };
    match error.downcast::<LayerError>() {
        Ok(layer) => layer,
        Err(source) => LayerError::Stream { operation: "compress layer", source },
    }
}

/// Fails when the build is cancelled.
struct Cancellable {
    inner: Box<dyn Read + Send>,
    layers: Layers,
}

impl Read for Cancellable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.layers.cancel.check().map_err(io::Error::other)?;
        self.inner.read(buffer)
    }
}
