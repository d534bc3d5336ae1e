//! Contents of cache mounts on their way to other machines and back: as layers on nothing, in parts, of which only those travel
//! that the other side lacks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::LockKind;
use rbuild_cache::digest::{Blake3, LayerId};
use tokio::task::JoinSet;

use super::export::Exports;
use super::format::{CachedMount, MOUNT_TYPE};
use super::import::{Imported, all};
use super::spec::Target;
use super::{ExchangeError, Results};
use crate::catalog::{ImageLayer, Origin};
use crate::event::{Outcome, Stream, Vertex};
use crate::layers::{Framing, LayerError, Part, Record};
use crate::oci::manifest::Descriptor;
use crate::registry::{BlobSource, Destination};

/// The content of a cache mount that a source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountOffer {
    pub(super) mount: CachedMount,
    pub(super) from: Origin,
}

impl MountOffer {
    /// A part as images list layers, so that it can be fetched.
    fn listed(&self, part: &Descriptor) -> ImageLayer {
        let CachedMount { diff_id, layer, .. } = &self.mount;
        ImageLayer { diff_id: *diff_id, layer: *layer, descriptor: Some(part.clone()), from: vec![self.from.clone()] }
    }
}

/// Where the bytes of a part are.
#[derive(Clone, Debug)]
enum Bytes {
    /// In the mount that was read.
    Here(LayerId, Part, Framing),
    /// In a cache.
    There(Arc<MountOffer>),
}

impl Exports {
    /// Sends what the destination lacks of all mounts that it is to have.
    pub(super) fn send_mounts(
        &self,
        results: &Results,
        target: &Target,
        to: &Arc<dyn Destination>,
        vertex: &Vertex,
    ) -> Result<BTreeMap<Blake3, CachedMount>, ExchangeError> {
        let mut mounts = BTreeMap::new();
        for (key, id) in results.mounts.iter().filter(|(_, id)| target.mounts.contain(id)) {
            let mut transfers = JoinSet::new();
            let mut sent = BTreeSet::new();
            let mut start = |part: &Descriptor, bytes: Bytes| {
                if sent.insert(part.digest) {
                    let (exports, to, part, vertex) = (self.clone(), to.clone(), part.clone(), vertex.clone());
                    let transfer = async move { exports.send_part(&part, bytes, to.as_ref(), &vertex).await };
                    transfers.spawn_on(transfer, &self.runtime);
                }
            };
            let mount = match self.read_mount(key, id, vertex)? {
                Some(content) => Some(self.cut_mount(&content, id, target.framing, &mut start)?),
                // What was not used here is handed on.
                None => self.imported.mounts.get(key).and_then(|offers| offers.first()).map(|offer| {
                    let there = Arc::new(offer.clone());
                    offer.mount.parts.iter().for_each(|part| start(part, Bytes::There(there.clone())));
                    offer.mount.clone()
                }),
            };
            let whole = self.runtime.block_on(self.finished(transfers))?.into_iter().all(|arrived| arrived);
            mounts.extend(mount.filter(|_| whole).map(|mount| (*key, mount)));
        }
        Ok(mounts)
    }

    /// The content of a cache mount as a layer; `None` if it was not used on this machine.
    fn read_mount(&self, key: &Blake3, id: &str, vertex: &Vertex) -> Result<Option<Record>, ExchangeError> {
        self.cancel.check()?;
        let store = self.layers.store();
        let Some(dir) = store.existing_cache_mount(key) else { return Ok(None) };
        let line = format!("reading cache mount {id}");
        vertex.status(&line, 0, 0, false);
        // Nobody may be changing it.
        let lock = store.lock(LockKind::CacheMount, &key.0, &|| self.cancel.is_cancelled(), &mut |_| {});
        self.cancel.check()?;
        let _lock = lock.map_err(LayerError::Store)?;
        match self.layers.diff_dirs(&dir, &[]) {
            Ok(record) => {
                vertex.done_part(line);
                Ok(Some(record))
            }
            Err(LayerError::Cancelled(cancelled)) => Err(cancelled.into()),
            Err(error) => {
                vertex.log(Stream::Stderr, format!("cache mount {id} is left out: {error}\n").as_bytes());
                Ok(None)
            }
        }
    }

    /// Parts travel while later ones are still being compressed.
    fn cut_mount(
        &self,
        content: &Record,
        id: &str,
        framing: Framing,
        start: &mut dyn FnMut(&Descriptor, Bytes),
    ) -> Result<CachedMount, ExchangeError> {
        let mut parts = Vec::new();
        for part in self.layers.cut(&content.id)? {
            self.cancel.check()?;
            let made = self.layers.compressed_part(&content.id, &part, framing, self.threads)?;
            let media_type = format!("{MOUNT_TYPE}{}", framing.suffix());
            let descriptor = Descriptor::new(media_type.as_str().into(), made.digest, made.size);
            start(&descriptor, Bytes::Here(content.id, part, framing));
            parts.push(descriptor);
        }
        Ok(CachedMount { id: id.to_owned(), layer: content.id, diff_id: content.diff_id, parts })
    }

    /// Makes a part be at its destination; false if nobody has it any more.
    async fn send_part(
        self,
        part: &Descriptor,
        bytes: Bytes,
        to: &dyn Destination,
        vertex: &Vertex,
    ) -> Result<bool, ExchangeError> {
        self.cancel.check()?;
        let mut elsewhere = self.pushed.clone();
        if let Bytes::There(offer) = &bytes
            && let Origin::Registry(name) = &offer.from
        {
            elsewhere.push(name.repository());
        }
        if to.has_blob(part, &elsewhere).await? {
            return Ok(true);
        }
        let path = match bytes {
            Bytes::Here(id, content, framing) => {
                let (layers, threads) = (self.layers.clone(), self.threads);
                let file = tokio::task::spawn_blocking(move || layers.part_file(&id, &content, framing, threads));
                file.await.map_err(io::Error::other)??
            }
            Bytes::There(offer) => match self.puller.ensure_blob(&offer.listed(part), vertex, &self.cancel).await {
                Ok(blob) => blob.path,
                Err(error) => {
                    self.cancel.check()?;
                    let text = format!("cache mount {} is left out: {error}\n", offer.mount.id);
                    vertex.log(Stream::Stderr, text.as_bytes());
                    return Ok(false);
                }
            },
        };
        to.push_blob(part, BlobSource::File(path)).await?;
        Ok(true)
    }
}

impl Imported {
    /// Gets the content of a cache mount from the first that has it as it should be.
    pub(super) fn mount_content(&self, key: &Blake3) -> Option<LayerId> {
        let offers = self.mounts.get(key)?;
        if let Some(here) = offers.iter().map(|offer| offer.mount.layer).find(|layer| self.is_here(layer)) {
            return Some(here);
        }
        let vertex = self.progress.vertex("[internal] load cache mount from cache", &[]);
        vertex.start();
        for offer in offers {
            match self.fetch_parts(offer, &vertex) {
                Ok(()) => {
                    vertex.finish(Outcome::Done);
                    return Some(offer.mount.layer);
                }
                Err(error) => {
                    let text = format!("cache mount {} from {}: {error}\n", offer.mount.id, offer.from);
                    vertex.log(Stream::Stderr, text.as_bytes());
                }
            }
        }
        let text = "a cache mount cannot be had from the cache; it begins empty".to_owned();
        let cancelled = self.cancel.is_cancelled();
        vertex.finish(if cancelled { Outcome::Canceled } else { Outcome::Error(text) });
        None
    }

    fn fetch_parts(&self, offer: &MountOffer, vertex: &Vertex) -> Result<(), ExchangeError> {
        let listed: Vec<ImageLayer> = offer.mount.parts.iter().map(|part| offer.listed(part)).collect();
        // The client bounds how many transfers there are at a time.
        let fetches = listed.iter().map(|part| self.puller.ensure_blob(part, vertex, &self.cancel));
        let files = self.runtime.block_on(all(fetches)).into_iter().map(|blob| Ok::<_, ExchangeError>(blob?.path));
        let tar = InTurn { files: files.collect::<Result<_, _>>()?, open: None };
        self.layers.import_built(&offer.mount.layer, offer.mount.diff_id, Box::new(tar))?;
        Ok(())
    }
}

/// Files one after the other, each open while it is read.
struct InTurn {
    files: VecDeque<PathBuf>,
    open: Option<fs_err::File>,
}

impl Read for InTurn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                let n = file.read(buffer)?;
                if n > 0 || buffer.is_empty() {
                    return Ok(n);
                }
            }
            let Some(next) = self.files.pop_front() else { return Ok(0) };
            self.open = Some(fs_err::File::open(next)?);
        }
    }
}
