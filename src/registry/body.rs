//! What a request carries, as a stream of pieces: readable more than once, and never whole in memory unless it is small.
//!
//! Each piece that leaves is a beat: whoever waits for the answer knows from it that the line is slow and not dead. Files
//! are read in bigger pieces than are handed on, so that a beat needs few bytes.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::remote::{BlobSource, Remote};
use crate::oci::manifest::Descriptor;

/// Bytes read at once.
const PIECE: usize = 128 << 10;
/// Bytes handed on at once.
const BEAT: usize = 16 << 10;
/// Pieces that may wait for the line.
const QUEUE: usize = 4;

/// The bytes of a request.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Empty,
    Bytes(Arc<Vec<u8>>),
    /// So many bytes of a file from a place on.
    File {
        path: PathBuf,
        start: u64,
        size: u64,
    },
    /// A blob of another repository, passed on.
    Remote {
        from: Arc<dyn Remote>,
        blob: Box<Descriptor>,
    },
}

impl Body {
    /// The whole of a source that `blob` describes.
    pub(super) fn of(source: &BlobSource, blob: &Descriptor) -> Self {
        match source {
            BlobSource::Bytes(bytes) => Self::Bytes(Arc::new(bytes.clone())),
            BlobSource::File(path) => Self::File { path: path.clone(), start: 0, size: blob.size },
            BlobSource::Remote(from) => Self::Remote { from: from.clone(), blob: Box::new(blob.clone()) },
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
            Self::Remote { blob, .. } => blob.size,
        }
    }
}

/// How a body gets on.
#[derive(Debug, Default)]
pub(super) struct Beat {
    pieces: AtomicU64,
    over: AtomicBool,
}

impl Beat {
    /// How many pieces were taken.
    pub(super) fn count(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    /// Whether the last one was.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Begins to read a body; `beat` tells how it gets on.
pub(super) fn start(body: &Body, beat: &Arc<Beat>) -> reqwest::Body {
    if let Body::Bytes(bytes) = body
        && bytes.len() <= PIECE
    {
        // Whole, so that a redirect can be followed.
        return reqwest::Body::from(bytes.as_ref().clone());
    }
    let (sender, pieces) = mpsc::channel(QUEUE);
    tokio::spawn(read(body.clone(), sender));
    reqwest::Body::wrap_stream(Pieces { queue: pieces, rest: Vec::new(), at: 0, beat: beat.clone() })
}

/// Reads until the end, or until nobody listens any more.
async fn read(body: Body, sender: mpsc::Sender<io::Result<Vec<u8>>>) {
    if let Err(error) = pump(body, &sender).await {
        let _gone = sender.send(Err(error)).await;
    }
}

async fn pump(body: Body, sender: &mpsc::Sender<io::Result<Vec<u8>>>) -> io::Result<()> {
    match body {
        Body::Empty => {}
        Body::Bytes(bytes) => {
            for piece in bytes.chunks(PIECE) {
                if sender.send(Ok(piece.to_vec())).await.is_err() {
                    break;
                }
            }
        }
        Body::File { path, start, size } => {
            let mut file = tokio::fs::File::open(path).await?;
            file.seek(io::SeekFrom::Start(start)).await?;
            let mut file = file.take(size);
            loop {
                let mut piece = vec![0; PIECE];
                let n = file.read(&mut piece).await?;
                piece.truncate(n);
                if n == 0 || sender.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
        }
        Body::Remote { from, blob } => {
            let mut stream = from.blob(&blob).await.map_err(io::Error::other)?;
            while let Some(piece) = stream.chunk().await.map_err(io::Error::other)? {
                if sender.send(Ok(piece)).await.is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

struct Pieces {
    queue: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// What was read, and how much of it was handed on.
    rest: Vec<u8>,
    at: usize,
    beat: Arc<Beat>,
}

impl futures_core::Stream for Pieces {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.at == self.rest.len() {
            match self.queue.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => (self.rest, self.at) = (piece, 0),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    self.beat.over.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
            }
        }
        let end = self.rest.len().min(self.at + BEAT);
        let next = self.rest[self.at..end].to_vec();
        self.at = end;
        self.beat.pieces.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(next)))
    }
}
