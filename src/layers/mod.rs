//! A layer's forms (blob, tree), its index, and turning one into another.
//!
//! ```text
//!   context entries ── write ──▶ blob (canonical tar) ──┐
//!   overlay upper   ── adopt ──▶ tree                   ├─▶ tar ──▶ compressed
//!   foreign tar     ── import ─▶ blob as it came, tree ─┘
//! ```
//! A [`Record`] says what a layer is called and which form is its home; the [`Index`] says what is in it and outlives the
//! tree. Any form is made when somebody asks for it, under a lock, verified before it is published. Layers that others made
//! keep their bytes and are never written anew. This module knows nothing of images, steps or registries: where a foreign
//! layer's bytes come from is the caller's business.

mod ahead;
mod beneath;
mod chunks;
mod compress;
mod diff;
mod disk;
pub mod encoding;
pub mod error;
mod fold;
mod forms;
pub mod gzip;
pub mod identity;
pub mod index;
pub mod locked;
mod make;
mod parts;
#[cfg(test)]
mod samples;
mod squash;
mod stream;
#[cfg(test)]
mod tests;
mod unpack;
pub mod view;
mod walk;
mod xattrs;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rbuild_cache::digest::{BlobDigest, DiffId, LayerId, TreeId};
use rbuild_cache::{Kind, ObjectRef, Store};
use serde::{Deserialize, Serialize};

pub use ahead::{Ahead, Wanted};
pub use compress::{Compressed, Framing};
pub use error::{LayerError, Result};
pub use identity::foreign_layer_id;
pub use index::Index;
pub use make::Source;
pub use parts::{MOST_PARTS, Part};
pub use stream::{Content, Opener};
pub use view::View;
pub use xattrs::{OPAQUE_NAME, OverlayXattrs, WHITEOUT_TEXT};

use crate::cancel::Cancel;

/// Whether trees keep the owners that layers give their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnershipMode {
    /// Files belong to whom the layer says.
    Exact,
    /// Everything belongs to one user; true owners are recorded beside.
    Flattened,
}

/// How trees are made and read; the same for the life of a store handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// Which attributes the overlay mounts of this process use.
    pub overlay: OverlayXattrs,
    /// Whether files can be given away.
    pub ownership: OwnershipMode,
    /// Whether modes bind us, so that files are kept as `locked` says.
    pub bound_by_modes: bool,
}

impl TreeOptions {
    /// As real root.
    pub const ROOT: Self =
        Self { overlay: OverlayXattrs::Trusted, ownership: OwnershipMode::Exact, bound_by_modes: false };

    /// Whether we are inside a user namespace, where not everything can be made.
    fn rootless(self) -> bool {
        self.overlay == OverlayXattrs::User
    }
}

/// What is known of a layer besides its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name in the store.
    pub id: LayerId,
    /// What it means.
    pub tree_id: TreeId,
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes of its uncompressed tar.
    pub size: u64,
    /// Who made it.
    pub origin: Origin,
}

/// Who made a layer, and so which of its forms cannot be made from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// rbuild; its tar is canonical.
    Built {
        /// The form it was made in.
        home: Home,
    },
    /// Somebody else; keeps its original blob.
    Foreign {
        /// Of the blob.
        media_type: String,
        /// Of the blob.
        digest: BlobDigest,
        /// Of the blob.
        size: u64,
    },
}

/// The form a built layer was made in; the other is made from it when wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Home {
    /// A directory (RUN).
    Tree,
    /// An uncompressed tar (COPY, ADD).
    Blob,
}

/// All layers of a store. Clones share it.
#[derive(Clone, Debug)]
pub struct Layers {
    store: Store,
    options: TreeOptions,
    cancel: Cancel,
    loaded: Arc<Mutex<BTreeMap<LayerId, Loaded>>>,
}

/// An index in memory, and what was computed from it once.
#[derive(Clone, Debug)]
struct Loaded {
    index: Arc<Index>,
    /// Where each entry's content begins in the canonical tar.
    offsets: Arc<OnceLock<Vec<u64>>>,
    /// What contents are read from.
    form: Arc<Mutex<Option<forms::Open>>>,
}

impl Layers {
    /// The layers of `store`, whose trees are made as `options` say. Long work stops when `cancel` is raised.
    pub fn new(store: Store, options: TreeOptions, cancel: Cancel) -> Self {
        Self { store, options, cancel, loaded: Arc::default() }
    }

    /// The store underneath.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is known of a layer; `None` if it is not in the store. Marks it as used.
    pub fn record(&self, id: &LayerId) -> Result<Option<Record>> {
        let name = id.to_string();
        let Some(bytes) = self.store.get(Kind::Layer, &name)? else { return Ok(None) };
        let record: Option<Record> = serde_json::from_slice(&bytes).ok().filter(|record: &Record| record.id == *id);
        if record.is_some() {
            self.store.touch(Kind::Layer, &name)?;
        }
        Ok(record)
    }

    /// The layer with this uncompressed tar.
    pub fn by_diff_id(&self, diff_id: &DiffId) -> Result<Option<Record>> {
        let name = diff_name(diff_id);
        if let Some(bytes) = self.store.get(Kind::Layer, &name)?
            && let Some(id) = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok())
            && let Some(record) = self.record(&id)?
        {
            self.store.touch(Kind::Layer, &name)?;
            return Ok(Some(record));
        }
        self.record(&foreign_layer_id(diff_id))
    }

    /// The entries of a layer.
    pub fn index(&self, id: &LayerId) -> Result<Arc<Index>> {
        self.loaded(id).map(|loaded| loaded.index)
    }

    /// Whether the entries of a layer are known, be the layer here or not.
    pub fn has_index(&self, id: &LayerId) -> Result<bool> {
        if self.loaded.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id) {
            return Ok(true);
        }
        Ok(self.store.contains(Kind::Index, &id.to_string())?)
    }

    fn loaded(&self, id: &LayerId) -> Result<Loaded> {
        let cached = |layers: &Self| layers.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(loaded) = cached(self) {
            return Ok(loaded);
        }
        let name = id.to_string();
        let stored = self.store.get(Kind::Index, &name)?.and_then(|bytes| Index::decode(&bytes).ok());
        let index = match stored {
            Some(index) => {
                self.store.touch(Kind::Index, &name)?;
                index
            }
            None => self.remake_index(id)?,
        };
        Ok(self.keep(id, index))
    }

    /// Puts an index into memory.
    fn keep(&self, id: &LayerId, index: Index) -> Loaded {
        let loaded = Loaded { index: Arc::new(index), offsets: Arc::default(), form: Arc::default() };
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).entry(*id).or_insert(loaded).clone()
    }

    /// Stores index and record of a layer whose form is in the store already.
    fn save(&self, record: Record, index: Index) -> Result<Record> {
        let name = record.id.to_string();
        if self.record(&record.id)?.as_ref() == Some(&record) && self.store.touch(Kind::Index, &name)? {
            self.keep(&record.id, index);
            return Ok(record);
        }
        self.store.put(Kind::Index, &name, &index.encode())?;
        self.keep(&record.id, index);
        if let Origin::Built { .. } = record.origin {
            self.store.put(Kind::Layer, &diff_name(&record.diff_id), name.as_bytes())?;
        }
        let json = serde_json::to_vec(&record)
            .map_err(|e| LayerError::Stream { operation: "encode layer record", source: e.into() })?;
        self.store.put(Kind::Layer, &name, &json)?;
        Ok(record)
    }
}

/// The name under which a built layer is found by its diff ID.
fn diff_name(diff_id: &DiffId) -> String {
    format!("diff-{}", diff_id.0.hex())
}

/// What a small file of kind `Layer` or `Derived` of this module needs; `None` if it is not of ours.
pub fn references(kind: Kind, name: &str, bytes: &[u8]) -> Option<Vec<ObjectRef>> {
    match kind {
        Kind::Layer if name.starts_with("diff-") => {
            let id = std::str::from_utf8(bytes).ok()?;
            Some(vec![ObjectRef::Small(Kind::Layer, id.to_owned())])
        }
        Kind::Layer => {
            let record: Record = serde_json::from_slice(bytes).ok()?;
            let index = ObjectRef::Small(Kind::Index, record.id.to_string());
            let uncompressed = BlobDigest(record.diff_id.0);
            Some(match record.origin {
                Origin::Built { home: Home::Tree } => {
                    vec![index, ObjectRef::Tree(record.id), ObjectRef::RemakableBlob(uncompressed)]
                }
                Origin::Built { home: Home::Blob } => {
                    vec![index, ObjectRef::Blob(uncompressed), ObjectRef::RemakableTree(record.id)]
                }
                Origin::Foreign { digest, .. } => {
                    vec![index, ObjectRef::RemakableBlob(digest), ObjectRef::RemakableTree(record.id)]
                }
            })
        }
        Kind::Derived => compress::references(name, bytes),
        Kind::Record | Kind::Alias | Kind::Index | Kind::Name | Kind::Image | Kind::Fact | Kind::History => None,
    }
}
