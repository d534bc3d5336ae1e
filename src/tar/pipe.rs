//! A pipe between two threads of this process: bytes in one end, bytes out of the other, bounded in between.
//!
//! Unlike the kernel's it carries the writer's error to the reader, and a writer that vanishes without closing is an error
//! too, never a silent end. It knows nothing of what flows through it.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes gathered before they are handed over.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait; with the ones being filled and read this bounds a pipe to about 1.5 MiB.
const DEPTH: usize = 4;

/// Makes a pipe.
pub fn pipe() -> (Writer, Reader) {
    let (send, receive) = sync_channel(DEPTH);
    (Writer { send, buffer: Vec::with_capacity(CHUNK) }, Reader { receive, chunk: Vec::new(), at: 0, closed: false })
}

type Message = io::Result<Option<Vec<u8>>>;

/// The end that is written. Must be [closed](Self::close).
#[derive(Debug)]
pub struct Writer {
    send: SyncSender<Message>,
    buffer: Vec<u8>,
}

impl Writer {
    /// Ends the stream: with an end of file, or with the error that stopped the writer.
    pub fn close(mut self, result: io::Result<()>) {
        let result = result.and_then(|()| self.flush());
        // A reader that is gone does not want to know.
        let _gone = self.send.send(result.map(|()| None));
    }

    /// Hands over a whole chunk without copying it.
    pub fn chunk(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        self.flush()?;
        self.pass(chunk)
    }

    fn pass(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        self.send.send(Ok(Some(chunk))).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.pass(chunk)
    }
}

/// The end that is read.
#[derive(Debug)]
pub struct Reader {
    receive: Receiver<Message>,
    chunk: Vec<u8>,
    at: usize,
    closed: bool,
}

impl Reader {
    /// The next chunk as it was handed over; `None` at the end. Not to be mixed with reading.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.closed {
            return Ok(None);
        }
        let message = self.receive.recv();
        let chunk = message.unwrap_or_else(|_| Err(io::Error::other("the thread that produces this stream died")))?;
        self.closed = chunk.is_none();
        Ok(chunk)
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.chunk()? {
                Some(chunk) => (self.chunk, self.at) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_errors_and_deaths_arrive() {
        let (mut writer, mut reader) = pipe();
        let thread = std::thread::spawn(move || {
            for _ in 0..3000 {
                writer.write_all(&[7; 1000]).expect("read");
            }
            writer.close(Err(io::Error::other("enough")));
        });
        let mut bytes = Vec::new();
        assert_eq!(reader.read_to_end(&mut bytes).expect_err("passed on").to_string(), "enough");
        thread.join().expect("no panic");
        let (writer, mut reader) = pipe();
        drop(writer);
        assert!(reader.read(&mut [0]).is_err(), "not closed");
        let (mut writer, reader) = pipe();
        drop(reader);
        assert_eq!(writer.chunk(vec![1]).expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    }
}
