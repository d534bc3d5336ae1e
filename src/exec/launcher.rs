//! The launcher: a small single-threaded process, forked before rbuild made any thread, that starts every step.
//!
//! It is pid 1 of a PID namespace around all steps and dies with rbuild, so whatever happens to rbuild, even kill -9, the
//! kernel then kills every process of every step, and with the last one in each mount namespace goes what was mounted.
//! It waits for two things only: requests (one message with descriptors each) and the end of steps. It parses no
//! specification and has no configuration; the step's own process does its own setting up (`step`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::kernel::{self, Child, Disposition, Side};
use super::step::{self, Ground, Handles, Report};
use super::{orphans, probe, translate, wire};

/// What rbuild asks of the launcher; the first byte of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Start a step: descriptors are its specification, its socket, and two or three streams.
    Run,
    /// The same in a network namespace of its own.
    RunIsolated,
    /// Find out what can be mounted: descriptors are the specification and the socket.
    Probe,
}

impl Request {
    /// As a message.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Run => 0,
            Self::RunIsolated => 1,
            Self::Probe => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Run, Self::RunIsolated, Self::Probe].into_iter().find(|request| request.byte() == byte)
    }
}

/// The namespaces of each step besides the network's.
const STEP_NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// Forks the launcher. With `ground.namespaces` this fails where we may not make a PID namespace.
pub(crate) fn start(ground: Ground) -> io::Result<(OwnedFd, Child)> {
    let (ours, theirs) = wire::socket_pair()?;
    let flags = if ground.namespaces { libc::CLONE_NEWPID } else { 0 };
    match kernel::fork_into(flags)? {
        Side::Parent(child) => Ok((ours, child)),
        Side::Child => {
            drop(ours);
            let outcome = std::panic::catch_unwind(|| serve(&theirs, ground));
            kernel::leave(i32::from(!matches!(outcome, Ok(Ok(())))))
        }
    }
}

/// A step that was started.
struct Step {
    child: Child,
    socket: OwnedFd,
    /// It has been killed, or a supervisor listens for the word to do so.
    stopped: bool,
}

fn serve(control: &OwnedFd, ground: Ground) -> io::Result<()> {
    settle(control, ground)?;
    let mut steps: Vec<Step> = Vec::new();
    loop {
        let mut polled = vec![PollFd::new(control, PollFlags::IN)];
        for step in &steps {
            polled.push(PollFd::new(&step.child.pidfd, PollFlags::IN));
            let listening = if step.stopped { PollFlags::empty() } else { PollFlags::IN };
            polled.push(PollFd::new(&step.socket, listening));
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> =
            polled.iter().map(|fd| fd.revents().intersects(PollFlags::IN | PollFlags::HUP)).collect();
        drop(polled);
        let mut at = 0;
        steps.retain_mut(|step| {
            at += 2;
            // The only word from rbuild is the end of the conversation: it wants no more of the step.
            if ready[at] && !step.stopped {
                step.stopped = true;
                let _ended = pidfd_send_signal(&step.child.pidfd, Signal::KILL);
                // Read, so that it does not make us look again at once, nor reset the connection when we close it.
                let _word = wire::receive(&step.socket);
            }
            !(ready[at - 1] && reap(step, ground))
        });
        if ready[0] {
            let (request, fds) = wire::receive(control)?;
            let Some(request) = request.first().copied().and_then(Request::from_byte) else { return Ok(()) };
            steps.extend(launch(request, fds, ground));
        }
    }
}

/// Leaves everything behind that belongs to rbuild and its terminal.
fn settle(control: &OwnedFd, ground: Ground) -> io::Result<()> {
    kernel::die_with_parent()?;
    let _leader = rustix::process::setsid();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTSTP] {
        kernel::on_signal(signal, Disposition::Ignore);
    }
    let _name = rustix::thread::set_name(c"rbuild-launcher");
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for number in 0..3 {
        kernel::become_stream(null.as_fd(), number)?;
    }
    drop(null);
    close_all_but(control);
    rustix::process::chdir("/")?;
    if ground.namespaces {
        use rustix::mount::{MountPropagationFlags, mount_change};
        // In a mount namespace of this user namespace every step's copy is a copy among equals: nothing in it is locked.
        kernel::unshare(libc::CLONE_NEWNS)?;
        let _not_a_mount = mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    }
    Ok(())
}

/// Closes every descriptor but the first three and this one.
pub(crate) fn close_all_but(control: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let keep = control.as_raw_fd();
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // All numbers first: while an entry exists, so does the descriptor by which the directory is read.
    let open: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open {
        if fd > 2 && fd != keep {
            kernel::close(fd);
        }
    }
}

fn launch(request: Request, fds: Vec<OwnedFd>, ground: Ground) -> Option<Step> {
    let mut fds = fds.into_iter();
    let (spec, socket) = (fds.next()?, fds.next()?);
    let handles = Handles { socket, streams: fds.collect() };
    let flags = match (ground.namespaces, request) {
        (false, _) => 0,
        (true, Request::Run | Request::Probe) => STEP_NAMESPACES,
        (true, Request::RunIsolated) => STEP_NAMESPACES | libc::CLONE_NEWNET,
    };
    match kernel::fork_into(flags) {
        Ok(Side::Parent(child)) => Some(Step { child, socket: handles.socket, stopped: !ground.namespaces }),
        Ok(Side::Child) => match request {
            Request::Probe => probe::main(&spec, &handles.socket),
            Request::Run | Request::RunIsolated if ground.namespaces => step::start(step::read_spec(&spec), &handles),
            Request::Run | Request::RunIsolated => {
                orphans::supervise(&handles.socket, || match step::read_spec(&spec) {
                    Ok(spec) if spec.ground.translated => translate::main(spec, &handles),
                    spec => step::start(spec, &handles),
                })
            }
        },
        Err(error) => {
            let text = format!("make the step's namespaces: {error}");
            let _gone = step::tell(&handles.socket, &Report::Setup { text }, &[]);
            let _gone = step::tell(&handles.socket, &Report::Ended { code: 1, signal: 0 }, &[]);
            None
        }
    }
}

/// Takes note of the end of a step, if it is one. By then the kernel has ended everything else in its PID namespace;
/// a supervisor has told the end of its step itself.
fn reap(step: &Step, ground: Ground) -> bool {
    let Some(report) = wait(step.child.pidfd.as_fd()) else { return false };
    if ground.namespaces {
        let _gone = step::tell(&step.socket, &report, &[]);
    }
    true
}

/// How a child ended; `None` while it has not.
pub(crate) fn wait(pidfd: BorrowedFd<'_>) -> Option<Report> {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
    Some(Report::Ended {
        code: status.exit_status().unwrap_or_default(),
        signal: status.terminating_signal().unwrap_or_default(),
    })
}
