//! A context that came as an archive on stdin.
//!
//! Unpacked like an ADD of it into an empty root; contents stay in the scratch file. Owners are the archive's and no ignore
//! file applies (X03, D180). Whether stdin is an archive at all is decided by the caller (`transfer::archive::is_archive`).

use std::io::Read;

use rbuild_cache::{Scratch, ScratchReader};

use super::{Absence, TreeError, Want};
use crate::tar::entry::{Entry, Kind, LayerPath};
use crate::transfer::forest::Forest;
use crate::transfer::{Filter, Node, TransferError, Tree, archive};

/// An archive as a tree.
#[derive(Debug)]
pub struct TarContext {
    nodes: Forest<Option<u64>>,
    contents: ScratchReader,
}

impl TarContext {
    /// Reads a whole archive, maybe compressed. `now` is the mtime of directories it does not list.
    pub fn read(input: Box<dyn Read + Send>, mut scratch: Scratch, now: i64) -> Result<Self, TransferError> {
        let nodes = archive::unpack_all(input, &mut scratch, now)?;
        let contents = scratch.finish().map_err(TransferError::Spool)?;
        Ok(Self { nodes, contents })
    }

    /// The time of its newest file.
    pub fn newest(&self) -> Option<i64> {
        let walked = self.walk(&LayerPath::root(), &Filter::all()).ok()?;
        let files = walked.iter().map(|w| &w.node.entry).filter(|entry| matches!(entry.kind, Kind::File { .. }));
        files.map(|entry| entry.meta.mtime).max()
    }
}

impl Tree for TarContext {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        Ok(self.nodes.node(path))
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        Ok(self.nodes.list(dir, want))
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match self.nodes.get(path) {
            Some((Node { entry: Entry { kind: Kind::File { size, .. }, .. }, .. }, Some(offset))) => {
                Ok(self.contents.range(*offset, *size))
            }
            Some(_) | None => Err(TreeError::at(path)(std::io::ErrorKind::NotFound.into())),
        }
    }

    fn absence(&self, _path: &LayerPath) -> Option<Absence> {
        None
    }
}
