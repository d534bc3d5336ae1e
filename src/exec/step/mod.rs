//! What a step's first process does from its birth to becoming the user's program.
//!
//! Runs in a fork of the single-threaded launcher, already in its new namespaces, so it may allocate and fail freely;
//! what goes wrong is reported over a socket. Order matters and is all in [`prepare`]: what needs the host's files comes
//! before the pivot, what needs privilege before the change of user.

mod bundle;
mod config;
mod contained;
mod extra;
mod identity;
pub(crate) mod mounts;
pub(crate) mod names;
mod program;
mod staging;
pub(crate) mod standard;
pub(crate) mod walk;

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchown, fstat, openat};
use rustix::mount::MountAttrFlags;

use super::kernel;
use super::seccomp::Policy;
use super::stubs::{Moment, Stubs};
use super::translate::{self, Shown};
use super::wire::{self, Wire, wire_enum, wire_struct};
use super::{Process, Root, Stdio};
pub(crate) use extra::{APT_FILE, APT_TEXT, APT_WHERE, open_unlinked};
use mounts::Target;
use staging::Staging;
use walk::{Missing, Rooted};

/// What a step is to do and where it finds itself.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// The root.
    pub(crate) root: Root,
    /// The process.
    pub(crate) process: Process,
    /// The ground it stands on.
    pub(crate) ground: Ground,
    /// Standard streams are to be a new terminal.
    pub(crate) terminal: bool,
    /// Control groups to be in.
    pub(crate) groups: Vec<std::path::PathBuf>,
    /// What it sees besides its root, where paths are translated.
    pub(crate) shown: Vec<Shown>,
    /// What makes the container; `None`: we do.
    pub(crate) runtime: Option<Runtime>,
}

/// A program that runs containers as the OCI specifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// Its path.
    pub(crate) program: std::path::PathBuf,
    /// Its own options, before those that all runtimes have.
    pub(crate) options: Vec<String>,
}

/// What is known of the machine before any step ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    /// In a user namespace of our own, where some things have other names or are forbidden.
    pub(crate) user_namespace: bool,
    /// Only one user and group exist there.
    pub(crate) one_id: bool,
    /// Steps get namespaces.
    pub(crate) namespaces: bool,
    /// Steps may mount something there; otherwise they get a `chroot` at most.
    pub(crate) mounts: bool,
    /// Not even that: a tracer has their paths mean what they would mean in their root.
    pub(crate) translated: bool,
}

/// What a step's process and the launcher tell rbuild.
#[derive(Debug)]
pub(crate) enum Report {
    /// All is set up but the program; these mount points were made.
    Ready { stubs: Stubs },
    /// Setting up failed.
    Setup { text: String },
    /// What the step asked for does not fit its root.
    Refused { text: String },
    /// The program cannot be executed.
    NotExecutable { text: String },
    /// The message carries the controlling end of the step's terminal.
    Terminal,
    /// The message carries a socket that listens for mount number `mount`.
    Listener { mount: u32 },
    /// It ended, with a code or killed by a signal (the other is 0); said by the launcher, always last.
    Ended { code: i32, signal: i32 },
}

wire_struct!(Spec { root, process, ground, terminal, groups, shown, runtime });
wire_struct!(Runtime { program, options });
wire_struct!(Ground { user_namespace, one_id, namespaces, mounts, translated });
wire_enum!(Report {
    0 => Ready { stubs },
    1 => Setup { text },
    2 => NotExecutable { text },
    3 => Listener { mount },
    4 => Ended { code, signal },
    5 => Terminal {},
    6 => Refused { text },
});

/// Why the program was not started.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What was being done and why it failed.
    Setup(String),
    /// What of the step's own wishes its root does not allow, and why, in the words of runc.
    Refused(String),
    /// runc's words about the program.
    NotExecutable(String),
}

/// Names the operation that failed.
trait During<T> {
    fn during(self, what: impl Display) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl Display) -> Result<T, Fault> {
        self.map_err(|error| Fault::Setup(format!("{what}: {}", error.into())))
    }
}

/// The system's text in lower case and without its number, as Go prints it.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + letters.as_str())
}

/// What the launcher hands over besides the specification.
#[derive(Debug)]
pub(crate) struct Handles {
    /// To rbuild.
    pub(crate) socket: OwnedFd,
    /// stdout and stderr, or all three.
    pub(crate) streams: Vec<OwnedFd>,
}

/// Becomes the program, or reports why not and ends.
pub(crate) fn start(spec: Result<Spec, Fault>, handles: &Handles) -> ! {
    let attempt = std::panic::catch_unwind(|| spec.and_then(|spec| run(&spec, handles)));
    match attempt {
        Ok(Err(fault)) => tell_fault(&handles.socket, fault),
        Ok(Ok(never)) => match never {},
        Err(_) => tell_fault(&handles.socket, Fault::Setup("the sandbox's own process panicked".to_owned())),
    }
}

/// Tells rbuild and ends.
fn tell_fault(socket: &OwnedFd, fault: Fault) -> ! {
    let report = match fault {
        Fault::Setup(text) => Report::Setup { text },
        Fault::Refused(text) => Report::Refused { text },
        Fault::NotExecutable(text) => Report::NotExecutable { text },
    };
    let _gone = tell(socket, &report, &[]);
    kernel::leave(1)
}

/// Sends one report.
pub(crate) fn tell(socket: impl AsFd, report: &Report, fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes = Vec::new();
    report.put(&mut bytes);
    wire::send(socket, &bytes, fds)
}

/// What is to be done.
pub(crate) fn read_spec(spec: &OwnedFd) -> Result<Spec, Fault> {
    let mut bytes = Vec::new();
    let read =
        spec.try_clone().map(std::fs::File::from).and_then(|mut file| io::Read::read_to_end(&mut file, &mut bytes));
    read.and_then(|_| wire::decode(&bytes)).during("read the step's specification")
}

fn run(spec: &Spec, handles: &Handles) -> Result<std::convert::Infallible, Fault> {
    let Spec { root, process, ground, terminal, groups, runtime, .. } = spec;
    join(groups, *ground)?;
    rustix::process::umask(Mode::empty());
    if let Some(runtime) = runtime {
        return contained::run(spec, runtime, handles);
    }
    let nothing = nothing()?;
    let cwd = if ground.mounts {
        prepare(root, process, *ground, &handles.socket)?
    } else {
        confine(root, process, *ground, &handles.socket)?
    };
    rustix::process::fchdir(&cwd).during(format!("chdir to cwd ({:?})", process.cwd))?;
    drop(cwd);
    let terminal = if *terminal && ground.mounts { Some(open_terminal(process, &handles.socket)?) } else { None };
    streams(process, handles, terminal.as_ref(), &nothing)?;
    identity::limits(process)?;
    let policy = Policy { confined: !process.insecure, pretend_ownership: ground.one_id };
    identity::assume(process, *ground, policy)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    kernel::reset_signals();
    kernel::close_from_at_exec(3);
    if ground.translated {
        translate::install().during("have paths translated")?;
    }
    program::execute(process)
}

/// What a step without input reads.
fn nothing() -> Result<OwnedFd, Fault> {
    let (nothing, _closed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during("make a pipe")?;
    Ok(nothing)
}

/// Gives this process the standard streams of the step.
fn streams(process: &Process, handles: &Handles, terminal: Option<&OwnedFd>, nothing: &OwnedFd) -> Result<(), Fault> {
    let streams = match process.stdio {
        Stdio::Captured => {
            for stream in handles.streams.iter().chain([nothing]) {
                // Its owner may open /dev/stdout again, so the pipe must be the user's.
                let _refused = fchown(stream, Some(Uid::from_raw(process.uid)), Some(Gid::from_raw(process.gid)));
            }
            [Some(nothing), handles.streams.first(), handles.streams.get(1)]
        }
        Stdio::Inherited if terminal.is_some() => [terminal; 3],
        Stdio::Inherited => [handles.streams.first(), handles.streams.get(1), handles.streams.get(2)],
    };
    for (number, stream) in (0..).zip(streams) {
        kernel::become_stream(stream.unwrap_or(nothing).as_fd(), number).during("set up the standard streams")?;
    }
    if process.stdio == Stdio::Inherited && rustix::termios::isatty(rustix::stdio::stdin()) {
        // For job control and ^C; a terminal that is another session's stays with it.
        let _another_session = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    }
    Ok(())
}

/// Makes a terminal of the step's own /dev/pts the one that controls this session; gives its near end.
fn open_terminal(process: &Process, socket: &OwnedFd) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let far = openat(CWD, "/dev/pts/ptmx", flags, Mode::empty()).during("open /dev/pts/ptmx")?;
    rustix::pty::unlockpt(&far).during("unlock the terminal")?;
    let name = rustix::pty::ptsname(&far, Vec::new()).during("name the terminal")?;
    let near = openat(CWD, &name, flags, Mode::empty()).during("open the terminal")?;
    let _refused = fchown(&near, Some(Uid::from_raw(process.uid)), None);
    rustix::process::ioctl_tiocsctty(&near).during("take the terminal")?;
    tell(socket, &Report::Terminal, &[far.as_fd()]).during("hand over the terminal")?;
    Ok(near)
}

/// Goes into control groups; what it starts is then in them too.
fn join(groups: &[std::path::PathBuf], ground: Ground) -> Result<(), Fault> {
    for group in groups {
        let file = group.join("cgroup.procs");
        std::fs::write(&file, "0").during(format!("write to {}", file.display()))?;
    }
    if ground.namespaces && !groups.is_empty() {
        // So that they are the roots of what the step sees.
        kernel::unshare(libc::CLONE_NEWCGROUP).during("make a namespace of control groups")?;
    }
    Ok(())
}

/// What each of a step's namespaces is for.
fn settle(process: &Process, ground: Ground) -> Result<(), Fault> {
    let _leader = rustix::process::setsid();
    if !ground.namespaces {
        if process.isolate_network {
            let text = "network mode none: this machine lets us make no network namespace";
            return Err(Fault::Setup(text.to_owned()));
        }
        return Ok(());
    }
    rustix::system::sethostname(process.hostname.as_bytes()).during(format!("set host name {:?}", process.hostname))?;
    if process.isolate_network {
        kernel::loopback_up().during("bring up the loopback interface")?;
    }
    Ok(())
}

/// Makes the sandbox around this process; gives the working directory.
fn prepare(root: &Root, process: &Process, ground: Ground, socket: &OwnedFd) -> Result<OwnedFd, Fault> {
    settle(process, ground)?;
    let nodes = if process.insecure { MountAttrFlags::empty() } else { mounts::NO_DEVICES };
    let (target, mut staging) = mount_root(root, ground, nodes)?;
    let mut root = Rooted::new(target.enter().during("open the root")?);
    standard::mount_all(&mut root, &mut staging, process, ground)?;
    for (number, mount) in (0..).zip(&process.mounts) {
        extra::mount(&mut root, &mut staging, number, mount, extra::Setting { ground, attributes: nodes, socket })?;
    }
    if ground.one_id {
        extra::tame_apt(&mut root, &mut staging)?;
    }
    let cwd = working_directory(&mut root, process)?;
    report_ready(&mut root, socket)?;
    pivot(root.root())?;
    Ok(cwd)
}

/// All there is without mounts: a changed root directory, in which everything is already in its place (`in_place`), or paths
/// that are translated from here on.
fn confine(root: &Root, process: &Process, ground: Ground, socket: &OwnedFd) -> Result<OwnedFd, Fault> {
    settle(process, ground)?;
    let Root::Directory(path) = root else {
        return Err(Fault::Setup("mount overlay: this machine lets us mount nothing".to_owned()));
    };
    let mut root = Rooted::at(path).during(format!("open {}", path.display()))?;
    let cwd = working_directory(&mut root, process)?;
    report_ready(&mut root, socket)?;
    if ground.translated {
        return Ok(cwd);
    }
    rustix::process::fchdir(root.root()).during("chdir to the root")?;
    rustix::process::chroot(".").during("chroot (needs CAP_SYS_CHROOT, or user namespaces)")?;
    Ok(cwd)
}

fn working_directory(root: &mut Rooted, process: &Process) -> Result<OwnedFd, Fault> {
    let missing = Missing::Directory(process.uid, process.gid);
    let refused = |error: &io::Error| Fault::Refused(format!("mkdir {}: {}", process.cwd, plain(error)));
    let cwd = root.open(&process.cwd, missing).map_err(|error| refused(&error))?;
    let stat = fstat(&cwd).during(format!("stat {}", process.cwd))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
        return Err(refused(&rustix::io::Errno::NOTDIR.into()));
    }
    Ok(cwd)
}

fn report_ready(root: &mut Rooted, socket: &OwnedFd) -> Result<(), Fault> {
    let mut parents = Vec::new();
    for (fd, parent) in root.parents.drain(..) {
        let now = fstat(&fd).during(format!("stat /{}", parent.path))?;
        parents.push(super::stubs::Parent { after: Moment::of(&now), ..parent });
    }
    let stubs = Stubs { made: std::mem::take(&mut root.stubs), parents };
    tell(socket, &Report::Ready { stubs }, &[]).during("report to rbuild")
}

/// Mounts the root on a private place: over its own directory, in this mount namespace only.
fn mount_root(root: &Root, ground: Ground, attributes: MountAttrFlags) -> Result<(Target, Staging), Fault> {
    match root {
        Root::Overlay { lowers, upper, work } => {
            // The directories are opened before they are covered.
            let below = Target::at(upper).during(format!("open {}", upper.display()))?;
            // Left by an earlier mount of the same directories, for a shell after a failure say: the kernel marks them because
            // what was not synced could be lost in a crash, and then nothing of this run survives either.
            let _absent = std::fs::remove_dir_all(work.join("work/incompat"));
            let changes = mounts::Changes { upper, work };
            let opened = mounts::OverlayParts::open(lowers, Some(changes)).during("open the layers")?;
            let mut staging = Staging::mount(&below, upper)?;
            let target = staging.directory()?;
            opened.mount(ground.user_namespace, attributes, &target).during("mount overlay")?;
            Ok((target, staging))
        }
        Root::Directory(path) => {
            let below = Target::at(path).during(format!("open {}", path.display()))?;
            // Cloned before it is covered: a recursive clone would take the cover along.
            let clone = mounts::clone_tree(&below.fd).during(format!("bind {}", path.display()))?;
            let mut staging = Staging::mount(&below, path)?;
            let target = staging.directory()?;
            match clone {
                Some(clone) if attributes.is_empty() => mounts::attach(&clone, &target),
                Some(clone) => {
                    mounts::set_attributes(&clone, attributes, true).and_then(|()| mounts::attach(&clone, &target))
                }
                None => mounts::bind(&below.fd, &target, attributes, mounts::Depth::Single),
            }
            .during(format!("bind {}", path.display()))?;
            Ok((target, staging))
        }
    }
}

/// Makes `root` the root of this mount namespace and lets go of the old one.
fn pivot(root: &OwnedFd) -> Result<(), Fault> {
    use rustix::mount::{UnmountFlags, mount_move, unmount};
    rustix::process::fchdir(root).during("chdir to the root")?;
    // Both roots end up on "/", the old one on top; no directory is needed to hold it.
    if let Err(errno) = rustix::process::pivot_root(".", ".") {
        // The root of an initial ram disk cannot be pivoted away.
        mount_move(".", "/").map_err(|_| errno).during("pivot_root")?;
        return rustix::process::chroot(".").during("chroot");
    }
    unmount(".", UnmountFlags::DETACH).during("unmount the old root")?;
    rustix::process::chdir("/").during("chdir to /")
}

/// Tries the mounts that not every machine allows.
pub(crate) fn try_mounts(question: &super::probe::Question) -> super::probe::Found {
    let said = |result: io::Result<()>| result.err().map(|error| error.to_string());
    let place = |name: &str| question.directory.join(name);
    let overlay = || -> io::Result<()> {
        let (upper, work) = (place("upper"), place("work"));
        let changes = mounts::Changes { upper: &upper, work: &work };
        let parts = mounts::OverlayParts::open(&[place("lower")], Some(changes))?;
        let target = Target::at(&place("lower"))?;
        parts.mount(question.ground.user_namespace, mounts::NO_DEVICES, &target)?;
        // Some file systems take the mount and then no changes: replace something of the lower directory and remove it.
        let root = target.enter()?;
        rustix::fs::unlinkat(&root, "old", rustix::fs::AtFlags::REMOVEDIR)?;
        rustix::fs::mkdirat(&root, "old", Mode::from_raw_mode(0o755))?;
        Ok(rustix::fs::unlinkat(&root, "old", rustix::fs::AtFlags::REMOVEDIR)?)
    };
    let mounts = || mounts::fresh("tmpfs", &[], mounts::INERT, &Target::at(&place("upper"))?);
    let proc = || mounts::fresh("proc", &[], mounts::INERT, &Target::at(&place("work"))?);
    // In this order: each covers a directory that those before it use.
    let (overlay, proc) = (said(overlay()), said(proc()));
    // Only where it may be needed: it takes two processes more.
    let (mounts, translation) = match mounts() {
        Ok(()) => (None, None),
        Err(error) => (Some(error.to_string()), said(translate::attempt(&question.directory))),
    };
    // Last: after it the directory cannot be found any more.
    let chroot = || Ok(rustix::process::chroot(&question.directory)?);
    super::probe::Found { overlay, proc, mounts, translation, chroot: said(chroot()) }
}
