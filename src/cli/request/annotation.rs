//! `--annotation`: what goes into manifests, indexes and the descriptors that point at them.

use super::{RequestError, usage};
use crate::export::output::Annotations;

/// Adds `[TYPE[PLATFORM][,TYPE…]:]KEY=VALUE` to `out`. `default` is the type of one that names none.
pub(in crate::cli) fn add(text: &str, default: &str, out: &mut Annotations) -> Result<(), RequestError> {
    let invalid = || RequestError::Usage(format!("invalid annotation {text:?}, expected [type:]key=value"));
    let (left, value) = text.split_once('=').ok_or_else(invalid)?;
    let (types, key) = left.split_once(':').unwrap_or((default, left));
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(invalid());
    }
    for target in types.split(',') {
        let (name, platform) = match target.split_once('[') {
            Some((name, platform)) => (name, Some(platform.strip_suffix(']').ok_or_else(invalid)?)),
            None => (target, None),
        };
        if let Some(platform) = platform {
            super::parse_platform(platform)?;
        }
        let (key, value) = (key.to_owned(), value.to_owned());
        match (name, platform.map(str::to_owned)) {
            ("manifest", platform) => out.manifest.push((platform, key, value)),
            ("manifest-descriptor", platform) => out.manifest_descriptor.push((platform, key, value)),
            ("index", None) => drop(out.index.insert(key, value)),
            ("index-descriptor", None) => drop(out.index_descriptor.insert(key, value)),
            ("index" | "index-descriptor", Some(_)) => {
                return usage(format!("annotation {text:?}: an index is for all platforms"));
            }
            (other, _) => return usage(format!("unknown annotation type {other:?}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_platforms() {
        let mut out = Annotations::default();
        for text in ["a=1", "index,manifest-descriptor[linux/arm64]:b.c=x=y", "index-descriptor:d="] {
            add(text, "manifest", &mut out).expect(text);
        }
        let text = str::to_owned;
        assert_eq!(out.manifest, [(None, text("a"), text("1"))]);
        assert_eq!(out.manifest_descriptor, [(Some(text("linux/arm64")), text("b.c"), text("x=y"))]);
        assert_eq!(out.index.get("b.c").map(String::as_str), Some("x=y"));
        assert_eq!(out.index_descriptor.get("d").map(String::as_str), Some(""));
        for bad in ["a", "=b", "foo:a=b", "index[linux/amd64]:a=b", "manifest[linux:a=b", "manifest[no]:a=b", "a b=c"] {
            assert!(add(bad, "manifest", &mut Annotations::default()).is_err(), "{bad}");
        }
    }
}
