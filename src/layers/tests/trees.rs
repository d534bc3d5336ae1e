//! Layers unpacked: tars of others, hostile ones, damage, and trees of user namespaces.

use super::*;

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
        format!("stored layer {} is damaged: /a/b differs; the next build makes it again", record.id)
    );
    assert!(!f.layers.has_form(&record).expect("store"), "it is gone");
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
        "layers::tests::trees::sandbox_inside",
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
        let options = TreeOptions { overlay: OverlayXattrs::User, ownership, bound_by_modes: false };
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

/// Where modes bind us, as they do not bind root.
#[test]
fn locked_files_stay_open_and_mean_what_the_layer_says() {
    use std::os::unix::fs::PermissionsExt as _;
    let options =
        TreeOptions { overlay: OverlayXattrs::User, ownership: OwnershipMode::Flattened, bound_by_modes: true };
    let f = fixture_with(options);
    let with_mode = |line: &str, mode: u32| {
        let mut entry = samples::entry(line);
        entry.meta.mode = mode;
        entry
    };
    let entries = [
        (with_mode("d d", 0o555), Content::None),
        (with_mode("f d/shadow", 0), Content::Bytes(b"d/shadow".to_vec())),
        (with_mode("f plain", 0o644), Content::Bytes(b"plain".to_vec())),
    ];
    let record = f.layers.write(entries.into_iter()).expect("written");
    let tree = f.layers.tree(&record.id).expect("made");
    let mode = |path: &std::path::Path| fs_err::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!([mode(&tree.join("d")), mode(&tree.join("d/shadow")), mode(&tree.join("plain"))], [0o755, 0o600, 0o644]);
    assert!(forms::matches_index(&tree, options, &f.layers.index(&record.id).expect("there")).expect("readable"));
    let dir = f.layers.store.temp_dir("copy").expect("temp");
    let root = dir.path().join("r");
    let copied = Command::new("cp").args(["-a", "--preserve=all"]).arg(&tree).arg(&root).status().expect("cp");
    assert!(copied.success());
    let set = |path: &str, mode| {
        std::fs::set_permissions(root.join(path), std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    // What a step locks is read all the same; what it gives another mode has that one.
    fs_err::write(root.join("plain"), "new").expect("written");
    set("plain", 0);
    set("d/shadow", 0o640);
    let changed = f.layers.diff_dirs(&root, &[record.id]).expect("compared");
    let index = f.layers.index(&changed.id).expect("there");
    let found: Vec<_> =
        index.entries().iter().map(|e| format!("{} {:o} {}", show(e), e.meta.mode, e.meta.uid)).collect();
    assert_eq!(found, ["/d dir 555 0", "/d/shadow file 8 640 0", "/plain file 3 0 0"]);
}

#[test]
fn altered_files_are_never_read_as_if_nothing_were() {
    let f = fixture();
    let record = f.layer(&["d a", "f a/b", "f a/c"]);
    let read = |path: &str| {
        let layers = Layers::new(f.layers.store.clone(), TreeOptions::ROOT, Cancel::new());
        let mut text = String::new();
        let path = LayerPath::clean(path);
        layers.open(&record.id, &path).expect("there").read_to_string(&mut text).map(|_| text)
    };
    let is_damaged = |path: &str| {
        let error = read(path).expect_err("noticed").to_string();
        assert_eq!(
            error,
            format!("stored layer {} is damaged: /{path} differs; the next build makes it again", record.id)
        );
    };
    let alter = |file: &std::path::Path, from: &[u8], to: &[u8]| {
        let mut bytes = fs_err::read(file).expect("there");
        let at = bytes.windows(from.len()).rposition(|part| part == from).expect("found");
        bytes[at..at + to.len()].copy_from_slice(to);
        let times = fs_err::metadata(file).expect("there").modified().expect("time");
        fs_err::write(file, bytes).expect("written");
        std::fs::File::open(file).and_then(|file| file.set_modified(times)).expect("set");
    };
    // A tree, if one can be made here; then the tar, of which only a file is asked for.
    if root() {
        let tree = f.layers.tree(&record.id).expect("made");
        alter(&tree.join("a/b"), b"a/b", b"a/x");
        assert_eq!(read("a/c").expect("untouched"), "a/c");
        is_damaged("a/b");
        assert_eq!(read("a/b").expect("the tar is whole"), "a/b");
    }
    let blob = f.layers.store.blob(&BlobDigest(record.diff_id.0)).expect("store").expect("there");
    let content = [b"a/b".as_slice(), &[0; 8]].concat();
    alter(&blob.path, &content, b"a/x");
    is_damaged("a/b");
    assert!(!f.layers.has_form(&record).expect("store"), "it is gone");
}
