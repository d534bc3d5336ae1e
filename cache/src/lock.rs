//! Locks between processes and threads: one file per kind, one byte locked at hash(key).
//!
//! ```text
//! locks/<kind>     bytes 0..64 KiB: holders, 4096 slots of { hash u64, pid u32, 0 u32 }; locks lie on offsets, not on bytes
//! ```
//! OFD locks belong to the open file description: each guard opens its own, so two threads exclude each other exactly as two
//! processes do, and the kernel drops the lock when its holder dies, however it dies. The holder slots only serve messages and may
//! be stale or overwritten by a colliding key; a slot is believed only if its hash is the one asked for.
//!
//! The only `unsafe` of this crate is here: `fcntl` with `F_OFD_*`, for which rustix has no safe function.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{At as _, Result, StoreError};
use crate::store::{Inner, Store};

/// First and longest pause between two tries for a lock.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Holder slots in a lock file.
const SLOTS: u64 = 4096;
const SLOT_BYTES: u64 = 16;

/// What a lock is about; each kind has its own file, so equal keys of two kinds never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockKind {
    /// Running one step, by its key.
    Step,
    /// Making a form of one layer, by its id.
    Layer,
    /// Fetching or making one blob, by its digest.
    Blob,
    /// Changing what a name means, by the name.
    Name,
    /// Writing what is remembered of one context, by its path.
    Context,
    /// Using one cache mount, by its key's 32 bytes. GC and removal take it exclusively.
    CacheMount,
    /// Deciding what to remove; taken by the store itself.
    Collect,
}

impl LockKind {
    fn file(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Layer => "layer",
            Self::Blob => "blob",
            Self::Name => "name",
            Self::Context => "context",
            Self::CacheMount => "cache-mount",
            Self::Collect => "collect",
        }
    }
}

/// Whether others may hold the lock too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Exclusive,
    Shared,
}

/// A held lock; dropping it, or dying, releases it.
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard {
    _description: OwnedFd,
}

impl Store {
    /// Takes a lock, waiting for whoever holds it. `waiting` is called once when the wait begins and again whenever the holder
    /// changes, with its pid when known; `cancel` is asked at each try.
    pub fn lock(
        &self,
        kind: LockKind,
        key: &[u8],
        cancel: &dyn Fn() -> bool,
        waiting: &mut dyn FnMut(Option<u32>),
    ) -> Result<LockGuard> {
        self.wait(kind, key, Share::Exclusive, cancel, waiting)
    }

    /// Like [`Store::lock`], beside other shared holders.
    pub fn lock_shared(
        &self,
        kind: LockKind,
        key: &[u8],
        cancel: &dyn Fn() -> bool,
        waiting: &mut dyn FnMut(Option<u32>),
    ) -> Result<LockGuard> {
        self.wait(kind, key, Share::Shared, cancel, waiting)
    }

    /// Takes several locks of one kind in the one order that cannot deadlock; equal keys are taken once.
    pub fn lock_many(
        &self,
        kind: LockKind,
        keys: &[&[u8]],
        cancel: &dyn Fn() -> bool,
        waiting: &mut dyn FnMut(Option<u32>),
    ) -> Result<Vec<LockGuard>> {
        let mut sorted: Vec<(u64, &[u8])> = keys.iter().map(|key| (offset(key), *key)).collect();
        sorted.sort_unstable();
        sorted.dedup_by_key(|(at, _)| *at);
        sorted.iter().map(|(_, key)| self.lock(kind, key, cancel, waiting)).collect()
    }

    /// Takes a lock if it is free.
    pub fn try_lock(&self, kind: LockKind, key: &[u8]) -> Result<Option<LockGuard>> {
        self.inner.attempt(kind, key, Share::Exclusive)
    }

    /// Takes a lock beside other shared holders if nobody holds it exclusively.
    pub fn try_lock_shared(&self, kind: LockKind, key: &[u8]) -> Result<Option<LockGuard>> {
        self.inner.attempt(kind, key, Share::Shared)
    }

    /// The pid of the process that last took this lock, when it left its mark.
    pub fn lock_holder(&self, kind: LockKind, key: &[u8]) -> Option<u32> {
        let path = self.inner.root.join("locks").join(kind.file());
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        holder(file.as_fd(), offset(key))
    }

    fn wait(
        &self,
        kind: LockKind,
        key: &[u8],
        share: Share,
        cancel: &dyn Fn() -> bool,
        waiting: &mut dyn FnMut(Option<u32>),
    ) -> Result<LockGuard> {
        let path = self.inner.root.join("locks").join(kind.file());
        let file = open_lock_file(&self.inner.root, &path)?;
        let at = offset(key);
        let mut pause = FIRST_PAUSE;
        let mut told: Option<Option<u32>> = None;
        loop {
            if cancel() {
                return Err(StoreError::Cancelled);
            }
            if ofd::try_lock(file.as_fd(), at, 1, share).at("lock", &path)? {
                return Ok(held(file, at));
            }
            let now = holder(file.as_fd(), at);
            if told != Some(now) {
                waiting(now);
                told = Some(now);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Inner {
    /// Takes a lock if it is free.
    pub(crate) fn attempt(&self, kind: LockKind, key: &[u8], share: Share) -> Result<Option<LockGuard>> {
        let path = self.root.join("locks").join(kind.file());
        let file = open_lock_file(&self.root, &path)?;
        let at = offset(key);
        let taken = ofd::try_lock(file.as_fd(), at, 1, share).at("lock", &path)?;
        Ok(taken.then(|| held(file, at)))
    }
}

/// The byte that stands for `key`. Kept below 2^62: offsets are signed and a range ends after its start.
pub(crate) fn offset(key: &[u8]) -> u64 {
    let hash = blake3::hash(key);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first) >> 2
}

/// Opens a lock file, making it and its directory when they are missing.
pub(crate) fn open_lock_file(root: &Path, path: &Path) -> Result<OwnedFd> {
    crate::directory::making_parents(root, path, || {
        rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
    })
    .at("open lock file", path)
}

/// Leaves our pid in the slot. Only messages depend on it, so a full disk does not matter.
fn held(file: OwnedFd, at: u64) -> LockGuard {
    let mut slot = [0; SLOT_BYTES as usize];
    slot[..8].copy_from_slice(&at.to_le_bytes());
    slot[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    let _only_for_messages = rustix::io::pwrite(&file, &slot, at % SLOTS * SLOT_BYTES);
    LockGuard { _description: file }
}

fn holder(file: BorrowedFd<'_>, at: u64) -> Option<u32> {
    let mut slot = [0; SLOT_BYTES as usize];
    let read = rustix::io::pread(file, &mut slot[..], at % SLOTS * SLOT_BYTES).ok()?;
    let hash = u64::from_le_bytes(slot[..8].try_into().ok()?);
    let pid = u32::from_le_bytes(slot[8..12].try_into().ok()?);
    (read == slot.len() && hash == at && pid != 0).then_some(pid)
}

/// The three operations on OFD locks.
pub(crate) mod ofd {
    use super::{AsFd as _, BorrowedFd, Errno, Share};
    use std::os::fd::AsRawFd as _;

    /// Locks `length` bytes at `start` (0: to the end of all offsets) unless somebody else holds them; false when so.
    pub(crate) fn try_lock(file: BorrowedFd<'_>, start: u64, length: u64, share: Share) -> Result<bool, Errno> {
        let kind = match share {
            Share::Exclusive => libc::F_WRLCK,
            Share::Shared => libc::F_RDLCK,
        };
        match call(file, libc::F_OFD_SETLK, kind, start, length) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Gives a range back.
    pub(crate) fn unlock(file: BorrowedFd<'_>, start: u64, length: u64) {
        let _cannot_fail_on_a_held_range = call(file, libc::F_OFD_SETLK, libc::F_UNLCK, start, length);
    }

    /// Whether another description holds any lock on the whole file.
    pub(crate) fn is_locked(file: BorrowedFd<'_>) -> Result<bool, Errno> {
        call(file.as_fd(), libc::F_OFD_GETLK, libc::F_WRLCK, 0, 0).map(|kind| kind != libc::F_UNLCK)
    }

    #[expect(unsafe_code, reason = "rustix 1.1 has no OFD locks; fcntl is the only door to them")]
    fn call(file: BorrowedFd<'_>, command: i32, kind: i32, start: u64, length: u64) -> Result<i32, Errno> {
        let mut lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start as i64,
            l_len: length as i64,
            l_pid: 0, // must be 0 for OFD locks
        };
        loop {
            // SAFETY: `file` is open for the whole call by its borrow; F_OFD_SETLK and F_OFD_GETLK take a pointer to one
            // `struct flock`, which is what `lock` is; it is initialised and lives on this frame; neither command keeps it.
            let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
            if result != -1 {
                return Ok(i32::from(lock.l_type));
            }
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::INTR) => {}
                Some(e) => return Err(e),
                None => return Err(Errno::IO),
            }
        }
    }
}
