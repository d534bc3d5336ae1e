//! What the sources of a COPY or ADD match, before anybody asks where it goes.
//!
//! A selection's digest is what a key needs of a source: names below the match, types, modes, owners, link targets, xattrs and
//! contents, but no mtimes and nothing of the path above the match (S10-S14). The directory that is named itself does not
//! count, since only what is in it is copied. Knows nothing of destinations.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Cursor, Read};

use rbuild_cache::digest::{Blake3, KeyHasher};

use super::error::{Absence, TransferError};
use super::facts::hash_meta;
use super::filter::Filter;
use super::glob;
use super::pattern::Patterns;
use super::resolve::{Seen, resolve};
use super::{Link, Node, Tree, TreeError, Walked, is_file};
use crate::plan::graph;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// Version of [`Selection::digest`].
const SELECTION_VERSION: u32 = 1;
/// Mode of a file that stands in the Dockerfile.
const INLINE_MODE: u32 = 0o644;
/// Mode of a downloaded file (D145).
const DOWNLOAD_MODE: u32 = 0o600;
/// Most names suggested for a missing path.
const MAX_SUGGESTIONS: usize = 3;

/// One source with the tree or bytes it is taken from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A path, maybe with wildcards, below a tree.
    Path {
        /// The tree.
        tree: &'a dyn Tree,
        /// The path as expanded.
        path: &'a str,
        /// Whether files that are archives are unpacked.
        unpack: bool,
        /// What the tree is called in messages.
        label: &'a str,
    },
    /// A heredoc.
    Inline {
        /// File name.
        name: &'a str,
        /// Content.
        content: &'a [u8],
    },
    /// A downloaded file.
    Download {
        /// File name.
        name: &'a str,
        /// Bytes.
        size: u64,
        /// Hash of the content.
        content: Blake3,
        /// `Last-Modified` in seconds since 1970, 0 if there was none.
        mtime: i64,
        /// Whether it is unpacked if it is an archive.
        unpack: bool,
        /// Opens it.
        open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync),
    },
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, label, .. } => write!(f, "{label}:{path}"),
            Self::Inline { name, .. } => write!(f, "<<{name}"),
            Self::Download { name, content, .. } => write!(f, "download {name} {content}"),
        }
    }
}

impl Source<'_> {
    /// Opens the content of a file of this source; `path` only counts for trees.
    pub fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match self {
            Self::Path { tree, .. } => tree.read(path),
            Self::Inline { content, .. } => Ok(Box::new(Cursor::new(content.to_vec()))),
            Self::Download { open, .. } => open().map_err(TreeError::at(path)),
        }
    }

    /// Whether files of this source that are archives are unpacked.
    pub fn unpacks(&self) -> bool {
        match self {
            Self::Path { unpack, .. } | Self::Download { unpack, .. } => *unpack,
            Self::Inline { .. } => false,
        }
    }
}

/// All that one source matches.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The matches in order; empty for a wildcard that matches nothing.
    pub matches: Vec<Match>,
    /// What it means for a key.
    pub digest: Blake3,
}

impl Selection {
    /// Bytes of all files in it.
    pub fn size(&self) -> u64 {
        let nodes = self.matches.iter().flat_map(|m| std::iter::once(&m.top).chain(m.below.iter().map(|w| &w.node)));
        nodes.map(|node| if let Kind::File { size, .. } = node.entry.kind { size } else { 0 }).sum()
    }
}

/// One thing a source matches.
#[derive(Clone, Debug)]
pub struct Match {
    /// The last part of the path as matched (of a link, not of what it leads to); empty for the root.
    pub name: Vec<u8>,
    /// What it is, links followed.
    pub top: Node,
    /// What is below it.
    pub below: Vec<Walked>,
}

/// Finds what the source at `source_index` of `op` matches.
pub fn select(op: &graph::Copy, source_index: usize, source: &Source<'_>) -> Result<Selection, TransferError> {
    let matches = match *source {
        Source::Path { tree, path, label, .. } => {
            let exclude = Patterns::from_flags(&op.exclude)?;
            let finder = Finder { tree, label, source_index };
            if op.parents { finder.parents(path, exclude)? } else { finder.plain(path, exclude)? }
        }
        Source::Inline { name, content } => {
            vec![single(name, content.len() as u64, Blake3::of(content), INLINE_MODE, 0)]
        }
        Source::Download { name, size, content, mtime, .. } => vec![single(name, size, content, DOWNLOAD_MODE, mtime)],
    };
    let digest = digest(&matches);
    Ok(Selection { matches, digest })
}

/// Refuses a path that [`select()`] would refuse for what can be seen at once: reads no content, and no directory for what is in
/// it. Never refuses what `select` takes.
pub fn check(op: &graph::Copy, source_index: usize, source: &Source<'_>) -> Result<(), TransferError> {
    match *source {
        Source::Path { tree, path, label, .. } => {
            Patterns::from_flags(&op.exclude)?;
            Finder { tree, label, source_index }.check(path, op.parents)
        }
        Source::Inline { .. } | Source::Download { .. } => Ok(()),
    }
}

/// What a path of a tree leads to, links followed; `None` if it is not there.
pub fn follow(tree: &dyn Tree, path: &LayerPath) -> Result<Option<Node>, TransferError> {
    match (Finder { tree, label: "", source_index: 0 }).follow(path) {
        Ok(node) => Ok(Some(node)),
        Err(TransferError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn single(name: &str, size: u64, content: Blake3, mode: u32, mtime: i64) -> Match {
    let path = LayerPath::clean(name);
    let meta = Meta { mode, mtime, ..Meta::default() };
    let top = Node::new(Entry { path, kind: Kind::File { size, content }, meta });
    Match { name: name.as_bytes().to_vec(), top, below: Vec::new() }
}

struct Finder<'a> {
    tree: &'a dyn Tree,
    label: &'a str,
    source_index: usize,
}

impl Finder<'_> {
    fn plain(&self, path: &str, exclude: Patterns) -> Result<Vec<Match>, TransferError> {
        let filter = Filter::excluding(exclude);
        self.tops(path)?.into_iter().map(|(name, top)| self.with_content(name, top, &filter)).collect()
    }

    fn parents(&self, path: &str, exclude: Patterns) -> Result<Vec<Match>, TransferError> {
        let (pivot, pattern) = path.split_once("/./").unwrap_or(("/", path));
        let cleaned = LayerPath::clean(pattern);
        let include = if cleaned.is_root() { None } else { Some(Patterns::new([(1, cleaned.as_bytes())])?) };
        let filter = Filter { include, exclude };
        let tops = self.tops(pivot)?;
        let matches: Vec<_> =
            tops.into_iter().map(|(name, top)| self.with_content(name, top, &filter)).collect::<Result<_, _>>()?;
        let required = !glob::has_wildcards(path.as_bytes()) && !cleaned.is_root();
        let found = |m: &Match| {
            m.below.iter().any(|w| {
                w.node.entry.path.strip(&m.top.entry.path).is_some_and(|below| below.strip(&cleaned).is_some())
            })
        };
        if required && !matches.iter().any(found) {
            return Err(self.not_found(LayerPath::clean(pivot).append(&cleaned)));
        }
        Ok(matches)
    }

    fn with_content(&self, name: Vec<u8>, top: Node, filter: &Filter) -> Result<Match, TransferError> {
        let below = if top.is_dir() { self.tree.walk(&top.entry.path, filter)? } else { Vec::new() };
        Ok(Match { name, top, below })
    }

    /// What a path names, links followed, with the name it goes by.
    fn tops(&self, path: &str) -> Result<Vec<(Vec<u8>, Node)>, TransferError> {
        let cleaned = LayerPath::clean(path);
        if !glob::has_wildcards(cleaned.as_bytes()) {
            return Ok(vec![(cleaned.name().to_vec(), self.follow(&cleaned)?)]);
        }
        let (dir, wild) = self.before_wildcard(path, &cleaned)?;
        let mut found = Vec::new();
        self.expand(&dir, &wild, &mut found)?;
        found
            .into_iter()
            .map(|node| {
                let name = node.entry.path.name().to_vec();
                let top = match node.entry.kind {
                    Kind::Symlink(_) => self.follow(&node.entry.path)?,
                    _ => node,
                };
                Ok((name, top))
            })
            .collect()
    }

    /// The directory before the first part with a wildcard, and the parts from there on.
    fn before_wildcard<'p>(
        &self,
        path: &str,
        cleaned: &'p LayerPath,
    ) -> Result<(LayerPath, Vec<&'p [u8]>), TransferError> {
        glob::check(cleaned.as_bytes()).map_err(TransferError::wildcard(self.source_index, path))?;
        let mut parts: Vec<_> = cleaned.components().collect();
        let first = parts.iter().position(|part| glob::has_wildcards(part)).unwrap_or(parts.len());
        let wild = parts.split_off(first);
        let fixed = parts.iter().fold(LayerPath::root(), |at, part| at.join(part));
        let dir = self.resolve(&fixed)?;
        match self.tree.see(&dir)? {
            Seen::Absent => {
                let absence = self.absence(&fixed).unwrap_or_default();
                Err(TransferError::NoDirectory { source_index: self.source_index, path: dir, absence })
            }
            Seen::Directory | Seen::Symlink(_) | Seen::Other => Ok((dir, wild)),
        }
    }

    /// What [`Self::plain`] and [`Self::parents`] refuse at first sight.
    fn check(&self, path: &str, parents: bool) -> Result<(), TransferError> {
        let (pivot, pattern) = if parents { path.split_once("/./").unwrap_or(("/", path)) } else { (path, "") };
        let (top, below) = (LayerPath::clean(pivot), LayerPath::clean(pattern));
        if glob::has_wildcards(top.as_bytes()) {
            return self.before_wildcard(pivot, &top).map(drop);
        }
        let top = self.locate(&top)?;
        // No link is followed below a pivot.
        let required = !below.is_root() && !glob::has_wildcards(path.as_bytes());
        if required && self.tree.see(&top.append(&below))? == Seen::Absent {
            return Err(self.not_found(LayerPath::clean(pivot).append(&below)));
        }
        Ok(())
    }

    /// All below `dir` that the pattern's parts lead to. Links on the way are not followed.
    fn expand(&self, dir: &LayerPath, parts: &[&[u8]], found: &mut Vec<Node>) -> Result<(), TransferError> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        let want =
            |name: &[u8], is_dir: bool| (rest.is_empty() || is_dir) && glob::matches(part, name).unwrap_or(false);
        for node in self.tree.children(dir, &want)? {
            if rest.is_empty() {
                found.push(node);
            } else {
                self.expand(&node.entry.path, rest, found)?;
            }
        }
        Ok(())
    }

    fn follow(&self, path: &LayerPath) -> Result<Node, TransferError> {
        let real = self.resolve(path)?;
        self.tree.lookup(&real)?.ok_or_else(|| self.not_found(path.clone()))
    }

    fn resolve(&self, path: &LayerPath) -> Result<LayerPath, TransferError> {
        resolve(path, true, |at| Ok(self.tree.see(at)?))
    }

    /// Where `path` leads, if there is something.
    fn locate(&self, path: &LayerPath) -> Result<LayerPath, TransferError> {
        let real = self.resolve(path)?;
        match self.tree.see(&real)? {
            Seen::Absent => Err(self.not_found(path.clone())),
            Seen::Directory | Seen::Symlink(_) | Seen::Other => Ok(real),
        }
    }

    fn not_found(&self, path: LayerPath) -> TransferError {
        let absence = self.absence(&path).unwrap_or_default();
        TransferError::NotFound { source_index: self.source_index, label: self.label.to_owned(), path, absence }
    }

    /// Finds out why a path is not there. Faults on the way do not matter: there is one to be reported already.
    fn absence(&self, path: &LayerPath) -> Option<Absence> {
        if let Some(known) = self.tree.absence(path) {
            return Some(known);
        }
        let target = self.resolve(path).ok()?;
        if target != *path {
            return Some(self.tree.absence(&target).unwrap_or(Absence::Dangling { target }));
        }
        let mut dir = LayerPath::root();
        let mut parts = path.components();
        let missing = loop {
            let name = parts.next()?;
            let next = dir.join(name);
            match self.tree.see(&next).ok()? {
                Seen::Directory => dir = next,
                Seen::Absent => break name,
                Seen::Other | Seen::Symlink(_) => return Some(Absence::NotADirectory(next)),
            }
        };
        let names = std::sync::Mutex::new(Vec::new());
        let note = |name: &[u8], _| {
            names.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(name.to_vec());
            false
        };
        self.tree.children(&dir, &note).ok()?;
        let mut names = names.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        names.sort();
        if let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(missing)) {
            return Some(Absence::Case(dir.join(name)));
        }
        let mut near: Vec<_> = names
            .into_iter()
            .map(|name| (edit_distance(&name, missing), name))
            .filter(|(distance, name)| *distance <= 1.max(missing.len().min(name.len()) / 3))
            .collect();
        near.sort();
        near.truncate(MAX_SUGGESTIONS);
        let near: Vec<_> = near.into_iter().map(|(_, name)| dir.join(&name)).collect();
        (!near.is_empty()).then_some(Absence::Similar(near))
    }
}

/// How many letters must be replaced, inserted, left out or swapped with their neighbour to make `b` of `a`.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(x != y);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

fn digest(matches: &[Match]) -> Blake3 {
    let mut hasher = KeyHasher::new("selection", SELECTION_VERSION);
    hasher.number(matches.len() as u64);
    for m in matches {
        let prefix = match m.top.entry.path.as_bytes().len() {
            0 => 0,
            n => n + 1,
        };
        if m.top.is_dir() {
            hasher.number(1);
        } else {
            hasher.number(0).field(&m.name);
            hash_node(&mut hasher, &m.top, None);
        }
        let mut names: BTreeMap<Link, usize> = BTreeMap::new();
        hasher.number(m.below.len() as u64);
        for (i, Walked { node, implied }) in m.below.iter().enumerate() {
            let link = node.link.filter(|_| is_file(&node.entry.kind));
            let first = link.map_or(i, |link| *names.entry(link).or_insert(i));
            let earlier = (first != i).then_some(first);
            hasher.field(&node.entry.path.as_bytes()[prefix..]).number(u64::from(*implied));
            hash_node(&mut hasher, node, earlier);
        }
    }
    hasher.finish()
}

fn hash_node(hasher: &mut KeyHasher, node: &Node, same_as: Option<usize>) {
    match &node.entry.kind {
        Kind::File { size, content } => hasher.number(0).number(*size).field(&content.0),
        Kind::Directory { .. } => hasher.number(1),
        Kind::Symlink(target) => hasher.number(2).field(target),
        Kind::Hardlink(target) => hasher.number(3).field(target.as_bytes()),
        Kind::CharDevice(major, minor) => hasher.number(4).number((*major).into()).number((*minor).into()),
        Kind::BlockDevice(major, minor) => hasher.number(5).number((*major).into()).number((*minor).into()),
        Kind::Fifo => hasher.number(6),
        Kind::Whiteout => hasher.number(7),
    };
    hash_meta(hasher, &node.entry.meta).number(same_as.map_or(0, |i| i as u64 + 1));
}
