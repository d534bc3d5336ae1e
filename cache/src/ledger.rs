//! The ceiling: how much is in the store, who is about to write how much, and room made before it is written.
//!
//! ```text
//! ledger/<lease>     24 bytes, three little-endian numbers: bytes written since the lease began, bytes reserved and not yet
//!                    written, and 1 if more was written than was counted
//! ```
//! A scan of the store is right but takes milliseconds; so each process keeps the total of its last scan (or of another's,
//! total.rs) and adds what all ledgers say has been written or reserved since. A reservation is announced in one's own ledger
//! *before* the sum is taken: of two processes that reserve at the same moment at least one sees both. Only a fresh scan leads
//! to eviction or refusal. Ledgers are kept only by processes that have a ceiling. They are the one file written in place: losing
//! it loses nothing.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::directory::{list_names, making_parents, read};
use crate::error::{At as _, Result, StoreError};
use crate::lock::LockKind;
use crate::store::{Inner, Store};
use crate::{gc, lease};

/// How long a scan is built upon; other things than ours (cache mounts, processes without a ceiling) grow unseen meanwhile.
const SCAN_LASTS: Duration = Duration::from_secs(10);
/// When evicting, this part of the ceiling is freed beyond the need, so that the next reservation does not evict again.
const SLACK: u64 = 20;
/// What one file takes at least.
const BLOCK: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Ledger {
    root: PathBuf,
    path: PathBuf,
    file: OnceLock<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    own: Entry,
    scan: Option<Scanned>,
}

/// What one process says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) written: u64,
    pub(crate) reserved: u64,
    pub(crate) uncounted: bool,
}

/// A total and what the ledgers said when it was taken.
#[derive(Debug)]
struct Scanned {
    at: Instant,
    bytes: u64,
    written: BTreeMap<String, u64>,
}

/// The ledgers as they are now.
#[derive(Debug, Default)]
pub(crate) struct Ledgers {
    pub(crate) live: BTreeMap<String, Entry>,
    /// A process died, and what it wrote is in no total.
    pub(crate) lost: bool,
}

/// Room below the ceiling, held until it is dropped: drop it when the bytes are in the store.
#[derive(Debug)]
#[must_use = "the room is given back when the reservation is dropped"]
pub struct Reservation {
    room: Option<(Store, u64)>,
}

impl Reservation {
    /// Reserves so much less from now on; returns how much that is.
    pub(crate) fn give_back(&mut self, bytes: u64) -> u64 {
        let Some((store, held)) = &mut self.room else { return 0 };
        let back = bytes.min(*held);
        *held -= back;
        store.inner.ledger.change(|own| own.reserved = own.reserved.saturating_sub(back));
        back
    }
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
        let path = root.join("ledger").join(lease);
        Self { root: root.to_owned(), path, file: OnceLock::new(), state: Mutex::default() }
    }

    /// Bytes were added to the store.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.change(|own| own.written += bytes.next_multiple_of(BLOCK));
    }

    /// Bytes were or will be added to the store that nobody counts: the next total must come from a scan.
    pub(crate) fn wrote_uncounted(&self) {
        self.change(|own| own.uncounted = true);
        self.forget_scan();
    }

    /// What this process did, if it kept a ledger.
    pub(crate) fn own(&self) -> Option<Entry> {
        self.file.get()?;
        Some(self.state.lock().unwrap_or_else(PoisonError::into_inner).own)
    }

    /// Removes the ledger of a process that ends.
    pub(crate) fn end(&self) {
        if self.file.get().is_some() {
            let _swept_later_otherwise = rustix::fs::unlink(&self.path);
        }
    }

    fn forget_scan(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).scan = None;
    }

    /// Makes the file; from then on everything this process writes is announced.
    fn begin(&self) -> Result<()> {
        if self.file.get().is_none() {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let open = || rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o644));
            let file = making_parents(&self.root, &self.path, open).at("make ledger", &self.path)?;
            self.file.get_or_init(|| file);
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.own);
        if let Some(file) = self.file.get() {
            let _others_then_rely_on_their_scans = rustix::io::pwrite(file, &state.own.encode(), 0);
        }
    }
}

impl Entry {
    fn encode(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.written.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.reserved.to_le_bytes());
        bytes[16] = self.uncounted.into();
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        Some(Self { written: number(0), reserved: number(8), uncounted: bytes[16] != 0 })
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
        if self.estimate(limit)? <= limit {
            return Ok(reservation);
        }
        let _alone = self.lock(LockKind::Collect, b"", &|| false, &mut |_| {})?;
        let used = self.measure(&self.inner.ledgers()?)?;
        if used <= limit {
            return Ok(reservation);
        }
        let freed = gc::evict(self, used - limit + limit / SLACK)?;
        self.remember_freed(freed);
        let used = used.saturating_sub(freed);
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

    /// What is in the store plus what is about to be: from our last scan, else from a remembered total that leaves a margin below
    /// the ceiling, else from a scan.
    fn estimate(&self, limit: u64) -> Result<u64> {
        let ledgers = self.inner.ledgers()?;
        let known = {
            let state = self.inner.ledger.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.scan.as_ref().filter(|s| s.at.elapsed() < SCAN_LASTS).map(|scan| scan.total(&ledgers))
        };
        if let Some(total) = known {
            return Ok(total);
        }
        if let Some(bytes) = self.inner.remembered_total(&ledgers) {
            // Since we do not know what the ledgers said at that time, all of what they say is added.
            let scan = Scanned { at: Instant::now(), bytes, written: BTreeMap::new() };
            let total = scan.total(&ledgers);
            if total <= limit / 4 * 3 {
                self.inner.ledger.state.lock().unwrap_or_else(PoisonError::into_inner).scan = Some(scan);
                return Ok(total);
            }
        }
        self.measure(&ledgers)
    }

    /// Scans. The ledgers were read before: what is written during the scan counts twice rather than never.
    fn measure(&self, ledgers: &Ledgers) -> Result<u64> {
        let era = self.inner.era();
        let scan = Scanned {
            at: Instant::now(),
            bytes: self.scan()?.iter().map(|found| found.bytes).sum(),
            written: ledgers.live.iter().map(|(id, entry)| (id.clone(), entry.written)).collect(),
        };
        self.inner.remember_total(scan.bytes, era);
        let total = scan.total(ledgers);
        self.inner.ledger.state.lock().unwrap_or_else(PoisonError::into_inner).scan = Some(scan);
        Ok(total)
    }
}

impl Inner {
    /// Reads all ledgers.
    pub(crate) fn ledgers(&self) -> Result<Ledgers> {
        let directory = self.root.join("ledger");
        let mut ledgers = Ledgers::default();
        for id in list_names(&directory)? {
            let Some(entry) = read(&directory.join(&id))?.and_then(|bytes| Entry::decode(&bytes)) else { continue };
            if lease::alive(&self.root, &id)?.is_some() {
                ledgers.live.insert(id, entry);
            } else if entry.written > 0 || entry.uncounted {
                ledgers.lost = true;
            }
        }
        Ok(ledgers)
    }
}

impl Scanned {
    fn total(&self, ledgers: &Ledgers) -> u64 {
        let since = |(id, entry): (&String, &Entry)| {
            entry.reserved + entry.written.saturating_sub(self.written.get(id).copied().unwrap_or(0))
        };
        self.bytes + ledgers.live.iter().map(since).sum::<u64>()
    }
}
