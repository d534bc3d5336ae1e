//! Image archives and layouts whose names, links and digests lead elsewhere, and stages whose files are links to the machine's.

use serde_json::json;
use sha2::Digest as _;

use crate::as_root_and_rootless;
use crate::outside::{CANARY, Outside, contains};
use crate::raw::{self, Member, dir, file, hardlink, symlink};
use crate::rig::{Rig, Who};

as_root_and_rootless! {
    digests_are_no_paths
    layouts_of_links
    members_of_archives_that_are_links
    copy_from_a_stage_of_links
    passwd_and_group_are_links
    working_directories_of_images
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of an OCI layout with one image of one layer, whose descriptors can be changed before they are written.
fn layout(layer: &[u8], digests: impl Fn(&str, String) -> String, config: serde_json::Value) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let descriptor = |kind: &str, media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": digests(kind, format!("sha256:{}", sha256(bytes))), "size": bytes.len()});
    let config = json!({"architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digests("diff_id", format!("sha256:{}", sha256(layer)))]}});
    let config = serde_json::to_vec(&config).expect("json");
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config", "application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("layer", "application/vnd.oci.image.layer.v1.tar", layer)]});
    let manifest = serde_json::to_vec(&manifest).expect("json");
    let mut entry = descriptor("manifest", "application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "hostile:1", "io.containerd.image.name": "docker.io/library/hostile:1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    files.push(("index.json".to_owned(), serde_json::to_vec(&index).expect("json")));
    for bytes in [layer, &config, &manifest] {
        files.push((format!("blobs/sha256/{}", sha256(bytes)), bytes.to_vec()));
    }
    files
}

fn write_layout(rig: &Rig, files: &[(String, Vec<u8>)]) -> String {
    let at = rig.path("layout");
    let _ = std::fs::remove_dir_all(&at);
    for (name, bytes) in files {
        let path = at.join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
        std::fs::write(path, bytes).expect("write");
    }
    at.display().to_string()
}

fn as_tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<Member> =
        files.iter().map(|(name, bytes)| Member { content: bytes.clone(), ..file(name, "") }).collect();
    raw::tar(&members)
}

fn digests_are_no_paths(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let layer = raw::tar(&[file("f", "x")]);
    let context = rig.dockerfile("FROM base\nCOPY --from=base /f /g\n");
    for kind in ["config", "layer", "manifest", "diff_id"] {
        let bad = [
            format!("sha256:../../../outside/{}", "secret"),
            format!("sha256:{}", outside.path("secret")),
            format!("sha256:{}", "a".repeat(63)),
            format!("sha256:{}", "G".repeat(64)),
            format!("md5:{}", "a".repeat(32)),
            format!("../outside/secret:{}", "a".repeat(64)),
            String::new(),
        ];
        for digest in bad {
            let files = layout(&layer, |what, right| if what == kind { digest.clone() } else { right }, json!({}));
            let at = write_layout(&rig, &files);
            let out = rig.rbuild(&[
                "build",
                "--progress=plain",
                "--build-context",
                &format!("base=oci-layout://{at}"),
                &context,
            ]);
            assert!(!out.status.success(), "{kind} {digest:?}\n{}", out.stderr);
            outside.safe(&rig, &out);
            std::fs::write(rig.path("image.tar"), as_tar(&files)).expect("write");
            let out = rig.rbuild(&["load", "-i", &rig.arg("image.tar")]);
            assert!(!out.status.success(), "{kind} {digest:?}\n{}", out.stderr);
            outside.safe(&rig, &out);
        }
    }
    // The right digest of other bytes.
    let mut files = layout(&layer, |_, right| right, json!({}));
    for number in 2..5 {
        let good = files[number].1.clone();
        files[number].1 = vec![b' '; good.len()];
        let at = write_layout(&rig, &files);
        let out =
            rig.rbuild(&["build", "--progress=plain", "--build-context", &format!("base=oci-layout://{at}"), &context]);
        assert!(!out.status.success(), "blob {number} is not what its name says\n{}", out.stderr);
        files[number].1 = good;
        outside.safe(&rig, &out);
    }
}

fn layouts_of_links(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let context = rig.dockerfile("FROM base\nRUN cat /f\n");
    // The whole layer is a link to a file outside: its digest may even be right. What a layout names must be in it.
    let mut files = layout(CANARY.as_bytes(), |_, right| right, json!({}));
    files.retain(|(name, _)| !name.ends_with(&sha256(CANARY.as_bytes())));
    let at = write_layout(&rig, &files);
    std::os::unix::fs::symlink(outside.path("secret"), format!("{at}/blobs/sha256/{}", sha256(CANARY.as_bytes())))
        .expect("link");
    let out =
        rig.rbuild(&["build", "--progress=plain", "--build-context", &format!("base=oci-layout://{at}"), &context]);
    assert!(!out.status.success());
    outside.safe(&rig, &out);
}

fn members_of_archives_that_are_links(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let files = layout(&raw::tar(&[file("f", "x")]), |_, right| right, json!({}));
    for target in [outside.path("secret"), "../outside/secret".to_owned(), "/etc/shadow".to_owned()] {
        for kind in [symlink as fn(&str, &str) -> Member, hardlink] {
            let members: Vec<Member> = files
                .iter()
                .map(|(name, bytes)| match name.as_str() {
                    name if name.starts_with("blobs/") => kind(name, &target),
                    name => Member { content: bytes.clone(), ..file(name, "") },
                })
                .collect();
            std::fs::write(rig.path("image.tar"), raw::tar(&members)).expect("write");
            let out = rig.rbuild(&["load", "-i", &rig.arg("image.tar")]);
            assert!(!out.status.success());
            outside.safe(&rig, &out);
            // As `docker save` writes it.
            let members = [
                file("manifest.json", r#"[{"Config":"c.json","RepoTags":["hostile:1"],"Layers":["l/layer.tar"]}]"#),
                kind("c.json", &target),
                dir("l"),
                kind("l/layer.tar", &target),
            ];
            std::fs::write(rig.path("image.tar"), raw::tar(&members)).expect("write");
            let out = rig.rbuild(&["load", "-i", &rig.arg("image.tar")]);
            assert!(!out.status.success());
            outside.safe(&rig, &out);
        }
    }
    for names in [r#"["../outside/secret"]"#, r#"["/etc/shadow"]"#, "[\"\"]", r#"["."]"#] {
        let text = format!(r#"[{{"Config":"c.json","RepoTags":["hostile:1"],"Layers":{names}}}]"#);
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]}}"#;
        std::fs::write(rig.path("image.tar"), raw::tar(&[file("manifest.json", &text), file("c.json", config)]))
            .expect("write");
        let out = rig.rbuild(&["load", "-i", &rig.arg("image.tar")]);
        assert!(!out.status.success());
        outside.safe(&rig, &out);
    }
}

fn copy_from_a_stage_of_links(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let secret = outside.path("secret");
    for target in [
        secret.as_str(),
        "/etc/shadow",
        "/proc/self/root/etc/shadow",
        "/proc/1/root/etc/shadow",
        "../../../../../../etc/shadow",
        "/proc/self/fd/3",
    ] {
        for (make, source) in [
            (format!("ln -s {target} /l"), "/l"),
            (format!("mkdir /d && ln -s {target} /d/l"), "/d/l"),
            (format!("ln -s $(dirname {target}) /d"), "/d/shadow"),
            (format!("ln -s $(dirname {target}) /d"), "/d/secret"),
            (format!("ln -s / /r && ln -s /r{target} /l"), "/l"),
        ] {
            let text = format!(
                "FROM busybox AS a\nRUN {make}\nFROM busybox\nCOPY --from=a {source} /x\nRUN cat /x; echo end\n"
            );
            let dest = rig.arg("out.tar");
            let out = rig.rbuild(&[
                "build",
                "--progress=plain",
                "-o",
                &format!("type=tar,dest={dest}"),
                &rig.dockerfile(&text),
            ]);
            assert!(!out.status.success(), "{make}: COPY {source} found something\n{}", out.stderr);
            assert!(!out.stderr.contains("root:"), "{}", out.stderr);
            outside.safe(&rig, &out);
        }
        // The destination is a link out.
        let text = format!(
            "FROM busybox\nRUN ln -s {} /d; ln -s {secret} /f; mkdir /sub; ln -s ../..{} /sub/up\nCOPY Dockerfile /d/\nCOPY Dockerfile /d/file\nCOPY Dockerfile /f\nCOPY Dockerfile /sub/up/x\nADD Dockerfile /d/y/z\nWORKDIR /d/w\nRUN pwd > p\n",
            outside.path("dir"),
            outside.path("dir")
        );
        let out = rig.ok(&["build", "--progress=plain", &rig.dockerfile(&text)]);
        outside.safe(&rig, &out);
    }
}

/// Users are looked up in files of the image, which may be links.
fn passwd_and_group_are_links(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    std::fs::write(outside.dir.join("target"), "").expect("write");
    for target in
        ["/proc/self/root/etc/passwd", "../../../../etc/passwd", "/dev/zero", "/etc/passwd", "/proc/self/fd/0"]
    {
        let text = format!(
            "FROM busybox\nRUN rm /etc/passwd /etc/group && ln -s {target} /etc/passwd && ln -s {target} /etc/group\nCOPY --chown=messagebus:messagebus Dockerfile /x\nUSER messagebus\nRUN id\n"
        );
        let out = rig.rbuild(&["build", "--progress=plain", &rig.dockerfile(&text)]);
        assert!(!out.status.success(), "{}", out.stderr);
        assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
    }
    let huge = "FROM busybox\nRUN rm /etc/passwd && truncate -s 20G /etc/passwd || true\nUSER app\nRUN id\n";
    let out = rig.rbuild(&["build", "--progress=plain", &rig.dockerfile(huge)]);
    assert!(!out.status.success(), "{}", out.stderr);
}

/// CVE-2024-21626: a working directory that is a descriptor of the sandbox's, open on the machine's root.
fn working_directories_of_images(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let layer = raw::tar(&[
        dir("bin"),
        Member { mode: 0o755, content: busybox, ..file("bin/busybox", "") },
        symlink("bin/sh", "busybox"),
        symlink("bin/cat", "busybox"),
        symlink("bin/ls", "busybox"),
        symlink("fd7", "/proc/self/fd/7"),
    ]);
    let up = format!("../../../../../../..{}", outside.path("secret"));
    let mut places: Vec<String> = (3..20).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    places.extend(
        [
            "/proc/self/cwd",
            "/proc/self/root",
            "/proc/1/root",
            "/proc/1/cwd",
            "/fd7",
            "/dev/fd/7",
            "/proc/self/fd/7/../../..",
            "/proc/thread-self/root",
        ]
        .map(str::to_owned),
    );
    for place in &places {
        let look = format!("pwd; cat {up}; cat ./{up}; ls ../../../../../work; echo x > {up}; true");
        let text = format!("FROM base\nWORKDIR {place}\nRUN {look}\nRUN cd {place} && {look}\n");
        let files = layout(&layer, |_, right| right, json!({"WorkingDir": place}));
        let at = write_layout(&rig, &files);
        for text in [text.clone(), format!("FROM base\nRUN {look}\n"), format!("FROM base\nUSER 1000\nRUN {look}\n")] {
            let out = rig.rbuild(&[
                "build",
                "--progress=plain",
                "--build-context",
                &format!("base=oci-layout://{at}"),
                &rig.dockerfile(&text),
            ]);
            outside.safe(&rig, &out);
        }
    }
    assert!(!contains(b"", CANARY));
}
