//! `--output`, `--push`, `--load`: where the result goes.
//!
//! Splits options into attributes and looks at destinations before the build; which attributes there are is known to
//! `export::output`.

use std::io;
use std::path::{Path, PathBuf};

use super::{RequestError, os_words, usage};
use crate::cli::args_build::BuildArgs;
use crate::cli::env::Env;
use crate::cli::fields;
use crate::export::output::{Annotations, Dest, Kind, Output, OutputError, Push};
use crate::oci::reference::Reference;

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputSpec {
    /// The store, a registry, an archive, files.
    Export(Output),
    /// `--load`: an archive into a Docker engine.
    Load(Output),
}

impl OutputSpec {
    /// Whether it holds files and no image, so that there is no image ID.
    pub fn is_files(&self) -> bool {
        matches!(self, Self::Export(Output { kind: Kind::Local { .. } | Kind::Tar { .. }, .. }))
    }
}

/// All outputs asked for, or the store if there are none. `notes` gets what is true of some of them only.
pub(super) fn decide(
    args: &BuildArgs,
    tags: &[Reference],
    env: &Env,
    notes: &mut Vec<String>,
) -> Result<Vec<OutputSpec>, RequestError> {
    let mut outputs = Vec::new();
    let mut stdout_taken = false;
    for text in args.output.iter().filter(|text| !text.is_empty()) {
        outputs.push(parse(text, tags, env, &mut stdout_taken)?);
    }
    if args.push {
        let mut patched = false;
        for output in &mut outputs {
            if let OutputSpec::Export(Output { kind: Kind::Image(push), .. }) = output {
                push.get_or_insert_default();
                patched = true;
            }
        }
        if !patched {
            let kind = Kind::Image(Some(Push::default()));
            outputs.push(OutputSpec::Export(Output { kind, names: tags.to_vec(), ..Output::store() }));
        }
    }
    if args.load && !outputs.iter().any(|output| matches!(output, OutputSpec::Load(_))) {
        let kind = Kind::Archive { docker: true, dest: Dest::Stream };
        outputs.push(OutputSpec::Load(Output { kind, names: tags.to_vec(), ..Output::store() }));
    }
    let nameless = |output: &OutputSpec| matches!(output, OutputSpec::Export(Output { kind: Kind::Image(Some(_)), names, .. }) if names.is_empty());
    if outputs.iter().any(nameless) {
        return Err(RequestError::Build("tag is needed when pushing to registry".to_owned()));
    }
    if outputs.is_empty() {
        outputs.push(OutputSpec::Export(Output { names: tags.to_vec(), ..Output::store() }));
    }
    annotate(args, &mut outputs, notes)?;
    Ok(outputs)
}

/// Gives `--annotation` to every output that is an image.
fn annotate(args: &BuildArgs, outputs: &mut [OutputSpec], notes: &mut Vec<String>) -> Result<(), RequestError> {
    let mut annotations = Annotations::default();
    for text in &args.annotation {
        super::annotation::add(text, "manifest", &mut annotations)?;
    }
    for output in outputs {
        let (OutputSpec::Export(output) | OutputSpec::Load(output)) = output;
        match output.kind {
            Kind::Image(_) | Kind::Archive { .. } => output.annotations.extend(annotations.clone()),
            Kind::Local { .. } | Kind::Tar { .. } | Kind::CacheOnly if !annotations.is_empty() => {
                let text = "--annotation: an output that is no image has no annotations";
                notes.push(text.to_owned());
            }
            Kind::Local { .. } | Kind::Tar { .. } | Kind::CacheOnly => {}
        }
    }
    Ok(())
}

/// One `--output`.
fn parse(text: &str, tags: &[Reference], env: &Env, stdout_taken: &mut bool) -> Result<OutputSpec, RequestError> {
    let parsed = fields::csv(text).map_err(RequestError::Usage)?;
    let (mut kind, mut attributes) = (String::new(), Vec::new());
    if parsed.len() == 1 && parsed[0] == text && !text.starts_with("type=") {
        if text == "-" { "tar" } else { "local" }.clone_into(&mut kind);
        attributes.push(("dest".to_owned(), text.to_owned()));
    } else {
        for field in parsed {
            let Some((key, value)) = field.split_once('=') else {
                return usage(format!("invalid value {field}"));
            };
            match key.trim().to_lowercase().as_str() {
                "type" => value.clone_into(&mut kind),
                key => attributes.push((key.to_owned(), value.to_owned())),
            }
        }
    }
    match kind.as_str() {
        "image" | "registry" | "oci" | "docker" | "local" | "tar" | "cacheonly" => {}
        "" => return usage("type is required for output"),
        other => return Err(RequestError::Build(format!("exporter {other:?} could not be found"))),
    }
    let load = kind == "docker" && attributes.iter().all(|(key, value)| key != "dest" || value.is_empty());
    if kind == "local" && attributes.iter().any(|(key, value)| key == "dest" && value == "-") {
        return Err(RequestError::Build("dest cannot be stdout for local exporter".to_owned()));
    }
    let mut output = Output::parse(&kind, &attributes).map_err(|error| match error {
        missing @ OutputError::Missing { .. } => RequestError::Build(missing.to_string()),
        other => RequestError::Usage(other.to_string()),
    })?;
    // As with Docker, --tag beats name=.
    if !tags.is_empty() && !matches!(output.kind, Kind::Local { .. } | Kind::Tar { .. } | Kind::CacheOnly) {
        output.names = tags.to_vec();
    }
    if load {
        return Ok(OutputSpec::Load(output));
    }
    match &mut output.kind {
        Kind::Archive { dest, .. } | Kind::Tar { dest, .. } => match dest {
            Dest::Stream => stream(&kind, env, stdout_taken)?,
            Dest::File(path) => *path = file(path, env)?,
            Dest::Directory(path) => *path = directory(path, env)?,
        },
        Kind::Local { dest, .. } => *dest = directory(dest, env)?,
        Kind::Image(_) | Kind::CacheOnly => {}
    }
    Ok(OutputSpec::Export(output))
}

fn failed<T>(text: String) -> Result<T, RequestError> {
    Err(RequestError::Build(text))
}

/// stdout, for one output only and never a terminal.
fn stream(kind: &str, env: &Env, taken: &mut bool) -> Result<(), RequestError> {
    if std::mem::replace(taken, true) {
        return failed("multiple outputs configured to write to stdout".to_owned());
    }
    if env.stdout_is_terminal {
        return failed(format!("dest file is required for {kind} exporter. refusing to write to console"));
    }
    Ok(())
}

fn directory(dest: &Path, env: &Env) -> Result<PathBuf, RequestError> {
    let path = env.path(dest);
    match fs_err::metadata(&path) {
        Ok(meta) if !meta.is_dir() => failed(format!("destination directory {} is a file", dest.display())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failed(format!("invalid destination directory: {}: {}", dest.display(), os_words(&error)))
        }
        Ok(_) | Err(_) => Ok(path),
    }
}

fn file(dest: &Path, env: &Env) -> Result<PathBuf, RequestError> {
    let path = env.path(dest);
    match fs_err::metadata(&path) {
        Ok(meta) if meta.is_dir() => failed(format!("destination file {} is a directory", dest.display())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failed(format!("invalid destination file: {}: {}", dest.display(), os_words(&error)))
        }
        Ok(_) | Err(_) => Ok(path),
    }
}
