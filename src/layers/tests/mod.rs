//! Layers in a real store: forms turned into one another, views, and (as root) trees and overlays.

mod blobs;
mod changes;
mod trees;
mod views;

use super::*;
use crate::tar::entry::{Entry, Kind as EntryKind, LayerPath};
use proptest::prelude::*;
use rbuild_cache::StoreOptions;
use rbuild_cache::digest::Sha256;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::Command;

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

#[expect(clippy::print_stderr, reason = "tests skip loudly")]
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
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
