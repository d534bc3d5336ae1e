//! A store of its own, a base image in it, and the binary to call: what every end-to-end test starts from.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// As whom rbuild runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// As the tests themselves.
    Root,
    /// `rbuild-multi`: has subordinate ids.
    Multi,
    /// `rbuild-single`: has none.
    Single,
}

/// A temporary place with a store.
pub struct Rig {
    dir: tempfile::TempDir,
    pub who: Who,
}

/// The root file system all tests start from, as a tar made of Debian's static busybox.
fn busybox_tar() -> &'static Path {
    static TAR: OnceLock<PathBuf> = OnceLock::new();
    TAR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("rbuild-e2e-base-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temp dir");
        let tar = dir.join("busybox.tar");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/busybox-rootfs.sh");
        assert!(Command::new(script).arg(&tar).status().expect("script runs").success(), "busybox-rootfs.sh failed");
        tar
    })
}

/// The binary, copied to where every user may execute it.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("rbuild-e2e-bin-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temp dir");
        let to = dir.join("rbuild");
        std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), &to).expect("copy of the binary");
        for path in [&dir, &to] {
            set_mode(path, 0o755);
        }
        to
    })
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

impl Rig {
    /// An empty store for `who`.
    pub fn empty(who: Who) -> Self {
        let dir = tempfile::Builder::new().prefix("rbuild-e2e-").tempdir().expect("temp dir");
        let rig = Self { dir, who };
        if who != Who::Root {
            let user = rig.user().expect("not root");
            let status = Command::new("chown").arg(user).arg(rig.dir.path()).status().expect("chown");
            assert!(status.success(), "chown {user}: did tests/setup.sh run?");
        }
        rig
    }

    /// A store with `busybox:latest` in it.
    pub fn new(who: Who) -> Self {
        let rig = Self::empty(who);
        set_mode(busybox_tar().parent().expect("has one"), 0o755);
        rig.ok(&["import", &busybox_tar().display().to_string(), "busybox:latest"]);
        rig
    }

    fn user(&self) -> Option<&'static str> {
        match self.who {
            Who::Root => None,
            Who::Multi => Some("rbuild-multi"),
            Who::Single => Some("rbuild-single"),
        }
    }

    /// A path below the temporary place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a context: name and text of each file.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir_all(&dir).expect("mkdir");
        for (file, text) in files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        }
        dir
    }

    /// rbuild with `args`, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.user() {
            None => Command::new(binary()),
            Some(user) => {
                let mut c = Command::new("setpriv");
                c.args(["--reuid", user, "--regid", user, "--init-groups", "--"]).arg(binary());
                c.env("HOME", self.dir.path());
                c
            }
        };
        command.args(args).env("RBUILD_ROOT", self.store()).env_remove("DOCKER_CONFIG").current_dir(self.dir.path());
        command
    }

    /// Runs rbuild.
    pub fn rbuild(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("rbuild starts")
    }

    /// Runs rbuild, which must succeed; its stdout and stderr.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> (String, String) {
        let out = self.rbuild(args);
        let (stdout, stderr) = texts(&out);
        assert!(out.status.success(), "rbuild {args:?} as {:?}: {}\n{stdout}\n{stderr}", self.who, out.status);
        (stdout, stderr)
    }

    /// Runs rbuild, which must fail with exit status 1; its stderr.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> String {
        let out = self.rbuild(args);
        let (stdout, stderr) = texts(&out);
        assert_eq!(out.status.code(), Some(1), "rbuild {args:?} as {:?}\n{stdout}\n{stderr}", self.who);
        stderr
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A rootless store has files of subordinate ids; root removes them.
        let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(self.dir.path()).output();
    }
}

fn texts(out: &Output) -> (String, String) {
    (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Whether tests as `who` can run here. In CI they must.
pub fn can_run(who: Who) -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| {
        use std::os::unix::fs::MetadataExt as _;
        m.uid() == 0
    });
    if !root {
        assert!(std::env::var_os("CI").is_none(), "CI must run the tests of {who:?} as root");
        eprintln!("SKIPPED: tests as {who:?} need root");
    }
    root
}
