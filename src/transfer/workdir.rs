//! WORKDIR: the directories that are missing, owned by the current user (observed 40).
//!
//! The owner is found like that of `--chown`, not like a process's: a number is also the group, an unknown name is 0.

use super::Tree;
use super::canvas::Canvas;
use super::copy::{Copied, PARENT_MODE};
use super::error::TransferError;
use super::owner::lookup_owner;
use crate::plan::graph;
use crate::tar::entry::{LayerPath, Meta};

/// Makes what is missing of `op.path`; nothing if it is there. `now` is the mtime of what is made.
pub fn workdir(op: &graph::Workdir, destination: &dyn Tree, now: i64) -> Result<Copied, TransferError> {
    let mut canvas = Canvas::new(destination);
    let (uid, gid) = match op.user.as_str() {
        "" => (0, 0),
        user => lookup_owner(&mut canvas, user, "scratch")?,
    };
    let path = canvas.resolve(&LayerPath::clean(&op.path))?;
    canvas.make_dirs(&path, &Meta { mode: PARENT_MODE, uid, gid, mtime: now, ..Meta::default() })?;
    let (entries, facts) = canvas.finish()?;
    Ok(Copied { entries, facts })
}

#[cfg(test)]
mod tests {
    use super::super::forest::Forest;
    use super::*;

    fn check(path: &str, user: &str, expected: &str) {
        let mut root = Forest::default();
        root.dir("have", 0o711, 5, 6).symlink("link", "/have/x").file("f", "", 0o644);
        root.file("etc/passwd", "bob:x:7:8::/:\n", 0o644);
        let op = graph::Workdir { path: path.to_owned(), user: user.to_owned(), mtime: None };
        let text = match workdir(&op, &root, 9) {
            Err(e) => e.to_string(),
            Ok(copied) => copied
                .entries
                .iter()
                .map(|p| {
                    let Meta { mode, uid, gid, mtime, .. } = &p.entry.meta;
                    let kept = if p.kept { "=" } else { "" };
                    format!("{kept}{} {mode:o} {uid}:{gid} {mtime}", p.entry.path)
                })
                .collect::<Vec<_>>()
                .join(", "),
        };
        assert_eq!(text, expected, "WORKDIR {path} as {user:?}");
    }

    #[test]
    fn observed_40_only_what_is_missing_is_made() {
        check("/have", "", "");
        check("/", "", "");
        check("/a/b", "", "/a 755 0:0 9, /a/b 755 0:0 9");
        check("/a", "33:44", "/a 755 33:44 9");
        check("/a", "bob", "/a 755 7:8 9");
        check("/a", "1500", "/a 755 1500:1500 9");
        check("/a", "nosuch", "/a 755 0:0 9");
        check("/have/y", "", "=/have 711 5:6 0, /have/y 755 0:0 9");
        check("/link/z", "", "=/have 711 5:6 0, /have/x 755 0:0 9, /have/x/z 755 0:0 9");
        check("/f", "", "mkdir /f: not a directory");
        check("/f/x", "", "mkdir /f: not a directory");
    }
}
