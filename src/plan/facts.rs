//! What the plan must know of the world: configs of images, the time of a source. The caller looks them up and asks again.
//!
//! Opens nothing; an image that does not exist is the caller's error to report, with what the request carries.

use std::collections::BTreeMap;

use crate::oci::config::ImageConfig;
use crate::plan::graph::GitSource;
use crate::source::{Lines, Span};

/// What is known so far: image configs by reference and platform as the requests named them, and times by what they are of.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    images: BTreeMap<(String, String), ImageFacts>,
    times: Vec<(TimeSource, SourceTime)>,
}

/// What must be known before there is a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Configs of these images. ONBUILD triggers may ask for more then.
    Images(Vec<ImageRequest>),
    /// The time that stands for `SOURCE_DATE_EPOCH`; images are asked for when it is known.
    Time(TimeRequest),
}

/// A question: when the source of the stage that `SOURCE_DATE_EPOCH` names last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeRequest {
    /// What the stage adds.
    pub source: TimeSource,
    /// The name of the progress line.
    pub vertex: String,
    /// The stage's FROM line, for the error's excerpt.
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
}

/// A source that has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeSource {
    /// What an address gives: `Last-Modified`, or the time of the newest file if it is an archive.
    Http {
        /// The address.
        url: String,
        /// Expected digest text.
        checksum: Option<String>,
    },
    /// A repository: the time of the commit.
    Git(GitSource),
}

/// When a source last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTime {
    /// In seconds; `None` if the source does not tell.
    pub seconds: Option<i64>,
}

/// A resolved image.
#[derive(Clone, Debug)]
pub struct ImageFacts {
    /// Opaque to the plan: by it the engine finds the layers ([`BaseImage::handle`](super::graph::BaseImage::handle)).
    pub handle: String,
    /// Its config; `rootfs.diff_ids` are its identity.
    pub config: ImageConfig,
    /// Digest of its manifest or index as the registry names it, if known; shown in the step's name.
    pub digest: Option<String>,
}

/// A question: the config of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// Normalised, e.g. `docker.io/library/alpine:3.20`, or an `oci-layout://…` text of a named context.
    pub reference: String,
    /// `os/arch[/variant]` wanted.
    pub platform: String,
    /// The name of the progress line, e.g. `[internal] load metadata for docker.io/library/alpine:3.20`.
    pub vertex: String,
    /// The reference as the Dockerfile has it (expanded): errors begin with it.
    pub written: String,
    /// The lines that need it, for the error's excerpt.
    pub lines: Lines,
    /// A stage or well-known image the user may have meant, for the case that it does not exist.
    pub suggestion: Option<String>,
    /// Why it is needed.
    pub purpose: Purpose,
}

/// Why an image is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `FROM`
    Base,
    /// `COPY --from`
    CopySource,
    /// `RUN --mount=from=`
    MountSource,
}

impl Facts {
    /// Nothing known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the answer to a request.
    pub fn answer(&mut self, request: &ImageRequest, image: ImageFacts) {
        self.insert(&request.reference, &request.platform, image);
    }

    /// Notes an image under the names a request would use.
    pub fn insert(&mut self, reference: &str, platform: &str, image: ImageFacts) {
        self.images.insert((reference.to_owned(), platform.to_owned()), image);
    }

    /// Notes the answer to a request for a time.
    pub fn answer_time(&mut self, request: &TimeRequest, time: SourceTime) {
        self.times.push((request.source.clone(), time));
    }

    /// What is known of a source's time.
    pub(crate) fn time(&self, source: &TimeSource) -> Option<SourceTime> {
        self.times.iter().find(|(known, _)| known == source).map(|(_, time)| *time)
    }

    /// What is known of an image.
    pub fn image(&self, reference: &str, platform: &str) -> Option<&ImageFacts> {
        self.images.get(&(reference.to_owned(), platform.to_owned()))
    }
}

impl ImageFacts {
    /// An image without layers is an empty root.
    pub(crate) fn is_empty(&self) -> bool {
        self.config.rootfs.diff_ids.is_empty()
    }
}
