//! Where a result can go, and that other people's tools read it: skopeo, umoci, podman, crun, tar.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::as_root_and_rootless;
use crate::engines::Podman;
use crate::image::Image;
use crate::rig::{Rig, Who, finish, installed, start, succeed};
use crate::traces;

as_root_and_rootless! {
    oci_archive_directory_and_standard_output
    docker_archive
    local_and_tar
    image_under_names
    compressions
    the_same_bytes_every_time
    base_from_an_oci_layout
    umoci_unpacks_and_crun_starts
}

const TEXT: &str = "FROM busybox AS made\nRUN echo made >/made && ln -s made /link && ln /made /hard && mkfifo /fifo && \
    chown 33:33 /made && chmod 4755 /made\n\
    FROM busybox\nLABEL kind=test\nENV A=1\nWORKDIR /w\nCOPY --from=made /made /link /fifo /all/\nRUN rm /bin/vi; echo r >/r\n\
    USER www-data\nENTRYPOINT [\"/bin/cat\"]\nCMD [\"/r\"]\n";

fn inspect(what: &str) -> Value {
    let text = succeed(Command::new("skopeo").args(["inspect", "--config", what]));
    serde_json::from_str(&text).expect("JSON")
}

fn oci_archive_directory_and_standard_output(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(TEXT);
    let (tar, dir) = (rig.arg("out.tar"), rig.arg("layout"));
    rig.build(&["-o", &format!("type=oci,dest={tar}"), &context]);
    rig.build(&["-t", "named:1", "-o", &format!("type=oci,tar=false,dest={dir}"), &context]);
    let args = ["--progress=plain", "-o", "type=oci,dest=-", &context];
    let file = std::fs::File::create(rig.path("stdout.tar")).expect("file");
    let status = rig.command(&args).stdout(file).status().expect("starts");
    assert!(status.success());
    let image = Image::read(tar.as_ref());
    for other in [Image::read(dir.as_ref()), Image::read(&rig.path("stdout.tar"))] {
        assert_eq!(image.manifest_digest, other.manifest_digest);
        assert_eq!(image.config_digest, other.config_digest);
    }
    assert_eq!(image.config["config"]["User"], "www-data");
    assert!(!image.files.contains_key("/bin/vi"));
    if installed("skopeo") {
        for what in [format!("oci-archive:{tar}"), format!("oci:{dir}")] {
            let config = inspect(&what);
            assert_eq!(config, image.config, "{what}");
        }
    }
    traces::none(&rig);
}

fn docker_archive(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(TEXT);
    let tar = rig.arg("docker.tar");
    rig.build(&["-t", "app:1.0", "-t", "app:two", "-o", &format!("type=docker,dest={tar}"), &context]);
    let names = succeed(Command::new("tar").args(["-xOf", &tar, "manifest.json"]));
    let manifest: Value = serde_json::from_str(&names).expect("manifest.json");
    let mut tags: Vec<_> =
        manifest[0]["RepoTags"].as_array().expect("RepoTags").iter().filter_map(Value::as_str).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["app:1.0", "app:two"]);
    if installed("skopeo") {
        let config = inspect(&format!("docker-archive:{tar}:app:1.0"));
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/bin/cat"]));
        let copy = rig.path("copied");
        succeed(
            Command::new("skopeo")
                .args(["copy", "-q"])
                .arg(format!("docker-archive:{tar}:app:1.0"))
                .arg(format!("oci:{}", copy.display())),
        );
        assert_eq!(Image::read(&copy).files["/r"].content, b"r\n");
    }
    if who == Who::Root && installed("podman") {
        let podman = Podman::new(&rig);
        let loaded = podman.call(&["load", "-q", "-i", &tar]);
        let name = loaded.split([',', '\n']).find_map(|word| word.trim().strip_prefix("Loaded image: "));
        assert_eq!(podman.run(name.unwrap_or_else(|| panic!("no name in {loaded}"))), "r\n");
    }
}

fn local_and_tar(who: Who) {
    let rig = Rig::new(who);
    let context = rig.context(
        "context",
        &[("Dockerfile", "FROM scratch\nCOPY --chown=33:33 --chmod=0750 a d/\nCOPY b /\n"), ("a", "1\n"), ("b", "2\n")],
    );
    rig.build(&["-o", &rig.arg("local"), &context]);
    rig.build(&["-o", &format!("type=local,dest={}", rig.arg("local2")), &context]);
    for dir in ["local", "local2"] {
        let read = |name: &str| std::fs::read_to_string(rig.path(dir).join(name)).expect("file");
        assert_eq!((read("d/a"), read("b")), ("1\n".to_owned(), "2\n".to_owned()));
    }
    rig.build(&["-o", &format!("type=tar,dest={}", rig.arg("files.tar")), &context]);
    let list = succeed(Command::new("tar").args(["--numeric-owner", "-tvf", &rig.arg("files.tar")]));
    assert!(list.contains("-rwxr-x--- 33/33"), "{list}");
    let args = ["--progress=plain", "-o", "-", &context];
    let out = finish(start(&mut rig.command(&args)), &args);
    assert!(out.status.success() && out.stdout.contains("d/a"), "{}", out.stderr);
    traces::none(&rig);
}

fn image_under_names(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(TEXT);
    rig.build(&["-t", "one:1", "-o", "type=image,name=two:2", &context]);
    rig.build(&["-t", "three", "-t", "example.org/four:4", &context]);
    let list = rig.ok(&["images", "--format", "json"]).stdout;
    for name in ["three", "example.org/four"] {
        assert!(list.contains(name), "{name} is missing in {list}");
    }
    let log = rig.rbuild(&["-o", "type=nosuch", &context]);
    assert!(!log.status.success() && log.stderr.contains("nosuch"), "{}", log.stderr);
}

fn compressions(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(TEXT);
    for (name, media) in [("gzip", "+gzip"), ("zstd", "+zstd"), ("uncompressed", ".tar")] {
        let out = rig.arg(&format!("{name}.tar"));
        rig.build(&["-o", &format!("type=oci,dest={out},compression={name},force-compression=true"), &context]);
        let image = Image::read(out.as_ref());
        for layer in image.manifest["layers"].as_array().expect("layers") {
            assert!(layer["mediaType"].as_str().is_some_and(|m| m.ends_with(media)), "{name}: {layer}");
        }
        assert_eq!(image.files["/r"].content, b"r\n");
    }
}

fn the_same_bytes_every_time(who: Who) {
    let rig = Rig::new(who);
    let context = rig.dockerfile(TEXT);
    rig.build(&["-t", "same:1", &context]);
    rig.build(&["-o", &format!("type=oci,dest={}", rig.arg("one.tar")), &context]);
    rig.build(&["-o", &format!("type=oci,dest={}", rig.arg("two.tar")), &context]);
    rig.ok(&["save", "--format", "oci", "-o", &rig.arg("three.tar"), "same:1"]);
    let first = Image::read(&rig.path("one.tar"));
    for name in ["two.tar", "three.tar"] {
        assert_eq!(first.manifest_digest, Image::read(&rig.path(name)).manifest_digest, "{name}");
    }
}

fn base_from_an_oci_layout(who: Who) {
    let rig = Rig::new(who);
    rig.build(&["-o", &format!("type=oci,tar=false,dest={}", rig.arg("layout")), &rig.dockerfile(TEXT)]);
    let base = Image::read(&rig.path("layout"));
    let other = Rig::empty(who);
    crate::rig::set_mode(&rig.path("."), 0o755);
    let text = "FROM base\nUSER root\nCOPY --from=base /r /again\nRUN cat /r /again >/both\nFROM base\nCOPY --from=0 /both /\n";
    let context = other.dockerfile(text);
    let named = format!("base=oci-layout://{}", rig.arg("layout"));
    other.build(&["--build-context", &named, "-o", &format!("type=oci,dest={}", other.arg("out.tar")), &context]);
    let image = Image::read(&other.path("out.tar"));
    assert_eq!(image.files["/both"].content, b"r\nr\n");
    let (below, above) = (&base.manifest["layers"], &image.manifest["layers"]);
    for (n, layer) in below.as_array().expect("layers").iter().enumerate() {
        assert_eq!(above[n]["digest"], layer["digest"], "layers of the base are handed on as they are");
    }
    let pinned = format!("{named}@{}", base.manifest_digest);
    other.build(&["--build-context", &pinned, &context]);
}

fn umoci_unpacks_and_crun_starts(who: Who) {
    if !(installed("umoci") && installed("crun")) || who != Who::Root {
        return;
    }
    let rig = Rig::new(who);
    let context = rig.dockerfile(TEXT);
    rig.build(&["-t", "run:1", "-o", &format!("type=oci,tar=false,dest={}", rig.arg("layout")), &context]);
    assert_eq!(start_by_crun(&rig, &format!("{}:1", rig.arg("layout"))), "r\n");
    let found = std::fs::symlink_metadata(rig.path("bundle/rootfs/all/made")).expect("file");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o4755, 33));
}

/// Unpacks `LAYOUT:TAG` with umoci and starts it with crun; its output.
pub(crate) fn start_by_crun(rig: &Rig, image: &str) -> String {
    let bundle = rig.path("bundle");
    let _ = std::fs::remove_dir_all(&bundle);
    succeed(Command::new("umoci").args(["unpack", "--image", image]).arg(&bundle));
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&config).expect("config.json")).expect("JSON");
    spec["process"]["terminal"] = Value::Bool(false);
    let linux = spec["linux"].as_object_mut().expect("linux");
    linux.remove("resources");
    linux.remove("cgroupsPath");
    std::fs::write(&config, spec.to_string()).expect("write");
    crun(&bundle, &rig.token())
}

/// A program in a mount namespace where cgroups of the second version do not lie below those of the first: crun wants one or
/// the other, and cgroups are not what is looked at.
pub(crate) fn without_second_cgroups(program: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", script, program]);
    command
}

fn crun(bundle: &Path, name: &str) -> String {
    let root = bundle.with_extension("crun");
    let mut command = without_second_cgroups("crun");
    command.arg("--root").arg(root).args(["--cgroup-manager=disabled", "run", "--bundle"]).arg(bundle).arg(name);
    succeed(&mut command)
}
