//! Symlinks followed inside a root: `..` stops at the root, absolute targets start there.
//!
//! Works on lookups handed in, so that it serves source trees and a destination that is being changed alike.

use crate::tar::entry::LayerPath;

use super::error::TransferError;

/// Most links on one path; what continuity and BuildKit allow.
const MAX_LINKS: u32 = 255;

/// What a look tells about a path whose parents are real directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There is nothing.
    Absent,
    /// A directory.
    Directory,
    /// A symbolic link to this text.
    Symlink(Vec<u8>),
    /// Something else.
    Other,
}

/// Where `path` leads, with links in its directories followed, and a link at its end too if `follow_last`. What does not exist
/// is kept as it is.
pub(super) fn resolve(
    path: &LayerPath,
    follow_last: bool,
    mut lookup: impl FnMut(&LayerPath) -> Result<Seen, TransferError>,
) -> Result<LayerPath, TransferError> {
    let mut pending: Vec<Vec<u8>> = reversed(path.as_bytes());
    let mut here = LayerPath::root();
    let mut real = true;
    let mut links = 0;
    while let Some(name) = pending.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                here = here.parent().unwrap_or_default();
                real = true;
                continue;
            }
            _ => here = here.join(&name),
        }
        // Below something that is not a directory there is nothing to look up.
        if !real {
            continue;
        }
        match lookup(&here)? {
            Seen::Directory => {}
            Seen::Absent | Seen::Other => real = false,
            Seen::Symlink(_) if pending.is_empty() && !follow_last => {}
            Seen::Symlink(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(TransferError::TooManyLinks(path.clone()));
                }
                here = if target.starts_with(b"/") { LayerPath::root() } else { here.parent().unwrap_or_default() };
                pending.extend(reversed(&target));
            }
        }
    }
    Ok(here)
}

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, follow_last: bool, expected: &str) {
        let found = resolve(&LayerPath::clean(path), follow_last, |at| {
            Ok(match at.to_string().as_str() {
                "/d" | "/d/e" => Seen::Directory,
                "/f" => Seen::Other,
                "/abs" => Seen::Symlink(b"/d".to_vec()),
                "/d/up" => Seen::Symlink(b"../../../f".to_vec()),
                "/d/e/side" => Seen::Symlink(b"../new/x".to_vec()),
                "/dangling" => Seen::Symlink(b"/no/where".to_vec()),
                "/loop" => Seen::Symlink(b"loop".to_vec()),
                _ => Seen::Absent,
            })
        });
        assert_eq!(found.map_or_else(|e| e.to_string(), |p| p.to_string()), expected, "{path}");
    }

    #[test]
    fn links_stay_inside_the_root() {
        check("abs/e", true, "/d/e");
        check("d/up", true, "/f");
        check("abs/e/side", true, "/d/new/x");
        check("dangling/y", true, "/no/where/y");
        check("abs", false, "/abs");
        check("abs/up", false, "/d/up");
        check("loop", true, "/loop: too many links");
        check("f/x", true, "/f/x");
        check("no/abs", true, "/no/abs");
    }
}
