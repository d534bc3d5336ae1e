//! What can go wrong with a registry or a layout, named after the object that was wanted.

use std::fmt;

use rbuild_cache::digest::BlobDigest;

use super::credentials::CredentialError;
use crate::oci::manifest::ManifestError;

/// A registry, a token server or an OCI layout did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of that name there; the text is the name.
    #[error("{0}: not found")]
    NotFound(String),
    /// Not without (other) credentials.
    #[error("{what}: {message}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Whose refusal it is, and its words.
        message: String,
    },
    /// No answer, or it broke off.
    #[error("failed to do request: {method} {url:?}: {message}")]
    Transport {
        /// HTTP method.
        method: String,
        /// Without query.
        url: String,
        /// The causes, outermost first.
        message: String,
        /// The last cause, for programs.
        #[source]
        source: reqwest::Error,
    },
    /// The other side stopped in the middle of it.
    #[error("failed to do request: {method} {url:?}: nothing moved for {seconds} s")]
    Silent {
        /// HTTP method.
        method: String,
        /// Without query.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The user wants nobody to be asked.
    #[error("{0}: not in the store, and --offline forbids to ask for it")]
    Offline(String),
    /// The user wants this registry not to be used.
    #[error("{0}: blocked by registries.conf")]
    Blocked(String),
    /// An answer with an unexpected status.
    #[error("unexpected status from {method} request to {url}: {status}{message}")]
    Status {
        /// HTTP method.
        method: String,
        /// Without query.
        url: String,
        /// The status line.
        status: reqwest::StatusCode,
        /// The registry's own words, with `: ` before them, or nothing.
        message: String,
    },
    /// The bytes are not the ones promised.
    #[error("{what}: digest mismatch: expected {expected}, got {found}")]
    Digest {
        /// What was fetched.
        what: String,
        /// The digest promised.
        expected: BlobDigest,
        /// The digest of the bytes.
        found: BlobDigest,
    },
    /// More or fewer bytes than promised.
    #[error("{what}: size mismatch: expected {expected} bytes, got {found}")]
    Size {
        /// What was fetched.
        what: String,
        /// As the descriptor says.
        expected: u64,
        /// As it came; for a stream that is too long, where it was cut.
        found: u64,
    },
    /// A document that would not fit in memory safely.
    #[error("{what}: larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was fetched.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A document that is not what it should be.
    #[error("{what}: {source}")]
    Manifest {
        /// What was fetched.
        what: String,
        /// Why.
        source: ManifestError,
    },
    /// Credentials could not be had.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Options of the client make no sense.
    #[error("registry {host}: {message}")]
    Options {
        /// Which registry.
        host: String,
        /// What is wrong.
        message: String,
    },
    /// The answer breaks the protocol.
    #[error("{what}: {message}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// What is wrong.
        message: String,
    },
    /// A file of a layout, or one to be uploaded.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Whether the object simply is not there (as opposed to: could not be asked for).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    pub(super) fn manifest(what: impl fmt::Display, source: ManifestError) -> Self {
        Self::Manifest { what: what.to_string(), source }
    }

    pub(super) fn protocol(what: impl fmt::Display, message: impl Into<String>) -> Self {
        Self::Protocol { what: what.to_string(), message: message.into() }
    }

    /// Whether the registry could not be talked to, as opposed to: it said no.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Silent { .. } => true,
            Self::Status { status, .. } => status.is_server_error() || status.as_u16() == 429,
            Self::NotFound(_)
            | Self::Denied { .. }
            | Self::Offline(_)
            | Self::Blocked(_)
            | Self::Digest { .. }
            | Self::Size { .. }
            | Self::TooLarge { .. }
            | Self::Manifest { .. }
            | Self::Credential(_)
            | Self::Options { .. }
            | Self::Protocol { .. }
            | Self::Io(_) => false,
        }
    }

    pub(super) fn silent(method: &reqwest::Method, url: &url::Url, waited: std::time::Duration) -> Self {
        Self::Silent { method: method.to_string(), url: shown(url), seconds: waited.as_secs() }
    }

    pub(super) fn transport(method: &reqwest::Method, url: &url::Url, source: reqwest::Error) -> Self {
        let source = source.without_url();
        let mut message = String::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&source);
        while let Some(error) = cause {
            let text = error.to_string();
            // reqwest and hyper repeat themselves; keep what says something new.
            if !matches!(text.as_str(), "error sending request" | "client error (Connect)") && !message.contains(&text)
            {
                if !message.is_empty() {
                    message.push_str(": ");
                }
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self::Transport { method: method.to_string(), url: shown(url), message, source }
    }
}

/// A URL without query and user: signed storage URLs carry secrets there.
pub(super) fn shown(url: &url::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}
