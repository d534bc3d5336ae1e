//! A store of its own, a base image in it, and the binary to call: what every end-to-end test starts from.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long one call of rbuild may take before it counts as hung. The longest ones install packages.
const HUNG: Duration = Duration::from_secs(420);

/// As whom rbuild runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// As the tests themselves, which are root.
    Root,
    /// An ordinary user with subordinate ids: `rbuild-multi`, or the user of the tests if that is not root.
    Multi,
    /// `rbuild-single`: has none.
    Single,
}

/// A temporary place with a store.
pub(crate) struct Rig {
    dir: tempfile::TempDir,
    pub who: Who,
}

/// What came of a call.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the same test as root and as an ordinary user, each under its own name.
#[macro_export]
macro_rules! as_root_and_rootless {
    ($($(#[$attribute:meta])* $test:ident)*) => {
        mod root {
            $(#[test] $(#[$attribute])* fn $test() {
                if $crate::rig::can_run($crate::rig::Who::Root) { super::$test($crate::rig::Who::Root); }
            })*
        }
        mod rootless {
            $(#[test] $(#[$attribute])* fn $test() {
                if $crate::rig::can_run($crate::rig::Who::Multi) { super::$test($crate::rig::Who::Multi); }
            })*
        }
    };
}

fn uid() -> u32 {
    std::fs::metadata("/proc/self").expect("/proc").uid()
}

fn am_root() -> bool {
    uid() == 0
}

/// Whether tests as `who` can run here. In CI they must.
pub(crate) fn can_run(who: Who) -> bool {
    let possible = match who {
        Who::Root | Who::Single => am_root(),
        Who::Multi => am_root() || has_subordinate_ids(),
    };
    if !possible {
        assert!(environment("CI").is_none(), "CI must run the tests of {who:?}: as root");
        loudly(&format!("SKIPPED: tests as {who:?} cannot be run by this user"));
    }
    possible
}

fn has_subordinate_ids() -> bool {
    let name = Command::new("id").arg("-un").output().expect("id");
    let name = format!("{}:", String::from_utf8_lossy(&name.stdout).trim());
    ["/etc/subuid", "/etc/subgid"]
        .iter()
        .all(|file| std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.starts_with(&name))))
}

/// What all tests share: the binary where every user may execute it, and a root file system of Debian's static busybox.
///
/// One directory a user, made once and used again by later runs; a binary of an earlier run is replaced.
struct Shared {
    binary: PathBuf,
    busybox: PathBuf,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("rbuild-e2e-shared-{}", uid()));
        let _ = std::fs::create_dir(&dir);
        let owner = std::fs::symlink_metadata(&dir).expect("shared directory");
        assert!(owner.is_dir() && owner.uid() == uid(), "{} is somebody else's", dir.display());
        set_mode(&dir, 0o755);
        let lock = std::fs::File::create(dir.join("lock")).expect("lock");
        lock.lock().expect("lock");
        let built = Path::new(env!("CARGO_BIN_EXE_rbuild"));
        let meta = std::fs::metadata(built).expect("binary");
        // Another checkout may be tested at the same time.
        let mine = format!("rbuild{}-", built.display().to_string().replace('/', "_"));
        let binary = dir.join(format!("{mine}{}.{}", meta.mtime(), meta.mtime_nsec()));
        if !binary.exists() {
            for old in std::fs::read_dir(&dir).expect("readable").flatten() {
                if old.file_name().to_string_lossy().starts_with(&mine) {
                    let _ = std::fs::remove_file(old.path());
                }
            }
            let new = dir.join("new");
            std::fs::copy(built, &new).expect("copy of the binary");
            set_mode(&new, 0o755);
            std::fs::rename(&new, &binary).expect("rename");
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/busybox-rootfs.sh");
        let busybox = dir.join("busybox.tar");
        let newer = |file: &Path| std::fs::metadata(file).and_then(|m| m.modified()).ok();
        if newer(&busybox) < newer(&script) {
            let new = dir.join("new.tar");
            assert!(Command::new(&script).arg(&new).status().expect("script").success(), "busybox-rootfs.sh failed");
            set_mode(&new, 0o644);
            std::fs::rename(&new, &busybox).expect("rename");
        }
        Shared { binary, busybox }
    })
}

/// The binary under test, where every user may execute it.
pub(crate) fn binary() -> &'static Path {
    &shared().binary
}

/// The tar that `busybox:latest` of a [`Rig`] is made of.
pub(crate) fn busybox_tar() -> &'static Path {
    &shared().busybox
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

impl Rig {
    /// An empty store for `who`.
    pub(crate) fn empty(who: Who) -> Self {
        let dir = tempfile::Builder::new().prefix("rbuild-e2e-").tempdir().expect("temp dir");
        let rig = Self { dir, who };
        std::fs::create_dir(rig.path("tmp")).expect("mkdir");
        if let Some(user) = rig.user() {
            let owner = format!("{user}:{user}");
            let status = Command::new("chown").arg("-R").arg(owner).arg(rig.dir.path()).status().expect("chown");
            assert!(status.success(), "chown {user}: did tests/setup.sh run?");
        }
        rig
    }

    /// A store with `busybox:latest` in it.
    pub(crate) fn new(who: Who) -> Self {
        let rig = Self::empty(who);
        rig.ok(&["import", &busybox_tar().display().to_string(), "busybox:latest"]);
        rig
    }

    /// Whom to become before rbuild is started.
    pub(crate) fn user(&self) -> Option<&'static str> {
        match self.who {
            Who::Root => None,
            Who::Multi => am_root().then_some("rbuild-multi"),
            Who::Single => am_root().then_some("rbuild-single"),
        }
    }

    /// A path below the temporary place.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text, for a command line.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// A word that occurs in the environment of every process of this rig: rbuild has it by its store, steps if their
    /// Dockerfile says `ENV RIG=` and it.
    pub(crate) fn token(&self) -> String {
        self.dir.path().file_name().expect("has one").to_string_lossy().into_owned()
    }

    /// Writes a context: name and text of each file. Returns its path.
    pub(crate) fn context(&self, name: &str, files: &[(&str, &str)]) -> String {
        let dir = self.path(name);
        std::fs::create_dir_all(&dir).expect("mkdir");
        for (file, text) in files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            std::fs::write(path, text).expect("write");
        }
        dir.display().to_string()
    }

    /// A context with nothing but a Dockerfile. Returns its path.
    pub(crate) fn dockerfile(&self, text: &str) -> String {
        self.context("context", &[("Dockerfile", text)])
    }

    /// `program` as the user of this rig, not started yet.
    pub(crate) fn other(&self, program: &str) -> Command {
        let mut command = match self.user() {
            None => Command::new(program),
            Some(user) => {
                let mut c = Command::new("setpriv");
                c.args(["--reuid", user, "--regid", user, "--init-groups", "--"]).arg(program);
                c.env("HOME", self.dir.path()).env_remove("XDG_RUNTIME_DIR").env_remove("XDG_DATA_HOME");
                c
            }
        };
        command.current_dir(self.dir.path()).env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        command
    }

    /// rbuild with `args`, not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.other(&shared().binary.display().to_string());
        command.args(args).env("RBUILD_ROOT", self.store());
        for name in ["DOCKER_CONFIG", "BUILDKIT_PROGRESS", "NO_COLOR", "SOURCE_DATE_EPOCH", "RBUILD_STORE_MAX"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs rbuild.
    pub(crate) fn rbuild(&self, args: &[&str]) -> Output {
        finish(start(&mut self.command(args)), args)
    }

    /// Runs rbuild, which must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Output {
        let out = self.rbuild(args);
        assert!(
            out.status.success(),
            "rbuild {args:?} as {:?}: {}\n{}{}",
            self.who,
            out.status,
            out.stdout,
            out.stderr
        );
        out
    }

    /// Runs a build with plain progress, which must succeed; its log.
    #[track_caller]
    pub(crate) fn build(&self, args: &[&str]) -> String {
        let mut all = vec!["build", "--progress=plain"];
        all.extend(args);
        self.ok(&all).stderr
    }

    /// Runs rbuild, which must fail with exit status 1; its stderr.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let out = self.rbuild(args);
        assert_eq!(out.status.code(), Some(1), "rbuild {args:?} as {:?}\n{}{}", self.who, out.stdout, out.stderr);
        out.stderr
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.who == Who::Multi && !am_root() {
            // Files of subordinate ids: only inside a user namespace are they ours to remove.
            let store = self.store();
            let _ = Command::new("unshare").args(["--map-auto", "--map-root-user", "rm", "-rf"]).arg(store).output();
        }
        let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(self.dir.path()).output();
    }
}

/// Starts a command whose output is collected.
pub(crate) fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Waits for a command that [`start`] started; one that hangs is a failure.
#[track_caller]
pub(crate) fn finish(mut child: Child, what: &[&str]) -> Output {
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let read = |from: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).expect("pipe");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let out = scope.spawn(move || read(&mut stdout.by_ref()));
        let err = scope.spawn(move || read(&mut stderr.by_ref()));
        let mut hung = false;
        let status = loop {
            if let Some(status) = child.try_wait().expect("wait") {
                break status;
            }
            if begin.elapsed() > HUNG {
                hung = true;
                child.kill().expect("kill");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let out = Output { status, stdout: out.join().expect("reader"), stderr: err.join().expect("reader") };
        assert!(!hung, "{what:?} did not end within {HUNG:?}\n{}{}", out.stdout, out.stderr);
        out
    })
}

/// Runs another program, which must succeed; its stdout.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let out = finish(start(command), &[]);
    assert!(out.status.success(), "{command:?}: {}\n{}{}", out.status, out.stdout, out.stderr);
    out.stdout
}

/// A variable of the machine's environment.
#[expect(clippy::disallowed_methods, reason = "tests are told about the machine they run on")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether a program is there.
pub(crate) fn present(program: &str) -> bool {
    let path = environment("PATH").unwrap_or_default();
    path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// Whether a program is there that `tests/setup.sh` installs: in CI it must be.
pub(crate) fn installed(program: &str) -> bool {
    let found = present(program);
    if !found {
        assert!(environment("CI").is_none(), "CI needs {program}: tests/setup.sh installs it");
        loudly(&format!("SKIPPED in part: {program} is not installed"));
    }
    found
}

/// Says something that libtest does not swallow when the test passes.
pub(crate) fn loudly(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n*** {text}\n");
}
