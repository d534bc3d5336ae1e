//! A tree in memory: small roots, archives whose contents lie elsewhere, and tests.
//!
//! Does not know where contents are: that is the parameter `C`.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Bound;

use rbuild_cache::digest::Blake3;

use super::{Link, Node, Tree, TreeError, Want};
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// Nodes by path, each with something that leads to its content. The root always exists.
#[derive(Clone, Debug)]
pub struct Forest<C> {
    nodes: BTreeMap<LayerPath, (Node, C)>,
}

/// The tree without anything in it; what `--link` copies onto, and `FROM scratch`.
pub const EMPTY: Forest<Vec<u8>> = Forest { nodes: BTreeMap::new() };

impl<C> Default for Forest<C> {
    fn default() -> Self {
        Self { nodes: BTreeMap::new() }
    }
}

impl<C> Forest<C> {
    /// Puts a node in, in place of what was there. Its parents should be there, or be put in later.
    pub fn insert(&mut self, node: Node, content: C) {
        self.nodes.insert(node.entry.path.clone(), (node, content));
    }

    /// The node at `path` with what leads to its content.
    pub fn get(&self, path: &LayerPath) -> Option<&(Node, C)> {
        self.nodes.get(path)
    }

    /// All nodes in order.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|(node, _)| node)
    }

    /// The node at `path`, which is made up for the root if need be.
    pub fn node(&self, path: &LayerPath) -> Option<Node> {
        match self.nodes.get(path) {
            Some((node, _)) => Some(node.clone()),
            None if path.is_root() => Some(Node::new(Entry {
                path: LayerPath::root(),
                kind: Kind::Directory { opaque: false },
                meta: Meta { mode: 0o755, ..Meta::default() },
            })),
            None => None,
        }
    }

    /// The direct children of `dir` that are wanted.
    pub fn list(&self, dir: &LayerPath, want: &Want<'_>) -> Vec<Node> {
        let mut out = Vec::new();
        let mut from = Bound::Excluded(dir.clone());
        while let Some((path, (node, _))) = self.nodes.range((from, Bound::Unbounded)).next() {
            if path.strip(dir).is_none() {
                break;
            }
            if want(path.name(), node.is_dir()) {
                out.push(node.clone());
            }
            // A NUL sorts right above the slash, so this lies behind everything below `path`.
            let mut name = path.name().to_vec();
            name.push(0);
            from = Bound::Excluded(path.parent().unwrap_or_default().join(&name));
        }
        out
    }
}

impl Forest<Vec<u8>> {
    /// Adds something, with any missing parents (0755 0:0). For tests and generated trees.
    pub fn put(&mut self, path: &str, kind: Kind, meta: Meta, content: Vec<u8>, link: Option<Link>) -> &mut Self {
        let path = LayerPath::clean(path);
        let mut parent = path.parent();
        while let Some(dir) = parent.filter(|p| !p.is_root()) {
            let entry = Entry {
                path: dir.clone(),
                kind: Kind::Directory { opaque: false },
                meta: Meta { mode: 0o755, ..Meta::default() },
            };
            self.nodes.entry(dir.clone()).or_insert_with(|| (Node::new(entry), Vec::new()));
            parent = dir.parent();
        }
        self.insert(Node { entry: Entry { path, kind, meta }, link }, content);
        self
    }

    /// Adds a file with this content.
    pub fn file(&mut self, path: &str, content: &str, mode: u32) -> &mut Self {
        let kind = Kind::File { size: content.len() as u64, content: Blake3::of(content.as_bytes()) };
        self.put(path, kind, Meta { mode, ..Meta::default() }, content.as_bytes().to_vec(), None)
    }

    /// Adds a directory.
    pub fn dir(&mut self, path: &str, mode: u32, uid: u32, gid: u32) -> &mut Self {
        let meta = Meta { mode, uid, gid, ..Meta::default() };
        self.put(path, Kind::Directory { opaque: false }, meta, Vec::new(), None)
    }

    /// Adds a symlink.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        let meta = Meta { mode: 0o777, ..Meta::default() };
        self.put(path, Kind::Symlink(target.as_bytes().to_vec()), meta, Vec::new(), None)
    }
}

impl Tree for Forest<Vec<u8>> {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        Ok(self.node(path))
    }
    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        Ok(self.list(dir, want))
    }
    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        match self.get(path) {
            Some((_, content)) => Ok(Box::new(Cursor::new(content.clone()))),
            None => Err(TreeError::at(path)(std::io::ErrorKind::NotFound.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_direct_and_ordered() {
        let mut tree = Forest::default();
        tree.file("a/b/c", "", 0o644).file("a/b.d", "", 0o644).file("a-b", "", 0o644).file("z", "", 0o644);
        let names = |dir: &str| {
            let list = tree.list(&LayerPath::clean(dir), &|_, _| true);
            list.iter().map(|n| n.entry.path.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("/"), "/a /a-b /z");
        assert_eq!(names("/a"), "/a/b /a/b.d");
        assert_eq!(names("/z"), "");
    }
}
