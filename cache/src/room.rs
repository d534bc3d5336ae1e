//! Room for what grows: bytes of unknown number, counted while they are written and not only when they are there.
//!
//! With a ceiling room is reserved ahead, in doubling steps. Without one the file system is the limit, but the last of it is left
//! to others: whoever unpacks an archive that is small only until then must not be what fills the machine's disk.

use std::io;

use crate::error::{At as _, Result, StoreError};
use crate::ledger::Reservation;
use crate::store::Store;

/// As much again as was written is reserved ahead, up to this; without a ceiling free space is looked at this often.
const AHEAD: u64 = 64 << 20;
/// What is left free on the file system without a ceiling: this, or this part of a smaller one.
const LEFT_FREE: u64 = 256 << 20;
const LEFT_FREE_PART: u64 = 20;

/// Room taken piece by piece, given back when dropped: drop it when the bytes are in the store, or gone.
#[derive(Debug)]
pub struct Room {
    store: Store,
    taken: u64,
    reserved: u64,
    reservations: Vec<Reservation>,
}

impl Store {
    /// Nothing yet.
    pub fn room(&self) -> Room {
        Room { store: self.clone(), taken: 0, reserved: 0, reservations: Vec::new() }
    }

    /// Fails when writing `bytes` would take what is left to others.
    fn leave_free(&self, bytes: u64) -> Result<()> {
        let there = rustix::fs::statvfs(self.root()).at("stat file system of", self.root())?;
        let (free, whole) = (there.f_bavail * there.f_frsize, there.f_blocks * there.f_frsize);
        if free >= bytes + LEFT_FREE.min(whole / LEFT_FREE_PART) {
            return Ok(());
        }
        let text = format!("no space left on device (the last {free} bytes are left to others)");
        let source = io::Error::new(io::ErrorKind::StorageFull, text);
        Err(StoreError::Io { operation: "write further to", path: self.root().to_owned(), source })
    }
}

impl Room {
    /// Takes room for `bytes` that are known to come.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.reservations.push(self.store.reserve(bytes)?);
        self.reserved += bytes;
        Ok(())
    }

    /// Gives back room for bytes that are there no more.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        let mut left = bytes;
        while left > 0
            && let Some(mut last) = self.reservations.pop()
        {
            let back = last.give_back(left);
            if back == left {
                self.reservations.push(last);
            }
            left -= back;
        }
    }

    /// Takes room for `bytes` that are about to be written.
    pub fn take(&mut self, bytes: u64) -> Result<()> {
        self.taken += bytes;
        if self.taken <= self.reserved {
            return Ok(());
        }
        let ahead = self.taken.min(AHEAD).max(bytes);
        if self.store.inner.options.max_bytes.is_some() {
            return match self.reserve(ahead) {
                // The last of the room is taken as it is needed.
                Err(StoreError::Full { .. }) if ahead > bytes => self.reserve(self.taken - self.reserved),
                other => other,
            };
        }
        if self.taken >= AHEAD {
            self.store.with_room(ahead, || self.store.leave_free(ahead))?;
        }
        self.reserved = self.reserved.max(self.taken) + ahead;
        Ok(())
    }
}
