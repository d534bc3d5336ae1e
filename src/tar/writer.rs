//! The canonical tar: one way to write each entry, decided here byte by byte.
//!
//! ustar headers; PAX records only for what ustar cannot say (long or non-ASCII names, sizes from 8 GiB, large owners,
//! times before 1970 or after 2242, xattrs), in key order; whole seconds; no user or group names; no device numbers except
//! on devices. Directories end in a slash. The writer does not sort and does not know what a layer is: callers hand in
//! entries in `LayerPath` order. Any change to the bytes is a new [`TAR_VERSION`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

use super::entry::{Entry, Kind, LayerPath, Meta};
use super::reader::MAX_PATH;
use super::{BLOCK, OPAQUE_NAME, TarError, WHITEOUT_PREFIX};

/// Version of the canonical form; part of every `LayerId`.
pub const TAR_VERSION: u32 = 1;

/// Largest value of an eight-byte octal field (owner, device).
const MAX_OCTAL_7: u64 = 0o777_7777;
/// Largest value of a twelve-byte octal field (size, time).
const MAX_OCTAL_11: u64 = 0o777_7777_7777;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes entries in canonical form. After a file's entry exactly its size in bytes must be written as [`data`](Self::data).
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    scratch: Vec<u8>,
    /// Content bytes of the last entry that are still to come.
    owed: u64,
    /// Zero bytes after them.
    padding: usize,
    written: u64,
}

impl<W: Write> TarWriter<W> {
    /// Starts a tar in `out`.
    pub fn new(out: W) -> Self {
        Self { out, scratch: Vec::with_capacity(4 * BLOCK), owed: 0, padding: 0, written: 0 }
    }

    /// Writes the header of `entry`. For a hard link `target` must be the entry it names, whose metadata it repeats.
    pub fn entry(&mut self, entry: &Entry, target: Option<&Entry>) -> Result<(), TarError> {
        self.pad()?;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let encoded = encode(entry, target, &mut scratch);
        let written = encoded.and_then(|()| Ok(self.put(&scratch)?));
        self.scratch = scratch;
        written?;
        if let Kind::File { size, .. } = &entry.kind {
            self.owed = *size;
            self.padding = padding_after(*size);
        }
        Ok(())
    }

    /// Writes a piece of the last file's content.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.owed = self
            .owed
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more content than the entry's size"))?;
        self.put(bytes)
    }

    /// Copies up to `bytes` of the last file's content from `input`; without passing through here where both ends are files.
    /// Returns how many there were.
    pub fn data_from(&mut self, input: impl io::Read, bytes: u64) -> io::Result<u64> {
        let copied = io::copy(&mut input.take(bytes.min(self.owed)), &mut self.out)?;
        self.owed -= copied;
        self.written += copied;
        Ok(copied)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the archive and returns the output and its length.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.pad()?;
        self.put(&ZEROS)?;
        self.put(&ZEROS)?;
        Ok((self.out, self.written))
    }

    fn pad(&mut self) -> io::Result<()> {
        if self.owed > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "less content than the entry's size"));
        }
        let padding = std::mem::take(&mut self.padding);
        self.put(&ZEROS[..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Zero bytes that follow content of this size.
fn padding_after(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Appends the header blocks of `entry` to `out`; the content is not among them.
pub fn encode(entry: &Entry, target: Option<&Entry>, out: &mut Vec<u8>) -> Result<(), TarError> {
    let refuse = |reason| TarError::Unrepresentable { path: entry.path.clone(), reason };
    if entry.kind != Kind::Whiteout && entry.path.name().starts_with(WHITEOUT_PREFIX) {
        return Err(refuse("names that start with .wh. mean deletions there"));
    }
    if entry.path.as_bytes().len() > MAX_PATH {
        return Err(refuse("its name is longer than 4096 bytes"));
    }
    let no_xattrs = BTreeMap::new();
    let deleted = Meta::default();
    let mut header = Header {
        name: Cow::Borrowed(entry.path.as_bytes()),
        link: b"",
        flag: b'0',
        size: 0,
        device: None,
        meta: &entry.meta,
        xattrs: &entry.meta.xattrs,
    };
    let mut opaque = None;
    match &entry.kind {
        Kind::File { size, .. } => header.size = *size,
        Kind::Directory { opaque: is_opaque } => {
            header.flag = b'5';
            header.name = Cow::Owned(match entry.path.as_bytes() {
                b"" => b"./".to_vec(),
                name => [name, b"/"].concat(),
            });
            if *is_opaque {
                opaque = Some([header.name.as_ref(), OPAQUE_NAME].concat());
            }
        }
        Kind::Symlink(to) => {
            header.flag = b'2';
            header.link = to;
        }
        Kind::Hardlink(to) => {
            let target = target.ok_or_else(|| refuse("the target of this hard link is not an earlier entry"))?;
            debug_assert_eq!(to, &target.path, "the link's own target");
            header.flag = b'1';
            header.link = to.as_bytes();
            header.meta = &target.meta;
            header.xattrs = &target.meta.xattrs;
        }
        Kind::CharDevice(0, 0) => return Err(refuse("the character device 0/0 means a deletion there")),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor)
            if u64::from((*major).max(*minor)) > MAX_OCTAL_7 =>
        {
            return Err(refuse("a header has no room for its device number"));
        }
        Kind::CharDevice(major, minor) => {
            header.flag = b'3';
            header.device = Some((*major, *minor));
        }
        Kind::BlockDevice(major, minor) => {
            header.flag = b'4';
            header.device = Some((*major, *minor));
        }
        Kind::Fifo => header.flag = b'6',
        Kind::Whiteout => {
            header.name = Cow::Owned(whiteout_name(&entry.path));
            header.meta = &deleted;
            header.xattrs = &no_xattrs;
        }
    }
    header.encode(out).map_err(refuse)?;
    if let Some(name) = opaque {
        Header {
            name: Cow::Owned(name),
            link: b"",
            flag: b'0',
            size: 0,
            device: None,
            meta: &deleted,
            xattrs: &no_xattrs,
        }
        .encode(out)
        .map_err(refuse)?;
    }
    Ok(())
}

fn whiteout_name(path: &LayerPath) -> Vec<u8> {
    let whole = path.as_bytes();
    let at = whole.len() - path.name().len();
    [&whole[..at], WHITEOUT_PREFIX, path.name()].concat()
}

/// The values of one header before they are laid out.
struct Header<'a> {
    name: Cow<'a, [u8]>,
    link: &'a [u8],
    flag: u8,
    size: u64,
    device: Option<(u32, u32)>,
    meta: &'a Meta,
    xattrs: &'a BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Header<'_> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.name.contains(&0) || self.link.contains(&0) {
            return Err("its name or link target holds a NUL byte");
        }
        let mut records: BTreeMap<Vec<u8>, Cow<'_, [u8]>> = BTreeMap::new();
        let mut number = |key: &str, value: u64, max: u64| {
            if value <= max {
                return value;
            }
            records.insert(key.into(), Cow::Owned(value.to_string().into_bytes()));
            0
        };
        let uid = number("uid", self.meta.uid.into(), MAX_OCTAL_7);
        let gid = number("gid", self.meta.gid.into(), MAX_OCTAL_7);
        let size = number("size", self.size, MAX_OCTAL_11);
        let mtime = if let Ok(seconds) = u64::try_from(self.meta.mtime) {
            number("mtime", seconds, MAX_OCTAL_11)
        } else {
            records.insert(b"mtime".to_vec(), Cow::Owned(self.meta.mtime.to_string().into_bytes()));
            0
        };
        let (prefix, name) = split(&self.name).unwrap_or_else(|| {
            records.insert(b"path".to_vec(), Cow::Borrowed(&self.name));
            (b"", &self.name)
        });
        if self.link.len() > 100 || !self.link.is_ascii() {
            records.insert(b"linkpath".to_vec(), Cow::Borrowed(self.link));
        }
        for (key, value) in self.xattrs {
            if key.contains(&b'=') {
                return Err("the name of one of its extended attributes holds a '='");
            }
            records.insert([super::pax::XATTR_PREFIX, key].concat(), Cow::Borrowed(value));
        }
        if !records.is_empty() {
            let body = super::pax::encode(&records);
            let base =
                self.name.strip_suffix(b"/").unwrap_or(&self.name).rsplit(|b| *b == b'/').next().unwrap_or_default();
            let label = [b"PaxHeaders.0/", base].concat();
            out.extend_from_slice(&block(b"", &label, b"", b'x', [0, 0, 0, body.len() as u64, 0], None));
            out.extend_from_slice(&body);
            out.resize(out.len() + padding_after(body.len() as u64), 0);
        }
        let mode = u64::from(self.meta.mode & 0o7777);
        out.extend_from_slice(&block(prefix, name, self.link, self.flag, [mode, uid, gid, size, mtime], self.device));
        Ok(())
    }
}

/// Splits a name into ustar's prefix and name fields; `None` if it does not fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The leftmost slash that leaves at most 100 bytes; the slash itself belongs to neither field.
    let from = name.len() - 101;
    let at = from + name.get(from..name.len() - 1)?.iter().position(|b| *b == b'/')?;
    (0 < at && at <= 155).then(|| (&name[..at], &name[at + 1..]))
}

/// Lays out one header block. Texts that do not fit are cut; a PAX record then has the whole.
fn block(
    prefix: &[u8],
    name: &[u8],
    link: &[u8],
    flag: u8,
    numbers: [u64; 5],
    device: Option<(u32, u32)>,
) -> [u8; BLOCK] {
    let mut b = [0; BLOCK];
    let [mode, uid, gid, size, mtime] = numbers;
    text(&mut b[0..100], name);
    octal(&mut b[100..108], mode);
    octal(&mut b[108..116], uid);
    octal(&mut b[116..124], gid);
    octal(&mut b[124..136], size);
    octal(&mut b[136..148], mtime);
    b[148..156].fill(b' ');
    b[156] = flag;
    text(&mut b[157..257], link);
    b[257..265].copy_from_slice(b"ustar\x0000");
    if let Some((major, minor)) = device {
        octal(&mut b[329..337], major.into());
        octal(&mut b[337..345], minor.into());
    }
    text(&mut b[345..500], prefix);
    let sum: u64 = b.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut b[148..155], sum);
    b
}

fn text(field: &mut [u8], value: &[u8]) {
    for (to, from) in field.iter_mut().zip(value) {
        *to = if from.is_ascii() { *from } else { b'_' };
    }
}

/// Zero-padded octal digits and a NUL.
fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for slot in field[..digits].iter_mut().rev() {
        *slot = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

#[cfg(test)]
mod tests {
    use rbuild_cache::digest::{Blake3, Sha256};

    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        let meta = Meta { mode: 0o644, uid: 7, gid: 8, mtime: 1_600_000_000, xattrs: BTreeMap::new() };
        Entry { path: LayerPath::clean(path), kind, meta }
    }

    fn headers(entry: &Entry) -> Vec<u8> {
        let mut out = Vec::new();
        encode(entry, None, &mut out).expect("representable");
        out
    }

    #[test]
    fn an_empty_tar_is_the_canonical_empty_layer() {
        let (bytes, len) = TarWriter::new(Vec::new()).finish().expect("memory");
        assert_eq!(len, 1024);
        let known = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        assert_eq!(Sha256::of(&bytes).to_string(), known);
    }

    #[test]
    fn devices_that_no_header_can_name_are_refused() {
        let encoded = |kind| encode(&entry("d", kind), None, &mut Vec::new());
        assert!(encoded(Kind::CharDevice(1, 0o777_7777)).is_ok());
        for kind in [Kind::CharDevice(0, 0), Kind::CharDevice(1, 0o1000_0000), Kind::BlockDevice(6_392_341, 1)] {
            assert!(matches!(encoded(kind), Err(TarError::Unrepresentable { .. })));
        }
    }

    #[test]
    fn pax_only_where_ustar_cannot_say_it() {
        let blocks = |path: &str| headers(&entry(path, Kind::Fifo)).len() / BLOCK;
        assert_eq!(blocks(&"n".repeat(100)), 1);
        assert_eq!(blocks(&"n".repeat(101)), 3);
        assert_eq!(blocks(&format!("{}/{}", "d".repeat(155), "n".repeat(100))), 1);
        assert_eq!(blocks(&format!("{}/{}", "d".repeat(156), "n".repeat(100))), 3);
        assert_eq!(blocks("é"), 3);
        let file = |size| headers(&entry("f", Kind::File { size, content: Blake3([0; 32]) })).len() / BLOCK;
        assert_eq!(file(MAX_OCTAL_11), 1);
        assert_eq!(file(MAX_OCTAL_11 + 1), 3);
    }

    #[test]
    fn whiteouts_and_opaque_markers_have_their_names() {
        let name = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..40]).trim_end_matches('\0').to_owned();
        assert_eq!(name(&headers(&entry("a/b", Kind::Whiteout))), "a/.wh.b");
        let opaque = headers(&entry("a/b", Kind::Directory { opaque: true }));
        assert_eq!((name(&opaque), name(&opaque[BLOCK..])), ("a/b/".to_owned(), "a/b/.wh..wh..opq".to_owned()));
    }

    #[test]
    fn names_that_would_mean_a_deletion_are_refused() {
        let mut out = Vec::new();
        let error = encode(&entry("a/.wh.b", Kind::Fifo), None, &mut out).expect_err("refused").to_string();
        assert_eq!(error, r#""/a/.wh.b" cannot be part of a layer: names that start with .wh. mean deletions there"#);
    }

    #[test]
    fn sizes_are_enforced() {
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&entry("f", Kind::File { size: 3, content: Blake3([0; 32]) }), None).expect("fits");
        assert!(writer.data(b"abcd").is_err());
        writer.data(b"ab").expect("less");
        assert!(writer.finish().is_err());
    }
}
