//! `rbuild login` and `logout`: a credential is tried at the registry and then kept where Docker's client looks for it.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use super::args_registry::{LoginArgs, LogoutArgs};
use super::docker_config::{DockerConfig, Kept};
use super::env::Env;
use super::request::{RegistryRequest, registry_host};
use super::world::Line;
use super::{Done, Failure, print, registries};
use crate::event::Progress;
use crate::exec::Host;
use crate::registry::credentials::{Credential, Credentials};
use crate::registry::{Client, Error, Options};

/// Longest password or token that is read.
const MAX_SECRET: u64 = 64 << 10;

/// `rbuild login`
pub(super) fn login(args: &LoginArgs, env: &Env) -> Done {
    let host = registry_host("login", &args.host)?;
    let request = RegistryRequest::new(&args.registries, env)?;
    let dir =
        env.docker_config().ok_or_else(|| Failure::text("no place for config.json: set HOME or DOCKER_CONFIG"))?;
    let line = Line::new()?;
    let programs = Arc::new(Host::here());
    let options = registries::options(env, &request, &Progress::silent(), &programs)?;
    let verify = |credential: Credential| -> Result<Credential, Error> {
        let options =
            Options { credentials: Credentials::only(credential.clone()), keep_token: true, ..options.clone() };
        let given = line.runtime.block_on(Client::new(options).login(&host))?;
        Ok(match (given, credential) {
            // What is kept is the token: it can be taken back, and is no use elsewhere.
            (Some(token), Credential::Basic { username, .. }) => Credential::Identity { username, token },
            (_, credential) => credential,
        })
    };
    let nothing_given = args.username.is_none() && args.password.is_none() && !args.password_stdin;
    if nothing_given && let Some(known) = options.credentials.lookup(&host).map_err(|e| Failure::of(&e))? {
        say("Authenticating with existing credentials...\n");
        match verify(known) {
            Ok(_) => return print(b"Login Succeeded\n"),
            Err(Error::Denied { .. }) => say("They are not good any more.\n"),
            Err(error) => return Err(Failure::of(&error)),
        }
    }
    let credential = ask(args, &host)?;
    let credential = verify(credential).map_err(|error| refused(&host, &error))?;
    let mut config = DockerConfig::open(&dir)?;
    let run = |name: &str, action: &str, input: &str| registries::run_helper(&programs, name, action, input);
    match config.keep(&host, &credential, &run)? {
        Kept::InFile => {
            say(&format!("WARNING: the credential is stored unencrypted in {}\n", config.path().display()));
            say("A credential helper (credsStore or credHelpers in that file) would keep it better.\n");
        }
        Kept::By(_) => {}
    }
    if env.filled("DOCKER_AUTH_CONFIG").is_some() {
        say("WARNING: DOCKER_AUTH_CONFIG is set and will be used instead of what was stored now\n");
    }
    print(b"Login Succeeded\n")
}

fn refused(host: &str, error: &Error) -> Failure {
    match error {
        Error::Denied { .. } => Failure::of(error).named(&format!("{host} does not take this name and password")),
        _ => Failure::of(error).helped(error.help()),
    }
}

/// `rbuild logout`
pub(super) fn logout(args: &LogoutArgs, env: &Env) -> Done {
    let host = registry_host("logout", &args.host)?;
    let dir =
        env.docker_config().ok_or_else(|| Failure::text("no place for config.json: set HOME or DOCKER_CONFIG"))?;
    if !dir.join("config.json").exists() {
        return print(format!("Not logged in to {host}\n").as_bytes());
    }
    let programs = Host::here();
    let run = |name: &str, action: &str, input: &str| registries::run_helper(&programs, name, action, input);
    let known = DockerConfig::open(&dir)?.forget(&host, &run)?;
    let text =
        if known { format!("Removing login credentials for {host}\n") } else { format!("Not logged in to {host}\n") };
    print(text.as_bytes())
}

/// There is nobody left to tell when stderr is gone.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Name and password, from the options or from the user.
fn ask(args: &LoginArgs, host: &str) -> Result<Credential, Failure> {
    let given = args.username.clone().filter(|name| !name.is_empty());
    if args.password_stdin {
        let Some(username) = given else { return Err(Failure::text("Must provide --username with --password-stdin")) };
        let mut text = String::new();
        std::io::stdin()
            .take(MAX_SECRET)
            .read_to_string(&mut text)
            .map_err(|e| Failure::of(&e).named("read password"))?;
        let password = text.strip_suffix('\n').unwrap_or(&text);
        return credential(username, password.strip_suffix('\r').unwrap_or(password).to_owned());
    }
    if args.password.is_some() {
        say("WARNING: others can see --password in the list of processes; --password-stdin is safer\n");
    }
    let username = match given {
        Some(username) => username,
        None => prompt(&format!("User name at {host}: "), true)?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None => prompt("Password: ", false)?,
    };
    credential(username, password)
}

fn credential(username: String, password: String) -> Result<Credential, Failure> {
    if username.is_empty() || password.is_empty() {
        let what = if username.is_empty() { "user name" } else { "password" };
        return Err(Failure::text(format!("{what} is empty")));
    }
    if username.contains(':') {
        return Err(Failure::text("a user name cannot contain a colon"));
    }
    Ok(Credential::Basic { username, password })
}

/// Asks at the terminal. The line is read byte by byte, so that a password's echo is off from its first character, and
/// the terminal is as before whatever the user types.
fn prompt(question: &str, echo: bool) -> Result<String, Failure> {
    let terminal = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty");
    let stdin = std::io::stdin();
    let mut terminal = match terminal {
        Ok(terminal) if rustix::termios::isatty(&stdin) => terminal,
        Ok(_) | Err(_) => {
            let text = "Cannot perform an interactive login from a non TTY device: use --username and --password-stdin";
            return Err(Failure::text(text));
        }
    };
    let failed = |e: &dyn std::error::Error| Failure::of(e).named("read from the terminal");
    let before = tcgetattr(&terminal).map_err(|e| failed(&e))?;
    let mut raw = before.clone();
    raw.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&terminal, OptionalActions::Flush, &raw).map_err(|e| failed(&e))?;
    let read = terminal.write_all(question.as_bytes()).and_then(|()| read_line(&mut terminal, echo));
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &before);
    let line = read.map_err(|e| failed(&e))?;
    restored.map_err(|e| failed(&e))?;
    line.ok_or_else(|| Failure::text("canceled"))
}

/// A line from a terminal that edits and echoes nothing by itself; `None` if the user gave up.
fn read_line<T: std::io::Read + std::io::Write>(terminal: &mut T, echo: bool) -> std::io::Result<Option<String>> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const KILL: u8 = 21;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        if terminal.read(&mut byte)? == 0 {
            return Ok(None);
        }
        match byte[0] {
            b'\n' | b'\r' => {
                terminal.write_all(b"\n")?;
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            INTERRUPT => {
                terminal.write_all(b"\n")?;
                return Ok(None);
            }
            END if line.is_empty() => {
                terminal.write_all(b"\n")?;
                return Ok(None);
            }
            8 | 127 => {
                // A character may be several bytes.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                if echo {
                    terminal.write_all(b"\x08 \x08")?;
                }
            }
            KILL => line.clear(),
            byte if byte < b' ' => {}
            byte if line.len() as u64 <= MAX_SECRET => {
                line.push(byte);
                if echo {
                    terminal.write_all(&[byte])?;
                }
            }
            _ => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is typed, and what is seen.
    struct Typed(std::io::Cursor<Vec<u8>>, Vec<u8>);

    impl std::io::Read for Typed {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl std::io::Write for Typed {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_edited_and_passwords_are_not_seen() {
        let typed = |text: &str, echo| {
            let mut terminal = Typed(std::io::Cursor::new(text.as_bytes().to_vec()), Vec::new());
            let line = read_line(&mut terminal, echo).expect("memory");
            (line, String::from_utf8(terminal.1).expect("text"))
        };
        assert_eq!(typed("me\r", true), (Some("me".to_owned()), "me\n".to_owned()));
        assert_eq!(typed("sx\u{7f}ecret\n", false), (Some("secret".to_owned()), "\n".to_owned()));
        assert_eq!(typed("ä\u{7f}b\n", false).0.as_deref(), Some("b"));
        assert_eq!(typed("wrong\u{15}right\n", false).0.as_deref(), Some("right"));
        for given_up in ["", "abc\u{3}", "\u{4}"] {
            assert_eq!(typed(given_up, false).0, None, "{given_up:?}");
        }
    }

    #[test]
    fn names_and_passwords_must_be_usable() {
        let error = |name: &str, password: &str| {
            credential(name.to_owned(), password.to_owned()).expect_err("refused").to_string()
        };
        assert_eq!(error("", "x"), "ERROR: user name is empty\n");
        assert_eq!(error("x", ""), "ERROR: password is empty\n");
        assert_eq!(error("a:b", "x"), "ERROR: a user name cannot contain a colon\n");
        assert!(credential("a".to_owned(), "b:c".to_owned()).is_ok());
    }
}
