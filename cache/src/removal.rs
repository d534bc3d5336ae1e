//! Deleting directories of any shape, on several threads.
//!
//! Plain recursive removal fails on what builds leave behind: directories of mode 000 (overlay's `work/work`), directories without
//! write permission, chains deeper than the descriptor limit. Here each directory is opened relative to its parent without
//! following links or crossing mounts, made writable only when the kernel refused, and, when it lies very deep or other
//! threads are idle, moved up into the `spill` directory to be deleted there as an item of its own.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Depth at which a directory is moved up instead of descended into: each level holds two descriptors, and 1024 may be all we have.
const DEEPEST: usize = 100;
/// Down to this depth a subdirectory is offered to idle threads; below it is not worth a rename.
const OFFERED: usize = 3;
/// How often a directory is read again when it was not empty after all its entries were removed.
const PASSES: usize = 4;
/// More threads than this only wait for the file system.
const MOST_THREADS: usize = 4;

/// Removes everything at `paths`; what is missing is removed already. `spill` must be an existing directory on the same file
/// system that nobody else uses. Returns what could not be removed and why.
pub(crate) fn remove_all(paths: Vec<PathBuf>, spill: &Path) -> Vec<(PathBuf, io::Error)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    Removal::new(paths, spill).run(threads)
}

/// Removes one thing on this thread.
pub(crate) fn remove(path: &Path, spill: &Path) -> io::Result<()> {
    match Removal::new(vec![path.to_owned()], spill).run(1).pop() {
        None => Ok(()),
        Some((_, error)) => Err(error),
    }
}

static SPILLED: AtomicU64 = AtomicU64::new(0);

struct Removal<'a> {
    spill: &'a Path,
    queue: Mutex<Queue>,
    wake: Condvar,
    idle: AtomicUsize,
    failed: Mutex<Vec<(PathBuf, io::Error)>>,
}

struct Queue {
    items: VecDeque<PathBuf>,
    busy: usize,
}

impl<'a> Removal<'a> {
    fn new(paths: Vec<PathBuf>, spill: &'a Path) -> Self {
        Self {
            spill,
            queue: Mutex::new(Queue { items: paths.into(), busy: 0 }),
            wake: Condvar::new(),
            idle: AtomicUsize::new(0),
            failed: Mutex::default(),
        }
    }

    fn run(self, threads: usize) -> Vec<(PathBuf, io::Error)> {
        if threads <= 1 {
            self.work();
        } else {
            std::thread::scope(|scope| {
                (0..threads).for_each(|_| {
                    scope.spawn(|| self.work());
                });
            });
        }
        self.failed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(path) = self.next() {
            let result = remove_at(self, CWD, &path, 0);
            if let Err(error) = result {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).push((path, error.into()));
            }
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.busy -= 1;
            if queue.busy == 0 && queue.items.is_empty() {
                self.wake.notify_all();
            }
        }
    }

    /// The next item; `None` when all is done and nobody can add more.
    fn next(&self) -> Option<PathBuf> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(path) = queue.items.pop_front() {
                queue.busy += 1;
                return Some(path);
            }
            if queue.busy == 0 {
                return None;
            }
            self.idle.fetch_add(1, Ordering::Relaxed);
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Moves a directory up to become an item of its own.
    fn move_up(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let serial = SPILLED.fetch_add(1, Ordering::Relaxed);
        let target = self.spill.join(format!("spill-{serial}"));
        rustix::fs::renameat(parent, name, CWD, &target)?;
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).items.push_back(target);
        self.wake.notify_one();
        Ok(())
    }
}

/// Removes `name` in `parent`, whatever it is.
fn remove_at<P: rustix::path::Arg + Copy>(
    all: &Removal<'_>,
    parent: BorrowedFd<'_>,
    name: P,
    depth: usize,
) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => remove_directory(all, parent, name, depth),
        // What POSIX says for directories, and Linux for what may not be removed.
        Err(Errno::PERM) => match remove_directory(all, parent, name, depth) {
            Err(Errno::NOTDIR) => Err(Errno::PERM),
            other => other,
        },
        Err(e) => Err(e),
    }
}

fn remove_directory<P: rustix::path::Arg + Copy>(
    all: &Removal<'_>,
    parent: BorrowedFd<'_>,
    name: P,
    depth: usize,
) -> Result<(), Errno> {
    let fd = match open_directory(parent, name) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ACCESS) => {
            make_accessible(parent, name)?;
            open_directory(parent, name)?
        }
        Err(e) => return Err(e),
    };
    for _ in 0..PASSES {
        let failed = empty(all, &fd, depth);
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => failed?,
            Err(e) => return Err(e),
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Removes what is in the directory; goes on after a fault and returns the first.
fn empty(all: &Removal<'_>, directory: &OwnedFd, depth: usize) -> Result<(), Errno> {
    let mut outcome = Ok(());
    let mut reader = match Dir::read_from(directory) {
        // Opened for reading, but without the right to search it.
        Err(Errno::ACCESS) => rustix::fs::fchmod(directory, Mode::RWXU).and_then(|()| Dir::read_from(directory))?,
        other => other?,
    };
    while let Some(entry) = reader.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_directory = entry.file_type() == FileType::Directory;
        let mut result = remove_entry(all, directory.as_fd(), name, is_directory, depth + 1);
        if matches!(result, Err(Errno::ACCESS)) && rustix::fs::fchmod(directory, Mode::RWXU).is_ok() {
            result = remove_entry(all, directory.as_fd(), name, is_directory, depth + 1);
        }
        outcome = outcome.and(result);
    }
    outcome
}

fn remove_entry(
    all: &Removal<'_>,
    parent: BorrowedFd<'_>,
    name: &CStr,
    is_directory: bool,
    depth: usize,
) -> Result<(), Errno> {
    if !is_directory {
        return remove_at(all, parent, name, depth);
    }
    if depth <= OFFERED && all.idle.load(Ordering::Relaxed) > 0 && all.move_up(parent, name).is_ok() {
        return Ok(());
    }
    if depth >= DEEPEST {
        // Changing its parent needs write permission on the directory itself.
        return match all.move_up(parent, name) {
            Err(Errno::ACCESS) => make_accessible(parent, name).and_then(|()| all.move_up(parent, name)),
            other => other,
        };
    }
    remove_directory(all, parent, name, depth)
}

/// Opens a directory to empty it: never through a link, never into another mount, not even a bind mount of the same file system.
fn open_directory<P: rustix::path::Arg + Copy>(parent: BorrowedFd<'_>, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if parent.as_raw_fd() == CWD.as_raw_fd() {
        // The item itself: an absolute path of the store, which may lie anywhere.
        return rustix::fs::openat(parent, name, flags, Mode::empty());
    }
    match rustix::fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS) {
        Err(Errno::NOSYS | Errno::PERM) => {
            let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            let same = rustix::fs::fstat(&fd)?.st_dev == rustix::fs::fstat(parent)?.st_dev;
            if same { Ok(fd) } else { Err(Errno::XDEV) }
        }
        other => other,
    }
}

/// Gives the owner all rights on a directory, without following a link in its place.
fn make_accessible<P: rustix::path::Arg>(parent: BorrowedFd<'_>, name: P) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::RWXU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_shape_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let (spill, victim) = (root.path().join("spill"), root.path().join("victim"));
        fs_err::create_dir(&spill).unwrap();
        for n in 0..50 {
            fs_err::create_dir_all(victim.join(format!("{n}/sub/subsub"))).unwrap();
            fs_err::write(victim.join(format!("{n}/sub/file")), "").unwrap();
        }
        std::os::unix::fs::symlink(&spill, victim.join("link")).unwrap();
        // Deeper than there are descriptors and longer than a path may be.
        let mut at = rustix::fs::open(&victim, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "deeper", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        for (path, mode) in [("3/sub", 0o000), ("4/sub", 0o555), ("5", 0o111), ("6", 0o444)] {
            rustix::fs::chmod(victim.join(path), Mode::from_raw_mode(mode)).unwrap();
        }
        let missing = root.path().join("missing");
        let failed = remove_all(vec![victim.clone(), missing], &spill);
        assert!(failed.is_empty(), "{failed:?}");
        assert!(!victim.exists());
        assert_eq!(fs_err::read_dir(&spill).unwrap().count(), 0);
    }
}
