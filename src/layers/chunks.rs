//! Compressed chunks of earlier layers, so that a layer that hardly differs from one of them is hardly compressed anew.
//!
//! ```text
//! derived-v1/…/chunks-<blob digest>              the chunks of a compressed blob: 44 bytes each
//! derived-v1/…/chunk-<BLAKE3>-<form>             that digest, for the first chunk of a blob and one in sixteen others
//! ```
//! A chunk's compressed bytes follow from its own and the form, so any blob that has it will do; they are read from there and
//! kept nowhere else. Whoever meets a chunk that is filed by its hash learns of all chunks beside it. What is gone or damaged
//! is compressed again: this is a shortcut, never a source.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::digest::{Blake3, BlobDigest};
use rbuild_cache::{Kind, ObjectRef, Store};

use super::error::Result;
use super::gzip::Piece;

const LIST: &str = "chunks-";
const FILED: &str = "chunk-";
/// One in this many chunks is filed by its hash: few enough files, and a relative is found within some megabytes.
const SAMPLE: u8 = 16;
/// Hash, offset and length.
const ENTRY: usize = 32 + 8 + 4;

/// Where compressed chunks of one form are.
#[derive(Debug)]
pub(super) struct Earlier {
    store: Store,
    form: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    chunks: BTreeMap<Blake3, (Arc<fs_err::File>, u64, u32)>,
    blobs: Vec<BlobDigest>,
}

impl Earlier {
    /// What `store` has in `form`, which names everything the bytes depend on.
    pub(super) fn new(store: Store, form: String) -> Self {
        Self { store, form, known: Mutex::default() }
    }

    /// The compressed bytes of a chunk, if they are to be had.
    pub(super) fn recall(&self, hash: &Blake3, first: bool) -> Option<Vec<u8>> {
        let find = |known: &Known| known.chunks.get(hash).cloned();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if find(&known).is_none() && filed(hash, first) {
            self.learn(hash, &mut known);
        }
        let (file, offset, length) = find(&known)?;
        drop(known);
        let mut bytes = vec![0; length as usize];
        file.file().read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// Learns of all chunks of the blob that has this one.
    fn learn(&self, hash: &Blake3, known: &mut Known) -> Option<()> {
        let digest = self.store.get(Kind::Derived, &self.filed_name(hash)).ok()??;
        let digest: BlobDigest = std::str::from_utf8(&digest).ok()?.parse().ok()?;
        if known.blobs.contains(&digest) {
            return None;
        }
        known.blobs.push(digest);
        let name = list_name(&digest);
        let list = self.store.get(Kind::Derived, &name).ok()??;
        let blob = Arc::new(self.store.open_blob(&digest).ok()??);
        self.store.touch(Kind::Derived, &name).ok()?;
        for piece in decode(&list) {
            known.chunks.entry(piece.hash).or_insert_with(|| (blob.clone(), piece.offset, piece.length));
        }
        Some(())
    }

    /// Files the chunks of a blob that is in the store.
    pub(super) fn note(&self, digest: BlobDigest, pieces: &[Piece]) -> Result<()> {
        if pieces.is_empty() {
            return Ok(());
        }
        self.store.put(Kind::Derived, &list_name(&digest), &encode(pieces))?;
        let text = digest.to_string();
        for (n, piece) in pieces.iter().enumerate().filter(|(n, piece)| filed(&piece.hash, *n == 0)) {
            let name = self.filed_name(&piece.hash);
            // One blob is as good as another, but what is looked for first should be the newest.
            if n == 0 || !self.store.contains(Kind::Derived, &name)? {
                self.store.put(Kind::Derived, &name, text.as_bytes())?;
            }
        }
        Ok(())
    }

    fn filed_name(&self, hash: &Blake3) -> String {
        format!("{FILED}{hash}-{}", self.form)
    }
}

fn filed(hash: &Blake3, first: bool) -> bool {
    first || hash.0[0] < u8::MAX / SAMPLE
}

fn list_name(digest: &BlobDigest) -> String {
    format!("{LIST}{}", digest.0.hex())
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.len() * ENTRY);
    for Piece { hash, offset, length } in pieces {
        out.extend_from_slice(&hash.0);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
    }
    out
}

/// What is no whole entry is left out.
fn decode(list: &[u8]) -> impl Iterator<Item = Piece> {
    list.chunks_exact(ENTRY).filter_map(|entry| {
        let (hash, rest) = entry.split_first_chunk::<32>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let length = rest.first_chunk::<4>()?;
        let (offset, length) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*length));
        Some(Piece { hash: Blake3(*hash), offset, length })
    })
}

/// What a record of this file needs; `None` if it is not of this file.
pub(super) fn references(name: &str, bytes: &[u8]) -> Option<Vec<ObjectRef>> {
    let blob = |text: &str| Some(vec![ObjectRef::RemakableBlob(text.parse().ok()?)]);
    if let Some(hex) = name.strip_prefix(LIST) {
        return blob(&format!("sha256:{hex}"));
    }
    name.strip_prefix(FILED)?;
    let digest: BlobDigest = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    Some(vec![ObjectRef::RemakableSmall(Kind::Derived, list_name(&digest))])
}
