//! Against Debian's `docker-registry` on loopback: pull, push, `--pull`, and what others read back from there.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::as_root_and_rootless;
use crate::image::Image;
use crate::outputs::start_by_crun;
use crate::rig::{Rig, Who, installed, succeed};
use crate::sharing::wait_until;
use crate::traces;

as_root_and_rootless! {
    there_and_back
    pull_asks_again
    pushing_again_sends_nothing
    a_registry_that_is_not_there
    no_more_is_asked_for_than_needed
}

/// Who may use a registry, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    /// User `alice`, password `secret`.
    Password,
    /// https only, as `localhost` and `reg.test`, with a certificate of the authority in `ca.pem`.
    Tls,
    /// The same, for those who have a certificate of that authority: `client.cert` and `client.key`.
    Certificate,
}

impl Access {
    /// Further text for the section `http`, and further sections.
    fn config(self, dir: &Path) -> (String, String) {
        let path = |name: &str| dir.join(name).display().to_string();
        match self {
            Self::Open => (String::new(), String::new()),
            Self::Password => {
                // bcrypt of "secret"
                let hash = "alice:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
                std::fs::write(path("htpasswd"), hash).expect("write");
                (String::new(), format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path("htpasswd")))
            }
            Self::Tls | Self::Certificate => {
                let openssl = |args: &str| {
                    succeed(Command::new("openssl").args(args.split(' ')).current_dir(dir));
                };
                let names = "subjectAltName=DNS:localhost,DNS:reg.test,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
                std::fs::write(path("names"), names).expect("write");
                let new = "req -newkey rsa:2048 -nodes";
                openssl(&format!("{new} -x509 -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem"));
                let sign = |name: &str, key: &str, cert: &str| {
                    openssl(&format!("{new} -subj /CN={name} -keyout {key} -out csr.pem"));
                    openssl(&format!(
                        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {cert}"
                    ));
                };
                sign("localhost", "key.pem", "cert.pem");
                let mut tls = format!("certificate: {}, key: {}", path("cert.pem"), path("key.pem"));
                if self == Self::Certificate {
                    sign("somebody", "client.key", "client.cert");
                    tls += &format!(", clientcas: [{}]", path("ca.pem"));
                }
                (format!(", tls: {{{tls}}}"), String::new())
            }
        }
    }
}

/// A registry of its own on a free port.
pub(crate) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    pub address: String,
}

impl Server {
    /// Starts one; `None`, loudly, if the program is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_as(Access::Open)
    }

    /// The same, not for everybody.
    pub(crate) fn start_as(access: Access) -> Option<Self> {
        if !installed("docker-registry") {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("rbuild-e2e-registry-").tempdir().expect("temp dir");
        // Another test may take the port between the look and the start; then there is a next one.
        for _ in 0..10 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
            let address = format!("127.0.0.1:{port}");
            let (http, auth) = access.config(dir.path());
            let config = format!(
                "version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: {address}{http}}}\n{auth}",
                dir.path().join("data").display()
            );
            std::fs::write(dir.path().join("config.yml"), config).expect("write");
            let log = std::fs::File::create(dir.path().join("log")).expect("log");
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(dir.path().join("config.yml"))
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("log"))
                .stderr(log)
                .spawn()
                .expect("docker-registry");
            for _ in 0..500 {
                if std::net::TcpStream::connect(&address).is_ok() && child.try_wait().expect("wait").is_none() {
                    // Certificates are for names.
                    let address = match access {
                        Access::Tls | Access::Certificate => format!("localhost:{port}"),
                        Access::Open | Access::Password => address,
                    };
                    return Some(Self { child, dir, address });
                }
                if child.try_wait().expect("wait").is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry did not start");
    }

    /// A name on this registry.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// A file of its directory, e.g. `ca.pem`, copied to where everybody may read it.
    pub(crate) fn file(&self, name: &str, to: &Path) {
        std::fs::copy(self.dir.path().join(name), to).expect("copy");
    }

    /// How many requests with this in their log line there have been.
    pub(crate) fn requests(&self, what: &str) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("HTTP/1.1\"") && line.contains(what)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The digest of what a registry has under a name, computed here.
fn digest_of(name: &str) -> String {
    let raw = succeed(
        Command::new("skopeo").args(["inspect", "--tls-verify=false", "--raw"]).arg(format!("docker://{name}")),
    );
    crate::image::digest(raw.as_bytes())
}

/// Copies an image out of a registry with skopeo, which may give it another manifest on the way.
pub(crate) fn pull_with_skopeo(name: &str, to: &Path) -> Image {
    succeed(
        Command::new("skopeo")
            .args(["copy", "-q", "--src-tls-verify=false"])
            .arg(format!("docker://{name}"))
            .arg(format!("oci:{}:copy", to.display())),
    );
    Image::read(to)
}

/// The same, for other tests.
pub(crate) fn publish(rig: &Rig, name: &str) {
    publish_base(rig, name);
}

/// Puts `busybox` of a rig into the registry under `name` and removes it from the store.
fn publish_base(rig: &Rig, name: &str) {
    rig.ok(&["tag", "busybox:latest", name]);
    rig.ok(&["push", name]);
    rig.ok(&["rmi", name, "busybox:latest"]);
    rig.ok(&["prune", "--all", "--force"]);
}

fn there_and_back(who: Who) {
    let Some(server) = Server::start() else { return };
    let rig = Rig::new(who);
    let (base, app) = (server.name("team/base:1"), server.name("team/app:1.0"));
    publish_base(&rig, &base);
    let context = rig.context(
        "context",
        &[
            ("Dockerfile", &format!("FROM {base}\nCOPY a /a\nRUN cat /a /a >/b\nLABEL x=y\nCMD [\"cat\", \"/b\"]\n")),
            ("a", "1\n"),
        ],
    );
    let metadata = rig.arg("metadata.json");
    rig.build(&["-t", &app, "--push", "--metadata-file", &metadata, &context]);
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&metadata).expect("metadata")).expect("JSON");
    if installed("skopeo") {
        let copy = pull_with_skopeo(&app, &rig.path("copy"));
        assert_eq!(metadata["containerimage.digest"], digest_of(&app).as_str());
        assert_eq!(copy.files["/b"].content, b"1\n1\n");
        assert_eq!(copy.config["config"]["Labels"]["x"], "y");
        let below = pull_with_skopeo(&base, &rig.path("copy-base"));
        let first = |image: &Image| image.manifest["layers"][0].clone();
        assert_eq!(first(&copy)["digest"], first(&below)["digest"], "the base's layer is handed on as it is");
        if who == Who::Root && installed("umoci") && installed("crun") {
            assert_eq!(start_by_crun(&rig, &format!("{}:copy", rig.arg("copy"))), "1\n1\n");
        }
    }
    let other = Rig::empty(who);
    other.ok(&["pull", &app]);
    assert_eq!(other.ok(&["run", "--rm", &app]).stdout, "1\n1\n");
    let ids = [&rig, &other].map(|r| r.ok(&["images", "-q", "--no-trunc"]).stdout);
    assert!(ids[0].contains(ids[1].trim()), "{ids:?}");
    let digest = metadata["containerimage.digest"].as_str().expect("digest");
    other.build(&[&other.dockerfile(&format!("FROM {}@{digest}\nRUN cat /b\n", server.name("team/app")))]);
    traces::none(&rig);
}

fn pull_asks_again(who: Who) {
    let Some(server) = Server::start() else { return };
    let (author, user) = (Rig::new(who), Rig::empty(who));
    let base = server.name("base:latest");
    let publish = |text: &str| {
        author.build(&[
            "-t",
            &base,
            "--push",
            &author.dockerfile(&format!("FROM busybox\nRUN echo {text} >/version\n")),
        ]);
    };
    publish("one");
    let context = user.dockerfile(&format!("FROM {base}\nCMD [\"cat\", \"/version\"]\n"));
    let version = |more: &[&str]| {
        let mut args = vec!["-t", "app:1", &context];
        args.extend(more);
        user.build(&args);
        user.ok(&["run", "--rm", "app:1"]).stdout
    };
    assert_eq!(version(&[]), "one\n");
    publish("two");
    let before = server.requests("");
    assert_eq!(version(&[]), "one\n", "the store has it");
    assert_eq!(server.requests(""), before, "nobody was asked");
    assert_eq!(version(&["--pull"]), "two\n");
    let before = server.requests("");
    assert_eq!(version(&["--pull"]), "two\n");
    assert!(server.requests("") <= before + 2, "one look at the name is all that is needed");
    assert_eq!(version(&["--pull=never"]), "two\n");
}

fn pushing_again_sends_nothing(who: Who) {
    let Some(server) = Server::start() else { return };
    let rig = Rig::new(who);
    let context = rig.dockerfile("FROM busybox\nRUN echo 1 >/one\n");
    let (one, two) = (server.name("team/app:1"), server.name("other/app:2"));
    rig.build(&["-t", &one, "--push", &context]);
    let sent = |server: &Server| server.requests("PATCH ") + server.requests("PUT /v2/team/app/blobs");
    let before = sent(&server);
    assert!(before > 0);
    rig.build(&["-t", &one, "--push", &context]);
    rig.ok(&["push", &one]);
    assert_eq!(sent(&server), before, "what is there is not sent again");
    rig.ok(&["tag", &one, &two]);
    rig.ok(&["push", &two]);
    wait_until("the registry has it", || server.requests("PUT /v2/other/app/manifests/2") > 0);
}

fn a_registry_that_is_not_there(who: Who) {
    let rig = Rig::new(who);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = nobody.local_addr().expect("address").to_string();
    drop(nobody);
    let log = rig.fails(&["--progress=plain", &rig.dockerfile(&format!("FROM {address}/app:1\nRUN true\n"))]);
    let last = log.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("ERROR: failed to build: failed to solve: ") && last.contains(&address), "{log}");
    let name = format!("{address}/app:2");
    rig.ok(&["tag", "busybox", &name]);
    let out = rig.rbuild(&["push", &name]);
    assert!(!out.status.success() && out.stderr.contains(&address), "{}", out.stderr);
    traces::none(&rig);
}

fn no_more_is_asked_for_than_needed(who: Who) {
    let Some(server) = Server::start() else { return };
    let (author, rig) = (Rig::new(who), Rig::empty(who));
    let base = server.name("team/base:1");
    author.build(&["-t", &base, "--push", &author.dockerfile("FROM busybox\nRUN echo 1 >/one\nRUN echo 2 >/two\n")]);
    // Documents asked for, looked at, and blobs fetched since the last time.
    let seen = std::cell::Cell::new([0; 3]);
    let asked = || {
        let now = ["\"GET /v2/team/base/manifests/", "\"HEAD /v2/team/base/manifests/", "\"GET /v2/team/base/blobs/"];
        let now = now.map(|what| server.requests(what));
        let before = seen.replace(now);
        [0, 1, 2].map(|i| now[i] - before[i])
    };
    asked();

    // Nothing but metadata is made: nothing but metadata is needed.
    rig.build(&["-t", "a", &rig.dockerfile(&format!("FROM {base}\nENV A=b\nCMD [\"true\"]\n"))]);
    assert_eq!(asked(), [1, 0, 1], "the manifest and the config");

    // Several stages on one base, at the same time: each layer once.
    let stages = format!(
        "FROM {base} AS x\nRUN echo x >/x\nFROM {base} AS y\nRUN echo y >/y\nFROM {base}\nCOPY --from=x /x /\n\
         COPY --from=y /y /\nRUN cat /one /two /x /y\n"
    );
    let context = rig.dockerfile(&stages);
    rig.build(&["-t", "b", &context]);
    assert_eq!(asked(), [0, 0, 3]);

    // All of it is cached: a look at the tag if that is wanted, and else nothing.
    rig.build(&["-t", "b", &context]);
    assert_eq!(asked(), [0, 0, 0]);
    rig.build(&["-t", "b", "--pull", &context]);
    assert_eq!(asked(), [0, 1, 0]);

    // Another machine, with the cache in the registry: the layers of the base are never needed, not even for the push.
    let (cache, app) = (server.name("team/cache:1"), server.name("team/app:1"));
    rig.build(&["--cache-to", &format!("type=registry,ref={cache}"), "-t", &app, "--push", &context]);
    asked();
    let other = Rig::empty(who);
    let context = other.dockerfile(&stages);
    let log = other.build(&["--cache-from", &cache, "-t", &app, "--push", &context]);
    assert!(!log.lines().any(|line| line.contains("RUN") && line.contains(" DONE")), "{log}");
    assert_eq!(asked(), [1, 0, 1]);
    assert_eq!(server.requests("\"GET /v2/team/app/blobs/"), 0);
    traces::none(&rig);
}
