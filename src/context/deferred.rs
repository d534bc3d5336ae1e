//! A context that is fetched when something first asks for it, and not at all if nothing does.

use std::fmt;
use std::io::Read;
use std::sync::{Arc, OnceLock};

use super::{Absence, Filter, Node, Tree, TreeError, Walked, Want};
use crate::tar::entry::LayerPath;
use crate::transfer::Seen;

/// A tree that workers can share.
pub type SharedTree = Arc<dyn Tree + Send + Sync>;

/// Makes the tree, or says why there is none.
type Make = Box<dyn Fn() -> Result<SharedTree, String> + Send + Sync>;

/// A tree to be made.
pub struct Deferred {
    make: Make,
    made: OnceLock<Result<SharedTree, String>>,
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("made", &self.made.get().map(Result::is_ok)).finish_non_exhaustive()
    }
}

impl Deferred {
    /// A tree that `make` makes, once.
    pub fn new(make: impl Fn() -> Result<SharedTree, String> + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), made: OnceLock::new() }
    }

    /// The tree; whoever comes first waits for it, and so does everybody else.
    fn tree(&self, path: &LayerPath) -> Result<&SharedTree, TreeError> {
        let made = self.made.get_or_init(|| (self.make)()).as_ref();
        made.map_err(|reason| TreeError::unavailable(path, reason))
    }
}

impl Tree for Deferred {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        self.tree(path)?.lookup(path)
    }

    fn see(&self, path: &LayerPath) -> Result<Seen, TreeError> {
        self.tree(path)?.see(path)
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        self.tree(dir)?.children(dir, want)
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        self.tree(path)?.read(path)
    }

    fn walk(&self, top: &LayerPath, filter: &Filter) -> Result<Vec<Walked>, TreeError> {
        self.tree(top)?.walk(top, filter)
    }

    fn absence(&self, path: &LayerPath) -> Option<Absence> {
        self.tree(path).ok()?.absence(path)
    }
}
