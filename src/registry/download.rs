//! A download that goes on where it broke off: on the same line, on a new one, or at the next place that has the blob.

use std::collections::VecDeque;
use std::sync::Arc;

use rbuild_cache::digest::BlobDigest;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::error::Error;
use super::host::{Call, Host};
use super::options::Retry;
use super::pace::{LEAST, Pace};
use super::repository::Endpoint;

/// Where a blob can be had.
pub(super) enum Place {
    /// In a repository of a registry.
    Blob(Endpoint, BlobDigest),
    /// Wherever this request leads.
    Url(Arc<Host>, Call),
}

impl Place {
    fn host(&self) -> &Arc<Host> {
        match self {
            Self::Blob(endpoint, _) => &endpoint.host,
            Self::Url(host, _) => host,
        }
    }

    async fn call(&self) -> Result<Call, Error> {
        match self {
            Self::Blob(endpoint, digest) => {
                let url = endpoint.url(&format!("blobs/{digest}")).await?;
                Ok(endpoint.read_call(Method::GET, url))
            }
            Self::Url(_, call) => Ok(call.clone()),
        }
    }

    /// Whether it is none of a registry's places.
    fn is_elsewhere(&self) -> bool {
        match self {
            Self::Blob(..) => false,
            Self::Url(_, call) => !call.authorize,
        }
    }
}

/// A download that goes on where it broke off, at the next place if this one is of no use.
pub(super) struct Download {
    here: Place,
    others: VecDeque<Place>,
    what: String,
    response: Option<Response>,
    pace: Pace,
    /// Bytes at the start of `response` that we have already, because the server ignored the range asked for.
    skip: u64,
    retry: Retry,
    /// How much of the patience is used up since there were `progress` bytes.
    used: u32,
    progress: u64,
}

impl Download {
    /// The download from the first of `places` that answers.
    pub(super) async fn open(mut places: VecDeque<Place>, what: String, retry: Retry) -> Result<Self, Error> {
        let Some(here) = places.pop_front() else { return Err(Error::NotFound(what)) };
        let (response, pace) = (None, Pace::default());
        let mut download = Self { here, others: places, what, response, pace, skip: 0, retry, used: 0, progress: 0 };
        let mut first = None;
        loop {
            let Err(error) = download.connect(0).await else { return Ok(download) };
            // The origin's own words matter more than what somebody else has not got; mirrors come before it.
            let origin = download.others.iter().all(Place::is_elsewhere);
            if origin && first.is_none() {
                first = Some(error);
            }
            if !download.go_elsewhere() {
                return Err(first.unwrap_or(Error::NotFound(download.what)));
            }
        }
    }

    /// Turns to the next place; false if there is none.
    fn go_elsewhere(&mut self) -> bool {
        let Some(next) = self.others.pop_front() else { return false };
        self.here = next;
        (self.response, self.used) = (None, 0);
        true
    }

    /// The bytes that came are not the right ones.
    pub(super) fn distrust(&self) {
        self.here.host().distrust();
    }

    /// Asks for the bytes from `received` on.
    async fn connect(&mut self, received: u64) -> Result<(), Error> {
        let (host, mut call) = (self.here.host(), self.here.call().await?);
        if received > 0 {
            call.headers.insert(RANGE, format!("bytes={received}-").parse().expect("digits are header text"));
        }
        let response = host.send(&call).await?;
        self.skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, received) => 0,
            StatusCode::OK => received,
            _ => return Err(host.refusal("pull", self.what.clone(), &Method::GET, response).await),
        };
        (self.response, self.pace) = (Some(response), Pace::default());
        Ok(())
    }

    /// The next bytes after `received` of `size`, connecting again as often as patience allows.
    pub(super) async fn next(&mut self, received: u64, size: u64) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let Some(response) = self.response.as_mut() else {
                match self.connect(received).await {
                    Ok(()) => {}
                    // Patience is used up: `connect` has tried again and again.
                    Err(error) if !self.go_elsewhere() => return Err(error),
                    Err(_) => {}
                }
                continue;
            };
            let failure = match self.here.host().piece(&Method::GET, response, &mut self.pace).await {
                Ok(Some(chunk)) => {
                    let skipped = self.skip.min(chunk.len() as u64);
                    self.skip -= skipped;
                    let new = if skipped == 0 { chunk } else { chunk[skipped as usize..].to_vec() };
                    if new.is_empty() {
                        continue;
                    }
                    let have = received + new.len() as u64;
                    if have - self.progress >= LEAST {
                        (self.used, self.progress) = (0, have);
                    }
                    return Ok(Some(new));
                }
                // Too short: servers behind proxies end like this when the connection behind them breaks.
                Ok(None) if received < size => Error::Size { what: self.what.clone(), expected: size, found: received },
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            self.response = None;
            match self.retry.after(&mut self.used, &failure) {
                Some(pause) => tokio::time::sleep(pause).await,
                None if self.go_elsewhere() => {}
                None => return Err(failure),
            }
        }
    }
}

/// Whether a 206 answer starts where it was asked to.
fn starts_at(response: &Response, position: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse().ok()) == Some(position)
}
