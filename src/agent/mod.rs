//! An ssh agent that a build is given with `--ssh`: it holds keys, or stands before the user's own agent.
//!
//! Steps may list keys and have something signed, nothing else: neither adding nor removing keys nor locking, whatever agent is
//! behind. Knows nothing of steps and how sockets get to them; the protocol is draft-ietf-sshm-ssh-agent. Secrets stay in
//! memory and are never printed.

mod der;
mod key;
mod openssh;
mod text;

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use key::{KeyError, PrivateKey};
use text::{Reader, Text};

/// A longer message is a mistake; OpenSSH draws the same line.
const MAX_MESSAGE: u32 = 256 * 1024;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGNATURE: u8 = 14;

/// What is behind an agent's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Keys read from files.
    Keys(Vec<PrivateKey>),
    /// The socket of another agent, which is only asked for keys and signatures.
    Agent(PathBuf),
}

/// A socket that answers until the process ends.
#[derive(Debug)]
pub struct Agent {
    path: PathBuf,
}

impl Agent {
    /// Starts answering at `path`, where nothing is yet, in a directory that only its user may enter.
    pub fn start(path: PathBuf, source: Source) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        let source = Arc::new(source);
        let accept = move || {
            for connection in listener.incoming().flatten() {
                let source = Arc::clone(&source);
                // Without room for a thread the connection is closed, which the client sees as a refusal.
                let _refused = std::thread::Builder::new()
                    .name("ssh-agent".to_owned())
                    .spawn(move || converse(connection, &source));
            }
        };
        std::thread::Builder::new().name("ssh-agent".to_owned()).spawn(accept)?;
        Ok(Self { path })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Agent {
    /// Nobody finds it any more; the thread ends with the process.
    fn drop(&mut self) {
        let _gone = fs_err::remove_file(&self.path);
    }
}

/// Answers one client until it goes, or makes no sense.
fn converse(mut client: UnixStream, source: &Source) -> io::Result<()> {
    let mut behind = match source {
        Source::Keys(_) => None,
        Source::Agent(path) => Some(UnixStream::connect(path)?),
    };
    while let Some(request) = receive(&mut client)? {
        let answer = match (request.first(), source, &mut behind) {
            (Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)), _, Some(agent)) => {
                send(agent, &request)?;
                receive(agent)?.unwrap_or_else(|| vec![FAILURE])
            }
            (Some(&REQUEST_IDENTITIES), Source::Keys(keys), None) => identities(keys),
            (Some(&SIGN_REQUEST), Source::Keys(keys), None) => {
                signature(keys, &request[1..]).unwrap_or_else(|| vec![FAILURE])
            }
            (Some(_) | None, Source::Keys(_) | Source::Agent(_), Some(_) | None) => vec![FAILURE],
        };
        send(&mut client, &answer)?;
    }
    Ok(())
}

fn receive(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn send(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let mut text = Text::default();
    text.string(message);
    stream.write_all(&text.0)
}

fn identities(keys: &[PrivateKey]) -> Vec<u8> {
    let mut text = Text(vec![IDENTITIES]);
    text.number(keys.len() as u32);
    for key in keys {
        text.string(key.public()).string(key.comment().as_bytes());
    }
    text.0
}

/// `None`: no such key, or no way to sign with it as asked.
fn signature(keys: &[PrivateKey], request: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(request);
    let (public, data, flags) = (reader.string()?, reader.string()?, reader.number()?);
    let key = keys.iter().find(|key| key.public() == public)?;
    let mut text = Text(vec![SIGNATURE]);
    text.string(&key.sign(data, flags)?);
    Some(text.0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What ssh-keygen calls the kinds, with their sizes.
    const KINDS: [(&str, &str, &str); 7] = [
        ("ed25519", "256", "RFC4716"),
        ("rsa", "2048", "RFC4716"),
        ("rsa", "3072", "PEM"),
        ("rsa", "2048", "PKCS8"),
        ("ecdsa", "256", "RFC4716"),
        ("ecdsa", "384", "PEM"),
        ("ecdsa", "256", "PKCS8"),
    ];

    fn program(name: &str) -> Command {
        Command::new(name)
    }

    fn made(directory: &Path, (kind, bits, format): (&str, &str, &str), passphrase: &str) -> PathBuf {
        let path = directory.join(format!("{kind}-{bits}-{format}"));
        let mut keygen = program("ssh-keygen");
        keygen.args(["-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "me", "-f"]).arg(&path);
        assert!(keygen.status().expect("openssh-client is installed").success());
        if format != "RFC4716" {
            let mut keygen = program("ssh-keygen");
            keygen.args(["-q", "-p", "-P", passphrase, "-N", passphrase, "-m", format, "-f"]).arg(&path);
            assert!(keygen.output().expect("runs").status.success());
        }
        path
    }

    /// `ssh-keygen -Y sign` asks an agent for the signature when it is given the public key only; `-Y verify` judges it.
    #[test]
    fn openssh_takes_its_signatures() {
        let temp = tempfile::tempdir().expect("temp dir");
        for kind in KINDS {
            let directory = temp.path().join(format!("{}-{}-{}", kind.0, kind.1, kind.2));
            fs_err::create_dir(&directory).expect("mkdir");
            let path = made(&directory, kind, "");
            let key =
                PrivateKey::parse(&fs_err::read(&path).expect("read")).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            fs_err::remove_file(&path).expect("only the agent has it from now on");
            let agent = Agent::start(directory.join("agent"), Source::Keys(vec![key])).expect("starts");
            let public = path.with_extension("pub");
            fs_err::write(directory.join("text"), "what is signed").expect("write");
            let mut sign = program("ssh-keygen");
            sign.env("SSH_AUTH_SOCK", agent.path()).args(["-Y", "sign", "-n", "test", "-f"]).arg(&public);
            let signed = sign.arg(directory.join("text")).output().expect("runs");
            assert!(signed.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&signed.stderr));
            let allowed = format!("me {}", fs_err::read_to_string(&public).expect("read"));
            fs_err::write(directory.join("allowed"), allowed).expect("write");
            let mut verify = program("ssh-keygen");
            verify.args(["-Y", "verify", "-I", "me", "-n", "test", "-f"]).arg(directory.join("allowed"));
            verify.arg("-s").arg(directory.join("text.sig"));
            verify.stdin(fs_err::File::open(directory.join("text")).expect("open").into_parts().0);
            let verified = verify.output().expect("runs");
            assert!(verified.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&verified.stderr));
        }
    }

    #[test]
    fn passphrases_and_other_files_are_named() {
        let temp = tempfile::tempdir().expect("temp dir");
        for kind in [KINDS[0], KINDS[2], KINDS[3]] {
            let text = fs_err::read(made(temp.path(), kind, "secret")).expect("read");
            assert_eq!(PrivateKey::parse(&text).expect_err("encrypted"), KeyError::Passphrase, "{kind:?}");
        }
        assert_eq!(PrivateKey::parse(b"hello").expect_err("nothing"), KeyError::NoKey);
        let path = made(temp.path(), ("ecdsa", "521", "RFC4716"), "");
        let error = PrivateKey::parse(&fs_err::read(path).expect("read")).expect_err("unknown to ring").to_string();
        assert!(error.contains("ecdsa-sha2-nistp521"), "{error}");
    }

    #[test]
    fn only_listing_and_signing_reach_the_agent_behind() {
        let temp = tempfile::tempdir().expect("temp dir");
        let key = made(temp.path(), KINDS[0], "");
        let key = PrivateKey::parse(&fs_err::read(key).expect("read")).expect("parses");
        assert_eq!(format!("{key:?}"), "PrivateKey { comment: \"me\", .. }", "secrets are not printed");
        let own = Agent::start(temp.path().join("own"), Source::Keys(vec![key])).expect("starts");
        let front = Agent::start(temp.path().join("front"), Source::Agent(own.path().to_owned())).expect("starts");
        let ask = |message: &[u8]| {
            let mut stream = UnixStream::connect(front.path()).expect("connects");
            send(&mut stream, message).expect("sends");
            receive(&mut stream).expect("receives").expect("answers")
        };
        assert_eq!(ask(&[REQUEST_IDENTITIES])[..5], [IDENTITIES, 0, 0, 0, 1]);
        // Add, remove, remove all, lock, extension.
        for kind in [17, 18, 19, 22, 25, 27] {
            assert_eq!(ask(&[kind, 0, 0, 0, 0]), [FAILURE], "{kind}");
        }
        assert_eq!(ask(&[SIGN_REQUEST, 0, 0]), [FAILURE]);
    }
}
