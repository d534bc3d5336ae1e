//! Debian's `docker-registry` on loopback with its access log: what a build moved is counted where it arrived.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `docker-registry serve`, killed on drop.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    directory: tempfile::TempDir,
    read: u64,
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    /// Bytes of the answer.
    pub(crate) bytes: u64,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let port = TcpListener::bind("127.0.0.1:0").expect("free port").local_addr().expect("bound").port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            directory.path().join("data").display()
        );
        std::fs::write(directory.path().join("config.yml"), config).expect("written");
        let log = std::fs::File::create(directory.path().join("log")).expect("log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(directory.path().join("config.yml"))
            .stdout(log.try_clone().expect("shared"))
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { child, address, directory, read: 0 };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// A name in it.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The requests since the last call.
    pub(crate) fn requests(&mut self) -> Vec<Request> {
        let mut log = std::fs::File::open(self.directory.path().join("log")).expect("log");
        log.seek(SeekFrom::Start(self.read)).expect("seek");
        let mut text = String::new();
        log.read_to_string(&mut text).expect("text");
        self.read += text.len() as u64;
        let parse = |line: &str| -> Option<Request> {
            let mut quoted = line.split('"');
            let mut request = quoted.nth(1)?.split(' ');
            let mut answer = quoted.next()?.split_whitespace();
            Some(Request {
                method: request.next()?.to_owned(),
                path: request.next()?.to_owned(),
                status: answer.next()?.parse().ok()?,
                bytes: answer.next()?.parse().ok()?,
            })
        };
        text.lines().filter_map(parse).collect()
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// A manifest, read from its repository.
    pub(crate) fn manifest(&self, repository: &str, tag: &str) -> serde_json::Value {
        let repositories = self.directory.path().join("data/docker/registry/v2/repositories");
        let link = repositories.join(repository).join("_manifests/tags").join(tag).join("current/link");
        let digest = std::fs::read_to_string(link).expect("tagged");
        serde_json::from_slice(&std::fs::read(self.blob(&digest)).expect("there")).expect("json")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
