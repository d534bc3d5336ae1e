//! Roots as copies, where no overlay can be mounted: slower and bigger, the same content.
//!
//! Files are cloned where the file system can share blocks (reflink), else copied in the kernel. Hard links within one
//! tree stay links. Owners that cannot be given here are left out, as they were when the tree was made.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, ioctl_ficlone,
    lgetxattr, lgetxattr_query, linkat, llistxattr, llistxattr_query, lsetxattr, lstat, mknodat, open, readlinkat,
    symlinkat, utimensat,
};
use rustix::io::Errno;

use super::{OverlayXattrs, Root, Snapshots};
use crate::layers::{OPAQUE_NAME, WHITEOUT_TEXT};

/// Makes copies.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// How the trees are marked.
    pub xattrs: OverlayXattrs,
}

impl Snapshots for Copied {
    fn prepare(&self, lowers: &[PathBuf], scratch: &Path) -> io::Result<Root> {
        let root = scratch.join("root");
        self.merge(lowers, &root)?;
        Ok(Root::Directory(root))
    }
}

impl Copied {
    /// Copies what an overlay of `lowers` (from the bottom to the top) would show to the new directory `target`.
    pub fn merge(&self, lowers: &[PathBuf], target: &Path) -> io::Result<()> {
        fs_err::create_dir(target)?;
        chmodat(CWD, target, Mode::from_raw_mode(0o755), AtFlags::empty())?;
        let Some(top) = lowers.last() else { return Ok(()) };
        for lower in lowers {
            let mut links = BTreeMap::new();
            self.directory(lower, target, &mut links)?;
        }
        attributes(top, target, self.xattrs)
    }

    /// Copies one file or directory, without regard to overlay's marks below it.
    pub fn copy(&self, source: &Path, target: &Path) -> io::Result<()> {
        let stat = lstat(source).map_err(|errno| named(errno, source))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.merge(&[source.to_owned()], target);
        }
        entry_of(source, target, kind, &stat)?;
        attributes(source, target, self.xattrs)
    }

    /// Gives the directory or file `target` the content that `source` has; `target` itself stays the same directory.
    pub fn replace(&self, source: &Path, target: &Path) -> io::Result<()> {
        if !fs_err::symlink_metadata(target)?.is_dir() {
            remove(target)?;
            return self.copy(source, target);
        }
        for entry in fs_err::read_dir(target)? {
            remove(&entry?.path())?;
        }
        self.directory(source, target, &mut BTreeMap::new())?;
        attributes(source, target, self.xattrs)
    }

    /// Lays `source` over `target`. Directories get their attributes after their content, which would change their times.
    fn directory(self, source: &Path, target: &Path, links: &mut BTreeMap<(u64, u64), PathBuf>) -> io::Result<()> {
        for entry in fs_err::read_dir(source)? {
            let entry = entry?;
            if entry.file_name() == OPAQUE_NAME {
                continue;
            }
            let (from, to) = (entry.path(), target.join(entry.file_name()));
            let stat = lstat(&from).map_err(|errno| named(errno, &from))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if is_whiteout(&from, kind, &stat) {
                remove(&to)?;
                continue;
            }
            if kind == FileType::Directory {
                let there = lstat(&to).ok().map(|found| FileType::from_raw_mode(found.st_mode));
                if there != Some(FileType::Directory) || self.is_opaque(&from) {
                    remove(&to)?;
                    fs_err::create_dir(&to)?;
                }
                self.directory(&from, &to, links)?;
                attributes(&from, &to, self.xattrs)?;
                continue;
            }
            remove(&to)?;
            if stat.st_nlink > 1 {
                if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
                    linkat(CWD, first, CWD, &to, AtFlags::empty()).map_err(|errno| named(errno, &to))?;
                    continue;
                }
                links.insert((stat.st_dev, stat.st_ino), to.clone());
            }
            entry_of(&from, &to, kind, &stat)?;
            attributes(&from, &to, self.xattrs)?;
        }
        Ok(())
    }

    fn is_opaque(self, directory: &Path) -> bool {
        let mut value = [0; 1];
        let marked = lgetxattr(directory, self.xattrs.opaque(), &mut value) == Ok(1) && value == *b"y";
        marked || lstat(directory.join(OPAQUE_NAME)).is_ok()
    }
}

/// Whether an entry stands for a deleted name; where none could be made, a link that says so does.
fn is_whiteout(path: &Path, kind: FileType, stat: &Stat) -> bool {
    match kind {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::Symlink => {
            readlinkat(CWD, path, Vec::new()).is_ok_and(|text| text.as_bytes() == WHITEOUT_TEXT.as_bytes())
        }
        _ => false,
    }
}

fn entry_of(from: &Path, to: &Path, kind: FileType, stat: &Stat) -> io::Result<()> {
    let make = || -> Result<(), Errno> {
        match kind {
            FileType::RegularFile => {
                let source = open(from, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = open(to, flags, Mode::from_raw_mode(0o600))?;
                if ioctl_ficlone(&target, &source).is_err() {
                    let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
                    io::copy(&mut source, &mut target)
                        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                }
                Ok(())
            }
            FileType::Symlink => symlinkat(readlinkat(CWD, from, Vec::new())?, CWD, to),
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                match mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), stat.st_rdev) {
                    // Devices cannot be made in a user namespace; the tree can only hold one if root made it.
                    Err(Errno::PERM) => Ok(()),
                    result => result,
                }
            }
            FileType::Directory | FileType::Unknown => Err(Errno::INVAL),
        }
    };
    make().map_err(|errno| named(errno, to))
}

/// Gives `to` the owner, mode, extended attributes and times of `from`; overlay's own marks stay behind.
pub(super) fn attributes(from: &Path, to: &Path, xattrs: OverlayXattrs) -> io::Result<()> {
    let give = || -> Result<(), Errno> {
        let stat = lstat(from)?;
        if lstat(to).is_err() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        match chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            // An id that does not exist in this namespace, or not our right: the tree has the same fault.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        extended_attributes(from, to, xattrs)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            chmodat(CWD, to, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: stat.st_atime as i64, tv_nsec: stat.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: stat.st_mtime as i64, tv_nsec: stat.st_mtime_nsec as _ },
        };
        utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
    };
    give().map_err(|errno| named(errno, to))
}

fn extended_attributes(from: &Path, to: &Path, xattrs: OverlayXattrs) -> Result<(), Errno> {
    let size = match llistxattr_query(from) {
        Err(Errno::OPNOTSUPP) | Ok(0) => return Ok(()),
        result => result?,
    };
    let mut names = vec![0_u8; size];
    let length = llistxattr(from, &mut names)?;
    let marks = xattrs.opaque().trim_end_matches("opaque").as_bytes();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(marks)) {
        let name = std::ffi::OsStr::from_bytes(name);
        let mut value = vec![0_u8; lgetxattr_query(from, name)?];
        let length = lgetxattr(from, name, &mut value)?;
        match lsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Removes whatever is at `path`, if anything.
fn remove(path: &Path) -> io::Result<()> {
    match lstat(path) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(named(errno, path)),
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => fs_err::remove_dir_all(path),
        Ok(_) => fs_err::remove_file(path),
    }
}

fn named(errno: Errno, path: &Path) -> io::Error {
    let error = io::Error::from(errno);
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
