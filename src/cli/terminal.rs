//! What the process of `rbuild run` has for standard streams: ours, or a terminal of its own that is connected to ours.
//!
//! The executor hands on the three streams rbuild itself has at that moment, so they are exchanged here and put back at the
//! end. A terminal of its own is needed because ours belongs to our session: on it, the process would have no job control, and
//! ^C would be a signal to rbuild. While it is connected, ours is raw: every key is passed on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// Copied at once.
const CHUNK: usize = 16 << 10;

/// The streams while the process runs; dropping it puts ours back.
#[derive(Debug)]
pub(super) struct Terminal {
    ours: Arc<Streams>,
    /// Ours, and how it was before it was made raw.
    looks: Option<(OwnedFd, Termios)>,
    pty: Option<Pty>,
}

/// Our own standard streams.
#[derive(Debug)]
struct Streams {
    input: OwnedFd,
    output: OwnedFd,
    error: OwnedFd,
}

/// A terminal and those who copy between it and ours.
#[derive(Debug)]
struct Pty {
    slave: Option<OwnedFd>,
    /// Closed to tell the threads to end.
    stop: Option<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    resizer: tokio::task::AbortHandle,
}

impl Terminal {
    /// Arranges the streams: stdin is ours only if `interactive`; with `tty` all three are a new terminal.
    pub(super) fn attach(interactive: bool, tty: bool, runtime: &tokio::runtime::Handle) -> io::Result<Self> {
        if tty && interactive && !isatty(stdin()) {
            return Err(io::Error::other("cannot attach stdin to a terminal (-t) because it is none; leave out -t"));
        }
        let keep = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, 3);
        let ours = Arc::new(Streams { input: keep(stdin())?, output: keep(stdout())?, error: keep(stderr())? });
        let mut terminal = Self { ours, looks: None, pty: None };
        if tty {
            terminal.connect(interactive, runtime)?;
        } else if !interactive {
            let null = openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            dup2_stdin(&null)?;
        }
        Ok(terminal)
    }

    /// Lets a user open the terminal again by its name.
    pub(super) fn give_to(&self, uid: u32, gid: u32) {
        if let Some(slave) = self.pty.as_ref().and_then(|pty| pty.slave.as_ref()) {
            // Without the right to give it away only that is lost.
            let _refused = rustix::fs::fchown(slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
    }

    fn connect(&mut self, interactive: bool, runtime: &tokio::runtime::Handle) -> io::Result<()> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let master = Arc::new(master);
        copy_size(&self.ours, &master);
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let stopped = Arc::new(stopped);
        let mut threads = Vec::new();
        {
            let (ours, master, stopped) = (self.ours.clone(), master.clone(), stopped.clone());
            let work = move || copy(master.as_fd(), ours.output.as_fd(), stopped.as_fd(), true);
            threads.push(std::thread::Builder::new().name("terminal-out".to_owned()).spawn(work)?);
        }
        if interactive {
            let (ours, master) = (self.ours.clone(), master.clone());
            let work = move || copy(ours.input.as_fd(), master.as_fd(), stopped.as_fd(), false);
            threads.push(std::thread::Builder::new().name("terminal-in".to_owned()).spawn(work)?);
            self.change(stdin(), Termios::make_raw)?;
        } else if isatty(stdout()) {
            // The other terminal has done that already.
            self.change(stdout(), |looks| looks.output_modes.remove(OutputModes::OPOST))?;
        }
        let resizer = runtime.spawn(follow_size(self.ours.clone(), master)).abort_handle();
        dup2_stdin(&slave)?;
        dup2_stdout(&slave)?;
        dup2_stderr(&slave)?;
        self.pty = Some(Pty { slave: Some(slave), stop: Some(stop), threads, resizer });
        Ok(())
    }

    fn change(&mut self, terminal: BorrowedFd<'_>, how: impl FnOnce(&mut Termios)) -> io::Result<()> {
        let terminal = fcntl_dupfd_cloexec(terminal, 3)?;
        let before = tcgetattr(&terminal)?;
        let mut changed = before.clone();
        how(&mut changed);
        tcsetattr(&terminal, OptionalActions::Now, &changed)?;
        self.looks = Some((terminal, before));
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What cannot be put back cannot be reported either.
        let _lost = dup2_stdin(&self.ours.input);
        let _lost = dup2_stdout(&self.ours.output);
        let _lost = dup2_stderr(&self.ours.error);
        if let Some(pty) = &mut self.pty {
            pty.resizer.abort();
            drop(pty.slave.take());
            drop(pty.stop.take());
            for thread in pty.threads.drain(..) {
                let _panicked = thread.join();
            }
        }
        if let Some((terminal, looks)) = &self.looks {
            let _lost = tcsetattr(terminal, OptionalActions::Drain, looks);
        }
    }
}

/// Copies until the source ends or it is told to stop; what is there by then is still copied if `drain`.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stopped: BorrowedFd<'_>, drain: bool) {
    let mut buffer = vec![0; CHUNK];
    let mut stopping = false;
    loop {
        let mut polled = [PollFd::new(&from, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = if stopping { poll(&mut polled[..1], Some(&now)) } else { poll(&mut polled, None) };
        match ready {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let (readable, told) = (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
        if !readable {
            if stopping || !drain {
                return;
            }
            stopping |= told;
            continue;
        }
        if told && !drain {
            return;
        }
        match rustix::io::read(from, &mut buffer) {
            Err(Errno::INTR) => {}
            // A terminal whose last user is gone ends in an error.
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if write_all(to, &buffer[..n]).is_err() {
                    return;
                }
            }
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(n) => bytes = &bytes[n..],
        }
    }
    Ok(())
}

/// Makes the new terminal as large as ours, whichever stream that is.
fn copy_size(ours: &Streams, master: &OwnedFd) {
    let size = [&ours.output, &ours.input, &ours.error].into_iter().find_map(|fd| tcgetwinsize(fd).ok());
    if let Some(size) = size {
        // The size is a hint to programs; without it they assume one.
        let _unknown = tcsetwinsize(master, size);
    }
}

async fn follow_size(ours: Arc<Streams>, master: Arc<OwnedFd>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        copy_size(&ours, &master);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_when_told_to_stop_is_still_copied() {
        let (from, into_from) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        let (out_of_to, to) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        write_all(into_from.as_fd(), b"last words").expect("written");
        drop(stop);
        copy(from.as_fd(), to.as_fd(), stopped.as_fd(), true);
        drop(to);
        let mut got = [0; 64];
        let n = rustix::io::read(&out_of_to, &mut got).expect("read");
        assert_eq!(&got[..n], b"last words");
    }
}
