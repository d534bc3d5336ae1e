//! Archives that ADD unpacks: recognised by content, unpacked onto the canvas, confined to the destination.
//!
//! The archive is read once. Contents are hashed and appended to a spool as they pass, so memory holds entries only and the
//! layer can be written in its own order afterwards. Owners, modes and times are the archive's; directories it does not list
//! are 0:0 0755 (observed 36, 37). Tar headers and compressions are understood by `tar`.

use std::io::{self, BufReader, Read, Write};

use rbuild_cache::digest::Blake3;

use super::canvas::{Canvas, Leaf};
use super::copy::PARENT_MODE;
use super::error::TransferError;
use super::forest::{EMPTY, Forest};
use super::resolve::Seen;
use super::{Content, Link, Node, Planned, keeps_xattr};
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};
use crate::tar::reader::{self, looks_like_tar};
use crate::tar::{BLOCK, RawEntry, RawKind, TarError, Whiteouts, compression};

/// Read ahead of decompressors.
const BUFFER: usize = 128 << 10;

/// Whether a file is a tar, maybe compressed: its first header decides, as in Docker.
pub fn is_archive(content: Box<dyn Read + Send>) -> io::Result<bool> {
    let mut input = BufReader::with_capacity(BUFFER, content);
    // A file that cannot be read is a fault; one that cannot be decompressed is just no archive.
    if io::BufRead::fill_buf(&mut input)?.is_empty() {
        return Ok(false);
    }
    let Ok((plain, _)) = compression::plain(Box::new(input)) else { return Ok(false) };
    let mut start = Vec::with_capacity(BLOCK);
    let whole = plain.take(BLOCK as u64).read_to_end(&mut start);
    Ok(whole.is_ok() && start.len() == BLOCK && looks_like_tar(&start))
}

/// Where contents go while an archive is read, and how far it is filled.
pub struct Spool<'a> {
    output: &'a mut dyn Write,
    end: u64,
}

impl std::fmt::Debug for Spool<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("end", &self.end).finish_non_exhaustive()
    }
}

impl<'a> Spool<'a> {
    /// An empty spool that writes to `output`.
    pub fn new(output: &'a mut dyn Write) -> Self {
        Self { output, end: 0 }
    }

    /// Appends all of `content`; returns where it begins, how long it is and its hash.
    fn append(&mut self, content: &mut dyn Read) -> Result<(u64, u64, Blake3), UnpackError> {
        let begin = self.end;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(UnpackError::Damaged(e.to_string())),
            };
            hasher.update(&buffer[..n]);
            self.output.write_all(&buffer[..n]).map_err(|e| UnpackError::Transfer(TransferError::Spool(e)))?;
            self.end += n as u64;
        }
        Ok((begin, self.end - begin, Blake3(*hasher.finalize().as_bytes())))
    }
}

/// Why unpacking stopped.
pub(super) enum UnpackError {
    Damaged(String),
    Transfer(TransferError),
}

impl From<TarError> for UnpackError {
    fn from(error: TarError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<TransferError> for UnpackError {
    fn from(error: TransferError) -> Self {
        Self::Transfer(error)
    }
}

impl UnpackError {
    pub(super) fn into_transfer(self, damaged: impl FnOnce(String) -> TransferError) -> TransferError {
        match self {
            Self::Damaged(reason) => damaged(reason),
            Self::Transfer(error) => error,
        }
    }
}

/// Unpacks one archive below one directory.
pub(super) struct Unpacker<'c, 'a, 's, 'o> {
    canvas: &'c mut Canvas<'a>,
    top: &'c LayerPath,
    owner: Option<(u32, u32)>,
    now: i64,
    spool: &'s mut Spool<'o>,
}

impl<'c, 'a, 's, 'o> Unpacker<'c, 'a, 's, 'o> {
    pub(super) fn new(
        canvas: &'c mut Canvas<'a>,
        top: &'c LayerPath,
        owner: Option<(u32, u32)>,
        now: i64,
        spool: &'s mut Spool<'o>,
    ) -> Self {
        Self { canvas, top, owner, now, spool }
    }

    pub(super) fn unpack(mut self, archive: Box<dyn Read + Send>) -> Result<(), UnpackError> {
        let input = BufReader::with_capacity(BUFFER, archive);
        let (plain, _) = compression::plain(Box::new(input)).map_err(TarError::from)?;
        reader::read(plain, Whiteouts::Literal, &mut |entry, content| self.member(entry, content))
    }

    fn member(&mut self, member: RawEntry, content: &mut dyn Read) -> Result<(), UnpackError> {
        let Some(parent) = member.path.parent() else { return Ok(()) };
        let parent = self.canvas.resolve_below(self.top, &parent)?;
        let implied = Meta { mode: PARENT_MODE, mtime: self.now, ..Meta::default() };
        self.canvas.make_dirs(&parent, &implied)?;
        let path = parent.join(member.path.name());
        let there = self.canvas.see(&path)?;
        let mut meta = member.meta;
        (meta.uid, meta.gid) = self.owner.unwrap_or((meta.uid, meta.gid));
        meta.xattrs.retain(|name, _| keeps_xattr(name));
        let mut contents = Content::None;
        let kind = match member.kind {
            RawKind::Directory if there == Seen::Directory => return Ok(self.canvas.change_dir(&path, meta)?),
            RawKind::Directory => return Ok(self.canvas.new_dir(&path, meta, true)?),
            RawKind::File(_) => {
                let (begin, size, content) = self.spool.append(content)?;
                contents = Content::Spooled(begin);
                Kind::File { size, content }
            }
            RawKind::Hardlink(target) => return self.hard_link(&path, &target, &meta),
            RawKind::Symlink(target) => {
                meta.mode = 0o777;
                Kind::Symlink(target)
            }
            RawKind::CharDevice(major, minor) => Kind::CharDevice(major, minor),
            RawKind::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
            RawKind::Fifo => Kind::Fifo,
            // The reader was told to take these names literally.
            RawKind::Whiteout | RawKind::Opaque => return Ok(()),
        };
        Ok(self.canvas.put_leaf(&path, Leaf { kind, meta, content: contents, group: None })?)
    }

    fn hard_link(&mut self, path: &LayerPath, target: &LayerPath, meta: &Meta) -> Result<(), UnpackError> {
        let parent = self.canvas.resolve_below(self.top, &target.parent().unwrap_or_default())?;
        let missing = || UnpackError::Damaged(format!("hard link to {target}, which is not there or no file"));
        if target.is_root() {
            return Err(missing());
        }
        let leaf = self.canvas.link_to(&parent.join(target.name()), meta)?.ok_or_else(missing)?;
        Ok(self.canvas.put_leaf(path, leaf)?)
    }
}

/// Unpacks an archive into an empty root: a tree whose contents lie in `spool` from the offsets on that go with its files.
pub fn unpack_all(
    archive: Box<dyn Read + Send>,
    spool: &mut dyn Write,
    now: i64,
) -> Result<Forest<Option<u64>>, TransferError> {
    let top = LayerPath::root();
    let nothing = EMPTY;
    let mut canvas = Canvas::new(&nothing);
    let mut spool = Spool::new(spool);
    let damaged = |reason| TransferError::Archive { source_index: 0, path: LayerPath::root(), reason };
    Unpacker::new(&mut canvas, &top, None, now, &mut spool).unpack(archive).map_err(|e| e.into_transfer(damaged))?;
    let mut forest: Forest<Option<u64>> = Forest::default();
    for (Planned { entry, content, .. }, n) in canvas.finish()?.0.into_iter().zip(0..) {
        // Any file may get further names below: each has a number of its own, which its other names take over.
        let (node, offset) = match &entry.kind {
            Kind::Hardlink(first) => match forest.get(first) {
                Some((node, offset)) => {
                    let same = Entry { path: entry.path.clone(), ..node.entry.clone() };
                    (Node { entry: same, link: node.link }, *offset)
                }
                None => continue,
            },
            Kind::Directory { .. } => (Node::new(entry), None),
            Kind::File { .. }
            | Kind::Symlink(_)
            | Kind::CharDevice(..)
            | Kind::BlockDevice(..)
            | Kind::Fifo
            | Kind::Whiteout => {
                let offset = if let Content::Spooled(offset) = content { Some(offset) } else { None };
                (Node { entry, link: Some(Link(0, n)) }, offset)
            }
        };
        forest.insert(node, offset);
    }
    Ok(forest)
}
