//! Gathers the warnings of a build, for the summary at its end.

use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{Event, EventKind, Observer, Warning};

/// The warnings heard so far. Clones share them; hand one to [`crate::event::Progress`] as an observer and keep the other.
#[derive(Clone, Debug, Default)]
pub struct WarningList(Arc<Mutex<Vec<Warning>>>);

impl WarningList {
    /// Those heard so far, in order.
    pub fn warnings(&self) -> Vec<Warning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for WarningList {
    fn observe(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Warning(warning) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(warning.clone());
            }
            EventKind::Vertex { .. }
            | EventKind::Started
            | EventKind::Log(..)
            | EventKind::Status(_)
            | EventKind::Finished(_)
            | EventKind::Excerpt(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::event::Progress;

    #[test]
    fn hears_warnings() {
        let list = WarningList::default();
        let progress = Progress::new(vec![Box::new(list.clone())], || SystemTime::UNIX_EPOCH);
        let vertex = progress.vertex("x", &[]);
        vertex.start();
        let warning = Warning { short: "look".to_owned(), detail: Vec::new(), url: None, place: None };
        vertex.warn(warning.clone());
        assert_eq!(list.warnings(), [warning]);
    }
}
