//! A cache directory: an OCI layout that holds what its tags refer to and nothing else.
//!
//! Written in place, so that it may be a mount point: blobs first, then `index.json` in one rename, then what nothing refers to
//! any more is removed. Killed at any point it is the old cache or the new one, with leftovers that the next export removes.
//! Exporters of one directory wait for one another (flock on the directory); whoever reads it meanwhile may miss blobs, which
//! costs him hits only.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde_json::Value;

use super::ExchangeError;
use crate::cancel::Cancel;
use crate::oci::manifest::MAX_MANIFEST;
use crate::registry::Layout;

/// How often a waiting exporter looks whether it is its turn.
const TURN: Duration = Duration::from_millis(50);
/// Documents nested deeper are not followed.
const MAX_DEPTH: usize = 4;

/// A directory that only we write to.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) layout: Layout,
    _lock: std::fs::File,
}

impl Directory {
    /// Opens it, making it if it is not there, and waits for other exporters.
    pub(super) fn open(path: &Path, cancel: &Cancel) -> Result<Self, ExchangeError> {
        fs_err::create_dir_all(path)?;
        let lock = fs_err::File::open(path)?.into_parts().0;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => cancel.sleep(TURN)?,
                // A file system without locks has no other exporter that we could know of.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK) => break,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(Self { layout: Layout::create(path)?, _lock: lock })
    }

    /// Removes blobs that no tag leads to, and what killed exporters left.
    pub(super) fn sweep(&self, root: &Path) -> Result<(), ExchangeError> {
        let blobs = root.join("blobs/sha256");
        let mut kept = BTreeSet::new();
        for entry in self.layout.index()?.manifests {
            kept.insert(entry.digest.0.hex());
            follow(&blobs, &entry.digest.0.hex(), &mut kept, 0)?;
        }
        for entry in fs_err::read_dir(&blobs)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_digest(&name) && !kept.contains(&name) {
                gone(fs_err::remove_file(entry.path()))?;
            }
        }
        for entry in fs_err::read_dir(root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".rbuild-") && entry.file_type()?.is_file() {
                gone(fs_err::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Adds all digests a document mentions, and those that documents among them mention.
fn follow(blobs: &Path, name: &str, kept: &mut BTreeSet<String>, depth: usize) -> Result<(), ExchangeError> {
    let path = blobs.join(name);
    let small = fs_err::metadata(&path).is_ok_and(|found| found.len() <= MAX_MANIFEST);
    if depth > MAX_DEPTH || !small {
        return Ok(());
    }
    let Ok(document) = serde_json::from_slice::<Value>(&fs_err::read(&path)?) else { return Ok(()) };
    let mut found = Vec::new();
    mentioned(&document, &mut found);
    for (name, is_document) in found {
        kept.insert(name.clone());
        if is_document {
            follow(blobs, &name, kept, depth + 1)?;
        }
    }
    Ok(())
}

/// The digests of all descriptors in a document, and whether they are of documents.
fn mentioned(value: &Value, out: &mut Vec<(String, bool)>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("digest").and_then(Value::as_str).and_then(|d| d.strip_prefix("sha256:")) {
                let media_type = fields.get("mediaType").and_then(Value::as_str).unwrap_or_default();
                out.push((name.to_owned(), media_type.contains("manifest") || media_type.contains(".index.")));
            }
            fields.values().for_each(|value| mentioned(value, out));
        }
        Value::Array(values) => values.iter().for_each(|value| mentioned(value, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
