//! Modes that would lock their owner out, where the owner has no right to pass over modes, as root has: a shadow file with
//! mode 0, a directory with mode 0555 that something is put into.
//!
//! Such a file is kept with a wider mode, and the mode that is meant in an attribute beside it. The two count only together:
//! once somebody gives the file another mode, that one is meant. Where no attribute can be kept, neither is the wider mode.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags, chmodat, lgetxattr, lremovexattr, lsetxattr, statat};
use rustix::process::geteuid;

/// The mode that is meant, in octal.
pub(super) const MODE: &str = "user.rbuild.mode";

/// The mode by which the owner can do what root could.
pub fn widened(mode: u32, directory: bool) -> u32 {
    mode | if directory { 0o700 } else { 0o600 }
}

/// The mode that is meant by a file that has `mode` and, if so, says `recorded`.
pub(super) fn meant(mode: u32, recorded: Option<u32>, directory: bool) -> u32 {
    recorded.filter(|recorded| widened(*recorded, directory) == mode).unwrap_or(mode)
}

/// What an attribute says.
pub(super) fn parse(value: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(value).ok()?, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// The mode that is meant by the file at `path`, which has `mode`. Follows no link.
pub fn meant_at(path: &Path, mode: u32, directory: bool) -> u32 {
    if widened(mode, directory) != mode {
        return mode;
    }
    let mut value = [0; 8];
    let recorded = lgetxattr(path, MODE, &mut value).ok().and_then(|length| parse(&value[..length]));
    meant(mode, recorded, directory)
}

/// Unlocks the file at `path` if it is ours and locked; says whether it was. Follows no link.
pub fn unlock(path: &Path) -> bool {
    let Ok(found) = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let kind = FileType::from_raw_mode(found.st_mode);
    let (mode, directory) = (found.st_mode & 0o7777, kind == FileType::Directory);
    let wide = widened(mode, directory);
    if wide == mode || found.st_uid != geteuid().as_raw() || !(directory || kind == FileType::RegularFile) {
        return false;
    }
    let change = |mode| chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).is_ok();
    if !change(wide) {
        return false;
    }
    let recorded = lsetxattr(path, MODE, format!("{mode:o}").as_bytes(), XattrFlags::empty()).is_ok();
    if !recorded {
        change(mode);
    }
    recorded
}

/// From now on the file at `path` means what its mode says. Follows no link.
pub fn forget(path: &Path) {
    let _none = lremovexattr(path, MODE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_kept_until_the_mode_changes() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("temp dir");
        let path = temp.path().join("shadow");
        fs_err::write(&path, "x").expect("write");
        let set = |mode| fs_err::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        let get = || fs_err::metadata(&path).expect("stat").permissions().mode() & 0o7777;
        set(0o4040);
        assert!(unlock(&path), "the file system of tests keeps attributes");
        assert_eq!((get(), meant_at(&path, get(), false)), (0o4640, 0o4040));
        assert!(!unlock(&path), "it is open");
        set(0o644);
        assert_eq!(meant_at(&path, get(), false), 0o644);
        set(0o4640);
        forget(&path);
        assert_eq!(meant_at(&path, get(), false), 0o4640);
    }

    #[test]
    fn only_octal_modes_are_understood() {
        assert_eq!(parse(b"555"), Some(0o555));
        assert_eq!([parse(b"8"), parse(b"77777"), parse(b"")], [None; 3]);
    }
}
