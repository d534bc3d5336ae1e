//! Our own executor: hands steps to the launcher, passes their output on, and cleans up after them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::forward::Forwarder;
use super::groups::{Group, Groups};
use super::launcher::{self, Request};
use super::probe::{Found, Question};
use super::step::{Ground, Report, Runtime, Spec};
use super::stubs::Stubs;
use super::terminal::Terminal;
use super::{
    ExecError, Executor, Exit, Memory, MountKind, Output, Process, Root, Stdio, Stream, copies, in_place, kernel,
    memory, session, terminal, translate, wire,
};
use crate::cancel::Cancel;
use crate::snapshot::OverlayXattrs;

/// How often a waiting run looks whether it is cancelled.
const CANCEL_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Read from a pipe at once; a pipe holds this much by default.
const CHUNK: usize = 64 * 1024;

/// rbuild's end of the launcher.
#[derive(Debug)]
pub struct Sandbox {
    control: OwnedFd,
    launcher: kernel::Child,
    ground: Ground,
    /// How trees are marked.
    xattrs: OverlayXattrs,
    /// Whether steps may mount anything; believed until tried.
    mounts: AtomicBool,
    /// Whether their paths are translated; not before it was tried.
    translated: AtomicBool,
    /// Held while a step runs that changes its root's surroundings.
    in_place: Mutex<()>,
    /// Where steps are limited, if they are.
    groups: Option<Groups>,
}

impl Sandbox {
    /// Forks the launcher; the process must still be single-threaded.
    pub(crate) fn start(ground: Ground) -> io::Result<Self> {
        let (control, launcher) = launcher::start(ground)?;
        let xattrs = session::marks(ground);
        Ok(Self {
            control,
            launcher,
            ground,
            xattrs,
            mounts: AtomicBool::new(ground.mounts),
            translated: AtomicBool::new(ground.translated),
            in_place: Mutex::new(()),
            groups: None,
        })
    }

    /// Limits every step.
    pub(crate) fn in_groups(mut self, groups: Groups) -> Self {
        self.groups = Some(groups);
        self
    }

    /// Tries what can be mounted, with an overlay in `directory` (see [`Question::directory`]).
    pub(crate) fn probe(&self, directory: &std::path::Path) -> io::Result<Found> {
        let question = Question { directory: directory.to_owned(), ground: self.ground };
        let (ours, theirs) = wire::socket_pair()?;
        let question = wire::memory_file("probe", &wire::encode(&question))?;
        wire::send(&self.control, &[Request::Probe.byte()], &[question.as_fd(), theirs.as_fd()])?;
        drop(theirs);
        let (bytes, _) = wire::receive(&ours)?;
        let found: Found = wire::decode(&bytes)?;
        let mounts = self.ground.mounts && found.mounts.is_none();
        self.mounts.store(mounts, Ordering::Relaxed);
        // Who keeps owners is better off in a root of its own, who does not with a /proc: see decision 0005.
        let wanted = !mounts && (found.chroot.is_some() || self.ground.one_id);
        self.translated.store(wanted && found.translation.is_none(), Ordering::Relaxed);
        Ok(found)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // It ends by itself when the control socket closes, but that field outlives this function.
        let _ended = rustix::process::pidfd_send_signal(&self.launcher.pidfd, rustix::process::Signal::KILL);
        let _status = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.launcher.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
    }
}

impl Executor for Sandbox {
    fn run(&self, root: &Root, process: &Process, output: Output<'_>, cancel: &Cancel) -> Result<Exit, ExecError> {
        self.run_by(None, root, process, output, cancel)
    }
}

impl Sandbox {
    /// Runs a process whose container `runtime` makes; without one it gets ours.
    pub(crate) fn run_by(
        &self,
        runtime: Option<&Runtime>,
        root: &Root,
        process: &Process,
        output: Output<'_>,
        cancel: &Cancel,
    ) -> Result<Exit, ExecError> {
        cancel.check()?;
        let setup = |error: io::Error| ExecError::Setup(error.to_string());
        match root {
            Root::Overlay { upper, .. } => {
                let end = self.run_in(runtime, root, process.clone(), Vec::new(), output, cancel)?;
                let removed = end.stubs.remove(upper).map_err(setup)?;
                end.exit(removed, cancel)
            }
            Root::Directory(path) => {
                let mut process = process.clone();
                let beside = path.parent().unwrap_or(path);
                let copies = copies::copied(&mut process, beside, self.xattrs).map_err(setup)?;
                if self.mounts.load(Ordering::Relaxed) || runtime.is_some() {
                    let end = self.run_in(runtime, root, process, Vec::new(), output, cancel)?;
                    drop(copies);
                    let removed = end.stubs.remove(path).map_err(setup)?;
                    return end.exit(removed, cancel);
                }
                if self.translated.load(Ordering::Relaxed) {
                    let mut laid = translate::lay(path, &process).map_err(setup)?;
                    let shown = std::mem::take(&mut laid.shown);
                    let process = Process { mounts: Vec::new(), ..process };
                    let end = self.run_in(None, root, process, shown, output, cancel);
                    drop(copies);
                    let removed = laid.undo().map_err(setup)?;
                    return end?.exit(removed, cancel);
                }
                let _one_at_a_time = self.in_place.lock().unwrap_or_else(PoisonError::into_inner);
                let placed = in_place::place(path, &process, self.xattrs).map_err(setup)?;
                let process = Process { mounts: Vec::new(), ..process };
                let end = self.run_in(None, root, process, Vec::new(), output, cancel);
                let removed = placed.undo().map_err(setup)?;
                end?.exit(removed, cancel)
            }
        }
    }

    fn run_in(
        &self,
        runtime: Option<&Runtime>,
        root: &Root,
        process: Process,
        shown: Vec<translate::Shown>,
        output: Output<'_>,
        cancel: &Cancel,
    ) -> Result<End, ExecError> {
        let kills_before = memory::kills();
        let (mounts, translated) = (self.mounts.load(Ordering::Relaxed), self.translated.load(Ordering::Relaxed));
        let ground = Ground { mounts, translated, ..self.ground };
        let terminal = process.stdio == Stdio::Inherited && terminal::is_ours();
        let group = self.groups.as_ref().map(Groups::step).transpose();
        let group = group.map_err(|error| ExecError::Setup(format!("make a control group: {error}")))?;
        let groups = group.as_ref().map_or_else(Vec::new, |group| group.directories().to_vec());
        let runtime = runtime.cloned();
        let spec = Spec { root: root.clone(), process, ground, terminal, groups, shown, runtime };
        let mut running = Running::start(&self.control, &spec).map_err(ExecError::Launcher)?;
        let mut end = running.wait(&spec.process.mounts, output, cancel).map_err(ExecError::Launcher)?;
        let limit = self.groups.as_ref().and_then(|groups| groups.limits().memory);
        match group.as_ref().and_then(Group::used) {
            // Its own group tells it from others that run now.
            Some(used) => {
                end.out_of_memory = used.out_of_memory;
                end.memory = Some(Memory { limit, peak: used.memory_peak });
            }
            None => end.out_of_memory = end.code != 0 && memory::kills() > kills_before,
        }
        Ok(end)
    }
}

/// A step between its start and its end.
struct Running {
    socket: OwnedFd,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// What is known when it is over.
struct End {
    code: i32,
    stubs: Stubs,
    fault: Option<ExecError>,
    out_of_memory: bool,
    memory: Option<Memory>,
}

impl End {
    fn exit(self, stubs: Vec<String>, cancel: &Cancel) -> Result<Exit, ExecError> {
        // What a killed step says of itself is of no interest.
        cancel.check()?;
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(Exit { code: self.code, out_of_memory: self.out_of_memory, memory: self.memory, stubs }),
        }
    }
}

impl Running {
    fn start(control: &OwnedFd, spec: &Spec) -> io::Result<Self> {
        let (ours, theirs) = wire::socket_pair()?;
        let request = if spec.process.isolate_network { Request::RunIsolated } else { Request::Run };
        let memory = wire::memory_file("step", &wire::encode(spec))?;
        let send = |streams: &[BorrowedFd<'_>]| {
            let mut fds = vec![memory.as_fd(), theirs.as_fd()];
            fds.extend_from_slice(streams);
            wire::send(control, &[request.byte()], &fds)
        };
        match spec.process.stdio {
            Stdio::Inherited => {
                send(&[rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()])?;
                Ok(Self { socket: ours, stdout: None, stderr: None })
            }
            Stdio::Captured => {
                let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
                let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
                for pipe in [&stdout, &stderr] {
                    // Only our end: what the process writes to blocks as it expects.
                    rustix::io::ioctl_fionbio(pipe, true)?;
                }
                send(&[stdout_end.as_fd(), stderr_end.as_fd()])?;
                Ok(Self { socket: ours, stdout: Some(stdout), stderr: Some(stderr) })
            }
        }
    }

    fn wait(&mut self, mounts: &[super::Mount], output: Output<'_>, cancel: &Cancel) -> io::Result<End> {
        let mut end = End { code: 0, stubs: Stubs::default(), fault: None, out_of_memory: false, memory: None };
        let mut forwarders = Vec::new();
        let mut told_to_stop = false;
        let mut terminal: Option<Terminal> = None;
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut polled = vec![PollFd::new(&self.socket, PollFlags::IN)];
            polled.extend(
                [&self.stdout, &self.stderr].into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)),
            );
            let sources = terminal.as_ref().map(Terminal::sources).unwrap_or_default();
            polled.extend(sources.iter().map(|source| PollFd::new(source, PollFlags::IN)));
            match poll(&mut polled, Some(&CANCEL_CHECK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let told = !polled[0].revents().is_empty();
            // A terminal comes without pipes, so standard input is second.
            let typed = !sources.is_empty() && !polled[1].revents().is_empty();
            drop(polled);
            drop(sources);
            if let Some(terminal) = &mut terminal {
                terminal.print(&mut buffer)?;
                if typed {
                    terminal.type_in(&mut buffer)?;
                }
                terminal.resize();
            }
            // The output before the news: what a step wrote before it ended comes before its end.
            pass_on(&mut self.stdout, Stream::Stdout, &mut buffer, output)?;
            pass_on(&mut self.stderr, Stream::Stderr, &mut buffer, output)?;
            if cancel.is_cancelled() && !told_to_stop {
                told_to_stop = true;
                wire::say_stop(&self.socket);
            }
            if !told {
                continue;
            }
            let (bytes, fds) = match wire::receive(&self.socket) {
                // The step ended before the launcher read that it should: whatever was said about it is lost, and not needed.
                Err(error) if told_to_stop && error.kind() == io::ErrorKind::ConnectionReset => return Ok(end),
                received => received?,
            };
            if bytes.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended unexpectedly"));
            }
            match wire::decode::<Report>(&bytes)? {
                Report::Ready { stubs } => end.stubs = stubs,
                // The first one is nearest to the cause.
                Report::Setup { text } => _ = end.fault.get_or_insert(ExecError::Setup(text)),
                Report::Refused { text } => _ = end.fault.get_or_insert(ExecError::Refused(text)),
                Report::NotExecutable { text } => _ = end.fault.get_or_insert(ExecError::NotExecutable(text)),
                Report::Terminal => terminal = fds.into_iter().next().map(Terminal::connect).transpose()?,
                Report::Listener { mount } => {
                    if let (Some(MountKind::Socket { source, .. }), Some(listener)) =
                        (mounts.get(mount as usize).map(|mount| &mount.kind), fds.into_iter().next())
                    {
                        forwarders.push(Forwarder::start(listener, source.clone())?);
                    }
                }
                Report::Ended { code, signal } => {
                    end.code = if signal == 0 { code } else { 128 + signal };
                    if let Some(terminal) = &mut terminal {
                        terminal.print(&mut buffer)?;
                    }
                    // All writers are gone, so what is in the pipes is all there will be.
                    pass_on(&mut self.stdout, Stream::Stdout, &mut buffer, output)?;
                    pass_on(&mut self.stderr, Stream::Stderr, &mut buffer, output)?;
                    return Ok(end);
                }
            }
        }
    }
}

/// Passes on what a pipe holds now; lets go of it at its end.
fn pass_on(pipe: &mut Option<OwnedFd>, stream: Stream, buffer: &mut [u8], output: Output<'_>) -> io::Result<()> {
    while let Some(fd) = pipe {
        match rustix::io::read(&*fd, &mut *buffer) {
            Ok(0) => *pipe = None,
            Ok(length) => output(stream, &buffer[..length]),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
