//! The safe reader: a tar stream in, checked entries out, one at a time, in the archive's order.
//!
//! Nothing in an archive is believed: names are cleaned so that they stay below the root, every count and length has a
//! named limit, sizes only bound how much is read, never how much is reserved. Headers are understood the way Go's
//! archive/tar does it (which is what image layers are made for): PAX before ustar, GNU long names before PAX, global
//! headers checked but not applied. The reader does not know whether entries make sense together; see `layers::fold`.

use std::io::{self, Read};

use ::tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::entry::{LayerPath, Meta};
use super::pax::Pax;
use super::sparse::{Expand, Map};
use super::{AUFS_PREFIX, BLOCK, OPAQUE_NAME, TarError, WHITEOUT_PREFIX, padded};

/// Most entries of one archive: an index of this many still fits in memory.
pub const MAX_ENTRIES: u64 = 5_000_000;
/// Longest name or link target: Linux's PATH_MAX; nothing longer can be opened by the programs in an image.
pub const MAX_PATH: usize = 4096;
/// Longest part of a name between slashes: what every Linux file system can hold.
pub const MAX_NAME: usize = 255;
/// Largest extended header or long name; Go's reader stops at the same size.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Largest value of an extended attribute: the kernel's XATTR_SIZE_MAX.
pub const MAX_XATTR: usize = 64 << 10;
/// Largest file, holes included; a few bytes of sparse map can claim any size.
pub const MAX_FILE: u64 = 1 << 43;
/// Most parts of a sparse file.
pub const MAX_SPARSE_PARTS: usize = 1 << 20;

/// How names like `.wh.x` are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// As deletions, as in image layers.
    Interpret,
    /// As plain names, as in archives that a user adds.
    Literal,
}

/// One entry as the archive tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Cleaned name; for whiteouts the deleted name, for opaque markers the directory.
    pub path: LayerPath,
    /// What it is.
    pub kind: RawKind,
    /// Whose, and when (of hard links too; which name wins is not decided here).
    pub meta: Meta,
    /// Where its header begins, for messages.
    pub offset: u64,
}

/// What an entry of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawKind {
    /// A regular file of this size; its content follows.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// Another name of an earlier entry.
    Hardlink(LayerPath),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// The name is deleted from lower layers.
    Whiteout,
    /// The directory hides what lower layers have in it.
    Opaque,
}

/// Reads `input` up to the end-of-archive marker and hands each entry with its content to `each`, which need not read it.
pub fn read<R: Read, E: From<TarError>>(
    input: R,
    whiteouts: Whiteouts,
    each: &mut dyn FnMut(RawEntry, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader { input, offset: 0, entries: 0 };
    while let Some(member) = reader.next_member()? {
        let stored = member.stored;
        let end = padded(stored).ok_or_else(|| reader.malformed(member.offset, "size overflow"))?;
        let mut content = (&mut reader.input).take(stored);
        if let Some(entry) = member.interpret(whiteouts)? {
            match &member.sparse {
                Some(map) => each(entry, &mut Exact::new(Expand::new(&mut content, map), map.size))?,
                None => each(entry, &mut Exact::new(&mut content, stored))?,
            }
        }
        let left = content.limit();
        reader.skip(left + (end - stored)).map_err(TarError::from)?;
        reader.offset += end;
    }
    Ok(())
}

/// Whether `start`, the first bytes of a file, is a tar header.
pub fn looks_like_tar(start: &[u8]) -> bool {
    start.first_chunk::<BLOCK>().is_some_and(|block| block.iter().any(|b| *b != 0) && checksum_ok(block))
}

/// The content size a header block gives by itself; `None` if it is no header. Extended headers in front of it may say
/// otherwise: good for finding places to cut a stream, not for reading it.
pub fn content_size(header: &[u8; BLOCK]) -> Option<u64> {
    if header.iter().all(|b| *b == 0) || !checksum_ok(header) {
        return None;
    }
    match header[156] {
        b'1'..=b'6' => Some(0),
        _ => numeric(&header[124..136]).and_then(|size| u64::try_from(size).ok()),
    }
}

/// A header and everything that was said about it in front of it.
struct Member {
    offset: u64,
    flag: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    meta: Meta,
    /// Bytes of content in the archive.
    stored: u64,
    device: (u64, u64),
    sparse: Option<Map>,
}

struct Reader<R> {
    input: R,
    offset: u64,
    entries: u64,
}

impl<R: Read> Reader<R> {
    #[expect(clippy::unused_self, reason = "reads better at the call sites")]
    fn malformed(&self, offset: u64, reason: impl Into<String>) -> TarError {
        TarError::Malformed { offset, reason: reason.into() }
    }

    /// The next entry with its extensions applied; `None` at the end of the archive.
    fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let (mut pax, mut long_name, mut long_link) = (None, None, None);
        loop {
            let offset = self.offset;
            let Some(header) = self.header()? else {
                return match (&pax, &long_name, &long_link) {
                    (None, None, None) => Ok(None),
                    _ => Err(self.malformed(offset, "the archive ends after an extended header")),
                };
            };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TarError::Limit { offset, what: "number of entries", limit: MAX_ENTRIES });
            }
            match header.as_old().linkflag[0] {
                b'x' => {
                    let body = self.extension(&header, offset)?;
                    pax = Some(Pax::parse(&body).map_err(|reason| self.malformed(offset, reason))?);
                }
                b'g' => {
                    let body = self.extension(&header, offset)?;
                    Pax::parse(&body).map_err(|reason| self.malformed(offset, reason))?;
                }
                b'L' => long_name = Some(until_nul(self.extension(&header, offset)?)),
                b'K' => long_link = Some(until_nul(self.extension(&header, offset)?)),
                _ => return self.member(offset, &header, pax.unwrap_or_default(), long_name, long_link).map(Some),
            }
        }
    }

    /// Reads one header block; `None` at two zero blocks or the end of the input.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let offset = self.offset;
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            if self.block(header.as_mut_bytes())? && header.as_bytes().iter().any(|b| *b != 0) {
                return Err(self.malformed(offset, "a lone zero block"));
            }
            return Ok(None);
        }
        if !checksum_ok(header.as_bytes()) {
            return Err(self.malformed(offset, "header checksum mismatch"));
        }
        Ok(Some(header))
    }

    /// Fills a block; `false` if the input ends right before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut have = 0;
        while have < BLOCK {
            match self.input.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(false),
                Ok(0) => return Err(ends_early().into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }

    /// Reads the body of an extended header.
    fn extension(&mut self, header: &Header, offset: u64) -> Result<Vec<u8>, TarError> {
        let size = self.unsigned(offset, &header.as_old().size)?;
        if size > MAX_EXTENSION {
            return Err(TarError::Limit { offset, what: "size of an extended header", limit: MAX_EXTENSION });
        }
        let mut body = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut body)?;
        if body.len() as u64 != size {
            return Err(ends_early().into());
        }
        self.offset += size;
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.skip(padding)?;
        self.offset += padding;
        Ok(body)
    }

    fn member(
        &mut self,
        offset: u64,
        header: &Header,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member, TarError> {
        let old = header.as_old();
        let mut name = long_name.or(pax.path).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link
            .or(pax.linkpath)
            .unwrap_or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default());
        let mut size = match pax.size {
            Some(size) => size,
            None => self.unsigned(offset, &old.size)?,
        };
        let flag = match old.linkflag[0] {
            // Tars from before ustar mark directories by a slash.
            0 if name.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            flag => flag,
        };
        // Links, directories and specials have no content, whatever their size field says.
        if matches!(flag, b'1'..=b'6') {
            size = 0;
        }
        let mut sparse = None;
        if flag == b'S' {
            sparse = Some(self.old_sparse(offset, header, size)?);
        } else if flag == b'0' && (pax.sparse.real_size.is_some() || pax.sparse.major.is_some()) {
            let records = &pax.sparse;
            if let Some(real) = &records.name {
                name.clone_from(real);
            }
            let real_size = records.real_size.ok_or_else(|| self.malformed(offset, "sparse file without a size"))?;
            let segments = match (records.major.unwrap_or(0), records.minor.unwrap_or(0)) {
                (0, _) => match &records.map {
                    Some(text) => Map::parse_list(text).map_err(|reason| self.malformed(offset, reason))?,
                    None => records.segments.clone(),
                },
                (1, 0) => {
                    let (segments, used) = self.sparse_map_in_content(offset, size)?;
                    size -= used;
                    segments
                }
                (major, minor) => {
                    return Err(self.malformed(offset, format!("unknown sparse format {major}.{minor}")));
                }
            };
            sparse = Some(self.sparse_map(offset, segments, real_size, size)?);
        }
        let whole = sparse.as_ref().map_or(size, |map| map.size);
        if whole > MAX_FILE {
            return Err(TarError::Limit { offset, what: "size of a file", limit: MAX_FILE });
        }
        for (what, text) in [("length of a name", &name), ("length of a link target", &link)] {
            if text.len() > MAX_PATH {
                return Err(TarError::Limit { offset, what, limit: MAX_PATH as u64 });
            }
        }
        if name.split(|b| *b == b'/').any(|part| part.len() > MAX_NAME) {
            return Err(TarError::Limit { offset, what: "length of a part of a name", limit: MAX_NAME as u64 });
        }
        if let Some(large) = pax.xattrs.iter().find(|(name, value)| name.len() > MAX_NAME || value.len() > MAX_XATTR) {
            let what = if large.0.len() > MAX_NAME { "extended attribute's name" } else { "extended attribute" };
            return Err(TarError::Limit { offset, what, limit: MAX_XATTR as u64 });
        }
        let owner = |id: u64| u32::try_from(id).map_err(|_| self.malformed(offset, format!("owner {id} out of range")));
        let or = |given: Option<u64>, field: &[u8]| given.map_or_else(|| self.unsigned(offset, field), Ok);
        let meta = Meta {
            mode: (self.unsigned(offset, &old.mode)? & 0o7777) as u32,
            uid: owner(or(pax.uid, &old.uid)?)?,
            gid: owner(or(pax.gid, &old.gid)?)?,
            mtime: pax.mtime.map_or_else(|| self.signed(offset, &old.mtime), Ok)?,
            xattrs: pax.xattrs,
        };
        let device = match (flag, header.as_ustar(), header.as_gnu()) {
            (b'3' | b'4', Some(ustar), _) => {
                (self.unsigned(offset, &ustar.dev_major)?, self.unsigned(offset, &ustar.dev_minor)?)
            }
            (b'3' | b'4', None, Some(gnu)) => {
                (self.unsigned(offset, &gnu.dev_major)?, self.unsigned(offset, &gnu.dev_minor)?)
            }
            _ => (0, 0),
        };
        Ok(Member { offset, flag, name, link, meta, stored: size, device, sparse })
    }

    /// The map of GNU's first sparse format: in the header and in blocks right after it.
    fn old_sparse(&mut self, offset: u64, header: &Header, stored: u64) -> Result<Map, TarError> {
        let gnu = header.as_gnu().ok_or_else(|| self.malformed(offset, "sparse file in a header that is not GNU's"))?;
        let size = self.unsigned(offset, &gnu.realsize)?;
        let mut segments = Vec::new();
        self.sparse_parts(offset, &gnu.sparse, &mut segments)?;
        let mut more = gnu.isextended[0] != 0;
        while more {
            let mut next = GnuExtSparseHeader::new();
            if !self.block(next.as_mut_bytes())? {
                return Err(ends_early().into());
            }
            self.sparse_parts(offset, &next.sparse, &mut segments)?;
            more = next.isextended[0] != 0;
        }
        self.sparse_map(offset, segments, size, stored)
    }

    fn sparse_parts(&self, offset: u64, parts: &[GnuSparseHeader], into: &mut Vec<(u64, u64)>) -> Result<(), TarError> {
        for part in parts.iter().take_while(|part| part.offset[0] != 0) {
            into.push((self.unsigned(offset, &part.offset)?, self.unsigned(offset, &part.numbytes)?));
        }
        if into.len() > MAX_SPARSE_PARTS {
            return Err(TarError::Limit { offset, what: "parts of a sparse file", limit: MAX_SPARSE_PARTS as u64 });
        }
        Ok(())
    }

    /// Reads the decimal map at the start of a version 1.0 sparse file's content; also says how many bytes it took.
    fn sparse_map_in_content(&mut self, offset: u64, stored: u64) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let (mut text, mut at, mut used) = (Vec::new(), 0, 0);
        let mut next = |reader: &mut Self| -> Result<u64, TarError> {
            loop {
                if let Some(end) = text[at..].iter().position(|b| *b == b'\n') {
                    let value = super::pax::number(&text[at..at + end]).map_err(|e| reader.malformed(offset, e))?;
                    at += end + 1;
                    return Ok(value);
                }
                let mut block = [0; BLOCK];
                if used + BLOCK as u64 > stored || text.len() - at > BLOCK || !reader.block(&mut block)? {
                    return Err(reader.malformed(offset, "malformed sparse map"));
                }
                used += BLOCK as u64;
                text.extend_from_slice(&block);
            }
        };
        let count = next(self)?;
        if count > MAX_SPARSE_PARTS as u64 {
            return Err(TarError::Limit { offset, what: "parts of a sparse file", limit: MAX_SPARSE_PARTS as u64 });
        }
        let mut segments = Vec::new();
        for _ in 0..count {
            segments.push((next(self)?, next(self)?));
        }
        Ok((segments, used))
    }

    fn sparse_map(&self, offset: u64, parts: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Map, TarError> {
        if parts.len() > MAX_SPARSE_PARTS {
            return Err(TarError::Limit { offset, what: "parts of a sparse file", limit: MAX_SPARSE_PARTS as u64 });
        }
        Map::new(parts, size, stored).map_err(|reason| self.malformed(offset, reason))
    }

    fn unsigned(&self, offset: u64, field: &[u8]) -> Result<u64, TarError> {
        let value = self.signed(offset, field)?;
        u64::try_from(value).map_err(|_| self.malformed(offset, "negative number in a header"))
    }

    fn signed(&self, offset: u64, field: &[u8]) -> Result<i64, TarError> {
        numeric(field).ok_or_else(|| self.malformed(offset, "unreadable number in a header"))
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.input).take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(ends_early()) }
    }
}

impl Member {
    /// Turns header values into an entry; `None` for what counts for nothing: AUFS's bookkeeping in layers, and in added archives what
    /// is no directory and yet stands for the root (a file without a name), which Docker's unpacking passes over.
    fn interpret(&self, whiteouts: Whiteouts) -> Result<Option<RawEntry>, TarError> {
        let malformed = |reason: String| TarError::Malformed { offset: self.offset, reason };
        let mut path = LayerPath::clean(&self.name);
        let mut kind = match self.flag {
            // Some writers of later ones do so, too.
            b'0' if self.name.ends_with(b"/") => RawKind::Directory,
            b'0' | b'S' => RawKind::File(self.sparse.as_ref().map_or(self.stored, |map| map.size)),
            b'1' => RawKind::Hardlink(LayerPath::clean(&self.link)),
            b'2' if self.link.is_empty() => return Err(malformed("symbolic link without a target".to_owned())),
            b'2' => RawKind::Symlink(self.link.clone()),
            b'3' => RawKind::CharDevice(self.number(self.device.0)?, self.number(self.device.1)?),
            b'4' => RawKind::BlockDevice(self.number(self.device.0)?, self.number(self.device.1)?),
            b'5' => RawKind::Directory,
            b'6' => RawKind::Fifo,
            other => {
                let name = String::from_utf8_lossy(&self.name);
                return Err(malformed(format!("unsupported entry type {:?} of {name:?}", char::from(other))));
            }
        };
        if path.is_root() && kind != RawKind::Directory {
            if whiteouts == Whiteouts::Literal {
                return Ok(None);
            }
            return Err(malformed("an entry that is not a directory in place of the root".to_owned()));
        }
        if whiteouts == Whiteouts::Interpret {
            let parent = path.parent().unwrap_or_default();
            if path.name() == OPAQUE_NAME {
                (path, kind) = (parent, RawKind::Opaque);
            } else if path.components().any(|part| part.starts_with(AUFS_PREFIX)) {
                return Ok(None);
            } else if let Some(name) = path.name().strip_prefix(WHITEOUT_PREFIX) {
                if matches!(name, b"" | b"." | b"..") {
                    return Err(malformed(format!("a deletion of {:?}", String::from_utf8_lossy(name))));
                }
                (path, kind) = (parent.join(name), RawKind::Whiteout);
            }
        }
        Ok(Some(RawEntry { path, kind, meta: self.meta.clone(), offset: self.offset }))
    }

    fn number(&self, value: u64) -> Result<u32, TarError> {
        u32::try_from(value).map_err(|_| TarError::Malformed {
            offset: self.offset,
            reason: format!("device number {value} out of range"),
        })
    }
}

/// Turns an end of input before `left` bytes into an error.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R> Exact<R> {
    fn new(inner: R, left: u64) -> Self {
        Self { inner, left }
    }
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(ends_early());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the tar ends in the middle of an entry")
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
    text
}

fn checksum_ok(block: &[u8; BLOCK]) -> bool {
    let Some(wanted) = numeric(&block[148..156]) else { return false };
    let bytes = || block[..148].iter().chain(b"        ").chain(&block[156..]);
    // Some old tars summed signed bytes.
    bytes().map(|b| i64::from(*b)).sum::<i64>() == wanted
        || bytes().map(|b| i64::from(b.cast_signed())).sum::<i64>() == wanted
}

/// A header's number: octal text with blanks and NULs around it, or GNU's big-endian binary form.
fn numeric(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement in all bits after the marker.
        let negative = first & 0x40 != 0;
        let start = if negative { i128::from(first | 0x80) - 0x100 } else { i128::from(first & 0x7f) };
        let value = rest.iter().try_fold(start, |sum, b| sum.checked_mul(256)?.checked_add(i128::from(*b)))?;
        return i64::try_from(value).ok();
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let text = &field[start..];
    let digits = &text[..text.iter().position(blank).unwrap_or(text.len())];
    digits.iter().try_fold(0i64, |sum, b| match b {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
