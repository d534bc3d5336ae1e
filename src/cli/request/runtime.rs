//! `--oci-runtime`: which program makes the containers of steps.

use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{RequestError, usage};
use crate::cli::env::Env;

/// Where administrators' programs are, which is not always in a user's PATH: Debian and Docker put runc there.
const MORE: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The program that was asked for: a path, or a name to be looked up.
pub(super) fn named(typed: Option<&str>, env: &Env) -> Result<Option<PathBuf>, RequestError> {
    let Some(typed) = typed.filter(|typed| !typed.is_empty()) else { return Ok(None) };
    if typed.contains('/') {
        let path = env.path(typed);
        if is_program(&path) {
            return Ok(Some(path));
        }
        return usage(format!("--oci-runtime: {} is no program that can be executed", path.display()));
    }
    match found(typed, env) {
        Some(path) => Ok(Some(path)),
        None => usage(format!(
            "--oci-runtime: no program {typed} in PATH or {}; \"rbuild doctor\" tells which there are",
            MORE.join(", ")
        )),
    }
}

/// A runtime by its name.
pub(crate) fn found(name: &str, env: &Env) -> Option<PathBuf> {
    let path = env.filled("PATH").unwrap_or_default();
    let usual = path.split(':').filter(|directory| directory.starts_with('/'));
    usual.chain(MORE).map(|directory| Path::new(directory).join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn by_path_by_name_and_not_at_all() {
        let temp = tempfile::tempdir().expect("temp dir");
        for (name, mode) in [("bin/one", 0o755), ("bin/not", 0o644)] {
            let path = temp.path().join(name);
            fs_err::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            fs_err::write(&path, "").expect("write");
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        }
        let search = format!("/does/not/exist:{}/bin", temp.path().display());
        let env = Env::test(temp.path(), &[("PATH", &search)]);
        let find = |typed: &str| named(Some(typed), &env).map_err(|error| error.to_string());
        let one = Some(temp.path().join("bin/one"));
        assert_eq!(find("one"), Ok(one.clone()));
        assert_eq!(find("bin/one"), Ok(one));
        assert_eq!(find(""), Ok(None));
        for missing in ["not", "bin/not", "bin", "./bin"] {
            assert!(find(missing).expect_err(missing).contains("--oci-runtime: "));
        }
    }
}
