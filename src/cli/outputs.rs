//! The outputs of a build: each is exported, and what came of them goes to `--iidfile` and `--metadata-file`.

use std::io::Write;
use std::path::Path;

use super::Failure;
use super::env::Env;
use super::request::{BuildRequest, OutputSpec};
use super::world::Opened;
use crate::docker::Docker;
use crate::export::output::Kind;
use crate::export::{ExportError, Exported, Exporter, Subject, Surroundings};
use crate::pipeline::{Built, World};

/// The outputs were not made.
pub(super) enum Unwritten {
    /// A layer that is only in a cache cannot be had from there.
    Lost(Failure),
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for Unwritten {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Unwritten {
    /// The fault itself.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Lost(failure) | Self::Failed(failure) => failure,
        }
    }
}

/// Makes all outputs of a build; the image ID as text.
pub(super) fn write(
    request: &BuildRequest,
    world: &World<'_>,
    opened: &Opened,
    built: &Built,
    env: &Env,
) -> Result<String, Unwritten> {
    let (layers, cancel) = (opened.layers.clone(), opened.cancel.clone());
    let exporter = Exporter::new(layers, world.puller.clone(), opened.runtime.handle().clone(), cancel, opened.threads);
    let images = match request.squash {
        Some(squash) => {
            let mut nowhere = std::io::sink();
            let around = Surroundings { progress: world.progress, inputs: &[], stream: &mut nowhere };
            exporter.squash(&built.images, squash, &around).map_err(|e| unwritten(&e, built))?
        }
        None => built.images.clone(),
    };
    let mut all: Option<Exported> = None;
    for output in &request.outputs {
        let (output, loads) = match output {
            OutputSpec::Export(output) => (output, false),
            OutputSpec::Load(output) => (output, true),
        };
        let subject = Subject {
            images: images.clone(),
            names: output.names.clone(),
            epoch: built.epoch,
            indexed: request.plan.multi_platform,
        };
        let mut stdout = std::io::stdout();
        let mut around = Surroundings { progress: world.progress, inputs: &[], stream: &mut stdout };
        let exported = if loads {
            let docker = Docker::new(env.filled("DOCKER_HOST").as_deref()).map_err(|e| Failure::of(&e))?;
            exporter.load(&docker, &subject, output, &mut around)
        } else {
            exporter.export(&subject, output, &mut around)
        };
        let exported = exported.map_err(|e| unwritten(&e, built))?;
        stdout.flush().map_err(|e| Failure::of(&e))?;
        // The first output with a manifest speaks for the build.
        if !matches!(output.kind, Kind::Local { .. } | Kind::Tar { .. })
            && all.as_ref().is_none_or(|known| known.descriptor.is_none() && exported.descriptor.is_some())
        {
            all = Some(exported);
        }
    }
    let exported = all.unwrap_or_default();
    // Several images have no ID but that of their index.
    let id = match (images.as_slice(), &exported.descriptor) {
        ([_, _, ..], Some(index)) => index.digest.to_string(),
        // An output may have given its files other times than they were built with.
        ([part, ..], _) => exported.id.unwrap_or_else(|| part.image.id()).to_string(),
        ([], _) => String::new(),
    };
    if let Some(path) = &request.iidfile {
        replace(path, id.as_bytes())?;
    }
    if let Some(path) = &request.metadata_file {
        let metadata = exported.metadata();
        let mut text = serde_json::to_vec_pretty(&metadata).map_err(|e| Failure::of(&e))?;
        text.push(b'\n');
        replace(path, &text)?;
    }
    Ok(id)
}

fn unwritten(error: &ExportError, built: &Built) -> Unwritten {
    let failure = Failure::of(error);
    let text = crate::ui::failed_to_solve(&failure.last);
    let failure = Failure::text(text.trim_start_matches("ERROR: ").trim_end()).helped(error.help());
    match error {
        ExportError::Pull(_) if built.only_elsewhere() => Unwritten::Lost(failure),
        _ => Unwritten::Failed(failure),
    }
}

/// Writes a file whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(dir).map_err(|e| Failure::of(&e).named(&path.display().to_string()))?;
    file.write_all(bytes).map_err(|e| Failure::of(&e))?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644)).map_err(|e| Failure::of(&e))?;
    file.persist(path).map_err(|e| Failure::of(&e.error))?;
    Ok(())
}
