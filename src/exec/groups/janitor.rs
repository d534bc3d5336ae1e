//! A process that outlives rbuild for a moment, whatever ends it, and removes the groups it left.
//!
//! The kernel ends processes and mounts with rbuild, but control groups stay. The janitor does nothing until the pipe to rbuild
//! breaks. Should it be killed as well, the next build that makes groups in the same place removes them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::{PATIENCE, remove};
use crate::exec::kernel::{self, Child, Disposition, Side};
use crate::exec::launcher;

/// Every group of ours is called so, then come the process, the moment it began, and a number.
const NAME: &str = "rbuild-";

/// rbuild's end of it.
#[derive(Debug)]
pub(super) struct Janitor {
    /// Broken by our end, or earlier by being dropped.
    pipe: Option<OwnedFd>,
    child: Child,
}

impl Janitor {
    /// Forks it. The process must still be single-threaded, and have forked whatever else it will.
    pub(super) fn start(prefix: &str, directories: &[PathBuf]) -> io::Result<Self> {
        let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match kernel::fork_into(0)? {
            Side::Parent(child) => Ok(Self { pipe: Some(ours), child }),
            Side::Child => {
                drop(ours);
                let outcome = std::panic::catch_unwind(|| wait_and_remove(&theirs, prefix, directories));
                kernel::leave(i32::from(outcome.is_err()))
            }
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _status = waitid(WaitId::PidFd(self.child.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

fn wait_and_remove(pipe: &OwnedFd, prefix: &str, directories: &[PathBuf]) {
    let _leader = rustix::process::setsid();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGTSTP] {
        kernel::on_signal(signal, Disposition::Ignore);
    }
    let _name = rustix::thread::set_name(c"rbuild-janitor");
    launcher::close_all_but(pipe);
    let _root = rustix::process::chdir("/");
    let mut byte = [0];
    while let Err(rustix::io::Errno::INTR) = rustix::io::read(pipe, &mut byte) {}
    let begin = Instant::now();
    loop {
        let left = directories.iter().flat_map(|directory| groups(directory, prefix));
        // Those whose processes the kernel is still ending.
        let busy = left.filter(|group| remove(group).is_err()).count();
        if busy == 0 || begin.elapsed() > PATIENCE {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the groups of this process are called, up to a number.
pub(super) fn prefix() -> io::Result<String> {
    let pid = std::process::id();
    let began = began(pid).ok_or_else(|| io::Error::other("/proc/self/stat makes no sense"))?;
    Ok(format!("{NAME}{pid}-{began}-"))
}

/// Removes groups of processes that are no more.
pub(super) fn sweep_up(directories: &[PathBuf]) {
    for group in directories.iter().flat_map(|directory| groups(directory, NAME)) {
        let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut numbers = name.trim_start_matches(NAME).split('-').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(start))) = (numbers.next(), numbers.next()) else { continue };
        let alive = u32::try_from(pid).is_ok_and(|pid| began(pid) == Some(start));
        if !alive {
            // One that is still busy is somebody else's in another PID namespace.
            let _busy = remove(&group);
        }
    }
}

fn groups(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)));
    ours.map(|entry| entry.path()).collect()
}

/// When a process began, in the kernel's ticks.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the 22nd field is the 20th after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_the_dead_are_swept_up() {
        let temp = tempfile::tempdir().expect("temp dir");
        let mine = format!("{}0", prefix().expect("has one"));
        for name in [mine.as_str(), "rbuild-1-999999999999-0", "other", "rbuild-probe-1"] {
            std::fs::create_dir(temp.path().join(name)).expect("mkdir");
        }
        sweep_up(&[temp.path().to_owned()]);
        let left = |name: &str| temp.path().join(name).exists();
        assert!(left(&mine) && left("other") && left("rbuild-probe-1"));
        assert!(!left("rbuild-1-999999999999-0"));
    }
}
