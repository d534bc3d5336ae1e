//! What happens during a build, told once and in order; `ui`, history and trace listen.
//!
//! Nothing ever asks an observer anything: a build without one is the same build. Knows no terminal.
//! The unit is a *vertex*: one line of progress, be it a step of the Dockerfile or an internal job
//! (`[internal] load build definition from Dockerfile`). The fields are those of BuildKit's status stream.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::source::{Lines, Source};

/// Names a vertex within one build; given out by [`Progress::vertex`] in order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub u32);

/// Where a line of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output of the step's process.
    Stdout,
    /// Standard error of the step's process, and rbuild's own remarks about the step.
    Stderr,
}

/// How a vertex ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done now.
    Done,
    /// An earlier result was taken.
    Cached,
    /// It was stopped because another one failed or the user asked.
    Canceled,
    /// It failed; the text is the one shown after `ERROR:`.
    Error(String),
}

/// One thing inside a vertex that has progress of its own (a blob being pulled, a manifest being written).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name, e.g. `sha256:…` or `transferring context`; unique within the vertex.
    pub id: String,
    /// Bytes done.
    pub current: u64,
    /// Bytes in all, 0 if not known.
    pub total: u64,
    /// Set when it is finished.
    pub completed: bool,
}

/// A warning about the user's files (lint) or about what rbuild had to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The one line shown in normal mode, e.g. `StageNameCasing: Stage name 'A' should be lowercase (line 1)`.
    pub short: String,
    /// Further lines for `--debug`.
    pub detail: Vec<String>,
    /// Documentation address, if any.
    pub url: Option<String>,
    /// Where in the user's text, if it is about the text.
    pub place: Option<Place>,
}

/// Lines of a text the user wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub source: Arc<Source>,
    /// The lines meant.
    pub lines: Lines,
}

/// What happened. Times are wall clock, taken by the sender.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// A vertex exists; shown from its start on. `inputs` are for rawjson and trace.
    Vertex {
        /// The text shown, e.g. `[build 2/5] RUN make`.
        name: String,
        /// The vertices it waits for.
        inputs: Vec<VertexId>,
    },
    /// Work on it began.
    Started,
    /// Its process printed these bytes (any split; not necessarily whole lines).
    Log(Stream, Vec<u8>),
    /// Progress of a part of it.
    Status(Status),
    /// A warning that belongs to it.
    Warning(Warning),
    /// It ended.
    Finished(Outcome),
    /// Only with `Finished(Error)` before it: the Dockerfile excerpt to show at the end of the build.
    Excerpt(String),
}

/// One event of one vertex.
#[derive(Clone, Debug)]
pub struct Event {
    /// The vertex.
    pub vertex: VertexId,
    /// When.
    pub time: SystemTime,
    /// What.
    pub kind: EventKind,
}

/// Hears of everything, in order. Called from any thread, never concurrently; must not block for long.
pub trait Observer: Send {
    /// Takes note of one event.
    fn observe(&mut self, event: &Event);
}

/// The sending end: clones share the observers.
#[derive(Clone)]
pub struct Progress(Arc<Inner>);

struct Inner {
    observers: Mutex<Vec<Box<dyn Observer>>>,
    next: AtomicU32,
    clock: fn() -> SystemTime,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

impl Progress {
    /// A stream heard by `observers`, in that order. `clock` is handed in so that this module owns no clock.
    pub fn new(observers: Vec<Box<dyn Observer>>, clock: fn() -> SystemTime) -> Self {
        Self(Arc::new(Inner { observers: Mutex::new(observers), next: AtomicU32::new(0), clock }))
    }

    /// A stream nobody hears.
    pub fn silent() -> Self {
        Self::new(Vec::new(), || SystemTime::UNIX_EPOCH)
    }

    /// Creates a vertex; it is not started yet.
    pub fn vertex(&self, name: impl Into<String>, inputs: &[VertexId]) -> Vertex {
        let id = VertexId(self.0.next.fetch_add(1, Ordering::Relaxed));
        self.send(id, EventKind::Vertex { name: name.into(), inputs: inputs.to_vec() });
        Vertex { progress: self.clone(), id }
    }

    fn send(&self, vertex: VertexId, kind: EventKind) {
        let mut observers = self.0.observers.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event { vertex, time: (self.0.clock)(), kind };
        for observer in observers.iter_mut() {
            observer.observe(&event);
        }
    }
}

/// A handle to report on one vertex.
#[derive(Clone, Debug)]
pub struct Vertex {
    progress: Progress,
    /// Its name in events.
    pub id: VertexId,
}

impl Vertex {
    /// Work begins.
    pub fn start(&self) {
        self.progress.send(self.id, EventKind::Started);
    }
    /// Passes output of a process on.
    pub fn log(&self, stream: Stream, data: &[u8]) {
        self.progress.send(self.id, EventKind::Log(stream, data.to_vec()));
    }
    /// Reports on a part.
    pub fn status(&self, id: impl Into<String>, current: u64, total: u64, completed: bool) {
        self.progress.send(self.id, EventKind::Status(Status { id: id.into(), current, total, completed }));
    }
    /// Reports a part that takes no noticeable time as finished, e.g. `exporting manifest sha256:…`.
    pub fn done_part(&self, id: impl Into<String>) {
        self.status(id, 0, 0, true);
    }
    /// Attaches a warning.
    pub fn warn(&self, warning: Warning) {
        self.progress.send(self.id, EventKind::Warning(warning));
    }
    /// Attaches the excerpt shown at the end when this vertex failed.
    pub fn excerpt(&self, text: String) {
        self.progress.send(self.id, EventKind::Excerpt(text));
    }
    /// Work ended.
    pub fn finish(&self, outcome: Outcome) {
        self.progress.send(self.id, EventKind::Finished(outcome));
    }
}

/// How long something took, for histories; zero when clocks jumped.
pub fn elapsed(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}
