//! What the catalog writes down: an image by its ID, and what a name means. JSON; the store's kinds carry the version.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rbuild_cache::digest::{BlobDigest, DiffId, DigestError, LayerId, Sha256};
use rbuild_cache::{Kind, ObjectRef};
use serde::{Deserialize, Serialize};

use crate::oci::config::ImageConfig;
use crate::oci::manifest::{self, Descriptor, Document, ManifestError};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// The digest of an image's config: what `--iidfile` and `inspect` call its ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub BlobDigest);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// Where a blob can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A repository.
    Registry(Reference),
    /// An OCI layout directory.
    Layout(PathBuf),
    /// A bucket, for builds that say how to get at it.
    Bucket(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(name) => name.fmt(f),
            Self::Layout(path) => write!(f, "oci-layout://{}", path.display()),
            Self::Bucket(name) => f.write_str(name),
        }
    }
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Digest of the tar, as the config lists it.
    pub diff_id: DiffId,
    /// The layer, which need not be in the store yet if it can be fetched.
    pub layer: LayerId,
    /// The blob it came as, for layers that we did not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// Where that blob can be had; empty for layers made or loaded here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Origin>,
}

/// One image. The config is kept as text because its digest is over the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The config, byte for byte.
    pub config: String,
    /// From the bottom.
    pub layers: Vec<ImageLayer>,
    /// The manifest it was pulled or loaded with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Document>,
    /// What a manifest made for it says besides; `--annotation` of the build.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Image {
    /// Its ID.
    pub fn id(&self) -> ImageId {
        ImageId(BlobDigest(Sha256::of(self.config.as_bytes())))
    }

    /// The config, read.
    pub fn parsed(&self) -> Result<ImageConfig, ManifestError> {
        manifest::read("image config", self.config.as_bytes())
    }

    /// What it runs on, as its config says.
    pub fn platform(&self) -> Result<Platform, ManifestError> {
        self.parsed().map(|config| platform_of(&config))
    }

    /// The layers as the engine wants them.
    pub fn layer_ids(&self) -> Vec<LayerId> {
        self.layers.iter().map(|layer| layer.layer).collect()
    }

    /// Takes from an earlier record of the same image what this one does not say.
    pub(super) fn complete(&mut self, older: Image) {
        self.manifest = self.manifest.take().or(older.manifest);
        for (new, old) in self.layers.iter_mut().zip(older.layers) {
            if new.layer != old.layer {
                continue;
            }
            match (&new.descriptor, old.descriptor) {
                (None, found) => (new.descriptor, new.from) = (found, old.from),
                (Some(new_blob), Some(old_blob)) if new_blob.digest == old_blob.digest => {
                    let unknown: Vec<_> = old.from.into_iter().filter(|origin| !new.from.contains(origin)).collect();
                    new.from.extend(unknown);
                }
                (Some(_), _) => {}
            }
        }
    }

    /// What the store must keep for this image.
    pub(super) fn references(&self) -> Vec<ObjectRef> {
        let small = |layer: &ImageLayer| {
            let id = layer.layer.to_string();
            match layer.from.as_slice() {
                [] => ObjectRef::Small(Kind::Layer, id),
                [_, ..] => ObjectRef::RemakableSmall(Kind::Layer, id),
            }
        };
        let blob = |layer: &ImageLayer| {
            let digest = layer.descriptor.as_ref()?.digest;
            Some(if layer.from.is_empty() { ObjectRef::Blob(digest) } else { ObjectRef::RemakableBlob(digest) })
        };
        self.layers.iter().map(small).chain(self.layers.iter().filter_map(blob)).collect()
    }
}

/// The platform an image config is for.
pub fn platform_of(config: &ImageConfig) -> Platform {
    Platform {
        os_version: config.os_version.clone(),
        os_features: config.os_features.clone(),
        ..Platform::new(&config.os, &config.architecture, &config.variant)
    }
}

/// What a name means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The images, one a platform, in the order they were asked for.
    pub images: Vec<NamedImage>,
    /// What the registry said the name stands for: the digest of an index or of the one manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<BlobDigest>,
    /// The index, if that is what it stands for; other platforms are found in it without asking again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Document>,
    /// For an index that `manifest create` made: where its manifests are, by digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, Origin>,
}

/// One image behind a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedImage {
    /// What it was asked for; its config may claim otherwise.
    pub platform: Platform,
    /// The image.
    pub id: ImageId,
}

impl Named {
    /// A name for one image built here.
    pub fn one(platform: Platform, id: ImageId) -> Self {
        Self { images: vec![NamedImage { platform, id }], ..Self::default() }
    }

    /// The image that serves a platform best; a single image serves all if the name stands for nothing else.
    pub fn image(&self, wanted: &Platform) -> Option<ImageId> {
        let best = wanted.best(self.images.iter().map(|image| Some(&image.platform)));
        match (best, self.images.as_slice()) {
            (Some(best), images) => Some(images[best].id),
            (None, [only]) if self.index.is_none() => Some(only.id),
            (None, _) => None,
        }
    }

    /// Puts an image in, replacing the one for the same platform.
    pub(super) fn insert(&mut self, platform: Platform, id: ImageId) {
        match self.images.iter_mut().find(|image| image.platform == platform) {
            Some(image) => image.id = id,
            None => self.images.push(NamedImage { platform, id }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(descriptor: Option<&[u8]>, from: &[&str]) -> Image {
        let diff_id = DiffId(Sha256::of(b"tar"));
        let origin = |name: &&str| Origin::Registry(Reference::parse(name).expect("valid"));
        let layer = ImageLayer {
            diff_id,
            layer: crate::layers::identity::foreign_layer_id(&diff_id),
            descriptor: descriptor.map(|bytes| Descriptor::of(manifest::MediaType::ImageLayerGzip, bytes)),
            from: from.iter().map(origin).collect(),
        };
        Image { config: "{\"os\":\"linux\"}".to_owned(), layers: vec![layer], ..Image::default() }
    }

    #[test]
    fn records_read_what_they_wrote() {
        let mut record = image(Some(b"x"), &["alpine", "localhost:5000/a"]);
        record.manifest = Some(Document::new(br#"{"schemaVersion":2, "config":{}}"#.to_vec(), None).expect("json"));
        let text = serde_json::to_string(&record).expect("written");
        assert_eq!(serde_json::from_str::<Image>(&text).expect("read"), record, "bytes with odd spaces too");
    }

    #[test]
    fn an_older_record_fills_the_gaps() {
        let mut built = image(None, &[]);
        built.complete(image(Some(b"x"), &["alpine"]));
        assert_eq!(built, image(Some(b"x"), &["alpine"]));
        let mut pulled = image(Some(b"x"), &["b"]);
        pulled.complete(image(Some(b"x"), &["alpine", "b"]));
        assert_eq!(pulled, image(Some(b"x"), &["b", "alpine"]));
        let mut repacked = image(Some(b"y"), &["b"]);
        repacked.complete(image(Some(b"x"), &["alpine"]));
        assert_eq!(repacked, image(Some(b"y"), &["b"]), "another blob is another blob");
    }

    #[test]
    fn names_choose_by_platform() {
        let id = |text: &[u8]| ImageId(BlobDigest(Sha256::of(text)));
        let arm = Platform::new("linux", "arm64", "");
        let amd = Platform::new("linux", "amd64", "");
        let mut named = Named::one(arm.clone(), id(b"arm"));
        assert_eq!(named.image(&amd), Some(id(b"arm")), "the only one there is");
        named.insert(amd.clone(), id(b"amd"));
        assert_eq!(named.image(&amd), Some(id(b"amd")));
        named.insert(amd.clone(), id(b"newer"));
        assert_eq!((named.image(&amd), named.images.len()), (Some(id(b"newer")), 2));
        assert_eq!(named.image(&Platform::new("linux", "s390x", "")), None);
    }
}
