//! The forms of a layer that is in the store: made when asked for, verified before they are given out.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;
use rbuild_cache::digest::{Blake3, BlobDigest, DiffId, LayerId};
use rustix::fs::{Mode, OFlags};

use super::disk::TreeWriter;
use super::error::{InTree as _, LayerError, Result};
use super::fold::implied_directories;
use super::index::Index;
use super::make::{Hash, plain, verify};
use super::stream::{self, Hashes};
use super::view::View;
use super::{Layers, Loaded, Origin, OwnershipMode, Record, TreeOptions, diff, unpack};
use crate::tar::entry::{Entry, Kind, LayerPath};
use crate::tar::{pipe, writer};

impl Layers {
    /// Whether the layer's content is in the store: for a built layer everything can be made from it, for a foreign one at
    /// least its tree is there or can be made. Of a tree alone the entries must be known.
    pub fn has_form(&self, record: &Record) -> Result<bool> {
        if self.store.blob(&BlobDigest(record.diff_id.0))?.is_some()
            || (self.believed_tree(&record.id)?.is_some() && self.has_index(&record.id)?)
        {
            return Ok(true);
        }
        match &record.origin {
            Origin::Built { .. } => Ok(false),
            Origin::Foreign { digest, .. } => Ok(self.store.blob(digest)?.is_some()),
        }
    }

    /// The layer as a directory for overlayfs; unpacked if need be.
    pub fn tree(&self, id: &LayerId) -> Result<PathBuf> {
        if let Some(tree) = self.store.tree(id)? {
            return Ok(tree);
        }
        let _lock = self.lock(id)?;
        if let Some(tree) = self.believed_tree(id)? {
            return Ok(tree);
        }
        let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
        let blob = self.open_plain(&record)?.ok_or(LayerError::Missing(*id))?;
        let new = self.new_tree()?;
        let unpacked = unpack::unpack(blob, Some((new.at(), self.options, self.store.room())), &self.cancel)?;
        verify(Some(record.diff_id), unpacked.diff_id)?;
        Ok(self.store.publish_tree_sized(id, new.at(), unpacked.bytes)?)
    }

    /// The directories to mount for `stack`, from the bottom to the top: empty layers and repetitions left out (overlayfs
    /// refuses a directory that is given twice, and only the topmost can be seen), and a last small tree added if some layer
    /// has files in a directory without listing it, whose metadata would otherwise be lost.
    pub fn lowers(&self, stack: &[LayerId]) -> Result<Vec<PathBuf>> {
        let mut seen = BTreeSet::new();
        let mut trees = Vec::new();
        for id in stack.iter().rev() {
            if seen.insert(*id) && !self.index(id)?.entries().is_empty() {
                trees.push(self.tree(id)?);
            }
        }
        trees.reverse();
        if let Some(patch) = self.patch(stack)? {
            // A layer of nothing but these directories looks the same.
            trees.retain(|tree| *tree != patch);
            trees.push(patch);
        }
        Ok(trees)
    }

    /// A tree of directories that look otherwise in the view than in the topmost tree that has them.
    fn patch(&self, stack: &[LayerId]) -> Result<Option<PathBuf>> {
        let view = View::new(self, stack)?;
        let mut wanted = BTreeSet::new();
        for (at, id) in stack.iter().enumerate() {
            let above = stack[at + 1..].iter().map(|id| self.index(id)).collect::<Result<Vec<_>>>()?;
            for path in implied_directories(&*self.index(id)?) {
                let overridden = above.iter().any(|index| index.get(&path).is_some());
                let plain = |e: &Entry| e.meta.mode == super::fold::IMPLIED_MODE && (e.meta.uid, e.meta.gid) == (0, 0);
                let differs = |e: &Entry| e.is_dir() && !(plain(e) && e.meta.xattrs.is_empty());
                if !overridden && view.lookup(&path).is_some_and(|found| differs(&found.entry)) {
                    wanted.extend(std::iter::successors(Some(path), LayerPath::parent).filter(|p| !p.is_root()));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let as_seen = |path: &LayerPath| {
            let entry = view.lookup(path)?.entry;
            Some(Entry { kind: Kind::Directory { opaque: false }, ..entry })
        };
        let index = Index::new(wanted.iter().filter_map(as_seen).collect())?;
        let id = index.layer_id();
        if let Some(tree) = self.store.tree(&id)? {
            return Ok(Some(tree));
        }
        let new = self.new_tree()?;
        let mut writer = TreeWriter::new(new.at(), self.options, self.store.room())?;
        for entry in index.entries() {
            writer.directory(&entry.path, true, false, Some(&entry.meta))?;
        }
        writer.finish()?;
        Ok(Some(self.store.publish_tree_sized(&id, new.at(), 0)?))
    }

    /// The uncompressed tar: the original bytes of a foreign layer, the canonical ones of a built layer. A stream from a tree
    /// is verified while it is read: its last read fails if the tree is not what it was.
    pub fn tar(&self, id: &LayerId) -> Result<Box<dyn Read + Send>> {
        let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
        if let Some(blob) = self.open_plain(&record)? {
            return Ok(blob);
        }
        let Origin::Built { .. } = record.origin else { return Err(LayerError::Missing(*id)) };
        let tree = self.believed_tree(id)?.ok_or(LayerError::Missing(*id))?;
        let contents = diff::contents(&tree, self.index(id)?.entries().to_vec())?;
        let (out, reader) = pipe::pipe();
        let (cancel, store) = (self.cancel.clone(), self.store.clone());
        std::thread::spawn(move || {
            let mut sink = Verified { out, hash: Hash::default() };
            let result = stream::stream(contents, Hashes::Verify, &cancel, &mut sink).map(|_| ());
            let Verified { out, hash } = sink;
            let result = result.and_then(|()| verify(Some(record.diff_id), DiffId(hash.finish())));
            let damaged = |path| {
                // If it cannot be removed, whoever reads it next will find the same.
                let _still_there = store.remove_tree(&record.id);
                LayerError::DamagedTree(record.id, path)
            };
            out.close(result.map_err(|error| {
                io::Error::other(match error {
                    LayerError::ContextChanged(path) => damaged(path),
                    LayerError::DiffIdMismatch { .. } => damaged(LayerPath::root()),
                    other => other,
                })
            }));
        });
        Ok(Box::new(reader))
    }

    /// The content of one file of a layer. `path` must carry it itself, not as a hard link. Whoever reads it to its end has an
    /// error there if it is not what the index says; the damaged form is gone then.
    pub(super) fn open(&self, id: &LayerId, path: &LayerPath) -> Result<Box<dyn Read + Send>> {
        let loaded = self.loaded(id)?;
        let (content, form) = self.open_in(id, &loaded, path)?;
        let Some(Kind::File { content: expected, .. }) = loaded.index.get(path).map(|entry| &entry.kind) else {
            return Ok(content);
        };
        let (layers, id, path) = (self.clone(), *id, path.clone());
        let damaged = move || layers.drop_damaged(&id, &form, &path);
        Ok(Box::new(Checked {
            content,
            hash: blake3::Hasher::new(),
            expected: *expected,
            damaged: Some(Box::new(damaged)),
        }))
    }

    /// Removes a form that has other bytes than the layer, so that the next build makes it anew.
    fn drop_damaged(&self, id: &LayerId, form: &Open, path: &LayerPath) -> LayerError {
        let removed = match form {
            Open::Tree(..) => self.store.remove_tree(id).map_err(LayerError::from),
            Open::Blob(_) => self.record(id).and_then(|record| match record {
                Some(record) => Ok(self.store.remove_blob(&BlobDigest(record.diff_id.0))?),
                None => Ok(false),
            }),
        };
        removed.map_or_else(|error| error, |_| LayerError::DamagedTree(*id, path.clone()))
    }

    fn open_in(&self, id: &LayerId, loaded: &Loaded, path: &LayerPath) -> Result<(Box<dyn Read + Send>, Open)> {
        let cached = loaded.form.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(form) = cached
            && let Ok(content) = form.content(loaded, path)
        {
            return Ok((content, form));
        }
        // Nothing is open yet, or it was removed under us: say what there is now.
        let form = self.open_form(id)?;
        let content = match (form.content(loaded, path), &form) {
            (Ok(content), _) => content,
            // Its next user makes it anew.
            (Err(LayerError::Io { source, .. }), Open::Tree(..)) if source.kind() == io::ErrorKind::NotFound => {
                self.store.remove_tree(id)?;
                return Err(LayerError::DamagedTree(*id, path.clone()));
            }
            (Err(error), _) => return Err(error),
        };
        *loaded.form.lock().unwrap_or_else(PoisonError::into_inner) = Some(form.clone());
        Ok((content, form))
    }

    fn open_form(&self, id: &LayerId) -> Result<Open> {
        let mut tree = self.store.tree(id)?;
        if tree.is_none() {
            let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
            if let Origin::Built { .. } = record.origin
                && let Some(blob) = self.store.open_blob(&BlobDigest(record.diff_id.0))?
            {
                return Ok(Open::Blob(Arc::new(blob)));
            }
            tree = Some(self.tree(id)?);
        }
        let tree = tree.ok_or(LayerError::Missing(*id))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&tree, flags, Mode::empty()).in_tree("open", &tree, &LayerPath::root())?;
        Ok(Open::Tree(Arc::new(root), tree.into()))
    }

    /// Whether the entries of a layer can be read. If not, its tree is worth nothing and goes.
    pub fn is_readable(&self, id: &LayerId) -> Result<bool> {
        match self.index(id) {
            Ok(_) => Ok(true),
            Err(LayerError::Missing(_)) => {
                self.store.remove_tree(id)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the index from the layer's bytes, if they are here.
    pub(super) fn remake_index(&self, id: &LayerId) -> Result<Index> {
        let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
        let blob = self.open_plain(&record)?.ok_or(LayerError::Missing(*id))?;
        let unpacked = unpack::unpack(blob, None, &self.cancel)?;
        verify(Some(record.diff_id), unpacked.diff_id)?;
        self.store.put(rbuild_cache::Kind::Index, &id.to_string(), &unpacked.index.encode())?;
        Ok(unpacked.index)
    }

    /// The uncompressed tar from a blob; `None` if there is none.
    fn open_plain(&self, record: &Record) -> Result<Option<Box<dyn Read + Send>>> {
        if let Some(blob) = self.store.open_blob(&BlobDigest(record.diff_id.0))? {
            return Ok(Some(Box::new(blob)));
        }
        let Origin::Foreign { digest, .. } = &record.origin else { return Ok(None) };
        let Some(blob) = self.store.open_blob(digest)? else { return Ok(None) };
        plain(Box::new(blob)).map(|(plain, _)| Some(plain))
    }

    /// The tree, compared with its index if the power went before it was safe; a damaged one is removed.
    fn believed_tree(&self, id: &LayerId) -> Result<Option<PathBuf>> {
        if let Some(tree) = self.store.tree(id)? {
            return Ok(Some(tree));
        }
        let Some(tree) = self.store.unverified_tree(id)? else { return Ok(None) };
        let index = self.index(id).ok();
        if index.is_some_and(|index| matches_index(&tree, self.options, &index).unwrap_or(false)) {
            self.store.confirm_tree(id)?;
            return Ok(self.store.tree(id)?);
        }
        self.store.remove_tree(id)?;
        Ok(None)
    }
}

impl Loaded {
    /// Where each entry's content begins in the canonical tar.
    fn offsets(&self) -> Result<&[u64]> {
        if let Some(offsets) = self.offsets.get() {
            return Ok(offsets);
        }
        let (mut at, mut offsets, mut header) = (0, Vec::with_capacity(self.index.entries().len()), Vec::new());
        for entry in self.index.entries() {
            header.clear();
            writer::encode(entry, Some(self.index.file_of(entry)), &mut header)?;
            at += header.len() as u64;
            offsets.push(at);
            if let Kind::File { size, .. } = entry.kind {
                at += size.next_multiple_of(crate::tar::BLOCK as u64);
            }
        }
        Ok(self.offsets.get_or_init(|| offsets))
    }
}

/// An open form of a layer, to read contents from.
#[derive(Clone, Debug)]
pub(super) enum Open {
    Tree(Arc<OwnedFd>, Arc<Path>),
    /// A canonical tar.
    Blob(Arc<fs_err::File>),
}

impl Open {
    fn content(&self, loaded: &Loaded, path: &LayerPath) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Tree(root, at) => {
                let file = diff::open_file(root, at, path).in_tree("open", at, path)?;
                let expected = loaded.index.get(path).map(|entry| &loaded.index.file_of(entry).kind);
                if let Some(Kind::File { size, .. }) = expected
                    && file.metadata().in_tree("open", at, path)?.len() != *size
                {
                    let source = io::Error::new(io::ErrorKind::NotFound, "has another size");
                    return Err(LayerError::Io {
                        operation: "open",
                        root: at.to_path_buf(),
                        path: path.clone(),
                        source,
                    });
                }
                Ok(Box::new(file))
            }
            Self::Blob(file) => {
                let entry = loaded.index.position(path).map(|at| (at, &loaded.index.entries()[at].kind));
                let Some((at, Kind::File { size, .. })) = entry else {
                    let source = io::Error::from(io::ErrorKind::NotFound);
                    return Err(LayerError::Content { path: path.clone(), source });
                };
                Ok(Box::new(Part { file: Arc::clone(file), at: loaded.offsets()?[at], left: *size }))
            }
        }
    }
}

/// Fails at the end of a content that is not what it should be.
struct Checked {
    content: Box<dyn Read + Send>,
    hash: blake3::Hasher,
    expected: Blake3,
    /// Makes the error, once.
    damaged: Option<Box<dyn FnOnce() -> LayerError + Send>>,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read(buffer)?;
        self.hash.update(&buffer[..n]);
        if n == 0
            && !buffer.is_empty()
            && Blake3(*self.hash.finalize().as_bytes()) != self.expected
            && let Some(damaged) = self.damaged.take()
        {
            return Err(io::Error::other(damaged()));
        }
        Ok(n)
    }
}

/// A part of a file that others read too.
struct Part {
    file: Arc<fs_err::File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = self.left.min(buffer.len() as u64) as usize;
        let n = self.file.file().read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Whether a tree is what its index says, contents included.
pub(super) fn matches_index(tree: &Path, options: TreeOptions, index: &Index) -> Result<bool> {
    let found = diff::everything(tree, options, &implied_directories(index))?;
    let found = Index::new(diff::hashed(tree, found)?)?;
    let missing_device = |entry: &Entry| {
        let device = matches!(index.file_of(entry).kind, Kind::CharDevice(..) | Kind::BlockDevice(..));
        device && options.rootless() && found.get(&entry.path).is_none()
    };
    let wanted: Vec<_> = index.entries().iter().filter(|e| !e.path.is_root() && !missing_device(e)).collect();
    let same = |(a, b): (&&Entry, &Entry)| {
        // Some owners cannot be kept where we are; the index has them.
        let mut meta = b.meta.clone();
        if options.rootless() && options.ownership == OwnershipMode::Flattened && !a.is_dir() {
            (meta.uid, meta.gid) = (a.meta.uid, a.meta.gid);
        }
        if matches!(a.kind, Kind::Symlink(_)) {
            meta.mode = a.meta.mode;
        }
        a.path == b.path && a.kind == b.kind && a.meta == meta
    };
    Ok(wanted.len() == found.entries().len() && wanted.par_iter().zip(found.entries()).all(same))
}

/// Passes bytes on and hashes them.
struct Verified {
    out: pipe::Writer,
    hash: Hash,
}

impl Write for Verified {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.write_all(bytes)?;
        self.out.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
