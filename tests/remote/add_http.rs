//! ADD of files behind http addresses.

use std::io::Write as _;

use crate::server::Served;
use crate::world::World;

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn unchanged_files_are_asked_for_by_etag() {
    let world = World::new();
    let served = |body: &str, etag: &str| Served {
        body: body.as_bytes().to_vec(),
        headers: vec![header("ETag", etag), header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        ..Served::default()
    };
    world.server.serve("/f", served("one", "\"1\""));
    let text = format!("FROM scratch\nADD {} /\n", world.server.url("/f"));
    let built = world.dockerfile(&text, &[]);
    assert_eq!((built.listing().as_str(), built.mtime("f")), ("f:600", 784_111_777));
    assert!(world.dockerfile(&text, &[]).cached("ADD "));
    assert_eq!(world.server.log(), ["GET /f 200", "GET /f 304"]);
    world.server.serve("/f", served("two", "\"2\""));
    assert_eq!(world.dockerfile(&text, &[]).text("f"), "two");
}

#[test]
fn a_checksum_saves_the_request() {
    let world = World::new();
    world.server.text("/f", "hello\n");
    let sum = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let text = format!("FROM scratch\nADD --checksum={sum} {} /\n", world.server.url("/f"));
    world.dockerfile(&text, &[]);
    assert!(world.dockerfile(&text, &[]).cached("ADD "));
    assert_eq!(world.server.log(), ["GET /f 200"]);
}

#[test]
fn a_body_that_was_packed_for_the_way_is_unpacked() {
    let world = World::new();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(b"hello\n").expect("packed");
    let packed = packer.finish().expect("packed");
    let served = |headers| Served { body: packed.clone(), headers, ..Served::default() };
    world.server.serve("/f", served(vec![header("Content-Encoding", "GZIP")]));
    world.server.serve("/f.gz", served(Vec::new()));
    let sum = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let (file, archive) = (world.server.url("/f"), world.server.url("/f.gz"));
    let built = world.dockerfile(&format!("FROM scratch\nADD --checksum={sum} {file} /\nADD {archive} /\n"), &[]);
    assert_eq!(built.text("f"), "hello\n");
    assert_eq!(std::fs::read(built.root.join("f.gz")).expect("read"), packed, "a packed file is what it is");
    world.server.serve(
        "/g",
        Served {
            body: b"not packed at all".to_vec(),
            headers: vec![header("Content-Encoding", "gzip")],
            ..Served::default()
        },
    );
    let refused = world.refused(&format!("FROM scratch\nADD {} /\n", world.server.url("/g")), &[]);
    assert!(refused.contains("(Content-Encoding: gzip): invalid gzip header"), "{refused}");
}

#[test]
fn authorization_by_host() {
    let world = World::new();
    let file = |authorization: &str| Served {
        body: b"private".to_vec(),
        authorization: Some(authorization.to_owned()),
        ..Served::default()
    };
    world.server.serve("/token", file("Bearer s3cret"));
    world.server.serve("/header", file("Custom s3cret"));
    // Another host gets no credentials, even if it is asked by a redirect.
    let elsewhere =
        Served { location: Some(format!("http://localhost:{}/token", world.server.port)), ..Served::default() };
    world.server.serve("/away", elsewhere);
    std::fs::write(world.path("token"), "s3cret\n").expect("write");
    std::fs::write(world.path("header"), "Custom s3cret").expect("write");
    let add = |path: &str| format!("FROM scratch\nADD {} /\n", world.server.url(path));
    assert!(world.refused(&add("/token"), &[]).contains("invalid response status 401"));
    let token = ["--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,src=token"];
    assert_eq!(world.dockerfile(&add("/token"), &token).text("token"), "private");
    let header = ["--secret", "id=HTTP_AUTH_HEADER_127.0.0.1,src=header"];
    assert_eq!(world.dockerfile(&add("/header"), &header).text("header"), "private");
    assert!(world.refused(&add("/away"), &token).contains("invalid response status 401"));
}

#[test]
fn proxies_of_the_environment() {
    let world = World::new();
    // A proxy is asked for whole addresses.
    world.server.text("http://far.invalid/f", "by proxy");
    let context = world.context(&[("Dockerfile", "FROM scratch\nADD http://far.invalid/f /\n")]);
    let proxy = world.server.url("");
    let built = world.ok_with(|command| _ = command.env("http_proxy", &proxy), &[&context]);
    assert_eq!(built.text("f"), "by proxy");
}
