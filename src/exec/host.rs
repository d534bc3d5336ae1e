//! The host process: a fork of rbuild that stays the user it was while rbuild itself enters a user namespace.
//!
//! It starts what must be started as that user (git, ssh, credential helpers) and writes the namespace's id maps. Without
//! a user namespace there is none, and the same code runs here. Unlike the launcher it stays in the terminal's session,
//! so that ssh can ask for a passphrase.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::kernel::{self, Disposition};
use super::wire::{self, wire_struct};
use super::{orphans, userns};
use crate::cancel::Cancel;

/// A program of the host.
#[derive(Clone, Debug, Default)]
pub struct HostCommand {
    /// argv; `argv[0]` is looked up in the PATH rbuild was started with.
    pub argv: Vec<OsString>,
    /// Variables besides those rbuild was started with.
    pub env: Vec<(OsString, OsString)>,
    /// Variables that are not passed on.
    pub unset: Vec<OsString>,
    /// Working directory, rbuild's if not given.
    pub cwd: Option<PathBuf>,
    /// What it reads.
    pub stdin: Vec<u8>,
}

/// What a program of the host did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOutput {
    /// Exit code; 128 + signal when killed by one.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

wire_struct!(HostCommand { argv, env, unset, cwd, stdin });
wire_struct!(HostOutput { code, stdout, stderr });

/// Where programs of the host are started from.
#[derive(Debug)]
pub struct Host {
    /// To the host process; `None`: this one is it.
    control: Option<OwnedFd>,
}

/// The first byte of a message.
const RUN: u8 = 0;
const MAP: u8 = 1;

/// How often a waiting caller looks whether it is cancelled.
const CANCEL_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

impl Host {
    /// This process.
    pub(crate) fn here() -> Self {
        Self { control: None }
    }

    /// Forks the host process; the caller must be single-threaded.
    pub(crate) fn start() -> io::Result<Self> {
        let (ours, theirs) = wire::socket_pair()?;
        if kernel::fork()? {
            return Ok(Self { control: Some(ours) });
        }
        drop(ours);
        let outcome = std::panic::catch_unwind(|| serve(&theirs));
        orphans::kill_children();
        kernel::leave(i32::from(!matches!(outcome, Ok(Ok(())))))
    }

    /// Runs a program to its end, as the user and in the namespaces rbuild was started in.
    pub fn run(&self, command: &HostCommand, cancel: &Cancel) -> io::Result<HostOutput> {
        let Some(control) = &self.control else { return execute(command, &|| cancel.is_cancelled()) };
        let (ours, theirs) = wire::socket_pair()?;
        let memory = wire::memory_file("command", &wire::encode(command))?;
        wire::send(control, &[RUN], &[memory.as_fd(), theirs.as_fd()])?;
        drop(theirs);
        let mut stopped = false;
        loop {
            let mut polled = [PollFd::new(&ours, PollFlags::IN)];
            if poll(&mut polled, Some(&CANCEL_CHECK)).is_ok_and(|ready| ready > 0) {
                break;
            }
            if cancel.is_cancelled() && !stopped {
                stopped = true;
                wire::say_stop(&ours);
            }
        }
        let (errno, fds) = wire::receive(&ours)?;
        match (errno.len(), fds.into_iter().next()) {
            (4, Some(reply)) => wire::decode(&read(reply)?),
            (4, None) => Err(io::Error::from_raw_os_error(wire::decode(&errno)?)),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the host process ended unexpectedly")),
        }
    }

    /// Has the maps of the user namespace that `pid` has just made written from outside; the error is in words.
    pub(crate) fn write_maps(&self, pid: i32, maps: &userns::Maps) -> io::Result<Result<(), String>> {
        let Some(control) = &self.control else { return Ok(Err("no host process".to_owned())) };
        let (ours, theirs) = wire::socket_pair()?;
        let memory = wire::memory_file("maps", &wire::encode(&(pid, maps.clone())))?;
        wire::send(control, &[MAP], &[memory.as_fd(), theirs.as_fd()])?;
        drop(theirs);
        let (text, _) = wire::receive(&ours)?;
        let failure: Option<String> = wire::decode(&text)?;
        Ok(failure.map_or(Ok(()), Err))
    }
}

fn read(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The life of the host process: one thread per program, until rbuild is gone.
fn serve(control: &OwnedFd) -> io::Result<()> {
    // The terminal's signals go to rbuild and to the programs themselves.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        kernel::on_signal(signal, Disposition::Ignore);
    }
    let _name = rustix::thread::set_name(c"rbuild-host");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    loop {
        let (kind, fds) = wire::receive(control)?;
        let mut fds = fds.into_iter();
        let (Some(kind), Some(memory), Some(socket)) = (kind.first(), fds.next(), fds.next()) else { return Ok(()) };
        if *kind == MAP {
            let failure = wire::decode(&read(memory)?)
                .map_err(|error| error.to_string())
                .and_then(|(pid, maps): (i32, _)| userns::write_maps(pid, &maps));
            wire::send(&socket, &wire::encode(&failure.err()), &[])?;
            continue;
        }
        std::thread::Builder::new().name("program".to_owned()).spawn(move || {
            let _gone = answer(memory, &socket);
        })?;
    }
}

fn answer(memory: OwnedFd, socket: &OwnedFd) -> io::Result<()> {
    let stopped = || {
        let mut polled = [PollFd::new(socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    };
    match read(memory).and_then(|bytes| wire::decode(&bytes)).and_then(|command| execute(&command, &stopped)) {
        Ok(output) => {
            let reply = wire::memory_file("output", &wire::encode(&output))?;
            wire::send(socket, &wire::encode(&0_i32), &[reply.as_fd()])
        }
        Err(error) => wire::send(socket, &wire::encode(&error.raw_os_error().unwrap_or(libc::EIO)), &[]),
    }
}

fn execute(command: &HostCommand, stopped: &dyn Fn() -> bool) -> io::Result<HostOutput> {
    let [program, arguments @ ..] = command.argv.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut start = Command::new(program);
    start.args(arguments);
    for name in &command.unset {
        start.env_remove(name);
    }
    start.envs(command.env.iter().map(|(key, value)| (key, value)));
    start.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(cwd) = &command.cwd {
        start.current_dir(cwd);
    }
    let mut child = start.spawn()?;
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(&command.stdin)));
        let collect = |pipe: Option<Box<dyn Read + Send>>| {
            scope.spawn(move || {
                let mut bytes = Vec::new();
                let _broken = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
                bytes
            })
        };
        let stdout = collect(stdout.map(|pipe| Box::new(pipe) as _));
        let stderr = collect(stderr.map(|pipe| Box::new(pipe) as _));
        loop {
            let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
            if poll(&mut polled, Some(&CANCEL_CHECK)).is_ok_and(|ready| ready > 0) {
                break;
            }
            if stopped() {
                orphans::kill_tree(pid);
            }
        }
        let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
        let code = status.map_or(0, |status| {
            status.terminating_signal().map_or_else(|| status.exit_status().unwrap_or_default(), |signal| 128 + signal)
        });
        let bytes = |thread: std::thread::ScopedJoinHandle<'_, Vec<u8>>| thread.join().unwrap_or_default();
        Ok(HostOutput { code, stdout: bytes(stdout), stderr: bytes(stderr) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str], stdin: &[u8]) -> HostCommand {
        HostCommand {
            argv: argv.iter().map(OsString::from).collect(),
            env: vec![("ANSWER".into(), "42".into())],
            unset: vec!["HOME".into()],
            cwd: Some("/".into()),
            stdin: stdin.to_vec(),
        }
    }

    #[test]
    fn gives_input_and_takes_output() {
        let script = "echo $ANSWER$HOME; pwd; cat >&2; exit 3";
        let big = vec![b'x'; 200_000];
        let output = Host::here().run(&command(&["sh", "-c", script], &big), &Cancel::new()).expect("runs");
        assert_eq!((output.code, output.stdout.as_slice(), output.stderr.len()), (3, b"42\n/\n".as_slice(), big.len()));
    }

    #[test]
    fn says_when_a_program_is_missing_and_stops_when_cancelled() {
        let missing = Host::here().run(&command(&["/does/not/exist"], b""), &Cancel::new());
        assert_eq!(missing.expect_err("missing").kind(), io::ErrorKind::NotFound);
        let cancel = Cancel::new();
        cancel.cancel();
        let output = Host::here().run(&command(&["sh", "-c", "sleep 60 & sleep 60"], b""), &cancel).expect("runs");
        assert_eq!(output.code, 137);
    }
}
