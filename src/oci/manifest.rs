//! Manifests, indexes and descriptors, in OCI's and Docker's media types.
//!
//! What was fetched stays as bytes ([`Document`]): its digest is over them, so they are never written anew. Media types are
//! `oci-spec`'s. The structs are our own because `oci-spec` 0.10 keeps annotations unordered (no stable bytes) and drops
//! `os.version` and unknown fields; the tests have it read what we write. Pure.

use std::collections::BTreeMap;

pub use oci_spec::image::MediaType;
use rbuild_cache::digest::{BlobDigest, Sha256};
use serde::{Deserialize, Serialize};

use super::null_is_default;
use super::platform::Platform;

/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// Media types accepted where a manifest or an index is asked for, as a registry wants to see them.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, */*";

/// The biggest manifest or index that is read: the size the distribution spec asks registries to take.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The biggest image config that is read; real ones have some tens of kilobytes.
pub const MAX_CONFIG: u64 = 16 << 20;

/// Bytes are not the document they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON expected.
    #[error("malformed {what}: {message}")]
    Malformed {
        /// `manifest`, `index` or `image config`.
        what: &'static str,
        /// What the JSON reader said.
        message: String,
    },
    /// Docker's first format; nobody verifies it any more.
    #[error("Docker image manifest schema 1 is not supported; push the image again with a current tool")]
    Schema1,
    /// Neither manifest nor index, or both at once.
    #[error("unsupported manifest media type {0:?}")]
    MediaType(String),
    /// No entry of an index fits.
    #[error("no match for platform in manifest: not found")]
    NoMatch {
        /// What was wanted.
        wanted: String,
        /// What there is, for the help line.
        offered: Vec<String>,
    },
}

/// Points at bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: MediaType,
    /// SHA-256 of the bytes.
    pub digest: BlobDigest,
    /// Their number.
    pub size: u64,
    /// Other places to fetch them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Fields rbuild does not use (`data`, `artifactType`, …), kept.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl ManifestError {
    /// A line that helps the user out, if we know one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoMatch { wanted, offered } => {
                // What carries attestations is for no platform.
                let there: Vec<&str> = offered.iter().map(String::as_str).filter(|p| *p != "unknown/unknown").collect();
                Some(match there.as_slice() {
                    [] => format!("{wanted} is wanted, and there is nothing for any platform"),
                    there => format!("{wanted} is wanted; there is {}", there.join(", ")),
                })
            }
            Self::Malformed { .. } | Self::Schema1 | Self::MediaType(_) => None,
        }
    }
}

impl Descriptor {
    /// A descriptor without extras.
    pub fn new(media_type: MediaType, digest: BlobDigest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            other: BTreeMap::new(),
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Self {
        Self::new(media_type, BlobDigest(Sha256::of(bytes)), bytes.len() as u64)
    }

    /// Whether it points at a manifest or an index, which registries keep apart from blobs.
    pub fn is_document(&self) -> bool {
        is_manifest(&self.media_type) || is_index(&self.media_type)
    }
}

/// One image: config and layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// Its own type; optional in OCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Of artifacts that are no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// From the bottom.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Fields rbuild does not use.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Several manifests, usually one a platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// Its own type; optional in OCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What it lists.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// Fields rbuild does not use.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Index {
    /// An index of these manifests.
    pub fn new(family: Family, manifests: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        let media_type = Some(family.index());
        Self { schema_version: 2, media_type, manifests, annotations, other: BTreeMap::new() }
    }

    /// The entry that serves `wanted` best. An entry without a platform is the last resort.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        self.candidates(wanted).into_iter().next().ok_or_else(|| self.no_match(wanted))
    }

    /// The entry for `wanted`; else those that do not say what they are for, which their configs do.
    pub fn candidates(&self, wanted: &Platform) -> Vec<&Descriptor> {
        match wanted.best(self.manifests.iter().map(|entry| entry.platform.as_ref())) {
            Some(i) => vec![&self.manifests[i]],
            None => self.manifests.iter().filter(|entry| entry.platform.is_none() && entry.is_document()).collect(),
        }
    }

    /// Nothing in it is for `wanted`.
    pub fn no_match(&self, wanted: &Platform) -> ManifestError {
        let known = self.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        ManifestError::NoMatch { wanted: wanted.to_string(), offered: known.map(Platform::to_string).collect() }
    }
}

/// What a document turned out to be.
#[expect(clippy::large_enum_variant, reason = "lives for one match")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// A manifest or index as its bytes, with the digest of just these bytes. Serialised as media type and text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Kept", try_from = "Kept")]
pub struct Document {
    bytes: Vec<u8>,
    media_type: MediaType,
    digest: BlobDigest,
}

impl Document {
    /// A document from bytes and the media type they came with, if any; else the type is looked up inside.
    pub fn new(bytes: Vec<u8>, media_type: Option<&str>) -> Result<Self, ManifestError> {
        if let Err(error) = std::str::from_utf8(&bytes) {
            return Err(ManifestError::Malformed { what: "manifest", message: error.to_string() });
        }
        let digest = BlobDigest(Sha256::of(&bytes));
        let claimed = media_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let media_type = match claimed {
            Some(text) if text.starts_with(SCHEMA_1) => return Err(ManifestError::Schema1),
            Some(text) if is_manifest(&text.into()) || is_index(&text.into()) => text.into(),
            _ => sniff(&bytes)?,
        };
        Ok(Self { bytes, media_type, digest })
    }

    /// Writes a manifest down; the same manifest gives the same bytes.
    pub fn of_manifest(manifest: &Manifest) -> Self {
        let media_type = manifest.media_type.clone().unwrap_or(MediaType::ImageManifest);
        Self::written(serde_json::to_vec_pretty(manifest), media_type)
    }

    /// Writes an index down.
    pub fn of_index(index: &Index) -> Self {
        let media_type = index.media_type.clone().unwrap_or(MediaType::ImageIndex);
        Self::written(serde_json::to_vec_pretty(index), media_type)
    }

    fn written(bytes: serde_json::Result<Vec<u8>>, media_type: MediaType) -> Self {
        let bytes = bytes.expect("text keys and plain values always have a JSON form");
        Self { digest: BlobDigest(Sha256::of(&bytes)), bytes, media_type }
    }

    /// Reads it.
    pub fn parse(&self) -> Result<Parsed, ManifestError> {
        let fields: Shape = read("manifest", &self.bytes)?;
        if fields.schema_version == Some(1) || fields.fs_layers.is_some() {
            return Err(ManifestError::Schema1);
        }
        // A document that is both, or not what it was served as, would mean different images to different tools.
        let like_manifest = fields.layers.is_some() || fields.config.is_some();
        match (is_index(&self.media_type), fields.manifests.is_some(), like_manifest) {
            (true, _, false) => Ok(Parsed::Index(read("index", &self.bytes)?)),
            (false, false, _) => Ok(Parsed::Manifest(read("manifest", &self.bytes)?)),
            (true, _, true) | (false, true, _) => Err(ManifestError::MediaType(self.media_type.to_string())),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Manifest or index, Docker's or OCI's.
    pub fn media_type(&self) -> &MediaType {
        &self.media_type
    }
    /// SHA-256 of the bytes.
    pub fn digest(&self) -> BlobDigest {
        self.digest
    }
    /// What points at it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.bytes.len() as u64)
    }
}

/// A document as records keep it. It was parsed as JSON before, so it is text.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    media_type: MediaType,
    text: String,
}

impl From<Document> for Kept {
    fn from(document: Document) -> Self {
        Self { media_type: document.media_type, text: String::from_utf8_lossy(&document.bytes).into_owned() }
    }
}

impl TryFrom<Kept> for Document {
    type Error = ManifestError;
    fn try_from(kept: Kept) -> Result<Self, ManifestError> {
        Self::new(kept.text.into_bytes(), Some(kept.media_type.as_ref()))
    }
}

/// The fields that tell documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn sniff(bytes: &[u8]) -> Result<MediaType, ManifestError> {
    let shape: Shape = read("manifest", bytes)?;
    match shape.media_type {
        _ if shape.schema_version == Some(1) => Err(ManifestError::Schema1),
        Some(text) if is_manifest(&text.as_str().into()) || is_index(&text.as_str().into()) => Ok(text.as_str().into()),
        Some(text) if !text.is_empty() => Err(ManifestError::MediaType(text)),
        _ if shape.manifests.is_some() => Ok(MediaType::ImageIndex),
        _ if shape.config.is_some() => Ok(MediaType::ImageManifest),
        _ => Err(ManifestError::MediaType(String::new())),
    }
}

/// Reads a JSON document and says which one was broken.
pub fn read<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|error| ManifestError::Malformed { what, message: error.to_string() })
}

/// Whether this is the type of a manifest.
pub fn is_manifest(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageManifest || media_type.as_ref() == DOCKER_MANIFEST
}

/// Whether this is the type of an index.
pub fn is_index(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageIndex || media_type.as_ref() == DOCKER_LIST
}

/// Whose media types a manifest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `application/vnd.oci.image…`
    Oci,
    /// `application/vnd.docker…`
    Docker,
}

impl Family {
    /// The type of a manifest.
    pub fn manifest(self) -> MediaType {
        match self {
            Self::Oci => MediaType::ImageManifest,
            Self::Docker => DOCKER_MANIFEST.into(),
        }
    }
    /// The type of an index.
    pub fn index(self) -> MediaType {
        match self {
            Self::Oci => MediaType::ImageIndex,
            Self::Docker => DOCKER_LIST.into(),
        }
    }
    /// The type of an image config.
    pub fn config(self) -> MediaType {
        match self {
            Self::Oci => MediaType::ImageConfig,
            Self::Docker => DOCKER_CONFIG.into(),
        }
    }
    /// The type of a layer packed like this.
    pub fn layer(self, packing: Packing) -> MediaType {
        let (base, dot) = match self {
            Self::Oci => (OCI_LAYER, '+'),
            Self::Docker => (DOCKER_LAYER, '.'),
        };
        packing.suffix().map_or_else(|| base.into(), |suffix| format!("{base}{dot}{suffix}").as_str().into())
    }
    /// The same layer type in this family. Types that are no known layer stay as they are.
    pub fn convert_layer(self, media_type: &MediaType) -> MediaType {
        let Some((packing, foreign)) = layer_parts(media_type) else { return media_type.clone() };
        let plain = self.layer(packing).to_string();
        if !foreign {
            return plain.as_str().into();
        }
        let converted = match self {
            Self::Oci => plain.replacen(OCI_LAYER, OCI_FOREIGN, 1),
            Self::Docker => plain.replacen(DOCKER_LAYER, DOCKER_FOREIGN, 1),
        };
        converted.as_str().into()
    }
}

/// How a layer's tar is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// A bare tar.
    Tar,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Tar => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// How the layer behind this media type is packed; `None` for anything else.
pub fn packing(media_type: &MediaType) -> Option<Packing> {
    layer_parts(media_type).map(|(packing, _)| packing)
}

/// Whether the layer may not be pushed elsewhere (Windows base layers).
pub fn is_foreign(media_type: &MediaType) -> bool {
    layer_parts(media_type).is_some_and(|(_, foreign)| foreign)
}

fn layer_parts(media_type: &MediaType) -> Option<(Packing, bool)> {
    let text = media_type.as_ref();
    let (rest, foreign) = [(OCI_LAYER, false), (OCI_FOREIGN, true), (DOCKER_LAYER, false), (DOCKER_FOREIGN, true)]
        .into_iter()
        .find_map(|(base, foreign)| Some((text.strip_prefix(base)?, foreign)))?;
    let packing = match rest.trim_start_matches(['+', '.']) {
        "" => Packing::Tar,
        "gzip" => Packing::Gzip,
        "zstd" => Packing::Zstd,
        _ => return None,
    };
    Some((packing, foreign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let mut layer = Descriptor::of(Family::Oci.layer(Packing::Gzip), b"layer");
        layer.annotations.insert("b".to_owned(), "2".to_owned());
        layer.annotations.insert("a".to_owned(), "1".to_owned());
        Manifest {
            schema_version: 2,
            media_type: Some(MediaType::ImageManifest),
            artifact_type: None,
            config: Descriptor::of(MediaType::ImageConfig, b"{}"),
            layers: vec![layer],
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    #[test]
    fn others_read_what_is_written() {
        let document = Document::of_manifest(&manifest());
        let read = oci_spec::image::ImageManifest::from_reader(document.bytes()).expect("valid for oci-spec");
        assert_eq!(read.layers()[0].size(), 5);
        assert_eq!(document.parse(), Ok(Parsed::Manifest(manifest())));
        assert_eq!(document, Document::of_manifest(&manifest()), "same manifest, same bytes");

        let mut entry = document.descriptor();
        entry.platform = Some(Platform::new("linux", "arm64", ""));
        let index = Document::of_index(&Index::new(Family::Oci, vec![entry], BTreeMap::new()));
        let read = oci_spec::image::ImageIndex::from_reader(index.bytes()).expect("valid for oci-spec");
        assert_eq!(
            read.manifests()[0].platform().as_ref().map(|p| p.architecture().to_string()).as_deref(),
            Some("arm64")
        );
    }

    #[test]
    fn unknown_fields_survive() {
        let text = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"data":"e30="},"layers":[],"annotations":null,"subject":{"x":1}}"#;
        let Ok(Parsed::Manifest(manifest)) = Document::new(text.into(), None).and_then(|d| d.parse()) else {
            panic!("a manifest")
        };
        assert_eq!(manifest.config.other["data"], "e30=");
        assert_eq!(manifest.other["subject"]["x"], 1);
    }

    #[test]
    fn documents_that_are_two_things_are_refused() {
        let error = |text: &str, media_type: Option<&str>| {
            Document::new(text.into(), media_type).and_then(|d| d.parse()).expect_err(text).to_string()
        };
        let both = r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#;
        assert!(error(both, None).starts_with("unsupported manifest media type"));
        assert!(error(both, Some(MediaType::ImageManifest.as_ref())).starts_with("unsupported"));
        let manifest = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        assert!(error(manifest, Some(DOCKER_LIST)).starts_with("unsupported"), "a manifest is no empty index");
        assert!(error(r#"{"schemaVersion":2,"manifests":[]}"#, Some(DOCKER_MANIFEST)).starts_with("unsupported"));
        assert!(error(r#"{"schemaVersion":1,"fsLayers":[]}"#, None).contains("schema 1"));
        assert!(error("{}", Some("application/vnd.docker.distribution.manifest.v1+prettyjws")).contains("schema 1"));
        assert!(error(r#"{"schemaVersion":2,"mediaType":"text/x"}"#, Some("text/html")).contains("text/x"));
        assert!(error("<html>", Some("text/html")).starts_with("malformed manifest"));
    }

    #[test]
    fn selection_says_what_buildkit_says() {
        let entry = |platform: Option<(&str, &str)>, body: &[u8]| {
            let mut entry = Descriptor::of(MediaType::ImageManifest, body);
            entry.platform = platform.map(|(os, arch)| Platform::new(os, arch, ""));
            entry
        };
        let list = vec![entry(Some(("unknown", "unknown")), b"1"), entry(Some(("linux", "arm64")), b"2")];
        let index = Index::new(Family::Oci, list, BTreeMap::new());
        let pick = |wish: &str| index.select(&Platform::new("linux", wish, "")).map(|d| d.digest);
        assert_eq!(pick("aarch64"), Ok(BlobDigest(Sha256::of(b"2"))));
        let error = pick("amd64").expect_err("nothing fits");
        assert_eq!(error.to_string(), "no match for platform in manifest: not found");
        assert_eq!(error.help().as_deref(), Some("linux/amd64 is wanted; there is linux/arm64"));
        assert!(
            matches!(error, ManifestError::NoMatch { offered, .. } if offered == ["unknown/unknown", "linux/arm64"])
        );
    }

    #[test]
    fn layer_types_convert_both_ways() {
        let check = |docker: &str, oci: &str| {
            assert_eq!(Family::Oci.convert_layer(&docker.into()).to_string(), oci);
            assert_eq!(Family::Docker.convert_layer(&oci.into()).to_string(), docker);
        };
        check("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip");
        check("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar");
        check(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        );
        let other = "application/x-something";
        assert_eq!(Family::Oci.convert_layer(&other.into()).to_string(), other);
        assert_eq!(packing(&MediaType::ImageLayerZstd), Some(Packing::Zstd));
    }
}
