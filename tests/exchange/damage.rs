//! A store that was damaged: every kind of object truncated, altered, emptied and removed. A build on it comes out as on a good one;
//! what is damaged is a miss, and made or fetched again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::registry::Registry;
use crate::rig::{self, Rig, Who};
use crate::{as_root_and_rootless, shared_base};

as_root_and_rootless! {
    damaged_objects_are_misses
    a_damaged_file_that_is_copied_heals_within_the_build
    a_lost_file_of_a_tree_costs_one_build
}

const DOCKERFILE: &str = "ARG BASE\nFROM $BASE AS b\nWORKDIR /w\nCOPY a ./\nRUN cat a > out\nFROM $BASE\nRUN echo r > /r\n\
    COPY --from=b /w/out /out\nRUN cat /out /r > /sum\n";

/// The kinds of objects, as the names of their directories begin.
const KINDS: [&str; 11] =
    ["records", "aliases", "layers", "indexes", "facts", "derived", "names", "images", "history", "blobs", "synced"];

type Harm = fn(&Path, Vec<u8>);
const HARMS: [(&str, Harm); 4] = [
    ("altered", |path, mut bytes| {
        let middle = bytes.len() / 2;
        bytes.get_mut(middle).into_iter().for_each(|byte| *byte ^= 0x20);
        std::fs::write(path, bytes).expect("written");
    }),
    ("truncated", |path, bytes| std::fs::write(path, &bytes[..bytes.len() / 2]).expect("written")),
    ("emptied", |path, _| std::fs::write(path, "").expect("written")),
    ("removed", |path, _| std::fs::remove_file(path).expect("removed")),
];

/// The small files below a directory of the store.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().expect("type") {
            kind if kind.is_dir() => out.extend(files(&entry.path())),
            kind if kind.is_file() => out.push(entry.path()),
            _ => {}
        }
    }
    out
}

/// What a build makes of the context, by path.
fn built(rig: &Rig, base: &str, to: &str) -> BTreeMap<&'static str, String> {
    let context = rig.context("context", &[("Dockerfile", DOCKERFILE), ("a", "content\n")]);
    let log = rig.build(&["--build-arg", base, "-o", to, &context]);
    assert!(!log.contains("panicked"), "{log}");
    let read = |name: &'static str| (name, std::fs::read_to_string(rig.path(to).join(name)).expect(name));
    ["out", "r", "sum"].into_iter().map(read).collect()
}

fn damaged_objects_are_misses(who: Who) {
    let registry = Registry::start();
    let base = shared_base(&Rig::new(who), &registry);
    let rig = Rig::empty(who);
    let right = built(&rig, &base, "right");
    assert_eq!(right["sum"], "content\nr\n");
    let good = rig.path("good");
    rig::succeed(std::process::Command::new("cp").arg("-a").arg(rig.store()).arg(&good));
    for kind in KINDS {
        for (harm, how) in HARMS {
            rig::succeed(std::process::Command::new("rm").arg("-rf").arg(rig.store()));
            rig::succeed(std::process::Command::new("cp").arg("-a").arg(&good).arg(rig.store()));
            let mut count = 0;
            for dir in std::fs::read_dir(rig.store()).expect("store").flatten() {
                if dir.file_name().to_string_lossy().starts_with(&format!("{kind}-v")) {
                    for file in files(&dir.path()) {
                        let bytes = std::fs::read(&file).expect("readable");
                        how(&file, bytes);
                        count += 1;
                    }
                }
            }
            let to = format!("{kind}-{harm}");
            assert_eq!(built(&rig, &base, &to), right, "{kind} {harm}: {count} files");
            for command in [["du", "--verbose"], ["prune", "--force"]] {
                rig.ok(&command);
            }
        }
    }
}

/// The files of all trees.
fn trees(rig: &Rig) -> Vec<PathBuf> {
    let kinds = std::fs::read_dir(rig.store()).expect("store").flatten().map(|entry| entry.path());
    let trees = kinds.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("trees-")));
    trees.flat_map(|dir| files(&dir)).collect()
}

fn a_lost_file_of_a_tree_costs_one_build(who: Who) {
    let rig = Rig::new(who);
    let base = "BASE=busybox";
    let right = built(&rig, base, "right");
    let context = rig.arg("context");
    let tar = format!("type=tar,dest={}", rig.arg("damaged.tar"));
    // The second time as many bytes with the old times: only reading them tells.
    for (text, to) in [("", "damaged"), ("R\n", "altered"), ("R\n", &tar)] {
        let all = trees(&rig);
        let lost = all.iter().find(|path| path.ends_with("fs/r")).expect("made by a RUN");
        let times = std::fs::metadata(lost).expect("there").modified().expect("time");
        std::fs::write(lost, text).expect("written");
        std::fs::File::options().append(true).open(lost).and_then(|file| file.set_modified(times)).expect("set");
        let error = rig.fails(&["build", "--build-arg", base, "-o", to, &context]);
        assert!(error.contains("is damaged: /r differs; the next build makes it again"), "{error}");
        let left = ["damaged.tar", "altered/r"].map(|name| rig.path(name).exists());
        assert_eq!(left, [false, false], "what is wrong is not left behind");
        assert_eq!(built(&rig, base, "healed"), right);
    }
}

/// A damaged file that a step copies is made again within the build.
fn a_damaged_file_that_is_copied_heals_within_the_build(who: Who) {
    let rig = Rig::new(who);
    let dockerfile = |text: &str| {
        format!("FROM busybox AS made\nRUN echo made >/made\nFROM busybox\nCOPY --from=made /made /{text}\n")
    };
    let build = |text: &str, to: &str| {
        let context = rig.context("copied", &[("Dockerfile", &dockerfile(text))]);
        let log = rig.build(&["-o", to, &context]);
        (std::fs::read_to_string(rig.path(to).join(text)).expect("there"), log)
    };
    assert_eq!(build("one", "one").0, "made\n");
    let all = trees(&rig);
    let made = all.iter().find(|path| path.ends_with("fs/made")).expect("made by a RUN");
    std::fs::write(made, "MADE\n").expect("written");
    let (copied, log) = build("two", "two");
    assert_eq!(copied, "made\n", "{log}");
    assert!(log.contains("is damaged: /made differs"), "{log}");
}
