//! The store itself: opening it, its small files, and the marks of use that GC goes by.
//!
//! Opening makes a lease and reads the boot id, nothing else: no scan, no sweep. Every publication is a rename of something
//! complete, and GC spares what was just published or marked as used: see `shield.rs`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::boot::{Boot, BootId};
use crate::directory::{last_used, list_names, making_parents, read};
use crate::error::{At as _, Result};
use crate::graph::References;
use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::object::{self, Kind, Object};
use crate::temp::TempSpace;
use crate::{envelope, name};

/// Small files below this are only counted after they were written.
const WORTH_RESERVING: u64 = 64 << 10;
/// At least this much is evicted when the file system is full.
const ROOM_ON_FULL_DISK: u64 = 64 << 20;

/// How a store is used by this process.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Hard ceiling for everything in the store; `None` for no ceiling.
    pub max_bytes: Option<u64>,
    /// The uid map trees are unpacked under: trees lie in `trees-v1-<this>`, escaped.
    pub trees: String,
    /// Which objects a small file refers to.
    pub references: References,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { max_bytes: None, trees: "root".to_owned(), references: References::none() }
    }
}

/// The content-addressed store on one directory, open for this process. Cheap to clone; all clones share one lease.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) options: StoreOptions,
    pub(crate) boot: Boot,
    pub(crate) lease: Lease,
    pub(crate) temp: TempSpace,
    pub(crate) ledger: Ledger,
    /// The description marks and publications hold their shields on; opened at first use (shield.rs).
    pub(crate) shield: OnceLock<OwnedFd>,
    /// Whether the lease has ended; held while something is written that nobody waits for.
    pub(crate) closed: Mutex<bool>,
}

impl Inner {
    fn close(&self) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *closed, true) {
            self.settle();
            if self.temp.was_used() {
                self.note_written();
            }
            self.temp.clear();
            self.lease.end();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store {
    /// Opens the store at `root`, making the directory (mode 0700) if it is missing, and takes a lease for as long as any clone lives.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Self> {
        Self::open_in_boot(root, options, BootId::current())
    }

    /// Opens as if in another boot.
    pub(crate) fn open_in_boot(root: &Path, mut options: StoreOptions, boot: BootId) -> Result<Self> {
        options.trees = name::escape(&options.trees);
        let root = std::path::absolute(root).at("resolve", root)?;
        let lease = match Lease::begin(&root, boot) {
            Err(_) if !root.exists() => {
                make_root(&root).at("make", &root)?;
                Lease::begin(&root, boot)?
            }
            other => other?,
        };
        let temp = TempSpace::new(&root, &lease.id);
        let ledger = Ledger::new(&root, &lease.id);
        let (shield, closed) = (OnceLock::new(), Mutex::new(false));
        let inner = Inner { root, options, boot: Boot::new(boot), lease, temp, ledger, shield, closed };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Writes a small file, replacing the one of that name.
    pub fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<()> {
        let sealed = envelope::seal(self.inner.boot.stamp(), name, bytes);
        let _room = match sealed.len() as u64 {
            0..WORTH_RESERVING => None,
            large => Some(self.reserve(large)?),
        };
        let relative = object::small(kind, name);
        let path = self.inner.root.join(&relative);
        let temp = self.with_room(sealed.len() as u64, || self.inner.temp_file(&sealed))?;
        let _shield = self.inner.shield(&relative);
        let moved = self.with_room(0, || {
            making_parents(self.root(), &path, || rustix::fs::rename(&temp, &path)).at("rename into place", &path)
        });
        match &moved {
            Ok(()) => self.inner.ledger.wrote(sealed.len() as u64),
            Err(_) => {
                let _swept_later_otherwise = rustix::fs::unlink(&temp);
            }
        }
        moved
    }

    /// Reads a small file. A damaged one is as good as missing. Does not mark it as used: whoever goes on to rely on what it
    /// refers to touches it.
    pub fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.inner.root.join(object::small(kind, name));
        let Some(mut bytes) = read(&path)? else { return Ok(None) };
        Ok(match envelope::open(&bytes, self.inner.boot.id) {
            Some(opened) if opened.name == name => {
                bytes.drain(..opened.payload);
                Some(bytes)
            }
            _ => None,
        })
    }

    /// Whether a small file of that name is there, whatever its state.
    pub fn contains(&self, kind: Kind, name: &str) -> Result<bool> {
        let path = self.inner.root.join(object::small(kind, name));
        Ok(last_used(&path).at("stat", &path)?.is_some())
    }

    /// Removes a small file; false when there was none.
    pub fn remove(&self, kind: Kind, name: &str) -> Result<bool> {
        let path = self.inner.root.join(object::small(kind, name));
        match rustix::fs::unlink(&path) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e).at("remove", &path),
        }
    }

    /// The names of all small files of a kind, sorted.
    pub fn list(&self, kind: Kind) -> Result<Vec<String>> {
        let directory = self.inner.root.join(kind.directory());
        let mut names = Vec::new();
        let mut read_all = |directory: &Path| -> Result<()> {
            for file in list_names(directory)? {
                names.extend(self.name_of(&directory.join(&file), &file)?);
            }
            Ok(())
        };
        if kind.fans_out() {
            for prefix in list_names(&directory)? {
                read_all(&directory.join(prefix))?;
            }
        } else {
            read_all(&directory)?;
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The object name of a small file; from its envelope when the file name was cut.
    pub(crate) fn name_of(&self, path: &Path, file: &str) -> Result<Option<String>> {
        match name::decode(file) {
            Some(name) => Ok(Some(name)),
            None => Ok(read(path)?.and_then(|b| envelope::open(&b, self.inner.boot.id)).map(|o| o.name)),
        }
    }

    /// Marks a small file as used now; false when it is gone. Cheap when it was marked within the last minute.
    pub fn touch(&self, kind: Kind, name: &str) -> Result<bool> {
        self.inner.mark(&Object::Small(kind, name.to_owned()))
    }

    /// Ends the lease although clones live on in threads that the process is not going to wait for. Only
    /// [`Store::sweep`] may still be under way then.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Runs our own write; when the file system is full, evicts and tries once more.
    pub(crate) fn with_room<T>(&self, bytes: u64, mut write: impl FnMut() -> Result<T>) -> Result<T> {
        match write() {
            Err(full) if full.is_no_space() => {
                if self.make_room(bytes.max(ROOM_ON_FULL_DISK))? == 0 {
                    return Err(full);
                }
                write()
            }
            other => other,
        }
    }
}

/// Makes the root and what is missing above it; only we may enter: layers hold set-uid programs.
fn make_root(root: &Path) -> io::Result<()> {
    if let Some(above) = root.parent() {
        fs_err::create_dir_all(above)?;
    }
    match rustix::fs::mkdir(root, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
