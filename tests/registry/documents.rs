//! What registries serve as images, well-formed or not, as a table: each is the right image in the end, or one error that
//! says what is wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild::cancel::Cancel;
use rbuild::catalog::pull::{Policy, PullError, Puller, Source};
use rbuild::event::Progress;
use rbuild::layers::{Layers, TreeOptions};
use rbuild::oci::platform::Platform;
use rbuild::registry::{Client, Error, Remote as _, Selector};
use rbuild_cache::digest::{BlobDigest, Sha256};
use rbuild_cache::{Store, StoreOptions};
use serde_json::{Value, json};

use crate::server::{Reply, Scripted};
use crate::{blob_server, quick, run, tag};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What a registry has: answers by the end of the path.
#[derive(Clone, Default)]
struct Shelf(BTreeMap<String, (Option<String>, Vec<u8>)>);

impl Shelf {
    /// Puts bytes there; their descriptor.
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Sha256::of(bytes).to_string();
        self.0.insert(digest.clone(), (None, bytes.to_vec()));
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Puts a document there, by its digest and as `latest`; its descriptor.
    fn document(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let descriptor = self.blob(media_type, &bytes);
        let found = (Some(media_type.to_owned()), bytes);
        self.0.insert(descriptor["digest"].as_str().expect("text").to_owned(), found.clone());
        self.0.insert("latest".to_owned(), found);
        descriptor
    }

    /// The config of an image with these layers.
    fn config(&mut self, media_type: &str, layers: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Sha256::of(layer).to_string()).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]}, "rootfs": rootfs});
        self.blob(media_type, config.to_string().as_bytes())
    }

    /// A manifest of an image with these layers.
    fn manifest(&mut self, layers: &[Vec<u8>]) -> Value {
        let config = self.config(CONFIG, layers);
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
    }

    /// An image, changed before it is put there.
    fn image(layers: &[Vec<u8>], change: impl FnOnce(&mut Value)) -> Self {
        let mut shelf = Self::default();
        let mut manifest = shelf.manifest(layers);
        change(&mut manifest);
        shelf.document(MANIFEST, &manifest);
        shelf
    }

    /// Something whose type is only in the answer's header, or in no place at all.
    fn raw(media_type: Option<&str>, text: impl Into<Vec<u8>>) -> Self {
        Self(BTreeMap::from([("latest".to_owned(), (media_type.map(str::to_owned), text.into()))]))
    }

    fn typed(mut self, media_type: Option<&str>) -> Self {
        if let Some(latest) = self.0.get_mut("latest") {
            latest.0 = media_type.map(str::to_owned);
        }
        self
    }
}

/// A tar with one file.
fn tar(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, name.as_bytes()).expect("memory");
    tar.into_inner().expect("memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut child = std::process::Command::new("gzip")
        .args(["-nc"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip");
    child.stdin.take().expect("piped").write_all(bytes).expect("written");
    child.wait_with_output().expect("gzip").stdout
}

/// How a case ends: with this many layers, or with an error of these words.
#[derive(Debug)]
enum End {
    Image(usize),
    Fault(&'static str),
}
use End::{Fault, Image};

/// Pulls `latest` with all its layers for amd64: the number of layers, or the error.
fn pull(shelf: Shelf, digest: Option<&'static str>) -> Result<usize, String> {
    let server = Scripted::start(move |seen, _| {
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        let Some((media_type, bytes)) = shelf.0.get(name) else { return Reply::new(404, "") };
        let mut reply = Reply::new(200, bytes.clone());
        if let Some(media_type) = media_type {
            reply = reply.with("content-type", media_type.clone());
        }
        match digest {
            Some(claimed) if name == "latest" => reply.with("docker-content-digest", claimed),
            Some(_) | None => reply,
        }
    });
    let directory = tempfile::tempdir().expect("temp dir");
    let store = Store::open(&directory.path().join("store"), StoreOptions::default()).expect("opened");
    let layers = Layers::new(store, TreeOptions::ROOT, Cancel::new());
    let puller = Puller::new(layers.clone(), Client::new(quick()));
    let vertex = Progress::silent().vertex("pull", &[]);
    let source = Source::parse(&format!("{}/x", server.address)).expect("valid");
    let done = run(async {
        let found = puller.resolve(&source, &Platform::new("linux", "amd64", ""), Policy::Missing, None).await?;
        puller.ensure_layers(&found.image, &vertex, &Cancel::new()).await?;
        Ok::<_, PullError>(found)
    });
    let found = done.map_err(|error| error.to_string())?;
    for layer in &found.image.layers {
        let record = layers.record(&layer.layer).expect("read").expect("the layer is there");
        assert_eq!(record.diff_id, layer.diff_id);
    }
    Ok(found.image.layers.len())
}

#[test]
fn what_registries_serve() {
    let (a, b) = (tar("a"), tar("b"));
    let image = |change: fn(&mut Value)| Shelf::image(&[tar("a"), tar("b")], change);
    let same = |_: &mut Value| {};
    let both = [a.clone(), b.clone()];
    let mut cases: Vec<(&str, Shelf, End)> = vec![
        ("an image", image(same), Image(2)),
        ("no type inside", image(|m| drop(m.as_object_mut().map(|m| m.remove("mediaType")))), Image(2)),
        ("no layers", Shelf::image(&[], same), Image(0)),
        ("no layers, as Go writes it", Shelf::image(&[], |m| m["layers"] = Value::Null), Image(0)),
        ("no annotations, as Go writes it", image(|m| m["annotations"] = Value::Null), Image(2)),
        ("the same layer twice", Shelf::image(&[a.clone(), b.clone(), a.clone()], same), Image(3)),
        (
            "the type only in the header",
            image(same).typed(Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")),
            Image(2),
        ),
        ("a header that says only JSON", image(same).typed(Some("application/json")), Image(2)),
        ("no header", image(same).typed(None), Image(2)),
        (
            "a config of an old registry",
            {
                let mut shelf = Shelf::default();
                let mut manifest = shelf.manifest(&both);
                manifest["config"] = shelf.config("application/octet-stream", &both);
                shelf.document(MANIFEST, &manifest);
                shelf
            },
            Image(2),
        ),
        (
            "a layer that is packed otherwise than its type says",
            {
                let mut shelf = Shelf::default();
                let mut manifest = shelf.manifest(&both);
                manifest["layers"][0] = shelf.blob(LAYER, &gzip(&a));
                shelf.document(MANIFEST, &manifest);
                shelf
            },
            Image(2),
        ),
        (
            "schema 1",
            Shelf::raw(None, json!({"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}).to_string()),
            Fault("schema 1 is not supported"),
        ),
        (
            "schema 1, signed",
            Shelf::raw(Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), "{}"),
            Fault("schema 1 is not supported"),
        ),
        (
            "another kind of document",
            Shelf::raw(
                Some("application/vnd.wasm+json"),
                json!({"schemaVersion": 2, "mediaType": "application/vnd.wasm+json"}).to_string(),
            ),
            Fault("unsupported manifest media type \"application/vnd.wasm+json\""),
        ),
        (
            "a page of a proxy",
            Shelf::raw(Some("text/html"), "<html>Please log in</html>"),
            Fault("malformed manifest: "),
        ),
        ("nothing at all", Shelf::raw(Some(MANIFEST), ""), Fault("malformed manifest: ")),
        ("no text", Shelf::raw(Some(MANIFEST), [0xff, 0xfe]), Fault("malformed manifest: ")),
        ("manifest and index at once", image(|m| m["manifests"] = json!([])), Fault("unsupported manifest media type")),
        (
            "more than is read",
            image(|m| m["annotations"] = json!({"x": "y".repeat(4 << 20)})),
            Fault("larger than the limit of 4194304 bytes"),
        ),
        (
            "a chart",
            {
                let mut shelf = Shelf::default();
                let config = shelf.blob("application/vnd.cncf.helm.config.v1+json", br#"{"name":"x","version":"1"}"#);
                let layer = shelf.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"x");
                shelf.document(MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": [layer]}));
                shelf
            },
            Fault("not an image: config of type application/vnd.cncf.helm.config.v1+json"),
        ),
        (
            "an artifact of nothing",
            {
                let mut shelf = Shelf::default();
                let config = shelf.blob("application/vnd.oci.empty.v1+json", b"{}");
                let artifact =
                    json!({"schemaVersion": 2, "artifactType": "application/x", "config": config, "layers": []});
                shelf.document(MANIFEST, &artifact);
                shelf
            },
            Fault("not an image: config of type application/vnd.oci.empty.v1+json"),
        ),
        (
            "a config of fewer layers",
            image(|m| m["layers"].as_array_mut().expect("a list").truncate(1)),
            Fault("lists 2 layers, the manifest 1"),
        ),
        (
            "a config of another size",
            image(|m| m["config"]["size"] = json!(5)),
            Fault("size mismatch: expected 5 bytes"),
        ),
        (
            "a config that is too big",
            image(|m| m["config"]["size"] = json!(1_u64 << 40)),
            Fault("larger than the limit"),
        ),
        (
            "a config that is not there",
            image(|m| m["config"]["digest"] = json!(Sha256::of(b"?").to_string())),
            Fault("not found"),
        ),
        (
            "a layer that is not there",
            image(|m| m["layers"][0]["digest"] = json!(Sha256::of(b"?").to_string())),
            Fault("not found"),
        ),
        (
            "a layer of another size",
            image(|m| m["layers"][0]["size"] = json!(512)),
            Fault("size mismatch: expected 512 bytes"),
        ),
        ("a layer of no size", image(|m| m["layers"][0]["size"] = json!(-1)), Fault("malformed manifest: ")),
        (
            "a digest of another kind",
            image(|m| m["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)))),
            Fault("malformed manifest: "),
        ),
        (
            "a layer that is no layer",
            image(|m| m["layers"][0]["mediaType"] = json!("application/x")),
            Fault("unsupported media type application/x"),
        ),
        (
            "an encrypted layer",
            image(|m| m["layers"][0]["mediaType"] = json!(format!("{LAYER}+gzip+encrypted"))),
            Fault("unsupported media type"),
        ),
        ("a layer that is no tar", Shelf::image(&[vec![7; 2000]], same), Fault("failed to extract layer sha256:")),
        (
            "layers in another order",
            image(|m| m["layers"].as_array_mut().expect("a list").reverse()),
            Fault("failed to extract layer sha256:"),
        ),
        (
            "a config that is none",
            {
                let mut shelf = Shelf::default();
                let mut manifest = shelf.manifest(&both);
                manifest["config"] = shelf.blob(CONFIG, b"[]");
                shelf.document(MANIFEST, &manifest);
                shelf
            },
            Fault("malformed image config: "),
        ),
        (
            "an index without anything, as Go writes it",
            Shelf::raw(Some(INDEX), r#"{"schemaVersion":2,"manifests":null}"#),
            Fault("no match for platform in manifest"),
        ),
    ];
    // Indexes: beside what is wanted are other platforms, and attestations; an index may be in an index, up to a depth.
    let entry = |mut descriptor: Value, arch: &str| {
        descriptor["platform"] = json!({"os": if arch == "unknown" { arch } else { "linux" }, "architecture": arch});
        descriptor
    };
    let nested = |depth: usize| {
        let mut shelf = Shelf::default();
        let manifest = shelf.manifest(&both);
        let mut top = entry(shelf.document(MANIFEST, &manifest), "amd64");
        for _ in 0..depth {
            let other =
                entry(json!({"mediaType": MANIFEST, "digest": Sha256::of(b"?").to_string(), "size": 1}), "unknown");
            top = shelf.document(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, top]}));
        }
        shelf
    };
    cases.push(("an index", nested(1), Image(2)));
    cases.push(("an index of an index", nested(2), Image(2)));
    cases.push(("indexes without end", nested(6), Fault("indexes are nested too deeply")));
    // A layer that the registry may not hold is elsewhere.
    let storage = Scripted::start({
        let a = a.clone();
        move |_, _| Reply::new(200, a.clone())
    });
    let urls = json!(["ftp://nobody.test/", format!("http://{}/a", storage.address)]);
    for (name, media_type) in [
        ("a foreign layer", "application/vnd.docker.image.rootfs.foreign.diff.tar"),
        ("a layer not to be distributed", "application/vnd.oci.image.layer.nondistributable.v1.tar"),
    ] {
        let mut shelf = Shelf::image(&both, |m| {
            m["layers"][0]["urls"] = urls.clone();
            m["layers"][0]["mediaType"] = json!(media_type);
        });
        shelf.0.remove(&Sha256::of(&a).to_string());
        cases.push((name, shelf, Image(2)));
    }

    let mut wrong = Vec::new();
    for (name, shelf, end) in cases {
        let found = pull(shelf, None);
        let fits = match (&found, &end) {
            (Ok(layers), Image(expected)) => layers == expected,
            (Err(error), Fault(words)) => error.contains(words),
            (Ok(_), Fault(_)) | (Err(_), Image(_)) => false,
        };
        if !fits {
            wrong.push(format!("{name}: expected {end:?}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn digests_in_headers_are_not_believed() {
    let shelf = Arc::new(Shelf::image(&[tar("a")], |_| {}));
    let ask = |digest| pull(shelf.as_ref().clone(), Some(digest));
    let lie = ask("sha256:0000000000000000000000000000000000000000000000000000000000000000");
    assert!(lie.is_err_and(|error| error.contains("digest mismatch: expected sha256:0000")));
    // One that says nothing to us is as good as none.
    assert_eq!(ask("sha512:00"), Ok(1));
    assert_eq!(ask("whatever"), Ok(1));
}

#[test]
fn wicked_manifests_are_refused() {
    let (_server, repository) = blob_server(|seen, _| match seen.path.rsplit('/').next() {
        Some("huge") => Reply::new(200, vec![b' '; (4 << 20) + 1]),
        Some("schema1") => {
            Reply::new(200, "{}").with("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
        }
        Some("liar") => Reply::new(200, r#"{"schemaVersion":2,"config":{}}"#)
            .with("docker-content-digest", Sha256::of(b"").to_string()),
        _ => Reply::new(200, r#"{"schemaVersion":2,"manifests":[]}"#),
    });
    let error = |selector: Selector| run(async { repository.manifest(&selector).await }).expect_err("refused");
    assert!(matches!(error(tag("huge")), Error::TooLarge { .. }));
    assert!(error(tag("schema1")).to_string().contains("schema 1 is not supported"));
    assert!(matches!(error(tag("liar")), Error::Digest { .. }));
    assert!(matches!(error(Selector::Digest(BlobDigest(Sha256::of(b"x")))), Error::Digest { .. }));
}
