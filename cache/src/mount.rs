//! Cache mounts: mutable directories by key, kept between builds.
//!
//! ```text
//! cache-mounts-v1/ab/<62 hex>/data/     what RUN --mount=type=cache sees
//! cache-mounts-v1/ab/<62 hex>/stamp     envelope; its name is the label shown to users; mtime: last use
//! cache-mounts-v1/ab/<62 hex>/size      decimal bytes on disk, believed while it is younger than the last use
//! ```
//! The only objects whose content changes after they appear; nothing is promised of it after a power loss. What `sharing=` means
//! is the caller's business: whoever uses a mount holds `LockKind::CacheMount` on the key's 32 bytes, shared or exclusive, and
//! that is what removal and GC respect.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::Mode;

use crate::digest::Blake3;
use crate::directory::{last_used, list_names, read};
use crate::error::{At as _, Result, StoreError};
use crate::lease::{self, Moment};
use crate::lock::LockKind;
use crate::object::{MOUNTS, Object, SIZE, STAMP};
use crate::store::Store;
use crate::temp::write_new;
use crate::usage;

pub(crate) const DATA: &str = "data";

/// A cache mount as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// What it is found by.
    pub key: Blake3,
    /// What its maker called it.
    pub label: String,
    /// The directory.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// When a build last asked for it.
    pub last_used: SystemTime,
}

impl Store {
    /// The directory of a cache mount, made empty (mode 0755) when it is new, and marked as used.
    pub fn cache_mount(&self, key: &Blake3, label: &str) -> Result<PathBuf> {
        self.cache_mount_with(key, label, |_| Ok(()))
    }

    /// Like [`Store::cache_mount`]; `fill` gives a new one its owner, mode and content before anyone can see it.
    pub fn cache_mount_with(
        &self,
        key: &Blake3,
        label: &str,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<PathBuf> {
        let object = Object::CacheMount(*key);
        let path = self.inner.root.join(object.path());
        self.inner.ledger.wrote_uncounted();
        if self.inner.mark(&object)? {
            return Ok(path.join(DATA));
        }
        let wrapper = self.temp_dir("mount")?;
        let data = wrapper.path().join(DATA);
        rustix::fs::mkdir(&data, Mode::from_raw_mode(0o755)).at("make", &data)?;
        rustix::fs::chmod(&data, Mode::from_raw_mode(0o755)).at("set the mode of", &data)?;
        fill(&data).at("fill", &data)?;
        let stamp = wrapper.path().join(STAMP);
        write_new(&stamp, &self.inner.sealed_stamp(label)).at("write", &stamp)?;
        self.inner.publish(&object, wrapper.path())?;
        Ok(path.join(DATA))
    }

    /// The directory of a cache mount if there is one; not marked as used.
    pub fn existing_cache_mount(&self, key: &Blake3) -> Option<PathBuf> {
        let path = self.inner.root.join(Object::CacheMount(*key).path()).join(DATA);
        path.is_dir().then_some(path)
    }

    /// All cache mounts by key, with sizes: walks them.
    pub fn cache_mounts(&self) -> Result<Vec<CacheMount>> {
        let mut mounts = Vec::new();
        let oldest = lease::oldest(&self.inner.root)?;
        let directory = self.inner.root.join(MOUNTS);
        for prefix in list_names(&directory)? {
            for rest in list_names(&directory.join(&prefix))? {
                let path = directory.join(&prefix).join(&rest);
                let Ok(key) = format!("{prefix}{rest}").parse() else { continue };
                let Some(used) = last_used(&path.join(STAMP)).at("stat", &path)? else { continue };
                let label = self.inner.stamp_of(&path)?.map(|(opened, _)| opened.name).unwrap_or_default();
                let bytes = self.mount_bytes(&path, used, oldest)?;
                let path = path.join(DATA);
                mounts.push(CacheMount { key, label, path, bytes, last_used: used.system() });
            }
        }
        mounts.sort_unstable_by_key(|m| m.key);
        Ok(mounts)
    }

    /// The size of a cache mount in its wrapper `path`, last used at `used`: as it was written down after its last use, or by
    /// walking it. Only written down when no live process can be using it: the oldest began at `oldest`.
    pub(crate) fn mount_bytes(&self, path: &Path, used: Moment, oldest: Option<Moment>) -> Result<u64> {
        let size = path.join(SIZE);
        let idle = oldest.is_none_or(|oldest| used < oldest);
        if idle && last_used(&size).at("stat", &size)?.is_some_and(|written| written > used) {
            let known = read(&size)?.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok());
            if let Some(known) = known {
                return Ok(known);
            }
        }
        let bytes = usage::bytes_below(&path.join(DATA));
        if idle {
            self.inner.write_size(&size, bytes);
        }
        Ok(bytes)
    }

    /// Removes a cache mount; false when there was none. Fails with `Busy` while somebody holds its lock.
    pub fn remove_cache_mount(&self, key: &Blake3) -> Result<bool> {
        let Some(_lock) = self.try_lock(LockKind::CacheMount, &key.0)? else {
            return Err(StoreError::Busy { key: *key, holder: self.lock_holder(LockKind::CacheMount, &key.0) });
        };
        let path = self.inner.root.join(Object::CacheMount(*key).path());
        let there = rustix::fs::lstat(&path).is_ok();
        self.inner.evict_path(&path).map(|()| there)
    }
}
