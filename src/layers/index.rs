//! The index of a layer: its entries in order, with metadata and content digests.
//!
//! An index is checked once, when it is made, and answers questions about one layer alone: what is at a path, what is right
//! below it. It outlives the layer's tree. It knows nothing of the layers below (see `view`) and of no file; how it is
//! stored is `encoding`'s business, what it is called `identity`'s.

use crate::tar::entry::{Entry, Kind, LayerPath};

/// The entries of one layer, sorted by path, each path once; hard links name an earlier entry that is neither link nor directory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Index {
    entries: Vec<Entry>,
    /// Whether any directory hides what lower layers have in it; most layers have none.
    opaque: bool,
}

/// A list of entries is not an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Two entries are not in strictly ascending order.
    #[error("{1:?} does not sort after {0:?}")]
    Order(LayerPath, LayerPath),
    /// A hard link does not name an earlier file.
    #[error("hard link {0:?} names {1:?}, which is no earlier file of the layer")]
    Link(LayerPath, LayerPath),
    /// Something other than a directory has entries below it.
    #[error("{0:?} is below something that is not a directory")]
    NotBelowDirectory(LayerPath),
}

/// A name right below a directory.
#[derive(Clone, Copy, Debug)]
pub struct Child<'a> {
    /// The last component.
    pub name: &'a [u8],
    /// Its entry; `None` if the layer only has entries below it.
    pub entry: Option<&'a Entry>,
}

impl Index {
    /// Checks that `entries` are an index.
    pub fn new(entries: Vec<Entry>) -> Result<Self, IndexError> {
        let mut open: Vec<&Entry> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if let Some(before) = at.checked_sub(1).map(|i| &entries[i])
                && before.path >= entry.path
            {
                return Err(IndexError::Order(before.path.clone(), entry.path.clone()));
            }
            while open.last().is_some_and(|top| !entry.path.is_within(&top.path)) {
                open.pop();
            }
            if open.last().is_some_and(|top| !top.is_dir()) {
                return Err(IndexError::NotBelowDirectory(entry.path.clone()));
            }
            open.push(entry);
            if let Kind::Hardlink(to) = &entry.kind {
                let target = entries[..at].binary_search_by(|e| e.path.cmp(to)).ok().map(|i| &entries[i].kind);
                let fine = match target {
                    Some(
                        Kind::File { .. }
                        | Kind::Symlink(_)
                        | Kind::CharDevice(..)
                        | Kind::BlockDevice(..)
                        | Kind::Fifo,
                    ) => true,
                    Some(Kind::Directory { .. } | Kind::Hardlink(_) | Kind::Whiteout) | None => false,
                };
                if !fine {
                    return Err(IndexError::Link(entry.path.clone(), to.clone()));
                }
            }
        }
        let opaque = entries.iter().any(|e| e.kind == Kind::Directory { opaque: true });
        Ok(Self { entries, opaque })
    }

    /// All entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries, given away.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The entry at `path`.
    pub fn get(&self, path: &LayerPath) -> Option<&Entry> {
        self.position(path).map(|at| &self.entries[at])
    }

    /// Where in [`entries`](Self::entries) `path` is.
    pub fn position(&self, path: &LayerPath) -> Option<usize> {
        self.entries.binary_search_by(|e| e.path.cmp(path)).ok()
    }

    /// The entry that a hard link is another name of; any other entry itself.
    pub fn file_of<'a>(&'a self, entry: &'a Entry) -> &'a Entry {
        match &entry.kind {
            Kind::Hardlink(to) => self.get(to).expect("an index only holds links to its own entries"),
            _ => entry,
        }
    }

    /// Whether there is anything but deletions below `path`.
    pub fn has_below(&self, path: &LayerPath) -> bool {
        self.below(path).iter().any(|e| e.kind != Kind::Whiteout)
    }

    /// All entries strictly below `path`.
    pub fn below(&self, path: &LayerPath) -> &[Entry] {
        let from = self.entries.partition_point(|e| e.path <= *path);
        let rest = &self.entries[from..];
        &rest[..rest.partition_point(|e| e.path.is_within(path))]
    }

    /// Whether this layer hides `path` in lower layers by what it has above it: something that is no directory, or a directory
    /// that is opaque.
    pub(super) fn hides_from_above(&self, path: &LayerPath) -> bool {
        // Nothing is below what is no directory: if that is above `path`, it comes right before it.
        let before = self.entries.partition_point(|e| e.path < *path).checked_sub(1).map(|at| &self.entries[at]);
        if before.is_some_and(|e| !e.is_dir() && path.is_within(&e.path)) {
            return true;
        }
        let hides = |above: &LayerPath| self.get(above).is_some_and(|e| e.kind == Kind::Directory { opaque: true });
        self.opaque && std::iter::successors(path.parent(), LayerPath::parent).any(|above| hides(&above))
    }

    /// The names right below `path`, sorted.
    pub fn children<'a>(&'a self, path: &LayerPath) -> impl Iterator<Item = Child<'a>> + use<'a> {
        children(self.below(path), path)
    }

    /// The same entries with no modification time after `latest`.
    #[must_use]
    pub fn clamped(&self, latest: i64) -> Self {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            entry.meta.mtime = entry.meta.mtime.min(latest);
        }
        Self { entries, opaque: self.opaque }
    }
}

/// The names right below `path`, sorted; `rest` are the entries below it.
pub(super) fn children<'a>(mut rest: &'a [Entry], path: &LayerPath) -> impl Iterator<Item = Child<'a>> + use<'a> {
    let depth = if path.is_root() { 0 } else { path.as_bytes().len() + 1 };
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let tail = &first.path.as_bytes()[depth..];
        let end = tail.iter().position(|b| *b == b'/');
        let name = &tail[..end.unwrap_or(tail.len())];
        let same = |e: &Entry| {
            let tail = &e.path.as_bytes()[depth..];
            tail.strip_prefix(name).is_some_and(|more| more.first().is_none_or(|b| *b == b'/'))
        };
        rest = &rest[gallop(rest, same)..];
        Some(Child { name, entry: end.is_none().then_some(first) })
    })
}

/// How many leading entries satisfy `test`, which holds for a prefix only; cheap for short prefixes.
fn gallop(entries: &[Entry], test: impl Fn(&Entry) -> bool) -> usize {
    let mut bound = 1;
    while bound < entries.len() && test(&entries[bound]) {
        bound *= 2;
    }
    let from = bound / 2;
    let upto = bound.min(entries.len());
    from + entries[from..upto].partition_point(test)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::entry::Meta;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: LayerPath::clean(path), kind, meta: Meta::default() }
    }

    #[test]
    fn children_are_names_once_and_sorted() {
        let dir = || Kind::Directory { opaque: false };
        let index = Index::new(vec![
            entry("a", dir()),
            entry("a/b", dir()),
            entry("a/b/c", Kind::Fifo),
            entry("a/b/d", Kind::Fifo),
            entry("a/x", Kind::Whiteout),
            entry("a.d", Kind::Fifo),
            entry("implied/deep/file", Kind::Fifo),
        ])
        .expect("sorted");
        let names = |path: &str| {
            let children = index.children(&LayerPath::clean(path));
            children
                .map(|c| format!("{}{}", String::from_utf8_lossy(c.name), if c.entry.is_some() { "" } else { "?" }))
                .collect::<Vec<_>>()
        };
        assert_eq!(names("/"), ["a", "a.d", "implied?"]);
        assert_eq!(names("a"), ["b", "x"]);
        assert_eq!(names("implied"), ["deep?"]);
        assert_eq!(names("a/b/c"), [""; 0]);
        assert!(index.has_below(&LayerPath::clean("a/b")) && !index.has_below(&LayerPath::clean("a/x")));
    }

    #[test]
    fn what_is_no_index_is_refused() {
        let bad = |entries: &[Entry]| Index::new(entries.to_vec()).expect_err("refused").to_string();
        let file = entry("b", Kind::Fifo);
        assert_eq!(bad(&[file.clone(), file.clone()]), r#""/b" does not sort after "/b""#);
        let link = entry("a", Kind::Hardlink(LayerPath::clean("b")));
        assert_eq!(bad(&[link, file.clone()]), r#"hard link "/a" names "/b", which is no earlier file of the layer"#);
        assert_eq!(bad(&[file, entry("b/c", Kind::Fifo)]), r#""/b/c" is below something that is not a directory"#);
    }
}
