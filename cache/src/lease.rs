//! Leases: how processes know of each other, and what GC may therefore remove.
//!
//! ```text
//! leases/<boot id>.<pid>.<hex of boot nanoseconds>      empty, locked as long as its store is open, never written
//! ```
//! The lease began at the file's mtime: the same clock that stamps every use of an object, so the two compare without slack. A
//! process marks what it uses with a time after its lease began; GC removes only what was last used before the oldest live lease
//! began. A lease is live while its lock is held; the kernel lets go at death. Everything below `tmp/<lease>` and `ledger/<lease>`
//! belongs to it and is garbage once it is dead.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::boot::{self, BootId};
use crate::error::{At as _, Result};
use crate::lock::{Share, ofd};

/// A moment on the file system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) i64, pub(crate) u32);

impl Moment {
    /// When the file was last used: its mtime.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self(stat.st_mtime, stat.st_mtime_nsec as u32)
    }

    /// As the standard library has it.
    pub(crate) fn system(self) -> SystemTime {
        let whole = Duration::from_secs(self.0.unsigned_abs());
        let base = if self.0 >= 0 { SystemTime::UNIX_EPOCH + whole } else { SystemTime::UNIX_EPOCH - whole };
        base + Duration::from_nanos(u64::from(self.1))
    }
}

/// This process's own lease.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The file name; also names its temp directory and ledger.
    pub(crate) id: String,
    /// When it began.
    pub(crate) start: Moment,
    path: PathBuf,
    _locked: OwnedFd,
}

impl Lease {
    /// Makes a lease. A sweeper may meet the new file before its lock: then it is unlinked, which is noticed, and another is made.
    pub(crate) fn begin(root: &Path, boot: BootId) -> Result<Self> {
        loop {
            let id = format!("{boot}.{}.{:x}", std::process::id(), boot::boot_time());
            let path = root.join("leases").join(&id);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let open = || rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644));
            let file = match crate::directory::making_parents(root, &path, open) {
                Err(Errno::EXIST) => continue,
                other => other.at("make lease", &path)?,
            };
            if !ofd::try_lock(file.as_fd(), 0, 0, Share::Exclusive).at("lock lease", &path)? {
                continue;
            }
            let stat = rustix::fs::fstat(&file).at("stat lease", &path)?;
            if stat.st_nlink == 0 {
                continue;
            }
            return Ok(Self { id, start: Moment::of(&stat), path, _locked: file });
        }
    }

    /// Ends the lease in the directory; the lock goes with the value.
    pub(crate) fn end(&self) {
        let _swept_later_otherwise = rustix::fs::unlink(&self.path);
    }
}

/// A lease somebody holds.
#[derive(Clone, Debug)]
pub(crate) struct LiveLease {
    pub(crate) boot: Option<BootId>,
    pub(crate) start: Moment,
}

/// All live leases, our own included.
pub(crate) fn live(root: &Path) -> Result<Vec<LiveLease>> {
    let mut found = Vec::new();
    for id in crate::directory::list_names(&root.join("leases"))? {
        if let Some(start) = alive(root, &id)? {
            let boot = id.split('.').next().and_then(|text| text.parse().ok());
            found.push(LiveLease { boot, start });
        }
    }
    Ok(found)
}

/// When the oldest live lease began.
pub(crate) fn oldest(root: &Path) -> Result<Option<Moment>> {
    Ok(live(root)?.iter().map(|lease| lease.start).min())
}

/// When lease `id` began, if it is live.
pub(crate) fn alive(root: &Path, id: &str) -> Result<Option<Moment>> {
    let path = root.join("leases").join(id);
    let file = match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.at("open lease", &path)?,
    };
    if !ofd::is_locked(file.as_fd()).at("test lease", &path)? {
        return Ok(None);
    }
    Ok(Some(Moment::of(&rustix::fs::fstat(&file).at("stat lease", &path)?)))
}

/// Removes the file of a dead lease; true when it was dead. Holds its lock meanwhile, so that an owner between making and
/// locking it cannot go on with it.
pub(crate) fn bury(root: &Path, id: &str) -> Result<bool> {
    let path = root.join("leases").join(id);
    let file = match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(true),
        other => other.at("open lease", &path)?,
    };
    if !ofd::try_lock(file.as_fd(), 0, 0, Share::Exclusive).at("lock lease", &path)? {
        return Ok(false);
    }
    match rustix::fs::unlink(&path) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(e) => Err(e).at("remove dead lease", &path),
    }
}
