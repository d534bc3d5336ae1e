//! PAX records: `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
//!
//! Knows the text form and which keys we believe; limits on how much of it there may be are the reader's.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// What precedes the name of an extended attribute in a record's key.
pub(super) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Encodes records in key order.
pub(super) fn encode(records: &BTreeMap<Vec<u8>, Cow<'_, [u8]>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        out.extend_from_slice(length.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

/// What the records of one extended header say about the entry after it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<i64>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sparse: Sparse,
}

/// The three generations of GNU's sparse records.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    pub map: Option<Vec<u8>>,
    /// Offsets and lengths in the order given (version 0.0).
    pub segments: Vec<(u64, u64)>,
    pending_offset: Option<u64>,
}

impl Pax {
    /// Reads the records of one extended header.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = split(bytes).ok_or("malformed PAX record")?;
            bytes = rest;
            let equals = record.iter().position(|b| *b == b'=').ok_or("PAX record without '='")?;
            pax.record(&record[..equals], &record[equals + 1..])?;
        }
        Ok(pax)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            if name.is_empty() || name.contains(&0) {
                return Err("extended attribute without a usable name".to_owned());
            }
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Ok(());
        }
        // An empty value means: as if the record were not there.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| name(value)).transpose()?,
            b"linkpath" => self.linkpath = given.then(|| name(value)).transpose()?,
            b"size" => self.size = given.then(|| number(value)).transpose()?,
            b"uid" => self.uid = given.then(|| number(value)).transpose()?,
            b"gid" => self.gid = given.then(|| number(value)).transpose()?,
            b"mtime" => self.mtime = given.then(|| seconds(value)).transpose()?,
            b"GNU.sparse.major" => self.sparse.major = Some(number(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(number(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(name(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(number(value)?),
            b"GNU.sparse.map" => self.sparse.map = Some(value.to_vec()),
            b"GNU.sparse.offset" => self.sparse.pending_offset = Some(number(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.pending_offset.take().ok_or("sparse length without an offset")?;
                self.sparse.segments.push((offset, number(value)?));
            }
            // Names, comments, access times, vendor records: nothing of it is part of a layer.
            _ => {}
        }
        Ok(())
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(number(&bytes[..space]).ok()?).ok()?;
    if length <= space + 1 || length > bytes.len() {
        return None;
    }
    let record = bytes[space + 1..length].strip_suffix(b"\n")?;
    Some((record, &bytes[length..]))
}

fn name(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.contains(&0) { Err("NUL byte in a PAX name".to_owned()) } else { Ok(value.to_vec()) }
}

/// A plain decimal number.
pub(super) fn number(text: &[u8]) -> Result<u64, String> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let value = if digits { std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()) } else { None };
    value.ok_or_else(|| format!("{:?} is not a number", String::from_utf8_lossy(&text[..text.len().min(40)])))
}

/// Seconds with an optional fraction, rounded towards the past.
fn seconds(text: &[u8]) -> Result<i64, String> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (whole, fraction) = match digits.iter().position(|b| *b == b'.') {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &b""[..]),
    };
    let whole = i64::try_from(number(whole)?).map_err(|_| "time out of range".to_owned())?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("malformed time".to_owned());
    }
    let before = negative && fraction.iter().any(|b| *b != b'0');
    Ok(if negative { -whole - i64::from(before) } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_counts_itself() {
        let value = vec![b'v'; 90];
        let records = BTreeMap::from([(b"path".to_vec(), Cow::Borrowed(value.as_slice()))]);
        let bytes = encode(&records);
        assert!(bytes.starts_with(b"99 path="), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(bytes.len(), 99);
        let longer = [value.as_slice(), b"v"].concat();
        let records = BTreeMap::from([(b"path".to_vec(), Cow::Borrowed(longer.as_slice()))]);
        assert_eq!(encode(&records).len(), 101, "a length of 100 needs one more digit");
        assert_eq!(Pax::parse(&encode(&records)).expect("own output").path, Some(longer));
    }

    #[test]
    fn times_round_towards_the_past() {
        let all: Vec<_> = ["5", "5.9", "-5", "-5.0", "-5.1"].iter().map(|t| seconds(t.as_bytes())).collect();
        assert_eq!(all, [Ok(5), Ok(5), Ok(-5), Ok(-5), Ok(-6)]);
    }

    #[test]
    fn damaged_records_are_refused() {
        for bad in ["", "5", "6 path", "99 path=x\n", "7 path=x", "x path=x\n", "0 =\n", "11 size=+1x\n"] {
            assert!(bad.is_empty() || Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
