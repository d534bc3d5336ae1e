//! Images out of archives: what `docker save` or an OCI tool wrote, and bare root file systems.
//!
//! An archive is taken apart below a temp directory of the store, under names of our choice; nothing it says is believed
//! until the digests agree. Everything here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use rbuild_cache::digest::BlobDigest;
use serde::Deserialize;

use super::pull::{PullError, Puller, assemble};
use super::record::{Image, ImageId, ImageLayer, Named, platform_of};
use crate::event::Vertex;
use crate::layers::{self, Record};
use crate::oci::config::{History, ImageConfig};
use crate::oci::manifest::{self, Descriptor, Document, Family, MAX_CONFIG, MAX_MANIFEST, Packing, Parsed};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::registry::{IMAGE_NAME, Layout, REF_NAME, Remote as _, Selector};
use crate::tar::compression::{self, Compression};
use crate::tar::entry::LayerPath;
use crate::tar::reader::{self, RawKind, Whiteouts};
use crate::tar::{TarError, detect};

/// Links in an archive are followed this often; `docker save` makes them one deep.
const MAX_LINKS: usize = 8;

/// Something that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its names, which it has now.
    pub names: Vec<Reference>,
    /// The images, one a platform.
    pub named: Named,
}

/// One line of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl Puller {
    /// Loads the images of an archive, plain or compressed, and gives them their names.
    pub fn load(
        &self,
        archive: Box<dyn Read + Send>,
        what: &str,
        runtime: &tokio::runtime::Handle,
        vertex: &Vertex,
    ) -> Result<Vec<Loaded>, PullError> {
        let temp = self.store.temp_dir("load")?;
        let unusable = |message: String| PullError::Unusable { what: what.to_owned(), message };
        let fault = |error: &dyn std::fmt::Display| unusable(error.to_string());
        let (plain, _) = compression::plain(Box::new(BufReader::new(archive))).map_err(|error| fault(&error))?;
        let files = Files::unpack(plain, temp.path()).map_err(|error| fault(&error))?;
        if files.get("index.json").is_some() && files.get("oci-layout").is_some() {
            return self.load_layout(&Layout::open(temp.path())?, what, runtime, vertex);
        }
        let Some(list) = files.get("manifest.json") else {
            return Err(unusable("not an image archive: it has neither index.json nor manifest.json".to_owned()));
        };
        let list = read_small(list, MAX_MANIFEST).map_err(|error| fault(&error))?;
        let list: Vec<DockerImage> = manifest::read("manifest.json", &list).map_err(|error| fault(&error))?;
        list.iter().map(|image| self.load_docker(image, &files, what, vertex)).collect()
    }

    /// Loads all images of a layout directory.
    pub fn load_layout(
        &self,
        layout: &Layout,
        what: &str,
        runtime: &tokio::runtime::Handle,
        vertex: &Vertex,
    ) -> Result<Vec<Loaded>, PullError> {
        let mut names: BTreeMap<BlobDigest, Vec<Reference>> = BTreeMap::new();
        let mut order = Vec::new();
        for entry in layout.index()?.manifests {
            let known = names.entry(entry.digest).or_insert_with(|| {
                order.push(entry.digest);
                Vec::new()
            });
            known.extend(name_of(&entry).filter(|name| !known.contains(name)));
        }
        let mut out = Vec::new();
        for digest in order {
            let document = runtime.block_on(layout.manifest(&Selector::Digest(digest)))?;
            let mut named = Named::default();
            self.load_document(layout, document, what, runtime, vertex, &mut named)?;
            out.push(self.give_names(names.remove(&digest).unwrap_or_default(), named, vertex)?);
        }
        Ok(out)
    }

    /// Loads a manifest, or those manifests of an index that are there: archives need not hold every platform.
    fn load_document(
        &self,
        layout: &Layout,
        document: Document,
        what: &str,
        runtime: &tokio::runtime::Handle,
        vertex: &Vertex,
        named: &mut Named,
    ) -> Result<(), PullError> {
        let malformed = |source| PullError::Manifest { what: what.to_owned(), source };
        let parsed = match document.parse().map_err(malformed)? {
            Parsed::Manifest(parsed) => parsed,
            Parsed::Index(index) => {
                let images = index.manifests.iter().filter(|entry| {
                    // Attestations are listed as images of an unknown platform.
                    entry.platform.as_ref().is_none_or(|platform| platform.architecture != "unknown")
                });
                for entry in images {
                    match runtime.block_on(layout.manifest(&Selector::Digest(entry.digest))) {
                        Ok(inner) if manifest::is_manifest(inner.media_type()) => {
                            self.load_document(layout, inner, what, runtime, vertex, named)?;
                        }
                        Ok(_) => {}
                        Err(error) if error.is_not_found() => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                return Ok(());
            }
        };
        let read = async { layout.blob(&parsed.config).await?.bytes(MAX_CONFIG).await };
        let config = runtime.block_on(read)?;
        let image = assemble(document, &parsed, config, None, what)?;
        for layer in &image.layers {
            let Some(descriptor) = &layer.descriptor else { continue };
            let file = layout.open_file(descriptor.digest)?;
            self.take_layer(Box::new(file), descriptor, layer, vertex)?;
        }
        self.record(image, what, named)
    }

    fn take_layer(
        &self,
        input: Box<dyn Read + Send>,
        descriptor: &Descriptor,
        layer: &ImageLayer,
        vertex: &Vertex,
    ) -> Result<(), PullError> {
        let line = format!("extracting {}", descriptor.digest);
        vertex.status(&line, 0, 0, false);
        let source = layers::Source { media_type: descriptor.media_type.to_string(), digest: Some(descriptor.digest) };
        let imported = self.layers.import(input, &source, Some(layer.diff_id));
        imported.map_err(|source| PullError::Layer { digest: descriptor.digest, source })?;
        vertex.status(&line, 0, 0, true);
        Ok(())
    }

    fn record(&self, mut image: Image, what: &str, named: &mut Named) -> Result<(), PullError> {
        self.recognise(&mut image)?;
        let malformed = |source| PullError::Manifest { what: what.to_owned(), source };
        let platform = image.platform().map_err(malformed)?;
        let id = self.catalog.put(image)?;
        named.insert(platform, id);
        Ok(())
    }

    fn give_names(&self, names: Vec<Reference>, named: Named, vertex: &Vertex) -> Result<Loaded, PullError> {
        for name in &names {
            self.catalog.tag(name, &named)?;
            vertex.done_part(format!("naming to {name}"));
        }
        Ok(Loaded { names, named })
    }

    /// The older form of `docker save`: a config and uncompressed layers under names of their own.
    fn load_docker(
        &self,
        listed: &DockerImage,
        files: &Files,
        what: &str,
        vertex: &Vertex,
    ) -> Result<Loaded, PullError> {
        let unusable = |message: String| PullError::Unusable { what: what.to_owned(), message };
        let file = |name: &str| files.get(name).ok_or_else(|| unusable(format!("{name} is missing")));
        let bytes = read_small(file(&listed.config)?, MAX_CONFIG).map_err(|error| unusable(error.to_string()))?;
        let config = String::from_utf8(bytes).map_err(|_| unusable("the image config is not UTF-8".to_owned()))?;
        let parsed: ImageConfig = manifest::read("image config", config.as_bytes())
            .map_err(|source| PullError::Manifest { what: what.to_owned(), source })?;
        if parsed.rootfs.diff_ids.len() != listed.layers.len() {
            return Err(unusable("config and manifest.json list different numbers of layers".to_owned()));
        }
        let mut image = Image { config, ..Image::default() };
        for (diff_id, name) in parsed.rootfs.diff_ids.iter().zip(&listed.layers) {
            let line = format!("extracting {diff_id}");
            vertex.status(&line, 0, 0, false);
            let opened = fs_err::File::open(file(name)?).map_err(|error| unusable(error.to_string()))?;
            let (input, packing) = repack(Box::new(opened)).map_err(|error| unusable(error.to_string()))?;
            let source = layers::Source { media_type: Family::Docker.layer(packing).to_string(), digest: None };
            let record = self.layers.import(input, &source, Some(*diff_id));
            let record = record.map_err(|source| PullError::Layer { digest: BlobDigest(diff_id.0), source })?;
            image.layers.push(layer_of(&record));
            vertex.status(&line, 0, 0, true);
        }
        let mut named = Named::default();
        self.record(image, what, &mut named)?;
        let tags = listed.repo_tags.iter().flatten();
        let names = tags.filter_map(|tag| Reference::parse_tagged(tag).ok()).collect();
        self.give_names(names, named, vertex)
    }

    /// Makes an image of a root file system, plain or compressed, and names it if wanted. `created` is RFC 3339.
    pub fn import(
        &self,
        root: Box<dyn Read + Send>,
        what: &str,
        name: Option<&Reference>,
        platform: &Platform,
        created: &str,
    ) -> Result<ImageId, PullError> {
        let unusable = |error: io::Error| PullError::Unusable { what: what.to_owned(), message: error.to_string() };
        let (input, packing) = repack(root).map_err(unusable)?;
        let source = layers::Source { media_type: Family::Oci.layer(packing).to_string(), digest: None };
        let imported = self.layers.import(input, &source, None);
        let record =
            imported.map_err(|error| PullError::Unusable { what: what.to_owned(), message: error.to_string() })?;
        let history = History {
            created: Some(created.to_owned()),
            comment: format!("Imported from {what}"),
            ..History::default()
        };
        let mut config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.clone(),
            created: Some(created.to_owned()),
            history: vec![history],
            ..ImageConfig::default()
        };
        config.rootfs.diff_ids.push(record.diff_id);
        let text = serde_json::to_string(&config).expect("a config has a JSON form");
        let image = Image { config: text, layers: vec![layer_of(&record)], ..Image::default() };
        let id = self.catalog.put(image)?;
        if let Some(name) = name {
            self.catalog.tag(name, &Named::one(platform_of(&config), id))?;
        }
        Ok(id)
    }
}

/// How an image refers to a layer that was taken over from somewhere we cannot go back to.
fn layer_of(record: &Record) -> ImageLayer {
    let descriptor = match &record.origin {
        layers::Origin::Built { .. } => None,
        layers::Origin::Foreign { media_type, digest, size } => {
            Some(Descriptor::new(media_type.as_str().into(), *digest, *size))
        }
    };
    ImageLayer { diff_id: record.diff_id, layer: record.id, descriptor, from: Vec::new() }
}

/// The name an entry of `index.json` gives, if it is a whole one.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let text = entry.annotations.get(IMAGE_NAME).or_else(|| {
        // By itself a tag names nothing.
        entry.annotations.get(REF_NAME).filter(|name| name.contains([':', '/']))
    });
    Reference::parse_tagged(text?).ok()
}

/// A layer in a compression that image layers may have: others are undone.
fn repack(input: Box<dyn Read + Send>) -> io::Result<(Box<dyn Read + Send>, Packing)> {
    let mut input = BufReader::new(input);
    let packing = match detect(input.fill_buf()?) {
        None => Packing::Tar,
        Some(Compression::Gzip) => Packing::Gzip,
        Some(Compression::Zstd) => Packing::Zstd,
        Some(Compression::Bzip2 | Compression::Xz) => {
            return Ok((compression::plain(Box::new(input))?.0, Packing::Tar));
        }
    };
    Ok((Box::new(input), packing))
}

fn read_small(path: PathBuf, limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    fs_err::File::open(path)?.take(limit + 1).read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than the limit of {limit} bytes")));
    }
    Ok(out)
}

/// The files of an archive, in a directory: blobs and the well-known documents where a layout has them, others by number.
struct Files {
    files: BTreeMap<LayerPath, PathBuf>,
    links: BTreeMap<LayerPath, LayerPath>,
}

impl Files {
    fn unpack(archive: Box<dyn Read + Send>, directory: &Path) -> Result<Self, TarError> {
        let mut out = Self { files: BTreeMap::new(), links: BTreeMap::new() };
        fs_err::create_dir_all(directory.join("blobs/sha256"))?;
        fs_err::create_dir(directory.join("others"))?;
        let mut known = BTreeSet::new();
        reader::read(archive, Whiteouts::Literal, &mut |entry, content| {
            match entry.kind {
                RawKind::File(_) => {
                    let place = place(&entry.path, out.files.len());
                    let path = directory.join(place);
                    // The same name twice: the later one wins, as tar has it.
                    if !known.insert(path.clone()) {
                        fs_err::remove_file(&path)?;
                    }
                    io::copy(content, &mut fs_err::File::create_new(&path)?)?;
                    out.files.insert(entry.path, path);
                }
                RawKind::Symlink(to) => {
                    let to = match to.strip_prefix(b"/") {
                        Some(absolute) => absolute.to_vec(),
                        None => [entry.path.parent().unwrap_or_default().as_bytes(), b"/", &to].concat(),
                    };
                    out.links.insert(entry.path, LayerPath::clean(to));
                }
                RawKind::Hardlink(to) => drop(out.links.insert(entry.path, to)),
                RawKind::Directory
                | RawKind::CharDevice(..)
                | RawKind::BlockDevice(..)
                | RawKind::Fifo
                | RawKind::Whiteout
                | RawKind::Opaque => {}
            }
            Ok::<_, TarError>(())
        })?;
        Ok(out)
    }

    fn get(&self, name: &str) -> Option<PathBuf> {
        let mut path = LayerPath::clean(name);
        for _ in 0..MAX_LINKS {
            match (self.files.get(&path), self.links.get(&path)) {
                (Some(file), _) => return Some(file.clone()),
                (None, Some(to)) => path = to.clone(),
                (None, None) => return None,
            }
        }
        None
    }
}

/// Where a file of the archive is put: never anywhere it chose itself.
fn place(path: &LayerPath, number: usize) -> PathBuf {
    let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
    let hex = |name: &str| name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let blob = text.strip_prefix("blobs/sha256/").is_some_and(hex);
    if blob || matches!(text.as_str(), "index.json" | "oci-layout" | "manifest.json") {
        return text.into();
    }
    format!("others/{number}").into()
}
