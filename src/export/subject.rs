//! What is exported, and what came of it.

use rbuild_cache::digest::LayerId;
use serde_json::{Map, Value, json};

use crate::catalog::{Image, ImageId};
use crate::oci::manifest::Descriptor;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// The images of one result, one a platform, and its names.
#[derive(Clone, Debug)]
pub struct Subject {
    /// In the order the platforms were asked for.
    pub images: Vec<Part>,
    /// With tags.
    pub names: Vec<Reference>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: Option<i64>,
    /// Whether a single image gets an index, too.
    pub indexed: bool,
}

/// One image of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is for.
    pub platform: Platform,
    /// The image.
    pub image: Image,
    /// How many of its layers, from the bottom, were there before the build. They stay as they are.
    pub base: usize,
}

impl Part {
    /// An image that nothing was built on: all of it was there before.
    pub fn finished(platform: Platform, image: Image) -> Self {
        let base = image.layers.len();
        Self { platform, image, base }
    }

    /// The layers that the build made.
    pub fn own_layers(&self) -> Vec<LayerId> {
        self.image.layers.iter().skip(self.base).map(|layer| layer.layer).collect()
    }
}

impl Subject {
    /// The ID of an image that is the only one.
    pub(super) fn single(&self) -> Option<ImageId> {
        match self.images.as_slice() {
            [part] => Some(part.image.id()),
            _ => None,
        }
    }
}

/// What an export made, for `--metadata-file`, `--iidfile` and `-q`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The config digest of a single image.
    pub id: Option<ImageId>,
    /// The manifest, or the index of several; none if none was made.
    pub descriptor: Option<Descriptor>,
    /// The names given.
    pub names: Vec<String>,
}

impl Exported {
    /// The keys of a metadata file that an export knows.
    pub fn metadata(&self) -> Map<String, Value> {
        let mut out = Map::new();
        if let Some(id) = self.id {
            out.insert("containerimage.config.digest".to_owned(), json!(id));
        }
        if let Some(descriptor) = &self.descriptor {
            out.insert("containerimage.descriptor".to_owned(), json!(descriptor));
            out.insert("containerimage.digest".to_owned(), json!(descriptor.digest));
        }
        if !self.names.is_empty() {
            out.insert("image.name".to_owned(), json!(self.names.join(",")));
        }
        out
    }
}
