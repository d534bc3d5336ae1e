//! What must not be touched or seen: a directory beside the store and the context that holds a word found nowhere else.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::rig::{Output, Rig};
use crate::traces;

/// The word.
pub const CANARY: &str = "CANARY-6b1f0c";

/// A directory that everybody may write to, so that nothing but rbuild's own care protects it.
pub struct Outside {
    pub dir: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Outside {
    /// In `rig`'s place: `secret` (a file with the word), `dir/file`, `target` (empty), `empty` (an empty directory).
    pub fn new(rig: &Rig) -> Self {
        let dir = rig.path("outside");
        std::fs::create_dir_all(dir.join("dir")).expect("mkdir");
        std::fs::create_dir_all(dir.join("empty")).expect("mkdir");
        for (name, text) in [("secret", CANARY), ("dir/file", CANARY), ("target", "")] {
            std::fs::write(dir.join(name), text).expect("write");
            crate::rig::set_mode(&dir.join(name), 0o666);
        }
        for name in ["", "dir", "empty"] {
            crate::rig::set_mode(&dir.join(name), 0o777);
        }
        if let Some(user) = rig.user() {
            // The user's own, so that it may do anything there: a mistake would show.
            let owned = std::process::Command::new("chown").arg("-R").arg(user).arg(&dir).status().expect("chown");
            assert!(owned.success());
        }
        let before = listing(&dir);
        Self { dir, before }
    }

    /// A path in it, as text.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Panics if anything in it is not as it was.
    #[track_caller]
    pub fn untouched(&self) {
        assert_eq!(listing(&self.dir), self.before, "something outside was changed");
    }

    /// [`Outside::untouched`], the word was not said, and nothing is left of the build.
    #[track_caller]
    pub fn safe(&self, rig: &Rig, out: &Output) {
        self.untouched();
        for text in [&out.stdout, &out.stderr] {
            assert!(!text.contains(CANARY), "something outside was read:\n{text}");
            assert!(!text.contains("panicked"), "{text}");
        }
        traces::none(rig);
    }
}

/// Everything about everything below `dir` but access times.
fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("stat");
        let content = if meta.is_file() { std::fs::read(&path).expect("read") } else { Vec::new() };
        let state = format!(
            "{:o} {}:{} {} links {:?} {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            if meta.is_dir() { 0 } else { meta.nlink() },
            (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()),
            String::from_utf8_lossy(&content)
        );
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).expect("readdir").map(|entry| entry.expect("entry").path()));
        }
        found.insert(path, state);
    }
    found
}

/// Whether `bytes` contain the word.
pub fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Files below `dir` that contain the word, decompressed if they are gzip.
pub fn files_with(dir: &Path, word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            todo.extend(entries.map(|entry| entry.path()));
        } else if meta.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let mut plain = Vec::new();
            let _not_gzip =
                std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes.as_slice()), &mut plain);
            if contains(&bytes, word) || contains(&plain, word) {
                found.push(path);
            }
        }
    }
    found
}
