//! Blobs on their way: downloads that go on, uploads in pieces, mounts, and what is never taken.

use rbuild::oci::manifest::{Descriptor, Family, Packing};
use rbuild::registry::{BlobSource, Destination as _, Error, Remote as _};

use crate::server::{Access, Registry, Reply, Scripted};
use crate::{blob_server, fetch, layer, noise, open, push, quick, run, sample, tag};

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
fn a_dead_registry_is_named_with_the_cause() {
    let repository = open(quick(), "127.0.0.1:1/x");
    let error = run(async { repository.resolve(&tag("a")).await }).expect_err("nobody listens").to_string();
    assert!(error.starts_with("failed to do request: HEAD \"http://127.0.0.1:1/v2/x/manifests/a\": "), "{error}");
    assert!(error.to_lowercase().contains("connection refused"), "{error}");
}
