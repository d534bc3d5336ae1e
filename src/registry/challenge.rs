//! What a `WWW-Authenticate` header asks for, and the scopes a token is good for. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One challenge of a 401 answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// Name of the registry for the token server.
        service: Option<String>,
        /// What the registry thinks we need.
        scope: Scopes,
    },
}

impl Challenge {
    /// The strongest challenge of these header values that we can answer: Bearer before Basic.
    pub(super) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut best = None;
        for (scheme, parameters) in headers.into_iter().flat_map(split) {
            match scheme.to_ascii_lowercase().as_str() {
                "bearer" => {
                    let realm = parameters.get("realm")?.clone();
                    let service = parameters.get("service").cloned();
                    let scope = parameters.get("scope").map(|text| Scopes::parse(text)).unwrap_or_default();
                    return Some(Self::Bearer { realm, service, scope });
                }
                "basic" => best = Some(Self::Basic),
                _ => {}
            }
        }
        best
    }
}

/// The error a challenge gives as its reason, e.g. `insufficient_scope`.
pub(super) fn reason<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<String> {
    headers.into_iter().flat_map(split).find_map(|(_, mut parameters)| parameters.remove("error"))
}

/// Splits `Scheme k=v, k="v", Scheme2 …` into schemes and their parameters.
fn split(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut out: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        match after.strip_prefix('=') {
            Some(value) => {
                let (value, left) = take_value(value);
                if let Some((_, parameters)) = out.last_mut() {
                    parameters.insert(word.to_ascii_lowercase(), value);
                }
                rest = left;
            }
            None if word.is_empty() => rest = &after[1..],
            None => {
                out.push((word.to_owned(), BTreeMap::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    out
}

fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[i + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// What a token allows, merged per resource: `repository:library/alpine:pull`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// Reading one repository.
    pub(super) fn pull(path: &str) -> Self {
        Self::default().and(path, &["pull"])
    }
    /// Reading and writing one repository.
    pub(super) fn push(path: &str) -> Self {
        Self::default().and(path, &["pull", "push"])
    }
    /// Listing the repositories of a registry.
    pub(super) fn catalog() -> Self {
        Self(BTreeMap::from([("registry:catalog".to_owned(), BTreeSet::from(["*".to_owned()]))]))
    }
    /// These scopes and `actions` on one more repository.
    pub(super) fn and(mut self, path: &str, actions: &[&str]) -> Self {
        let entry = self.0.entry(format!("repository:{path}")).or_default();
        entry.extend(actions.iter().map(|action| (*action).to_owned()));
        self
    }
    /// These scopes and those.
    pub(super) fn merge(mut self, other: &Self) -> Self {
        for (resource, actions) in &other.0 {
            self.0.entry(resource.clone()).or_default().extend(actions.iter().cloned());
        }
        self
    }
    /// One text a resource, as token servers want them.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            format!("{resource}:{}", actions.iter().map(String::as_str).collect::<Vec<_>>().join(","))
        })
    }
    fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for scope in text.split_ascii_whitespace() {
            if let Some((resource, actions)) = scope.rsplit_once(':') {
                out.0.entry(resource.to_owned()).or_default().extend(actions.split(',').map(str::to_owned));
            }
        }
        out
    }
}

/// The form of progress lines: `library/alpine:pull`.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.texts().collect();
        f.write_str(&texts.iter().map(|t| t.strip_prefix("repository:").unwrap_or(t)).collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_all_their_quirks() {
        let bearer = |realm: &str, service: Option<&str>, scope: &str| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: Scopes::parse(scope),
            })
        };
        assert_eq!(
            Challenge::parse([
                r#"Bearer realm="https://auth.x/token",service="reg, inc",scope="repository:a/b:pull,push""#
            ]),
            bearer("https://auth.x/token", Some("reg, inc"), "repository:a/b:push,pull"),
        );
        assert_eq!(Challenge::parse(["bearer Realm=https://x/t"]), bearer("https://x/t", None, ""));
        assert_eq!(
            Challenge::parse([r#"Basic realm="x", Bearer realm="https://x/t" , service=s"#]),
            bearer("https://x/t", Some("s"), ""),
        );
        assert_eq!(Challenge::parse(["Basic realm=\"a\\\"b\""]), Some(Challenge::Basic));
        assert_eq!(Challenge::parse(["Negotiate", "Basic"]), Some(Challenge::Basic));
        assert_eq!(Challenge::parse(["Negotiate abc=="]), None);
        assert_eq!(Challenge::parse(["", ",,", "="]), None);
        let refused = r#"Bearer realm="https://x/t",error="insufficient_scope""#;
        assert_eq!(reason([refused]).as_deref(), Some("insufficient_scope"));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_to_its_end(text in "[a-zA-Z=,\" \\\\]{0,40}") {
            let _ = (Challenge::parse([text.as_str()]), reason([text.as_str()]));
        }
    }

    #[test]
    fn scopes_merge_per_repository() {
        let scopes = Scopes::pull("b").and("a", &["pull"]).merge(&Scopes::push("b"));
        assert_eq!(scopes.texts().collect::<Vec<_>>(), ["repository:a:pull", "repository:b:pull,push"]);
        assert_eq!(Scopes::pull("library/alpine").to_string(), "library/alpine:pull");
    }
}
