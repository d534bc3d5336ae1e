//! Where a build's files come from: the main context, the Dockerfile, named contexts.
//!
//! Only tells the kinds apart. Nothing is fetched, and of local paths only their existence is looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{RequestError, os_words, usage};
use crate::cli::env::Env;
use crate::oci::reference::Reference;
use crate::plan::NamedContext;

/// A tree of files to build from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory, absolute.
    Directory(PathBuf),
    /// A git repository: the address as typed, with `#ref:subdir` or a query.
    Git(String),
    /// An archive or a single file to be downloaded.
    Http(String),
    /// Stdin: a tar archive, or a Dockerfile and no context; [`stdin_kind`] tells which when its first bytes are there.
    Stdin,
}

impl ContextSource {
    /// The main context as typed.
    pub(super) fn main(typed: &str, env: &Env) -> Result<Self, RequestError> {
        if typed == "-" {
            return Ok(Self::Stdin);
        }
        // Docker takes "" for the current directory's absence of an argument.
        if typed.is_empty() {
            let text = "please specify build context (e.g. \".\" for the current directory)";
            return Err(RequestError::Build(text.to_owned()));
        }
        let path = env.path(typed);
        if fs_err::metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            return Ok(Self::Directory(path));
        }
        Self::remote(typed).ok_or_else(|| {
            let hint =
                if path.exists() { " (it is a file; a context is a directory, -f names the Dockerfile)" } else { "" };
            RequestError::Build(format!("unable to prepare context: path {typed:?} not found{hint}"))
        })
    }

    fn remote(typed: &str) -> Option<Self> {
        if is_git(typed) {
            Some(Self::Git(typed.to_owned()))
        } else if is_http(typed) {
            Some(Self::Http(typed.to_owned()))
        } else {
            None
        }
    }
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Whether an address names a git repository: by its scheme, in the short form `user@host:path`, or over http(s) by `.git` at
/// the end of its path.
fn is_git(text: &str) -> bool {
    if ["git://", "ssh://", "github.com/"].iter().any(|prefix| text.starts_with(prefix)) {
        return true;
    }
    if is_http(text) {
        return text.split(['#', '?']).next().and_then(|path| path.strip_suffix(".git")).is_some();
    }
    is_git_over_ssh(text)
}

/// Whether fetching it needs an SSH agent.
pub(super) fn is_git_over_ssh(text: &str) -> bool {
    if text.starts_with("ssh://") {
        return true;
    }
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |text: &str, extra: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    word(user, "-_") && word(host, "-.")
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// A file on this machine, absolute. It may be missing.
    File(PathBuf),
    /// A path within a context that is not on this machine; `None` is `Dockerfile`.
    InContext(Option<String>),
    /// Stdin.
    Stdin,
    /// To be downloaded.
    Http(String),
}

impl DockerfileSource {
    /// From `--file`, which is relative to the current directory and not to the context.
    pub(super) fn new(file: Option<&str>, context: &ContextSource, env: &Env) -> Result<Self, RequestError> {
        let file = file.filter(|file| !file.is_empty());
        match (file, context) {
            (Some("-"), ContextSource::Stdin) => {
                let text = "invalid argument: can't use stdin for both build context and dockerfile";
                Err(RequestError::Build(text.to_owned()))
            }
            (Some("-"), _) => Ok(Self::Stdin),
            (Some(url), _) if is_http(url) => Ok(Self::Http(url.to_owned())),
            (Some(path), ContextSource::Directory(_)) => Ok(Self::File(lower_case_if_only(&env.path(path)))),
            (None, ContextSource::Directory(dir)) => Ok(Self::File(lower_case_if_only(&dir.join("Dockerfile")))),
            (Some(path), ContextSource::Git(_) | ContextSource::Http(_)) if Path::new(path).is_absolute() => {
                Ok(Self::File(PathBuf::from(path)))
            }
            (path, ContextSource::Git(_) | ContextSource::Http(_) | ContextSource::Stdin) => {
                Ok(Self::InContext(path.map(str::to_owned)))
            }
        }
    }
}

/// `dockerfile` does where `Dockerfile` is missing.
fn lower_case_if_only(path: &Path) -> PathBuf {
    let lower = path.with_file_name("dockerfile");
    let exists = |path: &Path| fs_err::symlink_metadata(path).is_ok();
    if path.file_name().is_some_and(|name| name == "Dockerfile") && !exists(path) && exists(&lower) {
        return lower;
    }
    path.to_owned()
}

/// What stdin holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdinKind {
    /// A tar archive, maybe compressed: the context.
    Archive,
    /// A Dockerfile; the context is empty.
    Dockerfile,
}

/// Tells what stdin holds by its first 512 bytes (fewer at its end). `dockerfile` is where the Dockerfile should be.
pub fn stdin_kind(head: &[u8], dockerfile: &DockerfileSource) -> Result<StdinKind, RequestError> {
    if is_archive(head) {
        return Ok(StdinKind::Archive);
    }
    match dockerfile {
        DockerfileSource::InContext(None) => Ok(StdinKind::Dockerfile),
        DockerfileSource::InContext(Some(_))
        | DockerfileSource::File(_)
        | DockerfileSource::Stdin
        | DockerfileSource::Http(_) => {
            let text = "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles";
            Err(RequestError::Build(text.to_owned()))
        }
    }
}

/// Whether something is a tar archive, maybe compressed, by its first 512 bytes.
pub fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 4] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MAGIC.iter().any(|magic| head.starts_with(magic)) || is_tar_header(head)
}

/// A tar header is known by its checksum: old ones have no magic. An archive without entries is all zeros.
fn is_tar_header(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else { return false };
    if block.iter().all(|byte| *byte == 0) {
        return true;
    }
    let field = String::from_utf8_lossy(&block[148..156]);
    let digits: String = field.trim_matches([' ', '\0']).chars().take_while(char::is_ascii_digit).collect();
    let sum =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    u32::from_str_radix(&digits, 8) == Ok(sum)
}

/// Named contexts that are files, and those that are images.
type Named = (BTreeMap<String, ContextSource>, BTreeMap<String, NamedContext>);

/// `--build-context NAME=SOURCE`; of several with the same name the last counts.
pub(super) fn named(texts: &[String], env: &Env) -> Result<Named, RequestError> {
    let (mut files, mut images) = Named::default();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let Some((name, source)) = text.split_once('=') else {
            return usage(format!("invalid context value: {text}, expected key=value"));
        };
        let name = context_name(name)?;
        files.remove(&name);
        images.remove(&name);
        if let Some(reference) = source.strip_prefix("docker-image://") {
            images.insert(name, NamedContext::Image(reference.to_owned()));
        } else if source.starts_with("oci-layout://") {
            images.insert(name, NamedContext::Layout(source.to_owned()));
        } else if source.starts_with("target:") {
            return usage(format!("invalid context {name}: {source} names a target of bake, which is not supported"));
        } else if let Some(remote) = ContextSource::remote(source) {
            files.insert(name, remote);
        } else {
            let path = env.path(source);
            match fs_err::metadata(&path) {
                Ok(meta) if meta.is_dir() => _ = files.insert(name, ContextSource::Directory(path)),
                Ok(_) => {
                    let text = format!("failed to get build context path {{{source} <nil>}}: not a directory");
                    return Err(RequestError::Build(text));
                }
                Err(error) => {
                    let text = format!("failed to get build context {name}: stat {source}: {}", os_words(&error));
                    return Err(RequestError::Build(text));
                }
            }
        }
    }
    Ok((files, images))
}

/// The name as it is looked up: that of an image in its short form, without `:latest`. A platform may follow after `::`.
fn context_name(typed: &str) -> Result<String, RequestError> {
    let (name, platform) = typed.split_once("::").map_or((typed, None), |(name, platform)| (name, Some(platform)));
    let reference = Reference::parse(name);
    let reference = reference.map_err(|error| RequestError::Usage(format!("invalid context name {typed}: {error}")))?;
    let familiar = reference.familiar();
    let name = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    Ok(platform.map_or(name.to_owned(), |platform| format!("{name}::{platform}")))
}
