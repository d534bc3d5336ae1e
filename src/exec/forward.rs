//! Connects a socket inside a step to one of the host, for ssh agents.
//!
//! The step's user may be anyone, the host's socket belongs to rbuild's: so rbuild is the one that connects.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

/// Serves one socket until it is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Connects each connection of `listener` to `source`.
    pub(crate) fn start(listener: OwnedFd, source: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::from(listener);
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let accept = move || {
            loop {
                let mut polled = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
                let result = poll(&mut polled, None);
                if matches!(result, Err(errno) if errno != rustix::io::Errno::INTR) || !polled[1].revents().is_empty() {
                    return;
                }
                if let Ok((inside, _)) = listener.accept()
                    && let Ok(outside) = UnixStream::connect(&source)
                {
                    // Without room for a thread the connection is closed, which the step sees as a refusal.
                    let _refused = join(inside, outside);
                }
            }
        };
        let thread = std::thread::Builder::new().name("forward".to_owned()).spawn(accept)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Copies both ways until each side has said all; ends by itself when the step is dead.
fn join(inside: UnixStream, outside: UnixStream) -> io::Result<()> {
    let (inside_too, outside_too) = (inside.try_clone()?, outside.try_clone()?);
    let copy = |mut from: UnixStream, mut to: UnixStream| {
        move || {
            let _broken = io::copy(&mut from, &mut to);
            let _closed = to.shutdown(Shutdown::Write);
        }
    };
    std::thread::Builder::new().name("forward-in".to_owned()).spawn(copy(inside, outside))?;
    std::thread::Builder::new().name("forward-out".to_owned()).spawn(copy(outside_too, inside_too))?;
    Ok(())
}
