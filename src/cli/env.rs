//! What surrounds the process, read once: environment variables, current directory, user, terminals.
//!
//! The only place besides `main` that asks the process for these; everything else takes an [`Env`] and can be tested with one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

/// The surroundings.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Environment variables; those whose names are not UTF-8 are left out.
    pub vars: BTreeMap<String, OsString>,
    /// Current directory.
    pub cwd: PathBuf,
    /// Whether the user is root (outside of any user namespace of ours).
    pub is_root: bool,
    /// Whether stdout is a terminal.
    pub stdout_is_terminal: bool,
}

impl Env {
    /// Those of this process. To be called before a user namespace is entered.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn current() -> io::Result<Self> {
        Ok(Self {
            vars: std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect(),
            cwd: std::env::current_dir()?,
            is_root: rustix::process::geteuid().is_root(),
            stdout_is_terminal: io::stdout().is_terminal(),
        })
    }

    /// A variable; one that is not UTF-8 has its bad bytes replaced.
    pub fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// A variable that is set to something.
    pub fn filled(&self, name: &str) -> Option<String> {
        self.var(name).filter(|value| !value.is_empty())
    }

    /// A path as typed, made absolute.
    pub fn path(&self, typed: impl AsRef<Path>) -> PathBuf {
        self.cwd.join(typed)
    }

    /// Docker's configuration directory.
    pub fn docker_config(&self) -> Option<PathBuf> {
        let named = self.filled("DOCKER_CONFIG").map(|dir| self.path(dir));
        named.or_else(|| self.filled("HOME").map(|home| Path::new(&home).join(".docker")))
    }

    /// Where the store is unless `--root` says otherwise.
    pub fn store_root(&self) -> Option<PathBuf> {
        if let Some(root) = self.filled("RBUILD_ROOT") {
            return Some(self.path(root));
        }
        if self.is_root {
            return Some("/var/lib/rbuild".into());
        }
        // The XDG specification has relative paths ignored.
        let data = self.filled("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let data = data.or_else(|| Some(Path::new(&self.filled("HOME")?).join(".local/share")));
        data.map(|data| data.join("rbuild"))
    }
}

#[cfg(test)]
impl Env {
    /// Surroundings for a test: an ordinary user in `cwd` with these variables.
    pub(crate) fn test(cwd: &Path, vars: &[(&str, &str)]) -> Self {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Self { vars, cwd: cwd.to_owned(), is_root: false, stdout_is_terminal: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_root() {
        let root = |vars: &[(&str, &str)], is_root| {
            let env = Env { is_root, ..Env::test(Path::new("/work"), vars) };
            env.store_root().map(|path| path.display().to_string())
        };
        let home = ("HOME", "/home/u");
        assert_eq!(root(&[home], false).as_deref(), Some("/home/u/.local/share/rbuild"));
        assert_eq!(root(&[home, ("XDG_DATA_HOME", "/data")], false).as_deref(), Some("/data/rbuild"));
        assert_eq!(root(&[home, ("XDG_DATA_HOME", "data")], false).as_deref(), Some("/home/u/.local/share/rbuild"));
        assert_eq!(root(&[home, ("RBUILD_ROOT", "s")], true).as_deref(), Some("/work/s"));
        assert_eq!(root(&[home], true).as_deref(), Some("/var/lib/rbuild"));
        assert_eq!(root(&[], false), None);
    }

    #[test]
    fn docker_config() {
        let dir = |vars: &[(&str, &str)]| Env::test(Path::new("/w"), vars).docker_config();
        assert_eq!(dir(&[("HOME", "/h")]), Some("/h/.docker".into()));
        assert_eq!(dir(&[("HOME", "/h"), ("DOCKER_CONFIG", "c")]), Some("/w/c".into()));
        assert_eq!(dir(&[]), None);
    }
}
