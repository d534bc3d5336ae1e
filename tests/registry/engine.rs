//! Loading into a Docker engine: what is sent of an image, by what the engine says it has. A real one is in `e2e/engines.rs`.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rbuild::docker::Docker;
use rbuild::export::output::Output;
use rbuild::export::{ExportError, Exported, Subject, Surroundings};
use serde_json::{Value, json};

use crate::exporting::World;
use crate::server::read_head;

/// What the scripted engine does with an archive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loads {
    /// Takes any.
    Everything,
    /// Refuses one without all layers, as podman does.
    Whole,
    /// Says that it has it, but has it not: an image went away meanwhile.
    Nothing,
    /// Hangs up after the first bytes, and says why.
    Full,
}

/// An engine on a socket: images as `inspect` shows them, and the archives that came.
struct Engine {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    images: BTreeMap<String, Value>,
    containerd: bool,
    loads: Loads,
    /// Names and contents of each archive's files.
    archives: Vec<BTreeMap<String, Vec<u8>>>,
    tags: Vec<String>,
    inspected: usize,
}

impl Engine {
    fn start(world: &World, loads: Loads) -> Self {
        let socket = world.path("docker.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let (images, archives, tags) = <_>::default();
        let state = State { images, containerd: false, loads, archives, tags, inspected: 0 };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.lock().expect("no panic").answer(stream);
            }
        });
        Self { socket, state }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn load(&self, world: &World, subject: &Subject, attributes: &[(&str, &str)]) -> Result<Exported, ExportError> {
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let output = Output::parse("docker", &attributes).expect("valid");
        let docker = Docker::new(Some(&format!("unix://{}", self.socket.display()))).expect("a socket");
        let stream = &mut std::io::sink();
        let mut around = Surroundings { progress: world.progress(), inputs: &[], stream };
        world.exporter().load(&docker, subject, &output, &mut around)
    }

    /// The layers' files in the archive that came last, without those of the image's documents.
    fn sent(&self, subject: &Subject) -> Vec<usize> {
        let state = self.state();
        let archive = state.archives.last().expect("an archive");
        let list: Value = serde_json::from_slice(&archive["manifest.json"]).expect("JSON");
        let layers = list[0]["Layers"].as_array().expect("layers");
        assert_eq!(layers.len(), subject.images[0].image.layers.len(), "all are named, sent or not");
        let sent = |name: &Value| archive.contains_key(name.as_str().expect("text"));
        layers.iter().enumerate().filter(|(_, name)| sent(name)).map(|(n, _)| n).collect()
    }
}

impl State {
    fn answer(&mut self, stream: UnixStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
        let Some(head) = read_head(&mut reader) else { return };
        let (path, query) = head.path.split_once('?').unwrap_or((&head.path, ""));
        let (status, body) = match (head.method.as_str(), path) {
            ("GET", "/info") => {
                let of = if self.containerd { "io.containerd.snapshotter.v1" } else { "overlay" };
                (200, json!({"DriverStatus": [["driver-type", of]]}))
            }
            ("GET", "/images/json") => (200, self.images.keys().map(|id| json!({"Id": id})).collect()),
            ("GET", path) => {
                self.inspected += 1;
                let id = path.trim_start_matches("/images/").trim_end_matches("/json");
                match self.images.get(id) {
                    Some(image) => (200, image.clone()),
                    None => (404, json!({"message": "No such image"})),
                }
            }
            ("POST", "/images/load") => self.load(&mut reader),
            _ => {
                self.tags.push(query.to_owned());
                (201, Value::Null)
            }
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut stream = stream;
        // Whoever asked may have gone.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    }

    fn load(&mut self, body: &mut impl std::io::BufRead) -> (u16, Value) {
        let mut bytes = Vec::new();
        loop {
            let mut line = String::new();
            body.read_line(&mut line).expect("a chunk");
            let size = u64::from_str_radix(line.trim_end(), 16).expect("a size");
            if self.loads == Loads::Full {
                return (507, json!({"message": "no space left on device"}));
            }
            body.by_ref().take(size).read_to_end(&mut bytes).expect("a chunk");
            body.read_line(&mut line).expect("its end");
            if size == 0 {
                break;
            }
        }
        let mut archive = tar::Archive::new(bytes.as_slice());
        let files = archive.entries().expect("a tar").map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (entry.path().expect("a path").display().to_string(), content)
        });
        let files: BTreeMap<_, _> = files.collect();
        let list: Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
        let config = list[0]["Config"].as_str().expect("text");
        let whole =
            list[0]["Layers"].as_array().expect("layers").iter().all(|l| files.contains_key(l.as_str().expect("text")));
        let parsed: Value = serde_json::from_slice(&files[config]).expect("JSON");
        let image = json!({"RootFS": {"Layers": parsed["rootfs"]["diff_ids"]}});
        let id = format!("sha256:{}", config.rsplit('/').next().expect("a name"));
        self.archives.push(files);
        match self.loads {
            Loads::Whole if !whole => return (500, json!({"message": "open layer.tar: no such file or directory"})),
            Loads::Nothing if !whole => {}
            _ => drop(self.images.insert(id, image)),
        }
        (200, json!({"stream": "Loaded"}))
    }
}

/// Three images: the second is built on the first, the third is another one.
fn images(world: &World) -> [Subject; 3] {
    let layer = |name: &str, text: &str| world.layer(&[(name, text)]);
    let (a, b, c) = (layer("a", &"a".repeat(100_000)), layer("b", "b"), layer("c", "c"));
    let of = |layers: &[_], name: &str| crate::exporting::subject("amd64", World::image("amd64", layers), &[name]);
    [of(&[a.clone(), b.clone()], "app:1"), of(&[a, b, c.clone()], "app:2"), of(&[c], "other:1")]
}

#[test]
fn an_engine_gets_what_it_lacks() {
    let world = World::new();
    let engine = Engine::start(&world, Loads::Everything);
    let [base, app, other] = images(&world);

    // Nothing is there: all is sent, as a whole archive, and uncompressed since it is unpacked at once.
    let told = engine.load(&world, &base, &[]).expect("loaded");
    assert_eq!(told.id, Some(base.images[0].image.id()));
    assert_eq!(engine.sent(&base), [0, 1]);
    let files = engine.state().archives[0].clone();
    assert!(files.contains_key("index.json") && files.contains_key("oci-layout"));
    let layer = format!("blobs/sha256/{}", base.images[0].image.layers[0].diff_id.0.hex());
    assert!(files[&layer].len() > 100_000, "the tar itself");

    // Its rebuilt child costs its own layer, and no promise of others.
    let told = engine.load(&world, &app, &[]).expect("loaded");
    assert!(told.descriptor.is_some());
    assert_eq!(engine.sent(&app), [2]);
    let files = engine.state().archives[1].clone();
    assert!(!files.contains_key("index.json") && !files.contains_key("oci-layout"));
    assert!(files.values().map(Vec::len).sum::<usize>() < 10_000);

    // An image that shares a layer, but not from the bottom, is sent whole.
    engine.load(&world, &other, &[]).expect("loaded");
    assert_eq!(engine.sent(&other), [0]);

    // What is there whole is only named.
    engine.load(&world, &app, &[("name", "app:again")]).expect("tagged");
    assert_eq!(engine.state().archives.len(), 3);
    assert_eq!(engine.state().tags, ["repo=app&tag=2", "repo=app&tag=again"]);
}

#[test]
fn the_image_of_that_name_is_looked_at_first() {
    let world = World::new();
    let engine = Engine::start(&world, Loads::Everything);
    let [base, app, _] = images(&world);
    let stack = |subject: &Subject| {
        let layers = subject.images[0].image.layers.iter();
        json!({"RootFS": {"Layers": layers.map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>()}})
    };
    let mut images: BTreeMap<String, Value> =
        (0..500).map(|n| (format!("sha256:{n}"), json!({"RootFS": {"Layers": []}}))).collect();
    // The previous build under the same name had all layers, but another config.
    images.insert("app%3A2".to_owned(), stack(&app));
    engine.state().images = images;
    engine.load(&world, &app, &[]).expect("loaded");
    assert_eq!(engine.sent(&app), [0; 0]);
    assert_eq!(engine.state().inspected, 3, "is it there, what has the name, is it there now");

    // Looking has an end.
    engine.load(&world, &base, &[]).expect("loaded");
    assert!(engine.state().inspected < 300);
}

#[test]
fn an_engine_that_wants_all_gets_all() {
    for loads in [Loads::Whole, Loads::Nothing] {
        let world = World::new();
        let engine = Engine::start(&world, loads);
        let [base, app, _] = images(&world);
        engine.load(&world, &base, &[]).expect("loaded");
        engine.load(&world, &app, &[]).expect("loaded");
        assert_eq!(engine.sent(&app), [0, 1, 2]);
        assert_eq!(engine.state().archives.len(), 3, "the second in part, and then whole");
    }
    // Blobs that containerd keeps are pushed from there: all of them, compressed as for a registry.
    let world = World::new();
    let engine = Engine::start(&world, Loads::Everything);
    engine.state().containerd = true;
    let [base, app, _] = images(&world);
    engine.load(&world, &base, &[]).expect("loaded");
    engine.load(&world, &app, &[]).expect("loaded");
    assert_eq!(engine.sent(&app), [0, 1, 2]);
    let archives = &engine.state().archives;
    assert_eq!(archives.len(), 2);
    assert!(archives[1].values().map(Vec::len).sum::<usize>() < 20_000, "compressed");
}

#[test]
fn an_engine_that_hangs_up_has_the_last_word() {
    let world = World::new();
    let engine = Engine::start(&world, Loads::Full);
    let big = crate::exporting::subject(
        "amd64",
        World::image("amd64", &[world.layer(&[("big", &"x".repeat(8 << 20))])]),
        &["big:1"],
    );
    let error = engine.load(&world, &big, &[]).expect_err("full").to_string();
    assert_eq!(error, "Docker daemon: no space left on device");
    let both = Subject { indexed: true, ..big };
    let error = engine.load(&world, &both, &[]).expect_err("an index").to_string();
    assert_eq!(error, "docker exporter does not currently support exporting manifest lists");
}
