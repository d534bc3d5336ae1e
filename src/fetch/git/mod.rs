//! Files from git repositories, for ADD and remote contexts: through the `git` program.
//!
//! Knows no Dockerfile and no cache key. Repositories are kept bare and shallow in the store, one for each remote, so that a
//! second build fetches only what is new; they are cache mounts and go when those go. What a ref meant is asked once a build.
//! Nothing a repository holds is believed: addresses of submodules pass the same list of transports as what the user typed, no
//! hook or filter runs, and paths are opened beneath the checkout without following links.

mod checkout;
mod command;
mod refs;
mod remote;
mod repository;
mod submodules;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::{Store, TempDir};

pub use checkout::Checkout;
pub use refs::Commit;
pub use remote::redacted;

use super::Access;
use super::program::Runner;
use crate::cancel::Cancel;
use crate::plan::graph::GitSource;
use command::{NAME, Remote};

/// A repository could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The build was cancelled.
    #[error(transparent)]
    Cancelled(#[from] crate::cancel::Cancelled),
    /// What was asked for cannot be: the text says why.
    #[error("{0}")]
    Invalid(String),
    /// git said no.
    #[error("{doing}: git stderr:\n{}\n: exit status {code}", .stderr.trim_end())]
    Failed {
        /// The operation and its object.
        doing: String,
        /// What git wrote, without passwords.
        stderr: String,
        /// Its exit code.
        code: i32,
    },
    /// There is no git.
    #[error("failed to find git binary: exec: \"git\": executable file not found in $PATH")]
    NoGit,
    /// git could not be started.
    #[error("failed to start git: {0}")]
    Start(#[source] std::io::Error),
    /// Our own files.
    #[error("failed to {doing}: {reason}")]
    Store {
        /// The operation and its object.
        doing: String,
        /// What went wrong.
        reason: String,
    },
}

impl GitError {
    /// A line that helps the user out, if we know one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoGit => Some("install git: it fetches git sources".to_owned()),
            Self::Failed { stderr, .. } if stderr.contains("terminal prompts disabled") => Some(
                "the repository wants credentials: --secret id=GIT_AUTH_TOKEN or a git credential helper".to_owned(),
            ),
            Self::Failed { stderr, .. } if stderr.contains("Permission denied (publickey") => {
                Some("no key was accepted: ssh-add it and use --ssh default".to_owned())
            }
            Self::Cancelled(_) | Self::Invalid(_) | Self::Failed { .. } | Self::Start(_) | Self::Store { .. } => None,
        }
    }
}

/// What a ref of a remote was found to mean; the lock is held while it is asked.
type Resolved = Arc<Mutex<Option<Commit>>>;

/// Repositories for one build.
pub struct Git {
    store: Store,
    runner: Runner,
    access: Arc<Access>,
    resolved: Mutex<BTreeMap<(String, Option<String>), Resolved>>,
    ssh_config: Mutex<Option<TempDir>>,
}

impl std::fmt::Debug for Git {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Git").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Git {
    /// Repositories are kept in `store`, git is run by `runner`.
    pub(super) fn new(store: Store, runner: Runner, access: Arc<Access>) -> Self {
        Self { store, runner, access, resolved: Mutex::default(), ssh_config: Mutex::default() }
    }

    /// The commit a source stands for now. Asks the remote unless the source names a whole commit id.
    pub fn resolve(&self, source: &GitSource, cancel: &Cancel) -> Result<Commit, GitError> {
        let GitSource { remote, reference, checksum, fetch_by_commit, .. } = source;
        if let Some(checksum) = checksum
            && !checksum.bytes().all(|b| b.is_ascii_hexdigit())
        {
            let text = format!("invalid checksum {checksum} for Git URL, expected hex commit hash");
            return Err(GitError::Invalid(text));
        }
        if let Some(refusal) = remote::refusal(remote) {
            return Err(GitError::Invalid(refusal));
        }
        if let Some(reference) = reference {
            refs::check_name(reference)?;
        }
        let commit = match reference {
            Some(id) if refs::is_id(id) => Commit { id: id.clone(), tag: None, reference: None },
            Some(_) | None if *fetch_by_commit => named_by_checksum(reference.as_deref(), checksum.as_deref())?,
            Some(_) | None => self.asked(remote, reference.as_deref(), cancel)?,
        };
        if let Some(checksum) = checksum {
            refs::check_sum(&commit, checksum)?;
        }
        Ok(commit)
    }

    fn asked(&self, remote: &str, reference: Option<&str>, cancel: &Cancel) -> Result<Commit, GitError> {
        let cell = {
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.entry((remote.to_owned(), reference.map(str::to_owned))).or_default().clone()
        };
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commit) = cell.as_ref() {
            return Ok(commit.clone());
        }
        let peeled = format!("{}^{{}}", reference.unwrap_or_default());
        let args = match reference.filter(|name| *name != "HEAD") {
            Some(name) => vec!["ls-remote", NAME, name, &peeled],
            None => vec!["ls-remote", "--symref", NAME, "HEAD"],
        };
        let shown = remote::redacted(remote);
        let call = self.remote(Remote { address: remote, main: remote }, None, &args, cancel)?;
        let output = self.output(&call, &format!("failed to fetch remote {shown}"), cancel)?;
        let commit = refs::pick(reference, &String::from_utf8_lossy(&output), &shown)?;
        *cell = Some(commit.clone());
        Ok(commit)
    }

    /// The files of a commit that [`Git::resolve`] found, checked out in a temporary directory.
    pub fn checkout(&self, source: &GitSource, commit: &Commit, cancel: &Cancel) -> Result<Checkout, GitError> {
        checkout::Work { git: self, source, cancel }.run(commit)
    }
}

/// `fetch-by-commit`: the checksum is the commit, whatever the ref means on the remote.
fn named_by_checksum(reference: Option<&str>, checksum: Option<&str>) -> Result<Commit, GitError> {
    let invalid = |text: String| Err(GitError::Invalid(text));
    let Some(checksum) = checksum else {
        return invalid("fetch-by-commit requires a checksum or a commit SHA ref".to_owned());
    };
    if !refs::is_id(checksum) {
        return invalid(format!("fetch-by-commit requires a full commit SHA checksum, got {checksum:?}"));
    }
    let full = |name: &str| if name.starts_with("refs/") { name.to_owned() } else { format!("refs/heads/{name}") };
    let reference = reference.map(full);
    if let Some(name) = reference.as_deref().filter(|name| !refs::is_full_name(name)) {
        return invalid(format!("invalid git ref {name:?}"));
    }
    Ok(Commit { id: checksum.to_owned(), tag: None, reference })
}

/// Makes a fault of our own files.
fn store_error(doing: impl Into<String>) -> impl Fn(&dyn std::fmt::Display) -> GitError {
    let doing = doing.into();
    move |reason| GitError::Store { doing: doing.clone(), reason: reason.to_string() }
}
