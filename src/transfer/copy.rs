//! Where selections land: the rules of COPY and ADD for destinations, owners and modes.
//!
//! Sources are done one after the other onto a `canvas`, so that the last one wins; the result is the layer's entries in
//! order with a note where each content is. Knows no store: bytes are only read where an archive has to be looked into.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use rbuild_cache::digest::Blake3;

use super::canvas::{Canvas, Group, Leaf};
use super::chmod::Mode;
use super::error::TransferError;
use super::facts::Facts;
use super::forest::EMPTY;
use super::owner::lookup_owner;
use super::resolve::Seen;
use super::select::{Match, Selection, Source};
use super::{Link, Node, Tree, TreeError, archive, is_file, keeps_xattr};
use crate::plan::graph;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// Mode of directories that are made on the way.
pub(super) const PARENT_MODE: u32 = 0o755;

/// An entry of the layer to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The entry as it goes into the layer.
    pub entry: Entry,
    /// Where its bytes are.
    pub content: Content,
    /// A directory of the destination repeated as it is, because something below it changes. Tools that unpack layers one by
    /// one would otherwise make it up with a mode and owner of their own.
    pub kept: bool,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Not a file.
    None,
    /// In a source.
    Source {
        /// Its place among the sources.
        index: usize,
        /// The path in its tree (for other sources their name).
        path: LayerPath,
    },
    /// In the spool, from this byte on.
    Spooled(u64),
    /// In the destination (an archive's hard link to something that was there).
    Destination(LayerPath),
}

/// What a transfer comes to.
#[derive(Debug, Default)]
pub struct Copied {
    /// The layer's entries in order, parents first.
    pub entries: Vec<Planned>,
    /// What was asked of the destination.
    pub facts: Facts,
}

impl Planned {
    /// Opens the content; `None` for what has none. `spool` opens so many bytes from an offset.
    pub fn open(
        &self,
        sources: &[Source<'_>],
        destination: &dyn Tree,
        spool: &dyn Fn(u64, u64) -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<Option<Box<dyn Read + Send>>, TreeError> {
        match (&self.content, &self.entry.kind) {
            (Content::Source { index, path }, _) => sources[*index].open(path).map(Some),
            (Content::Spooled(offset), Kind::File { size, .. }) => {
                spool(*offset, *size).map(Some).map_err(TreeError::at(&self.entry.path))
            }
            (Content::Destination(path), _) => destination.read(path).map(Some),
            (Content::None | Content::Spooled(_), _) => Ok(None),
        }
    }
}

/// Puts `selections` of `sources` where `op` says.
///
/// `destination` is not looked at for `--link`, so there are no facts then. `now` is the mtime of what has none of its own: made directories and heredocs.
/// Contents of archives go to `spool` one after the other.
pub fn copy(
    op: &graph::Copy,
    sources: &[Source<'_>],
    selections: Vec<Selection>,
    destination: &dyn Tree,
    now: i64,
    spool: &mut dyn Write,
) -> Result<Copied, TransferError> {
    let mode = Mode::new(op.chmod.as_ref()).map_err(|_| match &op.chmod {
        Some(graph::Chmod::Symbolic(text)) => TransferError::Chmod(text.clone()),
        Some(graph::Chmod::Octal(_)) | None => TransferError::Chmod(String::new()),
    })?;
    let nothing = EMPTY;
    let mut canvas = Canvas::new(if op.link { &nothing } else { destination });
    let owner = match &op.chown {
        Some(text) => Some(lookup_owner(&mut canvas, text, if op.link { "a --link layer" } else { "scratch" })?),
        None => None,
    };
    let mut copier =
        Copier { canvas, owner, mode, now, destination: &op.destination, spool: archive::Spool::new(spool) };
    for (index, (source, selection)) in sources.iter().zip(selections).enumerate() {
        for found in selection.matches {
            copier.put(index, source, found)?;
        }
    }
    let (entries, facts) = copier.canvas.finish()?;
    Ok(Copied { entries, facts: if op.link { Facts::default() } else { facts } })
}

struct Copier<'a> {
    canvas: Canvas<'a>,
    owner: Option<(u32, u32)>,
    mode: Mode,
    now: i64,
    destination: &'a str,
    spool: archive::Spool<'a>,
}

impl Copier<'_> {
    fn put(&mut self, index: usize, source: &Source<'_>, found: Match) -> Result<(), TransferError> {
        if source.unpacks() && is_file(&found.top.entry.kind) {
            let path = found.top.entry.path.clone();
            let failed = |reason: String| TransferError::Archive { source_index: index, path: path.clone(), reason };
            if archive::is_archive(source.open(&path)?).map_err(TreeError::at(&path))? {
                let top = self.canvas.resolve(&LayerPath::clean(self.destination))?;
                self.canvas.make_dirs(&top, &self.made(PARENT_MODE))?;
                let input = source.open(&path)?;
                let unpacker = archive::Unpacker::new(&mut self.canvas, &top, self.owner, self.now, &mut self.spool);
                return unpacker.unpack(input).map_err(|e| e.into_transfer(failed));
            }
        }
        let target = self.target(&found)?;
        if !found.top.is_dir() {
            let mut leaf = self.leaf(index, found.top);
            if matches!(source, Source::Inline { .. }) {
                leaf.meta.mtime = self.now;
            }
            return self.put_leaf(&target, leaf);
        }
        if self.canvas.see(&target)? != Seen::Directory {
            return Err(TransferError::NonDirectory(target));
        }
        let mut groups: BTreeMap<Link, Group> = BTreeMap::new();
        for walked in found.below {
            let below = walked.node.entry.path.strip(&found.top.entry.path).unwrap_or_default();
            let path = target.append(&below);
            if walked.node.is_dir() {
                self.put_dir(&path, &walked.node, walked.implied)?;
                continue;
            }
            let link = walked.node.link;
            let mut leaf = self.leaf(index, walked.node);
            if let Some(link) = link.filter(|_| is_file(&leaf.kind)) {
                let meta = &leaf.meta;
                let canvas = &mut self.canvas;
                leaf.group = Some(*groups.entry(link).or_insert_with(|| canvas.new_group(meta.clone())));
            }
            self.put_leaf(&path, leaf)?;
        }
        Ok(())
    }

    /// The path something is copied to; makes the directories it needs.
    fn target(&mut self, found: &Match) -> Result<LayerPath, TransferError> {
        let cleaned = LayerPath::clean(self.destination);
        let names_directory = self.destination.ends_with('/') || self.destination.ends_with("/.");
        let ensured = if names_directory { cleaned.clone() } else { cleaned.parent().unwrap_or_default() };
        let parents = self.made(self.mode.of_parents());
        let ensured = self.canvas.resolve(&ensured)?;
        self.canvas.make_dirs(&ensured, &parents)?;
        let mut target = self.canvas.resolve(&cleaned)?;
        let there = self.canvas.see(&target)?;
        if found.top.is_dir() {
            if there == Seen::Absent {
                self.canvas.make_dirs(&target, &parents)?;
            }
        } else {
            if there == Seen::Directory && !found.name.is_empty() {
                target = target.join(&found.name);
            }
            self.canvas.make_dirs(&target.parent().unwrap_or_default(), &parents)?;
        }
        Ok(target)
    }

    fn put_dir(&mut self, path: &LayerPath, node: &Node, implied: bool) -> Result<(), TransferError> {
        match self.canvas.see(path)? {
            Seen::Absent => self.canvas.new_dir(path, self.meta(&node.entry), false),
            Seen::Directory if implied => self.canvas.change_dir_mode(path, node.entry.meta.mode),
            Seen::Directory => self.canvas.change_dir(path, self.meta(&node.entry)),
            Seen::Symlink(_) | Seen::Other => Err(TransferError::NonDirectory(path.clone())),
        }
    }

    fn put_leaf(&mut self, path: &LayerPath, leaf: Leaf) -> Result<(), TransferError> {
        match self.canvas.see(path)? {
            Seen::Directory => Err(TransferError::OverDirectory(path.clone())),
            Seen::Absent | Seen::Symlink(_) | Seen::Other => self.canvas.put_leaf(path, leaf),
        }
    }

    fn leaf(&self, index: usize, node: Node) -> Leaf {
        let meta = self.meta(&node.entry);
        let Entry { path, kind, .. } = node.entry;
        let content = if is_file(&kind) { Content::Source { index, path } } else { Content::None };
        Leaf { kind, meta, content, group: None }
    }

    /// The metadata something gets when copied.
    fn meta(&self, entry: &Entry) -> Meta {
        let mut meta = entry.meta.clone();
        (meta.uid, meta.gid) = self.owner.unwrap_or((meta.uid, meta.gid));
        if !matches!(entry.kind, Kind::Symlink(_)) {
            meta.mode = self.mode.apply(meta.mode, entry.is_dir());
        }
        meta.xattrs.retain(|name, _| keeps_xattr(name));
        meta
    }

    /// The metadata of a directory that is made on the way.
    fn made(&self, mode: u32) -> Meta {
        let (uid, gid) = self.owner.unwrap_or_default();
        Meta { mode, uid, gid, mtime: self.now, ..Meta::default() }
    }
}

/// The hash of a file's content, read to its end.
pub fn hash_content(mut content: impl Read) -> io::Result<(u64, Blake3)> {
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut content, &mut hasher)?;
    Ok((size, Blake3(*hasher.finalize().as_bytes())))
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
