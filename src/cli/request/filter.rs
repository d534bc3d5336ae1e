//! `--filter` of `prune` and `du`: which objects of the store. The words are BuildKit's as far as the store has what they mean.

use std::time::{Duration, SystemTime};

use rbuild_cache::{Kind, Object, ObjectInfo, Standing};

use super::{RequestError, usage};
use crate::cli::fields;

/// Objects that all conditions fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Not used for this long.
    pub unused_for: Option<Duration>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    what: What,
    /// The condition is that it does not hold.
    not: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Part of the name.
    Id(String),
    Type(Type),
    InUse,
    Mutable,
    Shared,
    /// The description, or with `~=` a part of it.
    Description {
        text: String,
        whole: bool,
    },
}

/// BuildKit's types of records as kinds of objects, and our own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    /// Layers in their forms.
    Regular,
    /// Small files.
    Internal,
    CacheMount,
    Blob,
    Tree,
    Small(Kind),
}

const KEYS: &str = "until, id, type, inuse, mutable, immutable, shared, private or description";

impl Filter {
    /// Reads `key=value`, `key!=value`, `key~=value` and bare keys.
    pub fn new(texts: &[String]) -> Result<Self, RequestError> {
        let mut filter = Self::default();
        for text in texts {
            filter.add(text)?;
        }
        Ok(filter)
    }

    fn add(&mut self, text: &str) -> Result<(), RequestError> {
        let invalid = |why: &str| RequestError::Usage(format!("invalid filter {text:?}: {why}"));
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.strip_prefix('=').unwrap_or(value))),
            None => (text, None),
        };
        let (key, part) = key.strip_suffix('~').map_or((key, false), |key| (key, true));
        let (key, mut not) = key.strip_suffix('!').map_or((key, false), |key| (key, true));
        let value_of = || value.filter(|value| !value.is_empty()).ok_or_else(|| invalid("a value is missing"));
        if part && !matches!(key, "id" | "description") {
            return Err(invalid("only id and description can be compared by ~="));
        }
        let what = match key {
            "until" | "unused-for" if !not => {
                if self.unused_for.is_some() {
                    return Err(invalid("an age was given already"));
                }
                self.unused_for = Some(fields::duration(value_of()?).map_err(|error| invalid(&error))?);
                return Ok(());
            }
            "id" => What::Id(value_of()?.to_owned()),
            "type" => What::Type(kind(value_of()?).ok_or_else(|| invalid("no such type"))?),
            "description" => What::Description { text: value_of()?.to_owned(), whole: !part },
            "inuse" | "mutable" | "immutable" | "shared" | "private" => {
                let holds = match value {
                    None | Some("" | "true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(_) => return Err(invalid("expected true or false")),
                };
                not ^= !holds ^ matches!(key, "immutable" | "private");
                match key {
                    "inuse" => What::InUse,
                    "mutable" | "immutable" => What::Mutable,
                    _ => What::Shared,
                }
            }
            other => return usage(format!("filter {other:?} is not supported; use {KEYS}")),
        };
        self.conditions.push(Condition { what, not });
        Ok(())
    }

    /// Whether a description is looked at, which costs a look at all cache mounts.
    pub fn reads_descriptions(&self) -> bool {
        self.conditions.iter().any(|condition| matches!(condition.what, What::Description { .. }))
    }

    /// Whether all conditions fit an object; its age only if `now` is given.
    pub fn fits(&self, object: &ObjectInfo, description: &str, now: Option<SystemTime>) -> bool {
        let old = now
            .zip(self.unused_for)
            .is_none_or(|(now, age)| now.duration_since(object.last_used).is_ok_and(|unused| unused > age));
        old && self.conditions.iter().all(|condition| condition.what.holds(object, description) != condition.not)
    }
}

/// A type by its name in BuildKit's lists or ours.
fn kind(name: &str) -> Option<Type> {
    Some(match name {
        "regular" => Type::Regular,
        "internal" => Type::Internal,
        "exec.cachemount" | "cache mount" => Type::CacheMount,
        "blob" => Type::Blob,
        "tree" => Type::Tree,
        other => Type::Small(Kind::ALL.into_iter().find(|kind| kind.to_string() == other)?),
    })
}

impl What {
    fn holds(&self, info: &ObjectInfo, description: &str) -> bool {
        match self {
            Self::Id(part) => id(&info.object).contains(part.as_str()),
            Self::Type(wanted) => wanted.fits(&info.object),
            Self::InUse => info.in_use,
            Self::Mutable => matches!(info.object, Object::CacheMount(_)),
            Self::Shared => info.standing != Standing::Loose,
            Self::Description { text, whole: true } => description == text,
            Self::Description { text, whole: false } => description.contains(text.as_str()),
        }
    }
}

impl Type {
    fn fits(&self, object: &Object) -> bool {
        match (self, object) {
            (Self::Regular, Object::Blob(_) | Object::Tree { .. })
            | (Self::Internal, Object::Small(..))
            | (Self::CacheMount, Object::CacheMount(_))
            | (Self::Blob, Object::Blob(_))
            | (Self::Tree, Object::Tree { .. }) => true,
            (Self::Small(wanted), Object::Small(kind, _)) => wanted == kind,
            (
                Self::Regular | Self::Internal | Self::CacheMount | Self::Blob | Self::Tree | Self::Small(_),
                Object::Small(..) | Object::Blob(_) | Object::Tree { .. } | Object::CacheMount(_),
            ) => false,
        }
    }
}

/// What an object is called in lists.
pub fn id(object: &Object) -> String {
    match object {
        Object::Small(_, name) => name.clone(),
        Object::Blob(digest) => digest.to_string(),
        Object::Tree { map: _, id } => id.to_string(),
        Object::CacheMount(key) => key.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rbuild_cache::digest::{Blake3, LayerId};

    use super::*;

    fn objects() -> Vec<(ObjectInfo, &'static str)> {
        let info = |object, standing, in_use, age: u64| ObjectInfo {
            object,
            bytes: 1,
            last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(100_000 - age),
            standing,
            in_use,
        };
        let hash = |n| Blake3([n; 32]);
        vec![
            (info(Object::Small(Kind::Record, "abc".into()), Standing::Named, true, 5), "record abc"),
            (
                info(
                    Object::Blob(format!("sha256:{}", "aa".repeat(32)).parse().expect("valid")),
                    Standing::Remakable,
                    false,
                    50,
                ),
                "blob",
            ),
            (info(Object::Tree { map: "root".into(), id: LayerId(hash(0xbb)) }, Standing::Loose, false, 500), "tree"),
            (info(Object::CacheMount(hash(0xcc)), Standing::Loose, true, 5000), "cache mount /root/.npm"),
        ]
    }

    /// The places of the objects that fit, or the error.
    fn fitting(texts: &[&str]) -> String {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let filter = match Filter::new(&texts) {
            Ok(filter) => filter,
            Err(error) => return error.to_string(),
        };
        let now = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(100_000));
        let fits =
            |(at, (info, text)): (usize, &(ObjectInfo, &str))| filter.fits(info, text, now).then(|| at.to_string());
        objects().iter().enumerate().filter_map(fits).collect()
    }

    #[test]
    fn conditions_are_those_of_buildkit_where_they_mean_something() {
        for (texts, expected) in [
            (&[][..], "0123"),
            (&["until=100s"], "23"),
            (&["until=100s", "type=tree"], "2"),
            (&["id=sha256:aa"], "1"),
            (&["id~=bb"], "2"),
            (&["id!=bb"], "013"),
            (&["type=exec.cachemount"], "3"),
            (&["type==regular"], "12"),
            (&["type=internal"], "0"),
            (&["type=record"], "0"),
            (&["inuse"], "03"),
            (&["inuse=false"], "12"),
            (&["mutable=true"], "3"),
            (&["immutable"], "012"),
            (&["immutable=false"], "3"),
            (&["shared"], "01"),
            (&["private=1"], "23"),
            (&["description~=npm"], "3"),
            (&["description=tree"], "2"),
            (&["description!~=e"], "1"),
        ] {
            assert_eq!(fitting(texts), expected, "{texts:?}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert!(fitting(&["parent=x"]).starts_with("filter \"parent\" is not supported; use until, id,"));
        assert!(fitting(&["type=frontend"]).ends_with("no such type"));
        assert!(fitting(&["until=soon"]).starts_with("invalid filter \"until=soon\""));
        assert!(fitting(&["until=1h", "unused-for=2h"]).ends_with("an age was given already"));
        assert!(fitting(&["id"]).ends_with("a value is missing"));
        assert!(fitting(&["shared=maybe"]).ends_with("expected true or false"));
        assert!(fitting(&["type~=tree"]).contains("only id and description"));
    }
}
