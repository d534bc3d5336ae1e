//! ADD of git repositories.

use std::process::Stdio;

use crate::world::{Repository, World};

fn sample(world: &World) -> (Repository, String) {
    let repository = world.repository("r");
    repository
        .write("a", "one")
        .write("bin/run", "#!")
        .write("sub/dir/f", "deep")
        .write(".gitattributes", "*.crlf eol=crlf\n");
    repository.write("t.crlf", "x\n");
    std::os::unix::fs::symlink("a", repository.path("l")).expect("link");
    let status = std::process::Command::new("chmod").arg("775").arg(repository.path("bin/run")).status();
    assert!(status.expect("chmod").success());
    let commit = repository.push();
    (repository, commit)
}

#[test]
fn files_and_cache() {
    let world = World::new();
    let (repository, _) = sample(&world);
    let text = format!("FROM scratch\nADD {} /src/\n", world.git("r"));
    let built = world.dockerfile(&text, &[]);
    assert_eq!(
        built.listing(),
        "src/ src/.gitattributes:644 src/a:644 src/bin/ src/bin/run:755 src/l@ src/sub/ src/sub/dir/ src/sub/dir/f:644 src/t.crlf:644"
    );
    assert_eq!(built.text("src/t.crlf"), "x\r\n");
    world.server.log();
    // The same commit is only asked for.
    let again = world.dockerfile(&text, &[]);
    assert!(again.cached("ADD "), "{}", again.stderr);
    assert!(world.server.log().iter().all(|line| !line.contains("POST") || line.contains("git-upload-pack")));
    repository.write("a", "two").push();
    assert_eq!(world.dockerfile(&text, &[]).text("src/a"), "two");
    // A new commit that changes nothing of what is taken changes nothing in the image.
    let text = format!("FROM scratch\nADD {}#:sub /src/\n", world.git("r"));
    assert_eq!(world.dockerfile(&text, &[]).listing(), "src/ src/dir/ src/dir/f:644");
    repository.write("a", "three").push();
    let built = world.dockerfile(&text, &[]);
    assert!(built.cached("ADD "), "{}", built.stderr);
}

#[test]
fn refs() {
    let world = World::new();
    let (repository, first) = sample(&world);
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "v1", "-m", "v1"]);
    let tag = repository.git(&["rev-parse", "v1"]);
    repository.write("a", "two").push();
    repository.git(&["checkout", "-q", "-b", "feature/x"]);
    let feature = repository.write("a", "three").push();
    repository.git(&["push", "-q", "--tags", "origin"]);
    let git = world.git("r");
    for (fragment, expected) in [
        ("", "two"),
        ("#main", "two"),
        ("#HEAD", "two"),
        ("#refs/heads/main", "two"),
        ("#light", "one"),
        ("#v1", "one"),
        ("#refs/tags/v1", "one"),
        ("#feature/x", "three"),
        ("?branch=feature/x", "three"),
        ("?tag=v1", "one"),
        ("?ref=v1&keep-git-dir=false", "one"),
        (&format!("#{first}"), "one"),
        (&format!("#{feature}"), "three"),
        (&format!("?ref=v1&checksum={}", &first[..8]), "one"),
        (&format!("?ref=v1&commit={}", &tag[..8]), "one"),
        (&format!("?branch=main&fetch-by-commit&checksum={first}"), "one"),
    ] {
        let built = world.dockerfile(&format!("FROM scratch\nADD {git}{fragment} /\n"), &[]);
        assert_eq!(built.text("a"), expected, "{fragment}");
    }
    let missing = format!("repository does not contain ref nope, output: {:?}", "");
    for (fragment, expected) in [
        ("#nope", missing.as_str()),
        ("#:nope", "invalid subdir nope"),
        ("#:a", "invalid subdir a"),
        ("#:l", "invalid subdir l"),
        ("#--upload-pack=touch${IFS}x", "invalid git ref \"--upload-pack=touchx\""),
        ("?checksum=xyz", "invalid checksum xyz for Git URL, expected hex commit hash"),
        ("?checksum=1234567", "expected checksum to match 1234567, got "),
        ("?fetch-by-commit", "fetch-by-commit requires a checksum or a commit SHA ref"),
        ("?fetch-by-commit&checksum=12", "fetch-by-commit requires a full commit SHA checksum, got \"12\""),
        ("?depth=1", "unexpected query \"depth\""),
        ("#1234567890123456789012345678901234567890", "1234567890123456789012345678901234567890"),
    ] {
        let stderr = world.refused(&format!("FROM scratch\nADD {git}{fragment} /\n"), &[]);
        assert!(stderr.contains(expected), "{fragment}: {stderr}");
    }
}

#[test]
fn a_known_commit_needs_no_network() {
    let world = World::new();
    let (_, commit) = sample(&world);
    let text = format!("FROM scratch\nADD {}#{commit} /\n", world.git("r"));
    world.dockerfile(&text, &[]);
    world.server.log();
    assert!(world.dockerfile(&text, &[]).cached("ADD "));
    assert_eq!(world.server.log(), [] as [&str; 0]);
    // Nor does another step that takes something else of it.
    let text = format!("FROM scratch\nADD {}#{commit}:sub/dir /\n", world.git("r"));
    assert_eq!(world.dockerfile(&text, &[]).listing(), "f:644");
    assert_eq!(world.server.log(), [] as [&str; 0]);
}

#[test]
fn git_directories() {
    let world = World::new();
    let (repository, first) = sample(&world);
    repository.git(&["tag", "-a", "v1", "-m", "v1"]);
    repository.write("a", "two").push();
    repository.git(&["push", "-q", "--tags", "origin"]);
    let text = format!("FROM scratch\nADD --keep-git-dir=true {}#v1 /src\n", world.git("r"));
    let built = world.dockerfile(&text, &[]);
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args(["-c", "safe.directory=*"]).args(args).current_dir(built.root.join("src"));
        let out = command.output().expect("git starts");
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).trim().to_owned()
    };
    assert_eq!(run(&["rev-parse", "HEAD"]), first);
    assert_eq!(run(&["describe", "--tags"]), "v1");
    assert_eq!(run(&["status", "--porcelain"]), "");
    assert_eq!(run(&["remote", "get-url", "origin"]), world.git("r"));
    assert!(!built.listing().contains("hooks"), "{}", built.listing());
    assert!(world.dockerfile(&text, &[]).cached("ADD "));
    let by_address = format!("FROM scratch\nADD {}?tag=v1&keep-git-dir /src\n", world.git("r"));
    assert!(world.dockerfile(&by_address, &[]).root.join("src/.git/HEAD").exists());
    let both = format!("FROM scratch\nADD --keep-git-dir=false {}?keep-git-dir=true /src\n", world.git("r"));
    assert!(world.refused(&both, &[]).contains("inconsistent keep-git-dir configuration"));
}

#[test]
fn submodules_of_submodules() {
    let world = World::new();
    let inner = world.repository("inner");
    let inner_commit = inner.write("deep/f", "inner").push();
    let middle = world.repository("middle");
    middle.write("m", "middle").push();
    middle.submodule("lib/inner", "../inner.git", &inner_commit);
    let middle_commit = middle.git(&["rev-parse", "HEAD"]);
    // The branch moves on, the commit that is referred to is no tip of anything.
    middle.write("m", "later").push();
    let outer = world.repository("outer");
    outer.write("o", "outer").push();
    outer.submodule("mods/middle", &world.git("middle"), &middle_commit);
    let add = |rest: &str| world.dockerfile(&format!("FROM scratch\nADD {}{rest} /\n", world.git("outer")), &[]);
    let built = add("");
    assert_eq!(
        built.listing(),
        ".gitmodules:644 mods/ mods/middle/ mods/middle/.gitmodules:644 mods/middle/lib/ mods/middle/lib/inner/ \
         mods/middle/lib/inner/deep/ mods/middle/lib/inner/deep/f:644 mods/middle/m:644 o:644"
    );
    assert_eq!(built.text("mods/middle/m"), "middle");
    assert_eq!(add("?submodules=false").listing(), ".gitmodules:644 mods/ mods/middle/ o:644");
    assert_eq!(add("#:mods/middle/lib").listing(), "inner/ inner/deep/ inner/deep/f:644");
    assert_eq!(add("#:mods/middle/lib/inner/deep").listing(), "f:644");
    let kept = add("?keep-git-dir=true");
    let out = std::process::Command::new("git")
        .args(["-c", "safe.directory=*", "submodule", "status", "--recursive"])
        .current_dir(&kept.root)
        .output()
        .expect("git starts");
    let status = String::from_utf8_lossy(&out.stdout);
    assert!(
        status.contains(&format!(" {inner_commit} mods/middle/lib/inner")),
        "{status}{kept}",
        kept = kept.listing()
    );
}

#[test]
fn tokens_go_to_their_host_only() {
    let world = World::new();
    sample(&world);
    // x-access-token:s3cret
    world.server.require("basic eC1hY2Nlc3MtdG9rZW46czNjcmV0");
    let text = format!("FROM scratch\nADD {} /\n", world.git("r"));
    let stderr = world.refused(&text, &[]);
    assert!(stderr.contains("failed to fetch remote") && stderr.contains("terminal prompts disabled"), "{stderr}");
    std::fs::write(world.path("token"), "s3cret\n").expect("write");
    let host = format!("127.0.0.1:{}", world.server.port);
    for id in ["GIT_AUTH_TOKEN".to_owned(), format!("GIT_AUTH_TOKEN.{host}")] {
        let built = world.dockerfile(&format!("{text}# {id}\n"), &["--secret", &format!("id={id},src=token")]);
        assert!(built.root.join("a").exists());
    }
    let other = ["--secret", "id=GIT_AUTH_TOKEN.other.example,src=token"];
    assert!(world.refused(&text, &other).contains("failed to fetch remote"));
    std::fs::write(world.path("bad"), "a\nb").expect("write");
    let stderr = world.refused(&text, &["--secret", "id=GIT_AUTH_HEADER,src=bad"]);
    assert!(stderr.contains("secret GIT_AUTH_HEADER cannot be sent in a header"), "{stderr}");
    // Nothing of it is kept.
    let found = std::process::Command::new("grep").args(["-rlE", "s3cret|czNjcmV0"]).arg(world.path("store")).output();
    assert_eq!(String::from_utf8_lossy(&found.expect("grep").stdout), "");
}

#[test]
fn the_git_protocol() {
    let world = World::new();
    sample(&world);
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
    let exec_path = std::process::Command::new("git").arg("--exec-path").output().expect("git starts").stdout;
    let program = std::path::Path::new(String::from_utf8_lossy(&exec_path).trim()).join("git-daemon");
    let mut daemon = std::process::Command::new(program);
    daemon.args(["--reuseaddr", "--listen=127.0.0.1", "--export-all"]).stdout(Stdio::null()).stderr(Stdio::null());
    daemon.arg(format!("--port={port}")).arg(format!("--base-path={}", world.path("git").display()));
    let _daemon = Daemon(daemon.spawn().expect("git daemon"));
    let up = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    assert!(up, "git daemon listens");
    let built = world.dockerfile(&format!("FROM scratch\nADD git://127.0.0.1:{port}/r.git /\n"), &[]);
    assert_eq!(built.text("a"), "one");
}

/// Ends with the test, however that ends.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn times() {
    let world = World::new();
    sample(&world);
    let git = world.git("r");
    let at_commit = world.dockerfile(&format!("FROM scratch\nADD {git}?mtime=commit /\n"), &[]);
    assert_eq!(at_commit.mtime("a"), 1_700_000_000);
    let at_checkout = world.dockerfile(&format!("FROM scratch\nADD {git} /\n"), &[]);
    assert!(at_checkout.mtime("a") > 1_700_000_000);
}

#[test]
fn ssh() {
    let world = World::new();
    sample(&world);
    // In the place of ssh and a server: writes down how it was called, and does here what it was to do there.
    let log = world.path("log");
    let script = format!(
        "#!/bin/sh\ntest -S \"$SSH_AUTH_SOCK\" && echo \"agent $*\" >> {0} || echo \"$*\" >> {0}\nfor last; do :; done\nexec sh -c \"$last\"\n",
        log.display()
    );
    std::fs::create_dir(world.path("bin")).expect("mkdir");
    std::fs::write(world.path("bin/ssh"), script).expect("write");
    let status = std::process::Command::new("chmod").arg("755").arg(world.path("bin/ssh")).status();
    assert!(status.expect("chmod").success());
    let agent = std::os::unix::net::UnixListener::bind(world.path("agent")).expect("socket");
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").expect("set"));
    let repository = world.path("git").join("r.git").display().to_string();
    for address in [format!("ssh://git@h.example{repository}"), format!("git@h.example:{repository}#main")] {
        let context = world.context(&[("Dockerfile", &format!("FROM scratch\nADD {address} /\n"))]);
        let agent = format!("default={}", world.path("agent").display());
        let built = world.ok_with(|command| _ = command.env("PATH", &path), &["--ssh", &agent, &context]);
        assert_eq!(built.text("a"), "one");
        let called = std::fs::read_to_string(&log).expect("written");
        let first = called.lines().next().expect("called");
        // The socket is one of ours, which passes on questions for keys and signatures only.
        assert!(first.starts_with("agent -F ") && first.contains("-o BatchMode=yes"), "{called}");
        std::fs::remove_file(&log).expect("there");
    }
    // Who has said how ssh is called is obeyed.
    let own = format!("sh -c '{} own \"$@\"' ssh", world.path("bin/ssh").display());
    let context =
        world.context(&[("Dockerfile", &format!("FROM scratch\nADD git@h.example:{repository}#main:bin /\n"))]);
    let built = world.ok_with(|command| _ = command.env("GIT_SSH_COMMAND", &own).env("PATH", &path), &[&context]);
    assert_eq!(built.listing(), "run:755");
    let called = std::fs::read_to_string(&log).expect("written");
    assert!(called.contains("own ") && !called.contains("BatchMode"), "{called}");
    drop(agent);
}
