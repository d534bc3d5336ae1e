//! Layers in a real store: forms turned into one another, views, and (as root) trees and overlays.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use rbuild_cache::StoreOptions;
use rbuild_cache::digest::Sha256;

use super::*;
use crate::tar::entry::{Entry, Kind as EntryKind, LayerPath};

struct Fixture {
    layers: Layers,
    dir: tempfile::TempDir,
}

fn fixture_with(options: TreeOptions) -> Fixture {
    let dir = tempfile::tempdir().expect("temp");
    let store =
        Store::open(&dir.path().join("store"), StoreOptions { trees: "test".to_owned(), ..StoreOptions::default() });
    Fixture { layers: Layers::new(store.expect("new store"), options, Cancel::new()), dir }
}

fn fixture() -> Fixture {
    fixture_with(TreeOptions::ROOT)
}

fn contents(files: Vec<(Entry, Vec<u8>)>) -> impl Iterator<Item = (Entry, Content)> {
    files.into_iter().map(|(entry, bytes)| {
        let is_file = matches!(entry.kind, EntryKind::File { .. });
        (entry, if is_file { Content::Bytes(bytes) } else { Content::None })
    })
}

impl Fixture {
    /// A layer from the lines of `samples::entry`.
    fn layer(&self, lines: &[&str]) -> Record {
        let entry = |line: &&str| {
            let entry = samples::entry(line);
            let bytes = line.split(' ').nth(1).unwrap_or_default().as_bytes().to_vec();
            (entry, bytes)
        };
        self.layers.write(contents(lines.iter().map(entry).collect())).expect("written")
    }

    fn stack(&self, layers: &[&[&str]]) -> Vec<LayerId> {
        layers.iter().map(|lines| self.layer(lines).id).collect()
    }

    fn view(&self, layers: &[&[&str]]) -> View {
        View::new(&self.layers, &self.stack(layers)).expect("indexes")
    }

    fn tar(&self, id: &LayerId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.layers.tar(id).expect("form").read_to_end(&mut bytes).expect("readable");
        bytes
    }

    fn import(&self, bytes: Vec<u8>, expected: Option<DiffId>) -> Result<Record> {
        let source = Source { media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(), digest: None };
        self.layers.import(Box::new(io::Cursor::new(bytes)), &source, expected)
    }
}

/// One line per entry as a view or index shows it.
fn show(entry: &Entry) -> String {
    let kind = match &entry.kind {
        EntryKind::File { size, .. } => format!("file {size}"),
        EntryKind::Directory { opaque } => if *opaque { "opaque" } else { "dir" }.to_owned(),
        EntryKind::Symlink(to) => format!("link {}", String::from_utf8_lossy(to)),
        EntryKind::Hardlink(to) => format!("hard {to}"),
        other => format!("{other:?}"),
    };
    format!("{} {kind}", entry.path)
}

fn listing(index: &Index) -> Vec<String> {
    index.entries().iter().map(show).collect()
}

#[test]
fn a_written_layer_is_its_tar() {
    let f = fixture();
    let record = f.layer(&["d a", "f a/b", "h a/c a/b", "w a/d"]);
    let tar = f.tar(&record.id);
    assert_eq!((Sha256::of(&tar), tar.len() as u64), (record.diff_id.0, record.size));
    assert_eq!(f.layers.record(&record.id).expect("store"), Some(record.clone()));
    assert_eq!(f.layers.by_diff_id(&record.diff_id).expect("store"), Some(record.clone()));
    assert_eq!(record.id, f.layers.index(&record.id).expect("there").layer_id());
    assert!(f.layers.has_form(&record).expect("store"));
    let gone = LayerId(rbuild_cache::digest::Blake3([1; 32]));
    assert_eq!(
        f.layers.index(&gone).expect_err("unknown").to_string(),
        format!("layer {gone} is not in the store any more")
    );
}

#[test]
fn an_empty_layer_has_the_well_known_diff_id() {
    let known = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(fixture().layer(&[]).diff_id.to_string(), known);
}

#[test]
fn a_lost_index_is_read_from_the_bytes() {
    let f = fixture();
    let record = f.layer(&["d a", "f a/b"]);
    let before = f.layers.index(&record.id).expect("there");
    f.layers.store.remove(Kind::Index, &record.id.to_string()).expect("removed");
    let again = Layers::new(f.layers.store.clone(), TreeOptions::ROOT, Cancel::new());
    assert_eq!(again.index(&record.id).expect("from the blob"), before);
    assert!(again.store.contains(Kind::Index, &record.id.to_string()).expect("store"));
}

#[test]
fn views_follow_the_rules_of_overlays() {
    let f = fixture();
    let view = f.view(&[
        &["d a", "f a/deep", "d b", "f b/old", "d c", "f c/x", "f g", "l s b"],
        &["f a", "o b", "f b/new", "w c/x", "d d", "h d/h a", "w g"],
        &["f c/y", "f e/f/implied"],
    ]);
    let look = |path: &str| view.lookup(&LayerPath::clean(path)).map(|found| show(&found.entry));
    assert_eq!(look("a"), Some("/a file 1".into()));
    assert_eq!(look("a/deep"), None);
    assert_eq!((look("b/old"), look("b/new")), (None, Some("/b/new file 5".into())));
    assert_eq!((look("c/x"), look("c/y")), (None, Some("/c/y file 3".into())));
    assert_eq!(look("d/h"), Some("/d/h file 1".into()), "hard links are the files they name");
    assert_eq!(look("g"), None);
    assert_eq!(look("s/new"), None, "links are not followed");
    assert_eq!(
        (look("e"), look("e/f"), look("/")),
        (Some("/e dir".into()), Some("/e/f dir".into()), Some("/ dir".into()))
    );
    let names = |path: &str| {
        let children = view.children(&LayerPath::clean(path)).into_iter();
        children
            .map(|(name, found)| format!("{} {}", String::from_utf8_lossy(&name), show(&found.entry)))
            .collect::<Vec<_>>()
    };
    assert_eq!(names("/"), ["a /a file 1", "b /b opaque", "c /c dir", "d /d dir", "e /e dir", "s /s link b"]);
    assert_eq!(
        (names("b"), names("c"), names("a")),
        (vec!["new /b/new file 5".into()], vec!["y /c/y file 3".into()], vec![])
    );
    let read = |path: &str| {
        let mut text = String::new();
        let found = view.lookup(&LayerPath::clean(path)).expect("there");
        view.open(&found).expect("a form").read_to_string(&mut text).expect("readable");
        text
    };
    assert_eq!((read("b/new"), read("d/h"), read("e/f/implied")), ("b/new".into(), "a".into(), "e/f/implied".into()));
    assert_eq!(f.view(&[]).lookup(&LayerPath::root()).map(|found| show(&found.entry)), Some("/ dir".into()));
}

#[test]
fn implied_directories_take_lower_metadata() {
    let f = fixture();
    let mut tmp = samples::entry("d tmp");
    tmp.meta.mode = 0o1777;
    let base = f.layers.write([(tmp, Content::None)].into_iter()).expect("written");
    let upper = f.layer(&["f tmp/x"]);
    let view = View::new(&f.layers, &[base.id, upper.id]).expect("indexes");
    assert_eq!(view.lookup(&LayerPath::clean("tmp")).expect("there").entry.meta.mode, 0o1777);
    let hidden = f.layer(&["o tmp"]);
    let view = View::new(&f.layers, &[base.id, hidden.id, upper.id]).expect("indexes");
    assert_eq!(view.lookup(&LayerPath::clean("tmp")).expect("there").entry.meta.mode, 0o755);
}

#[test]
fn links_are_resolved_inside_the_root() {
    let f = fixture();
    let view = f.view(&[&[
        "d a",
        "l a/abs /b",
        "l a/up ../../../b",
        "d b",
        "f b/f",
        "l b/self f",
        "l dangling nowhere",
        "l x y",
        "l y x",
    ]]);
    let resolve = |path: &str, last| {
        let resolved = view.resolve(&LayerPath::clean(path), last)?;
        Ok::<_, view::TooManyLinks>(format!(
            "{} {}",
            resolved.path,
            if resolved.found.is_some() { "yes" } else { "no" }
        ))
    };
    assert_eq!(resolve("a/abs/f", false), Ok("/b/f yes".into()));
    assert_eq!(resolve("a/up/self", false), Ok("/b/self yes".into()));
    assert_eq!(resolve("a/up/self", true), Ok("/b/f yes".into()));
    assert_eq!(resolve("dangling", true), Ok("/nowhere no".into()));
    assert_eq!(resolve("dangling/x", true), Ok("/nowhere/x no".into()));
    assert_eq!(resolve("b/f/below", true), Ok("/b/f/below no".into()));
    assert_eq!(resolve("x", true), Err(view::TooManyLinks(LayerPath::clean("x"))));
}

#[test]
fn compressed_blobs_are_made_once_and_readable() {
    let f = fixture();
    let record = f.layer(&["d a", "f a/b"]);
    let tar = f.tar(&record.id);
    for framing in [Framing::None, Framing::Gzip { level: 3 }, Framing::Zstd { level: 3 }] {
        let one = f.layers.compressed(&record.id, framing, 1).expect("made");
        let blob = f.layers.store.blob(&one.digest).expect("store").expect("there");
        assert_eq!(blob.size, one.size);
        let (mut plain, _) = make::plain(Box::new(fs_err::File::open(blob.path).expect("there"))).expect("readable");
        let mut bytes = Vec::new();
        plain.read_to_end(&mut bytes).expect("valid");
        assert!(bytes == tar, "{framing:?}");
        assert_eq!(f.layers.known_compressed(&record, framing).expect("store"), Some(one));
        if framing != Framing::None {
            f.layers.store.remove_blob(&one.digest).expect("removed");
            assert_eq!(f.layers.compressed(&record.id, framing, 4).expect("made again"), one);
        }
    }
}

#[test]
fn a_layer_that_hardly_differs_is_hardly_compressed() {
    let f = fixture();
    // Eight megabytes in files of 100 KB; one of them changes.
    let layer = |changed: usize| {
        let file = |n: usize| {
            let seed = if n == changed { 1_000_003 } else { n as u32 };
            let bytes: Vec<u8> =
                (0..100_000u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 27) as u8).collect();
            let mut entry = samples::entry(&format!("f file{n:03}"));
            entry.kind =
                EntryKind::File { size: bytes.len() as u64, content: rbuild_cache::digest::Blake3::of(&bytes) };
            (entry, Content::Bytes(bytes))
        };
        f.layers.write((0..80).map(file)).expect("written")
    };
    let framing = Framing::Gzip { level: 3 };
    let (one, other) = (layer(usize::MAX), layer(40));
    let first = f.layers.compressed(&one.id, framing, 2).expect("made");
    let earlier = chunks::Earlier::new(f.layers.store.clone(), "gzip-3-v1".to_owned());
    let name = format!("chunks-{}", first.digest.0.hex());
    let list = f.layers.store.get(Kind::Derived, &name).expect("store").expect("noted");
    let hash = |n: usize| rbuild_cache::digest::Blake3(list[n * 44..][..32].try_into().expect("32 bytes"));
    assert!(list.len() / 44 > 30 && earlier.recall(&hash(7), false).is_none(), "nothing is known before the first");
    assert!(earlier.recall(&hash(0), true).is_some() && earlier.recall(&hash(7), false).is_some());
    let second = f.layers.compressed(&other.id, framing, 2).expect("made");
    assert_ne!(first, second);
    // The same bytes as without a memory.
    let g = fixture();
    let mut blob = Vec::new();
    f.layers.store.open_blob(&second.digest).expect("store").expect("there").read_to_end(&mut blob).expect("read");
    let source = make::Source { media_type: String::new(), digest: None };
    let taken =
        g.layers.import(Box::new(std::io::Cursor::new(blob)), &source, Some(other.diff_id)).expect("the same tar");
    assert_eq!(taken.diff_id, other.diff_id);
    // A memory of what is gone is none.
    f.layers.store.remove_blob(&first.digest).expect("removed");
    let lost = chunks::Earlier::new(f.layers.store.clone(), "gzip-3-v1".to_owned());
    f.layers.store.remove_blob(&second.digest).expect("removed");
    assert!(lost.recall(&hash(0), true).is_none());
    assert_eq!(f.layers.compressed(&other.id, framing, 1).expect("made again"), second);
    let refs = references(Kind::Derived, &name, &list).expect("ours");
    assert_eq!(refs, [rbuild_cache::ObjectRef::RemakableBlob(first.digest)]);
}

#[test]
fn zstd_bytes_do_not_depend_on_threads() {
    let f = fixture();
    let mut big = samples::entry("f big");
    let bytes: Vec<u8> = (0..9_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    big.kind = EntryKind::File { size: bytes.len() as u64, content: rbuild_cache::digest::Blake3::of(&bytes) };
    let record = f.layers.write([(big, Content::Bytes(bytes))].into_iter()).expect("written");
    let make = |threads| {
        let made = f.layers.compressed(&record.id, Framing::Zstd { level: 3 }, threads).expect("made");
        f.layers.store.remove_blob(&made.digest).expect("removed");
        made
    };
    assert_eq!(make(1), make(3));
}

#[test]
fn what_a_record_needs() {
    let f = fixture();
    let record = f.layer(&["f a"]);
    let json = f.layers.store.get(Kind::Layer, &record.id.to_string()).expect("store").expect("there");
    let refs = references(Kind::Layer, &record.id.to_string(), &json).expect("ours");
    assert_eq!(
        refs,
        [
            ObjectRef::Small(Kind::Index, record.id.to_string()),
            ObjectRef::Blob(BlobDigest(record.diff_id.0)),
            ObjectRef::RemakableTree(record.id)
        ]
    );
    let by_diff = references(Kind::Layer, &diff_name(&record.diff_id), record.id.to_string().as_bytes());
    assert_eq!(by_diff, Some(vec![ObjectRef::Small(Kind::Layer, record.id.to_string())]));
}

#[test]
fn clamping_lowers_later_times_only() {
    let f = fixture();
    let mut old = samples::entry("f b");
    old.meta.mtime = 5;
    let files = vec![(samples::entry("f a"), b"a".to_vec()), (old, b"b".to_vec())];
    let record = f.layers.write(contents(files)).expect("written");
    let clamped = f.layers.clamp(&record.id, 1000).expect("written");
    let times: Vec<_> = f.layers.index(&clamped.id).expect("there").entries().iter().map(|e| e.meta.mtime).collect();
    assert_eq!(times, [1000, 5]);
    assert_eq!(clamped.tree_id, record.tree_id);
    assert_ne!(clamped.diff_id, record.diff_id);
    assert_eq!(f.layers.clamp(&clamped.id, 1000).expect("same"), clamped);
}

/// A foreign layer is unpacked when it is imported, which needs root to be exact.
#[test]
fn root_imports_are_verified() {
    if !root() {
        return;
    }
    let made = fixture();
    let record = made.layer(&["d a", "f a/b", "l a/l b", "w x"]);
    let tar = made.tar(&record.id);
    let f = fixture();
    let (gzip, _) = gzip::compress(tar.as_slice(), Vec::new(), 3, 1, &|_, _| None).expect("memory");
    let imported = f.import(gzip.clone(), Some(record.diff_id)).expect("valid");
    let Origin::Foreign { digest, size, .. } = &imported.origin else { panic!("{imported:?}") };
    assert_eq!((digest.0, *size), (Sha256::of(&gzip), gzip.len() as u64));
    assert_eq!((imported.tree_id, imported.diff_id, imported.size), (record.tree_id, record.diff_id, record.size));
    assert_eq!(imported.id, foreign_layer_id(&record.diff_id));
    assert_eq!(f.layers.by_diff_id(&record.diff_id).expect("store"), Some(imported.clone()));
    assert_eq!(*f.layers.index(&imported.id).expect("there"), *made.layers.index(&record.id).expect("there"));
    assert!(f.tar(&imported.id) == tar);
    let tree = f.layers.tree(&imported.id).expect("there");
    assert_eq!(fs_err::read_to_string(tree.join("a/l")).expect("there"), "a/b");
    // Without its tree it is made again from the blob.
    f.layers.store.remove_tree(&imported.id).expect("removed");
    assert_eq!(f.layers.tree(&imported.id).expect("made"), tree);

    let f = fixture();
    let other = DiffId(Sha256::of(b"other"));
    let text = f.import(gzip.clone(), Some(other)).expect_err("refused").to_string();
    assert_eq!(text, format!("layer has other content: diff ID {other} expected, {} found", record.diff_id));
    assert!(f.import(gzip[..gzip.len() - 9].to_vec(), None).is_err(), "cut short");
    let source = Source { media_type: String::new(), digest: Some(BlobDigest(other.0)) };
    assert!(f.layers.import(Box::new(io::Cursor::new(gzip.clone())), &source, None).is_err(), "other blob");
    assert!(f.layers.store.list(Kind::Layer).expect("store").is_empty(), "nothing was published");
    // A tree alone is no reason not to fetch the bytes.
    let plain = f.import(tar.clone(), Some(record.diff_id)).expect("valid");
    f.layers.store.remove_blob(&BlobDigest(record.diff_id.0)).expect("removed");
    assert!(f.layers.has_form(&plain).expect("store") && f.layers.tar(&plain.id).is_err());
    assert!(f.layers.tar(&f.import(tar.clone(), Some(record.diff_id)).expect("valid").id).is_ok());
    let f = fixture();
    let digest = f.layers.store.put_blob(&gzip).expect("stored");
    let imported = f.layers.import_blob(&digest, "x", Some(record.diff_id)).expect("valid").expect("there");
    assert_eq!(imported.tree_id, record.tree_id);
    let cancel = Cancel::new();
    let cancelled = Layers::new(f.layers.store.clone(), TreeOptions::ROOT, cancel.clone());
    cancel.cancel();
    let source = Source { media_type: String::new(), digest: None };
    let result = cancelled.import(Box::new(io::Cursor::new(tar)), &source, None);
    assert!(matches!(result, Err(LayerError::Cancelled(_))), "{result:?}");
}

#[test]
fn root_tars_by_gnu_tar_and_python_are_understood() {
    if !root() {
        return;
    }
    let f = fixture();
    let at = f.dir.path().join("src");
    let long = "n".repeat(180);
    let script = format!(
        "set -e; umask 022; mkdir -p {0}/d/{long} {0}/e; cd {0}; echo hi > d/f; ln d/f d/g; ln -s f d/l; mkfifo p; mknod c c 1 3
         truncate -s 300000 sparse; printf x | dd of=sparse bs=1 seek=200000 conv=notrunc 2>/dev/null
         setfattr -n user.k -v val d/f; chown 1234:5678 d/f; chmod 4755 d/f; touch -d @1500000000.5 d/f d/l -h; echo é > e/é",
        at.display()
    );
    assert!(Command::new("sh").args(["-c", &script]).status().expect("sh").success());
    let mut ids = Vec::new();
    for format in [&["--format=gnu"][..], &["--format=gnu", "--sparse"], &["--format=posix", "--xattrs", "--sparse"]] {
        let mut tar = Command::new("tar");
        let out =
            tar.args(["-C", at.to_str().expect("utf-8"), "--sort=name", "-cf", "-"]).args(format).arg(".").output();
        let out = out.expect("tar");
        assert!(out.status.success());
        let record = f.import(out.stdout, None).expect("understood");
        let index = f.layers.index(&record.id).expect("there");
        let get = |path: &str| index.get(&LayerPath::clean(path)).expect("entry").clone();
        assert_eq!((get("d/f").meta.uid, get("d/f").meta.mode, get("d/f").meta.mtime), (1234, 0o4755, 1_500_000_000));
        assert_eq!(get("d/g").kind, EntryKind::Hardlink(LayerPath::clean("d/f")));
        assert_eq!(get("c").kind, EntryKind::CharDevice(1, 3));
        assert!(get(&format!("d/{long}")).is_dir());
        ids.push(get("sparse").kind);
        let tree = f.layers.tree(&record.id).expect("tree");
        let same = Command::new("diff").args(["-r", "--no-dereference"]).arg(at.join("d")).arg(tree.join("d")).status();
        assert!(same.expect("diff").success());
        assert!(forms::matches_index(&tree, TreeOptions::ROOT, &index).expect("readable"));
    }
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
}

#[expect(clippy::print_stderr, reason = "tests skip loudly")]
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

#[test]
fn other_tars_list_what_we_write() {
    let f = fixture();
    let long = format!("d {}/{}", "p".repeat(150), "q".repeat(120));
    let lines = ["d a", "f a/b", "h a/c a/b", "l a/d to", &*long, "p é", "w x"];
    let mut sorted = lines.map(str::to_owned);
    sorted.sort_by_key(|line| samples::entry(line).path);
    let record = f.layer(&sorted.each_ref().map(String::as_str));
    let path = f.dir.path().join("layer.tar");
    fs_err::write(&path, f.tar(&record.id)).expect("written");
    let python = "import sys, tarfile\nfor m in tarfile.open(sys.argv[1]): print(m.name + ('/' if m.isdir() else ''))";
    let expected =
        format!("a/\na/b\na/c\na/d\n{}/\n.wh.x\né\n", String::from_utf8_lossy(samples::entry(&long).path.as_bytes()));
    for command in [&["tar", "--quoting-style=literal", "-tf"][..], &["python3", "-c", python]] {
        let Ok(out) = Command::new(command[0]).args(&command[1..]).arg(&path).env("PYTHONUTF8", "1").output() else {
            continue;
        };
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(String::from_utf8_lossy(&out.stdout), expected, "{command:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn tars_give_their_index_back(files in samples::any_files()) {
        let f = fixture();
        let record = f.layers.write(contents(files)).expect("written");
        let bytes = f.tar(&record.id);
        let unpacked = unpack::unpack(Box::new(io::Cursor::new(bytes)), None, &Cancel::new()).expect("own output");
        prop_assert_eq!(&unpacked.index, &*f.layers.index(&record.id).expect("there"));
        prop_assert_eq!((unpacked.diff_id, unpacked.size), (record.diff_id, record.size));
    }

    #[test]
    fn root_trees_give_their_tar_back(files in samples::any_files()) {
        if !root() {
            return Ok(());
        }
        let f = fixture();
        let record = f.layers.write(contents(files)).expect("written");
        let tree = f.layers.tree(&record.id).expect("made");
        let index = f.layers.index(&record.id).expect("there");
        prop_assert!(forms::matches_index(&tree, TreeOptions::ROOT, &index).expect("readable"));
        let tar = f.tar(&record.id);
        f.layers.store.remove_blob(&BlobDigest(record.diff_id.0)).expect("removed");
        prop_assert!(f.tar(&record.id) == tar, "from the tree");
    }
}

/// What a mounted root looks like: one line per name. (A whiteout that hides nothing is listed by overlayfs but cannot be
/// looked up, which `find` complains about.)
fn find(f: &Fixture, stack: &[LayerId]) -> Vec<String> {
    let out = f.dir.path().join("found");
    let format = r"%P\t%y\t%m\t%U:%G\t%T@\t%s\t%l\n";
    run_in_overlay(f, stack, &format!("find . -mindepth 1 -printf '{format}' > {} 2>/dev/null || true", out.display()));
    let text = fs_err::read(out).expect("written");
    let fields = |line: &str| {
        let f: Vec<_> = line.split('\t').collect();
        let size = if f[1] == "f" { f[5] } else { "" };
        let mode = if f[1] == "l" { "" } else { f[2] };
        format!("{} {} {mode} {} {} {size} {}", f[0], f[1], f[3], f[4].split('.').next().unwrap_or_default(), f[6])
    };
    let mut lines: Vec<_> = String::from_utf8(text).expect("UTF-8").lines().map(fields).collect();
    lines.sort_unstable();
    lines
}

/// The same of a view.
fn see(view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![LayerPath::root()];
    while let Some(dir) = left.pop() {
        for (_, found) in view.children(&dir) {
            let e = found.entry;
            assert_eq!(view.lookup(&e.path).as_ref().map(|f| &f.entry), Some(&e));
            let (tag, size, to) = match &e.kind {
                EntryKind::File { size, .. } => ("f", size.to_string(), String::new()),
                EntryKind::Directory { .. } => ("d", String::new(), String::new()),
                EntryKind::Symlink(to) => ("l", String::new(), String::from_utf8_lossy(to).into_owned()),
                EntryKind::Fifo => ("p", String::new(), String::new()),
                other => panic!("{other:?}"),
            };
            let mode = if tag == "l" { String::new() } else { format!("{:o}", e.meta.mode) };
            let (path, m) = (String::from_utf8_lossy(e.path.as_bytes()), &e.meta);
            lines.push(format!("{path} {tag} {mode} {}:{} {} {size} {to}", m.uid, m.gid, m.mtime));
            if e.is_dir() {
                left.push(e.path);
            }
        }
    }
    lines.sort_unstable();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn root_views_agree_with_overlayfs(stack in prop::collection::vec(samples::any_files(), 1..5)) {
        if !root() {
            return Ok(());
        }
        let f = fixture();
        let ids: Vec<_> = stack.into_iter().map(|files| f.layers.write(contents(files)).expect("written").id).collect();
        let view = View::new(&f.layers, &ids).expect("indexes");
        prop_assert_eq!(find(&f, &ids), see(&view));
        // What is not listed is not found either, however it is hidden.
        for path in ids.iter().flat_map(|id| f.layers.index(id).expect("there").entries().to_vec()).map(|e| e.path) {
            let parent = path.parent().unwrap_or_default();
            let listed = path.is_root() || view.children(&parent).iter().any(|(name, _)| name == path.name());
            prop_assert_eq!(view.lookup(&path).is_some(), listed, "{}", path);
        }
        // A step that changes nothing, but opens every file for writing, makes an empty layer on any stack.
        let script = "find . -type f -exec sh -c ': >> \"$1\"' - {} \\; 2>/dev/null || true";
        let record = f.layers.adopt(&run_in_overlay(&f, &ids, script), &ids).expect("adopted");
        prop_assert_eq!(listing(&f.layers.index(&record.id).expect("there")), [""; 0]);
    }
}

#[test]
fn root_hostile_tars_stay_inside_the_tree() {
    if !root() {
        return;
    }
    let f = fixture();
    let outside = f.dir.path().join("outside");
    fs_err::create_dir(&outside).expect("made");
    fs_err::write(outside.join("secret"), "s").expect("made");
    let mut tar = ::tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: ::tar::EntryType, link: &str, content: &[u8]| {
        let mut header = ::tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        tar.append(&header, content).expect("memory");
    };
    let path = outside.display().to_string();
    let (file, link) = (::tar::EntryType::Regular, ::tar::EntryType::Symlink);
    add("../../../../../../../../etc/rbuild-hostile", file, "", b"x");
    add("/abs", file, "", b"x");
    add("esc", link, &path, b"");
    add("esc/new", file, "", b"x");
    add("esc/.wh.secret", file, "", b"");
    add("up", link, "../../../../../../../..", b"");
    add("up/top", file, "", b"x");
    add("last", link, &format!("{path}/secret"), b"");
    add("last", file, "", b"y");
    add("dev", ::tar::EntryType::Char, "", b"");
    let record = f.import(tar.into_inner().expect("memory"), None).expect("harmless");
    let names: Vec<_> = fs_err::read_dir(&outside).expect("there").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert!(!std::path::Path::new("/etc/rbuild-hostile").exists());
    let index = f.layers.index(&record.id).expect("there");
    let inside = path.trim_start_matches('/');
    let expected = [
        "/abs file 1".to_owned(),
        "/dev Whiteout".to_owned(),
        format!("/esc link {path}"),
        "/etc/rbuild-hostile file 1".to_owned(),
        "/last file 1".to_owned(),
        format!("/{inside}/new file 1"),
        format!("/{inside}/secret Whiteout"),
        "/top file 1".to_owned(),
        "/up link ../../../../../../../..".to_owned(),
    ];
    assert_eq!(listing(&index), expected);
    let tree = f.layers.tree(&record.id).expect("made");
    assert!(forms::matches_index(&tree, TreeOptions::ROOT, &index).expect("readable"));
}

#[test]
fn root_damaged_trees_are_noticed() {
    if !root() {
        return;
    }
    let f = fixture();
    let record = f.layer(&["d a", "f a/b"]);
    let tree = f.layers.tree(&record.id).expect("made");
    f.layers.store.remove_blob(&BlobDigest(record.diff_id.0)).expect("removed");
    let times = fs_err::metadata(tree.join("a/b")).expect("there").modified().expect("time");
    fs_err::write(tree.join("a/b"), "a/x").expect("written");
    std::fs::File::open(tree.join("a/b")).and_then(|file| file.set_modified(times)).expect("set");
    assert!(
        !forms::matches_index(&tree, TreeOptions::ROOT, &f.layers.index(&record.id).expect("there")).expect("readable")
    );
    let mut bytes = Vec::new();
    let error = f.layers.tar(&record.id).expect("starts").read_to_end(&mut bytes).expect_err("noticed");
    assert_eq!(
        error.to_string(),
        format!("stored tree of layer {} is damaged: /a/b differs; the next build makes it again", record.id)
    );
    assert!(!f.layers.has_form(&record).expect("store"), "it is gone");
}

/// Mounts an overlay over the stack, runs a shell script in it and returns the upper directory.
fn run_in_overlay(f: &Fixture, stack: &[LayerId], script: &str) -> PathBuf {
    let temp = f.layers.store.temp_dir("run").expect("temp").keep();
    let [upper, work, merged, empty] = ["upper", "work", "merged", "empty"].map(|name| temp.join(name));
    for dir in [&upper, &work, &merged, &empty] {
        fs_err::create_dir(dir).expect("made");
    }
    let mut lowers = f.layers.lowers(stack).expect("trees");
    if lowers.is_empty() {
        lowers.push(empty);
    }
    let lowers: Vec<_> = lowers.iter().rev().map(|p| p.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=nofollow",
        lowers.join(":"),
        upper.display(),
        work.display()
    );
    let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).status();
    assert!(mounted.expect("mount").success());
    let ran = Command::new("sh").args(["-ec", script]).current_dir(&merged).status();
    let unmounted = Command::new("umount").arg(&merged).status();
    assert!(unmounted.expect("umount").success() && ran.expect("sh").success());
    upper
}

/// Checks that the tree of a layer is what its index says, and its tar what its record says.
fn check_forms(f: &Fixture, record: &Record) {
    let tree = f.layers.tree(&record.id).expect("tree");
    let index = f.layers.index(&record.id).expect("there");
    assert!(forms::matches_index(&tree, TreeOptions::ROOT, &index).expect("readable"));
    let tar = f.tar(&record.id);
    assert_eq!((Sha256::of(&tar), tar.len() as u64), (record.diff_id.0, record.size));
}

/// Runs a script on a base, adopts what it did and lists the layer.
fn adopted(f: &Fixture, stack: &[LayerId], script: &str) -> Vec<String> {
    let upper = run_in_overlay(f, stack, script);
    let record = f.layers.adopt(&upper, stack).expect("adopted");
    check_forms(f, &record);
    listing(&f.layers.index(&record.id).expect("there"))
}

const BASE: &[&str] = &[
    "d bin",
    "f bin/a",
    "d etc",
    "f etc/conf",
    "f etc/conf2",
    "d lib",
    "d lib/deep",
    "f lib/deep/x",
    "f lib/one",
    "h lib/two lib/one",
    "d tmp",
];

#[test]
fn root_a_step_that_does_nothing_makes_an_empty_layer() {
    if !root() {
        return;
    }
    let f = fixture();
    let stack = f.stack(&[BASE]);
    assert_eq!(adopted(&f, &stack, "cat etc/conf >/dev/null"), [""; 0]);
    // Opened for writing, rewritten with the same bytes and time, copied up: unchanged.
    let script = "for f in etc/conf lib/deep/x; do touch -r $f /tmp/rbuild-ref-$$; exec 3<>$f; exec 3>&-
        cat $f > /tmp/rbuild-copy-$$; cat /tmp/rbuild-copy-$$ > $f; touch -r /tmp/rbuild-ref-$$ $f; rm /tmp/rbuild-*-$$; done
        chmod 755 bin";
    assert_eq!(adopted(&f, &stack, script), [""; 0]);
}

#[test]
fn root_changes_are_found_by_content_not_by_time() {
    if !root() {
        return;
    }
    let f = fixture();
    let stack = f.stack(&[BASE]);
    // Same size, same time to the nanosecond, other bytes.
    let script = "touch -r etc/conf /tmp/rbuild-ref-$$; printf ETC/CONF > etc/conf; touch -r /tmp/rbuild-ref-$$ etc/conf; rm /tmp/rbuild-ref-$$
        touch -d @1700000000 etc/conf2; chmod 600 lib/deep/x";
    assert_eq!(
        adopted(&f, &stack, script),
        ["/etc dir", "/etc/conf file 8", "/etc/conf2 file 9", "/lib dir", "/lib/deep dir", "/lib/deep/x file 10"]
    );
}

#[test]
fn root_all_kinds_of_changes_are_told() {
    if !root() {
        return;
    }
    let f = fixture();
    let stack = f.stack(&[BASE]);
    let script = "rm bin/a etc/conf etc/conf2; rm -r lib/deep; mkdir lib/deep; echo n > lib/deep/n; ln lib/one lib/three
        mkdir new; ln -s ../x new/l; mkfifo new/p; mknod new/c c 1 3; echo f > new/f; ln new/f new/e; setfattr -n user.k -v v new/f
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"new/sock\")'
        chown 7:8 new/f; chmod 4711 new/f; rm -r tmp; echo file > tmp; : > gone; rm gone";
    let upper = run_in_overlay(&f, &stack, script);
    let record = f.layers.adopt(&upper, &stack).expect("adopted");
    check_forms(&f, &record);
    let index = f.layers.index(&record.id).expect("there");
    assert_eq!(
        listing(&index),
        [
            "/bin dir",
            "/bin/a Whiteout",
            "/etc dir",
            "/etc/conf Whiteout",
            "/etc/conf2 Whiteout",
            "/lib dir",
            "/lib/deep opaque",
            "/lib/deep/n file 2",
            "/lib/one file 7",
            "/lib/three hard /lib/one",
            "/new dir",
            "/new/c CharDevice(1, 3)",
            "/new/e file 2",
            "/new/f hard /new/e",
            "/new/l link ../x",
            "/new/p Fifo",
            "/tmp file 5"
        ]
    );
    let e = index.get(&LayerPath::clean("new/e")).expect("there");
    let xattrs = BTreeMap::from([(b"user.k".to_vec(), b"v".to_vec())]);
    assert_eq!((e.meta.uid, e.meta.gid, e.meta.mode, &e.meta.xattrs), (7, 8, 0o4711, &xattrs));
    // The tree of the layer, unpacked from its tar in another store, mounts to the same view.
    let g = fixture();
    let base = g.import(f.tar(&stack[0]), None).expect("valid");
    let top = g.import(f.tar(&record.id), Some(record.diff_id)).expect("valid");
    assert_eq!(top.tree_id, record.tree_id);
    let script =
        "test ! -e bin/a; test -f tmp; test lib/two -ef lib/two; test $(cat lib/deep/n) = n; test ! -e lib/deep/x";
    run_in_overlay(&g, &[base.id, top.id], script);
    // Running nothing on top of it finds nothing.
    let again =
        f.layers.adopt(&run_in_overlay(&f, &[stack[0], record.id], "true"), &[stack[0], record.id]).expect("adopted");
    assert_eq!(f.layers.index(&again.id).expect("there").entries().len(), 0);
}

#[test]
fn root_new_directories_are_opaque_only_over_something() {
    if !root() {
        return;
    }
    let f = fixture();
    let stack = f.stack(&[BASE, &["w lib"]]);
    let script = "mkdir lib; rm bin/a; mkdir bin/a";
    assert_eq!(adopted(&f, &stack, script), ["/bin dir", "/bin/a dir", "/lib dir"]);
}

#[test]
fn root_the_same_changes_give_the_same_layer() {
    if !root() {
        return;
    }
    let f = fixture();
    let stack = f.stack(&[BASE]);
    let script = "mkdir d; for n in 5 3 1 4; do echo $n > d/$n; done; touch -d @1600000000 d/* d";
    let one = f.layers.adopt(&run_in_overlay(&f, &stack, script), &stack).expect("adopted");
    let two = f.layers.adopt(&run_in_overlay(&f, &stack, script), &stack).expect("adopted");
    assert_eq!(one, two);
    let later = f.layers.adopt(&run_in_overlay(&f, &stack, &format!("{script}; touch d/1")), &stack).expect("adopted");
    assert_eq!((later.tree_id, later.id == one.id), (one.tree_id, false));
}

#[test]
fn root_sparse_files_and_capabilities_survive() {
    if !root() {
        return;
    }
    let f = fixture();
    let script = "truncate -s 50M big; printf end >> big; echo x > cap
        setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 cap";
    let upper = run_in_overlay(&f, &[], script);
    let record = f.layers.adopt(&upper, &[]).expect("adopted");
    check_forms(&f, &record);
    assert!(record.size > 50 << 20);
    let g = fixture();
    let imported = g.import(f.tar(&record.id), None).expect("valid");
    let tree = g.layers.tree(&imported.id).expect("tree");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs_err::metadata(tree.join("big")).expect("there"));
    assert!(blocks * 512 < 1 << 20, "holes are holes again: {blocks}");
    let out =
        Command::new("getfattr").args(["-n", "security.capability", "-e", "hex", "cap"]).current_dir(tree).output();
    assert!(String::from_utf8_lossy(&out.expect("getfattr").stdout).contains("0x0100000200040000"));
}

#[test]
fn root_lowers_leave_out_what_cannot_be_mounted_twice() {
    if !root() {
        return;
    }
    let f = fixture();
    let mut private = samples::entry("d root");
    private.meta.mode = 0o700;
    let base = f.layers.write([(private, Content::None)].into_iter()).expect("written").id;
    let [empty, a, b] = [&[][..], &["f root/a"], &["w root/a"]].map(|lines| f.layer(lines).id);
    let stack = [base, empty, a, b, empty, a];
    assert_eq!(f.layers.lowers(&stack).expect("trees").len(), 3, "b, a and a patch that looks like the base");
    run_in_overlay(&f, &stack, "test $(stat -c %a root) = 700; test -e root/a");
    assert_eq!(adopted(&f, &stack, "echo > root/b"), ["/root dir", "/root/b file 1"]);
}

#[test]
fn root_directories_changed_in_place_are_compared_whole() {
    if !root() {
        return;
    }
    let f = fixture();
    let stack = f.stack(&[BASE]);
    let copy = f.layers.store.temp_dir("copy").expect("temp");
    let dir = copy.path().join("root");
    let tree = f.layers.tree(&stack[0]).expect("tree");
    assert!(Command::new("cp").arg("-a").arg(&tree).arg(&dir).status().expect("cp").success());
    let record = f.layers.diff_dirs(&dir, &stack).expect("compared");
    assert_eq!(listing(&f.layers.index(&record.id).expect("there")), [""; 0]);
    let script = "rm bin/a; rm -r lib/deep; echo x > lib/deep; printf new > etc/conf; mkdir -p z/y; rmdir tmp";
    assert!(Command::new("sh").args(["-ec", script]).current_dir(&dir).status().expect("sh").success());
    let record = f.layers.diff_dirs(&dir, &stack).expect("compared");
    let expected = [
        "/bin dir",
        "/bin/a Whiteout",
        "/etc dir",
        "/etc/conf file 3",
        "/lib dir",
        "/lib/deep file 2",
        "/tmp Whiteout",
        "/z dir",
        "/z/y dir",
    ];
    assert_eq!(listing(&f.layers.index(&record.id).expect("there")), expected);
}

#[test]
fn root_deep_directories_do_not_overflow_the_stack() {
    if !root() {
        return;
    }
    let f = fixture();
    let upper = run_in_overlay(&f, &[], "for n in $(seq 900); do mkdir d; cd d; done; echo x > f");
    let record = f.layers.adopt(&upper, &[]).expect("adopted");
    check_forms(&f, &record);
    assert_eq!(f.layers.index(&record.id).expect("there").entries().len(), 901);
}

/// Runs the test `sandbox_inside` again inside a user namespace with a single user.
#[test]
#[expect(clippy::print_stderr, reason = "tests skip loudly")]
fn sandbox_trees_in_a_user_namespace() {
    let possible = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no user namespaces here");
        return;
    }
    let exe = std::env::current_exe().expect("known");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(exe).args([
        "--exact",
        "layers::tests::sandbox_inside",
        "--nocapture",
    ]);
    let out = command.env("RBUILD_TEST_INSIDE", "1").output().expect("unshare");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how a test tells its child what to do")]
fn sandbox_inside() {
    if std::env::var_os("RBUILD_TEST_INSIDE").is_none() {
        return;
    }
    for ownership in [OwnershipMode::Flattened, OwnershipMode::Exact] {
        let options = TreeOptions { overlay: OverlayXattrs::User, ownership };
        let f = fixture_with(options);
        let owned = |line: &str| {
            let mut entry = samples::entry(line);
            (entry.meta.uid, entry.meta.gid) = (33, 44);
            entry
        };
        let mut device = owned("p dev");
        device.kind = EntryKind::CharDevice(1, 3);
        let entries = [
            (owned("o a"), Content::None),
            (owned("f a/b"), Content::Bytes(b"a/b".to_vec())),
            (owned("l a/l"), Content::None),
            (device, Content::None),
            (samples::entry("h dev2 dev"), Content::None),
            (samples::entry("w gone"), Content::None),
        ];
        let mut link = entries;
        link[2].0.kind = EntryKind::Symlink(b"b".to_vec());
        let record = f.layers.write(link.into_iter()).expect("written");
        let tree = f.layers.tree(&record.id).expect("made");
        let index = f.layers.index(&record.id).expect("there");
        if ownership == OwnershipMode::Flattened {
            assert!(forms::matches_index(&tree, options, &index).expect("readable"));
        }
        let found = diff::everything(&tree, options, &std::collections::BTreeSet::new()).expect("readable");
        let meta: Vec<_> = found.iter().map(|e| format!("{} {}:{}", show(e), e.meta.uid, e.meta.gid)).collect();
        assert_eq!(meta, ["/a opaque 33:44", "/a/b file 3 33:44", "/a/l link b 0:0", "/gone Whiteout 0:0"]);
        // A step that touched nothing but what is there already: the recorded owners are kept.
        let dir = f.layers.store.temp_dir("copy").expect("temp");
        assert!(
            Command::new("cp")
                .args(["-a", "--preserve=all"])
                .arg(&tree)
                .arg(dir.path().join("r"))
                .status()
                .expect("cp")
                .success()
        );
        let whiteout = dir.path().join("r/gone");
        fs_err::remove_file(whiteout).expect("removed");
        fs_err::write(dir.path().join("r/a/b"), "changed").expect("written");
        let changed = f.layers.diff_dirs(&dir.path().join("r"), &[record.id]).expect("compared");
        let index = f.layers.index(&changed.id).expect("there");
        let meta: Vec<_> =
            index.entries().iter().map(|e| format!("{} {}:{}", show(e), e.meta.uid, e.meta.gid)).collect();
        let link = if ownership == OwnershipMode::Exact { &["/a/l link b 0:0"][..] } else { &[] };
        let expected: Vec<_> = [&["/a dir 33:44", "/a/b file 7 33:44"][..], link].concat();
        assert_eq!(meta, expected);
    }
}
