//! rbuild's own terminal lent to a step: what is typed goes to a terminal inside the step, what that prints comes back.
//!
//! Inside it is a terminal of the step's own, so that shells have job control and Ctrl-C reaches the step, not rbuild.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// The step's terminal, and how to leave ours as it was.
#[derive(Debug)]
pub(crate) struct Terminal {
    step: OwnedFd,
    saved: Termios,
    over: bool,
}

/// Whether rbuild itself talks to a terminal.
pub(crate) fn is_ours() -> bool {
    isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout())
}

impl Terminal {
    /// Connects ours to the controlling end of the step's.
    pub(crate) fn connect(step: OwnedFd) -> io::Result<Self> {
        let saved = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = saved.clone();
        raw.make_raw();
        rustix::io::ioctl_fionbio(&step, true)?;
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        let terminal = Self { step, saved, over: false };
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the step's terminal the size of ours.
    pub(crate) fn resize(&self) {
        if let (Ok(ours), Ok(its)) = (tcgetwinsize(rustix::stdio::stdout()), tcgetwinsize(&self.step))
            && (ours.ws_row, ours.ws_col) != (its.ws_row, its.ws_col)
        {
            let _gone = tcsetwinsize(&self.step, ours);
        }
    }

    /// What to wait for besides the step's socket.
    pub(crate) fn sources(&self) -> Vec<BorrowedFd<'_>> {
        if self.over { Vec::new() } else { vec![rustix::stdio::stdin(), self.step.as_fd()] }
    }

    /// Passes on what the step has printed.
    pub(crate) fn print(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        while !self.over {
            match rustix::io::read(&self.step, &mut *buffer) {
                Ok(length) if length > 0 => write_all(rustix::stdio::stdout(), &buffer[..length])?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // Nobody has it open any more.
                Ok(_) | Err(_) => self.over = true,
            }
        }
        Ok(())
    }

    /// Passes on what was typed; call when standard input is ready.
    pub(crate) fn type_in(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Ok(0) => self.over = true,
            Ok(length) => write_all(self.step.as_fd(), &buffer[..length])?,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.saved);
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _interrupted = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None);
            }
            // The step has closed its terminal.
            Err(Errno::IO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
