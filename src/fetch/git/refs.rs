//! What a remote's list of refs says about the ref that was asked for. Pure.

use super::GitError;

/// A commit that a source stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its full id. Where the source gives an id itself, that may be a tag object's; it is looked at when it is there.
    pub id: String,
    /// The annotated tag object that led to it.
    pub tag: Option<String>,
    /// The ref's full name on the remote, e.g. `refs/heads/main`; `None` for a bare id.
    pub reference: Option<String>,
}

/// Whether a text is a whole object id, SHA-1 or SHA-256.
pub(super) fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A ref that git could take for an option, or that can be no ref, is refused.
pub(super) fn check_name(name: &str) -> Result<(), GitError> {
    if name.starts_with('-') || name.chars().any(|c| c.is_control() || c == ' ') {
        return Err(GitError::Invalid(format!("invalid git ref {name:?}")));
    }
    Ok(())
}

/// Whether `refs/…` can be the name of a ref: what `git check-ref-format` says.
pub(super) fn is_full_name(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.strip_suffix(".lock").is_none();
    name.starts_with("refs/")
        && !name.ends_with('.')
        && !name.contains("..")
        && !name.contains("@{")
        && !name.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c))
        && name.split('/').all(part)
}

/// Picks `asked` from the output of `git ls-remote`: a full name first, then a branch, then a tag. `None` asks for the default
/// branch, whose line is called `HEAD`, or with `--symref` is told by a line of its own.
pub(super) fn pick(asked: Option<&str>, output: &str, remote: &str) -> Result<Commit, GitError> {
    let lines = || output.lines().filter_map(|line| line.split_once('\t'));
    let id = |name: &str| lines().find(|(id, found)| *found == name && is_id(id)).map(|(id, _)| id.to_owned());
    let Some(asked) = asked.filter(|asked| *asked != "HEAD") else {
        let missing = || GitError::Invalid(format!("could not find default branch for repository: {remote}"));
        let reference = lines().find_map(|(target, name)| target.strip_prefix("ref: ").filter(|_| name == "HEAD"));
        let reference = reference.filter(|name| is_full_name(name)).map(str::to_owned);
        return Ok(Commit { id: id("HEAD").ok_or_else(missing)?, tag: None, reference });
    };
    let full = format!("refs/{}", asked.strip_prefix("refs/").unwrap_or(asked));
    let head = format!("refs/heads/{}", asked.strip_prefix("refs/heads/").unwrap_or(asked));
    let tag = format!("refs/tags/{}", asked.strip_prefix("refs/tags/").unwrap_or(asked));
    for name in [full, head, tag] {
        let Some(id_of_ref) = id(&name) else { continue };
        // An annotated tag has a second line for what it points at.
        let (id, tag) = match id(&format!("{name}^{{}}")) {
            Some(commit) => (commit, Some(id_of_ref)),
            None => (id_of_ref, None),
        };
        return Ok(Commit { id, tag, reference: Some(name) });
    }
    Err(GitError::Invalid(format!("repository does not contain ref {asked}, output: {output:?}")))
}

/// Whether a commit is the one that was asked for: ids may be shortened, and that of the tag will do.
pub(super) fn check_sum(commit: &Commit, checksum: &str) -> Result<(), GitError> {
    if !commit.id.starts_with(checksum) && !commit.tag.as_ref().is_some_and(|tag| tag.starts_with(checksum)) {
        let or_tag = commit.tag.as_ref().map_or(String::new(), |tag| format!(" or {tag}"));
        let text = format!("expected checksum to match {checksum}, got {}{or_tag}", commit.id);
        return Err(GitError::Invalid(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> String {
        let full = |word: &str| word.repeat(40);
        text.split('\n')
            .map(|line| match line.split_once(' ') {
                Some((id, name)) if id.len() == 1 => format!("{}\t{name}\n", full(id)),
                _ => format!("{}\n", line.replacen("HEAD=", "\tHEAD", 1)),
            })
            .collect()
    }

    fn check(asked: &str, output: &str, expected: &str) {
        let asked = (!asked.is_empty()).then_some(asked);
        let shown = match pick(asked, &ids(output), "R") {
            Ok(Commit { id, tag, reference }) => {
                let tag = tag.map_or(String::new(), |tag| format!(" tag {}", &tag[..1]));
                format!("{}{tag} {}", &id[..1], reference.unwrap_or_default())
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn branches_come_before_tags() {
        check("", "ref: refs/heads/mainHEAD=\na HEAD", "a refs/heads/main");
        check("", "a HEAD", "a ");
        check("", "", "could not find default branch for repository: R");
        check("HEAD", "ref: refs/heads/-xHEAD=\na HEAD", "a refs/heads/-x");
        check("v1", "a refs/heads/v1\nb refs/tags/v1\nc refs/tags/v1^{}", "a refs/heads/v1");
        check("v1", "b refs/tags/v1\nc refs/tags/v1^{}", "c tag b refs/tags/v1");
        check("refs/tags/v1", "a refs/heads/v1\nb refs/tags/v1", "b refs/tags/v1");
        check("tags/v1", "b refs/tags/v1", "b refs/tags/v1");
        check("pull/1/head", "d refs/pull/1/head", "d refs/pull/1/head");
        check(
            "main",
            "a refs/heads/x/main",
            &format!("repository does not contain ref main, output: {:?}", ids("a refs/heads/x/main")),
        );
    }

    #[test]
    fn names_that_are_options_are_refused() {
        for bad in ["--upload-pack=x", "-x", "a\nb", "a b"] {
            let text = check_name(bad).expect_err("refused").to_string();
            assert_eq!(text, format!("invalid git ref {bad:?}"));
        }
        assert!(check_name("feature/x-1").is_ok());
        for bad in ["main", "refs/", "refs/a..b", "refs/a.lock", "refs/.a", "refs//a", "refs/a:b", "refs/a^", "refs/a."]
        {
            assert!(!is_full_name(bad), "{bad}");
        }
        assert!(is_full_name("refs/heads/feature/x-1"));
    }

    #[test]
    fn checksums() {
        let commit = Commit { id: "abc1".into(), tag: Some("def2".into()), reference: None };
        assert!(check_sum(&commit, "ab").is_ok() && check_sum(&commit, "def").is_ok());
        let text = check_sum(&commit, "1").expect_err("differs").to_string();
        assert_eq!(text, "expected checksum to match 1, got abc1 or def2");
    }
}
