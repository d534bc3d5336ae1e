//! A finished image on its way out: the store, archives, files, registries.
//!
//! `output` is what was asked for, `pack` gives an image its outgoing form, one file each writes it somewhere. Everything is
//! blocking and runs on a thread of its own; the network is waited for through the runtime's handle. Knows nothing of
//! Dockerfiles, steps or keys.

mod archive;
mod engine;
pub mod output;
mod pack;
mod push;
mod rootfs;
mod squash;
mod subject;

use std::collections::BTreeMap;
use std::io::{self, Write};

use rbuild_cache::{Store, StoreError};

pub use squash::Squash;
pub use subject::{Exported, Part, Subject};

use crate::cancel::{Cancel, Cancelled};
use crate::catalog::pull::{PullError, Puller};
use crate::catalog::{CatalogError, ImageId, Named, NamedImage};
use crate::docker::DockerError;
use crate::event::{Outcome, Progress, Vertex, VertexId, Warning};
use crate::layers::{LayerError, Layers};
use crate::oci::manifest::{Descriptor, Document, Family, Index, ManifestError};
use crate::oci::reference::Reference;
use crate::registry::Error;
use crate::tar::TarError;

use output::{Annotations, Dest, Format, Kept, Kind, Naming, Output};
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
    /// A Docker engine did not take it.
    #[error(transparent)]
    Docker(#[from] DockerError),
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

impl ExportError {
    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Pull(error) => error.help(),
            Self::Registry(error) | Self::Push { source: error, .. } => error.help(),
            Self::Cancelled(_)
            | Self::Catalog(_)
            | Self::Store(_)
            | Self::Layer(_)
            | Self::Tar(_)
            | Self::File { .. }
            | Self::Io(_)
            | Self::Stream(_)
            | Self::Docker(_)
            | Self::Config { .. }
            | Self::Unsupported(_) => None,
        }
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
            Kind::CacheOnly => return Ok(Exported { id: subject.single(), ..Exported::default() }),
            Kind::Image(_) => "exporting to image",
            Kind::Archive { docker: true, .. } => "exporting to docker image format",
            Kind::Archive { docker: false, .. } => "exporting to oci image format",
            Kind::Local { .. } => "exporting to client directory",
            Kind::Tar { .. } => "exporting to client tarball",
        };
        self.reported(title, around, |vertex, stream| self.run(subject, output, vertex, stream))
    }

    /// Does something under a title of the progress.
    fn reported<T>(
        &self,
        title: &str,
        around: &mut Surroundings<'_>,
        work: impl FnOnce(&Vertex, &mut (dyn Write + Send)) -> Result<T, ExportError>,
    ) -> Result<T, ExportError> {
        let vertex = around.progress.vertex(title, around.inputs);
        vertex.start();
        let result = work(&vertex, around.stream);
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
        let subject = self.prepared(subject, output, vertex)?;
        match &output.kind {
            Kind::Image(push) => self.image(subject, output, push.as_ref(), vertex),
            Kind::Archive { docker, dest } => {
                if *docker {
                    engine::single(&subject)?;
                }
                let mut composed = self.compose(&subject, &output.format, &output.annotations, vertex, &mut |_| {})?;
                composed.date();
                let results = vec![composed];
                self.write_archive(&results, *docker, dest, vertex, stream)?;
                Ok(told(&subject, results.first().map(|composed| composed.top.clone())))
            }
            Kind::Local { dest, platform_split } => {
                self.write_files(&subject, dest, *platform_split, vertex)?;
                Ok(Exported { id: subject.single(), ..Exported::default() })
            }
            Kind::Tar { dest, platform_split } => {
                self.write_tar(&subject, dest, *platform_split, vertex, stream)?;
                Ok(Exported { id: subject.single(), ..Exported::default() })
            }
            Kind::CacheOnly => Ok(Exported { id: subject.single(), ..Exported::default() }),
        }
    }

    /// The subject with the times and names that an output gives it.
    fn prepared(&self, subject: &Subject, output: &Output, vertex: &Vertex) -> Result<Subject, ExportError> {
        let mut subject = subject.clone();
        if output.format.rewrite_timestamp {
            self.rewrite(&mut subject, vertex)?;
        }
        for name in &output.names {
            if !subject.names.contains(name) {
                subject.names.push(name.clone());
            }
        }
        Ok(subject)
    }

    /// Writes several images with their names into one archive, as `rbuild save` does.
    pub fn save(
        &self,
        subjects: &[Subject],
        docker: bool,
        dest: &Dest,
        around: &mut Surroundings<'_>,
    ) -> Result<(), ExportError> {
        let format = Format::default();
        self.reported("saving images", around, |vertex, stream| {
            let mut results = Vec::new();
            for subject in subjects {
                let mut composed = self.compose(subject, &format, &Annotations::default(), vertex, &mut |_| {})?;
                composed.date();
                results.push(composed);
            }
            self.write_archive(&results, docker, dest, vertex, stream)
        })
    }

    /// Pushes what has names already, as `rbuild push` does.
    pub fn push_names(
        &self,
        subject: &Subject,
        push: &output::Push,
        around: &mut Surroundings<'_>,
    ) -> Result<Exported, ExportError> {
        let output = Output::store();
        let pushed = self.reported("pushing image", around, |vertex, _| self.push(subject, &output, push, vertex));
        pushed.map(|descriptor| told(subject, Some(descriptor)))
    }

    /// Puts the images into the store and, if asked to, into registries.
    fn image(
        &self,
        mut subject: Subject,
        output: &Output,
        push: Option<&output::Push>,
        vertex: &Vertex,
    ) -> Result<Exported, ExportError> {
        let Naming { canonical, dangling } = &output.naming;
        let dangling = dangling.as_ref().filter(|dangling| !dangling.only_nameless || subject.names.is_empty());
        let named = match output.kept {
            Kept::Nowhere => None,
            Kept::Store | Kept::Unpacked => {
                if push.is_none() && !output.annotations.only_in_manifests() {
                    let text = "an image in the store keeps the annotations of its manifest only: \
                                push it or write an archive to have others";
                    return Err(ExportError::Unsupported(text.to_owned()));
                }
                for part in &mut subject.images {
                    part.image.annotations = pack::matching(&output.annotations.manifest, &part.platform);
                    if push.is_none() {
                        vertex.done_part(format!("exporting config {}", part.image.id()));
                    }
                }
                Some(self.to_store(&subject, vertex)?)
            }
        };
        if output.kept == Kept::Unpacked {
            self.unpack(&subject, vertex)?;
        }
        let tagged = subject.names.clone();
        subject.names.extend(dangling.map(|dangling| dangling.prefix.name_only()));
        let descriptor = match push {
            Some(push) => Some(self.push(&subject, output, push, vertex)?),
            // The digest is part of a name.
            None if *canonical || dangling.is_some() => {
                Some(self.compose(&subject, &output.format, &output.annotations, vertex, &mut |_| {})?.top)
            }
            None => None,
        };
        if let Some(descriptor) = &descriptor {
            let with_digest = |name: &Reference| name.name_only().with_digest(descriptor.digest);
            let extra = dangling.map(|dangling| with_digest(&dangling.prefix));
            let canonical = tagged.iter().filter(|_| *canonical).map(with_digest);
            for name in canonical.chain(extra.clone()) {
                if let Some(named) = &named {
                    self.puller.catalog().tag(&name, named)?;
                    vertex.done_part(format!("naming to {name}"));
                }
            }
            subject.names = tagged.into_iter().chain(extra).collect();
        }
        Ok(told(&subject, descriptor))
    }

    /// Makes the trees of all layers, so that the next build on the images finds them.
    fn unpack(&self, subject: &Subject, vertex: &Vertex) -> Result<(), ExportError> {
        for part in &subject.images {
            vertex.status("unpacking", 0, 0, false);
            for id in self.runtime.block_on(self.puller.ensure_layers(&part.image, vertex, &self.cancel))? {
                self.cancel.check()?;
                self.layers.tree(&id)?;
            }
        }
        vertex.done_part("unpacking");
        Ok(())
    }

    /// Records images and names.
    fn to_store(&self, subject: &Subject, vertex: &Vertex) -> Result<Named, ExportError> {
        let catalog = self.puller.catalog();
        let mut named = Named::default();
        for part in &subject.images {
            let id = catalog.put(part.image.clone())?;
            named.images.push(NamedImage { platform: part.platform.normalize(), id });
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
        check_annotations(subject, format, annotations, vertex)?;
        vertex.status("exporting layers", 0, 0, false);
        let mut images = Vec::new();
        for part in &subject.images {
            let mut packed = self.pack(&part.image, format, annotations, vertex, ready)?;
            packed.platform = part.platform.normalize();
            images.push(packed);
        }
        vertex.done_part("exporting layers");
        for packed in &images {
            vertex.done_part(format!("exporting manifest {}", packed.manifest.digest()));
            vertex.done_part(format!("exporting config {}", packed.id));
        }
        let index = match images.as_slice() {
            [] => return Err(ExportError::Unsupported("there is no image to export".to_owned())),
            [_] if !subject.indexed => None,
            several => {
                let docker = several.iter().all(|p| *p.manifest.media_type() == Family::Docker.manifest());
                let family = if docker { Family::Docker } else { Family::Oci };
                let entries = several.iter().map(|packed| packed.entry(annotations)).collect();
                let index = Document::of_index(&Index::new(family, entries, annotations.index.clone()));
                vertex.done_part(format!("exporting manifest list {}", index.digest()));
                Some(index)
            }
        };
        let top = match (&index, images.as_slice()) {
            (None, [single, ..]) => single.entry(annotations),
            (Some(index), _) => Descriptor { annotations: annotations.index_descriptor.clone(), ..index.descriptor() },
            (None, []) => return Err(ExportError::Unsupported("there is no image to export".to_owned())),
        };
        Ok(Composed { images, index, top, names: subject.names.clone() })
    }
}

fn told(subject: &Subject, descriptor: Option<Descriptor>) -> Exported {
    let names = subject.names.iter().map(ToString::to_string).collect();
    Exported { id: subject.single(), descriptor, names }
}

/// Annotations that no part of the result can carry.
fn check_annotations(
    subject: &Subject,
    format: &Format,
    annotations: &Annotations,
    vertex: &Vertex,
) -> Result<(), ExportError> {
    let refuse = |text: String| Err(ExportError::Unsupported(text));
    if format.family == Some(Family::Docker) && !annotations.only_in_manifests() {
        return refuse("cannot export annotations with \"oci-mediatypes=false\"".to_owned());
    }
    let indexed = subject.indexed || subject.images.len() > 1;
    let for_index = !annotations.index.is_empty() || !annotations.index_descriptor.is_empty();
    if for_index && !indexed {
        return refuse("index annotations not supported for single platform export".to_owned());
    }
    for wanted in annotations.platforms() {
        if !subject.images.iter().any(|part| pack::is_for(wanted, &part.platform)) {
            let text = format!("invalid annotation: no platform {wanted} found in source");
            if indexed {
                return refuse(text);
            }
            // Scripts that build one platform at a time give all of them each time.
            vertex.warn(Warning { short: text, detail: Vec::new(), url: None, place: None });
        }
    }
    Ok(())
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

    /// Says on the descriptor when the image was made, as archives do.
    fn date(&mut self) {
        if let Some(created) = self.images.first().and_then(|packed| packed.created.clone()) {
            self.top.annotations.entry(CREATED.to_owned()).or_insert(created);
        }
    }

    /// Every blob once, by digest; of each image those above its lowest `known` layers.
    fn blobs(&self, known: usize) -> BTreeMap<rbuild_cache::digest::BlobDigest, &Blob> {
        let above = self.images.iter().flat_map(|packed| packed.layers.iter().skip(known));
        above.map(|blob| (blob.descriptor.digest, blob)).collect()
    }
}
