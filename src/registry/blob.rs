//! A blob on its way here: hashed as it comes, continued where it broke off, refused if it is not what was promised.

use std::fmt;
use std::io::{self, Read};

use rbuild_cache::digest::{BlobDigest, Sha256};
use sha2::Digest as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::download::Download;
use super::error::Error;
use crate::oci::manifest::Descriptor;

/// Bytes asked of a file at once.
const FILE_CHUNK: usize = 128 << 10;
/// Chunks that may wait between the network and a slow reader.
const QUEUE: usize = 16;

/// The bytes of one blob.
pub struct BlobStream {
    what: String,
    expected: BlobDigest,
    size: u64,
    received: u64,
    hasher: sha2::Sha256,
    source: Source,
    _slot: Option<OwnedSemaphorePermit>,
}

pub(super) enum Source {
    Http(Box<Download>),
    File(tokio::fs::File),
    End,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStream({} {}/{})", self.what, self.received, self.size)
    }
}

impl BlobStream {
    pub(super) fn new(what: String, blob: &Descriptor, source: Source, slot: Option<OwnedSemaphorePermit>) -> Self {
        let hasher = sha2::Sha256::new();
        Self { what, expected: blob.digest, size: blob.size, received: 0, hasher, source, _slot: slot }
    }

    /// How many bytes there will be.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes; `None` at the end, which is reached only if size and digest are right.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let chunk = match &mut self.source {
            Source::End => return Ok(None),
            Source::Http(download) => download.next(self.received, self.size).await?,
            Source::File(file) => {
                let mut buffer = vec![0; FILE_CHUNK];
                let n = file.read(&mut buffer).await?;
                buffer.truncate(n);
                Some(buffer).filter(|buffer| !buffer.is_empty())
            }
        };
        let Some(chunk) = chunk else {
            let verdict = self.verify();
            if verdict.is_err() {
                self.distrust();
            }
            self.source = Source::End;
            return verdict.map(|()| None);
        };
        self.received += chunk.len() as u64;
        if self.received > self.size {
            self.distrust();
            return Err(self.wrong_size());
        }
        self.hasher.update(&chunk);
        Ok(Some(chunk))
    }

    fn distrust(&self) {
        match &self.source {
            Source::Http(download) => download.distrust(),
            Source::File(_) | Source::End => {}
        }
    }

    fn wrong_size(&self) -> Error {
        Error::Size { what: self.what.clone(), expected: self.size, found: self.received }
    }

    fn verify(&mut self) -> Result<(), Error> {
        if self.received != self.size {
            return Err(self.wrong_size());
        }
        let found = BlobDigest(Sha256(std::mem::take(&mut self.hasher).finalize().into()));
        if found == self.expected {
            return Ok(());
        }
        Err(Error::Digest { what: self.what.clone(), expected: self.expected, found })
    }

    /// All of it, if it is not more than `limit`.
    pub async fn bytes(mut self, limit: u64) -> Result<Vec<u8>, Error> {
        if self.size > limit {
            return Err(Error::TooLarge { what: self.what, limit });
        }
        let mut out = Vec::with_capacity(self.size as usize);
        while let Some(chunk) = self.chunk().await? {
            out.extend_from_slice(&chunk);
        }
        Ok(out)
    }

    /// A blocking reader over it, for code that is not async; fetching goes on in the current runtime meanwhile.
    /// `progress` hears how many bytes have come. Errors arrive as text; the pump has them.
    /// Fetching stops when the pump is dropped.
    pub fn into_reader(mut self, mut progress: impl FnMut(u64) + Send + 'static) -> (BlobReader, Pump) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let pump = tokio::spawn(async move {
            // A reader that goes away may have met bytes that make no sense: only the rest proves whether they are the
            // right ones.
            let mut listening = true;
            loop {
                let item = self.chunk().await;
                progress(self.received);
                let chunk = match item {
                    Ok(chunk) => chunk,
                    Err(error) => {
                        let _gone = sender.send(Err(io::Error::other(error.to_string()))).await;
                        return Err(error);
                    }
                };
                // An empty chunk is the proof that the end was verified; a bare hang-up is not.
                let is_end = chunk.is_none();
                listening = listening && sender.send(Ok(chunk.unwrap_or_default())).await.is_ok();
                if is_end {
                    return Ok(());
                }
            }
        });
        (BlobReader { receiver, chunk: Vec::new(), at: 0, ended: false }, Pump(pump))
    }
}

/// Keeps a [`BlobReader`] supplied; once it is dropped the reader fails.
#[derive(Debug)]
#[must_use = "the download stops when the pump is dropped"]
pub struct Pump(tokio::task::JoinHandle<Result<(), Error>>);

impl Pump {
    /// Whether what was read is what it should be; waits until all of it has come.
    pub async fn verdict(mut self) -> Result<(), Error> {
        (&mut self.0).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped).into()))
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// See [`BlobStream::into_reader`]. Must be read outside the async threads.
#[derive(Debug)]
pub struct BlobReader {
    receiver: mpsc::Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && !self.ended && !buffer.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.ended = chunk.is_empty();
                    (self.chunk, self.at) = (chunk, 0);
                }
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download was stopped")),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
