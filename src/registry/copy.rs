//! From one place to another: a manifest or a whole index with all it refers to, without a store in between.
//!
//! A blob that the destination has is not sent, one that another repository of the same registry has is mounted, and the
//! others pass through memory a little at a time. Documents keep their bytes, so digests stay. Manifests go after what
//! they refer to: an interrupted copy leaves no tag that points at something incomplete.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::error::Error;
use super::remote::{BlobSource, Destination, Remote, Selector};
use crate::cancel::Cancel;
use crate::event::Vertex;
use crate::oci::manifest::{Descriptor, Document, Manifest, Parsed};

/// Indexes may list indexes; nobody needs more than this.
const MAX_DEPTH: usize = 4;

/// One copy, or several between the same places.
#[derive(Clone, Debug)]
pub struct Copier {
    /// Where from.
    pub from: Arc<dyn Remote>,
    /// The repository's full name, if it is one of a registry: blobs may be mounted from there.
    pub from_name: Option<String>,
    /// Where to.
    pub to: Arc<dyn Destination>,
    /// Hears of blobs and manifests.
    pub vertex: Vertex,
    /// Stops it.
    pub cancel: Cancel,
}

impl Copier {
    /// Copies a document with all it refers to, and names it `tag` if one is given.
    pub async fn copy(&self, document: &Document, tag: Option<&str>) -> Result<(), Error> {
        self.copy_below(document, tag, MAX_DEPTH).await
    }

    fn copy_below<'a>(
        &'a self,
        document: &'a Document,
        tag: Option<&'a str>,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
        Box::pin(async move {
            let what = document.digest();
            match document.parse().map_err(|error| Error::manifest(what, error))? {
                Parsed::Manifest(manifest) => self.copy_blobs(&manifest).await?,
                Parsed::Index(_) if depth == 0 => return Err(Error::protocol(what, "indexes are nested too deeply")),
                Parsed::Index(index) => {
                    for entry in &index.manifests {
                        if !entry.is_document() {
                            self.copy_blob(entry).await?;
                            continue;
                        }
                        let child = self.from.manifest(&Selector::Digest(entry.digest)).await?;
                        self.copy_below(&child, None, depth - 1).await?;
                    }
                }
            }
            self.to.push_manifest(document, tag).await?;
            self.vertex.done_part(format!("copying manifest {what}"));
            Ok(())
        })
    }

    async fn copy_blobs(&self, manifest: &Manifest) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        let mut seen = BTreeSet::new();
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if seen.insert(blob.digest) {
                let (copier, blob) = (self.clone(), blob.clone());
                tasks.spawn(async move { copier.copy_blob(&blob).await });
            }
        }
        // The first failure drops the set, which stops the others.
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| Error::Io(std::io::Error::other(error)))??;
        }
        Ok(())
    }

    async fn copy_blob(&self, blob: &Descriptor) -> Result<(), Error> {
        self.cancel.check().map_err(|cancelled| Error::Io(std::io::Error::other(cancelled)))?;
        let elsewhere: Vec<String> = self.from_name.clone().into_iter().collect();
        let id = blob.digest.to_string();
        if !self.to.has_blob(blob, &elsewhere).await? {
            self.vertex.status(&id, 0, blob.size, false);
            let sent = self.to.push_blob(blob, BlobSource::Remote(self.from.clone())).await;
            match sent {
                // Layers that registries may not hold stay where their addresses say.
                Err(_) if !blob.urls.is_empty() && crate::oci::manifest::is_foreign(&blob.media_type) => {}
                sent => sent?,
            }
        }
        self.vertex.status(&id, blob.size, blob.size, true);
        Ok(())
    }
}
