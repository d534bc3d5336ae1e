//! What COPY, ADD and WORKDIR mean: trees and words in, the entries of a layer out.
//!
//! Pure over [`Tree`]: this module opens no file, knows no context directory, no layer store and no key encoding but its own
//! digests. The order of work is [`select::select`] (what a source matches; its digest goes into keys), then [`copy::copy`] (where
//! it lands, given what the destination already has), then the caller streams [`copy::Planned`] entries into a layer. What was
//! asked of the destination comes back as [`facts::Facts`], so that a key can be made of those instead of the whole parent.
//!
//! The rules are BuildKit's as observed (`observed.md` 19-42); its faults are not followed.

pub mod archive;
mod canvas;
pub mod chmod;
pub mod copy;
pub mod error;
pub mod facts;
pub mod filter;
pub mod forest;
pub mod glob;
mod owner;
pub mod pattern;
mod resolve;
pub mod select;
pub mod users;
pub mod workdir;

use std::io::{self, Read};

use crate::tar::entry::{Entry, Kind, LayerPath};

pub use copy::{Content, Copied, Planned, copy};
pub use error::{Absence, TransferError};
pub use facts::{Fact, Facts};
pub use filter::{Filter, State, Verdict};
pub use owner::process_user;
pub use resolve::Seen;
pub use select::{Selection, Source, check, follow, select};
pub use workdir::workdir;

/// One thing in a tree. Its kind is never `Hardlink` or `Whiteout`: names of one file are files with the same `link`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where and what; `path` is the whole path in the tree.
    pub entry: Entry,
    /// What identifies a file that has, or may have, several names. Only equality within one tree means something.
    pub link: Option<Link>,
}

/// Tells which names are one file: device and inode, or layer and place in its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u64, pub u64);

impl Node {
    /// A node with one name.
    pub fn new(entry: Entry) -> Self {
        Self { entry, link: None }
    }
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.entry.is_dir()
    }
}

/// Something met on a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// What was met.
    pub node: Node,
    /// A directory that the filter does not keep itself; it is there because something below it is kept.
    pub implied: bool,
}

/// A tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct TreeError {
    /// What was being read.
    pub path: LayerPath,
    /// What happened.
    pub source: io::Error,
}

impl TreeError {
    /// Turns an I/O error about `path` into one that says so.
    pub fn at(path: &LayerPath) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self { path: path.clone(), source }
    }

    /// There is no tree at all; `reason` says it all, whatever path was looked for.
    pub fn unavailable(path: &LayerPath, reason: impl Into<String>) -> Self {
        Self { path: path.clone(), source: io::Error::other(Unavailable(reason.into())) }
    }

    fn text(&self) -> String {
        match self.source.get_ref().and_then(|inner| inner.downcast_ref::<Unavailable>()) {
            Some(Unavailable(reason)) => reason.clone(),
            None => format!("{}: {}", self.path, self.source),
        }
    }
}

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unavailable(String);

/// A root to copy from or to: a context, the merged layers of a stage, an unpacked archive.
///
/// Paths are taken as they are: no symlink is followed by any method, and what is below a symlink does not exist.
pub trait Tree: Sync {
    /// What is at `path`. The root always exists.
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError>;

    /// What is at `path`, without its content having to be known.
    fn see(&self, path: &LayerPath) -> Result<Seen, TreeError> {
        Ok(match self.lookup(path)?.map(|node| node.entry.kind) {
            None => Seen::Absent,
            Some(Kind::Directory { .. }) => Seen::Directory,
            Some(Kind::Symlink(target)) => Seen::Symlink(target),
            Some(
                Kind::File { .. }
                | Kind::Hardlink(_)
                | Kind::CharDevice(..)
                | Kind::BlockDevice(..)
                | Kind::Fifo
                | Kind::Whiteout,
            ) => Seen::Other,
        })
    }

    /// The entries of a directory that are wanted, by name; nothing if it is no directory. `want` is told the name and whether
    /// it is a directory, so that files nobody asks for need not be hashed.
    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError>;

    /// Opens the content of a regular file.
    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError>;

    /// All below `top` (without it) that the filter keeps, parents first, in the order of [`LayerPath`].
    fn walk(&self, top: &LayerPath, filter: &Filter) -> Result<Vec<Walked>, TreeError> {
        let mut out = Vec::new();
        walk_children(self, top, top, &State::default(), filter, &mut out)?;
        Ok(out)
    }

    /// Why a path is not there, if the tree knows more than that it is not.
    fn absence(&self, path: &LayerPath) -> Option<Absence> {
        let _ = path;
        None
    }
}

/// Chooses children by name and by whether they are directories.
pub type Want<'a> = dyn Fn(&[u8], bool) -> bool + Sync + 'a;

fn walk_children<T: Tree + ?Sized>(
    tree: &T,
    top: &LayerPath,
    dir: &LayerPath,
    state: &State,
    filter: &Filter,
    out: &mut Vec<Walked>,
) -> Result<(), TreeError> {
    let relative = |name: &[u8]| dir.join(name).strip(top).unwrap_or_default();
    let want = |name: &[u8], is_dir| match filter.judge(relative(name).as_bytes(), state).0 {
        Verdict::Keep => true,
        Verdict::Descend => is_dir,
        Verdict::Drop => false,
    };
    for node in tree.children(dir, &want)? {
        let path = node.entry.path.clone();
        let (verdict, below) = filter.judge(relative(path.name()).as_bytes(), state);
        let is_dir = node.is_dir();
        let at = out.len();
        out.push(Walked { node, implied: verdict != Verdict::Keep });
        if is_dir {
            walk_children(tree, top, &path, &below, filter, out)?;
        }
        if verdict != Verdict::Keep && out.len() == at + 1 {
            out.pop();
        }
    }
    Ok(())
}

/// Extended attributes that belong into an image: capabilities and the user's own, not what one machine's policy put there.
pub fn keeps_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}

/// Whether `kind` has content to be read.
pub(crate) fn is_file(kind: &Kind) -> bool {
    matches!(kind, Kind::File { .. })
}
