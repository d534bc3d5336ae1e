//! `.dockerignore`: which file counts, how its lines are read, and which line hides a path.
//!
//! What patterns mean is `transfer::pattern`'s business. Knows no tree.

use std::io::{self, Read as _};

use crate::files::Root;
use crate::tar::entry::LayerPath;
use crate::transfer::pattern::{PatternError, Patterns, clean, trim};
use crate::transfer::{Absence, Filter};

/// Most bytes of an ignore file that are read; far more than any real one has.
const MAX_FILE: u64 = 16 << 20;

/// The rules of one ignore file.
#[derive(Clone, Debug)]
pub struct Ignore {
    /// Its name, for messages.
    pub file: String,
    filter: Filter,
}

/// An ignore file cannot be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum IgnoreError {
    /// It could not be read.
    #[error("{file}: {source}")]
    Io {
        /// Which file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A line is no pattern.
    #[error("{file}:{line}: {source}")]
    Pattern {
        /// Which file.
        file: String,
        /// 1-based line.
        line: u32,
        /// What is wrong.
        source: PatternError,
    },
}

impl Ignore {
    /// Reads the text of an ignore file.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut lines = Vec::new();
        for (line, number) in text.split(|b| *b == b'\n').zip(1u32..) {
            if line.starts_with(b"#") || trim(line).is_empty() {
                continue;
            }
            let pattern = normal_form(trim(line));
            // One by one first, so that a fault has a line.
            Patterns::new([(number, pattern.as_slice())]).map_err(|source| IgnoreError::Pattern {
                file: file.to_owned(),
                line: number,
                source,
            })?;
            lines.push((number, pattern));
        }
        let patterns = Patterns::new(lines.iter().map(|(n, p)| (*n, p.as_slice())))
            .map_err(|source| IgnoreError::Pattern { file: file.to_owned(), line: 0, source })?;
        Ok(Self { file: file.to_owned(), filter: Filter::excluding(patterns) })
    }

    /// Finds the ignore file of a build: `<Dockerfile>.dockerignore` beside the Dockerfile if it is there, even when empty;
    /// else `.dockerignore` in the context. `dockerfile` is the Dockerfile's directory and its name there.
    pub fn load(context: &Root, dockerfile: Option<(&Root, &str)>) -> Result<Option<Self>, IgnoreError> {
        if let Some((dir, name)) = dockerfile {
            let name = format!("{name}.dockerignore");
            if let Some(found) = Self::read(dir, &name)? {
                return Ok(Some(found));
            }
        }
        Self::read(context, ".dockerignore")
    }

    fn read(root: &Root, name: &str) -> Result<Option<Self>, IgnoreError> {
        let failed = |source| IgnoreError::Io { file: name.to_owned(), source };
        let file = match root.follow(&LayerPath::clean(name)) {
            // A directory of that name is as good as none, as in BuildKit.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => None,
            file => file.map_err(failed)?,
        };
        let Some(file) = file else { return Ok(None) };
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
        Self::parse(name, &text).map(Some)
    }

    /// The patterns, as a filter relative to the context's root.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The patterns in order.
    pub fn patterns(&self) -> &Patterns {
        &self.filter.exclude
    }

    /// The line that excludes a path, if one does.
    pub fn why(&self, path: &LayerPath) -> Option<Absence> {
        let pattern = self.patterns().deciding(path.as_bytes()).filter(|p| !p.negated)?;
        Some(Absence::Ignored { file: self.file.clone(), line: pattern.line, pattern: pattern.to_string() })
    }
}

/// A pattern as matched: cleaned, without a leading slash, blanks after `!` dropped.
fn normal_form(pattern: &[u8]) -> Vec<u8> {
    let (sign, text) = match pattern.strip_prefix(b"!") {
        Some(rest) => (b"!".as_slice(), trim(rest)),
        None => (b"".as_slice(), pattern),
    };
    if text.is_empty() {
        return sign.to_vec();
    }
    let cleaned = clean(text);
    let relative = match cleaned.as_slice() {
        [b'/', rest @ ..] if !rest.is_empty() => rest,
        whole => whole,
    };
    [sign, relative].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, excluded: &[&str], kept: &[&str]) {
        let ignore = Ignore::parse(".dockerignore", text.as_bytes()).expect("valid");
        for (paths, expected) in [(excluded, true), (kept, false)] {
            for path in paths {
                assert_eq!(ignore.patterns().matches(path.as_bytes()), expected, "{path} with {text:?}");
            }
        }
    }

    #[test]
    fn observed_39_lines() {
        check(
            "# *.md\n\n   b.txt   \n #indented\n! keep \n\t\nd \n",
            &["b.txt", "#indented", "d/x"],
            &["a.md", "#x", "keep"],
        );
        check("\u{feff}a\r\nb\r\n", &["a", "b"], &["a\r"]);
        check("/abs/\n./rel\nx/../y\n", &["abs/f", "rel", "y"], &["x"]);
        check("*\n!/keep\n", &["other"], &["keep/x"]);
        check("", &[], &["a"]);
    }

    #[test]
    fn faults_have_a_line() {
        let fault = |text: &str| Ignore::parse("x.dockerignore", text.as_bytes()).err().map(|e| e.to_string());
        assert_eq!(fault("a\n!\n").as_deref(), Some("x.dockerignore:2: illegal exclusion pattern: \"!\""));
        assert_eq!(fault("[a\n").as_deref(), Some("x.dockerignore:1: syntax error in pattern \"[a\""));
    }

    #[test]
    fn the_reason_names_line_and_pattern() {
        let ignore = Ignore::parse(".dockerignore", b"# c\nd\n!d/keep\n").expect("valid");
        let why = |path: &str| ignore.why(&LayerPath::clean(path)).and_then(|a| a.help());
        assert_eq!(why("d/x").as_deref(), Some("it is excluded by .dockerignore:2: d"));
        assert_eq!(why("d/keep"), None);
        assert_eq!(why("e"), None);
    }

    #[test]
    fn observed_39_an_empty_file_of_the_dockerfile_wins() {
        let dir = tempfile::tempdir().expect("temp dir");
        let write = |name: &str, text: &str| fs_err::write(dir.path().join(name), text).expect("write");
        let root = Root::open(dir.path()).expect("root");
        let load = |name: &str| {
            let found = Ignore::load(&root, Some((&root, name))).expect("readable");
            found.map(|i| (i.file.clone(), i.patterns().iter().count()))
        };
        assert_eq!(load("Dockerfile"), None);
        write(".dockerignore", "*.md\n");
        assert_eq!(load("Dockerfile"), Some((".dockerignore".to_owned(), 1)));
        fs_err::create_dir(dir.path().join("dir.dockerignore")).expect("create");
        assert_eq!(load("dir"), Some((".dockerignore".to_owned(), 1)));
        write("Dockerfile.dockerignore", "");
        assert_eq!(load("Dockerfile"), Some(("Dockerfile.dockerignore".to_owned(), 0)));
    }
}
