//! The store as commands see it that read and write only small files: opened without namespaces and threads.
//!
//! Looking marks nothing as used: a list must not change what a prune would remove.

use rbuild_cache::{Kind, Store, StoreOptions};

use super::Failure;
use super::request::StoreRequest;
use crate::catalog::{Catalog, Image, ImageId, ImageLayer, Named};
use crate::layers::Record;
use crate::oci::platform::Platform;

/// Images and what is known of their layers.
pub(super) struct Records {
    /// Everything else.
    pub(super) store: Store,
    /// Names and images.
    pub(super) catalog: Catalog,
}

impl Records {
    /// Opens the store.
    pub(super) fn open(place: &StoreRequest) -> Result<Self, Failure> {
        // The ceiling is for commands that write more than names; without it nothing is evicted here.
        let store = Store::open(&place.root, StoreOptions::default()).map_err(|e| Failure::of(&e))?;
        Ok(Self { catalog: Catalog::new(store.clone()), store })
    }

    /// An image by its ID.
    pub(super) fn image(&self, id: &ImageId) -> Result<Option<Image>, Failure> {
        self.catalog.peek(id).map_err(|e| Failure::of(&e))
    }

    /// The image `text` means; of several platforms this machine's, if it is there.
    pub(super) fn find(&self, text: &str) -> Result<(ImageId, Image), Failure> {
        let (_, named) = self.catalog.find(text).map_err(|e| Failure::of(&e))?;
        let missing = || Failure::text(format!("No such image: {text}"));
        let id = best(&named).ok_or_else(missing)?;
        Ok((id, self.image(&id)?.ok_or_else(missing)?))
    }

    /// Bytes of each layer from the bottom: uncompressed, or as they would be fetched when the layer is not here.
    pub(super) fn sizes(&self, image: &Image) -> Result<Vec<u64>, Failure> {
        image.layers.iter().map(|layer| self.size(layer)).collect()
    }

    fn size(&self, layer: &ImageLayer) -> Result<u64, Failure> {
        let record = self.store.get(Kind::Layer, &layer.layer.to_string()).map_err(|e| Failure::of(&e))?;
        let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let compressed = layer.descriptor.as_ref().map_or(0, |descriptor| descriptor.size);
        Ok(record.map_or(compressed, |record| record.size))
    }
}

/// The image behind a name that this machine would run, else the first one.
pub(super) fn best(named: &Named) -> Option<ImageId> {
    named.image(&Platform::host()).or_else(|| named.images.first().map(|image| image.id))
}
