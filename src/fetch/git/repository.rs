//! A remote's repository in the store: bare, shallow, one for each remote, used by one process at a time.
//!
//! Its refs are only there to be offered on the next fetch; what they are called means nothing.

use std::path::PathBuf;

use rbuild_cache::digest::{Blake3, KeyHasher};
use rbuild_cache::{LockGuard, LockKind};

use super::command::{Call, NAME, Remote};
use super::{Commit, Git, GitError, remote, store_error};
use crate::cancel::Cancel;

/// Version of how a repository's directory is named and laid out.
const VERSION: u32 = 1;
/// Lock files that a killed git leaves behind; ours is the only git here.
const STALE: [&str; 4] = ["shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock"];

/// A repository while we have it to ourselves.
#[derive(Debug)]
pub(super) struct Repository<'a> {
    git: &'a Git,
    remote: Remote<'a>,
    cancel: &'a Cancel,
    /// Its git directory.
    pub(super) path: PathBuf,
    /// It was empty when we came, so nothing in it can be damaged.
    fresh: bool,
    _lock: LockGuard,
}

impl<'a> Repository<'a> {
    /// Opens the repository for commits with ids like `id`, which tells the hash function; waits for others who use it.
    pub(super) fn open(git: &'a Git, remote: Remote<'a>, id: &str, cancel: &'a Cancel) -> Result<Self, GitError> {
        let shown = remote::redacted(remote.address);
        let store = store_error(format!("open the repository of {shown}"));
        let format = if id.len() == 64 { "sha256" } else { "sha1" };
        let mut hasher = KeyHasher::new("git-repository", VERSION);
        hasher.text(format).text(remote.address);
        let key: Blake3 = hasher.finish();
        let lock = git.store.lock(LockKind::CacheMount, &key.0, &|| cancel.is_cancelled(), &mut |_| {});
        cancel.check()?;
        let lock = lock.map_err(|e| store(&e))?;
        let path = git.store.cache_mount(&key, &format!("git {shown}")).map_err(|e| store(&e))?;
        for name in STALE {
            match fs_err::remove_file(path.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(store(&error)),
                Ok(()) | Err(_) => {}
            }
        }
        let mut repository = Self { git, remote, cancel, path, fresh: false, _lock: lock };
        if fs_err::symlink_metadata(repository.path.join("objects")).is_err() {
            repository.start(format)?;
        }
        Ok(repository)
    }

    fn start(&mut self, format: &str) -> Result<(), GitError> {
        self.fresh = true;
        let mut args = vec!["init", "--quiet", "--bare", "--template="];
        if format == "sha256" {
            args.push("--object-format=sha256");
        }
        self.plain(&args, "failed to init repo").map(drop)
    }

    /// Empties it, to start over.
    pub(super) fn reset(&mut self, id: &str) -> Result<(), GitError> {
        let store = store_error("empty a damaged repository");
        for entry in fs_err::read_dir(&self.path).map_err(|e| store(&e))? {
            let entry = entry.map_err(|e| store(&e))?;
            let is_dir = entry.file_type().map_err(|e| store(&e))?.is_dir();
            let path = entry.path();
            if is_dir { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) }.map_err(|e| store(&e))?;
        }
        self.start(if id.len() == 64 { "sha256" } else { "sha1" })
    }

    /// Whether starting over could help against `error`.
    pub(super) fn may_be_damaged(&self, error: &GitError) -> bool {
        const SIGNS: [&str; 9] = [
            ".lock",
            "bad object",
            "bad tree object",
            "corrupt",
            "is empty",
            "unable to read",
            "unable to update local ref",
            "refname conflict",
            "missing blob",
        ];
        match error {
            GitError::Failed { stderr, .. } => !self.fresh && SIGNS.iter().any(|sign| stderr.contains(sign)),
            GitError::Cancelled(_)
            | GitError::Invalid(_)
            | GitError::NoGit
            | GitError::Start(_)
            | GitError::Store { .. } => false,
        }
    }

    /// Runs git on it.
    pub(super) fn plain(&self, args: &[&str], doing: &str) -> Result<Vec<u8>, GitError> {
        self.git.output(&Call::plain(&self.path, args), doing, self.cancel)
    }

    fn has(&self, object: &str) -> Result<bool, GitError> {
        let call = Call::plain(&self.path, &["cat-file", "-e", object]);
        Ok(self.git.run(&call, self.cancel)?.code == 0)
    }

    /// Has the commit, and its tag if that is wanted; asks the remote only for what is not there.
    pub(super) fn fetch(&self, commit: &Commit, with_tag: bool, by_commit: bool) -> Result<(), GitError> {
        let tag = commit.tag.as_deref().filter(|_| with_tag);
        let has = || -> Result<bool, GitError> {
            Ok(self.has(&format!("{}^{{commit}}", commit.id))? && tag.map_or(Ok(true), |tag| self.has(tag))?)
        };
        if has()? {
            return Ok(());
        }
        if let Some(reference) = commit.reference.as_deref().filter(|_| !by_commit) {
            self.shallow(reference)?;
            if has()? {
                return Ok(());
            }
            // The ref has moved since it was asked.
        }
        let wanted = tag.unwrap_or(&commit.id);
        match self.shallow(wanted) {
            Ok(()) => {}
            // Not every server gives out commits that no ref names; then all of them are fetched.
            Err(GitError::Failed { .. }) if !by_commit => self.everything()?,
            Err(error) => return Err(error),
        }
        if has()? {
            return Ok(());
        }
        let named = commit.reference.as_deref().unwrap_or(&commit.id);
        Err(GitError::Invalid(format!(
            "fetched ref {named} does not match expected commit {} and commit can not be found in the repository",
            commit.id
        )))
    }

    fn shallow(&self, what: &str) -> Result<(), GitError> {
        let refspec = format!("+{what}:{}", local_name(what));
        let common = ["fetch", "--quiet", "--no-tags"];
        let tried = self.fetch_with(&[&common[..], &["--depth=1", NAME, &refspec]].concat());
        match tried {
            // Servers that only hand out files have no shallow fetch.
            Err(GitError::Failed { stderr, .. }) if stderr.contains("--depth") || stderr.contains("shallow") => {
                self.fetch_with(&[&common[..], &[NAME, &refspec]].concat())
            }
            other => other,
        }
    }

    fn everything(&self) -> Result<(), GitError> {
        let mut args = vec!["fetch", "--quiet", "--no-tags", "--prune"];
        if fs_err::symlink_metadata(self.path.join("shallow")).is_ok() {
            args.push("--unshallow");
        }
        args.extend([NAME, "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"]);
        self.fetch_with(&args)
    }

    fn fetch_with(&self, args: &[&str]) -> Result<(), GitError> {
        let call = self.git.remote(self.remote, Some(&self.path), args, self.cancel)?;
        let doing = format!("failed to fetch remote {}", remote::redacted(self.remote.address));
        self.git.output(&call, &doing, self.cancel).map(drop)
    }

    /// Gives an object a name by which another repository can fetch it.
    pub(super) fn name(&self, object: &str) -> Result<String, GitError> {
        let name = local_name(object);
        self.plain(&["update-ref", &name, object], "failed to update ref")?;
        Ok(name)
    }
}

/// A name here for something there. All are in one directory, so that no name can be in another one's way.
fn local_name(what: &str) -> String {
    format!("refs/rbuild/{}", Blake3::of(what.as_bytes()))
}
