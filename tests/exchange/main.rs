//! Caches between machines, through the binary: a store stands for a machine, a real registry, a bucket or a directory for what is between.
//! What was moved is counted at the registry, and in the stores.

#[path = "../e2e/rig.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "shared with the end-to-end tests, which use all of it"
)]
mod rig;

mod bucket;
mod damage;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bucket::Bucket;
use registry::{Registry, Request};
use rig::{Rig, Who};
use serde_json::Value;

as_root_and_rootless! {
    a_second_machine_runs_nothing_and_moves_nothing
    one_changed_file_moves_only_what_must_run_reads
    a_directory_is_a_cache_like_a_registry
    a_directory_holds_what_is_referenced_and_nothing_else
    min_holds_the_result_only
    damaged_caches_cost_hits_and_nothing_else
    lost_layers_of_a_registry_are_built_again
    archives_and_files_come_out_right_from_a_cache
    the_image_is_its_own_cache
    two_sources_complete_one_another
    cache_mounts_travel_when_asked
    a_bucket_is_a_cache_like_a_registry
    big_layers_travel_in_parts
    used_objects_are_kept_young
    a_bucket_that_refuses_is_no_cache
    several_caches_are_written_at_once
    what_cannot_be_read_or_written_is_a_warning
}

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

fn a_second_machine_runs_nothing_and_moves_nothing(who: Who) {
    let mut registry = Registry::start();
    let (cache, one, two) = (registry.name("cache:main"), registry.name("app:1"), registry.name("app:2"));
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let build = |rig: &Rig, more: &[&str]| {
        let context = context(rig, "a\n", "b\n");
        rig.build(&[&["--build-arg", &base], more, &[context.as_str()]].concat())
    };
    let to = format!("type=registry,ref={cache},mode=max");
    let log = build(&first, &["-t", &one, "--push", "--cache-to", &to]);
    assert_eq!(ran(&log).len(), 3, "{log}");
    for line in ["exporting cache to registry", "preparing build cache for export", "writing cache image manifest"] {
        assert!(log.contains(line), "{line}\n{log}");
    }
    registry.requests();

    let second = Rig::empty(who);
    let log = build(&second, &["-t", &two, "--push", "--cache-from", &cache]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert!(log.contains(&format!("importing cache manifest from {cache}")), "{log}");
    assert!(log.contains("inferred cache manifest type: application/vnd.oci.image.manifest.v1+json"), "{log}");
    let requests = registry.requests();
    let configs = BTreeSet::from([config_of(&registry, "cache", "main"), config_of(&registry, "busybox", "latest")]);
    assert_eq!(fetched(&requests), configs, "{requests:#?}");
    assert_eq!(uploaded(&requests), 0, "{requests:#?}");
    assert_eq!(stored(&second), BTreeMap::new(), "nothing was put into the store");
    assert_eq!(registry.manifest("app", "1"), registry.manifest("app", "2"));
    // Exporting what was imported moves nothing either.
    let to = format!("type=registry,ref={}", registry.name("cache:copy"));
    build(&second, &["-t", &two, "--cache-from", &cache, "--cache-to", &to]);
    let requests = registry.requests();
    assert_eq!((fetched(&requests).len(), uploaded(&requests)), (1, 0), "{requests:#?}");
    assert_eq!(registry.manifest("cache", "copy"), registry.manifest("cache", "main"));
}

fn one_changed_file_moves_only_what_must_run_reads(who: Who) {
    let mut registry = Registry::start();
    let cache = registry.name("cache:main");
    let to = format!("type=registry,ref={cache},mode=max");
    let first = Rig::new(who);
    first.build(&["--cache-to", &to, &context(&first, "a\n", "b\n")]);
    registry.requests();
    let layers = layer_digests(&registry.manifest("cache", "main"));
    let moved = |requests: &[Request]| fetched(requests).iter().filter(|d| layers.contains(d)).count();

    // b.txt is the last layer: its destination is looked at by indexes, no layer is needed.
    let second = Rig::new(who);
    let log = second.build(&["-t", "app", "--cache-from", &cache, &context(&second, "a\n", "changed\n")]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(moved(&registry.requests()), 0, "{log}");
    // Only now somebody wants files.
    assert_eq!(second.ok(&["run", "app"]).stdout, "a\n");

    // a.txt is compiled: that RUN needs what is below it, and the other stage stays where it is.
    let third = Rig::new(who);
    registry.requests();
    let log = third.build(&["-t", "app", "--cache-from", &cache, &context(&third, "changed\n", "b\n")]);
    assert_eq!(ran(&log), ["compile"], "{log}");
    let requests = registry.requests();
    assert_eq!(moved(&requests), 2, "WORKDIR and tools\n{log}{requests:#?}");
    assert_eq!(third.ok(&["run", "app"]).stdout, "changed\n");
}

fn a_directory_is_a_cache_like_a_registry(who: Who) {
    let registry = Registry::start();
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let build = |rig: &Rig, a: &str, more: &[&str]| {
        let context = context(rig, a, "b\n");
        rig.build(&[&["-t", "app", "--iidfile", "id", "--build-arg", &base], more, &[context.as_str()]].concat())
    };
    let log = build(&first, "a\n", &["--cache-to", "type=local,dest=cache,mode=max"]);
    assert!(log.contains("exporting cache to client directory"), "{log}");

    let second = Rig::empty(who);
    copy_cache(&first, &second);
    let log = build(&second, "a\n", &["--cache-from", "type=local,src=cache"]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(stored(&second), BTreeMap::new(), "{log}");
    let id = |rig: &Rig| std::fs::read_to_string(rig.path("id")).expect("iidfile");
    assert_eq!(id(&first), id(&second));
    let log = build(&second, "changed\n", &["--cache-from", "type=local,src=cache"]);
    assert_eq!(ran(&log), ["compile"], "{log}");
    assert_eq!(second.ok(&["run", "app"]).stdout, "changed\n");
}

/// A cache directory travels as CI's caches do.
fn copy_cache(from: &Rig, to: &Rig) {
    rig::succeed(std::process::Command::new("cp").args(["-r", &from.arg("cache"), &to.arg("cache")]));
    rig::succeed(std::process::Command::new("chmod").args(["-R", "a+rX", &to.arg("cache")]));
}

fn a_directory_holds_what_is_referenced_and_nothing_else(who: Who) {
    let rig = Rig::new(who);
    let dir = rig.arg("cache");
    let blobs = || -> BTreeSet<String> {
        let list = std::fs::read_dir(rig.path("cache/blobs/sha256")).expect("blobs").flatten();
        list.map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy())).collect()
    };
    let referenced = || -> BTreeSet<String> {
        let read = |digest: &str| -> Value {
            let path = rig.path("cache/blobs/sha256").join(digest.trim_start_matches("sha256:"));
            serde_json::from_slice(&std::fs::read(path).expect("there")).expect("json")
        };
        let index: Value =
            serde_json::from_slice(&std::fs::read(rig.path("cache/index.json")).expect("index")).expect("json");
        let mut all = BTreeSet::new();
        for entry in index["manifests"].as_array().expect("manifests") {
            let manifest = entry["digest"].as_str().expect("digest").to_owned();
            let document = read(&manifest);
            all.insert(manifest);
            all.insert(document["config"]["digest"].as_str().expect("digest").to_owned());
            let layers = document["layers"].as_array().expect("layers").iter();
            all.extend(layers.map(|layer| layer["digest"].as_str().expect("digest").to_owned()));
        }
        all
    };
    for text in ["one\n", "two\n", "three\n"] {
        rig.build(&["--cache-to", &format!("type=local,dest={dir}"), &context(&rig, text, text)]);
        assert_eq!(blobs(), referenced());
    }
    let count = blobs().len();
    rig.build(&["--cache-to", &format!("type=local,dest={dir},tag=other"), &context(&rig, "four\n", "b\n")]);
    assert_eq!(blobs(), referenced());
    assert!(blobs().len() > count, "both tags are there");
    std::fs::write(rig.path("cache/.rbuild-left"), "by a killed process").expect("written");
    std::fs::write(rig.path("cache/note"), "of the user").expect("written");
    rig.build(&["--cache-to", &format!("type=local,dest={dir}"), &context(&rig, "four\n", "b\n")]);
    assert!(!rig.path("cache/.rbuild-left").exists() && rig.path("cache/note").exists());
    assert_eq!(blobs(), referenced());
}

fn min_holds_the_result_only(who: Who) {
    let registry = Registry::start();
    let cache = registry.name("cache:min");
    let first = Rig::new(who);
    let to = format!("type=registry,ref={cache},mode=min,compression=zstd,compression-level=5");
    first.build(&["--cache-to", &to, &context(&first, "a\n", "b\n")]);
    let manifest = registry.manifest("cache", "min");
    assert_eq!(layer_digests(&manifest).len(), 4, "{manifest}");
    assert!(manifest["layers"].to_string().contains("+zstd"));
    let second = Rig::new(who);
    let log = second.build(&["-t", "app", "--cache-from", &cache, &context(&second, "a\n", "b\n")]);
    assert_eq!(ran(&log), ["tools", "compile"], "the builder is not in it\n{log}");
    assert_eq!(second.ok(&["run", "app"]).stdout, "a\n");
}

/// Does something to every layer blob of a cache directory.
fn damage(dir: &Path, how: impl Fn(&Path, Vec<u8>)) {
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).expect("there")).expect("json") };
    let index = read(dir.join("index.json"));
    let blob = |digest: &str| dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let manifest = read(blob(index["manifests"][0]["digest"].as_str().expect("digest")));
    for layer in manifest["layers"].as_array().expect("layers") {
        let path = blob(layer["digest"].as_str().expect("digest"));
        how(&path, std::fs::read(&path).expect("there"));
    }
}

fn damaged_caches_cost_hits_and_nothing_else(who: Who) {
    let first = Rig::new(who);
    let dir = first.arg("cache");
    first.build(&["--cache-to", &format!("type=local,dest={dir}"), &context(&first, "a\n", "b\n")]);
    type Harm = fn(&Path, Vec<u8>);
    let harms: [(&str, Harm); 3] = [
        ("corrupted", |path, mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            std::fs::write(path, bytes).expect("written");
        }),
        ("truncated", |path, bytes| std::fs::write(path, &bytes[..bytes.len() / 2]).expect("written")),
        ("missing", |path, _| std::fs::remove_file(path).expect("removed")),
    ];
    for (name, harm) in harms {
        let second = Rig::new(who);
        copy_cache(&first, &second);
        damage(&second.path("cache"), harm);
        let from = "type=local,src=cache";
        let log = second.build(&["-o", "out", "--cache-from", from, &context(&second, "changed\n", "b\n")]);
        assert_eq!(files(&second, "out"), "changed\nbase\nb\n", "{name}\n{log}");
        assert!(log.contains("cannot be had from the cache"), "{name}\n{log}");
        assert!(ran(&log).contains(&"tools") && ran(&log).contains(&"base"), "{name}\n{log}");
    }
}

fn lost_layers_of_a_registry_are_built_again(who: Who) {
    let registry = Registry::start();
    let cache = registry.name("cache:main");
    let first = Rig::new(who);
    first.build(&["--cache-to", &format!("type=registry,ref={cache}"), &context(&first, "a\n", "b\n")]);
    for digest in layer_digests(&registry.manifest("cache", "main")) {
        std::fs::remove_file(registry.blob(&digest)).expect("removed");
    }
    // Everything hits, and then the push finds that nobody has the layers.
    let second = Rig::new(who);
    let name = registry.name("app:1");
    let log = second.build(&["-t", &name, "--push", "--cache-from", &cache, &context(&second, "a\n", "b\n")]);
    assert!(ran(&log).contains(&"base"), "{log}");
    let third = Rig::empty(who);
    assert_eq!(third.ok(&["run", &name]).stdout, "a\n");
}

fn archives_and_files_come_out_right_from_a_cache(who: Who) {
    let registry = Registry::start();
    let cache = registry.name("cache:main");
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let build = |rig: &Rig, more: &[&str]| {
        let context = context(rig, "a\n", "b\n");
        let args = ["--build-arg", &base, "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
        rig.build(&[args.as_slice(), more, &[context.as_str()]].concat())
    };
    let to = format!("type=registry,ref={cache}");
    let (oci, clamped) = ("type=oci,dest=image.tar", "type=oci,dest=clamped.tar,rewrite-timestamp=true");
    build(&first, &["-o", oci, "-o", clamped, "--cache-to", &to]);
    let second = Rig::empty(who);
    let log = build(&second, &["-o", oci, "--cache-from", &cache]);
    let log = log + &build(&second, &["-o", clamped, "-o", "out", "--cache-from", &cache]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(files(&second, "out"), "a\nbase\nb\n");
    for name in ["image.tar", "clamped.tar"] {
        let read = |rig: &Rig| std::fs::read(rig.path(name)).expect("written");
        assert!(read(&first) == read(&second), "{name} differs\n{log}");
    }
}

fn the_image_is_its_own_cache(who: Who) {
    let mut registry = Registry::start();
    let name = registry.name("app:1");
    let first = Rig::new(who);
    let args = ["-t", &name, "--push", "--build-arg", "BUILDKIT_INLINE_CACHE=1"];
    first.build(&[args.as_slice(), &[context(&first, "a\n", "b\n").as_str()]].concat());
    registry.requests();
    let second = Rig::new(who);
    let log = second.build(&["-t", "app", "--cache-from", &name, &context(&second, "a\n", "b\n")]);
    assert_eq!(ran(&log), ["tools", "compile"], "the builder is not in it\n{log}");
    // The tools are others now, so COPY looks at what it copies onto; an image carries no indexes, so that is two layers.
    assert_eq!(fetched(&registry.requests()).len(), 3, "{log}");
    let log = second.build(&["-t", "app", "--cache-from", &name, &context(&second, "a\n", "changed\n")]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(second.ok(&["run", "app", "cat", "/app/b.txt"]).stdout, "changed\n");
    // Neither the next image nor a plain one as a source carries anything on.
    let plain = registry.name("plain:1");
    second.build(&["-t", &plain, "--push", &context(&second, "a\n", "b\n")]);
    let third = Rig::new(who);
    let log = third.build(&["--cache-from", &plain, &context(&third, "a\n", "b\n")]);
    assert_eq!(ran(&log).len(), 3, "{log}");
}

fn two_sources_complete_one_another(who: Who) {
    let registry = Registry::start();
    let (one, two) = (registry.name("cache:one"), registry.name("cache:two"));
    let first = Rig::new(who);
    let dockerfile = |name: &str| format!("FROM busybox\nRUN echo ran {name} && echo {name} > /{name}\n");
    for (name, cache) in [("left", &one), ("right", &two)] {
        let context = first.context(name, &[("Dockerfile", &dockerfile(name))]);
        first.build(&["--cache-to", &format!("type=registry,ref={cache}"), &context]);
    }
    let both = "FROM busybox AS left\nRUN echo ran left && echo left > /left\nFROM busybox\nRUN echo ran right && echo right > /right\nCOPY --from=left /left /\n";
    let second = Rig::new(who);
    let context = second.context("both", &[("Dockerfile", both)]);
    let log = second.build(&["-o", "out", "--cache-from", &one, "--cache-from", &two, &context]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    let read = |name: &str| std::fs::read_to_string(second.path("out").join(name)).expect("there");
    assert_eq!((read("left").as_str(), read("right").as_str()), ("left\n", "right\n"));
}

fn cache_mounts_travel_when_asked(who: Who) {
    let mut registry = Registry::start();
    let (cache, copy) = (registry.name("cache:main"), registry.name("cache:copy"));
    let first = Rig::new(who);
    let context = |rig: &Rig, text: &str| {
        let dockerfile = "FROM busybox\nCOPY v /\n\
            RUN --mount=type=cache,id=deps,target=/c,uid=7 echo ran with $(ls /c) && touch /c/package && chown 9 /c/package\n\
            RUN --mount=type=cache,id=private,target=/p echo ran private $(ls /p) && touch /p/mine\n";
        rig.context("mounts", &[("Dockerfile", dockerfile), ("v", text)])
    };
    let to = format!("type=registry,ref={cache},mounts=deps");
    let log = first.build(&["--cache-to", &to, &context(&first, "1")]);
    assert_eq!(ran(&log), ["with", "private"], "{log}");

    let second = Rig::new(who);
    let log = second.build(&["--cache-from", &cache, &context(&second, "2")]);
    assert_eq!(ran(&log), ["with package", "private"], "{log}");
    let third = Rig::new(who);
    let from = format!("type=registry,ref={cache},mounts=none");
    let log = third.build(&["--cache-from", &from, &context(&third, "2")]);
    assert_eq!(ran(&log), ["with", "private"], "{log}");

    // A machine that used nothing hands on what there is, without moving it.
    let fourth = Rig::new(who);
    registry.requests();
    let to = format!("type=registry,ref={copy},mounts=all");
    let log = fourth.build(&["--cache-from", &cache, "--cache-to", &to, &context(&fourth, "1")]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    let requests = registry.requests();
    assert_eq!((fetched(&requests).len(), uploaded(&requests)), (1, 0), "{log}{requests:#?}");
    assert_eq!(registry.manifest("cache", "main"), registry.manifest("cache", "copy"));
}

/// The attributes of a cache in a bucket.
fn in_bucket(bucket: &Bucket) -> String {
    format!(
        "type=s3,bucket=cache,region=here,endpoint_url=http://{},use_path_style=true,prefix=p/,access_key_id=AK,\
         secret_access_key=SK",
        bucket.address
    )
}

fn a_bucket_is_a_cache_like_a_registry(who: Who) {
    let (registry, bucket) = (Registry::start(), Bucket::start());
    let first = Rig::new(who);
    let base = shared_base(&first, &registry);
    let cache = in_bucket(&bucket);
    let build = |rig: &Rig, a: &str, more: &[&str]| {
        let context = context(rig, a, "b\n");
        rig.build(&[&["--build-arg", &base], more, &[context.as_str()]].concat())
    };
    let log = build(&first, "a\n", &["--cache-to", &format!("{cache},name=one;two")]);
    assert!(log.contains("exporting cache to Amazon S3"), "{log}");
    let objects = bucket.objects();
    let names: Vec<_> = objects.iter().filter(|key| !key.starts_with("p/blobs/sha256:")).collect();
    assert_eq!(names, ["p/manifests/one", "p/manifests/two"]);
    bucket.requests();

    let from = format!("{cache},name=none;two");
    let second = Rig::empty(who);
    let log = build(&second, "a\n", &["--cache-from", &from]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    let requests = bucket.requests();
    assert_eq!(requests.len(), 3, "two names and the config: {requests:#?}");
    assert_eq!(stored(&second), BTreeMap::new(), "{log}");
    // One changed file: what is below its RUN is fetched, the WORKDIR and the tools, and their indexes.
    let third = Rig::empty(who);
    let log = build(&third, "changed\n", &["--cache-from", &from]);
    assert_eq!(ran(&log), ["compile"], "{log}");
    let moved = bucket.requests().iter().filter(|request| request.starts_with("GET /cache/p/blobs/")).count();
    assert!(moved <= 1 + 2 + 5, "the config, two layers and small indexes, but {moved}\n{log}");
    // Exporting what is there sends the new layer only.
    let log = build(&third, "changed\n", &["--cache-from", &from, "--cache-to", &format!("{cache},name=two")]);
    assert!(!log.contains("not exported"), "{log}");
    assert!(bucket.objects().is_superset(&objects), "nothing goes away");
    // An image that stays does not depend on the bucket.
    let log = build(&second, "changed\n", &["-t", "app", "--cache-from", &from]);
    assert_eq!(ran(&log), [""; 0], "{log}");
    assert_eq!(second.ok(&["run", "app"]).stdout, "changed\n");
}

fn big_layers_travel_in_parts(who: Who) {
    let bucket = Bucket::start();
    let cache = in_bucket(&bucket);
    let dockerfile = "FROM busybox\nRUN echo ran big && dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null\n\
        RUN echo ran sum && sha256sum /big > /sum\nCOPY v /\n\
        RUN echo ran check && sha256sum -c /sum\n";
    let context = |rig: &Rig, v: &str| rig.context("big", &[("Dockerfile", dockerfile), ("v", v)]);
    let first = Rig::new(who);
    let log = first.build(&["--cache-to", &cache, &context(&first, "1")]);
    let requests = bucket.requests();
    let of = |requests: &[String], what: &str| requests.iter().filter(|request| request.contains(what)).count();
    assert_eq!(of(&requests, "?uploads="), 1, "{log}{requests:#?}");
    assert_eq!(of(&requests, "?partNumber="), 3, "{requests:#?}");
    let second = Rig::new(who);
    let log = second.build(&["--cache-from", &cache, &context(&second, "2")]);
    assert_eq!(ran(&log), ["check"], "{log}");

    // A copy that was damaged is not believed.
    for key in bucket.objects().into_iter().filter(|key| key.starts_with("p/blobs/")) {
        let path = bucket.object(&key);
        let mut bytes = std::fs::read(&path).expect("there");
        if bytes.len() > 1 << 20 {
            bytes[1 << 20] ^= 1;
            std::fs::write(&path, bytes).expect("written");
        }
    }
    let fourth = Rig::new(who);
    let log = fourth.build(&["--cache-from", &cache, &context(&fourth, "4")]);
    assert_eq!(ran(&log), ["big", "sum", "check"], "{log}");
}

fn used_objects_are_kept_young(who: Who) {
    let bucket = Bucket::start();
    let (rig, cache) = (Rig::new(who), in_bucket(&bucket));
    let context = context(&rig, "a\n", "b\n");
    rig.build(&["--cache-to", &cache, &context]);
    let written = |log: &str| {
        let requests = bucket.requests();
        assert!(!log.contains("not exported"), "{log}");
        requests.iter().filter(|request| request.starts_with("PUT /cache/p/blobs/")).count()
    };
    written("");
    let again = |more: &str| rig.build(&["--cache-to", &format!("{cache}{more}"), &context]);
    assert_eq!(written(&again("")), 1, "only the manifest");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    // The copies are all there is to see: this server empties an object that is copied onto itself.
    assert!(written(&again(",touch_refresh=1s")) > 7);
}

fn a_bucket_that_refuses_is_no_cache(who: Who) {
    let bucket = Bucket::start();
    let (rig, cache) = (Rig::new(who), in_bucket(&bucket));
    let context = context(&rig, "a\n", "b\n");
    for (wrong, words) in [("access_key_id=XX", "403 Forbidden"), ("secret_access_key=XX", "SignatureDoesNotMatch")] {
        let key = wrong.split('=').next().expect("has a name");
        let right = if key == "access_key_id" { "access_key_id=AK" } else { "secret_access_key=SK" };
        let cache = cache.replace(right, wrong);
        let log = rig.build(&["--cache-from", &cache, "--cache-to", &cache, &context]);
        assert!(log.contains(words) && log.contains("the cache was not exported"), "{log}");
        assert!(!log.contains("SK") && !log.contains("X-Amz-Signature"), "{log}");
    }
    assert!(bucket.objects().is_empty());
    let strict = format!("{},ignore-error=false", cache.replace("=SK", "=XX"));
    let error = rig.fails(&["build", "--cache-to", &strict, &context]);
    assert!(error.contains("SignatureDoesNotMatch"), "{error}");
}

#[test]
fn root_and_rootless_share_a_cache() {
    if !rig::can_run(Who::Root) {
        return;
    }
    let registry = Registry::start();
    let first = Rig::new(Who::Root);
    let base = shared_base(&first, &registry);
    let mut from: Option<(Rig, String)> = None;
    for (n, who) in [Who::Root, Who::Multi, Who::Root, Who::Single].into_iter().enumerate() {
        let rig = Rig::empty(who);
        let (cache, context) = (registry.name(&format!("cache:{n}")), context(&rig, "a\n", &format!("{n}\n")));
        let to = format!("type=registry,ref={cache}");
        let mut args = vec!["-t", "app", "--build-arg", &base, "--cache-to", &to];
        if let Some((_, from)) = &from {
            args.extend(["--cache-from", from]);
        }
        args.push(&context);
        let log = rig.build(&args);
        assert_eq!(ran(&log).len(), if n == 0 { 3 } else { 0 }, "{who:?}\n{log}");
        assert_eq!(
            rig.ok(&["run", "app", "cat", "/app/out", "/app/base.txt", "/app/b.txt"]).stdout,
            format!("a\nbase\n{n}\n")
        );
        from = Some((rig, cache));
    }
}

fn several_caches_are_written_at_once(who: Who) {
    let (mut registry, bucket) = (Registry::start(), Bucket::start());
    let first = Rig::new(who);
    let (max, min) = (registry.name("cache:max"), registry.name("cache:min"));
    let to = [
        format!("type=registry,ref={max}"),
        format!("type=registry,ref={min},mode=min"),
        "type=local,dest=cache".to_owned(),
        in_bucket(&bucket),
        "type=inline".to_owned(),
    ];
    let image = registry.name("app:1");
    let mut args = vec!["-t", &image, "--push"];
    args.extend(to.iter().flat_map(|to| ["--cache-to", to.as_str()]));
    let context_of = |rig: &Rig| context(rig, "a\n", "b\n");
    let path = context_of(&first);
    args.push(&path);
    first.build(&args);
    registry.requests();
    let everything: [&str; 0] = [];
    let builder = ["tools", "compile"];
    let sources = [
        (max, everything.as_slice()),
        (min, &builder),
        ("type=local,src=cache".to_owned(), &everything),
        (in_bucket(&bucket), &everything),
        (image, &builder),
    ];
    for (from, expected) in sources {
        let rig = Rig::new(who);
        copy_cache(&first, &rig);
        let log = rig.build(&["--cache-from", &from, &context_of(&rig)]);
        assert_eq!(ran(&log), expected, "{from}\n{log}");
        // Another target of the same file.
        let log = rig.build(&["--target", "build", "--cache-from", &from, &context_of(&rig)]);
        assert_eq!(ran(&log), everything, "{from}\n{log}");
    }
}

fn what_cannot_be_read_or_written_is_a_warning(who: Who) {
    let registry = Registry::start();
    let rig = Rig::new(who);
    let context = context(&rig, "a\n", "b\n");
    let missing = registry.name("cache:none");
    let log = rig.build(&["--cache-from", &missing, "--cache-from", "type=local,src=/nowhere", &context]);
    assert!(log.contains(&format!("importing cache manifest from {missing}")) && log.contains("not found"), "{log}");
    // Port 9 of loopback: nobody listens.
    let to = ["--cache-to", "type=registry,ref=127.0.0.1:9/cache"];
    let log = rig.build(&[to.as_slice(), &[context.as_str()]].concat());
    assert!(log.contains("the cache was not exported"), "{log}");
    let error = rig.fails(&["build", "--cache-to", "type=registry,ref=127.0.0.1:9/cache,ignore-error=false", &context]);
    assert!(error.contains("127.0.0.1:9"), "{error}");
    let error = rig.rbuild(&["build", "--cache-to", "type=gha", &context]).stderr;
    assert!(error.contains("cache type gha is not supported"), "{error}");
    let error = rig.rbuild(&["build", "--cache-from", "type=registry,ref=a,colour=red", &context]).stderr;
    assert!(error.contains("unknown attribute \"colour\""), "{error}");
}
