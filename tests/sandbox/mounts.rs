//! What every sandbox must do with mounts, and every kind of snapshot with trees.

use std::time::Duration;

use rbuild::cancel::Cancel;
use rbuild::exec::{Mount, MountKind};

use crate::bench::{Bench, Setting, process};

fn with(bench: &Bench, script: &str, target: &str, kind: MountKind) -> crate::bench::Ran {
    bench.run(script, |process| process.mounts = vec![Mount { target: target.into(), kind }])
}

pub fn mount_bind(setting: Setting) {
    let bench = Bench::new(setting);
    let source = bench.scratch("source");
    fs_err::write(source.join("f"), "old").expect("write");
    let bind = |readonly| MountKind::Bind { source: source.clone(), readonly };
    let ran = with(&bench, "cat /mnt/deep/f; echo new > /mnt/deep/f; mkdir /mnt/deep/dir", "/mnt/deep", bind(false));
    assert_eq!(ran.text(), "old");
    assert!(source.join("dir").is_dir() && fs_err::read_to_string(source.join("f")).expect("read") == "new\n");
    assert!(!ran.changes.join("mnt").exists());
    let ran = with(&bench, "cat /mnt/f; (echo x > /mnt/f) 2>/dev/null && echo wrote; true", "/mnt", bind(true));
    assert!(ran.text().starts_with("new"));
    if !setting.is_in_place() {
        assert_eq!(ran.text(), "new");
    }
    assert_eq!(fs_err::read_to_string(source.join("f")).expect("read"), "new\n");
    let file = MountKind::Bind { source: source.join("f"), readonly: true };
    assert_eq!(with(&bench, "cat /etc/passwd", "/etc/passwd", file).text(), "new", "it covers what is there");
    assert!(bench.sh("cat /etc/passwd").text().starts_with("root:"));
    fs_err::os::unix::fs::symlink(&source, bench.directory.join("link")).expect("link");
    for path in ["link", "link/dir"] {
        let ran =
            with(&bench, "ls /mnt", "/mnt", MountKind::Bind { source: bench.directory.join(path), readonly: true });
        if !setting.is_in_place() {
            assert!(ran.fault().contains("Too many levels of symbolic links"), "{}", ran.fault());
        }
    }
}

/// Two trees, the upper one with a whiteout and an opaque directory.
fn stack(bench: &Bench) -> Vec<std::path::PathBuf> {
    let (low, high) = (bench.scratch("low"), bench.scratch("high"));
    for (path, text) in [("a/gone", "1"), ("a/kept", "2"), ("b/hidden", "3"), ("c", "4")] {
        fs_err::create_dir_all(low.join(path).parent().expect("parent")).expect("mkdir");
        fs_err::write(low.join(path), text).expect("write");
    }
    for path in ["a", "b"] {
        fs_err::create_dir_all(high.join(path)).expect("mkdir");
    }
    fs_err::write(high.join("b/new"), "5").expect("write");
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(rustix::fs::CWD, high.join("a/gone"), rustix::fs::FileType::CharacterDevice, mode, 0)
        .expect("whiteout");
    let opaque = bench.session.overlay_xattrs.opaque();
    rustix::fs::setxattr(high.join("b"), opaque, b"y", rustix::fs::XattrFlags::empty()).expect("opaque");
    vec![low, high]
}

/// What either implementor of `Snapshots` must show.
pub fn snapshots_show_the_stack(setting: Setting) {
    let mut bench = Bench::new(setting);
    let base = bench.lowers[0].clone();
    fs_err::write(base.join("replaced-by-dir"), "").expect("write");
    fs_err::create_dir(base.join("replaced-by-file")).expect("mkdir");
    fs_err::write(base.join("replaced-by-file/x"), "").expect("write");
    fs_err::write(base.join("one"), "linked").expect("write");
    fs_err::hard_link(base.join("one"), base.join("two")).expect("link");
    let mut lowers = stack(&bench);
    let top = lowers.last().expect("two").clone();
    fs_err::create_dir(top.join("replaced-by-dir")).expect("mkdir");
    fs_err::write(top.join("replaced-by-file"), "").expect("write");
    fs_err::os::unix::fs::symlink("nowhere", top.join("dangling")).expect("link");
    std::fs::set_permissions(top.join("b/new"), std::os::unix::fs::PermissionsExt::from_mode(0o4751)).expect("chmod");
    rustix::fs::setxattr(top.join("b/new"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).expect("xattr");
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 5);
    fs_err::File::open(top.join("b")).expect("open").file().set_modified(old).expect("utimens");
    lowers.insert(0, base);
    bench.lowers = lowers;
    let root = bench.root();
    let script = "cd / && for f in a a/* b b/* c dangling replaced-by-*; do stat -c '%n %F %a %s' $f | sed 's/ [0-9]*$//;s/regular empty file/regular file/'; done; \
                  stat -c %h one; stat -c '%Y' b; cat c b/new; echo changed > c; rm -r a; mkdir a";
    let ran = bench.start(&root, &process(&["sh", "-c", script]), &Cancel::new());
    let expected = "a directory 755\na/kept regular file 644\nb directory 755\nb/new regular file 4751\nc regular file 644\n\
                    dangling symbolic link 777\nreplaced-by-dir directory 755\nreplaced-by-file regular file 644\n2\n1000000\n45";
    assert_eq!(ran.text(), expected);
    if setting.is_copied() {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(ran.changes.join("b/new"), "user.note", &mut value).expect("xattr");
        assert_eq!(&value[..length], b"kept");
    }
    for (tree, name, text) in [(1, "c", "4"), (2, "b/new", "5")] {
        assert_eq!(
            fs_err::read_to_string(bench.lowers[tree].join(name)).expect("read"),
            text,
            "trees are never changed"
        );
    }
    let again = bench.sh("cat /c; ls /a").text().to_owned();
    assert_eq!(again, "4kept", "nor does one root know of another");
}

pub fn mount_stack(setting: Setting) {
    let bench = Bench::new(setting);
    if setting.is_contained() {
        // In a container nothing can be marked opaque.
        let lowers = vec![bench.lowers[0].clone()];
        let kind = MountKind::Stack { lowers, subpath: "/etc".into(), scratch: None };
        assert!(with(&bench, "ls /mnt", "/mnt", kind).text().contains("passwd"));
        return;
    }
    let lowers = stack(&bench);
    let kind = |subpath: &str, scratch| MountKind::Stack { lowers: lowers.clone(), subpath: subpath.into(), scratch };
    let script = "cd /mnt && find . | sort; (echo x > new) 2>/dev/null && echo wrote; true";
    let tree = ".\n./a\n./a/kept\n./b\n./b/new\n./c";
    assert_eq!(with(&bench, script, "/mnt", kind("/", None)).text(), tree);
    assert_eq!(with(&bench, script, "/mnt", kind("/", Some(bench.scratch("writes")))).text(), format!("{tree}\nwrote"));
    assert_eq!(with(&bench, script, "/mnt", kind("a/../b", None)).text(), ".\n./new");
    assert_eq!(with(&bench, "cat /mnt/file", "/mnt/file", kind("/c", None)).text(), "4");
    assert!(!lowers[0].join("new").exists() && !lowers[1].join("new").exists());
    let fault = with(&bench, "true", "/mnt", kind("/none", None)).fault();
    assert!(fault.contains("/none") && fault.contains("No such file"), "{fault}");
    let single = MountKind::Stack { lowers: vec![lowers[0].clone()], subpath: "/".into(), scratch: None };
    assert_eq!(with(&bench, "cat /mnt/a/gone", "/mnt", single).text(), "1");
    fs_err::os::unix::fs::symlink("../../../a", lowers[1].join("link")).expect("link");
    assert_eq!(with(&bench, "ls /mnt", "/mnt", kind("/link", None)).text(), "kept");
}

pub fn mount_discard(setting: Setting) {
    let bench = Bench::new(setting);
    let source = bench.scratch("source");
    fs_err::write(source.join("f"), "old").expect("write");
    let script = "cat /ctx/f; rm /ctx/f; echo new > /ctx/n; ls /ctx";
    let kind = MountKind::Discard { source: source.clone(), scratch: bench.scratch("writes") };
    assert_eq!(with(&bench, script, "/ctx", kind).text(), "oldn");
    assert!(source.join("f").exists() && !source.join("n").exists());
    let kind = MountKind::Discard { source: source.join("f"), scratch: bench.scratch("writes") };
    assert_eq!(with(&bench, "cat /file; echo new > /file; cat /file", "/file", kind).text(), "oldnew");
    assert_eq!(fs_err::read_to_string(source.join("f")).expect("read"), "old");
}

pub fn mount_tmpfs(setting: Setting) {
    let bench = Bench::new(setting);
    let lower = bench.lowers[0].join("tm");
    fs_err::create_dir(&lower).expect("mkdir");
    fs_err::write(lower.join("hidden"), "").expect("write");
    std::fs::set_permissions(&lower, std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("chmod");
    let ran =
        bench.run("stat -c '%a' /tm /tn /to; ls /tm; echo x > /tn/f; df -k /to | awk 'NR==2 {print $2}'", |process| {
            let tmpfs = |target: &str, size, mode| Mount {
                target: target.into(),
                kind: MountKind::Tmpfs { size, mode, readonly: false },
            };
            process.mounts =
                vec![tmpfs("/tm", None, None), tmpfs("/tn", None, None), tmpfs("/to", Some(1 << 20), Some(0o750))];
        });
    // df wants a /proc.
    let size = if setting.is_in_place() { "" } else { "\n1024" };
    if setting.is_translated() {
        // A directory, and no file system of its own.
        assert!(ran.text().starts_with("711\n1777\n750\n"), "{}", ran.text());
    } else {
        assert_eq!(ran.text(), format!("711\n1777\n750{size}"));
    }
    assert!(!ran.changes.join("tn").exists() && !ran.changes.join("to").exists());
}

pub fn mount_file(setting: Setting) {
    let bench = Bench::new(setting);
    let file = |mode, uid| MountKind::File { content: b"secret".to_vec(), executable: false, mode, uid, gid: 7 };
    let script = "cat /run/secrets/tok; stat -c ' %a %u %g' /run/secrets/tok; (echo x > /run/secrets/tok) 2>/dev/null && echo wrote; true";
    let ran = with(&bench, script, "/run/secrets/tok", file(0o400, 5));
    let owner = if setting.has_one_id() { "0 0" } else { "5 7" };
    assert!(ran.text().starts_with(&format!("secret 400 {owner}")), "{}", ran.text());
    if !setting.is_in_place() {
        assert!(!ran.text().ends_with("wrote"), "read-only even for root");
    }
    assert!(!ran.changes.join("run").exists());
    let script = MountKind::File {
        content: b"#!/bin/sh\necho script $0".to_vec(),
        executable: true,
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
    let ran = bench.run("", |process| {
        process.argv = vec!["/dev/pipes/EOF".into()];
        process.mounts = vec![Mount { target: "/dev/pipes/EOF".into(), kind: script }];
    });
    assert_eq!(ran.text(), "script /dev/pipes/EOF");
    let big = MountKind::File { content: vec![b'x'; 500 * 1024], executable: false, mode: 0o400, uid: 0, gid: 0 };
    assert_eq!(with(&bench, "wc -c < /big", "/big", big).text(), "512000");
}

pub fn mount_socket(setting: Setting) {
    use std::io::{Read, Write};
    let bench = Bench::new(setting);
    let path = bench.directory.join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut text = [0; 5];
        stream.read_exact(&mut text).expect("read");
        stream.write_all(&[b"heard ".as_slice(), &text].concat()).expect("write");
    });
    let kind = MountKind::Socket { source: path, mode: 0o600, uid: 1234, gid: 1 };
    bench.add_own_program("/bin/connect");
    let ran = bench.run("stat -c '%a %u' /run/agent.0; connect --connect /run/agent.0", |process| {
        process.uid = 1234;
        process.mounts = vec![Mount { target: "/run/agent.0".into(), kind }];
    });
    agent.join().expect("no panic");
    let owner = if setting.has_one_id() { "0" } else { "1234" };
    assert_eq!(ran.text(), format!("600 {owner}\nheard hello"));
    assert!(!ran.changes.join("run").exists());
}

pub fn mounts_stay_inside(setting: Setting) {
    let bench = Bench::new(setting);
    let outside = bench.scratch("outside");
    let up = format!("../../../../../../../..{}", outside.display());
    fs_err::os::unix::fs::symlink(&up, bench.lowers[0].join("escape")).expect("link");
    fs_err::os::unix::fs::symlink("loop", bench.lowers[0].join("loop")).expect("link");
    let file = || MountKind::File { content: b"x".to_vec(), executable: false, mode: 0o444, uid: 0, gid: 0 };
    let inside = format!("{}/f", outside.display());
    assert_eq!(with(&bench, &format!("cat {inside}"), "/escape/f", file()).text(), "x");
    assert_eq!(fs_err::read_dir(&outside).expect("read").count(), 0);
    let fault = |target: &str| with(&bench, "true", target, file()).fault().to_lowercase();
    assert!(fault("/loop/f").contains("too many levels of symbolic links"));
    assert!(fault("/etc/passwd/f").contains("not a directory"));
    // What the step puts in the place of a mount point's parent is not followed when cleaning up.
    fs_err::create_dir(outside.join("victim")).expect("mkdir");
    let tmpfs = MountKind::Tmpfs { size: None, mode: None, readonly: false };
    let script = format!("mv /tmp /tmp2 && ln -s {up} /tmp; true");
    let ran = with(&bench, &script, "/tmp/victim", tmpfs);
    assert!(ran.exit.is_ok() && outside.join("victim").exists());
}
