//! A Docker engine on this machine, over its socket: what it has of an image, and loading of archives.
//!
//! Speaks just enough HTTP/1.1 for that: one request a connection, the body in chunks as it is made, the answer read to its
//! end. Knows nothing of images but their IDs, names and layers' digests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

/// Longest answer that is read: engines answer with a line or an image's description.
const MAX_ANSWER: u64 = 16 << 20;
/// Bytes gathered before a chunk is sent.
const CHUNK: usize = 256 << 10;
/// Images that are looked at for layers in common, the newest first: a look takes an engine about a millisecond.
const MOST_LOOKS: usize = 200;
/// Where Docker listens if nobody says otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// The engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// `DOCKER_HOST` names something other than a socket.
    #[error("DOCKER_HOST={0}: only unix:// sockets are supported")]
    Host(String),
    /// No engine listens there.
    #[error("Cannot connect to the Docker daemon at unix://{}. Is the docker daemon running? ({source})", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The conversation broke.
    #[error("talk to the Docker daemon: {0}")]
    Io(#[from] io::Error),
    /// The engine refused.
    #[error("Docker daemon: {0}")]
    Refused(String),
}

/// An engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    socket: PathBuf,
}

/// How an engine keeps images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Layers unpacked, each known by the digests of all tars up to it: what there is of an image needs not be sent.
    Layers,
    /// Blobs as they come, for containerd: what is not sent cannot be pushed from there later.
    Blobs,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Docker {
    /// The engine that `DOCKER_HOST` names, or the usual one.
    pub fn new(host: Option<&str>) -> Result<Self, DockerError> {
        let socket = match host {
            None => DEFAULT_SOCKET,
            Some(host) => host.strip_prefix("unix://").ok_or_else(|| DockerError::Host(host.to_owned()))?,
        };
        Ok(Self { socket: socket.into() })
    }

    /// Whether the engine has the image with this ID (`sha256:…`).
    pub fn has(&self, id: &str) -> Result<bool, DockerError> {
        let answer = self.plain("GET", &format!("/images/{id}/json"))?;
        match answer.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(refused(&answer)),
        }
    }

    /// How the engine keeps images.
    pub fn keeping(&self) -> Result<Keeping, DockerError> {
        let info = self.json("/info")?.unwrap_or_default();
        let status = info["DriverStatus"].as_array().into_iter().flatten();
        let containerd = |pair: &Value| {
            pair[0] == "driver-type" && pair[1].as_str().is_some_and(|text| text.starts_with("io.containerd."))
        };
        Ok(if status.into_iter().any(containerd) { Keeping::Blobs } else { Keeping::Layers })
    }

    /// How many layers from the bottom of a stack (digests of their tars, `sha256:…`) the engine has already. `likely` are
    /// names of images that may share them; the others are looked at after those.
    pub fn known_layers(&self, stack: &[String], likely: &[String]) -> Result<usize, DockerError> {
        let mut most = 0;
        let listed = |images: Value| match images {
            Value::Array(images) => images,
            _ => Vec::new(),
        };
        let mut images = None;
        for i in 0..MOST_LOOKS {
            let name = match likely.get(i) {
                Some(name) => encoded(name),
                None => {
                    if images.is_none() {
                        images = Some(self.json("/images/json?all=1")?.map(listed).unwrap_or_default().into_iter());
                    }
                    let Some(image) = images.as_mut().and_then(Iterator::next) else { break };
                    image["Id"].as_str().unwrap_or_default().to_owned()
                }
            };
            // One that went away meanwhile has nothing.
            let image = self.json(&format!("/images/{name}/json"))?.unwrap_or_default();
            let layers = image["RootFS"]["Layers"].as_array().into_iter().flatten();
            most = most.max(layers.zip(stack).take_while(|(theirs, ours)| *theirs == ours.as_str()).count());
            if most == stack.len() {
                break;
            }
        }
        Ok(most)
    }

    /// Gives an image that the engine has a name, `repository:tag`.
    pub fn tag(&self, id: &str, repository: &str, tag: &str) -> Result<(), DockerError> {
        let (repository, tag) = (encoded(repository), encoded(tag));
        let answer = self.plain("POST", &format!("/images/{id}/tag?repo={repository}&tag={tag}"))?;
        if answer.status == 201 { Ok(()) } else { Err(refused(&answer)) }
    }

    /// Begins to load an archive; what is written to the result is its bytes.
    pub fn load(&self) -> Result<Load, DockerError> {
        let mut stream = self.connect()?;
        stream.write_all(
            b"POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nContent-Type: application/x-tar\r\n\
              Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        )?;
        Ok(Load { stream, pending: Vec::with_capacity(CHUNK), broken: false })
    }

    /// A document, if there is one.
    fn json(&self, path: &str) -> Result<Option<Value>, DockerError> {
        let answer = self.plain("GET", path)?;
        match answer.status {
            200 => Ok(Some(serde_json::from_slice(&answer.body).map_err(io::Error::other)?)),
            404 => Ok(None),
            _ => Err(refused(&answer)),
        }
    }

    fn plain(&self, method: &str, path: &str) -> Result<Answer, DockerError> {
        let mut stream = self.connect()?;
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        Ok(read_answer(BufReader::new(stream))?)
    }

    fn connect(&self) -> Result<UnixStream, DockerError> {
        UnixStream::connect(&self.socket).map_err(|source| DockerError::Connect { path: self.socket.clone(), source })
    }
}

/// An archive on its way into the engine.
#[derive(Debug)]
pub struct Load {
    stream: UnixStream,
    pending: Vec<u8>,
    /// The engine takes no more.
    broken: bool,
}

impl Load {
    /// Whether the engine stopped listening; [`Self::finish`] has its reason.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ends the archive and waits for the engine's verdict.
    pub fn finish(mut self) -> Result<(), DockerError> {
        // An engine that refused early has closed its end; what it said matters more than that we could not go on.
        let sent = if self.broken {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            self.send().and_then(|()| self.stream.write_all(b"0\r\n\r\n"))
        };
        let answer = read_answer(BufReader::new(&self.stream));
        match answer {
            Ok(answer) if answer.status != 200 => Err(refused(&answer)),
            Ok(answer) => {
                sent?;
                // Errors while unpacking come in the body of a successful answer.
                let text = String::from_utf8_lossy(&answer.body);
                match text.lines().find(|line| line.contains("\"errorDetail\"")) {
                    Some(line) => Err(DockerError::Refused(detail(line))),
                    None => Ok(()),
                }
            }
            Err(error) => Err(sent.err().unwrap_or(error).into()),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            let head = format!("{:x}\r\n", self.pending.len());
            let sent =
                [head.as_bytes(), &self.pending, b"\r\n"].iter().try_for_each(|part| self.stream.write_all(part));
            self.broken = sent.is_err();
            sent?;
            self.pending.clear();
        }
        Ok(())
    }
}

impl Write for Load {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.stream.flush()
    }
}

fn refused(answer: &Answer) -> DockerError {
    let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let message = json.as_ref().and_then(|json| json["message"].as_str()).map(str::to_owned);
    DockerError::Refused(message.unwrap_or_else(|| format!("status {}", answer.status)))
}

/// The words of a line like `{"errorDetail":{"message":"…"},"error":"…"}`.
fn detail(line: &str) -> String {
    let json: Option<Value> = serde_json::from_str(line).ok();
    let message = json.as_ref().and_then(|json| json["errorDetail"]["message"].as_str());
    message.unwrap_or(line).to_owned()
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Reads a whole answer; bodies come with a length, in chunks, or up to the end of the connection.
fn read_answer(mut input: impl BufRead) -> io::Result<Answer> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer");
    let mut line = String::new();
    input.read_line(&mut line)?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok()).ok_or_else(bad)?;
    let (mut length, mut chunked) = (None, false);
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Err(bad());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse::<u64>().map_err(|_| bad())?),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        input.take(length.unwrap_or(MAX_ANSWER).min(MAX_ANSWER)).read_to_end(&mut body)?;
        return Ok(Answer { status, body });
    }
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(digits, 16).map_err(|_| bad())?;
        if size == 0 {
            return Ok(Answer { status, body });
        }
        if body.len() as u64 + size > MAX_ANSWER {
            return Err(bad());
        }
        input.by_ref().take(size).read_to_end(&mut body)?;
        line.clear();
        input.read_line(&mut line)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let got = read_answer(text.as_bytes());
        let got = got.map(|a| format!("{} {}", a.status, String::from_utf8_lossy(&a.body)));
        assert_eq!(got.unwrap_or_else(|e| e.to_string()), expected, "{text:?}");
    }

    #[test]
    fn answers_with_length_chunks_or_neither() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiXX", "200 hi");
        check(
            "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            "404 abcde",
        );
        check("HTTP/1.0 500 X\r\n\r\nall", "500 all");
        check("SSH-2.0\r\n", "no HTTP answer");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP answer");
    }

    #[test]
    fn only_sockets_are_hosts() {
        assert_eq!(Docker::new(None).map(|d| d.socket).ok(), Some(DEFAULT_SOCKET.into()));
        assert_eq!(Docker::new(Some("unix:///x")).map(|d| d.socket).ok(), Some("/x".into()));
        assert!(Docker::new(Some("tcp://1.2.3.4:5")).is_err());
    }

    #[test]
    fn an_engine_that_is_not_there_is_named() {
        let docker = Docker { socket: "/nonexistent/docker.sock".into() };
        let text = docker.has("sha256:x").expect_err("none").to_string();
        assert!(text.starts_with("Cannot connect to the Docker daemon at unix:///nonexistent/docker.sock."), "{text}");
    }
}
