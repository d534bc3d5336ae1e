//! What a step sees where: its root directory, and what is shown in it from elsewhere. Names in both directions, by text only.
//!
//! Paths are bytes, absolute, without links, `.`, `..` or a `/` at the end; the root of the step is the empty path.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::super::wire::wire_struct;

/// Something of the machine that is shown in the root, as a mount would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Where in the root.
    pub(crate) at: PathBuf,
    /// What, by its real path.
    pub(crate) what: PathBuf,
    /// It cannot be changed.
    pub(crate) readonly: bool,
}

wire_struct!(Shown { at, what, readonly });

/// The root and what is shown in it.
#[derive(Clone, Debug)]
pub(super) struct View {
    root: Vec<u8>,
    /// What is shown later hides what was before.
    shown: Vec<(Vec<u8>, Vec<u8>, bool)>,
}

/// Where a path of the step is on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its path.
    pub(super) path: Vec<u8>,
    /// Which of what is shown it belongs to; `None`: the root itself.
    pub(super) mount: Option<usize>,
    /// It is itself what is shown there, not something below.
    pub(super) is_mount: bool,
}

impl View {
    /// The view with this root, by its real path.
    pub(super) fn new(root: &Path, shown: &[Shown]) -> Self {
        let bytes = |path: &Path| {
            path.as_os_str().as_bytes().strip_suffix(b"/").unwrap_or(path.as_os_str().as_bytes()).to_vec()
        };
        let shown = shown.iter().map(|shown| (bytes(&shown.at), bytes(&shown.what), shown.readonly)).collect();
        Self { root: bytes(root), shown }
    }

    /// Where `path` is.
    pub(super) fn place(&self, path: &[u8]) -> Place {
        for (index, (at, what, _)) in self.shown.iter().enumerate().rev() {
            if let Some(rest) = below(path, at) {
                let place = [what, rest].concat();
                return Place { path: place, mount: Some(index), is_mount: rest.is_empty() };
            }
        }
        let place = if path.is_empty() && self.root.is_empty() { b"/".to_vec() } else { [&self.root, path].concat() };
        Place { path: place, mount: None, is_mount: path.is_empty() }
    }

    /// What the step calls a path of the machine; `None` if it does not see it.
    pub(super) fn name(&self, place: &[u8]) -> Option<Vec<u8>> {
        let shown =
            self.shown.iter().filter_map(|(at, what, _)| Some((what.len(), [at, below(place, what)?].concat())));
        let root = below(place, &self.root).map(|rest| (self.root.len(), rest.to_vec()));
        // The longest is the nearest; what is shown comes before the root that may hold it.
        shown.chain(root).reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, name)| name)
    }

    /// Whether what is there may not be changed.
    pub(super) fn is_readonly(&self, place: &Place) -> bool {
        place.mount.is_some_and(|index| self.shown[index].2)
    }
}

/// What follows `directory` in `path`.
pub(super) fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}

/// As a path.
pub(super) fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let shown = |at: &str, what: &str, readonly| Shown { at: at.into(), what: what.into(), readonly };
        let shown = [
            shown("/proc", "/proc", false),
            shown("/dev", "/dev", false),
            shown("/dev/shm", "/s/shm", false),
            shown("/ctx", "/home/me/ctx", true),
            shown("/cache", "/s/root-cache", false),
        ];
        View::new(Path::new("/s/root"), &shown)
    }

    #[test]
    fn paths_have_places_and_places_have_names() {
        let view = view();
        let check = |path: &str, expected: &str| {
            let place = view.place(path.as_bytes());
            assert_eq!(String::from_utf8_lossy(&place.path), expected);
            assert_eq!(view.name(&place.path).expect("seen"), path.as_bytes());
        };
        check("", "/s/root");
        check("/etc/passwd", "/s/root/etc/passwd");
        check("/process", "/s/root/process");
        check("/proc/meminfo", "/proc/meminfo");
        check("/dev/null", "/dev/null");
        check("/dev/shm/x", "/s/shm/x");
        check("/cache/y", "/s/root-cache/y");
        assert_eq!(view.name(b"/s/rooted"), None);
        assert_eq!(view.name(b"/etc/passwd"), None);
        assert_eq!(view.name(b"/"), None);
    }

    #[test]
    fn mounts_are_known() {
        let view = view();
        let (ctx, below) = (view.place(b"/ctx"), view.place(b"/ctx/a"));
        assert!(ctx.is_mount && view.is_readonly(&ctx));
        assert!(!below.is_mount && view.is_readonly(&below) && below.mount == ctx.mount);
        let file = view.place(b"/etc");
        assert!(!file.is_mount && !view.is_readonly(&file) && file.mount.is_none());
    }
}
