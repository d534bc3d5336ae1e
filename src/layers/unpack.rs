//! A tar stream in; its index, diff ID and (if wanted) its tree out, in one pass.
//!
//! Three threads in a row: one decompresses, one hashes, the calling one makes files and hashes their contents. Chunks are
//! handed on, not copied. The diff ID covers every byte of the stream, also what comes after the end of the archive; callers
//! compare it before anything is published.

use std::io::{self, Read};
use std::path::Path;

use rbuild_cache::Room;
use rbuild_cache::digest::{Blake3, DiffId, Sha256};
use sha2::Digest as _;

use super::TreeOptions;
use super::disk::TreeWriter;
use super::error::{LayerError, Result};
use super::fold::{Act, Fold};
use super::index::Index;
use crate::cancel::Cancel;
use crate::tar::entry::{Kind, Meta};
use crate::tar::{RawEntry, TarError, Whiteouts, pipe, reader};

/// Bytes passed from thread to thread at a time.
const PIECE: usize = 256 << 10;

/// What a tar stream turned out to be.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub index: Index,
    pub diff_id: DiffId,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Bytes of content written to the tree.
    pub bytes: u64,
}

/// Reads the uncompressed tar `plain`; makes its tree in the empty directory `tree`, if given, which takes from its room.
pub(super) fn unpack(
    plain: Box<dyn Read + Send>,
    tree: Option<(&Path, TreeOptions, Room)>,
    cancel: &Cancel,
) -> Result<Unpacked> {
    let mut writer = match tree {
        Some((at, options, room)) => Some(TreeWriter::new(at, options, room)?),
        None => None,
    };
    std::thread::scope(|scope| {
        let (decompressed, to_hash) = pipe::pipe();
        let (hashed, mut to_read) = pipe::pipe();
        let feeder = scope.spawn(move || feed(plain, decompressed, cancel));
        let hash = scope.spawn(move || hash(to_hash, hashed));
        let mut fold = Fold::default();
        let read = reader::read(&mut to_read, Whiteouts::Interpret, &mut |raw, content| {
            take(&mut fold, writer.as_mut(), &raw, content)
        });
        let read = read.and_then(|()| io::copy(&mut to_read, &mut io::sink()).map_err(|e| TarError::from(e).into()));
        // Lets the other threads go before they are joined.
        drop(to_read);
        let hashed = hash.join();
        // If a decompressor panicked the pipe has said so already.
        let _died = feeder.join();
        cancel.check()?;
        read.map_err(source_error)?;
        let (diff_id, size) = hashed.map_err(|_| LayerError::Stream {
            operation: "hash layer",
            source: io::Error::other("the hashing thread panicked"),
        })?;
        let bytes = writer.map(TreeWriter::finish).transpose()?.unwrap_or(0);
        Ok(Unpacked { index: fold.finish()?, diff_id, size, bytes })
    })
}

/// Reads the source into the first pipe.
fn feed(mut plain: Box<dyn Read + Send>, mut out: pipe::Writer, cancel: &Cancel) {
    let mut pump = || -> io::Result<()> {
        loop {
            cancel.check().map_err(io::Error::other)?;
            let mut piece = Vec::with_capacity(PIECE);
            if (&mut plain).take(PIECE as u64).read_to_end(&mut piece)? == 0 {
                return Ok(());
            }
            out.chunk(piece)?;
        }
    };
    let result = pump();
    out.close(result);
}

/// Hashes what flows from one pipe to the other.
fn hash(mut from: pipe::Reader, mut to: pipe::Writer) -> (DiffId, u64) {
    let (mut hasher, mut size) = (sha2::Sha256::new(), 0);
    let mut pump = || -> io::Result<()> {
        while let Some(chunk) = from.chunk()? {
            hasher.update(&chunk);
            size += chunk.len() as u64;
            to.chunk(chunk)?;
        }
        Ok(())
    };
    let result = pump();
    to.close(result);
    (DiffId(Sha256(hasher.finalize().into())), size)
}

/// One entry: into the fold, and what follows from it onto the disk.
fn take(fold: &mut Fold, writer: Option<&mut TreeWriter>, raw: &RawEntry, content: &mut dyn Read) -> Result<()> {
    let change = fold.apply(raw)?;
    let Some(writer) = writer else {
        if let Act::File { object, .. } = change.act {
            let mut hasher = blake3::Hasher::new();
            io::copy(content, &mut hasher).map_err(TarError::from)?;
            fold.content(object, Blake3(*hasher.finalize().as_bytes()));
        }
        return Ok(());
    };
    for parent in &change.parents {
        if parent.opaque {
            writer.remove(&parent.path)?;
        }
        writer.directory(&parent.path, true, parent.opaque, fold.meta(&parent.path))?;
    }
    if change.replace {
        writer.remove(&change.path)?;
    }
    let none = Meta::default();
    let meta = fold.meta(&change.path).unwrap_or(&none);
    match &change.act {
        Act::File { object, size } => {
            let hash = writer.file(&change.path, meta, *size, content)?;
            fold.content(*object, hash);
        }
        Act::Directory { make, opaque } => writer.directory(&change.path, *make, *opaque, Some(meta))?,
        Act::Link(to) => writer.link(&change.path, to)?,
        Act::Special(kind) => writer.special(&change.path, kind, meta)?,
        Act::Whiteout => writer.special(&change.path, &Kind::Whiteout, &none)?,
        Act::Nothing => {}
    }
    Ok(())
}

/// Tells failures of the source from faults of the archive.
fn source_error(error: LayerError) -> LayerError {
    let source = match error {
        LayerError::Tar(TarError::Io(source)) | LayerError::Stream { source, .. } => source,
        other => return other,
    };
    match source.downcast::<rbuild_cache::StoreError>() {
        Ok(store) => LayerError::Store(store),
        Err(source) => LayerError::Stream { operation: "read layer", source },
    }
}
