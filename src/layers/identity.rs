//! What a layer is called: `TreeId` by what it means, `LayerId` by the bytes we store for it.
//!
//! A `TreeId` leaves modification times out, because keys contain it and a rebuilt layer that differs in nothing else must
//! not make everything after it run again. A layer we made has a `LayerId` of its `TreeId`, its times and the tar version. A
//! layer that somebody else made is its bytes: its `LayerId` comes from the diff ID, so it can be named before it is here.

use rbuild_cache::digest::{DiffId, KeyHasher, LayerId, TreeId};

use super::index::Index;
use crate::tar::TAR_VERSION;
use crate::tar::entry::{Entry, Kind};

/// Version of the encoding under `TreeId`s and `LayerId`s.
pub const IDENTITY_VERSION: u32 = 1;

impl Index {
    /// What the layer means.
    pub fn tree_id(&self) -> TreeId {
        let mut hasher = KeyHasher::new("tree", IDENTITY_VERSION);
        hasher.number(self.entries().len() as u64);
        let mut scratch = Vec::new();
        for entry in self.entries() {
            scratch.clear();
            meaning(entry, &mut scratch);
            hasher.field(&scratch);
        }
        TreeId(hasher.finish())
    }

    /// The name of the bytes we store for this layer, if we make them.
    pub fn layer_id(&self) -> LayerId {
        self.layer_id_of(&self.tree_id())
    }

    /// Like [`layer_id`](Self::layer_id) for callers that know the `TreeId` already.
    pub(super) fn layer_id_of(&self, tree_id: &TreeId) -> LayerId {
        let mut hasher = KeyHasher::new("layer", IDENTITY_VERSION);
        hasher.number(TAR_VERSION.into()).field(&tree_id.0.0);
        let times: Vec<u8> = self.entries().iter().flat_map(|e| e.meta.mtime.to_le_bytes()).collect();
        hasher.field(&times);
        LayerId(hasher.finish())
    }
}

/// The name of a layer that somebody else made.
pub fn foreign_layer_id(diff_id: &DiffId) -> LayerId {
    let mut hasher = KeyHasher::new("foreign layer", IDENTITY_VERSION);
    hasher.field(&diff_id.0.0);
    LayerId(hasher.finish())
}

/// Everything about an entry but its time, each field tagged or length-prefixed.
fn meaning(entry: &Entry, out: &mut Vec<u8>) {
    let number = |out: &mut Vec<u8>, n: u64| out.extend_from_slice(&n.to_le_bytes());
    let field = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    let device = |out: &mut Vec<u8>, tag: u8, major: u32, minor: u32| {
        out.push(tag);
        number(out, major.into());
        number(out, minor.into());
    };
    field(out, entry.path.as_bytes());
    match &entry.kind {
        Kind::File { size, content } => {
            out.push(b'f');
            number(out, *size);
            out.extend_from_slice(&content.0);
        }
        Kind::Directory { opaque } => out.extend_from_slice(&[b'd', u8::from(*opaque)]),
        Kind::Symlink(to) => {
            out.push(b'l');
            field(out, to);
        }
        Kind::Hardlink(to) => {
            out.push(b'h');
            field(out, to.as_bytes());
        }
        Kind::CharDevice(major, minor) => device(out, b'c', *major, *minor),
        Kind::BlockDevice(major, minor) => device(out, b'b', *major, *minor),
        Kind::Fifo => out.push(b'p'),
        Kind::Whiteout => out.push(b'w'),
    }
    number(out, entry.meta.mode.into());
    number(out, entry.meta.uid.into());
    number(out, entry.meta.gid.into());
    number(out, entry.meta.xattrs.len() as u64);
    for (key, value) in &entry.meta.xattrs {
        field(out, key);
        field(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::samples;

    #[test]
    fn times_matter_to_bytes_but_not_to_meaning() {
        let index = samples::index(&["d a", "f a/b"]);
        let later = index.clamped(5);
        assert_ne!(index, later);
        assert_eq!(index.tree_id(), later.tree_id());
        assert_ne!(index.layer_id(), later.layer_id());
    }

    #[test]
    fn everything_else_matters() {
        let base = samples::index(&["d a", "f a/b", "f a/c"]);
        for other in [&["d a", "f a/b"][..], &["d a", "f a/b", "h a/c a/b"], &["o a", "f a/b", "f a/c"]] {
            assert_ne!(base.tree_id(), samples::index(other).tree_id(), "{other:?}");
        }
        type Edit = fn(&mut Entry);
        let edits: [Edit; 4] = [
            |e| e.meta.mode ^= 1,
            |e| e.meta.uid += 1,
            |e| e.meta.gid += 1,
            |e| drop(e.meta.xattrs.insert(b"user.x".to_vec(), Vec::new())),
        ];
        for edit in edits {
            let mut entries = base.entries().to_vec();
            edit(&mut entries[1]);
            assert_ne!(Index::new(entries).expect("still one").tree_id(), base.tree_id());
        }
    }

    #[test]
    fn the_encoding_is_frozen() {
        let index = samples::index(&["d a", "f a/b", "h a/c a/b", "l a/d to", "p a/e", "w x"]);
        assert_eq!(index.tree_id().to_string(), "83f63f1b5e066a66186b852029b605e1ff481e5a8de365a4cafe19eff495aadd");
        assert_eq!(index.layer_id().to_string(), "ddfddf76855e6cc8f43e3f58a9dffa40d928aec53ba3acbb00f04409f1d88224");
        let foreign = foreign_layer_id(&DiffId(rbuild_cache::digest::Sha256::of(b"")));
        assert_eq!(foreign.to_string(), "5274fdc3e4ca533194861049908f2638da66f4e37cc88e15546a4801deaf4f5d");
    }
}
