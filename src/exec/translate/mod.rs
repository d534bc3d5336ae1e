//! Steps in a root that is nobody's: where neither namespaces nor chroot(2) are allowed, a tracer stands between the step and
//! the kernel and has every path of the step mean what it would mean in its root.
//!
//! The kernel stops a thread before each call that takes a path (`calls`), the path is walked beneath the root (`resolve`,
//! `view`), and the call is done with the real path, or answered (`answer`, `tracer`). Programs are started as the kernel
//! would have started them in that root (`program`, `load`). What a mount would show is shown by name only, so steps may run
//! side by side. It is a view and no wall: a step that wants out gets out, as far as the container that rbuild is in lets it.

mod answer;
mod calls;
mod laid;
mod load;
mod processes;
mod program;
mod registers;
mod resolve;
mod task;
mod thread;
mod tracer;
mod view;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getegid, geteuid, getpid, set_child_subreaper, setrlimit};

pub(crate) use laid::lay;
pub(crate) use view::Shown;

use super::kernel::{self, Disposition, Side};
use super::step::{self, Handles, Report, Spec};
use super::{Root, Stdio, seccomp};
use thread::Thread;
use tracer::Tracer;
use view::View;

/// Runs the step in a child and ends as that does.
pub(crate) fn main(spec: Spec, handles: &Handles) -> ! {
    let stderr = match spec.process.stdio {
        Stdio::Captured => handles.streams.get(1),
        Stdio::Inherited => handles.streams.get(2),
    };
    let Root::Directory(root) = &spec.root else {
        let text = "mount overlay: this machine lets us mount nothing".to_owned();
        let _gone = step::tell(&handles.socket, &Report::Setup { text }, &[]);
        kernel::leave(1)
    };
    let _name = rustix::thread::set_name(c"rbuild-tracer");
    let report = stderr
        .map(OwnedFd::try_clone)
        .transpose()
        .and_then(|stderr| {
            let tracer = Tracer::new(View::new(root, &spec.shown), owner(), stderr);
            trace(tracer, || step::start(Ok(spec.clone()), handles))
        })
        .unwrap_or_else(|error| {
            let text = format!("trace the step: {error}");
            let _gone = step::tell(&handles.socket, &Report::Setup { text }, &[]);
            Report::Ended { code: 1, signal: 0 }
        });
    end(&report)
}

/// Traces a child that runs `body`, which must install the filter; gives how it ended.
fn trace(mut tracer: Tracer, body: impl FnOnce()) -> io::Result<Report> {
    // What loses its parent stays a descendant, as Yama wants those to be that we look into.
    set_child_subreaper(Some(getpid()))?;
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
    match kernel::fork_into(0)? {
        Side::Parent(child) => {
            drop(wait);
            let first = Thread(child.pid);
            first.seize().inspect_err(|_| first.kill())?;
            rustix::io::write(&go, &[1])?;
            drop(go);
            tracer.watch(first)
        }
        Side::Child => {
            drop(go);
            // Nothing to read means that nobody traces us.
            if matches!(rustix::io::read(&wait, &mut [0; 1][..]), Ok(1)) {
                drop(wait);
                body();
            }
            kernel::leave(1)
        }
    }
}

/// Has the kernel stop this process, and all it starts, before calls with paths. Its paths are the step's from then on.
pub(crate) fn install() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    seccomp::install(&calls::filter(owner().is_some(), !may_pass_over_modes()))
}

/// Whether modes of files do not bind us.
fn may_pass_over_modes() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|have| have.effective.contains(CapabilitySet::DAC_OVERRIDE))
}

/// User and group that own what a step owns, where that is not root.
fn owner() -> Option<(u32, u32)> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    (uid != 0).then_some((uid, gid))
}

/// Ends this process in the same way.
fn end(report: &Report) -> ! {
    if let Report::Ended { code: 0, signal } = *report
        && signal != 0
    {
        let _no_dump_of_ours = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        kernel::on_signal(signal, Disposition::Default);
        Thread(getpid().as_raw_nonzero().get()).signal(signal);
    }
    kernel::leave(if let Report::Ended { code, .. } = *report { code } else { 1 })
}

/// Tries it: a process in `directory`, which has a directory `lower`, that looks for the latter by its name there.
pub(crate) fn attempt(directory: &Path) -> io::Result<()> {
    let tracer = Tracer::new(View::new(&fs_err::canonicalize(directory)?, &[]), owner(), None);
    let report = trace(tracer, || {
        let found = install().and_then(|()| std::fs::metadata("/lower"));
        kernel::leave(found.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |_| 0));
    })?;
    match report {
        Report::Ended { code: 0, signal: 0 } => Ok(()),
        Report::Ended { code, signal: 0 } => Err(io::Error::from_raw_os_error(code)),
        _ => Err(io::Error::other("a traced process was killed")),
    }
}
