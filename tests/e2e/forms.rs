//! The forms an image can be given on its way out: the same bytes from everywhere, annotations, an index of one, one layer.

use serde_json::{Value, json};

use crate::as_root_and_rootless;
use crate::image::Image;
use crate::rig::{Rig, Who, busybox_tar, can_run, finish, start};

as_root_and_rootless! {
    annotations_of_the_build
    annotations_stay_with_the_store
    an_index_of_one_platform
    several_outputs_of_one_build
    squashed_layers
}

/// All that gives files times and owners: an archive, files of the context, directories made on the way, a RUN.
const TEXT: &str = "FROM scratch AS base\nADD busybox.tar /\n\
    FROM base AS made\nRUN mkdir -p /deep/er && echo made >/deep/er/file && ln /deep/er/file /hard && chown 33:33 /hard\n\
    FROM base\nWORKDIR /w/x\nCOPY a many/ b/\nRUN rm /bin/vi; echo r >/r; chmod 4711 /r\n\
    COPY --from=made --link /deep /deep\nCOPY --from=made /hard /\n";

fn context(rig: &Rig) -> String {
    let many: Vec<_> = (0..200).map(|n| (format!("many/f{n}"), format!("{n}\n").repeat(n * 40))).collect();
    let mut files = vec![("Dockerfile", TEXT), ("a", "a\n")];
    files.extend(many.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    let context = rig.context("context", &files);
    std::fs::copy(busybox_tar(), rig.path("context/busybox.tar")).expect("copied");
    context
}

/// Two stores of root, two of an ordinary user, with 1, 2 and 16 threads: one manifest digest. (With a single uid a RUN cannot
/// give files away, which is said when it is so.)
#[test]
fn the_same_manifest_from_anywhere() {
    let mut digests = Vec::new();
    for (who, threads) in [(Who::Root, "1"), (Who::Root, "16"), (Who::Multi, "2"), (Who::Multi, "16")] {
        if !can_run(who) {
            continue;
        }
        let rig = Rig::empty(who);
        crate::rig::set_mode(&rig.path("."), 0o755);
        let context = context(&rig);
        let out = rig.arg("out.tar");
        let args = ["--progress=plain", "-o", &format!("type=oci,dest={out},rewrite-timestamp=true"), &context];
        let mut command = rig.command(&args);
        command.env("SOURCE_DATE_EPOCH", "1700000000").env("RBUILD_THREADS", threads);
        let done = finish(start(&mut command), &args);
        assert!(done.status.success(), "{}", done.stderr);
        let image = Image::read(out.as_ref());
        assert_eq!(image.config["created"], "2023-11-14T22:13:20Z");
        digests.push((who, threads, image.manifest_digest));
    }
    let (_, _, first) = digests.first().expect("somebody can run");
    assert!(digests.iter().all(|(_, _, digest)| digest == first), "{digests:#?}");
}

fn index_and_manifest(rig: &Rig, dir: &str) -> (Value, Value) {
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(rig.path(dir).join(name)).expect("there")).expect("JSON")
    };
    let index = read("index.json");
    let digest = index["manifests"][0]["digest"].as_str().expect("digest").replace(':', "/");
    (index, read(&format!("blobs/{digest}")))
}

fn annotations_of_the_build(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile("FROM busybox\nCMD [\"sh\"]\n");
    let out =
        format!("type=oci,tar=false,dest={},annotation.from=output,annotation-manifest-descriptor.d=1", rig.arg("out"));
    rig.build(&["--annotation", "a=1", "--annotation", "manifest,manifest-descriptor:b=x=y", "-o", &out, &context]);
    let (index, manifest) = index_and_manifest(&rig, "out");
    assert_eq!(manifest["annotations"], json!({"a": "1", "b": "x=y", "from": "output"}));
    assert_eq!(index["manifests"][0]["annotations"]["b"], "x=y");
    assert_eq!(index["manifests"][0]["annotations"]["d"], "1");
    for (flag, said) in [
        ("index:a=1", "index annotations not supported for single platform export"),
        ("colour:a=1", "unknown annotation type \"colour\""),
        ("nothing", "invalid annotation \"nothing\", expected [type:]key=value"),
    ] {
        let log = rig.fails(&["--progress=plain", "--annotation", flag, "-o", &out, &context]);
        assert!(log.contains(said), "{log}");
    }
    let both = ["--platform=linux/amd64,linux/arm64", "--annotation", "manifest[linux/s390x]:a=1", "-o", &out];
    let log = rig
        .fails(&[&["--progress=plain"], &both[..], &[&rig.dockerfile("FROM scratch\nCOPY Dockerfile /\n")]].concat());
    assert!(log.contains("invalid annotation: no platform linux/s390x found in source"), "{log}");
}

fn annotations_stay_with_the_store(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile("FROM busybox\nCMD [\"kept\"]\n");
    rig.build(&["-t", "kept", "--annotation", "a=1", &context]);
    rig.ok(&["save", "--format", "oci", "-o", &rig.arg("saved.tar"), "kept"]);
    assert_eq!(Image::read(&rig.path("saved.tar")).manifest["annotations"], json!({"a": "1"}));
    rig.build(&["-t", "kept", &context]);
    rig.ok(&["save", "--format", "oci", "-o", &rig.arg("saved.tar"), "kept"]);
    assert_eq!(Image::read(&rig.path("saved.tar")).manifest.get("annotations"), None);
    let log = rig.build(&["--annotation", "a=1", "-o", "type=cacheonly", &context]);
    assert!(log.contains("--annotation: an output that is no image has no annotations"), "{log}");
}

fn an_index_of_one_platform(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile("FROM busybox\nRUN echo one >/one\n");
    let single = "--build-arg=BUILDKIT_MULTI_PLATFORM=1";
    let out = format!("type=oci,tar=false,dest={},annotation-index.k=v", rig.arg("out"));
    let files = format!("type=local,dest={}", rig.arg("files"));
    rig.build(&[single, "--platform=linux/amd64", "-o", &out, "-o", &files, &context]);
    let (top, index) = index_and_manifest(&rig, "out");
    assert_eq!(top["manifests"][0]["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(index["annotations"], json!({"k": "v"}));
    assert_eq!(index["manifests"][0]["platform"], json!({"architecture": "amd64", "os": "linux"}));
    assert_eq!(std::fs::read(rig.path("files/linux_amd64/one")).expect("split by platform"), b"one\n");
    let log = rig.fails(&["--progress=plain", single, "-o", &format!("type=docker,dest={}", rig.arg("d")), &context]);
    assert!(log.contains("docker exporter does not currently support exporting manifest lists"), "{log}");
}

fn several_outputs_of_one_build(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile("FROM busybox\nRUN echo out >/out\n");
    let (oci, docker) = (rig.arg("oci.tar"), rig.arg("docker.tar"));
    let (files, tar) = (rig.arg("files"), rig.arg("files.tar"));
    rig.build(&[
        "-t",
        "all:1",
        "--metadata-file",
        &rig.arg("metadata"),
        "-o",
        &format!("type=local,dest={files}"),
        "-o",
        &format!("type=tar,dest={tar}"),
        "-o",
        &format!("type=oci,dest={oci},compression=zstd"),
        "-o",
        &format!("type=docker,dest={docker}"),
        "-o",
        "type=image,name-canonical=true,unpack=true,dangling-name-prefix=dangling",
        "-o",
        "type=cacheonly",
        &context,
    ]);
    let image = Image::read(oci.as_ref());
    assert_eq!(image.config_digest, Image::read(docker.as_ref()).config_digest);
    assert_eq!(std::fs::read(rig.path("files/out")).expect("written"), b"out\n");
    assert!(rig.path("files.tar").exists());
    let metadata: Value = serde_json::from_slice(&std::fs::read(rig.path("metadata")).expect("there")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], image.manifest_digest, "the first manifest speaks for the build");
    let list = rig.ok(&["images", "--format", "json"]).stdout;
    assert!(list.contains("all") && list.contains("dangling"), "{list}");
}

fn squashed_layers(who: Who) {
    let rig = Rig::new(who);
    let text = "FROM busybox\nRUN echo one >/one; echo secret >/gone; mkdir /d; echo a >/d/a; ln /d/a /d/b\n\
        WORKDIR /w\nRUN rm /gone /d/a /bin/vi; echo two >/two\nRUN rm -r /d; mkdir /d; echo new >/d/new\nCMD [\"sh\"]\n";
    let context = rig.dockerfile(text);
    let read = |name: &str, more: &[&str]| {
        let out = format!("type=oci,dest={}", rig.arg(name));
        rig.build(&[more, &["-o", &out, &context]].concat());
        Image::read(&rig.path(name))
    };
    let plain = read("plain.tar", &[]);
    let names = |image: &Image| {
        let files = image.files.iter().filter(|(name, _)| *name != "/");
        files.map(|(name, file)| (name.clone(), file.mode, file.content.clone())).collect::<Vec<_>>()
    };
    for (flag, layers, history) in [("--squash", 2, "L-----L"), ("--squash-all", 1, "------L")] {
        let squashed = read("squashed.tar", &[flag]);
        assert_eq!(squashed.manifest["layers"].as_array().map(Vec::len), Some(layers), "{flag}");
        assert_eq!(squashed.history(), history, "{flag}");
        assert_eq!(names(&squashed), names(&plain), "{flag}");
        assert_eq!(squashed.config["config"], plain.config["config"]);
        assert_ne!(squashed.config_digest, plain.config_digest);
    }
    let base = read("one.tar", &["--squash"]);
    assert_eq!(base.manifest["layers"][0], plain.manifest["layers"][0], "the base's layer stays as it is");
}
