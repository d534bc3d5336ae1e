//! The build so far, as the screens need it: events folded into vertices.
//!
//! Pure. Output of processes is not kept here: each screen keeps as much of it as it shows.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::event::{Event, EventKind, Outcome, Status, VertexId, Warning, elapsed};

/// How far a vertex is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Announced, not begun.
    Waiting,
    /// Begun at.
    Running(SystemTime),
    /// Begun at, ended at, how.
    Ended(SystemTime, SystemTime, Outcome),
}

/// Something inside a vertex that has progress of its own.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// As last reported.
    pub(super) status: Status,
    /// When it was first heard of.
    pub(super) since: SystemTime,
    /// When it was last heard of.
    pub(super) at: SystemTime,
}

/// One line of progress.
#[derive(Clone, Debug)]
pub(super) struct Vertex {
    /// The text shown.
    pub(super) name: String,
    /// How far it is.
    pub(super) state: State,
    /// In order of first report.
    pub(super) parts: Vec<Part>,
    /// In order.
    pub(super) warnings: Vec<Warning>,
    /// To be shown at the end if it failed.
    pub(super) excerpt: Option<String>,
}

impl Vertex {
    /// When it began, if it did.
    pub(super) fn since(&self) -> Option<SystemTime> {
        match &self.state {
            State::Waiting => None,
            State::Running(since) | State::Ended(since, ..) => Some(*since),
        }
    }

    /// When and how it ended, if it did.
    pub(super) fn end(&self) -> Option<(SystemTime, &Outcome)> {
        match &self.state {
            State::Waiting | State::Running(_) => None,
            State::Ended(_, at, outcome) => Some((*at, outcome)),
        }
    }

    /// Begun and not ended.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// How long it took, or took until `now`.
    pub(super) fn duration(&self, now: SystemTime) -> Duration {
        match &self.state {
            State::Waiting => Duration::ZERO,
            State::Running(since) => elapsed(*since, now),
            State::Ended(since, until, _) => elapsed(*since, *until),
        }
    }
}

/// All vertices heard of.
#[derive(Debug, Default)]
pub(super) struct Trace {
    vertices: BTreeMap<VertexId, Vertex>,
    started: Vec<VertexId>,
}

impl Trace {
    /// Takes an event in; `false` if it is about a vertex never announced.
    pub(super) fn apply(&mut self, event: &Event) -> bool {
        if let EventKind::Vertex { name, .. } = &event.kind {
            let vertex = Vertex {
                name: name.clone(),
                state: State::Waiting,
                parts: Vec::new(),
                warnings: Vec::new(),
                excerpt: None,
            };
            self.vertices.insert(event.vertex, vertex);
            return true;
        }
        let Some(vertex) = self.vertices.get_mut(&event.vertex) else { return false };
        let was_waiting = vertex.state == State::Waiting;
        match &event.kind {
            EventKind::Vertex { .. } | EventKind::Log(..) => {}
            EventKind::Started => vertex.state = State::Running(event.time),
            EventKind::Finished(outcome) => {
                let since = vertex.since().unwrap_or(event.time);
                vertex.state = State::Ended(since, event.time, outcome.clone());
            }
            EventKind::Status(status) => match vertex.parts.iter_mut().find(|part| part.status.id == status.id) {
                Some(part) => {
                    part.status = status.clone();
                    part.at = event.time;
                }
                None => vertex.parts.push(Part { status: status.clone(), since: event.time, at: event.time }),
            },
            EventKind::Warning(warning) => vertex.warnings.push(warning.clone()),
            EventKind::Excerpt(text) => vertex.excerpt = Some(text.clone()),
        }
        if was_waiting && vertex.state != State::Waiting {
            self.started.push(event.vertex);
        }
        true
    }

    /// The vertex of that name.
    pub(super) fn get(&self, id: VertexId) -> Option<&Vertex> {
        self.vertices.get(&id)
    }

    /// Those that began, in the order they began.
    pub(super) fn started(&self) -> impl Iterator<Item = (VertexId, &Vertex)> {
        self.started.iter().filter_map(|id| Some((*id, self.vertices.get(id)?)))
    }

    /// Those that failed by themselves, in the order they began.
    pub(super) fn failed(&self) -> impl Iterator<Item = (VertexId, &Vertex)> {
        self.started().filter(|(_, vertex)| matches!(vertex.end(), Some((_, Outcome::Error(_)))))
    }

    /// How many have ended, of how many.
    pub(super) fn progress(&self) -> (usize, usize) {
        (self.vertices.values().filter(|vertex| vertex.end().is_some()).count(), self.vertices.len())
    }

    /// When the first one began.
    pub(super) fn began(&self) -> Option<SystemTime> {
        self.started().next().and_then(|(_, vertex)| vertex.since())
    }

    /// The Dockerfile excerpts of what failed, one after the other.
    pub(super) fn excerpts(&self) -> String {
        self.failed().filter_map(|(_, vertex)| vertex.excerpt.as_deref()).map(with_line_end).collect()
    }
}

fn with_line_end(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}
