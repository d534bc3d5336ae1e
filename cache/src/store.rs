//! The store itself: opening it, its small files, and the marks of use that GC goes by.
//!
//! Opening makes a lease and reads the boot id, nothing else: no scan, no sweep. Every publication is a rename of something
//! complete; publications and marks of use hold a shared byte lock (`shield`) on the object, GC an exclusive one from looking at
//! the last use until the object is gone, so nothing is removed that somebody has just said to use.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::boot::{Boot, BootId, Stamp, boot_time};
use crate::error::{At as _, Result};
use crate::gc::References;
use crate::lease::{self, Lease, Moment};
use crate::ledger::Ledger;
use crate::lock::{self, Share, ofd};
use crate::object::{self, Kind, Object, SYNCED};
use crate::temp::TempSpace;
use crate::{envelope, name};

/// How old a mark of use may be before using the object again renews it.
const MARK_LASTS: Duration = Duration::from_secs(60);
/// How long to wait for a collector that holds an object; it needs microseconds unless it was stopped.
const SHIELD_PATIENCE: Duration = Duration::from_secs(2);
/// At least this much is evicted when the file system is full.
const ROOM_ON_FULL_DISK: u64 = 64 << 20;

/// How a store is used by this process.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Hard ceiling for everything in the store; `None` for no ceiling.
    pub max_bytes: Option<u64>,
    /// The uid map trees are unpacked under: trees lie in `trees-v1-<this>`. Letters, digits, `.`, `_` and `-`.
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
    shield: OnceLock<OwnedFd>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.temp.clear();
        self.ledger.end();
        self.lease.end();
    }
}

impl Store {
    /// Opens the store at `root`, making the directory (mode 0700) if it is missing, and takes a lease for as long as any clone lives.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Self> {
        Self::open_in_boot(root, options, BootId::current())
    }

    /// Opens as if in another boot.
    pub(crate) fn open_in_boot(root: &Path, options: StoreOptions, boot: BootId) -> Result<Self> {
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
        let inner = Inner { root, options, boot: Boot::new(boot), lease, temp, ledger, shield: OnceLock::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Writes a small file, replacing the one of that name.
    pub fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<()> {
        let sealed = envelope::seal(self.inner.boot.stamp(), name, bytes);
        let relative = object::small(kind, name);
        let path = self.inner.root.join(&relative);
        let temp = self.with_room(sealed.len() as u64, || self.inner.temp_file(&sealed))?;
        let _shield = self.inner.shield(&relative);
        let moved = self.with_room(0, || {
            making_parents(&path, || rustix::fs::rename(&temp, &path)).at("rename into place", &path)
        });
        if moved.is_err() {
            let _swept_later_otherwise = rustix::fs::unlink(&temp);
        }
        self.inner.ledger.wrote(sealed.len() as u64);
        moved
    }

    /// Reads a small file. A damaged one is as good as missing.
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

    /// Flushes the file system and records that everything written before now is on the disk. May take seconds; nothing waits
    /// for it: run it on a thread of its own. What no sync confirmed is verified, or is a miss, after a reboot.
    pub fn sync(&self) -> Result<()> {
        let root = &self.inner.root;
        let began = boot_time();
        let directory = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .at("open", root)?;
        rustix::fs::syncfs(&directory).at("sync", root)?;
        let boot = self.inner.boot.id.to_string();
        let sealed = envelope::seal(self.inner.boot.stamp(), &boot, began.to_string().as_bytes());
        let temp = self.inner.temp_file(&sealed)?;
        let path = root.join(SYNCED).join(&boot);
        let open = |path: &Path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        open(&temp).and_then(rustix::fs::fsync).at("sync", &temp)?;
        making_parents(&path, || rustix::fs::rename(&temp, &path)).at("rename into place", &path)?;
        for changed in [root.join(SYNCED), root.clone()] {
            open(&changed).and_then(rustix::fs::fsync).at("sync", &changed)?;
        }
        Ok(())
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

/// Holds collectors off one object.
pub(crate) struct Shield<'a> {
    file: &'a OwnedFd,
    at: u64,
}

impl Drop for Shield<'_> {
    fn drop(&mut self) {
        ofd::unlock(self.file.as_fd(), self.at, 1);
    }
}

/// The lock file of shields.
pub(crate) fn shield_file(root: &Path) -> PathBuf {
    root.join("locks/shield")
}

/// The byte that stands for an object in it.
pub(crate) fn shield_offset(relative: &Path) -> u64 {
    lock::offset(relative.as_os_str().as_encoded_bytes())
}

impl Inner {
    /// Holds collectors off the object at `relative`. Threads share one description, so one thread's end may end another's
    /// shield on the same object; by then the first has marked or published it, which is as good. `None` when a collector
    /// seems to have been stopped halfway.
    pub(crate) fn shield(&self, relative: &Path) -> Option<Shield<'_>> {
        let file = match self.shield.get() {
            Some(file) => file,
            None => {
                let opened = lock::open_lock_file(&shield_file(&self.root)).ok()?;
                self.shield.get_or_init(|| opened)
            }
        };
        let at = shield_offset(relative);
        let began = Instant::now();
        while !ofd::try_lock(file.as_fd(), at, 1, Share::Shared).ok()? {
            if began.elapsed() > SHIELD_PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Some(Shield { file, at })
    }

    /// Marks an object as used now; false when it is gone.
    pub(crate) fn mark(&self, object: &Object) -> Result<bool> {
        let relative = object.path();
        let file = object.used(&self.root.join(&relative));
        let Some(used) = last_used(&file).at("stat", &file)? else { return Ok(false) };
        if self.is_marked(used) {
            return Ok(true);
        }
        let Some(_shield) = self.shield(&relative) else { return Ok(false) };
        set_used_now(&file).at("mark as used", &file)
    }

    /// Whether a mark of that age still protects the object and says enough about its use.
    fn is_marked(&self, used: Moment) -> bool {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        used >= self.lease.start && now.tv_sec - used.0 < MARK_LASTS.as_secs() as i64
    }

    /// Whether what carries this stamp can be believed without looking at its content: it was complete, and the machine has
    /// not lost power since, or had it on the disk by then. A live lease of another machine vouches for that machine's boot.
    pub(crate) fn believes(&self, stamp: Stamp) -> bool {
        if stamp.boot == self.boot.id {
            return true;
        }
        let read_mark = |boot: BootId| {
            let bytes = read(&self.root.join(SYNCED).join(boot.to_string())).ok()??;
            let opened = envelope::open(&bytes, self.boot.id)?;
            std::str::from_utf8(&bytes[opened.payload..]).ok()?.parse().ok()
        };
        self.boot.confirmed(stamp, read_mark)
            || lease::live(&self.root).is_ok_and(|leases| leases.iter().any(|l| l.boot == Some(stamp.boot)))
    }

    /// Reads the stamp of an object's directory: what it says, and whether it is believed. `None` when object or stamp are missing.
    pub(crate) fn stamp_of(&self, path: &Path) -> Result<Option<(envelope::Opened, bool)>> {
        let Some(bytes) = read(&path.join(object::STAMP))? else { return Ok(None) };
        Ok(envelope::open(&bytes, self.boot.id).map(|opened| {
            let believed = self.believes(opened.stamp);
            (opened, believed)
        }))
    }

    /// A stamp for an object complete now.
    pub(crate) fn sealed_stamp(&self, name: &str) -> Vec<u8> {
        envelope::seal(self.boot.stamp(), name, b"")
    }

    /// Replaces the stamp of an object that was found to be whole.
    pub(crate) fn restamp(&self, object: &Object, name: &str) -> Result<bool> {
        let relative = object.path();
        let stamp = self.root.join(&relative).join(object::STAMP);
        let temp = self.temp_file(&self.sealed_stamp(name))?;
        let _shield = self.shield(&relative);
        match rustix::fs::rename(&temp, &stamp) {
            Ok(()) => Ok(true),
            Err(e) => {
                let _swept_later_otherwise = rustix::fs::unlink(&temp);
                if matches!(e, Errno::NOENT | Errno::NOTDIR) { Ok(false) } else { Err(e).at("stamp", &stamp) }
            }
        }
    }

    /// Renames a complete object directory into place. When a believed one (or any cache mount) is there already,
    /// that one is marked as used and stays; false then. An unbelieved one gives way.
    pub(crate) fn publish(&self, object: &Object, from: &Path) -> Result<bool> {
        let relative = object.path();
        let path = self.root.join(&relative);
        let _shield = self.shield(&relative);
        loop {
            match making_parents(&path, || rustix::fs::rename(from, &path)) {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(e) => return Err(e).at("rename into place", &path),
            }
            let stays = match object {
                Object::CacheMount(_) => true,
                Object::Small(..) | Object::Blob(_) | Object::Tree { .. } => {
                    self.stamp_of(&path)?.is_some_and(|(_, believed)| believed)
                }
            };
            if stays && set_used_now(&path.join(object::STAMP)).at("mark as used", &path)? {
                return Ok(false);
            }
            self.evict_path(&path)?;
        }
    }

    /// Takes an object out of the store by a rename and deletes it; a missing one is fine.
    pub(crate) fn evict_path(&self, path: &Path) -> Result<()> {
        self.temp.directory()?;
        let away = self.temp.fresh("evicted");
        match rustix::fs::rename(path, &away) {
            Ok(()) => self.discard(&away),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(e) => Err(e).at("remove", path),
        }
    }
}

/// When the file was last used; `None` when it is missing.
pub(crate) fn last_used(path: &Path) -> rustix::io::Result<Option<Moment>> {
    match rustix::fs::lstat(path) {
        Ok(stat) => Ok(Some(Moment::of(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets the last use to now by the file system's clock; false when the file is missing.
fn set_used_now(path: &Path) -> rustix::io::Result<bool> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads a whole file; `None` when it is missing.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e).at("open", path),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes).at("read", path)?;
    Ok(Some(bytes))
}

/// The names in a directory of ours, unsorted; empty when it is missing. Names that are not UTF-8 are not ours.
pub(crate) fn list_names(directory: &Path) -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(e) => return Err(e).at("open", directory),
    };
    let mut names = Vec::new();
    for entry in Dir::new(fd).at("read", directory)? {
        let entry = entry.at("read", directory)?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Does something that makes `path`; when its parent is missing, makes that and tries again.
pub(crate) fn making_parents<T>(path: &Path, mut attempt: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match attempt() {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let parent = path.parent().ok_or(Errno::NOENT)?;
    make_below_root(parent)?;
    attempt()
}

/// Makes a directory and at most two missing ones above it; never the root of a store, which somebody may have removed.
fn make_below_root(directory: &Path) -> rustix::io::Result<()> {
    let make = |path: &Path| match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    };
    match make(directory) {
        Err(Errno::NOENT) => {
            make(directory.parent().ok_or(Errno::NOENT)?)?;
            make(directory)
        }
        other => other,
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
