//! Reads an OCI layout tar the way a stranger would: digests checked, layers applied, nothing of rbuild's own code used.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::Value;
use sha2::Digest as _;

/// One file of the flattened root.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub content: Vec<u8>,
}

/// An image with its layers applied.
#[derive(Debug)]
pub(crate) struct Image {
    pub config_digest: String,
    pub manifest_digest: String,
    pub manifest: Value,
    pub config: Value,
    pub files: BTreeMap<String, File>,
}

/// As OCI writes it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let sum = sha2::Sha256::digest(bytes);
    format!("sha256:{}", sum.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

impl Image {
    /// Reads and checks an OCI layout, as a tar or as a directory, with one image.
    pub(crate) fn read(path: &Path) -> Self {
        if path.is_dir() {
            let mut bytes = Vec::new();
            let mut tar = tar::Builder::new(&mut bytes);
            tar.append_dir_all(".", path).expect("layout");
            tar.finish().expect("layout");
            drop(tar);
            return Self::from_tar(bytes.as_slice());
        }
        Self::from_tar(std::fs::File::open(path).expect("output exists"))
    }

    fn from_tar(tar: impl std::io::Read) -> Self {
        let mut blobs = BTreeMap::new();
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().expect("a tar") {
            let mut entry = entry.expect("entry");
            let name = entry.path().expect("path").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("content");
            blobs.insert(name.trim_start_matches("./").to_owned(), bytes);
        }
        let index: Value = serde_json::from_slice(&blobs["index.json"]).expect("index.json");
        let blob = |descriptor: &Value| -> Vec<u8> {
            let name = descriptor["digest"].as_str().expect("digest");
            let bytes = blobs[&format!("blobs/{}", name.replace(':', "/"))].clone();
            assert_eq!(digest(&bytes), name, "blob digest");
            assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64), "blob size");
            bytes
        };
        let name = |descriptor: &Value| descriptor["digest"].as_str().expect("digest").to_owned();
        let manifest_digest = name(&index["manifests"][0]);
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).expect("manifest");
        let config_digest = name(&manifest["config"]);
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).expect("config");
        let layers = manifest["layers"].as_array().expect("layers");
        let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("diff_ids");
        assert_eq!(layers.len(), diff_ids.len(), "as many layers as diff_ids");
        let mut files = BTreeMap::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let bytes = blob(layer);
            let mut tar = Vec::new();
            if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                tar = zstd::decode_all(bytes.as_slice()).expect("zstd");
            } else if bytes.starts_with(&[0x1f, 0x8b]) {
                flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut tar).expect("gzip");
            } else {
                tar = bytes;
            }
            assert_eq!(Some(digest(&tar).as_str()), diff_id.as_str(), "diff_id");
            apply(&mut files, &tar);
        }
        Self { config_digest, manifest_digest, manifest, config, files }
    }

    /// One letter a history entry: `L` has a layer, `-` has none.
    pub(crate) fn history(&self) -> String {
        let entries = self.config["history"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|e| if e["empty_layer"] == Value::Bool(true) { '-' } else { 'L' }).collect()
    }
}

/// `./etc/passwd`, `etc/passwd` and `/etc/passwd` are the same.
fn absolute(path: &Path) -> String {
    let names = path.components().filter(|c| matches!(c, std::path::Component::Normal(_)));
    let path: std::path::PathBuf = names.collect();
    format!("/{}", path.display())
}

fn apply(files: &mut BTreeMap<String, File>, tar: &[u8]) {
    let below = |dir: &str| format!("{}/", dir.trim_end_matches('/'));
    for entry in tar::Archive::new(tar).entries().expect("layer tar") {
        let mut entry = entry.expect("entry");
        let path = absolute(&entry.path().expect("path"));
        let (dir, name) = path.rsplit_once('/').expect("absolute");
        if name == ".wh..wh..opq" {
            files.retain(|p, _| !p.starts_with(&below(dir)));
            continue;
        }
        if let Some(hidden) = name.strip_prefix(".wh.") {
            let gone = format!("{dir}/{hidden}");
            files.retain(|p, _| *p != gone && !p.starts_with(&below(&gone)));
            continue;
        }
        let header = entry.header();
        let kind = header.entry_type();
        if kind == tar::EntryType::Link {
            let target = files[&absolute(&entry.link_name().expect("link").expect("target"))].clone();
            files.insert(path, target);
            continue;
        }
        let (mode, uid, gid) = (header.mode().expect("mode"), header.uid().expect("uid"), header.gid().expect("gid"));
        let mut content = Vec::new();
        if let Some(to) = entry.link_name().expect("link") {
            content = to.display().to_string().into_bytes();
        }
        entry.read_to_end(&mut content).expect("content");
        if !kind.is_dir() {
            files.retain(|p, _| !p.starts_with(&below(&path)));
        }
        files.insert(path, File { mode, uid, gid, content });
    }
}
