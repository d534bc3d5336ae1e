//! What is written down about a step that was done: its layer, and the readable inputs of its key.
//!
//! Knows the store's small files, not how a step is run. Layout: `docs/cache-format.md`.

use rbuild_cache::digest::{Blake3, DiffId, KeyHasher, LayerId, StepKey, TreeId};
use serde::{Deserialize, Serialize};

use crate::tar::entry::Entry;

/// Version of the key encoding; a change makes every earlier record unreachable.
pub const KEY_VERSION: u32 = 3;

/// The name of the fact that stands for all layers below a step.
pub const ROOT: &str = "the root it starts from";

/// The fact of RUNs where owners cannot be kept.
const OWNERS: &str = "owners";
const FLATTENED: &str = "flattened";

/// One readable input of a key: what it is called and its value (or a digest of it, where the value may be secret or long).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// E.g. `command`, `env FOO`, `content of /src/main.rs`.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Fact {
    /// A fact.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// Everything a key is made of, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts(pub Vec<Fact>);

impl Facts {
    /// Adds one.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push(Fact::new(name, value));
    }
    /// The hash over all of them.
    pub fn hash(&self, purpose: &str) -> Blake3 {
        let mut hasher = KeyHasher::new(purpose, KEY_VERSION);
        for fact in &self.0 {
            hasher.text(&fact.name).text(&fact.value);
        }
        hasher.finish()
    }
    /// The value of a fact.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str())
    }
    /// Notes that owners are all one where the step is done.
    pub fn push_flattened(&mut self) {
        self.push(OWNERS, FLATTENED);
    }
    /// The same step where owners are kept, if these are of one where they are not: its result serves here, too.
    pub fn unflattened(&self) -> Option<Self> {
        let kept: Vec<Fact> =
            self.0.iter().filter(|f| (f.name.as_str(), f.value.as_str()) != (OWNERS, FLATTENED)).cloned().collect();
        (kept.len() < self.0.len()).then_some(Self(kept))
    }
    /// As the name of a record.
    pub fn step_key(&self) -> StepKey {
        StepKey(self.hash("step"))
    }
    /// As the name of an alias: whole inputs instead of what was read of them.
    pub fn input_key(&self) -> Blake3 {
        self.hash("input")
    }
}

/// A finished step's layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLayer {
    /// Its stored form.
    pub id: LayerId,
    /// Its meaning, used in the keys of later steps.
    pub tree: TreeId,
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The modification times in it that somebody chose; `None` if nobody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
}

impl StepLayer {
    /// Whether a later step sees the same: files and chosen times.
    pub fn means(&self, other: &Self) -> bool {
        self.tree == other.tree && self.times == other.times
    }
}

/// Modification times that a step chose, as one digest: `touch -d`, what an archive says, `Last-Modified`.
///
/// A [`TreeId`] has no times, for most of them say only when a step was run, and it should not matter that it was run again.
/// A chosen time is something else: a later step may read it, so it belongs to what the layer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times(Blake3);

impl Times {
    /// Those among the entries of a layer that `chosen` tells to be. Directories do not count: theirs change with every name
    /// that comes or goes.
    pub fn of<'a>(entries: impl Iterator<Item = &'a Entry>, chosen: impl Fn(&Entry) -> bool) -> Option<Self> {
        let mut hasher = KeyHasher::new("chosen-times", KEY_VERSION);
        let mut any = false;
        for entry in entries.filter(|entry| !entry.is_dir() && chosen(entry)) {
            any = true;
            hasher.field(entry.path.as_bytes()).text(&entry.meta.mtime.to_string());
        }
        any.then(|| Self(hasher.finish()))
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A step's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// What it made.
    pub layer: StepLayer,
    /// The step's shown text without stage counters.
    pub step: String,
    /// The inputs of its key, for `explain`.
    pub facts: Facts,
    /// The layers below it, a mark for each from the bottom, if [`ROOT`] is among the facts: for `explain`, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub root: Vec<String>,
    /// Seconds since 1970 when it was done.
    pub created: u64,
    /// How long it took, in milliseconds; the scheduler's guess for the next time.
    pub millis: u64,
    /// Whether owners were recorded faithfully (`exact`) or all became one (`flattened`).
    pub flattened: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_names_values_and_order() {
        let facts = |list: &[(&str, &str)]| {
            let mut facts = Facts::default();
            for (name, value) in list {
                facts.push(*name, *value);
            }
            facts.step_key()
        };
        assert_eq!(facts(&[("a", "1")]), facts(&[("a", "1")]));
        assert_ne!(facts(&[("a", "1")]), facts(&[("a", "2")]));
        assert_ne!(facts(&[("a", "1"), ("b", "2")]), facts(&[("b", "2"), ("a", "1")]));
        let same = Facts(vec![Fact::new("a", "1")]);
        assert_ne!(same.hash("step"), same.hash("input"));
    }
}
