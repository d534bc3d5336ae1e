//! The form of every small file: one readable line, then the payload as it is.
//!
//! ```text
//! rbuild1 <boot id> <boot nanoseconds> <payload length> <check> <escaped name>\n
//! <payload>
//! ```
//! The file attests to itself: within the boot that wrote it, it is believed (rename made it whole); after any other boot the check
//! (first half of a blake3 over all the rest) decides, because a power loss may have kept the name and lost the bytes. Written
//! with `temp + rename` by `store.rs`; opens no file itself.

use crate::boot::{BootId, Stamp};
use crate::name;

const MAGIC: &str = "rbuild1";
/// Longest header accepted: names are far shorter.
const LONGEST_HEADER: usize = 16 * 1024;

/// Wraps `payload`.
pub(crate) fn seal(stamp: Stamp, name: &str, payload: &[u8]) -> Vec<u8> {
    let name = name::escape(name);
    let check = check(stamp, &name, payload);
    let header = format!("{MAGIC} {} {} {} {check} {name}\n", stamp.boot, stamp.time, payload.len());
    let mut out = Vec::with_capacity(header.len() + payload.len());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(payload);
    out
}

/// What an envelope says of its payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Who wrote it and when.
    pub(crate) stamp: Stamp,
    /// The object's full name.
    pub(crate) name: String,
    /// Where the payload begins.
    pub(crate) payload: usize,
}

/// Reads an envelope; `None` when it is not whole. The check is computed unless `trusted` is the boot that wrote it.
pub(crate) fn open(bytes: &[u8], trusted: BootId) -> Option<Opened> {
    let end = bytes.iter().take(LONGEST_HEADER).position(|b| *b == b'\n')?;
    let header = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut words = header.split(' ');
    if words.next()? != MAGIC {
        return None;
    }
    let stamp = Stamp { boot: words.next()?.parse().ok()?, time: words.next()?.parse().ok()? };
    let length: usize = words.next()?.parse().ok()?;
    let expected = words.next()?;
    let escaped = words.next()?;
    let payload = end + 1;
    if words.next().is_some() || bytes.len() - payload != length {
        return None;
    }
    if stamp.boot != trusted && check(stamp, escaped, &bytes[payload..]) != expected {
        return None;
    }
    Some(Opened { stamp, name: name::unescape(escaped)?, payload })
}

fn check(stamp: Stamp, escaped: &str, payload: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{MAGIC} {} {} {} {escaped}\n", stamp.boot, stamp.time, payload.len()).as_bytes());
    hasher.update(payload);
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(digit: char) -> BootId {
        digit.to_string().repeat(32).parse().expect("hex")
    }

    #[test]
    fn the_form_on_disk() {
        let sealed = seal(Stamp { boot: boot('a'), time: 7 }, "k:1", b"{}\n");
        let text = String::from_utf8(sealed.clone()).unwrap();
        assert_eq!(
            text, "rbuild1 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 7 3 cd39da990b3b52b9689a18f4ddb6dc9b k%3A1\n{}\n",
            "a change here is a change of every -v1 format"
        );
        let opened = open(&sealed, boot('b')).unwrap();
        assert_eq!((opened.name.as_str(), &sealed[opened.payload..]), ("k:1", &b"{}\n"[..]));
    }

    #[test]
    fn damage_is_noticed_by_other_boots() {
        let sealed = seal(Stamp { boot: boot('a'), time: 7 }, "n", b"payload");
        for cut in 0..sealed.len() {
            assert_eq!(open(&sealed[..cut], boot('a')), None, "cut at {cut}");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] = 0;
            assert_eq!(open(&damaged, boot('b')), None, "zero at {at}");
        }
    }
}
