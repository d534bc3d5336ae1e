//! What a context shows of a directory, what it hides, and which hashes it trusts.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rbuild_cache::digest::Blake3;

use super::*;
use crate::transfer::pattern::Patterns;

struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self { dir: tempfile::tempdir().expect("temp dir") };
        fs_err::create_dir(sandbox.at("")).expect("dir");
        sandbox
    }
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("context").join(path)
    }
    fn write(&self, path: &str, content: &str) -> &Self {
        fs_err::create_dir_all(self.at(path).parent().expect("parent")).expect("dirs");
        fs_err::write(self.at(path), content).expect("write");
        self
    }
    fn old(&self, path: &str) -> &Self {
        let file = std::fs::File::options().write(true).open(self.at(path)).expect("open");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5)).expect("times");
        self
    }
    fn open(&self, ignore: &str) -> Context {
        let ignore = (!ignore.is_empty()).then(|| Ignore::parse(".dockerignore", ignore.as_bytes()).expect("valid"));
        Context::open(&self.at(""), ignore, &self.dir.path().join("stat")).expect("context")
    }
}

fn sample() -> Sandbox {
    let sandbox = Sandbox::new();
    for path in ["a.md", "b.txt", "d/c.md", "d/e/f.md", "d/e/g.txt", "x/y/z/deep.log", "keep/k", "keep/sub/l"] {
        sandbox.write(path, path);
    }
    sandbox
}

fn paths(walked: &[Walked]) -> String {
    let name = |w: &Walked| format!("{}{}", if w.implied { "(" } else { "" }, w.node.entry.path);
    walked.iter().map(name).collect::<Vec<_>>().join(" ")
}

fn walk(context: &Context, top: &str, exclude: &[&str]) -> String {
    let filter = Filter::excluding(Patterns::from_flags(exclude).expect("valid"));
    let walked = context.walk(&LayerPath::clean(top), &filter).expect("walks");
    assert!(walked.is_sorted_by(|a, b| a.node.entry.path < b.node.entry.path));
    paths(&walked)
}

#[test]
fn a_walk_is_complete_and_in_order() {
    let sandbox = sample();
    let context = sandbox.open("");
    assert_eq!(
        walk(&context, "", &["x"]),
        "/a.md /b.txt /d /d/c.md /d/e /d/e/f.md /d/e/g.txt /keep /keep/k /keep/sub /keep/sub/l"
    );
    assert_eq!(walk(&context, "d", &["e"]), "/d/c.md");
    assert_eq!(walk(&context, "d", &["e", "!e/f.md"]), "/d/c.md (/d/e /d/e/f.md");
    assert_eq!(walk(&context, "a.md", &[]), "");
    assert_eq!(walk(&context, "nope/x", &[]), "");
}

#[test]
fn observed_39_ignore_files_hide() {
    let sandbox = sample();
    let all = |ignore: &str| walk(&sandbox.open(ignore), "", &[]);
    assert_eq!(all("*\n!d\nd/e\n!d/e/f.md\n"), "/d /d/c.md /d/e /d/e/f.md");
    assert_eq!(all("*\n!keep/sub/l\n"), "/keep /keep/sub /keep/sub/l");
    assert_eq!(all("*\n!keep/nothing\n"), "");
    assert_eq!(all("*.md\nd\nx\nkeep\n"), "/b.txt");
    assert_eq!(walk(&sandbox.open("keep\n!keep/sub/l\n"), "keep", &["sub/l"]), "/keep/sub");
}

#[test]
fn lookups_see_what_walks_see() {
    let sandbox = sample();
    let context = sandbox.open("keep\n!keep/sub/l\nd/e\n");
    let there = |path: &str| context.lookup(&LayerPath::clean(path)).expect("lookup").is_some();
    for path in ["", "a.md", "d", "keep", "keep/sub", "keep/sub/l", "x/y/z/deep.log"] {
        assert!(there(path), "{path}");
    }
    for path in ["keep/k", "d/e", "d/e/f.md", "nope", "a.md/x"] {
        assert!(!there(path), "{path}");
    }
    let children = |dir: &str| {
        let nodes = context.children(&LayerPath::clean(dir), &|_, _| true).expect("children");
        nodes.iter().map(|n| n.entry.path.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(children(""), "/a.md /b.txt /d /keep /x");
    assert_eq!(children("keep"), "/keep/sub");
    assert_eq!(children("d"), "/d/c.md");
    assert_eq!(children("d/e"), "");
    let why = |path: &str| context.absence(&LayerPath::clean(path)).and_then(|a| a.help());
    assert_eq!(why("keep/k").as_deref(), Some("it is excluded by .dockerignore:1: keep"));
    assert_eq!(why("d/e/f.md").as_deref(), Some("it is excluded by .dockerignore:3: d/e"));
    assert_eq!(why("d/e/nope"), None);
    assert_eq!(why("a.md"), None);
}

#[test]
fn owners_are_reset_modes_links_and_times_kept() {
    let sandbox = Sandbox::new();
    sandbox.write("f", "text").old("f").write("sub/x", "");
    fs_err::hard_link(sandbox.at("f"), sandbox.at("g")).expect("link");
    symlink("/etc/passwd", sandbox.at("out")).expect("link");
    fs_err::set_permissions(sandbox.at("f"), std::fs::Permissions::from_mode(0o4751)).expect("mode");
    let context = sandbox.open("");
    let get = |path: &str| context.lookup(&LayerPath::clean(path)).expect("lookup").expect("there");
    let (f, g, out) = (get("f"), get("g"), get("out"));
    assert_eq!(f.entry.meta, Meta { mode: 0o4751, mtime: 5, ..Meta::default() });
    assert_eq!(f.entry.kind, Kind::File { size: 4, content: Blake3::of(b"text") });
    assert!(f.link.is_some() && f.link == g.link);
    assert_eq!(out.entry.kind, Kind::Symlink(b"/etc/passwd".to_vec()));
    assert_eq!(context.lookup(&LayerPath::clean("out/x")).expect("lookup"), None);
    assert!(context.read(&LayerPath::clean("out")).is_err(), "links are not followed out");
    let mut text = String::new();
    context.read(&LayerPath::clean("g")).expect("open").read_to_string(&mut text).expect("read");
    assert_eq!(text, "text");
}

#[test]
fn a_change_with_the_same_size_and_mtime_is_seen() {
    let sandbox = Sandbox::new();
    sandbox.write("f", "one").old("f");
    let content = || {
        let context = sandbox.open("");
        let node = context.lookup(&LayerPath::clean("f")).expect("lookup").expect("there");
        context.save().expect("saved");
        node.entry.kind
    };
    assert_eq!(content(), Kind::File { size: 3, content: Blake3::of(b"one") });
    sandbox.write("f", "two").old("f");
    assert_eq!(content(), Kind::File { size: 3, content: Blake3::of(b"two") });
}

#[test]
fn files_of_every_size_are_hashed_right() {
    let sandbox = Sandbox::new();
    let sizes = [0, 1, 4096, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 1 << 20, (3 << 20) + 7];
    for size in sizes {
        let text: String = std::iter::repeat_n("0123456789abcde\n", size / 16 + 1).collect();
        sandbox.write(&format!("f{size}"), &text[..size]);
    }
    let context = sandbox.open("");
    for walked in context.walk(&LayerPath::root(), &Filter::all()).expect("walks") {
        let bytes = fs_err::read(sandbox.at(&walked.node.entry.path.to_string()[1..])).expect("read");
        let expected = Kind::File { size: bytes.len() as u64, content: Blake3::of(&bytes) };
        assert_eq!(walked.node.entry.kind, expected, "{}", walked.node.entry.path);
    }
}

#[test]
fn root_special_files() {
    let sandbox = Sandbox::new();
    sandbox.write("f", "");
    let socket = std::os::unix::net::UnixListener::bind(sandbox.at("socket")).expect("socket");
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, sandbox.at("pipe"), rustix::fs::FileType::Fifo, mode, 0).expect("pipe");
    let device = rustix::fs::makedev(1, 3);
    let made =
        rustix::fs::mknodat(rustix::fs::CWD, sandbox.at("null"), rustix::fs::FileType::CharacterDevice, mode, device);
    if made.is_err() {
        // Devices cannot be made here.
        return;
    }
    std::os::unix::fs::chown(sandbox.at("f"), Some(12), Some(13)).expect("root");
    rustix::fs::setxattr(sandbox.at("f"), "user.x", b"y", rustix::fs::XattrFlags::empty()).ok();
    let walked = sandbox.open("").walk(&LayerPath::root(), &Filter::all()).expect("walks");
    let kinds: Vec<_> = walked.iter().map(|w| (w.node.entry.path.to_string(), w.node.entry.kind.clone())).collect();
    let expected = [
        ("/f".to_owned(), Kind::File { size: 0, content: Blake3::of(b"") }),
        ("/null".to_owned(), Kind::CharDevice(1, 3)),
        ("/pipe".to_owned(), Kind::Fifo),
    ];
    assert_eq!(kinds, expected);
    let meta = &walked[0].node.entry.meta;
    assert_eq!((meta.uid, meta.gid, meta.xattrs.len()), (0, 0, 0));
    drop(socket);
}

#[test]
fn archives_are_contexts_too() {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    let mut add = |path: &str, data: &[u8], kind: ::tar::EntryType, link: &str| {
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o640);
        header.set_uid(7);
        if link.is_empty() {
            builder.append_data(&mut header, path, data).expect("memory");
        } else {
            builder.append_link(&mut header, path, link).expect("memory");
        }
    };
    add("Dockerfile", b"FROM scratch\n", ::tar::EntryType::Regular, "");
    add("d/f", b"text", ::tar::EntryType::Regular, "");
    add("d/g", b"", ::tar::EntryType::Link, "d/f");
    let bytes = builder.into_inner().expect("memory");
    let dir = tempfile::tempdir().expect("temp dir");
    let store = rbuild_cache::Store::open(dir.path(), rbuild_cache::StoreOptions::default()).expect("store");
    let scratch = store.scratch().expect("scratch file");
    let tree = TarContext::read(Box::new(io::Cursor::new(bytes)), scratch, 1).expect("archive");
    let walked = tree.walk(&LayerPath::root(), &Filter::all()).expect("walks");
    assert_eq!(paths(&walked), "/Dockerfile /d /d/f /d/g");
    assert_eq!(walked[2].node.link, walked[3].node.link);
    assert_eq!((walked[2].node.entry.meta.mode, walked[2].node.entry.meta.uid), (0o640, 7));
    let mut text = String::new();
    tree.read(&LayerPath::clean("d/g")).expect("open").read_to_string(&mut text).expect("read");
    assert_eq!(text, "text");
}
