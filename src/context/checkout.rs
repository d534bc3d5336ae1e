//! A context or source that came from a repository: a directory of our own, whose times and modes say nothing.
//!
//! Modes are what git knows, 0644 and 0755, whatever the umask was; all times are one. No ignore file applies (D180).

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use super::{Absence, Context, Filter, Node, Tree, TreeError, Walked, Want};
use crate::tar::entry::{Kind, LayerPath};
use crate::transfer::Seen;

/// Files of a checkout. `D` keeps the directory alive.
pub struct CheckoutContext<D> {
    files: Context,
    mtime: i64,
    _directory: D,
}

impl<D> fmt::Debug for CheckoutContext<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckoutContext").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<D> CheckoutContext<D> {
    /// The files below `root`, which is in `directory`; all have `mtime`.
    pub fn open(root: &Path, mtime: i64, directory: D) -> io::Result<Self> {
        // Hashes are worth nothing beyond the life of the directory, so they are never saved.
        let files = Context::open(root, None, &root.join(".never-saved"))?;
        Ok(Self { files, mtime, _directory: directory })
    }

    fn plain(&self, mut node: Node) -> Node {
        let meta = &mut node.entry.meta;
        meta.mtime = self.mtime;
        meta.mode = match node.entry.kind {
            Kind::Symlink(_) => 0o777,
            Kind::Directory { .. } => 0o755,
            // The owner's bits for everybody, but only the owner writes. Files in `.git` may be read-only.
            _ => {
                let owner = meta.mode >> 6 & 0o7;
                owner << 6 | (owner & 0o5) << 3 | (owner & 0o5)
            }
        };
        node
    }
}

impl<D: Send + Sync> Tree for CheckoutContext<D> {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        Ok(self.files.lookup(path)?.map(|node| self.plain(node)))
    }

    fn see(&self, path: &LayerPath) -> Result<Seen, TreeError> {
        self.files.see(path)
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        Ok(self.files.children(dir, want)?.into_iter().map(|node| self.plain(node)).collect())
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        self.files.read(path)
    }

    fn walk(&self, top: &LayerPath, filter: &Filter) -> Result<Vec<Walked>, TreeError> {
        let walked = self.files.walk(top, filter)?;
        Ok(walked.into_iter().map(|w| Walked { node: self.plain(w.node), implied: w.implied }).collect())
    }

    fn absence(&self, path: &LayerPath) -> Option<Absence> {
        self.files.absence(path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn modes_and_times_are_plain() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = |name: &str, mode| {
            fs_err::write(dir.path().join(name), name).expect("write");
            fs_err::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).expect("mode");
        };
        file("a", 0o600);
        file("b", 0o775);
        file("c", 0o400);
        fs_err::create_dir(dir.path().join("d")).expect("dir");
        symlink("a", dir.path().join("l")).expect("link");
        let tree = CheckoutContext::open(dir.path(), 7, ()).expect("opens");
        let walked = tree.walk(&LayerPath::root(), &Filter::all()).expect("walks");
        let found: Vec<_> = walked
            .iter()
            .map(|w| format!("{} {:o} {}", w.node.entry.path, w.node.entry.meta.mode, w.node.entry.meta.mtime))
            .collect();
        assert_eq!(found, ["/a 644 7", "/b 755 7", "/c 444 7", "/d 755 7", "/l 777 7"]);
        let looked_up = tree.lookup(&LayerPath::clean("b")).expect("there").expect("there");
        assert_eq!(looked_up, walked[1].node);
    }
}
