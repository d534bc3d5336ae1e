//! Which boot wrote something, and up to when that boot's writes are known to be on the disk.
//!
//! ```text
//! synced-v1/<boot id>      envelope; payload: nanoseconds of CLOCK_BOOTTIME, decimal
//! ```
//! A sync flushes everything written before it began, by any process. So one number per boot is enough: what that boot stamped
//! at or before the number is durable. CLOCK_BOOTTIME because it never steps. A stamp is taken after the content is complete and
//! before it is published, so "stamped before the sync began" implies "content complete before the sync began".

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

/// Where the kernel tells this boot's id.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How coarsely the moment of the boot stands in for its id where /proc lacks one; wide enough for a clock being disciplined.
const GUESS_SECONDS: i64 = 60;

/// One boot of one machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootId([u8; 16]);

impl BootId {
    /// The running boot.
    pub(crate) fn current() -> Self {
        fs_err::read_to_string(BOOT_ID)
            .ok()
            .and_then(|text| text.trim().replace('-', "").parse().ok())
            .unwrap_or_else(Self::guess)
    }

    /// Stands in for the id by the moment of the boot. When that wobbles, objects are merely verified again.
    fn guess() -> Self {
        let booted = clock_gettime(ClockId::Realtime).tv_sec - clock_gettime(ClockId::Boottime).tv_sec;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&(booted / GUESS_SECONDS).to_be_bytes());
        Self(id)
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for BootId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(());
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| ())
    }
}

/// When something was complete: which boot, and nanoseconds since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) boot: BootId,
    pub(crate) time: u64,
}

/// Nanoseconds since the machine booted.
pub(crate) fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What this process knows of boots: its own, and the marks it has read.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) id: BootId,
    marks: Mutex<BTreeMap<BootId, u64>>,
}

impl Boot {
    /// The running boot; `id` differs from it only in tests.
    pub(crate) fn new(id: BootId) -> Self {
        Self { id, marks: Mutex::default() }
    }

    /// A stamp for what is complete now.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { boot: self.id, time: boot_time() }
    }

    /// Whether the mark for `stamp`'s boot covers it. `read` fetches a mark that is not known or known to be too old.
    pub(crate) fn confirmed(&self, stamp: Stamp, read: impl FnOnce(BootId) -> Option<u64>) -> bool {
        let covers = |mark: u64| mark >= stamp.time;
        let known = self.marks.lock().unwrap_or_else(PoisonError::into_inner).get(&stamp.boot).copied();
        if known.is_some_and(covers) {
            return true;
        }
        let Some(mark) = read(stamp.boot) else { return false };
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).insert(stamp.boot, mark);
        covers(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_is_stable_and_round_trips() {
        let id = BootId::current();
        assert_eq!(id, BootId::current());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<BootId>().is_err());
    }

    #[test]
    fn a_mark_covers_what_was_stamped_before_it() {
        let boot = Boot::new(BootId([1; 16]));
        let other = BootId([2; 16]);
        assert!(boot.confirmed(Stamp { boot: other, time: 5 }, |_| Some(5)));
        assert!(boot.confirmed(Stamp { boot: other, time: 4 }, |_| None), "remembered");
        assert!(!boot.confirmed(Stamp { boot: other, time: 6 }, |_| Some(5)));
        assert!(!boot.confirmed(Stamp { boot: BootId([3; 16]), time: 0 }, |_| None));
    }
}
