//! Real input: a Debian base made by debootstrap, packages from the mirrors this machine is configured for, gcc, pip.
//!
//! The base goes through a registry, so one test walks the whole way: import, push, remove, `FROM` the registry, three stages, push,
//! pulled back and started by strangers' tools. The machine's own configuration of apt and pip is put in by a build, from a
//! named context made here; no host is named in any file of ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::as_root_and_rootless;
use crate::outputs::start_by_crun;
use crate::registry::{Server, pull_with_skopeo};
use crate::rig::{Rig, Who, can_run, environment, installed, loudly, succeed};
use crate::traces;

as_root_and_rootless! { net_three_stages_from_mirrors }

const RELEASE: &str = "bookworm";

pub(crate) const DOCKERFILE: &str = "\
ARG BASE
FROM ${BASE} AS compiler
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY hello.c .
RUN gcc -O2 -Wall -Werror -o /hello hello.c

FROM ${BASE} AS packages
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-pip && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-compile --target=/opt/lib six && \\
    python3 -c 'import sys; sys.path.insert(0, \"/opt/lib\"); import six; assert six.PY3'

FROM ${BASE}
COPY --from=compiler /hello /usr/local/bin/hello
COPY --from=packages /opt/lib /opt/lib
USER www-data
CMD [\"/usr/local/bin/hello\", \"/opt/lib/six.py\"]
";

pub(crate) const HELLO: &str = r#"#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    char line[512];
    FILE *f = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (!f) { perror("open"); return 1; }
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "__author__", 10)) { printf("found %s", line); return 0; }
    return 2;
}
"#;

/// The mirrors of this machine's apt, if it is of our release; else Debian's own.
fn mirrors() -> Vec<String> {
    let mut found: Vec<String> = sources()
        .iter()
        .flat_map(|file| {
            std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .collect();
    found.dedup();
    if found.is_empty() {
        found.push("http://deb.debian.org/debian".to_owned());
    }
    found
}

/// Files that list package sources, if they are for the release we make a base of.
fn sources() -> Vec<PathBuf> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.contains(&format!("VERSION_CODENAME={RELEASE}")) {
        return Vec::new();
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files
        .extend(std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    files.retain(|file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let known = file.extension().is_some_and(|e| e == "list" || e == "sources");
        known && text.contains(RELEASE)
    });
    files
}

pub(crate) fn mirrors_answer() -> bool {
    let mirror = &mirrors()[0];
    let url = format!("{}/dists/{RELEASE}/InRelease", mirror.trim_end_matches('/'));
    let asked = Command::new("curl").args(["-fsSL", "--max-time", "20", "-o", "/dev/null", &url]).output();
    match asked {
        Ok(out) if out.status.success() => true,
        Ok(out) => {
            let why = String::from_utf8_lossy(&out.stderr).into_owned();
            loudly(&format!("NOT RUN: the package mirror of this machine does not answer: {}", why.trim()));
            false
        }
        Err(error) => {
            loudly(&format!("NOT RUN: curl cannot be started: {error}"));
            false
        }
    }
}

/// The debootstrapped root, made once a machine (`tests/oracle.sh` uses the same directory); `None` if it cannot be made.
pub(crate) fn debian_root() -> Option<PathBuf> {
    let root = cache().join("debian");
    let possible = root.is_dir() || mirrors_answer() && installed("debootstrap");
    possible.then(|| {
        debian_tar();
        root
    })
}

/// Where bases are kept.
pub(crate) fn cache() -> PathBuf {
    let own = || {
        let below = environment("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(environment("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
        below.unwrap_or_else(home).join("rbuild-tests")
    };
    environment("RBUILD_TEST_BASES").map_or_else(own, PathBuf::from)
}

/// That root as a tar.
pub(crate) fn debian_tar() -> PathBuf {
    let cache = cache();
    std::fs::create_dir_all(&cache).expect("cache directory");
    let lock = std::fs::File::create(cache.join("lock")).expect("lock");
    lock.lock().expect("lock");
    let root = cache.join("debian");
    if !root.is_dir() {
        let new = cache.join("debian.new");
        let _ = std::fs::remove_dir_all(&new);
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", RELEASE]).arg(&new).arg(&mirrors()[0]);
        succeed(&mut debootstrap);
        succeed(Command::new("sh").arg("-c").arg(format!("rm -f {}/var/cache/apt/archives/*.deb", new.display())));
        std::fs::rename(&new, &root).expect("rename");
    }
    let tar = cache.join("debian.tar");
    if !tar.exists() {
        let new = cache.join("debian.tar.new");
        succeed(
            Command::new("tar").args(["--numeric-owner", "--sort=name", "-C"]).arg(&root).arg("-cf").arg(&new).arg("."),
        );
        std::fs::rename(&new, &tar).expect("rename");
    }
    tar
}

/// The machine's configuration of apt and pip as a directory that is laid over the base.
pub(crate) fn machine(rig: &Rig) -> String {
    let dir = rig.path("machine");
    let copy = |from: &Path, to: &str| {
        let to = dir.join(to);
        std::fs::create_dir_all(to.parent().expect("has one")).expect("mkdir");
        std::fs::copy(from, to).expect("copy");
    };
    let name = |path: &Path| path.file_name().expect("has one").to_string_lossy().into_owned();
    let listed = sources();
    if !listed.is_empty() {
        // What debootstrap wrote must not come on top.
        std::fs::create_dir_all(dir.join("etc/apt")).expect("mkdir");
        std::fs::write(dir.join("etc/apt/sources.list"), "").expect("write");
    }
    for file in listed {
        let below = if file.parent().is_some_and(|p| p.ends_with("sources.list.d")) { "sources.list.d/" } else { "" };
        copy(&file, &format!("etc/apt/{below}{}", name(&file)));
    }
    for entry in std::fs::read_dir("/etc/apt/apt.conf.d").into_iter().flatten().flatten() {
        if std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("Acquire")) {
            copy(&entry.path(), &format!("etc/apt/apt.conf.d/{}", name(&entry.path())));
        }
    }
    for folder in ["/etc/apt/auth.conf.d", "/etc/apt/keyrings", "/usr/share/keyrings"] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            copy(&entry.path(), &format!("{}/{}", &folder[1..], name(&entry.path())));
        }
    }
    let mut pip = String::from("[global]\nbreak-system-packages = true\nroot-user-action = ignore\n");
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if certificates.exists() {
        copy(certificates, "etc/ssl/certificates-of-the-machine.crt");
        pip += "cert = /etc/ssl/certificates-of-the-machine.crt\n";
    }
    let settings = Command::new("python3").args(["-m", "pip", "config", "list"]).output();
    let settings = settings.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    for (key, value) in settings.lines().filter_map(|line| line.split_once('=')) {
        let key = key.rsplit('.').next().unwrap_or_default();
        if ["index-url", "extra-index-url", "proxy", "trusted-host"].contains(&key) {
            pip += &format!("{key} = {}\n", value.trim_matches('\''));
        }
    }
    std::fs::write(dir.join("etc/pip.conf"), pip).expect("write");
    dir.display().to_string()
}

/// The proxies of this machine, as `docker build` has those of its own configuration.
pub(crate) fn proxies() -> Vec<String> {
    ["http_proxy", "https_proxy", "no_proxy"]
        .iter()
        .filter_map(|name| Some(format!("--build-arg={name}={}", environment(name)?)))
        .collect()
}

/// A package whose scripts make a group and give a file to it, as a user with subordinate ids and as one without.
#[test]
fn net_openssh_client_installs_rootless() {
    for who in [Who::Multi, Who::Single] {
        if !can_run(who) || !mirrors_answer() || !installed("debootstrap") {
            continue;
        }
        let rig = Rig::empty(who);
        let file = std::fs::File::open(debian_tar()).expect("tar");
        let out =
            crate::rig::finish(crate::rig::start(rig.command(&["import", "-", "debian:12"]).stdin(file)), &["import"]);
        assert!(out.status.success(), "{}", out.stderr);
        let machine = format!("machine={}", machine(&rig));
        let context = rig.dockerfile(
            "FROM debian:12\nCOPY --from=machine / /\n\
             RUN apt-get update && apt-get install -y --no-install-recommends openssh-client\n\
             RUN ssh -V 2>&1 && stat -c 'agent %a %G' /usr/bin/ssh-agent && dpkg --audit && echo all is well\n",
        );
        let proxies = proxies();
        let mut args = vec!["--build-context", &machine];
        args.extend(proxies.iter().map(String::as_str));
        args.push(&context);
        let log = rig.build(&args);
        for part in [" OpenSSH_", " agent 2755 ", " all is well"] {
            // With one id the group is only played, and a file that is not given to it keeps the bit.
            assert!(log.contains(part) || (who == Who::Single && part == " agent 2755 "), "{who:?} {part}:\n{log}");
        }
        traces::none(&rig);
    }
}

fn net_three_stages_from_mirrors(who: Who) {
    if !mirrors_answer() || !installed("debootstrap") {
        return;
    }
    let Some(server) = Server::start() else { return };
    let rig = Rig::empty(who);
    let file = std::fs::File::open(debian_tar()).expect("tar");
    let import = crate::rig::start(rig.command(&["import", "-", "debian:12"]).stdin(file));
    let out = crate::rig::finish(import, &["import"]);
    assert!(out.status.success(), "{}", out.stderr);

    let base = server.name("debian:12-here");
    let machine = format!("machine={}", machine(&rig));
    let plain = rig.context("plain", &[("Dockerfile", "FROM debian:12\nCOPY --from=machine / /\n")]);
    rig.build(&["-t", &base, "--push", "--build-context", &machine, &plain]);
    rig.ok(&["rmi", &base, "debian:12"]);
    rig.ok(&["prune", "--all", "--force"]);

    let app = server.name("team/hello:1");
    let context = rig.context("app", &[("Dockerfile", DOCKERFILE), ("hello.c", HELLO)]);
    let base_arg = format!("BASE={base}");
    let mut args = vec!["-t", &app, "--push", "--build-arg", &base_arg];
    let proxies = proxies();
    args.extend(proxies.iter().map(String::as_str));
    args.push(&context);
    rig.build(&args);
    let want = "found __author__ = \"Benjamin Peterson <benjamin@python.org>\"\n";
    assert_eq!(rig.ok(&["run", "--rm", &app]).stdout, want);

    let again = rig.build(&args);
    assert!(!again.lines().any(|line| line.contains(" DONE") && line.contains("RUN")), "{again}");
    assert_eq!(again.matches(" CACHED").count(), 8, "every step is taken from the cache:\n{again}");

    if installed("skopeo") {
        let copy = pull_with_skopeo(&app, &rig.path("copy"));
        assert_eq!(copy.config["config"]["User"], "www-data");
        assert_eq!(copy.files["/usr/local/bin/hello"].mode & 0o7777, 0o755);
        let below = pull_with_skopeo(&base, &rig.path("copy-base"));
        let layers = |image: &crate::image::Image| image.manifest["layers"].as_array().cloned().unwrap_or_default();
        assert!(layers(&copy).starts_with(&layers(&below)), "the base's layers lead, unchanged");
        let setuid = &copy.files["/usr/bin/passwd"];
        assert_eq!((setuid.mode & 0o7777, setuid.uid), (0o4755, 0), "what debootstrap made is still as it was");
        assert_eq!(copy.files["/etc/shadow"].gid, 42, "owners survive, as an ordinary user too");
        if who == Who::Root && installed("umoci") && installed("crun") {
            assert_eq!(start_by_crun(&rig, &format!("{}:copy", rig.arg("copy"))), want);
        }
    }
    traces::none(&rig);
}
