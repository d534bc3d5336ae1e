//! Other people's engines: podman and dockerd pull, load and run what rbuild made; skopeo and buildah push what it builds upon.
//!
//! Each engine lives below the temporary place of its test, and is gone with it: storage, sockets, processes, mounts, cgroups.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::as_root_and_rootless;
use crate::image::Image;
use crate::outputs::without_second_cgroups;
use crate::registry::Server;
use crate::rig::{Rig, Who, busybox_tar, can_run, finish, installed, start, succeed};
use crate::sharing::wait_until;
use crate::traces;

as_root_and_rootless! {
    an_index_of_buildah_is_a_base
    an_image_of_buildah_is_a_base
}

/// An image with a layer that hides something, and a config that matters when it is run.
const APP: &str = "FROM busybox\nENV GREETING=hello\nWORKDIR /srv\nRUN echo one >a && echo two >b && chown 33:33 a\n\
    RUN rm b && ln -s a c\nUSER www-data\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"echo $GREETING $(cat c) $(id -u) $(ls)\"]\n";

/// What it says.
const SAID: &str = "hello one 33 a c\n";

/// podman with a storage of its own, so that nothing of the machine's is touched.
pub(crate) struct Podman {
    root: String,
    run: String,
    tmp: String,
}

impl Podman {
    pub(crate) fn new(rig: &Rig) -> Self {
        Self { root: rig.arg("podman-root"), run: rig.arg("podman-run"), tmp: rig.arg("podman-tmp") }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = without_second_cgroups("podman");
        command.args(["--root", &self.root, "--runroot", &self.run, "--tmpdir", &self.tmp, "--storage-driver=vfs"]);
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=none"]).args(args);
        command
    }

    pub(crate) fn call(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args))
    }

    pub(crate) fn run(&self, image: &str) -> String {
        self.call(&[
            "run",
            "--rm",
            "--network=none",
            "--cgroups=disabled",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--pull=never",
            image,
        ])
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["system", "reset", "--force"]).output();
    }
}

/// A Docker engine below a rig.
///
/// It is the first process of a pid namespace, so that nothing it starts outlives it, and has mounts, `/run` and `/etc` to
/// itself: whatever it writes there is gone as well.
struct Dockerd<'a> {
    rig: &'a Rig,
    child: Child,
}

impl<'a> Dockerd<'a> {
    fn start(rig: &'a Rig) -> Self {
        let script = "set -e; mount -t tmpfs tmpfs /run; mkdir /run/upper /run/work\n\
            mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc\nexec dockerd \"$@\"";
        let log = std::fs::File::create(rig.path("dockerd.log")).expect("log");
        std::fs::write(rig.path("daemon.json"), "{}").expect("write");
        let mut command = rig.other("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "dockerd"]);
        for (option, path) in
            [("config-file", "daemon.json"), ("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")]
        {
            command.arg(format!("--{option}={}", rig.arg(path)));
        }
        command.arg(format!("--host={}", Self::address(rig))).arg(format!("--cgroup-parent=/{}", rig.token()));
        command.args(["--storage-driver=vfs", "--bridge=none", "--userland-proxy=false"]);
        command.args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]);
        // On a busy machine containerd leaves a trace of its threads there.
        std::fs::create_dir_all(rig.path("docker-tmp")).expect("mkdir");
        command.env("TMPDIR", rig.path("docker-tmp"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        let mut engine = Self { rig, child: command.spawn().expect("unshare") };
        wait_until("dockerd answers", || {
            let ended = engine.child.try_wait().expect("wait");
            assert!(ended.is_none(), "{}", std::fs::read_to_string(rig.path("dockerd.log")).unwrap_or_default());
            engine.command(&["version"]).output().expect("docker").status.success()
        });
        engine
    }

    fn address(rig: &Rig) -> String {
        format!("unix://{}", rig.arg("docker.sock"))
    }

    /// Docker's own client, with this engine.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.rig.other("docker");
        command.env("HOME", self.rig.path("tmp")).env_remove("DOCKER_CONTEXT").env_remove("DOCKER_CONFIG");
        command.arg(format!("--host={}", Self::address(self.rig))).args(args);
        command
    }

    fn call(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args))
    }

    fn run(&self, image: &str) -> String {
        self.call(&["run", "--rm", "--network=none", image])
    }

    /// Builds with `--load`; the log.
    #[track_caller]
    fn load(&self, args: &[&str]) -> String {
        let args = [&["build", "--progress=plain", "--load"], args].concat();
        let mut command = self.rig.command(&args);
        let out = finish(start(command.env("DOCKER_HOST", Self::address(self.rig))), &args);
        assert!(out.status.success(), "{args:?}: {}", out.stderr);
        out.stderr
    }

    /// ID and uncompressed layers of an image.
    fn image(&self, name: &str) -> (String, Vec<Value>) {
        let text = self.call(&["image", "inspect", name]);
        let all: Value = serde_json::from_str(&text).expect("JSON");
        let layers = all[0]["RootFS"]["Layers"].as_array().expect("layers").clone();
        (all[0]["Id"].as_str().expect("ID").to_owned(), layers)
    }

    /// Ends it; nothing of it may be left: no process, no mount, no cgroup.
    fn stop(self) {
        let rig = self.rig;
        drop(self);
        let left = cgroups(&rig.token());
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Dockerd<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The kernel still takes down what is in its pid namespace.
        if !std::thread::panicking() {
            traces::none_running(self.rig);
        }
        for dir in cgroups(&self.rig.token()) {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Cgroups of this name just below a root.
fn cgroups(name: &str) -> Vec<std::path::PathBuf> {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain([root.to_owned()]).map(|dir| dir.join(name)).filter(|dir| dir.is_dir()).collect()
}

/// Whether tests with dockerd can run: it wants root.
fn dockerd_can_run() -> bool {
    can_run(Who::Root) && ["dockerd", "docker", "runc"].iter().all(|program| installed(program))
}

/// Pushes [`APP`]; the ID it has in every engine, which is the digest of its config.
fn push_app(rig: &Rig, name: &str) -> String {
    let (metadata, context) = (rig.arg("metadata.json"), rig.dockerfile(APP));
    rig.build(&["-t", name, "--push", "--metadata-file", &metadata, &context]);
    let metadata: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("metadata")).expect("JSON");
    metadata["containerimage.config.digest"].as_str().expect("config digest").to_owned()
}

#[test]
fn podman_pulls_and_runs_what_was_pushed() {
    if !(can_run(Who::Root) && installed("podman")) {
        return;
    }
    let Some(server) = Server::start() else { return };
    let rig = Rig::new(Who::Root);
    let name = server.name("team/app:1");
    let id = push_app(&rig, &name);
    let podman = Podman::new(&rig);
    let pulled = podman.call(&["pull", "-q", "--tls-verify=false", &name]);
    assert_eq!(format!("sha256:{}", pulled.trim()), id);
    assert_eq!(podman.run(&name), SAID);
    drop(podman);
    traces::none(&rig);
}

#[test]
fn dockerd_pulls_and_runs_what_was_pushed() {
    if !dockerd_can_run() {
        return;
    }
    let Some(server) = Server::start() else { return };
    let rig = Rig::new(Who::Root);
    let name = server.name("team/app:1");
    let id = push_app(&rig, &name);
    let plain = server.name("team/app:uncompressed");
    let output =
        format!("type=registry,name={plain},compression=uncompressed,force-compression=true,oci-mediatypes=false");
    rig.build(&["-o", &output, &rig.arg("context")]);
    let engine = Dockerd::start(&rig);
    for name in [&name, &plain] {
        engine.call(&["pull", "-q", name]);
        assert_eq!(engine.image(name).0, id);
        assert_eq!(engine.run(name), SAID);
        engine.call(&["rmi", name]);
    }
    engine.stop();
    traces::none(&rig);
}

#[test]
fn dockerd_is_loaded_with_an_image_it_lacks_or_has_in_part() {
    if !dockerd_can_run() {
        return;
    }
    let rig = Rig::new(Who::Root);
    let engine = Dockerd::start(&rig);
    let context = rig.dockerfile(APP);
    // Nothing of it is there.
    let names = ["-t", "app:1", "-t", "example.org/team/app:one"];
    let all = sent(&engine.load(&[&names[..], &["--iidfile", &rig.arg("id"), &context]].concat()));
    assert!(all > 900_000, "busybox is about a megabyte: {all}");
    assert_eq!(engine.run("app:1"), SAID);
    let (id, below) = engine.image("app:1");
    assert_eq!(engine.image("example.org/team/app:one").0, id);
    assert_eq!(std::fs::read_to_string(rig.path("id")).expect("iidfile"), id);

    // All of it: only the name is new.
    assert!(!engine.load(&["-t", "app:again", &context]).contains("sending tarball"));
    assert_eq!(engine.image("app:again"), (id.clone(), below.clone()));

    // Its lower layers: they stay the same ones, and are not sent.
    let more = rig.context("more", &[("Dockerfile", &APP.replace("USER", "RUN echo three >a && echo four >d\nUSER"))]);
    let rest = sent(&engine.load(&["-t", "app:2", &more]));
    assert!((1..50_000).contains(&rest), "two small files and the image's description: {rest}");
    let (other, above) = engine.image("app:2");
    assert_ne!(other, id);
    assert_eq!(above[..below.len()], below);
    assert_eq!(above.len(), below.len() + 1);
    assert_eq!(engine.run("app:2"), "hello three 33 a c d\n");
    assert_eq!(engine.run("app:again"), SAID, "what was there stays as it was");

    // An engine that was emptied is given everything again.
    engine.call(&["rmi", "-f", &id, &other]);
    assert!(sent(&engine.load(&["-t", "app:2", &more])) > 900_000);
    assert_eq!(engine.run("app:2"), "hello three 33 a c d\n");
    engine.stop();
    traces::none(&rig);
}

/// Bytes that the log says were sent.
fn sent(log: &str) -> u64 {
    let line = log.lines().rev().find_map(|line| line.split_once("sending tarball ")).expect("something was sent").1;
    let (number, rest) = line.split_at(line.find(|c: char| c.is_ascii_alphabetic()).expect("a unit"));
    let unit = match rest.split(' ').next() {
        Some("B") => 1.0,
        Some("kB") => 1e3,
        Some("MB") => 1e6,
        other => panic!("{other:?} in {line}"),
    };
    (number.parse::<f64>().expect("a number") * unit) as u64
}

#[test]
fn a_base_that_dockerd_has_is_not_fetched_to_load_what_stands_on_it() {
    if !dockerd_can_run() {
        return;
    }
    let Some(server) = Server::start() else { return };
    let author = Rig::new(Who::Root);
    let base = server.name("team/base:1");
    for packing in ["gzip", "zstd"] {
        let rig = Rig::empty(Who::Root);
        let output = format!("type=registry,name={base},compression={packing},force-compression=true");
        author.build(&["-o", &output, &author.dockerfile(&format!("FROM busybox\nENV PACKING={packing}\n"))]);
        let engine = Dockerd::start(&rig);
        let known = packing == "gzip";
        if known {
            engine.call(&["pull", "-q", &base]);
        }
        let before = server.requests("GET /v2/team/base/blobs/");
        let context = rig.dockerfile(&format!("FROM {base}\nENV A=b\nCMD echo $A $PACKING\n"));
        let log = engine.load(&["--pull", "-t", "app", &context]);
        assert_eq!(engine.run("app"), format!("b {packing}\n"));
        let fetched = server.requests("GET /v2/team/base/blobs/") - before;
        let expected = if known { 1 } else { 2 };
        assert_eq!((fetched, sent(&log) < 50_000), (expected, known), "the config, and perhaps the layer: {log}");
        engine.stop();
        traces::none(&rig);
    }
}

/// podman takes archives as Docker does, over a socket of its own; but whole ones only.
#[test]
fn podman_is_loaded_as_an_engine() {
    if !(can_run(Who::Root) && installed("podman")) {
        return;
    }
    let rig = Rig::new(Who::Root);
    let podman = Podman::new(&rig);
    let socket = format!("unix://{}", rig.arg("podman.sock"));
    let mut service = podman.command(&["system", "service", "--time=0", &socket]).spawn().expect("podman");
    wait_until("podman listens", || rig.path("podman.sock").exists());
    let load = |name: &str, context: &str| {
        let args = ["build", "--progress=plain", "--load", "-t", name, context];
        let out = finish(start(rig.command(&args).env("DOCKER_HOST", &socket)), &args);
        assert!(out.status.success(), "{}", out.stderr);
    };
    load("docker.io/team/app:1", &rig.dockerfile(APP));
    let more = rig.context("more", &[("Dockerfile", &APP.replace("USER", "RUN echo three >a && echo four >d\nUSER"))]);
    load("docker.io/team/app:2", &more);
    service.kill().expect("kill");
    service.wait().expect("wait");
    assert_eq!(podman.run("docker.io/team/app:1"), SAID);
    assert_eq!(podman.run("docker.io/team/app:2"), "hello three 33 a c d\n");
    drop(podman);
    traces::none(&rig);
}

/// buildah with a storage of its own below a rig, as whoever runs the tests.
struct Buildah<'a>(&'a Rig);

impl Buildah<'_> {
    fn call(&self, args: &[&str]) -> String {
        let mut command = Command::new("buildah");
        command.args(["--root", &self.0.arg("buildah-root"), "--runroot", &self.0.arg("buildah-run")]);
        succeed(command.args(["--storage-driver=vfs"]).args(args).env("TMPDIR", self.0.path("tmp")))
    }

    /// An image of the busybox tar and a file that names the architecture; committed in a form, with a name.
    fn commit(&self, arch: &str, form: &str, name: &str) {
        let container = self.call(&["from", &format!("--arch={arch}"), "scratch"]);
        let container = container.trim();
        let file = self.0.path(arch);
        std::fs::write(&file, format!("{arch}\n")).expect("write");
        self.call(&["add", container, &busybox_tar().display().to_string(), "/"]);
        self.call(&["copy", "--chown=33:33", container, &file.display().to_string(), "/arch"]);
        self.call(&["config", "--env=MADE=buildah", "--workingdir=/w", &format!("--arch={arch}"), container]);
        self.call(&["commit", "-q", &format!("--format={form}"), "--rm", container, name]);
    }
}

/// buildah as root, whoever builds upon the result.
fn buildah_can_run() -> bool {
    can_run(Who::Root) && ["buildah", "skopeo"].iter().all(|program| installed(program))
}

fn an_image_of_buildah_is_a_base(who: Who) {
    if !buildah_can_run() {
        return;
    }
    let Some(server) = Server::start() else { return };
    let (author, rig) = (Rig::empty(Who::Root), Rig::empty(who));
    let buildah = Buildah(&author);
    for form in ["oci", "docker"] {
        let (name, copy) = (server.name(&format!("{form}:1")), server.name(&format!("copy/{form}:1")));
        buildah.commit("amd64", form, &format!("made-{form}"));
        buildah.call(&["push", "-q", "--tls-verify=false", &format!("made-{form}"), &format!("docker://{name}")]);
        copy_with_skopeo(&[], &name, &copy);
        for base in [name, copy] {
            let text = format!("FROM {base}\nRUN echo $MADE $PWD $(cat /arch) $(stat -c %u /arch) >/said\n");
            let out = rig.arg("out.tar");
            rig.build(&["--platform=linux/amd64", "-o", &format!("type=oci,dest={out}"), &rig.dockerfile(&text)]);
            let image = Image::read(out.as_ref());
            assert_eq!(image.files["/said"].content, b"buildah /w amd64 33\n", "{base}");
        }
    }
    traces::none(&rig);
}

fn an_index_of_buildah_is_a_base(who: Who) {
    if !buildah_can_run() {
        return;
    }
    let Some(server) = Server::start() else { return };
    let (author, rig) = (Rig::empty(Who::Root), Rig::empty(who));
    let (buildah, name, copy) = (Buildah(&author), server.name("index:1"), server.name("copy/index:1"));
    buildah.call(&["manifest", "create", "index"]);
    for (arch, form) in [("arm64", "docker"), ("amd64", "oci")] {
        buildah.commit(arch, form, arch);
        buildah.call(&["manifest", "add", "index", &format!("containers-storage:localhost/{arch}")]);
    }
    buildah.call(&["manifest", "push", "-q", "--all", "--tls-verify=false", "index", &format!("docker://{name}")]);
    copy_with_skopeo(&["--all"], &name, &copy);
    for base in [name, copy] {
        let out = rig.arg("out.tar");
        let text = format!(
            "FROM {base} AS base\nFROM scratch\nCOPY --from=base /arch /from\nFROM base\nCOPY --from=1 /from /\n"
        );
        let context = rig.dockerfile(&text);
        for arch in ["amd64", "arm64"] {
            let platform = format!("--platform=linux/{arch}");
            rig.build(&[&platform, "-o", &format!("type=oci,dest={out}"), &context]);
            let image = Image::read(out.as_ref());
            assert_eq!(image.config["architecture"], arch, "{base}");
            for file in ["/arch", "/from"] {
                assert_eq!(String::from_utf8_lossy(&image.files[file].content), format!("{arch}\n"), "{base}: {file}");
            }
            assert_eq!(image.config["config"]["Env"][0], "MADE=buildah");
        }
        let log = rig.fails(&["build", "--platform=linux/s390x", &context]);
        assert!(log.contains("no match for platform in manifest"), "{log}");
    }
    traces::none(&rig);
}

fn copy_with_skopeo(options: &[&str], from: &str, to: &str) {
    let mut command = Command::new("skopeo");
    command.args(["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]).args(options);
    succeed(command.arg(format!("docker://{from}")).arg(format!("docker://{to}")));
}
