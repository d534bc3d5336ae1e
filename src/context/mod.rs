//! Build contexts as trees: a local directory seen through `.dockerignore`, an archive, a checked out repository.
//!
//! A local context is read in place and lazily: only what somebody asks for is walked, and only files somebody wants are
//! hashed. Everything is 0:0 in it, xattrs and sockets do not exist (observed 31, 33, X20). Hashes are kept between builds by
//! what `stat` says. A file that changes after it was hashed is not noticed here but by the layer writer, which compares.
//! Knows no COPY, no key and no layer.

mod checkout;
mod deferred;
pub mod ignore;
mod scan;
mod stat_cache;
mod tarball;

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use crate::files::{Dir, FileKind, Root, Stat};
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};
use crate::transfer::Want;
use crate::transfer::{Absence, Filter, Link, Node, Seen, State, Tree, TreeError, Verdict, Walked};

pub use checkout::CheckoutContext;
pub use deferred::{Deferred, SharedTree};
pub use ignore::{Ignore, IgnoreError};
use stat_cache::StatCache;
pub use tarball::TarContext;

/// A local directory.
pub struct Context {
    root: Root,
    ignore: Option<Ignore>,
    /// What applies when there is no ignore file.
    everything: Filter,
    hashes: StatCache,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("root", &self.root).field("ignore", &self.ignore).finish_non_exhaustive()
    }
}

impl Context {
    /// Opens `dir`, seen through `ignore`. Hashes are kept in the file `stat_cache`, one per directory; it need not exist.
    pub fn open(dir: &Path, ignore: Option<Ignore>, stat_cache: &Path) -> io::Result<Self> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        Ok(Self { root: Root::open(dir)?, ignore, everything: Filter::all(), hashes: StatCache::open(stat_cache, now) })
    }

    /// The directory without the ignore file's view, for the Dockerfile itself.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its ignore file, if it has one.
    pub fn ignore(&self) -> Option<&Ignore> {
        self.ignore.as_ref()
    }

    /// Writes the hashes that were learned. Losing them costs time only.
    pub fn save(&self) -> io::Result<()> {
        self.hashes.save()
    }

    fn ignored(&self) -> &Filter {
        self.ignore.as_ref().map_or(&self.everything, Ignore::filter)
    }

    /// What the ignore file says of `path`, and the state for what is below it.
    fn judge(&self, path: &LayerPath) -> (Verdict, State) {
        let filter = self.ignored();
        let (mut verdict, mut state) = (Verdict::Keep, State::default());
        let bytes = path.as_bytes();
        if filter.is_all() || bytes.is_empty() {
            return (verdict, state);
        }
        for end in (1..=bytes.len()).filter(|end| bytes.get(*end).is_none_or(|b| *b == b'/')) {
            (verdict, state) = filter.judge(&bytes[..end], &state);
            if verdict == Verdict::Drop {
                break;
            }
        }
        (verdict, state)
    }

    /// Opens a directory that the ignore file does not hide; `None` if there is none.
    fn dir(&self, path: &LayerPath) -> Result<Option<(Dir, State)>, TreeError> {
        let (verdict, state) = self.judge(path);
        if verdict == Verdict::Drop {
            return Ok(None);
        }
        match self.root.dir(path) {
            Ok(dir) => Ok(Some((dir, state))),
            Err(e) if crate::files::is_absence(&e) => Ok(None),
            Err(e) => Err(TreeError::at(path)(e)),
        }
    }

    /// Where something lies that the ignore file does not hide, and what it is; not for the root.
    fn find(&self, path: &LayerPath, parent: &LayerPath) -> Result<Option<(Dir, Stat)>, TreeError> {
        let Some((dir, _)) = self.dir(parent)? else { return Ok(None) };
        let (verdict, state) = self.judge(path);
        let Some(stat) = dir.stat(path.name()).map_err(TreeError::at(path))? else { return Ok(None) };
        Ok(match verdict {
            Verdict::Keep => Some((dir, stat)),
            Verdict::Descend if stat.kind == FileKind::Directory && self.has_kept(path, &state)? => Some((dir, stat)),
            Verdict::Descend | Verdict::Drop => None,
        })
    }

    /// The node for something in `dir`; `None` for what does not exist in contexts or vanished.
    fn node(&self, dir: &Dir, path: LayerPath, stat: &Stat) -> Result<Option<Node>, TreeError> {
        let name = path.name();
        let kind = match stat.kind {
            FileKind::Regular => match self.hash(dir, name, stat) {
                Ok((stat, content)) => Kind::File { size: stat.size, content },
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(TreeError::at(&path)(e)),
            },
            FileKind::Directory => Kind::Directory { opaque: false },
            FileKind::Symlink => Kind::Symlink(dir.link(name).map_err(TreeError::at(&path))?),
            FileKind::CharDevice => Kind::CharDevice(stat.device_number.0, stat.device_number.1),
            FileKind::BlockDevice => Kind::BlockDevice(stat.device_number.0, stat.device_number.1),
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => return Ok(None),
        };
        let link = (stat.links > 1 && stat.kind != FileKind::Directory).then_some(Link(stat.device, stat.inode));
        let meta = Meta { mode: stat.mode, mtime: stat.mtime.seconds, ..Meta::default() };
        Ok(Some(Node { entry: Entry { path, kind, meta }, link }))
    }
}

impl Tree for Context {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        let Some(parent) = path.parent() else {
            let stat = Stat::of(self.root.fd()).map_err(TreeError::at(path))?;
            let meta = Meta { mode: stat.mode, mtime: stat.mtime.seconds, ..Meta::default() };
            return Ok(Some(Node::new(Entry { path: path.clone(), kind: Kind::Directory { opaque: false }, meta })));
        };
        match self.find(path, &parent)? {
            Some((dir, stat)) => self.node(&dir, path.clone(), &stat),
            None => Ok(None),
        }
    }

    fn see(&self, path: &LayerPath) -> Result<Seen, TreeError> {
        let Some(parent) = path.parent() else { return Ok(Seen::Directory) };
        let Some((dir, stat)) = self.find(path, &parent)? else { return Ok(Seen::Absent) };
        Ok(match stat.kind {
            FileKind::Directory => Seen::Directory,
            FileKind::Symlink => Seen::Symlink(dir.link(path.name()).map_err(TreeError::at(path))?),
            FileKind::Regular | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo => Seen::Other,
            FileKind::Socket => Seen::Absent,
        })
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        match self.dir(dir)? {
            Some((open, state)) => self.list(&open, dir, &state, want),
            None => Ok(Vec::new()),
        }
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        Ok(Box::new(self.root.file(path).map_err(TreeError::at(path))?))
    }

    fn walk(&self, top: &LayerPath, filter: &Filter) -> Result<Vec<Walked>, TreeError> {
        match self.dir(top)? {
            Some((dir, state)) => self.scan(dir, top, &state, filter),
            None => Ok(Vec::new()),
        }
    }

    fn absence(&self, path: &LayerPath) -> Option<Absence> {
        let reason = self.ignore.as_ref()?.why(path)?;
        self.root.stat(path).ok().flatten().map(|_| reason)
    }
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
