//! What an ADD source is: a git repository, an http(s) address or a path. Decided by its text alone, fetched elsewhere.

use url::Url;

use crate::plan::graph::GitSource;
use crate::plan::paths;

/// A source of ADD or COPY by its looks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A path in a tree.
    Path,
    /// An address; its file is called `name` in a destination that is a directory.
    Http { name: String },
    /// A repository.
    Git(Git),
}

/// A git source with the options its text carries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Git {
    /// As given to git: without fragment and query.
    pub(crate) remote: String,
    pub(crate) reference: Option<String>,
    pub(crate) subdir: Option<String>,
    pub(crate) checksum: Option<String>,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) submodules: Option<bool>,
    pub(crate) fetch_by_commit: bool,
    pub(crate) commit_times: bool,
}

/// A context by its address: a git source as for ADD, and with the old form `github.com/OWNER/NAME`. `None` if it is none.
/// A fault in its query is an error.
pub fn git_context(text: &str) -> Result<Option<GitSource>, String> {
    let full;
    let (text, lenient) = if text.starts_with("github.com/") {
        full = format!("https://{text}");
        (full.as_str(), true)
    } else {
        (text, false)
    };
    let Some(git) = git(text, lenient)? else { return Ok(None) };
    Ok(Some(GitSource {
        remote: git.remote,
        reference: git.reference,
        subdir: git.subdir,
        keep_git_dir: git.keep_git_dir.unwrap_or(false),
        checksum: git.checksum,
        submodules: git.submodules.unwrap_or(true),
        fetch_by_commit: git.fetch_by_commit,
        commit_times: git.commit_times,
    }))
}

/// Tells what `text` is; a fault in a git source's query is an error.
pub(crate) fn source(text: &str) -> Result<Source, String> {
    if let Some(git) = git(text, false)? {
        return Ok(Source::Git(git));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(Source::Http { name: file_name(text) });
    }
    Ok(Source::Path)
}

/// The last segment of the path, decoded, or a fixed name where there is none.
fn file_name(address: &str) -> String {
    const UNNAMED: &str = "__unnamed__";
    let Ok(url) = Url::parse(address) else { return UNNAMED.to_owned() };
    let path = percent_decoded(url.path());
    match paths::base_name(&path) {
        name if name == "/" || name == "." => UNNAMED.to_owned(),
        name => name,
    }
}

/// A git source: `git@host:path`, `git://`, `ssh://`, or http(s) with a path that ends in `.git` (any path if `lenient`).
fn git(text: &str, lenient: bool) -> Result<Option<Git>, String> {
    if text.starts_with("./") || text.starts_with("../") || text.starts_with("github.com/") {
        return Ok(None);
    }
    let (rest, fragment) = text.split_once('#').map_or((text, None), |(rest, fragment)| (rest, Some(fragment)));
    let (remote, query) = rest.split_once('?').map_or((rest, None), |(remote, query)| (remote, Some(query)));
    let remote = match remote.split_once("://") {
        Some((scheme, place)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) && !scheme.is_empty() => {
            // git takes them in lower case only.
            let scheme = scheme.to_ascii_lowercase();
            let known = match scheme.as_str() {
                "http" | "https" => lenient || place.contains('/') && place.strip_suffix(".git").is_some(),
                "git" | "ssh" => true,
                _ => false,
            };
            known.then(|| format!("{scheme}://{place}"))
        }
        _ => is_scp_style(remote).then(|| remote.to_owned()),
    };
    let Some(remote) = remote else { return Ok(None) };
    let mut git = Git { remote, ..Git::default() };
    if let Some(fragment) = fragment.filter(|fragment| !fragment.is_empty()) {
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        git.reference = text_of(&percent_decoded(reference));
        git.subdir = text_of(paths::clean(&percent_decoded(subdir)).trim_start_matches('/'));
    }
    if let Some(query) = query {
        git.read_query(query)?;
    }
    Ok(Some(git))
}

/// `user@host:path`
fn is_scp_style(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |text: &str, extra: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || extra.contains(&b))
    };
    word(user, b"_") && word(host, b".")
}

impl Git {
    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let (mut tag, mut branch) = (None, None);
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if !seen.insert(key.to_string()) {
                return Err(format!("query {key:?} has multiple values"));
            }
            let flag = |value: &str| {
                if value.is_empty() {
                    return Ok(true);
                }
                boolean(value).ok_or_else(|| format!("invalid {key} value: {value:?}"))
            };
            let key = key.as_ref();
            if value.is_empty() && !matches!(key, "submodules" | "keep-git-dir" | "fetch-by-commit") {
                return Err(format!("query {key:?} has no value"));
            }
            match key {
                "ref" => self.set_reference(&value)?,
                "tag" => tag = Some(value.into_owned()),
                "branch" => branch = Some(value.into_owned()),
                "subdir" => match &self.subdir {
                    Some(other) if *other != value => {
                        return Err(format!("subdir conflicts: {other:?} vs {value:?}"));
                    }
                    Some(_) | None => self.subdir = Some(value.into_owned()),
                },
                "checksum" | "commit" => self.checksum = Some(value.into_owned()),
                "keep-git-dir" => self.keep_git_dir = Some(flag(&value)?),
                "submodules" => self.submodules = Some(flag(&value)?),
                "fetch-by-commit" => self.fetch_by_commit = flag(&value)?,
                "mtime" if value == "checkout" || value == "commit" => self.commit_times = value == "commit",
                "mtime" => {
                    return Err(format!("invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")"));
                }
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if branch.is_some() && tag.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            let Some(name) = name else { continue };
            let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
            self.set_reference(&full)?;
        }
        Ok(())
    }

    fn set_reference(&mut self, reference: &str) -> Result<(), String> {
        match &self.reference {
            Some(other) if other != reference => Err(format!("ref conflicts: {other:?} vs {reference:?}")),
            Some(_) | None => {
                self.reference = Some(reference.to_owned());
                Ok(())
            }
        }
    }
}

/// The spellings of Go's `ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn text_of(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let decoded = hex.filter(|_| *first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(text: &str) -> Git {
        match source(text) {
            Ok(Source::Git(git)) => git,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn paths_and_addresses() {
        for text in ["a/b", "./x.git", "github.com/a/b", "http:/x", "git@", "user@host", "file:///x"] {
            assert_eq!(source(text), Ok(Source::Path), "{text}");
        }
        for (text, name) in [
            ("http://h/a/b.tar.gz?x=1#f", "b.tar.gz"),
            ("https://h", "__unnamed__"),
            ("https://h/", "__unnamed__"),
            ("https://h/a%20b/", "a b"),
        ] {
            assert_eq!(source(text), Ok(Source::Http { name: name.into() }), "{text}");
        }
    }

    #[test]
    fn git_sources() {
        let plain = git("https://h/o/r.git#v1:sub/dir");
        assert_eq!(plain.remote, "https://h/o/r.git");
        assert_eq!((plain.reference.as_deref(), plain.subdir.as_deref()), (Some("v1"), Some("sub/dir")));
        assert_eq!(git("git@h.x:o/r.git#main").remote, "git@h.x:o/r.git");
        assert_eq!(git("git://h/r").reference, None);
        assert_eq!(git("HTTPS://h/o/R.git").remote, "https://h/o/R.git");
        let query = git("ssh://git@h/r.git?tag=v1&keep-git-dir&commit=abc&submodules=false");
        assert_eq!(query.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!((query.keep_git_dir, query.submodules), (Some(true), Some(false)));
        assert_eq!(query.checksum.as_deref(), Some("abc"));
        for (text, message) in [
            ("git://h/r?x=1", "unexpected query \"x\""),
            ("git://h/r?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("git://h/r?tag=a&branch=b", "branch conflicts with tag"),
            ("git://h/r?ref=", "query \"ref\" has no value"),
        ] {
            assert_eq!(source(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn git_contexts() {
        let context = |text: &str| git_context(text).map(|git| git.map(|git| (git.remote, git.reference, git.subdir)));
        let found = |remote: &str, reference: Option<&str>, subdir: Option<&str>| {
            Ok(Some((remote.to_owned(), reference.map(str::to_owned), subdir.map(str::to_owned))))
        };
        // The old form needs no `.git`, and is none for ADD.
        assert_eq!(context("github.com/o/r#v1:d"), found("https://github.com/o/r", Some("v1"), Some("d")));
        assert_eq!(context("https://h/r.git#:a/../../b"), found("https://h/r.git", None, Some("b")));
        assert_eq!(
            context("https://h/r.git?subdir=d&branch=x"),
            found("https://h/r.git", Some("refs/heads/x"), Some("d"))
        );
        for text in [
            "https://h/r",
            "./x.git",
            "../r.git",
            "file:///r.git",
            "ext::sh -c x",
            "h:r.git",
            "a/b@c:d",
            "https://h.git",
        ] {
            assert_eq!(context(text), Ok(None), "{text}");
        }
        let flags = git_context("git@h:r?mtime=commit&fetch-by-commit&keep-git-dir=0&submodules=F")
            .expect("good")
            .expect("git");
        assert!(flags.commit_times && flags.fetch_by_commit && !flags.keep_git_dir && !flags.submodules);
        for (query, message) in [
            ("mtime=now", "invalid mtime value: \"now\" (must be \"checkout\" or \"commit\")"),
            ("keep-git-dir=maybe", "invalid keep-git-dir value: \"maybe\""),
            ("submodules=2", "invalid submodules value: \"2\""),
            ("fetch-by-commit=x", "invalid fetch-by-commit value: \"x\""),
            ("ref=a&ref=a", "query \"ref\" has multiple values"),
            ("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
            ("subdir", "query \"subdir\" has no value"),
        ] {
            assert_eq!(context(&format!("https://h/r.git?{query}")), Err(message.to_owned()), "{query}");
        }
        assert_eq!(context("https://h/r.git?subdir=a#:b"), Err("subdir conflicts: \"b\" vs \"a\"".to_owned()));
    }
}
