//! A nameless scratch file on the store's file system: filled from front to back once, then read by ranges from any thread.
//!
//! It has no name, so nothing is left behind however the process ends. It takes room below the ceiling like everything else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::error::{At as _, Result};
use crate::room::Room;
use crate::store::Store;
use crate::temp::create_new;

/// Bytes gathered before they are written.
const BUFFER: usize = 256 << 10;

/// A scratch file being filled.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    room: Room,
    buffer: Vec<u8>,
}

/// A filled scratch file. Clones share it.
#[derive(Clone, Debug)]
pub struct ScratchReader(Arc<(File, Room)>);

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
        Ok(ScratchReader(Arc::new((self.file, self.room))))
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
        Box::new(Range { file: Arc::clone(&self.0), at: offset, left: length })
    }
}

struct Range {
    file: Arc<(File, Room)>,
    at: u64,
    left: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.0.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
