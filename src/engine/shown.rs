//! What of a build was shown already: what builds for several platforms have in common is done once, and shown once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Names under which something was shown.
#[derive(Debug, Default)]
pub struct Shown(Mutex<BTreeSet<String>>);

impl Shown {
    /// Whether this is the first to be shown of that name; from now on it is not.
    pub fn is_first(&self, name: impl Into<String>) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into())
    }
}
