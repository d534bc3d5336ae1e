//! `rbuild inspect`: what an image's details look like: the keys `docker image inspect` has, as far as they mean something here.
//!
//! Pure.

use rbuild_cache::digest::BlobDigest;
use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

use crate::oci::config::{ContainerConfig, ImageConfig};
use crate::oci::manifest::Descriptor;
use crate::oci::reference::Reference;

/// Keys of `Config` that are there although the image says nothing.
const ALWAYS: [&str; 7] = ["Env", "Cmd", "Entrypoint", "Volumes", "Labels", "OnBuild", "WorkingDir"];

/// All that is known of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Digest of the config.
    pub id: String,
    /// Its names, with the digest that a registry gave for them.
    pub names: Vec<(Reference, Option<BlobDigest>)>,
    /// The config.
    pub config: ImageConfig,
    /// Bytes of its layers.
    pub size: u64,
    /// Of the manifest it came with.
    pub manifest: Option<Descriptor>,
}

/// A JSON array of them, indented by four as Docker's is.
pub fn render(images: &[Details]) -> String {
    let array = Value::Array(images.iter().map(object).collect());
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let written = array.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    written.expect("a vector takes every byte");
    String::from_utf8_lossy(&bytes).into_owned() + "\n"
}

fn object(image: &Details) -> Value {
    let Details { id, names, config, size, manifest } = image;
    let tags = names.iter().filter(|(name, _)| name.tag().is_some()).map(|(name, _)| name.familiar());
    let digests = names.iter().filter_map(|(name, digest)| {
        let digest = name.digest().or(*digest)?;
        Some(name.name_only().with_digest(digest).familiar())
    });
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("Id", json!(id));
    put("RepoTags", json!(tags.collect::<Vec<_>>()));
    put("RepoDigests", json!(digests.collect::<std::collections::BTreeSet<_>>()));
    put("Comment", json!(config.history.last().map_or("", |entry| &entry.comment)));
    put("Created", json!(config.created));
    put("Author", json!(config.author));
    put("Config", container(&config.config));
    put("Architecture", json!(config.architecture));
    if !config.variant.is_empty() {
        put("Variant", json!(config.variant));
    }
    put("Os", json!(config.os));
    if !config.os_version.is_empty() {
        put("OsVersion", json!(config.os_version));
    }
    put("Size", json!(size));
    put("RootFS", json!({ "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids }));
    if let Some(manifest) = manifest {
        put("Descriptor", json!(manifest));
    }
    Value::Object(out)
}

fn container(config: &ContainerConfig) -> Value {
    let mut value = serde_json::to_value(config).expect("texts, lists and numbers have a JSON form");
    if let Value::Object(keys) = &mut value {
        keys.entry("User").or_insert(json!(""));
        for key in ALWAYS {
            keys.entry(key).or_insert(if key == "WorkingDir" { json!("") } else { Value::Null });
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use rbuild_cache::digest::{DiffId, Sha256};

    use super::*;
    use crate::oci::config::{History, RootFs};

    #[test]
    fn details() {
        let name = |text: &str| Reference::parse(text).expect(text);
        let comment = "buildkit.dockerfile.v0".to_owned();
        let image = Details {
            id: format!("sha256:{}", "a".repeat(64)),
            names: vec![
                (name("app:1.0"), None),
                (name("reg.example:5000/app:1.0"), Some(BlobDigest(Sha256([0xbb; 32])))),
            ],
            config: ImageConfig {
                architecture: "arm".to_owned(),
                variant: "v7".to_owned(),
                os: "linux".to_owned(),
                created: Some("2024-01-01T00:00:00Z".to_owned()),
                config: ContainerConfig {
                    env: Some(vec!["PATH=/bin".to_owned()]),
                    cmd: Some(vec!["sh".to_owned()]),
                    ..ContainerConfig::default()
                },
                history: vec![History { comment, ..History::default() }],
                rootfs: RootFs { diff_ids: vec![DiffId(Sha256([0xcc; 32]))], ..RootFs::default() },
                ..ImageConfig::default()
            },
            size: 1234,
            manifest: None,
        };
        insta::with_settings!({ snapshot_path => super::super::TESTDATA, prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("inspect", render(&[image]));
        });
        assert_eq!(render(&[]), "[]\n");
    }
}
