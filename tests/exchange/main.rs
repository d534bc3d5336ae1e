//! Caches between machines, through the binary: a store stands for a machine, a real registry, a bucket or a directory for what is between.
//! What was moved is counted at the registry, and in the stores.

mod ahead;
mod bucket;
mod buckets;
mod damage;
mod directory;
mod faults;
mod machines;
mod mounts;
mod registry;
#[path = "../e2e/rig.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "shared with the end-to-end tests, which use all of it"
)]
mod rig;

use bucket::Bucket;
use registry::{Registry, Request};
use rig::{Rig, Who};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Two stages; each RUN that really runs says so. The first RUN makes three MiB that no later machine should need.
const DOCKERFILE: &str = "ARG BASE=busybox
FROM $BASE AS build
WORKDIR /w
RUN echo ran tools && mkdir /tools && dd if=/dev/urandom of=/tools/big bs=1M count=3 2>/dev/null
COPY src/a.txt src/
RUN echo ran compile && cat src/a.txt > out
FROM $BASE
WORKDIR /app
RUN echo ran base && echo base > base.txt
COPY --from=build /w/out /app/out
COPY src/b.txt /app/
CMD [\"cat\", \"/app/out\"]
";

fn context(rig: &Rig, a: &str, b: &str) -> String {
    rig.context("context", &[("Dockerfile", DOCKERFILE), ("src/a.txt", a), ("src/b.txt", b)])
}

/// Puts the base image where every machine finds the same; the build argument that names it.
fn shared_base(rig: &Rig, registry: &Registry) -> String {
    let name = registry.name("busybox:latest");
    rig.ok(&["tag", "busybox:latest", &name]);
    rig.ok(&["push", &name]);
    format!("BASE={name}")
}

fn config_of(registry: &Registry, repository: &str, tag: &str) -> String {
    registry.manifest(repository, tag)["config"]["digest"].as_str().expect("digest").to_owned()
}

/// What RUNs said in a log: those that were run.
fn ran(log: &str) -> Vec<&str> {
    let said = log.lines().filter_map(|line| line.split_once(" ran ").filter(|(before, _)| !before.contains("RUN")));
    said.map(|(_, what)| what).collect()
}

/// Blobs that were fetched.
fn fetched(requests: &[Request]) -> BTreeSet<String> {
    let blob = |r: &&Request| r.method == "GET" && r.path.contains("/blobs/") && r.status == 200;
    requests.iter().filter(blob).filter_map(|r| r.path.rsplit('/').next().map(str::to_owned)).collect()
}

/// Uploads that carried a blob.
fn uploaded(requests: &[Request]) -> usize {
    let done = |r: &&Request| r.method == "PUT" && r.path.contains("/blobs/uploads/") && r.status == 201;
    requests.iter().filter(done).count()
}

fn layer_digests(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let of_layer = |layer: &&Value| layer["mediaType"].as_str().expect("type").contains("image.layer");
    layers.filter(of_layer).map(|layer| layer["digest"].as_str().expect("digest").to_owned()).collect()
}

/// Blobs and trees of a store with their sizes.
fn stored(rig: &Rig) -> BTreeMap<PathBuf, u64> {
    fn walk(dir: &Path, depth: usize, out: &mut BTreeMap<PathBuf, u64>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match depth {
                0 => drop(out.insert(entry.path(), 0)),
                _ => walk(&entry.path(), depth - 1, out),
            }
        }
    }
    let mut out = BTreeMap::new();
    for kind in std::fs::read_dir(rig.store()).expect("store").flatten() {
        let name = kind.file_name().to_string_lossy().into_owned();
        if name.starts_with("blobs-") || name.starts_with("trees-") {
            walk(&kind.path(), 1, &mut out);
        }
    }
    out
}

/// The files of an image as `path=text`, by way of `-o type=local`.
fn files(rig: &Rig, dir: &str) -> String {
    let read = |name: &str| std::fs::read_to_string(rig.path(dir).join(name)).unwrap_or_else(|_| "missing".to_owned());
    format!("{}{}{}", read("app/out"), read("app/base.txt"), read("app/b.txt"))
}

/// A cache directory travels as CI's caches do.
fn copy_cache(from: &Rig, to: &Rig) {
    rig::succeed(std::process::Command::new("cp").args(["-r", &from.arg("cache"), &to.arg("cache")]));
    rig::succeed(std::process::Command::new("chmod").args(["-R", "a+rX", &to.arg("cache")]));
}

/// The attributes of a cache in a bucket.
fn in_bucket(bucket: &Bucket) -> String {
    format!(
        "type=s3,bucket=cache,region=here,endpoint_url=http://{},use_path_style=true,prefix=p/,access_key_id=AK,\
         secret_access_key=SK",
        bucket.address
    )
}
