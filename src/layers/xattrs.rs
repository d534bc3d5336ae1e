//! Extended attributes: which belong to a layer, which are overlayfs's or ours, and in what form they leave the machine.
//!
//! Only this file knows the names. Attributes are read and written through `/proc/self/fd`, because symbolic links and
//! special files cannot be opened and there is no `*at` call for them on the kernels we support.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::locked;

/// Where overlayfs keeps its own attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayXattrs {
    /// `trusted.overlay.*`: mounted by root.
    Trusted,
    /// `user.overlay.*`: mounted with `userxattr`, inside a user namespace; also where nothing can be mounted at all.
    User,
}

/// Marks an opaque directory where no attribute can: an empty file in it, named as in tars, so no layer has such a file. On
/// file systems that need it (an overlay, an old tmpfs) no overlay can be mounted, so only copies are made of the tree.
pub const OPAQUE_NAME: &str = ".wh..wh..opq";
/// Marks a deleted name where no whiteout can be made (an overlay keeps them for itself): what the symbolic link says that
/// stands for it.
pub const WHITEOUT_TEXT: &str = "(deleted by rbuild)";

impl OverlayXattrs {
    /// The attribute that makes a directory hide what lower layers have in it.
    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// Where the owner of a file is kept that this user namespace cannot give it: `UID:GID` in decimal.
const OWNER: &[u8] = b"user.rbuild.owner";
const CAPABILITY: &[u8] = b"security.capability";

/// Whether an attribute is part of a layer. Those of overlayfs (also of nested ones), our own, and what the running system
/// puts on every file are not.
pub(super) fn belongs(name: &[u8]) -> bool {
    const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
    const HOST: [&[u8]; 4] = [b"security.selinux", b"security.ima", b"security.evm", b"system."];
    !OVERLAY.iter().chain(&HOST).any(|prefix| name.starts_with(prefix)) && !name.starts_with(b"user.rbuild.")
}

/// What the attributes of one file say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Those that belong to the layer, in portable form.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The directory is opaque.
    pub opaque: bool,
    /// The owner the file should have had.
    pub owner: Option<(u32, u32)>,
    /// The mode that it should have had.
    pub mode: Option<u32>,
}

/// Reads the attributes of `name` in `dir` without following it.
pub(super) fn read(dir: impl AsFd, name: &[u8], overlay: OverlayXattrs) -> io::Result<Found> {
    let path = path(dir, name);
    let mut found = Found::default();
    let mut names = [0u8; 1024];
    let listed = match rustix::fs::llistxattr(&path, &mut names[..]) {
        Ok(n) => names[..n].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_LIST_MAX];
            let n = rustix::fs::llistxattr(&path, &mut large[..])?;
            large.truncate(n);
            large
        }
        Err(Errno::OPNOTSUPP) => return Ok(found),
        Err(e) => return Err(e.into()),
    };
    for key in listed.split(|b| *b == 0).filter(|key| !key.is_empty()) {
        let opaque = key == overlay.opaque().as_bytes();
        let (owner, mode) = (key == OWNER, key == locked::MODE.as_bytes());
        if !(opaque || owner || mode || belongs(key)) {
            continue;
        }
        let Some(value) = value(&path, key)? else { continue };
        if opaque {
            found.opaque = value == b"y";
        } else if owner {
            found.owner = parse_owner(&value);
        } else if mode {
            found.mode = locked::parse(&value);
        } else if key == CAPABILITY {
            found.xattrs.insert(key.to_vec(), portable_capability(value));
        } else {
            found.xattrs.insert(key.to_vec(), value);
        }
    }
    Ok(found)
}

/// The kernel's limits on lists and values.
const XATTR_LIST_MAX: usize = 64 << 10;
const XATTR_SIZE_MAX: usize = 64 << 10;

fn value(path: &PathBuf, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut small = [0u8; 256];
    match rustix::fs::lgetxattr(path, key, &mut small[..]) {
        Ok(n) => Ok(Some(small[..n].to_vec())),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_SIZE_MAX];
            let n = rustix::fs::lgetxattr(path, key, &mut large[..])?;
            large.truncate(n);
            Ok(Some(large))
        }
        // Listed but not readable by us, or gone in between.
        Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Sets the attributes of a layer's entry. What the file system or the user namespace does not allow stays in the index only.
pub(super) fn write(dir: impl AsFd, name: &[u8], xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<()> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let path = path(dir, name);
    for (key, value) in xattrs.iter().filter(|(key, _)| belongs(key)) {
        match rustix::fs::lsetxattr(&path, key.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Makes a directory opaque to overlayfs, or not.
pub(super) fn set_opaque(dir: impl AsFd, name: &[u8], overlay: OverlayXattrs, opaque: bool) -> io::Result<()> {
    let path = path(dir, name);
    let mark = path.join(OPAQUE_NAME);
    if opaque {
        return match rustix::fs::lsetxattr(&path, overlay.opaque(), b"y", XattrFlags::empty()) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Ok(rustix::fs::open(mark, flags, Mode::RUSR).map(drop)?)
            }
            set => Ok(set?),
        };
    }
    match rustix::fs::unlink(mark) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match rustix::fs::lremovexattr(&path, overlay.opaque()) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Unlocks a file that its mode would keep us from.
pub(super) fn unlock(dir: impl AsFd, name: &[u8]) {
    locked::unlock(&path(dir, name));
}

/// Remembers the owner of a file or directory that cannot be given to it. Links and specials cannot carry it; for those the
/// index knows.
pub(super) fn record_owner(dir: impl AsFd, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
    let text = format!("{uid}:{gid}");
    match rustix::fs::lsetxattr(path(dir, name), OWNER, text.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Turns a v3 capability (bound to a user namespace by its last four bytes) into the v2 form that is right everywhere.
fn portable_capability(value: Vec<u8>) -> Vec<u8> {
    const V2: u32 = 0x0200_0000;
    const V3: u32 = 0x0300_0000;
    const EFFECTIVE: u32 = 1;
    let Some((magic, rest)) = value.split_first_chunk::<4>() else { return value };
    let magic = u32::from_le_bytes(*magic);
    if magic & !EFFECTIVE != V3 || rest.len() != 20 {
        return value;
    }
    [&(V2 | magic & EFFECTIVE).to_le_bytes(), &rest[..16]].concat()
}

fn path(dir: impl AsFd, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_their_namespace() {
        let v3 = [&[1, 0, 0, 3][..], &[7; 16], &[0xe9, 3, 0, 0]].concat();
        assert_eq!(portable_capability(v3), [&[1, 0, 0, 2][..], &[7; 16]].concat());
        let v2 = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        assert_eq!(portable_capability(v2.clone()), v2);
    }

    #[test]
    fn what_belongs_to_a_layer() {
        let all = ["user.a", "security.capability", "trusted.x", "trusted.overlay.opaque", "user.overlay.origin"];
        let kept: Vec<_> = all.iter().filter(|n| belongs(n.as_bytes())).collect();
        assert_eq!(kept, [&"user.a", &"security.capability", &"trusted.x"]);
        assert!(
            !belongs(b"user.rbuild.owner") && !belongs(b"security.selinux") && !belongs(b"system.posix_acl_access")
        );
    }
}
