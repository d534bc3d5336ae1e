//! Paths resolved inside a root, one component at a time and by descriptor, making what is missing if asked to.
//!
//! Every component is opened relative to the one before without following links; links are read and their text is walked
//! the same way, `..` stops at the root. So no link in an image or in a shared cache directory, even one that changes
//! meanwhile, leads out of the root, and we know each path we made by its real name.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, chmodat, chownat, fstat, mkdirat, openat, readlinkat,
    statx,
};
use rustix::io::Errno;

use super::mounts::{Target, enter};
use crate::exec::stubs::{Moment, Parent, Stub};

/// Links followed in one look-up at most.
const MAX_LINKS: usize = 255;

/// What to do about missing entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make directories, and remember them to be removed after the step.
    MountDirectory,
    /// Make directories and an empty file at the end, and remember them.
    MountFile,
    /// Make directories that stay, owned by this user and group.
    Directory(u32, u32),
    /// Make directories that stay, though something is mounted there: /proc, /sys and /dev, which runtimes add to an image that
    /// lacks them, and so does BuildKit.
    SystemDirectory,
    /// Report `ENOENT`.
    Fail,
}

/// A root, and what was made in it only to be mounted on.
#[derive(Debug)]
pub(crate) struct Rooted {
    root: OwnedFd,
    mount: Option<u64>,
    /// In the order they were made.
    pub(crate) stubs: Vec<Stub>,
    /// The directories in which they were made, with the times they had before.
    pub(crate) parents: Vec<(OwnedFd, Parent)>,
}

impl Rooted {
    /// Walks below the directory `root`.
    pub(crate) fn new(root: OwnedFd) -> Self {
        let mount = mount_of(&root);
        Self { root, mount, stubs: Vec::new(), parents: Vec::new() }
    }

    /// Walks below the directory at `path`.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::new(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// The path without links that `path` leads to, relative to the root.
    pub(crate) fn real_path(&mut self, path: &str, missing: Missing) -> io::Result<String> {
        let names: Vec<String> = self.walk(path, missing)?.into_iter().map(|(name, _)| name).collect();
        Ok(names.join("/"))
    }

    /// The root itself.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The entry at `path`, ready to be mounted on; `EBUSY` for the root itself.
    pub(crate) fn target(&mut self, path: &str, missing: Missing) -> io::Result<Target> {
        let mut stack = self.walk(path, missing)?;
        let Some((name, fd)) = stack.pop() else { return Err(Errno::BUSY.into()) };
        let parent = match stack.pop() {
            Some((_, parent)) => parent,
            None => self.root.try_clone()?,
        };
        Ok(Target { parent, name, fd })
    }

    /// The entry at `path`.
    pub(crate) fn open(&mut self, path: &str, missing: Missing) -> io::Result<OwnedFd> {
        match self.walk(path, missing)?.pop() {
            Some((_, fd)) => Ok(fd),
            None => self.root.try_clone(),
        }
    }

    /// The names and descriptors from the root to the entry.
    fn walk(&mut self, path: &str, missing: Missing) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut stack: Vec<(String, OwnedFd)> = Vec::new();
        let mut todo: VecDeque<String> = components(path).collect();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                stack.pop();
                continue;
            }
            let last = todo.is_empty();
            let top = stack.last().map_or(&self.root, |(_, fd)| fd);
            let fd = match enter(top, &name) {
                Ok(fd) => fd,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                    let top = top.try_clone()?;
                    let at = stack.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("/");
                    self.make(&top, &at, &name, missing, last)?
                }
                Err(error) => return Err(error),
            };
            match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let text = readlinkat(&fd, "", Vec::new())?;
                    let text = text.to_str().map_err(|_| Errno::ILSEQ)?;
                    if text.starts_with('/') {
                        stack.clear();
                    }
                    for component in components(text).rev().collect::<Vec<_>>() {
                        todo.push_front(component);
                    }
                }
                FileType::Directory => stack.push((name, fd)),
                _ if last => stack.push((name, fd)),
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Ok(stack)
    }

    fn make(&mut self, top: &OwnedFd, at: &str, name: &str, missing: Missing, last: bool) -> io::Result<OwnedFd> {
        let file = match missing {
            Missing::Fail => return Err(Errno::NOENT.into()),
            Missing::MountFile => last,
            Missing::MountDirectory | Missing::Directory(..) | Missing::SystemDirectory => false,
        };
        let before = Moment::of(&fstat(top)?);
        if file {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            openat(top, name, flags, Mode::from_raw_mode(0o644))?;
        } else {
            mkdirat(top, name, Mode::from_raw_mode(0o755))?;
            // Whatever the umask is.
            chmodat(top, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
        }
        match missing {
            Missing::Directory(uid, gid) => {
                let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                match chownat(top, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW) {
                    // An id that does not exist in this user namespace, or whom we may give nothing.
                    Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            // What is made on some other mount (a cache, a tmpfs) is no part of the layer.
            Missing::MountDirectory | Missing::MountFile if mount_of(top) == self.mount => {
                let path = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
                self.stubs.push(Stub { path, directory: !file });
                if !self.parents.iter().any(|(_, parent)| parent.path == at) {
                    self.parents.push((top.try_clone()?, Parent { path: at.to_owned(), before, after: before }));
                }
            }
            Missing::MountDirectory | Missing::MountFile | Missing::SystemDirectory | Missing::Fail => {}
        }
        enter(top, name)
    }
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = String> + '_ {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned)
}

/// Which mount a descriptor is on; `None` before Linux 5.8, where every mount then counts as the root.
fn mount_of(fd: impl AsFd) -> Option<u64> {
    let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_root_and_stubs_have_real_names() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = temp.path().join("root");
        fs_err::create_dir_all(root.join("real")).expect("mkdir");
        symlink("/real", root.join("abs")).expect("link");
        symlink("../../../real", root.join("up")).expect("link");
        let mut walk = Rooted::at(&root).expect("opens");
        walk.target("/abs/../up/a/b", Missing::MountDirectory).expect("makes");
        walk.target("abs/a/f", Missing::MountFile).expect("makes");
        let names: Vec<_> = walk.stubs.iter().map(|stub| (stub.path.as_str(), stub.directory)).collect();
        assert_eq!(names, [("real/a", true), ("real/a/b", true), ("real/a/f", false)]);
        assert_eq!(walk.parents.iter().map(|(_, parent)| parent.path.as_str()).collect::<Vec<_>>(), ["real", "real/a"]);
        assert!(root.join("real/a/f").is_file());
    }

    #[test]
    fn refuses_loops_files_as_directories_and_the_root() {
        let temp = tempfile::tempdir().expect("temp dir");
        symlink("loop", temp.path().join("loop")).expect("link");
        fs_err::write(temp.path().join("file"), "").expect("write");
        let mut walk = Rooted::at(temp.path()).expect("opens");
        let errno = |result: io::Result<Target>| Errno::from_io_error(&result.expect_err("fails"));
        assert_eq!(errno(walk.target("/loop", Missing::Fail)), Some(Errno::LOOP));
        assert_eq!(errno(walk.target("/file/x", Missing::MountFile)), Some(Errno::NOTDIR));
        assert_eq!(errno(walk.target("/none", Missing::Fail)), Some(Errno::NOENT));
        assert_eq!(errno(walk.target("/a/..", Missing::Fail)), Some(Errno::NOENT));
        assert_eq!(errno(walk.target("/", Missing::MountDirectory)), Some(Errno::BUSY));
    }
}
