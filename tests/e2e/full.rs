//! Disks that become full in the middle of every kind of write: one clear error, nothing left behind, and once there is room the same
//! command does what it should. The disk is a small tmpfs, so these tests need to be root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{Rig, Who, can_run, succeed};

/// What the store has room for besides the base image, and then for everything.
const SMALL: &str = "size=40m";
const LARGE: &str = "size=400m";
/// Bytes that do not fit, and such that fit once but not twice.
const TOO_BIG: usize = 56 << 20;
const HALF: usize = 22 << 20;

/// A tmpfs, unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).expect("made");
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("{size},mode=700"), "tmpfs"]).arg(&at));
        Self(at)
    }

    fn grow(&self) {
        succeed(Command::new("mount").args(["-o", &format!("remount,{LARGE}")]).arg(&self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Bytes that do not shrink.
fn noise(path: &Path, size: usize) {
    let mut seed = size as u64 | 1;
    let words = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    });
    std::fs::write(path, words.take(size / 8).flatten().collect::<Vec<u8>>()).expect("written");
}

/// What is left of unfinished work.
fn unfinished(store: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(store.join("tmp")).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Runs a command that fails for want of space, and again when there is some.
fn fails_once(what: &str, rig: &Rig, disk: &Disk, args: &[&str]) {
    let said = rig.fails(args);
    assert!(said.to_lowercase().contains("no space left"), "{what}: {said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("ERROR:")).count(), 1, "{what}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    assert!(unfinished(&rig.store()).is_empty(), "{what}: {:?}", unfinished(&rig.store()));
    rig.ok(&["du", "--verbose"]);
    disk.grow();
    rig.ok(args);
}

fn machine() -> (Rig, Disk) {
    let rig = Rig::empty(Who::Root);
    let disk = Disk::mount(rig.store(), SMALL);
    rig.ok(&["import", &crate::rig::busybox_tar().display().to_string(), "busybox:latest"]);
    (rig, disk)
}

#[test]
fn sandbox_stores_become_full_while_steps_write() {
    if !can_run(Who::Root) {
        return;
    }
    for (what, dockerfile, size) in [
        ("a copied file", "FROM busybox\nCOPY big /\n", TOO_BIG),
        ("an unpacked archive", "FROM busybox\nADD big.tar /\n", TOO_BIG),
        ("what a process writes", "FROM busybox\nRUN --mount=target=/ctx cp /ctx/big /big\n", HALF),
        ("the tree of a copied file", "FROM busybox\nCOPY big /\nRUN test -s /big\n", HALF),
        (
            "a copy from a stage",
            "FROM busybox AS a\nRUN dd if=/dev/urandom of=/big bs=1M count=22\nFROM busybox\nCOPY --from=a /big /\n",
            8,
        ),
    ] {
        let (rig, disk) = machine();
        let context = rig.context("context", &[("Dockerfile", dockerfile)]);
        noise(&rig.path("context/big"), size);
        succeed(Command::new("tar").arg("-C").arg(&context).args(["-cf", &rig.arg("context/big.tar"), "big"]));
        fails_once(what, &rig, &disk, &["build", "--progress=plain", "-t", "made:1", &context]);
        let kept = rig.ok(&["run", "--rm", "made:1", "md5sum", "/big"]).stdout;
        assert!(kept.ends_with("  /big\n"), "{what}: {kept}");
        if size > 8 {
            let right = succeed(Command::new("md5sum").arg(rig.path("context/big")));
            assert_eq!(kept.split(' ').next(), right.split(' ').next(), "{what}");
        }
    }
}

#[test]
fn sandbox_stores_become_full_while_images_come_and_go() {
    if !can_run(Who::Root) {
        return;
    }
    let (rig, disk) = machine();
    std::fs::create_dir(rig.path("files")).expect("made");
    noise(&rig.path("files/big"), TOO_BIG);
    succeed(Command::new("tar").arg("-C").arg(rig.path("files")).args(["-cf", &rig.arg("big.tar"), "big"]));
    fails_once("an imported image", &rig, &disk, &["import", &rig.arg("big.tar"), "big:1"]);

    let (rig, disk) = machine();
    let context = rig.dockerfile("FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=22\n");
    rig.build(&["-t", "made:1", &context]);
    let to = format!("type=oci,dest={}", rig.arg("out.tar"));
    fails_once("a compressed layer", &rig, &disk, &["build", "--progress=plain", "-o", &to, &context]);
    assert!(rig.path("out.tar").exists());
}

#[test]
fn sandbox_destinations_become_full() {
    if !can_run(Who::Root) {
        return;
    }
    let rig = Rig::new(Who::Root);
    let context = rig.dockerfile("FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=22\n");
    rig.build(&["-t", "made:1", &context]);
    for kind in
        ["oci,dest=DISK/out.tar", "oci,tar=false,dest=DISK/layout", "tar,dest=DISK/out.tar", "local,dest=DISK/files"]
    {
        let disk = Disk::mount(rig.path("disk"), "size=10m");
        let output = format!("type={}", kind.replace("DISK", &rig.arg("disk")));
        let there =
            || std::fs::read_dir(&disk.0).expect("listed").flatten().map(|entry| entry.path()).collect::<Vec<_>>();
        fails_once(kind, &rig, &disk, &["build", "--progress=plain", "-o", &output, &context]);
        assert_eq!(there().len(), 1, "{kind}: nothing but the output: {:?}", there());
    }
    // A cache is not worth a build.
    let disk = Disk::mount(rig.path("disk"), "size=10m");
    let to = format!("type=local,dest={}", rig.arg("disk/cache"));
    let log = rig.build(&["-t", "made:2", "--cache-to", &to, &context]);
    assert!(log.contains("the cache was not exported") && log.to_lowercase().contains("no space left"), "{log}");
    disk.grow();
    let log = rig.build(&["-t", "made:2", "--cache-to", &to, &context]);
    assert!(!log.contains("not exported"), "{log}");
}
