//! Roots as overlays: nothing is copied until the step changes it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Copied, OverlayXattrs, Root, Snapshots, copied};

/// Makes overlays; of more trees than the kernel takes, the lowest are merged by copying.
#[derive(Clone, Copy, Debug)]
pub struct Overlay {
    /// How the trees are marked.
    pub xattrs: OverlayXattrs,
}

/// Lower directories that the kernel takes at most.
const MAX_LOWERS: usize = 500;

impl Snapshots for Overlay {
    fn prepare(&self, lowers: &[PathBuf], scratch: &Path) -> io::Result<Root> {
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        fs_err::create_dir(&upper)?;
        fs_err::create_dir(&work)?;
        let mut lowers = lowers.to_vec();
        if lowers.is_empty() {
            let empty = scratch.join("empty");
            fs_err::create_dir(&empty)?;
            lowers.push(empty);
        }
        if lowers.len() > MAX_LOWERS {
            let merged = scratch.join("merged");
            let lowest: Vec<_> = lowers.drain(..=lowers.len() - MAX_LOWERS).collect();
            Copied { xattrs: self.xattrs }.merge(&lowest, &merged)?;
            lowers.insert(0, merged);
        }
        // The root directory of an overlay has the attributes of the topmost directory, which is the empty upper one.
        if let Some(top) = lowers.last() {
            copied::attributes(top, &upper, self.xattrs)?;
        }
        Ok(Root::Overlay { lowers, upper, work })
    }
}
