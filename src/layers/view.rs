//! A stack of layers seen as one file system, by their indexes alone: nothing is unpacked to answer a question.
//!
//! The rules are overlayfs's: the topmost layer that says something about a name wins; a whiteout, an opaque directory or
//! anything that is no directory hides what is below it. Hard links appear as the files they name. Looking something up
//! never follows a symbolic link; [`View::resolve`] does, inside the root.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;

use rbuild_cache::digest::LayerId;

use super::error::Result;
use super::fold::IMPLIED_MODE;
use super::index::{self, Index};
use super::{Layers, Loaded};
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// Most symbolic links followed while resolving one path; Linux follows 40, Go's resolvers 255.
const MAX_LINKS: usize = 255;

/// A stack of layers, from the bottom to the top.
#[derive(Clone, Debug)]
pub struct View {
    layers: Layers,
    stack: Vec<(LayerId, Loaded)>,
}

/// Something visible in a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The entry as seen: hard links are resolved to what they name, its path is the one asked for.
    pub entry: Entry,
    /// The layer that has it.
    pub layer: LayerId,
    /// The path in that layer that carries the content: another than `entry.path` for hard links.
    pub origin: LayerPath,
}

/// Where a path leads when links are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The path without links in its parents (nor at its end, if that was to be followed).
    pub path: LayerPath,
    /// What is there.
    pub found: Option<Found>,
}

/// A chain of symbolic links does not end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many symbolic links in {0}")]
pub struct TooManyLinks(pub LayerPath);

/// What the layers have below one visible directory: the part of each index, from the top, without what is hidden.
#[derive(Clone, Debug, Default)]
pub(super) struct Level(Vec<(usize, Range<usize>)>);

/// One name of a level.
#[derive(Debug)]
pub(super) struct Step {
    /// What is visible there.
    pub found: Option<Found>,
    /// What is below it, if that is a directory.
    pub below: Level,
}

impl View {
    /// A view of `stack`, whose layers must be known to `layers`.
    pub fn new(layers: &Layers, stack: &[LayerId]) -> Result<Self> {
        let stack = stack.iter().map(|id| Ok((*id, layers.loaded(id)?))).collect::<Result<_>>()?;
        Ok(Self { layers: layers.clone(), stack })
    }

    /// What is at `path`; `None` below anything that is no directory. The root is always there.
    pub fn lookup(&self, path: &LayerPath) -> Option<Found> {
        self.descend(path).found
    }

    /// What is right below the directory `path`, sorted by name; nothing if it is no directory.
    pub fn children(&self, path: &LayerPath) -> Vec<(Vec<u8>, Found)> {
        self.children_at(path, &self.descend(path).below)
    }

    /// What is below the root.
    pub(super) fn root(&self) -> Level {
        let below = |index: &Index| {
            usize::from(index.entries().first().is_some_and(|e| e.path.is_root()))..index.entries().len()
        };
        Level(self.stack.iter().enumerate().rev().map(|(at, (_, loaded))| (at, below(&loaded.index))).collect())
    }

    /// Goes to a name right below the directory that `level` is of; `path` is its whole path.
    pub(super) fn step(&self, level: &Level, path: &LayerPath) -> Step {
        let (mut found, mut implied, mut below) = (None, None, Level::default());
        for (at, range) in &level.0 {
            let (id, loaded) = &self.stack[*at];
            let entries = &loaded.index.entries()[range.clone()];
            let first = entries.partition_point(|e| e.path < *path);
            let here = entries.get(first).filter(|e| e.path == *path);
            let first = first + usize::from(here.is_some());
            let count = entries[first..].partition_point(|e| e.path.is_within(path));
            let inside = (*at, range.start + first..range.start + first + count);
            match here {
                Some(entry) if entry.is_dir() => {
                    found = found.or_else(|| Some(visible(*id, loaded, entry, path)));
                    below.0.push(inside);
                    if entry.kind == (Kind::Directory { opaque: true }) {
                        break;
                    }
                }
                Some(entry) => {
                    // Hides what is below it, unless an upper layer hides it.
                    if found.is_none() && implied.is_none() && entry.kind != Kind::Whiteout {
                        found = Some(visible(*id, loaded, entry, path));
                    }
                    break;
                }
                None if count > 0 => {
                    if entries[first..first + count].iter().any(|e| e.kind != Kind::Whiteout) {
                        implied = implied.or(Some(*id));
                    }
                    below.0.push(inside);
                }
                None => {}
            }
        }
        // A directory that exists only through what is in it.
        let found = found
            .or_else(|| implied.map(|layer| Found { entry: implied_directory(path), layer, origin: path.clone() }));
        if !found.as_ref().is_some_and(|f| f.entry.is_dir()) {
            below = Level::default();
        }
        Step { found, below }
    }

    /// What is right below the directory `path` that `level` is of.
    pub(super) fn children_at(&self, path: &LayerPath, level: &Level) -> Vec<(Vec<u8>, Found)> {
        let mut names = BTreeSet::new();
        for (at, range) in &level.0 {
            let entries = &self.stack[*at].1.index.entries()[range.clone()];
            names.extend(index::children(entries, path).map(|child| child.name));
        }
        let step = |name: &[u8]| Some((name.to_vec(), self.step(level, &path.join(name)).found?));
        names.into_iter().filter_map(step).collect()
    }

    /// Goes to `path` from the root at once, however deep it is.
    fn descend(&self, path: &LayerPath) -> Step {
        let mut level = self.root();
        if path.is_root() {
            return Step { found: Some(self.found_root()), below: level };
        }
        // Layers under one that hides what is above it do not count.
        if let Some(last) = level.0.iter().position(|(at, _)| self.stack[*at].1.index.hides_from_above(path)) {
            level.0.truncate(last + 1);
        }
        self.step(&level, path)
    }

    fn found_root(&self) -> Found {
        let root = LayerPath::root();
        let listed = self.stack.iter().rev().find_map(|(id, loaded)| {
            let first = loaded.index.entries().first().filter(|e| e.path.is_root())?;
            Some(visible(*id, loaded, first, &root))
        });
        listed.unwrap_or_else(|| Found {
            entry: implied_directory(&root),
            layer: self.stack.last().map_or_else(|| Index::default().layer_id(), |(id, _)| *id),
            origin: root,
        })
    }

    /// The content of a file.
    pub fn open(&self, found: &Found) -> Result<Box<dyn Read + Send>> {
        self.layers.open(&found.layer, &found.origin)
    }

    /// Follows symbolic links in the parents of `path`, and at its end if `follow_last`. Absolute targets and `..` stay inside
    /// the root; a path below something that is missing or no directory stays as it is.
    pub fn resolve(&self, path: &LayerPath, follow_last: bool) -> Result<Resolved, TooManyLinks> {
        let mut left: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        left.reverse();
        let mut at = LayerPath::root();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                at = at.parent().unwrap_or_default();
                continue;
            }
            let next = at.join(&name);
            let last = left.is_empty();
            match self.lookup(&next) {
                Some(Found { entry: Entry { kind: Kind::Symlink(to), .. }, .. }) if follow_last || !last => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(TooManyLinks(path.clone()));
                    }
                    if to.first() == Some(&b'/') {
                        at = LayerPath::root();
                    }
                    let parts = to.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
                    let parts: Vec<_> = parts.map(<[u8]>::to_vec).collect();
                    left.extend(parts.into_iter().rev());
                }
                _ => at = next,
            }
        }
        let found = self.lookup(&at);
        Ok(Resolved { path: at, found })
    }
}

/// An entry as it is seen at `path`.
fn visible(layer: LayerId, loaded: &Loaded, entry: &Entry, path: &LayerPath) -> Found {
    let origin = loaded.index.file_of(entry);
    Found { entry: Entry { path: path.clone(), ..origin.clone() }, layer, origin: origin.path.clone() }
}

fn implied_directory(path: &LayerPath) -> Entry {
    let meta = Meta { mode: IMPLIED_MODE, ..Meta::default() };
    Entry { path: path.clone(), kind: Kind::Directory { opaque: false }, meta }
}
