//! Publishing, marking as used and taking away, so that none of them cheats another.
//!
//! Publications and marks of use hold a shared byte lock on the object (`locks/shield` at hash of its path), GC an exclusive one
//! from its last look at the mtime until the object is gone. So whoever was told that an object is there still has it, and
//! nothing that was just published goes as something old.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::directory::{last_used, making_parents, set_used_now};
use crate::error::{At as _, Result};
use crate::lease::Moment;
use crate::lock::{self, Share, ofd};
use crate::object::{self, Object};
use crate::store::Inner;

/// How old a mark of use may be before using the object again renews it.
const MARK_LASTS: Duration = Duration::from_secs(60);
/// How long to wait for a collector that holds an object; it needs microseconds unless it was stopped.
const SHIELD_PATIENCE: Duration = Duration::from_secs(2);

/// Holds collectors off one object.
pub(crate) struct Shield<'a> {
    file: &'a OwnedFd,
    at: u64,
}

impl Drop for Shield<'_> {
    fn drop(&mut self) {
        ofd::unlock(self.file.as_fd(), self.at, 1);
    }
}

/// The lock file of shields.
pub(crate) fn shield_file(root: &Path) -> PathBuf {
    root.join("locks/shield")
}

/// The byte that stands for an object in it.
pub(crate) fn shield_offset(relative: &Path) -> u64 {
    lock::offset(relative.as_os_str().as_encoded_bytes())
}

impl Inner {
    /// Holds collectors off the object at `relative`. Threads share one description, so one thread's end may end another's
    /// shield on the same object; by then the first has marked or published it, which is as good. `None` when a collector
    /// seems to have been stopped halfway.
    pub(crate) fn shield(&self, relative: &Path) -> Option<Shield<'_>> {
        let file = if let Some(file) = self.shield.get() {
            file
        } else {
            let opened = lock::open_lock_file(&self.root, &shield_file(&self.root)).ok()?;
            self.shield.get_or_init(|| opened)
        };
        let at = shield_offset(relative);
        let began = Instant::now();
        while !ofd::try_lock(file.as_fd(), at, 1, Share::Shared).ok()? {
            if began.elapsed() > SHIELD_PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Some(Shield { file, at })
    }

    /// Marks an object as used now; false when it is gone.
    pub(crate) fn mark(&self, object: &Object) -> Result<bool> {
        let relative = object.path();
        let file = object.used(&self.root.join(&relative));
        let Some(used) = last_used(&file).at("stat", &file)? else { return Ok(false) };
        if self.is_marked(used) {
            return Ok(true);
        }
        let Some(_shield) = self.shield(&relative) else { return Ok(false) };
        set_used_now(&file).at("mark as used", &file)
    }

    /// Whether a mark of that age still protects the object and says enough about its use.
    fn is_marked(&self, used: Moment) -> bool {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        used >= self.lease.start && now.tv_sec - used.0 < MARK_LASTS.as_secs() as i64
    }

    /// Renames a complete object directory into place. When a believed one (or any cache mount) is there already,
    /// that one is marked as used and stays; false then. An unbelieved one gives way.
    pub(crate) fn publish(&self, object: &Object, from: &Path) -> Result<bool> {
        let relative = object.path();
        let path = self.root.join(&relative);
        let _shield = self.shield(&relative);
        loop {
            match making_parents(&self.root, &path, || rustix::fs::rename(from, &path)) {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(e) => return Err(e).at("rename into place", &path),
            }
            let stays = match object {
                Object::CacheMount(_) => true,
                Object::Small(..) | Object::Blob(_) | Object::Tree { .. } => {
                    self.stamp_of(&path)?.is_some_and(|(_, believed)| believed)
                }
            };
            if stays && set_used_now(&path.join(object::STAMP)).at("mark as used", &path)? {
                return Ok(false);
            }
            self.evict_path(&path)?;
        }
    }

    /// Takes an object out of the store by a rename and deletes it; a missing one is fine.
    pub(crate) fn evict_path(&self, path: &Path) -> Result<()> {
        self.temp.directory()?;
        let away = self.temp.fresh("evicted");
        match rustix::fs::rename(path, &away) {
            Ok(()) => self.discard(&away),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(e) => Err(e).at("remove", path),
        }
    }
}
