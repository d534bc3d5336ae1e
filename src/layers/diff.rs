//! What a step changed: the upper directory of an overlay, or a directory changed in place, against the stack below.
//!
//! overlayfs copies a file up when it is merely opened for writing, and every directory above it. An entry is unchanged,
//! and left out, if everything the index says of it is equal *and its content is*; size and time alone prove nothing. A
//! directory is left out only with all its content. Of whiteouts all are hard links of one inode, so they are told apart
//! before links are looked for. Contents of files that stay are not read here (`stream` does, once); nothing below is
//! unpacked, the stack is seen by its indexes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::iter::Peekable;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use rbuild_cache::digest::{Blake3, LayerId};
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::error::{InTree as _, Result};
use super::fold::IMPLIED_MODE;
use super::stream::Content;
use super::view::{Found, Level, View};
use super::walk::{self, Node, Tree, What};
use super::{OwnershipMode, TreeOptions, beneath, xattrs};
use crate::cancel::Cancel;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// What an upper directory holds beyond the stack.
#[derive(Debug)]
pub(super) struct Difference {
    /// In order; the contents of files are still to be hashed.
    pub entries: Vec<Entry>,
    /// What is in the directory but no part of the layer, in order.
    surplus: Vec<LayerPath>,
    /// Directories marked opaque that hide nothing.
    not_opaque: Vec<LayerPath>,
    /// Modification times of all directories, to be restored when something in them is removed.
    times: BTreeMap<LayerPath, (i64, i64)>,
}

/// Compares the overlay upper directory `at` with the stack in `view`.
pub(super) fn upper(at: &Path, options: TreeOptions, view: &View, cancel: &Cancel) -> Result<Difference> {
    let tree = walk::walk(at, options)?;
    cancel.check()?;
    let mut differ = Differ::new(options);
    differ.upper(view, &tree);
    differ.settle(at, cancel)
}

/// Compares the directory `at`, which began as a copy of the stack in `view` and was changed in place.
pub(super) fn directory(at: &Path, options: TreeOptions, view: &View, cancel: &Cancel) -> Result<Vec<Entry>> {
    let tree = walk::walk(at, options)?;
    cancel.check()?;
    let mut differ = Differ::new(options);
    differ.whole(view, &tree);
    differ.settle(at, cancel).map(|difference| difference.entries)
}

/// All entries of the tree `at` as they are, contents to be hashed; directories that are in `implied` are no entries.
pub(super) fn everything(at: &Path, options: TreeOptions, implied: &BTreeSet<LayerPath>) -> Result<Vec<Entry>> {
    let tree = walk::walk(at, options)?;
    let mut differ = Differ::new(options);
    differ.all(&tree);
    let entries = differ.candidates.into_iter().map(|c| c.entry);
    Ok(entries.filter(|e| !implied.contains(&e.path)).collect())
}

/// The content of each entry's file below `at`, opened when needed.
pub(super) fn contents(
    at: &Path,
    entries: Vec<Entry>,
) -> Result<impl Iterator<Item = Result<(Entry, Content)>> + use<>> {
    let root = Arc::new(open_root(at)?);
    let at: Arc<Path> = at.into();
    Ok(entries.into_iter().map(move |entry| {
        let content = match &entry.kind {
            Kind::File { .. } => {
                let (root, at, path) = (Arc::clone(&root), Arc::clone(&at), entry.path.clone());
                Content::Open(Box::new(move || open_file(&root, &at, &path).map(Content::File)))
            }
            _ => Content::None,
        };
        Ok((entry, content))
    }))
}

/// The same entries with the contents of files hashed.
pub(super) fn hashed(at: &Path, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    let root = open_root(at)?;
    let fill = |mut entry: Entry| {
        if let Kind::File { content, .. } = &mut entry.kind {
            *content = hash(&root, at, &entry.path).in_tree("read", at, &entry.path)?;
        }
        Ok(entry)
    };
    entries.into_par_iter().map(fill).collect()
}

fn open_root(at: &Path) -> Result<OwnedFd> {
    rustix::fs::open(at, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).in_tree(
        "open",
        at,
        &LayerPath::root(),
    )
}

/// Opens a regular file of a tree for reading.
pub(super) fn open_file(root: &OwnedFd, at: &Path, path: &LayerPath) -> io::Result<fs_err::File> {
    // Should there be a pipe in its place, opening must not wait for a writer.
    let fd = beneath::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    Ok(fs_err::File::from_parts(fd.into(), at.join(path.as_path())))
}

/// An entry that may turn out to be unchanged.
struct Candidate {
    entry: Entry,
    parent: Option<usize>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Changed or new.
    Changed,
    /// A directory like the one below; stays if something in it does.
    SameDirectory,
    /// Equal but for the content, which must hash to this.
    SameIf(Blake3),
    /// Equal in everything.
    Same,
}

/// The names of one file.
struct Links {
    /// Candidates, in order.
    names: Vec<usize>,
    /// What the first name is in the stack.
    below: Option<(LayerId, LayerPath)>,
    /// All names are names of that.
    together: bool,
}

/// A directory on the way down.
struct Frame<T> {
    left: Range<usize>,
    parent: Option<usize>,
    lower: T,
}

/// What a directory that was changed in place looked like.
struct Before {
    level: Level,
    entries: BTreeMap<Vec<u8>, Found>,
    deleted: Peekable<std::vec::IntoIter<LayerPath>>,
}

struct Differ {
    options: TreeOptions,
    candidates: Vec<Candidate>,
    links: BTreeMap<(u64, u64), Links>,
    surplus: Vec<LayerPath>,
    not_opaque: Vec<LayerPath>,
    times: BTreeMap<LayerPath, (i64, i64)>,
}

impl Differ {
    fn new(options: TreeOptions) -> Self {
        Self {
            options,
            candidates: Vec::new(),
            links: BTreeMap::new(),
            surplus: Vec::new(),
            not_opaque: Vec::new(),
            times: BTreeMap::new(),
        }
    }

    /// Names of an upper directory. `lower` of a frame is what the stack has there, if anything can be seen of it.
    fn upper(&mut self, view: &View, tree: &Tree) {
        let mut frames = vec![Frame { left: tree.top.clone(), parent: None, lower: Some(view.root()) }];
        while let Some(frame) = frames.last_mut() {
            let Some(node) = frame.left.next().map(|at| &tree.nodes[at]) else {
                frames.pop();
                continue;
            };
            let step = frame.lower.as_ref().map(|level| view.step(level, &node.path));
            let (found, below) = step.map_or((None, Level::default()), |step| (step.found, step.below));
            let parent = frame.parent;
            match &node.what {
                What::Whiteout if found.is_some() => self.whiteout(node.path.clone(), parent),
                What::Whiteout | What::Socket => self.surplus.push(node.path.clone()),
                What::Directory => {
                    let over_directory = found.as_ref().is_some_and(|found| found.entry.is_dir());
                    let opaque = node.found.opaque && over_directory;
                    if node.found.opaque && !opaque {
                        self.not_opaque.push(node.path.clone());
                    }
                    let at = self.node(node, Kind::Directory { opaque }, parent, found.as_ref());
                    let visible = over_directory && !opaque;
                    frames.push(Frame {
                        left: node.children.clone(),
                        parent: Some(at),
                        lower: visible.then_some(below),
                    });
                }
                _ => self.leaf(node, parent, found.as_ref()),
            }
        }
    }

    /// Names of a directory that was changed in place: what is missing was deleted.
    fn whole(&mut self, view: &View, tree: &Tree) {
        let before = self.before(view, tree, &LayerPath::root(), &tree.top, view.root());
        let mut frames = vec![Frame { left: tree.top.clone(), parent: None, lower: before }];
        while let Some(frame) = frames.last_mut() {
            let node = frame.left.next().map(|at| &tree.nodes[at]);
            while let Some(path) = frame.lower.deleted.next_if(|path| node.is_none_or(|node| *path <= node.path)) {
                self.whiteout(path, frame.parent);
            }
            let Some(node) = node else {
                frames.pop();
                continue;
            };
            let found = frame.lower.entries.get(node.path.name());
            match &node.what {
                What::Whiteout | What::Socket => {}
                What::Directory => {
                    let at = self.node(node, Kind::Directory { opaque: false }, frame.parent, found);
                    let level = view.step(&frame.lower.level, &node.path).below;
                    let before = self.before(view, tree, &node.path, &node.children, level);
                    frames.push(Frame { left: node.children.clone(), parent: Some(at), lower: before });
                }
                _ => self.leaf(node, frame.parent, found),
            }
        }
    }

    fn before(&self, view: &View, tree: &Tree, path: &LayerPath, nodes: &Range<usize>, level: Level) -> Before {
        let entries: BTreeMap<_, _> = view.children_at(path, &level).into_iter().collect();
        let there = |node: &&Node| !matches!(node.what, What::Whiteout | What::Socket);
        let here: BTreeSet<&[u8]> = tree.nodes[nodes.clone()].iter().filter(there).map(|n| n.path.name()).collect();
        let missing = |(name, found): &(&Vec<u8>, &Found)| {
            // Devices that could not be made were never there.
            let device = matches!(found.entry.kind, Kind::CharDevice(..) | Kind::BlockDevice(..));
            !(here.contains(name.as_slice()) || (device && self.options.rootless()))
        };
        let deleted: Vec<_> = entries.iter().filter(missing).map(|(name, _)| path.join(name)).collect();
        Before { level, entries, deleted: deleted.into_iter().peekable() }
    }

    /// Every name as an entry.
    fn all(&mut self, tree: &Tree) {
        let mut frames = vec![tree.top.clone()];
        while let Some(left) = frames.last_mut() {
            let Some(node) = left.next().map(|at| &tree.nodes[at]) else {
                frames.pop();
                continue;
            };
            match &node.what {
                What::Whiteout => self.whiteout(node.path.clone(), None),
                What::Socket => {}
                What::Directory => {
                    self.node(node, Kind::Directory { opaque: node.found.opaque }, None, None);
                    frames.push(node.children.clone());
                }
                _ => self.leaf(node, None, None),
            }
        }
    }

    fn whiteout(&mut self, path: LayerPath, parent: Option<usize>) {
        let entry = Entry { path, kind: Kind::Whiteout, meta: Meta::default() };
        self.candidates.push(Candidate { entry, parent, state: State::Changed });
    }

    /// Anything but a directory.
    fn leaf(&mut self, node: &Node, parent: Option<usize>, lower: Option<&Found>) {
        let below = lower.map(|found| (found.layer, found.origin.clone()));
        if let Some(links) = node.shared.and_then(|inode| self.links.get_mut(&inode)) {
            links.together &= links.below == below;
            links.names.push(self.candidates.len());
            let kind = Kind::Hardlink(self.candidates[links.names[0]].entry.path.clone());
            let entry = Entry { path: node.path.clone(), kind, meta: Meta::default() };
            self.candidates.push(Candidate { entry, parent, state: State::Changed });
            return;
        }
        let kind = match &node.what {
            What::File(size) => Kind::File { size: *size, content: Blake3([0; 32]) },
            What::Symlink(to) => Kind::Symlink(to.clone()),
            What::CharDevice(major, minor) => Kind::CharDevice(*major, *minor),
            What::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
            What::Fifo => Kind::Fifo,
            What::Directory | What::Whiteout | What::Socket => return,
        };
        let at = self.node(node, kind, parent, lower);
        if let Some(inode) = node.shared {
            self.links.insert(inode, Links { names: vec![at], below, together: true });
        }
    }

    fn node(&mut self, node: &Node, kind: Kind, parent: Option<usize>, lower: Option<&Found>) -> usize {
        let lower = lower.map(|found| &found.entry);
        let entry = Entry { path: node.path.clone(), kind, meta: self.meta(node, lower) };
        let state = match lower {
            Some(lower) if same_meta(&entry, lower) => compare(&entry.kind, &lower.kind),
            _ => State::Changed,
        };
        if entry.is_dir() {
            self.times.insert(node.path.clone(), node.mtime);
        }
        self.candidates.push(Candidate { entry, parent, state });
        self.candidates.len() - 1
    }

    fn meta(&self, node: &Node, lower: Option<&Entry>) -> Meta {
        let mut owner = (node.uid, node.gid);
        if self.options.rootless() && owner == (0, 0) {
            // What could not be given away: said by an attribute, or for links (which have none) by the layer below.
            let below = lower.filter(|lower| {
                self.options.ownership == OwnershipMode::Flattened
                    && matches!((&node.what, &lower.kind), (What::Symlink(a), Kind::Symlink(b)) if a == b)
            });
            owner = node.found.owner.or(below.map(|lower| (lower.meta.uid, lower.meta.gid))).unwrap_or(owner);
        }
        Meta { mode: node.mode, uid: owner.0, gid: owner.1, mtime: node.mtime.0, xattrs: node.found.xattrs.clone() }
    }

    /// Looks into the files that may be unchanged and decides what stays.
    fn settle(self, at: &Path, cancel: &Cancel) -> Result<Difference> {
        let root = open_root(at)?;
        let states = self.candidates.par_iter().map(|candidate| {
            let State::SameIf(wanted) = candidate.state else { return Ok(candidate.state) };
            cancel.check()?;
            let path = &candidate.entry.path;
            let actual = hash(&root, at, path).in_tree("read", at, path)?;
            Ok(if actual == wanted { State::Same } else { State::Changed })
        });
        let mut states: Vec<State> = states.collect::<Result<_>>()?;
        // All names of a file stay, or none.
        for links in self.links.values() {
            let state = if links.together { states[links.names[0]] } else { State::Changed };
            links.names.iter().for_each(|name| states[*name] = state);
        }
        let mut stays: Vec<bool> = states.iter().map(|state| *state == State::Changed).collect();
        for at in (0..stays.len()).rev() {
            if let Some(parent) = self.candidates[at].parent.filter(|_| stays[at]) {
                stays[parent] = true;
            }
        }
        let mut surplus = self.surplus;
        let mut entries = Vec::new();
        for (candidate, stays) in self.candidates.into_iter().zip(stays) {
            if stays {
                entries.push(candidate.entry);
            } else {
                surplus.push(candidate.entry.path);
            }
        }
        surplus.sort_unstable();
        Ok(Difference { entries, surplus, not_opaque: self.not_opaque, times: self.times })
    }
}

/// Everything but content. The mode of a symbolic link says nothing, and the time of a directory only that something in it came
/// or went: if that is no change any more, the directory has none either. BuildKit's differ has it so, too.
fn same_meta(a: &Entry, b: &Entry) -> bool {
    let link = matches!(a.kind, Kind::Symlink(_));
    let Meta { mode, uid, gid, mtime, xattrs } = &a.meta;
    (link || *mode == b.meta.mode)
        && (a.is_dir() || *mtime == b.meta.mtime)
        && (*uid, *gid) == (b.meta.uid, b.meta.gid)
        && *xattrs == b.meta.xattrs
}

fn compare(upper: &Kind, lower: &Kind) -> State {
    match (upper, lower) {
        (Kind::File { size: a, .. }, Kind::File { size: b, content }) if a == b => State::SameIf(*content),
        (Kind::Directory { opaque: false }, Kind::Directory { .. }) => State::SameDirectory,
        (
            Kind::Symlink(_) | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo,
            Kind::Symlink(_) | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo,
        ) if upper == lower => State::Same,
        _ => State::Changed,
    }
}

fn hash(root: &OwnedFd, at: &Path, path: &LayerPath) -> io::Result<Blake3> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(open_file(root, at, path)?)?;
    Ok(Blake3(*hasher.finalize().as_bytes()))
}

impl Difference {
    /// Makes the upper directory hold exactly the entries, so that it can be the layer's tree.
    pub(super) fn clean(&self, at: &Path, options: TreeOptions) -> Result<()> {
        let root = open_root(at)?;
        let mut touched = BTreeSet::new();
        for path in self.surplus.iter().rev() {
            let parent = path.parent().unwrap_or_default();
            let dir = beneath::directory(&root, &parent).in_tree("open", at, &parent)?;
            super::disk::remove_at(&dir, path.name()).in_tree("remove", at, path)?;
            touched.remove(path);
            touched.insert(parent);
        }
        for path in &self.not_opaque {
            match beneath::directory(&root, path) {
                // Gone with what was above it.
                Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(e).in_tree("open", at, path),
                Ok(dir) => xattrs::set_opaque(&dir, b"", options.overlay, false).in_tree("clean", at, path)?,
            }
        }
        for path in touched.iter().filter(|path| !path.is_root()) {
            let Some((seconds, nanoseconds)) = self.times.get(path).copied() else { continue };
            let dir = beneath::directory(&root, path).in_tree("open", at, path)?;
            set_time(&dir, seconds, nanoseconds).in_tree("set time of", at, path)?;
        }
        self.plain_root(&root, options).in_tree("set metadata of", at, &LayerPath::root())
    }

    /// A layer says nothing about the root: it looks the same in every tree.
    #[expect(clippy::unused_self, reason = "part of cleaning a difference")]
    fn plain_root(&self, root: &OwnedFd, options: TreeOptions) -> io::Result<()> {
        if options.ownership == OwnershipMode::Exact {
            rustix::fs::fchown(root, Some(Uid::ROOT), Some(Gid::ROOT))?;
        }
        rustix::fs::fchmod(root, Mode::from_raw_mode(IMPLIED_MODE))?;
        set_time(root, 0, 0)
    }
}

fn set_time(dir: &OwnedFd, seconds: i64, nanoseconds: i64) -> io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Ok(rustix::fs::futimens(dir, &Timestamps { last_access: omit, last_modification: time })?)
}
