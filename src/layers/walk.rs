//! Reads a directory tree as it is: every name once, sorted, with metadata and attributes, nothing followed.
//!
//! Depth by depth, all directories of one depth in parallel, each sorted by itself: the whole comes in `LayerPath` order
//! without a global sort, and no depth of nesting exhausts the stack. Contents are not read. Knows overlayfs's whiteouts
//! and markers; what they mean for a layer is `diff`'s business.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat};

use super::error::{InTree as _, Result};
use super::xattrs::{self, Found};
use super::{OwnershipMode, TreeOptions, beneath, locked};
use crate::tar::entry::LayerPath;

/// Something found in a tree.
#[derive(Debug)]
pub(super) struct Node {
    pub path: LayerPath,
    pub what: What,
    /// Permission bits.
    pub mode: u32,
    /// Owner as the file system (seen from here) says.
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Device and inode, for names of one file; `None` if it has one name only.
    pub shared: Option<(u64, u64)>,
    pub found: Found,
    /// Where in [`Tree::nodes`] the names in it are, sorted.
    pub children: Range<usize>,
}

/// Everything below a root.
#[derive(Debug)]
pub(super) struct Tree {
    pub nodes: Vec<Node>,
    /// The names in the root.
    pub top: Range<usize>,
}

/// What a name is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    File(u64),
    Directory,
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    /// overlayfs's mark of a deleted name.
    Whiteout,
    /// Nothing a layer can hold.
    Socket,
}

/// The names in a directory, sorted.
pub(super) fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.to_vec()),
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Everything below the root of the tree at `at`.
pub(super) fn walk(at: &Path, options: TreeOptions) -> Result<Tree> {
    let root = rustix::fs::open(at, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .in_tree("open", at, &LayerPath::root())?;
    let own = || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = (options.ownership == OwnershipMode::Flattened).then(own);
    let walk = Walk { at, options, owner };
    let (mut nodes, _) = walk.directory(&root, &LayerPath::root())?;
    let top = 0..nodes.len();
    let mut depth = top.clone();
    while !depth.is_empty() {
        let here = &nodes[depth.clone()];
        let read = |node: &Node| match node.what {
            What::Directory => {
                let dir = beneath::directory(&root, &node.path).in_tree("open", at, &node.path)?;
                walk.directory(&dir, &node.path)
            }
            _ => Ok((Vec::new(), false)),
        };
        let below: Vec<(Vec<Node>, bool)> = here.par_iter().map(read).collect::<Result<_>>()?;
        let next = nodes.len();
        for (parent, (children, opaque)) in depth.zip(below) {
            nodes[parent].found.opaque |= opaque;
            nodes[parent].children = nodes.len()..nodes.len() + children.len();
            nodes.extend(children);
        }
        depth = next..nodes.len();
    }
    Ok(Tree { nodes, top })
}

struct Walk<'a> {
    at: &'a Path,
    options: TreeOptions,
    /// Who stands for root, where there is one user only.
    owner: Option<(u32, u32)>,
}

/// Fewer names than this are not worth being shared among threads.
const SPLIT: usize = 32;

impl Walk<'_> {
    /// What is in a directory, and whether one of its names says that it is opaque.
    fn directory(&self, dir: &OwnedFd, path: &LayerPath) -> Result<(Vec<Node>, bool)> {
        let mut names = names(dir).in_tree("read", self.at, path)?;
        let all = names.len();
        names.retain(|name| name != xattrs::OPAQUE_NAME.as_bytes());
        let opaque = names.len() < all;
        let nodes: Result<_> =
            names.into_par_iter().with_min_len(SPLIT).map(|name| self.node(dir, path.join(&name), &name)).collect();
        Ok((nodes?, opaque))
    }

    fn node(&self, dir: &OwnedFd, path: LayerPath, name: &[u8]) -> Result<Node> {
        if self.options.bound_by_modes {
            xattrs::unlock(dir, name);
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).in_tree("stat", self.at, &path)?;
        let what = what(dir, name, &stat).in_tree("read link", self.at, &path)?;
        let found = if matches!(what, What::Whiteout | What::Socket) {
            Found::default()
        } else {
            xattrs::read(dir, name, self.options.overlay).in_tree("read attributes of", self.at, &path)?
        };
        let mode = locked::meant(stat.st_mode & 0o7777, found.mode, what == What::Directory);
        let links = what != What::Directory && what != What::Whiteout && stat.st_nlink > 1;
        Ok(Node {
            path,
            what,
            mode,
            uid: if self.owner.is_some_and(|(uid, _)| uid == stat.st_uid) { 0 } else { stat.st_uid },
            gid: if self.owner.is_some_and(|(_, gid)| gid == stat.st_gid) { 0 } else { stat.st_gid },
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            shared: links.then_some((stat.st_dev, stat.st_ino)),
            found,
            children: 0..0,
        })
    }
}

fn what(dir: &OwnedFd, name: &[u8], stat: &Stat) -> rustix::io::Result<What> {
    let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => What::File(stat.st_size as u64),
        FileType::Directory => What::Directory,
        FileType::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes() {
            text if text == xattrs::WHITEOUT_TEXT.as_bytes() => What::Whiteout,
            text => What::Symlink(text),
        },
        FileType::CharacterDevice => match device() {
            (0, 0) => What::Whiteout,
            (major, minor) => What::CharDevice(major, minor),
        },
        FileType::BlockDevice => {
            let (major, minor) = device();
            What::BlockDevice(major, minor)
        }
        FileType::Fifo => What::Fifo,
        FileType::Socket | FileType::Unknown => What::Socket,
    })
}
