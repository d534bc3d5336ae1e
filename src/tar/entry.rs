//! One entry of a layer: a name, its metadata and what it is. The common word of tars, indexes, diffs and copies.
//!
//! Pure data: knows no file descriptor, no tar header and no store.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use rbuild_cache::digest::Blake3;

/// A path inside a layer or a root: relative, `/`-separated bytes without empty, `.` or `..` components; empty is the root.
///
/// Order is by component, so a directory comes right before everything below it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LayerPath(Vec<u8>);

impl LayerPath {
    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Cleans any path text into one below the root, the way `path.Clean("/" + text)` does: `..` stops at the root.
    pub fn clean(text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let mut bytes = Vec::with_capacity(text.len());
        for part in text.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => bytes.truncate(bytes.iter().rposition(|b| *b == b'/').unwrap_or(0)),
                name => {
                    if !bytes.is_empty() {
                        bytes.push(b'/');
                    }
                    bytes.extend_from_slice(name);
                }
            }
        }
        Self(bytes)
    }

    /// This path with one component added. `name` must be a single plain component.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/'), "not a component");
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// This path followed by all components of `tail`.
    #[must_use]
    pub fn append(&self, tail: &LayerPath) -> Self {
        match (self.is_root(), tail.is_root()) {
            (_, true) => self.clone(),
            (true, false) => tail.clone(),
            (false, false) => Self([self.0.as_slice(), tail.0.as_slice()].join(&b'/')),
        }
    }

    /// The path above, `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..cut].to_vec()))
    }

    /// The last component, empty for the root.
    pub fn name(&self) -> &[u8] {
        let cut = self.0.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        &self.0[cut..]
    }

    /// The components from the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The part of this path below `base`; `None` if it is not below or equal.
    pub fn strip(&self, base: &LayerPath) -> Option<Self> {
        if base.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(base.0.as_slice()) {
            Some([]) => Some(Self::root()),
            Some([b'/', rest @ ..]) => Some(Self(rest.to_vec())),
            _ => None,
        }
    }

    /// Whether this path is `base` or below it.
    pub fn is_within(&self, base: &LayerPath) -> bool {
        base.is_root() || self.0.strip_prefix(base.0.as_slice()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// As an OS path, relative; `.` for the root.
    pub fn as_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt as _;
        std::path::Path::new(std::ffi::OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }
}

impl Ord for LayerPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // '/' sorts below every other byte, which makes byte order component order.
        let (a, b) = (self.0.as_slice(), other.0.as_slice());
        match a.iter().zip(b).position(|(x, y)| x != y) {
            Some(at) if a[at] == b'/' => Ordering::Less,
            Some(at) if b[at] == b'/' => Ordering::Greater,
            Some(at) => a[at].cmp(&b[at]),
            None => a.len().cmp(&b.len()),
        }
    }
}
impl PartialOrd for LayerPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}
impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; `content` is the BLAKE3 of its bytes.
    File {
        /// Bytes.
        size: u64,
        /// BLAKE3 of the content.
        content: Blake3,
    },
    /// A directory. `opaque`: it hides what lower layers have below it.
    Directory {
        /// Whether lower layers are hidden here.
        opaque: bool,
    },
    /// A symbolic link to this text.
    Symlink(Vec<u8>),
    /// Another name of an earlier `File` (or special) entry of the same layer; metadata is that entry's.
    Hardlink(LayerPath),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// The name is deleted from lower layers.
    Whiteout,
}

/// Owner, mode and times; meaningless (zero) for whiteouts and hard links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky (`& 0o7777`).
    pub mode: u32,
    /// Owner as the image says it.
    pub uid: u32,
    /// Group as the image says it.
    pub gid: u32,
    /// Modification time, whole seconds since 1970 (layers keep no fractions, as containerd's differ).
    pub mtime: i64,
    /// Extended attributes worth keeping, e.g. `security.capability` (always in its v2 form), `user.*`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: LayerPath,
    /// What.
    pub kind: Kind,
    /// Whose, and when.
    pub meta: Meta,
}

impl Entry {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_leaves_the_root() {
        assert_eq!(LayerPath::clean("/a//b/./../c/").to_string(), "/a/c");
        assert_eq!(LayerPath::clean("../../x").to_string(), "/x");
        assert!(LayerPath::clean("a/..").is_root());
        assert_eq!(LayerPath::clean("a/../../b/c/..//d/.").to_string(), "/b/d");
    }

    #[test]
    fn parts_are_put_together_and_taken_apart() {
        let [root, a, ab, abc] = ["", "a", "a/b", "a/bc"].map(LayerPath::clean);
        assert_eq!(
            (root.append(&ab), ab.append(&root), a.append(&ab)),
            (ab.clone(), ab.clone(), LayerPath::clean("a/a/b"))
        );
        assert!(
            ab.is_within(&a) && ab.is_within(&ab) && ab.is_within(&root) && !abc.is_within(&ab) && !a.is_within(&ab)
        );
    }

    #[test]
    fn a_directory_sorts_right_before_its_content() {
        let mut paths: Vec<_> = ["a.b", "a/c", "a", "a-b", "a/b/d"].map(LayerPath::clean).to_vec();
        paths.sort();
        let text: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["/a", "/a/b/d", "/a/c", "/a-b", "/a.b"]);
    }

    #[test]
    fn stripping_respects_component_borders() {
        let path = LayerPath::clean("usr/lib/x");
        assert_eq!(path.strip(&LayerPath::clean("usr/lib")), Some(LayerPath::clean("x")));
        assert_eq!(path.strip(&LayerPath::clean("usr/li")), None);
        assert_eq!(LayerPath::clean("a").append(&LayerPath::clean("b/c")), LayerPath::clean("a/b/c"));
    }
}
