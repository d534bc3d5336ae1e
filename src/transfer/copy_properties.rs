//! What holds for every COPY and ADD, whatever is copied onto whatever.

use proptest::prelude::*;

use super::add::bytes;
use super::*;
use crate::transfer::Fact;

const NAMES: [&str; 7] = ["a", "b", "a/b", "a/c", "b/a", "a/b/c", "b/a/b"];
const TARGETS: [&str; 7] = ["a", "/a/b", "..", "../b", "/", "c", "/etc/x"];

/// A small tree with everything in it that rules care about.
fn tree() -> impl Strategy<Value = Memory> {
    let thing = (0..NAMES.len(), 0..6u8, 0..TARGETS.len());
    prop::collection::vec(thing, 0..6).prop_map(|things| {
        let mut tree = Memory::default();
        let mut taken: Vec<String> = Vec::new();
        for (name, kind, target) in things {
            let path = NAMES[name];
            let below_other = taken.iter().any(|t| path.starts_with(&format!("{t}/")));
            if below_other || tree.get(&LayerPath::clean(path)).is_some() {
                continue;
            }
            match kind {
                0 | 1 => _ = tree.dir(path, 0o700 + u32::from(kind), 1, 2),
                2 => {
                    tree.symlink(path, TARGETS[target]);
                    taken.push(path.to_owned());
                }
                _ => {
                    tree.file(path, &format!("{kind}"), 0o644);
                    taken.push(path.to_owned());
                }
            }
        }
        tree
    })
}

fn packed() -> impl Strategy<Value = Vec<u8>> {
    let names = ["a", "b/", "a/b", "../a", "/b", "b/c", "a/../../c", "b/b/b", "./"];
    let member = (0..names.len(), 0..4u8, 0..TARGETS.len());
    prop::collection::vec(member, 1..8).prop_map(move |members| {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, kind, target) in members {
            let mut header = ::tar::Header::new_ustar();
            let (name, target) = (names[name], TARGETS[target]);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            let (kind, data) = match kind {
                _ if name.ends_with('/') => (::tar::EntryType::Directory, ""),
                0 => (::tar::EntryType::Directory, ""),
                1 => (::tar::EntryType::Symlink, ""),
                2 => (::tar::EntryType::Link, ""),
                _ => (::tar::EntryType::Regular, "x"),
            };
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).expect("memory");
        }
        builder.into_inner().expect("memory")
    })
}

/// What every result must be, whatever went in.
fn check_entries(entries: &[Planned]) -> Result<(), TestCaseError> {
    prop_assert!(entries.is_sorted_by(|a, b| a.entry.path < b.entry.path), "in order, once each");
    for (i, planned) in entries.iter().enumerate() {
        let earlier = |path: &LayerPath| entries[..i].iter().find(|p| p.entry.path == *path);
        if let Some(parent) = planned.entry.path.parent().filter(|p| !p.is_root()) {
            prop_assert!(earlier(&parent).is_some_and(|p| p.entry.is_dir()), "parent of {}", planned.entry.path);
        }
        if let Kind::Hardlink(first) = &planned.entry.kind {
            prop_assert!(earlier(first).is_some_and(|p| is_file(&p.entry.kind)), "target of {}", planned.entry.path);
        }
    }
    Ok(())
}

fn holds(tree: &Memory, path: &LayerPath, fact: &Fact) -> bool {
    // A tree has nothing below what is no directory.
    let node = tree.node(path);
    match (fact, node.map(|n| (n.entry.kind, n.entry.meta))) {
        (Fact::Absent, None)
        | (Fact::Directory(None), Some((Kind::Directory { .. }, _)))
        | (Fact::Other, Some((Kind::File { .. }, _))) => true,
        (Fact::Directory(Some(meta)), Some((Kind::Directory { .. }, found))) => *meta == found,
        (Fact::Symlink(to), Some((Kind::Symlink(found), _))) => *to == found,
        _ => false,
    }
}

proptest! {
    #[test]
    fn facts_decide_the_result(
        from in tree(), one in tree(), other in tree(), parents: bool, to in 0..NAMES.len(), slash: bool,
    ) {
        let to = format!("/{}{}", NAMES[to], if slash { "/" } else { "" });
        let run = |onto: &Memory| {
            let mut case = case(&["*"], &to, |t| *t = from.clone());
            case.op.parents = parents;
            case.onto = onto.clone();
            case.run()
        };
        let Ok((copied, _)) = run(&one) else { return Ok(()) };
        check_entries(&copied.entries)?;
        if copied.facts.0.iter().all(|(path, fact)| holds(&other, path, fact)) {
            let again = run(&other).expect("as before").0;
            prop_assert_eq!(copied.entries, again.entries);
            prop_assert_eq!(copied.facts.digest(), again.facts.digest());
        }
    }

    #[test]
    fn archives_never_leave_the_destination(packed in packed(), onto in tree()) {
        let mut case = case(&["x"], "/t/u", |t| bytes(t, "x", packed)).add();
        for node in onto.iter() {
            let path = format!("t/u/{}", String::from_utf8_lossy(node.entry.path.as_bytes()));
            case.onto.put(&path, node.entry.kind.clone(), node.entry.meta.clone(), Vec::new(), None);
        }
        case.onto.dir("etc", 0o755, 0, 0);
        let Ok((copied, _)) = case.run() else { return Ok(()) };
        check_entries(&copied.entries)?;
        let top = LayerPath::clean("t/u");
        for planned in &copied.entries {
            let path = &planned.entry.path;
            prop_assert!(path.strip(&top).is_some() || top.strip(path).is_some(), "{}", path);
        }
    }
}
