//! Contexts and Dockerfiles that are elsewhere.

use std::io::Write as _;
use std::process::Stdio;

use crate::server::Served;
use crate::world::World;

const COPY_ALL: &str = "FROM scratch\nCOPY . /\n";

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o640);
        header.set_mtime(1_600_000_000);
        builder.append_data(&mut header, name, text.as_bytes()).expect("memory");
    }
    builder.into_inner().expect("memory")
}

#[test]
fn git() {
    let world = World::new();
    let repository = world.repository("c");
    repository.write("Dockerfile", COPY_ALL).write("f", "text").write(".dockerignore", "f\n");
    repository.write("sub/dockerfile", COPY_ALL).write("sub/g", "sub").write("other/D", "FROM scratch\nCOPY f /o\n");
    repository.push();
    let git = world.git("c");
    // No ignore file applies.
    let built = world.ok(&[&git]);
    let all = ".dockerignore:644 Dockerfile:644 f:644 other/ other/D:644 sub/ sub/dockerfile:644 sub/g:644";
    assert_eq!(built.listing(), all);
    assert_eq!(world.ok(&[&format!("{git}#main:sub")]).listing(), "dockerfile:644 g:644");
    assert_eq!(world.ok(&["-f", "other/D", &git]).text("o"), "text");
    assert!(world.ok(&[&git]).cached("COPY . /"));
    assert!(world.ok(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &git]).root.join(".git/HEAD").exists());
    let stderr = world.fails(&["-f", "nope", &git]);
    assert!(stderr.contains("failed to read dockerfile: open nope: no such file or directory"), "{stderr}");
    let stderr = world.fails(&[&format!("{git}#nope")]);
    assert!(
        stderr.contains("failed to solve: failed to load cache key: repository does not contain ref nope"),
        "{stderr}"
    );
    let stderr = world.fails(&[&format!("{git}?x=1")]);
    assert!(stderr.contains("unexpected query \"x\""), "{stderr}");
    // A Dockerfile from here for files from there.
    let here = world.context(&[("D", "FROM scratch\nCOPY sub/g /here\n")]);
    assert_eq!(world.ok(&["-f", &format!("{here}/D"), &git]).text("here"), "sub");
    let dated = world.ok(&["--build-arg", "SOURCE_DATE_EPOCH=context", &git]);
    assert_eq!(dated.mtime("f"), 1_700_000_000);
}

#[test]
fn http() {
    let world = World::new();
    let archive = tar(&[("Dockerfile", COPY_ALL), ("d/f", "text"), (".dockerignore", "d\n")]);
    world.server.serve("/c.tar", Served { body: archive, ..Served::default() });
    world.server.text("/D", "FROM scratch\nCOPY . /\n");
    let built = world.ok(&[&world.server.url("/c.tar")]);
    assert_eq!(built.listing(), ".dockerignore:640 Dockerfile:640 d/ d/f:640");
    // What is no archive is the Dockerfile, and all there is.
    assert_eq!(world.ok(&[&world.server.url("/D")]).listing(), "context:600");
    let stderr = world.fails(&[&world.server.url("/nope")]);
    assert!(stderr.contains("invalid response status 404 Not Found"), "{stderr}");
    let here = world.context(&[("f", "here")]);
    assert_eq!(world.ok(&["-f", &world.server.url("/D"), &here]).listing(), "f:644");
}

#[test]
fn named() {
    let world = World::new();
    world.repository("n").write("f", "from git").push();
    world.server.serve("/x.tar", Served { body: tar(&[("f", "")]), ..Served::default() });
    let git = format!("repo={}", world.git("n"));
    let http = format!("file={}", world.server.url("/x.tar"));
    let unused = format!("unused={}", world.server.url("/not-there"));
    let args = ["--build-context", &git, "--build-context", &http, "--build-context", &unused];
    let built = world.dockerfile("FROM scratch\nCOPY --from=repo f /\nCOPY --from=file . /d/\n", &args);
    assert_eq!((built.text("f").as_str(), built.listing().as_str()), ("from git", "d/ d/context:600 f:644"));
    assert!(!world.server.log().iter().any(|line| line.contains("not-there")));
    let built = world.dockerfile("FROM repo\n", &args);
    assert_eq!(built.listing(), "f:644");
    let stderr = world.refused("FROM scratch\nCOPY --from=unused . /\n", &args);
    assert!(stderr.contains("failed to load cache key: invalid response status 404 Not Found"), "{stderr}");
}

#[test]
fn stdin() {
    let world = World::new();
    let build = |input: Vec<u8>, args: &[&str]| {
        let output = format!("type=local,dest={}", world.path("out").display());
        let _ = std::fs::remove_dir_all(world.path("out"));
        let mut command = world.command(&["build", "--progress=plain", "-o", &output]);
        let mut child = command.args(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("rbuild starts");
        child.stdin.take().expect("piped").write_all(&input).expect("write");
        let out = child.wait_with_output().expect("ends");
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let text = |name: &str| std::fs::read_to_string(world.path("out").join(name)).expect("readable");
    let archive =
        tar(&[("Dockerfile", "FROM scratch\nCOPY f /a\n"), ("d/D", "FROM scratch\nCOPY f /b\n"), ("f", "text")]);
    assert!(build(archive.clone(), &["-"]).0);
    assert_eq!(text("a"), "text");
    assert!(build(archive, &["-f", "d/D", "-"]).0);
    assert_eq!(text("b"), "text");
    let context = world.context(&[("f", "local")]);
    assert!(build(b"FROM scratch\nCOPY f /c\n".to_vec(), &["-f", "-", &context]).0);
    assert_eq!(text("c"), "local");
    let (ok, stderr) = build(b"FROM scratch\n".to_vec(), &["-f", "D", "-"]);
    assert!(!ok && stderr.contains("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"));
}
