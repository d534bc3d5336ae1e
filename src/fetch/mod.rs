//! Files from http(s) addresses, for ADD and remote contexts: revalidated, verified, kept in the store.
//!
//! Knows no Dockerfile and no registry. What a server said (ETag, Last-Modified, digest) is remembered per address, so that an
//! unchanged file costs one conditional request, and with a `checksum` that is already in the store none at all.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use rbuild_cache::digest::{Blake3, BlobDigest, Sha256};
use rbuild_cache::{Kind, Store};
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;

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
    /// How many.
    pub size: u64,
    /// `Last-Modified` as seconds since 1970, if the server said so.
    pub last_modified: Option<i64>,
    /// `ETag` as sent.
    pub etag: Option<String>,
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
    /// `--checksum` is not a digest we can check.
    #[error("invalid checksum {0:?}: expected sha256:<64 hex digits>")]
    BadChecksum(String),
    /// Network.
    #[error("failed to fetch {url}: {source}")]
    Network {
        /// The address.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
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
}

impl Fetcher {
    /// Downloads go to `store`; waiting is done on `runtime`. Nothing is opened before the first download.
    pub fn new(store: Store, runtime: tokio::runtime::Handle) -> Self {
        Self { store, runtime, client: OnceLock::new() }
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
        let mut wait = Duration::from_millis(500);
        for attempt in 1.. {
            cancel.check()?;
            match self.runtime.block_on(self.once(url, known.as_ref(), progress, cancel)) {
                Ok(fetched) => {
                    if let Some(expected) = expected
                        && expected != fetched.digest
                    {
                        let (got, expected) = (fetched.digest.to_string(), expected.to_string());
                        return Err(FetchError::Checksum { url: url.to_owned(), got, expected });
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
        progress: &dyn Fn(u64, u64),
        cancel: &Cancel,
    ) -> Result<Fetched, FetchError> {
        let network = |source| FetchError::Network { url: url.to_owned(), source };
        let client = self.client()?;
        let mut request = client.get(url);
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
            return Err(FetchError::Status { url: url.to_owned(), status: status.to_string() });
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let etag = header("etag");
        let last_modified = header("last-modified")
            .and_then(|text| httpdate::parse_http_date(&text).ok())
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_secs()).ok());
        let total = response.content_length().unwrap_or(0);
        let store = |reason: String| FetchError::Store { url: url.to_owned(), reason };
        let mut blob = self.store.blob_writer().map_err(|e| store(e.to_string()))?;
        let mut received = 0;
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            cancel.check()?;
            blob.write_all(&chunk).map_err(|e| store(e.to_string()))?;
            received += chunk.len() as u64;
            progress(received, total);
        }
        let (digest, size) = blob.commit(None).map_err(|e| store(e.to_string()))?;
        Ok(Fetched { digest, size, last_modified, etag })
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

fn worth_retrying(error: &FetchError) -> bool {
    match error {
        FetchError::Network { source, .. } => !source.is_builder() && !source.is_redirect(),
        FetchError::Status { status, .. } => status.starts_with('5') || status.starts_with("429"),
        FetchError::Cancelled(_)
        | FetchError::Checksum { .. }
        | FetchError::BadChecksum(_)
        | FetchError::Store { .. } => false,
    }
}
