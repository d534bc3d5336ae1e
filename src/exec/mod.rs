//! Runs one process in a root, with namespaces of its own.
//!
//! Knows nothing of steps, caching or Dockerfiles. [`enter`] comes first in `main`: it forks what must be forked before
//! there are threads. The only module with `unsafe` code.

mod copies;
pub mod emulator;
mod forward;
mod groups;
mod host;
mod in_place;
mod kernel;
mod launcher;
mod memory;
pub mod oci_runtime;
mod orphans;
mod probe;
mod sandbox;
mod seccomp;
mod session;
mod step;
mod stubs;
mod terminal;
mod translate;
mod userns;
mod wire;

use std::path::PathBuf;

pub use crate::snapshot::Root;
pub use groups::Limits;
pub use host::{Host, HostCommand, HostOutput};
pub use sandbox::Sandbox;
pub use session::{EnterError, EnterOptions, Mode, Ownership, Session, Trial, enter};

use crate::cancel::Cancel;

/// A process and everything it gets.
#[derive(Clone, Debug)]
pub struct Process {
    /// argv; `argv[0]` without `/` is looked up in the PATH of `env` inside the root.
    pub argv: Vec<String>,
    /// The whole environment (HOME, PATH and secrets already in it).
    pub env: Vec<(String, String)>,
    /// Absolute; made (owned by the user, 0755) if missing, symlinks resolved inside the root.
    pub cwd: String,
    /// Numeric user.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Mounts besides the standard ones, in the order to be mounted.
    pub mounts: Vec<Mount>,
    /// Own network namespace with only `lo` instead of the host's.
    pub isolate_network: bool,
    /// All capabilities, no seccomp, nothing masked.
    pub insecure: bool,
    /// Host name.
    pub hostname: String,
    /// Further lines of /etc/hosts: name, address.
    pub add_hosts: Vec<(String, String)>,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// name, soft, hard; -1 is unlimited.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Terminal or files to hand in; `None`: stdin empty, output through [`Output`].
    pub stdio: Stdio,
}

/// Where the process reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// stdin is /dev/null; stdout and stderr go to the sink given to `run`.
    Captured,
    /// rbuild's own three (for `rbuild run` and shells); if they are a terminal, the process gets one of its own that is
    /// connected to it.
    Inherited,
}

/// One further mount. Targets are absolute in the root; missing ones are made and, if still empty, removed afterwards.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Absolute path in the root.
    pub target: String,
    /// What appears there.
    pub kind: MountKind,
}

/// Kinds of further mounts.
#[derive(Clone, Debug)]
pub enum MountKind {
    /// A file or directory of the host. `source` was resolved safely by the caller and is opened without following links.
    Bind {
        /// Host path.
        source: PathBuf,
        /// Mounted read-only.
        readonly: bool,
    },
    /// A stack of trees seen at `subpath`, read-only, or writable with writes thrown away.
    Stack {
        /// From the bottom to the top.
        lowers: Vec<PathBuf>,
        /// Path below the merged root, resolved inside it.
        subpath: String,
        /// Scratch space for the throw-away upper; `None`: read-only.
        scratch: Option<PathBuf>,
    },
    /// A host directory seen writable with writes thrown away.
    Discard {
        /// Host path.
        source: PathBuf,
        /// Scratch space for the throw-away upper.
        scratch: PathBuf,
    },
    /// A tmpfs.
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        /// Mode of its root; `None`: of the directory it covers, 1777 where there was none.
        mode: Option<u32>,
        /// Mounted read-only.
        readonly: bool,
    },
    /// A file that exists only in memory (secrets, scripts).
    File {
        /// Content.
        content: Vec<u8>,
        /// Whether it may be executed: a script may, a secret may not.
        executable: bool,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A socket of the host.
    Socket {
        /// Host path.
        source: PathBuf,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Which stream of a captured process.
pub use crate::event::Stream;

/// Takes the output of a captured process as it comes.
pub type Output<'a> = &'a mut (dyn FnMut(Stream, &[u8]) + Send);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal when killed by one.
    pub code: i32,
    /// The kernel killed something in it for lack of memory.
    pub out_of_memory: bool,
    /// What its own control group counted, if it had one.
    pub memory: Option<Memory>,
    /// Paths in the root that were made only to mount something there and are to be left out of the layer if unchanged:
    /// already removed by the executor in a `Directory` root; for `Overlay` they are removed from the upper directory too.
    /// Listed for tests.
    pub stubs: Vec<String>,
}

/// Memory of a process and all it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that it might have used.
    pub limit: Option<u64>,
    /// Bytes that it used at the most.
    pub peak: Option<u64>,
}

/// A process could not be started or watched.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The build was cancelled; the process was killed.
    #[error(transparent)]
    Cancelled(#[from] crate::cancel::Cancelled),
    /// Setting up the sandbox failed; the text names the operation and the object.
    #[error("{0}")]
    Setup(String),
    /// The root does not allow what the step asks for: something is in the way of a mount or of the working directory.
    #[error("{0}")]
    Refused(String),
    /// `argv[0]` cannot be executed; the text is what runc says, e.g. `exec: "foo": executable file not found in $PATH`.
    #[error("{0}")]
    NotExecutable(String),
    /// Talking to the launcher failed.
    #[error("sandbox launcher: {0}")]
    Launcher(#[source] std::io::Error),
}

/// Runs processes: own sandbox, or an OCI runtime.
pub trait Executor: Send + Sync + std::fmt::Debug {
    /// Runs `process` in `root` until it ends; blocks. All processes it started are gone when this returns.
    fn run(&self, root: &Root, process: &Process, output: Output<'_>, cancel: &Cancel) -> Result<Exit, ExecError>;
}
