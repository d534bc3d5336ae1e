//! The outputs of a build: each is exported, and what came of them goes to `--iidfile` and `--metadata-file`.

use std::io::Write;
use std::path::Path;

use super::Failure;
use super::env::Env;
use super::request::{BuildRequest, OutputSpec};
use super::world::Opened;
use crate::docker::Docker;
use crate::export::output::{Dest, Kind, Output};
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
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let (layers, cancel) = (opened.layers.clone(), opened.cancel.clone());
    let exporter = Exporter::new(layers, world.puller.clone(), opened.runtime.handle().clone(), cancel, threads);
    let mut all: Option<Exported> = None;
    for output in &request.outputs {
        let output = match output {
            OutputSpec::Export(output) => output,
            OutputSpec::LoadIntoDocker => {
                load(request, world, built, &exporter, env)?;
                continue;
            }
        };
        let subject = Subject { images: built.images.clone(), names: output.names.clone(), epoch: built.epoch };
        let mut stdout = std::io::stdout();
        let mut around = Surroundings { progress: world.progress, inputs: &[], stream: &mut stdout };
        let exported = exporter.export(&subject, output, &mut around).map_err(|e| {
            let failure = Failure::of(&e);
            let text = crate::ui::failed_to_solve(&failure.last);
            let failure = Failure::text(text.trim_start_matches("ERROR: ").trim_end());
            match e {
                ExportError::Pull(_) if built.only_elsewhere() => Unwritten::Lost(failure),
                _ => Unwritten::Failed(failure),
            }
        })?;
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
    let id = match (built.images.as_slice(), &exported.descriptor) {
        ([_, _, ..], Some(index)) => index.digest.to_string(),
        ([(_, image), ..], _) => image.id().to_string(),
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

/// Loads the image into Docker; an image that Docker has already only gets its names.
fn load(
    request: &BuildRequest,
    world: &World<'_>,
    built: &Built,
    exporter: &Exporter,
    env: &Env,
) -> Result<(), Failure> {
    let docker = Docker::new(env.filled("DOCKER_HOST").as_deref()).map_err(|e| Failure::of(&e))?;
    let [(_, image)] = built.images.as_slice() else {
        return Err(Failure::text("docker exporter does not currently support exporting manifest lists"));
    };
    let id = image.id().to_string();
    if docker.has(&id).map_err(|e| Failure::of(&e))? {
        for name in &request.tags {
            let (repository, tag) = (name.name_only().familiar(), name.tag().unwrap_or("latest"));
            docker.tag(&id, &repository, tag).map_err(|e| Failure::of(&e))?;
        }
        return Ok(());
    }
    let mut archive = docker.load().map_err(|e| Failure::of(&e))?;
    let output = Output { kind: Kind::Archive { docker: true, dest: Dest::Stream }, ..Output::store() };
    let subject = Subject { images: built.images.clone(), names: request.tags.clone(), epoch: built.epoch };
    let mut around = Surroundings { progress: world.progress, inputs: &[], stream: &mut archive };
    exporter.export(&subject, &output, &mut around).map_err(|e| Failure::of(&e))?;
    archive.finish().map_err(|e| Failure::of(&e))
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
