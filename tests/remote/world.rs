//! A store, a server and repositories for one test, and the binary to call.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::server::Server;

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub server: Server,
}

/// What a build said and made.
pub(crate) struct Built {
    pub stderr: String,
    /// The files of the image.
    pub root: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rbuild-remote-").tempdir().expect("temp dir");
        std::fs::create_dir(dir.path().join("git")).expect("mkdir");
        std::fs::create_dir(dir.path().join("home")).expect("mkdir");
        let server = Server::start(&dir.path().join("git"));
        Self { dir, server }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The address of a repository.
    pub(crate) fn git(&self, name: &str) -> String {
        self.server.url(&format!("/git/{name}.git"))
    }

    pub(crate) fn repository(&self, name: &str) -> Repository {
        let bare = self.path("git").join(format!("{name}.git"));
        let work = self.path(&format!("work-{name}"));
        let repository = Repository { bare, work };
        std::fs::create_dir_all(&repository.work).expect("mkdir");
        Repository::run(&repository.work, &["init", "-q", "-b", "main", "."]);
        let bare = repository.bare.display().to_string();
        Repository::run(&repository.work, &["init", "-q", "--bare", "-b", "main", &bare]);
        Repository::run(&repository.work, &["remote", "add", "origin", &bare]);
        repository
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command.args(args).current_dir(self.dir.path());
        command.env("RBUILD_ROOT", self.path("store")).env("HOME", self.path("home"));
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    fn build_with(&self, prepare: impl FnOnce(&mut Command), args: &[&str]) -> (Output, PathBuf) {
        let root = self.path("out");
        let _ = std::fs::remove_dir_all(&root);
        let output = format!("type=local,dest={}", root.display());
        let mut command = self.command(&["build", "--progress=plain", "-o", &output]);
        command.args(args);
        prepare(&mut command);
        (command.output().expect("rbuild starts"), root)
    }

    /// A build that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Built {
        self.ok_with(|_| {}, args)
    }

    #[track_caller]
    pub(crate) fn ok_with(&self, prepare: impl FnOnce(&mut Command), args: &[&str]) -> Built {
        let (out, root) = self.build_with(prepare, args);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "rbuild build {args:?}\n{stderr}");
        Built { stderr, root }
    }

    /// A build that must fail; its stderr.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let (out, _) = self.build_with(|_| {}, args);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "rbuild build {args:?}\n{stderr}");
        stderr
    }

    /// A local context of these files.
    pub(crate) fn context(&self, files: &[(&str, &str)]) -> String {
        let dir = self.path("context");
        let _ = std::fs::remove_dir_all(&dir);
        for (name, text) in files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        }
        dir.display().to_string()
    }

    /// Builds a Dockerfile with an empty context.
    #[track_caller]
    pub(crate) fn dockerfile(&self, text: &str, args: &[&str]) -> Built {
        let context = self.context(&[("Dockerfile", text)]);
        self.ok(&[args, &[&context]].concat())
    }

    #[track_caller]
    pub(crate) fn refused(&self, text: &str, args: &[&str]) -> String {
        let context = self.context(&[("Dockerfile", text)]);
        self.fails(&[args, &[&context]].concat())
    }
}

impl Built {
    /// All paths with modes, sorted, directories with a slash.
    pub(crate) fn listing(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let mut found = Vec::new();
        let mut pending = vec![self.root.clone()];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(&dir).expect("readable") {
                let path = entry.expect("entry").path();
                let meta = path.symlink_metadata().expect("there");
                let name = path.strip_prefix(&self.root).expect("below").display().to_string();
                if meta.is_dir() {
                    found.push(format!("{name}/"));
                    pending.push(path);
                } else if meta.is_symlink() {
                    found.push(format!("{name}@"));
                } else {
                    found.push(format!("{name}:{:o}", meta.mode() & 0o7777));
                }
            }
        }
        found.sort();
        found.join(" ")
    }

    #[track_caller]
    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.root.join(name)).expect("readable")
    }

    pub(crate) fn mtime(&self, name: &str) -> i64 {
        use std::os::unix::fs::MetadataExt as _;
        self.root.join(name).symlink_metadata().expect("there").mtime()
    }

    /// Whether the step whose name holds `text` was taken from the store.
    #[track_caller]
    pub(crate) fn cached(&self, text: &str) -> bool {
        let line = self.stderr.lines().find(|line| line.contains(text)).expect("shown");
        let number = line.split(' ').next().expect("has one");
        self.stderr.lines().any(|line| line == format!("{number} CACHED"))
    }
}

/// A repository with a place to work in.
pub(crate) struct Repository {
    pub bare: PathBuf,
    work: PathBuf,
}

impl Repository {
    fn run(dir: &Path, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(args).current_dir(dir);
        for (name, value) in [
            ("GIT_AUTHOR_DATE", "1700000000 +0000"),
            ("GIT_COMMITTER_DATE", "1700000000 +0000"),
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@b"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@b"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ] {
            command.env(name, value);
        }
        let out = command.output().expect("git starts");
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        Self::run(&self.work, args)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
        std::fs::write(path, text).expect("write");
        self
    }

    /// Commits and pushes everything; the commit's id.
    pub(crate) fn push(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "m"]);
        self.git(&["push", "-q", "origin", "HEAD"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Adds a submodule without asking where it is.
    pub(crate) fn submodule(&self, path: &str, url: &str, commit: &str) -> &Self {
        let old = std::fs::read_to_string(self.path(".gitmodules")).unwrap_or_default();
        self.write(".gitmodules", &format!("{old}[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n"));
        self.git(&["add", ".gitmodules"]);
        self.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")]);
        self.git(&["commit", "-q", "-m", "submodule"]);
        self.git(&["push", "-q", "origin", "HEAD"]);
        self
    }
}
