//! Several layers of a stack as one: the same view, without what an upper layer of them replaced or removed.
//!
//! Works on indexes; contents are read when the new layer is written. Pure but for that.

use std::collections::BTreeMap;
use std::io;

use rbuild_cache::digest::LayerId;

use super::error::Result;
use super::fold::IMPLIED_MODE;
use super::index::Index;
use super::stream::Content;
use super::view::View;
use super::{Layers, Record};
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// A name of the merged layers.
#[derive(Clone, Debug)]
struct Merged {
    /// What is there; a hard link is the file it names.
    entry: Entry,
    /// The layer it comes from, and the path there that carries its content. Equal for names of one file.
    source: (LayerId, LayerPath),
}

/// The merged layers by name.
#[derive(Debug, Default)]
struct Merge {
    names: BTreeMap<LayerPath, Merged>,
}

impl Layers {
    /// One layer that changes `below` as the layers of `stack` do one after the other. All must be in the store.
    pub fn squash(&self, below: &[LayerId], stack: &[LayerId]) -> Result<Record> {
        let mut merge = Merge::default();
        for id in stack {
            merge.add(*id, &*self.index(id)?);
        }
        let below = View::new(self, below)?;
        let layers = self.clone();
        self.write(merge.finish(&below).into_iter().map(move |(entry, (id, path))| {
            let layers = layers.clone();
            let open = move || Ok(Content::Reader(layers.open(&id, &path).map_err(io::Error::other)?));
            let content =
                if matches!(entry.kind, Kind::File { .. }) { Content::Open(Box::new(open)) } else { Content::None };
            (entry, content)
        }))
    }
}

impl Merge {
    /// Puts a layer on top.
    fn add(&mut self, id: LayerId, index: &Index) {
        for entry in index.entries() {
            let origin = index.file_of(entry);
            let mut seen = Entry { path: entry.path.clone(), ..origin.clone() };
            self.make_parents(id, &entry.path);
            let before = self.names.get(&entry.path).map(|merged| merged.entry.kind.clone());
            match &mut seen.kind {
                Kind::Directory { opaque } => match before {
                    Some(Kind::Directory { opaque: hid }) => {
                        if *opaque {
                            self.clear_below(&entry.path);
                        }
                        *opaque |= hid;
                    }
                    // What was no directory hid what is below it; so does the directory in its place.
                    Some(_) => *opaque = true,
                    None if *opaque => self.clear_below(&entry.path),
                    None => {}
                },
                Kind::File { .. }
                | Kind::Symlink(_)
                | Kind::Hardlink(_)
                | Kind::CharDevice(..)
                | Kind::BlockDevice(..)
                | Kind::Fifo
                | Kind::Whiteout => self.clear_below(&entry.path),
            }
            self.names.insert(entry.path.clone(), Merged { entry: seen, source: (id, origin.path.clone()) });
        }
    }

    /// A layer may have something in a directory that it does not list; that directory is there then, whatever was below.
    fn make_parents(&mut self, id: LayerId, path: &LayerPath) {
        let mut above = path.parent();
        while let Some(parent) = above.filter(|parent| !parent.is_root()) {
            if let Some(merged) = self.names.get_mut(&parent)
                && !merged.entry.is_dir()
            {
                let (kind, meta) = (Kind::Directory { opaque: true }, Meta { mode: IMPLIED_MODE, ..Meta::default() });
                *merged = Merged { entry: Entry { path: parent.clone(), kind, meta }, source: (id, parent.clone()) };
            }
            above = parent.parent();
        }
    }

    fn clear_below(&mut self, path: &LayerPath) {
        let below = self.names.range(path.clone()..).map(|(name, _)| name);
        let gone: Vec<_> = below.take_while(|name| name.strip(path).is_some()).filter(|name| *name != path).collect();
        for name in gone.into_iter().cloned().collect::<Vec<_>>() {
            self.names.remove(&name);
        }
    }

    /// The entries in order: hard links name the first of their names, and what hides nothing in `below` says so no more.
    fn finish(self, below: &View) -> Vec<(Entry, (LayerId, LayerPath))> {
        let mut first: BTreeMap<(LayerId, LayerPath), LayerPath> = BTreeMap::new();
        let mut out = Vec::with_capacity(self.names.len());
        for (path, Merged { mut entry, source }) in self.names {
            match &mut entry.kind {
                Kind::Whiteout => {
                    if below.lookup(&path).is_none() {
                        continue;
                    }
                }
                Kind::Directory { opaque } => *opaque = *opaque && below.lookup(&path).is_some(),
                _ => match first.get(&source) {
                    Some(earlier) => {
                        entry = Entry { path, kind: Kind::Hardlink(earlier.clone()), meta: Meta::default() };
                    }
                    None => drop(first.insert(source.clone(), path)),
                },
            }
            out.push((entry, source));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::layers::{TreeOptions, samples};
    use rbuild_cache::{Store, StoreOptions};

    /// Squashes layers of `samples` lines on one of them; what the new layer says.
    fn squashed(below: &[&str], stack: &[&[&str]]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("temp dir");
        let store = Store::open(&directory.path().join("store"), StoreOptions::default()).expect("opened");
        let layers = Layers::new(store, TreeOptions::ROOT, Cancel::new());
        let layer = |lines: &[&str]| {
            let mut entries = samples::index(lines).into_entries();
            for entry in &mut entries {
                if let Kind::File { size, content } = &mut entry.kind {
                    (*size, *content) = (1, rbuild_cache::digest::Blake3::of(b"x"));
                }
            }
            let content = |entry: &Entry| match entry.kind {
                Kind::File { .. } => Content::Bytes(b"x".to_vec()),
                _ => Content::None,
            };
            layers.write(entries.into_iter().map(|entry| (entry.clone(), content(&entry)))).expect("written").id
        };
        let below = layer(below);
        let stack: Vec<_> = stack.iter().map(|lines| layer(lines)).collect();
        let one = layers.squash(&[below], &stack).expect("squashed");
        let view = |stack: &[LayerId]| names(&View::new(&layers, stack).expect("known"), &LayerPath::root());
        let all: Vec<_> = [below].into_iter().chain(stack).collect();
        assert_eq!(view(&[below, one.id]), view(&all), "the view stays the same");
        let index = layers.index(&one.id).expect("known");
        let line = |entry: &Entry| match &entry.kind {
            Kind::File { .. } => format!("f {}", entry.path),
            Kind::Directory { opaque } => format!("{} {}", if *opaque { "o" } else { "d" }, entry.path),
            Kind::Hardlink(to) => format!("h {} {to}", entry.path),
            Kind::Whiteout => format!("w {}", entry.path),
            other => format!("{other:?} {}", entry.path),
        };
        index.entries().iter().map(line).collect()
    }

    fn names(view: &View, at: &LayerPath) -> Vec<String> {
        let mut out = Vec::new();
        for (_, found) in view.children(at) {
            out.push(format!("{} {:?}", found.entry.path, found.entry.is_dir()));
            out.extend(names(view, &found.entry.path));
        }
        out
    }

    #[test]
    fn what_was_replaced_or_removed_is_gone() {
        assert_eq!(squashed(&["d etc"], &[&["f etc/a", "f etc/b"], &["w etc/a", "f etc/c"]]), ["f /etc/b", "f /etc/c"]);
        assert_eq!(squashed(&["f a"], &[&["w a"], &["f a"]]), ["f /a"]);
        assert_eq!(squashed(&["f a"], &[&["f a"], &["w a"]]), ["w /a"]);
        assert_eq!(squashed(&["f x"], &[&["d d", "d d/e", "f d/e/f"], &["f d"]]), ["f /d"]);
    }

    #[test]
    fn hidden_directories_stay_hidden() {
        let base = ["d d", "f d/old"];
        assert_eq!(squashed(&base, &[&["w d"], &["d d", "f d/new"]]), ["o /d", "f /d/new"]);
        assert_eq!(squashed(&base, &[&["f d"], &["d d", "f d/new"]]), ["o /d", "f /d/new"]);
        assert_eq!(squashed(&base, &[&["d d", "f d/a"], &["o d", "f d/b"]]), ["o /d", "f /d/b"]);
        assert_eq!(squashed(&base, &[&["w d"], &["f d/new"]]), ["o /d", "f /d/new"]);
        assert_eq!(squashed(&["f x"], &[&["o d", "f d/a"]]), ["d /d", "f /d/a"]);
    }

    #[test]
    fn links_survive_the_loss_of_their_first_name() {
        let linked = ["f a", "h b a", "h c a"];
        assert_eq!(squashed(&["f x"], &[&linked, &["w a"]]), ["f /b", "h /c /b"]);
        assert_eq!(squashed(&["f x"], &[&linked, &["f b"]]), ["f /a", "f /b", "h /c /a"]);
    }
}
