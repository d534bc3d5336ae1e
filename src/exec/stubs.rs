//! What a sandbox made in a root only to mount something there, and its removal after the step.
//!
//! Nothing of the sandbox stays in the layer: neither mount points, nor the directories made for them, nor the times that
//! making them changed. What a process put there, or replaced, stays; so do /proc, /sys and /dev in an image that lacks them,
//! which is BuildKit's result too: they are no stubs. Resolves below a directory without following links, since by now the
//! step may have put anything in their place.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, openat, statat, unlinkat,
    utimensat,
};

/// A time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    seconds: i64,
    nanoseconds: i64,
}

impl Moment {
    /// When the content was last changed.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as i64 }
    }
}

/// An entry that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stub {
    /// Below the root, without links in it, without a leading `/`.
    pub(crate) path: String,
    /// A directory, else an empty file.
    pub(crate) directory: bool,
}

/// A directory in which an entry was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// As in [`Stub`]; empty for the root.
    pub(crate) path: String,
    /// Its time before.
    pub(crate) before: Moment,
    /// Its time once all was set up: if it still has it, the step changed nothing there.
    pub(crate) after: Moment,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stubs {
    /// In the order they were made.
    pub(crate) made: Vec<Stub>,
    /// The directories they were made in.
    pub(crate) parents: Vec<Parent>,
}

super::wire::wire_struct!(Moment { seconds, nanoseconds });
super::wire::wire_struct!(Stub { path, directory });
super::wire::wire_struct!(Parent { path, before, after });
super::wire::wire_struct!(Stubs { made, parents });

impl Stubs {
    /// Removes what is still empty from `directory` (an overlay's upper, or the root itself) and gives the paths that were
    /// made, absolute.
    pub(crate) fn remove(&self, directory: &Path) -> io::Result<Vec<String>> {
        if self.made.is_empty() {
            return Ok(Vec::new());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(CWD, directory, flags, Mode::empty())?;
        let mut times = BTreeMap::new();
        for parent in &self.parents {
            if let Some(fd) = below(&root, &parent.path) {
                let now = Moment::of(&fstat(&fd)?);
                let then = if now == parent.after { parent.before } else { now };
                times.insert(parent.path.as_str(), (fd, then));
            }
        }
        for stub in self.made.iter().rev() {
            let (at, name) = stub.path.rsplit_once('/').unwrap_or(("", &stub.path));
            let Some(parent) = below(&root, at) else { continue };
            let Ok(found) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            match FileType::from_raw_mode(found.st_mode) {
                // A directory that is not empty stays.
                FileType::Directory if stub.directory => drop(unlinkat(&parent, name, AtFlags::REMOVEDIR)),
                FileType::RegularFile if !stub.directory && found.st_size == 0 => {
                    unlinkat(&parent, name, AtFlags::empty())?;
                }
                _ => {}
            }
        }
        for (fd, time) in times.values() {
            set_moment(fd.as_fd(), *time);
        }
        Ok(self.made.iter().map(|stub| format!("/{}", stub.path)).collect())
    }
}

/// Gives a directory back its time; it may be gone.
pub(crate) fn set_moment(directory: BorrowedFd<'_>, time: Moment) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds as _ },
    };
    let _gone = utimensat(directory, ".", &times, AtFlags::empty());
}

/// The directory at `path`, if every component is one.
fn below(root: &OwnedFd, path: &str) -> Option<OwnedFd> {
    let mut fd = root.try_clone().ok()?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fd = openat(&fd, name, flags, Mode::empty()).ok()?;
    }
    Some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(path: &Path) -> Moment {
        Moment::of(&rustix::fs::stat(path).expect("stat"))
    }

    #[test]
    fn removes_what_is_empty_and_restores_times_nobody_else_changed() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = temp.path();
        let before = Moment { seconds: 1000, nanoseconds: 5 };
        for dir in ["made/inner", "used", "etc"] {
            fs_err::create_dir_all(root.join(dir)).expect("mkdir");
        }
        fs_err::write(root.join("etc/hosts"), "").expect("write");
        fs_err::write(root.join("used/data"), "x").expect("write");
        let made = [("made", true), ("made/inner", true), ("used", true), ("etc/hosts", false)]
            .map(|(path, directory)| Stub { path: path.into(), directory });
        let parent = |path: &str, after| Parent { path: path.into(), before, after };
        let touched = Moment { seconds: 1, nanoseconds: 1 };
        let parents = vec![parent("", time(root)), parent("made", time(&root.join("made"))), parent("etc", touched)];
        let etc = time(&root.join("etc"));
        let stubs = Stubs { made: made.to_vec(), parents };
        assert_eq!(stubs.remove(root).expect("removes"), ["/made", "/made/inner", "/used", "/etc/hosts"]);
        assert!(!root.join("made").exists() && !root.join("etc/hosts").exists());
        assert!(root.join("used/data").exists());
        assert_eq!(time(root), before);
        assert_eq!(time(&root.join("etc")), etc, "the step changed it, so its time stays");
        assert_eq!(stubs.remove(root).expect("again"), ["/made", "/made/inner", "/used", "/etc/hosts"]);
    }

    #[test]
    fn follows_no_links_put_there_by_the_step() {
        let temp = tempfile::tempdir().expect("temp dir");
        let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
        fs_err::create_dir_all(&root).expect("mkdir");
        fs_err::create_dir_all(outside.join("victim")).expect("mkdir");
        fs_err::os::unix::fs::symlink("../outside", root.join("dir")).expect("link");
        let stubs = Stubs { made: vec![Stub { path: "dir/victim".into(), directory: true }], parents: vec![] };
        stubs.remove(&root).expect("nothing to do");
        assert!(outside.join("victim").exists());
    }
}
