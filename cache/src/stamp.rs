//! Stamps of object directories: who completed them and when, and whether that is to be believed.
//!
//! A stamp is an envelope without payload. The rules of belief after a power loss are those of `boot.rs`; what to do with an object
//! that is not believed is for its own file (`blob.rs`, `tree.rs`) to say.

use std::path::Path;

use rustix::io::Errno;

use crate::boot::{BootId, Stamp};
use crate::directory::read;
use crate::error::{At as _, Result};
use crate::object::{self, Object, SYNCED};
use crate::store::Inner;
use crate::{envelope, lease};

impl Inner {
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
}
