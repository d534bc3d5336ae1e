//! The ceiling: how much is in the store, who is about to write how much, and room made before it is written.
//!
//! ```text
//! ledger/<lease>     16 bytes, little-endian: bytes written since the lease began, bytes reserved and not yet written
//! ```
//! A scan of the store is right but takes milliseconds; so each process keeps the total of its last scan and adds what all
//! ledgers say has been written or reserved since. A reservation is announced in one's own ledger *before* the sum is taken:
//! of two processes that reserve at the same moment at least one sees both. Only a fresh scan leads to eviction or refusal.
//! Ledgers are kept only by processes that have a ceiling. They are the one file written in place: losing it loses nothing.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::error::{At as _, Result, StoreError};
use crate::lock::LockKind;
use crate::store::{Store, list_names, making_parents, read};
use crate::{gc, lease};

/// How long a scan is built upon; other things than ours (cache mounts, processes without a ceiling) grow unseen meanwhile.
const SCAN_LASTS: Duration = Duration::from_secs(10);
/// When evicting, this part of the ceiling is freed beyond the need, so that the next reservation does not evict again.
const SLACK: u64 = 20;
/// What one file takes at least.
const BLOCK: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: OnceLock<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    own: Entry,
    scan: Option<Scanned>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    written: u64,
    reserved: u64,
}

#[derive(Debug)]
struct Scanned {
    at: Instant,
    bytes: u64,
    written: BTreeMap<String, u64>,
}

/// Room below the ceiling, held until it is dropped: drop it when the bytes are in the store.
#[derive(Debug)]
#[must_use = "the room is given back when the reservation is dropped"]
pub struct Reservation {
    room: Option<(Store, u64)>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((store, bytes)) = &self.room {
            store.inner.ledger.change(|own| own.reserved = own.reserved.saturating_sub(*bytes));
        }
    }
}

impl Ledger {
    pub(crate) fn new(root: &Path, lease: &str) -> Self {
        Self { path: root.join("ledger").join(lease), file: OnceLock::new(), state: Mutex::default() }
    }

    /// Bytes were added to the store.
    pub(crate) fn wrote(&self, bytes: u64) {
        if self.file.get().is_some() {
            self.change(|own| own.written += bytes.next_multiple_of(BLOCK));
        }
    }

    /// Removes the ledger of a process that ends.
    pub(crate) fn end(&self) {
        if self.file.get().is_some() {
            let _swept_later_otherwise = rustix::fs::unlink(&self.path);
        }
    }

    /// Makes the file; from then on everything this process writes is announced.
    fn begin(&self) -> Result<()> {
        if self.file.get().is_none() {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let file = making_parents(&self.path, || rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o644)))
                .at("make ledger", &self.path)?;
            self.file.get_or_init(|| file);
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.own);
        if let Some(file) = self.file.get() {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&state.own.written.to_le_bytes());
            bytes[8..].copy_from_slice(&state.own.reserved.to_le_bytes());
            let _others_then_rely_on_their_scans = rustix::io::pwrite(file, &bytes, 0);
        }
    }
}

impl Store {
    /// Reserves room below the ceiling before writing `bytes`, evicting what is not in use, least recently used first. Without a
    /// ceiling there is always room. `reserve(0)` merely enforces the ceiling, as after a RUN.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation> {
        let Some(limit) = self.inner.options.max_bytes else { return Ok(Reservation { room: None }) };
        let ledger = &self.inner.ledger;
        ledger.begin()?;
        ledger.change(|own| own.reserved += bytes);
        let reservation = Reservation { room: Some((self.clone(), bytes)) };
        if self.estimate(SCAN_LASTS)? <= limit {
            return Ok(reservation);
        }
        let _alone = self.lock(LockKind::Collect, b"", &|| false, &mut |_| {})?;
        let used = self.estimate(Duration::ZERO)?;
        if used <= limit {
            return Ok(reservation);
        }
        let freed = gc::evict(self, used - limit + limit / SLACK)?;
        let used = used.saturating_sub(freed);
        self.remember_freed(freed);
        if used > limit {
            return Err(StoreError::Full { needed: bytes, used: used.saturating_sub(bytes), limit });
        }
        Ok(reservation)
    }

    /// Evicts at least `bytes`, ceiling or not, as when the file system is full; returns how many were freed.
    pub fn make_room(&self, bytes: u64) -> Result<u64> {
        let _alone = self.lock(LockKind::Collect, b"", &|| false, &mut |_| {})?;
        let freed = gc::evict(self, bytes)?;
        self.remember_freed(freed);
        Ok(freed)
    }

    fn remember_freed(&self, bytes: u64) {
        let mut state = self.inner.ledger.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scan) = &mut state.scan {
            scan.bytes = scan.bytes.saturating_sub(bytes);
        }
    }

    /// What is in the store plus what is about to be, from a scan no older than `age`.
    fn estimate(&self, age: Duration) -> Result<u64> {
        let entries = self.entries()?;
        let known = {
            let state = self.inner.ledger.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.scan.as_ref().filter(|s| s.at.elapsed() < age).map(|scan| scan.total(&entries))
        };
        if let Some(total) = known {
            return Ok(total);
        }
        // The ledgers were read before the scan: what is written during it counts twice rather than never.
        let scan = Scanned {
            at: Instant::now(),
            bytes: self.scan()?.iter().map(|found| found.bytes).sum(),
            written: entries.iter().map(|(id, entry)| (id.clone(), entry.written)).collect(),
        };
        let total = scan.total(&entries);
        self.inner.ledger.state.lock().unwrap_or_else(PoisonError::into_inner).scan = Some(scan);
        Ok(total)
    }

    /// The ledgers of all live processes.
    fn entries(&self) -> Result<BTreeMap<String, Entry>> {
        let directory = self.inner.root.join("ledger");
        let mut entries = BTreeMap::new();
        for id in list_names(&directory)? {
            let Some(bytes) = read(&directory.join(&id))? else { continue };
            let Ok(bytes) = <[u8; 16]>::try_from(bytes) else { continue };
            if lease::alive(&self.inner.root, &id)?.is_none() {
                continue;
            }
            let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
            entries.insert(id, Entry { written: number(0), reserved: number(8) });
        }
        Ok(entries)
    }
}

impl Scanned {
    fn total(&self, entries: &BTreeMap<String, Entry>) -> u64 {
        let since = |(id, entry): (&String, &Entry)| {
            entry.reserved + entry.written.saturating_sub(self.written.get(id).copied().unwrap_or(0))
        };
        self.bytes + entries.iter().map(since).sum::<u64>()
    }
}
