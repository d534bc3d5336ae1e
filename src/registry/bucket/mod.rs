//! A bucket of an S3-compatible server as a repository: objects by digest, documents by name as well.
//!
//! ```text
//! <prefix><blobs prefix>sha256:<hex>     blobs and documents
//! <prefix><manifests prefix><name>       the document that has this name
//! ```
//! Every request goes to a URL that is signed in its query (`signature`), so that retries, continued downloads, proxies and
//! certificates are those of registries. Big blobs are sent in parts (`parts`). A bucket may be told to remove objects that were
//! not touched for some time; what is used again and older than `touch_refresh` is therefore copied onto itself.

mod credentials;
mod parts;
mod signature;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rbuild_cache::digest::{BlobDigest, Sha256};
use reqwest::header::{CONTENT_LENGTH, HeaderName, LAST_MODIFIED};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::answer::retry_after;
use super::blob::{BlobStream, Source};
use super::body::Body;
use super::challenge::Scopes;
use super::download::{Download, Place};
use super::error::{Error, shown};
use super::host::{Call, Host};
use super::options::Retry;
use super::push::check_size;
use super::remote::{Answer, BlobSource, Destination, Remote, Selector};
use crate::oci::manifest::{Descriptor, Document, MAX_MANIFEST};
use credentials::KeyRing;
pub use credentials::{Credentials, KeyEndpoint, Keys};
use signature::escaped;

/// How long a signed URL is good for: longer than any single transfer should take.
const EXPIRES: u32 = 6 * 3600;
/// The biggest object that can be sent, or copied, in one piece.
const MAX_PIECE: u64 = 5 << 30;

/// Which bucket, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketName {
    /// The bucket.
    pub bucket: String,
    /// Its region, which is part of the signature.
    pub region: String,
    /// The server; `None` is AWS's for the region.
    pub endpoint: Option<Url>,
    /// The bucket stands in the path, not before the host name.
    pub path_style: bool,
    /// Before everything.
    pub prefix: String,
    /// Before digests.
    pub blobs: String,
    /// Before names.
    pub manifests: String,
    /// How requests are signed.
    pub credentials: Credentials,
    /// How to work with it.
    pub habits: Habits,
}

/// How to work with a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// Objects that are used again and are older are made new.
    pub touch_refresh: Duration,
    /// Objects that are sent at a time.
    pub upload_parallelism: usize,
    /// How often a request is tried; `None` leaves it to the client.
    pub max_attempts: Option<u32>,
}

impl Default for Habits {
    fn default() -> Self {
        Self { touch_refresh: Duration::from_secs(24 * 3600), upload_parallelism: 4, max_attempts: None }
    }
}

/// Two buckets with the same text are the same one.
impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Some(server) => write!(f, "s3+{}/{}/{}", server.as_str().trim_end_matches('/'), self.bucket, self.prefix),
            None => write!(f, "s3://{}/{}", self.bucket, self.prefix),
        }
    }
}

/// A bucket.
#[derive(Clone)]
pub struct Bucket {
    name: BucketName,
    keys: Arc<KeyRing>,
    host: Arc<Host>,
    retry: Retry,
    clock: fn() -> SystemTime,
    slots: Arc<tokio::sync::Semaphore>,
    uploads: Arc<tokio::sync::Semaphore>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.name)
    }
}

impl Bucket {
    /// A bucket on `host`.
    pub(super) fn new(
        name: &BucketName,
        host: Arc<Host>,
        retry: Retry,
        clock: fn() -> SystemTime,
        slots: Arc<tokio::sync::Semaphore>,
    ) -> Self {
        let uploads = Arc::new(tokio::sync::Semaphore::new(name.habits.upload_parallelism));
        let keys = Arc::new(KeyRing::new(name.credentials.clone()));
        Self { name: name.clone(), keys, host, retry, clock, slots, uploads }
    }
}

impl BucketName {
    /// The server's address without the bucket.
    pub(super) fn server(&self) -> Result<Url, Error> {
        let of_region = || Url::parse(&format!("https://s3.{}.amazonaws.com", self.region));
        self.endpoint.clone().map_or_else(of_region, Ok).map_err(|error| Error::protocol(self, error.to_string()))
    }

    /// The URL of an object.
    fn url(&self, key: &str) -> Result<Url, Error> {
        let mut url = self.server()?;
        let mut path = url.path().trim_end_matches('/').to_owned();
        if self.path_style {
            path = format!("{path}/{}", escaped(&self.bucket, false));
        } else {
            let host = format!("{}.{}", self.bucket, url.host_str().unwrap_or_default());
            url.set_host(Some(&host)).map_err(|error| Error::protocol(self, error.to_string()))?;
        }
        url.set_path(&format!("{path}/{}", escaped(key, false)));
        Ok(url)
    }

    fn key_of_blob(&self, digest: BlobDigest) -> String {
        format!("{}{}{digest}", self.prefix, self.blobs)
    }

    fn key_of(&self, selector: &Selector) -> String {
        match selector {
            Selector::Digest(digest) => self.key_of_blob(*digest),
            Selector::Tag(name) => format!("{}{}{name}", self.prefix, self.manifests),
        }
    }
}

/// What is asked of an object.
struct Ask<'a> {
    method: Method,
    key: &'a str,
    /// Names in order and in lower case.
    query: &'a [(&'a str, String)],
    /// Names in order and in lower case.
    headers: &'a [(&'a str, String)],
    body: Body,
}

impl<'a> Ask<'a> {
    fn new(method: Method, key: &'a str) -> Self {
        Self { method, key, query: &[], headers: &[], body: Body::Empty }
    }
}

impl Bucket {
    fn label(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name.bucket)
    }

    async fn call(&self, ask: &Ask<'_>) -> Result<Call, Error> {
        let now = (self.clock)();
        let keys = self.keys.keys(now).await?;
        let Ask { method, key, query, headers, body } = ask;
        let request = signature::Request { method, url: self.name.url(key)?, query, headers };
        let signed = request.signed(keys.as_ref(), &self.name.region, now, EXPIRES);
        let url = signed.map_err(|error| Error::protocol(&self.name, error.to_string()))?;
        let mut call = Call::new(method.clone(), url, Scopes::pull("")).body(body.clone());
        for (name, value) in *headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("our own names are header names");
            call = call.header(name, value);
        }
        call.authorize = false;
        Ok(call)
    }

    /// Sends a request; an answer that is no success is an error.
    async fn send(&self, ask: Ask<'_>) -> Result<Response, Error> {
        let response = self.host.send(&self.call(&ask).await?).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(&ask, response).await) }
    }

    async fn refused(&self, ask: &Ask<'_>, response: Response) -> Error {
        let (status, url, retry_after) = (response.status(), shown(response.url()), retry_after(&response));
        let text = match ask.method {
            Method::HEAD if status != StatusCode::NOT_FOUND => self.refusal_of_get(ask.key).await.unwrap_or_default(),
            _ => self.host.read_limited(response).await.unwrap_or_default(),
        };
        let reason = reason(&String::from_utf8_lossy(&text));
        match status {
            StatusCode::NOT_FOUND => Error::NotFound(format!("{}{reason}", self.label(ask.key))),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                let action = if ask.method == Method::GET || ask.method == Method::HEAD { "pull" } else { "push" };
                let message = format!("{action} access denied: {status}{reason}{}", self.keys.note());
                Error::Denied { what: self.label(ask.key), message, help: None }
            }
            status => Error::Status { method: ask.method.to_string(), url, status, message: reason, retry_after },
        }
    }

    /// Answers to HEAD have no body; the same question by GET is refused with a reason.
    async fn refusal_of_get(&self, key: &str) -> Option<Vec<u8>> {
        let response = self.host.send(&self.call(&Ask::new(Method::GET, key)).await.ok()?).await.ok()?;
        if response.status().is_success() { None } else { self.host.read_limited(response).await.ok() }
    }

    async fn read(&self, selector: &Selector) -> Result<Document, Error> {
        let key = self.name.key_of(selector);
        let what = self.label(&key);
        let response = self.send(Ask::new(Method::GET, &key)).await?;
        let bytes = self.host.read(response, MAX_MANIFEST, &what).await?;
        if let Selector::Digest(expected) = selector {
            let found = BlobDigest(Sha256::of(&bytes));
            if found != *expected {
                return Err(Error::Digest { what, expected: *expected, found });
            }
        }
        Document::new(bytes, None).map_err(|error| Error::manifest(what, error))
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobStream, Error> {
        let slot = self.slots.clone().acquire_owned().await.ok();
        let key = self.name.key_of_blob(descriptor.digest);
        let what = self.label(&key);
        let call = self.call(&Ask::new(Method::GET, &key)).await?;
        let place = Place::Url(self.host.clone(), call);
        let download = Download::open([place].into(), what.clone(), self.retry).await?;
        Ok(BlobStream::new(what, descriptor, Source::Http(Box::new(download)), slot))
    }

    /// Whether a blob is there; if so, it is kept from becoming old.
    async fn has(&self, descriptor: &Descriptor) -> Result<bool, Error> {
        let key = self.name.key_of_blob(descriptor.digest);
        let response = match self.send(Ask::new(Method::HEAD, &key)).await {
            Ok(response) => response,
            Err(Error::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let size = header(CONTENT_LENGTH).and_then(|size| size.parse::<u64>().ok());
        if size.is_some_and(|size| size != descriptor.size) {
            return Ok(false);
        }
        let written = header(LAST_MODIFIED).and_then(|text| httpdate::parse_http_date(text).ok());
        let age = written.and_then(|written| (self.clock)().duration_since(written).ok());
        if age.is_some_and(|age| age > self.name.habits.touch_refresh) {
            self.touch(&key, descriptor.size).await?;
        }
        Ok(true)
    }

    /// Makes an object new by copying it onto itself.
    async fn touch(&self, key: &str, size: u64) -> Result<(), Error> {
        let source = format!("/{}/{}", escaped(&self.name.bucket, false), escaped(key, false));
        if size >= MAX_PIECE {
            return self.copy_parts(key, &source, size).await;
        }
        // A copy that changes nothing would be refused.
        let headers = [
            ("x-amz-copy-source", source),
            ("x-amz-meta-updated-at", httpdate::fmt_http_date((self.clock)())),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
        ];
        let ask = Ask { headers: &headers, ..Ask::new(Method::PUT, key) };
        let answer = self.host.read_limited(self.send(ask).await?).await?;
        self.succeeded(key, &answer)
    }

    /// Long operations are answered with success first and may still end with an error.
    fn succeeded(&self, key: &str, answer: &[u8]) -> Result<(), Error> {
        let text = String::from_utf8_lossy(answer);
        if text.contains("<Error>") {
            return Err(Error::protocol(self.label(key), format!("push failed{}", reason(&text))));
        }
        Ok(())
    }

    async fn put(&self, descriptor: &Descriptor, source: &BlobSource) -> Result<(), Error> {
        check_size(descriptor, source).await?;
        let key = self.name.key_of_blob(descriptor.digest);
        let _turn = self.uploads.acquire().await;
        match source {
            BlobSource::File(path) if descriptor.size > parts::IN_ONE_PIECE => {
                return self.send_parts(&key, path, descriptor.size).await;
            }
            BlobSource::File(_) | BlobSource::Bytes(_) | BlobSource::Remote(_) => {}
        }
        if descriptor.size > MAX_PIECE {
            return Err(Error::TooLarge { what: self.label(&key), limit: MAX_PIECE });
        }
        let _slot = self.slots.acquire().await;
        self.send(Ask { body: Body::of(source, descriptor), ..Ask::new(Method::PUT, &key) }).await.map(drop)
    }
}

/// Code and message of an error document, with `: ` before each.
fn reason(text: &str) -> String {
    let part = |before: &str, after: &str| between(text, before, after).map(|found| format!(": {found}"));
    [part("<Code>", "</Code>"), part("<Message>", "</Message>")].into_iter().flatten().collect()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

impl Remote for Bucket {
    fn resolve<'a>(&'a self, selector: &'a Selector) -> Answer<'a, BlobDigest> {
        Box::pin(async move { Ok(self.read(selector).await?.digest()) })
    }
    fn manifest<'a>(&'a self, selector: &'a Selector) -> Answer<'a, Document> {
        Box::pin(self.read(selector))
    }
    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> Answer<'a, BlobStream> {
        Box::pin(self.open_blob(descriptor))
    }
}

impl Destination for Bucket {
    fn has_blob<'a>(&'a self, descriptor: &'a Descriptor, _elsewhere: &'a [String]) -> Answer<'a, bool> {
        Box::pin(self.has(descriptor))
    }
    fn push_blob<'a>(&'a self, descriptor: &'a Descriptor, source: BlobSource) -> Answer<'a, ()> {
        Box::pin(async move { self.put(descriptor, &source).await })
    }
    fn push_manifest<'a>(&'a self, document: &'a Document, tag: Option<&'a str>) -> Answer<'a, ()> {
        Box::pin(async move {
            let bytes = document.bytes().to_vec();
            self.put(&document.descriptor(), &BlobSource::Bytes(bytes.clone())).await?;
            if let Some(tag) = tag {
                let key = self.name.key_of(&Selector::Tag(tag.to_owned()));
                self.send(Ask { body: Body::Bytes(bytes.into()), ..Ask::new(Method::PUT, &key) }).await?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn objects_have_the_same_key_in_both_styles() {
        let mut name = BucketName {
            bucket: "ci".to_owned(),
            region: "eu-west-1".to_owned(),
            endpoint: None,
            path_style: false,
            prefix: "a b/".to_owned(),
            blobs: "blobs/".to_owned(),
            manifests: "manifests/".to_owned(),
            credentials: Credentials::Anonymous,
            habits: Habits::default(),
        };
        let key = name.key_of(&Selector::Tag("main".to_owned()));
        let url = |name: &BucketName| name.url(&key).expect("valid").to_string();
        assert_eq!(url(&name), "https://ci.s3.eu-west-1.amazonaws.com/a%20b/manifests/main");
        (name.path_style, name.endpoint) = (true, Url::parse("http://127.0.0.1:9000").ok());
        assert_eq!(url(&name), "http://127.0.0.1:9000/ci/a%20b/manifests/main");
        assert_eq!(name.to_string(), "s3+http://127.0.0.1:9000/ci/a b/");
        let keys = Keys { id: "AK".to_owned(), secret: "very secret".to_owned(), token: Some("t/t".to_owned()) };
        name.credentials = Credentials::Keys(keys.clone());
        let request =
            signature::Request { method: &Method::GET, url: name.url(&key).expect("valid"), query: &[], headers: &[] };
        let signed = request.signed(Some(&keys), &name.region, UNIX_EPOCH + Duration::from_secs(1), EXPIRES);
        let signed = signed.expect("valid").to_string();
        assert!(
            signed
                .contains("X-Amz-Credential=AK%2F19700101%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date=19700101T000001Z")
        );
        assert!(signed.contains("&X-Amz-Security-Token=t%2Ft&X-Amz-SignedHeaders=host&X-Amz-Signature="), "{signed}");
        assert!(!format!("{name:?}{signed}").contains("secret"));
    }
}
