//! Unpacked layers: directories by LayerId, one set per uid map.
//!
//! ```text
//! trees-v1-<map>/ab/<62 hex>/fs/       the layer's root, with its own mode, owner and times
//! trees-v1-<map>/ab/<62 hex>/stamp     envelope without payload: who completed it, when; mtime: last use
//! trees-v1-<map>/ab/<62 hex>/size      decimal bytes on disk; written with the tree, or when usage was first asked
//! ```
//! The wrapper exists so that marks of use never change the layer's own root directory. What a tree must contain is known to its
//! index, which the store does not read: after a power loss an unconfirmed tree is not given out until the caller has verified it.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::digest::LayerId;
use crate::error::{At as _, Result};
use crate::object::{Object, SIZE, STAMP};
use crate::store::Store;
use crate::temp::write_new;

pub(crate) const ROOT: &str = "fs";

impl Store {
    /// The root directory of an unpacked layer, marked as used; `None` when there is none that can be believed.
    pub fn tree(&self, id: &LayerId) -> Result<Option<PathBuf>> {
        let object = self.tree_object(id);
        let path = self.inner.root.join(object.path());
        match self.inner.stamp_of(&path)? {
            Some((_, true)) => Ok(self.inner.mark(&object)?.then(|| path.join(ROOT))),
            Some((_, false)) | None => Ok(None),
        }
    }

    /// The root directory of a tree that is there but was not confirmed before the power went: compare it with its index, then call
    /// `confirm_tree` or `remove_tree`.
    pub fn unverified_tree(&self, id: &LayerId) -> Result<Option<PathBuf>> {
        let object = self.tree_object(id);
        let path = self.inner.root.join(object.path());
        if matches!(self.inner.stamp_of(&path)?, Some((_, true))) {
            return Ok(None);
        }
        let root = path.join(ROOT);
        match rustix::fs::lstat(&root) {
            Ok(_) => Ok(Some(root)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e).at("stat", &root),
        }
    }

    /// Says that a tree was verified; false when it is gone.
    pub fn confirm_tree(&self, id: &LayerId) -> Result<bool> {
        self.inner.restamp(&self.tree_object(id), &id.to_string())
    }

    /// Removes a tree, in use or not; false when there was none.
    pub fn remove_tree(&self, id: &LayerId) -> Result<bool> {
        let path = self.inner.root.join(self.tree_object(id).path());
        let there = rustix::fs::lstat(&path).is_ok();
        self.inner.evict_path(&path).map(|()| there)
    }

    /// Makes `from`, a directory below one of our temp directories, the tree of a layer, and returns its new root. When the tree
    /// is there already, `from` is dropped and the old one returned.
    pub fn publish_tree(&self, id: &LayerId, from: &Path) -> Result<PathBuf> {
        self.publish(id, from, None)
    }

    /// Like [`Store::publish_tree`] when the bytes on disk are known, which saves usage from walking the tree once.
    pub fn publish_tree_sized(&self, id: &LayerId, from: &Path, bytes: u64) -> Result<PathBuf> {
        self.publish(id, from, Some(bytes))
    }

    fn publish(&self, id: &LayerId, from: &Path, bytes: Option<u64>) -> Result<PathBuf> {
        let object = self.tree_object(id);
        let wrapper = self.temp_dir("tree")?;
        // Before it counts: what does not fit below the ceiling goes with the temporary directory.
        let _room = self.reserve(bytes.unwrap_or(0))?;
        let root = wrapper.path().join(ROOT);
        move_directory(from, &root).at("move", from)?;
        if let Some(bytes) = bytes {
            let size = wrapper.path().join(SIZE);
            write_new(&size, bytes.to_string().as_bytes()).at("write", &size)?;
        }
        let stamp = wrapper.path().join(STAMP);
        write_new(&stamp, &self.inner.sealed_stamp(&id.to_string())).at("write", &stamp)?;
        if self.inner.publish(&object, wrapper.path())? {
            match bytes {
                Some(bytes) => self.inner.ledger.wrote(bytes),
                None => self.inner.ledger.wrote_uncounted(),
            }
        }
        Ok(self.inner.root.join(object.path()).join(ROOT))
    }

    fn tree_object(&self, id: &LayerId) -> Object {
        Object::Tree { map: self.inner.options.trees.clone(), id: *id }
    }
}

/// Renames a directory to another parent. Without privileges that needs write permission on the directory itself, which the
/// root of a layer (often 0555) may lack.
fn move_directory(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match rustix::fs::rename(from, to) {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    let mode = Mode::from_raw_mode(rustix::fs::lstat(from)?.st_mode);
    rustix::fs::chmod(from, mode | Mode::WUSR | Mode::XUSR)?;
    let moved = rustix::fs::rename(from, to);
    rustix::fs::chmod(if moved.is_ok() { to } else { from }, mode)?;
    moved
}
