//! The registry client and layouts against real parts: Debian's `docker-registry`, skopeo, and a scripted server for what
//! a well-behaved registry never does. Listens on loopback only. Here is what the tests share.

mod access;
mod contract;
mod documents;
mod engine;
mod exporting;
mod faults;
mod mirrors;
mod proxy;
mod pulling;
mod server;
mod transfers;

use std::collections::BTreeMap;
use std::time::Duration;

use rbuild::oci::manifest::{Descriptor, Document, Family, Manifest, Packing};
use rbuild::oci::reference::Reference;
use rbuild::registry::credentials::Credentials;
use rbuild::registry::{BlobSource, Client, Destination, Error, Options, Remote as _, Repository, Retry, Selector};
use rbuild_cache::digest::Sha256;
use server::{Reply, Scripted};

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(future)
}

fn quick() -> Options {
    let retry =
        Retry { attempts: 3, first: Duration::from_millis(5), longest: Duration::from_millis(20), ..Retry::default() };
    Options { retry, ..Options::default() }
}

fn open(options: Options, name: &str) -> Repository {
    Client::new(options).repository(&Reference::parse(name).expect("valid"))
}

fn tag(text: &str) -> Selector {
    Selector::Tag(text.to_owned())
}

fn with_credentials(json: &str) -> Options {
    Options { credentials: Credentials::from_config(json.as_bytes(), None).expect("valid"), ..quick() }
}

/// Bytes that do not compress and differ everywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}

struct Sample {
    config: (Descriptor, Vec<u8>),
    layer: (Descriptor, Vec<u8>),
    manifest: Document,
}

/// A small image; `layer` need not be a tar for those who only carry it.
fn sample(family: Family, layer: Vec<u8>) -> Sample {
    sample_for(family, "amd64", layer)
}

fn sample_for(family: Family, architecture: &str, layer: Vec<u8>) -> Sample {
    let diff_id = Sha256::of(&layer);
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    )
    .into_bytes();
    let config_descriptor = Descriptor::of(family.config(), &config);
    let layer_descriptor = Descriptor::of(family.layer(Packing::Tar), &layer);
    let manifest = Document::of_manifest(&Manifest {
        schema_version: 2,
        media_type: Some(family.manifest()),
        artifact_type: None,
        config: config_descriptor.clone(),
        layers: vec![layer_descriptor.clone()],
        annotations: BTreeMap::new(),
        other: BTreeMap::new(),
    });
    Sample { config: (config_descriptor, config), layer: (layer_descriptor, layer), manifest }
}

async fn push(destination: &dyn Destination, sample: &Sample, tag: &str) -> Result<(), Error> {
    for (descriptor, bytes) in [&sample.config, &sample.layer] {
        if !destination.has_blob(descriptor, &[]).await? {
            destination.push_blob(descriptor, BlobSource::Bytes(bytes.clone())).await?;
        }
    }
    destination.push_manifest(&sample.manifest, Some(tag)).await
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

/// A registry of one blob, `b`, that answers GETs of it as `script` says.
fn blob_server(script: impl Fn(&server::Seen, usize) -> Reply + Send + Sync + 'static) -> (Scripted, Repository) {
    let server = Scripted::start(script);
    let repository = open(quick(), &format!("{}/x", server.address));
    (server, repository)
}

fn fetch(repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    run(async { repository.blob(descriptor).await?.bytes(1 << 30).await })
}

fn layer(bytes: &[u8]) -> Descriptor {
    Descriptor::of(Family::Oci.layer(Packing::Gzip), bytes)
}
