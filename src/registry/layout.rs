//! An OCI layout directory as a repository: the same reading and writing as a registry, on files.
//!
//! ```text
//! oci-layout                    {"imageLayoutVersion":"1.0.0"}
//! index.json                    what is in it; tags are annotations
//! blobs/sha256/<hex>            blobs, manifests, indexes
//! ```
//! Blobs are made by temp file + rename and verified when read, like those of a registry.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rbuild_cache::digest::{BlobDigest, Sha256};

use super::blob::{BlobStream, Source};
use super::error::Error;
use super::push::check_size;
use super::remote::{Answer, BlobSource, Destination, Remote, Selector};
use crate::oci::manifest::{self, Descriptor, Document, Family, Index, MAX_MANIFEST};
use crate::oci::reference::{DEFAULT_TAG, is_tag};

/// The content of the file `oci-layout`.
pub const LAYOUT_MARK: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotation that holds a tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which containerd keeps the full name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// `path[:tag][@digest]`, what follows `oci-layout://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutName {
    /// The directory.
    pub path: PathBuf,
    /// The tag, if one is given.
    pub tag: Option<String>,
    /// The digest, which wins over the tag.
    pub digest: Option<BlobDigest>,
}

impl LayoutName {
    /// Parses it; `None` if a digest is malformed or the path is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if digest.contains(':') => (rest, Some(digest.parse().ok()?)),
            _ => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        (!path.is_empty()).then(|| Self { path: path.into(), tag, digest })
    }

    /// What it selects; without tag and digest that is `latest`.
    pub fn selector(&self) -> Selector {
        match (self.digest, &self.tag) {
            (Some(digest), _) => Selector::Digest(digest),
            (None, tag) => Selector::Tag(tag.as_deref().unwrap_or(DEFAULT_TAG).to_owned()),
        }
    }
}

/// A layout directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Opens an existing layout.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let layout = Self { root: root.to_owned() };
        let mark = fs_err::read(root.join("oci-layout")).map_err(|error| layout.missing(error))?;
        let version = serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(&mark)
            .ok()
            .and_then(|fields| fields.get("imageLayoutVersion")?.as_str().map(str::to_owned));
        match version {
            Some(version) if version.starts_with("1.") => Ok(layout),
            _ => Err(Error::protocol(root.display(), "not an OCI layout of version 1")),
        }
    }

    /// Opens a layout and makes an empty one if there is nothing.
    pub fn create(root: &Path) -> Result<Self, Error> {
        if !root.join("oci-layout").exists() {
            fs_err::create_dir_all(root.join("blobs/sha256"))?;
            write_file(root, &root.join("oci-layout"), LAYOUT_MARK.as_bytes())?;
            let empty = Document::of_index(&Index::new(Family::Oci, Vec::new(), BTreeMap::new()));
            if !root.join("index.json").exists() {
                write_file(root, &root.join("index.json"), empty.bytes())?;
            }
        }
        Self::open(root)
    }

    fn missing(&self, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::NotFound {
            Error::NotFound(format!("OCI layout {}", self.root.display()))
        } else {
            error.into()
        }
    }

    /// `index.json`.
    pub fn index(&self) -> Result<Index, Error> {
        let path = self.root.join("index.json");
        let bytes = fs_err::read(&path).map_err(|error| self.missing(error))?;
        manifest::read("index", &bytes).map_err(|error| Error::manifest(path.display(), error))
    }

    /// Puts descriptors into `index.json`; one with the same tag is replaced.
    pub fn add(&self, entries: Vec<Descriptor>) -> Result<(), Error> {
        let mut index = self.index()?;
        for entry in entries {
            let same = |old: &Descriptor| match (old.annotations.get(REF_NAME), entry.annotations.get(REF_NAME)) {
                (Some(old), Some(new)) => old == new,
                (None, None) => old.digest == entry.digest,
                _ => false,
            };
            index.manifests.retain(|old| !same(old));
            index.manifests.push(entry);
        }
        write_file(&self.root, &self.root.join("index.json"), Document::of_index(&index).bytes())?;
        Ok(())
    }

    fn blob_path(&self, digest: BlobDigest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.0.hex())
    }

    fn label(&self, selector: &Selector) -> String {
        match selector {
            Selector::Tag(tag) => format!("oci-layout://{}:{tag}", self.root.display()),
            Selector::Digest(digest) => format!("oci-layout://{}@{digest}", self.root.display()),
        }
    }

    fn find(&self, selector: &Selector) -> Result<BlobDigest, Error> {
        let tag = match selector {
            Selector::Digest(digest) => return Ok(*digest),
            Selector::Tag(tag) => tag,
        };
        let index = self.index()?;
        // Tools differ in whether they write the tag or the whole name.
        let named = |entry: &&Descriptor| {
            [REF_NAME, IMAGE_NAME]
                .iter()
                .filter_map(|key| entry.annotations.get(*key))
                .any(|name| name == tag || (name.rsplit_once(':').is_some_and(|(_, t)| t == tag) && !tag.contains(':')))
        };
        match (index.manifests.iter().find(named), index.manifests.as_slice()) {
            (Some(entry), _) => Ok(entry.digest),
            // One image without a name is what most tools write when they are not told any.
            (None, [only]) if tag == DEFAULT_TAG && !only.annotations.contains_key(REF_NAME) => Ok(only.digest),
            _ => Err(Error::NotFound(self.label(selector))),
        }
    }

    fn read_manifest(&self, selector: &Selector) -> Result<Document, Error> {
        let (what, digest) = (self.label(selector), self.find(selector)?);
        let path = self.blob_path(digest);
        let not_there = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound(what.clone()),
            _ => error.into(),
        };
        if fs_err::metadata(&path).map_err(not_there)?.len() > MAX_MANIFEST {
            return Err(Error::TooLarge { what, limit: MAX_MANIFEST });
        }
        let bytes = fs_err::read(&path)?;
        let found = BlobDigest(Sha256::of(&bytes));
        if found != digest {
            return Err(Error::Digest { what, expected: digest, found });
        }
        Document::new(bytes, None).map_err(|error| Error::manifest(what, error))
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobStream, Error> {
        let what = self.label(&Selector::Digest(descriptor.digest));
        match tokio::fs::File::open(self.blob_path(descriptor.digest)).await {
            Ok(file) => Ok(BlobStream::new(what, descriptor, Source::File(file), None)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::NotFound(what)),
            Err(error) => Err(error.into()),
        }
    }

    /// A blob's file. Whoever reads it verifies it.
    pub fn open_file(&self, digest: BlobDigest) -> Result<fs_err::File, Error> {
        fs_err::File::open(self.blob_path(digest)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::NotFound(self.label(&Selector::Digest(digest))),
            _ => error.into(),
        })
    }

    /// Writes a blob of another repository, which verifies it.
    async fn take_blob(&self, descriptor: &Descriptor, from: &dyn Remote) -> Result<(), Error> {
        use tokio::io::AsyncWriteExt as _;
        fs_err::create_dir_all(self.root.join("blobs/sha256"))?;
        let temp = tempfile::Builder::new().prefix(".rbuild-").tempfile_in(&self.root)?;
        let mut file = tokio::fs::File::from_std(temp.reopen()?);
        let mut stream = from.blob(descriptor).await?;
        while let Some(piece) = stream.chunk().await? {
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        Ok(publish(temp, &self.blob_path(descriptor.digest))?)
    }

    /// Makes a blob of a file of the store, which vouches for it: another name of the same file, a clone, or a copy, whichever
    /// the file systems can do. A file with two names must not be written to through either, so it is made read-only.
    pub fn take_file(&self, descriptor: &Descriptor, file: &Path) -> Result<(), Error> {
        let target = self.blob_path(descriptor.digest);
        if fs_err::metadata(&target).is_ok_and(|found| found.len() == descriptor.size) {
            return Ok(());
        }
        fs_err::create_dir_all(self.root.join("blobs/sha256"))?;
        let source = fs_err::File::open(file)?;
        if source.metadata()?.len() != descriptor.size {
            let text = format!("{} has another size than its descriptor says", file.display());
            return Err(Error::protocol(self.label(&Selector::Digest(descriptor.digest)), text));
        }
        let temp = tempfile::Builder::new().prefix(".rbuild-").tempfile_in(&self.root)?;
        if rustix::fs::ioctl_ficlone(temp.as_file(), source.file()).is_ok() {
            return Ok(publish(temp, &target)?);
        }
        let read_only = rustix::fs::fchmod(source.file(), rustix::fs::Mode::from_raw_mode(0o444));
        if read_only.is_ok() {
            let _one_of_another_size = fs_err::remove_file(&target);
            if fs_err::hard_link(file, &target).is_ok() {
                return Ok(());
            }
        }
        std::io::copy(&mut source.file(), &mut temp.as_file())?;
        Ok(publish(temp, &target)?)
    }

    /// Writes a blob; `source` is verified on the way.
    pub fn write_blob(&self, descriptor: &Descriptor, source: &BlobSource) -> Result<(), Error> {
        let target = self.blob_path(descriptor.digest);
        if fs_err::metadata(&target).is_ok_and(|found| found.len() == descriptor.size) {
            return Ok(());
        }
        fs_err::create_dir_all(self.root.join("blobs/sha256"))?;
        let mut temp = tempfile::Builder::new().prefix(".rbuild-").tempfile_in(&self.root)?;
        let mut hasher = Hashing { inner: temp.as_file_mut(), hasher: sha2::Digest::new() };
        match source {
            BlobSource::Bytes(bytes) => hasher.write_all(bytes)?,
            BlobSource::File(path) => {
                std::io::copy(&mut fs_err::File::open(path)?, &mut hasher)?;
            }
            BlobSource::Remote(_) => {
                let text = "blobs of other repositories are written by push_blob";
                return Err(Error::protocol(self.label(&Selector::Digest(descriptor.digest)), text));
            }
        }
        let found = BlobDigest(Sha256(sha2::Digest::finalize(hasher.hasher).into()));
        if found != descriptor.digest {
            let what = self.label(&Selector::Digest(descriptor.digest));
            return Err(Error::Digest { what, expected: descriptor.digest, found });
        }
        publish(temp, &target)?;
        Ok(())
    }
}

struct Hashing<W> {
    inner: W,
    hasher: sha2::Sha256,
}

impl<W: std::io::Write> std::io::Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buffer)?;
        sha2::Digest::update(&mut self.hasher, &buffer[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn write_file(root: &Path, target: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut temp = tempfile::Builder::new().prefix(".rbuild-").tempfile_in(root)?;
    temp.write_all(bytes)?;
    publish(temp, target)
}

/// Gives a finished temporary file its name and the mode other tools expect.
fn publish(temp: tempfile::NamedTempFile, target: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    temp.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    temp.persist(target).map_err(|error| error.error)?;
    Ok(())
}

impl Remote for Layout {
    fn resolve<'a>(&'a self, selector: &'a Selector) -> Answer<'a, BlobDigest> {
        Box::pin(async move {
            let digest = self.find(selector)?;
            if self.blob_path(digest).exists() { Ok(digest) } else { Err(Error::NotFound(self.label(selector))) }
        })
    }
    fn manifest<'a>(&'a self, selector: &'a Selector) -> Answer<'a, Document> {
        Box::pin(async move { self.read_manifest(selector) })
    }
    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> Answer<'a, BlobStream> {
        Box::pin(self.open_blob(descriptor))
    }
}

impl Destination for Layout {
    fn has_blob<'a>(&'a self, descriptor: &'a Descriptor, _elsewhere: &'a [String]) -> Answer<'a, bool> {
        let found = fs_err::metadata(self.blob_path(descriptor.digest));
        Box::pin(async move { Ok(found.is_ok_and(|found| found.len() == descriptor.size)) })
    }
    fn push_blob<'a>(&'a self, descriptor: &'a Descriptor, source: BlobSource) -> Answer<'a, ()> {
        Box::pin(async move {
            check_size(descriptor, &source).await?;
            if let BlobSource::Remote(from) = &source {
                return self.take_blob(descriptor, from.as_ref()).await;
            }
            let (layout, descriptor) = (self.clone(), descriptor.clone());
            match tokio::task::spawn_blocking(move || layout.write_blob(&descriptor, &source)).await {
                Ok(written) => written,
                Err(panic) => Err(std::io::Error::other(panic).into()),
            }
        })
    }
    fn push_manifest<'a>(&'a self, document: &'a Document, tag: Option<&'a str>) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut entry = document.descriptor();
            self.write_blob(&entry, &BlobSource::Bytes(document.bytes().to_vec()))?;
            if let Some(tag) = tag {
                entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
                self.add(vec![entry])?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_without_copying_them() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().expect("temp dir");
        let (file, root) = (directory.path().join("blob"), directory.path().join("layout"));
        fs_err::write(&file, b"blob").expect("written");
        let layout = Layout::create(&root).expect("made");
        let descriptor = Descriptor::of("a/b".into(), b"blob");
        layout.take_file(&descriptor, &file).expect("taken");
        layout.take_file(&descriptor, &file).expect("there already");
        let (old, new) = (fs_err::metadata(&file), fs_err::metadata(layout.blob_path(descriptor.digest)));
        let (old, new) = (old.expect("there"), new.expect("there"));
        let probe = fs_err::File::create(directory.path().join("probe")).expect("made");
        let source = fs_err::File::open(&file).expect("there");
        let clones = rustix::fs::ioctl_ficlone(probe.file(), source.file()).is_ok();
        assert_eq!(old.ino() == new.ino(), !clones, "the same file, unless the file system can clone it");
        assert!(clones || new.mode() & 0o222 == 0, "a file with two names is written to through neither");
        assert_eq!(fs_err::read(layout.blob_path(descriptor.digest)).expect("there"), b"blob");
        let wrong = Descriptor { size: 3, ..Descriptor::of("a/b".into(), b"other") };
        assert!(layout.take_file(&wrong, &file).is_err());
    }

    #[test]
    fn layout_names_split_from_the_right() {
        let parse = |text: &str| {
            LayoutName::parse(text).map(|name| (name.path.display().to_string(), name.selector().to_string()))
        };
        let own = |path: &str, selector: &str| Some((path.to_owned(), selector.to_owned()));
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(parse("dir/x"), own("dir/x", "latest"));
        assert_eq!(parse("./dir:v1"), own("./dir", "v1"));
        assert_eq!(parse(&format!("/a/b:v1@{digest}")), own("/a/b", digest));
        assert_eq!(parse("/a:b/c"), own("/a:b/c", "latest"));
        assert_eq!(parse("a@b/c"), own("a@b/c", "latest"));
        assert_eq!(parse("dir@sha256:12"), None);
        assert_eq!(parse(":x"), None);
    }
}
