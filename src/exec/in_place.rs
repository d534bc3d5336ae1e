//! The last rung: mounts without mounting. What should appear in the root is moved or copied to its place before the step
//! and taken away after it; what was there before is kept beside the root meanwhile.
//!
//! For a container's root without any right to make namespaces. Steps then run one at a time and are not isolated from
//! one another or from rbuild. Everything is undone by directory descriptors that were opened before the step ran: paths
//! may lead anywhere after it.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fstat, lstat, makedev, mknodat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;
use tempfile::TempDir;

use super::forward::Forwarder;
use super::step::names;
use super::step::standard::DEVICES;
use super::step::walk::{Missing, Rooted};
use super::stubs::{Moment, Parent, Stubs, set_moment};
use super::{MountKind, Process};
use crate::snapshot::{Copied, OverlayXattrs};

/// What was put into a root.
#[derive(Debug)]
pub(crate) struct Placed {
    entries: Vec<Entry>,
    devices: Option<(OwnedFd, Vec<&'static str>)>,
    stubs: Stubs,
    parents: Vec<(OwnedFd, Parent)>,
    root: PathBuf,
    copier: Copied,
    beside: TempDir,
    names: Cell<u32>,
    forwarders: Vec<Forwarder>,
}

/// One entry and its way back.
#[derive(Debug)]
struct Entry {
    parent: OwnedFd,
    name: String,
    /// Where what it covers waits.
    covered: Option<PathBuf>,
    back: Back,
}

/// What becomes of an entry after the step.
#[derive(Debug)]
enum Back {
    /// It goes.
    Nowhere,
    /// It is moved to where it came from.
    Moved(PathBuf),
    /// It replaces the content it was copied from.
    Copied(PathBuf),
}

/// Puts everything a process wants into the directory `root`.
pub(crate) fn place(root: &Path, process: &Process, xattrs: OverlayXattrs) -> io::Result<Placed> {
    let beside = root.parent().ok_or_else(|| io::Error::other("a root directory needs a directory around it"))?;
    let mut placed = Placed {
        entries: Vec::new(),
        devices: None,
        stubs: Stubs::default(),
        parents: Vec::new(),
        root: root.to_owned(),
        copier: Copied { xattrs },
        beside: tempfile::Builder::new().prefix("placed-").tempdir_in(beside)?,
        names: Cell::new(0),
        forwarders: Vec::new(),
    };
    let mut rooted = Rooted::at(root)?;
    let result = placed.all(&mut rooted, process);
    placed.stubs.made = std::mem::take(&mut rooted.stubs);
    placed.parents.append(&mut rooted.parents);
    for (fd, parent) in &mut placed.parents {
        parent.after = Moment::of(&fstat(fd)?);
    }
    match result {
        Ok(()) => Ok(placed),
        Err(error) => {
            placed.undo()?;
            Err(error)
        }
    }
}

impl Placed {
    fn all(&mut self, rooted: &mut Rooted, process: &Process) -> io::Result<()> {
        self.make_devices(rooted)?;
        for (path, content) in names::files(process) {
            let file = self.file(content.as_bytes(), 0o644, 0, 0)?;
            self.put(rooted, path, &file, Back::Nowhere)?;
        }
        for mount in &process.mounts {
            let target = &mount.target;
            self.mount(rooted, target, &mount.kind)
                .map_err(|error| io::Error::new(error.kind(), format!("put something at {target}: {error}")))?;
        }
        Ok(())
    }

    fn mount(&mut self, rooted: &mut Rooted, target: &str, kind: &MountKind) -> io::Result<()> {
        match kind {
            MountKind::Bind { source, readonly: true } => {
                let copy = self.fresh();
                self.copier.copy(source, &copy)?;
                self.put(rooted, target, &copy, Back::Nowhere)
            }
            MountKind::Bind { source, readonly: false } => {
                // A path that ends in a dot cannot be renamed.
                let source: PathBuf = source.components().collect();
                match self.put(rooted, target, &source, Back::Moved(source.clone())) {
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                        let copy = self.fresh();
                        self.copier.copy(&source, &copy)?;
                        self.put(rooted, target, &copy, Back::Copied(source))
                    }
                    result => result,
                }
            }
            MountKind::Tmpfs { mode, .. } => {
                let covered = rooted
                    .open(target, Missing::Fail)
                    .ok()
                    .and_then(|fd| fstat(&fd).ok())
                    .map(|found| found.st_mode & 0o7777);
                let directory = self.fresh();
                fs_err::create_dir(&directory)?;
                chmodat(CWD, &directory, Mode::from_raw_mode(mode.or(covered).unwrap_or(0o1777)), AtFlags::empty())?;
                self.put(rooted, target, &directory, Back::Nowhere)
            }
            MountKind::File { content, mode, uid, gid, .. } => {
                let file = self.file(content, *mode, *uid, *gid)?;
                self.put(rooted, target, &file, Back::Nowhere)
            }
            MountKind::Socket { source, mode, uid, gid } => {
                let path = self.fresh();
                let listener = std::os::unix::net::UnixListener::bind(&path)?;
                owned(&path, *mode, *uid, *gid)?;
                self.forwarders.push(Forwarder::start(listener.into(), source.clone())?);
                self.put(rooted, target, &path, Back::Nowhere)
            }
            MountKind::Stack { .. } | MountKind::Discard { .. } => Err(io::Error::other("copied before")),
        }
    }

    /// Moves `thing` to `target` and what is there out of the way.
    fn put(&mut self, rooted: &mut Rooted, target: &str, thing: &Path, back: Back) -> io::Result<()> {
        let missing = match FileType::from_raw_mode(lstat(thing)?.st_mode) {
            FileType::Directory => Missing::MountDirectory,
            _ => Missing::MountFile,
        };
        let place = rooted.target(target, missing)?;
        self.remember(rooted, &place.parent)?;
        let covered = self.fresh();
        renameat(&place.parent, &place.name, CWD, &covered)?;
        if let Err(errno) = renameat(CWD, thing, &place.parent, &place.name) {
            renameat(CWD, &covered, &place.parent, &place.name)?;
            return Err(errno.into());
        }
        self.entries.push(Entry { parent: place.parent, name: place.name, covered: Some(covered), back });
        Ok(())
    }

    /// Takes note of a directory's time before we change it, unless that is known already.
    fn remember(&mut self, rooted: &Rooted, directory: &OwnedFd) -> io::Result<()> {
        let found = fstat(directory)?;
        let same =
            |fd: &OwnedFd| fstat(fd).is_ok_and(|other| (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino));
        if !self.parents.iter().chain(&rooted.parents).any(|(fd, _)| same(fd)) {
            let before = Moment::of(&found);
            self.parents.push((directory.try_clone()?, Parent { path: String::new(), before, after: before }));
        }
        Ok(())
    }

    /// The devices that the root lacks, where we may make and use any. A file stands in for /dev/null, which every shell wants.
    fn make_devices(&mut self, rooted: &mut Rooted) -> io::Result<()> {
        for missing in ["/proc", "/sys"] {
            rooted.open(missing, Missing::SystemDirectory)?;
        }
        let dev = rooted.open("/dev", Missing::SystemDirectory)?;
        self.remember(rooted, &dev)?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut made = Vec::new();
        for (name, major, minor) in DEVICES {
            let mode = Mode::from_raw_mode(0o666);
            if mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor)).is_ok() {
                chmodat(&dev, name, mode, AtFlags::empty())?;
                made.push(name);
            }
            // A file system mounted nodev, or a control group.
            let alive =
                !matches!(openat(&dev, name, flags, Mode::empty()), Err(Errno::ACCESS | Errno::PERM | Errno::NOENT));
            if !alive && name == "null" {
                let file = self.file(b"", 0o666, 0, 0)?;
                self.put(rooted, "/dev/null", &file, Back::Nowhere)?;
            }
        }
        self.devices = Some((dev, made));
        Ok(())
    }

    /// A name not used before.
    fn fresh(&self) -> PathBuf {
        let number = self.names.get();
        self.names.set(number + 1);
        self.beside.path().join(number.to_string())
    }

    fn file(&self, content: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<PathBuf> {
        let path = self.fresh();
        fs_err::File::create_new(&path)?.write_all(content)?;
        owned(&path, mode, uid, gid)?;
        Ok(path)
    }

    /// Takes everything away again and puts back what was there; gives the paths that had been made.
    pub(crate) fn undo(mut self) -> io::Result<Vec<String>> {
        drop(std::mem::take(&mut self.forwarders));
        // What the step changed is known by the times that our own changes are about to alter.
        let mut times = Vec::new();
        for (fd, parent) in self.parents.drain(..) {
            let now = Moment::of(&fstat(&fd)?);
            times.push((fd, if now == parent.after { parent.before } else { now }));
        }
        while let Some(Entry { parent, name, covered, back }) = self.entries.pop() {
            let taken = self.fresh();
            match renameat(&parent, &name, CWD, &taken) {
                Ok(()) => match back {
                    Back::Nowhere => {}
                    Back::Moved(source) => renameat(CWD, &taken, CWD, &source)?,
                    Back::Copied(source) => self.copier.replace(&taken, &source)?,
                },
                // The step itself removed it.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            if let Some(covered) = covered {
                renameat(CWD, &covered, &parent, &name)?;
            }
        }
        if let Some((dev, names)) = self.devices.take() {
            for name in names {
                let is_device = |found: Stat| FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
                if statat(&dev, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_device) {
                    unlinkat(&dev, name, AtFlags::empty())?;
                }
            }
        }
        let stubs = self.stubs.remove(&self.root)?;
        for (fd, time) in times {
            set_moment(fd.as_fd(), time);
        }
        Ok(stubs)
    }
}

fn owned(path: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    match chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
}
