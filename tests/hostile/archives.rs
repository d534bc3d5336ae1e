//! Archives that ADD unpacks, `rbuild import` takes and `-o type=local` writes out again, with members that want to be elsewhere.

use crate::as_root_and_rootless;
use crate::outside::{CANARY, Outside, contains};
use crate::raw::{self, Member, device, dir, fifo, file, flagged, hardlink, pax, symlink};
use crate::rig::{Rig, Who};

as_root_and_rootless! {
    added_archives_stay_below_their_target
    imported_archives_stay_in_their_tree
    damaged_archives_are_refused
    long_names_and_deep_trees
    devices_open_nothing
}

/// What archives try, each with a name.
fn corpus(outside: &Outside) -> Vec<(&'static str, Vec<Member>)> {
    let at = |name: &str| outside.path(name);
    let up = |name: &str| format!("../../../../../../../../../..{}", outside.path(name));
    vec![
        ("absolute", vec![file(&at("secret"), "x"), file(&at("new"), "x")]),
        ("up", vec![file(&up("secret"), "x"), file(&up("new"), "x")]),
        ("up in the middle", vec![dir("a"), file(&format!("a/{}", up("secret")), "x")]),
        ("through an absolute link", vec![symlink("a", &at("")), file("a/secret", "x"), file("a/new", "x")]),
        ("through a relative link", vec![symlink("a", &up("")), file("a/secret", "x"), dir("a/newdir")]),
        ("through two links", vec![symlink("a", "/"), symlink("b", &format!("a{}", at("dir"))), file("b/file", "x")]),
        ("a directory over a link", vec![symlink("a", &at("dir")), dir("a"), file("a/file", "x")]),
        ("a file over a link", vec![symlink("a", &at("secret")), file("a", "x")]),
        ("hard link to an absolute name", vec![hardlink("h", &at("secret")), file("h", "x")]),
        ("hard link upwards", vec![hardlink("h", &up("secret")), file("h", "x")]),
        ("hard link through a link", vec![symlink("a", &at("")), hardlink("h", "a/secret"), file("h", "x")]),
        ("hard link to a link", vec![symlink("a", &at("secret")), hardlink("h", "a"), file("h", "x")]),
        ("hard link into proc", vec![hardlink("h", "/proc/self/root/etc/shadow"), hardlink("i", "/etc/shadow")]),
        (
            "whiteouts",
            vec![
                file(&format!("{}/.wh.secret", at("")), ""),
                file("a/.wh...", ""),
                file(".wh.", ""),
                file("b/.wh..wh..opq", ""),
            ],
        ),
        ("whiteout through a link", vec![symlink("a", &at("")), file("a/.wh.secret", ""), file("a/.wh..wh..opq", "")]),
        (
            "pax names",
            vec![
                pax("path", &up("secret")),
                file("a", "x"),
                pax("linkpath", &at("secret")),
                hardlink("h", "b"),
                pax("linkpath", &at("")),
                symlink("l", "c"),
                file("l/secret", "x"),
            ],
        ),
        (
            "dots and nothing",
            vec![
                dir("."),
                dir("./"),
                dir(".."),
                dir("/"),
                file("", "x"),
                file("//", "x"),
                symlink("..", &at("")),
                symlink("/", &at("")),
            ],
        ),
        (
            "bytes",
            vec![
                file("new\nline", "x"),
                file("tab\t\x01\x7f", "x"),
                file("back\\slash", "x"),
                file("-rf", "x"),
                file("$(reboot)", "x"),
                file("a//b/./c", "x"),
            ],
        ),
        ("fifo and socket", vec![fifo("f"), hardlink("g", "f")]),
        (
            "xattrs",
            vec![
                pax("SCHILY.xattr.trusted.overlay.opaque", "y"),
                dir("d"),
                pax("SCHILY.xattr.trusted.overlay.redirect", &at("dir")),
                dir("e"),
                pax("SCHILY.xattr.user.overlay.redirect", &at("dir")),
                dir("f"),
                pax("SCHILY.xattr.security.selinux", "x"),
                file("s", "x"),
            ],
        ),
        (
            "many times",
            vec![
                file("a", "1"),
                dir("a"),
                file("a/b", "2"),
                symlink("a", &at("dir")),
                file("a/file", "3"),
                dir("a"),
                file("a", "4"),
            ],
        ),
    ]
}

fn added_archives_stay_below_their_target(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    for (what, members) in corpus(&outside) {
        // At the root, below a directory, and below a link of the image that leads out.
        for target in ["/", "/in/", "/lead/out/"] {
            let before = format!("RUN mkdir /lead && ln -s {} /lead/out", outside.path("dir"));
            let text = format!(
                "FROM busybox\n{before}\nADD a.tar {target}\nRUN busybox true; for f in /* /in/* /in/*/*; do test -f $f && cat $f; done 2>/dev/null; echo ran\n"
            );
            let context = rig.context("context", &[("Dockerfile", &text)]);
            std::fs::write(rig.path("context/a.tar"), raw::tar(&members)).expect("write");
            let dest = rig.arg("out.tar");
            let out = rig.rbuild(&["build", "--progress=plain", "-o", &format!("type=tar,dest={dest}"), &context]);
            println!("{what} at {target}: {} {}", out.status, out.stderr.trim_end().lines().last().unwrap_or_default());
            outside.safe(&rig, &out);
            assert!(!contains(&std::fs::read(&dest).unwrap_or_default(), CANARY), "{what}: the outside was read");
            let _ = std::fs::remove_file(dest);
        }
    }
}

fn imported_archives_stay_in_their_tree(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    for (number, (what, members)) in corpus(&outside).into_iter().enumerate() {
        let path = rig.path("image.tar");
        let mut all = members.clone();
        // Something to run, so that the tree is mounted too.
        all.push(dir("bin"));
        let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        all.push(Member { mode: 0o755, content: busybox, ..file("bin/sh", "") });
        std::fs::write(&path, raw::tar(&all)).expect("write");
        let name = format!("hostile:{number}");
        let out = rig.rbuild(&["import", &path.display().to_string(), &name]);
        println!("{what}: import {} {}", out.status, out.stderr.trim_end());
        outside.safe(&rig, &out);
        if !out.status.success() {
            continue;
        }
        let text = format!(
            "FROM {name}\nRUN [\"/bin/sh\", \"-c\", \"for f in /in/* /a/* /b/* /d/* /e/* /f/* /l/* /x/*; do test -f $f && read x < $f && echo $x; done; echo ran > /ran\"]\n"
        );
        let context = rig.dockerfile(&text);
        let local = rig.arg(&format!("local-{number}"));
        let out = rig.rbuild(&["build", "--progress=plain", "-o", &format!("type=local,dest={local}"), &context]);
        println!("{what}: build {} {}", out.status, out.stderr.trim_end().lines().last().unwrap_or_default());
        outside.safe(&rig, &out);
        // Into a directory that has links already where the image has directories.
        let _ = std::fs::remove_dir_all(&local);
        std::fs::create_dir(&local).expect("mkdir");
        if let Some(user) = rig.user() {
            std::process::Command::new("chown").args([user, &local]).status().expect("chown");
        }
        for name in ["a", "x", "in"] {
            std::os::unix::fs::symlink(outside.path("dir"), format!("{local}/{name}")).expect("link");
        }
        let out = rig.rbuild(&["build", "--progress=plain", "-o", &format!("type=local,dest={local}"), &context]);
        outside.safe(&rig, &out);
        let out = rig.rbuild(&["rmi", &name]);
        outside.safe(&rig, &out);
    }
}

/// Nothing of these is an archive; ADD must say so, or copy the file as it is, and import must refuse.
fn damaged_archives_are_refused(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let huge = |field: &[u8]| {
        let mut block = raw::header(&file("f", "x"), 1);
        block[124..124 + field.len()].copy_from_slice(field);
        raw::sign(&mut block);
        let mut bytes = block.to_vec();
        bytes.extend([b'x'; 512]);
        bytes
    };
    let good = raw::tar(&[file("a", "x"), file("b", "y")]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a size of 8 EiB", huge(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("a negative size", huge(&[0xff; 12])),
        ("more than is there", huge(b"77777777777\0")),
        ("cut in a header", good[..700].to_vec()),
        ("cut in a body", good[..513].to_vec()),
        (
            "a PAX record that lies about its length",
            raw::tar(&[flagged(b'x', "p", b"99999 path=x\n".to_vec()), file("a", "")]),
        ),
        ("a PAX size of a sparse file", raw::tar(&[pax("GNU.sparse.realsize", "99999999999999999999"), file("a", "")])),
        (
            "a sparse file of 8 EiB",
            raw::tar(&[
                flagged(b'x', "p", b"39 GNU.sparse.size=9223372036854775807\n22 GNU.sparse.map=0,1\n".to_vec()),
                file("a", "x"),
            ]),
        ),
        ("an unknown kind", raw::tar(&[file("a", ""), flagged(b'M', "m", vec![])])),
        ("a hard link to itself", raw::tar(&[file("z", ""), hardlink("h", "h")])),
        ("a hard link to what comes later", raw::tar(&[hardlink("h", "later"), file("later", "")])),
        ("a hard link to a directory", raw::tar(&[dir("d"), hardlink("d/h", "d")])),
        ("noise", {
            let mut bytes = good.clone();
            (512..2048).for_each(|at| bytes[at] ^= (at * 7) as u8);
            bytes
        }),
    ];
    for (what, bytes) in cases {
        let path = rig.path("context/a.tar");
        let context = rig.context("context", &[("Dockerfile", "FROM busybox\nADD a.tar /in/\nRUN ls -lR /in\n")]);
        std::fs::write(&path, &bytes).expect("write");
        let out = rig.rbuild(&["build", "--progress=plain", &context]);
        println!("{what}: ADD {} {}", out.status, out.stderr.trim_end().lines().last().unwrap_or_default());
        outside.safe(&rig, &out);
        let out = rig.rbuild(&["import", &path.display().to_string(), "damaged:1"]);
        println!("{what}: import {} {}", out.status, out.stderr.trim_end());
        assert!(!out.status.success(), "{what} was imported");
        outside.safe(&rig, &out);
    }
}

fn long_names_and_deep_trees(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let long = |length: usize| "n".repeat(length);
    let deep = |depth: usize| "d/".repeat(depth) + "f";
    let cases: [(&str, String, bool); 7] = [
        ("255 bytes", long(255), true),
        ("256 bytes", long(256), false),
        ("a megabyte", long(1 << 20), false),
        ("100 deep", deep(100), true),
        ("200 deep", deep(200), true),
        // Nothing may take time that grows faster than the depth, else this never ends.
        ("1000 deep", deep(1000), true),
        ("100000 deep", deep(100_000), false),
    ];
    for (what, name, possible) in cases {
        let text = "FROM busybox AS a\nADD a.tar /in/\nRUN find /in | wc -l\nFROM scratch\nCOPY --from=a /in /x\n";
        let context = rig.context("context", &[("Dockerfile", text)]);
        std::fs::write(rig.path("context/a.tar"), raw::tar(&[file(&name, "x")])).expect("write");
        let local = rig.arg("local");
        let out = rig.rbuild(&["build", "--progress=plain", "-o", &format!("type=local,dest={local}"), &context]);
        println!("{what}: {} {}", out.status, out.stderr.trim_end().lines().last().unwrap_or_default());
        assert_eq!(out.status.success(), possible, "{what}\n{}", out.stderr);
        outside.safe(&rig, &out);
        let removed = std::process::Command::new("rm").arg("-rf").arg(&local).status().expect("rm");
        assert!(removed.success());
        if possible {
            rig.ok(&["prune", "--all", "--force"]);
            rig.ok(&["import", &crate::rig::busybox_tar().display().to_string(), "busybox:latest"]);
        }
    }
}

/// A device node may come with an image or an archive, but it must not be a way to the machine's disks.
fn devices_open_nothing(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    // /dev/loop0 is nobody's disk, but a block device that root can open; 1:11 is the kernel's log.
    let members = [device("loop0", b'4', 7, 0), device("kmsg", b'3', 1, 11), device("null", b'3', 1, 3)];
    let try_all = "for f in loop0 kmsg null; do head -c 1 /in/$f > /tmp/out && echo opened /in/$f; done; true";
    let context = rig.context("context", &[("Dockerfile", &format!("FROM busybox\nADD a.tar /in/\nRUN {try_all}\n"))]);
    std::fs::write(rig.path("context/a.tar"), raw::tar(&members)).expect("write");
    let out = rig.rbuild(&["build", "--progress=plain", &context]);
    assert!(
        !out.stderr.lines().any(|line| line.ends_with("opened /in/loop0") || line.ends_with("opened /in/kmsg")),
        "{}",
        out.stderr
    );
    outside.safe(&rig, &out);
    // The same in an image, which is unpacked another way.
    let mut image = vec![dir("bin"), dir("in"), dir("tmp")];
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    image.push(Member { mode: 0o755, content: busybox, ..file("bin/busybox", "") });
    image.extend(["sh", "head", "mknod", "cat"].map(|applet| symlink(&format!("bin/{applet}"), "busybox")));
    image.extend(
        members.iter().map(|member| Member { name: [b"in/", member.name.as_slice()].concat(), ..member.clone() }),
    );
    std::fs::write(rig.path("image.tar"), raw::tar(&image)).expect("write");
    rig.ok(&["import", &rig.arg("image.tar"), "devices:1"]);
    let made = "for d in /tmp /in /dev /dev/shm /cache /bind; do mknod $d/made b 7 0 && head -c 1 $d/made >/tmp/out && echo opened $d/made; done; true";
    let text = format!(
        "FROM devices:1\nRUN {try_all}\nRUN --mount=type=cache,target=/cache --mount=type=bind,target=/bind,rw {made}\n"
    );
    let out = rig.ok(&["build", "--progress=plain", &rig.dockerfile(&text)]);
    assert!(!out.stderr.lines().any(|line| line.contains(" opened /") && !line.contains("RUN")), "{}", out.stderr);
    outside.safe(&rig, &out);
}
