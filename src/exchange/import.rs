//! Caches as a build sees them: what they know is read once, at the start; blobs come when a step reads them.
//!
//! All sources are asked at once, beside whatever else the build begins with. A source that cannot be read is said to be and
//! is none. A layer that cannot be fetched as it should be is given up: the engine then goes back to the step that makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rbuild_cache::digest::{Blake3, LayerId};
use tokio::task::JoinHandle;

use super::ExchangeError;
use super::format::{self, CONFIG_TYPE, CachedLayer, Config, MAX_CONFIG, MAX_INDEX};
use super::inline;
use super::mounts::MountOffer;
use super::spec::{From, Mounts, Source};
use crate::cancel::Cancel;
use crate::catalog::pull::Puller;
use crate::catalog::{Image, ImageLayer, Origin};
use crate::engine::StepError;
use crate::engine::elsewhere::{Elsewhere, Known, Need};
use crate::engine::record::StepLayer;
use crate::event::{Outcome, Progress, Stream, Vertex};
use crate::layers::Layers;
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{self, Descriptor, Document, Parsed};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::registry::{Layout, Remote, Selector, small_blob};

/// Of an index, as many images are read at most: more platforms are not built at once.
const MAX_IMAGES: usize = 32;

/// A layer that a source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) layer: CachedLayer,
    pub(super) from: Origin,
}

impl Offer {
    /// The layer as images list it.
    pub(super) fn image_layer(&self, id: LayerId) -> ImageLayer {
        let CachedLayer { diff_id, blob, .. } = &self.layer;
        ImageLayer { diff_id: *diff_id, layer: id, descriptor: Some(blob.clone()), from: vec![self.from.clone()] }
    }
}

/// What a result's layers are needed as, before anything is written that cannot be taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Names will do: registries have the blobs, or are given them one by one.
    #[default]
    Names,
    /// Blobs in the store.
    Blobs,
    /// Files in the store.
    Files,
}

/// What one source knows.
#[derive(Debug, Default)]
struct Found {
    known: Known,
    layers: Vec<(LayerId, Offer)>,
    mounts: Vec<(Blake3, MountOffer)>,
}

/// What all sources know, and the way to their blobs.
#[derive(Debug)]
pub struct Imported {
    known: Known,
    offers: BTreeMap<LayerId, Vec<Offer>>,
    /// Contents of cache mounts, by the names of their directories.
    pub(super) mounts: BTreeMap<Blake3, Vec<MountOffer>>,
    /// Offers that could not be taken, by layer and place in its list.
    bad: Mutex<BTreeSet<(LayerId, usize)>>,
    /// Layers that came and were what they should be.
    verified: Mutex<BTreeSet<LayerId>>,
    pub(super) puller: Puller,
    pub(super) layers: Layers,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) progress: Progress,
    pub(super) cancel: Cancel,
}

/// Sources being read.
#[derive(Debug)]
pub struct Pending {
    running: Mutex<Vec<JoinHandle<Found>>>,
    done: OnceLock<Arc<Imported>>,
    puller: Puller,
    layers: Layers,
    runtime: tokio::runtime::Handle,
    progress: Progress,
    cancel: Cancel,
}

impl Pending {
    /// Begins to read all sources. Of images for several platforms those for `platforms` are looked at.
    pub fn start(
        sources: &[Source],
        platforms: &[Platform],
        puller: &Puller,
        layers: &Layers,
        runtime: &tokio::runtime::Handle,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Self {
        let platforms = if platforms.is_empty() { vec![Platform::host()] } else { platforms.to_vec() };
        let read = |source: &Source| {
            let (source, platforms, puller) = (source.clone(), platforms.clone(), puller.clone());
            let vertex = progress.vertex(format!("importing cache manifest from {source}"), &[]);
            vertex.start();
            runtime.spawn(async move {
                let found = read(&source, &platforms, &puller, &vertex).await;
                vertex.finish(match &found {
                    Ok(_) => Outcome::Done,
                    Err(error) => Outcome::Error(error.to_string()),
                });
                found.unwrap_or_default()
            })
        };
        Self {
            running: Mutex::new(sources.iter().map(read).collect()),
            done: OnceLock::new(),
            puller: puller.clone(),
            layers: layers.clone(),
            runtime: runtime.clone(),
            progress: progress.clone(),
            cancel: cancel.clone(),
        }
    }

    /// What was found, once all have answered.
    pub fn imported(&self) -> Arc<Imported> {
        let gather = || {
            let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
            let (mut known, mut offers) = (Known::default(), BTreeMap::<LayerId, Vec<Offer>>::new());
            let mut mounts = BTreeMap::<Blake3, Vec<MountOffer>>::new();
            for source in running {
                let found = self.runtime.block_on(source).unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
                format::merge(&mut known, found.known);
                for (id, offer) in found.layers {
                    offers.entry(id).or_default().push(offer);
                }
                for (key, offer) in found.mounts {
                    mounts.entry(key).or_default().push(offer);
                }
            }
            Arc::new(Imported {
                known,
                offers,
                mounts,
                bad: Mutex::default(),
                verified: Mutex::default(),
                puller: self.puller.clone(),
                layers: self.layers.clone(),
                runtime: self.runtime.clone(),
                progress: self.progress.clone(),
                cancel: self.cancel.clone(),
            })
        };
        self.done.get_or_init(gather).clone()
    }
}

/// Reads what one source knows.
async fn read(
    source: &Source,
    platforms: &[Platform],
    puller: &Puller,
    vertex: &Vertex,
) -> Result<Found, ExchangeError> {
    let (remote, selectors, origin): (Arc<dyn Remote>, Vec<Selector>, _) = match &source.from {
        From::Registry { name, insecure } => {
            let repository = puller.repository(name, *insecure);
            (Arc::new(repository), vec![selector(name)], Origin::Registry(name.name_only()))
        }
        From::Local { src, selector } => {
            (Arc::new(Layout::open(src)?), vec![selector.clone()], Origin::Layout(src.clone()))
        }
        From::Bucket { bucket, names } => {
            let selectors = names.iter().map(|name| Selector::Tag(name.clone())).collect();
            (Arc::new(puller.bucket(bucket)?), selectors, Origin::Bucket(bucket.to_string()))
        }
    };
    let what = source.to_string();
    let document = first(remote.as_ref(), &selectors).await?;
    vertex.done_part(format!("inferred cache manifest type: {}", document.media_type()));
    let malformed = |source| ExchangeError::Manifest { what: what.clone(), source };
    match document.parse().map_err(malformed)? {
        Parsed::Manifest(_) => read_manifest(remote.as_ref(), &document, &origin, &source.mounts, &what).await,
        Parsed::Index(index) => {
            let mut found = Found::default();
            let wanted = |entry: &&Descriptor| {
                let fits =
                    |p: &Platform| platforms.iter().any(|wanted| wanted.best(std::iter::once(Some(p))).is_some());
                entry.is_document() && entry.platform.as_ref().is_some_and(fits)
            };
            for entry in index.manifests.iter().filter(wanted).take(MAX_IMAGES) {
                let document = remote.manifest(&Selector::Digest(entry.digest)).await?;
                let one = read_manifest(remote.as_ref(), &document, &origin, &source.mounts, &what).await?;
                format::merge(&mut found.known, one.known);
                found.layers.extend(one.layers);
                found.mounts.extend(one.mounts);
            }
            Ok(found)
        }
    }
}

/// The first of several documents that is there.
async fn first(remote: &dyn Remote, selectors: &[Selector]) -> Result<Document, crate::registry::Error> {
    let mut answer = Err(crate::registry::Error::NotFound("a cache without a name".to_owned()));
    for selector in selectors {
        answer = remote.manifest(selector).await;
        if !answer.as_ref().is_err_and(crate::registry::Error::is_not_found) {
            break;
        }
    }
    answer
}

/// A cache of ours, or an image that may carry results.
async fn read_manifest(
    remote: &dyn Remote,
    document: &Document,
    origin: &Origin,
    mounts: &Mounts,
    what: &str,
) -> Result<Found, ExchangeError> {
    let malformed = |source| ExchangeError::Manifest { what: what.to_owned(), source };
    let Parsed::Manifest(parsed) = document.parse().map_err(malformed)? else { return Ok(Found::default()) };
    let mut found = Found::default();
    let mut offer = |id: LayerId, layer: CachedLayer| {
        found.layers.push((id, Offer { layer, from: origin.clone() }));
    };
    if parsed.config.media_type.as_ref() == CONFIG_TYPE {
        let bytes = small_blob(remote, &parsed.config, MAX_CONFIG).await?;
        let config = Config::read(&bytes, what)?;
        config.layers.into_iter().for_each(|(id, layer)| offer(id, layer));
        let mounts = config.mounts.into_iter().filter(|(_, mount)| mounts.contain(&mount.id));
        found.mounts = mounts.map(|(key, mount)| (key, MountOffer { mount, from: origin.clone() })).collect();
        found.known = Known { records: config.records, aliases: config.aliases };
        return Ok(found);
    }
    let of_image = parsed.config.media_type.as_ref().contains("image");
    if !of_image {
        let message = format!("holds no cache of rbuild, but {}", parsed.config.media_type);
        return Err(ExchangeError::Unusable { what: what.to_owned(), message });
    }
    let bytes = small_blob(remote, &parsed.config, manifest::MAX_CONFIG).await?;
    let config: ImageConfig = manifest::read("image config", &bytes).map_err(malformed)?;
    if let Some(read) = inline::read(&config, &parsed) {
        read.layers.into_iter().for_each(|(StepLayer { id, .. }, layer)| offer(id, layer));
        (found.known.records, found.known.aliases) = (read.records, read.aliases);
    }
    Ok(found)
}

fn selector(name: &Reference) -> Selector {
    match (name.digest(), name.tag()) {
        (Some(digest), _) => Selector::Digest(digest),
        (None, tag) => Selector::Tag(tag.unwrap_or(crate::oci::reference::DEFAULT_TAG).to_owned()),
    }
}

impl Imported {
    /// How an image lists a layer: as the blob that a cache has, if the layer is not here or came from there, unless its files
    /// are what is wanted.
    pub fn image_layer(&self, layer: &StepLayer, form: Form) -> ImageLayer {
        let own = ImageLayer { diff_id: layer.diff_id, layer: layer.id, descriptor: None, from: Vec::new() };
        let offers = self.offers(&layer.id);
        let Some((first, others)) = offers.split_first() else { return own };
        if form == Form::Files
            || first.layer.diff_id != layer.diff_id
            || (self.is_here(&layer.id) && !self.is_verified(&layer.id))
        {
            return own;
        }
        let mut listed = first.image_layer(layer.id);
        let same = others.iter().filter(|offer| offer.layer.blob.digest == first.layer.blob.digest);
        listed.from.extend(same.map(|offer| offer.from.clone()));
        // Only this build knows the way to a bucket; a blob that came from one stays with the image.
        if self.layers.store().blob(&first.layer.blob.digest).ok().flatten().is_some() {
            listed.from.retain(|origin| !matches!(origin, Origin::Bucket(_)));
        }
        listed
    }

    /// Whoever has a layer and did not fail to give it.
    pub(super) fn offers(&self, id: &LayerId) -> Vec<Offer> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.offers.get(id).into_iter().flatten().enumerate();
        all.filter(|(at, _)| !bad.contains(&(*id, *at))).map(|(_, offer)| offer.clone()).collect()
    }

    /// Gets layers that are only elsewhere into the form that is needed. What cannot be had is given up and an error.
    pub fn secure(&self, layers: &[StepLayer], form: Form) -> Result<(), StepError> {
        let mut wanted: Vec<LayerId> = layers.iter().map(|layer| layer.id).collect();
        wanted.retain(|id| self.offers.contains_key(id) && !self.is_here(id));
        if wanted.is_empty() {
            return Ok(());
        }
        match form {
            Form::Names => Ok(()),
            Form::Blobs => self.get(&wanted, Want::Blob),
            Form::Files => self.get(&wanted, Want::Files),
        }
    }

    /// Whether the store has neither the layer nor, so far, its bytes: it is only said to be somewhere.
    pub fn is_only_elsewhere(&self, id: &LayerId) -> bool {
        self.offers.contains_key(id) && !self.is_here(id)
    }

    pub(super) fn is_verified(&self, id: &LayerId) -> bool {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    pub(super) fn is_here(&self, id: &LayerId) -> bool {
        let record = self.layers.record(id).ok().flatten();
        record.is_some_and(|record| self.layers.has_form(&record).unwrap_or(false))
    }

    /// One layer from the first that has it as it should be.
    async fn fetch_one(&self, id: LayerId, want: Want, vertex: &Vertex) -> Result<(), ExchangeError> {
        let nobody = || ExchangeError::Unusable { what: format!("layer {id}"), message: "nobody has it".to_owned() };
        let mut failure = None;
        for (at, offer) in self.offers.get(&id).into_iter().flatten().enumerate() {
            if self.bad.lock().unwrap_or_else(PoisonError::into_inner).contains(&(id, at)) {
                continue;
            }
            let mut ways = Vec::new();
            ways.push(want);
            if want == Want::Entries {
                // The files tell the entries, too.
                ways.push(Want::Files);
            }
            for way in ways {
                let (digest, got) = match (way, &offer.layer.index) {
                    (Want::Entries, Some(index)) => (index.digest, self.fetch_index(id, offer, index).await),
                    (Want::Entries, None) => continue,
                    (Want::Blob, _) => {
                        let blob = self.puller.ensure_blob(&offer.image_layer(id), vertex, &self.cancel).await;
                        (offer.layer.blob.digest, blob.map(drop).map_err(ExchangeError::from))
                    }
                    (Want::Files, _) => (offer.layer.blob.digest, self.fetch_files(id, offer, vertex).await),
                };
                let Err(error) = got else { return Ok(()) };
                self.cancel.check()?;
                vertex.log(Stream::Stderr, format!("{digest} from {}: {error}\n", offer.from).as_bytes());
                failure = Some(error);
            }
            self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert((id, at));
        }
        Err(failure.unwrap_or_else(nobody))
    }

    async fn fetch_index(&self, id: LayerId, offer: &Offer, index: &Descriptor) -> Result<(), ExchangeError> {
        let remote = self.puller.remote(&offer.from)?;
        let blob = small_blob(remote.as_ref(), index, MAX_INDEX).await?;
        let tree = self.layers.import_index(&id, &format::unpack_index(&blob)?)?;
        as_claimed(tree == offer.layer.tree, id)
    }

    async fn fetch_files(&self, id: LayerId, offer: &Offer, vertex: &Vertex) -> Result<(), ExchangeError> {
        let image = Image { layers: vec![offer.image_layer(id)], ..Image::default() };
        self.puller.ensure_layers(&image, vertex, &self.cancel).await?;
        let record = self.layers.record(&id)?;
        let same = |r: crate::layers::Record| r.tree_id == offer.layer.tree && r.diff_id == offer.layer.diff_id;
        as_claimed(record.is_some_and(same), id)?;
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Ok(())
    }
}

fn as_claimed(same: bool, id: LayerId) -> Result<(), ExchangeError> {
    let message = "is not what the cache's records say".to_owned();
    if same { Ok(()) } else { Err(ExchangeError::Unusable { what: format!("layer {id}"), message }) }
}

impl Elsewhere for Imported {
    fn known(&self) -> &Known {
        &self.known
    }

    fn offers(&self, layer: &LayerId) -> bool {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        self.offers.get(layer).is_some_and(|all| (0..all.len()).any(|at| !bad.contains(&(*layer, at))))
    }

    fn fetch(&self, layers: &[LayerId], need: Need) -> Result<(), StepError> {
        self.get(
            layers,
            match need {
                Need::Entries => Want::Entries,
                Need::Files => Want::Files,
            },
        )
    }

    fn fetch_mount(&self, mount: &Blake3) -> Option<LayerId> {
        self.mount_content(mount)
    }

    fn given_up(&self) -> usize {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let layers: BTreeSet<_> = bad.iter().map(|(id, _)| id).collect();
        layers.into_iter().filter(|id| (0..self.offers[*id].len()).all(|at| bad.contains(&(**id, at)))).count()
    }
}

/// What to get of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Entries,
    Blob,
    Files,
}

impl Imported {
    fn get(&self, layers: &[LayerId], want: Want) -> Result<(), StepError> {
        let vertex = self.progress.vertex("[internal] load layers from cache", &[]);
        vertex.start();
        let fetches = layers.iter().map(|id| self.fetch_one(*id, want, &vertex));
        // The client bounds how many transfers there are at a time.
        let mut failure = None;
        let done = self.runtime.block_on(all(fetches));
        for (id, result) in layers.iter().zip(done) {
            match result {
                Ok(()) => {}
                Err(ExchangeError::Cancelled(cancelled)) => {
                    vertex.finish(Outcome::Canceled);
                    return Err(cancelled.into());
                }
                Err(error) => failure = failure.or(Some((id, error))),
            }
        }
        let Some((_, error)) = failure else {
            vertex.finish(Outcome::Done);
            return Ok(());
        };
        let text = format!("a layer cannot be had from the cache; the step that makes it is run again: {error}");
        vertex.finish(Outcome::Error(text.clone()));
        Err(StepError::Lost(text))
    }
}

/// Waits for all futures at once; their results in order.
pub(super) async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, result) in &mut pending {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    pending.into_iter().filter_map(|(_, result)| result).collect()
}
