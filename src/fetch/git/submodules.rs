//! Submodules of a commit: what the index says is there, and what `.gitmodules` says of it. Pure.

use std::collections::BTreeMap;

use crate::tar::entry::LayerPath;

/// An entry of the index, as `git ls-files -s -z` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed<'a> {
    mode: &'a [u8],
    pub(super) id: String,
    pub(super) path: LayerPath,
}

impl Listed<'_> {
    /// A commit of another repository.
    pub(super) fn is_submodule(&self) -> bool {
        self.mode == b"160000"
    }

    pub(super) fn is_file(&self) -> bool {
        self.mode.starts_with(b"100")
    }
}

/// Reads a listing.
pub(super) fn listed(output: &[u8]) -> impl Iterator<Item = Listed<'_>> {
    output.split(|byte| *byte == 0).filter_map(|line| {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let mut words = line[..tab].split(|byte| *byte == b' ');
        let (mode, id) = (words.next()?, words.next()?);
        let path = LayerPath::clean(&line[tab + 1..]);
        Some(Listed { mode, id: String::from_utf8_lossy(id).into_owned(), path })
    })
}

/// What `.gitmodules` says of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) url: Option<String>,
    /// `update = none`: it is not to be fetched.
    pub(super) skipped: bool,
}

/// Reads what `git config -z --get-regexp` printed of `.gitmodules`.
pub(super) fn modules(output: &[u8]) -> BTreeMap<LayerPath, Module> {
    let mut named: BTreeMap<&[u8], (Option<LayerPath>, Module)> = BTreeMap::new();
    for line in output.split(|byte| *byte == 0) {
        let Some(newline) = line.iter().position(|byte| *byte == b'\n') else { continue };
        let (key, value) = (&line[..newline], &line[newline + 1..]);
        let Some(rest) = key.strip_prefix(b"submodule.") else { continue };
        let Some(dot) = rest.iter().rposition(|byte| *byte == b'.') else { continue };
        let (path, module) = named.entry(&rest[..dot]).or_default();
        module.name = String::from_utf8_lossy(&rest[..dot]).into_owned();
        match &rest[dot + 1..] {
            b"path" => *path = Some(LayerPath::clean(value)),
            b"url" => module.url = Some(String::from_utf8_lossy(value).into_owned()),
            b"update" => module.skipped = value == b"none",
            _ => {}
        }
    }
    named.into_values().filter_map(|(path, module)| Some((path?, module))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing() {
        let output = b"100644 aaaa 0\t.gitmodules\x00160000 bbbb 0\tlib/with \xff\x00120000 cccc 0\tlink\x00";
        let found: Vec<_> =
            listed(output).map(|l| (l.path.to_string(), l.id.clone(), l.is_submodule(), l.is_file())).collect();
        assert_eq!(found[0], ("/.gitmodules".to_owned(), "aaaa".to_owned(), false, true));
        assert_eq!((found[1].1.as_str(), found[1].2, found[1].3), ("bbbb", true, false));
        assert_eq!((found[2].2, found[2].3), (false, false));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn gitmodules() {
        let output = b"submodule.a.b.path\nlib/a\0submodule.a.b.url\n../a.git\0submodule.c.path\n../c/\0submodule.c.update\nnone\0submodule.d.url\nx\0submodule.e.path\0";
        let found = modules(output);
        let module = |name: &str, url: Option<&str>, skipped| Module {
            name: name.to_owned(),
            url: url.map(str::to_owned),
            skipped,
        };
        assert_eq!(found[&LayerPath::clean("lib/a")], module("a.b", Some("../a.git"), false));
        // A path cannot lead out; what the index does not have is never looked at.
        assert_eq!(found[&LayerPath::clean("c")], module("c", None, true));
        assert_eq!(found.len(), 2);
    }
}
