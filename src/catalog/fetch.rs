//! From a layer that is somewhere to a layer that is here: blobs fetched in parallel, verified, unpacked.
//!
//! A layer is fetched by one process at a time (a lock on the blob); whoever waited finds it done. Errors name the layer.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::digest::{BlobDigest, LayerId};
use rbuild_cache::{BlobRef, LockGuard, LockKind, StoreError};
use tokio::task::JoinSet;

use super::pull::{PullError, Puller};
use super::record::{Image, ImageLayer, Origin};
use crate::cancel::{Cancel, Cancelled};
use crate::event::{Stream, Vertex};
use crate::layers::{self, LayerError, foreign_layer_id};
use crate::oci::manifest::{self, Descriptor};
use crate::oci::reference::Reference;
use crate::registry::{BlobStream, Error, Layout, Pump, Remote};

/// How often a long download looks whether the build was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

impl Puller {
    /// Makes all layers of an image be in the store and returns their ids from the bottom. What is missing is fetched.
    pub async fn ensure_layers(
        &self,
        image: &Image,
        vertex: &Vertex,
        cancel: &Cancel,
    ) -> Result<Vec<LayerId>, PullError> {
        let mut tasks = JoinSet::new();
        let mut seen = BTreeSet::new();
        for layer in &image.layers {
            if seen.insert(layer.layer) && !self.has_layer(layer)? {
                let (puller, layer, vertex, cancel) = (self.clone(), layer.clone(), vertex.clone(), cancel.clone());
                tasks.spawn(async move { puller.fetch_layer(layer, vertex, cancel).await });
            }
        }
        // The first failure drops the set, which stops the others.
        loop {
            match tokio::time::timeout(CANCEL_CHECK, tasks.join_next()).await {
                Ok(None) => return Ok(image.layer_ids()),
                Ok(Some(finished)) => finished.map_err(panicked)??,
                Err(_) => cancel.check()?,
            }
        }
    }

    fn has_layer(&self, layer: &ImageLayer) -> Result<bool, PullError> {
        let digest = BlobDigest(layer.diff_id.0);
        let record = self.layers.record(&layer.layer).map_err(|error| in_layer(digest, error))?;
        match record {
            Some(record) => self.layers.has_form(&record).map_err(|error| in_layer(digest, error)),
            None => Ok(false),
        }
    }

    async fn fetch_layer(&self, layer: ImageLayer, vertex: Vertex, cancel: Cancel) -> Result<(), PullError> {
        let Some(descriptor) = layer.descriptor.clone() else { return Err(gone(&layer)) };
        let _lock = self.lock(descriptor.digest, &vertex, &cancel).await?;
        if self.has_layer(&layer)? {
            return Ok(());
        }
        if manifest::packing(&descriptor.media_type).is_none() {
            return Err(PullError::Unusable {
                what: format!("layer {}", descriptor.digest),
                message: format!("unsupported media type {}", descriptor.media_type),
            });
        }
        if self.store.blob(&descriptor.digest)?.is_some() {
            return self.unpack(layer, descriptor, None, vertex).await;
        }
        let mut again = true;
        loop {
            let (reader, pump) = self.download(&layer, &descriptor, &vertex, &cancel).await?;
            let done = self.unpack(layer.clone(), descriptor.clone(), Some(reader), vertex.clone()).await;
            let Err(failed) = done else { return Ok(()) };
            cancel.check()?;
            // Bytes that make no layer may be the wrong bytes.
            match pump.verdict().await {
                Err(error) if error.is_damage() && again => {
                    vertex.log(Stream::Stderr, format!("{error}; fetching it once more\n").as_bytes());
                    again = false;
                }
                Err(error) => return Err(error.into()),
                Ok(()) => return Err(failed),
            }
        }
    }

    /// Unpacks a layer that comes from `input`, or is in the store.
    async fn unpack(
        &self,
        layer: ImageLayer,
        descriptor: Descriptor,
        input: Option<Box<dyn Read + Send>>,
        vertex: Vertex,
    ) -> Result<(), PullError> {
        let (layers, store) = (self.layers.clone(), self.store.clone());
        let extracting = format!("extracting {}", descriptor.digest);
        let work = move || {
            vertex.status(&extracting, 0, 0, false);
            let media_type = descriptor.media_type.to_string();
            let imported = match input {
                // One of ours, that went around through a registry or a cache.
                input if layer.layer != foreign_layer_id(&layer.diff_id) => {
                    let blob: Option<Box<dyn Read + Send>> = match input {
                        Some(input) => Some(input),
                        None => store.open_blob(&descriptor.digest)?.map(|file| Box::new(file) as _),
                    };
                    blob.map(|blob| layers.import_built(&layer.layer, layer.diff_id, blob)).transpose()
                }
                Some(input) => {
                    let source = layers::Source { media_type, digest: Some(descriptor.digest) };
                    layers.import(input, &source, Some(layer.diff_id)).map(Some)
                }
                None => layers.import_blob(&descriptor.digest, &media_type, Some(layer.diff_id)),
            };
            let done = imported.map_err(|error| in_layer(descriptor.digest, error))?;
            vertex.status(&extracting, 0, 0, true);
            done.map(drop).ok_or_else(|| vanished(descriptor.digest))
        };
        tokio::task::spawn_blocking(work).await.map_err(panicked)?
    }

    /// Makes the blob of a layer be in the store, packed as it came, without unpacking it.
    pub async fn ensure_blob(
        &self,
        layer: &ImageLayer,
        vertex: &Vertex,
        cancel: &Cancel,
    ) -> Result<BlobRef, PullError> {
        let Some(descriptor) = &layer.descriptor else { return Err(gone(layer)) };
        if let Some(blob) = self.store.blob(&descriptor.digest)? {
            return Ok(blob);
        }
        let _lock = self.lock(descriptor.digest, vertex, cancel).await?;
        if let Some(blob) = self.store.blob(&descriptor.digest)? {
            return Ok(blob);
        }
        let mut again = true;
        loop {
            let (input, pump) = self.download(layer, descriptor, vertex, cancel).await?;
            let failed = match self.keep(descriptor, input).await {
                Ok(blob) => return Ok(blob),
                Err(error) => error,
            };
            cancel.check()?;
            match pump.verdict().await {
                Err(error) if error.is_damage() && again => again = false,
                Err(error) => return Err(error.into()),
                Ok(()) => return Err(failed),
            }
        }
    }

    /// Makes a blob of what comes from `input`.
    async fn keep(&self, descriptor: &Descriptor, mut input: Box<dyn Read + Send>) -> Result<BlobRef, PullError> {
        let (store, digest, size) = (self.store.clone(), descriptor.digest, descriptor.size);
        let work = move || {
            let mut writer = store.blob_writer()?;
            writer.reserve(size)?;
            let mut buffer = vec![0; 128 << 10];
            loop {
                match input.read(&mut buffer).map_err(|error| unreadable(digest, &error))? {
                    0 => break,
                    n => writer.add(&buffer[..n])?,
                }
            }
            writer.commit(Some(digest))?;
            store.blob(&digest)?.ok_or_else(|| vanished(digest))
        };
        tokio::task::spawn_blocking(work).await.map_err(panicked)?
    }

    async fn lock(&self, digest: BlobDigest, vertex: &Vertex, cancel: &Cancel) -> Result<LockGuard, PullError> {
        let (store, vertex, cancel) = (self.store.clone(), vertex.clone(), cancel.clone());
        let work = move || {
            let mut waiting = |pid: Option<u32>| {
                if pid == Some(std::process::id()) {
                    return;
                }
                let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                vertex
                    .log(Stream::Stderr, format!("waiting for another rbuild{who} that fetches {digest}\n").as_bytes());
            };
            store.lock(LockKind::Blob, &digest.0.0, &|| cancel.is_cancelled(), &mut waiting)
        };
        Ok(tokio::task::spawn_blocking(work).await.map_err(panicked)??)
    }

    /// A verifying reader over the blob, from the first place that has it.
    async fn download(
        &self,
        layer: &ImageLayer,
        descriptor: &Descriptor,
        vertex: &Vertex,
        cancel: &Cancel,
    ) -> Result<(Box<dyn Read + Send>, Pump), PullError> {
        let mut failure = None;
        for origin in &layer.from {
            match self.open(origin, descriptor).await {
                Ok(stream) => {
                    let (vertex, id, size) = (vertex.clone(), descriptor.digest.to_string(), stream.size());
                    vertex.status(&id, 0, size, false);
                    let mut reported = 0;
                    let (reader, pump) = stream.into_reader(move |received| {
                        // The screen wants some twenty steps, not one a packet.
                        let step = (size / 20).max(64 << 10);
                        if received == size || received - reported >= step {
                            reported = received;
                            vertex.status(&id, received, size, received == size);
                        }
                    });
                    return Ok((Box::new(Stoppable { inner: reader, cancel: cancel.clone() }), pump));
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| gone(layer), PullError::Registry))
    }

    async fn open(&self, origin: &Origin, descriptor: &Descriptor) -> Result<BlobStream, Error> {
        self.remote(origin)?.blob(descriptor).await
    }

    /// The place an origin names.
    pub fn remote(&self, origin: &Origin) -> Result<Arc<dyn Remote>, Error> {
        Ok(match origin {
            Origin::Registry(name) => Arc::new(self.client.repository(name)),
            Origin::Layout(path) => Arc::new(Layout::open(path)?),
            Origin::Bucket(name) => Arc::new(self.client.known_bucket(name)?),
        })
    }

    /// A bucket, which [`remote`](Self::remote) finds from now on.
    pub fn bucket(&self, name: &crate::registry::BucketName) -> Result<crate::registry::Bucket, Error> {
        self.client.bucket(name)
    }

    /// The repository of a name, to push to.
    pub fn repository(&self, name: &Reference, insecure: bool) -> crate::registry::Repository {
        if insecure { self.client.insecure_repository(name) } else { self.client.repository(name) }
    }
}

/// A layer we neither have nor know where to get.
fn gone(layer: &ImageLayer) -> PullError {
    PullError::Unusable {
        what: format!("layer {}", layer.diff_id),
        message: "is not in the store any more, and it is not known where to fetch it".to_owned(),
    }
}

fn vanished(digest: BlobDigest) -> PullError {
    let message = "vanished from the store right after it was fetched".to_owned();
    PullError::Unusable { what: format!("layer {digest}"), message }
}

fn in_layer(digest: BlobDigest, source: LayerError) -> PullError {
    PullError::Layer { digest, source }
}

fn panicked(error: tokio::task::JoinError) -> PullError {
    Error::from(io::Error::other(error)).into()
}

fn unreadable(digest: BlobDigest, error: &io::Error) -> PullError {
    PullError::Unusable { what: format!("layer {digest}"), message: error.to_string() }
}

/// A reader that fails once the build is cancelled.
struct Stoppable<R> {
    inner: R,
    cancel: Cancel,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(|cancelled: Cancelled| io::Error::other(cancelled))?;
        self.inner.read(buffer)
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Catalog(error.into())
    }
}
