//! A path of the step, walked as the kernel would if the step had its root: component by component, links by their text, `..`
//! clamped at the root, and the links of /proc that are none.
//!
//! Between the walk and the call a step may change what was walked over; that is accepted: this is a view, not a wall.

use rustix::fs::{CWD, FileType, readlinkat, stat};
use rustix::io::Errno;

use super::processes::{ProcLink, Processes};
use super::view::{Place, View, path};

/// Links followed in one look-up at most, as the kernel does.
const MAX_LINKS: usize = 40;

/// What is done about a link at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// It is followed.
    Follow,
    /// It is what is meant.
    Keep,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What the step calls it.
    pub(super) name: Vec<u8>,
    /// Where it is, with a `/` at the end if the path has one.
    pub(super) place: Place,
    /// The text of a link of /proc that was kept.
    pub(super) text: Option<Vec<u8>>,
}

/// Walks for one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<'a> {
    /// What there is.
    pub(super) view: &'a View,
    /// The thread, and all others.
    pub(super) processes: &'a Processes,
    /// Its number.
    pub(super) thread: i32,
    /// Its own root directory (it may have changed it).
    pub(super) root: &'a [u8],
}

impl Walk<'_> {
    /// Walks `text` from the directory `base`.
    pub(super) fn to(&self, base: &[u8], text: &[u8], last: Last) -> Result<Found, Errno> {
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut name = if text[0] == b'/' { self.root.to_vec() } else { base.to_vec() };
        // Reversed: the next component is the last one.
        let mut todo: Vec<Vec<u8>> = components(text);
        let slash = text.ends_with(b"/") || text.ends_with(b"/.");
        let last = if slash { Last::Follow } else { last };
        let mut links = 0;
        while let Some(component) = todo.pop() {
            if component == b".." {
                self.up(&mut name)?;
                continue;
            }
            let end = todo.is_empty();
            let length = name.len();
            name.push(b'/');
            name.extend_from_slice(&component);
            let place = self.view.place(&name);
            let special = self.processes.link(&place.path, self.thread)?;
            let is_special = special.is_some();
            let link = match special {
                Some(link) => Some(link),
                None => match readlinkat(CWD, path(&place.path), Vec::new()) {
                    Ok(text) => Some(ProcLink::Text(text.into_bytes())),
                    Err(Errno::INVAL) => None,
                    // What comes after it the kernel says best: it is not there either.
                    Err(_) => return Ok(self.rest(name, todo, slash)),
                },
            };
            let Some(link) = link else { continue };
            if end && last == Last::Keep {
                let text = is_special.then(|| self.text(link)).transpose()?;
                return Ok(Found { name, place, text });
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            match link {
                // The descriptor itself, which may be no file at all.
                ProcLink::Descriptor(_) if end => return Ok(Found { name, place, text: None }),
                ProcLink::Text(text) => {
                    if text.first() == Some(&b'/') {
                        name = self.root.to_vec();
                    } else {
                        name.truncate(length);
                    }
                    todo.extend(components(&text));
                }
                ProcLink::Root => name = self.root.to_vec(),
                ProcLink::Program(Some(program)) => name = program,
                ProcLink::Program(None) => return Err(Errno::NOENT),
                ProcLink::Directory(place) | ProcLink::Descriptor(place) => {
                    name = self.view.name(&place).ok_or(Errno::ACCESS)?;
                }
            }
        }
        Ok(self.rest(name, todo, slash))
    }

    /// What the step is told that a link of /proc says.
    fn text(&self, link: ProcLink) -> Result<Vec<u8>, Errno> {
        let or_root = |name: Vec<u8>| if name.is_empty() { b"/".to_vec() } else { name };
        let name = |place: Vec<u8>| match self.view.name(&place) {
            Some(name) => {
                Ok(or_root(super::view::below(&name, self.root).map_or_else(|| name.clone(), <[u8]>::to_vec)))
            }
            // Pipes, sockets and memory have names that are no paths.
            None if !place.starts_with(b"/") || place.starts_with(b"/memfd:") => Ok(place),
            None => Err(Errno::ACCESS),
        };
        match link {
            ProcLink::Text(text) => Ok(text),
            ProcLink::Root => Ok(b"/".to_vec()),
            ProcLink::Program(program) => program.ok_or(Errno::NOENT),
            ProcLink::Directory(place) | ProcLink::Descriptor(place) => name(place),
        }
    }

    fn up(&self, name: &mut Vec<u8>) -> Result<(), Errno> {
        if name.as_slice() == self.root || name.is_empty() {
            return Ok(());
        }
        let found = stat(path(&self.view.place(name).path))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let parent = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        name.truncate(parent);
        Ok(())
    }

    /// The end of the walk, with what is left of the way: the first component of it is missing or no directory.
    fn rest(&self, mut name: Vec<u8>, mut todo: Vec<Vec<u8>>, slash: bool) -> Found {
        while let Some(component) = todo.pop() {
            // Beyond what is missing there is no way up.
            if component == b".." {
                name.extend_from_slice(b"/.");
            } else {
                name.push(b'/');
                name.extend_from_slice(&component);
            }
        }
        let mut place = self.view.place(&name);
        if slash && !place.path.ends_with(b"/") {
            place.path.push(b'/');
        }
        Found { name, place, text: None }
    }
}

/// The components of a path from the last to the first.
fn components(text: &[u8]) -> Vec<Vec<u8>> {
    text.split(|byte| *byte == b'/')
        .rev()
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::view::Shown;
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_lead_where_they_would_in_the_root() {
        let temp = tempfile::tempdir().expect("temp dir");
        let real = fs_err::canonicalize(temp.path()).expect("real path");
        for directory in ["root/usr/bin", "root/tmp", "root/mnt", "shown/in", "usr/bin"] {
            fs_err::create_dir_all(real.join(directory)).expect("mkdir");
        }
        for (text, link) in [
            ("/usr/bin", "bin"),
            ("../../../usr", "up"),
            ("loop", "loop"),
            ("gone/x", "tmp/dangling"),
            ("/mnt", "shown"),
        ] {
            symlink(text, real.join("root").join(link)).expect("link");
        }
        symlink("/tmp", real.join("shown/in/out")).expect("link");
        fs_err::write(real.join("root/file"), "").expect("write");
        let shown = [Shown { at: "/mnt".into(), what: real.join("shown"), readonly: true }];
        let (view, processes) = (View::new(&real.join("root"), &shown), Processes::default());
        let walk = |root: &str, base: &str, text: &str, last| {
            let walk = Walk { view: &view, processes: &processes, thread: 1, root: root.as_bytes() };
            let found = walk.to(base.as_bytes(), text.as_bytes(), last)?;
            Ok::<_, Errno>((String::from_utf8(found.name).expect("text"), found.place))
        };
        let check = |base: &str, text: &str, name: &str| {
            let (found, place) = walk("", base, text, Last::Follow).expect(text);
            assert_eq!(found, name, "{text}");
            assert!(path(&place.path).starts_with(&real), "{text}: {place:?}");
        };
        check("", "/", "");
        check("", "/../../usr", "/usr");
        check("", "/bin/sh", "/usr/bin/sh");
        check("/usr", "../bin/./x", "/usr/bin/x");
        check("", "/up/bin", "/usr/bin");
        check("/tmp", "dangling", "/tmp/gone/x");
        check("/tmp", "none/../../../etc", "/tmp/none/./././etc");
        check("", "/shown/in/out/x", "/tmp/x");
        check("/mnt/in", "../../usr", "/usr");
        assert_eq!(walk("", "", "/bin", Last::Keep).expect("link").0, "/bin");
        assert_eq!(walk("", "", "/bin/", Last::Keep).expect("followed").0, "/usr/bin");
        assert_eq!(walk("", "", "/loop", Last::Follow), Err(Errno::LOOP));
        assert_eq!(walk("", "", "/file/..", Last::Follow), Err(Errno::NOTDIR));
        assert_eq!(walk("", "", "", Last::Follow), Err(Errno::NOENT));
        assert_eq!(walk("/usr", "/usr/bin", "/../../bin/../../x", Last::Follow).expect("clamped").0, "/usr/x");
        let (_, place) = walk("", "", "/shown/in", Last::Follow).expect("shown");
        assert!(view.is_readonly(&place) && place.path.ends_with(b"/shown/in"));
    }
}
