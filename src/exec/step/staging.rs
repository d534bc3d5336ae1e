//! A small memory file system of one step, seen by nobody after the pivot: holds what is bound into the root.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, makedev, mkdirat, mknodat, openat};
use rustix::mount::MountAttrFlags;

use super::mounts::{self, Depth, Target, enter};
use super::{During, Fault};

/// The file system and how many entries were made in it.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    directory: OwnedFd,
    entries: u32,
    empty: Option<OwnedFd>,
}

impl Staging {
    /// Mounts one over `target`, whatever is at that `path`.
    pub(super) fn mount(target: &Target, path: &Path) -> Result<Self, Fault> {
        // Scripts that are bound from here are executed there, and devices are opened.
        mounts::fresh("tmpfs", &[("mode", "0755")], MountAttrFlags::MOUNT_ATTR_NOSUID, target).during("mount tmpfs")?;
        Ok(Self { path: path.to_owned(), directory: target.enter().during("open tmpfs")?, entries: 0, empty: None })
    }

    /// A new empty directory.
    pub(super) fn directory(&mut self) -> Result<Target, Fault> {
        let name = self.name();
        mkdirat(&self.directory, &name, Mode::from_raw_mode(0o755)).during("mkdir on tmpfs")?;
        let parent = self.directory.as_fd().try_clone_to_owned().during("dup")?;
        Target::new(parent, &name).during("open directory on tmpfs")
    }

    /// Where an entry is, for programs that take paths.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Shows a tree or a file here too; gives its path.
    pub(super) fn show(
        &mut self,
        source: &OwnedFd,
        attributes: MountAttrFlags,
        depth: Depth,
    ) -> Result<PathBuf, Fault> {
        let kind = FileType::from_raw_mode(fstat(source).during("stat a mount's source")?.st_mode);
        let target = if kind == FileType::Directory {
            self.directory()?
        } else {
            self.file(b"", 0o600, 0, 0)?;
            Target::new(self.directory.try_clone().during("dup")?, &self.entries.to_string())
                .during("open file on tmpfs")?
        };
        mounts::bind(source, &target, attributes, depth).during("bind on tmpfs")?;
        Ok(self.path(&target.name))
    }

    /// A new file.
    pub(super) fn file(&mut self, content: &[u8], mode: u32, uid: u32, gid: u32) -> Result<OwnedFd, Fault> {
        let name = self.name();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&self.directory, &name, flags, Mode::from_raw_mode(0o600)).during("create file on tmpfs")?;
        let mut file = std::fs::File::from(file);
        file.write_all(content).during("write file on tmpfs")?;
        own(&file, uid, gid)?;
        fchmod(&file, Mode::from_raw_mode(mode)).during("chmod file on tmpfs")?;
        enter(&self.directory, &name).during("open file on tmpfs")
    }

    /// A new device.
    pub(super) fn device(&mut self, kind: FileType, mode: u32, (major, minor): (u32, u32)) -> io::Result<OwnedFd> {
        let name = self.name();
        mknodat(&self.directory, &name, kind, Mode::from_raw_mode(mode), makedev(major, minor))?;
        enter(&self.directory, &name)
    }

    /// A new socket that listens, and its name.
    pub(super) fn listener(&mut self) -> Result<(OwnedFd, String), Fault> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
        let name = self.name();
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).during("socket")?;
        let path = format!("{}/{name}", mounts::fd_path(&self.directory));
        bind(&socket, &SocketAddrUnix::new(&*path).during("socket address")?).during("bind socket")?;
        listen(&socket, 128).during("listen")?;
        Ok((socket, name))
    }

    /// A new socket that listens, and its place, for the step.
    pub(super) fn socket(&mut self, mode: u32, uid: u32, gid: u32) -> Result<(OwnedFd, OwnedFd), Fault> {
        let (socket, name) = self.listener()?;
        let place = enter(&self.directory, &name).during("open socket")?;
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let flags = rustix::fs::AtFlags::empty();
        match rustix::fs::chownat(&self.directory, &name, owner, group, flags) {
            Err(rustix::io::Errno::INVAL) => {}
            result => result.during("chown socket")?,
        }
        rustix::fs::chmodat(&self.directory, &name, Mode::from_raw_mode(mode), flags).during("chmod socket")?;
        Ok((socket, place))
    }

    /// The root of an empty file system, the same each time: what masked directories show.
    pub(super) fn empty(&mut self) -> Result<OwnedFd, Fault> {
        if let Some(empty) = &self.empty {
            return empty.try_clone().during("dup");
        }
        let target = self.directory()?;
        mounts::fresh(
            "tmpfs",
            &[("mode", "0755"), ("size", "4k")],
            mounts::INERT | MountAttrFlags::MOUNT_ATTR_RDONLY,
            &target,
        )
        .during("mount tmpfs")?;
        let empty = target.enter().during("open tmpfs")?;
        self.empty = Some(empty.try_clone().during("dup")?);
        Ok(empty)
    }

    fn name(&mut self) -> String {
        self.entries += 1;
        self.entries.to_string()
    }
}

/// Gives `file` an owner. One that does not exist in this user namespace (`EINVAL`) is played by the only user there is.
fn own(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Fault> {
    match fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Err(rustix::io::Errno::INVAL) => Ok(()),
        result => result.during(format!("chown to {uid}:{gid}")),
    }
}
