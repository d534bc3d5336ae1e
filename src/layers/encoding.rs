//! An index as bytes: compact, versioned, fast to read, and checked.
//!
//! `rbindex` VERSION COUNT entries BLAKE3. Paths share a prefix with the one before; numbers are little-endian base 128.
//! The final hash covers all that precedes it: an index torn by a power loss is a missing index, never a wrong one.

use std::collections::BTreeMap;

use rbuild_cache::digest::Blake3;

use super::index::{Index, IndexError};
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// Version of the byte form. The store keeps indexes in a directory whose name ends in it.
pub const INDEX_VERSION: u8 = 1;

const MAGIC: &[u8] = b"rbindex";

/// Bytes are not an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another version, another file, or cut short.
    #[error("not an index of version {INDEX_VERSION}, or damaged")]
    Damaged,
    /// Well-formed, but the entries make no sense together.
    #[error("inconsistent index: {0}")]
    Inconsistent(#[from] IndexError),
}

impl Index {
    /// The index as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.entries().len() * 64);
        out.extend_from_slice(MAGIC);
        out.push(INDEX_VERSION);
        number(&mut out, self.entries().len() as u64);
        let mut before: &[u8] = b"";
        for entry in self.entries() {
            let path = entry.path.as_bytes();
            let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
            number(&mut out, shared as u64);
            field(&mut out, &path[shared..]);
            before = path;
            write_kind(&mut out, &entry.kind);
            if !matches!(entry.kind, Kind::Hardlink(_) | Kind::Whiteout) {
                write_meta(&mut out, &entry.meta);
            }
        }
        let check = Blake3::of(&out);
        out.extend_from_slice(&check.0);
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (body, check) = bytes.split_last_chunk::<32>().ok_or(DecodeError::Damaged)?;
        if Blake3::of(body).0 != *check {
            return Err(DecodeError::Damaged);
        }
        let entries = Decoder(body).entries().ok_or(DecodeError::Damaged)?;
        Ok(Self::new(entries)?)
    }
}

fn write_kind(out: &mut Vec<u8>, kind: &Kind) {
    match kind {
        Kind::File { size, content } => {
            out.push(0);
            number(out, *size);
            out.extend_from_slice(&content.0);
        }
        Kind::Directory { opaque } => out.push(if *opaque { 2 } else { 1 }),
        Kind::Symlink(to) => {
            out.push(3);
            field(out, to);
        }
        Kind::Hardlink(to) => {
            out.push(4);
            field(out, to.as_bytes());
        }
        Kind::CharDevice(major, minor) => device(out, 5, *major, *minor),
        Kind::BlockDevice(major, minor) => device(out, 6, *major, *minor),
        Kind::Fifo => out.push(7),
        Kind::Whiteout => out.push(8),
    }
}

fn device(out: &mut Vec<u8>, tag: u8, major: u32, minor: u32) {
    out.push(tag);
    number(out, major.into());
    number(out, minor.into());
}

fn write_meta(out: &mut Vec<u8>, meta: &Meta) {
    number(out, meta.mode.into());
    number(out, meta.uid.into());
    number(out, meta.gid.into());
    // Zigzag: small negative times stay small.
    number(out, (meta.mtime.cast_unsigned() << 1) ^ (meta.mtime >> 63).cast_unsigned());
    number(out, meta.xattrs.len() as u64);
    for (key, value) in &meta.xattrs {
        field(out, key);
        field(out, value);
    }
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads fields off the front; `None` means damaged.
struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn entries(mut self) -> Option<Vec<Entry>> {
        self.0 = self.0.strip_prefix(MAGIC)?;
        if self.byte()? != INDEX_VERSION {
            return None;
        }
        let count = self.number()?;
        // An entry takes at least three bytes.
        if count > self.0.len() as u64 {
            return None;
        }
        let mut entries = Vec::with_capacity(count as usize);
        let mut path: Vec<u8> = Vec::new();
        for _ in 0..count {
            let shared = usize::try_from(self.number()?).ok().filter(|n| *n <= path.len())?;
            path.truncate(shared);
            path.extend_from_slice(self.field()?);
            let clean = LayerPath::clean(&path);
            if clean.as_bytes() != path {
                return None;
            }
            let kind = self.kind()?;
            let meta = match kind {
                Kind::Hardlink(_) | Kind::Whiteout => Meta::default(),
                _ => self.meta()?,
            };
            entries.push(Entry { path: clean, kind, meta });
        }
        self.0.is_empty().then_some(entries)
    }

    fn kind(&mut self) -> Option<Kind> {
        Some(match self.byte()? {
            0 => Kind::File { size: self.number()?, content: Blake3(self.take(32)?.try_into().ok()?) },
            1 => Kind::Directory { opaque: false },
            2 => Kind::Directory { opaque: true },
            3 => Kind::Symlink(self.field()?.to_vec()),
            4 => Kind::Hardlink(LayerPath::clean(self.field()?)),
            5 => Kind::CharDevice(self.small()?, self.small()?),
            6 => Kind::BlockDevice(self.small()?, self.small()?),
            7 => Kind::Fifo,
            8 => Kind::Whiteout,
            _ => return None,
        })
    }

    fn meta(&mut self) -> Option<Meta> {
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let zigzag = self.number()?;
        let mtime = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.number()? {
            xattrs.insert(self.field()?.to_vec(), self.field()?.to_vec());
        }
        Some(Meta { mode, uid, gid, mtime, xattrs })
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layers::samples;

    #[test]
    fn torn_and_foreign_bytes_are_refused() {
        let whole = samples::index(&["d a", "f a/b", "w a/c"]).encode();
        assert!(Index::decode(&whole).is_ok());
        for cut in [0, 5, whole.len() / 2, whole.len() - 1] {
            assert_eq!(Index::decode(&whole[..cut]), Err(DecodeError::Damaged));
        }
        let mut other = whole;
        other[7] += 1;
        assert_eq!(Index::decode(&other), Err(DecodeError::Damaged));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(index in samples::any_index()) {
            prop_assert_eq!(Index::decode(&index.encode()).expect("own output"), index);
        }

        #[test]
        fn arbitrary_bodies_never_panic(mut body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.push(INDEX_VERSION);
            bytes.append(&mut body);
            let check = Blake3::of(&bytes);
            bytes.extend_from_slice(&check.0);
            let _any = Index::decode(&bytes);
        }
    }
}
