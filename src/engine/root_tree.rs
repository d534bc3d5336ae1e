//! A stack of layers as the tree that COPY reads from and writes onto: answered from indexes, nothing is unpacked for it.

use std::io::{self, Read};

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
    Node { link: found.link.map(|(layer, place)| Link(layer, place)), entry: found.entry }
}

impl Tree for RootTree {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        Ok(self.0.lookup(path).map_err(at(path))?.map(node))
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        let children = self.0.children(dir).map_err(at(dir))?;
        Ok(children.into_iter().map(|(_, found)| node(found)).filter(|n| want(n.entry.path.name(), n.is_dir())).collect())
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match self.0.lookup(path).map_err(at(path))? {
            Some(found) => self.0.open(&found).map_err(at(path)),
            None => Err(TreeError { path: path.clone(), source: io::ErrorKind::NotFound.into() }),
        }
    }
}
