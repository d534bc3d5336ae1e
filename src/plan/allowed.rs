//! `--allow-base`: which images a build may use.
//!
//! Patterns are names as people write them, so a short name and a full one, with and without tag, mean what a reader expects.
//! Knows no Dockerfile; `reach` asks about each image it meets.

use crate::oci::reference::Reference;

/// The patterns of all `--allow-base`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedBases(Vec<String>);

impl AllowedBases {
    /// Patterns as typed; blank ones are dropped.
    pub fn new(patterns: impl IntoIterator<Item = String>) -> Self {
        Self(patterns.into_iter().map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect())
    }

    /// Whether an image may be used; `reference` is normalised, or an `oci-layout://` text.
    pub fn allows(&self, reference: &str) -> bool {
        let forms = forms(reference);
        self.0.iter().any(|pattern| forms.iter().any(|form| glob(pattern.as_bytes(), form.as_bytes())))
    }

    /// The patterns, for messages.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

/// All ways to write an image that a pattern may mean: full and familiar, with tag and digest, with either, with none.
fn forms(reference: &str) -> Vec<String> {
    let Ok(parsed) = Reference::parse(reference) else { return vec![reference.to_owned()] };
    let names = [parsed.repository(), parsed.familiar_name()];
    let tag = parsed.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = parsed.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
    let mut forms = Vec::new();
    for name in names {
        forms.extend([format!("{name}{tag}{digest}"), format!("{name}{tag}"), format!("{name}{digest}"), name]);
    }
    forms.sort();
    forms.dedup();
    forms
}

/// `*` stands for any text without `/`, `**` for any text, `?` for one character that is no `/`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // For each place in the text: whether the pattern read so far can end there.
    let mut open = vec![false; text.len() + 1];
    open[0] = true;
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        let mut next = vec![false; text.len() + 1];
        let (wide, star) = (rest.starts_with(b"**"), *first == b'*');
        for at in 0..=text.len() {
            if star {
                next[at] = open[at] || (at > 0 && next[at - 1] && (wide || text[at - 1] != b'/'));
            } else if at > 0 && open[at - 1] {
                next[at] = text[at - 1] == *first || (*first == b'?' && text[at - 1] != b'/');
            }
        }
        open = next;
        rest = if wide { &after[1..] } else { after };
    }
    open[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_look_like() {
        let allows = |pattern: &str, reference: &str| AllowedBases::new([pattern.to_owned()]).allows(reference);
        let debian = "docker.io/library/debian:12";
        for yes in
            ["debian", "debian:12", "debian:*", "docker.io/library/debian", "docker.io/library/*", "**", "deb?an"]
        {
            assert!(allows(yes, debian), "{yes}");
        }
        for no in ["debian:11", "alpine", "*/debian:12", "library/debian", "", "debia", "docker.io/*"] {
            assert!(!allows(no, debian), "{no}");
        }
        let golden = "registry.example.com:5000/golden/go/runtime:1.0";
        assert!(allows("registry.example.com:5000/golden/**", golden));
        assert!(allows("registry.example.com:5000/golden/*/runtime", golden));
        assert!(!allows("registry.example.com:5000/golden/*", golden));
        assert!(!allows("registry.example.com/golden/**", golden));
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("docker.io/library/debian:12@{digest}");
        for yes in
            ["debian:12".to_owned(), format!("debian@{digest}"), format!("debian:12@{digest}"), "debian".to_owned()]
        {
            assert!(allows(&yes, &pinned), "{yes}");
        }
        assert!(allows("oci-layout://base/**", "oci-layout://base/x"));
        // A repository that is called like another registry.
        assert!(!allows("registry.example.com/golden/**", "docker.io/registry.example.com/golden/x"));
    }
}
