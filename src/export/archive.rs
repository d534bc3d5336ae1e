//! Image archives: an OCI layout as a tar or a directory, with `manifest.json` for `docker load` if wanted.
//!
//! The tar holds nothing but the bytes of the blobs and fixed headers, so the same images give the same archive.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use rbuild_cache::digest::{Blake3, BlobDigest};
use serde::Serialize;

use super::output::Dest;
use super::{Composed, ExportError, Exporter};
use crate::event::Vertex;
use crate::layers::{Framing, LayerError};
use crate::oci::manifest::{Descriptor, Document, Family, Index};
use crate::registry::{BlobSource, IMAGE_NAME, LAYOUT_MARK, Layout, REF_NAME};
use crate::tar::TarWriter;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

const BUFFER: usize = 256 << 10;
/// Of a blob, between two looks whether the build was cancelled.
const COPIED_AT_ONCE: u64 = 64 << 20;

/// A file that is written from its start.
pub(super) type Out<'a> = io::BufWriter<&'a std::fs::File>;

/// What an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An OCI layout.
    Oci,
    /// With `manifest.json`, for `docker load`.
    Docker,
    /// For an engine that has so many layers from the bottom: without them, and without the index, which promises all.
    Rest(usize),
}

impl Purpose {
    pub(super) fn new(docker: bool) -> Self {
        if docker { Self::Docker } else { Self::Oci }
    }
}

/// One line of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Exporter {
    /// Writes packed images to their destination.
    pub(super) fn write_archive(
        &self,
        results: &[Composed],
        docker: bool,
        dest: &Dest,
        vertex: &Vertex,
        stream: &mut (dyn Write + Send),
    ) -> Result<(), ExportError> {
        let purpose = Purpose::new(docker);
        match dest {
            Dest::Directory(path) => self.write_layout(results, docker, path, vertex),
            Dest::Stream => self.stream_archive(results, purpose, vertex, stream),
            Dest::File(path) => write_file(path, &mut |out| self.write_archive_tar(results, purpose, out, vertex)),
        }
    }

    /// Writes packed images as a tar.
    pub(super) fn stream_archive(
        &self,
        results: &[Composed],
        purpose: Purpose,
        vertex: &Vertex,
        stream: &mut (dyn Write + Send),
    ) -> Result<(), ExportError> {
        let mut out = io::BufWriter::with_capacity(BUFFER, stream);
        self.write_archive_tar(results, purpose, &mut out, vertex)?;
        out.flush().map_err(ExportError::Stream)
    }

    fn write_archive_tar<W: Write>(
        &self,
        results: &[Composed],
        purpose: Purpose,
        out: &mut W,
        vertex: &Vertex,
    ) -> Result<(), ExportError> {
        let mut sent = Sent { vertex, bytes: 0, reported: 0, id: "sending tarball" };
        sent.begin();
        let mut tar = TarWriter::new(out);
        for directory in ["blobs", "blobs/sha256"] {
            let kind = Kind::Directory { opaque: false };
            tar.entry(&Entry { path: LayerPath::clean(directory), kind, meta: meta(0o755) }, None)?;
        }
        let mut files: BTreeMap<BlobDigest, &[u8]> = BTreeMap::new();
        let mut blobs = BTreeMap::new();
        for result in results {
            blobs.append(&mut match purpose {
                Purpose::Oci | Purpose::Docker => result.blobs(0),
                Purpose::Rest(known) => result.blobs(known),
            });
            for packed in &result.images {
                files.insert(packed.config.digest, &packed.config_bytes);
                files.insert(packed.manifest.digest(), packed.manifest.bytes());
            }
            if let Some(index) = &result.index {
                files.insert(index.digest(), index.bytes());
            }
        }
        for (digest, blob) in blobs {
            self.cancel.check()?;
            let stored = self.store.blob(&digest)?.is_some();
            if blob.framing == Some(Framing::None) && !stored {
                // Nothing but this archive needs the layer in this form.
                let mut content = self.layers.tar(&blob.layer.layer)?;
                append(&mut tar, &blob_name(digest), blob.descriptor.size, &mut content, &mut sent)?;
                continue;
            }
            let file = self.blob_file(blob, vertex)?;
            begin(&mut tar, &blob_name(digest), blob.descriptor.size)?;
            // As long as it goes on; a size that is not the descriptor's is an error of the next entry.
            loop {
                let copied = tar.data_from(file.file(), COPIED_AT_ONCE).map_err(ExportError::Stream)?;
                sent.more(copied);
                if copied < COPIED_AT_ONCE {
                    break;
                }
                self.cancel.check()?;
            }
        }
        for (digest, bytes) in files {
            append(&mut tar, &blob_name(digest), bytes.len() as u64, &mut &bytes[..], &mut sent)?;
        }
        let mut more: Vec<(&str, Vec<u8>)> = Vec::new();
        if !matches!(purpose, Purpose::Rest(_)) {
            let index = Document::of_index(&Index::new(Family::Oci, entries(results), BTreeMap::new()));
            more.push(("index.json", index.bytes().to_vec()));
            more.push(("oci-layout", LAYOUT_MARK.into()));
        }
        if purpose != Purpose::Oci {
            more.push(("manifest.json", docker_manifest(results)));
        }
        more.sort();
        for (name, bytes) in more {
            append(&mut tar, name, bytes.len() as u64, &mut bytes.as_slice(), &mut sent)?;
        }
        tar.finish().map_err(ExportError::Stream)?;
        sent.end();
        Ok(())
    }

    fn write_layout(
        &self,
        results: &[Composed],
        docker: bool,
        path: &Path,
        vertex: &Vertex,
    ) -> Result<(), ExportError> {
        let mut sent = Sent { vertex, bytes: 0, reported: 0, id: "copying files" };
        sent.begin();
        let layout = Layout::create(path)?;
        for result in results {
            for blob in result.blobs(0).into_values() {
                self.cancel.check()?;
                let file = self.blob_path(blob, vertex)?;
                layout.take_file(&blob.descriptor, &file)?;
                sent.more(blob.descriptor.size);
            }
            let documents = result.images.iter().map(|packed| &packed.manifest).chain(&result.index);
            for document in documents {
                layout.write_blob(&document.descriptor(), &BlobSource::Bytes(document.bytes().to_vec()))?;
            }
            for packed in &result.images {
                layout.write_blob(&packed.config, &BlobSource::Bytes(packed.config_bytes.clone()))?;
            }
        }
        layout.add(entries(results))?;
        if docker {
            fs_err::write(path.join("manifest.json"), docker_manifest(results))?;
        }
        sent.end();
        Ok(())
    }
}

/// Writes a file next to its destination and gives it its name when it is complete. What is no regular file (a pipe,
/// `/dev/null`) is written as it is.
pub(super) fn write_file(
    path: &Path,
    write: &mut dyn FnMut(&mut Out<'_>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let special = fs_err::metadata(path).is_ok_and(|found| !found.is_file());
    if special {
        let file = fs_err::OpenOptions::new().write(true).open(path)?;
        let mut out = io::BufWriter::with_capacity(BUFFER, file.file());
        write(&mut out)?;
        return Ok(out.flush()?);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temp = tempfile::Builder::new()
        .prefix(".rbuild-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(parent)
        .map_err(|source| file_error("create", path, source))?;
    let mut out = io::BufWriter::with_capacity(BUFFER, temp.as_file());
    write(&mut out)?;
    out.flush().map_err(|source| file_error("write", path, source))?;
    drop(out);
    temp.persist(path).map_err(|error| file_error("rename to", path, error.error))?;
    Ok(())
}

pub(super) fn file_error(operation: &'static str, path: &Path, source: io::Error) -> ExportError {
    ExportError::File { operation, path: path.display().to_string(), source }
}

/// A progress line that counts bytes.
pub(super) struct Sent<'a> {
    pub(super) vertex: &'a Vertex,
    pub(super) bytes: u64,
    pub(super) reported: u64,
    pub(super) id: &'static str,
}

impl Sent<'_> {
    /// How many bytes may go unreported.
    const STEP: u64 = 4 << 20;

    pub(super) fn begin(&self) {
        self.vertex.status(self.id, 0, 0, false);
    }
    pub(super) fn more(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes - self.reported >= Self::STEP {
            self.reported = self.bytes;
            self.vertex.status(self.id, self.bytes, 0, false);
        }
    }
    pub(super) fn end(&self) {
        self.vertex.status(self.id, self.bytes, 0, true);
    }
}

fn append<W: Write>(
    tar: &mut TarWriter<W>,
    name: &str,
    size: u64,
    content: &mut dyn Read,
    sent: &mut Sent<'_>,
) -> Result<(), ExportError> {
    begin(tar, name, size)?;
    copy(tar, content, sent)
}

/// Writes the header of a file.
fn begin<W: Write>(tar: &mut TarWriter<W>, name: &str, size: u64) -> Result<(), ExportError> {
    // The header does not depend on the content's hash.
    let kind = Kind::File { size, content: Blake3([0; 32]) };
    Ok(tar.entry(&Entry { path: LayerPath::clean(name), kind, meta: meta(0o644) }, None)?)
}

/// Copies a file's content into the archive.
pub(super) fn copy<W: Write>(
    tar: &mut TarWriter<W>,
    content: &mut dyn Read,
    sent: &mut Sent<'_>,
) -> Result<(), ExportError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match content.read(&mut buffer).map_err(read_error)? {
            0 => return Ok(()),
            n => {
                tar.data(&buffer[..n]).map_err(ExportError::Stream)?;
                sent.more(n as u64);
            }
        }
    }
}

/// A file of a layer that turned out to be damaged says so itself.
pub(super) fn read_error(error: io::Error) -> ExportError {
    error.downcast::<LayerError>().map_or_else(ExportError::Stream, ExportError::Layer)
}

fn meta(mode: u32) -> Meta {
    Meta { mode, ..Meta::default() }
}

fn blob_name(digest: BlobDigest) -> String {
    format!("blobs/sha256/{}", digest.0.hex())
}

/// What `index.json` lists: one entry a name, or one without.
fn entries(results: &[Composed]) -> Vec<Descriptor> {
    let mut out = Vec::new();
    for result in results {
        if result.names.is_empty() {
            out.push(result.top.clone());
            continue;
        }
        for name in &result.names {
            let mut entry = result.top.clone();
            entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
            if let Some(tag) = name.tag() {
                entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            }
            out.push(entry);
        }
    }
    out
}

fn docker_manifest(results: &[Composed]) -> Vec<u8> {
    let image = |result: &Composed| {
        let tags: Vec<_> = result.names.iter().map(crate::oci::reference::Reference::familiar).collect();
        // As BuildKit writes it when there are none.
        let tags = (!tags.is_empty()).then_some(tags);
        let images = result.images.iter().map(move |packed| DockerImage {
            config: blob_name(packed.config.digest),
            repo_tags: tags.clone(),
            layers: packed.layers.iter().map(|blob| blob_name(blob.descriptor.digest)).collect(),
        });
        images.collect::<Vec<_>>()
    };
    let list: Vec<_> = results.iter().flat_map(image).collect();
    serde_json::to_vec(&list).expect("plain texts have a JSON form")
}
