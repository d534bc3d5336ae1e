//! From an image's name to its record: local first or registry first, as the policy says. Fetches no layer.
//!
//! A registry's answer is remembered with its digest, so asking again costs one HEAD request, and none with
//! [`Policy::Missing`]. An index is remembered too: another platform of the same digest needs no new index.

use std::fmt;

use rbuild_cache::Store;
use rbuild_cache::digest::BlobDigest;

use super::record::{Image, ImageId, ImageLayer, Named, Origin};
use super::{Catalog, CatalogError};
use crate::cancel::{Cancel, Cancelled};
use crate::event::{Stream, Vertex, Warning};
use crate::layers::{LayerError, Layers, foreign_layer_id};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{self, Document, MAX_CONFIG, Manifest, ManifestError, Parsed};
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, ReferenceError};
use crate::registry::{Client, Error, Layout, LayoutName, Remote, Selector, small_blob};

/// Indexes may list indexes; nobody needs more than this.
const MAX_DEPTH: usize = 4;
const LAYOUT_SCHEME: &str = "oci-layout://";

/// When to ask the registry although the store knows an image of that name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Always; it is an error if the registry does not answer.
    Always,
    /// Never if there is one.
    #[default]
    Missing,
    /// Always, but what the store has will do if the registry does not answer.
    Newer,
    /// Never at all.
    Never,
}

/// An image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is none.
    #[error("failed to parse image name {text:?}: {source}")]
    Name {
        /// As it was given.
        text: String,
        /// Why.
        source: ReferenceError,
    },
    /// Not in the store, and nobody may be asked.
    #[error("{0}: not found in the store, and pulling is not allowed (--pull=never)")]
    NotLocal(String),
    /// The registry or layout.
    #[error(transparent)]
    Registry(#[from] Error),
    /// What was fetched is no image we can use.
    #[error("{what}: {source}")]
    Manifest {
        /// What was fetched.
        what: String,
        /// Why.
        source: ManifestError,
    },
    /// What was fetched contradicts itself.
    #[error("{what}: {message}")]
    Unusable {
        /// What was fetched.
        what: String,
        /// What is wrong.
        message: String,
    },
    /// A layer cannot be unpacked.
    #[error("failed to extract layer {digest}: {source}")]
    Layer {
        /// Its blob.
        digest: BlobDigest,
        /// Why.
        source: LayerError,
    },
    /// The build was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl PullError {
    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.help(),
            Self::Manifest { source, .. } => source.help(),
            Self::Name { .. }
            | Self::NotLocal(_)
            | Self::Unusable { .. }
            | Self::Layer { .. }
            | Self::Cancelled(_)
            | Self::Catalog(_) => None,
        }
    }
}

/// Where an image is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store or a registry.
    Image(Reference),
    /// A layout directory; the store is not asked.
    Layout(LayoutName),
}

impl Source {
    /// Parses a name, or `oci-layout://path[:tag][@digest]`.
    pub fn parse(text: &str) -> Result<Self, PullError> {
        let name = |source| PullError::Name { text: text.to_owned(), source };
        match text.strip_prefix(LAYOUT_SCHEME) {
            Some(layout) => LayoutName::parse(layout).map(Self::Layout).ok_or_else(|| name(ReferenceError::Format)),
            None => Reference::parse_tagged(text).map(Self::Image).map_err(name),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(name) => name.fmt(f),
            Self::Layout(name) => write!(f, "{LAYOUT_SCHEME}{}:{}", name.path.display(), name.selector()),
        }
    }
}

/// An image that was found.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Its ID.
    pub id: ImageId,
    /// The record.
    pub image: Image,
    /// What the name stands for in the registry: digest of an index or manifest. `None` for images built here.
    pub digest: Option<BlobDigest>,
}

/// Finds images. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Puller {
    pub(super) catalog: Catalog,
    pub(super) client: Client,
    pub(super) layers: Layers,
    pub(super) store: Store,
}

impl Puller {
    /// Pulls with `client` into the store of `layers`.
    pub fn new(layers: Layers, client: Client) -> Self {
        let store = layers.store().clone();
        Self { catalog: Catalog::new(store.clone()), client, layers, store }
    }

    /// The catalog it fills.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The image a source means for a platform. `vertex` hears of fallbacks.
    pub async fn resolve(
        &self,
        source: &Source,
        platform: &Platform,
        policy: Policy,
        vertex: Option<&Vertex>,
    ) -> Result<Resolved, PullError> {
        match source {
            Source::Image(name) => self.resolve_name(&pinned(name), platform, policy, vertex).await,
            Source::Layout(name) => {
                let layout = Layout::open(&name.path)?;
                let root = std::path::absolute(&name.path).map_err(Error::from)?;
                let document = layout.manifest(&name.selector()).await?;
                let digest = Some(document.digest());
                let what = source.to_string();
                let found = self.fetch(&layout, document, platform, &Origin::Layout(root), &what).await?;
                Ok(Resolved { digest, ..found })
            }
        }
    }

    async fn resolve_name(
        &self,
        name: &Reference,
        platform: &Platform,
        policy: Policy,
        vertex: Option<&Vertex>,
    ) -> Result<Resolved, PullError> {
        let local = self.local(name, platform)?;
        let final_already = name.digest().is_some();
        match (local, policy) {
            (Some(found), Policy::Missing | Policy::Never) => Ok(found),
            (Some(found), Policy::Always | Policy::Newer) if final_already => Ok(found),
            (None, Policy::Never) => Err(PullError::NotLocal(name.to_string())),
            (None, Policy::Always) => self.ask(name, platform, None).await,
            (None, Policy::Missing | Policy::Newer) => match self.ask(name, platform, None).await {
                // An image for another variant of the platform, say: the registry might have had a better one.
                Err(PullError::Registry(error)) if error.is_unreachable() => match self.compatible(name, platform)? {
                    Some(found) => Ok(instead(found, name, &error, vertex)),
                    None => Err(error.into()),
                },
                asked => asked,
            },
            (Some(found), Policy::Always) => self.ask(name, platform, Some(found)).await,
            (Some(found), Policy::Newer) => {
                let asked = self.ask(name, platform, Some(found.clone())).await;
                asked.or_else(|error| Ok(instead(found, name, &error, vertex)))
            }
        }
    }

    /// Gets an image with all its layers and gives it the name it was asked for under, as `rbuild pull` does.
    pub async fn pull(
        &self,
        name: &Reference,
        platform: &Platform,
        vertex: &Vertex,
        cancel: &Cancel,
    ) -> Result<Resolved, PullError> {
        let name = pinned(name);
        let found = self.ask(&name, platform, self.local(&name, platform)?).await?;
        let mut named = self.catalog.remembered(&name)?.unwrap_or_default();
        if named.digest != found.digest {
            named = Named { digest: found.digest, ..Named::default() };
        }
        named.insert(platform.normalize(), found.id);
        self.ensure_layers(&found.image, vertex, cancel).await?;
        self.catalog.tag(&name, &named)?;
        Ok(found)
    }

    /// What the store knows: a name given here, else what a registry once said.
    fn local(&self, name: &Reference, platform: &Platform) -> Result<Option<Resolved>, PullError> {
        for named in [self.catalog.named(name)?, self.catalog.remembered(name)?].into_iter().flatten() {
            let id = if named.digest.is_some() { asked_for(&named, platform) } else { named.image(platform) };
            if let Some(id) = id
                && let Some(image) = self.catalog.get(&id)?
            {
                return Ok(Some(Resolved { id, image, digest: named.digest }));
            }
        }
        Ok(None)
    }

    /// What the store knows that can be run where the platform is wanted, whatever it was once asked for.
    fn compatible(&self, name: &Reference, platform: &Platform) -> Result<Option<Resolved>, PullError> {
        for named in [self.catalog.named(name)?, self.catalog.remembered(name)?].into_iter().flatten() {
            if let Some(id) = named.image(platform)
                && let Some(image) = self.catalog.get(&id)?
            {
                return Ok(Some(Resolved { id, image, digest: named.digest }));
            }
        }
        Ok(None)
    }

    /// What the registry says now, with one HEAD request if that is what it said before.
    async fn ask(&self, name: &Reference, platform: &Platform, known: Option<Resolved>) -> Result<Resolved, PullError> {
        self.ask_registry(name, platform, known).await.map_err(|error| match error {
            // The address that was not asked says less.
            PullError::Registry(Error::Offline(_)) => Error::Offline(name.to_string()).into(),
            error => error,
        })
    }

    async fn ask_registry(
        &self,
        name: &Reference,
        platform: &Platform,
        known: Option<Resolved>,
    ) -> Result<Resolved, PullError> {
        let repository = self.client.repository(name);
        let selector = selector(name);
        if let Some(known) = known
            && let Some(digest) = known.digest
            && repository.resolve(&selector).await? == digest
        {
            return Ok(known);
        }
        let before = self.catalog.remembered(name)?.unwrap_or_default();
        let document = match &before.index {
            // The index is known; only this platform's manifest is not.
            Some(index) if selector == Selector::Digest(index.digest()) => index.clone(),
            _ => repository.manifest(&selector).await?,
        };
        let digest = document.digest();
        let is_index = manifest::is_index(document.media_type());
        let index = is_index.then(|| document.clone());
        let origin = Origin::Registry(name.name_only());
        let found = self.fetch(&repository, document, platform, &origin, &name.to_string()).await?;
        let images = if before.digest == Some(digest) { before.images } else { Vec::new() };
        let mut named = Named { images, digest: Some(digest), index, ..Named::default() };
        named.insert(platform.normalize(), found.id);
        self.catalog.remember(name, &named)?;
        if name.digest().is_none() {
            // So that a Dockerfile that is pinned later needs no network.
            self.catalog.remember(&name.name_only().with_digest(digest), &named)?;
        }
        // A name that stands for what was pulled follows it; one that was given to a build stays there.
        if self.catalog.named(name)?.is_some_and(|old| old.digest.is_some()) {
            self.catalog.tag(name, &named)?;
        }
        Ok(Resolved { digest: Some(digest), ..found })
    }

    /// Goes from a document to the image for a platform and records it.
    async fn fetch(
        &self,
        remote: &dyn Remote,
        document: Document,
        platform: &Platform,
        origin: &Origin,
        what: &str,
    ) -> Result<Resolved, PullError> {
        let malformed = |source| PullError::Manifest { what: what.to_owned(), source };
        // What is still to be looked at, the next one last: how deep it is, and whether an index says what it is for.
        let mut waiting = Vec::new();
        let (mut document, mut depth, mut known) = (document, 0, true);
        loop {
            let no_match = match document.parse().map_err(malformed)? {
                Parsed::Index(_) if depth == MAX_DEPTH => {
                    let message = "indexes are nested too deeply".to_owned();
                    return Err(PullError::Unusable { what: what.to_owned(), message });
                }
                Parsed::Index(index) => {
                    let fitting = index.candidates(platform);
                    let entries = fitting.iter().rev().map(|e| (e.digest, depth + 1, e.platform.is_some()));
                    waiting.extend(entries);
                    index.no_match(platform)
                }
                Parsed::Manifest(parsed) => {
                    let config = small_blob(remote, &parsed.config, MAX_CONFIG).await?;
                    let mut image = assemble(document, &parsed, config, Some(origin), what)?;
                    let own = image.platform().map_err(malformed)?;
                    if known || platform.rank(&own).is_some() {
                        self.recognise(&mut image)?;
                        let id = self.catalog.put(image.clone())?;
                        return Ok(Resolved { id, image, digest: None });
                    }
                    ManifestError::NoMatch { wanted: platform.to_string(), offered: vec![own.to_string()] }
                }
            };
            let Some((digest, at, said)) = waiting.pop() else { return Err(malformed(no_match)) };
            document = remote.manifest(&Selector::Digest(digest)).await?;
            (depth, known) = (at, said);
        }
    }
}

impl Puller {
    /// Layers that were made here and went around through a registry are the ones we have.
    pub(super) fn recognise(&self, image: &mut Image) -> Result<(), PullError> {
        for layer in &mut image.layers {
            let known = self.layers.by_diff_id(&layer.diff_id);
            let known = known.map_err(|source| PullError::Layer { digest: BlobDigest(layer.diff_id.0), source })?;
            if let Some(record) = known {
                layer.layer = record.id;
            }
        }
        Ok(())
    }
}

/// Whether a config is one of an image.
#[derive(serde::Deserialize)]
struct HasLayers {
    rootfs: Option<serde::de::IgnoredAny>,
}

/// Builds the record of an image from what was fetched, or loaded if there is no origin.
pub(super) fn assemble(
    document: Document,
    manifest: &Manifest,
    config: Vec<u8>,
    origin: Option<&Origin>,
    what: &str,
) -> Result<Image, PullError> {
    let unusable = |message: String| PullError::Unusable { what: what.to_owned(), message };
    let config = String::from_utf8(config).map_err(|_| unusable("the image config is not UTF-8".to_owned()))?;
    let parsed: ImageConfig = manifest::read("image config", config.as_bytes())
        .map_err(|source| PullError::Manifest { what: what.to_owned(), source })?;
    let (diff_ids, media_type) = (&parsed.rootfs.diff_ids, &manifest.config.media_type);
    let has_layers: HasLayers = manifest::read("image config", config.as_bytes())
        .map_err(|source| PullError::Manifest { what: what.to_owned(), source })?;
    if has_layers.rootfs.is_none() {
        // Charts and other artifacts have configs of their own; the type is no proof, since old images have any.
        return Err(unusable(format!("not an image: config of type {media_type} says nothing of layers")));
    }
    if diff_ids.len() != manifest.layers.len() {
        return Err(unusable(format!(
            "not an image: config of type {media_type} lists {} layers, the manifest {}",
            diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let layer = |(diff_id, descriptor): (&_, &manifest::Descriptor)| ImageLayer {
        diff_id: *diff_id,
        layer: foreign_layer_id(diff_id),
        descriptor: Some(descriptor.clone()),
        from: origin.cloned().into_iter().collect(),
    };
    let layers = diff_ids.iter().zip(&manifest.layers).map(layer).collect();
    Ok(Image { manifest: Some(document), config, layers, ..Image::default() })
}

/// What the store has, with a word that it is used instead of what could not be asked for.
fn instead(found: Resolved, name: &Reference, error: &dyn fmt::Display, vertex: Option<&Vertex>) -> Resolved {
    if let Some(vertex) = vertex {
        let short = format!("{}: {error}; using the image that is in the store", name.familiar());
        vertex.log(Stream::Stderr, format!("{short}\n").as_bytes());
        vertex.warn(Warning { short, detail: Vec::new(), url: None, place: None });
    }
    found
}

/// The image that was asked for with just this platform.
fn asked_for(named: &Named, platform: &Platform) -> Option<ImageId> {
    let wanted = platform.normalize();
    named.images.iter().find(|image| image.platform == wanted).map(|image| image.id)
}

/// The name as it is filed: a digest makes the tag meaningless.
fn pinned(name: &Reference) -> Reference {
    match name.digest() {
        Some(digest) => name.name_only().with_digest(digest),
        None => name.clone().with_default_tag(),
    }
}

fn selector(name: &Reference) -> Selector {
    match (name.digest(), name.tag()) {
        (Some(digest), _) => Selector::Digest(digest),
        (None, tag) => Selector::Tag(tag.unwrap_or(crate::oci::reference::DEFAULT_TAG).to_owned()),
    }
}
