//! Why a step ran: the first input that differs from the nearest earlier record.
//!
//! Pure over facts and listings; finding the earlier records is `step`'s business, wording for people is here because it is
//! one sentence per reason.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::record::Facts;

/// Why there was no earlier result to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum MissReason {
    /// Nothing like it was ever built here.
    FirstBuild,
    /// The user asked for it (`--no-cache`, `--no-cache-filter`).
    Forced,
    /// An input has another value than in the nearest earlier record.
    Changed {
        /// Which input.
        input: String,
        /// Its value then.
        before: String,
        /// Its value now.
        after: String,
    },
    /// An input is new.
    Added {
        /// Which input.
        input: String,
        /// Its value.
        value: String,
    },
    /// An input is gone.
    Removed {
        /// Which input.
        input: String,
    },
    /// A step before it has another result.
    Root {
        /// The step right before it.
        after: String,
    },
    /// Files differ.
    Files {
        /// Which input they belong to.
        input: String,
        /// One line for each of the first few, e.g. `src/main.rs: content changed`.
        changes: Vec<String>,
        /// How many more there are.
        more: usize,
    },
    /// The record was there, but what it points at is gone (garbage-collected or damaged).
    ResultGone,
}

/// How many changed files are named.
const NAMED_FILES: usize = 5;

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstBuild => write!(f, "never built before on this store"),
            Self::Forced => write!(f, "the cache was switched off for it"),
            Self::Changed { input, before, after } if hidden(before) && hidden(after) => write!(f, "{input} changed"),
            Self::Changed { input, before, after } => {
                write!(f, "{input} changed: {} -> {}", short(before), short(after))
            }
            Self::Added { input, value } if hidden(value) => write!(f, "{input} is new"),
            Self::Added { input, value } => write!(f, "{input} is new: {}", short(value)),
            Self::Removed { input } => write!(f, "{input} is gone"),
            Self::Files { input, changes, more } => {
                write!(f, "{input}: {}", changes.join(", "))?;
                if *more > 0 { write!(f, ", and {more} more") } else { Ok(()) }
            }
            Self::Root { after } => write!(f, "the root it starts from changed: {after} has another result"),
            Self::ResultGone => write!(f, "its earlier result is no longer in the store"),
        }
    }
}

/// Whether a value is only known by its digest, which tells people nothing.
fn hidden(value: &str) -> bool {
    let hex = value.strip_prefix("blake3:").unwrap_or(value);
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Shortens a value to what fits in a line.
fn short(value: &str) -> String {
    const MOST: usize = 60;
    let line = value.replace('\n', "\\n");
    if line.chars().count() <= MOST {
        return format!("{line:?}").replace("\\\\n", "\\n");
    }
    let head: String = line.chars().take(MOST).collect();
    format!("\"{head}…\"")
}

/// How many facts differ; the record with the fewest is the nearest one.
pub fn distance(before: &Facts, now: &Facts) -> usize {
    let map = |facts: &Facts| -> BTreeMap<String, String> {
        facts.0.iter().map(|f| (f.name.clone(), f.value.clone())).collect()
    };
    let (before, now) = (map(before), map(now));
    let changed = before.iter().filter(|(name, value)| now.get(*name) != Some(value)).count();
    changed + now.keys().filter(|name| !before.contains_key(*name)).count()
}

/// The first difference between the inputs of an earlier record and those of now; `None` if there is none.
/// `listing` gives the file listing stored under a fact's value, if there is one.
pub fn difference(before: &Facts, now: &Facts, listing: &dyn Fn(&str) -> Option<Listing>) -> Option<MissReason> {
    let find = |facts: &Facts, name: &str| facts.0.iter().find(|f| f.name == name).map(|f| f.value.clone());
    // What the step says comes before what it inherits: a changed command is the better reason than a changed parent.
    for fact in &now.0 {
        match find(before, &fact.name) {
            Some(old) if old == fact.value => {}
            Some(old) => {
                if let (Some(a), Some(b)) = (listing(&old), listing(&fact.value)) {
                    let (changes, more) = a.changes(&b);
                    return Some(MissReason::Files { input: fact.name.clone(), changes, more });
                }
                return Some(MissReason::Changed { input: fact.name.clone(), before: old, after: fact.value.clone() });
            }
            None => return Some(MissReason::Added { input: fact.name.clone(), value: fact.value.clone() }),
        }
    }
    let gone = before.0.iter().find(|f| find(now, &f.name).is_none())?;
    Some(MissReason::Removed { input: gone.name.clone() })
}

/// The files behind a content digest: path to (content, mode, kind and target), for naming what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing(pub BTreeMap<String, Listed>);

/// One file of a [`Listing`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// What it is and contains: a short digest or a link target.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

impl Listing {
    /// The first few differences in words, and how many more there are.
    pub fn changes(&self, now: &Listing) -> (Vec<String>, usize) {
        let mut all = Vec::new();
        for (path, new) in &now.0 {
            match self.0.get(path) {
                None => all.push(format!("{path} is new")),
                Some(old) if old.content != new.content => all.push(format!("{path} content changed")),
                Some(old) if old.mode != new.mode => {
                    all.push(format!("{path} mode {:04o} -> {:04o}", old.mode, new.mode));
                }
                Some(_) => {}
            }
        }
        all.extend(self.0.keys().filter(|path| !now.0.contains_key(*path)).map(|path| format!("{path} is gone")));
        if all.is_empty() {
            all.push("metadata changed".to_owned());
        }
        let more = all.len().saturating_sub(NAMED_FILES);
        all.truncate(NAMED_FILES);
        (all, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(list: &[(&str, &str)]) -> Facts {
        let mut facts = Facts::default();
        for (name, value) in list {
            facts.push(*name, *value);
        }
        facts
    }

    fn check(before: &[(&str, &str)], now: &[(&str, &str)], expected: &str) {
        let got = difference(&facts(before), &facts(now), &|_| None).map_or("same".to_owned(), |r| r.to_string());
        assert_eq!(got, expected);
    }

    #[test]
    fn names_the_first_input_that_differs() {
        check(&[("command", "make")], &[("command", "make")], "same");
        check(&[("command", "make")], &[("command", "make all")], r#"command changed: "make" -> "make all""#);
        check(&[("env A", "1")], &[("env A", "1"), ("env B", "2")], r#"env B is new: "2""#);
        check(&[("env A", "1"), ("env B", "2")], &[("env A", "1")], "env B is gone");
    }

    #[test]
    fn names_files() {
        let listing = |content: &str, mode| {
            Listing(BTreeMap::from([("src/main.rs".to_owned(), Listed { content: content.to_owned(), mode })]))
        };
        assert_eq!(listing("a", 0o644).changes(&listing("b", 0o644)).0, ["src/main.rs content changed"]);
        assert_eq!(listing("a", 0o644).changes(&listing("a", 0o664)).0, ["src/main.rs mode 0644 -> 0664"]);
        assert_eq!(listing("a", 0o644).changes(&Listing::default()).0, ["src/main.rs is gone"]);
    }

    #[test]
    fn the_nearest_record_differs_in_the_fewest_inputs() {
        let now = facts(&[("command", "a"), ("parent", "p")]);
        assert!(distance(&facts(&[("command", "a"), ("parent", "q")]), &now) < distance(&facts(&[("x", "y")]), &now));
    }
}
