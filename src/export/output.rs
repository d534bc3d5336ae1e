//! One `--output`, from its attributes to a decided form. Pure; an attribute nobody knows is an error, never ignored.
//!
//! Splitting the option's text into attributes is the command line's work; which attributes there are is known here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::attributes::{Attributes, InvalidValue};
use crate::layers::Framing;
use crate::oci::manifest::{Family, Packing};
use crate::oci::reference::{Reference, ReferenceError};

/// Attributes make no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// No such `type`.
    #[error("unsupported output type {0:?}: expected image, registry, oci, docker, local, tar or cacheonly")]
    Type(String),
    /// No such attribute for this type.
    #[error("unknown attribute {name:?} of output type {kind}")]
    Unknown {
        /// The attribute.
        name: String,
        /// The output's type.
        kind: &'static str,
    },
    /// No such place for an annotation.
    #[error("unrecognized annotation type {0}")]
    AnnotationType(String),
    /// An attribute's value makes no sense.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// A name is none.
    #[error("failed to parse name {text:?}: {source}")]
    Name {
        /// As given.
        text: String,
        /// Why.
        source: ReferenceError,
    },
    /// Something this build of rbuild does not do.
    #[error("output attribute {name:?} is not supported: {why}")]
    Unsupported {
        /// The attribute.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// Two attributes that exclude one another.
    #[error("exporter option {0} conflicts with {1}")]
    Conflict(String, String),
    /// A required attribute is missing.
    #[error("{name} is required for {kind} exporter")]
    Missing {
        /// The attribute.
        name: &'static str,
        /// The output's type.
        kind: &'static str,
    },
}

/// What to do with a finished build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What is made of it.
    pub kind: Kind,
    /// Names of the result; those of `-t` are added by whoever has them.
    pub names: Vec<Reference>,
    /// How an image's blobs and manifest look.
    pub format: Format,
    /// Where annotations go.
    pub annotations: Annotations,
    /// What else the image is called.
    pub naming: Naming,
    /// How the store keeps the image.
    pub kept: Kept,
}

/// Names of an image besides those given; they contain its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// `name-canonical`: each name with the digest, too.
    pub canonical: bool,
    /// `dangling-name-prefix`.
    pub dangling: Option<Dangling>,
}

/// A name with the digest that the image gets in any case, or when it has no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    /// The name without the digest.
    pub prefix: Reference,
    /// `danging-name-empty-only` (BuildKit's spelling).
    pub only_nameless: bool,
}

/// How the store keeps an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// `store=false`: not at all.
    Nowhere,
    /// Its layers in whatever form they have.
    #[default]
    Store,
    /// `unpack=true`: all layers also as trees.
    Unpacked,
}

/// The kinds of outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The store; perhaps a registry too.
    Image(Option<Push>),
    /// An image archive or layout.
    Archive {
        /// With `manifest.json`, for `docker load`.
        docker: bool,
        /// Where to.
        dest: Dest,
    },
    /// The root file system as files.
    Local {
        /// The directory.
        dest: PathBuf,
        /// One subdirectory a platform; by default when there is more than one.
        platform_split: Option<bool>,
    },
    /// The root file system as a tar.
    Tar {
        /// Where to.
        dest: Dest,
        /// One subdirectory a platform; by default when there is more than one.
        platform_split: Option<bool>,
    },
    /// Nothing is kept but the cache.
    CacheOnly,
}

/// How to push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// Without a tag.
    pub by_digest: bool,
    /// Without verifying certificates, and over http if need be.
    pub insecure: bool,
}

/// Where an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dest {
    /// What the caller gives: standard output, or the input of some program.
    Stream,
    /// A file, replaced when it is complete.
    File(PathBuf),
    /// A directory (`tar=false`).
    Directory(PathBuf),
}

/// How an image's blobs and manifest look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// `oci-mediatypes`; `None`: OCI for what is made here, as they are for what was pulled.
    pub family: Option<Family>,
    /// `compression`; `None` is gzip.
    pub packing: Option<Packing>,
    /// `compression-level`.
    pub level: Option<u8>,
    /// `force-compression`: also layers that came in another form.
    pub force: bool,
    /// Layers from this one on are plain tars if they came as zstd: not every Docker engine reads that.
    pub unzstd_from: Option<usize>,
    /// `rewrite-timestamp`: no file of a layer made here is later than `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
}

impl Format {
    /// How layers made here are compressed.
    pub fn framing(&self) -> Framing {
        Framing::new(self.packing.unwrap_or(Packing::Gzip), self.level)
    }
}

/// `annotation-…` attributes. Those of an index need one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Inside manifests: the platform they are for (`None`: all), key, value.
    pub manifest: Vec<(Option<String>, String, String)>,
    /// On the descriptors that point at manifests.
    pub manifest_descriptor: Vec<(Option<String>, String, String)>,
    /// Inside the index.
    pub index: BTreeMap<String, String>,
    /// On the descriptor that points at the index.
    pub index_descriptor: BTreeMap<String, String>,
}

impl Annotations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there are none but those inside manifests.
    pub fn only_in_manifests(&self) -> bool {
        self.manifest_descriptor.is_empty() && self.index.is_empty() && self.index_descriptor.is_empty()
    }

    /// The platforms that are named.
    pub fn platforms(&self) -> impl Iterator<Item = &str> {
        self.manifest.iter().chain(&self.manifest_descriptor).filter_map(|(platform, _, _)| platform.as_deref())
    }

    /// Adds others; of two with the same key the other one counts.
    pub fn extend(&mut self, other: Self) {
        self.manifest.extend(other.manifest);
        self.manifest_descriptor.extend(other.manifest_descriptor);
        self.index.extend(other.index);
        self.index_descriptor.extend(other.index_descriptor);
    }
}

impl Output {
    /// The default: the store, under the names given elsewhere.
    pub fn store() -> Self {
        Self {
            kind: Kind::Image(None),
            names: Vec::new(),
            format: Format::default(),
            annotations: Annotations::default(),
            naming: Naming::default(),
            kept: Kept::default(),
        }
    }

    /// The output of `type=<kind>` with these attributes (without `type`), in the order given.
    pub fn parse(kind: &str, attributes: &[(String, String)]) -> Result<Self, OutputError> {
        let mut given = Given { kind: known_kind(kind)?, attributes: Attributes::new(attributes) };
        let makes_image = matches!(given.kind, "image" | "registry" | "oci" | "docker");
        let name = if makes_image { given.attributes.take("name") } else { None };
        let names = name.map(|text| names(&text)).transpose()?.unwrap_or_default();
        let (format, annotations) = if makes_image { (given.format()?, given.annotations()?) } else { <_>::default() };
        let mut output = Self { names, format, annotations, ..Self::store() };
        if given.attributes.take("source-date-epoch").is_some() {
            return Err(unsupported("source-date-epoch", "set SOURCE_DATE_EPOCH in the environment or as a build-arg"));
        }
        output.kind = match given.kind {
            "image" | "registry" => {
                (output.kept, output.naming) = (given.kept()?, given.naming()?);
                if output.kept == Kept::Unpacked && output.format.rewrite_timestamp {
                    return Err(conflict("\"rewrite-timestamp\"", "\"unpack\""));
                }
                given.image()?
            }
            "oci" | "docker" => given.archive()?,
            "local" => {
                let missing = OutputError::Missing { name: "dest", kind: "local" };
                let dest = given.attributes.take("dest").filter(|dest| !dest.is_empty()).ok_or(missing)?.into();
                match given.attributes.take("mode").as_deref() {
                    None | Some("copy") => {}
                    Some("delete") => {
                        return Err(unsupported("mode=delete", "rbuild removes nothing from a directory of yours"));
                    }
                    Some(other) => return Err(value("mode", other, "expected copy or delete")),
                }
                Kind::Local { dest, platform_split: given.attributes.flag("platform-split")? }
            }
            "tar" => Kind::Tar { dest: given.dest(), platform_split: given.attributes.flag("platform-split")? },
            _ => Kind::CacheOnly,
        };
        given.finish()?;
        Ok(output)
    }
}

/// How the names of attributes for annotations begin.
const ANNOTATION: &str = "annotation";

/// Attributes of a known type.
struct Given {
    kind: &'static str,
    attributes: Attributes,
}

impl Given {
    fn dest(&mut self) -> Dest {
        match self.attributes.take("dest").as_deref() {
            None | Some("" | "-") => Dest::Stream,
            Some(path) => Dest::File(path.into()),
        }
    }

    fn image(&mut self) -> Result<Kind, OutputError> {
        let push = self.attributes.flag("push")?.unwrap_or(self.kind == "registry");
        let by_digest = self.attributes.flag("push-by-digest")?.unwrap_or(false);
        let insecure = self.attributes.flag("registry.insecure")?.unwrap_or(false);
        Ok(Kind::Image(push.then_some(Push { by_digest, insecure })))
    }

    fn kept(&mut self) -> Result<Kept, OutputError> {
        let unpacked = self.attributes.flag("unpack")?.unwrap_or(false);
        Ok(match self.attributes.flag("store")?.unwrap_or(true) {
            false => Kept::Nowhere,
            true if unpacked => Kept::Unpacked,
            true => Kept::Store,
        })
    }

    fn naming(&mut self) -> Result<Naming, OutputError> {
        let canonical = self.attributes.flag("name-canonical")?.unwrap_or(false);
        let only_nameless = self.attributes.flag("danging-name-empty-only")?.unwrap_or(false);
        let prefix = self.attributes.take("dangling-name-prefix").filter(|text| !text.is_empty());
        let dangling = prefix.map(|text| match Reference::parse(&text) {
            Ok(prefix) => Ok(Dangling { prefix, only_nameless }),
            Err(source) => Err(OutputError::Name { text, source }),
        });
        Ok(Naming { canonical, dangling: dangling.transpose()? })
    }

    fn archive(&mut self) -> Result<Kind, OutputError> {
        let docker = self.kind == "docker";
        let tar = self.attributes.flag("tar")?.unwrap_or(true);
        let dest = match self.dest() {
            Dest::File(path) if !tar => Dest::Directory(path),
            Dest::Stream if !tar => return Err(OutputError::Missing { name: "dest", kind: self.kind }),
            dest => dest,
        };
        Ok(Kind::Archive { docker, dest })
    }

    fn format(&mut self) -> Result<Format, OutputError> {
        let family = self.attributes.flag("oci-mediatypes")?.map(|oci| if oci { Family::Oci } else { Family::Docker });
        let (packing, level) = match self.attributes.compression() {
            Err(InvalidValue { name, value, .. }) if name == "compression" && value == "estargz" => {
                return Err(unsupported("compression=estargz", "expected gzip, zstd or uncompressed"));
            }
            other => other?,
        };
        if packing == Some(Packing::Zstd) && family == Some(Family::Docker) {
            return Err(conflict("\"compression=zstd\"", "\"oci-mediatypes=false\""));
        }
        let force = self.attributes.flag("force-compression")?.unwrap_or(false);
        let rewrite_timestamp = self.attributes.flag("rewrite-timestamp")?.unwrap_or(false);
        // Layers keep the type they came with, which is what this asks for.
        if self.attributes.flag("prefer-nondist-layers")? == Some(false) {
            return Err(unsupported("prefer-nondist-layers=false", "layers keep the type they came with"));
        }
        for name in ["attestation-inline", "oci-artifact"] {
            if self.attributes.flag(name)? == Some(true) {
                return Err(unsupported(name, "the result carries no attestations"));
            }
        }
        Ok(Format { family, packing, level, force, unzstd_from: None, rewrite_timestamp })
    }

    /// `annotation[-type][[platform]].key=value`
    fn annotations(&mut self) -> Result<Annotations, OutputError> {
        let mut out = Annotations::default();
        for (name, text) in self.attributes.beginning(ANNOTATION) {
            let rest = &name[ANNOTATION.len()..];
            let unknown = || OutputError::Unknown { name: name.clone(), kind: self.kind };
            let (target, key) = rest.split_once('.').ok_or_else(unknown)?;
            let (target, platform) = match target.split_once('[') {
                Some((target, platform)) => (target, Some(platform.strip_suffix(']').ok_or_else(unknown)?.to_owned())),
                None => (target, None),
            };
            if key.is_empty() || (platform.is_some() && target.starts_with("-index")) {
                return Err(unknown());
            }
            let key = key.to_owned();
            match target {
                "" | "-manifest" => out.manifest.push((platform, key, text)),
                "-manifest-descriptor" => out.manifest_descriptor.push((platform, key, text)),
                "-index" => drop(out.index.insert(key, text)),
                "-index-descriptor" => drop(out.index_descriptor.insert(key, text)),
                other => return Err(OutputError::AnnotationType(other.trim_start_matches('-').to_owned())),
            }
        }
        Ok(out)
    }

    fn finish(self) -> Result<(), OutputError> {
        match self.attributes.untaken() {
            None => Ok(()),
            Some(name) => Err(OutputError::Unknown { name, kind: self.kind }),
        }
    }
}

fn known_kind(kind: &str) -> Result<&'static str, OutputError> {
    ["image", "registry", "oci", "docker", "local", "tar", "cacheonly"]
        .into_iter()
        .find(|known| *known == kind)
        .ok_or_else(|| OutputError::Type(kind.to_owned()))
}

/// `a,b:1` as names with tags.
fn names(text: &str) -> Result<Vec<Reference>, OutputError> {
    let name = |text: &str| {
        Reference::parse_tagged(text).map_err(|source| OutputError::Name { text: text.to_owned(), source })
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(name).collect()
}

fn value(name: &str, value: &str, message: &str) -> OutputError {
    InvalidValue::new(name, value, message).into()
}

fn unsupported(name: &str, why: &'static str) -> OutputError {
    OutputError::Unsupported { name: name.to_owned(), why }
}

fn conflict(one: &str, other: &str) -> OutputError {
    OutputError::Conflict(one.to_owned(), other.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, attributes: &str) -> Result<Output, OutputError> {
        let pair = |text: &str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("k=v");
        let attributes: Vec<_> = attributes.split_whitespace().map(pair).collect();
        Output::parse(kind, &attributes)
    }

    #[test]
    fn attributes_become_decisions() {
        let output = parse("registry", "name=a,b:2 push-by-digest=true registry.insecure=1").expect("valid");
        assert_eq!(output.kind, Kind::Image(Some(Push { by_digest: true, insecure: true })));
        assert_eq!(output.names.iter().map(Reference::familiar).collect::<Vec<_>>(), ["a:latest", "b:2"]);
        assert_eq!(parse("image", "").expect("valid"), Output::store());
        assert_eq!(parse("image", "push=false").expect("valid").kind, Kind::Image(None));
        let output = parse("image", "name-canonical=true dangling-name-prefix=me/d danging-name-empty-only=1 unpack=");
        let output = output.expect("valid");
        let prefix = Reference::parse("me/d").expect("valid");
        assert_eq!(output.naming, Naming { canonical: true, dangling: Some(Dangling { prefix, only_nameless: true }) });
        assert_eq!(output.kept, Kept::Unpacked);
        assert_eq!(parse("registry", "store=false unpack=1").expect("valid").kept, Kept::Nowhere);

        let output = parse("oci", "dest=x tar=false compression=zstd compression-level=19 force-compression=true");
        let output = output.expect("valid");
        assert_eq!(output.kind, Kind::Archive { docker: false, dest: Dest::Directory("x".into()) });
        assert_eq!(
            (output.format.packing, output.format.level, output.format.force),
            (Some(Packing::Zstd), Some(19), true)
        );
        let stream = Kind::Archive { docker: true, dest: Dest::Stream };
        assert_eq!(parse("docker", "dest=-").expect("valid").kind, stream);
        assert_eq!(parse("docker", "").expect("valid").kind, stream);
        let output = parse("tar", "dest=a dest=b").expect("valid");
        assert_eq!(output.kind, Kind::Tar { dest: Dest::File("b".into()), platform_split: None });
    }

    #[test]
    fn annotations_name_their_place() {
        let output = parse(
            "image",
            "annotation.a=1 annotation-manifest[linux/arm64].b.c=2 annotation-index.d=3 annotation-manifest-descriptor.e=4",
        );
        let annotations = output.expect("valid").annotations;
        let text = |s: &str| s.to_owned();
        let arm = Some(text("linux/arm64"));
        assert_eq!(annotations.manifest, [(None, text("a"), text("1")), (arm, text("b.c"), text("2"))]);
        assert_eq!(annotations.manifest_descriptor, [(None, text("e"), text("4"))]);
        assert_eq!(annotations.index, BTreeMap::from([(text("d"), text("3"))]));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let error = |kind: &str, attributes: &str| parse(kind, attributes).expect_err(attributes).to_string();
        assert!(error("ocj", "").starts_with("unsupported output type \"ocj\":"));
        assert_eq!(error("oci", "colour=red"), "unknown attribute \"colour\" of output type oci");
        assert_eq!(error("local", "dest=x compression=gzip"), "unknown attribute \"compression\" of output type local");
        assert_eq!(error("image", "annotation-foo.a=1"), "unrecognized annotation type foo");
        assert_eq!(error("tar", "annotation.a=1"), "unknown attribute \"annotation.a\" of output type tar");
        assert_eq!(error("oci", "unpack=true"), "unknown attribute \"unpack\" of output type oci");
        assert_eq!(
            error("image", "unpack=true rewrite-timestamp=true"),
            "exporter option \"rewrite-timestamp\" conflicts with \"unpack\""
        );
        assert!(error("tar", "source-date-epoch=1").contains("set SOURCE_DATE_EPOCH"));
        assert_eq!(error("local", ""), "dest is required for local exporter");
        assert_eq!(error("oci", "tar=false"), "dest is required for oci exporter");
        assert_eq!(error("oci", "tar=maybe"), "invalid value \"maybe\" for tar: expected true or false");
        assert!(error("oci", "compression-level=10").ends_with("expected a number from 0 to 9"));
        assert!(error("image", "compression=estargz").contains("compression=estargz"));
        assert!(error("image", "name=me/App").contains("must be lowercase"));
        assert_eq!(
            error("image", "compression=zstd oci-mediatypes=false"),
            "exporter option \"compression=zstd\" conflicts with \"oci-mediatypes=false\""
        );
    }
}
