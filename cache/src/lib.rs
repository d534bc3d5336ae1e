//! The content-addressed store under rbuild: digests, bytes, records, names, locks, leases, GC.
//!
//! Knows no Dockerfile and no image: what an object refers to is told by the caller (`References`). Prints nothing, reads no
//! environment, starts no lasting thread. The directory layout is drawn at the head of `object.rs`; `docs/cache-store.md` is
//! the format.

pub mod digest;

mod blob;
mod boot;
mod directory;
mod envelope;
mod error;
mod gc;
mod graph;
mod lease;
mod ledger;
mod lock;
mod mount;
mod name;
mod object;
mod removal;
mod room;
mod scratch;
mod shield;
mod stamp;
mod store;
mod sync;
mod temp;
mod total;
mod tree;
mod usage;

pub use blob::{BlobRef, BlobWriter};
pub use error::StoreError;
pub use gc::{ObjectInfo, PruneOptions, PruneReport};
pub use graph::{References, Standing};
pub use ledger::Reservation;
pub use lock::{LockGuard, LockKind};
pub use mount::CacheMount;
pub use object::{Kind, Object, ObjectRef};
pub use room::Room;
pub use scratch::{Scratch, ScratchReader};
pub use store::{Store, StoreOptions};
pub use sync::Syncer;
pub use temp::{SweepReport, TempDir};
pub use usage::{Tally, Usage};
