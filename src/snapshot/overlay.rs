//! Roots as overlays: nothing is copied until the step changes it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, chmodat};

use super::{Copied, OverlayXattrs, Root, Snapshots, copied};

/// Makes overlays; of more trees than the kernel takes, the lowest are merged by copying.
#[derive(Clone, Debug)]
pub struct Overlay {
    xattrs: OverlayXattrs,
    skeleton: PathBuf,
}

/// Lower directories that the kernel takes at most.
const MAX_LOWERS: usize = 500;

/// A directory, and files on which every sandbox mounts something. /dev, /proc and /sys are not here: in an image that lacks
/// them they become part of the layer.
const MOUNT_POINTS: ([&str; 1], [&str; 2]) = (["etc"], ["etc/hosts", "etc/resolv.conf"]);

impl Overlay {
    /// Overlays of trees with these marks. `skeleton` is an empty directory on the same file system that outlives them: at
    /// the bottom of each overlay it provides the usual mount points, so that they need not be made in each step's changes
    /// and removed again.
    pub fn new(xattrs: OverlayXattrs, skeleton: PathBuf) -> io::Result<Self> {
        // Whatever rbuild's umask is.
        let mode = |path: &Path, mode: u32| chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty());
        for directory in MOUNT_POINTS.0.map(|name| skeleton.join(name)) {
            fs_err::create_dir(&directory)?;
            mode(&directory, 0o755)?;
        }
        for file in MOUNT_POINTS.1.map(|name| skeleton.join(name)) {
            fs_err::write(&file, "")?;
            mode(&file, 0o644)?;
        }
        Ok(Self { xattrs, skeleton })
    }
}

impl Snapshots for Overlay {
    fn prepare(&self, lowers: &[PathBuf], scratch: &Path) -> io::Result<Root> {
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        fs_err::create_dir(&upper)?;
        fs_err::create_dir(&work)?;
        let mut below = vec![self.skeleton.clone()];
        let mut above = lowers;
        if lowers.len() >= MAX_LOWERS {
            // Besides the skeleton and the merged one.
            let (lowest, rest) = lowers.split_at(lowers.len() - (MAX_LOWERS - 2));
            let merged = scratch.join("merged");
            Copied { xattrs: self.xattrs }.merge(lowest, &merged)?;
            below.push(merged);
            above = rest;
        }
        below.extend_from_slice(above);
        // The root directory of an overlay has the attributes of the topmost directory, which is the empty upper one.
        match lowers.last() {
            Some(top) => copied::attributes(top, &upper, self.xattrs)?,
            None => chmodat(CWD, &upper, Mode::from_raw_mode(0o755), AtFlags::empty())?,
        }
        Ok(Root::Overlay { lowers: below, upper, work })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_trees_than_the_kernel_takes_are_merged_from_below() {
        let temp = tempfile::tempdir().expect("temp dir");
        let make = |name: String| {
            let path = temp.path().join(&name);
            fs_err::create_dir(&path).expect("mkdir");
            fs_err::write(path.join("top"), &name).expect("write");
            path
        };
        let overlay = Overlay::new(OverlayXattrs::User, make("skeleton".into())).expect("skeleton");
        let trees: Vec<_> = (0..502).map(|number| make(number.to_string())).collect();
        for count in [0, 499, 500, 502] {
            let scratch = make(format!("scratch-{count}"));
            let Root::Overlay { lowers, .. } = overlay.prepare(&trees[..count], &scratch).expect("prepares") else {
                panic!("an overlay")
            };
            assert_eq!(lowers.len(), (count + 1).min(MAX_LOWERS));
            assert_eq!(lowers[0], temp.path().join("skeleton"));
            if count > 499 {
                // One more tree than there was no room for makes room for the merged one.
                let last = (count - 499).to_string();
                assert_eq!(fs_err::read_to_string(lowers[1].join("top")).expect("read"), last);
                assert_eq!(lowers[2], trees[count - 498]);
            }
        }
    }
}
