//! Stacks of layers as one root: by index, and (as root) as overlayfs shows them.

use super::*;

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
