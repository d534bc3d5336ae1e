//! Makes a layer's tree on disk, in the form overlayfs takes as a lower directory.
//!
//! ```text
//! deleted name        character device 0/0
//! opaque directory    trusted.overlay.opaque=y, or user.overlay.opaque=y inside a user namespace
//! either of them      on a file system that has no such thing: a name that only copies of the tree understand (`xattrs`)
//! anything else       itself: owner, mode, xattrs, whole-second mtime
//! ```
//! Every call is relative to the descriptor of a directory that was opened below the root without following links.
//! Directories get their owner, mode and time last, when nothing will be made in them any more. What a user namespace cannot
//! make (devices, owners outside its map) is left to the index; owners also go into an attribute so that they survive a
//! copy-up. Knows nothing of tars.

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rbuild_cache::Room;
use rbuild_cache::digest::Blake3;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::error::{InTree as _, LayerError, Result};
use super::fold::IMPLIED_MODE;
use super::{OwnershipMode, TreeOptions, beneath, xattrs};
use crate::tar::entry::{Kind, LayerPath, Meta};

/// Read and written at a time.
const PIECE: usize = 128 << 10;
/// What a file, directory or link takes besides its content: an inode and a name, roughly.
const NODE: u64 = 512;
/// `UTIME_OMIT`: leave this time alone.
const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };

/// A tree being made in an empty directory.
#[derive(Debug)]
pub(super) struct TreeWriter {
    root: OwnedFd,
    at: PathBuf,
    options: TreeOptions,
    /// The directory used last.
    current: Option<(LayerPath, OwnedFd)>,
    /// What directories get in the end.
    directories: BTreeMap<LayerPath, Meta>,
    buffer: Vec<u8>,
    bytes: u64,
    room: Room,
}

impl TreeWriter {
    /// Starts in `at`, an existing empty directory. What is written takes from `room`.
    pub(super) fn new(at: &Path, options: TreeOptions, room: Room) -> Result<Self> {
        let root = rustix::fs::open(at, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).in_tree(
            "open",
            at,
            &LayerPath::root(),
        )?;
        let directories = BTreeMap::from([(LayerPath::root(), implied())]);
        let (at, buffer) = (at.to_owned(), vec![0; PIECE]);
        Ok(Self { root, at, options, current: None, directories, buffer, bytes: 0, room })
    }

    /// Makes a directory, or takes the one that is there; `meta` is what it gets in the end.
    pub(super) fn directory(&mut self, path: &LayerPath, make: bool, opaque: bool, meta: Option<&Meta>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        if make {
            self.room.take(NODE)?;
            rustix::fs::mkdirat(&dir, &name, Mode::RWXU).in_tree("make directory", &self.at, path)?;
        }
        if opaque {
            xattrs::set_opaque(&dir, &name, self.options.overlay, true).in_tree("make opaque", &self.at, path)?;
        }
        self.give_back(path, dir);
        if make || meta.is_some() {
            self.directories.insert(path.clone(), meta.cloned().unwrap_or_else(implied));
        }
        Ok(())
    }

    /// Makes a file of exactly `size` bytes and returns the hash of its content.
    pub(super) fn file(&mut self, path: &LayerPath, meta: &Meta, size: u64, content: &mut dyn Read) -> Result<Blake3> {
        self.room.take(NODE)?;
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, &name, flags, Mode::RUSR | Mode::WUSR).in_tree("create", &self.at, path)?;
        let mut file = std::fs::File::from(fd);
        let hash = self.fill(&mut file, path, size, content)?;
        self.dress(&dir, &name, Some(file.as_fd()), meta, false).in_tree("set metadata of", &self.at, path)?;
        self.give_back(path, dir);
        Ok(hash)
    }

    /// Makes another name for the file at `to`.
    pub(super) fn link(&mut self, path: &LayerPath, to: &LayerPath) -> Result<()> {
        let from =
            beneath::directory(&self.root, &to.parent().unwrap_or_default()).in_tree("open parent of", &self.at, to)?;
        let (dir, name) = self.parent(path)?;
        match rustix::fs::linkat(&from, to.name(), &dir, &name, AtFlags::empty()) {
            // A device that could not be made has no second name either.
            Err(Errno::NOENT) if self.options.rootless() => {}
            other => other.in_tree("link", &self.at, path)?,
        }
        self.give_back(path, dir);
        Ok(())
    }

    /// Makes a symbolic link, device or pipe. The rest of `Kind` has its own calls.
    pub(super) fn special(&mut self, path: &LayerPath, kind: &Kind, meta: &Meta) -> Result<()> {
        self.room.take(NODE)?;
        let (dir, name) = self.parent(path)?;
        let node = |file_type, major, minor| {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(&dir, &name, file_type, Mode::RUSR | Mode::WUSR, device)
        };
        let made = match kind {
            Kind::Symlink(to) => rustix::fs::symlinkat(to.as_slice(), &dir, &name),
            Kind::CharDevice(major, minor) => node(FileType::CharacterDevice, *major, *minor),
            Kind::BlockDevice(major, minor) => node(FileType::BlockDevice, *major, *minor),
            Kind::Fifo => node(FileType::Fifo, 0, 0),
            Kind::Whiteout => match node(FileType::CharacterDevice, 0, 0) {
                Err(Errno::PERM) => rustix::fs::symlinkat(xattrs::WHITEOUT_TEXT, &dir, &name),
                made => made,
            },
            Kind::File { .. } | Kind::Directory { .. } | Kind::Hardlink(_) => Err(Errno::INVAL),
        };
        let device = matches!(kind, Kind::CharDevice(..) | Kind::BlockDevice(..));
        if made == Err(Errno::PERM) && device && self.options.rootless() {
            self.give_back(path, dir);
            return Ok(());
        }
        made.in_tree("make", &self.at, path)?;
        if *kind != Kind::Whiteout {
            let link = matches!(kind, Kind::Symlink(_));
            self.dress(&dir, &name, None, meta, link).in_tree("set metadata of", &self.at, path)?;
        }
        self.give_back(path, dir);
        Ok(())
    }

    /// Removes what is at `path`, with all below it.
    pub(super) fn remove(&mut self, path: &LayerPath) -> Result<()> {
        self.current = None;
        let below: Vec<_> =
            self.directories.range(path.clone()..).map(|(p, _)| p.clone()).take_while(|p| p.is_within(path)).collect();
        for path in below {
            self.directories.remove(&path);
        }
        let (dir, name) = self.parent(path)?;
        remove_at(&dir, &name).in_tree("remove", &self.at, path)?;
        self.give_back(path, dir);
        Ok(())
    }

    /// Gives all directories their metadata, deepest first. Returns the bytes of file content written.
    pub(super) fn finish(self) -> Result<u64> {
        for (path, meta) in self.directories.iter().rev() {
            let dir = beneath::directory(&self.root, path).in_tree("open", &self.at, path)?;
            self.dress(&dir, b"", Some(dir.as_fd()), meta, false).in_tree("set metadata of", &self.at, path)?;
        }
        Ok(self.bytes)
    }

    /// The directory that holds `path`, taken out of the cache, and the last component (`.` for the root).
    fn parent(&mut self, path: &LayerPath) -> Result<(OwnedFd, Vec<u8>)> {
        let parent = path.parent().unwrap_or_default();
        let name = if path.is_root() { b".".to_vec() } else { path.name().to_vec() };
        if let Some((at, fd)) = self.current.take()
            && at == parent
        {
            return Ok((fd, name));
        }
        let fd = beneath::directory(&self.root, &parent).in_tree("open", &self.at, &parent)?;
        Ok((fd, name))
    }

    fn give_back(&mut self, path: &LayerPath, dir: OwnedFd) {
        self.current = Some((path.parent().unwrap_or_default(), dir));
    }

    fn fill(
        &mut self,
        file: &mut std::fs::File,
        path: &LayerPath,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Blake3> {
        let mut hasher = blake3::Hasher::new();
        let (mut done, mut hole) = (0, false);
        while done < size {
            let want = (size - done).min(PIECE as u64) as usize;
            let piece = &mut self.buffer[..want];
            content.read_exact(piece).map_err(|source| LayerError::Stream { operation: "read layer", source })?;
            hasher.update(piece);
            done += want as u64;
            // Long runs of zeros become holes, as they mostly were.
            hole = want == PIECE && piece.iter().all(|b| *b == 0);
            if !hole {
                self.room.take(want as u64)?;
                self.bytes += want as u64;
            }
            let written = if hole { skip(file, want) } else { file.write_all(piece) };
            written.in_tree("write", &self.at, path)?;
        }
        if hole {
            file.set_len(size).in_tree("write", &self.at, path)?;
        }
        Ok(Blake3(*hasher.finalize().as_bytes()))
    }

    /// Owner, mode, attributes, time, in the order in which none undoes another. An empty `name` is `dir` itself.
    fn dress(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        open: Option<std::os::fd::BorrowedFd<'_>>,
        meta: &Meta,
        link: bool,
    ) -> io::Result<()> {
        // Also for root: a set-gid directory above the store would have given its group to everything.
        let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        let given = match (self.options.ownership, open) {
            (OwnershipMode::Flattened, _) if (meta.uid, meta.gid) == (0, 0) => Ok(()),
            (OwnershipMode::Flattened, _) => Err(Errno::INVAL),
            (OwnershipMode::Exact, Some(fd)) => rustix::fs::fchown(fd, uid, gid),
            (OwnershipMode::Exact, None) => rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        };
        match given {
            // Flattened, or an owner outside the namespace's map.
            Err(Errno::INVAL) if self.options.rootless() => xattrs::record_owner(dir, name, meta.uid, meta.gid)?,
            other => other?,
        }
        let mode = Mode::from_raw_mode(meta.mode & 0o7777);
        match open {
            Some(fd) => rustix::fs::fchmod(fd, mode)?,
            None if link => {}
            None => rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?,
        }
        xattrs::write(dir, name, &meta.xattrs)?;
        let times = Timestamps { last_access: OMIT, last_modification: Timespec { tv_sec: meta.mtime, tv_nsec: 0 } };
        match open {
            Some(fd) => rustix::fs::futimens(fd, &times)?,
            None => rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?,
        }
        if self.options.bound_by_modes && !link {
            xattrs::unlock(dir, name);
        }
        Ok(())
    }
}

/// What a directory that no entry describes looks like.
fn implied() -> Meta {
    Meta { mode: IMPLIED_MODE, ..Meta::default() }
}

fn skip(file: &mut std::fs::File, bytes: usize) -> io::Result<()> {
    io::Seek::seek(file, io::SeekFrom::Current(bytes as i64)).map(drop)
}

/// Removes `name` in `dir`, with all below it, following nothing. Missing is fine.
pub(super) fn remove_at(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(dir, name, flags, Mode::empty())?
        }
        other => other?,
    };
    for child in super::walk::names(&below)? {
        remove_at(&below, &child)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
