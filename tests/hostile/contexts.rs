//! Contexts whose links lead out, or change while they are read.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::as_root_and_rootless;
use crate::outside::{CANARY, Outside, contains};
use crate::raw::{self, dir, file, hardlink};
use crate::rig::{Rig, Who};

as_root_and_rootless! {
    links_lead_nowhere
    mounts_of_links_lead_nowhere
    links_that_change_while_they_are_read
    archives_on_stdin
    named_contexts_are_confined_too
    deeper_than_any_path
}

/// A context full of links to `outside`, and a Dockerfile made of `lines` after FROM.
fn context(rig: &Rig, outside: &Outside, lines: &str) -> String {
    let context =
        rig.context("context", &[("Dockerfile", &format!("FROM busybox\n{lines}\n")), ("dir/file", "inside")]);
    let at = rig.path("context");
    let links = [
        ("absolute", outside.path("secret")),
        ("absolute-dir", outside.path("dir")),
        ("up", "../outside/secret".to_owned()),
        ("up-dir", "../outside".to_owned()),
        ("dir/up", "../../outside/dir".to_owned()),
        ("through-proc", format!("/proc/self/root{}", outside.path("secret"))),
        ("cwd", "/proc/self/cwd/../outside/secret".to_owned()),
        ("chain", "up-dir/secret".to_owned()),
        ("loop", "loop".to_owned()),
    ];
    for (name, target) in links {
        let _ = std::fs::remove_file(at.join(name));
        symlink(target, at.join(name)).expect("link");
    }
    context
}

fn links_lead_nowhere(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    for source in [
        "absolute",
        "absolute-dir",
        "absolute-dir/file",
        "up",
        "up-dir/secret",
        "dir/up/file",
        "through-proc",
        "cwd",
        "chain",
    ] {
        for instruction in ["COPY", "ADD", "COPY --parents", "COPY --link"] {
            let context = context(&rig, &outside, &format!("{instruction} {source} /x"));
            let out = rig.rbuild(&["build", "--progress=plain", &context]);
            // With --parents a link that is named is copied as a link.
            let failed = !out.status.success() && out.stderr.contains("not found");
            assert!(failed || instruction == "COPY --parents", "{instruction} {source}\n{}", out.stderr);
            outside.safe(&rig, &out);
        }
    }
    // As parts of a directory they stay what they are.
    let context = context(
        &rig,
        &outside,
        "COPY . /all\nRUN ls -lR /all; readlink /all/absolute; cat /all/* /all/*/* 2>/dev/null; true",
    );
    let out = rig.ok(&["build", "--progress=plain", &context]);
    assert!(out.stderr.contains(&outside.path("secret")), "{}", out.stderr);
    outside.safe(&rig, &out);
}

fn mounts_of_links_lead_nowhere(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    for source in
        ["absolute", "absolute-dir", "up", "up-dir", "dir/up", "through-proc", "../outside", "../../../../etc"]
    {
        for mode in ["", ",rw"] {
            let context = context(
                &rig,
                &outside,
                &format!(
                    "RUN --mount=type=bind,source={source},target=/m{mode} cat /m /m/* 2>/dev/null; echo x > /m/secret; true"
                ),
            );
            let out = rig.rbuild(&["build", "--progress=plain", &context]);
            outside.safe(&rig, &out);
        }
    }
}

/// A path that is a directory in one moment and a link to the outside in the next.
fn links_that_change_while_they_are_read(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let context = rig.context(
        "context",
        &[("Dockerfile", "FROM scratch\nCOPY d /all\nCOPY d/secret /one\n"), ("inside/secret", "inside")],
    );
    let at = rig.path("context");
    symlink(&outside.dir, at.join("link")).expect("link");
    std::fs::rename(at.join("inside"), at.join("d")).expect("rename");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, at.join("d"), CWD, at.join("link"), RenameFlags::EXCHANGE).expect("exchange");
            }
        });
        for number in 0..25 {
            // Whether it works depends on the moment; what it shows does not.
            let dest = rig.arg(&format!("out-{number}.tar"));
            let out = rig.rbuild(&[
                "build",
                "--no-cache",
                "--progress=plain",
                "-o",
                &format!("type=tar,dest={dest}"),
                &context,
            ]);
            outside.untouched();
            assert!(!out.stderr.contains(CANARY), "{}", out.stderr);
            let bytes = std::fs::read(&dest).unwrap_or_default();
            assert!(!contains(&bytes, CANARY), "the outside was copied");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let out = rig.rbuild(&["version"]);
    outside.safe(&rig, &out);
}

fn archives_on_stdin(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let text = "FROM busybox\nCOPY . /all\nRUN cat /all/* /all/*/* 2>/dev/null; echo done\n";
    let (secret, plain_dir) = (outside.path("secret"), outside.path("dir"));
    let hostile: Vec<Vec<raw::Member>> = vec![
        vec![raw::symlink("d", &plain_dir), file("d/file", "overwritten"), file("d/new", "new")],
        vec![raw::symlink("d", "../../../.."), file(&format!("d{secret}"), "overwritten")],
        vec![file(&secret, "overwritten"), file(&format!("../../../../../../..{secret}"), "overwritten")],
        vec![hardlink("h", &secret), hardlink("h2", &format!("../../../../../..{secret}"))],
        vec![raw::symlink("l", &secret), hardlink("h", "l"), file("l", "overwritten")],
        vec![dir("x"), raw::symlink("x/y", &plain_dir), dir("x/y"), file("x/y/file", "overwritten")],
    ];
    for members in hostile {
        let mut all = vec![file("Dockerfile", text)];
        all.extend(members);
        let path = rig.path("stdin.tar");
        std::fs::write(&path, raw::tar(&all)).expect("write");
        let mut command = rig.command(&["build", "--progress=plain", "-"]);
        command.stdin(std::fs::File::open(&path).expect("open"));
        let out = crate::rig::finish(crate::rig::start(&mut command), &["stdin"]);
        outside.safe(&rig, &out);
    }
    // A Dockerfile that is a link.
    let path = rig.path("stdin.tar");
    std::fs::write(&path, raw::tar(&[raw::symlink("Dockerfile", &secret)])).expect("write");
    let mut command = rig.command(&["build", "--progress=plain", "-"]);
    command.stdin(std::fs::File::open(&path).expect("open"));
    let out = crate::rig::finish(crate::rig::start(&mut command), &["stdin"]);
    assert!(!out.status.success());
    outside.safe(&rig, &out);
}

fn named_contexts_are_confined_too(who: Who) {
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let context = rig.dockerfile("FROM busybox\nCOPY --from=other link /x\n");
    let other = rig.context("other", &[("file", "inside")]);
    symlink(outside.path("secret"), rig.path("other/link")).expect("link");
    let out = rig.rbuild(&["build", "--progress=plain", "--build-context", &format!("other={other}"), &context]);
    assert!(!out.status.success());
    outside.safe(&rig, &out);
    let context =
        rig.dockerfile("FROM busybox\nRUN --mount=from=other,target=/m cat /m/link /m/../outside/secret; true\n");
    let out = rig.ok(&["build", "--progress=plain", "--build-context", &format!("other={other}"), &context]);
    outside.safe(&rig, &out);
}

/// Directories can be nested deeper than a path can be long.
fn deeper_than_any_path(who: Who) {
    const DEPTH: usize = 2100;
    let rig = Rig::new(who);
    let outside = Outside::new(&rig);
    let nest = |at: &std::path::Path| {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = openat(CWD, at, flags, Mode::empty()).expect("open");
        for _ in 0..DEPTH {
            mkdirat(&here, "d", Mode::from_raw_mode(0o755)).expect("mkdir");
            here = openat(&here, "d", flags, Mode::empty()).expect("open");
        }
    };
    let context = rig.context("context", &[("Dockerfile", "FROM scratch\nCOPY . /all\n"), ("deep/file", "")]);
    nest(&rig.path("context/deep"));
    let out = rig.rbuild(&["build", "--progress=plain", &context]);
    assert_eq!(out.status.code(), Some(1), "{}", out.stderr);
    outside.safe(&rig, &out);
    std::process::Command::new("rm").arg("-rf").arg(rig.path("context/deep")).status().expect("rm");
    let make =
        format!("cd /; i=0; while [ $i -lt {DEPTH} ]; do mkdir d; cd d 2>/dev/null; i=$((i+1)); done; echo made");
    let context = rig.dockerfile(&format!("FROM busybox\nRUN {make}\nRUN true\n"));
    let out = rig.rbuild(&["build", "--progress=plain", &context]);
    assert!(out.status.code().is_some(), "{}", out.stderr);
    outside.safe(&rig, &out);
}
