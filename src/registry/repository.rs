//! One repository of a registry, for reading: resolve, manifests, blobs. Writing is in `push.rs`.
//!
//! Mirrors are tried first and never trusted more than the origin: whatever they fail at, the origin is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use rbuild_cache::digest::BlobDigest;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::blob::{BlobStream, Source};
use super::challenge::Scopes;
use super::error::Error;
use super::host::{Call, Host};
use super::options::{GoodFor, Retry};
use super::remote::{Answer, Remote, Selector};
use crate::oci::manifest::{self, Descriptor, Document, MAX_MANIFEST};
use crate::oci::reference::Reference;

const DIGEST_HEADER: &str = "docker-content-digest";

/// One repository, e.g. `docker.io/library/alpine`. Clones share connections and tokens.
#[derive(Clone)]
pub struct Repository {
    pub(super) name: Reference,
    pub(super) origin: Endpoint,
    pub(super) mirrors: Vec<Endpoint>,
    pub(super) slots: Arc<tokio::sync::Semaphore>,
    pub(super) retry: Retry,
    /// Upload sessions opened by a mount that did not succeed.
    pub(super) sessions: Arc<Mutex<BTreeMap<BlobDigest, Url>>>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({})", self.name)
    }
}

/// A repository on one host.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) host: Arc<Host>,
    /// The repository there; a mirror may put a prefix before it.
    pub(super) path: String,
    /// For mirrors: whose repositories are meant.
    pub(super) namespace: Option<String>,
    /// For mirrors: which names it is asked for.
    pub(super) good_for: GoodFor,
    /// Nothing may be asked of it.
    pub(super) blocked: bool,
}

impl Endpoint {
    /// The URL of something below the repository, e.g. `manifests/latest`.
    pub(super) async fn url(&self, tail: &str) -> Result<Url, Error> {
        if self.blocked {
            return Err(Error::Blocked(format!("{}/{}", self.host.name(), self.path)));
        }
        let mut url = self.host.url(&format!("{}/{tail}", self.path)).await?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Whether it is to be asked for this document before the origin.
    fn serves(&self, selector: &Selector) -> bool {
        match (self.good_for, selector) {
            (GoodFor::All, _) | (GoodFor::Digests, Selector::Digest(_)) | (GoodFor::Tags, Selector::Tag(_)) => true,
            (GoodFor::Digests, Selector::Tag(_)) | (GoodFor::Tags, Selector::Digest(_)) => false,
        }
    }

    async fn get(&self, method: Method, tail: &str, accept: &str, what: &str) -> Result<Response, Error> {
        let call = Call::new(method.clone(), self.url(tail).await?, Scopes::pull(&self.path)).header(ACCEPT, accept);
        let response = self.host.send(&call).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.host.refusal("pull", what.to_owned(), &method, response).await)
    }

    async fn resolve(&self, selector: &Selector, what: &str) -> Result<BlobDigest, Error> {
        let head = self.get(Method::HEAD, &format!("manifests/{selector}"), manifest::ACCEPT, what).await;
        match head.map(|response| digest_header(&response)) {
            Ok(Some(digest)) => Ok(digest),
            // Some registries refuse HEAD or leave the digest out; the document itself always has one.
            Ok(None) | Err(Error::Status { status: StatusCode::METHOD_NOT_ALLOWED, .. }) => {
                self.document(selector, what).await.map(|document| document.digest())
            }
            Err(error) => Err(error),
        }
    }

    async fn document(&self, selector: &Selector, what: &str) -> Result<Document, Error> {
        let mut response = self.get(Method::GET, &format!("manifests/{selector}"), manifest::ACCEPT, what).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let claimed = digest_header(&response);
        let mut bytes = Vec::new();
        while let Some(chunk) = self.host.piece(&Method::GET, &mut response).await? {
            if (bytes.len() + chunk.len()) as u64 > MAX_MANIFEST {
                return Err(Error::TooLarge { what: what.to_owned(), limit: MAX_MANIFEST });
            }
            bytes.extend_from_slice(&chunk);
        }
        let document = Document::new(bytes, media_type.as_deref()).map_err(|error| Error::manifest(what, error))?;
        let expected = match selector {
            Selector::Digest(digest) => Some(*digest),
            Selector::Tag(_) => claimed,
        };
        match expected {
            Some(expected) if expected != document.digest() => {
                Err(Error::Digest { what: what.to_owned(), expected, found: document.digest() })
            }
            _ => Ok(document),
        }
    }

    async fn download(&self, digest: BlobDigest, what: &str, retry: Retry) -> Result<Download, Error> {
        let url = self.url(&format!("blobs/{digest}")).await?;
        Download::open(self, url, true, what.to_owned(), retry).await
    }
}

impl Repository {
    /// All its tags, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let (first, scopes) = (self.origin.url("tags/list").await?, Scopes::pull(&self.origin.path));
        let page = |bytes: &[u8]| serde_json::from_slice(bytes).map(|page: Page| page.tags.unwrap_or_default());
        self.origin.host.list(first, &scopes, &self.name.to_string(), &page).await
    }

    /// Its name, without tag and digest.
    pub fn name(&self) -> &Reference {
        &self.name
    }

    /// How messages call one document of it.
    fn label(&self, selector: &Selector) -> String {
        match selector {
            Selector::Tag(tag) => format!("{}:{tag}", self.name),
            Selector::Digest(digest) => format!("{}@{digest}", self.name),
        }
    }

    async fn resolve_selector(&self, selector: &Selector) -> Result<BlobDigest, Error> {
        let what = self.label(selector);
        for mirror in self.mirrors.iter().filter(|mirror| mirror.serves(selector)) {
            if let Ok(found) = mirror.resolve(selector, &what).await {
                return Ok(found);
            }
        }
        self.origin.resolve(selector, &what).await
    }

    async fn fetch_manifest(&self, selector: &Selector) -> Result<Document, Error> {
        let what = self.label(selector);
        for mirror in self.mirrors.iter().filter(|mirror| mirror.serves(selector)) {
            if let Ok(found) = mirror.document(selector, &what).await {
                return Ok(found);
            }
        }
        self.origin.document(selector, &what).await
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobStream, Error> {
        // Never fails: the semaphore is never closed.
        let slot = self.slots.clone().acquire_owned().await.ok();
        let what = self.label(&Selector::Digest(descriptor.digest));
        let stream = |download| BlobStream::new(what.clone(), descriptor, Source::Http(Box::new(download)), slot);
        for mirror in &self.mirrors {
            if let Ok(download) = mirror.download(descriptor.digest, &what, self.retry).await {
                return Ok(stream(download));
            }
        }
        match self.origin.download(descriptor.digest, &what, self.retry).await {
            Ok(download) => Ok(stream(download)),
            Err(error) => self.open_elsewhere(descriptor, &what).await.map(stream).ok_or(error),
        }
    }

    /// Layers that registries may not hold have other addresses in their descriptor.
    async fn open_elsewhere(&self, descriptor: &Descriptor, what: &str) -> Option<Download> {
        let urls = descriptor.urls.iter().filter_map(|text| Url::parse(text).ok());
        for url in urls.filter(|url| matches!(url.scheme(), "http" | "https")) {
            if let Ok(download) = Download::open(&self.origin, url, false, what.to_owned(), self.retry).await {
                return Some(download);
            }
        }
        None
    }
}

pub(super) fn digest_header(response: &Response) -> Option<BlobDigest> {
    response.headers().get(DIGEST_HEADER)?.to_str().ok()?.parse().ok()
}

impl Remote for Repository {
    fn resolve<'a>(&'a self, selector: &'a Selector) -> Answer<'a, BlobDigest> {
        Box::pin(self.resolve_selector(selector))
    }
    fn manifest<'a>(&'a self, selector: &'a Selector) -> Answer<'a, Document> {
        Box::pin(self.fetch_manifest(selector))
    }
    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> Answer<'a, BlobStream> {
        Box::pin(self.open_blob(descriptor))
    }
}

/// A download that goes on where it broke off.
pub(super) struct Download {
    host: Arc<Host>,
    call: Call,
    what: String,
    response: Option<Response>,
    /// Bytes at the start of `response` that we have already, because the server ignored the range asked for.
    skip: u64,
    retry: Retry,
    failures: u32,
}

impl Download {
    async fn open(endpoint: &Endpoint, url: Url, authorize: bool, what: String, retry: Retry) -> Result<Self, Error> {
        let mut call = Call::new(Method::GET, url, Scopes::pull(&endpoint.path));
        call.authorize = authorize;
        Self::of(endpoint.host.clone(), call, what, retry).await
    }

    /// The download that `call` asks `host` for.
    pub(super) async fn of(host: Arc<Host>, call: Call, what: String, retry: Retry) -> Result<Self, Error> {
        let mut download = Self { host, call, what, response: None, skip: 0, retry, failures: 0 };
        download.connect(0).await?;
        Ok(download)
    }

    /// Asks for the bytes from `received` on.
    async fn connect(&mut self, received: u64) -> Result<(), Error> {
        self.call.headers.remove(RANGE);
        if received > 0 {
            self.call.headers.insert(RANGE, format!("bytes={received}-").parse().expect("digits are header text"));
        }
        let response = self.host.send(&self.call).await?;
        self.skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, received) => 0,
            StatusCode::OK => received,
            _ => return Err(self.host.refusal("pull", self.what.clone(), &Method::GET, response).await),
        };
        self.response = Some(response);
        Ok(())
    }

    /// The next bytes after `received` of `size`, connecting again as often as patience allows.
    pub(super) async fn next(&mut self, received: u64, size: u64) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let Some(response) = self.response.as_mut() else {
                self.connect(received).await?;
                continue;
            };
            let failure = match self.host.piece(&Method::GET, response).await {
                Ok(Some(chunk)) => {
                    let skipped = self.skip.min(chunk.len() as u64);
                    self.skip -= skipped;
                    let new = if skipped == 0 { chunk } else { chunk[skipped as usize..].to_vec() };
                    if new.is_empty() {
                        continue;
                    }
                    self.failures = 0;
                    return Ok(Some(new));
                }
                // Too short: servers behind proxies end like this when the connection behind them breaks.
                Ok(None) if received < size => None,
                Ok(None) => return Ok(None),
                Err(error) => Some(error),
            };
            self.response = None;
            self.failures += 1;
            let Some(pause) = self.retry.pause(self.failures, None) else {
                let short = Error::Size { what: self.what.clone(), expected: size, found: received };
                return Err(failure.unwrap_or(short));
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether a 206 answer starts where it was asked to.
fn starts_at(response: &Response, position: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse().ok()) == Some(position)
}
