//! A bucket of an S3-compatible server as a repository: objects by digest, documents by name as well.
//!
//! ```text
//! <prefix><blobs prefix>sha256:<hex>     blobs and documents
//! <prefix><manifests prefix><name>       the document that has this name
//! ```
//! Every request goes to a URL that is signed in its query (Signature Version 4, `UNSIGNED-PAYLOAD`), so that retries,
//! continued downloads, proxies and certificates are those of registries. A blob is sent in one piece: S3's limit for that is
//! 5 GiB.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use rbuild_cache::digest::{BlobDigest, Sha256};
use reqwest::{Method, Response, StatusCode};
use sha2::Digest as _;
use url::Url;

use super::blob::{BlobStream, Source};
use super::body::Body;
use super::challenge::Scopes;
use super::error::Error;
use super::host::{Call, Host};
use super::options::Retry;
use super::push::check_size;
use super::remote::{Answer, BlobSource, Destination, Remote, Selector};
use super::repository::Download;
use crate::oci::manifest::{Descriptor, Document, MAX_MANIFEST};

/// How long a signed URL is good for: longer than any single transfer should take.
const EXPIRES: u32 = 6 * 3600;
/// The biggest object that can be sent in one piece.
const MAX_OBJECT: u64 = 5 << 30;

/// Who we are to the server. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// Of temporary credentials.
    pub token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

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
    /// Without keys requests are not signed.
    pub keys: Option<Keys>,
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// A bucket.
#[derive(Clone)]
pub struct Bucket {
    pub(super) name: BucketName,
    pub(super) host: Arc<Host>,
    pub(super) retry: Retry,
    pub(super) clock: fn() -> SystemTime,
    pub(super) slots: Arc<tokio::sync::Semaphore>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.name)
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

    /// The URL, signed for one method and some time from `now` on.
    fn signed(&self, method: &Method, key: &str, now: SystemTime, expires: u32) -> Result<Url, Error> {
        let mut url = self.url(key)?;
        let Some(keys) = &self.keys else { return Ok(url) };
        let time = Timestamp::try_from(now).map_err(|error| Error::protocol(self, error.to_string()))?;
        let (stamp, day) = (time.strftime("%Y%m%dT%H%M%SZ").to_string(), time.strftime("%Y%m%d").to_string());
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let mut query = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", keys.id)),
            ("X-Amz-Date", stamp.clone()),
            ("X-Amz-Expires", expires.to_string()),
        ];
        query.extend(keys.token.iter().map(|token| ("X-Amz-Security-Token", token.clone())));
        query.push(("X-Amz-SignedHeaders", "host".to_owned()));
        let pair = |(name, value): &(&str, String)| format!("{name}={}", escaped(value, true));
        let query = query.iter().map(pair).collect::<Vec<_>>().join("&");
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let request = format!("{method}\n{}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", url.path());
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", Sha256::of(request.as_bytes()).hex());
        let mut key = format!("AWS4{}", keys.secret).into_bytes();
        for part in [day.as_str(), self.region.as_str(), "s3", "aws4_request"] {
            key = hmac(&key, part.as_bytes()).to_vec();
        }
        let signature = hmac(&key, text.as_bytes()).iter().fold(String::new(), |hex, b| format!("{hex}{b:02x}"));
        url.set_query(Some(&format!("{query}&X-Amz-Signature={signature}")));
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

/// RFC 2104 over SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::of(key).0);
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let keyed = |pad: u8, message: &[u8]| -> [u8; 32] {
        let mut hasher = sha2::Sha256::new();
        hasher.update(block.map(|b| b ^ pad));
        hasher.update(message);
        hasher.finalize().into()
    };
    keyed(0x5c, &keyed(0x36, message))
}

/// Percent-encoding as signatures want it; a path keeps its slashes.
fn escaped(text: &str, slashes: bool) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            b'/' if !slashes => out.push('/'),
            b => out += &format!("%{b:02X}"),
        }
    }
    out
}

impl Bucket {
    fn label(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name.bucket)
    }

    fn call(&self, method: &Method, key: &str) -> Result<Call, Error> {
        let url = self.name.signed(method, key, (self.clock)(), EXPIRES)?;
        let mut call = Call::new(method.clone(), url, Scopes::pull(""));
        call.authorize = false;
        Ok(call)
    }

    /// Sends a request; an answer that is no success is an error.
    async fn send(&self, method: Method, key: &str, body: Body) -> Result<Response, Error> {
        let call = self.call(&method, key)?.body(body);
        let response = self.host.send(&call).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let action = if method == Method::PUT { "push" } else { "pull" };
        // HEAD answers say no reason.
        match response.status() {
            StatusCode::NOT_FOUND => Err(Error::NotFound(self.label(key))),
            status @ (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
                let text = response.text().await.unwrap_or_default();
                let reason = between(&text, "<Code>", "</Code>").map(|code| format!(": {code}")).unwrap_or_default();
                Err(Error::Denied {
                    what: self.label(key),
                    message: format!("{action} access denied: {status}{reason}"),
                })
            }
            _ => Err(self.host.refusal(action, self.label(key), &method, response).await),
        }
    }

    async fn read(&self, selector: &Selector) -> Result<Document, Error> {
        let key = self.name.key_of(selector);
        let what = self.label(&key);
        let mut response = self.send(Method::GET, &key, Body::Empty).await?;
        let mut bytes = Vec::new();
        let url = response.url().clone();
        while let Some(chunk) = response.chunk().await.map_err(|error| Error::transport(&Method::GET, &url, error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MAX_MANIFEST {
                return Err(Error::TooLarge { what, limit: MAX_MANIFEST });
            }
        }
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
        let call = self.call(&Method::GET, &key)?;
        let download = Download::of(self.host.clone(), call, what.clone(), self.retry).await?;
        Ok(BlobStream::new(what, descriptor, Source::Http(Box::new(download)), slot))
    }

    async fn has(&self, descriptor: &Descriptor) -> Result<bool, Error> {
        let key = self.name.key_of_blob(descriptor.digest);
        match self.send(Method::HEAD, &key, Body::Empty).await {
            Ok(response) => {
                let size = response.headers().get(reqwest::header::CONTENT_LENGTH);
                let size = size.and_then(|size| size.to_str().ok()?.parse::<u64>().ok());
                Ok(size.is_none_or(|size| size == descriptor.size))
            }
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, descriptor: &Descriptor, source: &BlobSource) -> Result<(), Error> {
        check_size(descriptor, source).await?;
        let key = self.name.key_of_blob(descriptor.digest);
        if descriptor.size > MAX_OBJECT {
            return Err(Error::TooLarge { what: self.label(&key), limit: MAX_OBJECT });
        }
        let _slot = self.slots.acquire().await;
        self.send(Method::PUT, &key, Body::of(source, descriptor)).await.map(drop)
    }
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
                self.send(Method::PUT, &key, Body::Bytes(bytes.into())).await?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn signatures_are_those_of_the_documentation() {
        // "Authenticating Requests: Using Query Parameters" of Amazon's S3 API reference.
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let name = BucketName {
            bucket: "examplebucket".to_owned(),
            region: "us-east-1".to_owned(),
            endpoint: Url::parse("https://s3.amazonaws.com").ok(),
            path_style: false,
            prefix: String::new(),
            blobs: String::new(),
            manifests: String::new(),
            keys: Some(keys),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let signed = name.signed(&Method::GET, "test.txt", now, 86_400).expect("valid").to_string();
        let signature = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert!(signed.ends_with(signature), "{signed}");
    }

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
            keys: None,
        };
        let key = name.key_of(&Selector::Tag("main".to_owned()));
        let url = |name: &BucketName| name.signed(&Method::GET, &key, UNIX_EPOCH, EXPIRES).expect("valid").to_string();
        assert_eq!(url(&name), "https://ci.s3.eu-west-1.amazonaws.com/a%20b/manifests/main");
        (name.path_style, name.endpoint) = (true, Url::parse("http://127.0.0.1:9000").ok());
        assert_eq!(url(&name), "http://127.0.0.1:9000/ci/a%20b/manifests/main");
        name.keys = Some(Keys { id: "AK".to_owned(), secret: "very secret".to_owned(), token: Some("t/t".to_owned()) });
        let signed =
            name.signed(&Method::GET, &key, UNIX_EPOCH + Duration::from_secs(1), EXPIRES).expect("valid").to_string();
        assert!(
            signed
                .contains("X-Amz-Credential=AK%2F19700101%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Date=19700101T000001Z")
        );
        assert!(signed.contains("&X-Amz-Security-Token=t%2Ft&X-Amz-SignedHeaders=host&X-Amz-Signature="), "{signed}");
        assert!(!format!("{name:?}{signed}").contains("secret"));
    }
}
