//! Where images come from and go to: one repository of a registry, or an OCI layout directory.
//!
//! Both traits are about *one* repository, named when the value was made. What they return is verified. The contract suite
//! in `tests/registry.rs` runs over both implementors.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use rbuild_cache::digest::BlobDigest;

use super::blob::BlobStream;
use super::error::Error;
use crate::oci::manifest::{Descriptor, Document};

/// A future as trait objects can return it.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Which document of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The one this tag points at now.
    Tag(String),
    /// This one.
    Digest(BlobDigest),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A repository to read from.
pub trait Remote: fmt::Debug + Send + Sync {
    /// The digest a selector stands for now, as cheaply as possible.
    fn resolve<'a>(&'a self, selector: &'a Selector) -> Answer<'a, BlobDigest>;
    /// A manifest or index.
    fn manifest<'a>(&'a self, selector: &'a Selector) -> Answer<'a, Document>;
    /// The bytes of a blob, verified at the latest when the last one was read.
    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> Answer<'a, BlobStream>;
}

/// A repository to write to.
pub trait Destination: fmt::Debug + Send + Sync {
    /// Whether the blob is there already, or could be made to be there without sending bytes because one of the
    /// repositories `elsewhere` (full names, e.g. `docker.io/library/alpine`) of the same registry has it.
    fn has_blob<'a>(&'a self, descriptor: &'a Descriptor, elsewhere: &'a [String]) -> Answer<'a, bool>;
    /// Sends a blob.
    fn push_blob<'a>(&'a self, descriptor: &'a Descriptor, source: BlobSource) -> Answer<'a, ()>;
    /// Sends a manifest or index, after all it refers to; names it `tag` too if given.
    fn push_manifest<'a>(&'a self, document: &'a Document, tag: Option<&'a str>) -> Answer<'a, ()>;
}

/// The bytes of a blob to be sent, readable more than once.
#[derive(Clone, Debug)]
pub enum BlobSource {
    /// Small ones.
    Bytes(Vec<u8>),
    /// A file of exactly these bytes.
    File(PathBuf),
    /// Another repository: the bytes pass through memory, a little at a time.
    Remote(Arc<dyn Remote>),
}

/// A small blob, whole; one that came damaged is asked for once more.
pub async fn small_blob(from: &dyn Remote, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
    match from.blob(descriptor).await?.bytes(limit).await {
        Err(error) if error.is_damage() => from.blob(descriptor).await?.bytes(limit).await,
        done => done,
    }
}
