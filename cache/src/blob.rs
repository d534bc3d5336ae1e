//! Bytes by their sha256.
//!
//! ```text
//! blobs-v1/ab/<62 hex>/data     the bytes
//! blobs-v1/ab/<62 hex>/stamp    envelope without payload: who completed it, when; mtime: last use
//! ```
//! Written in `tmp/`, hashed on the way, verified, then renamed into place as a whole. Content found whole under a stamp that is
//! not believed (power was lost), or that was written to since, is hashed once and stamped anew.

use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use sha2::Digest as _;

use crate::digest::{BlobDigest, Sha256};
use crate::error::{At as _, Result, StoreError};
use crate::object::{Object, STAMP};
use crate::room::Room;
use crate::store::Store;
use crate::temp::{TempDir, create_new, write_new};

const DATA: &str = "data";
/// Writes and hashes go in pieces of this size.
const PIECE: usize = 256 << 10;

/// A blob that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// The file with exactly the blob's bytes.
    pub path: PathBuf,
    /// How many they are.
    pub size: u64,
}

impl Store {
    /// The blob's file, marked as used; `None` when we do not have it.
    pub fn blob(&self, digest: &BlobDigest) -> Result<Option<BlobRef>> {
        let object = Object::Blob(*digest);
        let directory = self.inner.root.join(object.path());
        let path = directory.join(DATA);
        let believed = match self.inner.stamp_of(&directory)? {
            Some((_, believed)) => believed,
            None => match rustix::fs::lstat(&path) {
                Ok(_) => false,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(e) => return Err(e).at("stat", &path),
            },
        };
        if (!believed || was_written_to(&directory)) && !self.verify_blob(digest)? {
            return Ok(None);
        }
        if !self.inner.mark(&object)? {
            return Ok(None);
        }
        match rustix::fs::lstat(&path) {
            Ok(stat) => Ok(Some(BlobRef { path, size: stat.st_size as u64 })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e).at("stat", &path),
        }
    }

    /// Opens a blob for reading; `None` when we do not have it.
    pub fn open_blob(&self, digest: &BlobDigest) -> Result<Option<fs_err::File>> {
        let Some(blob) = self.blob(digest)? else { return Ok(None) };
        match fs_err::File::open(&blob.path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at("open", &blob.path),
        }
    }

    /// Starts writing a blob.
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        let directory = self.temp_dir("blob")?;
        let path = directory.path().join(DATA);
        let file = create_new(&path).at("make", &path)?;
        Ok(BlobWriter {
            store: self.clone(),
            directory,
            file,
            path,
            pending: Vec::new(),
            hasher: sha2::Sha256::new(),
            written: 0,
            room: self.room(),
        })
    }

    /// Stores bytes that are at hand.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<BlobDigest> {
        let mut writer = self.blob_writer()?;
        writer.add(bytes)?;
        writer.commit(None).map(|(digest, _)| digest)
    }

    /// Removes a blob, in use or not; false when there was none.
    pub fn remove_blob(&self, digest: &BlobDigest) -> Result<bool> {
        let path = self.inner.root.join(Object::Blob(*digest).path());
        let there = rustix::fs::lstat(&path).is_ok();
        self.inner.evict_path(&path).map(|()| there)
    }

    /// Hashes a blob: stamps it anew, or removes it and says no.
    pub fn verify_blob(&self, digest: &BlobDigest) -> Result<bool> {
        let object = Object::Blob(*digest);
        let directory = self.inner.root.join(object.path());
        let path = directory.join(DATA);
        let mut file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).at("open", &path),
        };
        let mut hasher = sha2::Sha256::new();
        let mut piece = vec![0; PIECE];
        loop {
            let n = file.read(&mut piece).at("read", &path)?;
            if n == 0 {
                break;
            }
            hasher.update(&piece[..n]);
        }
        if Sha256(hasher.finalize().into()) == digest.0 {
            self.inner.restamp(&object, &digest.to_string())
        } else {
            self.inner.evict_path(&directory).map(|()| false)
        }
    }
}

/// Whether the bytes were written to after they were complete, which nobody does who knows what they are. The stamp came after
/// the last byte, and is made anew when they were found whole all the same. A file system without times of birth cannot tell.
fn was_written_to(directory: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let data = rustix::fs::statx(CWD, directory.join(DATA), flags, StatxFlags::MTIME);
    let stamp = rustix::fs::statx(CWD, directory.join(STAMP), flags, StatxFlags::BTIME);
    let (Ok(data), Ok(stamp)) = (data, stamp) else { return false };
    let knows_birth = stamp.stx_mask & StatxFlags::BTIME.bits() != 0;
    let moment = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    knows_birth && moment(data.stx_mtime) > moment(stamp.stx_btime)
}

/// A blob being written; hashed on the way. Dropped without `commit` it is as if it had never been.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    directory: TempDir,
    file: std::fs::File,
    path: PathBuf,
    pending: Vec<u8>,
    hasher: sha2::Sha256,
    written: u64,
    room: Room,
}

impl BlobWriter {
    /// Reserves room below the ceiling for a blob whose size is known; without it room is reserved as it grows.
    pub fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.room.reserve(bytes)
    }

    /// How many bytes were written so far.
    pub fn len(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds bytes; the same as `write_all` with typed errors.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        if self.pending.len() + bytes.len() < PIECE {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        }
        self.drain()?;
        if bytes.len() < PIECE {
            self.pending.extend_from_slice(bytes);
            return Ok(());
        }
        self.out(bytes)
    }

    /// Publishes the blob under its digest, which must be `expected` when that is given. Storing a blob again keeps the old one.
    pub fn commit(mut self, expected: Option<BlobDigest>) -> Result<(BlobDigest, u64)> {
        self.drain()?;
        let digest = BlobDigest(Sha256(std::mem::take(&mut self.hasher).finalize().into()));
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(StoreError::DigestMismatch { expected, actual: digest });
        }
        let store = &self.store;
        let stamp = self.directory.path().join(STAMP);
        store.with_room(0, || {
            let _a_partial_one = rustix::fs::unlink(&stamp);
            write_new(&stamp, &store.inner.sealed_stamp(&digest.to_string())).at("write", &stamp)
        })?;
        let new = store.with_room(0, || store.inner.publish(&Object::Blob(digest), self.directory.path()))?;
        if new {
            self.store.inner.ledger.wrote(self.written);
        }
        Ok((digest, self.written))
    }

    fn drain(&mut self) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        self.out(&pending)?;
        pending.clear();
        self.pending = pending;
        Ok(())
    }

    fn out(&mut self, bytes: &[u8]) -> Result<()> {
        self.room.take(bytes.len() as u64)?;
        self.hasher.update(bytes);
        let mut rest = bytes;
        let (file, path) = (&mut self.file, &self.path);
        self.store.with_room(bytes.len() as u64, || {
            while !rest.is_empty() {
                match file.write(rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).at("write", path),
                }
            }
            Ok(())
        })?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: bytes count when they are committed.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
