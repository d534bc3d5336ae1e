//! A web server on loopback: files with what they answer, repositories through git's own CGI, and a log of what was asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// A file as it is served.
#[derive(Clone, Default)]
pub(crate) struct Served {
    pub body: Vec<u8>,
    pub headers: Vec<(String, String)>,
    /// Only given to who sends this.
    pub authorization: Option<String>,
    /// Sent elsewhere.
    pub location: Option<String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Served>,
    log: Vec<String>,
    /// Repositories are only given to who sends this.
    authorization: Option<String>,
}

/// The server; it ends with the test's process.
#[derive(Clone)]
pub(crate) struct Server {
    pub port: u16,
    repositories: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves the bare repositories below `repositories` at `/git/`.
    pub(crate) fn start(repositories: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let port = listener.local_addr().expect("has one").port();
        let server = Self { port, repositories: repositories.to_owned(), state: Arc::default() };
        let answering = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = answering.clone();
                std::thread::spawn(move || server.answer(stream));
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn serve(&self, path: &str, served: Served) {
        self.state.lock().expect("lock").files.insert(path.to_owned(), served);
    }

    pub(crate) fn text(&self, path: &str, body: &str) {
        self.serve(path, Served { body: body.as_bytes().to_vec(), ..Served::default() });
    }

    /// From now on repositories want this `Authorization`.
    pub(crate) fn require(&self, authorization: &str) {
        self.state.lock().expect("lock").authorization = Some(authorization.to_owned());
    }

    /// What was asked since the last call: method, path, answer.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("lock").log)
    }

    fn answer(&self, stream: TcpStream) {
        let mut input = BufReader::new(stream.try_clone().expect("clone"));
        let mut output = stream;
        while let Some(request) = Request::read(&mut input) {
            let response = self.response(&request);
            let status = String::from_utf8_lossy(response.split(|b| *b == b'\r').next().unwrap_or_default());
            let code = status.split(' ').nth(1).unwrap_or_default().to_owned();
            let line = format!("{} {} {code}", request.method, request.target);
            self.state.lock().expect("lock").log.push(line);
            if output.write_all(&response).is_err() {
                return;
            }
        }
    }

    fn response(&self, request: &Request) -> Vec<u8> {
        let path = request.target.split('?').next().unwrap_or_default();
        if let Some(rest) = path.strip_prefix("/git") {
            let wanted = self.state.lock().expect("lock").authorization.clone();
            if wanted.is_some() && request.header("authorization") != wanted.as_deref() {
                return response("401 Unauthorized", &[("WWW-Authenticate".into(), "Basic".into())], b"");
            }
            return self.git(request, rest);
        }
        let Some(file) = self.state.lock().expect("lock").files.get(path).cloned() else {
            return response("404 Not Found", &[], b"none");
        };
        if let Some(to) = file.location {
            return response("302 Found", &[("Location".into(), to)], b"");
        }
        if file.authorization.is_some() && request.header("authorization") != file.authorization.as_deref() {
            return response("401 Unauthorized", &[], b"");
        }
        let etag = file.headers.iter().find(|(name, _)| name == "ETag").map(|(_, value)| value.as_str());
        if etag.is_some() && request.header("if-none-match") == etag {
            return response("304 Not Modified", &file.headers, b"");
        }
        response("200 OK", &file.headers, &file.body)
    }

    fn git(&self, request: &Request, path: &str) -> Vec<u8> {
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let mut backend = Command::new("git");
        backend.arg("http-backend").env("GIT_PROJECT_ROOT", &self.repositories).env("GIT_HTTP_EXPORT_ALL", "1");
        backend.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &request.method);
        // Repositories may belong to somebody else than the tests.
        backend.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
        for (name, variable) in [
            ("content-type", "CONTENT_TYPE"),
            ("content-length", "CONTENT_LENGTH"),
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
            ("git-protocol", "HTTP_GIT_PROTOCOL"),
        ] {
            if let Some(value) = request.header(name) {
                backend.env(variable, value);
            }
        }
        if let Some(protocol) = request.header("git-protocol") {
            backend.env("GIT_PROTOCOL", protocol);
        }
        let mut child = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git http-backend");
        let mut stdin = child.stdin.take().expect("piped");
        let body = request.body.clone();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&body);
        });
        let out = child.wait_with_output().expect("ends").stdout;
        writer.join().expect("wrote");
        let end = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
        let head = String::from_utf8_lossy(&out[..end]).into_owned();
        let (mut status, mut headers) = ("200 OK".to_owned(), Vec::new());
        for line in head.lines() {
            match line.split_once(": ") {
                Some(("Status", value)) => value.clone_into(&mut status),
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => {}
            }
        }
        response(&status, &headers, &out[end + 4..])
    }
}

fn response(status: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    [out.as_bytes(), body].concat()
}

struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(input: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut request = Self { method, target, headers, body: Vec::new() };
        if request.header("expect").is_some() {
            input.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        input.take(length).read_to_end(&mut request.body).ok()?;
        Some(request)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}
