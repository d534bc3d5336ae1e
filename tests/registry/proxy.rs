//! A proxy before Debian's `docker-registry` that wants tokens and does what bad lines and bad days do, at the requests
//! it is told to spoil. Everything else passes as it is.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::server::{Seen, read_head};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A token, from the server that is part of this proxy.
    Token,
    ManifestHead,
    ManifestGet,
    ManifestPut,
    BlobHead,
    BlobGet,
    /// Opening an upload.
    UploadPost,
    /// Opening one that may turn out to be superfluous.
    Mount,
    UploadPatch,
    UploadPut,
    /// How far an upload has got.
    UploadGet,
    Other,
}

impl Kind {
    fn of(seen: &Seen) -> Self {
        let path = seen.path.split('?').next().unwrap_or_default();
        match (seen.method.as_str(), path) {
            (_, "/token") => Self::Token,
            ("HEAD", path) if path.contains("/manifests/") => Self::ManifestHead,
            ("GET", path) if path.contains("/manifests/") => Self::ManifestGet,
            ("PUT", path) if path.contains("/manifests/") => Self::ManifestPut,
            ("POST", _) if seen.path.contains("mount=") => Self::Mount,
            ("POST", path) if path.contains("/blobs/uploads/") => Self::UploadPost,
            ("PATCH", path) if path.contains("/blobs/uploads/") => Self::UploadPatch,
            ("PUT", path) if path.contains("/blobs/uploads/") => Self::UploadPut,
            ("GET", path) if path.contains("/blobs/uploads/") => Self::UploadGet,
            ("HEAD", path) if path.contains("/blobs/") => Self::BlobHead,
            ("GET", path) if path.contains("/blobs/") => Self::BlobGet,
            _ => Self::Other,
        }
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection is reset with half of the request's body on the way.
    CutRequest,
    /// The registry does it, but the connection is reset before the answer.
    CutAnswer,
    /// The connection is reset with half of the answer's body on the way.
    CutBody,
    /// Half of the body, as if that were all.
    Shorter,
    /// One byte of the body is another one.
    Wrong,
    /// Nobody answers.
    Mute,
    /// Half of the answer's body, and then nothing.
    Stall,
    /// One byte of the answer's body at a time, with this much time between them.
    Drip(Duration),
    /// An answer of the proxy's own: status, further header lines, body.
    Answer(u16, &'static str, &'static str),
    /// What is wanted is on another host, at the same path.
    Elsewhere(String),
    /// The token was good until now.
    Expired,
}

/// Spoils the first `times` requests of a kind.
#[derive(Clone, Debug)]
pub(crate) struct Spoil {
    pub(crate) kind: Kind,
    pub(crate) fault: Fault,
    pub(crate) times: usize,
}

/// The proxy; it ends with the test process.
pub(crate) struct Proxy {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<(Kind, Seen)>>>,
}

struct Shared {
    address: String,
    registry: String,
    spoil: Vec<Spoil>,
    hits: Vec<AtomicUsize>,
    tokens: AtomicUsize,
    /// Whether requests need a token.
    guarded: bool,
    seen: Arc<Mutex<Vec<(Kind, Seen)>>>,
}

impl Proxy {
    /// Before `registry`, for everybody.
    pub(crate) fn open(registry: &str, spoil: Vec<Spoil>) -> Self {
        Self::start(registry, spoil, false)
    }

    /// Before `registry`, for those with a token of the server it names, which gives one to everybody.
    pub(crate) fn guarded(registry: &str, spoil: Vec<Spoil>) -> Self {
        Self::start(registry, spoil, true)
    }

    fn start(registry: &str, spoil: Vec<Spoil>, guarded: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("bound").to_string();
        let seen: Arc<Mutex<Vec<(Kind, Seen)>>> = Arc::default();
        let shared = Arc::new(Shared {
            address: address.clone(),
            registry: registry.to_owned(),
            hits: spoil.iter().map(|_| AtomicUsize::new(0)).collect(),
            spoil,
            tokens: AtomicUsize::new(0),
            guarded,
            seen: seen.clone(),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, seen }
    }

    /// The requests of a kind so far.
    pub(crate) fn seen(&self, kind: Kind) -> Vec<Seen> {
        let seen = self.seen.lock().expect("no panic");
        seen.iter().filter(|(of, _)| *of == kind).map(|(_, seen)| seen.clone()).collect()
    }
}

/// An answer of the registry, or one made up.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
        while let Some(mut seen) = read_head(&mut reader) {
            let kind = Kind::of(&seen);
            self.seen.lock().expect("no panic").push((kind, seen.clone()));
            let fault = self.fault(kind);
            let length = match fault {
                Some(Fault::CutRequest) => seen.length() / 2,
                Some(Fault::Mute) => 0,
                _ => seen.length(),
            };
            seen.body.resize(length, 0);
            if reader.read_exact(&mut seen.body).is_err() {
                return;
            }
            if !self.answer(&stream, &seen, kind, fault.as_ref()) {
                return;
            }
        }
    }

    fn fault(&self, kind: Kind) -> Option<Fault> {
        let mut wanted = self.spoil.iter().zip(&self.hits).filter(|(spoil, _)| spoil.kind == kind);
        wanted
            .find_map(|(spoil, hits)| (hits.fetch_add(1, Ordering::SeqCst) < spoil.times).then(|| spoil.fault.clone()))
    }

    /// Answers; false if the connection is at its end.
    fn answer(&self, stream: &TcpStream, seen: &Seen, kind: Kind, fault: Option<&Fault>) -> bool {
        let head_only = seen.method == "HEAD";
        let own = match fault {
            Some(Fault::CutRequest) => {
                // The half that came goes on; the registry is left alone with it.
                if kind != Kind::Token && !seen.body.is_empty() {
                    let _ = self.pass(seen, seen.length());
                }
                return reset(stream);
            }
            Some(Fault::Mute) => return wait_for_end(stream),
            Some(Fault::Answer(status, headers, body)) => {
                let headers = headers.lines().filter_map(|line| line.split_once(": "));
                let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                Some(Answer { status: *status, headers, body: body.as_bytes().to_vec() })
            }
            Some(Fault::Elsewhere(host)) => Some(Answer {
                status: 307,
                headers: vec![("location".to_owned(), format!("http://{host}{}", seen.path))],
                body: Vec::new(),
            }),
            Some(Fault::Expired) => Some(self.challenge(seen)),
            _ => None,
        };
        let authorized = seen.header("authorization").is_some_and(|value| value.starts_with("Bearer token-"));
        let answer = match own {
            Some(own) => own,
            None if kind == Kind::Token => {
                let n = self.tokens.fetch_add(1, Ordering::SeqCst);
                Answer { status: 200, headers: Vec::new(), body: format!(r#"{{"token":"token-{n}"}}"#).into() }
            }
            None if self.guarded && !authorized => self.challenge(seen),
            None => match self.pass(seen, seen.body.len()) {
                Some(answer) => answer,
                None => return reset(stream),
            },
        };
        let half = answer.body.len() / 2;
        match fault {
            Some(Fault::CutAnswer) => reset(stream),
            Some(Fault::CutBody) => {
                let _ = write_answer(stream, &answer, &answer.body[..half], answer.body.len(), head_only);
                reset(stream)
            }
            Some(Fault::Stall) => {
                let _ = write_answer(stream, &answer, &answer.body[..half], answer.body.len(), head_only);
                wait_for_end(stream)
            }
            Some(Fault::Drip(pause)) => {
                if !write_answer(stream, &answer, &[], answer.body.len(), head_only) {
                    return false;
                }
                answer.body.iter().all(|byte| {
                    std::thread::sleep(*pause);
                    (&*stream).write_all(&[*byte]).is_ok()
                })
            }
            Some(Fault::Shorter) => write_answer(stream, &answer, &answer.body[..half], half, head_only),
            Some(Fault::Wrong) => {
                let mut body = answer.body.clone();
                if let Some(byte) = body.get_mut(half) {
                    *byte ^= 1;
                }
                write_answer(stream, &answer, &body, body.len(), head_only)
            }
            _ => write_answer(stream, &answer, &answer.body, answer.body.len(), head_only),
        }
    }

    fn challenge(&self, seen: &Seen) -> Answer {
        let repository = seen.path.split('/').nth(2).unwrap_or_default();
        let actions = if seen.method == "GET" || seen.method == "HEAD" { "pull" } else { "pull,push" };
        let value = format!(
            r#"Bearer realm="http://{}/token",service="test",scope="repository:{repository}:{actions}",error="invalid_token""#,
            self.address
        );
        Answer { status: 401, headers: vec![("www-authenticate".to_owned(), value)], body: Vec::new() }
    }

    /// Has the registry answer a request; `length` may promise more than there is.
    fn pass(&self, seen: &Seen, length: usize) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.registry).expect("the registry listens");
        let mut head =
            format!("{} {} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n", seen.method, seen.path);
        for (name, value) in &seen.headers {
            if !matches!(name.as_str(), "connection" | "content-length" | "authorization") {
                head += &format!("{name}: {value}\r\n");
            }
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(&seen.body)).ok()?;
        if seen.body.len() < length {
            return None;
        }
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut body = Vec::new();
        if seen.method != "HEAD" {
            reader.read_to_end(&mut body).ok()?;
        }
        Some(Answer { status, headers, body })
    }
}

/// Writes an answer with `length` as its length and `body` of it.
fn write_answer(mut stream: &TcpStream, answer: &Answer, body: &[u8], length: usize, head_only: bool) -> bool {
    let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
    for (name, value) in &answer.headers {
        let ours =
            matches!(name.as_str(), "connection" | "transfer-encoding") || (name == "content-length" && !head_only);
        if !ours {
            head += &format!("{name}: {value}\r\n");
        }
    }
    if !head_only && answer.status != 204 {
        head += &format!("content-length: {length}\r\n");
    }
    let body = if head_only { &[] } else { body };
    stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body)).is_ok()
}

/// Ends a connection the hard way.
fn reset(stream: &TcpStream) -> bool {
    // Without a linger time the kernel sends a reset when the socket is closed.
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket");
    false
}

/// Says nothing until the other side has had enough.
fn wait_for_end(mut stream: &TcpStream) -> bool {
    let mut rest = [0; 4096];
    while stream.read(&mut rest).is_ok_and(|n| n > 0) {}
    false
}
