//! `--cache-from` and `--cache-to` as decided: every attribute is understood or refused by name. Those of `type=s3` are in
//! `bucket`.

mod bucket;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::attributes::{Attributes, InvalidValue};
use crate::layers::Framing;
use crate::oci::manifest::{Family, Packing};
use crate::oci::reference::{DEFAULT_TAG, Reference, ReferenceError, is_tag};
use crate::registry::{BucketName, Selector};
use rbuild_cache::digest::BlobDigest;

/// An attribute cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such type.
    #[error("unknown cache {0}: {1:?}")]
    Type(&'static str, String),
    /// A type that others have.
    #[error("cache type {0} is not supported: use registry, local, s3 or inline")]
    Foreign(String),
    /// Not an attribute of this type.
    #[error("unknown attribute {name:?} of {option} type={kind}")]
    Unknown {
        /// The attribute.
        name: String,
        /// `--cache-from` or `--cache-to`.
        option: &'static str,
        /// The type.
        kind: String,
    },
    /// It has to be given.
    #[error("{name} is required for {option} type={kind}")]
    Missing {
        /// The attribute.
        name: &'static str,
        /// `--cache-from` or `--cache-to`.
        option: &'static str,
        /// The type.
        kind: &'static str,
    },
    /// Not one of its values.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// No name of a repository.
    #[error("invalid cache reference {text:?}: {source}")]
    Name {
        /// As given.
        text: String,
        /// Why.
        source: ReferenceError,
    },
}

/// Which cache mounts travel: `mounts=all|none|ID,…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mounts {
    /// None.
    #[default]
    None,
    /// All of the build.
    All,
    /// Those with these ids.
    Ids(BTreeSet<String>),
}

impl Mounts {
    /// Whether the mount with this id does.
    pub fn contain(&self, id: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            // As in a Dockerfile `deps` and `/deps` are one.
            Self::Ids(ids) => ids.contains(id.trim_start_matches('/')),
        }
    }
}

/// A cache to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub from: From,
    /// Cache mounts that are filled from it when they are new.
    pub mounts: Mounts,
}

/// Where results may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A cache or an image in a registry.
    Registry {
        /// Its name, with a tag or digest.
        name: Reference,
        /// Do not verify certificates.
        insecure: bool,
    },
    /// A cache directory.
    Local {
        /// The directory.
        src: PathBuf,
        /// Which of its caches.
        selector: Selector,
    },
    /// An S3-compatible server.
    Bucket {
        /// Where there.
        bucket: Box<BucketName>,
        /// The first of these that is there.
        names: Vec<String>,
    },
}

/// Where results are put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A registry.
    Registry {
        /// The name, with a tag.
        name: Reference,
        /// Do not verify certificates.
        insecure: bool,
    },
    /// A directory.
    Local {
        /// The directory.
        dest: PathBuf,
        /// What the cache is called in it.
        tag: String,
    },
    /// An S3-compatible server.
    Bucket {
        /// Where there.
        bucket: Box<BucketName>,
        /// What the cache is called: all of these.
        names: Vec<String>,
    },
    /// The image's own config.
    Inline,
}

/// Which results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Of the steps whose layers are in the result.
    Min,
    /// Of all steps.
    #[default]
    Max,
}

/// A cache to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub place: Place,
    /// `mode`
    pub extent: Extent,
    /// `oci-mediatypes`
    pub family: Family,
    /// `compression`, `compression-level`
    pub framing: Framing,
    /// `force-compression`: also layers that came from a cache in another form.
    pub force: bool,
    /// `mounts`
    pub mounts: Mounts,
    /// `flattened`: also results of RUNs that could not keep owners.
    pub flattened: bool,
    /// `ignore-error`: whether a failure is only a warning.
    pub ignore_error: bool,
}

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";

impl Source {
    /// The source of `type=<kind>` with these attributes (without `type`).
    pub fn parse(kind: &str, attributes: &[(String, String)]) -> Result<Self, SpecError> {
        let mut given = Given::new(FROM, kind, attributes);
        let mounts = given.mounts(Mounts::All)?;
        let from = match kind {
            "registry" => {
                let name = given.reference()?;
                From::Registry { name, insecure: given.flag("registry.insecure", false)? }
            }
            "local" => {
                let src = given.required("src", "local")?.into();
                let tag = given.tag()?;
                let selector = match given.take("digest") {
                    None => Selector::Tag(tag),
                    Some(text) => {
                        let digest: Option<BlobDigest> = text.parse().ok();
                        Selector::Digest(digest.ok_or_else(|| value("digest", &text, "expected sha256:…"))?)
                    }
                };
                From::Local { src, selector }
            }
            "s3" => {
                let (bucket, names) = given.bucket()?;
                From::Bucket { bucket: Box::new(bucket), names }
            }
            "inline" => return Err(SpecError::Type("importer", kind.to_owned())),
            other => return Err(unknown("importer", other)),
        };
        given.finish()?;
        Ok(Self { from, mounts })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.from {
            From::Registry { name, .. } => name.fmt(f),
            From::Local { src, selector: Selector::Tag(tag) } => write!(f, "local:{}:{tag}", src.display()),
            From::Local { src, selector: Selector::Digest(digest) } => write!(f, "local:{}@{digest}", src.display()),
            From::Bucket { bucket, names } => write!(f, "{bucket} ({})", names.join(";")),
        }
    }
}

impl Target {
    /// An inline cache with nothing else said.
    pub fn inline() -> Self {
        Self {
            place: Place::Inline,
            extent: Extent::Min,
            family: Family::Oci,
            framing: Framing::new(Packing::Gzip, None),
            force: false,
            mounts: Mounts::None,
            flattened: false,
            ignore_error: true,
        }
    }

    /// The target of `type=<kind>` with these attributes (without `type`).
    pub fn parse(kind: &str, attributes: &[(String, String)]) -> Result<Self, SpecError> {
        let mut given = Given::new(TO, kind, attributes);
        let mut target = Self::inline();
        target.extent = match given.take("mode").as_deref() {
            None if kind == "inline" => Extent::Min,
            None => Extent::default(),
            Some("min") => Extent::Min,
            // Many a script asks for it, and gets what BuildKit gives: an image holds only its own layers.
            Some("max") if kind == "inline" => Extent::Min,
            Some("max") => Extent::Max,
            Some(other) => return Err(value("mode", other, "expected min or max")),
        };
        target.ignore_error = given.flag("ignore-error", true)?;
        target.place = match kind {
            "registry" => {
                let name = given.reference()?;
                Place::Registry { name, insecure: given.flag("registry.insecure", false)? }
            }
            "local" => {
                let dest = given.required("dest", "local")?.into();
                if !given.flag("reset", true)? {
                    return Err(value("reset", "false", "a cache directory never keeps what nothing refers to"));
                }
                Place::Local { dest, tag: given.tag()? }
            }
            "s3" => {
                let (bucket, names) = given.bucket()?;
                Place::Bucket { bucket: Box::new(bucket), names }
            }
            "inline" => Place::Inline,
            other => return Err(unknown("exporter", other)),
        };
        if target.place != Place::Inline {
            given.blobs(&mut target)?;
            target.flattened = given.flag("flattened", false)?;
            target.mounts = given.mounts(Mounts::None)?;
        }
        given.finish()?;
        Ok(target)
    }
}

fn unknown(what: &'static str, kind: &str) -> SpecError {
    match kind {
        "gha" | "azblob" => SpecError::Foreign(kind.to_owned()),
        other => SpecError::Type(what, other.to_owned()),
    }
}

fn value(name: &str, value: &str, message: &str) -> SpecError {
    InvalidValue::new(name, value, message).into()
}

/// Attributes of one option.
struct Given {
    option: &'static str,
    kind: String,
    attributes: Attributes,
}

impl Given {
    fn new(option: &'static str, kind: &str, attributes: &[(String, String)]) -> Self {
        Self { option, kind: kind.to_owned(), attributes: Attributes::new(attributes) }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.attributes.take(name)
    }

    fn flag(&mut self, name: &str, default: bool) -> Result<bool, SpecError> {
        Ok(self.attributes.flag(name)?.unwrap_or(default))
    }

    fn required(&mut self, name: &'static str, kind: &'static str) -> Result<String, SpecError> {
        let missing = SpecError::Missing { name, option: self.option, kind };
        self.attributes.filled(name).ok_or(missing)
    }

    fn reference(&mut self) -> Result<Reference, SpecError> {
        let text = self.required("ref", "registry")?;
        let name = Reference::parse_tagged(&text).map_err(|source| SpecError::Name { text, source })?;
        Ok(name.with_default_tag())
    }

    fn mounts(&mut self, default: Mounts) -> Result<Mounts, SpecError> {
        let Some(text) = self.take("mounts") else { return Ok(default) };
        match text.as_str() {
            "all" => Ok(Mounts::All),
            "none" => Ok(Mounts::None),
            "" => Err(value("mounts", "", "expected all, none or ids of cache mounts")),
            // A comma separates attributes, so within one there is another separator, too.
            ids => {
                Ok(Mounts::Ids(ids.split([',', ';']).map(|id| id.trim().trim_start_matches('/').to_owned()).collect()))
            }
        }
    }

    fn tag(&mut self) -> Result<String, SpecError> {
        let tag = self.take("tag").filter(|tag| !tag.is_empty()).unwrap_or_else(|| DEFAULT_TAG.to_owned());
        if is_tag(&tag) { Ok(tag) } else { Err(value("tag", &tag, "not a tag")) }
    }

    /// How blobs and manifest look.
    fn blobs(&mut self, target: &mut Target) -> Result<(), SpecError> {
        if !self.flag("oci-mediatypes", true)? {
            target.family = Family::Docker;
        }
        if !self.flag("image-manifest", true)? {
            return Err(value("image-manifest", "false", "rbuild's cache is always an image manifest"));
        }
        let (packing, level) = self.attributes.compression()?;
        if packing == Some(Packing::Zstd) && target.family == Family::Docker {
            return Err(value("compression", "zstd", "conflicts with oci-mediatypes=false"));
        }
        target.framing = Framing::new(packing.unwrap_or(Packing::Gzip), level);
        target.force = self.flag("force-compression", false)?;
        Ok(())
    }

    fn finish(self) -> Result<(), SpecError> {
        match self.attributes.untaken() {
            None => Ok(()),
            Some(name) => Err(SpecError::Unknown { name, option: self.option, kind: self.kind }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(text: &str) -> Vec<(String, String)> {
        let pair = |text: &str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("k=v");
        text.split_whitespace().map(pair).collect()
    }
    fn from(kind: &str, text: &str) -> Result<Source, SpecError> {
        Source::parse(kind, &attributes(text))
    }
    fn to(kind: &str, text: &str) -> Result<Target, SpecError> {
        Target::parse(kind, &attributes(text))
    }

    #[test]
    fn attributes_become_decisions() {
        assert_eq!(from("registry", "ref=app").expect("valid").to_string(), "docker.io/library/app:latest");
        let ids = Mounts::Ids(["a", "b"].map(str::to_owned).into());
        assert_eq!(from("registry", "ref=app mounts=a;b").expect("valid").mounts, ids);
        assert_eq!(from("registry", "ref=app").expect("valid").mounts, Mounts::All);
        assert_eq!(to("registry", "ref=app mounts=all").expect("valid").mounts, Mounts::All);
        assert_eq!(to("registry", "ref=app").expect("valid").mounts, Mounts::None);
        assert_eq!(from("local", "src=/c tag=x").expect("valid").to_string(), "local:/c:x");
        let target = to("registry", "ref=a/b:c mode=min compression=zstd compression-level=9 ignore-error=false");
        let target = target.expect("valid");
        assert_eq!(
            (target.extent, target.framing, target.ignore_error),
            (Extent::Min, Framing::Zstd { level: 9 }, false)
        );
        let target = to("local", "dest=/c oci-mediatypes=false force-compression=1 reset=true image-manifest=true");
        let target = target.expect("valid");
        assert_eq!((target.extent, target.family, target.force), (Extent::Max, Family::Docker, true));
        assert_eq!(target.place, Place::Local { dest: "/c".into(), tag: "latest".to_owned() });
        assert_eq!(to("inline", "mode=max").expect("valid"), Target::inline());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let bad_from = |kind: &str, text: &str| from(kind, text).expect_err(text).to_string();
        let bad_to = |kind: &str, text: &str| to(kind, text).expect_err(text).to_string();
        assert_eq!(bad_from("registry", ""), "ref is required for --cache-from type=registry");
        assert_eq!(bad_from("local", "dest=x"), "src is required for --cache-from type=local");
        assert_eq!(bad_from("registry", "ref=a mode=max"), "unknown attribute \"mode\" of --cache-from type=registry");
        assert_eq!(bad_from("foo", ""), "unknown cache importer: \"foo\"");
        assert_eq!(bad_to("gha", "scope=x"), "cache type gha is not supported: use registry, local, s3 or inline");
        assert_eq!(bad_to("local", "dest=x colour=red"), "unknown attribute \"colour\" of --cache-to type=local");
        assert!(bad_to("local", "dest=x compression=estargz").contains("expected gzip, zstd or uncompressed"));
        assert!(bad_to("local", "dest=x reset=false").contains("reset"));
        assert!(bad_to("registry", "ref=a image-manifest=false").contains("always an image manifest"));
        assert!(bad_to("registry", "ref=A/B").starts_with("invalid cache reference"));
    }
}
