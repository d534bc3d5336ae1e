//! A nameless scratch file: filled from front to back once, then read by ranges from any thread.
//!
//! It has no name, so nothing is left behind however the process ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Bytes gathered before they are written.
const BUFFER: usize = 256 << 10;

/// A scratch file being filled.
#[derive(Debug)]
pub struct Spool {
    file: File,
    buffer: Vec<u8>,
}

/// A filled scratch file. Clones share it.
#[derive(Clone, Debug)]
pub struct SpoolReader(Arc<File>);

impl Spool {
    /// An empty one on the file system of `dir`.
    pub fn create(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(dir)?, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Ends the filling.
    pub fn finish(mut self) -> io::Result<SpoolReader> {
        self.flush()?;
        Ok(SpoolReader(Arc::new(self.file)))
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return self.file.write(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl SpoolReader {
    /// Reads `length` bytes from `offset` on.
    pub fn range(&self, offset: u64, length: u64) -> Box<dyn Read + Send> {
        Box::new(Range { file: Arc::clone(&self.0), at: offset, left: length })
    }
}

struct Range {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Range {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_as_written() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut spool = Spool::create(dir.path()).expect("spool");
        let large = vec![7; BUFFER + 1];
        spool
            .write_all(b"abc")
            .and_then(|()| spool.write_all(&large))
            .and_then(|()| spool.write_all(b"xyz"))
            .expect("write");
        let reader = spool.finish().expect("finish");
        let read = |offset, length| {
            let mut bytes = Vec::new();
            reader.range(offset, length).read_to_end(&mut bytes).map(|_| bytes)
        };
        assert_eq!(read(1, 2).expect("read"), b"bc");
        assert_eq!(read(3, large.len() as u64).expect("read"), large);
        assert_eq!(read(3 + large.len() as u64, 3).expect("read"), b"xyz");
    }
}
