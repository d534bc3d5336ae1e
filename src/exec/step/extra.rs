//! The further mounts of a step: binds, stacks of trees, memory files, sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, fstat, mkdirat, openat, openat2,
    stat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mounts::{Changes, Depth, INERT, NO_DEVICES, OverlayParts, READ_ONLY, Target, bind, fresh};
use super::staging::Staging;
use super::walk::{Missing, Rooted};
use super::{During, Fault, Ground, Report, plain, tell};
use crate::exec::{Mount, MountKind};

/// Where and how mounts are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    /// The ground.
    pub(super) ground: Ground,
    /// Of all of them.
    pub(super) attributes: MountAttrFlags,
    /// To rbuild.
    pub(super) socket: &'a OwnedFd,
}

/// What is to appear at a mount's target.
#[derive(Debug)]
pub(super) enum Appearance {
    /// A tree or a file that is here already.
    Tree {
        /// Its root.
        source: OwnedFd,
        /// Of its mounts.
        attributes: MountAttrFlags,
    },
    /// A new tmpfs.
    Tmpfs {
        /// `mode`, and perhaps `size`.
        options: Vec<(&'static str, String)>,
        /// Of its mount.
        attributes: MountAttrFlags,
    },
}

/// Mounts one.
pub(super) fn mount(
    root: &mut Rooted,
    staging: &mut Staging,
    number: u32,
    mount: &Mount,
    setting: Setting<'_>,
) -> Result<(), Fault> {
    let Mount { target, kind } = mount;
    let place = Place { target, what: name(kind) };
    match appearance(root, staging, number, mount, setting)? {
        Appearance::Tree { source, attributes } => show(root, place, &source, attributes),
        Appearance::Tmpfs { options, attributes } => {
            let options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let place = place.find(root, Missing::MountDirectory)?;
            fresh("tmpfs", &options, attributes, &place).during(format!("mount tmpfs on {target}"))
        }
    }
}

/// Makes or opens what one mount shows.
pub(super) fn appearance(
    root: &mut Rooted,
    staging: &mut Staging,
    number: u32,
    mount: &Mount,
    setting: Setting<'_>,
) -> Result<Appearance, Fault> {
    let Setting { ground, attributes: usual, socket } = setting;
    let tree = |source, attributes| Ok(Appearance::Tree { source, attributes });
    match &mount.kind {
        MountKind::Bind { source, readonly } => {
            tree(open_host(source)?, if *readonly { usual | READ_ONLY } else { usual })
        }
        MountKind::Stack { lowers, subpath, scratch } => {
            let merged = stack(staging, lowers, scratch.as_deref(), ground)?;
            let source = Rooted::new(merged)
                .open(subpath, Missing::Fail)
                .during(format!("open {subpath} in the mount's source"))?;
            tree(source, if scratch.is_some() { usual } else { usual | READ_ONLY })
        }
        MountKind::Discard { source, scratch } => {
            let opened = open_host(source)?;
            let source = if is_directory(&opened)? {
                stack(staging, std::slice::from_ref(source), Some(scratch), ground)?
            } else {
                copy_file(&opened, scratch)?
            };
            tree(source, usual)
        }
        MountKind::Tmpfs { size, mode, readonly } => {
            let covered = root
                .open(&mount.target, Missing::Fail)
                .ok()
                .and_then(|fd| fstat(&fd).ok())
                .map(|found| found.st_mode & 0o7777);
            let mut options = vec![("mode", format!("{:o}", mode.or(covered).unwrap_or(0o1777)))];
            options.extend(size.map(|size| ("size", size.to_string())));
            let attributes = usual | MountAttrFlags::MOUNT_ATTR_NOSUID;
            let attributes = if *readonly { attributes | READ_ONLY } else { attributes };
            Ok(Appearance::Tmpfs { options, attributes })
        }
        MountKind::File { content, executable, mode, uid, gid } => {
            let file = staging.file(content, *mode, *uid, *gid)?;
            let attributes = if *executable { usual | MountAttrFlags::MOUNT_ATTR_NOSUID } else { INERT };
            tree(file, attributes | READ_ONLY)
        }
        MountKind::Socket { mode, uid, gid, .. } => {
            // A socket of our own that rbuild connects to the host's: the host's may be open to its owner only, and agents
            // ask the kernel who it is that connects.
            let (listener, made) = staging.socket(*mode, *uid, *gid)?;
            tell(socket, &Report::Listener { mount: number }, &[listener.as_fd()]).during("hand over a socket")?;
            tree(made, usual)
        }
    }
}

/// The directory of apt's configuration.
pub(crate) const APT_WHERE: &str = "/etc/apt/apt.conf.d";
/// A file there, read last.
pub(crate) const APT_FILE: &str = "zz-rbuild-one-id";
/// Without it apt wants to become another user, whom there is not.
pub(crate) const APT_TEXT: &[u8] = b"APT::Sandbox::User \"root\";\n";

/// Makes apt keep root's identity when it fetches: in a namespace with one id it cannot take another, and checks.
pub(super) fn tame_apt(root: &mut Rooted, staging: &mut Staging) -> Result<(), Fault> {
    let Some((target, file)) = apt_settings(root, staging)? else { return Ok(()) };
    show(root, Place { target: &target, what: "file" }, &file, READ_ONLY)
}

/// The file that does so and its place, if there is an apt.
pub(super) fn apt_settings(root: &mut Rooted, staging: &mut Staging) -> Result<Option<(String, OwnedFd)>, Fault> {
    if root.open(APT_WHERE, Missing::Fail).is_err() {
        return Ok(None);
    }
    let file = staging.file(APT_TEXT, 0o644, 0, 0)?;
    Ok(Some((format!("{APT_WHERE}/{APT_FILE}"), file)))
}

/// That something cannot be mounted, in the words of runc.
pub(super) fn refused(what: &str, target: &str, error: &io::Error) -> Fault {
    Fault::Refused(format!("error mounting {what:?} to rootfs at {target:?}: {}", plain(error)))
}

/// What a mount is called in messages.
pub(super) fn name(kind: &MountKind) -> &'static str {
    match kind {
        MountKind::Bind { .. } | MountKind::Stack { .. } | MountKind::Discard { .. } => "bind",
        MountKind::Tmpfs { .. } => "tmpfs",
        MountKind::File { .. } => "file",
        MountKind::Socket { .. } => "socket",
    }
}

/// Where something is to be mounted, and what it is.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    target: &'a str,
    what: &'static str,
}

impl Place<'_> {
    /// The entry, made if there is none. That the image has something else on the way is the step's own fault.
    fn find(self, root: &mut Rooted, missing: Missing) -> Result<Target, Fault> {
        root.target(self.target, missing).map_err(|error| self.refused(&error))
    }

    fn refused(self, error: &io::Error) -> Fault {
        refused(self.what, self.target, error)
    }
}

fn show(root: &mut Rooted, place: Place<'_>, source: &OwnedFd, attributes: MountAttrFlags) -> Result<(), Fault> {
    let directory = is_directory(source)?;
    let target = place.find(root, if directory { Missing::MountDirectory } else { Missing::MountFile })?;
    if directory != is_directory(&target.fd)? {
        return Err(place.refused(&Errno::NOTDIR.into()));
    }
    bind(source, &target, attributes, Depth::WithMountsBelow).during(format!("mount {}", place.target))
}

pub(super) fn is_directory(fd: &OwnedFd) -> Result<bool, Fault> {
    Ok(FileType::from_raw_mode(fstat(fd).during("stat a mount's source")?.st_mode) == FileType::Directory)
}

/// Opens a path of the host that the caller has resolved: a link that has appeared in it since is an error.
fn open_host(path: &Path) -> Result<OwnedFd, Fault> {
    open_unlinked(path).during(format!("open {}", path.display()))
}

/// The same, with the system's error.
pub(crate) fn open_unlinked(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let no_link = |fd: OwnedFd| match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::Symlink => Err(Errno::LOOP),
        _ => Ok(fd),
    };
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS) {
        // Filters that do not know openat2 refuse it.
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut fd = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            for component in path.components().skip(1) {
                fd = no_link(openat(&fd, component.as_os_str(), flags, Mode::empty())?)?;
            }
            Ok(fd)
        }
        result => Ok(no_link(result?)?),
    }
}

/// The merged view of some trees, on a place of its own.
fn stack(staging: &mut Staging, lowers: &[PathBuf], scratch: Option<&Path>, ground: Ground) -> Result<OwnedFd, Fault> {
    let mut parts = match scratch {
        Some(scratch) => {
            let (upper, work) = scratch_directories(scratch, lowers)?;
            OverlayParts::open(lowers, Some(Changes { upper: &upper, work: &work }))
        }
        None => OverlayParts::open(lowers, None),
    }
    .during("open a mount's source")?;
    if scratch.is_none() && lowers.len() < 2 {
        // A read-only overlay wants two; an empty one below changes nothing, whiteouts of the other stay invisible.
        parts.underlay(staging.directory()?.fd);
    }
    let target = staging.directory()?;
    parts.mount(ground.user_namespace, NO_DEVICES, &target).during("mount overlay")?;
    target.enter().during("open overlay")
}

fn scratch_directories(scratch: &Path, lowers: &[PathBuf]) -> Result<(PathBuf, PathBuf), Fault> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    let make = || -> io::Result<()> {
        for path in [&upper, &work] {
            mkdirat(CWD, path, Mode::from_raw_mode(0o755))?;
        }
        // The root of the view has the attributes of the topmost directory, which is the empty upper one.
        if let Some(top) = lowers.last() {
            let found = stat(top)?;
            let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
            // An owner that does not exist in this user namespace cannot be given; nobody can tell the difference.
            let _unmapped = chownat(CWD, &upper, Some(uid), Some(gid), AtFlags::empty());
            chmodat(CWD, &upper, Mode::from_raw_mode(found.st_mode & 0o7777), AtFlags::empty())?;
        }
        Ok(())
    };
    make().during(format!("prepare {}", scratch.display()))?;
    Ok((upper, work))
}

fn copy_file(source: &OwnedFd, scratch: &Path) -> Result<OwnedFd, Fault> {
    let path = scratch.join("file");
    let copy = || -> io::Result<OwnedFd> {
        let found = fstat(source)?;
        std::fs::copy(super::mounts::fd_path(source), &path)?;
        let _unmapped =
            chownat(CWD, &path, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)), AtFlags::empty());
        chmodat(CWD, &path, Mode::from_raw_mode(found.st_mode & 0o7777), AtFlags::empty())?;
        Ok(openat(CWD, &path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
    };
    copy().during(format!("copy to {}", path.display()))
}
