//! Pushing: each blob is looked for, mounted if another repository of the registry has it, and sent otherwise.
//!
//! Blobs travel while later layers are still being compressed. What was pulled is fetched only if the registry lacks it.
//! Manifests go last, so a tag never points at something incomplete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::output::{Output, Push};
use super::pack::Blob;
use super::{Composed, ExportError, Exporter, Subject};
use crate::catalog::Origin;
use crate::event::Vertex;
use crate::layers::LayerError;
use crate::oci::manifest::Descriptor;
use crate::oci::reference::Reference;
use crate::registry::{BlobSource, Destination, Error, Repository};

/// How often a long transfer looks whether the build was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// Several transfers at once hide the latency of each; more only fight for the line. The client has its own limit.
type Transfers = JoinSet<Result<(), ExportError>>;

impl Exporter {
    /// Pushes a subject to all its names; returns what they point at.
    pub(super) fn push(
        &self,
        subject: &Subject,
        output: &Output,
        push: &Push,
        vertex: &Vertex,
    ) -> Result<Descriptor, ExportError> {
        if subject.names.is_empty() {
            return Err(ExportError::Unsupported("tag is needed when pushing to registry".to_owned()));
        }
        let mut targets: BTreeMap<String, Target> = BTreeMap::new();
        for name in &subject.names {
            let target = targets.entry(name.repository()).or_insert_with(|| Target {
                repository: Arc::new(self.puller.repository(name, push.insecure)),
                names: Vec::new(),
            });
            target.names.push(name.clone());
        }
        let mut transfers = Transfers::new();
        let mut sent = BTreeSet::new();
        let mut start = |blob: &Blob| {
            if sent.insert(blob.descriptor.digest) {
                for target in targets.values() {
                    let (exporter, target, blob, vertex) = (self.clone(), target.clone(), blob.clone(), vertex.clone());
                    transfers.spawn_on(async move { exporter.transfer(target, blob, vertex).await }, &self.runtime);
                }
            }
        };
        let composed = self.compose(subject, &output.format, &output.annotations, vertex, &mut start)?;
        vertex.status("pushing layers", 0, 0, false);
        for target in targets.values() {
            for packed in &composed.images {
                let (exporter, target) = (self.clone(), target.clone());
                let (descriptor, bytes) = (packed.config.clone(), packed.config_bytes.clone());
                let work = async move { exporter.send(&target, &descriptor, &[], BlobSource::Bytes(bytes)).await };
                transfers.spawn_on(work, &self.runtime);
            }
        }
        self.runtime.block_on(async {
            // The first failure drops the set, which stops the others.
            loop {
                match tokio::time::timeout(CANCEL_CHECK, transfers.join_next()).await {
                    Ok(None) => return Ok::<_, ExportError>(()),
                    Ok(Some(finished)) => {
                        finished.map_err(|error| ExportError::Stream(std::io::Error::other(error)))??;
                    }
                    Err(_) => self.cancel.check()?,
                }
            }
        })?;
        vertex.done_part("pushing layers");
        for target in targets.values() {
            self.runtime.block_on(send_manifests(target, &composed, push, vertex))?;
        }
        Ok(composed.top)
    }

    /// Gets one layer blob to a repository.
    async fn transfer(self, target: Target, blob: Blob, vertex: Vertex) -> Result<(), ExportError> {
        self.cancel.check()?;
        let registry = |origin: &Origin| match origin {
            Origin::Registry(name) => Some(name.repository()),
            Origin::Layout(_) | Origin::Bucket(_) => None,
        };
        let elsewhere: Vec<String> = blob.layer.from.iter().filter_map(registry).collect();
        if target.has(&blob.descriptor, &elsewhere).await? {
            return Ok(());
        }
        let path = self.blob_path_async(&blob, &vertex).await?;
        target.put(&blob.descriptor, BlobSource::File(path)).await
    }

    async fn send(
        &self,
        target: &Target,
        descriptor: &Descriptor,
        elsewhere: &[String],
        source: BlobSource,
    ) -> Result<(), ExportError> {
        if target.has(descriptor, elsewhere).await? {
            return Ok(());
        }
        target.put(descriptor, source).await
    }

    /// The file of a blob, fetched if need be.
    async fn blob_path_async(&self, blob: &Blob, vertex: &Vertex) -> Result<PathBuf, ExportError> {
        if let Some(found) = self.store.blob(&blob.descriptor.digest)? {
            return Ok(found.path);
        }
        let Some(framing) = blob.framing else {
            return Ok(self.puller.ensure_blob(&blob.layer, vertex, &self.cancel).await?.path);
        };
        // Made before, but gone since: the same bytes are made again.
        let (layers, id, threads) = (self.layers.clone(), blob.layer.layer, self.threads);
        let made = tokio::task::spawn_blocking(move || layers.compressed(&id, framing, threads)).await;
        let made = made.map_err(|error| ExportError::Stream(std::io::Error::other(error)))??;
        let found = self.store.blob(&made.digest)?.ok_or(LayerError::Missing(id))?;
        Ok(found.path)
    }

    /// The file of a blob, fetched if need be.
    pub(super) fn blob_path(&self, blob: &Blob, vertex: &Vertex) -> Result<PathBuf, ExportError> {
        self.runtime.block_on(self.blob_path_async(blob, vertex))
    }

    /// The blob, opened.
    pub(super) fn blob_file(&self, blob: &Blob, vertex: &Vertex) -> Result<fs_err::File, ExportError> {
        Ok(fs_err::File::open(self.blob_path(blob, vertex)?)?)
    }
}

/// A repository and the names in it.
#[derive(Clone)]
struct Target {
    repository: Arc<Repository>,
    names: Vec<Reference>,
}

impl Target {
    fn failed(&self, source: Error) -> ExportError {
        ExportError::Push { name: self.names.first().map(ToString::to_string).unwrap_or_default(), source }
    }
    async fn has(&self, descriptor: &Descriptor, elsewhere: &[String]) -> Result<bool, ExportError> {
        self.repository.has_blob(descriptor, elsewhere).await.map_err(|error| self.failed(error))
    }
    async fn put(&self, descriptor: &Descriptor, source: BlobSource) -> Result<(), ExportError> {
        self.repository.push_blob(descriptor, source).await.map_err(|error| self.failed(error))
    }
}

async fn send_manifests(target: &Target, composed: &Composed, push: &Push, vertex: &Vertex) -> Result<(), ExportError> {
    let repository = &target.repository;
    if composed.index.is_some() {
        for packed in &composed.images {
            let sent = repository.push_manifest(&packed.manifest, None).await;
            sent.map_err(|error| target.failed(error))?;
        }
    }
    let document = composed.document();
    for name in &target.names {
        let tag = name.tag().filter(|_| !push.by_digest);
        let line = format!("pushing manifest for {name}@{}", document.digest());
        vertex.status(&line, 0, 0, false);
        repository.push_manifest(document, tag).await.map_err(|error| target.failed(error))?;
        vertex.done_part(line);
    }
    Ok(())
}
