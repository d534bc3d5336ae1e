//! `--progress=quiet` and `none`: nothing is shown of a build that goes well; of a failed one the excerpts of what failed.

use std::io::Write as _;

use super::display::Sink;
use super::trace::Trace;
use crate::event::Event;

/// The screen.
pub(super) struct Quiet {
    sink: Sink,
    trace: Trace,
}

impl Quiet {
    pub(super) fn new(sink: Sink) -> Self {
        Self { sink, trace: Trace::default() }
    }

    pub(super) fn observe(&mut self, event: &Event) {
        self.trace.apply(event);
    }

    pub(super) fn close(&mut self) {
        let _ = self.sink.write_all(self.trace.excerpts().as_bytes()).and_then(|()| self.sink.flush());
    }
}
