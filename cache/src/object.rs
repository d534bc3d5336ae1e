//! What the store holds and where: the words for objects, and the layout of the directory.
//!
//! ```text
//! <root>/
//!   records-v1/ab/<name>        small files in an envelope (envelope.rs); `ab` = first two hex digits of the name,
//!   aliases-v1/ layers-v1/      or of its hash when it does not begin with two; names are escaped (name.rs)
//!   indexes-v1/ facts-v1/
//!   derived-v1/
//!   names-v1/<name>             small files without fan-out: few, and listed often
//!   images-v1/ history-v1/
//!   blobs-v1/ab/<62 hex>/       { data, stamp }           bytes by sha256 (blob.rs)
//!   trees-v1-<map>/ab/<62 hex>/ { fs/, stamp, size? }     directories by LayerId, per uid map (tree.rs)
//!   cache-mounts-v1/ab/<62 hex>/{ data/, stamp, size? }   mutable directories by key (mount.rs)
//!   synced-v1/<boot id>         up to when that boot's writes are on the disk (boot.rs)
//!   locks/<kind>                byte-range locks (lock.rs)
//!   leases/<lease>              one locked empty file per open store; its mtime is when the lease began (lease.rs)
//!   ledger/<lease>              what that process wrote and reserved (ledger.rs)
//!   total-v1                    bytes in the store at the last scan (total.rs)
//!   tmp/<lease>/                everything unfinished, and what is being deleted (temp.rs)
//! ```
//! An object with a stamp is a directory that appears and vanishes by one rename; the stamp's mtime is its last use. A small
//! file's own mtime is its last use.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::digest::{Blake3, BlobDigest, LayerId};
use crate::name;

/// The kinds of small files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The result of a step, by its key.
    Record,
    /// From an input key to a step key.
    Alias,
    /// What is known of a layer.
    Layer,
    /// A layer's entries. Refers to nothing.
    Index,
    /// A name given to an image. Names are the roots of GC.
    Name,
    /// An image, by its config digest.
    Image,
    /// Something learned from outside or measured. Refers to nothing.
    Fact,
    /// One build that was run.
    History,
    /// Something computed from another object: a compressed form, a manifest.
    Derived,
}

impl Kind {
    /// All kinds, in the order of usage reports.
    pub const ALL: [Self; 9] = [
        Self::Record,
        Self::Alias,
        Self::Layer,
        Self::Index,
        Self::Name,
        Self::Image,
        Self::Fact,
        Self::History,
        Self::Derived,
    ];

    /// The directory; its end is the format version.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Record => "records-v1",
            Self::Alias => "aliases-v1",
            Self::Layer => "layers-v1",
            Self::Index => "indexes-v1",
            Self::Name => "names-v1",
            Self::Image => "images-v1",
            Self::Fact => "facts-v1",
            Self::History => "history-v1",
            Self::Derived => "derived-v1",
        }
    }

    /// Whether there may be so many that one directory would be slow.
    pub(crate) fn fans_out(self) -> bool {
        match self {
            Self::Record | Self::Alias | Self::Layer | Self::Index | Self::Fact | Self::Derived => true,
            Self::Name | Self::Image | Self::History => false,
        }
    }

    /// Whether objects of this kind may refer to others. GC does not even read those that cannot.
    pub(crate) fn refers(self) -> bool {
        match self {
            Self::Record | Self::Alias | Self::Layer | Self::Name | Self::Image | Self::History | Self::Derived => true,
            Self::Index | Self::Fact => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "record",
            Self::Alias => "alias",
            Self::Layer => "layer",
            Self::Index => "index",
            Self::Name => "name",
            Self::Image => "image",
            Self::Fact => "fact",
            Self::History => "history",
            Self::Derived => "derived",
        })
    }
}

/// One thing in the store. Prints as `record <name>`, `blob sha256:…`, `tree <id>`, `cache mount <key>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A small file.
    Small(Kind, String),
    /// Bytes.
    Blob(BlobDigest),
    /// An unpacked layer.
    Tree {
        /// The uid map it was unpacked under.
        map: String,
        /// The layer.
        id: LayerId,
    },
    /// A cache mount.
    CacheMount(Blake3),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small(kind, name) => write!(f, "{kind} {name}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Tree { map: _, id } => write!(f, "tree {id}"),
            Self::CacheMount(key) => write!(f, "cache mount {key}"),
        }
    }
}

/// From one small file to an object it needs, as told by the caller's `References`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectRef {
    /// A small file.
    Small(Kind, String),
    /// Bytes.
    Blob(BlobDigest),
    /// A tree, under every uid map.
    Tree(LayerId),
    /// A tree that can be made again from other forms: wanted, but may go when space is short.
    RemakableTree(LayerId),
    /// Bytes that can be made or fetched again: wanted, but may go when space is short.
    RemakableBlob(BlobDigest),
    /// A small file that can be made again: wanted, but may go when space is short.
    RemakableSmall(Kind, String),
}

pub(crate) const BLOBS: &str = "blobs-v1";
pub(crate) const TREES: &str = "trees-v1-";
pub(crate) const MOUNTS: &str = "cache-mounts-v1";
pub(crate) const SYNCED: &str = "synced-v1";

/// The file in an object's directory whose mtime is its last use.
pub(crate) const STAMP: &str = "stamp";
/// The file in an object's directory that says how many bytes it takes.
pub(crate) const SIZE: &str = "size";

impl Object {
    /// Where the object lives, relative to the root.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Small(kind, name) => small(*kind, name),
            Self::Blob(digest) => hashed(BLOBS, &digest.0.hex()),
            Self::Tree { map, id } => hashed(&format!("{TREES}{map}"), &id.to_string()),
            Self::CacheMount(key) => hashed(MOUNTS, &key.to_string()),
        }
    }

    /// The file whose mtime is the last use, given the object's full path.
    pub(crate) fn used(&self, path: &Path) -> PathBuf {
        match self {
            Self::Small(..) => path.to_owned(),
            Self::Blob(_) | Self::Tree { .. } | Self::CacheMount(_) => path.join(STAMP),
        }
    }
}

/// Where a small file lives, relative to the root.
pub(crate) fn small(kind: Kind, name: &str) -> PathBuf {
    let file = name::encode(name);
    let mut path = PathBuf::from(kind.directory());
    if kind.fans_out() {
        let prefix = name.as_bytes();
        match prefix {
            [a @ (b'0'..=b'9' | b'a'..=b'f'), b @ (b'0'..=b'9' | b'a'..=b'f'), ..] => {
                path.push([*a as char, *b as char].iter().collect::<String>());
            }
            _ => path.push(&Blake3::of(prefix).to_string()[..2]),
        }
    }
    path.push(file);
    path
}

fn hashed(directory: &str, hex: &str) -> PathBuf {
    [directory, &hex[..2], &hex[2..]].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_things_live() {
        let check = |object: Object, expected: &str| assert_eq!(object.path(), Path::new(expected));
        check(Object::Small(Kind::Record, "abcd".into()), "records-v1/ab/abcd");
        check(Object::Small(Kind::Fact, "x:y".into()), "facts-v1/09/x%3Ay");
        check(Object::Small(Kind::Name, "docker.io/library/a:1".into()), "names-v1/docker.io%2Flibrary%2Fa%3A1");
        let id = LayerId(Blake3([0xab; 32]));
        check(Object::Tree { map: "root".into(), id }, &format!("trees-v1-root/ab/{}", "ab".repeat(31)));
    }
}
