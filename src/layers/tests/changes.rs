//! What a step did to a root, as a layer. As root, on overlays.

use super::*;

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
fn root_a_directory_whose_time_alone_changed_is_not_told() {
    if !root() {
        return;
    }
    let f = fixture();
    let stack = f.stack(&[BASE]);
    assert_eq!(adopted(&f, &stack, "echo > tmp/x; rm tmp/x; touch etc"), [""; 0]);
    assert_eq!(adopted(&f, &stack, "echo > tmp/x; rm tmp/x; chmod 700 etc"), ["/etc dir"]);
    assert_eq!(adopted(&f, &stack, "echo > tmp/x; touch lib"), ["/tmp dir", "/tmp/x file 1"]);
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
