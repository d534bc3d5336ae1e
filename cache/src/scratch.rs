//! A nameless scratch file on the store's file system: filled from front to back once, then read by ranges from any thread.
//!
//! It has no name, so nothing is left behind however the process ends. It takes room below the ceiling like everything else, and
//! gives it back piece by piece where each byte is read only once: what is copied from here to a blob then takes its size once,
//! not twice.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FallocateFlags;

use crate::error::{At as _, Result};
use crate::room::Room;
use crate::store::Store;
use crate::temp::create_new;

/// Bytes gathered before they are written.
const BUFFER: usize = 256 << 10;
/// Bytes that are freed at once.
const SLAB: u64 = 1 << 20;

/// A scratch file being filled.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    room: Room,
    buffer: Vec<u8>,
}

/// A filled scratch file. Clones share it.
#[derive(Clone, Debug)]
pub struct ScratchReader(Arc<Filled>);

#[derive(Debug)]
struct Filled {
    file: File,
    used: Mutex<Used>,
}

/// What was consumed so far.
#[derive(Debug)]
struct Used {
    room: Room,
    /// How many bytes of each slab.
    slabs: Vec<u64>,
}

impl Store {
    /// An empty scratch file.
    pub fn scratch(&self) -> Result<Scratch> {
        let directory = self.temp_dir("scratch")?;
        let path = directory.path().join("data");
        let file = create_new(&path).at("make", &path)?;
        // The open file outlives its name and directory.
        Ok(Scratch { file, room: self.room(), buffer: Vec::with_capacity(BUFFER) })
    }
}

impl Scratch {
    /// Ends the filling.
    pub fn finish(mut self) -> io::Result<ScratchReader> {
        self.flush()?;
        let used = Mutex::new(Used { room: self.room, slabs: Vec::new() });
        Ok(ScratchReader(Arc::new(Filled { file: self.file, used })))
    }
}

impl Write for Scratch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            self.room.take(bytes.len() as u64)?;
            self.file.write_all(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.room.take(self.buffer.len() as u64)?;
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl ScratchReader {
    /// Reads `length` bytes from `offset` on.
    pub fn range(&self, offset: u64, length: u64) -> Box<dyn Read + Send> {
        Box::new(Range { filled: Arc::clone(&self.0), at: offset, left: length, consumes: false })
    }

    /// The same where no byte is ever read again, by anybody: its space is given back.
    pub fn consume(&self, offset: u64, length: u64) -> Box<dyn Read + Send> {
        Box::new(Range { filled: Arc::clone(&self.0), at: offset, left: length, consumes: true })
    }
}

impl Filled {
    /// Notes that bytes were read for the last time; slabs of which all were are freed.
    fn consumed(&self, mut at: u64, end: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while at < end {
            let slab = (at / SLAB) as usize;
            let until = end.min((slab as u64 + 1) * SLAB);
            if used.slabs.len() <= slab {
                used.slabs.resize(slab + 1, 0);
            }
            used.slabs[slab] += until - at;
            if used.slabs[slab] == SLAB {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // Where files cannot have holes the space is given back with the file.
                if rustix::fs::fallocate(&self.file, flags, slab as u64 * SLAB, SLAB).is_ok() {
                    used.room.give_back(SLAB);
                }
            }
            at = until;
        }
    }
}

struct Range {
    filled: Arc<Filled>,
    at: u64,
    left: u64,
    consumes: bool,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.filled.file.read_at(&mut buffer[..most], self.at)?;
        if self.consumes {
            self.filled.consumed(self.at, self.at + n as u64);
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
