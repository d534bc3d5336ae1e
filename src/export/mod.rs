//! A finished image on its way out: the store, archives, files, registries.
//!
//! `output` is what was asked for, `pack` gives an image its outgoing form, one file each writes it somewhere. Everything is
//! blocking and runs on a thread of its own; the network is waited for through the runtime's handle. Knows nothing of
//! Dockerfiles, steps or keys.

mod archive;
pub mod output;
mod pack;
mod push;
mod rootfs;

use std::collections::BTreeMap;
use std::io::{self, Write};

use rbuild_cache::{Store, StoreError};
use serde_json::{Map, Value, json};

use crate::cancel::{Cancel, Cancelled};
use crate::catalog::pull::{PullError, Puller};
use crate::catalog::{CatalogError, Image, ImageId, Named, NamedImage};
use crate::event::{Outcome, Progress, Vertex, VertexId};
use crate::layers::{LayerError, Layers};
use crate::oci::manifest::{Descriptor, Document, Family, Index, ManifestError};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::registry::Error;
use crate::tar::TarError;

use output::{Annotations, Dest, Format, Kind, Output};
use pack::{Blob, CREATED, Packed};

/// An output could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The build was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// Layers could not be had.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// A registry refused or a layout could not be written.
    #[error(transparent)]
    Registry(#[from] Error),
    /// A push failed.
    #[error("failed to push {name}: {source}")]
    Push {
        /// Where to.
        name: String,
        /// Why.
        source: Error,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be packed or read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// An archive cannot be written.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A file cannot be written.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be used; the error names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The stream cannot be written.
    #[error("write archive: {0}")]
    Stream(io::Error),
    /// A config that is no config.
    #[error("image {id}: {source}")]
    Config {
        /// The image.
        id: ImageId,
        /// Why.
        source: ManifestError,
    },
    /// Something that cannot be exported like this.
    #[error("{0}")]
    Unsupported(String),
}

/// What is exported: the images of one result, one a platform, and its names.
#[derive(Clone, Debug)]
pub struct Subject {
    /// In the order the platforms were asked for.
    pub images: Vec<(Platform, Image)>,
    /// With tags.
    pub names: Vec<Reference>,
    /// `SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: Option<i64>,
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

/// Exports from one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exporter {
    store: Store,
    layers: Layers,
    puller: Puller,
    runtime: tokio::runtime::Handle,
    cancel: Cancel,
    threads: usize,
}

/// Where an export reports, and what streams go to.
pub struct Surroundings<'a> {
    /// Hears of the export's vertex.
    pub progress: &'a Progress,
    /// The vertices it waited for.
    pub inputs: &'a [VertexId],
    /// Where [`Dest::Stream`] goes.
    pub stream: &'a mut (dyn Write + Send),
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

impl Exporter {
    /// An exporter that fetches what is missing through `puller`. Its methods must not be called on the runtime's own
    /// threads, except blocking ones. `threads` is how many may compress at once.
    pub fn new(
        layers: Layers,
        puller: Puller,
        runtime: tokio::runtime::Handle,
        cancel: Cancel,
        threads: usize,
    ) -> Self {
        Self { store: layers.store().clone(), layers, puller, runtime, cancel, threads }
    }

    /// Makes one output. `subject.names` and the output's own names are both given.
    pub fn export(
        &self,
        subject: &Subject,
        output: &Output,
        around: &mut Surroundings<'_>,
    ) -> Result<Exported, ExportError> {
        let title = match &output.kind {
            Kind::CacheOnly => return Ok(Exported { id: single(subject), ..Exported::default() }),
            Kind::Image(_) => "exporting to image",
            Kind::Archive { docker: true, .. } => "exporting to docker image format",
            Kind::Archive { docker: false, .. } => "exporting to oci image format",
            Kind::Local { .. } => "exporting to client directory",
            Kind::Tar { .. } => "exporting to client tarball",
        };
        let vertex = around.progress.vertex(title, around.inputs);
        vertex.start();
        let result = self.run(subject, output, &vertex, around.stream);
        vertex.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(_) if self.cancel.is_cancelled() => Outcome::Canceled,
            Err(error) => Outcome::Error(error.to_string()),
        });
        result
    }

    fn run(
        &self,
        subject: &Subject,
        output: &Output,
        vertex: &Vertex,
        stream: &mut (dyn Write + Send),
    ) -> Result<Exported, ExportError> {
        let mut subject = subject.clone();
        if output.format.rewrite_timestamp {
            let Some(epoch) = subject.epoch else {
                let text = "rewrite-timestamp=true needs SOURCE_DATE_EPOCH";
                return Err(ExportError::Unsupported(text.to_owned()));
            };
            for (_, image) in &mut subject.images {
                vertex.status("rewriting layers", 0, 0, false);
                *image = self.rewrite(image, epoch)?;
                vertex.done_part("rewriting layers");
            }
        }
        for name in &output.names {
            if !subject.names.contains(name) {
                subject.names.push(name.clone());
            }
        }
        match &output.kind {
            Kind::Image(None) if !output.annotations.is_empty() => {
                let text = "annotations are part of a manifest, and an image in the store has none: \
                            push it or write an archive";
                Err(ExportError::Unsupported(text.to_owned()))
            }
            Kind::Image(None) => {
                for (_, image) in &subject.images {
                    vertex.done_part(format!("exporting config {}", image.id()));
                }
                self.to_store(&subject, vertex)?;
                Ok(told(&subject, None))
            }
            Kind::Image(Some(push)) => {
                let named = self.to_store(&subject, vertex)?;
                let descriptor = self.push(&subject, output, push, vertex)?;
                for name in subject.names.iter().filter(|_| output.format.name_canonical) {
                    let name = name.name_only().with_digest(descriptor.digest);
                    self.puller.catalog().tag(&name, &named)?;
                    vertex.done_part(format!("naming to {name}"));
                }
                Ok(told(&subject, Some(descriptor)))
            }
            Kind::Archive { docker, dest } => {
                if *docker && subject.images.len() > 1 {
                    let text = "docker exporter does not currently support exporting manifest lists";
                    return Err(ExportError::Unsupported(text.to_owned()));
                }
                let mut format = output.format.clone();
                if *docker && format.family.is_none() && format.packing != Some(crate::oci::manifest::Packing::Zstd) {
                    // What every engine can load.
                    format.family = format.family.or(docker_family(&subject));
                }
                let results = vec![self.compose(&subject, &format, &output.annotations, vertex, &mut |_| {})?];
                self.write_archive(&results, *docker, dest, vertex, stream)?;
                Ok(told(&subject, results.first().map(Composed::described)))
            }
            Kind::Local { dest, platform_split } => {
                self.write_files(&subject, dest, *platform_split, vertex)?;
                Ok(Exported { id: single(&subject), ..Exported::default() })
            }
            Kind::Tar { dest, platform_split } => {
                self.write_tar(&subject, dest, *platform_split, vertex, stream)?;
                Ok(Exported { id: single(&subject), ..Exported::default() })
            }
            Kind::CacheOnly => Ok(Exported { id: single(&subject), ..Exported::default() }),
        }
    }

    /// Writes several images with their names into one archive, as `rbuild save` does.
    pub fn save(
        &self,
        subjects: &[Subject],
        docker: bool,
        dest: &Dest,
        around: &mut Surroundings<'_>,
    ) -> Result<(), ExportError> {
        let vertex = around.progress.vertex("saving images", around.inputs);
        vertex.start();
        let format = Format::default();
        let result = subjects
            .iter()
            .map(|subject| self.compose(subject, &format, &Annotations::default(), &vertex, &mut |_| {}))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|results| self.write_archive(&results, docker, dest, &vertex, around.stream));
        vertex.finish(match &result {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Error(error.to_string()),
        });
        result
    }

    /// Pushes what has names already, as `rbuild push` does.
    pub fn push_names(
        &self,
        subject: &Subject,
        push: &output::Push,
        around: &mut Surroundings<'_>,
    ) -> Result<Exported, ExportError> {
        let vertex = around.progress.vertex("pushing image", around.inputs);
        vertex.start();
        let result = self.push(subject, &Output::store(), push, &vertex);
        vertex.finish(match &result {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Error(error.to_string()),
        });
        result.map(|descriptor| told(subject, Some(descriptor)))
    }

    /// Records images and names.
    fn to_store(&self, subject: &Subject, vertex: &Vertex) -> Result<Named, ExportError> {
        let catalog = self.puller.catalog();
        let mut named = Named::default();
        for (platform, image) in &subject.images {
            named.images.push(NamedImage { platform: platform.normalize(), id: catalog.put(image.clone())? });
        }
        for name in &subject.names {
            catalog.tag(name, &named)?;
            vertex.done_part(format!("naming to {name}"));
        }
        Ok(named)
    }

    /// Packs the images of a subject and joins several by an index.
    fn compose(
        &self,
        subject: &Subject,
        format: &Format,
        annotations: &Annotations,
        vertex: &Vertex,
        ready: &mut dyn FnMut(&Blob),
    ) -> Result<Composed, ExportError> {
        vertex.status("exporting layers", 0, 0, false);
        let mut images = Vec::new();
        for (platform, image) in &subject.images {
            let mut packed = self.pack(image, format, annotations, vertex, ready)?;
            packed.platform = platform.normalize();
            images.push(packed);
        }
        vertex.done_part("exporting layers");
        for packed in &images {
            vertex.done_part(format!("exporting manifest {}", packed.manifest.digest()));
            vertex.done_part(format!("exporting config {}", packed.id));
        }
        let index = match images.as_slice() {
            [] => return Err(ExportError::Unsupported("there is no image to export".to_owned())),
            [_] if !annotations.index.is_empty() || !annotations.index_descriptor.is_empty() => {
                let text = "index annotations not supported for single platform export";
                return Err(ExportError::Unsupported(text.to_owned()));
            }
            [_] => None,
            several => {
                let docker = several.iter().all(|p| *p.manifest.media_type() == Family::Docker.manifest());
                let family = if docker { Family::Docker } else { Family::Oci };
                let entries = several.iter().map(|packed| packed.entry(annotations)).collect();
                let index = Document::of_index(&Index::new(family, entries, annotations.index.clone()));
                vertex.done_part(format!("exporting manifest list {}", index.digest()));
                Some(index)
            }
        };
        let mut top = match (&index, images.as_slice()) {
            (None, [single, ..]) => Descriptor { platform: None, ..single.entry(annotations) },
            (Some(index), _) => {
                let mut top = index.descriptor();
                top.annotations = annotations.index_descriptor.clone();
                top
            }
            (None, []) => return Err(ExportError::Unsupported("there is no image to export".to_owned())),
        };
        if let Some(created) = images.first().and_then(|packed| packed.created.clone()) {
            top.annotations.entry(CREATED.to_owned()).or_insert(created);
        }
        Ok(Composed { images, index, top, names: subject.names.clone() })
    }
}

fn told(subject: &Subject, descriptor: Option<Descriptor>) -> Exported {
    let names = subject.names.iter().map(ToString::to_string).collect();
    Exported { id: single(subject), descriptor, names }
}

/// The images of one subject, packed.
#[derive(Clone, Debug)]
struct Composed {
    images: Vec<Packed>,
    index: Option<Document>,
    /// Of the index, or of the only manifest, with its annotations.
    top: Descriptor,
    names: Vec<Reference>,
}

impl Composed {
    /// What tags point at.
    fn document(&self) -> &Document {
        self.index.as_ref().unwrap_or(&self.images[0].manifest)
    }

    /// The descriptor as a metadata file shows it.
    fn described(&self) -> Descriptor {
        let mut descriptor = self.top.clone();
        if let (None, [single]) = (&self.index, self.images.as_slice()) {
            descriptor.annotations.insert("config.digest".to_owned(), single.id.to_string());
        }
        descriptor
    }

    /// Every blob once, by digest.
    fn blobs(&self) -> BTreeMap<rbuild_cache::digest::BlobDigest, &Blob> {
        self.images.iter().flat_map(|packed| &packed.layers).map(|blob| (blob.descriptor.digest, blob)).collect()
    }
}

/// The ID of an image that is the only one.
fn single(subject: &Subject) -> Option<ImageId> {
    match subject.images.as_slice() {
        [(_, image)] => Some(image.id()),
        _ => None,
    }
}

/// Docker's media types for what is made here; a pulled manifest stays as it is.
fn docker_family(subject: &Subject) -> Option<Family> {
    let pulled = subject.images.iter().all(|(_, image)| image.manifest.is_some());
    (!pulled).then_some(Family::Docker)
}
