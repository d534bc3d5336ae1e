//! Mounts that want an overlay, where there is none: their content is copied beside the root and bound.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::step::walk::{Missing, Rooted};
use super::{Mount, MountKind, Process};
use crate::snapshot::{Copied, OverlayXattrs};

/// Replaces stacks and discarded writes by binds of copies in a new directory below `beside`, which is to be kept until
/// the process has ended; `None` if there was nothing to copy.
pub(crate) fn copied(process: &mut Process, beside: &Path, xattrs: OverlayXattrs) -> io::Result<Option<TempDir>> {
    let wanted = |mount: &Mount| matches!(mount.kind, MountKind::Stack { .. } | MountKind::Discard { .. });
    if !process.mounts.iter().any(wanted) {
        return Ok(None);
    }
    let directory = tempfile::Builder::new().prefix("mounts-").tempdir_in(beside)?;
    for (number, mount) in process.mounts.iter_mut().enumerate() {
        let copy = directory.path().join(number.to_string());
        match &mount.kind {
            MountKind::Stack { lowers, subpath, scratch } => {
                Copied { xattrs }.merge(lowers, &copy)?;
                let real = Rooted::at(&copy)?.real_path(subpath, Missing::Fail).map_err(|error| {
                    io::Error::new(error.kind(), format!("open {subpath} in the mount's source: {error}"))
                })?;
                mount.kind = MountKind::Bind { source: copy.join(real), readonly: scratch.is_none() };
            }
            MountKind::Discard { source, .. } => {
                Copied { xattrs }.copy(source, &copy)?;
                mount.kind = MountKind::Bind { source: copy, readonly: false };
            }
            MountKind::Bind { .. } | MountKind::Tmpfs { .. } | MountKind::File { .. } | MountKind::Socket { .. } => {}
        }
    }
    Ok(Some(directory))
}
