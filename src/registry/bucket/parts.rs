//! Objects in parts: several travel at once, one that fails is sent again alone, and there is no limit to sizes that matters.
//!
//! An upload that does not come to its end is aborted, so that its parts are not kept (and paid for); of one whose process was
//! killed the bucket's own rules have to get rid.

use std::path::Path;

use reqwest::Method;
use reqwest::header::ETAG;
use tokio::task::JoinSet;

use super::{Ask, Bucket, MAX_PIECE, between};
use crate::registry::body::Body;
use crate::registry::error::Error;

/// The least size of a part: big enough to be fast, small enough that losing one costs little.
const PART: u64 = 16 << 20;
/// S3's limit.
const MAX_PARTS: u64 = 10_000;
/// Up to this size parts are not worth their requests.
pub(super) const IN_ONE_PIECE: u64 = 2 * PART;

/// One part: its number from 1 on and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    number: u64,
    start: u64,
    size: u64,
}

/// An object cut into parts of at least `least` bytes.
fn cut(size: u64, least: u64) -> impl Iterator<Item = Part> {
    let each = least.max(size.div_ceil(MAX_PARTS));
    let starts = (0..size.div_ceil(each)).map(move |n| (n + 1, n * each));
    starts.map(move |(number, start)| Part { number, start, size: each.min(size - start) })
}

impl Bucket {
    /// Sends a file in parts.
    pub(super) async fn send_parts(&self, key: &str, path: &Path, size: u64) -> Result<(), Error> {
        let send = |bucket: Self, key: String, upload: String, part: Part| {
            let body = Body::File { path: path.to_owned(), start: part.start, size: part.size };
            async move {
                let _slot = bucket.slots.acquire().await;
                let query = of_part(part, upload);
                let sent = bucket.send(Ask { query: &query, body, ..Ask::new(Method::PUT, &key) }).await?;
                let etag = sent.headers().get(ETAG).and_then(|value| value.to_str().ok()).map(str::to_owned);
                Ok((part.number, etag.ok_or_else(|| Error::protocol(bucket.label(&key), "a part has no ETag"))?))
            }
        };
        self.in_parts(key, size, PART, send).await
    }

    /// Copies an object onto itself in parts.
    pub(super) async fn copy_parts(&self, key: &str, source: &str, size: u64) -> Result<(), Error> {
        let send = |bucket: Self, key: String, upload: String, part: Part| {
            let range = format!("bytes={}-{}", part.start, part.start + part.size - 1);
            let headers = [("x-amz-copy-source", source.to_owned()), ("x-amz-copy-source-range", range)];
            async move {
                let query = of_part(part, upload);
                let ask = Ask { query: &query, headers: &headers, ..Ask::new(Method::PUT, &key) };
                let answer = bucket.host.read_limited(bucket.send(ask).await?).await?;
                bucket.succeeded(&key, &answer)?;
                let etag = between(&String::from_utf8_lossy(&answer), "<ETag>", "</ETag>").map(str::to_owned);
                Ok((part.number, etag.ok_or_else(|| Error::protocol(bucket.label(&key), "a part has no ETag"))?))
            }
        };
        self.in_parts(key, size, MAX_PIECE, send).await
    }

    async fn in_parts<F>(
        &self,
        key: &str,
        size: u64,
        least: u64,
        send: impl Fn(Self, String, String, Part) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(u64, String), Error>> + Send + 'static,
    {
        let begin = Ask { query: &[("uploads", String::new())], ..Ask::new(Method::POST, key) };
        let answer = self.host.read_limited(self.send(begin).await?).await?;
        let upload = between(&String::from_utf8_lossy(&answer), "<UploadId>", "</UploadId>").map(unescaped);
        let upload = upload.ok_or_else(|| Error::protocol(self.label(key), "the upload got no id"))?;
        let mut parts = JoinSet::new();
        for part in cut(size, least) {
            parts.spawn(send(self.clone(), key.to_owned(), upload.clone(), part));
        }
        let query = [("uploadId", upload)];
        let done = match all(parts).await {
            Ok(etags) => self.complete(key, &query, size, &etags).await,
            Err(error) => Err(error),
        };
        if done.is_err() {
            // The first error is the one to be told.
            let _aborted = self.send(Ask { query: &query, ..Ask::new(Method::DELETE, key) }).await;
        }
        done
    }

    async fn complete(
        &self,
        key: &str,
        query: &[(&str, String)],
        size: u64,
        etags: &[(u64, String)],
    ) -> Result<(), Error> {
        let part = |(number, etag): &(u64, String)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        };
        let list: String = etags.iter().map(part).collect();
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>").into_bytes();
        let ask = Ask { query, body: Body::Bytes(body.into()), ..Ask::new(Method::POST, key) };
        match self.send(ask).await {
            Ok(answer) => self.succeeded(key, &self.host.read_limited(answer).await?),
            // Of two attempts the first may have done it, and only its answer was lost.
            Err(Error::NotFound(what)) => {
                let there = self.send(Ask::new(Method::HEAD, key)).await;
                let whole = there.is_ok_and(|found| found.content_length() == Some(size));
                if whole { Ok(()) } else { Err(Error::NotFound(what)) }
            }
            Err(error) => Err(error),
        }
    }
}

fn of_part(part: Part, upload: String) -> [(&'static str, String); 2] {
    [("partNumber", part.number.to_string()), ("uploadId", upload)]
}

/// Waits for all parts; the first failure stops the others. In the order of their numbers.
async fn all(mut parts: JoinSet<Result<(u64, String), Error>>) -> Result<Vec<(u64, String)>, Error> {
    let mut done = Vec::new();
    while let Some(part) = parts.join_next().await {
        done.push(part.map_err(std::io::Error::other)??);
    }
    done.sort_unstable();
    Ok(done)
}

/// Text of an XML element; ids and ETags have no other references.
fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_cut_without_gaps() {
        let parts: Vec<_> = cut(2 * PART + 1, PART).collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[2], Part { number: 3, start: 2 * PART, size: 1 });
        for size in [5 << 30, (5 << 30) + 1, 200 << 30, 5 << 40] {
            let parts: Vec<_> = cut(size, PART).collect();
            let last = parts.last().expect("parts");
            assert!(parts.len() as u64 <= MAX_PARTS && parts[0].size <= MAX_PIECE, "{size}: {:?}", parts[0]);
            assert_eq!((last.number, last.start + last.size), (parts.len() as u64, size));
        }
        let many: Vec<_> = cut(PART * MAX_PARTS * 2 + 5, PART).collect();
        assert!(many.len() as u64 <= MAX_PARTS);
        assert!(many.windows(2).all(|pair| pair[0].start + pair[0].size == pair[1].start));
        assert_eq!(many.iter().map(|part| part.size).sum::<u64>(), PART * MAX_PARTS * 2 + 5);
    }
}
