//! Users looked up in a tree: for the owner of what is copied, and for the process of a RUN.
//!
//! What the files say is read by `users`; this only finds them, links followed inside the root.

use super::canvas::Canvas;
use super::error::TransferError;
use super::facts::Recorder;
use super::users::{self, MAX_USER_FILE, ProcessUser, UserError, UserFile};
use super::{Tree, TreeError};
use crate::tar::entry::LayerPath;

/// Looks up an owner in the passwd and group files of the destination, called `label` in messages.
pub(super) fn lookup_owner(
    canvas: &mut Canvas<'_>,
    text: &str,
    label: &'static str,
) -> Result<(u32, u32), TransferError> {
    users::owner(text, |file, name| {
        let path = canvas.resolve(&LayerPath::clean(file.path()))?;
        let found = content(canvas.base(), &path).map_err(|e| TransferError::UserFile(e.to_string()))?;
        match found {
            Some(text) => Ok(text),
            // A name nobody has told about is quietly root; without any file system there is nobody to ask.
            None if !canvas.base().is_empty()? => Ok(Vec::new()),
            None => Err(TransferError::NoUserFile { name: name.to_owned(), file: file.path(), label }),
        }
    })
}

/// Resolves the text of USER for a process in `tree`. Files that are missing, or no files, are as good as empty.
pub fn process_user(tree: &dyn Tree, text: &str) -> Result<ProcessUser, UserError> {
    let read = |file: UserFile| {
        let mut canvas = Canvas::new(tree);
        let path = canvas.resolve(&LayerPath::clean(file.path())).ok()?;
        content(canvas.base(), &path).ok().flatten()
    };
    let (passwd, group) = (read(UserFile::Passwd), read(UserFile::Group));
    users::process_user(passwd.as_deref(), group.as_deref(), text)
}

fn content(base: &Recorder<'_>, path: &LayerPath) -> Result<Option<Vec<u8>>, TreeError> {
    base.content(path, MAX_USER_FILE)
}

#[cfg(test)]
mod tests {
    use super::super::forest::Forest;
    use super::*;

    #[test]
    fn links_to_user_files_are_followed() {
        let mut root = Forest::default();
        root.symlink("etc", "usr/etc").file("usr/etc/passwd", "bob:x:5:6::/b:\n", 0o644).dir(
            "usr/etc/group",
            0o755,
            0,
            0,
        );
        let user = process_user(&root, "bob").expect("found");
        assert_eq!((user.uid, user.gid, user.groups, user.home.as_str()), (5, 6, vec![6], "/b"));
        assert!(process_user(&root, "eve").is_err());
    }
}
