//! What a transfer asked of its destination: the part of the parent that its result depends on.
//!
//! Two parents with the same facts give the same layer, so a key is made of these instead of the whole stack. Facts are kept
//! as small as the rules allow: that something is absent, that something is a directory, where a link leads; a directory's
//! owner and mode only if they get into the layer; content only of passwd and group.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rbuild_cache::digest::{Blake3, KeyHasher};

use super::resolve::Seen;
use super::{Node, Tree, TreeError};
use crate::tar::entry::{Kind, LayerPath, Meta};

/// Version of [`Facts::digest`].
const FACTS_VERSION: u32 = 1;

/// One thing known about the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// There is nothing.
    Absent,
    /// It is a directory; the metadata is there if it is repeated in the layer.
    Directory(Option<Meta>),
    /// It is a symlink to this text.
    Symlink(Vec<u8>),
    /// It is a file or special file.
    Other,
    /// It is a file with this content, which was read.
    File(Blake3),
}

/// For people and for keys alike: different facts read differently (but for modification times).
impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Directory(None) => f.write_str("directory"),
            Self::Directory(Some(meta)) => {
                write!(f, "directory {:04o} {}:{}", meta.mode, meta.uid, meta.gid)?;
                let mut xattrs = meta.xattrs.iter();
                xattrs.try_for_each(|(name, value)| {
                    write!(f, " \"{}\"=\"{}\"", name.escape_ascii(), value.escape_ascii())
                })
            }
            Self::Symlink(target) => write!(f, "symlink to {}", target.escape_ascii()),
            Self::Other => f.write_str("file"),
            Self::File(content) => write!(f, "file {content}"),
        }
    }
}

/// All facts of one transfer, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(pub BTreeMap<LayerPath, Fact>);

impl Facts {
    /// The facts as one digest, for keys. Modification times are not in it.
    pub fn digest(&self) -> Blake3 {
        let mut hasher = KeyHasher::new("transfer-facts", FACTS_VERSION);
        for (path, fact) in &self.0 {
            hasher.field(path.as_bytes());
            match fact {
                Fact::Absent => hasher.number(0),
                Fact::Directory(None) => hasher.number(1),
                Fact::Directory(Some(meta)) => {
                    hasher.number(2);
                    hash_meta(&mut hasher, meta)
                }
                Fact::Symlink(target) => hasher.number(3).field(target),
                Fact::Other => hasher.number(4),
                Fact::File(content) => hasher.number(5).field(&content.0),
            };
        }
        hasher.finish()
    }
}

/// Adds mode, owner and xattrs to a hash.
pub(super) fn hash_meta<'a>(hasher: &'a mut KeyHasher, meta: &Meta) -> &'a mut KeyHasher {
    hasher.number(meta.mode.into()).number(meta.uid.into()).number(meta.gid.into()).number(meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        hasher.field(name).field(value);
    }
    hasher
}

/// A destination that takes down what it is asked.
pub(super) struct Recorder<'a> {
    tree: &'a dyn Tree,
    facts: Mutex<BTreeMap<LayerPath, Fact>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(tree: &'a dyn Tree) -> Self {
        Self { tree, facts: Mutex::default() }
    }

    /// What is at `path`, whose parents are known to be directories.
    pub(super) fn see(&self, path: &LayerPath) -> Result<Seen, TreeError> {
        if path.is_root() {
            return Ok(Seen::Directory);
        }
        if let Some(fact) = self.facts().get(path) {
            return Ok(seen(fact));
        }
        let fact = match self.tree.lookup(path)? {
            None => Fact::Absent,
            Some(node) => match node.entry.kind {
                Kind::Directory { .. } => Fact::Directory(None),
                Kind::Symlink(target) => Fact::Symlink(target),
                Kind::File { .. }
                | Kind::Hardlink(_)
                | Kind::CharDevice(..)
                | Kind::BlockDevice(..)
                | Kind::Fifo
                | Kind::Whiteout => Fact::Other,
            },
        };
        let result = seen(&fact);
        self.facts().insert(path.clone(), fact);
        Ok(result)
    }

    /// Whether there is nothing at all: `FROM scratch`. Not a fact, since only the want of one makes a difference.
    pub(super) fn is_empty(&self) -> Result<bool, TreeError> {
        let any = AtomicBool::new(false);
        self.tree.children(&LayerPath::root(), &|_, _| {
            any.store(true, Ordering::Relaxed);
            false
        })?;
        Ok(!any.into_inner())
    }

    /// The metadata of a directory, because it becomes part of the layer.
    pub(super) fn directory(&self, path: &LayerPath) -> Result<Option<Meta>, TreeError> {
        let Some(Node { entry, .. }) = self.tree.lookup(path)? else { return Ok(None) };
        self.facts().insert(path.clone(), Fact::Directory(Some(entry.meta.clone())));
        Ok(Some(entry.meta))
    }

    /// A file that becomes part of the layer by another name.
    pub(super) fn file(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        let node = self.tree.lookup(path)?;
        if let Some(Node { entry, .. }) = &node {
            let mut hasher = KeyHasher::new("linked-file", FACTS_VERSION);
            match &entry.kind {
                Kind::File { content, .. } => hasher.field(&content.0),
                special => hasher.text(&format!("{special:?}")),
            };
            hash_meta(&mut hasher, &entry.meta);
            self.facts().insert(path.clone(), Fact::File(hasher.finish()));
        }
        Ok(node)
    }

    /// The content of a small file, following links; `None` if it is not there.
    pub(super) fn content(&self, path: &LayerPath, limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
        use std::io::Read as _;
        let Some(node) = self.tree.lookup(path)? else { return Ok(None) };
        let Kind::File { content, .. } = node.entry.kind else {
            return Err(TreeError { path: path.clone(), source: std::io::Error::other("is not a regular file") });
        };
        let mut bytes = Vec::new();
        self.tree.read(path)?.take(limit + 1).read_to_end(&mut bytes).map_err(TreeError::at(path))?;
        if bytes.len() as u64 > limit {
            let source = std::io::Error::other(format!("exceeds {limit} bytes"));
            return Err(TreeError { path: path.clone(), source });
        }
        self.facts().insert(path.clone(), Fact::File(content));
        Ok(Some(bytes))
    }

    pub(super) fn into_facts(self) -> Facts {
        Facts(self.facts.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, BTreeMap<LayerPath, Fact>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seen(fact: &Fact) -> Seen {
    match fact {
        Fact::Absent => Seen::Absent,
        Fact::Directory(_) => Seen::Directory,
        Fact::Symlink(target) => Seen::Symlink(target.clone()),
        Fact::Other | Fact::File(_) => Seen::Other,
    }
}
