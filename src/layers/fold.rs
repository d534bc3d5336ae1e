//! What the entries of a foreign tar mean together: the rules by which later ones change what earlier ones made.
//!
//! Pure: entries in, one [`Change`] each out (what to do to a tree on disk) and an index at the end. Follows containerd's
//! unpacker where images depend on it:
//! * parents that are symbolic links *of this layer* are followed, clamped to the root; missing parents are made (0755, root)
//!   but are no entries, so that a lower layer's metadata stays visible;
//! * a later entry replaces an earlier one of the same name, a directory only updates a directory;
//! * deletions concern lower layers only: an entry of the same name in this layer stays, a directory becomes opaque;
//! * a hard link names something that is already there.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_cache::digest::Blake3;

use super::error::{LayerError, Result};
use super::index::Index;
use super::xattrs;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};
use crate::tar::{RawEntry, RawKind};

/// Most symbolic links followed while resolving one name.
const MAX_LINKS: usize = 255;
/// Mode of directories that a layer implies but does not list.
pub(super) const IMPLIED_MODE: u32 = 0o755;

/// What an entry does to the tree. Paths are resolved: none goes through a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Directories to be made first, from the top.
    pub parents: Vec<Parent>,
    /// What is there already is to be removed, with all below it.
    pub replace: bool,
    /// Where.
    pub path: LayerPath,
    /// What.
    pub act: Act,
}

/// A directory that an entry below it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    /// Where.
    pub path: LayerPath,
    /// It takes the place of a whiteout and is opaque; otherwise there is nothing yet and it is no entry.
    pub opaque: bool,
}

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// A file, with the content that follows; its hash goes to [`Fold::content`].
    File { object: usize, size: u64 },
    /// A directory; `make` is false when there is one already.
    Directory { make: bool, opaque: bool },
    /// Another name for the object at this path.
    Link(LayerPath),
    /// A symbolic link, device or pipe: what the index will say.
    Special(Kind),
    /// A whiteout.
    Whiteout,
    /// Nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// Something with metadata; an index into `objects`. Hard links share one.
    Object(usize),
    /// A directory that only exists because something is below it.
    Implied,
    Whiteout,
}

#[derive(Debug)]
struct Object {
    kind: Kind,
    meta: Meta,
}

/// The state of a layer while its tar is read.
#[derive(Debug, Default)]
pub(super) struct Fold {
    names: BTreeMap<LayerPath, Name>,
    objects: Vec<Object>,
}

impl Fold {
    /// Takes the next entry in.
    pub(super) fn apply(&mut self, raw: &RawEntry) -> Result<Change> {
        let refuse = |reason: String| LayerError::Inconsistent { offset: raw.offset, reason };
        let mut parents = Vec::new();
        let path = self.resolve(&raw.path, &mut parents).map_err(refuse)?;
        let meta = Meta {
            xattrs: raw
                .meta
                .xattrs
                .iter()
                .filter(|(k, _)| xattrs::belongs(k))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            ..raw.meta.clone()
        };
        let before = self.names.get(&path).copied();
        let (act, replace) = match &raw.kind {
            RawKind::Directory => (self.directory(&path, before, meta), before.is_some() && !self.is_dir(before)),
            // What overlayfs takes for a deletion is one, however it was packed.
            RawKind::Whiteout | RawKind::CharDevice(0, 0) => match before {
                None => {
                    self.names.insert(path.clone(), Name::Whiteout);
                    (Act::Whiteout, false)
                }
                Some(_) if self.is_dir(before) => (self.opaque(&path, before), false),
                Some(_) => (Act::Nothing, false),
            },
            RawKind::Opaque if path.is_root() => {
                return Err(refuse("a layer that hides the whole root is not supported".to_owned()));
            }
            RawKind::Opaque if matches!(before, Some(Name::Object(_))) && !self.is_dir(before) => {
                return Err(refuse(format!("opaque marker in {path}, which is not a directory")));
            }
            RawKind::Opaque => (self.opaque(&path, before), before == Some(Name::Whiteout)),
            RawKind::Hardlink(to) => {
                let mut made = Vec::new();
                let target = self.resolve(to, &mut made).map_err(refuse)?;
                let object = match self.names.get(&target) {
                    Some(Name::Object(object)) if !self.is_dir(Some(Name::Object(*object))) => *object,
                    _ => {
                        return Err(refuse(format!(
                            "hard link {path} names {to}, which is no earlier file of the layer"
                        )));
                    }
                };
                if before == Some(Name::Object(object)) {
                    (Act::Nothing, false)
                } else if target.is_within(&path) {
                    return Err(refuse(format!("hard link {path} would replace the directory of its own target")));
                } else {
                    self.put(&path, object);
                    (Act::Link(target), before.is_some())
                }
            }
            RawKind::File(size) => {
                let kind = Kind::File { size: *size, content: Blake3([0; 32]) };
                (Act::File { object: self.object(&path, kind, meta), size: *size }, before.is_some())
            }
            RawKind::Symlink(to) => (self.special(&path, Kind::Symlink(to.clone()), meta), before.is_some()),
            RawKind::CharDevice(a, b) => (self.special(&path, Kind::CharDevice(*a, *b), meta), before.is_some()),
            RawKind::BlockDevice(a, b) => (self.special(&path, Kind::BlockDevice(*a, *b), meta), before.is_some()),
            RawKind::Fifo => (self.special(&path, Kind::Fifo, meta), before.is_some()),
        };
        Ok(Change { parents, replace, path, act })
    }

    /// Notes the content of a file that was announced by [`Act::File`].
    pub(super) fn content(&mut self, object: usize, hash: Blake3) {
        if let Kind::File { content, .. } = &mut self.objects[object].kind {
            *content = hash;
        }
    }

    /// The metadata of what is at a resolved path.
    pub(super) fn meta(&self, path: &LayerPath) -> Option<&Meta> {
        match self.names.get(path)? {
            Name::Object(object) => Some(&self.objects[*object].meta),
            Name::Implied | Name::Whiteout => None,
        }
    }

    /// The layer as it is after all entries.
    pub(super) fn finish(self) -> Result<Index> {
        let mut first: BTreeMap<usize, LayerPath> = BTreeMap::new();
        let mut entries = Vec::with_capacity(self.names.len());
        for (path, name) in self.names {
            let (kind, meta) = match name {
                Name::Implied => continue,
                Name::Whiteout => (Kind::Whiteout, Meta::default()),
                Name::Object(object) => {
                    if let Some(earlier) = first.get(&object) {
                        (Kind::Hardlink(earlier.clone()), Meta::default())
                    } else {
                        first.insert(object, path.clone());
                        (self.objects[object].kind.clone(), self.objects[object].meta.clone())
                    }
                }
            };
            entries.push(Entry { path, kind, meta });
        }
        Ok(Index::new(entries)?)
    }

    fn is_dir(&self, name: Option<Name>) -> bool {
        match name {
            Some(Name::Object(object)) => matches!(self.objects[object].kind, Kind::Directory { .. }),
            Some(Name::Implied) => true,
            Some(Name::Whiteout) | None => false,
        }
    }

    fn directory(&mut self, path: &LayerPath, before: Option<Name>, meta: Meta) -> Act {
        if let Some(Name::Object(object)) = before
            && let Kind::Directory { opaque } = self.objects[object].kind
        {
            self.objects[object].meta = meta;
            return Act::Directory { make: false, opaque };
        }
        // What was here before (and was no directory) hid what is below: so does the directory that takes its place.
        let opaque = before.is_some() && before != Some(Name::Implied);
        self.object(path, Kind::Directory { opaque }, meta);
        Act::Directory { make: before != Some(Name::Implied) && !path.is_root(), opaque }
    }

    fn opaque(&mut self, path: &LayerPath, before: Option<Name>) -> Act {
        match before {
            Some(Name::Object(object)) => self.objects[object].kind = Kind::Directory { opaque: true },
            Some(Name::Implied | Name::Whiteout) | None => {
                self.object(path, Kind::Directory { opaque: true }, Meta { mode: IMPLIED_MODE, ..Meta::default() });
            }
        }
        Act::Directory { make: matches!(before, None | Some(Name::Whiteout)), opaque: true }
    }

    fn special(&mut self, path: &LayerPath, kind: Kind, meta: Meta) -> Act {
        self.object(path, kind.clone(), meta);
        Act::Special(kind)
    }

    fn object(&mut self, path: &LayerPath, kind: Kind, meta: Meta) -> usize {
        let object = self.objects.len();
        self.objects.push(Object { kind, meta });
        self.put(path, object);
        object
    }

    /// Gives `path` to an object; anything else that was there goes, with all below it, unless both are directories.
    fn put(&mut self, path: &LayerPath, object: usize) {
        if !self.is_dir(Some(Name::Object(object))) && self.is_dir(self.names.get(path).copied()) {
            let gone: Vec<_> =
                self.names.range(path.clone()..).map(|(p, _)| p.clone()).take_while(|p| p.is_within(path)).collect();
            for path in gone {
                self.names.remove(&path);
            }
        }
        self.names.insert(path.clone(), Name::Object(object));
    }

    /// Follows this layer's symbolic links in the parents of `path`; notes the directories that are missing.
    fn resolve(&mut self, path: &LayerPath, made: &mut Vec<Parent>) -> Result<LayerPath, String> {
        let Some(parent) = path.parent() else { return Ok(path.clone()) };
        if parent.is_root() || self.is_dir(self.names.get(&parent).copied()) {
            return Ok(path.clone());
        }
        let mut left: Vec<Vec<u8>> = parent.components().map(<[u8]>::to_vec).collect();
        left.reverse();
        let mut at = LayerPath::root();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                at = at.parent().unwrap_or_default();
                continue;
            }
            let next = at.join(&name);
            match self.names.get(&next).copied() {
                found @ Some(Name::Object(object)) => match &self.objects[object].kind {
                    Kind::Symlink(to) => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(format!("too many symbolic links in {path}"));
                        }
                        if to.first() == Some(&b'/') {
                            at = LayerPath::root();
                        }
                        let parts = to.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
                        left.extend(parts.rev().map(<[u8]>::to_vec).collect::<Vec<_>>());
                        continue;
                    }
                    _ if self.is_dir(found) => {}
                    _ => return Err(format!("{path} is below {next}, which is not a directory")),
                },
                Some(Name::Implied) => {}
                // Deleted below, made again here: what lower layers have in it stays hidden.
                Some(Name::Whiteout) => {
                    let meta = Meta { mode: IMPLIED_MODE, ..Meta::default() };
                    self.object(&next, Kind::Directory { opaque: true }, meta);
                    made.push(Parent { path: next.clone(), opaque: true });
                }
                None => {
                    self.names.insert(next.clone(), Name::Implied);
                    made.push(Parent { path: next.clone(), opaque: false });
                }
            }
            at = next;
        }
        Ok(at.join(path.name()))
    }
}

/// Directories that `index` has something in without listing them.
pub(super) fn implied_directories(index: &Index) -> BTreeSet<LayerPath> {
    let mut implied = BTreeSet::new();
    let mut before = LayerPath::root();
    for entry in index.entries() {
        let Some(parent) = entry.path.parent() else { continue };
        if parent != before {
            let mut above = Some(parent.clone());
            while let Some(path) = above.filter(|p| !p.is_root() && !implied.contains(p) && index.get(p).is_none()) {
                above = path.parent();
                implied.insert(path);
            }
            before = parent;
        }
    }
    implied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(path: &str, kind: RawKind) -> RawEntry {
        let meta = Meta { mode: 0o700, ..Meta::default() };
        RawEntry { path: LayerPath::clean(path), kind, meta, offset: 0 }
    }

    /// Runs `TAG PATH [TARGET]` lines through a fold and prints the index.
    fn fold(lines: &[&str]) -> Result<Vec<String>, String> {
        let mut fold = Fold::default();
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            let kind = match words[0] {
                "d" => RawKind::Directory,
                "f" => RawKind::File(1),
                "l" => RawKind::Symlink(words[2].into()),
                "h" => RawKind::Hardlink(LayerPath::clean(words[2])),
                "w" => RawKind::Whiteout,
                "o" => RawKind::Opaque,
                other => panic!("{other}"),
            };
            fold.apply(&raw(words[1], kind)).map_err(|e| e.to_string())?;
        }
        let index = fold.finish().map_err(|e| e.to_string())?;
        let line = |e: &Entry| match &e.kind {
            Kind::File { .. } => format!("f {}", e.path),
            Kind::Directory { opaque } => format!("{}{:o} {}", if *opaque { "o" } else { "d" }, e.meta.mode, e.path),
            Kind::Symlink(to) => format!("l {} {}", e.path, String::from_utf8_lossy(to)),
            Kind::Hardlink(to) => format!("h {} {to}", e.path),
            other => format!("{other:?} {}", e.path),
        };
        Ok(index.entries().iter().map(line).collect())
    }

    #[test]
    fn parents_may_be_missing_or_links_of_the_layer() {
        assert_eq!(fold(&["f a/b/c"]), Ok(vec!["f /a/b/c".into()]));
        let through = fold(&["d usr", "l lib usr/lib", "f lib/x", "l abs ../../usr", "f abs/y"]).expect("valid");
        assert_eq!(through, ["l /abs ../../usr", "l /lib usr/lib", "d700 /usr", "f /usr/lib/x", "f /usr/y"]);
        assert_eq!(
            fold(&["l a b", "l b a", "f a/x"]),
            Err("invalid layer at offset 0: too many symbolic links in /a/x".into())
        );
        assert_eq!(
            fold(&["f a", "f a/b"]),
            Err("invalid layer at offset 0: /a/b is below /a, which is not a directory".into())
        );
    }

    #[test]
    fn later_entries_replace_earlier_ones() {
        assert_eq!(fold(&["d a", "f a/b", "d a"]), Ok(vec!["d700 /a".into(), "f /a/b".into()]));
        assert_eq!(fold(&["d a", "f a/b", "f a"]), Ok(vec!["f /a".into()]));
        assert_eq!(fold(&["l a /etc", "d a", "f a/passwd"]), Ok(vec!["o700 /a".into(), "f /a/passwd".into()]));
        assert_eq!(fold(&["f a", "h b a", "f a"]), Ok(vec!["f /a".into(), "f /b".into()]));
    }

    #[test]
    fn links_refer_to_the_first_name_in_order() {
        assert_eq!(fold(&["f z", "h a z", "h m a"]), Ok(vec!["f /a".into(), "h /m /a".into(), "h /z /a".into()]));
        assert!(fold(&["h a z"]).is_err() && fold(&["d z", "h a z"]).is_err() && fold(&["f d/z", "h d d/z"]).is_err());
        assert_eq!(fold(&["f a", "h a a"]), Ok(vec!["f /a".into()]));
    }

    #[test]
    fn deletions_concern_lower_layers_only() {
        assert_eq!(fold(&["w a", "f b", "w b"]), Ok(vec!["Whiteout /a".into(), "f /b".into()]));
        assert_eq!(fold(&["d a", "f a/b", "w a"]), fold(&["w a", "d a", "f a/b"]));
        assert_eq!(fold(&["w a", "f a/b"]), Ok(vec!["o755 /a".into(), "f /a/b".into()]));
        assert_eq!(fold(&["f a/b", "o a"]), fold(&["o a", "f a/b"]));
        assert_eq!(fold(&["w a", "o a"]), Ok(vec!["o755 /a".into()]));
        assert!(fold(&["o /"]).is_err());
    }

    #[test]
    fn implied_directories_are_found_from_the_index() {
        let index = crate::layers::samples::index(&["f a/b/c", "f a/d", "d x", "f x/y"]);
        let implied: Vec<_> = implied_directories(&index).iter().map(ToString::to_string).collect();
        assert_eq!(implied, ["/a", "/a/b"]);
    }
}
