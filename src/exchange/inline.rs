//! Results inside an image's config: the image is its own cache, of the steps whose layers it has.
//!
//! Facts are left out, for an image is published and facts hold digests of build arguments; so are durations, which would give
//! the same image another digest each time. Layers are named by their diff IDs, the blobs are the image's own.

use std::collections::BTreeMap;

use rbuild_cache::digest::StepKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Results;
use super::format::CachedLayer;
use crate::catalog::Image;
use crate::engine::record::{Facts, StepLayer, StepRecord};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::Manifest;

/// The field of an image config; its end is the format's version.
pub(super) const FIELD: &str = "rbuild.cache.v1";

/// The value of the field.
#[derive(Debug, Serialize, Deserialize)]
struct Embedded {
    records: BTreeMap<StepKey, Entry>,
    aliases: BTreeMap<String, StepKey>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    layer: StepLayer,
    step: String,
    created: u64,
}

/// Puts the results that `image` holds the layers of into its config. Without results the field is taken out: a base image's
/// says nothing about this one.
pub fn embed(image: &mut Image, results: Option<&Results>) {
    let Ok(mut config) = serde_json::from_str::<Value>(&image.config) else { return };
    let Some(fields) = config.as_object_mut() else { return };
    let mut changed = fields.remove(FIELD).is_some();
    if let Some(results) = results {
        let mut embedded = Embedded { records: BTreeMap::new(), aliases: BTreeMap::new() };
        let own = |layer: &StepLayer| image.layers.iter().any(|l| l.layer == layer.id && l.diff_id == layer.diff_id);
        for memo in results.steps.iter().filter(|memo| own(&memo.record.layer)) {
            let StepRecord { layer, step, created, .. } = memo.record.clone();
            embedded.records.insert(memo.key, Entry { layer, step, created });
            embedded.aliases.extend(memo.alias.iter().map(|alias| (alias.clone(), memo.key)));
        }
        let value = serde_json::to_value(&embedded).expect("text keys and plain values always have a JSON form");
        fields.insert(FIELD.to_owned(), value);
        changed = true;
    }
    if changed {
        image.config = config.to_string();
    }
}

/// What an image's config says about its own layers.
pub(super) struct Read {
    pub(super) records: BTreeMap<StepKey, StepRecord>,
    pub(super) aliases: BTreeMap<String, StepKey>,
    pub(super) layers: Vec<(StepLayer, CachedLayer)>,
}

/// Reads the field of an image; `None` if it has none.
pub(super) fn read(config: &ImageConfig, manifest: &Manifest) -> Option<Read> {
    let embedded: Embedded = serde_json::from_value(config.other.get(FIELD)?.clone()).ok()?;
    let mut read = Read { records: BTreeMap::new(), aliases: embedded.aliases, layers: Vec::new() };
    for (key, Entry { layer, step, created }) in embedded.records {
        let Some(at) = config.rootfs.diff_ids.iter().position(|diff_id| *diff_id == layer.diff_id) else { continue };
        let Some(blob) = manifest.layers.get(at).cloned() else { continue };
        let cached = CachedLayer { tree: layer.tree, diff_id: layer.diff_id, blob, index: None };
        read.layers.push((layer, cached));
        let record =
            StepRecord { layer, step, facts: Facts::default(), root: Vec::new(), created, millis: 0, flattened: false };
        read.records.insert(key, record);
    }
    Some(read)
}
