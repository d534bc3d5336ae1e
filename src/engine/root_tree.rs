//! A stack of layers as the tree that COPY reads from and writes onto: answered from indexes, nothing is unpacked for it.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::digest::{Blake3, LayerId};

use super::StepError;
use super::elsewhere::{Elsewhere, Need};
use crate::layers::view::{Found, View};
use crate::tar::entry::LayerPath;
use crate::transfer::{Link, Node, Tree, TreeError, Want};

/// The merged root of a stack.
pub(super) struct RootTree {
    view: View,
    /// Layers of which only the entries are here.
    unfetched: Mutex<BTreeSet<LayerId>>,
    elsewhere: Arc<dyn Elsewhere>,
}

impl std::fmt::Debug for RootTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RootTree").field(&self.view).finish()
    }
}

impl RootTree {
    /// A view of which the layers `unfetched` are fetched when a file of theirs is read.
    pub(super) fn new(view: View, unfetched: BTreeSet<LayerId>, elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self { view, unfetched: Mutex::new(unfetched), elsewhere }
    }

    fn fetched(&self, layer: &LayerId) -> Result<(), StepError> {
        // Held while fetching: whoever reads meanwhile most likely wants the same layer.
        let mut unfetched = self.unfetched.lock().unwrap_or_else(PoisonError::into_inner);
        if unfetched.contains(layer) {
            self.elsewhere.fetch(&[*layer], Need::Files)?;
            unfetched.remove(layer);
        }
        Ok(())
    }
}

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
        Ok(self.view.lookup(path).map(node))
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        Ok(self
            .view
            .children(dir)
            .into_iter()
            .map(|(_, found)| node(found))
            .filter(|n| want(n.entry.path.name(), n.is_dir()))
            .collect())
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match self.view.lookup(path) {
            Some(found) => {
                self.fetched(&found.layer).map_err(at(path))?;
                self.view.open(&found).map_err(at(path))
            }
            None => Err(TreeError { path: path.clone(), source: io::ErrorKind::NotFound.into() }),
        }
    }
}
