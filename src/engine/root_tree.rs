//! A stack of layers as the tree that COPY reads from and writes onto: answered from indexes, nothing is unpacked for it.

use std::io::{self, Read};

use rbuild_cache::digest::Blake3;

use crate::layers::view::{Found, View};
use crate::tar::entry::LayerPath;
use crate::transfer::{Link, Node, Tree, TreeError, Want};

/// The merged root of a stack.
#[derive(Debug)]
pub(super) struct RootTree(pub(super) View);

fn at<E: std::error::Error + Send + Sync + 'static>(path: &LayerPath) -> impl Fn(E) -> TreeError + '_ {
    move |error| TreeError { path: path.clone(), source: io::Error::other(error) }
}

fn node(found: Found) -> Node {
    // Names with the same origin in the same layer are one file.
    let first = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    let link = Link(first(&found.layer.0.0), first(&Blake3::of(found.origin.as_bytes()).0));
    Node { link: Some(link), entry: found.entry }
}

impl Tree for RootTree {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        Ok(self.0.lookup(path).map(node))
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        Ok(self
            .0
            .children(dir)
            .into_iter()
            .map(|(_, found)| node(found))
            .filter(|n| want(n.entry.path.name(), n.is_dir()))
            .collect())
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match self.0.lookup(path) {
            Some(found) => self.0.open(&found).map_err(at(path)),
            None => Err(TreeError { path: path.clone(), source: io::ErrorKind::NotFound.into() }),
        }
    }
}
