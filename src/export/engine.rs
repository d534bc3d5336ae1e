//! An image into a Docker engine: no more of it than the engine lacks, where the engine allows that.
//!
//! An engine that keeps unpacked layers reads a layer's file only if it does not know the layers up to it, so the archive may
//! be without those it has: a rebuilt image costs its new layers, whatever it stands on, and layers that nobody fetched yet
//! need not be fetched. Such an archive says less than it should, so everything else gets all of it: engines that keep blobs
//! (containerd's store), and those that turn out not to read archives like this (podman).

use super::archive::Purpose;
use super::output::{Format, Output};
use super::{Composed, ExportError, Exported, Exporter, Part, Subject, Surroundings, told};
use crate::docker::{Docker, DockerError, Keeping};
use crate::event::Vertex;
use crate::oci::manifest::Packing;
use crate::oci::reference::Reference;

/// The only image of a subject: Docker's archives hold no index.
pub(super) fn single(subject: &Subject) -> Result<&Part, ExportError> {
    match subject.images.as_slice() {
        [part] if !subject.indexed => Ok(part),
        _ => {
            let text = "docker exporter does not currently support exporting manifest lists";
            Err(ExportError::Unsupported(text.to_owned()))
        }
    }
}

impl Exporter {
    /// Loads an image into an engine. One that is there already only gets its names.
    pub fn load(
        &self,
        docker: &Docker,
        subject: &Subject,
        output: &Output,
        around: &mut Surroundings<'_>,
    ) -> Result<Exported, ExportError> {
        self.reported("exporting to docker image format", around, |vertex, _| {
            let subject = self.prepared(subject, output, vertex)?;
            self.load_prepared(docker, &subject, output, vertex)
        })
    }

    fn load_prepared(
        &self,
        docker: &Docker,
        subject: &Subject,
        output: &Output,
        vertex: &Vertex,
    ) -> Result<Exported, ExportError> {
        let part = single(subject)?;
        let id = part.image.id().to_string();
        if docker.has(&id)? {
            for name in &subject.names {
                docker.tag(&id, &name.name_only().familiar(), name.tag().unwrap_or("latest"))?;
                vertex.done_part(format!("naming to {name}"));
            }
            return Ok(told(subject, None));
        }
        let keeping = docker.keeping()?;
        let packing = match (output.format.packing, keeping) {
            // It unpacks them at once: compressing is work for nothing.
            (None, Keeping::Layers) => Some(Packing::Tar),
            (asked, Keeping::Layers | Keeping::Blobs) => asked,
        };
        let format = Format { packing, ..output.format.clone() };
        let send = |known: usize| {
            let unzstd_from = (keeping == Keeping::Layers).then_some(known);
            let format = Format { unzstd_from, ..format.clone() };
            let mut composed = self.compose(subject, &format, &output.annotations, vertex, &mut |_| {})?;
            composed.date();
            let purpose = if known > 0 { Purpose::Rest(known) } else { Purpose::Docker };
            self.send_to(docker, &composed, purpose, vertex)?;
            Ok(told(subject, Some(composed.top)))
        };
        if keeping == Keeping::Layers {
            let stack: Vec<_> = part.image.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
            let names: Vec<_> = subject.names.iter().map(Reference::familiar).collect();
            let known = docker.known_layers(&stack, &names)?;
            if known > 0 {
                match send(known) {
                    Ok(exported) if docker.has(&id)? => return Ok(exported),
                    // It cannot do without, or what it had has gone meanwhile.
                    Ok(_) | Err(ExportError::Docker(DockerError::Refused(_))) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        send(0)
    }

    fn send_to(
        &self,
        docker: &Docker,
        composed: &Composed,
        purpose: Purpose,
        vertex: &Vertex,
    ) -> Result<(), ExportError> {
        let mut archive = docker.load()?;
        match self.stream_archive(std::slice::from_ref(composed), purpose, vertex, &mut archive) {
            // Its reason tells more than the end of the connection.
            Err(ExportError::Stream(_)) if archive.is_broken() => Ok(archive.finish()?),
            Err(error) => Err(error),
            Ok(()) => Ok(archive.finish()?),
        }
    }
}
