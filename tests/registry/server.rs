//! Real and wicked servers on loopback for the tests: Debian's `docker-registry`, and a scripted HTTP server.

use std::fmt::Write as _;
use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `docker-registry serve`, killed on drop.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) enum Access {
    Open,
    /// User `alice`, password `secret`.
    Password,
    /// Self-signed https.
    Tls,
}

impl Registry {
    pub(crate) fn start(access: &Access) -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let root = directory.path();
        let port = TcpListener::bind("127.0.0.1:0").expect("free port").local_addr().expect("bound").port();
        let address = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            root.join("data").display()
        );
        match access {
            Access::Open => {}
            Access::Password => {
                // bcrypt of "secret"
                let (path, hash) =
                    (root.join("htpasswd"), "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a");
                std::fs::write(&path, format!("alice:{hash}\n")).expect("written");
                let _ = write!(config, "auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display());
            }
            Access::Tls => {
                let (key, cert) = (root.join("key.pem"), root.join("cert.pem"));
                let made = Command::new("openssl")
                    .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
                    .args(["-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), cert.as_os_str()])
                    .stderr(Stdio::null())
                    .status()
                    .expect("openssl runs");
                assert!(made.success());
                let _ = write!(config, "  tls:\n    certificate: {}\n    key: {}\n", cert.display(), key.display());
            }
        }
        std::fs::write(root.join("config.yml"), config).expect("written");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { child, address, directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Copies with skopeo; arguments as for `skopeo copy`.
    pub(crate) fn skopeo(&self, arguments: &[&str]) -> String {
        let output = Command::new("skopeo")
            .args(["--insecure-policy", arguments[0]])
            .args(if arguments[0] == "copy" {
                &["--src-tls-verify=false", "--dest-tls-verify=false"][..]
            } else {
                &["--tls-verify=false"][..]
            })
            .args(&arguments[1..])
            .env("HOME", self.directory.path())
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Whether the registry's storage holds this file below its root.
    pub(crate) fn stored(&self, path: &str) -> bool {
        self.directory.path().join("data/docker/registry/v2").join(path).exists()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request as the scripted server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// How long its body is to be.
    pub(crate) fn length(&self) -> usize {
        self.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What the script answers.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Hang up after so many bytes of the body.
    cut: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A server whose answers are a function of the request and of how often such a request came before.
pub(crate) struct Scripted {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// `script` gets the request and the number of earlier requests with the same method and path.
    pub(crate) fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("bound").to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, script) = (seen.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, script) = (log.clone(), script.clone());
                std::thread::spawn(move || serve(stream, &log, &*script));
            }
        });
        Self { address, seen }
    }

    /// `METHOD path` of all requests so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Seen>>, script: &dyn Fn(&Seen, usize) -> Reply) {
    let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
    let mut stream = stream;
    while let Some(seen) = read_request(&mut reader) {
        let before = {
            let mut log = log.lock().expect("no panic");
            let same = |old: &&Seen| old.method == seen.method && old.path == seen.path;
            let before = log.iter().filter(same).count();
            log.push(seen.clone());
            before
        };
        let reply = script(&seen, before);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        if reply.status != 204 && !reply.headers.iter().any(|(name, _)| name == "content-length") {
            let _ = write!(head, "content-length: {}\r\n", reply.body.len());
        }
        for (name, value) in &reply.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head += "\r\n";
        let body = if seen.method == "HEAD" { &[][..] } else { &reply.body };
        let body = &body[..reply.cut.unwrap_or(body.len()).min(body.len())];
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() || reply.cut.is_some() {
            return;
        }
    }
}

fn read_request(reader: &mut impl std::io::BufRead) -> Option<Seen> {
    let mut seen = read_head(reader)?;
    seen.body.resize(seen.length(), 0);
    reader.read_exact(&mut seen.body).ok()?;
    Some(seen)
}

/// A request without its body, which is still to be read.
pub(crate) fn read_head(reader: &mut impl std::io::BufRead) -> Option<Seen> {
    // A TLS hello: this is a plain server, hang up as one would.
    if reader.fill_buf().ok()?.first() == Some(&0x16) {
        return None;
    }
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Seen { method, path, headers, body: Vec::new() })
}

/// The files below a directory, for looking into layouts.
pub(crate) fn file_count(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}
