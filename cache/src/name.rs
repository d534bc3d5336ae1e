//! Object names as file names: any text in, one safe path component out, and back.
//!
//! Letters, digits and `. _ - @ + =` stand for themselves, every other byte is `%XX`, a leading dot too. A name that would be
//! longer than a file name may be is cut and ends in `~` and a hash (`~` is otherwise escaped); its full form is then only in the
//! file's envelope.

use crate::digest::Blake3;

/// Longest encoded name that is not cut; leaves room below the usual limit of 255 for what file systems add.
const LONGEST: usize = 200;
/// How much of a cut name is kept for the reader's eye.
const KEPT: usize = 120;

/// The file name for `name`.
pub(crate) fn encode(name: &str) -> String {
    let mut out = escape(name);
    if out.starts_with('.') {
        out.replace_range(0..1, "%2E");
    }
    if out.is_empty() {
        out.push('~');
    }
    if out.len() > LONGEST {
        out.truncate(KEPT);
        out.push('~');
        out.push_str(&Blake3::of(name.as_bytes()).to_string());
    }
    out
}

/// The name behind a file name, or `None` when it was cut (or the file is not ours).
pub(crate) fn decode(file: &str) -> Option<String> {
    if file == "~" {
        return Some(String::new());
    }
    unescape(file)
}

/// Percent-encodes all but plain characters.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'@' | b'+' | b'=' => out.push(byte as char),
            other => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(HEX[usize::from(other >> 4)] as char);
                out.push(HEX[usize::from(other & 15)] as char);
            }
        }
    }
    out
}

/// Undoes [`escape`]; `None` for what it never makes.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let pair = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
            }
            b'~' => return None,
            plain => out.push(plain),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_images_are_one_component() {
        assert_eq!(encode("docker.io/library/alpine:3.20"), "docker.io%2Flibrary%2Falpine%3A3.20");
        assert_eq!(encode(".."), "%2E.");
        assert_eq!(encode(""), "~");
        assert_eq!(encode("~"), "%7E");
    }

    #[test]
    fn long_names_are_cut_apart() {
        let (a, b) = ("x".repeat(300), "x".repeat(301));
        assert_ne!(encode(&a), encode(&b));
        assert!(encode(&a).len() <= LONGEST);
        assert_eq!(decode(&encode(&a)), None);
    }

    proptest! {
        #[test]
        fn any_name_is_safe_and_comes_back(name in ".{0,80}") {
            let file = encode(&name);
            prop_assert!(!file.is_empty() && !file.starts_with('.') && !file.contains('/') && file.len() <= 255);
            if !file.contains('~') || name.is_empty() {
                prop_assert_eq!(decode(&file), Some(name));
            }
        }
    }
}
