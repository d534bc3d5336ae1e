//! What is done in registries without a build: lists, indexes, copies.

use std::process::Command;

use crate::as_root_and_rootless;
use crate::registry::{Server, publish};
use crate::rig::{Rig, Who, installed, succeed};

as_root_and_rootless! {
    what_there_is
    images_for_two_machines_become_one_name
    copies_pass_the_store_by
}

fn what_there_is(who: Who) {
    let Some(server) = Server::start() else { return };
    let rig = Rig::new(who);
    for name in ["team/a:1", "team/a:2", "b:latest"] {
        rig.ok(&["tag", "busybox", &server.name(name)]);
        rig.ok(&["push", "-q", &server.name(name)]);
    }
    assert_eq!(rig.ok(&["registry", "ls", &server.address]).stdout, "b\nteam/a\n");
    let mut tags: Vec<_> =
        rig.ok(&["registry", "tags", &server.name("team/a")]).stdout.lines().map(str::to_owned).collect();
    tags.sort();
    assert_eq!(tags, ["1", "2"]);
    let missing = rig.fails(&["registry", "tags", &server.name("nothing")]);
    assert!(missing.contains("nothing: not found"), "{missing}");
    let raw = rig.ok(&["manifest", "inspect", &server.name("b")]).stdout;
    let manifest: serde_json::Value = serde_json::from_str(&raw).expect("JSON");
    assert_eq!(manifest["schemaVersion"], 2);
    let digest = rig.ok(&["manifest", "inspect", "--digest", &server.name("b")]).stdout;
    assert_eq!(rig.ok(&["manifest", "inspect", &format!("{}@{}", server.name("b"), digest.trim())]).stdout, raw);
}

/// The way of a CI job a platform: push by digest, then one job that joins them.
fn images_for_two_machines_become_one_name(who: Who) {
    let Some(server) = Server::start() else { return };
    let rig = Rig::new(who);
    let app = server.name("app");
    let built = |arch: &str, repository: &str| {
        let context = rig.dockerfile(&format!("FROM scratch\nCOPY Dockerfile /{arch}\n"));
        let metadata = rig.arg(&format!("{arch}.json"));
        let platform = format!("linux/{arch}");
        let output = format!("type=image,name={repository},push=true,push-by-digest=true");
        rig.build(&["--platform", &platform, "-o", &output, "--metadata-file", &metadata, &context]);
        let text = std::fs::read(metadata).expect("metadata");
        let metadata: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        metadata["containerimage.digest"].as_str().expect("a digest").to_owned()
    };
    let amd = built("amd64", &app);
    let arm = built("arm64", &app);
    let elsewhere = server.name("elsewhere");
    let s390 = built("s390x", &elsewhere);
    let tags = rig.rbuild(&["registry", "tags", &app]);
    assert!(!tags.status.success() || tags.stdout.is_empty(), "pushed without a tag: {}", tags.stdout);

    let name = server.name("app:1.0");
    let plan = rig.ok(&["manifest", "create", "--dry-run", &name, &amd, &arm]).stdout;
    assert!(plan.contains(&amd) && plan.contains("\"arm64\""), "{plan}");
    rig.ok(&["manifest", "create", "--annotation", "k=v", &name, &amd, &arm]);
    rig.ok(&["manifest", "create", "--amend", &name, &format!("{elsewhere}@{s390}")]);
    let local = rig.ok(&["manifest", "inspect", &name]).stdout;
    let digest = rig.ok(&["manifest", "push", &name]).stdout.trim().to_owned();
    assert_eq!(rig.ok(&["manifest", "inspect", "--digest", &name]).stdout.trim(), digest);
    let other = Rig::empty(who);
    let remote = other.ok(&["manifest", "inspect", &name]).stdout;
    assert_eq!(remote, local, "what was shown is what was sent");
    assert!(remote.contains("\"k\": \"v\""), "{remote}");
    // Each machine gets its own.
    for (arch, digest) in [("amd64", &amd), ("arm64", &arm), ("s390x", &s390)] {
        let platform = format!("linux/{arch}");
        let one = other.ok(&["manifest", "inspect", "--digest", "--platform", &platform, &name]).stdout;
        assert_eq!(one.trim(), digest);
        other.build(&["--platform", &platform, "-o", &other.arg(arch), &other.dockerfile(&format!("FROM {name}\n"))]);
        assert!(other.path(arch).join(arch).exists(), "{arch}");
    }
    if installed("skopeo") {
        let mut inspect = Command::new("skopeo");
        inspect.args(["inspect", "--tls-verify=false", "--override-arch", "s390x", &format!("docker://{name}")]);
        assert!(succeed(&mut inspect).contains("\"Architecture\": \"s390x\""));
    }
    rig.ok(&["manifest", "push", "-q", "--purge", &name]);
    let gone = rig.fails(&["manifest", "push", &name]);
    assert!(gone.contains("no index of that name was created here"), "{gone}");

    // A platform says which of an index is meant, or what an image is for.
    let (named, v7) = (server.name("app:1.1"), format!("{elsewhere}@{s390}=linux/arm/v7"));
    rig.ok(&["copy", &server.name("app:1.0"), &server.name("app:all")]);
    let one = format!("{}=linux/arm64", server.name("app:all"));
    let plan = rig.ok(&["manifest", "create", "--dry-run", &named, &one, &v7]).stdout;
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    let members: Vec<_> =
        plan["manifests"].as_array().expect("a list").iter().map(|m| m["platform"].to_string()).collect();
    assert_eq!(members.len(), 2, "{members:?}");
    assert!(members[0].contains("arm64") && members[1].contains("v7"), "{members:?}");
    let none = rig.fails(&["manifest", "create", &named, &format!("{}=windows/amd64", server.name("app:all"))]);
    assert!(none.contains("no match for platform"), "{none}");

    // Two images for one machine would leave it to chance which one is run.
    let again = rig.dockerfile("FROM scratch\nCOPY Dockerfile /other\n");
    rig.build(&["--platform", "linux/amd64", "-t", &server.name("app:other"), "--push", &again]);
    let clash = rig.fails(&["manifest", "create", &name, &amd, &server.name("app:other")]);
    assert!(clash.contains("two images for linux/amd64"), "{clash}");
}

fn copies_pass_the_store_by(who: Who) {
    let (Some(from), Some(to)) = (Server::start(), Server::start()) else { return };
    let author = Rig::new(who);
    publish(&author, &from.name("base:1"));
    let rig = Rig::empty(who);
    let (source, dest) = (from.name("base:1"), to.name("copy/base"));
    let digest = rig.ok(&["copy", &source, &dest]).stdout;
    assert_eq!(rig.ok(&["manifest", "inspect", "--digest", &format!("{dest}:1")]).stdout, digest);
    assert!(!rig.store().exists() || rig.ok(&["images", "-q"]).stdout.is_empty(), "nothing is stored");
    assert!(to.requests("PUT /v2/copy/base/blobs/uploads") >= 2);

    // Within one registry blobs are mounted; what is there is not sent again.
    rig.ok(&["copy", &format!("{dest}:1"), &to.name("second/base:2")]);
    assert!(to.requests("POST /v2/second/base/blobs/uploads/?mount=") >= 2);
    assert_eq!(to.requests("PUT /v2/second/base/blobs"), 0);
    let before = from.requests("GET /v2/base/blobs");
    rig.ok(&["copy", &source, &format!("{dest}:1")]);
    assert_eq!(from.requests("GET /v2/base/blobs"), before);

    // Layouts are places, too.
    let layout = format!("oci-layout://{}:here", rig.arg("layout"));
    assert_eq!(rig.ok(&["copy", &format!("{dest}:1"), &layout]).stdout, digest);
    assert_eq!(rig.ok(&["copy", &layout, &to.name("third:3")]).stdout, digest);
    let reader = Rig::empty(who);
    reader.ok(&["pull", &to.name("third:3")]);
    assert_eq!(reader.ok(&["run", "--rm", &to.name("third:3"), "echo", "hello"]).stdout, "hello\n");

    // As skopeo calls places; those that are none here are not taken for names.
    let skopeo = format!("docker://{}", to.name("fourth:4"));
    assert_eq!(rig.ok(&["copy", &format!("oci:{}:here", rig.arg("layout")), &skopeo]).stdout, digest);
    let archive = rig.fails(&["copy", "docker-archive:x.tar", &skopeo]);
    assert!(
        archive.contains("docker-archive: is no place to copy from or to") && archive.contains("rbuild load"),
        "{archive}"
    );

    let missing = rig.fails(&["copy", &from.name("nothing:1"), &dest]);
    assert!(missing.contains("nothing:1: not found"), "{missing}");
}
