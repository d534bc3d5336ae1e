//! `--output`, `--push`, `--load`: where the result goes.
//!
//! An attribute that is not known here is an error. Destinations are checked as far as they can be before the build.

use std::io;
use std::path::PathBuf;

use super::{RequestError, os_words, usage};
use crate::cli::args::go_bool;
use crate::cli::args_build::BuildArgs;
use crate::cli::env::Env;
use crate::cli::fields;
use crate::oci::reference::Reference;

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputSpec {
    /// An image in rbuild's store, maybe pushed.
    Image {
        /// Its names; maybe none.
        names: Vec<Reference>,
        /// Send it to the registry its names say.
        push: Option<Push>,
        /// How its layers are pushed.
        layers: LayerFormat,
    },
    /// An image archive or layout.
    Archive {
        /// Which kind.
        format: ImageFormat,
        /// Its names; maybe none.
        names: Vec<Reference>,
        /// Where to.
        to: Destination,
        /// How its layers are written.
        layers: LayerFormat,
    },
    /// An image handed to Docker.
    Docker {
        /// Its names; maybe none.
        names: Vec<Reference>,
    },
    /// The files of the image in a directory, absolute.
    Local(PathBuf),
    /// The files of the image as a tar archive.
    Tar(Destination),
    /// Nothing; the cache is filled.
    CacheOnly,
}

impl OutputSpec {
    /// Whether it is the files and not an image.
    pub fn is_files(&self) -> bool {
        match self {
            Self::Local(_) | Self::Tar(_) => true,
            Self::Image { .. } | Self::Archive { .. } | Self::Docker { .. } | Self::CacheOnly => false,
        }
    }
}

/// Where bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output, which is not a terminal.
    Stdout,
    /// A file, absolute; its directory may have to be made.
    File(PathBuf),
    /// A directory, absolute (`tar=false`); it may have to be made.
    Directory(PathBuf),
}

/// Kinds of image archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// An OCI image layout.
    Oci,
    /// What `docker load` reads.
    Docker,
}

/// How to push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// Without a tag.
    pub by_digest: bool,
    /// Over plain http, or https without verification.
    pub insecure: bool,
}

/// How layers leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerFormat {
    /// OCI or Docker media types; `None`: as usual for the output.
    pub oci_media_types: Option<bool>,
    /// `None`: as usual.
    pub compression: Option<Compression>,
    /// In the compressor's own terms; `None`: as usual.
    pub level: Option<u32>,
    /// Also for layers that exist compressed already.
    pub force: bool,
}

/// Compression of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, levels 0-9.
    Gzip,
    /// zstd, levels 0-22.
    Zstd,
    /// None.
    Uncompressed,
}

/// All outputs asked for, or the store if there are none.
pub(super) fn decide(args: &BuildArgs, tags: &[Reference], env: &Env) -> Result<Vec<OutputSpec>, RequestError> {
    let mut outputs = Vec::new();
    let mut stdout_taken = false;
    for text in args.output.iter().filter(|text| !text.is_empty()) {
        outputs.push(parse(text, tags, env, &mut stdout_taken)?);
    }
    if args.push {
        let mut patched = false;
        for output in &mut outputs {
            if let OutputSpec::Image { push, .. } = output {
                push.get_or_insert_default();
                patched = true;
            }
        }
        if !patched {
            let push = Some(Push::default());
            outputs.push(OutputSpec::Image { names: tags.to_vec(), push, layers: LayerFormat::default() });
        }
    }
    if args.load && !outputs.iter().any(|output| matches!(output, OutputSpec::Docker { .. })) {
        outputs.push(OutputSpec::Docker { names: tags.to_vec() });
    }
    let nameless =
        |output: &OutputSpec| matches!(output, OutputSpec::Image { names, push: Some(_), .. } if names.is_empty());
    if outputs.iter().any(nameless) {
        return Err(RequestError::Build("tag is needed when pushing to registry".to_owned()));
    }
    if outputs.is_empty() {
        outputs.push(OutputSpec::Image { names: tags.to_vec(), push: None, layers: LayerFormat::default() });
    }
    Ok(outputs)
}

/// One `--output`.
fn parse(text: &str, tags: &[Reference], env: &Env, stdout_taken: &mut bool) -> Result<OutputSpec, RequestError> {
    let parsed = fields::csv(text).map_err(RequestError::Usage)?;
    let mut target = Target { env, stdout_taken, kind: String::new(), dest: String::new() };
    if parsed.len() == 1 && parsed[0] == text && !text.starts_with("type=") {
        text.clone_into(&mut target.dest);
        return if text == "-" {
            "tar".clone_into(&mut target.kind);
            Ok(OutputSpec::Tar(target.file()?))
        } else {
            "local".clone_into(&mut target.kind);
            Ok(OutputSpec::Local(target.directory()?))
        };
    }
    let mut attributes = Vec::new();
    for field in parsed {
        let Some((key, value)) = field.split_once('=') else {
            return usage(format!("invalid value {field}"));
        };
        match key.trim().to_lowercase().as_str() {
            "type" => value.clone_into(&mut target.kind),
            "dest" => value.clone_into(&mut target.dest),
            key => attributes.push((key.to_owned(), value.to_owned())),
        }
    }
    let kind = target.kind.clone();
    match kind.as_str() {
        "image" | "registry" | "oci" | "docker" | "local" | "tar" | "cacheonly" => {}
        "" => return usage("type is required for output"),
        other => return Err(RequestError::Build(format!("exporter {other:?} could not be found"))),
    }
    let image = ["image", "registry", "oci", "docker"].contains(&kind.as_str());
    let archive = ["oci", "docker"].contains(&kind.as_str());
    let mut names = tags.to_vec();
    let mut push = (kind == "registry").then(Push::default);
    let mut layers = LayerFormat::default();
    let (mut by_digest, mut insecure, mut tar) = (false, false, true);
    for (key, value) in attributes {
        let flag = || {
            go_bool(&value)
                .map_err(|error| RequestError::Usage(format!("invalid value for output attribute {key}: {error}")))
        };
        match key.as_str() {
            // As with Docker, --tag beats name=.
            "name" if image && tags.is_empty() => names = parse_names(&value)?,
            "name" if image => {}
            "push" if image && !archive => push = flag()?.then(|| push.unwrap_or_default()),
            "push-by-digest" if image && !archive => by_digest = flag()?,
            "registry.insecure" if image && !archive => insecure = flag()?,
            "oci-mediatypes" if image => layers.oci_media_types = Some(flag()?),
            "compression" if image => layers.compression = Some(parse_compression(&value)?),
            "compression-level" if image => {
                let level = value.parse();
                layers.level =
                    Some(level.map_err(|_| RequestError::Usage(format!("invalid compression-level {value:?}")))?);
            }
            "force-compression" if image => layers.force = flag()?,
            "tar" if archive => tar = flag()?,
            key => return usage(format!("output attribute {key:?} is not supported by type={kind}")),
        }
    }
    check_layers(&layers)?;
    if let Some(push) = &mut push {
        *push = Push { by_digest, insecure };
    } else if by_digest || insecure {
        return usage("push-by-digest and registry.insecure need push=true");
    }
    match kind.as_str() {
        "image" | "registry" if target.dest.is_empty() => Ok(OutputSpec::Image { names, push, layers }),
        "image" | "registry" => usage(format!("type={kind} has no dest")),
        "docker" if target.dest.is_empty() && tar => {
            if layers == LayerFormat::default() {
                Ok(OutputSpec::Docker { names })
            } else {
                usage("type=docker without dest takes no attributes for layers: Docker stores them its own way")
            }
        }
        "oci" | "docker" => {
            let format = if kind == "oci" { ImageFormat::Oci } else { ImageFormat::Docker };
            let to = if tar { target.file()? } else { Destination::Directory(target.directory()?) };
            Ok(OutputSpec::Archive { format, names, to, layers })
        }
        "local" => Ok(OutputSpec::Local(target.directory()?)),
        "tar" => Ok(OutputSpec::Tar(target.file()?)),
        _ => Ok(OutputSpec::CacheOnly),
    }
}

fn parse_names(text: &str) -> Result<Vec<Reference>, RequestError> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let parsed = Reference::parse_tagged(name);
            parsed.map_err(|error| RequestError::Build(format!("failed to parse {name}: {error}")))
        })
        .collect()
}

fn parse_compression(text: &str) -> Result<Compression, RequestError> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "uncompressed" => Ok(Compression::Uncompressed),
        "estargz" => usage("compression=estargz is not supported yet; use gzip, zstd or uncompressed"),
        other => Err(RequestError::Build(format!("unsupported layer compression type {other}"))),
    }
}

fn check_layers(layers: &LayerFormat) -> Result<(), RequestError> {
    if layers.compression == Some(Compression::Zstd) && layers.oci_media_types == Some(false) {
        return usage("compression=zstd conflicts with \"oci-mediatypes=false\"");
    }
    let highest = match layers.compression {
        None | Some(Compression::Gzip) => 9,
        Some(Compression::Zstd) => 22,
        Some(Compression::Uncompressed) => 0,
    };
    match layers.level {
        Some(level) if level > highest => usage(format!("compression-level {level} is out of range: 0 to {highest}")),
        Some(_) | None => Ok(()),
    }
}

/// The destination of one output.
struct Target<'a> {
    env: &'a Env,
    stdout_taken: &'a mut bool,
    kind: String,
    dest: String,
}

impl Target<'_> {
    fn directory(&self) -> Result<PathBuf, RequestError> {
        let (kind, dest) = (&self.kind, &self.dest);
        let failed = |text: String| Err(RequestError::Build(text));
        match dest.as_str() {
            "" => return failed(format!("dest is required for {kind} exporter")),
            "-" => return failed(format!("dest cannot be stdout for {kind} exporter")),
            _ => {}
        }
        let path = self.env.path(dest);
        match fs_err::metadata(&path) {
            Ok(meta) if !meta.is_dir() => failed(format!("destination directory {dest} is a file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failed(format!("invalid destination directory: {dest}: {}", os_words(&error)))
            }
            Ok(_) | Err(_) => Ok(path),
        }
    }

    fn file(&mut self) -> Result<Destination, RequestError> {
        let (kind, dest) = (&self.kind, &self.dest);
        let failed = |text: String| Err(RequestError::Build(text));
        if dest.is_empty() || dest == "-" {
            if std::mem::replace(self.stdout_taken, true) {
                return failed("multiple outputs configured to write to stdout".to_owned());
            }
            if self.env.stdout_is_terminal {
                return failed(format!("dest file is required for {kind} exporter. refusing to write to console"));
            }
            return Ok(Destination::Stdout);
        }
        let path = self.env.path(dest);
        match fs_err::metadata(&path) {
            Ok(meta) if meta.is_dir() => failed(format!("destination file {dest} is a directory")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failed(format!("invalid destination file: {dest}: {}", os_words(&error)))
            }
            Ok(_) | Err(_) => Ok(Destination::File(path)),
        }
    }
}
