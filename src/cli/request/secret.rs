//! `--secret` and `--ssh`.
//!
//! Secrets are read here, once, so that pipes (`src=<(command)`) work and so that nothing has to be readable later. Their
//! values never appear in `Debug` output.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::context::is_git_over_ssh;
use super::{RequestError, os_words, usage};
use crate::agent::{KeyError, PrivateKey, Source};
use crate::cli::args::go_bool;
use crate::cli::env::Env;
use crate::cli::fields;

/// A larger secret is a mistake.
const MAX_SECRET: u64 = 500 * 1024;

/// The bytes of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(pub Vec<u8>);

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

/// What a secret is made of.
enum From {
    File(String),
    Variable(String),
}

/// `id=ID[,src=FILE|,env=VARIABLE][,type=file|env]`; of several with the same ID the last counts.
pub(super) fn secrets(specs: &[String], env: &Env) -> Result<BTreeMap<String, SecretValue>, RequestError> {
    let mut secrets = BTreeMap::new();
    for spec in specs.iter().filter(|spec| !spec.is_empty()) {
        let (id, from) = parse(spec, env)?;
        let value = match from {
            From::File(path) => read(&id, &path, env)?,
            // A variable that is not set is an empty secret, as with Docker.
            From::Variable(name) => env.vars.get(&name).map_or(Vec::new(), |value| value.as_bytes().to_vec()),
        };
        secrets.insert(id, SecretValue(value));
    }
    Ok(secrets)
}

fn parse(spec: &str, env: &Env) -> Result<(String, From), RequestError> {
    let parsed =
        fields::csv(spec).map_err(|error| RequestError::Usage(format!("failed to parse csv secret: {error}")))?;
    let (mut id, mut file, mut variable, mut is_env) = (String::new(), String::new(), String::new(), false);
    for field in parsed {
        let Some((key, value)) = field.split_once('=') else {
            return usage(format!("invalid field '{field}' must be a key=value pair"));
        };
        match key.to_lowercase().as_str() {
            "type" if value == "file" || value == "env" => is_env = value == "env",
            "type" => return usage(format!("unsupported secret type {value:?}")),
            "id" => value.clone_into(&mut id),
            "source" | "src" => value.clone_into(&mut file),
            "env" => value.clone_into(&mut variable),
            key => return usage(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if id.is_empty() {
        return Err(RequestError::Build("secret missing ID".to_owned()));
    }
    if is_env && variable.is_empty() {
        variable = std::mem::take(&mut file);
    }
    let from = match (variable.is_empty(), file.is_empty()) {
        (false, _) => From::Variable(variable),
        (true, false) => From::File(file),
        (true, true) if env.vars.contains_key(&id) => From::Variable(id.clone()),
        (true, true) => From::File(id.clone()),
    };
    Ok((id, from))
}

fn read(id: &str, typed: &str, env: &Env) -> Result<Vec<u8>, RequestError> {
    let path = env.path(typed);
    if let Err(error) = fs_err::metadata(&path) {
        let text = format!("failed to stat {typed}: stat {typed}: {}", os_words(&error));
        return Err(RequestError::Build(text));
    }
    let mut value = Vec::new();
    let file = fs_err::File::open(&path);
    file.and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut value)).map_err(|error| {
        RequestError::Build(format!("failed to read secret {id}: read {typed}: {}", os_words(&error)))
    })?;
    if value.len() as u64 > MAX_SECRET {
        return Err(RequestError::Build(format!("secret {id} too big. max size {}KiB", MAX_SECRET / 1024)));
    }
    Ok(value)
}

/// What `--ssh` gives steps under an ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshSource {
    /// An agent that lists keys and signs.
    Agent(Source),
    /// A socket that is passed on as it is, whatever is spoken there.
    Raw(PathBuf),
}

/// Read of a key file at most; BuildKit reads as much.
const MAX_KEY: u64 = 100 * 1024;

/// `default|ID[=SOCKET|KEY[,KEY...]][,raw=true]`: sources by ID. A context fetched over ssh asks for the default agent.
pub(super) fn ssh(specs: &[String], context: &str, env: &Env) -> Result<BTreeMap<String, SshSource>, RequestError> {
    let mut specs: Vec<&str> = specs.iter().map(String::as_str).filter(|spec| !spec.is_empty()).collect();
    if specs.is_empty() && is_git_over_ssh(context) {
        specs.push("default");
    }
    let mut agents = BTreeMap::new();
    for spec in specs {
        let (id, paths) = spec.split_once('=').unwrap_or((spec, ""));
        let id = if id.is_empty() { "default" } else { id };
        let failed = |text: String| RequestError::Build(format!("invalid --ssh {spec}: {text}"));
        if agents.contains_key(id) {
            return Err(RequestError::Build(format!("duplicate agent ID {id:?}")));
        }
        agents.insert(id.to_owned(), ssh_source(id, paths, env).map_err(failed)?);
    }
    Ok(agents)
}

fn ssh_source(id: &str, typed: &str, env: &Env) -> Result<SshSource, String> {
    let mut raw = false;
    let mut paths = Vec::new();
    for part in typed.split(',') {
        match part.strip_prefix("raw=") {
            Some(value) => raw = go_bool(value).map_err(|_| format!("invalid value for 'raw': {value}"))?,
            None => paths.push(part.to_owned()),
        }
    }
    if raw && (paths.len() != 1 || paths[0].is_empty()) {
        return Err("raw mode must supply exactly one socket path".to_owned());
    }
    if let [path] = paths.as_mut_slice()
        && path.is_empty()
    {
        *path = env.filled("SSH_AUTH_SOCK").unwrap_or_default();
        if path.is_empty() {
            return Err("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set".to_owned());
        }
    }
    let (mut sockets, mut keys) = (Vec::new(), Vec::new());
    for typed in &paths {
        let path = env.path(typed);
        let meta = fs_err::metadata(&path).map_err(|error| format!("stat {typed}: {}", os_words(&error)))?;
        if meta.file_type().is_socket() {
            sockets.push(path);
        } else if raw {
            return Err("raw mode only supported with socket paths".to_owned());
        } else {
            keys.push(key(id, typed, &path)?);
        }
    }
    match (sockets.as_mut_slice(), keys.is_empty(), raw) {
        ([], ..) => Ok(SshSource::Agent(Source::Keys(keys))),
        ([socket], true, true) => Ok(SshSource::Raw(std::mem::take(socket))),
        ([socket], true, false) => Ok(SshSource::Agent(Source::Agent(std::mem::take(socket)))),
        ([_], false, _) => Err("invalid combination of keys and sockets".to_owned()),
        ([_, _, ..], ..) => Err("only single socket allowed".to_owned()),
    }
}

fn key(id: &str, typed: &str, path: &Path) -> Result<PrivateKey, String> {
    let mut text = Vec::new();
    let read = fs_err::File::open(path).and_then(|file| file.take(MAX_KEY).read_to_end(&mut text));
    read.map_err(|error| format!("failed to read {typed}: {}", os_words(&error)))?;
    PrivateKey::parse(&text).map_err(|error| {
        let help = match error {
            KeyError::Passphrase => format!("; give it to an agent with \"ssh-add {typed}\" and use --ssh {id}"),
            KeyError::NoKey | KeyError::Kind(_) | KeyError::Malformed => String::new(),
        };
        format!("failed to parse {typed}: {error}{help}")
    })
}
