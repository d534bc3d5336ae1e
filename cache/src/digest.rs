//! Digests and the one way things are encoded before they are hashed.
//!
//! `Sha256` because OCI says so; everything of our own is `Blake3`. Pure: opens no file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text is not a digest of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {0:?}: expected {1}")]
pub struct DigestError(String, &'static str);

fn hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 || !bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let nibble = |b: u8| if b <= b'9' { b - b'0' } else { b - b'a' + 10 };
    let mut out = [0; 32];
    for (i, pair) in bytes.chunks_exact(2).enumerate() {
        out[i] = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    Some(out)
}

/// A SHA-256 digest as OCI writes it: `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
    /// The 64 hex digits without the algorithm.
    pub fn hex(&self) -> String {
        self.to_string().split_off(7)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        hex(&self.0, f)
    }
}

impl FromStr for Sha256 {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.strip_prefix("sha256:")
            .and_then(unhex)
            .map(Self)
            .ok_or_else(|| DigestError(text.to_owned(), "sha256:<64 lower-case hex digits>"))
    }
}

/// A BLAKE3 hash, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blake3(pub [u8; 32]);

impl Blake3 {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl FromStr for Blake3 {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        unhex(text).map(Self).ok_or_else(|| DigestError(text.to_owned(), "64 lower-case hex digits"))
    }
}

macro_rules! text_form {
    ($($t:ty),+) => {$(
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ident)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
        text_form!($name);
    };
}

text_form!(Sha256, Blake3);
newtype!(
    /// The digest of a layer's *uncompressed* tar; what `rootfs.diff_ids` of an image config lists.
    DiffId(Sha256)
);
newtype!(
    /// The digest of a blob's bytes as they are stored and transferred; what descriptors carry.
    BlobDigest(Sha256)
);
newtype!(
    /// What a layer means: names, types, modes, owners, targets, xattrs, contents, but no mtimes. Used in keys.
    TreeId(Blake3)
);
newtype!(
    /// A layer's stored bytes: `TreeId` + mtimes + tar version. Blobs, trees and records refer to it.
    LayerId(Blake3)
);
newtype!(
    /// The name of a step's result record.
    StepKey(Blake3)
);

/// Encodes fields before hashing: each is tagged and length-prefixed, so no two field lists share an encoding.
#[derive(Clone, Debug)]
pub struct KeyHasher(blake3::Hasher);

impl KeyHasher {
    /// Starts a hash for one purpose, e.g. `"step"`, in one version of its encoding.
    pub fn new(purpose: &str, version: u32) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.field(purpose.as_bytes());
        hasher.number(version.into());
        hasher
    }
    /// Adds a byte string.
    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }
    /// Adds a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.field(text.as_bytes())
    }
    /// Adds a number.
    pub fn number(&mut self, n: u64) -> &mut Self {
        self.field(&n.to_le_bytes())
    }
    /// The hash of all that was added.
    pub fn finish(&self) -> Blake3 {
        Blake3(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_through_text() {
        let digest = Sha256::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert!("sha256:E3".parse::<Sha256>().is_err());
        assert!("md5:00".parse::<DiffId>().is_err());
    }

    #[test]
    fn field_boundaries_matter() {
        let hash = |parts: &[&str]| {
            let mut h = KeyHasher::new("t", 1);
            for part in parts {
                h.text(part);
            }
            h.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["ab"]), hash(&["ab", ""]));
    }
}
