//! Patterns of COPY's sources: tables of what matches, and properties of all patterns.

use proptest::prelude::*;

use super::*;

fn list(patterns: &[&str]) -> Patterns {
    Patterns::from_flags(patterns).expect("valid patterns")
}

fn check(patterns: &[&str], path: &str, expected: bool) {
    assert_eq!(list(patterns).matches(path.as_bytes()), expected, "{patterns:?} on {path}");
}

#[test]
fn single_patterns_as_in_docker_s_own_tests() {
    for (pattern, path, expected) in [
        ("**", "file", true),
        ("**", "file/", true),
        ("**/", "file", true),
        ("**", "dir/file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**file", "dir/xfile", true),
        ("**/file", "dir/xfile", false),
        ("**/file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abcdef", false),
        ("a\\\\", "a\\", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false),
        ("abc/**", "abc/def", true),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", ".foo", true),
        ("**/.foo", "bar.foo", false),
        ("./bar.*", "bar.go", true),
        ("a(b)c/def", "a(b)c/def", true),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("docs/", "docs/x", true),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
        ("/foo", "foo", false),
    ] {
        check(&[pattern], path, expected);
    }
}

#[test]
fn observed_39_later_patterns_win() {
    check(&["*.md"], "a.md", true);
    check(&["*.md"], "d/a.md", false);
    check(&["*", "!d", "d/e", "!d/e/f.md"], "d/c.md", false);
    check(&["*", "!d", "d/e", "!d/e/f.md"], "d/e/g.txt", true);
    check(&["*", "!d", "d/e", "!d/e/f.md"], "d/e/f.md", false);
    check(&["keep", "!keep/sub/l"], "keep/sub/l", false);
    check(&["keep", "!keep/sub/l"], "keep/sub", true);
    check(&["!d", "d"], "d", true);
    check(&["D"], "d", false);
    // What was not consulted for `foo` is not consulted again for what is in it.
    check(&["*/bar", "!foo"], "foo/bar", true);
    check(&["foo", "*/bar", "!foo"], "foo/bar", false);
}

#[test]
fn the_deciding_pattern_can_be_named() {
    let patterns = Patterns::new([(2, b"a".as_slice()), (5, b"!a/b"), (7, b"a/b/c")]).expect("valid");
    let line = |path: &str| patterns.deciding(path.as_bytes()).map(|p| (p.line, p.to_string()));
    assert_eq!(line("a/x"), Some((2, "a".to_owned())));
    assert_eq!(line("a/b"), Some((5, "!a/b".to_owned())));
    assert_eq!(line("a/b/c/d"), Some((7, "a/b/c".to_owned())));
    assert_eq!(line("q"), None);
}

#[test]
fn faults_are_named() {
    assert_eq!(Patterns::from_flags(&["!"]).err(), Some(PatternError::LoneExclamation));
    assert_eq!(Patterns::from_flags(&["a[b"]).err(), Some(PatternError::Syntax("a[b".to_owned())));
    assert!(list(&["", "  "]).is_empty());
}

#[test]
fn cleaning_is_go_s() {
    for (path, expected) in [
        ("", "."),
        ("a//b/./c/", "a/b/c"),
        ("a/../b", "b"),
        ("../../a", "../../a"),
        ("/../a", "/a"),
        ("/", "/"),
        ("a/..", "."),
        ("!x/", "!x"),
    ] {
        assert_eq!(String::from_utf8_lossy(&clean(path.as_bytes())), expected, "{path}");
    }
}

/// What a pattern means, said as plainly as possible: all ends it can reach in `path`, step by step.
fn naive(pattern: &str, path: &str) -> bool {
    fn ends(pattern: &[char], path: &[char], starts: &[usize]) -> Vec<usize> {
        let Some(first) = pattern.first() else { return starts.to_vec() };
        let (next, used): (Vec<usize>, usize) = match first {
            '*' if pattern.get(1) == Some(&'*') => {
                let used = if pattern.get(2) == Some(&'/') { 3 } else { 2 };
                let last = used == pattern.len();
                let reach = |s: usize| (s..=path.len()).filter(move |e| last || *e == s || path[*e - 1] == '/');
                (starts.iter().flat_map(|s| reach(*s)).collect(), used)
            }
            '*' => {
                let reach = |s: usize| (s..=path.len()).filter(move |e| !path[s..*e].contains(&'/'));
                (starts.iter().flat_map(|s| reach(*s)).collect(), 1)
            }
            '?' => (starts.iter().filter(|s| path.get(**s).is_some_and(|c| *c != '/')).map(|s| s + 1).collect(), 1),
            c => (starts.iter().filter(|s| path.get(**s) == Some(c)).map(|s| s + 1).collect(), 1),
        };
        ends(&pattern[used..], path, &next)
    }
    let plain = |text: &str| !text.contains(['*', '?']);
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    match pattern.strip_prefix("**") {
        // Docker takes `**x` for "ends in x" when nothing else is special.
        Some(suffix) if !suffix.is_empty() && plain(suffix) => {
            path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path)
        }
        _ => ends(&p, &t, &[0]).contains(&t.len()),
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_the_naive_reading(pattern in "[ab/*?]{1,8}", path in "[ab]{1,3}(/[ab]{1,2}){0,3}") {
        let cleaned = String::from_utf8(clean(pattern.as_bytes())).expect("text");
        let patterns = list(&[&pattern]);
        let Some(one) = patterns.iter().next() else { return Ok(()) };
        prop_assert_eq!(one.matches(path.as_bytes()), naive(&cleaned, &path), "{} on {}", cleaned, path);
    }

    #[test]
    fn nothing_below_matches_what_cannot(pattern in "[ab/*?]{1,6}", path in "[ab]{1,2}(/[ab]{1,2}){0,3}") {
        let patterns = list(&[&pattern]);
        let Some(one) = patterns.iter().next() else { return Ok(()) };
        for (end, _) in path.match_indices('/') {
            if one.matches(path.as_bytes()) {
                prop_assert!(one.may_match_below(&path.as_bytes()[..end]), "{} below {}", pattern, &path[..end]);
            }
        }
    }

    #[test]
    fn any_bytes_are_taken(patterns in prop::collection::vec(".{0,12}", 0..4), path in "\\PC{1,12}") {
        if let Ok(patterns) = Patterns::from_flags(&patterns) {
            patterns.matches(path.trim_matches('/').as_bytes());
        }
    }
}
