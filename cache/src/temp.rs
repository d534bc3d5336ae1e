//! Unfinished things: `tmp/<lease>/…`, on the store's own file system so that finishing is a rename.
//!
//! What a process leaves behind when it is killed lies below its dead lease and is removed by whoever sweeps next. The same place
//! takes what is being deleted: an object leaves the store by a rename into it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::directory::{list_names, making_parents};
use crate::error::{At as _, Result};
use crate::store::{Inner, Store};
use crate::{lease, removal};

/// How often a directory that is not empty is cleared before it is left to others.
const CLEARING_ATTEMPTS: u32 = 5;

/// This lease's part of `tmp/`; made at first use.
#[derive(Debug)]
pub(crate) struct TempSpace {
    root: PathBuf,
    directory: PathBuf,
    serial: AtomicU64,
}

impl TempSpace {
    pub(crate) fn new(root: &Path, lease: &str) -> Self {
        Self { root: root.to_owned(), directory: root.join("tmp").join(lease), serial: AtomicU64::new(0) }
    }

    /// The directory of this lease, for what is being removed; made if need be.
    pub(crate) fn directory(&self) -> Result<&Path> {
        let make = || match rustix::fs::mkdir(&self.directory, Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        };
        making_parents(&self.root, &self.directory, make).at("make", &self.directory)?;
        Ok(&self.directory)
    }

    /// A path in it that nothing has yet.
    pub(crate) fn fresh(&self, prefix: &str) -> PathBuf {
        self.directory.join(format!("{prefix}-{}", self.serial.fetch_add(1, Ordering::Relaxed)))
    }

    /// Whether anything was begun in it: all that is written to a store is.
    pub(crate) fn was_used(&self) -> bool {
        self.serial.load(Ordering::Relaxed) > 0
    }

    /// Removes all of it. A thread that nobody waits for may be removing the same things.
    pub(crate) fn clear(&self) {
        for _ in 0..CLEARING_ATTEMPTS {
            let Ok(names) = list_names(&self.directory) else { return };
            let paths: Vec<PathBuf> = names.iter().map(|n| self.directory.join(n)).collect();
            if !paths.is_empty() {
                removal::remove_all(paths, &self.directory);
            }
            // What is left is swept by the next process.
            if rustix::fs::rmdir(&self.directory) != Err(Errno::NOTEMPTY) {
                return;
            }
        }
    }
}

/// A directory of one's own until it is dropped; its store stays open as long.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    store: Arc<Inner>,
    armed: bool,
}

impl TempDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives up removing it. It still ends when the store is closed, unless it was moved away by then.
    #[must_use = "this is the only name of the directory"]
    pub fn keep(mut self) -> PathBuf {
        self.armed = false;
        self.path.clone()
    }

    /// Removes it now and says how that went.
    pub fn close(mut self) -> Result<()> {
        self.armed = false;
        self.store.discard(&self.path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if self.armed {
            let _swept_later_otherwise = self.store.discard(&self.path);
        }
    }
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct SweepReport {
    /// How many dead processes left something that is gone now.
    pub removed: usize,
    /// What could not be removed, and why; the next sweep tries again.
    pub failed: Vec<(PathBuf, io::Error)>,
}

impl Store {
    /// Makes an empty directory (mode 0700) on the store's file system; it is removed when dropped, or by a later sweep when
    /// this process dies first.
    pub fn temp_dir(&self, prefix: &str) -> Result<TempDir> {
        let path = self.inner.temp.fresh(prefix);
        making_parents(self.root(), &path, || rustix::fs::mkdir(&path, Mode::RWXU)).at("make", &path)?;
        Ok(TempDir { path, store: Arc::clone(&self.inner), armed: true })
    }

    /// Removes what dead processes left behind. Reads two short directories when there is nothing; otherwise deletes, which can
    /// take a while: call it on a thread of its own.
    pub fn sweep(&self) -> Result<SweepReport> {
        let root = &self.inner.root;
        let mut report = SweepReport::default();
        let mut rubble = Vec::new();
        for place in ["tmp", "ledger"] {
            for id in list_names(&root.join(place))? {
                if lease::alive(root, &id)?.is_none() {
                    rubble.push(root.join(place).join(id));
                }
            }
        }
        report.removed = rubble.len();
        if rubble.iter().any(|path| path.starts_with(root.join("ledger"))) {
            self.inner.forget_total();
        }
        if !rubble.is_empty() {
            report.failed = removal::remove_all(rubble, self.inner.temp.directory()?);
        }
        for id in list_names(&root.join("leases"))? {
            if id != self.inner.lease.id {
                lease::bury(root, &id)?;
            }
        }
        Ok(report)
    }
}

impl Inner {
    /// Deletes something below our temp directory.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        removal::remove(path, self.temp.directory()?).at("remove", path)
    }

    /// Writes a new file below our temp directory.
    pub(crate) fn temp_file(&self, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.temp.fresh("file");
        let written = making_parents(&self.root, &path, || create_new(&path))
            .map_err(io::Error::from)
            .and_then(|file| write_out(&file, bytes));
        if written.is_err() {
            let _nothing_there_or_swept_later = rustix::fs::unlink(&path);
        }
        written.at("write", &path).map(|()| path)
    }
}

/// Opens a file that must not exist yet.
pub(crate) fn create_new(path: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map(File::from)
}

/// Writes a file that must not exist yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_new(path).map_err(io::Error::from).and_then(|file| write_out(&file, bytes))
}

fn write_out(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}
