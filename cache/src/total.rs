//! The total of the last scan, remembered between processes so that a build does not begin with one.
//!
//! ```text
//! total-v1       envelope; payload: bytes, and boot nanoseconds of the scan, decimal
//! ```
//! A process that ends adds what it wrote. The file is only believed within the boot, for a while, when no process died without
//! adding its part and none writes what nobody counts; and only by those who are far below the ceiling (ledger.rs). Changed by
//! temp + rename under `LockKind::Collect`; whoever cannot have the lock at once removes the file instead of waiting, or, with a
//! new total in hand, keeps it to himself.

use std::path::PathBuf;
use std::time::Duration;

use crate::boot::boot_time;
use crate::directory::{last_used, read};
use crate::envelope;
use crate::lease::Moment;
use crate::ledger::Ledgers;
use crate::lock::{LockKind, Share};
use crate::store::Inner;

/// How long a scan is built upon by others. Cache mounts may have grown meanwhile.
const LASTS: Duration = Duration::from_secs(600);

impl Inner {
    fn total_path(&self) -> PathBuf {
        self.root.join("total-v1")
    }

    fn read_total(&self) -> Option<(u64, u64)> {
        let bytes = read(&self.total_path()).ok()??;
        let opened = envelope::open(&bytes, self.boot.id).filter(|opened| opened.stamp.boot == self.boot.id)?;
        let (total, time) = std::str::from_utf8(&bytes[opened.payload..]).ok()?.split_once(' ')?;
        Some((total.parse().ok()?, time.parse().ok()?))
    }

    fn write_total(&self, bytes: u64, time: u64) {
        let sealed = envelope::seal(self.boot.stamp(), "total", format!("{bytes} {time}").as_bytes());
        if let Ok(temp) = self.temp_file(&sealed)
            && rustix::fs::rename(&temp, self.total_path()).is_err()
        {
            self.forget_total();
        }
    }

    /// Makes the next process scan.
    pub(crate) fn forget_total(&self) {
        let _none_is_as_good = rustix::fs::unlink(self.total_path());
    }

    /// What some process found not long ago, with all that was added by those that ended since.
    pub(crate) fn remembered_total(&self, ledgers: &Ledgers) -> Option<u64> {
        if ledgers.lost || ledgers.live.values().any(|entry| entry.uncounted) {
            return None;
        }
        let (bytes, time) = self.read_total()?;
        (boot_time().saturating_sub(time) < LASTS.as_nanos() as u64).then_some(bytes)
    }

    /// Changes whenever a process joins or leaves the ledgers.
    pub(crate) fn era(&self) -> Option<Moment> {
        last_used(&self.root.join("ledger")).ok()?
    }

    /// Remembers a total for others, unless a process left during the scan: its part may be missing.
    pub(crate) fn remember_total(&self, bytes: u64, era: Option<Moment>) {
        if let Ok(Some(_lock)) = self.attempt(LockKind::Collect, b"", Share::Exclusive)
            && self.era() == era
        {
            self.write_total(bytes, boot_time());
        }
    }

    /// Adds what this process wrote, at its end, and takes its ledger away.
    pub(crate) fn settle(&self) {
        let Some(own) = self.ledger.own() else { return };
        if own.written == 0 && !own.uncounted {
            self.ledger.end();
            return;
        }
        let lock = self.attempt(LockKind::Collect, b"", Share::Exclusive);
        match (&lock, self.read_total()) {
            (Ok(Some(_)), Some((bytes, time))) if !own.uncounted => self.write_total(bytes + own.written, time),
            _ => self.forget_total(),
        }
        self.ledger.end();
    }
}
