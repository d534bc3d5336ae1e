//! A commit's files in a directory: one repository after the other, submodules where the index has them.
//!
//! Each repository is given back before the next one is taken, so two builds whose repositories contain each other never wait
//! for each other. Submodules are put in place by ourselves: git's own command would believe what `.gitmodules` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rbuild_cache::TempDir;

use super::command::{Call, Remote};
use super::repository::Repository;
use super::submodules::{Listed, Module, listed, modules};
use super::{Commit, Git, GitError, refs, remote, store_error};
use crate::cancel::Cancel;
use crate::files::Root;
use crate::plan::graph::GitSource;
use crate::tar::entry::LayerPath;

/// Most submodules of one source, those of submodules included.
const MOST_SUBMODULES: usize = 1000;

/// Files of a commit in a directory that lives as long as this.
#[derive(Debug)]
pub struct Checkout {
    /// Holds everything.
    pub directory: TempDir,
    /// The source's root: the directory asked for.
    pub root: PathBuf,
    /// When the commit was made, in seconds since 1970.
    pub committed: i64,
}

/// One checkout being made.
pub(super) struct Work<'a> {
    pub(super) git: &'a Git,
    pub(super) source: &'a GitSource,
    pub(super) cancel: &'a Cancel,
}

/// One repository to be put in place.
struct Piece {
    remote: String,
    commit: Commit,
    /// Where in the checkout.
    at: LayerPath,
    /// What of it; the root is all.
    only: LayerPath,
    keep_git_dir: bool,
}

/// What is in a repository that was put in place.
struct Placed {
    submodules: Vec<Piece>,
    committed: i64,
}

impl Work<'_> {
    pub(super) fn run(&self, commit: &Commit) -> Result<Checkout, GitError> {
        let store = store_error("make a directory for a checkout");
        let directory = self.git.store.temp_dir("git").map_err(|e| store(&e))?;
        let tree = directory.path().join("tree");
        fs_err::create_dir(&tree).map_err(|e| store(&e))?;
        let only = LayerPath::clean(self.source.subdir.as_deref().unwrap_or_default());
        let keep_git_dir = self.source.keep_git_dir && only.is_root();
        let remote = self.source.remote.clone();
        let first = Piece { remote, commit: commit.clone(), at: LayerPath::root(), only: only.clone(), keep_git_dir };
        let Placed { submodules: mut pieces, committed } = self.place(&first, directory.path(), &tree)?;
        let mut count = 0;
        while let Some(piece) = pieces.pop() {
            count += 1;
            let failed = |error| self.submodule_failed(error);
            if count > MOST_SUBMODULES {
                return Err(failed(GitError::Invalid(format!("more than {MOST_SUBMODULES} submodules"))));
            }
            pieces.extend(self.place(&piece, directory.path(), &tree).map_err(failed)?.submodules);
        }
        // Nobody but us writes here, so what is checked stays true.
        Root::open(&tree).and_then(|root| root.dir(&only)).map_err(|_| not_a_directory(&only))?;
        let root = if only.is_root() { tree } else { tree.join(only.as_path()) };
        Ok(Checkout { directory, root, committed })
    }

    fn submodule_failed(&self, error: GitError) -> GitError {
        let doing = format!("failed to update submodules for {}", remote::redacted(&self.source.remote));
        match error {
            GitError::Invalid(text) => GitError::Invalid(format!("{doing}: {text}")),
            GitError::Failed { doing: what, stderr, code } => {
                GitError::Failed { doing: format!("{doing}: {what}"), stderr, code }
            }
            other @ (GitError::Cancelled(_) | GitError::NoGit | GitError::Start(_) | GitError::Store { .. }) => other,
        }
    }

    /// Fetches a repository and puts it in place; once more from nothing if ours turns out to be damaged.
    fn place(&self, piece: &Piece, scratch: &Path, tree: &Path) -> Result<Placed, GitError> {
        let there = directory(piece, tree)?;
        let main = self.source.remote.as_str();
        let remote = Remote { address: &piece.remote, main };
        let mut repository = Repository::open(self.git, remote, &piece.commit.id, self.cancel)?;
        let index = scratch.join("index");
        match self.place_from(&repository, piece, &index, &there) {
            Err(error) if repository.may_be_damaged(&error) => {
                repository.reset(&piece.commit.id)?;
                self.place_from(&repository, piece, &index, &there)
            }
            other => other,
        }
    }

    fn place_from(
        &self,
        repository: &Repository<'_>,
        piece: &Piece,
        index: &Path,
        there: &Path,
    ) -> Result<Placed, GitError> {
        let by_commit = self.source.fetch_by_commit && piece.at.is_root();
        repository.fetch(&piece.commit, piece.keep_git_dir, by_commit)?;
        let doing = format!("failed to checkout remote {}", remote::redacted(&piece.remote));
        let run = |call: Call<'_>| self.git.output(&call, &doing, self.cancel);
        let peeled =
            run(Call::plain(&repository.path, &["rev-parse", "--verify", &format!("{}^{{commit}}", piece.commit.id)]))?;
        let id = String::from_utf8_lossy(&peeled).trim().to_owned();
        match fs_err::remove_file(index) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(store_error("remove an index")(&error));
            }
            Ok(()) | Err(_) => {}
        }
        let git = |args: &[&str]| run(Call::plain(&repository.path, args).work_tree(there).index(index));
        if piece.keep_git_dir {
            self.with_git_dir(repository, piece, &id, there)?;
            git(&["read-tree", &id])?;
        } else if piece.only.is_root() {
            git(&["read-tree", "--reset", "-u", &id])?;
        } else {
            git(&["read-tree", &id])?;
        }
        let listing = git(&["ls-files", "-s", "-z"])?;
        let wanted = |path: &LayerPath| path.is_within(&piece.only);
        let mut submodules = Vec::new();
        if !piece.only.is_root() {
            if listed(&listing).any(|entry| wanted(&entry.path) && entry.path != piece.only) {
                let only = piece.only.to_string();
                git(&["--literal-pathspecs", "checkout", "-f", "--", only.trim_start_matches('/')])?;
            } else {
                return self.inside_submodule(repository, piece, &id, &listing, there);
            }
        }
        if self.source.submodules {
            let entries: Vec<_> = listed(&listing).filter(|e| e.is_submodule() && wanted(&e.path)).collect();
            if !entries.is_empty() {
                let known = self.modules(repository, &id, &listing)?;
                for entry in entries {
                    let Some(submodule) = self.submodule(piece, &entry, LayerPath::root(), &known)? else { continue };
                    if piece.keep_git_dir {
                        // What makes it one of those that git looks after.
                        let key = format!("submodule.{}.url", known[&entry.path].name);
                        let url = remote::redacted(&submodule.remote);
                        run(Call::plain(&there.join(".git"), &["config", &key, &url]))?;
                    }
                    submodules.push(submodule);
                }
            }
        }
        Ok(Placed { submodules, committed: committed(repository, &id)? })
    }

    /// The directory asked for is not in this repository: maybe it is (in) a submodule, which is then all that is needed.
    fn inside_submodule(
        &self,
        repository: &Repository<'_>,
        piece: &Piece,
        id: &str,
        listing: &[u8],
        there: &Path,
    ) -> Result<Placed, GitError> {
        let entry = listed(listing).find(|entry| entry.is_submodule() && piece.only.is_within(&entry.path));
        let Some(entry) = entry.filter(|_| self.source.submodules) else { return Err(not_a_directory(&piece.only)) };
        let known = self.modules(repository, id, listing)?;
        let only = piece.only.strip(&entry.path).unwrap_or_default();
        let submodule = self.submodule(piece, &entry, only, &known)?;
        // Nothing else is checked out, so there is no link on the way.
        fs_err::create_dir_all(there.join(entry.path.as_path())).map_err(|e| store_error("make a directory")(&e))?;
        Ok(Placed { submodules: submodule.into_iter().collect(), committed: committed(repository, id)? })
    }

    fn modules(
        &self,
        repository: &Repository<'_>,
        id: &str,
        listing: &[u8],
    ) -> Result<BTreeMap<LayerPath, Module>, GitError> {
        let file = LayerPath::clean(".gitmodules");
        if !listed(listing).any(|entry| entry.path == file && entry.is_file()) {
            return Ok(BTreeMap::new());
        }
        let blob = format!("{id}:.gitmodules");
        let args = ["config", "-z", "--blob", &blob, "--get-regexp", r"^submodule\..*\.(path|url|update)$"];
        let call = Call::plain(&repository.path, &args);
        let ended = self.git.run(&call, self.cancel)?;
        match ended.code {
            0 => Ok(modules(&ended.stdout)),
            // Nothing of the kind in it.
            1 => Ok(BTreeMap::new()),
            code => {
                let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
                Err(self.submodule_failed(GitError::Failed { doing: "read .gitmodules".to_owned(), stderr, code }))
            }
        }
    }

    /// Where a submodule comes from; `None` if it is not to be fetched.
    fn submodule(
        &self,
        parent: &Piece,
        entry: &Listed<'_>,
        only: LayerPath,
        known: &BTreeMap<LayerPath, Module>,
    ) -> Result<Option<Piece>, GitError> {
        let path = entry.path.to_string();
        let path = path.trim_start_matches('/');
        let refused = |text: String| Err(self.submodule_failed(GitError::Invalid(text)));
        let module = known.get(&entry.path);
        if module.is_some_and(|module| module.skipped) {
            return Ok(None);
        }
        let Some(url) = module.and_then(|module| module.url.as_deref()) else {
            return refused(format!("no url found for submodule path '{path}' in .gitmodules"));
        };
        let remote = remote::of_submodule(&parent.remote, url);
        if let Some(refusal) = remote::refusal(&remote) {
            return refused(format!("submodule path '{path}': {refusal}"));
        }
        if !refs::is_id(&entry.id) {
            return refused(format!("invalid commit sha {:?}", entry.id));
        }
        let commit = Commit { id: entry.id.clone(), tag: None, reference: None };
        let at = parent.at.append(&entry.path);
        Ok(Some(Piece { remote, commit, at, only, keep_git_dir: parent.keep_git_dir }))
    }

    /// A repository of its own, of one commit, with its files checked out.
    fn with_git_dir(&self, repository: &Repository<'_>, piece: &Piece, id: &str, there: &Path) -> Result<(), GitError> {
        let shown = remote::redacted(&piece.remote);
        let doing = format!("failed to checkout remote {shown}");
        let dir = there.join(".git");
        if fs_err::symlink_metadata(&dir).is_ok() {
            // From a try that found our repository damaged.
            fs_err::remove_dir_all(&dir).map_err(|e| store_error("remove a repository")(&e))?;
        }
        let run = |call: Call<'_>| self.git.output(&call.work_tree(there), &doing, self.cancel).map(drop);
        let mut init = vec!["init", "--quiet", "--template="];
        if id.len() == 64 {
            init.push("--object-format=sha256");
        }
        run(Call::plain(&dir, &init))?;
        let from = repository.name(piece.commit.tag.as_deref().unwrap_or(&piece.commit.id))?;
        let reference = piece.commit.reference.as_deref();
        let refspec = reference.map_or_else(|| from.clone(), |name| format!("{from}:{name}"));
        let source = repository.path.display().to_string();
        let fetch = ["fetch", "--quiet", "--no-tags", "--depth=1", "--update-head-ok", "--", &source, &refspec];
        run(Call::copy(&dir, &fetch))?;
        run(Call::plain(&dir, &["checkout", "--quiet", "--force", "--detach", id]))?;
        run(Call::plain(&dir, &["remote", "add", "origin", &shown]))?;
        for name in ["FETCH_HEAD", "ORIG_HEAD"] {
            match fs_err::remove_file(dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(store_error("tidy up a repository")(&error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The directory of a piece, which git has made if it is a submodule. No link leads there.
fn directory(piece: &Piece, tree: &Path) -> Result<PathBuf, GitError> {
    if piece.at.is_root() {
        return Ok(tree.to_owned());
    }
    let refused = |_| GitError::Invalid(format!("submodule path {} is not a directory", piece.at));
    Root::open(tree).and_then(|root| root.dir(&piece.at)).map_err(refused)?;
    Ok(tree.join(piece.at.as_path()))
}

fn committed(repository: &Repository<'_>, id: &str) -> Result<i64, GitError> {
    let object = repository.plain(&["cat-file", "commit", id], "failed to get commit time")?;
    Ok(commit_time(&object))
}

/// The committer's time in a commit object; the beginning of time if it has none.
fn commit_time(object: &[u8]) -> i64 {
    let mut lines = object.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let line = lines.find(|line| line.starts_with(b"committer "));
    let after_name = line.and_then(|line| Some(&line[line.iter().rposition(|byte| *byte == b'>')? + 1..]));
    let text = after_name.map(String::from_utf8_lossy).unwrap_or_default();
    text.split_whitespace().next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

fn not_a_directory(path: &LayerPath) -> GitError {
    let path = path.to_string();
    let path = path.trim_start_matches('/');
    GitError::Invalid(format!("invalid subdir {path}: git subpath {path:?} contains non-directory or is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_times() {
        let object =
            b"tree x\nauthor a <a> 5 +0000\ncommitter A > B <c@d> 1700000000 +0100\n\ncommitter x <y> 7 +0000\n";
        assert_eq!(commit_time(object), 1_700_000_000);
        assert_eq!(commit_time(b"tree x\n\n"), 0);
    }
}
