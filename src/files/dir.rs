//! One open directory: names and what they are, relative to its descriptor.
//!
//! Names are single components, so nothing here can leave the directory; symlinks are never followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat as RawStat};
use rustix::io::Errno;

/// Bytes of names fetched from the kernel at a time.
const NAMES_BUFFER: usize = 32 << 10;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub bytes: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket, or something unheard of.
    Socket,
}

/// A point in time as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
}

/// What is known about a file without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Device it is on.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Names it has.
    pub links: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Content changed.
    pub mtime: Time,
    /// Anything changed.
    pub ctime: Time,
    /// Major and minor number, for devices.
    pub device_number: (u32, u32),
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket | FileType::Unknown => Self::Socket,
        }
    }
}

impl From<RawStat> for Stat {
    // The widths of these fields differ between architectures.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    fn from(raw: RawStat) -> Self {
        Self {
            kind: FileType::from_raw_mode(raw.st_mode).into(),
            device: raw.st_dev as u64,
            inode: raw.st_ino as u64,
            links: raw.st_nlink as u64,
            mode: raw.st_mode & 0o7777,
            uid: raw.st_uid,
            gid: raw.st_gid,
            size: raw.st_size as u64,
            mtime: Time { seconds: raw.st_mtime as i64, nanoseconds: raw.st_mtime_nsec as u32 },
            ctime: Time { seconds: raw.st_ctime as i64, nanoseconds: raw.st_ctime_nsec as u32 },
            device_number: (rustix::fs::major(raw.st_rdev), rustix::fs::minor(raw.st_rdev)),
        }
    }
}

impl Stat {
    /// Of an open file.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(rustix::fs::fstat(file)?.into())
    }
}

impl Dir {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// All names but `.` and `..`, sorted by bytes.
    pub fn names(&self) -> io::Result<Vec<Name>> {
        let mut buffer = Vec::with_capacity(NAMES_BUFFER);
        let mut names = Vec::new();
        // Each listing starts at the beginning, whatever this descriptor was used for before.
        rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Start(0))?;
        let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match self.stat(bytes)? {
                    Some(stat) => stat.kind,
                    None => continue,
                },
                known => known.into(),
            };
            names.push(Name { bytes: bytes.to_vec(), kind });
        }
        names.sort_unstable_by(|a, b| a.bytes.cmp(&b.bytes));
        Ok(names)
    }

    /// What `name` is; `None` if it is not there.
    pub fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a directory in this one.
    pub fn dir(&self, name: &[u8]) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Dir::new(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?))
    }

    /// Opens a regular file in this directory for reading.
    pub fn file(&self, name: &[u8]) -> io::Result<File> {
        // Not blocking on a pipe that took a file's place.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?)
    }

    /// The text of a symlink in this directory.
    pub fn link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, name, Vec::new())?.into_bytes())
    }
}

pub(super) fn regular(fd: OwnedFd) -> io::Result<File> {
    match Stat::of(&fd)?.kind {
        FileKind::Regular => Ok(File::from(fd)),
        FileKind::Directory => Err(Errno::ISDIR.into()),
        FileKind::Symlink | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
    }
}
