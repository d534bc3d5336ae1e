//! Which object needs or wants which, told by the caller, and what follows for GC: standing, and the order of going.
//!
//! Works on one scan, by position. Opens small files only to hand their content to `References`; decides nothing about removal.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::digest::LayerId;
use crate::directory::read;
use crate::envelope;
use crate::lease::Moment;
use crate::object::{Kind, Object, ObjectRef};
use crate::store::Store;
use crate::usage::Found;

type Reader = dyn Fn(Kind, &str, &[u8]) -> Vec<ObjectRef> + Send + Sync;

/// Tells which objects a small file refers to, from its kind, name and content. Indexes and facts are never asked about.
#[derive(Clone)]
pub struct References(Arc<Reader>);

impl References {
    /// Wraps the caller's knowledge of the formats.
    pub fn new(read: impl Fn(Kind, &str, &[u8]) -> Vec<ObjectRef> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Nothing refers to anything.
    pub fn none() -> Self {
        Self::new(|_, _, _| Vec::new())
    }
}

impl fmt::Debug for References {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("References(..)")
    }
}

/// How an object stands to the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A name, or something a name needs. Never removed by GC.
    Named,
    /// A name wants it, but it can be made or fetched again.
    Remakable,
    /// No name reaches it.
    Loose,
}

/// Who refers to whom, by position in the scan.
pub(crate) struct Graph {
    /// For each object what it refers to, and whether that is needed rather than wanted.
    edges: Vec<Vec<(usize, bool)>>,
}

impl Graph {
    /// Asks the store's `References` about every small file that may refer to something.
    pub(crate) fn read(store: &Store, found: &[Found]) -> Self {
        let mut by_object: BTreeMap<&Object, usize> = BTreeMap::new();
        let mut trees: BTreeMap<LayerId, Vec<usize>> = BTreeMap::new();
        for (at, found) in found.iter().enumerate() {
            by_object.insert(&found.object, at);
            if let Object::Tree { id, .. } = &found.object {
                trees.entry(*id).or_default().push(at);
            }
        }
        let resolve = |reference: ObjectRef| -> Vec<(usize, bool)> {
            let one = |object: &Object, needed| by_object.get(object).map(|at| (*at, needed)).into_iter().collect();
            let all = |id: &LayerId, needed| trees.get(id).into_iter().flatten().map(|at| (*at, needed)).collect();
            match reference {
                ObjectRef::Small(kind, name) => one(&Object::Small(kind, name), true),
                ObjectRef::Blob(digest) => one(&Object::Blob(digest), true),
                ObjectRef::Tree(id) => all(&id, true),
                ObjectRef::RemakableTree(id) => all(&id, false),
                ObjectRef::RemakableBlob(digest) => one(&Object::Blob(digest), false),
                ObjectRef::RemakableSmall(kind, name) => one(&Object::Small(kind, name), false),
            }
        };
        let edges = found.iter().map(|found| {
            let Object::Small(kind, name) = &found.object else { return Vec::new() };
            if !kind.refers() {
                return Vec::new();
            }
            let path = store.root().join(found.object.path());
            // What is unreadable or damaged refers to nothing: it is a miss for everybody else too.
            let Ok(Some(bytes)) = read(&path) else { return Vec::new() };
            let Some(opened) = envelope::open(&bytes, store.inner.boot.id) else { return Vec::new() };
            let references = (store.inner.options.references.0)(*kind, name, &bytes[opened.payload..]);
            references.into_iter().flat_map(&resolve).collect()
        });
        Self { edges: edges.collect() }
    }

    /// How each object stands to the names.
    pub(crate) fn standing(&self, found: &[Found]) -> Vec<Standing> {
        let mut standing = vec![Standing::Loose; found.len()];
        let names = || (0..found.len()).filter(|at| matches!(found[*at].object, Object::Small(Kind::Name, _)));
        let mut work: Vec<usize> = names().collect();
        while let Some(at) = work.pop() {
            if std::mem::replace(&mut standing[at], Standing::Named) != Standing::Named {
                work.extend(self.edges[at].iter().filter(|(_, needed)| *needed).map(|(to, _)| *to));
            }
        }
        let mut seen = vec![false; found.len()];
        work.extend(names());
        while let Some(at) = work.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            if standing[at] == Standing::Loose {
                standing[at] = Standing::Remakable;
            }
            work.extend(self.edges[at].iter().map(|(to, _)| *to));
        }
        standing
    }

    /// Positions with their effective last use, in the order of going: oldest first, and referrers before what they refer to.
    pub(crate) fn order(&self, found: &[Found]) -> Vec<(usize, Moment)> {
        let mut newest_first: Vec<usize> = (0..found.len()).collect();
        newest_first.sort_by(|a, b| {
            let (a, b) = (&found[*a], &found[*b]);
            b.used.cmp(&a.used).then_with(|| a.object.cmp(&b.object))
        });
        let mut effective: Vec<Option<Moment>> = vec![None; found.len()];
        let mut order = Vec::with_capacity(found.len());
        for start in newest_first {
            // Reverse post-order of the search puts referrers first.
            let mut finished = Vec::new();
            let mut work = vec![(start, 0)];
            if effective[start].is_some() {
                continue;
            }
            effective[start] = Some(found[start].used);
            while let Some((at, next)) = work.pop() {
                match self.edges[at].get(next) {
                    None => finished.push((at, found[start].used)),
                    Some((to, _)) => {
                        work.push((at, next + 1));
                        if effective[*to].is_none() {
                            effective[*to] = Some(found[start].used);
                            work.push((*to, 0));
                        }
                    }
                }
            }
            // The whole order is turned round at the end.
            order.extend(finished);
        }
        order.reverse();
        order
    }
}
