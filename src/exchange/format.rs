//! What a cache looks like: `docs/cache-format.md` in types. Pure.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rbuild_cache::digest::{Blake3, BlobDigest, DiffId, LayerId, StepKey, TreeId};
use serde::{Deserialize, Serialize};

use super::ExchangeError;
use crate::engine::elsewhere::Known;
use crate::engine::record::StepRecord;
use crate::layers::MOST_PARTS;
use crate::oci::manifest::{self, Descriptor, Document, Family, Manifest};

/// Version of the config.
pub(super) const FORMAT_VERSION: u32 = 2;
/// Media type of the config of a cache's manifest.
pub(super) const CONFIG_TYPE: &str = "application/vnd.rbuild.cache.config.v1+json";
/// Media type of an index blob.
pub(super) const INDEX_TYPE: &str = "application/vnd.rbuild.cache.index.v1+gzip";
/// Media type of a part of a cache mount's content, without what its compression adds.
pub(super) const MOUNT_TYPE: &str = "application/vnd.rbuild.cache.mount.v1.tar";
/// The biggest config that is read: some ten thousand steps.
pub(super) const MAX_CONFIG: u64 = 64 << 20;
/// The biggest index that is read, compressed and not: a layer of some million files.
pub(super) const MAX_INDEX: u64 = 256 << 20;

/// The config of a cache's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Config {
    pub(super) version: u32,
    /// Results.
    pub(super) records: BTreeMap<StepKey, StepRecord>,
    /// Keys under the names of whole inputs.
    pub(super) aliases: BTreeMap<String, StepKey>,
    /// All layers that records name.
    pub(super) layers: BTreeMap<LayerId, CachedLayer>,
    /// Contents of cache mounts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) mounts: BTreeMap<Blake3, CachedMount>,
}

/// The content of a cache mount, as a layer on nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CachedMount {
    /// Its `id=`.
    pub(super) id: String,
    pub(super) layer: LayerId,
    pub(super) diff_id: DiffId,
    /// One after the other they are its tar, compressed.
    pub(super) parts: Vec<Descriptor>,
}

/// A layer of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CachedLayer {
    pub(super) tree: TreeId,
    pub(super) diff_id: DiffId,
    /// Its tar.
    pub(super) blob: Descriptor,
    /// Its entries; without it the tar is needed to know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<Descriptor>,
}

/// The part of a config that says its version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Config {
    /// Reads a config of this version. What contradicts itself is left out: a record whose facts give another key, or whose
    /// layer is not listed as the record has it.
    pub(super) fn read(bytes: &[u8], what: &str) -> Result<Self, ExchangeError> {
        let malformed = |source| ExchangeError::Manifest { what: what.to_owned(), source };
        let Versioned { version } = manifest::read("cache config", bytes).map_err(malformed)?;
        if version != FORMAT_VERSION {
            let message = format!("cache of format version {version}; this rbuild reads version {FORMAT_VERSION}");
            return Err(ExchangeError::Unusable { what: what.to_owned(), message });
        }
        let mut config: Self = manifest::read("cache config", bytes).map_err(malformed)?;
        let layers = &config.layers;
        config.records.retain(|key, record| {
            let layer = layers.get(&record.layer.id);
            let same = |l: &CachedLayer| l.tree == record.layer.tree && l.diff_id == record.layer.diff_id;
            record.facts.step_key() == *key && layer.is_some_and(same)
        });
        // More than anybody cuts is nothing to fetch.
        config.mounts.retain(|_, mount| (1..=MOST_PARTS).contains(&mount.parts.len()));
        Ok(config)
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text keys and plain values always have a JSON form")
    }

    /// The manifest of this config, whose descriptor is `config`: every blob is listed, so that registries keep it.
    pub(super) fn manifest(&self, config: Descriptor, family: Family) -> Document {
        let mut blobs: BTreeMap<BlobDigest, Descriptor> = BTreeMap::new();
        let of_layers = self.layers.values().flat_map(|layer| std::iter::once(&layer.blob).chain(&layer.index));
        for blob in of_layers.chain(self.mounts.values().flat_map(|mount| &mount.parts)) {
            let mut blob = blob.clone();
            blob.media_type = family.convert_layer(&blob.media_type);
            blobs.insert(blob.digest, blob);
        }
        Document::of_manifest(&Manifest {
            schema_version: 2,
            media_type: Some(family.manifest()),
            artifact_type: None,
            config,
            layers: blobs.into_values().collect(),
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        })
    }

    pub(super) fn descriptor(bytes: &[u8]) -> Descriptor {
        Descriptor::of(CONFIG_TYPE.into(), bytes)
    }
}

/// Adds what another source knows; what is known already stays.
pub(super) fn merge(known: &mut Known, other: Known) {
    for (key, record) in other.records {
        known.records.entry(key).or_insert(record);
    }
    for (name, key) in other.aliases {
        known.aliases.entry(name).or_insert(key);
    }
}

/// An index blob: the stored form of an index, compressed.
pub(super) fn pack_index(index: &[u8]) -> std::io::Result<(Descriptor, Vec<u8>)> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(index)?;
    let bytes = encoder.finish()?;
    Ok((Descriptor::of(INDEX_TYPE.into(), &bytes), bytes))
}

/// The stored form of an index out of its blob.
pub(super) fn unpack_index(blob: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(blob).take(MAX_INDEX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INDEX {
        return Err(std::io::Error::other(format!("index larger than the limit of {MAX_INDEX} bytes")));
    }
    Ok(bytes)
}
