//! The destination while things are put onto it: what it has, covered by what the layer will have.
//!
//! Only what rules ask for is looked up in the destination, one name at a time, and taken down as a fact. Below a directory
//! that is new nothing is ever looked up. Knows no source and no instruction.

use std::collections::BTreeMap;

use super::error::TransferError;
use super::facts::{Facts, Recorder};
use super::resolve::{Seen, resolve};
use super::{Content, Node, Planned, Tree};
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

pub(super) struct Canvas<'a> {
    base: Recorder<'a>,
    root: Dir,
    groups: Vec<Meta>,
}

/// A file or special file to be put down.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) kind: Kind,
    pub(super) meta: Meta,
    pub(super) content: Content,
    /// Names of one file have one group; the group's metadata counts.
    pub(super) group: Option<Group>,
}

/// Names of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group(usize);

#[derive(Debug, Default)]
struct Dir {
    /// The destination has this directory, and may have things in it that are not in `children`.
    in_base: bool,
    /// The metadata the layer gives it; `None` leaves it alone.
    meta: Option<Meta>,
    opaque: bool,
    children: BTreeMap<Vec<u8>, Slot>,
}

#[derive(Debug)]
enum Slot {
    Dir(Dir),
    Leaf(Leaf),
    /// Something in the destination that is not a directory.
    Base(Seen),
}

impl<'a> Canvas<'a> {
    pub(super) fn new(base: &'a dyn Tree) -> Self {
        let root = Dir { in_base: true, ..Dir::default() };
        Self { base: Recorder::new(base), root, groups: Vec::new() }
    }

    pub(super) fn base(&self) -> &Recorder<'a> {
        &self.base
    }

    /// What is at `path` now; nothing is found below what is no directory.
    pub(super) fn see(&mut self, path: &LayerPath) -> Result<Seen, TransferError> {
        Ok(match self.slot(path)? {
            None if path.is_root() => Seen::Directory,
            None => Seen::Absent,
            Some(Slot::Dir(_)) => Seen::Directory,
            Some(Slot::Base(seen)) => seen.clone(),
            Some(Slot::Leaf(Leaf { kind: Kind::Symlink(target), .. })) => Seen::Symlink(target.clone()),
            Some(Slot::Leaf(_)) => Seen::Other,
        })
    }

    /// Where `path` leads below `top`, taken as the root, following links at its end too.
    pub(super) fn resolve_below(&mut self, top: &LayerPath, path: &LayerPath) -> Result<LayerPath, TransferError> {
        // Mostly a real directory, which is seen in one go: deep trees would take a look at each part of each path.
        let whole = top.append(path);
        if matches!(self.slot(&whole)?, Some(Slot::Dir(_))) {
            return Ok(whole);
        }
        Ok(top.append(&resolve(path, true, |at| self.see(&top.append(at)))?))
    }

    /// Where `path` leads.
    pub(super) fn resolve(&mut self, path: &LayerPath) -> Result<LayerPath, TransferError> {
        self.resolve_below(&LayerPath::root(), path)
    }

    /// Makes `path` and all that is missing above it.
    pub(super) fn make_dirs(&mut self, path: &LayerPath, meta: &Meta) -> Result<(), TransferError> {
        if matches!(self.slot(path)?, Some(Slot::Dir(_))) {
            return Ok(());
        }
        let mut here = LayerPath::root();
        for name in path.components() {
            here = here.join(name);
            match self.see(&here)? {
                Seen::Directory => {}
                Seen::Absent => self.new_dir(&here, meta.clone(), false)?,
                Seen::Symlink(_) | Seen::Other => return Err(TransferError::NotADirectory(here)),
            }
        }
        Ok(())
    }

    /// Makes a directory where there is none; `replacing` says that what the destination has there was removed.
    pub(super) fn new_dir(&mut self, path: &LayerPath, meta: Meta, replacing: bool) -> Result<(), TransferError> {
        let opaque = replacing && self.covers_directory(path)?;
        let dir = Dir { in_base: false, meta: Some(meta), opaque, children: BTreeMap::new() };
        self.put(path, Slot::Dir(dir))
    }

    /// Changes the metadata of a directory that is there.
    pub(super) fn change_dir(&mut self, path: &LayerPath, meta: Meta) -> Result<(), TransferError> {
        if let Some(Slot::Dir(dir)) = self.slot(path)? {
            dir.meta = Some(meta);
        }
        Ok(())
    }

    /// Changes the mode of a directory that is there, nothing else.
    pub(super) fn change_dir_mode(&mut self, path: &LayerPath, mode: u32) -> Result<(), TransferError> {
        let now = match self.slot(path)? {
            Some(Slot::Dir(dir)) => dir.meta.clone(),
            _ => None,
        };
        let now = match now {
            Some(meta) => meta,
            None => self.base.directory(path)?.unwrap_or_default(),
        };
        self.change_dir(path, Meta { mode, ..now })
    }

    /// Puts something that is no directory in the place of whatever is there.
    pub(super) fn put_leaf(&mut self, path: &LayerPath, leaf: Leaf) -> Result<(), TransferError> {
        self.put(path, Slot::Leaf(leaf))
    }

    /// A new set of names with this metadata.
    pub(super) fn new_group(&mut self, meta: Meta) -> Group {
        self.groups.push(meta);
        Group(self.groups.len() - 1)
    }

    /// The file at `path`, made part of a group whose metadata becomes `meta`; `None` if there is none or it is a directory.
    pub(super) fn link_to(&mut self, path: &LayerPath, meta: &Meta) -> Result<Option<Leaf>, TransferError> {
        let in_base = match self.slot(path)? {
            Some(Slot::Leaf(_)) => false,
            Some(Slot::Base(_)) => true,
            Some(Slot::Dir(_)) | None => return Ok(None),
        };
        if in_base {
            let Some(Node { entry, .. }) = self.base.file(path)? else { return Ok(None) };
            let content = if super::is_file(&entry.kind) { Content::Destination(path.clone()) } else { Content::None };
            self.put_leaf(path, Leaf { kind: entry.kind, meta: entry.meta, content, group: None })?;
        }
        let fresh = Group(self.groups.len());
        let Some(Slot::Leaf(leaf)) = self.slot(path)? else { return Ok(None) };
        if matches!(leaf.kind, Kind::Symlink(_)) {
            // Nobody can tell one symlink with two names from two.
            return Ok(Some(leaf.clone()));
        }
        let group = *leaf.group.get_or_insert(fresh);
        let leaf = leaf.clone();
        if group == fresh {
            self.groups.push(leaf.meta.clone());
        }
        let shared = &mut self.groups[group.0];
        let mut xattrs = std::mem::take(&mut shared.xattrs);
        xattrs.extend(meta.xattrs.clone());
        *shared = Meta { xattrs, ..meta.clone() };
        Ok(Some(leaf))
    }

    /// The entries of the layer in order, and what was learned about the destination.
    pub(super) fn finish(self) -> Result<(Vec<Planned>, Facts), TransferError> {
        let mut emit = Emit { base: &self.base, groups: &self.groups, first: BTreeMap::new(), out: Vec::new() };
        emit.children(&LayerPath::root(), self.root)?;
        let out = emit.out;
        Ok((out, self.base.into_facts()))
    }

    fn covers_directory(&mut self, path: &LayerPath) -> Result<bool, TransferError> {
        let Some(parent) = path.parent() else { return Ok(false) };
        let in_base = parent.is_root() || matches!(self.slot(&parent)?, Some(Slot::Dir(Dir { in_base: true, .. })));
        Ok(in_base && self.base.see(path)? == Seen::Directory)
    }

    fn put(&mut self, path: &LayerPath, slot: Slot) -> Result<(), TransferError> {
        let parent = path.parent().unwrap_or_default();
        let children = if parent.is_root() {
            &mut self.root.children
        } else {
            match self.slot(&parent)? {
                Some(Slot::Dir(dir)) => &mut dir.children,
                _ => return Err(TransferError::NotADirectory(parent)),
            }
        };
        children.insert(path.name().to_vec(), slot);
        Ok(())
    }

    /// The slot at `path`, filled from the destination if need be; `None` for the root and for what is not there.
    fn slot(&mut self, path: &LayerPath) -> Result<Option<&mut Slot>, TransferError> {
        let bytes = path.as_bytes();
        let mut dir = &mut self.root;
        let mut start = 0;
        loop {
            let end = bytes[start..].iter().position(|b| *b == b'/').map_or(bytes.len(), |n| start + n);
            let name = &bytes[start..end];
            if dir.in_base && !name.is_empty() && !dir.children.contains_key(name) {
                let slot = match self.base.see(&LayerPath::clean(&bytes[..end]))? {
                    Seen::Absent => return Ok(None),
                    Seen::Directory => Slot::Dir(Dir { in_base: true, ..Dir::default() }),
                    other @ (Seen::Symlink(_) | Seen::Other) => Slot::Base(other),
                };
                dir.children.insert(name.to_vec(), slot);
            }
            match dir.children.get_mut(name) {
                slot if end == bytes.len() => return Ok(slot),
                Some(Slot::Dir(below)) => dir = below,
                Some(Slot::Leaf(_) | Slot::Base(_)) | None => return Ok(None),
            }
            start = end + 1;
        }
    }
}

struct Emit<'a> {
    base: &'a Recorder<'a>,
    groups: &'a [Meta],
    first: BTreeMap<Group, LayerPath>,
    out: Vec<Planned>,
}

impl Emit<'_> {
    fn children(&mut self, path: &LayerPath, dir: Dir) -> Result<(), TransferError> {
        for (name, slot) in dir.children {
            let path = path.join(&name);
            match slot {
                Slot::Base(_) => {}
                Slot::Leaf(leaf) => self.leaf(path, leaf),
                Slot::Dir(dir) => self.dir(path, dir)?,
            }
        }
        Ok(())
    }

    fn leaf(&mut self, path: LayerPath, leaf: Leaf) {
        let Leaf { mut kind, mut meta, mut content, group } = leaf;
        if let Some(group) = group {
            meta = self.groups[group.0].clone();
            match self.first.get(&group) {
                Some(first) => {
                    (kind, meta, content) = (Kind::Hardlink(first.clone()), Meta::default(), Content::None);
                }
                None => {
                    self.first.insert(group, path.clone());
                }
            }
        }
        self.out.push(Planned { entry: Entry { path, kind, meta }, content, kept: false });
    }

    fn dir(&mut self, path: LayerPath, mut dir: Dir) -> Result<(), TransferError> {
        let at = self.out.len();
        let kept = dir.meta.is_none();
        let entry = Entry {
            path: path.clone(),
            kind: Kind::Directory { opaque: dir.opaque },
            meta: dir.meta.take().unwrap_or_default(),
        };
        self.out.push(Planned { entry, content: Content::None, kept });
        self.children(&path, dir)?;
        if kept {
            if self.out.len() == at + 1 {
                self.out.pop();
            } else {
                self.out[at].entry.meta = self.base.directory(&path)?.unwrap_or_default();
            }
        }
        Ok(())
    }
}
