//! Finds out by trying what steps can mount here; runs in a process with a step's namespaces.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::kernel;
use super::step::{self, Ground};
use super::wire::{self, wire_struct};

/// What to try.
#[derive(Debug)]
pub(crate) struct Question {
    /// A directory of ours on the file system in question: `lower`, `upper` and `work` are in it.
    pub(crate) directory: PathBuf,
    /// The ground.
    pub(crate) ground: Ground,
}

/// What came of it: `None` is success, else the error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// An overlay there can be mounted and written to.
    pub(crate) overlay: Option<String>,
    /// A /proc of the step's own processes can be mounted.
    pub(crate) proc: Option<String>,
    /// Anything can be mounted at all.
    pub(crate) mounts: Option<String>,
    /// Steps can be traced, so that their paths are translated; tried only where nothing can be mounted.
    pub(crate) translation: Option<String>,
    /// The root directory can be changed.
    pub(crate) chroot: Option<String>,
}

wire_struct!(Question { directory, ground });
wire_struct!(Found { overlay, proc, mounts, translation, chroot });

/// Tries, tells, and ends.
pub(crate) fn main(question: &OwnedFd, socket: &OwnedFd) -> ! {
    let answer = std::panic::catch_unwind(|| {
        let mut bytes = Vec::new();
        let mut file = std::fs::File::from(question.try_clone()?);
        std::io::Read::read_to_end(&mut file, &mut bytes)?;
        let question: Question = wire::decode(&bytes)?;
        Ok::<_, std::io::Error>(step::try_mounts(&question))
    });
    if let Ok(Ok(found)) = answer {
        let _gone = wire::send(socket, &wire::encode(&found), &[]);
    }
    kernel::leave(0)
}
