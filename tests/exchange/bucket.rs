//! An S3 server that checks signatures (`s3s-fs`, from crates.io) with a bucket `cache`, behind a proxy that counts.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The server, killed on drop; its proxy runs until the test ends.
pub(crate) struct Bucket {
    server: Child,
    directory: tempfile::TempDir,
    /// Of the proxy.
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Bucket {
    /// Starts both. Its key is `AK`, the secret `SK`.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(directory.path().join("cache")).expect("bucket");
        let free = TcpListener::bind("127.0.0.1:0").expect("free port").local_addr().expect("bound");
        let server = Command::new("s3s-fs")
            .args(["--host", "127.0.0.1", "--port", &free.port().to_string()])
            .args(["--access-key", "AK", "--secret-key", "SK"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("s3s-fs is installed: did tests/setup.sh run?");
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(free).is_err() {
            assert!(Instant::now() < deadline, "s3s-fs did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let proxy = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = proxy.local_addr().expect("bound").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for client in proxy.incoming().flatten() {
                let (seen, server) = (seen.clone(), TcpStream::connect(free).expect("server"));
                std::thread::spawn(move || pass_on(client, server, &seen));
            }
        });
        Self { server, directory, address, requests }
    }

    /// `METHOD path?operation` of the requests since the last call, without what signs them.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().expect("lock"))
    }

    /// The keys of all objects.
    pub(crate) fn objects(&self) -> BTreeSet<String> {
        fn walk(dir: &Path, prefix: &str, out: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(dir).expect("readable").flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if entry.file_type().expect("type").is_dir() {
                    walk(&entry.path(), &format!("{name}/"), out);
                } else {
                    out.insert(name);
                }
            }
        }
        let mut out = BTreeSet::new();
        walk(&self.directory.path().join("cache"), "", &mut out);
        out
    }

    /// The file of an object.
    pub(crate) fn object(&self, key: &str) -> std::path::PathBuf {
        self.directory.path().join("cache").join(key)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Passes the requests of one connection on and notes them; answers go back unseen.
fn pass_on(client: TcpStream, server: TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let (mut answers, mut back) = (server.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(std::net::Shutdown::Both);
    });
    let (mut reader, mut server) = (BufReader::new(client), server);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return server.shutdown(std::net::Shutdown::Write).ok();
            }
            head += &line;
            let line = line.trim_end().to_ascii_lowercase();
            length = line.strip_prefix("content-length: ").and_then(|n| n.parse().ok()).unwrap_or(length);
            if line.is_empty() {
                break;
            }
        }
        let mut words = head.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let operation = query.split('&').filter(|part| !part.starts_with("X-Amz-")).collect::<Vec<_>>().join("&");
        let shown =
            if operation.is_empty() { format!("{method} {path}") } else { format!("{method} {path}?{operation}") };
        seen.lock().expect("lock").push(shown);
        server.write_all(head.as_bytes()).ok()?;
        std::io::copy(&mut (&mut reader).take(length), &mut server).ok()?;
    }
}
