//! New layers: written from entries (COPY, ADD), adopted from an upper directory (RUN), or imported from elsewhere.
//!
//! In each case the content is read once; identities are computed from what was read, never taken over; and the form is in
//! the store before the record that speaks of it.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::digest::{BlobDigest, DiffId, LayerId, Sha256, TreeId};
use rbuild_cache::{BlobWriter, Kind, LockKind, TempDir};
use sha2::Digest as _;

use super::error::{LayerError, Result};
use super::index::Index;
use super::stream::{self, Content, Hashes};
use super::unpack::{self, Unpacked};
use super::view::View;
use super::{Home, Layers, Origin, Record, diff, foreign_layer_id};
use crate::tar::entry::Entry;
use crate::tar::{compression, pipe};

/// Where a foreign layer's blob comes from, as far as its record is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The blob's media type.
    pub media_type: String,
    /// What the blob must hash to, if somebody said so.
    pub digest: Option<BlobDigest>,
}

/// A tree being made.
pub(super) struct NewTree {
    _temp: TempDir,
    at: PathBuf,
}

impl NewTree {
    pub(super) fn at(&self) -> &Path {
        &self.at
    }
}

/// Hashes what is written to it.
#[derive(Default)]
pub(super) struct Hash(sha2::Sha256);

impl Hash {
    pub(super) fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Layers {
    /// Makes a layer of `entries`, which come sorted, as an uncompressed blob. Contents that do not hash to what their entry
    /// says are [`LayerError::ContextChanged`].
    pub fn write(&self, entries: impl Iterator<Item = (Entry, Content)>) -> Result<Record> {
        self.write_with(entries.map(Ok), Hashes::Verify)
    }

    fn write_with(&self, entries: impl Iterator<Item = Result<(Entry, Content)>>, hashes: Hashes) -> Result<Record> {
        let writer = self.store.blob_writer()?;
        let done = stream::stream(entries, hashes, &self.cancel, writer)?;
        let index = Index::new(done.entries)?;
        let (digest, size) = done.sink.commit(None)?;
        let tree_id = index.tree_id();
        let id = index.layer_id_of(&tree_id);
        let origin = Origin::Built { home: self.home_of(&id, Home::Blob)? };
        self.save(Record { id, tree_id, diff_id: DiffId(digest.0), size, origin }, index)
    }

    /// Makes a layer of the overlay upper directory of a step that ran on `stack`. The directory becomes the layer's tree, so
    /// it must be below one of the store's temp directories and no longer mounted.
    pub fn adopt(&self, upper: &Path, stack: &[LayerId]) -> Result<Record> {
        let view = View::new(self, stack)?;
        let difference = diff::upper(upper, self.options, &view, &self.cancel)?;
        difference.clean(upper, self.options)?;
        let contents = diff::contents(upper, difference.entries)?;
        let done = stream::stream(contents, Hashes::Fill, &self.cancel, Hash::default())?;
        let index = Index::new(done.entries)?;
        let diff_id = DiffId(done.sink.finish());
        let tree_id = index.tree_id();
        let id = index.layer_id_of(&tree_id);
        self.store.publish_tree_sized(&id, upper, done.size)?;
        let origin = Origin::Built { home: self.home_of(&id, Home::Tree)? };
        self.save(Record { id, tree_id, diff_id, size: done.size, origin }, index)
    }

    /// Makes a layer of a directory that began as a copy of `stack` and was changed in place. Every file is compared.
    pub fn diff_dirs(&self, dir: &Path, stack: &[LayerId]) -> Result<Record> {
        let view = View::new(self, stack)?;
        let entries = diff::directory(dir, self.options, &view, &self.cancel)?;
        self.write_with(diff::contents(dir, entries)?, Hashes::Fill)
    }

    /// The layer with no modification time after `latest`: itself if it has none, otherwise a new one.
    pub fn clamp(&self, id: &LayerId, latest: i64) -> Result<Record> {
        let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
        let index = self.index(id)?;
        if index.entries().iter().all(|e| e.meta.mtime <= latest) {
            return Ok(record);
        }
        let clamped = index.clamped(latest);
        if matches!(record.origin, Origin::Built { .. })
            && let Some(record) = self.record(&clamped.layer_id())?
        {
            return Ok(record);
        }
        let layers = self.clone();
        let id = *id;
        self.write(clamped.into_entries().into_iter().map(move |entry| {
            let (layers, path) = (layers.clone(), entry.path.clone());
            let open = move || Ok(Content::Reader(layers.open(&id, &path).map_err(io::Error::other)?));
            let content = if matches!(entry.kind, crate::tar::entry::Kind::File { .. }) {
                Content::Open(Box::new(open))
            } else {
                Content::None
            };
            (entry, content)
        }))
    }

    /// Takes over a layer that somebody else made: a tar, plain or compressed. Its bytes are kept as a blob and its tree is
    /// made on the way. Nothing is published unless blob digest and diff ID are what they were said to be.
    pub fn import(&self, blob: Box<dyn Read + Send>, source: &Source, expected: Option<DiffId>) -> Result<Record> {
        let _lock = expected.map(|diff_id| self.lock(&foreign_layer_id(&diff_id))).transpose()?;
        if let Some(record) = self.already_here(expected)? {
            return Ok(record);
        }
        // The order of bytes in the blob is that of reading, whichever clone reads.
        let tee = Tee::new(blob, self.store.blob_writer()?);
        let (unpacked, tree) =
            self.unpack_foreign(Box::new(tee.ahead()), expected).inspect_err(|_| drop(tee.writer()))?;
        let writer = tee.finish()?.ok_or_else(|| LayerError::Missing(foreign_layer_id(&unpacked.diff_id)))?;
        let (digest, size) = writer.commit(source.digest)?;
        self.save_foreign(unpacked, &tree, Origin::Foreign { media_type: source.media_type.clone(), digest, size })
    }

    /// Like [`import`](Self::import) for a blob that is in the store already; `None` if it is not.
    pub fn import_blob(
        &self,
        digest: &BlobDigest,
        media_type: &str,
        expected: Option<DiffId>,
    ) -> Result<Option<Record>> {
        let _lock = expected.map(|diff_id| self.lock(&foreign_layer_id(&diff_id))).transpose()?;
        if let Some(record) = self.already_here(expected)? {
            return Ok(Some(record));
        }
        let Some(blob) = self.store.blob(digest)? else { return Ok(None) };
        let Some(file) = self.store.open_blob(digest)? else { return Ok(None) };
        let (unpacked, tree) = self.unpack_foreign(Box::new(file), expected)?;
        let origin = Origin::Foreign { media_type: media_type.to_owned(), digest: *digest, size: blob.size };
        self.save_foreign(unpacked, &tree, origin).map(Some)
    }

    /// Takes back a layer that rbuild made, here or elsewhere: its tar, plain or compressed. Its tree is made on the way and
    /// becomes its home. What comes is a claim: nothing is published unless tar, meaning and times are those its names say.
    pub fn import_built(&self, id: &LayerId, diff_id: DiffId, blob: Box<dyn Read + Send>) -> Result<Record> {
        let _lock = self.lock(id)?;
        if let Some(record) = self.record(id)?
            && self.has_form(&record)?
        {
            return Ok(record);
        }
        let (unpacked, tree) = self.unpack_foreign(blob, Some(diff_id))?;
        let tree_id = named(id, &unpacked.index)?;
        self.store.publish_tree_sized(id, tree.at(), unpacked.bytes)?;
        let origin = Origin::Built { home: self.home_of(id, Home::Tree)? };
        self.save(Record { id: *id, tree_id, diff_id, size: unpacked.size, origin }, unpacked.index)
    }

    /// Takes the index of a layer that rbuild made, in its stored form, and returns what the layer means. An index of other
    /// entries than `id` names is refused.
    pub fn import_index(&self, id: &LayerId, bytes: &[u8]) -> Result<TreeId> {
        let index = Index::decode(bytes)?;
        let tree_id = named(id, &index)?;
        self.store.put(Kind::Index, &id.to_string(), bytes)?;
        self.keep(id, index);
        Ok(tree_id)
    }

    /// The record of a layer whose bytes are here already.
    fn already_here(&self, expected: Option<DiffId>) -> Result<Option<Record>> {
        let record = expected.map(|diff_id| self.by_diff_id(&diff_id)).transpose()?.flatten();
        let Some(record) = record else { return Ok(None) };
        let here = match &record.origin {
            Origin::Built { .. } => self.has_form(&record)?,
            Origin::Foreign { digest, .. } => self.store.blob(digest)?.is_some(),
        };
        Ok(here.then_some(record))
    }

    fn unpack_foreign(&self, blob: Box<dyn Read + Send>, expected: Option<DiffId>) -> Result<(Unpacked, NewTree)> {
        let tree = self.new_tree()?;
        let (plain, _) = plain(blob)?;
        let unpacked = unpack::unpack(plain, Some((tree.at(), self.options, self.store.room())), &self.cancel)?;
        verify(expected, unpacked.diff_id)?;
        Ok((unpacked, tree))
    }

    fn save_foreign(&self, unpacked: Unpacked, tree: &NewTree, origin: Origin) -> Result<Record> {
        let id = foreign_layer_id(&unpacked.diff_id);
        self.store.publish_tree_sized(&id, tree.at(), unpacked.bytes)?;
        let Unpacked { index, diff_id, size, .. } = unpacked;
        self.save(Record { id, tree_id: index.tree_id(), diff_id, size, origin }, index)
    }

    /// An empty directory to make a tree in; gone unless it is published.
    pub(super) fn new_tree(&self) -> Result<NewTree> {
        let temp = self.store.temp_dir("tree")?;
        let at = temp.path().join("fs");
        fs_err::create_dir(&at).map_err(|source| LayerError::Stream { operation: "make tree", source })?;
        Ok(NewTree { _temp: temp, at })
    }

    /// A layer that is in the store already keeps its home, unless that is gone.
    fn home_of(&self, id: &LayerId, new: Home) -> Result<Home> {
        let Some(Record { origin: Origin::Built { home }, diff_id, .. }) = self.record(id)? else { return Ok(new) };
        let there = match home {
            Home::Tree => self.store.tree(id)?.is_some(),
            Home::Blob => self.store.blob(&BlobDigest(diff_id.0))?.is_some(),
        };
        Ok(if there { home } else { new })
    }

    /// Locks the making of one layer's forms.
    pub(super) fn lock(&self, id: &LayerId) -> Result<rbuild_cache::LockGuard> {
        self.lock_named(&id.0.0)
    }

    /// Locks the making of something derived from a layer.
    pub(super) fn lock_named(&self, name: &[u8]) -> Result<rbuild_cache::LockGuard> {
        let cancelled = || self.cancel.is_cancelled();
        let guard = self.store.lock(LockKind::Layer, name, &cancelled, &mut |_| {});
        self.cancel.check()?;
        Ok(guard?)
    }
}

/// The uncompressed bytes of a stream.
pub(super) fn plain(input: Box<dyn Read + Send>) -> Result<(Box<dyn Read + Send>, Option<crate::tar::Compression>)> {
    compression::plain(Box::new(BufReader::with_capacity(256 << 10, input)))
        .map_err(|source| LayerError::Stream { operation: "read layer", source })
}

/// Whether `id` names a layer of just these entries; what the layer means.
fn named(id: &LayerId, index: &Index) -> Result<TreeId> {
    let tree_id = index.tree_id();
    match index.layer_id_of(&tree_id) {
        actual if actual == *id => Ok(tree_id),
        actual => Err(LayerError::LayerIdMismatch { expected: *id, actual }),
    }
}

pub(super) fn verify(expected: Option<DiffId>, actual: DiffId) -> Result<()> {
    match expected {
        Some(expected) if expected != actual => Err(LayerError::DiffIdMismatch { expected, actual }),
        _ => Ok(()),
    }
}

/// Writes a blob while something else reads it. Clones share it, so that it can be asked for the blob in the end.
#[derive(Clone)]
struct Tee(Arc<Shared>);

/// Two locks: the writer can be taken away while somebody waits for more input.
struct Shared {
    input: Mutex<Box<dyn Read + Send>>,
    writer: Mutex<Option<BlobWriter>>,
}

impl Tee {
    fn new(input: Box<dyn Read + Send>, writer: BlobWriter) -> Self {
        Self(Arc::new(Shared { input: Mutex::new(input), writer: Mutex::new(Some(writer)) }))
    }

    /// A reader that a thread of its own keeps supplied, so that writing the blob does not wait for decompression.
    fn ahead(&self) -> pipe::Reader {
        let (mut out, reader) = pipe::pipe();
        let mut tee = self.clone();
        std::thread::spawn(move || {
            let result = io::copy(&mut tee, &mut out).map(drop);
            out.close(result);
        });
        reader
    }

    /// Reads what the other reader left and hands the writer out, the first time.
    fn finish(mut self) -> Result<Option<BlobWriter>> {
        io::copy(&mut self, &mut io::sink())
            .map_err(|source| LayerError::Stream { operation: "read layer", source })?;
        Ok(self.writer())
    }

    /// Takes the writer away, the first time. Dropping it removes what was written, whoever still reads.
    fn writer(&self) -> Option<BlobWriter> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = self.0.input.lock().unwrap_or_else(PoisonError::into_inner);
        let n = input.read(buffer)?;
        if let Some(writer) = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            writer.add(&buffer[..n])?;
        }
        Ok(n)
    }
}
