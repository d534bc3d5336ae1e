//! Repositories that mean harm.

use crate::world::World;

#[test]
fn submodules_from_elsewhere_on_this_machine() {
    let world = World::new();
    let secret = world.repository("secret");
    let commit = secret.write("key", "private").push();
    let local = secret.bare.display().to_string();
    let marker = world.path("marker");
    for (name, url, expected) in [
        ("file", format!("file://{local}"), "transport 'file' not allowed"),
        ("path", local.clone(), "transport 'file' not allowed"),
        ("ext", format!("ext::sh -c touch% {}", marker.display()), "transport 'ext::' not allowed"),
        ("option", format!("--upload-pack=touch {}", marker.display()), "invalid git remote"),
        ("ssh", format!("ssh://-oProxyCommand=touch%20{}/x", marker.display()), "strange hostname"),
    ] {
        let repository = world.repository(name);
        repository.write("f", "").push();
        repository.submodule("sub", &url, &commit);
        let stderr = world.refused(&format!("FROM scratch\nADD {} /\n", world.git(name)), &[]);
        assert!(stderr.contains("failed to update submodules for"), "{name}: {stderr}");
        assert!(stderr.contains(expected), "{name}: {stderr}");
        assert!(!marker.exists(), "{name}");
    }
}

#[test]
fn commands_and_filters_in_a_repository() {
    let world = World::new();
    let other = world.repository("other");
    let commit = other.write("f", "fine").push();
    let repository = world.repository("r");
    repository.write(".gitattributes", "* filter=evil\n").write("f", "text").push();
    repository.submodule("sub", &world.git("other"), &commit);
    let marker = world.path("marker");
    let modules = format!(
        "[submodule \"sub\"]\n\tpath = sub\n\turl = {}\n\tupdate = !touch {m}\n[core]\n\tfsmonitor = touch {m}\n[filter \"evil\"]\n\tsmudge = touch {m}\n",
        world.git("other"),
        m = marker.display()
    );
    // Would be a hook if it were copied to the place of one.
    repository.write("hooks/post-checkout", &format!("#!/bin/sh\ntouch {}\n", marker.display()));
    repository.write(".gitmodules", &modules);
    repository.git(&["add", ".gitmodules", "hooks"]);
    repository.git(&["commit", "-q", "-m", "evil"]);
    repository.git(&["push", "-q", "origin", "HEAD"]);
    let built = world.dockerfile(&format!("FROM scratch\nADD {} /\n", world.git("r")), &[]);
    assert_eq!((built.text("f").as_str(), built.text("sub/f").as_str()), ("text", "fine"));
    assert!(!marker.exists());
}

#[test]
fn links_do_not_lead_out_of_a_checkout() {
    let world = World::new();
    let repository = world.repository("r");
    std::os::unix::fs::symlink("/etc", repository.path("out")).expect("link");
    std::os::unix::fs::symlink("..", repository.path("up")).expect("link");
    std::os::unix::fs::symlink("/etc/passwd", repository.path("Dockerfile")).expect("link");
    repository.write("real/f", "f").push();
    let git = world.git("r");
    for subdir in ["out", "up", "up/up", "out/ssl", "real/f"] {
        let stderr = world.refused(&format!("FROM scratch\nADD {git}#:{subdir} /\n"), &[]);
        assert!(stderr.contains(&format!("invalid subdir {subdir}")), "{subdir}: {stderr}");
    }
    // `..` stops at the root.
    let built = world.dockerfile(&format!("FROM scratch\nADD {git}#:../../real /\n"), &[]);
    assert_eq!(built.listing(), "f:644");
    let stderr = world.fails(&[&git]);
    assert!(stderr.contains("failed to read dockerfile: open Dockerfile: no such file or directory"), "{stderr}");
    // Links are files like others.
    assert!(world.dockerfile(&format!("FROM scratch\nADD {git} /\n"), &[]).root.join("up").is_symlink());
}

#[test]
fn what_the_user_has_in_the_environment() {
    let world = World::new();
    let repository = world.repository("r");
    repository.write("f", "text").push();
    let context = world.context(&[("Dockerfile", &format!("FROM scratch\nADD {} /\n", world.git("r")))]);
    let other = repository.bare.clone();
    let built = world.ok_with(
        |command| {
            // As in a hook of a repository.
            command.env("GIT_DIR", &other).env("GIT_INDEX_FILE", "index").env("GIT_WORK_TREE", "/nowhere");
            command.env("GIT_CONFIG_PARAMETERS", "'core.hooksPath=/x'").env("GIT_TEMPLATE_DIR", "/nowhere");
            command
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", "core.autocrlf")
                .env("GIT_CONFIG_VALUE_0", "true");
        },
        &[&context],
    );
    assert_eq!(built.text("f"), "text");
}

#[test]
fn a_damaged_repository_is_fetched_anew() {
    let world = World::new();
    let repository = world.repository("r");
    repository.write("f", "one").push();
    let text = format!("FROM scratch\nADD {} /\n", world.git("r"));
    world.dockerfile(&text, &[]);
    let found = std::process::Command::new("find")
        .arg(world.path("store"))
        .args(["-name", "*.pack", "-o", "-path", "*/objects/??/*"])
        .output();
    let found = String::from_utf8(found.expect("find").stdout).expect("text");
    assert!(!found.is_empty());
    for file in found.lines() {
        let _ = std::process::Command::new("chmod").args(["u+w", file]).status();
        std::fs::write(file, "").expect("write");
    }
    repository.write("g", "two").push();
    assert_eq!(world.dockerfile(&text, &[]).text("g"), "two");
}
