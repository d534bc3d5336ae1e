//! What a step in a translated root is to see besides its root, laid out beside that before it starts, and taken away after it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, fstat, lstat, openat};
use rustix::io::Errno;
use tempfile::TempDir;

use super::super::forward::Forwarder;
use super::super::step::names;
use super::super::step::walk::{Missing, Rooted};
use super::super::step::{APT_FILE, APT_TEXT, APT_WHERE, open_unlinked};
use super::super::stubs::{Moment, Parent, Stubs};
use super::super::{MountKind, Process};
use super::view::Shown;

/// What was made for a step.
#[derive(Debug)]
pub(crate) struct Laid {
    /// What it sees.
    pub(crate) shown: Vec<Shown>,
    stubs: Stubs,
    root: PathBuf,
    beside: TempDir,
    forwarders: Vec<Forwarder>,
}

/// Of the machine: what it is, and whether it may be changed.
const STANDARD: [(&str, bool); 3] = [("/proc", false), ("/sys", true), ("/dev", false)];

/// Lays out everything a process wants in the directory `root`.
pub(crate) fn lay(root: &Path, process: &Process) -> io::Result<Laid> {
    let root = fs_err::canonicalize(root)?;
    let beside = root.parent().ok_or_else(|| io::Error::other("a root directory needs a directory around it"))?;
    let mut laid = Laid {
        shown: Vec::new(),
        stubs: Stubs::default(),
        beside: tempfile::Builder::new().prefix("shown-").tempdir_in(beside)?,
        root: root.clone(),
        forwarders: Vec::new(),
    };
    let mut rooted = Rooted::at(&root)?;
    let result = laid.all(&mut rooted, process);
    let parents = rooted.parents.drain(..).map(|(fd, parent)| Ok(Parent { after: Moment::of(&fstat(fd)?), ..parent }));
    laid.stubs = Stubs { made: std::mem::take(&mut rooted.stubs), parents: parents.collect::<io::Result<_>>()? };
    match result {
        Ok(()) => Ok(laid),
        Err(error) => {
            laid.undo()?;
            Err(error)
        }
    }
}

impl Laid {
    fn all(&mut self, rooted: &mut Rooted, process: &Process) -> io::Result<()> {
        for (path, readonly) in STANDARD {
            let at = format!("/{}", rooted.real_path(path, Missing::SystemDirectory)?).into();
            self.shown.push(Shown { at, what: path.into(), readonly });
        }
        let shared = self.directory(0o1777)?;
        self.shown.push(Shown { at: "/dev/shm".into(), what: shared, readonly: false });
        for (path, content) in names::files(process) {
            let what = self.file(content.as_bytes(), 0o644, 0, 0)?;
            self.show(rooted, path, what, true)?;
        }
        if rooted.open(APT_WHERE, Missing::Fail).is_ok() {
            let what = self.file(APT_TEXT, 0o644, 0, 0)?;
            self.show(rooted, &format!("{APT_WHERE}/{APT_FILE}"), what, true)?;
        }
        for mount in &process.mounts {
            let target = &mount.target;
            self.mount(rooted, target, &mount.kind)
                .map_err(|error| io::Error::new(error.kind(), format!("show something at {target}: {error}")))?;
        }
        Ok(())
    }

    fn mount(&mut self, rooted: &mut Rooted, target: &str, kind: &MountKind) -> io::Result<()> {
        match kind {
            MountKind::Bind { source, readonly } => {
                let number = open_unlinked(source)?;
                let number = std::os::fd::AsRawFd::as_raw_fd(&number);
                self.show(rooted, target, fs_err::read_link(format!("/proc/self/fd/{number}"))?, *readonly)
            }
            MountKind::Tmpfs { mode, readonly, .. } => {
                let covered = rooted
                    .open(target, Missing::Fail)
                    .ok()
                    .and_then(|fd| fstat(&fd).ok())
                    .map(|found| found.st_mode & 0o7777);
                let what = self.directory(mode.or(covered).unwrap_or(0o1777))?;
                self.show(rooted, target, what, *readonly)
            }
            MountKind::File { content, mode, uid, gid, .. } => {
                let what = self.file(content, *mode, *uid, *gid)?;
                self.show(rooted, target, what, true)
            }
            MountKind::Socket { source, mode, uid, gid } => {
                let what = self.fresh();
                // The whole path may be longer than a socket's address can be.
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let directory = openat(CWD, self.beside.path(), flags, Mode::empty())?;
                let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
                let name = what.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let listener = std::os::unix::net::UnixListener::bind(format!("/proc/self/fd/{number}/{name}"))?;
                owned(&what, *mode, *uid, *gid)?;
                self.forwarders.push(Forwarder::start(listener.into(), source.clone())?);
                self.show(rooted, target, what, false)
            }
            MountKind::Stack { .. } | MountKind::Discard { .. } => Err(io::Error::other("copied before")),
        }
    }

    /// Shows `what` at `target`, which is made if it is missing: in the root, or in what is shown around it.
    fn show(&mut self, rooted: &mut Rooted, target: &str, what: PathBuf, readonly: bool) -> io::Result<()> {
        let directory = FileType::from_raw_mode(lstat(&what)?.st_mode) == FileType::Directory;
        let missing = if directory { Missing::MountDirectory } else { Missing::MountFile };
        let around = self.shown.iter().rev().find_map(|shown| {
            let rest = Path::new(target).strip_prefix(&shown.at).ok()?;
            Some((shown, rest.to_str()?)).filter(|(_, rest)| !rest.is_empty())
        });
        let (at, found) = match around {
            Some((shown, rest)) => {
                let mut walk = Rooted::at(&shown.what)?;
                match walk.real_path(rest, missing) {
                    Ok(real) => (shown.at.join(&real), walk.open(&real, Missing::Fail)?),
                    // The container's own /dev may be nobody's to change: it is found by its name only.
                    Err(error) if is_refusal(&error) => {
                        let at = shown.at.join(rest);
                        self.shown.push(Shown { at, what, readonly });
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            None => {
                let real = rooted.real_path(target, missing)?;
                (Path::new("/").join(&real), rooted.open(&real, Missing::Fail)?)
            }
        };
        if at == Path::new("/") {
            return Err(Errno::BUSY.into());
        }
        if (FileType::from_raw_mode(fstat(&found)?.st_mode) == FileType::Directory) != directory {
            return Err(Errno::NOTDIR.into());
        }
        self.shown.push(Shown { at, what, readonly });
        Ok(())
    }

    /// A name not used before.
    fn fresh(&self) -> PathBuf {
        let number = fs_err::read_dir(self.beside.path()).map_or(0, Iterator::count);
        self.beside.path().join(number.to_string())
    }

    fn directory(&self, mode: u32) -> io::Result<PathBuf> {
        let path = self.fresh();
        fs_err::create_dir(&path)?;
        chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        Ok(path)
    }

    fn file(&self, content: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<PathBuf> {
        let path = self.fresh();
        fs_err::File::create_new(&path)?.write_all(content)?;
        owned(&path, mode, uid, gid)?;
        Ok(path)
    }

    /// Takes everything away again; gives the paths that had been made in the root.
    pub(crate) fn undo(self) -> io::Result<Vec<String>> {
        self.stubs.remove(&self.root)
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

fn owned(path: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    match chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
}
