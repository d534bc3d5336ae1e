//! A root made of busybox, and runs in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rbuild::cancel::Cancel;
use rbuild::exec::{EnterOptions, ExecError, Exit, Mount, MountKind, Process, Root, Session, Stdio, Stream, enter};
use rbuild::snapshot::Copied;

/// Who makes the containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Our own sandbox.
    Us,
    /// An OCI runtime, by name.
    Runtime(&'static str),
}

/// Where a behaviour is tried, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub ground: Ground,
    pub by: By,
}

/// Where a behaviour is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// As root, overlay.
    Root,
    /// As root, copied trees.
    RootCopied,
    /// As a user with subordinate ids.
    ManyIds,
    /// As a user without.
    OneId,
    /// As a user without, copied trees.
    OneIdCopied,
    /// As root of a container that forbids everything: in a sandbox of ours, that is.
    InPlace,
    /// As an ordinary user of such a container.
    Translated,
}

const USER: &str = "1000";

impl Ground {
    const ALL: [Self; 7] =
        [Self::Root, Self::RootCopied, Self::ManyIds, Self::OneId, Self::OneIdCopied, Self::InPlace, Self::Translated];

    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::RootCopied => "root_copied",
            Self::ManyIds => "sandbox_many",
            Self::OneId => "sandbox_one",
            Self::OneIdCopied => "sandbox_one_copied",
            Self::InPlace => "root_in_place",
            Self::Translated => "root_translated",
        }
    }
}

/// Runtimes that the suite is for, and where they have to make containers. Copied trees differ by the root only, which is
/// not theirs; in place there is nothing that a runtime could do.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
const GROUNDS_OF_RUNTIMES: [Ground; 3] = [Ground::Root, Ground::ManyIds, Ground::OneId];

impl Setting {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let ours = Ground::ALL.map(|ground| Self { ground, by: By::Us });
        let theirs =
            RUNTIMES.iter().flat_map(|name| GROUNDS_OF_RUNTIMES.map(|ground| Self { ground, by: By::Runtime(name) }));
        ours.into_iter().chain(theirs).collect()
    }

    pub fn name(self) -> String {
        match self.by {
            By::Us => self.ground.name().to_owned(),
            By::Runtime(name) => format!("{}_{name}", self.ground.name()),
        }
    }

    pub fn is_runtime(self) -> bool {
        self.by != By::Us
    }

    pub fn is_in_place(self) -> bool {
        self.ground == Ground::InPlace
    }

    pub fn is_copied(self) -> bool {
        matches!(self.ground, Ground::RootCopied | Ground::OneIdCopied) || self.is_contained()
    }

    pub fn is_root(self) -> bool {
        matches!(self.ground, Ground::Root | Ground::RootCopied) || self.is_contained()
    }

    /// Tried in a container of its own, which only root can make.
    pub fn is_contained(self) -> bool {
        self.is_in_place() || self.is_translated()
    }

    pub fn is_translated(self) -> bool {
        self.ground == Ground::Translated
    }

    pub fn has_one_id(self) -> bool {
        matches!(self.ground, Ground::OneId | Ground::OneIdCopied | Ground::Translated)
    }

    /// The runtime's program, if there is to be one; an error where it is not installed.
    fn runtime(self) -> Result<Option<PathBuf>, String> {
        let By::Runtime(name) = self.by else { return Ok(None) };
        let places = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];
        let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
        found.map(Some).ok_or_else(|| format!("needs {name}, see tests/setup.sh"))
    }

    /// This binary in the setting, or why that is not to be had.
    pub fn command(self) -> Result<Command, String> {
        self.runtime()?;
        let root = rustix::process::geteuid().is_root();
        if self.is_root() {
            return if root { Ok(crate::itself()) } else { Err("needs root".to_owned()) };
        }
        let many = !self.has_one_id();
        if !root {
            let subordinate = std::fs::read_to_string("/etc/subuid").is_ok_and(|text| !text.is_empty());
            return match (many, subordinate) {
                (true, false) => Err("needs entries in /etc/subuid and /etc/subgid".to_owned()),
                (false, true) => Err("needs a user without entries in /etc/subuid".to_owned()),
                (true, true) | (false, false) => Ok(crate::itself()),
            };
        }
        // The user's entries are made for this process only, in a mount namespace.
        let entries = if many { format!("{USER}:200000:65536") } else { String::new() };
        let script = format!(
            "f=$(mktemp) && echo '{entries}' > $f && chmod 644 $f && mount --bind $f /etc/subuid && mount --bind $f /etc/subgid && rm -f $f; \
             exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$0\" \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(std::env::current_exe().expect("own path"));
        Ok(command)
    }
}

/// Runs one test inside a sandbox, which is a container without any right to make namespaces.
pub fn contained(name: &str, setting: Setting) -> i32 {
    let mut bench = Bench::new(Setting { ground: Ground::Root, by: By::Us });
    let lower = bench.scratch("container");
    for name in ["bin", "lib", "lib64", "sbin"] {
        fs_err::os::unix::fs::symlink(format!("usr/{name}"), lower.join(name)).expect("link");
    }
    fs_err::create_dir_all(lower.join("tmp")).expect("mkdir");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(lower.join("tmp"), everybody).expect("chmod");
    // A copy: its own binary is nothing that a sandbox starts.
    fs_err::copy(std::env::current_exe().expect("own path"), lower.join("sandbox")).expect("copy");
    bench.lowers = vec![lower];
    let mut process = process(&["/sandbox", "--inside", name]);
    process.env.extend([("RUST_BACKTRACE".into(), "0".into()), ("TMPDIR".into(), "/tmp".into())]);
    if setting.is_translated() {
        (process.uid, process.gid) = (1000, 1000);
    }
    let kind = MountKind::Bind { source: "/usr".into(), readonly: true };
    process.mounts.push(Mount { target: "/usr".into(), kind });
    let ran = bench.start(&bench.root(), &process, &Cancel::new());
    eprintln!("{}{}", ran.stdout, ran.stderr);
    ran.exit.expect("runs").code
}

/// Says hello to a socket and gives the answer.
pub fn greet(path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(path).expect("connects");
    stream.write_all(b"hello").expect("writes");
    stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("reads");
    text
}

/// One entered process with a root to run things in.
pub struct Bench {
    pub session: Session,
    pub setting: Setting,
    pub directory: PathBuf,
    pub lowers: Vec<PathBuf>,
    runs: AtomicU32,
}

/// What a run did.
pub struct Ran {
    pub exit: Result<Exit, ExecError>,
    pub stdout: String,
    pub stderr: String,
    pub order: Vec<(Stream, String)>,
    /// Where the changes are: an overlay's upper directory, or the whole root.
    pub changes: PathBuf,
}

impl Ran {
    /// What it printed; it must have ended well.
    pub fn text(&self) -> &str {
        match &self.exit {
            Ok(exit) if exit.code == 0 => self.stdout.trim_end(),
            other => panic!("{other:?}\nstdout: {}\nstderr: {}", self.stdout, self.stderr),
        }
    }

    /// The error it must have ended with.
    pub fn fault(&self) -> String {
        self.exit.as_ref().expect_err("fails").to_string()
    }
}

impl Bench {
    pub fn new(setting: Setting) -> Self {
        let runtime = setting.runtime().expect("it is installed");
        let options = EnterOptions { need_sandbox: true, need_userns: true, runtime, ..EnterOptions::default() };
        let session = enter(&options).expect("enters");
        // The container of a CI may forbid everything; then the binary's own tests tell.
        let directory = tempfile::Builder::new().prefix("rbuild-sandbox-").tempdir().expect("temp dir").keep();
        let lower = directory.join("lower");
        for name in ["bin", "etc", "tmp", "root", "usr/bin"] {
            fs_err::create_dir_all(lower.join(name)).expect("mkdir");
        }
        fs_err::copy("/bin/busybox", lower.join("bin/busybox")).expect("busybox-static is installed");
        for applet in APPLETS {
            fs_err::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).expect("link");
        }
        fs_err::write(lower.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1234::/:/bin/sh\n")
            .expect("write");
        fs_err::write(lower.join("etc/not-executable"), "x").expect("write");
        Self { session, setting, lowers: vec![lower], directory, runs: AtomicU32::new(0) }
    }

    /// Puts this binary, and the libraries it has loaded, into the root.
    pub fn add_own_program(&self, path: &str) {
        let lower = &self.lowers[0];
        let add = |from: &Path, to: &str| {
            let to = lower.join(to.trim_start_matches('/'));
            fs_err::create_dir_all(to.parent().expect("parent")).expect("mkdir");
            fs_err::copy(from, to).expect("copy");
        };
        add(&std::env::current_exe().expect("own path"), path);
        let maps = fs_err::read_to_string("/proc/self/maps").expect("read");
        let libraries: std::collections::BTreeSet<&str> = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5))
            .filter(|name| name.contains(".so"))
            .collect();
        for library in libraries {
            add(Path::new(library), library);
            if library.contains("/ld-") {
                let loader = if cfg!(target_arch = "x86_64") {
                    "lib64/ld-linux-x86-64.so.2"
                } else {
                    "lib/ld-linux-aarch64.so.1"
                };
                add(Path::new(library), loader);
            }
        }
    }

    /// A fresh directory of this bench.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{name}-{number}"));
        fs_err::create_dir(&path).expect("mkdir");
        path
    }

    pub fn root(&self) -> Root {
        let scratch = self.scratch("run");
        let mut snapshots = self.session.snapshots(&self.directory);
        if self.setting.is_copied() {
            snapshots = std::sync::Arc::new(Copied { xattrs: self.session.overlay_xattrs });
        }
        snapshots.prepare(&self.lowers, &scratch).expect("prepares")
    }

    /// Runs a script.
    pub fn sh(&self, script: &str) -> Ran {
        self.run(script, |_| {})
    }

    /// Runs a script in a process changed by `change`.
    pub fn run(&self, script: &str, change: impl FnOnce(&mut Process)) -> Ran {
        let mut process = process(&["/bin/sh", "-c", script]);
        change(&mut process);
        self.start(&self.root(), &process, &Cancel::new())
    }

    pub fn start(&self, root: &Root, process: &Process, cancel: &Cancel) -> Ran {
        let (mut stdout, mut stderr, mut order) = (Vec::new(), Vec::new(), Vec::new());
        let mut output = |stream: Stream, bytes: &[u8]| {
            match stream {
                Stream::Stdout => stdout.extend_from_slice(bytes),
                Stream::Stderr => stderr.extend_from_slice(bytes),
            }
            order.push((stream, String::from_utf8_lossy(bytes).into_owned()));
        };
        let exit = self.session.executor.run(root, process, &mut output, cancel);
        let changes = match root {
            Root::Overlay { upper, .. } => upper.clone(),
            Root::Directory(path) => path.clone(),
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { exit, stdout: text(stdout), stderr: text(stderr), order, changes }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// Removes a tree even if it has directories without any permission, as overlay's own.
pub fn remove(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _best = std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o700));
            remove(&entry.path());
        } else {
            let _best = std::fs::remove_file(entry.path());
        }
    }
    let _best = std::fs::remove_dir(directory);
}

pub fn process(argv: &[&str]) -> Process {
    Process {
        argv: argv.iter().map(|&text| text.to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        cwd: "/".to_owned(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        mounts: Vec::new(),
        isolate_network: false,
        insecure: false,
        hostname: "buildkitsandbox".to_owned(),
        add_hosts: Vec::new(),
        shm_size: None,
        ulimits: Vec::new(),
        stdio: Stdio::Captured,
    }
}

const APPLETS: [&str; 48] = [
    "sh", "true", "false", "echo", "cat", "ls", "id", "env", "pwd", "stat", "sleep", "kill", "ps", "grep", "sed",
    "head", "wc", "mount", "umount", "mkdir", "rmdir", "rm", "mv", "ln", "touch", "chmod", "chown", "ip", "dd", "seq",
    "find", "sort", "nc", "hostname", "mknod", "test", "[", "cut", "tr", "readlink", "setsid", "df", "awk", "printf",
    "su", "chroot", "unshare", "date",
];
