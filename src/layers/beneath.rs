//! Opening what a layer names, below a tree's root and nowhere else.
//!
//! No symbolic link is ever followed, in the middle or at the end: where links mean something, `fold` or `view` has resolved
//! them by the index before anything is opened. `openat2` does it in one call; where it is missing, or the path is longer
//! than it takes, the path is walked component by component. Trees are private to the store, so this guards against what
//! archives and build steps left in them, not against a racing writer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::tar::entry::LayerPath;

/// Set once the kernel (or a sandbox around us) has refused `openat2`.
static WALK: AtomicBool = AtomicBool::new(false);
/// How often a lookup that raced with a rename is tried again.
const RETRIES: usize = 16;

/// Opens `path` below `root`. `flags` apply to the last component.
pub(super) fn open(root: impl AsFd, path: &LayerPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let root = root.as_fd();
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !WALK.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RETRIES {
            match rustix::fs::openat2(root, path.as_path(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NAMETOOLONG) => return walk(root, path, flags),
                Err(Errno::NOSYS | Errno::PERM) => {
                    let opened = walk(root, path, flags);
                    // EPERM may also be an answer about the file; only believe it is about the call if walking works.
                    if opened.is_ok() {
                        WALK.store(true, Ordering::Relaxed);
                    }
                    return opened;
                }
                other => return other,
            }
        }
    }
    walk(root, path, flags)
}

/// Opens a directory below `root` for use as the base of further calls.
pub(super) fn directory(root: impl AsFd, path: &LayerPath) -> rustix::io::Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn walk(root: BorrowedFd<'_>, path: &LayerPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut components = path.components().peekable();
    if components.peek().is_none() {
        return rustix::fs::openat(root, ".", flags, Mode::empty());
    }
    let mut above: Option<OwnedFd> = None;
    while let Some(name) = components.next() {
        let last = components.peek().is_none();
        let flags = if last { flags } else { OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC };
        let from = above.as_ref().map_or(root, AsFd::as_fd);
        above = Some(rustix::fs::openat(from, name, flags, Mode::empty())?);
    }
    above.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_never_followed() {
        let dir = tempfile::tempdir().expect("temp");
        let at = dir.path();
        fs_err::create_dir_all(at.join("a/b")).expect("made");
        fs_err::write(at.join("a/b/f"), "x").expect("made");
        symlink("/etc", at.join("out")).expect("made");
        symlink("a", at.join("in")).expect("made");
        symlink("f", at.join("a/b/l")).expect("made");
        let root = rustix::fs::open(at, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        type How = fn(BorrowedFd<'_>, &LayerPath, OFlags) -> rustix::io::Result<OwnedFd>;
        let ways: [How; 2] = [|root, path, flags| open(root, path, flags), |root, path, flags| walk(root, path, flags)];
        for how in ways {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let read = |path: &str| how(root.as_fd(), &LayerPath::clean(path), flags).map(drop);
            assert_eq!(read("a/b/f"), Ok(()));
            assert_eq!(read("/"), Ok(()));
            assert!(read("out/passwd").is_err());
            assert!(read("in/b/f").is_err());
            assert_eq!(read("a/b/l"), Err(Errno::LOOP));
            assert_eq!(read("a/b/none"), Err(Errno::NOENT));
        }
    }
}
