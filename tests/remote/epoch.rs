//! `SOURCE_DATE_EPOCH` as the name of a stage: the time of what the stage adds.

use crate::server::Served;
use crate::world::World;

/// A Dockerfile whose directory `/w` has the time of what `source` gives.
fn dated_by(source: &str) -> String {
    let stage = format!("FROM scratch AS src\nARG REF=main\nADD {source} /\n");
    format!("ARG SOURCE_DATE_EPOCH=Src\n{stage}FROM scratch\nARG SOURCE_DATE_EPOCH\nWORKDIR /w\n")
}

fn dated(body: &[u8]) -> Served {
    let headers = vec![("Last-Modified".to_owned(), "Sun, 01 Jan 2023 00:00:00 GMT".to_owned())];
    Served { body: body.to_vec(), headers, ..Served::default() }
}

/// Files in this order with their times, and a directory that is newer than all of them.
fn tar(files: &[(&str, u64)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let directory = ("d/", 1_650_000_000);
    for (name, mtime) in files.iter().copied().chain([directory]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(0);
        header.set_mode(0o755);
        header.set_mtime(mtime);
        builder.append_data(&mut header, name, &[][..]).expect("memory");
    }
    builder.into_inner().expect("memory")
}

#[test]
fn commit_of_a_stage() {
    let world = World::new();
    world.repository("r").write("sub/f", "text").push();
    let text = dated_by(&format!("{}#$REF:sub", world.git("r")));
    let built = world.dockerfile(&text, &[]);
    assert_eq!(built.mtime("w"), 1_700_000_000);
    assert!(built.stderr.contains("[internal] resolve SOURCE_DATE_EPOCH source stage src"), "{}", built.stderr);
    assert!(world.dockerfile(&text, &[]).cached("WORKDIR /w"));
    // What is given wins over what is declared.
    assert_eq!(world.dockerfile(&text, &["--build-arg", "SOURCE_DATE_EPOCH=7"]).mtime("w"), 7);
    let stderr = world.refused(&text, &["--build-arg", "REF=nope"]);
    assert!(stderr.contains("repository does not contain ref nope") && stderr.contains("Dockerfile:2"), "{stderr}");
}

#[test]
fn download_of_a_stage() {
    let world = World::new();
    let archive = tar(&[("new", 1_600_000_000), ("old", 1_500_000_000)]);
    world.server.serve("/dated.tar", dated(&archive));
    world.server.serve("/archive.tar", Served { body: archive, ..Served::default() });
    world.server.text("/text", "no archive");
    let build = |path: &str| world.dockerfile(&dated_by(&world.server.url(path)), &[]).mtime("w");
    assert_eq!(build("/dated.tar"), 1_672_531_200);
    assert_eq!(build("/archive.tar"), 1_600_000_000);
    // It has no time: as if there were no epoch.
    assert!(build("/text") > 1_700_000_000);
    let stderr = world.refused(&dated_by(&world.server.url("/missing")), &[]);
    assert!(stderr.contains("invalid response status 404 Not Found"), "{stderr}");
    // A stage that cannot have a time is a finding of --check, too.
    let context = world.context(&[("Dockerfile", &dated_by("f"))]);
    let stderr = world.fails(&["--check", &context]);
    assert!(stderr.contains("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD"), "{stderr}");
}

#[test]
fn only_the_context_that_is_named() {
    let world = World::new();
    world.server.serve("/f", dated(b"text"));
    let named = format!("far={}", world.server.url("/f"));
    let unused = format!("unused={}", world.server.url("/not-there"));
    let contexts = ["--build-context", &named, "--build-context", &unused];
    let args = [&["--build-arg", "SOURCE_DATE_EPOCH=far"], &contexts[..]].concat();
    let built = world.dockerfile("FROM scratch\nARG SOURCE_DATE_EPOCH\nWORKDIR /w\n", &args);
    assert_eq!(built.mtime("w"), 1_672_531_200);
}
