//! Finished images going out and coming back: archives, layouts, files, tars, pushes, loads. Checked with skopeo and tar.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rbuild::cancel::Cancel;
use rbuild::catalog::load::Loaded;
use rbuild::catalog::pull::{Policy, Puller, Source};
use rbuild::catalog::{Catalog, Image, ImageLayer, Origin};
use rbuild::event::{Event, EventKind, Observer, Progress};
use rbuild::export::output::Output;
use rbuild::export::{ExportError, Exported, Exporter, Part, Subject, Surroundings};
use rbuild::layers::{Content, Layers, Record, TreeOptions};
use rbuild::oci::manifest::{Document, Family, Parsed};
use rbuild::oci::platform::Platform;
use rbuild::oci::reference::Reference;
use rbuild::registry::{Client, Layout, Remote as _};
use rbuild::tar::entry::{Entry, Kind, LayerPath, Meta};
use rbuild_cache::digest::Blake3;
use rbuild_cache::{Store, StoreOptions};

use crate::server::{Access, Registry};
use crate::{noise, open, quick, run, tag};

/// A store with everything around it, and what was said during exports.
pub(crate) struct World {
    runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
    layers: Layers,
    puller: Puller,
    exporter: Exporter,
    progress: Progress,
    said: Arc<Mutex<Vec<String>>>,
}

struct Listener(Arc<Mutex<Vec<String>>>);

impl Observer for Listener {
    fn observe(&mut self, event: &Event) {
        let line = match &event.kind {
            EventKind::Vertex { name, .. } => name.clone(),
            EventKind::Status(status) if status.completed => status.id.clone(),
            EventKind::Warning(warning) => warning.short.clone(),
            _ => return,
        };
        self.0.lock().expect("no panic").push(line);
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("runtime");
        let directory = tempfile::tempdir().expect("temp dir");
        let store = Store::open(&directory.path().join("store"), StoreOptions::default()).expect("opened");
        let layers = Layers::new(store, TreeOptions::ROOT, Cancel::new());
        let puller = Puller::new(layers.clone(), Client::new(quick()));
        let handle = runtime.handle().clone();
        let exporter = Exporter::new(layers.clone(), puller.clone(), handle, Cancel::new(), 2);
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let clock = || std::time::UNIX_EPOCH;
        let progress = Progress::new(vec![Box::new(Listener(said.clone()))], clock);
        Self { runtime, directory, layers, puller, exporter, progress, said }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    fn catalog(&self) -> &Catalog {
        self.puller.catalog()
    }

    /// Makes a layer as COPY does.
    pub(crate) fn layer(&self, files: &[(&str, &str)]) -> Record {
        let entries = files.iter().map(|(path, text)| entry(path, text));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        self.layers.write(entries.into_iter()).expect("a layer")
    }

    pub(crate) fn image(architecture: &str, layers: &[Record]) -> Image {
        let diff_ids: Vec<_> = layers.iter().map(|record| record.diff_id).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]}, "created": "2024-01-02T03:04:05Z",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let layer = |record: &Record| ImageLayer {
            diff_id: record.diff_id,
            layer: record.id,
            descriptor: None,
            from: Vec::new(),
        };
        Image { config: config.to_string(), layers: layers.iter().map(layer).collect(), ..Image::default() }
    }

    /// Two layers: files, and a deletion with more.
    fn sample(&self) -> Subject {
        let base = self.layer(&[
            ("etc/", "755"),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/gone", "x"),
            ("bin/", "755"),
            ("bin/also", "#!/bin/sh\n"),
            ("bin/tool", "=bin/also"),
            ("bin/link", "->tool"),
        ]);
        let top = self.layer(&[("app/", "700"), ("app/data", "hello"), ("etc/gone", "!")]);
        subject("amd64", Self::image("amd64", &[base, top]), &["app:1"])
    }

    fn export(&self, subject: &Subject, kind: &str, attributes: &[(&str, &str)]) -> Result<Exported, ExportError> {
        self.export_to(subject, kind, attributes, &mut std::io::sink())
    }

    fn export_to(
        &self,
        subject: &Subject,
        kind: &str,
        attributes: &[(&str, &str)],
        stream: &mut (dyn std::io::Write + Send),
    ) -> Result<Exported, ExportError> {
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let output = Output::parse(kind, &attributes).expect("valid");
        self.said.lock().expect("no panic").clear();
        let mut around = Surroundings { progress: &self.progress, inputs: &[], stream };
        self.exporter.export(subject, &output, &mut around)
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().expect("no panic").clone()
    }

    fn load(&self, path: &Path) -> Vec<Loaded> {
        let vertex = self.progress.vertex("load", &[]);
        let file = std::fs::File::open(path).expect("there");
        self.puller.load(Box::new(file), "archive", self.runtime.handle(), &vertex).expect("loaded")
    }
}

pub(crate) fn subject(arch: &str, image: Image, names: &[&str]) -> Subject {
    let names = names.iter().map(|name| Reference::parse_tagged(name).expect("valid")).collect();
    let part = Part { platform: Platform::new("linux", arch, ""), image, base: 0 };
    Subject { images: vec![part], names, epoch: None, indexed: false }
}

/// `name/` with a mode, `=target` a hard link, `->target` a symbolic one, `!` a whiteout, else a file's content.
fn entry(path: &str, text: &str) -> (Entry, Content) {
    let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: 1_700_000_000, xattrs: BTreeMap::new() };
    let clean = LayerPath::clean(path);
    let (kind, meta, content) = if path.ends_with('/') {
        let mode = u32::from_str_radix(text, 8).expect("octal");
        (Kind::Directory { opaque: false }, meta(mode), Content::None)
    } else if let Some(target) = text.strip_prefix("->") {
        (Kind::Symlink(target.as_bytes().to_vec()), meta(0o777), Content::None)
    } else if text == "!" {
        (Kind::Whiteout, Meta::default(), Content::None)
    } else if let Some(target) = text.strip_prefix('=') {
        (Kind::Hardlink(LayerPath::clean(target)), Meta::default(), Content::None)
    } else {
        let bytes = text.as_bytes().to_vec();
        let kind = Kind::File { size: bytes.len() as u64, content: Blake3::of(&bytes) };
        (kind, meta(if text.starts_with("#!") { 0o755 } else { 0o644 }), Content::Bytes(bytes))
    };
    (Entry { path: clean, kind, meta }, content)
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().expect("skopeo runs");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn an_oci_archive_is_what_skopeo_and_we_read() {
    let world = World::new();
    let sample = world.sample();
    let path = world.path("app.tar");
    let told = world.export(&sample, "oci", &[("dest", text(&path)), ("name", "other:2")]).expect("written");
    let digest = told.descriptor.as_ref().expect("a manifest").digest;
    let id = sample.images[0].image.id();
    let metadata = serde_json::Value::Object(told.metadata());
    assert_eq!(metadata["containerimage.digest"], digest.to_string());
    assert_eq!(metadata["containerimage.config.digest"], id.to_string());
    assert_eq!(metadata["image.name"], "docker.io/library/app:1,docker.io/library/other:2");
    assert_eq!(metadata["containerimage.descriptor"]["platform"]["architecture"], "amd64");
    let created = &metadata["containerimage.descriptor"]["annotations"]["org.opencontainers.image.created"];
    assert_eq!(created, "2024-01-02T03:04:05Z");
    assert_eq!(
        world.said(),
        [
            "exporting to oci image format",
            "exporting layers",
            &format!("exporting manifest {digest}"),
            &format!("exporting config {id}"),
            "sending tarball",
        ]
    );
    let raw = skopeo(&["inspect", "--raw", &format!("oci-archive:{}:1", path.display())]);
    assert_eq!(Document::new(raw.into_bytes(), None).expect("a manifest").digest(), digest);
    // Its blobs are whole.
    skopeo(&["copy", &format!("oci-archive:{}:1", path.display()), &format!("dir:{}", world.path("copy").display())]);

    // The same again gives the same bytes.
    let again = world.path("again.tar");
    world.export(&sample, "oci", &[("dest", text(&again)), ("name", "other:2")]).expect("written");
    assert!(std::fs::read(&path).expect("there") == std::fs::read(&again).expect("there"));

    // And comes back into another store as the same image, under its names.
    let other = World::new();
    let loaded = other.load(&path);
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].names, told.names.iter().map(|n| Reference::parse(n).expect("valid")).collect::<Vec<_>>());
    let (_, named) = other.catalog().find("app:1").expect("named");
    assert_eq!(named.images[0].id, id);
    let image = other.catalog().get(&id).expect("read").expect("there");
    assert_eq!(image.manifest.as_ref().map(Document::digest), Some(digest), "the manifest stays");
    assert!(image.layers.iter().all(|layer| other.layers.record(&layer.layer).expect("read").is_some()));
}

#[test]
fn a_docker_archive_is_what_docker_load_reads() {
    let world = World::new();
    let sample = world.sample();
    let path = world.path("app.tar");
    let mut stream = Vec::new();
    let told = world.export_to(&sample, "docker", &[("dest", "-")], &mut stream).expect("written");
    std::fs::write(&path, &stream).expect("written");
    assert_eq!(told.descriptor.expect("a manifest").media_type, Family::Oci.manifest());
    assert_eq!(world.said()[0], "exporting to docker image format");
    let list = Command::new("tar").args(["-xOf", text(&path), "manifest.json"]).output().expect("tar runs");
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).expect("json");
    assert_eq!(list[0]["RepoTags"], serde_json::json!(["app:1"]));
    let inspected = skopeo(&["inspect", "--config", &format!("docker-archive:{}:app:1", path.display())]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("json");
    assert_eq!(inspected["config"]["Cmd"][0], "sh");

    // Without index.json it is the older form; skopeo writes that one.
    let old = world.path("old.tar");
    let from = format!("docker-archive:{}:app:1", path.display());
    skopeo(&["copy", &from, &format!("docker-archive:{}:old:1", old.display())]);
    let other = World::new();
    let loaded = other.load(&old);
    assert_eq!(loaded[0].names, [Reference::parse("old:1").expect("valid")]);
    assert_eq!(loaded[0].named.images[0].id, sample.images[0].image.id());
}

#[test]
fn a_layout_directory_collects_images() {
    let world = World::new();
    let path = world.path("layout");
    let first = world.sample();
    let attributes = [("dest", text(&path)), ("tar", "false")];
    let told = world.export(&first, "oci", &attributes).expect("written");
    let more = world.layer(&[("more", "x")]);
    let second = subject("amd64", World::image("amd64", &[more]), &["app:2"]);
    world.export(&second, "oci", &attributes).expect("written");
    let layout = Layout::open(&path).expect("a layout");
    assert_eq!(run(layout.resolve(&tag("1"))).expect("there"), told.descriptor.expect("a manifest").digest);
    let source = Source::parse(&format!("oci-layout://{}:2", path.display())).expect("valid");
    let platform = Platform::new("linux", "amd64", "");
    let found = run(world.puller.resolve(&source, &platform, Policy::Missing, None)).expect("there");
    assert_eq!(found.id, second.images[0].image.id());
    assert_eq!(found.image.layers[0].layer, second.images[0].image.layers[0].layer, "recognised as made here");
}

#[test]
fn several_platforms_become_an_index() {
    let world = World::new();
    let mut both = world.sample();
    let arm = World::image("arm64", &[world.layer(&[("arm", "x")])]);
    both.images.push(Part { platform: Platform::new("linux", "arm64", ""), image: arm, base: 0 });
    let path = world.path("multi.tar");
    let annotations = [("dest", text(&path)), ("annotation-index.k", "i"), ("annotation-manifest[linux/arm64].k", "m")];
    let told = world.export(&both, "oci", &annotations).expect("written");
    assert_eq!((told.id, told.descriptor.is_some()), (None, true));
    let raw = skopeo(&["inspect", "--raw", &format!("oci-archive:{}:1", path.display())]);
    let index = Document::new(raw.into_bytes(), None).expect("an index");
    assert_eq!(Some(index.digest()), told.descriptor.map(|d| d.digest));
    let Ok(Parsed::Index(index)) = index.parse() else { panic!("an index") };
    let platforms: Vec<_> = index.manifests.iter().filter_map(|d| d.platform.as_ref()).map(Platform::short).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    assert_eq!(index.annotations["k"], "i");
    let other = World::new();
    assert_eq!(other.load(&path)[0].named.images.len(), 2);

    let error = world.export(&both, "docker", &[]).expect_err("one platform only").to_string();
    assert_eq!(error, "docker exporter does not currently support exporting manifest lists");
    let error = world.export(&world.sample(), "oci", &[("annotation-index.k", "i"), ("dest", "-")]);
    assert_eq!(error.expect_err("no index").to_string(), "index annotations not supported for single platform export");
}

#[test]
fn compressions_and_media_types_are_as_asked_for() {
    let world = World::new();
    let sample = world.sample();
    let path = world.path("layout");
    let types = |attributes: &[(&str, &str)]| {
        let mut all = vec![("dest", text(&path)), ("tar", "false")];
        all.extend(attributes);
        world.export(&sample, "oci", &all).expect("written");
        let layout = Layout::open(&path).expect("a layout");
        let document = run(layout.manifest(&tag("1"))).expect("there");
        let Ok(Parsed::Manifest(manifest)) = document.parse() else { panic!("a manifest") };
        (manifest.config.media_type.to_string(), manifest.layers[1].media_type.to_string(), manifest.layers[1].size)
    };
    let oci = "application/vnd.oci.image.config.v1+json".to_owned();
    let (config, layer, size) = types(&[]);
    assert_eq!((config, layer.as_str()), (oci.clone(), "application/vnd.oci.image.layer.v1.tar+gzip"));
    let (config, layer, _) = types(&[("compression", "zstd"), ("compression-level", "1")]);
    assert_eq!((config, layer.as_str()), (oci, "application/vnd.oci.image.layer.v1.tar+zstd"));
    let (_, layer, plain) = types(&[("compression", "uncompressed")]);
    assert_eq!(layer, "application/vnd.oci.image.layer.v1.tar");
    assert!(plain > size);
    let (config, layer, _) = types(&[("oci-mediatypes", "false")]);
    assert_eq!(config, "application/vnd.docker.container.image.v1+json");
    assert_eq!(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip");
}

#[test]
fn local_files_are_what_a_container_would_see() {
    let world = World::new();
    let path = world.path("out");
    std::fs::create_dir_all(path.join("app")).expect("made");
    std::fs::write(path.join("mine"), "kept").expect("written");
    // What is in the way is replaced; links out of the directory are not followed.
    let outside = world.path("outside");
    std::fs::create_dir(&outside).expect("made");
    std::os::unix::fs::symlink(&outside, path.join("etc")).expect("linked");
    world.export(&world.sample(), "local", &[("dest", text(&path))]).expect("written");
    assert_eq!(world.said(), ["exporting to client directory", "copying files"]);
    assert_eq!(std::fs::read_to_string(path.join("app/data")).expect("there"), "hello");
    assert!(!path.join("etc/gone").exists(), "deleted in a later layer");
    assert_eq!(std::fs::read_dir(&outside).expect("there").count(), 0);
    let stat = |name: &str| std::fs::symlink_metadata(path.join(name)).expect(name);
    assert_eq!(stat("app").permissions().mode() & 0o7777, 0o700);
    assert_eq!(stat("bin/tool").permissions().mode() & 0o7777, 0o755);
    assert_eq!(stat("bin/tool").ino(), stat("bin/also").ino(), "hard links stay");
    assert_eq!(stat("app/data").mtime(), 1_700_000_000);
    assert_eq!(stat("app").mtime(), 1_700_000_000);
    assert_eq!(stat("bin/link").mtime(), 1_700_000_000);
    assert_eq!(std::fs::read_link(path.join("bin/link")).expect("a link"), Path::new("tool"));
    assert_eq!(std::fs::read_to_string(path.join("mine")).expect("there"), "kept");

    let mut dated = world.sample();
    dated.epoch = Some(1000);
    world.export(&dated, "local", &[("dest", text(&path))]).expect("written over the old");
    assert_eq!((stat("app/data").mtime(), stat("bin").mtime(), stat("bin/link").mtime()), (1000, 1000, 1000));
}

#[test]
fn a_tar_of_files_has_no_whiteouts() {
    let world = World::new();
    let mut stream = Vec::new();
    world.export_to(&world.sample(), "tar", &[("dest", "-")], &mut stream).expect("written");
    let path = world.path("fs.tar");
    std::fs::write(&path, &stream).expect("written");
    let list = Command::new("tar").args(["-tf", text(&path)]).output().expect("tar runs");
    let list = String::from_utf8(list.stdout).expect("text");
    let names: Vec<_> = list.lines().collect();
    let wanted = ["app/", "app/data", "bin/", "bin/also", "bin/link", "bin/tool", "etc/", "etc/passwd"];
    assert_eq!(names, wanted);

    // And is a base image again.
    let name = Reference::parse_tagged("flat").expect("valid");
    let platform = Platform::new("linux", "amd64", "");
    let file = std::fs::File::open(&path).expect("there");
    let id = world.puller.import(Box::new(file), "-", Some(&name), &platform, "2024-01-02T03:04:05Z");
    let id = id.expect("imported");
    assert_eq!(world.catalog().find("flat").expect("named").1.images[0].id, id);
    let image = world.catalog().get(&id).expect("read").expect("there");
    let out = world.path("flat");
    world.export(&subject("amd64", image, &[]), "local", &[("dest", text(&out))]).expect("written");
    assert_eq!(std::fs::read_to_string(out.join("app/data")).expect("there"), "hello");
}

#[test]
fn platforms_get_directories_of_their_own() {
    let world = World::new();
    let mut both = world.sample();
    let arm = World::image("arm64", &[world.layer(&[("arm", "x")])]);
    both.images.push(Part { platform: Platform::new("linux", "arm64", ""), image: arm, base: 0 });
    let path = world.path("out");
    world.export(&both, "local", &[("dest", text(&path))]).expect("written");
    assert!(path.join("linux_amd64/app/data").exists() && path.join("linux_arm64/arm").exists());

    let merged = world.path("merged");
    let attributes = [("dest", text(&merged)), ("platform-split", "false")];
    world.export(&both, "local", &attributes).expect("nothing twice");
    assert!(merged.join("app/data").exists() && merged.join("arm").exists());
    both.images[1].image = World::image("arm64", &[world.layer(&[("app/", "755"), ("app/data", "other")])]);
    let error = world.export(&both, "local", &attributes).expect_err("one path, two files").to_string();
    assert_eq!(error, "/app/data comes from several platforms; platform-split=true keeps them apart");
    assert!(world.export(&both, "tar", &[("dest", "-"), ("platform-split", "false")]).is_err());
}

#[test]
fn the_store_keeps_images_under_names() {
    let world = World::new();
    let sample = world.sample();
    let told = world.export(&sample, "image", &[("name", "b:2")]).expect("recorded");
    let id = sample.images[0].image.id();
    assert_eq!((told.id, told.descriptor), (Some(id), None));
    assert_eq!(
        world.said(),
        [
            "exporting to image",
            &format!("exporting config {id}"),
            "naming to docker.io/library/app:1",
            "naming to docker.io/library/b:2",
        ]
    );
    assert_eq!(world.catalog().find("b:2").expect("named").1.images[0].id, id);
    let error = world.export(&sample, "image", &[("annotation-manifest-descriptor.a", "1")]);
    let error = error.expect_err("nothing to put it on").to_string();
    assert!(error.contains("keeps the annotations of its manifest only"), "{error}");
    world.export(&sample, "image", &[("annotation.a", "1")]).expect("recorded");
    let image = world.catalog().get(&id).expect("read").expect("there");
    assert_eq!(image.annotations["a"], "1");
}

#[test]
fn a_push_sends_what_is_missing_and_a_pull_gets_it_back() {
    let registry = Registry::start(&Access::Open);
    let world = World::new();
    let mut sample = world.sample();
    let name = format!("{}/app:1", registry.address);
    sample.names = vec![Reference::parse(&name).expect("valid")];
    let told = world.export(&sample, "registry", &[]).expect("pushed");
    let digest = told.descriptor.as_ref().expect("a manifest").digest;
    assert_eq!(told.names, std::slice::from_ref(&name));
    let said = world.said();
    assert!(said.contains(&"pushing layers".to_owned()), "{said:?}");
    assert!(said.contains(&format!("pushing manifest for {name}@{digest}")), "{said:?}");
    assert!(said.contains(&format!("naming to {name}")), "{said:?}");
    let raw = registry.skopeo(&["inspect", "--raw", &format!("docker://{name}")]);
    assert_eq!(Document::new(raw.into_bytes(), None).expect("a manifest").digest(), digest);

    // Another machine builds on it: a new layer over layers that it never fetches.
    let other = World::new();
    let platform = Platform::new("linux", "amd64", "");
    let base = run(other.puller.resolve(&Source::parse(&name).expect("valid"), &platform, Policy::Missing, None));
    let base = base.expect("pulled");
    assert_eq!(base.id, sample.images[0].image.id());
    let top = other.layer(&[("new", "x")]);
    let mut child = World::image("amd64", &[]);
    child.layers.clone_from(&base.image.layers);
    child.layers.push(ImageLayer { diff_id: top.diff_id, layer: top.id, descriptor: None, from: Vec::new() });
    let diff_ids: Vec<_> = child.layers.iter().map(|layer| layer.diff_id).collect();
    child.config = child.config.replace("\"diff_ids\":[]", &format!("\"diff_ids\":{}", serde_json::json!(diff_ids)));
    let child_name = format!("{}/child:1", registry.address);
    let child = subject("amd64", child, &[&child_name]);
    other.export(&child, "registry", &[]).expect("pushed");
    for layer in &base.image.layers {
        assert!(other.layers.record(&layer.layer).expect("read").is_none(), "mounted, not fetched");
        let hex = layer.descriptor.as_ref().expect("pulled").digest.0.hex();
        assert!(registry.stored(&format!("repositories/child/_layers/sha256/{hex}/link")));
    }

    // An archive needs the bytes, files need the layers.
    let path = other.path("child.tar");
    other.export(&child, "oci", &[("dest", text(&path))]).expect("written");
    assert!(other.layers.record(&base.image.layers[0].layer).expect("read").is_none(), "a blob is enough");
    let out = other.path("out");
    other.export(&child, "local", &[("dest", text(&out))]).expect("written");
    assert_eq!(std::fs::read_to_string(out.join("app/data")).expect("there"), "hello");
    assert!(other.said().iter().any(|line| line.starts_with("extracting sha256:")), "{:?}", other.said());

    // A pulled image leaves as it came.
    let copied = format!("{}/copy:1", registry.address);
    let told = other.export(&subject("amd64", base.image, &[&copied]), "registry", &[]).expect("pushed");
    assert_eq!(told.descriptor.expect("a manifest").digest, digest);
}

#[test]
fn pushes_by_digest_have_no_tag_and_failures_name_the_target() {
    let registry = Registry::start(&Access::Open);
    let world = World::new();
    let mut sample = world.sample();
    let name = format!("{}/app:1", registry.address);
    sample.names = vec![Reference::parse(&name).expect("valid")];
    let attributes = [("push-by-digest", "true"), ("name-canonical", "true")];
    let told = world.export(&sample, "registry", &attributes).expect("pushed");
    let digest = told.descriptor.expect("a manifest").digest;
    let repository = open(quick(), &name);
    assert!(run(async { repository.resolve(&tag("1")).await }).expect_err("no tag").is_not_found());
    assert!(run(async { repository.resolve(&rbuild::registry::Selector::Digest(digest)).await }).is_ok());
    let canonical = format!("{}/app@{digest}", registry.address);
    assert!(world.catalog().find(&canonical).is_ok());

    drop(registry);
    let error = world.export(&sample, "registry", &[]).expect_err("nobody answers").to_string();
    assert!(error.starts_with(&format!("failed to push {name}: failed to do request: HEAD")), "{error}");
    sample.names.clear();
    let error = world.export(&sample, "registry", &[]).expect_err("no name").to_string();
    assert_eq!(error, "tag is needed when pushing to registry");
}

#[test]
fn forced_compression_repacks_what_was_pulled() {
    let registry = Registry::start(&Access::Open);
    let world = World::new();
    let mut sample = world.sample();
    let name = format!("{}/app:1", registry.address);
    sample.names = vec![Reference::parse(&name).expect("valid")];
    world.export(&sample, "registry", &[]).expect("pushed");
    let other = World::new();
    let platform = Platform::new("linux", "amd64", "");
    let source = Source::parse(&name).expect("valid");
    let base = run(other.puller.resolve(&source, &platform, Policy::Missing, None)).expect("pulled");
    let path = other.path("layout");
    let attributes = [("dest", text(&path)), ("tar", "false"), ("compression", "zstd")];
    let types = |force: &str| {
        let mut all = attributes.to_vec();
        all.push(("force-compression", force));
        other.export(&subject("amd64", base.image.clone(), &["x:1"]), "oci", &all).expect("written");
        let document = run(async { Layout::open(&path).expect("a layout").manifest(&tag("1")).await }).expect("there");
        let Ok(Parsed::Manifest(manifest)) = document.parse() else { panic!("a manifest") };
        manifest
            .layers
            .iter()
            .map(|l| l.media_type.to_string().rsplit('+').next().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(types("false"), [Some("gzip".to_owned()), Some("gzip".to_owned())]);
    assert_eq!(types("true"), [Some("zstd".to_owned()), Some("zstd".to_owned())]);
}

#[test]
fn timestamps_are_rewritten_when_asked_for() {
    let world = World::new();
    let mut sample = world.sample();
    let told = world.export(&sample, "image", &[("rewrite-timestamp", "true")]).expect("recorded");
    assert_eq!(told.id, Some(sample.images[0].image.id()), "without an epoch nothing is rewritten");
    assert!(world.said().iter().any(|line| line.contains("no source-date-epoch was found")), "{:?}", world.said());
    sample.epoch = Some(1000);
    let told = world.export(&sample, "image", &[("rewrite-timestamp", "true")]).expect("recorded");
    let id = told.id.expect("one image");
    assert_ne!(id, sample.images[0].image.id());
    let image = world.catalog().get(&id).expect("read").expect("there");
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
    assert_eq!(image.parsed().expect("a config").rootfs.diff_ids, diff_ids);
    let mut tar = Vec::new();
    world.layers.tar(&image.layers[1].layer).expect("opens").read_to_end(&mut tar).expect("read");
    let path = world.path("layer.tar");
    std::fs::File::create(&path).and_then(|mut file| file.write_all(&tar)).expect("written");
    let list = Command::new("tar").args(["--utc", "-tvf", text(&path)]).output().expect("tar runs");
    assert!(String::from_utf8(list.stdout).expect("text").contains("1970-01-01 00:16"));
}

#[test]
fn layers_that_lie_are_not_taken() {
    let registry = Registry::start(&Access::Open);
    let name = format!("{}/liar", registry.address);
    let mut image = crate::sample(Family::Oci, noise(2000));
    // The config promises another tar than the layer holds (and the layer is no tar at all).
    image.layer = (image.layer.0, image.layer.1);
    run(crate::push(&open(quick(), &name), &image, "latest")).expect("pushed");
    let world = World::new();
    let platform = Platform::new("linux", "amd64", "");
    let source = Source::parse(&name).expect("valid");
    let pulled = run(world.puller.resolve(&source, &platform, Policy::Missing, None)).expect("pulled");
    let origin = Origin::Registry(Reference::parse(&name).expect("valid"));
    assert_eq!(pulled.image.layers[0].from, [origin]);
    let vertex = world.progress.vertex("x", &[]);
    let error = world.runtime.block_on(world.puller.ensure_layers(&pulled.image, &vertex, &Cancel::new()));
    let error = error.expect_err("no tar").to_string();
    assert!(error.starts_with(&format!("failed to extract layer {}", image.layer.0.digest)), "{error}");
    assert!(world.layers.record(&pulled.image.layers[0].layer).expect("read").is_none());
}
