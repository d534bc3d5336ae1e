//! What the plan must know of the world: configs of images. The caller looks them up and asks again.
//!
//! Opens nothing; an image that does not exist is the caller's error to report, with what the request carries.

use std::collections::BTreeMap;

use crate::oci::config::ImageConfig;
use crate::source::Lines;

/// Image configs known so far, by reference and platform as the requests named them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    images: BTreeMap<(String, String), ImageFacts>,
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
