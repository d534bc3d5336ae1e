//! A stack of layers as the tree that COPY reads from and writes onto: answered from indexes, nothing is unpacked for it.

use std::io::Read;

use crate::layers::view::View;
use crate::tar::entry::{Entry, LayerPath};
use crate::transfer::{Tree, TreeError};

/// The merged root of a stack.
#[derive(Debug)]
pub(super) struct RootTree(pub(super) View);

impl Tree for RootTree {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
        Ok(self.0.lookup(path).map_err(TreeError::new)?.map(|found| found.entry))
    }

    fn children(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
        let children = self.0.children(path).map_err(TreeError::new)?;
        Ok(children.into_iter().map(|found| found.entry).collect())
    }

    fn read(&self, entry: &Entry) -> Result<Box<dyn Read + Send>, TreeError> {
        match self.0.lookup(&entry.path).map_err(TreeError::new)? {
            Some(found) => self.0.open(&found).map_err(TreeError::new),
            None => Err(TreeError::gone(&entry.path)),
        }
    }
}
