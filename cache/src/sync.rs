//! Making what was written survive a power failure: when that is due, and doing it.
//!
//! ```text
//! synced-v1/<boot id>            envelope; payload: all that was stamped up to this moment is on the disk (see boot.rs)
//! synced-v1/<boot id>.written    when a process that had written something closed the store last; decimal, CLOCK_BOOTTIME
//! ```
//! Flushing a file system waits for everybody's writes, and a process cannot end before its threads have left the kernel. So nobody
//! flushes what is confirmed already or so fresh that the kernel is about to write it by itself. Losing `.written`, or being killed
//! before writing it, delays a confirmation and loses nothing: what was not confirmed is verified after a reboot.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::boot::{Boot, BootId, boot_time};
use crate::directory::{making_parents, read};
use crate::envelope;
use crate::error::{At as _, Result};
use crate::object::SYNCED;
use crate::store::{Inner, Store};

/// By then the kernel has written most of it (`vm.dirty_expire_centisecs` is 30 s everywhere) and a flush has little to wait for.
const KERNEL_WRITES_WITHIN: Duration = Duration::from_secs(35);

/// Makes what was written survive a power failure. Holds no lease: a process may end in the middle and leaves nothing behind.
#[derive(Clone, Debug)]
pub struct Syncer {
    root: PathBuf,
    boot: BootId,
}

impl Store {
    /// What [`Syncer::sync`] is called on. It does not keep the store open.
    pub fn syncer(&self) -> Syncer {
        Syncer { root: self.inner.root.clone(), boot: self.inner.boot.id }
    }
}

impl Inner {
    /// Notes that this process wrote something, for the processes that come to sync it.
    pub(crate) fn note_written(&self) {
        let path = Syncer { root: self.root.clone(), boot: self.boot.id }.written();
        let create = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644))
        };
        if let Ok(file) = making_parents(&self.root, &path, create) {
            let _confirmed_later_otherwise = File::from(file).write_all(boot_time().to_string().as_bytes());
        }
    }
}

impl Syncer {
    fn written(&self) -> PathBuf {
        self.root.join(SYNCED).join(format!("{}.written", self.boot))
    }

    /// Whether something was written in this boot that no sync has confirmed, long enough ago that a flush is cheap.
    pub fn is_due(&self) -> bool {
        self.is_due_at(boot_time())
    }

    pub(crate) fn is_due_at(&self, now: u64) -> bool {
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
        let Some(written) = read(&self.written()).ok().flatten().and_then(|bytes| number(&bytes)) else { return false };
        let confirmed = read(&self.root.join(SYNCED).join(self.boot.to_string())).ok().flatten().and_then(|bytes| {
            let opened = envelope::open(&bytes, self.boot)?;
            number(&bytes[opened.payload..])
        });
        confirmed.is_none_or(|confirmed| confirmed < written)
            && now.saturating_sub(written) >= KERNEL_WRITES_WITHIN.as_nanos() as u64
    }

    /// Flushes the file system and records that everything written before now is on the disk. May take seconds; nothing waits
    /// for it: run it on a thread of its own. What no sync confirmed is verified, or is a miss, after a reboot.
    pub fn sync(&self) -> Result<()> {
        let began = boot_time();
        let directory =
            rustix::fs::open(&self.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .at("open", &self.root)?;
        rustix::fs::syncfs(&directory).at("sync", &self.root)?;
        let boot = self.boot.to_string();
        let sealed = envelope::seal(Boot::new(self.boot).stamp(), &boot, began.to_string().as_bytes());
        // The same name for all: whoever comes second writes as much, and half a record is no record.
        let (new, path) = (self.root.join(SYNCED).join(format!("{boot}.new")), self.root.join(SYNCED).join(&boot));
        let create = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            rustix::fs::open(&new, flags, Mode::from_raw_mode(0o644))
        };
        let file = File::from(making_parents(&self.root, &new, create).at("make", &new)?);
        (&file).write_all(&sealed).and_then(|()| file.sync_all()).at("write", &new)?;
        rustix::fs::rename(&new, &path).at("rename into place", &path)?;
        let open = |path: &std::path::Path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        for changed in [self.root.join(SYNCED), self.root.clone()] {
            open(&changed).and_then(rustix::fs::fsync).at("sync", &changed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;
    use crate::store::StoreOptions;

    fn store(root: &std::path::Path) -> Store {
        Store::open(root, StoreOptions::default()).expect("opens")
    }

    #[test]
    fn a_sync_is_due_once_for_what_was_written_and_not_at_once() {
        let root = tempfile::tempdir().expect("temp dir");
        let syncer = store(root.path()).syncer();
        let later = boot_time() + 10 * KERNEL_WRITES_WITHIN.as_nanos() as u64;
        assert!(!syncer.is_due_at(later), "nothing was written");

        store(root.path()).put(Kind::Record, "a", b"1").expect("written");
        assert!(!syncer.is_due(), "the kernel is about to write it");
        assert!(syncer.is_due_at(later));

        syncer.sync().expect("synced");
        assert!(!syncer.is_due_at(later), "confirmed");
        assert_eq!(store(root.path()).get(Kind::Record, "a").expect("read"), Some(b"1".to_vec()));
        assert!(!syncer.is_due_at(later), "reading is not writing");

        store(root.path()).put(Kind::Record, "a", b"2").expect("written");
        assert!(syncer.is_due_at(later));
    }
}
