//! What a PID namespace would do where we may not make one: when a step's main process ends, or rbuild does, everything it
//! started is killed.
//!
//! A supervisor between launcher and step adopts what loses its parent and kills until nobody is left. Only kill -9 of
//! the supervisor itself leaves processes behind.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait as wait_any};

use super::kernel::{self, Side};
use super::step::{self, Report};
use super::{launcher, wire};

/// Runs `main` in a child and ends when that and all its descendants have.
pub(crate) fn supervise(socket: &OwnedFd, main: impl FnOnce()) -> ! {
    let report = match watch(socket, main) {
        Ok(report) => report,
        Err(error) => {
            let _gone = step::tell(socket, &Report::Setup { text: format!("supervise the step: {error}") }, &[]);
            Report::Ended { code: 1, signal: 0 }
        }
    };
    kill_children();
    let _gone = step::tell(socket, &report, &[]);
    kernel::leave(0)
}

fn watch(socket: &OwnedFd, main: impl FnOnce()) -> io::Result<Report> {
    set_child_subreaper(Some(getpid()))?;
    let child = match kernel::fork_into(0)? {
        Side::Parent(child) => child,
        Side::Child => {
            main();
            kernel::leave(1)
        }
    };
    loop {
        let mut polled = [PollFd::new(&child.pidfd, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [ended, word] = polled.map(|fd| !fd.revents().is_empty());
        if ended {
            if let Some(report) = launcher::wait(rustix::fd::AsFd::as_fd(&child.pidfd)) {
                return Ok(report);
            }
        } else if word {
            // "Stop", or nobody there any more.
            let _word = wire::receive(socket);
            return Ok(Report::Ended { code: 0, signal: libc::SIGKILL });
        }
    }
}

/// Kills children until there is none; what they leave behind becomes our child.
pub(crate) fn kill_children() {
    loop {
        for child in children(getpid()) {
            let _ended = kill_process(child, Signal::KILL);
        }
        match wait_any(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Kills a process and what it started. A program that is just starting another may win the race; it then finds its pipes
/// closed.
pub(crate) fn kill_tree(root: Pid) {
    let below = children(root);
    let _ended = kill_process(root, Signal::KILL);
    for child in below {
        kill_tree(child);
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let wanted = parent.as_raw_nonzero().get();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in parentheses may hold anything; what follows the last one is "state ppid …".
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if parent == Some(wanted) {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}
