//! Does the steps of a plan: key, lookup, and on a miss the work; one loop owns all build state.
//!
//! Knows no Dockerfile text, no registry and no terminal. What it needs from outside comes in through [`Engine`]'s fields:
//! the store and its layers, an executor, contexts as trees, [`Bases`] for layers of images that are not fetched yet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use rbuild_cache::digest::LayerId;
use rbuild_cache::{Kind, ObjectRef, Store};

use crate::cancel::{Cancel, Cancelled};
use crate::dockerfile::quote::quoted;
use crate::event::{Progress, Vertex};
use crate::exec::Executor;
use crate::fetch::Fetcher;
use crate::layers::{Ahead, Layers};
use crate::plan::graph::BaseImage;
use crate::snapshot::{Copied, Snapshots};
use crate::transfer::Tree;

mod copy;
mod drive;
mod earlier;
pub mod elsewhere;
pub mod explain;
pub mod failed;
mod mounts;
pub mod record;
mod root_tree;
mod run;
pub mod shown;
pub mod slots;
pub mod stack;
mod step;
mod workdir;

pub use mounts::{cache_mounts, lasting_cache};

pub use drive::{Finished, Memo, StepReport, drive};

/// Gives the layers of base images, fetching what is not in the store yet.
pub trait Bases: Send + Sync {
    /// Whether all layers are in the store already.
    fn present(&self, base: &BaseImage) -> bool;
    /// The layers from the bottom; fetched, verified and imported when missing. Progress is told to `vertex`.
    fn layers(&self, base: &BaseImage, vertex: &Vertex, cancel: &Cancel) -> Result<Vec<LayerId>, StepError>;
}

/// How to build, decided by the caller.
#[derive(Clone, Debug)]
pub struct Options {
    /// RUNs at a time.
    pub jobs: slots::Limit,
    /// What this build is called among earlier ones, so that `explain` compares like with like: Dockerfile and context.
    pub project: String,
    /// Owners all become one in this mode (single-uid); part of a RUN's key.
    pub flattened: bool,
    /// Seconds since 1970: the time of everything made from nothing (WORKDIR, heredocs), and of new records.
    pub now: u64,
    /// Tell each step's reason to run in its log.
    pub explain: bool,
    /// `network.host` was allowed.
    pub allow_host_network: bool,
    /// `security.insecure` was allowed.
    pub allow_insecure: bool,
    /// A RUN that fails is kept as it is ([`failed::FailedRun`]).
    pub keep_failed: bool,
}

/// What a step record or alias refers to, for the store's garbage collection; `None` if the file is of another kind.
pub fn references(kind: Kind, _name: &str, bytes: &[u8]) -> Option<Vec<ObjectRef>> {
    match kind {
        Kind::Record => {
            let record: record::StepRecord = serde_json::from_slice(bytes).ok()?;
            Some(vec![ObjectRef::Small(Kind::Layer, record.layer.id.to_string())])
        }
        // An alias points at a record or names a layer.
        Kind::Alias => {
            let name = std::str::from_utf8(bytes).ok()?.to_owned();
            Some(vec![ObjectRef::Small(Kind::Record, name.clone()), ObjectRef::Small(Kind::Layer, name)])
        }
        Kind::Layer | Kind::Index | Kind::Name | Kind::Image | Kind::Fact | Kind::History | Kind::Derived => None,
    }
}

/// Everything a build's steps work with.
pub struct Engine<'a> {
    /// Records, locks, cache mounts, temporary directories.
    pub store: &'a Store,
    /// Layers in their forms.
    pub layers: &'a Layers,
    /// Runs processes.
    pub executor: &'a dyn Executor,
    /// Makes roots to run them in.
    pub snapshots: &'a dyn Snapshots,
    /// Fills new cache mounts.
    pub seeds: Copied,
    /// Local contexts by name; `context` is the main one.
    pub contexts: &'a BTreeMap<String, Arc<dyn Tree + Send + Sync>>,
    /// Base images.
    pub bases: &'a dyn Bases,
    /// Results made elsewhere. Shared, because trees that are read lazily fetch through it.
    pub elsewhere: Arc<dyn elsewhere::Elsewhere>,
    /// Downloads of ADD.
    pub fetcher: &'a Fetcher,
    /// Secrets by id; read at the edge.
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    /// ssh agent sockets by id.
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// How.
    pub options: &'a Options,
    /// Where progress goes.
    pub progress: &'a Progress,
    /// Stops everything.
    pub cancel: &'a Cancel,
    /// Hears of finished layers that outputs will want compressed.
    pub ahead: &'a Ahead,
    /// Job slots of RUNs.
    pub slots: &'a slots::Slots,
    /// Steps that were shown, of this platform or another.
    pub shown: &'a shown::Shown,
    /// Layers of the store that turned out to be damaged.
    pub damaged: AtomicUsize,
    /// Layers of base images already asked for in this build, by handle.
    pub fetched: Mutex<BTreeMap<String, FetchedLayers>>,
}

/// The layers of one base image once somebody has asked for them; the lock is held while they are fetched.
pub type FetchedLayers = Arc<Mutex<Option<Arc<Vec<LayerId>>>>>;

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", self.options).finish_non_exhaustive()
    }
}

/// A step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Another step failed, or the user asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// Files of a layer that was a hit cannot be had any more; the build goes back to the step that makes it.
    #[error("{0}")]
    Lost(String),
    /// A file of a context is not what it was when the step was keyed.
    #[error("{0}")]
    Changed(String),
    /// A process ended with a status other than 0, or was never started.
    #[error("process {} did not complete successfully: {end}", quoted(command))]
    Exit {
        /// argv joined by blanks.
        command: String,
        /// What became of it, in BuildKit's words: `exit code: 1`, `cannot allocate memory`.
        end: String,
        /// What may help.
        help: Option<String>,
        /// The step as it was, if that was asked for.
        kept: Option<Box<failed::FailedRun>>,
    },
    /// The step cannot be done as written; the text is BuildKit's where it has one.
    #[error("{message}")]
    Refused {
        /// What is wrong.
        message: String,
        /// What may help.
        help: Option<String>,
    },
    /// The world failed us: names the operation and the object.
    #[error("{doing}: {reason}")]
    World {
        /// The operation and its object.
        doing: String,
        /// What went wrong, with its causes.
        reason: String,
    },
}

impl StepError {
    /// A fault of the step itself.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), help: None }
    }

    /// A fault of the step itself, and what helps.
    pub fn refused_with_help(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), help: Some(help.into()) }
    }

    /// A fault of the world while doing something.
    pub fn world(doing: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = inner.source();
        }
        Self::World { doing: doing.into(), reason }
    }
}
