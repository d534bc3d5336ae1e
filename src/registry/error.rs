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
        /// What may help.
        help: Option<String>,
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
        /// The fault itself, for programs: all its words are in the message.
        fault: reqwest::Error,
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
    /// It goes on, but would take for ever.
    #[error("failed to do request: {method} {url:?}: too slow: {bytes} bytes in {seconds} s")]
    Slow {
        /// HTTP method.
        method: String,
        /// Without query.
        url: String,
        /// How long was waited.
        seconds: u64,
        /// What came in that time.
        bytes: u64,
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
        /// When it wants to be asked again.
        retry_after: Option<std::time::Duration>,
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

/// What is said about connections that will not be had a moment later either.
const FINAL: [&str; 6] = [
    "invalid peer certificate",
    "CertificateRequired",
    "BadCertificate",
    "HandshakeFailure",
    "InvalidContentType",
    "proxy authorization required",
];

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
        let no_answer = matches!(self, Self::Transport { .. } | Self::Silent { .. } | Self::Slow { .. });
        no_answer || matches!(self, Self::Status { status, .. } if status.is_server_error() || status.as_u16() == 429)
    }

    /// Whether nobody could be talked to at all.
    pub(super) fn is_no_connection(&self) -> bool {
        matches!(self, Self::Transport { fault, .. } if fault.is_connect())
    }

    /// Whether bytes came that are not the ones promised: to ask once more, or somebody else, may help.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Digest { .. } | Self::Size { .. })
    }

    /// How much of the patience another attempt uses up; 0 if it would end like this one.
    pub(super) fn cost_of_retry(&self) -> u32 {
        match self {
            Self::Transport { fault, .. } if fault.is_builder() || fault.is_redirect() => 0,
            // Nothing that is tried again a moment later makes a certificate good or a proxy trust us.
            Self::Transport { message, .. } if FINAL.iter().any(|words| message.contains(words)) => 0,
            Self::Transport { .. } => 1,
            // These have taken their time already.
            Self::Silent { .. } | Self::Slow { .. } => 2,
            // Once may be bad luck.
            Self::Digest { .. } | Self::Size { .. } => 2,
            Self::Status { status, .. } if super::answer::is_transient(*status) => 1,
            Self::Status { .. }
            | Self::NotFound(_)
            | Self::Denied { .. }
            | Self::Offline(_)
            | Self::Blocked(_)
            | Self::TooLarge { .. }
            | Self::Manifest { .. }
            | Self::Credential(_)
            | Self::Options { .. }
            | Self::Protocol { .. }
            | Self::Io(_) => 0,
        }
    }

    /// When the server wants to be asked again, if it said so.
    pub(super) fn retry_after(&self) -> Option<std::time::Duration> {
        if let Self::Status { retry_after, .. } = self { *retry_after } else { None }
    }

    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Denied { help, .. } => return help.clone(),
            Self::Manifest { source, .. } => return source.help(),
            Self::Transport { url, message, .. } => return transport_help(&host_of(url), message),
            Self::Silent { url, .. } | Self::Slow { url, .. } => {
                let host = host_of(url);
                format!(
                    "{host} or the line to it hangs; --registry-timeout says how long to wait, --registry-mirror whom else to ask"
                )
            }
            Self::Offline(_) => "get it with `rbuild pull` while there is a network".to_owned(),
            Self::Status { status, url, .. } => {
                let host = host_of(url);
                match status.as_u16() {
                    429 => format!(
                        "{host} limits requests: `rbuild login {host}` may raise the limit, --registry-mirror goes around it"
                    ),
                    413 => format!("{host}, or a proxy before it, does not take bodies of that size: raise its limit"),
                    507 => format!("{host} is full: free space there, or push elsewhere"),
                    405 => format!("{host} is a registry that does not allow this: perhaps it is a read-only mirror"),
                    500..=599 => format!("{host} fails: its log says why; --registry-mirror names another to ask"),
                    _ => return None,
                }
            }
            Self::Digest { .. } | Self::Size { .. } => {
                "the registry or something on the way to it damages data; nothing of it was kept".to_owned()
            }
            Self::NotFound(_)
            | Self::Blocked(_)
            | Self::TooLarge { .. }
            | Self::Credential(_)
            | Self::Options { .. }
            | Self::Protocol { .. }
            | Self::Io(_) => return None,
        };
        Some(text)
    }

    pub(super) fn slow(method: &reqwest::Method, url: &url::Url, waited: std::time::Duration, bytes: u64) -> Self {
        Self::Slow { method: method.to_string(), url: shown(url), seconds: waited.as_secs(), bytes }
    }

    pub(super) fn silent(method: &reqwest::Method, url: &url::Url, waited: std::time::Duration) -> Self {
        Self::Silent { method: method.to_string(), url: shown(url), seconds: waited.as_secs() }
    }

    pub(super) fn transport(method: &reqwest::Method, url: &url::Url, fault: reqwest::Error) -> Self {
        let fault = fault.without_url();
        let mut message = String::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&fault);
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
        if message.is_empty() {
            message = fault.to_string();
        }
        Self::Transport { method: method.to_string(), url: shown(url), message, fault }
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

fn host_of(url: &str) -> String {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    authority.split('/').next().unwrap_or_default().to_owned()
}

/// What to do about a connection that could not be had.
fn transport_help(host: &str, message: &str) -> Option<String> {
    let ours = ["CertificateRequired", "BadCertificate", "HandshakeFailure"];
    let text = if ours.iter().any(|words| message.contains(words)) {
        format!("it wants a certificate of you: put client.cert and client.key into ~/.config/docker/certs.d/{host}")
    } else if message.contains("proxy authorization required") {
        "the proxy wants to know who you are: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT".to_owned()
    } else if message.contains("unsuccessful tunnel") {
        format!("the proxy does not lead to {host}: NO_PROXY={host} goes around it")
    } else if message.contains("certificate") {
        format!("name the authority that signed its certificate with --registry-ca {host}=FILE")
    } else if message.contains("InvalidContentType") || message.contains("corrupt message") {
        format!("{host} seems to speak plain http: allow it with --insecure-registry {host}")
    } else if message.contains("dns error") {
        format!("no address is known for {host}: is the name right, and does a proxy have to be set (HTTPS_PROXY)?")
    } else if message.contains("onnection refused") {
        format!("nobody listens at {host}: is the address right, and is the registry running?")
    } else {
        return None;
    };
    Some(text)
}
