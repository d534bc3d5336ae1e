//! Entries and their contents in, the canonical tar out, every content read once.
//!
//! Three things happen at the same time: small files are read and hashed ahead by rayon, a batch at a time; the calling
//! thread puts headers and contents together in order; a thread of its own hashes and writes the result. Large files are
//! not read ahead, they flow through. Memory is bounded by two batches. The bytes depend on entries and contents alone.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;

use rayon::prelude::*;
use rbuild_cache::digest::Blake3;
use rustix::fs::SeekFrom;

use super::error::{LayerError, Result};
use crate::cancel::Cancel;
use crate::tar::entry::{Entry, Kind, LayerPath};
use crate::tar::{TarError, TarWriter, pipe};

/// Files up to this size are read ahead as a whole.
const SMALL: u64 = 1 << 20;
/// A batch ends at this many entries or bytes.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: u64 = 16 << 20;
/// Large files flow through in pieces of this size.
const PIECE: usize = 256 << 10;

/// Opens a content when its turn comes; runs on any thread.
pub type Opener = Box<dyn FnOnce() -> io::Result<Content> + Send>;

/// Where the bytes of an entry come from.
pub enum Content {
    /// Not a file.
    None,
    /// Here they are.
    Bytes(Vec<u8>),
    /// An open file, read from its start; holes are skipped.
    File(fs_err::File),
    /// Any stream.
    Reader(Box<dyn Read + Send>),
    /// To be opened when needed: many files cannot be open at once, and opening them is half the work.
    Open(Opener),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(file) => write!(f, "File({})", file.path().display()),
            Self::Reader(_) => f.write_str("Reader"),
            Self::Open(_) => f.write_str("Open"),
        }
    }
}

/// What is done with the content hash of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hashes {
    /// The entry says it; anything else is [`LayerError::ContextChanged`].
    Verify,
    /// The entry gets it.
    Fill,
}

/// A finished tar.
#[derive(Debug)]
pub(super) struct Streamed<W> {
    pub entries: Vec<Entry>,
    pub size: u64,
    pub sink: W,
}

/// Writes the canonical tar of `entries`, which come in order, to `sink`.
pub(super) fn stream<W: Write + Send>(
    entries: impl Iterator<Item = Result<(Entry, Content)>>,
    hashes: Hashes,
    cancel: &Cancel,
    mut sink: W,
) -> Result<Streamed<W>> {
    let (writer, mut reader) = pipe::pipe();
    std::thread::scope(|scope| {
        let consumer = scope.spawn(move || -> Result<W> {
            while let Some(chunk) =
                reader.chunk().map_err(|source| LayerError::Stream { operation: "write layer", source })?
            {
                sink.write_all(&chunk).map_err(sink_error)?;
            }
            Ok(sink)
        });
        let produced = Producer { tar: TarWriter::new(writer), done: Vec::new(), hashes, cancel }.run(entries);
        let produced = match produced {
            Ok((entries, size, writer)) => {
                writer.close(Ok(()));
                Ok((entries, size))
            }
            // The writer is dropped: the consumer ends with an error that is of no interest beside this one.
            Err(error) => Err(error),
        };
        let consumed = consumer.join().map_err(|_| LayerError::Stream {
            operation: "write layer",
            source: io::Error::other("the writing thread panicked"),
        })?;
        match (produced, consumed) {
            (Ok((entries, size)), Ok(sink)) => Ok(Streamed { entries, size, sink }),
            // A broken pipe only says that the consumer failed first.
            (Err(LayerError::Stream { source, .. }), Err(error)) if source.kind() == io::ErrorKind::BrokenPipe => {
                Err(error)
            }
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    })
}

/// The store's writer speaks `io::Write`; its own errors come back as what they were.
fn sink_error(error: io::Error) -> LayerError {
    match error.downcast::<rbuild_cache::StoreError>() {
        Ok(store) => LayerError::Store(store),
        Err(source) => LayerError::Stream { operation: "write layer", source },
    }
}

fn write_error(source: io::Error) -> LayerError {
    LayerError::Stream { operation: "write layer", source }
}

/// An entry whose content is at hand, or known to be large.
struct Loaded {
    entry: Entry,
    content: Ready,
}

enum Ready {
    Nothing,
    Bytes(Vec<u8>, Blake3),
    File(File),
    Reader(Box<dyn Read + Send>),
}

struct Producer<'a> {
    tar: TarWriter<pipe::Writer>,
    done: Vec<Entry>,
    hashes: Hashes,
    cancel: &'a Cancel,
}

impl Producer<'_> {
    fn run(
        mut self,
        mut entries: impl Iterator<Item = Result<(Entry, Content)>>,
    ) -> Result<(Vec<Entry>, u64, pipe::Writer)> {
        let mut ready: Vec<Loaded> = Vec::new();
        loop {
            self.cancel.check()?;
            let batch = gather(&mut entries)?;
            if batch.is_empty() && ready.is_empty() {
                break;
            }
            let (emitted, loaded) = rayon::join(|| self.emit(std::mem::take(&mut ready)), || load(batch));
            emitted?;
            ready = loaded?;
        }
        let Self { tar, done, .. } = self;
        let (writer, size) = tar.finish().map_err(write_error)?;
        Ok((done, size, writer))
    }

    fn emit(&mut self, batch: Vec<Loaded>) -> Result<()> {
        for Loaded { mut entry, content } in batch {
            let target = match &entry.kind {
                Kind::Hardlink(to) => self.done.binary_search_by(|e| e.path.cmp(to)).ok().map(|at| &self.done[at]),
                _ => None,
            };
            self.tar.entry(&entry, target).map_err(tar_error)?;
            if let Kind::File { size, content: hash } = &mut entry.kind {
                let actual = match content {
                    Ready::Bytes(bytes, hash) if bytes.len() as u64 == *size => {
                        self.tar.data(&bytes).map_err(write_error)?;
                        hash
                    }
                    Ready::Nothing | Ready::Bytes(..) => return Err(LayerError::ContextChanged(entry.path)),
                    Ready::File(file) => self.large_file(&entry.path, *size, &file)?,
                    Ready::Reader(mut reader) => self.large(&entry.path, *size, &mut reader)?,
                };
                match self.hashes {
                    Hashes::Verify if actual != *hash => return Err(LayerError::ContextChanged(entry.path)),
                    Hashes::Verify => {}
                    Hashes::Fill => *hash = actual,
                }
            }
            self.done.push(entry);
        }
        Ok(())
    }

    fn large(&mut self, path: &LayerPath, size: u64, reader: &mut dyn Read) -> Result<Blake3> {
        let mut hasher = blake3::Hasher::new();
        self.copy(path, size, reader, &mut hasher)?;
        at_end(path, reader)?;
        Ok(Blake3(*hasher.finalize().as_bytes()))
    }

    /// Copies exactly `bytes` bytes.
    fn copy(&mut self, path: &LayerPath, bytes: u64, reader: &mut dyn Read, hasher: &mut blake3::Hasher) -> Result<()> {
        let mut piece = vec![0; PIECE.min(bytes as usize)];
        let mut left = bytes;
        while left > 0 {
            self.cancel.check()?;
            let want = left.min(piece.len() as u64) as usize;
            let n = match reader.read(&mut piece[..want]) {
                Ok(0) => return Err(LayerError::ContextChanged(path.clone())),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(LayerError::Content { path: path.clone(), source }),
            };
            hasher.update(&piece[..n]);
            self.tar.data(&piece[..n]).map_err(write_error)?;
            left -= n as u64;
        }
        Ok(())
    }

    /// Copies a file, reading only what is not a hole.
    fn large_file(&mut self, path: &LayerPath, size: u64, file: &File) -> Result<Blake3> {
        let fail = |source| LayerError::Content { path: path.clone(), source };
        let stat = rustix::fs::fstat(file).map_err(|e| fail(e.into()))?;
        if stat.st_size as u64 != size {
            return Err(LayerError::ContextChanged(path.clone()));
        }
        if (stat.st_blocks as u64).saturating_mul(512) >= size {
            return self.large(path, size, &mut &*file);
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(rustix::io::Errno::NXIO) => size,
                // Not every file system knows its holes.
                Err(rustix::io::Errno::INVAL) => {
                    rustix::fs::seek(file, SeekFrom::Start(at)).map_err(|e| fail(e.into()))?;
                    self.copy(path, size - at, &mut &*file, &mut hasher)?;
                    break;
                }
                Err(e) => return Err(fail(e.into())),
            };
            self.copy(path, data - at, &mut io::repeat(0), &mut hasher)?;
            if data < size {
                let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).map_err(|e| fail(e.into()))?.min(size);
                rustix::fs::seek(file, SeekFrom::Start(data)).map_err(|e| fail(e.into()))?;
                self.copy(path, hole - data, &mut &*file, &mut hasher)?;
                at = hole;
            } else {
                at = size;
            }
        }
        if rustix::fs::fstat(file.as_fd()).map_err(|e| fail(e.into()))?.st_size as u64 != size {
            return Err(LayerError::ContextChanged(path.clone()));
        }
        Ok(Blake3(*hasher.finalize().as_bytes()))
    }
}

/// A content that goes on after its size has changed.
fn at_end(path: &LayerPath, reader: &mut dyn Read) -> Result<()> {
    let mut one = [0];
    loop {
        return match reader.read(&mut one) {
            Ok(0) => Ok(()),
            Ok(_) => Err(LayerError::ContextChanged(path.clone())),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => Err(LayerError::Content { path: path.clone(), source }),
        };
    }
}

fn tar_error(error: TarError) -> LayerError {
    match error {
        TarError::Io(source) => write_error(source),
        other => LayerError::Tar(other),
    }
}

fn gather(entries: &mut impl Iterator<Item = Result<(Entry, Content)>>) -> Result<Vec<(Entry, Content)>> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
        let Some(next) = entries.next() else { break };
        let (entry, content) = next?;
        if let Kind::File { size, .. } = entry.kind {
            bytes += size.min(SMALL);
        }
        batch.push((entry, content));
    }
    Ok(batch)
}

fn load(batch: Vec<(Entry, Content)>) -> Result<Vec<Loaded>> {
    batch.into_par_iter().with_min_len(8).map(load_one).collect()
}

fn load_one((entry, mut content): (Entry, Content)) -> Result<Loaded> {
    let Kind::File { size, .. } = entry.kind else { return Ok(Loaded { entry, content: Ready::Nothing }) };
    let fail = |source: io::Error| LayerError::Content { path: entry.path.clone(), source };
    while let Content::Open(open) = content {
        content = open().map_err(fail)?;
    }
    let content = match content {
        Content::None | Content::Open(_) => bytes(Vec::new()),
        Content::Bytes(all) => bytes(all),
        Content::File(file) if size <= SMALL => bytes(whole(file.into_file(), size).map_err(fail)?),
        Content::Reader(reader) if size <= SMALL => bytes(whole(reader, size).map_err(fail)?),
        Content::File(file) => Ready::File(file.into_file()),
        Content::Reader(reader) => Ready::Reader(reader),
    };
    Ok(Loaded { entry, content })
}

fn bytes(all: Vec<u8>) -> Ready {
    let hash = Blake3::of(&all);
    Ready::Bytes(all, hash)
}

/// Reads what should be `size` bytes; one more if there are more.
fn whole(reader: impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(size as usize + 1);
    reader.take(size + 1).read_to_end(&mut all)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::samples;

    fn run(entries: Vec<(Entry, Content)>) -> Result<Vec<u8>> {
        stream(entries.into_iter().map(Ok), Hashes::Verify, &Cancel::new(), Vec::new()).map(|done| done.sink)
    }

    fn file(path: &str, content: &[u8]) -> Entry {
        let kind = Kind::File { size: content.len() as u64, content: Blake3::of(content) };
        Entry { kind, ..samples::entry(&format!("f {path}")) }
    }

    #[test]
    fn changed_contents_are_noticed() {
        let error = |content| run(vec![(file("a/b", b"abc"), content)]).expect_err("changed").to_string();
        let text = "context changed while being read: /a/b";
        assert_eq!(error(Content::Bytes(b"abd".to_vec())), text);
        assert_eq!(error(Content::Reader(Box::new(&b"ab"[..]))), text);
        assert_eq!(error(Content::Reader(Box::new(&b"abcd"[..]))), text);
        assert_eq!(error(Content::Open(Box::new(|| Ok(Content::None)))), text);
        let failing = Content::Open(Box::new(|| Err(io::Error::other("gone"))));
        assert_eq!(error(failing), "read /a/b: gone");
        let large = vec![1; 3 << 20];
        let mut short = large.clone();
        short.pop();
        assert!(run(vec![(file("x", &large), Content::Reader(Box::new(io::Cursor::new(short))))]).is_err());
        let mut other = large.clone();
        other[5] = 2;
        assert!(run(vec![(file("x", &large), Content::Reader(Box::new(io::Cursor::new(other))))]).is_err());
    }

    #[test]
    fn sparse_files_are_read_as_dense() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("sparse");
        let mut dense = vec![0; 5 << 20];
        dense[2_000_000..2_000_003].copy_from_slice(b"abc");
        let sparse = fs_err::File::create(&path).expect("made");
        std::os::unix::fs::FileExt::write_all_at(sparse.file(), b"abc", 2_000_000).expect("written");
        sparse.set_len(5 << 20).expect("set");
        let from_file = run(vec![(file("f", &dense), Content::File(fs_err::File::open(&path).expect("there")))]);
        let from_bytes = run(vec![(file("f", &dense), Content::Bytes(dense.clone()))]);
        assert!(from_file.expect("same") == from_bytes.expect("same"));
    }

    #[test]
    fn cancelling_and_failing_sinks_end_it() {
        #[derive(Debug)]
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("full"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let many = || (0..20_000).map(|n| Ok((file(&format!("{n:05}"), &[7; 900]), Content::Bytes(vec![7; 900]))));
        let error = stream(many(), Hashes::Verify, &Cancel::new(), Full).expect_err("full");
        assert_eq!(error.to_string(), "write layer: full");
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(matches!(stream(many(), Hashes::Verify, &cancel, Vec::new()), Err(LayerError::Cancelled(_))));
    }
}
