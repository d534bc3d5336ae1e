//! From what a build did to a cache somewhere: layers are packed while earlier ones travel, what the place has is not sent,
//! and the manifest goes last, so that a cache is never half there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::digest::{LayerId, StepKey};
use tokio::task::JoinSet;

use super::format::{self, CachedLayer, Config, FORMAT_VERSION, MAX_INDEX};
use super::import::{Imported, Offer};
use super::local::Directory;
use super::spec::{Extent, Place, Target};
use super::{ExchangeError, Results};
use crate::cancel::Cancel;
use crate::catalog::Origin;
use crate::catalog::pull::Puller;
use crate::engine::Memo;
use crate::engine::record::StepLayer;
use crate::event::{Outcome, Progress, Stream, Vertex};
use crate::layers::{Framing, LayerError, Layers};
use crate::oci::manifest::{Descriptor, Packing};
use crate::registry::{BlobSource, Destination, small_blob};

/// How often a long transfer looks whether the build was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// Writes caches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exports {
    /// Layers of this store.
    pub layers: Layers,
    /// Gets to registries.
    pub puller: Puller,
    /// What the build took from elsewhere.
    pub imported: Arc<Imported>,
    /// Waits for transfers.
    pub runtime: tokio::runtime::Handle,
    /// Hears of it.
    pub progress: Progress,
    /// Stops it.
    pub cancel: Cancel,
    /// How many may compress at once.
    pub threads: usize,
    /// Repositories that this build pushed to: their blobs can be mounted.
    pub pushed: Vec<String>,
}

/// A layer that a cache gets, as far as it is known before it is sent.
#[derive(Clone, Debug)]
struct Outgoing {
    id: LayerId,
    layer: CachedLayer,
    /// Its index blob, made here.
    index: Option<Vec<u8>>,
    /// Who has it; nobody if it was made here.
    offer: Option<Offer>,
}

impl Exports {
    /// Writes the results to `target`. An inline cache is part of the image and needs nothing here.
    pub fn export(&self, results: &Results, target: &Target) -> Result<(), ExchangeError> {
        let title = match &target.place {
            Place::Inline => return Ok(()),
            Place::Registry { .. } => "exporting cache to registry",
            Place::Local { .. } => "exporting cache to client directory",
            Place::Bucket { .. } => "exporting cache to Amazon S3",
        };
        let vertex = self.progress.vertex(title, &[]);
        vertex.start();
        let done = self.run(results, target, &vertex);
        vertex.finish(match &done {
            Ok(()) => Outcome::Done,
            Err(ExchangeError::Cancelled(_)) => Outcome::Canceled,
            Err(error) => Outcome::Error(error.to_string()),
        });
        done
    }

    fn run(&self, results: &Results, target: &Target, vertex: &Vertex) -> Result<(), ExchangeError> {
        match &target.place {
            Place::Inline => Ok(()),
            Place::Registry { name, insecure } => {
                let repository = Arc::new(self.puller.repository(name, *insecure));
                self.send(results, target, repository, &name.tag().into_iter().collect::<Vec<_>>(), vertex)
            }
            Place::Local { dest, tag } => {
                let directory = Directory::open(dest, &self.cancel)?;
                self.send(results, target, Arc::new(directory.layout.clone()), &[tag], vertex)?;
                directory.sweep(dest)
            }
            Place::Bucket { bucket, names } => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.send(results, target, Arc::new(self.puller.bucket(bucket)?), &names, vertex)
            }
        }
    }

    fn send(
        &self,
        results: &Results,
        target: &Target,
        to: Arc<dyn Destination>,
        tags: &[&str],
        vertex: &Vertex,
    ) -> Result<(), ExchangeError> {
        vertex.status("preparing build cache for export", 0, 0, false);
        let chosen = chosen(results, target);
        let mut config = Config {
            version: FORMAT_VERSION,
            records: BTreeMap::new(),
            aliases: BTreeMap::new(),
            layers: BTreeMap::new(),
            mounts: BTreeMap::new(),
        };
        let mut transfers = JoinSet::new();
        let mut asked = BTreeSet::new();
        let start = |transfers: &mut JoinSet<_>, outgoing: Outgoing| {
            let (exports, to, vertex) = (self.clone(), to.clone(), vertex.clone());
            transfers.spawn_on(async move { exports.transfer(outgoing, to.as_ref(), &vertex).await }, &self.runtime);
        };
        for memo in chosen.values() {
            self.cancel.check()?;
            if !asked.insert(memo.record.layer.id) {
                continue;
            }
            if let Some(outgoing) = self.outgoing(memo.record.layer, target, vertex)? {
                start(&mut transfers, outgoing);
            }
        }
        let mounts = self.send_mounts(results, target, &to, vertex)?;
        for sent in self.runtime.block_on(self.finished(transfers))?.into_iter().flatten() {
            config.layers.insert(sent.id, sent.layer);
        }
        config.mounts = mounts;
        for (key, memo) in chosen.into_iter().filter(|(_, memo)| config.layers.contains_key(&memo.record.layer.id)) {
            config.records.insert(key, memo.record.clone());
            config.aliases.extend(memo.alias.iter().map(|alias| (alias.clone(), key)));
        }
        vertex.done_part("preparing build cache for export");
        self.runtime.block_on(async {
            let bytes = config.write();
            let descriptor = Config::descriptor(&bytes);
            let line = format!("writing config {}", descriptor.digest);
            vertex.status(&line, 0, 0, false);
            if !to.has_blob(&descriptor, &[]).await? {
                to.push_blob(&descriptor, BlobSource::Bytes(bytes)).await?;
            }
            vertex.done_part(line);
            let document = config.manifest(descriptor, target.family);
            let line = format!("writing cache image manifest {}", document.digest());
            vertex.status(&line, 0, 0, false);
            for tag in tags {
                to.push_manifest(&document, Some(tag)).await?;
            }
            vertex.done_part(line);
            Ok(())
        })
    }

    /// A layer as it will be sent; `None` if it was lost.
    fn outgoing(&self, layer: StepLayer, target: &Target, vertex: &Vertex) -> Result<Option<Outgoing>, ExchangeError> {
        let offer = self.imported.offers(&layer.id).into_iter().next();
        let here = self.imported.is_here(&layer.id);
        if let Some(offer) = offer
            && (!here || (self.imported.is_verified(&layer.id) && !target.force))
        {
            if target.force {
                let text = format!("{} stays compressed as it is: it is not here\n", offer.layer.blob.digest);
                vertex.log(Stream::Stderr, text.as_bytes());
            }
            let (id, mut layer, mut index) = (layer.id, offer.layer.clone(), None);
            if layer.index.is_none() && self.layers.has_index(&id)? {
                let (descriptor, bytes) = self.index(&id)?;
                (layer.index, index) = (Some(descriptor), Some(bytes));
            }
            return Ok(Some(Outgoing { id, layer, index, offer: Some(offer) }));
        }
        if !here {
            return Ok(None);
        }
        let packed = self.layers.compressed(&layer.id, target.framing, self.threads)?;
        let packing = match target.framing {
            Framing::None => Packing::Tar,
            Framing::Gzip { .. } => Packing::Gzip,
            Framing::Zstd { .. } => Packing::Zstd,
        };
        let blob = Descriptor::new(target.family.layer(packing), packed.digest, packed.size);
        let (index, bytes) = self.index(&layer.id)?;
        let cached = CachedLayer { tree: layer.tree, diff_id: layer.diff_id, blob, index: Some(index) };
        Ok(Some(Outgoing { id: layer.id, layer: cached, index: Some(bytes), offer: None }))
    }

    fn index(&self, id: &LayerId) -> Result<(Descriptor, Vec<u8>), ExchangeError> {
        Ok(format::pack_index(&self.layers.index(id)?.encode())?)
    }

    /// Makes a layer be at its destination; `None` if it is nowhere any more.
    async fn transfer(
        self,
        outgoing: Outgoing,
        to: &dyn Destination,
        vertex: &Vertex,
    ) -> Result<Option<Outgoing>, ExchangeError> {
        self.cancel.check()?;
        let mut elsewhere = self.pushed.clone();
        if let Some(Offer { from: Origin::Registry(name), .. }) = &outgoing.offer {
            elsewhere.push(name.repository());
        }
        let blob = &outgoing.layer.blob;
        let line = format!("writing layer {}", blob.digest);
        vertex.status(&line, 0, blob.size, false);
        if !to.has_blob(blob, &elsewhere).await? {
            let Some(path) = self.bytes_of(&outgoing, vertex).await? else { return Ok(None) };
            to.push_blob(blob, BlobSource::File(path)).await?;
        }
        if let Some(index) = &outgoing.layer.index
            && !to.has_blob(index, &elsewhere).await?
        {
            let bytes = match (&outgoing.index, &outgoing.offer) {
                (Some(bytes), _) => bytes.clone(),
                (None, Some(offer)) => match self.fetch_index(offer, index).await {
                    Ok(bytes) => bytes,
                    Err(error) => return self.lost(&outgoing, &error, vertex),
                },
                (None, None) => return Ok(None),
            };
            to.push_blob(index, BlobSource::Bytes(bytes)).await?;
        }
        vertex.status(&line, blob.size, blob.size, true);
        Ok(Some(outgoing))
    }

    async fn fetch_index(&self, offer: &Offer, index: &Descriptor) -> Result<Vec<u8>, ExchangeError> {
        Ok(small_blob(self.puller.remote(&offer.from)?.as_ref(), index, MAX_INDEX).await?)
    }

    /// The file of a layer's blob.
    async fn bytes_of(
        &self,
        outgoing: &Outgoing,
        vertex: &Vertex,
    ) -> Result<Option<std::path::PathBuf>, ExchangeError> {
        if let Some(offer) = &outgoing.offer {
            return match self.puller.ensure_blob(&offer.image_layer(outgoing.id), vertex, &self.cancel).await {
                Ok(blob) => Ok(Some(blob.path)),
                Err(error) => {
                    self.cancel.check()?;
                    self.lost(outgoing, &error.into(), vertex)
                }
            };
        }
        let found = self.layers.store().blob(&outgoing.layer.blob.digest).map_err(LayerError::Store)?;
        Ok(found.map(|blob| blob.path))
    }

    #[expect(clippy::unnecessary_wraps, reason = "the end of a transfer")]
    fn lost<T>(&self, outgoing: &Outgoing, error: &ExchangeError, vertex: &Vertex) -> Result<Option<T>, ExchangeError> {
        let line = format!("{} is left out: {error}\n", outgoing.layer.blob.digest);
        vertex.log(Stream::Stderr, line.as_bytes());
        Ok(None)
    }

    /// Waits for all transfers; the first failure stops the others.
    pub(super) async fn finished<T: 'static>(
        &self,
        mut transfers: JoinSet<Result<T, ExchangeError>>,
    ) -> Result<Vec<T>, ExchangeError> {
        let mut sent = Vec::new();
        loop {
            match tokio::time::timeout(CANCEL_CHECK, transfers.join_next()).await {
                Ok(None) => return Ok(sent),
                Ok(Some(finished)) => sent.push(finished.map_err(std::io::Error::other)??),
                Err(_) => self.cancel.check()?,
            }
        }
    }
}

/// The results a target is to hold, each once.
fn chosen(results: &Results, target: &Target) -> BTreeMap<StepKey, Arc<Memo>> {
    let wanted = |memo: &&Arc<Memo>| {
        let in_extent = match target.extent {
            Extent::Min => results.layers.contains(&memo.record.layer.id),
            Extent::Max => true,
        };
        // Only what processes made is without its owners.
        let flattened = memo.record.facts.unflattened().is_some();
        in_extent && (target.flattened || !flattened)
    };
    results.steps.iter().filter(wanted).map(|memo| (memo.key, memo.clone())).collect()
}
