//! Files from http(s) addresses and git repositories, for ADD and remote contexts: revalidated, verified, kept in the store.
//!
//! Knows no Dockerfile and no registry. http is here, repositories are in [`git`]. What a server said (ETag, Last-Modified, digest) is remembered per address, so that an
//! unchanged file costs one conditional request, and with a `checksum` that is already in the store none at all.

pub mod git;
pub mod program;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flate2::write::MultiGzDecoder;
use rbuild_cache::digest::{Blake3, BlobDigest, Sha256};
use rbuild_cache::{BlobWriter, Kind, Store};
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use git::Git;
use program::Runner;

/// Redirects followed before giving up.
const MAX_REDIRECTS: usize = 10;
/// Tries for one file; faults of the network and 5xx answers are tried again.
const TRIES: u32 = 4;
/// Longest wait for the first byte of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A file that was downloaded, now a blob in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Its bytes.
    pub digest: BlobDigest,
    /// The same bytes as trees and keys name them.
    pub content: Blake3,
    /// How many.
    pub size: u64,
    /// `Last-Modified` as seconds since 1970, if the server said so.
    pub last_modified: Option<i64>,
    /// `ETag` as sent.
    pub etag: Option<String>,
}

/// What the user lets fetching use; read at the edge.
#[derive(Clone, Default)]
pub struct Access {
    /// Secrets by id; those with known names become credentials.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Socket of the ssh agent.
    pub ssh_agent: Option<PathBuf>,
    /// The user has told git by its environment how to call ssh.
    pub own_ssh: bool,
    /// Entries of git's configuration that are in the environment already (`GIT_CONFIG_COUNT`).
    pub config_entries: usize,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.secrets.keys().collect();
        f.debug_struct("Access").field("secrets", &names).field("ssh_agent", &self.ssh_agent).finish_non_exhaustive()
    }
}

impl Access {
    /// What to send as `Authorization` to the host of an address: the secret `HTTP_AUTH_TOKEN_<host>` or
    /// `HTTP_AUTH_HEADER_<host>` (D150). As with BuildKit the token wins.
    fn authorization(&self, address: &str) -> Result<Option<String>, FetchError> {
        let parsed = url::Url::parse(address).ok();
        let Some(host) = parsed.as_ref().and_then(url::Url::host_str) else { return Ok(None) };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        for (name, scheme) in [(format!("HTTP_AUTH_TOKEN_{host}"), "Bearer "), (format!("HTTP_AUTH_HEADER_{host}"), "")]
        {
            if let Some(secret) = self.secrets.get(&name) {
                let value = header_value(secret).ok_or(FetchError::BadSecret(name))?;
                return Ok(Some(format!("{scheme}{value}")));
            }
        }
        Ok(None)
    }
}

/// A secret as (part of) a header's value: without the newline at its end that files have; `None` if it cannot be one.
fn header_value(secret: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(secret).ok()?.trim_end_matches(['\r', '\n']);
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A download failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The build was cancelled.
    #[error(transparent)]
    Cancelled(#[from] crate::cancel::Cancelled),
    /// The server answered with an error.
    #[error("invalid response status {status} for {url}")]
    Status {
        /// The address.
        url: String,
        /// E.g. `404 Not Found`.
        status: String,
    },
    /// The bytes are not those asked for.
    #[error("digest mismatch for {url}: got {got}, expected {expected}")]
    Checksum {
        /// The address.
        url: String,
        /// Digest of what came.
        got: String,
        /// Digest asked for.
        expected: String,
    },
    /// A secret has line breaks or the like in it.
    #[error("secret {0} cannot be sent in a header")]
    BadSecret(String),
    /// `--checksum` is not a digest we can check.
    #[error("invalid checksum {0:?}: expected sha256:<64 hex digits>")]
    BadChecksum(String),
    /// Network.
    #[error("failed to fetch {url}: {}", causes(source))]
    Network {
        /// The address.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// The body is not packed as the server says, or what is in it cannot be stored.
    #[error("failed to unpack the answer of {url} (Content-Encoding: gzip): {reason}")]
    Packed {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// Store.
    #[error("failed to store {url}: {reason}")]
    Store {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

/// Downloads for one build.
#[derive(Debug)]
pub struct Fetcher {
    store: Store,
    runtime: tokio::runtime::Handle,
    client: OnceLock<reqwest::Client>,
    access: Arc<Access>,
    git: Git,
}

impl Fetcher {
    /// Downloads go to `store`; waiting is done on `runtime`, programs are run by `runner`. Nothing is opened before the
    /// first download.
    pub fn new(store: Store, runtime: tokio::runtime::Handle, runner: Runner, access: Access) -> Self {
        let access = Arc::new(access);
        let git = Git::new(store.clone(), runner, access.clone());
        Self { store, runtime, client: OnceLock::new(), access, git }
    }

    /// Repositories.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// Opens what was downloaded.
    pub fn open(&self, fetched: &Fetched) -> std::io::Result<fs_err::File> {
        let file = self.store.open_blob(&fetched.digest).map_err(std::io::Error::other)?;
        file.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    /// The file at `url`. `checksum` is `sha256:…`; with it a file that is in the store already needs no request.
    /// `progress` hears of bytes received and expected (0: not known). Blocks; not for async contexts.
    pub fn get(
        &self,
        url: &str,
        checksum: Option<&str>,
        progress: &dyn Fn(u64, u64),
        cancel: &Cancel,
    ) -> Result<Fetched, FetchError> {
        let expected = checksum
            .map(|c| c.parse::<Sha256>().map(BlobDigest).map_err(|_| FetchError::BadChecksum(c.to_owned())))
            .transpose()?;
        let known = self.remembered(url);
        if let (Some(expected), Some(known)) = (expected, &known)
            && known.digest == expected
        {
            return Ok(known.clone());
        }
        let authorization = self.access.authorization(url)?;
        let mut wait = Duration::from_millis(500);
        for attempt in 1.. {
            cancel.check()?;
            match self.runtime.block_on(self.once(url, known.as_ref(), authorization.as_deref(), progress, cancel)) {
                Ok(fetched) => {
                    if let Some(expected) = expected
                        && expected != fetched.digest
                    {
                        let (got, expected) = (fetched.digest.to_string(), expected.to_string());
                        return Err(FetchError::Checksum { url: git::redacted(url), got, expected });
                    }
                    self.remember(url, &fetched)?;
                    return Ok(fetched);
                }
                Err(error) if attempt < TRIES && worth_retrying(&error) => {
                    cancel.sleep(wait)?;
                    wait *= 2;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop above returns")
    }

    async fn once(
        &self,
        url: &str,
        known: Option<&Fetched>,
        authorization: Option<&str>,
        progress: &dyn Fn(u64, u64),
        cancel: &Cancel,
    ) -> Result<Fetched, FetchError> {
        // Neither our words nor those of the client show a password.
        let shown = git::redacted(url);
        let network = |source: reqwest::Error| FetchError::Network { url: shown.clone(), source: source.without_url() };
        let client = self.client()?;
        let mut request = client.get(url);
        if let Some(value) = authorization {
            request = request.header("Authorization", value);
        }
        if let Some(etag) = known.and_then(|k| k.etag.as_deref()) {
            request = request.header("If-None-Match", etag);
        } else if let Some(time) = known.and_then(|k| k.last_modified) {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap_or(0));
            request = request.header("If-Modified-Since", httpdate::fmt_http_date(time));
        }
        let mut response = request.send().await.map_err(network)?;
        let status = response.status();
        if let (304, Some(known)) = (status.as_u16(), known) {
            return Ok(known.clone());
        }
        if !status.is_success() {
            return Err(FetchError::Status { url: shown.clone(), status: status.to_string() });
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let etag = header("etag");
        let last_modified = header("last-modified")
            .and_then(|text| httpdate::parse_http_date(&text).ok())
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_secs()).ok());
        let total = response.content_length().unwrap_or(0);
        let packed = header("content-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
        let store = |reason: String| FetchError::Store { url: url.to_owned(), reason };
        let blob = self.store.blob_writer().map_err(|e| store(e.to_string()))?;
        let mut body = Body::new(File { blob, hasher: blake3::Hasher::new() }, packed);
        let written = |error: io::Error| {
            let reason = error.to_string();
            if packed { FetchError::Packed { url: shown.clone(), reason } } else { store(reason) }
        };
        let mut received = 0;
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            cancel.check()?;
            body.write_all(&chunk).map_err(&written)?;
            received += chunk.len() as u64;
            progress(received, total);
        }
        let File { blob, hasher } = body.finish().map_err(&written)?;
        let (digest, size) = blob.commit(None).map_err(|e| store(e.to_string()))?;
        let content = Blake3(*hasher.finalize().as_bytes());
        Ok(Fetched { digest, content, size, last_modified, etag })
    }

    fn client(&self) -> Result<&reqwest::Client, FetchError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Both calls fail only when another thread was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|source| FetchError::Network { url: "client".to_owned(), source })?;
        Ok(self.client.get_or_init(|| client))
    }

    fn fact_name(url: &str) -> String {
        format!("http-{}", Blake3::of(url.as_bytes()))
    }

    /// What is known about `url`, if its bytes are still in the store. Damage counts as not known.
    fn remembered(&self, url: &str) -> Option<Fetched> {
        let bytes = self.store.get(Kind::Fact, &Self::fact_name(url)).ok()??;
        let known: Fetched = serde_json::from_slice(&bytes).ok()?;
        self.store.blob(&known.digest).ok()?.map(|_| known)
    }

    fn remember(&self, url: &str, fetched: &Fetched) -> Result<(), FetchError> {
        let bytes = serde_json::to_vec(fetched).expect("plain data serialises");
        self.store
            .put(Kind::Fact, &Self::fact_name(url), &bytes)
            .map_err(|e| FetchError::Store { url: url.to_owned(), reason: e.to_string() })
    }
}

/// A file being written, and the hash of its content.
struct File {
    blob: BlobWriter,
    hasher: blake3::Hasher,
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.blob.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The body of an answer. Some servers pack it although nobody asked them to; the file is what is in there.
enum Body {
    Plain(Box<File>),
    Gzip(Box<MultiGzDecoder<File>>),
}

impl Body {
    fn new(file: File, packed: bool) -> Self {
        if packed { Self::Gzip(Box::new(MultiGzDecoder::new(file))) } else { Self::Plain(Box::new(file)) }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<File> {
        match self {
            Self::Plain(file) => Ok(*file),
            Self::Gzip(decoder) => decoder.finish(),
        }
    }
}

/// An error with what caused it: the client's own words only say that something failed.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

fn worth_retrying(error: &FetchError) -> bool {
    match error {
        FetchError::Network { source, .. } => !source.is_builder() && !source.is_redirect(),
        FetchError::Status { status, .. } => status.starts_with('5') || status.starts_with("429"),
        FetchError::Cancelled(_)
        | FetchError::Checksum { .. }
        | FetchError::BadChecksum(_)
        | FetchError::BadSecret(_)
        | FetchError::Packed { .. }
        | FetchError::Store { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_host_become_its_header() {
        let secret = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let secrets = [
            secret("HTTP_AUTH_HEADER_a.b", "basic x\n"),
            secret("HTTP_AUTH_TOKEN_both", "t"),
            secret("HTTP_AUTH_HEADER_both", "h"),
            secret("HTTP_AUTH_TOKEN_bad", "x\ny"),
        ];
        let access = Access { secrets: secrets.into_iter().collect(), ..Access::default() };
        let check = |address: &str| access.authorization(address).expect("good");
        assert_eq!(check("https://a.b:8080/c").as_deref(), Some("basic x"));
        assert_eq!(check("https://both/").as_deref(), Some("Bearer t"));
        assert_eq!(check("https://b/"), None);
        assert_eq!(check("nonsense"), None);
        let text = access.authorization("http://bad/").expect_err("newline").to_string();
        assert_eq!(text, "secret HTTP_AUTH_TOKEN_bad cannot be sent in a header");
        assert!(!format!("{access:?}").contains("basic"));
    }
}
