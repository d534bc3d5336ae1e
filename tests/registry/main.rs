//! The registry client and layouts against real parts: Debian's `docker-registry`, skopeo, and a scripted server for what
//! a well-behaved registry never does. Listens on loopback only.

mod exporting;
mod faults;
mod proxy;
mod pulling;
mod server;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use rbuild::oci::manifest::{Descriptor, Document, Family, Manifest, Packing, Parsed};
use rbuild::oci::reference::Reference;
use rbuild::registry::credentials::{Credentials, Helper};
use rbuild::registry::{
    BlobSource, Client, Destination, Error, HostOptions, Layout, Options, Proxies, Remote, Repository, Retry, Selector,
};
use rbuild_cache::digest::{BlobDigest, Sha256};
use server::{Access, Registry, Reply, Scripted};

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

/// What every [`Remote`] that is a [`Destination`] must do. `place` makes an empty repository.
async fn contract<R: Remote + Destination>(place: R) {
    let image = sample(Family::Oci, noise(300_000));
    let (descriptor, bytes) = &image.layer;

    // Nothing is there, and that is told apart from failing.
    assert!(place.resolve(&tag("v1")).await.expect_err("empty").is_not_found());
    assert!(place.manifest(&tag("v1")).await.expect_err("empty").is_not_found());
    assert!(place.blob(descriptor).await.expect_err("empty").is_not_found());
    assert!(!place.has_blob(descriptor, &[]).await.expect("answers"));

    push(&place, &image, "v1").await.expect("pushed");
    push(&place, &image, "v1").await.expect("pushing again changes nothing");
    assert!(place.has_blob(descriptor, &[]).await.expect("answers"));

    // By tag and by digest, the same bytes.
    let digest = image.manifest.digest();
    assert_eq!(place.resolve(&tag("v1")).await.expect("there"), digest);
    assert_eq!(place.manifest(&tag("v1")).await.expect("there"), image.manifest);
    assert_eq!(place.manifest(&Selector::Digest(digest)).await.expect("there"), image.manifest);
    assert!(place.manifest(&tag("v2")).await.expect_err("another tag").is_not_found());
    let got = place.blob(descriptor).await.expect("there").bytes(1 << 20).await.expect("good");
    assert_eq!(&got, bytes);

    // The blocking reader sees the same, and its progress ends at the size.
    let stream = place.blob(descriptor).await.expect("there");
    let (seen, progress) = (Arc::new(std::sync::Mutex::new(0)), Arc::new(std::sync::Mutex::new(0)));
    let writer = progress.clone();
    let (mut reader, _pump) = stream.into_reader(move |n| *writer.lock().expect("no panic") = n);
    let copy = seen.clone();
    tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("good");
        *copy.lock().expect("no panic") = out.len();
    })
    .await
    .expect("no panic");
    assert_eq!((*seen.lock().expect("no panic"), *progress.lock().expect("no panic")), (300_000, 300_000));

    // What the descriptor says is what is wanted: another size is a fault, a limit is kept.
    let mut wrong = descriptor.clone();
    wrong.size -= 1;
    let error = place.blob(&wrong).await.expect("opens").bytes(1 << 20).await.expect_err("too long");
    assert!(matches!(error, Error::Size { .. }), "{error}");
    let error = place.blob(descriptor).await.expect("opens").bytes(1000).await.expect_err("limited");
    assert!(matches!(error, Error::TooLarge { limit: 1000, .. }), "{error}");

    // A source of another size is refused before it hangs anything; an untagged manifest is found by digest.
    let refused = place.push_blob(&wrong, BlobSource::Bytes(bytes.clone())).await;
    assert!(matches!(refused, Err(Error::Size { .. })));
    let other = sample(Family::Docker, noise(10));
    for (descriptor, bytes) in [&other.config, &other.layer] {
        place.push_blob(descriptor, BlobSource::Bytes(bytes.clone())).await.expect("pushed");
    }
    place.push_manifest(&other.manifest, None).await.expect("pushed");
    let found = place.manifest(&Selector::Digest(other.manifest.digest())).await.expect("there");
    assert_eq!(found, other.manifest);

    // A tag moves.
    push(&place, &other, "v1").await.expect("pushed");
    assert_eq!(place.resolve(&tag("v1")).await.expect("there"), other.manifest.digest());

    // A file as source, bigger than any buffer.
    let big = noise(3 << 20);
    let file = tempfile::NamedTempFile::new().expect("temp file");
    std::fs::write(file.path(), &big).expect("written");
    let descriptor = Descriptor::of(Family::Oci.layer(Packing::Gzip), &big);
    place.push_blob(&descriptor, BlobSource::File(file.path().to_owned())).await.expect("pushed");
    assert_eq!(place.blob(&descriptor).await.expect("there").bytes(4 << 20).await.expect("good"), big);
}

#[test]
fn contract_of_a_registry() {
    let registry = Registry::start(&Access::Open);
    run(contract(open(quick(), &format!("{}/a/b", registry.address))));
}

#[test]
fn contract_of_a_layout() {
    let directory = tempfile::tempdir().expect("temp dir");
    let layout = Layout::create(&directory.path().join("x")).expect("made");
    run(contract(layout));
    assert!(server::file_count(&directory.path().join("x/blobs/sha256")) >= 5);
    assert_eq!(server::file_count(&directory.path().join("x")), 3, "no temporary file is left");
}

#[test]
fn contract_of_a_registry_with_a_password() {
    let registry = Registry::start(&Access::Password);
    let name = format!("{}/a", registry.address);
    let auth = |user: &str| {
        let pair = base64(&format!("{user}:secret"));
        with_credentials(&format!(r#"{{"auths":{{"{}":{{"auth":"{pair}"}}}}}}"#, registry.address))
    };
    run(contract(open(auth("alice"), &name)));
    // Several first requests at once are all challenged; each is answered.
    let blob = layer(b"x");
    run(async {
        let fresh = open(auth("alice"), &name);
        let asks = (0..8).map(|_| (fresh.clone(), blob.clone()));
        let tasks: Vec<_> = asks.map(|(r, d)| tokio::spawn(async move { r.has_blob(&d, &[]).await })).collect();
        for task in tasks {
            assert!(!task.await.expect("no panic").expect("answered"));
        }
    });
    let error = run(async { open(auth("mallory"), &name).resolve(&tag("v1")).await }).expect_err("wrong name");
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let error = run(async { push(&open(quick(), &name), &sample(Family::Oci, vec![1]), "x").await });
    assert!(error.expect_err("anonymous").to_string().contains("push access denied"));
}

#[test]
fn contract_of_a_registry_with_a_self_signed_certificate() {
    let registry = Registry::start(&Access::Tls);
    run(contract(open(quick(), &format!("{}/a", registry.address))));
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn skopeo_reads_what_we_push_and_we_read_what_it_pushes() {
    let registry = Registry::start(&Access::Open);
    let repository = open(quick(), &format!("{}/ours", registry.address));
    let image = sample(Family::Docker, noise(1000));
    run(push(&repository, &image, "v1")).expect("pushed");
    let ours = format!("docker://{}/ours:v1", registry.address);
    assert_eq!(registry.skopeo(&["inspect", "--raw", &ours]).as_bytes(), image.manifest.bytes());

    let theirs = format!("docker://{}/theirs:v2", registry.address);
    registry.skopeo(&["copy", "--format=oci", &ours, &theirs]);
    let repository = open(quick(), &format!("{}/theirs", registry.address));
    let document = run(async { repository.manifest(&tag("v2")).await }).expect("there");
    let Ok(Parsed::Manifest(manifest)) = document.parse() else { panic!("a manifest") };
    assert_eq!(manifest.config.digest, image.config.0.digest);
    let layer = run(async { repository.blob(&manifest.layers[0]).await?.bytes(1 << 20).await });
    assert!(layer.is_ok(), "{layer:?}");
}

#[test]
fn blobs_are_mounted_from_another_repository() {
    let registry = Registry::start(&Access::Open);
    let name = |path: &str| format!("{}/{path}", registry.address);
    let image = sample(Family::Oci, noise(5000));
    run(push(&open(quick(), &name("base")), &image, "v1")).expect("pushed");
    let app = open(quick(), &name("app"));
    let (descriptor, bytes) = &image.layer;
    assert!(!run(app.has_blob(descriptor, &["docker.io/library/base".to_owned()])).expect("answers"), "other registry");
    assert!(run(app.has_blob(descriptor, &[name("nothing"), name("base")])).expect("answers"));
    let link = format!("repositories/app/_layers/sha256/{}/link", descriptor.digest.0.hex());
    assert!(registry.stored(&link));

    // A mount that fails opens an upload, which is then used.
    let other = Descriptor::of(Family::Oci.layer(Packing::Tar), b"other");
    run(async {
        assert!(!app.has_blob(&other, &[name("base")]).await.expect("answers"));
        app.push_blob(&other, BlobSource::Bytes(b"other".to_vec())).await.expect("pushed");
        assert!(app.has_blob(&other, &[]).await.expect("answers"));
    });
    assert_eq!(bytes.len(), 5000);
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

#[test]
fn downloads_go_on_where_they_broke_off() {
    let body = noise(100_000);
    let data = body.clone();
    let (server, repository) = blob_server(move |seen, n| {
        let from = seen.header("range").map_or(0, |r| r[6..r.len() - 1].parse::<usize>().expect("a number"));
        let reply = if from == 0 { Reply::new(200, data.clone()) } else { Reply::new(206, &data[from..]) };
        let reply = reply.with("content-range", format!("bytes {from}-{}/{}", data.len() - 1, data.len()));
        if n < 5 { reply.cut(17_000) } else { reply }
    });
    assert_eq!(fetch(&repository, &layer(&body)).expect("complete"), body);
    let ranges: Vec<_> = server.requests().iter().map(|seen| seen.header("range").is_some()).collect();
    assert_eq!(ranges, [false, true, true, true, true, true], "progress counts anew, so five breaks are not too many");
}

#[test]
fn a_byte_at_a_time_is_no_progress() {
    let body = noise(100_000);
    let data = body.clone();
    let (server, repository) = blob_server(move |seen, n| {
        let from = seen.header("range").map_or(0, |r| r[6..r.len() - 1].parse::<usize>().expect("a number"));
        assert_eq!(from, n, "it goes on where it was");
        Reply::new(206, &data[from..]).with("content-range", format!("bytes {from}-/{}", data.len())).cut(1)
    });
    assert!(fetch(&repository, &layer(&body)).is_err());
    assert_eq!(server.lines().len(), 4, "the first and three more");
}

#[test]
fn a_server_without_ranges_starts_anew_and_its_old_bytes_are_skipped() {
    let body = noise(50_000);
    let data = body.clone();
    let (_server, repository) = blob_server(move |_, n| {
        let reply = Reply::new(200, data.clone());
        if n == 0 { reply.cut(20_000) } else { reply }
    });
    assert_eq!(fetch(&repository, &layer(&body)).expect("complete"), body);
}

#[test]
fn patience_ends() {
    let body = noise(1000);
    let data = body.clone();
    let (server, repository) = blob_server(move |_, _| Reply::new(200, data.clone()).cut(0));
    assert!(matches!(fetch(&repository, &layer(&body)), Err(Error::Transport { .. } | Error::Size { .. })));
    assert_eq!(server.lines().len(), 4, "the first and three more");
    let (server, repository) = blob_server(|_, _| Reply::new(503, "").with("retry-after", "0"));
    let error = fetch(&repository, &layer(&body)).expect_err("never answers").to_string();
    assert!(error.contains("unexpected status from GET request to http://127.0.0.1"), "{error}");
    assert!(error.ends_with("503 Service Unavailable"), "{error}");
    assert_eq!(server.lines().len(), 4);
}

#[test]
fn wrong_bytes_are_never_taken() {
    let (_server, repository) = blob_server(|_, _| Reply::new(200, "evil"));
    let wanted = layer(b"good");
    let error = fetch(&repository, &wanted).expect_err("other bytes");
    assert!(matches!(error, Error::Digest { expected, .. } if expected == wanted.digest));
    let reader_error = run(async {
        let stream = repository.blob(&wanted).await.expect("opens");
        let (mut reader, _pump) = stream.into_reader(|_| {});
        tokio::task::spawn_blocking(move || std::io::copy(&mut reader, &mut std::io::sink())).await.expect("no panic")
    });
    assert!(reader_error.expect_err("other bytes").to_string().contains("digest mismatch"));
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

#[test]
fn redirects_do_not_carry_credentials_to_others() {
    let body = noise(10);
    let data = body.clone();
    let storage = Scripted::start(move |_, _| Reply::new(200, data.clone()));
    let target = format!("http://{}/signed?key=1", storage.address);
    let server = Scripted::start(move |seen, _| match seen.header("authorization") {
        None => Reply::new(401, "").with("www-authenticate", "Basic realm=x"),
        Some(_) => Reply::new(307, "").with("location", &target),
    });
    let options =
        with_credentials(&format!(r#"{{"auths":{{"{}":{{"username":"u","password":"p"}}}}}}"#, server.address));
    let repository = open(options, &format!("{}/x", server.address));
    assert_eq!(fetch(&repository, &layer(&body)).expect("complete"), body);
    assert_eq!(storage.requests()[0].header("authorization"), None);
    assert_eq!(server.requests()[1].header("authorization"), Some(format!("Basic {}", base64("u:p")).as_str()));
}

/// A registry that wants tokens, and its token server in one. Tokens are the scopes asked for.
fn token_server(token_status: u16) -> Scripted {
    let address = Arc::new(std::sync::Mutex::new(String::new()));
    let own = address.clone();
    let server = Scripted::start(move |seen, n| {
        let url = url::Url::parse(&format!("http://x{}", seen.path)).expect("a path");
        if url.path() == "/token" {
            if seen.method == "POST" && token_status == 405 {
                return Reply::new(405, "");
            }
            let scopes: Vec<_> = url.query_pairs().filter(|(k, _)| k == "scope").map(|(_, v)| v.into_owned()).collect();
            let status = if token_status == 405 { 200 } else { token_status };
            return Reply::new(status, format!(r#"{{"token":"{}-{n}"}}"#, scopes.join("+").replace([':', ','], "_")));
        }
        let stale =
            seen.path.contains("stale") && seen.header("authorization").is_some_and(|token| token.ends_with("-0"));
        if seen.header("authorization").is_none() || stale {
            let realm = format!("http://{}/token", own.lock().expect("no panic"));
            let challenge = format!(r#"Bearer realm="{realm}",service="test",scope="repository:x:pull""#);
            return Reply::new(401, "").with("www-authenticate", challenge);
        }
        Reply::new(404, "")
    });
    address.lock().expect("no panic").clone_from(&server.address);
    server
}

#[test]
fn tokens_are_fetched_once_and_renewed_when_refused() {
    let server = token_server(200);
    let repository = open(quick(), &format!("{}/x", server.address));
    run(async {
        for name in ["a", "b", "stale"] {
            assert!(repository.resolve(&tag(name)).await.expect_err("empty registry").is_not_found());
        }
    });
    let token = "GET /token?service=test&scope=repository%3Ax%3Apull";
    assert_eq!(
        server.lines(),
        [
            "HEAD /v2/x/manifests/a",
            token,
            "HEAD /v2/x/manifests/a",
            "HEAD /v2/x/manifests/b",
            "HEAD /v2/x/manifests/stale",
            token,
            "HEAD /v2/x/manifests/stale",
        ]
    );
}

#[test]
fn a_mount_asks_for_both_repositories_in_one_token() {
    let server = token_server(200);
    let name = |path: &str| format!("{}/{path}", server.address);
    let repository = open(quick(), &name("app"));
    assert!(!run(repository.has_blob(&layer(b"x"), &[name("base")])).expect("answers"));
    let last = server.lines().into_iter().rfind(|line| line.starts_with("GET /token")).expect("asked");
    assert_eq!(last, "GET /token?service=test&scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Abase%3Apull");
}

#[test]
fn identity_tokens_go_to_the_token_server_as_oauth_or_as_a_password() {
    for (status, requests) in [(200, ["POST"].as_slice()), (405, ["POST", "GET"].as_slice())] {
        let server = token_server(status);
        let auth = format!(r#"{{"credHelpers":{{"{}":"x"}}}}"#, server.address);
        let helper: Helper = Arc::new(|_, _| Ok(r#"{"Username":"<token>","Secret":"refresh me"}"#.to_owned()));
        let credentials = Credentials::from_config(auth.as_bytes(), Some(helper)).expect("valid");
        let repository = open(Options { credentials, ..quick() }, &format!("{}/x", server.address));
        let result = run(async { repository.resolve(&tag("a")).await });
        assert!(result.expect_err("empty registry").is_not_found());
        let token: Vec<_> = server.requests().into_iter().filter(|seen| seen.path.starts_with("/token")).collect();
        assert_eq!(token.iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), requests);
        let form = String::from_utf8(token[0].body.clone()).expect("text");
        assert!(form.contains("grant_type=refresh_token&refresh_token=refresh+me"), "{form}");
        if let Some(get) = token.get(1) {
            assert_eq!(get.header("authorization"), Some(format!("Basic {}", base64("<token>:refresh me")).as_str()));
        }
    }
}

#[test]
fn wrong_passwords_are_an_error_and_not_anonymous() {
    let server = token_server(401);
    let options =
        with_credentials(&format!(r#"{{"auths":{{"{}":{{"username":"u","password":"p"}}}}}}"#, server.address));
    let repository = open(options, &format!("{}/x", server.address));
    let error = run(async { repository.resolve(&tag("a")).await }).expect_err("refused").to_string();
    assert!(error.contains("401 Unauthorized"), "{error}");
    assert!(error.contains("failed to fetch oauth token: unexpected status from token request to http://"), "{error}");
}

#[test]
fn uploads_go_on_in_chunks_when_one_piece_is_refused() {
    let body = noise((21 << 20) + 7);
    let server = Scripted::start(|seen, n| match (seen.method.as_str(), seen.path.as_str()) {
        ("HEAD", _) => Reply::new(404, ""),
        ("PUT", path) if !path.contains("end") => Reply::new(413, ""),
        // The second chunk is lost halfway: the registry kept a part of it.
        ("PATCH", _) if n == 1 => Reply::new(500, ""),
        ("GET", _) => Reply::new(204, "").with("range", "0-15000000").with("location", "/v2/x/blobs/uploads/1?state=a"),
        ("PATCH", _) if n == 2 => Reply::new(202, "").with("location", "/v2/x/blobs/uploads/1?end=1"),
        ("POST" | "PATCH", _) => Reply::new(202, "").with("location", "/v2/x/blobs/uploads/1?state=a"),
        _ => Reply::new(201, ""),
    });
    let repository = open(quick(), &format!("{}/x", server.address));
    let descriptor = layer(&body);
    run(repository.push_blob(&descriptor, BlobSource::Bytes(body.clone()))).expect("pushed");
    let chunks: Vec<_> = server.requests().into_iter().filter(|seen| seen.method == "PATCH").collect();
    let ranges: Vec<_> = chunks.iter().filter_map(|seen| seen.header("content-range")).collect();
    assert_eq!(ranges, ["0-10485759", "10485760-20971519", "15000001-22020102"]);
    let mut arrived = chunks[0].body.clone();
    arrived.extend_from_slice(&chunks[1].body[..15_000_001 - (10 << 20)]);
    arrived.extend_from_slice(&chunks[2].body);
    assert!(arrived == body, "every byte once");
    let last = server.lines().pop().expect("requests");
    assert!(last.starts_with("PUT /v2/x/blobs/uploads/1?end=1&digest=sha256%3A"), "{last}");
}

#[test]
fn a_real_registry_takes_chunks() {
    let registry = Registry::start(&Access::Open);
    // A proxy before it would be the reason; here the chunked way is forced by a first attempt that breaks.
    let repository = open(quick(), &format!("{}/x", registry.address));
    let body = noise((12 << 20) + 1);
    let file = tempfile::NamedTempFile::new().expect("temp file");
    std::fs::write(file.path(), &body).expect("written");
    let descriptor = layer(&body);
    run(async {
        repository.push_blob_in_chunks(&descriptor, &BlobSource::File(file.path().to_owned())).await.expect("pushed");
        assert_eq!(repository.blob(&descriptor).await.expect("there").bytes(1 << 30).await.expect("good"), body);
    });
}

#[test]
fn mirrors_are_tried_first_and_the_origin_answers_for_them() {
    let registry = Registry::start(&Access::Open);
    let image = sample(Family::Oci, noise(100));
    let name = format!("{}/a", registry.address);
    run(push(&open(quick(), &name), &image, "v1")).expect("pushed");
    let broken = Scripted::start(|_, _| Reply::new(404, ""));
    let mirrors = vec![format!("http://{}/proxy", broken.address)];
    let hosts = BTreeMap::from([(registry.address.clone(), HostOptions { mirrors, ..HostOptions::default() })]);
    let repository = open(Options { hosts, ..quick() }, &name);
    assert_eq!(run(async { repository.manifest(&tag("v1")).await }).expect("from the origin"), image.manifest);
    assert_eq!(fetch(&repository, &image.layer.0).expect("from the origin"), image.layer.1);
    let ns = registry.address.replace(':', "%3A");
    assert_eq!(broken.lines()[0], format!("GET /v2/proxy/a/manifests/v1?ns={ns}"));

    let mirrors = vec![format!("http://{}", registry.address)];
    let hosts = BTreeMap::from([("origin.invalid".to_owned(), HostOptions { mirrors, ..HostOptions::default() })]);
    let repository = open(Options { hosts, ..quick() }, "origin.invalid/a");
    assert_eq!(run(async { repository.manifest(&tag("v1")).await }).expect("from the mirror"), image.manifest);
}

#[test]
fn a_dead_registry_is_named_with_the_cause() {
    let repository = open(quick(), "127.0.0.1:1/x");
    let error = run(async { repository.resolve(&tag("a")).await }).expect_err("nobody listens").to_string();
    assert!(error.starts_with("failed to do request: HEAD \"http://127.0.0.1:1/v2/x/manifests/a\": "), "{error}");
    assert!(error.to_lowercase().contains("connection refused"), "{error}");
}

#[test]
fn a_layout_made_by_skopeo_is_read() {
    let registry = Registry::start(&Access::Open);
    let image = sample(Family::Oci, noise(100));
    run(push(&open(quick(), &format!("{}/a", registry.address)), &image, "v1")).expect("pushed");
    let directory = tempfile::tempdir().expect("temp dir");
    let from = format!("docker://{}/a:v1", registry.address);
    registry.skopeo(&["copy", "--preserve-digests", &from, &format!("oci:{}:some/tag", directory.path().display())]);
    let layout = Layout::open(directory.path()).expect("a layout");
    assert_eq!(run(layout.resolve(&tag("some/tag"))).expect("there"), image.manifest.digest());

    // A blob that rotted is noticed.
    let path = directory.path().join("blobs/sha256").join(image.layer.0.digest.0.hex());
    std::fs::write(path, vec![0; image.layer.1.len()]).expect("written");
    let error = run(async { layout.blob(&image.layer.0).await?.bytes(1 << 20).await }).expect_err("rotten");
    assert!(matches!(error, Error::Digest { .. }));
    let error = Layout::open(&directory.path().join("nothing")).expect_err("no directory");
    assert!(error.is_not_found());
}

#[test]
fn proxies_are_used_except_for_loopback() {
    let proxy = Scripted::start(|_, _| Reply::new(404, ""));
    let address = Some(format!("http://{}", proxy.address));
    let proxies = Proxies { http: address.clone(), https: address, no: Some("direct.test".to_owned()) };
    let plain = HostOptions { plain_http: true, ..HostOptions::default() };
    let hosts = BTreeMap::from([("plain.test".to_owned(), plain)]);
    let client = Client::new(Options { hosts, proxies, retry: Retry { attempts: 0, ..quick().retry }, ..quick() });
    let ask = |name: &str| {
        let repository = client.repository(&Reference::parse(name).expect("valid"));
        run(async { repository.resolve(&tag("a")).await }).expect_err("no registry").to_string()
    };
    assert_eq!(ask("plain.test/x"), "plain.test/x:a: not found");
    assert!(ask("secure.test/x").contains("failed to do request: HEAD \"https://secure.test/v2/x/manifests/a\""));
    assert!(ask("127.0.0.1:1/x").to_lowercase().contains("connection refused"));
    assert_eq!(proxy.lines(), ["HEAD http://plain.test/v2/x/manifests/a", "CONNECT secure.test:443"]);
}

#[test]
fn unusable_certificates_name_their_registry() {
    let broken = HostOptions { identity: Some(b"no PEM".to_vec()), ..HostOptions::default() };
    let hosts = BTreeMap::from([("reg.test".to_owned(), broken)]);
    let repository = open(Options { hosts, ..quick() }, "reg.test/x");
    let error = run(async { repository.resolve(&tag("a")).await }).expect_err("unusable").to_string();
    assert!(error.starts_with("registry reg.test: "), "{error}");
}
