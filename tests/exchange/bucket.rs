//! A server of one S3 bucket on loopback, as small as it can be: PUT, GET and HEAD of signed URLs, counted.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The server; runs until the test ends.
pub(crate) struct Bucket {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    requests: Vec<String>,
}

impl Bucket {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, state }
    }

    /// `METHOD path` of the requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("lock").requests)
    }

    /// The paths of all objects.
    pub(crate) fn objects(&self) -> Vec<String> {
        self.state.lock().expect("lock").objects.keys().cloned().collect()
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, shared: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let (mut length, mut expects) = (0, false);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let header = header.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            length = header.strip_prefix("content-length: ").and_then(|n| n.parse().ok()).unwrap_or(length);
            expects |= header == "expect: 100-continue";
        }
        if expects {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut state = shared.lock().expect("lock");
        state.requests.push(format!("{method} {path}"));
        let (status, body) = if !query.contains("X-Amz-Credential=AK%2F") || !query.contains("X-Amz-Signature=") {
            ("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>".to_vec())
        } else if method == "PUT" {
            state.objects.insert(path.to_owned(), body);
            ("200 OK", Vec::new())
        } else {
            match state.objects.get(path) {
                Some(found) => ("200 OK", found.clone()),
                None => ("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
            }
        };
        drop(state);
        write!(writer, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
        if method != "HEAD" {
            writer.write_all(&body).ok()?;
        }
    }
}
