//! The few file operations the store's own directory needs: reading, listing, making what is missing, and times of use.
//!
//! "Missing" is never a fault here: somebody else may always have been quicker. Knows no kinds and no objects.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::error::{At as _, Result};
use crate::lease::Moment;

/// When the file was last used; `None` when it is missing.
pub(crate) fn last_used(path: &Path) -> rustix::io::Result<Option<Moment>> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(Moment::of(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets the last use to now by the file system's clock; false when the file is missing.
pub(crate) fn set_used_now(path: &Path) -> rustix::io::Result<bool> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads a whole file; `None` when it is missing.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e).at("open", path),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes).at("read", path)?;
    Ok(Some(bytes))
}

/// The names in a directory of ours, unsorted; empty when it is missing. Names that are not UTF-8 are not ours.
pub(crate) fn list_names(directory: &Path) -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(e) => return Err(e).at("open", directory),
    };
    let mut names = Vec::new();
    for entry in Dir::new(fd).at("read", directory)? {
        let entry = entry.at("read", directory)?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Does something that makes `path`, which lies below `root`; when directories between the two are missing, makes them and tries
/// again. Never makes the root: somebody who removed it meant it.
pub(crate) fn making_parents<T>(
    root: &Path,
    path: &Path,
    mut attempt: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match attempt() {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|above| *above != root).collect();
    while let Some(directory) = missing.pop() {
        match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    attempt()
}
