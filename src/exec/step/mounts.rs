//! Mounting, by the new interface where the kernel has it and lets us, else by mount(2).
//!
//! Targets and sources are descriptors, so that no name is looked up twice. Knows nothing of what is mounted where.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind, mount_bind_recursive, mount_remount,
    move_mount, open_tree,
};

/// `nosuid,nodev,noexec`
pub(super) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
/// `nodev`: on everything a step can write to. Its root may make device nodes (they belong in layers), and images bring
/// some; without a device control group, which rootless and kill-proof we cannot have, that would be the host's disks.
pub(super) const NO_DEVICES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
/// `ro`
pub(super) const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// An entry to mount on: its directory and name too, because only a look-up by name enters what was mounted there.
#[derive(Debug)]
pub(crate) struct Target {
    /// The directory.
    pub(crate) parent: OwnedFd,
    /// The name in it.
    pub(crate) name: String,
    /// The entry as it was before.
    pub(crate) fd: OwnedFd,
}

impl Target {
    /// The entry `name` of `parent`.
    pub(super) fn new(parent: OwnedFd, name: &str) -> io::Result<Self> {
        let fd = enter(&parent, name)?;
        Ok(Self { parent, name: name.to_owned(), fd })
    }

    /// The entry at `path` of our own (not the image's) tree.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(io::Error::other("not a path to mount on"));
        };
        Self::new(openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?, name)
    }

    /// What is there now: the root of the topmost mount on it.
    pub(super) fn enter(&self) -> io::Result<OwnedFd> {
        enter(&self.parent, &self.name)
    }
}

/// Opens the entry `name` of `parent` without following a link, crossing into what is mounted on it.
pub(super) fn enter(parent: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// The name by which path-taking interfaces can be given a descriptor.
pub(super) fn fd_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Mounts a file system of `kind` on `target`. Options without value are flags.
pub(super) fn fresh(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
    target: &Target,
) -> io::Result<()> {
    match fresh_detached(kind, options, attributes) {
        Ok(mount) => attach(&mount, target),
        Err(error) if is_refused(&error) => {
            let data = options
                .iter()
                .map(|(key, value)| if value.is_empty() { (*key).to_owned() } else { format!("{key}={value}") })
                .collect::<Vec<_>>()
                .join(",");
            let data = std::ffi::CString::new(data)?;
            Ok(mount(kind, fd_path(&target.fd), kind, old_flags(attributes), &*data)?)
        }
        Err(error) => Err(error),
    }
}

fn fresh_detached(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What `df` and `mount` call it; the older interface takes the kind for a name.
    let _unnamed = fsconfig_set_string(&context, "source", kind);
    for (key, value) in options {
        let result = if value.is_empty() {
            fsconfig_set_flag(&context, *key)
        } else {
            fsconfig_set_string(&context, *key, *value)
        };
        result.map_err(|errno| explain(&context, errno))?;
    }
    fsconfig_create(&context).map_err(|errno| explain(&context, errno))?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Puts a detached mount on `target`.
pub(super) fn attach(mount: &OwnedFd, target: &Target) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &target.fd, "", flags)?)
}

/// Whether the interface as such is missing or forbidden, rather than this one use of it wrong.
fn is_refused(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSYS | Errno::PERM))
}

/// Adds what the kernel has to say about a failed configuration.
fn explain(context: &OwnedFd, errno: Errno) -> io::Error {
    if errno == Errno::PERM || errno == Errno::NOSYS {
        return errno.into();
    }
    let mut text = vec![0; 512];
    let length = context.try_clone().map(std::fs::File::from).and_then(|mut file| file.read(&mut text)).unwrap_or(0);
    text.truncate(length);
    let text = String::from_utf8_lossy(&text);
    if text.is_empty() {
        return errno.into();
    }
    io::Error::new(io::Error::from(errno).kind(), format!("{} ({})", io::Error::from(errno), text.trim()))
}

/// A detached copy of the mounts at and below `source`; `None` where only mount(2) is to be had.
pub(super) fn clone_tree(source: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    match open_tree(source, "", flags | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE) {
        Ok(tree) => Ok(Some(tree)),
        Err(errno) if is_refused(&errno.into()) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Shows the tree at `source` on `target` as well.
pub(super) fn bind(source: impl AsFd, target: &Target, attributes: MountAttrFlags, depth: Depth) -> io::Result<()> {
    let recursive = depth == Depth::WithMountsBelow;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    match open_tree(&source, "", flags) {
        Ok(tree) => {
            if !attributes.is_empty() {
                set_attributes(&tree, attributes, recursive)?;
            }
            attach(&tree, target)
        }
        Err(errno) if is_refused(&errno.into()) => {
            if recursive {
                mount_bind_recursive(fd_path(&source), fd_path(&target.fd))?;
            } else {
                mount_bind(fd_path(&source), fd_path(&target.fd))?;
            }
            if attributes.is_empty() {
                return Ok(());
            }
            set_attributes(target.enter()?, attributes, recursive)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a bind takes along what is mounted below its source. In a user namespace it must: what was mounted there by
/// others may not be uncovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// This mount only.
    Single,
    /// Those below it too.
    WithMountsBelow,
}

/// Sets attributes of the mounts at and below `mount`, or of the topmost only.
pub(super) fn set_attributes(mount: impl AsFd, attributes: MountAttrFlags, recursive: bool) -> io::Result<()> {
    match crate::exec::kernel::mount_set_attributes(&mount, u64::from(attributes.bits()), recursive) {
        // Before 5.12; takes only the topmost mount, which is why callers mask what must not be written below.
        Err(error) if is_refused(&error) => {
            Ok(mount_remount(fd_path(&mount), MountFlags::BIND | old_flags(attributes), c"")?)
        }
        result => result,
    }
}

fn old_flags(attributes: MountAttrFlags) -> MountFlags {
    let pairs = [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
    ];
    pairs.into_iter().filter(|(new, _)| attributes.contains(*new)).map(|(_, old)| old).collect()
}

/// Where an overlay's changes go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changes<'a> {
    /// What was changed.
    pub(super) upper: &'a Path,
    /// The kernel's own scratch directory.
    pub(super) work: &'a Path,
}

/// The directories of an overlay, opened: later ones may be covered by mounts of ours.
#[derive(Debug)]
pub(super) struct OverlayParts {
    lowers: Vec<OwnedFd>,
    writable: Vec<(&'static str, OwnedFd)>,
}

impl OverlayParts {
    /// Opens a stack of directories (from the bottom to the top) in this mount namespace: the kernel refuses descriptors
    /// of another. Without `changes` it is read-only and needs two.
    pub(super) fn open(lowers: &[PathBuf], changes: Option<Changes<'_>>) -> io::Result<Self> {
        let open = |path: &Path| -> io::Result<OwnedFd> {
            openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
                let error = io::Error::from(errno);
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        let lowers = lowers.iter().map(|lower| open(lower)).collect::<io::Result<_>>()?;
        let writable = match changes {
            Some(Changes { upper, work }) => vec![("upperdir", open(upper)?), ("workdir", open(work)?)],
            None => Vec::new(),
        };
        Ok(Self { lowers, writable })
    }

    /// Puts one more directory at the bottom.
    pub(super) fn underlay(&mut self, directory: OwnedFd) {
        self.lowers.insert(0, directory);
    }

    /// Mounts them on `target`. `user_xattrs` says that overlay's marks are in the `user.` namespace, which is the only one
    /// there is in a user namespace.
    pub(super) fn mount(&self, user_xattrs: bool, attributes: MountAttrFlags, target: &Target) -> io::Result<()> {
        let error = match self.detached(user_xattrs, attributes) {
            Ok(mount) => return attach(&mount, target),
            Err(error) => error,
        };
        // Kernels before 6.8 or so know the interface, but not layer by layer.
        let old_might_do = is_refused(&error) || error.kind() == io::ErrorKind::InvalidInput;
        if !old_might_do {
            return Err(error);
        }
        // The newer interface tells more about the same refusal.
        self.by_mount(user_xattrs, attributes, target).map_err(|old| if is_refused(&error) { old } else { error })
    }

    fn detached(&self, user_xattrs: bool, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let _unnamed = fsconfig_set_string(&context, "source", "overlay");
        let set = |key: &str, fd: &OwnedFd| -> io::Result<()> {
            fsconfig_set_string(&context, key, fd_path(fd)).map_err(|errno| explain(&context, errno))
        };
        for lower in self.lowers.iter().rev() {
            set("lowerdir+", lower)?;
        }
        for (key, fd) in &self.writable {
            set(key, fd)?;
        }
        for (key, value) in PLAIN {
            // A kernel without the feature does not know how to switch it off.
            let _unknown = fsconfig_set_string(&context, key, value);
        }
        if user_xattrs {
            fsconfig_set_flag(&context, "userxattr").map_err(|errno| explain(&context, errno))?;
        }
        if !self.writable.is_empty() {
            let _unknown = fsconfig_set_flag(&context, "volatile");
        }
        fsconfig_create(&context).map_err(|errno| explain(&context, errno))?;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    fn by_mount(&self, user_xattrs: bool, attributes: MountAttrFlags, target: &Target) -> io::Result<()> {
        let list = self.lowers.iter().rev().map(fd_path).collect::<Vec<_>>().join(":");
        let mut data = format!("lowerdir={list}");
        for (key, fd) in &self.writable {
            data = format!("{data},{key}={}", fd_path(fd));
        }
        if user_xattrs {
            data.push_str(",userxattr");
        }
        let plain: String = PLAIN.iter().fold(String::new(), |all, (key, value)| format!("{all},{key}={value}"));
        let volatile = if self.writable.is_empty() { "" } else { ",volatile" };
        for extra in [format!("{plain}{volatile}"), plain.clone(), String::new()] {
            let data = std::ffi::CString::new(format!("{data}{extra}"))?;
            match mount("overlay", fd_path(&target.fd), "overlay", old_flags(attributes), &*data) {
                Ok(()) => return Ok(()),
                // It does not know one of the options.
                Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::INVAL.into())
    }
}

/// What we never want of an overlay: they tie a layer to the one below by more than names.
const PLAIN: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];
