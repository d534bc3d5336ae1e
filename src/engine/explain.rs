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
                let (before, after) = around(&shown(before), &shown(after));
                write!(f, "{input} changed: {before} -> {after}")
            }
            Self::Added { input, value } if hidden(value) => write!(f, "{input} is new"),
            Self::Added { input, value } => write!(f, "{input} is new: {}", around(&shown(value), "").0),
            Self::Removed { input } => write!(f, "{input} is gone"),
            Self::Files { input, changes, more } => {
                write!(f, "{input}: {}", changes.join(", "))?;
                if *more > 0 { write!(f, ", and {more} more") } else { Ok(()) }
            }
            Self::Root { after } => match after.strip_prefix("FROM ") {
                Some(image) => write!(f, "the base image changed: {image} is another one now"),
                None => write!(f, "the root it starts from changed: {after} has another result"),
            },
            Self::ResultGone => write!(f, "its earlier result is no longer in the store"),
        }
    }
}

/// Whether a value is only known by its digest, which tells people nothing.
fn hidden(value: &str) -> bool {
    let hex = value.strip_prefix("blake3:").unwrap_or(value);
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A value as people wrote it: of a command in shell form the text, without the shell; on one line.
fn shown(value: &str) -> String {
    let text = value.strip_prefix(r#"["/bin/sh" "-c" ""#).and_then(|rest| rest.strip_suffix(r#""]"#));
    text.map_or_else(|| value.to_owned(), |text| text.replace(r#"\""#, "\"")).replace('\n', "\\n")
}

/// Two values, quoted and shortened to what is around the first difference.
fn around(before: &str, after: &str) -> (String, String) {
    const MOST: usize = 60;
    const BEFORE: usize = 20;
    let same = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| {
        let length = text.chars().count();
        if length <= MOST {
            return format!("\"{text}\"");
        }
        let start = same.saturating_sub(BEFORE).min(length - MOST);
        let middle: String = text.chars().skip(start).take(MOST).collect();
        let (left, right) = (if start > 0 { "…" } else { "" }, if start + MOST < length { "…" } else { "" });
        format!("\"{left}{middle}{right}\"")
    };
    (part(before), part(after))
}

/// How many facts differ; the record with the fewest is the nearest one. What was read at a destination follows from the rest.
pub fn distance(before: &Facts, now: &Facts) -> usize {
    let map = |facts: &Facts| -> BTreeMap<String, String> {
        let said = facts.0.iter().filter(|fact| !fact.name.starts_with("destination /"));
        said.map(|f| (f.name.clone(), f.value.clone())).collect()
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

impl Listed {
    /// Whether it has content, so that the same content elsewhere means something.
    fn is_file(&self) -> bool {
        self.content.len() == 16 && self.content.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl Listing {
    /// The first few differences in words, and how many more there are.
    pub fn changes(&self, now: &Listing) -> (Vec<String>, usize) {
        let mut all = Vec::new();
        let mut gone: BTreeMap<&String, &Listed> =
            self.0.iter().filter(|(path, _)| !now.0.contains_key(*path)).collect();
        for (path, new) in &now.0 {
            match self.0.get(path) {
                None => match gone.iter().find(|(_, old)| *old == &new && new.is_file()).map(|(path, _)| *path) {
                    Some(from) => {
                        gone.remove(from);
                        all.push(format!("{from} is called {path} now"));
                    }
                    None => all.push(format!("{path} is new")),
                },
                Some(old) if old.content != new.content => all.push(format!("{path} content changed")),
                Some(old) if old.mode != new.mode => {
                    all.push(format!("{path} mode {:04o} -> {:04o}", old.mode, new.mode));
                }
                Some(_) => {}
            }
        }
        all.extend(gone.into_keys().map(|path| format!("{path} is gone")));
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
        let called = |path: &str, content: &str| {
            Listing(BTreeMap::from([(path.to_owned(), Listed { content: content.to_owned(), mode: 0o644 })]))
        };
        let (one, two) = ("0123456789abcdef", "fedcba9876543210");
        assert_eq!(called("a", one).changes(&called("b", one)).0, ["a is called b now"]);
        assert_eq!(called("a", one).changes(&called("b", two)).0, ["b is new", "a is gone"]);
    }

    #[test]
    fn long_values_are_shown_around_the_difference() {
        let command = |text: &str| format!("[\"/bin/sh\" \"-c\" \"{text}\"]");
        let long = "apt-get update && apt-get install -y --no-install-recommends build-essential ";
        check(
            &[("command", &command(&format!("{long}curl && rm -rf x")))],
            &[("command", &command(&format!("{long}wget && rm -rf x")))],
            "command changed: \"… -y --no-install-recommends build-essential curl && rm -rf x\" -> \
             \"… -y --no-install-recommends build-essential wget && rm -rf x\"",
        );
    }

    #[test]
    fn the_nearest_record_differs_in_the_fewest_inputs() {
        let now = facts(&[("command", "a"), ("parent", "p")]);
        assert!(distance(&facts(&[("command", "a"), ("parent", "q")]), &now) < distance(&facts(&[("x", "y")]), &now));
    }
}
