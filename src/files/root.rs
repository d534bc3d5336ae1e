//! Paths resolved beneath a root.
//!
//! `openat2` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS does it in one call; where the kernel or a seccomp filter refuses
//! that call, a walk by components with O_NOFOLLOW does the same. Following links inside the root (RESOLVE_IN_ROOT) is a
//! method of its own, for the few files that are ours to follow.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::dir::{Dir, Stat, regular};
use crate::tar::entry::LayerPath;

/// How often a lookup that raced with a rename is tried again.
const RETRIES: u32 = 64;
/// Most links followed on one path.
const MAX_LINKS: u32 = 255;

/// A directory that paths are opened beneath.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    /// Set once `openat2` turned out not to be there.
    by_components: AtomicBool,
}

impl Root {
    /// Opens a directory as a root. The path itself is trusted and followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned(), by_components: AtomicBool::new(false) })
    }

    /// The path it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's own descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a directory beneath; a symlink anywhere on the way is an error.
    pub fn dir(&self, path: &LayerPath) -> io::Result<Dir> {
        Ok(Dir::new(self.beneath(path, OFlags::RDONLY | OFlags::DIRECTORY)?))
    }

    /// Opens a regular file beneath for reading; a symlink anywhere on the way is an error.
    pub fn file(&self, path: &LayerPath) -> io::Result<File> {
        regular(self.beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)?)
    }

    /// What is at a path; `None` if it or a directory above it is not there (or is a symlink, or no directory).
    pub fn stat(&self, path: &LayerPath) -> io::Result<Option<Stat>> {
        let Some(parent) = path.parent() else { return Stat::of(&self.fd).map(Some) };
        match self.dir(&parent) {
            Ok(dir) => dir.stat(path.name()),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a regular file beneath, following symlinks as if this were the root directory; `None` if it is not there.
    pub fn follow(&self, path: &LayerPath) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match self.openat2(path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
            Some(result) => result.map_err(io::Error::from),
            None => self.follow_by_components(path).and_then(|real| self.beneath(&real, flags)),
        };
        match opened {
            Ok(fd) => regular(fd).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a path beneath without following any symlink, in one call or by components.
    fn beneath(&self, path: &LayerPath, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match self.openat2(path, flags, resolve) {
            Some(result) => Ok(result?),
            None => self.beneath_by_components(path, flags),
        }
    }

    /// `None` if there is no such system call here.
    fn openat2(&self, path: &LayerPath, flags: OFlags, resolve: ResolveFlags) -> Option<Result<OwnedFd, Errno>> {
        if self.by_components.load(Ordering::Relaxed) {
            return None;
        }
        for _ in 0..RETRIES {
            match rustix::fs::openat2(&self.fd, path.as_path(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Container runtimes answer unknown calls with EPERM; a file's own EPERM comes again below.
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.by_components.store(true, Ordering::Relaxed);
                    return None;
                }
                result => return Some(result),
            }
        }
        Some(Err(Errno::AGAIN))
    }

    fn beneath_by_components(&self, path: &LayerPath, flags: OFlags) -> io::Result<OwnedFd> {
        let parts: Vec<_> = path.components().collect();
        let Some((last, above)) = parts.split_last() else {
            return Ok(rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?);
        };
        let on_the_way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = None;
        for part in above {
            let at = here.as_ref().map_or(self.fd.as_fd(), OwnedFd::as_fd);
            here = Some(rustix::fs::openat(at, *part, on_the_way, Mode::empty())?);
        }
        let at = here.as_ref().map_or(self.fd.as_fd(), OwnedFd::as_fd);
        Ok(rustix::fs::openat(at, *last, flags, Mode::empty())?)
    }

    /// Where a path leads when links are followed inside the root.
    fn follow_by_components(&self, path: &LayerPath) -> io::Result<LayerPath> {
        let reversed = |text: &[u8]| text.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut pending = reversed(path.as_bytes());
        let (mut here, mut links) = (LayerPath::root(), 0);
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here = here.parent().unwrap_or_default();
                    continue;
                }
                _ => {}
            }
            let dir =
                Dir::new(self.beneath_by_components(&here, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)?);
            match dir.link(&name) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.starts_with(b"/") {
                        here = LayerPath::root();
                    }
                    pending.extend(reversed(&target));
                }
                // Not a link.
                Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => here = here.join(&name),
                Err(e) => return Err(e),
            }
        }
        Ok(here)
    }
}

/// Whether an error of [`Root::dir`] only says that there is no such directory.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].iter().any(|e| code == Some(e.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, at(name)).expect("link");
        fs_err::create_dir_all(at("root/d/e")).expect("dirs");
        fs_err::write(at("root/d/f"), "inside").expect("file");
        fs_err::write(at("secret"), "outside").expect("file");
        link("../../secret", "root/d/up");
        link(&at("secret").to_string_lossy(), "root/abs");
        link("/d", "root/in");
        link("d/f", "root/f");
        link("loop", "root/loop");
        link("../secret", "root/out");
        let root = Root::open(&at("root")).expect("root");
        (dir, root)
    }

    fn check(by_components: bool) {
        let (_dir, root) = tree();
        root.by_components.store(by_components, Ordering::Relaxed);
        let read = |file: io::Result<File>| {
            file.and_then(|mut f| {
                let mut text = String::new();
                f.read_to_string(&mut text).map(|_| text)
            })
        };
        let plain = |path: &str| read(root.file(&LayerPath::clean(path))).ok();
        let follow = |path: &str| match root.follow(&LayerPath::clean(path)) {
            Ok(Some(file)) => read(Ok(file)).expect("readable"),
            Ok(None) => "none".to_owned(),
            Err(e) => format!("error {:?}", e.raw_os_error()),
        };
        assert_eq!(plain("d/f").as_deref(), Some("inside"));
        for path in ["d/up", "abs", "in/f", "f", "out", "d", "no", "d/f/x"] {
            assert_eq!(plain(path), None, "{path}");
        }
        assert_eq!(follow("in/f"), "inside");
        assert_eq!(follow("f"), "inside");
        for path in ["d/up", "abs", "out", "no", "d/f/x"] {
            assert_eq!(follow(path), "none", "{path}");
        }
        assert_eq!(follow("loop"), "error Some(40)");
        let stat = |path: &str| root.stat(&LayerPath::clean(path)).expect("stat").map(|s| s.kind);
        assert_eq!(stat(""), Some(super::super::FileKind::Directory));
        assert_eq!(stat("in"), Some(super::super::FileKind::Symlink));
        assert_eq!(stat("in/f"), None);
        assert_eq!(stat("d/f"), Some(super::super::FileKind::Regular));
        let names = root.dir(&LayerPath::root()).expect("dir").names().expect("names");
        let names: Vec<_> = names.iter().map(|n| String::from_utf8_lossy(&n.bytes).into_owned()).collect();
        assert_eq!(names, ["abs", "d", "f", "in", "loop", "out"]);
    }

    #[test]
    fn links_never_lead_out() {
        check(false);
    }

    #[test]
    fn nor_without_openat2() {
        check(true);
    }
}
