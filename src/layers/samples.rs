//! Indexes for tests: written as short lines, or made up by proptest.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rbuild_cache::digest::Blake3;

use super::index::Index;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

/// An entry from `d PATH`, `o PATH` (opaque), `f PATH` (content is the path), `h PATH TARGET`, `l PATH TEXT`, `p PATH`, `w PATH`.
pub(crate) fn entry(line: &str) -> Entry {
    let mut words = line.split(' ');
    let (tag, path) = (words.next().expect("tag"), words.next().expect("path"));
    let rest = words.next().unwrap_or_default();
    let kind = match tag {
        "d" => Kind::Directory { opaque: false },
        "o" => Kind::Directory { opaque: true },
        "f" => Kind::File { size: path.len() as u64, content: Blake3::of(path.as_bytes()) },
        "h" => Kind::Hardlink(LayerPath::clean(rest)),
        "l" => Kind::Symlink(rest.into()),
        "p" => Kind::Fifo,
        "w" => Kind::Whiteout,
        other => panic!("unknown tag {other}"),
    };
    let meta = match kind {
        Kind::Hardlink(_) | Kind::Whiteout => Meta::default(),
        Kind::Directory { .. } => meta(0o755),
        _ => meta(0o644),
    };
    Entry { path: LayerPath::clean(path), kind, meta }
}

fn meta(mode: u32) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: 1_600_000_000, xattrs: BTreeMap::new() }
}

/// An index from lines, in order.
pub(crate) fn index(lines: &[&str]) -> Index {
    Index::new(lines.iter().map(|l| entry(l)).collect()).expect("lines in order")
}

/// Entries with the content of each file, as a layer may have them (no devices: those need privileges).
pub(crate) fn any_files() -> impl Strategy<Value = Vec<(Entry, Vec<u8>)>> {
    let name = prop::sample::select(vec!["a", "b", "b.d", "b-c", "é", "a long name with spaces in it", "x"]);
    let path = prop::collection::vec(name, 1..5).prop_map(|parts| LayerPath::clean(parts.join("/")));
    let long = Just(LayerPath::clean(format!("{}/{}", "d".repeat(160), "n".repeat(120))));
    let path = prop_oneof![20 => path, 1 => long];
    let xattrs = prop::collection::btree_map(
        prop::sample::select(vec![b"user.a".to_vec(), b"user.b".to_vec()]),
        prop::collection::vec(any::<u8>(), 0..20),
        0..2,
    );
    let mtime = prop_oneof![4 => 0i64..2_000_000_000, 1 => -1000i64..0];
    let node =
        (path, 0u8..8, 0u32..0o1_0000, any::<(u16, u16)>(), mtime, xattrs, prop::collection::vec(any::<u8>(), 0..3000));
    prop::collection::vec(node, 0..25).prop_map(|nodes| {
        let mut made: BTreeMap<LayerPath, (Entry, Vec<u8>)> = BTreeMap::new();
        let mut dirs = BTreeSet::from([LayerPath::root()]);
        for (path, tag, mode, (uid, gid), mtime, xattrs, content) in nodes {
            let mut parents = Vec::new();
            let mut above = path.parent();
            while let Some(p) = above {
                above = p.parent();
                parents.push(p);
            }
            if made.contains_key(&path) || parents.iter().any(|p| made.contains_key(p) && !dirs.contains(p)) {
                continue;
            }
            let meta = Meta { mode, uid: uid.into(), gid: gid.into(), mtime, xattrs };
            for p in parents.into_iter().rev().filter(|p| !p.is_root()) {
                if dirs.insert(p.clone()) {
                    let kind = Kind::Directory { opaque: false };
                    made.insert(p.clone(), (Entry { path: p, kind, meta: meta.clone() }, Vec::new()));
                }
            }
            let file = |size| Kind::File { size, content: Blake3::of(&content) };
            let earlier = made
                .range(..path.clone())
                .rev()
                .find(|(_, (e, _))| matches!(e.kind, Kind::File { .. }))
                .map(|(p, _)| p.clone());
            let no_xattrs = |m: &Meta| Meta { xattrs: BTreeMap::new(), ..m.clone() };
            let (kind, meta, content) = match (tag, earlier) {
                (0, _) => {
                    dirs.insert(path.clone());
                    (Kind::Directory { opaque: mode % 2 == 0 }, meta, Vec::new())
                }
                (1, _) => {
                    (Kind::Symlink(b"../to/somewhere".to_vec()), Meta { mode: 0o777, ..no_xattrs(&meta) }, Vec::new())
                }
                (2, Some(to)) => (Kind::Hardlink(to), Meta::default(), Vec::new()),
                (3, _) => (Kind::Fifo, no_xattrs(&meta), Vec::new()),
                (4, _) => (Kind::Whiteout, Meta::default(), Vec::new()),
                _ => (file(content.len() as u64), meta, content),
            };
            made.insert(path.clone(), (Entry { path, kind, meta }, content));
        }
        // A whiteout or file may have got entries below it later.
        let mut out: Vec<(Entry, Vec<u8>)> = Vec::new();
        for (entry, content) in made.into_values() {
            out.push((entry, content));
        }
        out
    })
}

/// Any index.
pub(crate) fn any_index() -> impl Strategy<Value = Index> {
    any_files().prop_map(|files| Index::new(files.into_iter().map(|(e, _)| e).collect()).expect("made to be one"))
}
