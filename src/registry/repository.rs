//! One repository of a registry, for reading: resolve, manifests, blobs. Writing is in `push.rs`.
//!
//! Mirrors are tried first and never trusted more than the origin: whatever they fail at, the origin is asked.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use rbuild_cache::digest::{BlobDigest, Sha256};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::blob::{BlobStream, Source};
use super::challenge::Scopes;
use super::download::{Download, Place};
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

    /// A request to read something here.
    pub(super) fn read_call(&self, method: Method, url: Url) -> Call {
        let dispensable = self.namespace.is_some();
        Call { dispensable, ..Call::new(method, url, Scopes::pull(&self.path)) }
    }

    /// Whether it is to be asked for this document before the origin.
    fn serves(&self, selector: &Selector) -> bool {
        match (self.good_for, selector) {
            (GoodFor::All, _) | (GoodFor::Digests, Selector::Digest(_)) | (GoodFor::Tags, Selector::Tag(_)) => true,
            (GoodFor::Digests, Selector::Tag(_)) | (GoodFor::Tags, Selector::Digest(_)) => false,
        }
    }

    async fn get(&self, method: Method, tail: &str, accept: &str, what: &str) -> Result<Response, Error> {
        let call = self.read_call(method.clone(), self.url(tail).await?).header(ACCEPT, accept);
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

    /// A document. What came damaged or not whole is asked for again.
    async fn document(&self, selector: &Selector, what: &str) -> Result<Document, Error> {
        let mut used = 0;
        loop {
            let response = self.get(Method::GET, &format!("manifests/{selector}"), manifest::ACCEPT, what).await?;
            let error = match self.read(response, selector, what).await {
                Ok(document) => return Ok(document),
                Err(error) => error,
            };
            match self.host.shared.retry.after(&mut used, &error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn read(&self, response: Response, selector: &Selector, what: &str) -> Result<Document, Error> {
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let claimed = digest_header(&response);
        let bytes = self.host.read(response, MAX_MANIFEST, what).await?;
        let expected = match selector {
            Selector::Digest(digest) => Some(*digest),
            Selector::Tag(_) => claimed,
        };
        // Before it is read: what is damaged need not make sense.
        let found = BlobDigest(Sha256::of(&bytes));
        match expected {
            Some(expected) if expected != found => Err(Error::Digest { what: what.to_owned(), expected, found }),
            _ => Document::new(bytes, media_type.as_deref()).map_err(|error| Error::manifest(what, error)),
        }
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

    /// The mirrors that are still to be asked.
    fn mirrors(&self) -> impl Iterator<Item = &Endpoint> {
        self.mirrors.iter().filter(|mirror| mirror.host.is_trusted())
    }

    async fn resolve_selector(&self, selector: &Selector) -> Result<BlobDigest, Error> {
        let what = self.label(selector);
        for mirror in self.mirrors().filter(|mirror| mirror.serves(selector)) {
            if let Ok(found) = mirror.resolve(selector, &what).await {
                return Ok(found);
            }
        }
        self.origin.resolve(selector, &what).await
    }

    async fn fetch_manifest(&self, selector: &Selector) -> Result<Document, Error> {
        let what = self.label(selector);
        for mirror in self.mirrors().filter(|mirror| mirror.serves(selector)) {
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
        let endpoints = self.mirrors().chain([&self.origin]);
        let mut places: VecDeque<_> = endpoints.map(|e| Place::Blob(e.clone(), descriptor.digest)).collect();
        // Layers that registries may not hold have other addresses in their descriptor.
        let elsewhere = descriptor.urls.iter().filter_map(|text| Url::parse(text).ok());
        for url in elsewhere.filter(|url| matches!(url.scheme(), "http" | "https")) {
            let mut call = Call::new(Method::GET, url, Scopes::pull(&self.origin.path));
            call.authorize = false;
            places.push_back(Place::Url(self.origin.host.clone(), call));
        }
        let download = Download::open(places, what.clone(), self.retry).await?;
        Ok(BlobStream::new(what, descriptor, Source::Http(Box::new(download)), slot))
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
