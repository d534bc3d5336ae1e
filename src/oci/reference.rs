//! Image names as Docker writes them: `[domain[:port]/]path[:tag][@digest]`, normalised to a full name.
//!
//! `alpine` is `docker.io/library/alpine`; [`Reference::familiar`] is the way back. Error texts are those of the
//! distribution grammar because users search for them. Hand-written: the grammar is regular and each rule is one loop.

use std::fmt;
use std::str::FromStr;

use rbuild_cache::digest::BlobDigest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The registry meant when a name has none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag meant when a name has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The limit the distribution grammar sets for domain and path together.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A text is not an image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not match the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has capital letters; the text is the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// An image ID where a name is needed.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// More than 255 characters.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// A digest that is not `sha256:` and 64 digits.
    #[error("{fault}: {text:?}", fault = fault_in_name(.0), text = .0)]
    Digest(String),
}

/// What is wrong with a text that is no digest we can use, in Docker's words.
pub fn digest_fault(text: &str) -> &'static str {
    const FORMAT: &str = "invalid checksum digest format";
    const UNSUPPORTED: &str = "unsupported digest algorithm";
    match text.split_once(':') {
        None | Some(("", _) | (_, "")) => FORMAT,
        Some(("sha256", digits)) if digits.len() != 64 => "invalid checksum digest length",
        Some(("sha256", _)) => FORMAT,
        Some(_) => UNSUPPORTED,
    }
}

/// The same within a name, whose grammar only knows an algorithm and at least 32 digits.
fn fault_in_name(text: &str) -> &'static str {
    let in_grammar = text.split_once(':').is_some_and(|(algorithm, digits)| {
        algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
            && digits.len() >= 32
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
    });
    if in_grammar { digest_fault(text) } else { "invalid reference format: malformed digest" }
}

/// A normalised image name. Ordered by domain, path, tag, digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<BlobDigest>,
}

impl Reference {
    /// Parses and normalises a name. A name without tag and digest stays without; see [`Self::with_default_tag`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let rest = if domain == DEFAULT_DOMAIN && !rest.contains('/') && !rest.is_empty() {
            format!("library/{rest}")
        } else {
            rest.to_owned()
        };
        let repository = rest.split(':').next().unwrap_or_default();
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(repository.to_owned()));
        }
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|_| ReferenceError::Digest(digest.to_owned()))?))
            }
            None => (rest.as_str(), None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
            Some(_) => return Err(ReferenceError::Format),
            None => (name, None),
        };
        if !is_domain(domain) || !is_path(path) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self { domain: domain.to_owned(), path: path.to_owned(), tag, digest })
    }

    /// Parses a name and adds `:latest` when it has neither tag nor digest.
    pub fn parse_tagged(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text).map(Self::with_default_tag)
    }

    /// The registry, `docker.io` for Docker Hub, perhaps with a port.
    pub fn domain(&self) -> &str {
        &self.domain
    }
    /// The repository within the registry, e.g. `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }
    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    /// The digest.
    pub fn digest(&self) -> Option<BlobDigest> {
        self.digest
    }
    /// Domain and path, e.g. `docker.io/library/alpine`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// This name with `:latest` if it says nothing else.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// This name pinned to `digest`; the tag stays for the reader's sake.
    #[must_use]
    pub fn with_digest(mut self, digest: BlobDigest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The bare repository: no tag, no digest.
    #[must_use]
    pub fn name_only(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// The short form users write: without `docker.io/` and `library/`, where it means the same.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        if self.domain != DEFAULT_DOMAIN {
            return full;
        }
        let short = &full[DEFAULT_DOMAIN.len() + 1..];
        let short = match short.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest,
            _ => short,
        };
        // A path may begin like a registry, or look like an image ID.
        if Self::parse(short).as_ref() == Ok(self) { short.to_owned() } else { full }
    }

    /// The familiar name without tag and digest, e.g. `alpine`.
    pub fn familiar_name(&self) -> String {
        self.name_only().familiar()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}
impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}
impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The first component is a domain if it has a dot, a port or capitals, or is `localhost`.
fn split_domain(text: &str) -> (&str, &str) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    (if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain }, rest)
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => return is_ipv6(address),
            Some((address, port)) if is_ipv6(address) => match port.strip_prefix(':') {
                Some(port) => return is_port(port),
                None => return false,
            },
            _ => return false,
        },
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_ipv6(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

/// Lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(*first) || !word(*last) {
        return false;
    }
    bytes
        .split(|b| word(*b))
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

/// Whether `text` may follow the colon of a name.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, full: &str, familiar: &str) {
        let reference = Reference::parse(text).expect(text);
        assert_eq!(reference.to_string(), full, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(Reference::parse(full), Ok(reference), "full form parses to itself");
    }

    #[test]
    fn names_are_normalised_and_shortened() {
        check("alpine", "docker.io/library/alpine", "alpine");
        check("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20");
        check("index.docker.io/alpine", "docker.io/library/alpine", "alpine");
        check("docker.io/me/app", "docker.io/me/app", "me/app");
        check("me/app:1_a.b-C", "docker.io/me/app:1_a.b-C", "me/app:1_a.b-C");
        check("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b");
        check("localhost/app", "localhost/app", "localhost/app");
        check("localhost:5000/a/b:x", "localhost:5000/a/b:x", "localhost:5000/a/b:x");
        check("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a");
        check("ghcr.io/x/y", "ghcr.io/x/y", "ghcr.io/x/y");
        check("Foo/bar", "Foo/bar", "Foo/bar");
        // Shorter these would be of another registry, or no name; found by fuzzing.
        check("docker.io/libr.io/x", "docker.io/libr.io/x", "docker.io/libr.io/x");
        check("docker.io/localhost/x", "docker.io/localhost/x", "docker.io/localhost/x");
        let id = "a".repeat(64);
        check(&format!("library/{id}"), &format!("docker.io/library/{id}"), &format!("docker.io/library/{id}"));
        check("a__b.c--d_e", "docker.io/library/a__b.c--d_e", "a__b.c--d_e");
        check(
            &format!("alpine:3@{DIGEST}"),
            &format!("docker.io/library/alpine:3@{DIGEST}"),
            &format!("alpine:3@{DIGEST}"),
        );
    }

    #[test]
    fn the_default_tag_is_latest_unless_pinned() {
        assert_eq!(Reference::parse_tagged("alpine").expect("valid").familiar(), "alpine:latest");
        let pinned = Reference::parse_tagged(&format!("alpine@{DIGEST}")).expect("valid");
        assert_eq!((pinned.tag(), pinned.digest().map(|d| d.to_string())), (None, Some(DIGEST.to_owned())));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_name_or_an_error(text in "[a-zA-Z0-9:/@._ \\-\\[\\]é]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                proptest::prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                proptest::prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
            }
        }
    }

    #[test]
    fn faults_are_named_as_docker_does() {
        let error = |text: &str| Reference::parse(text).expect_err(text).to_string();
        assert_eq!(error("Build"), "invalid reference format: repository name (library/Build) must be lowercase");
        assert_eq!(error("ghcr.io/Me/app:1"), "invalid reference format: repository name (Me/app) must be lowercase");
        for bad in ["", "a b", "-a", "a-", "a..b", "a___b", "a//b", "a:", ":a", "a:b:c", "a/", "/a", "é", "a:-x"] {
            assert_eq!(error(bad), "invalid reference format", "{bad:?}");
        }
        assert!(error(&"a".repeat(64)).starts_with("invalid repository name (aaa"));
        assert!(error(&format!("a/{}", "b".repeat(250))).contains("255 characters"));
        let digits = |n: usize| "0".repeat(n);
        for (digest, expected) in [
            ("sha256:12".to_owned(), "invalid reference format: malformed digest"),
            (format!("sha256:{}", digits(40)), "invalid checksum digest length"),
            (format!("sha256:{}", "A".repeat(64)), "invalid checksum digest format"),
            (format!("md5:{}", digits(32)), "unsupported digest algorithm"),
        ] {
            assert_eq!(error(&format!("a@{digest}")), format!("{expected}: {digest:?}"));
        }
    }

    #[test]
    fn faults_of_digests() {
        for text in ["", "12", ":12", "sha256:"] {
            assert_eq!(digest_fault(text), "invalid checksum digest format", "{text:?}");
        }
        assert_eq!(digest_fault("sha256:12"), "invalid checksum digest length");
        assert_eq!(digest_fault("md5:12"), "unsupported digest algorithm");
    }
}
