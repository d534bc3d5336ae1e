//! Writing to a repository of a registry: look first, mount if possible, send otherwise.
//!
//! The first attempt sends a blob in one piece, which is the fastest and what registries like best. Whatever goes wrong
//! there (a broken connection, a proxy that limits bodies), the next attempts send chunks and continue after the last one
//! that arrived.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use rbuild_cache::digest::BlobDigest;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use url::Url;

use super::blob::BlobStream;
use super::body::Body;
use super::challenge::Scopes;
use super::error::Error;
use super::host::Call;
use super::remote::{Answer, BlobSource, Destination};
use super::repository::Repository;
use crate::oci::manifest::{Descriptor, Document};
use crate::oci::reference::Reference;

const OCTETS: &str = "application/octet-stream";
/// Big enough to be fast, small enough for the memory budget with several blobs at once, and above the 5 MiB that
/// registries on S3 need.
const CHUNK: u64 = 10 << 20;
/// Real ones need one.
const MAX_REDIRECTS: usize = 5;

impl Repository {
    fn scopes(&self) -> Scopes {
        Scopes::push(&self.origin.path)
    }

    fn blob_label(&self, digest: BlobDigest) -> String {
        format!("{}@{digest}", self.name)
    }

    async fn refused<T>(&self, what: String, method: &Method, response: Response) -> Result<T, Error> {
        Err(self.origin.host.refusal("push", what, method, response).await)
    }

    async fn find_blob(&self, descriptor: &Descriptor, elsewhere: &[String]) -> Result<bool, Error> {
        let digest = descriptor.digest;
        if self.has(digest).await? {
            return Ok(true);
        }
        let here = elsewhere.iter().filter_map(|name| Reference::parse(name).ok());
        for other in here.filter(|r| r.domain() == self.name.domain() && r.path() != self.name.path()) {
            // A mount that is refused, for whatever reason, only means that the bytes have to be sent.
            if let Ok(true) = self.mount(digest, other.path()).await {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn mount(&self, digest: BlobDigest, from: &str) -> Result<bool, Error> {
        let mut url = self.origin.url("blobs/uploads/").await?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        let call = Call::new(Method::POST, url, self.scopes().and(from, &["pull"]));
        let response = self.origin.host.send(&call).await?;
        if response.status() == StatusCode::ACCEPTED
            && let Some(session) = location(&response)
        {
            // The registry opened an upload instead; whoever sends the blob can use it.
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, session);
        }
        Ok(response.status() == StatusCode::CREATED)
    }

    async fn send_blob(&self, descriptor: &Descriptor, source: &BlobSource, in_chunks: bool) -> Result<(), Error> {
        check_size(descriptor, source).await?;
        let _slot = self.slot(source).await;
        let (mut used, mut in_chunks) = (0, in_chunks);
        loop {
            let session = self.session(descriptor.digest).await?;
            let outcome = if in_chunks {
                self.send_chunks(session, descriptor, source, &mut used).await
            } else {
                self.finish(session, descriptor.digest, Body::of(source, descriptor)).await
            };
            let Err(error) = outcome else { return Ok(()) };
            let too_big = matches!(error, Error::Status { status: StatusCode::PAYLOAD_TOO_LARGE, .. });
            if too_big && !in_chunks {
                in_chunks = true;
                continue;
            }
            let Some(pause) = self.patience_after(&mut used, &error) else { return Err(error) };
            tokio::time::sleep(pause).await;
            // What broke may have been the answer only.
            if self.has(descriptor.digest).await? {
                return Ok(());
            }
            in_chunks = true;
        }
    }

    /// The pause before the rest of an upload, or all of it, is sent again.
    fn patience_after(&self, used: &mut u32, error: &Error) -> Option<std::time::Duration> {
        // An upload session that is gone or has lost its place: another one may fare better.
        let lost = match error {
            Error::NotFound(_) => true,
            Error::Status { status, .. } => matches!(status.as_u16(), 404 | 416),
            _ => false,
        };
        if lost {
            *used += 1;
            return self.retry.pause(*used, None);
        }
        self.retry.after(used, error)
    }

    async fn has(&self, digest: BlobDigest) -> Result<bool, Error> {
        let call = Call::new(Method::HEAD, self.origin.url(&format!("blobs/{digest}")).await?, self.scopes());
        let response = self.origin.host.send(&call).await?;
        match response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => self.refused(self.blob_label(digest), &Method::HEAD, response).await,
        }
    }

    /// A share of the line. What is passed on from another repository has one already, for its download.
    async fn slot(&self, source: &BlobSource) -> Option<tokio::sync::SemaphorePermit<'_>> {
        match source {
            BlobSource::Bytes(_) | BlobSource::File(_) => self.slots.acquire().await.ok(),
            BlobSource::Remote(_) => None,
        }
    }

    /// An upload session: one that is left over from a mount, or a new one.
    async fn session(&self, digest: BlobDigest) -> Result<Url, Error> {
        let left = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        if let Some(session) = left {
            return Ok(session);
        }
        let call = Call::new(Method::POST, self.origin.url("blobs/uploads/").await?, self.scopes());
        let response = self.origin.host.send(&call).await?;
        match (response.status(), location(&response)) {
            (StatusCode::ACCEPTED, Some(session)) => Ok(session),
            (StatusCode::ACCEPTED, None) => {
                Err(Error::protocol(self.blob_label(digest), "the registry named no place to upload to"))
            }
            _ => self.refused(self.blob_label(digest), &Method::POST, response).await,
        }
    }

    /// Whether an address is on the registry's own host.
    fn is_ours(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| match url.port() {
            Some(port) => self.origin.host.is_at(&format!("{host}:{port}")),
            None => self.origin.host.is_at(host),
        })
    }

    fn upload_call(&self, method: Method, url: Url, body: Body) -> Call {
        let ours = self.is_ours(&url);
        let mut call = Call::new(method, url, self.scopes()).header(CONTENT_TYPE, OCTETS).body(body);
        call.authorize = ours;
        // A session has a state; sending the same again is decided above, not below.
        call.repeat = false;
        call
    }

    /// Sends a part of an upload, wherever it leads. What is sent as a stream is not sent again by the HTTP client.
    async fn upload(&self, call: Call, what: BlobDigest) -> Result<Response, Error> {
        let mut call = call;
        for _ in 0..MAX_REDIRECTS {
            let response = self.origin.host.send(&call).await?;
            match (response.status(), location(&response)) {
                (StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT, Some(elsewhere)) => {
                    call.authorize = self.is_ours(&elsewhere);
                    call.url = elsewhere;
                }
                _ => return Ok(response),
            }
        }
        Err(Error::protocol(self.blob_label(what), "the upload is redirected again and again"))
    }

    async fn finish(&self, mut session: Url, digest: BlobDigest, body: Body) -> Result<(), Error> {
        session.query_pairs_mut().append_pair("digest", &digest.to_string());
        let response = self.upload(self.upload_call(Method::PUT, session, body), digest).await?;
        if response.status().is_success() {
            return Ok(());
        }
        self.refused(self.blob_label(digest), &Method::PUT, response).await
    }

    /// Sends a blob in chunks from the start, for registries known to sit behind a limit on bodies.
    pub async fn push_blob_in_chunks(&self, descriptor: &Descriptor, source: &BlobSource) -> Result<(), Error> {
        self.send_blob(descriptor, source, true).await
    }

    /// `used` is how much of the patience is used up; a chunk that arrives gives back what was used for it.
    async fn send_chunks(
        &self,
        mut session: Url,
        descriptor: &Descriptor,
        source: &BlobSource,
        used: &mut u32,
    ) -> Result<(), Error> {
        let (mut sent, before) = (0, *used);
        let mut chunks = Chunks { source, blob: descriptor, open: None };
        while sent < descriptor.size {
            let chunk = chunks.read(sent, CHUNK.min(descriptor.size - sent)).await?;
            let range = format!("{sent}-{}", sent + chunk.len() as u64 - 1);
            let length = chunk.len() as u64;
            let call = self
                .upload_call(Method::PATCH, session.clone(), Body::Bytes(Arc::new(chunk)))
                .header(CONTENT_RANGE, &range);
            let error = match self.upload(call, descriptor.digest).await {
                Ok(response) if response.status().is_success() => {
                    session = location(&response).unwrap_or(session);
                    (sent, *used) = (sent + length, before);
                    continue;
                }
                Ok(response) => {
                    match self.refused::<()>(self.blob_label(descriptor.digest), &Method::PATCH, response).await {
                        Err(error) => error,
                        Ok(()) => continue,
                    }
                }
                Err(error) => error,
            };
            match self.patience_after(used, &error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
            // Where the registry stands decides; if it cannot say, all starts anew with another session.
            let Ok(Some((place, arrived))) = self.upload_status(&session).await else { return Err(error) };
            (session, sent) = (place, arrived);
        }
        self.finish(session, descriptor.digest, Body::Empty).await
    }

    /// Where an upload stands: where it goes on and how many bytes arrived.
    async fn upload_status(&self, session: &Url) -> Result<Option<(Url, u64)>, Error> {
        let mut call = self.upload_call(Method::GET, session.clone(), Body::Empty);
        call.repeat = true;
        let response = self.origin.host.send(&call).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let range = response.headers().get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let last =
            range.trim_start_matches("bytes=").split('-').nth(1).and_then(|last| last.trim().parse::<u64>().ok());
        // "0-0" is nothing or one byte; sending one byte twice is what the registry would refuse, so nothing is assumed.
        let arrived = last.map_or(0, |last| if last == 0 { 0 } else { last + 1 });
        Ok(Some((location(&response).unwrap_or_else(|| session.clone()), arrived)))
    }

    async fn send_manifest(&self, document: &Document, tag: Option<&str>) -> Result<(), Error> {
        let digest = document.digest();
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let what = tag.map_or_else(|| self.blob_label(digest), |tag| format!("{}:{tag}", self.name));
        let call = Call::new(Method::PUT, self.origin.url(&format!("manifests/{name}")).await?, self.scopes())
            .header(CONTENT_TYPE, document.media_type().as_ref())
            .body(Body::Bytes(Arc::new(document.bytes().to_vec())));
        let response = self.origin.host.send(&call).await?;
        if !response.status().is_success() {
            return self.refused(what, &Method::PUT, response).await;
        }
        let stored = super::repository::digest_header(&response);
        match stored {
            Some(found) if found != digest => Err(Error::Digest { what, expected: digest, found }),
            _ => Ok(()),
        }
    }
}

impl Destination for Repository {
    fn has_blob<'a>(&'a self, descriptor: &'a Descriptor, elsewhere: &'a [String]) -> Answer<'a, bool> {
        Box::pin(self.find_blob(descriptor, elsewhere))
    }
    fn push_blob<'a>(&'a self, descriptor: &'a Descriptor, source: BlobSource) -> Answer<'a, ()> {
        Box::pin(async move { self.send_blob(descriptor, &source, false).await })
    }
    fn push_manifest<'a>(&'a self, document: &'a Document, tag: Option<&'a str>) -> Answer<'a, ()> {
        Box::pin(self.send_manifest(document, tag))
    }
}

fn location(response: &Response) -> Option<Url> {
    let text = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(text).ok()
}

/// A file that changed since it was described would make the registry wait for bytes that never come.
pub(super) async fn check_size(descriptor: &Descriptor, source: &BlobSource) -> Result<(), Error> {
    let found = match source {
        BlobSource::Bytes(bytes) => bytes.len() as u64,
        BlobSource::File(path) => tokio::fs::metadata(path).await.map_err(|error| named(path, &error))?.len(),
        // Verified while it passes.
        BlobSource::Remote(_) => descriptor.size,
    };
    if found == descriptor.size {
        return Ok(());
    }
    Err(Error::Size { what: descriptor.digest.to_string(), expected: descriptor.size, found })
}

fn named(path: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A source read piece by piece, forwards as a rule.
struct Chunks<'a> {
    source: &'a BlobSource,
    blob: &'a Descriptor,
    /// Of another repository: the download, where it stands, and what it gave too much.
    open: Option<(BlobStream, u64, Vec<u8>)>,
}

impl Chunks<'_> {
    async fn read(&mut self, at: u64, length: u64) -> Result<Vec<u8>, Error> {
        match self.source {
            BlobSource::Bytes(bytes) => Ok(bytes[at as usize..(at + length) as usize].to_vec()),
            BlobSource::File(path) => {
                let mut file = tokio::fs::File::open(path).await.map_err(|error| named(path, &error))?;
                file.seek(std::io::SeekFrom::Start(at)).await?;
                let mut chunk = vec![0; length as usize];
                file.read_exact(&mut chunk).await.map_err(|error| named(path, &error))?;
                Ok(chunk)
            }
            BlobSource::Remote(from) => {
                let fits = |open: &(BlobStream, u64, Vec<u8>)| open.1 <= at;
                let (mut stream, mut position, mut left) = match self.open.take().filter(fits) {
                    Some(open) => open,
                    None => (from.blob(self.blob).await?, 0, Vec::new()),
                };
                let mut chunk = Vec::with_capacity(length as usize);
                while (chunk.len() as u64) < length {
                    if left.is_empty() {
                        left = stream.chunk().await?.ok_or_else(|| Error::Size {
                            what: self.blob.digest.to_string(),
                            expected: self.blob.size,
                            found: position,
                        })?;
                    }
                    // What the registry has already is passed over.
                    let skipped = (at.saturating_sub(position) as usize).min(left.len());
                    let wanted = (length as usize - chunk.len()).min(left.len() - skipped);
                    chunk.extend_from_slice(&left[skipped..skipped + wanted]);
                    left.drain(..skipped + wanted);
                    position += (skipped + wanted) as u64;
                }
                if position == self.blob.size {
                    // The end proves the digest.
                    stream.chunk().await?;
                } else {
                    self.open = Some((stream, position, left));
                }
                Ok(chunk)
            }
        }
    }
}
