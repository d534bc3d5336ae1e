//! Which part of a walked tree is kept: include patterns (`--parents`) and exclude patterns (`--exclude`, `.dockerignore`).
//!
//! Decides while a tree is walked from the top, so that whole subtrees are never opened. Pure.

use super::pattern::{Matched, Patterns};

/// Include and exclude patterns, both relative to the top of the walk.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Keep only what this matches; `None` keeps everything.
    pub include: Option<Patterns>,
    /// Drop what this matches, even if included.
    pub exclude: Patterns,
}

/// What is known about the directory something is in. The default is for the top.
#[derive(Clone, Debug, Default)]
pub struct State {
    include: Matched,
    exclude: Matched,
}

/// The decision about one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is kept.
    Keep,
    /// It is not kept for itself, but a directory may have something kept below it (and is then needed for that).
    Descend,
    /// Neither it nor anything below it is kept.
    Drop,
}

impl Filter {
    /// A filter that keeps everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// A filter that drops what `exclude` matches.
    pub fn excluding(exclude: Patterns) -> Self {
        Self { include: None, exclude }
    }

    /// Whether nothing is ever dropped.
    pub fn is_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Judges `path` (relative to the top), given the state of the directory it is in; also returns the state for what is below.
    pub fn judge(&self, path: &[u8], parent: &State) -> (Verdict, State) {
        if self.is_all() {
            return (Verdict::Keep, State::default());
        }
        let (included, include) = match &self.include {
            Some(patterns) => patterns.matches_below(path, &parent.include),
            None => (true, Matched::default()),
        };
        let (excluded, exclude) = self.exclude.matches_below(path, &parent.exclude);
        let verdict = if included && !excluded {
            Verdict::Keep
        } else if (!excluded || self.exclude.may_match_below(path, true))
            && (included || self.include.as_ref().is_some_and(|p| p.may_match_below(path, false)))
        {
            Verdict::Descend
        } else {
            Verdict::Drop
        };
        (verdict, State { include, exclude })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(include: Option<&[&str]>, exclude: &[&str], path: &str) -> Verdict {
        let patterns = |list: &[&str]| Patterns::from_flags(list).expect("valid");
        let filter = Filter { include: include.map(patterns), exclude: patterns(exclude) };
        let mut state = State::default();
        let mut result = Verdict::Keep;
        for end in path.match_indices('/').map(|(i, _)| i).chain([path.len()]) {
            (result, state) = filter.judge(&path.as_bytes()[..end], &state);
        }
        result
    }

    #[test]
    fn excluded_directories_are_entered_only_for_a_reason() {
        assert_eq!(verdict(None, &["a"], "a"), Verdict::Drop);
        assert_eq!(verdict(None, &["a", "!a/b"], "a"), Verdict::Descend);
        assert_eq!(verdict(None, &["a", "!a/b"], "a/b/c"), Verdict::Keep);
        assert_eq!(verdict(None, &["a", "!a/b"], "a/c"), Verdict::Drop);
        assert_eq!(verdict(None, &["*", "!**/x"], "a/b"), Verdict::Descend);
    }

    #[test]
    fn includes_are_entered_along_their_path() {
        assert_eq!(verdict(Some(&["a/*/c"]), &[], "a"), Verdict::Descend);
        assert_eq!(verdict(Some(&["a/*/c"]), &[], "b"), Verdict::Drop);
        assert_eq!(verdict(Some(&["a/*/c"]), &[], "a/x"), Verdict::Descend);
        assert_eq!(verdict(Some(&["a/*/c"]), &[], "a/x/c/d"), Verdict::Keep);
        assert_eq!(verdict(Some(&["a/*/c"]), &[], "a/x/d"), Verdict::Drop);
        assert_eq!(verdict(Some(&["a"]), &["a/b"], "a/b"), Verdict::Drop);
        assert_eq!(verdict(Some(&["**/z"]), &[], "q"), Verdict::Descend);
    }
}
