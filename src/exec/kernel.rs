//! The few system calls that `rustix` has no safe form for, each behind a safe function.
//!
//! Knows nothing of sandboxes. Callers are single-threaded processes forked before any thread was made.

#![expect(unsafe_code, reason = "clone, exec and signal dispositions have no safe wrappers")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A child process and a descriptor that stands for it.
#[derive(Debug)]
pub(crate) struct Child {
    /// Readable once it has ended.
    pub(crate) pidfd: OwnedFd,
    /// Its number.
    pub(crate) pid: i32,
}

/// Which side of a fork we are on.
#[derive(Debug)]
pub(crate) enum Side {
    /// The caller.
    Parent(Child),
    /// The new process.
    Child,
}

/// Forks into the new namespaces of `flags` (`CLONE_NEW*`). The caller must be single-threaded.
pub(crate) fn fork_into(flags: i32) -> io::Result<Side> {
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
    }
    let mut pidfd: i32 = -1;
    let args = CloneArgs {
        flags: (flags | libc::CLONE_PIDFD) as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: memory is not shared (no CLONE_VM), so the child goes on with a private copy of this stack, as after fork();
    // `args` is as long as we say and `pidfd` is written by the kernel before the parent returns.
    let mut result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>()) };
    let error = io::Error::last_os_error();
    if result < 0 && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
        // Old kernels, and filters that cannot look behind clone3's pointer. Only the first three arguments matter here,
        // and those stand in the same places on every machine we know.
        // SAFETY: as above; with CLONE_PIDFD the third argument is where the descriptor goes.
        result = unsafe {
            libc::syscall(
                libc::SYS_clone,
                flags | libc::CLONE_PIDFD | libc::SIGCHLD,
                0_usize,
                std::ptr::from_mut(&mut pidfd),
                0_usize,
                0_usize,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    } else if result < 0 {
        return Err(error);
    }
    if result == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows of it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Side::Parent(Child { pidfd, pid: result as i32 }))
}

/// Forks; true in the parent. Unlike [`fork_into`] it lets the child make threads. The caller must be single-threaded.
pub(crate) fn fork() -> io::Result<bool> {
    // SAFETY: with one thread no lock can be held by another one that does not exist in the child.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid != 0),
    }
}

/// Leaves the namespaces of `flags` for new ones. The caller must be single-threaded.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: no memory is involved; with one thread, no other one is left in the old namespaces or with the old files.
    if unsafe { libc::unshare(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces this process by a program; returns only on failure.
pub(crate) fn execute(path: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both vectors are null-terminated lists of null-terminated strings that live until the call is over.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process without running anything registered for its exit: a forked child must not run the parent's.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// What a signal does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disposition {
    /// What the kernel does by itself.
    Default,
    /// Nothing.
    Ignore,
}

/// Sets what `signal` does.
pub(crate) fn on_signal(signal: i32, disposition: Disposition) {
    /// The kernel's own structure; libc's function refuses the two signals that it uses itself.
    #[repr(C)]
    struct Action {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    let action = Action { handler, flags: 0, restorer: 0, mask: 0 };
    // SAFETY: no handler of ours is installed, only the two predefined actions; all else in the structure is zero, so that
    // its layout is the same on machines without a restorer. Numbers that cannot be set are refused.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, std::ptr::from_ref(&action), 0_usize, 8_usize) };
}

/// Gives every signal its default action and unblocks all.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        on_signal(signal, Disposition::Default);
    }
    let none = 0_u64;
    // SAFETY: the set is eight bytes, as we say.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, std::ptr::from_ref(&none), 0_usize, 8_usize) };
}

/// Closes a descriptor by number, whoever owns it: only for a process that has just been forked and uses none of its
/// parent's values.
pub(crate) fn close(fd: i32) {
    // SAFETY: closing cannot break memory; the caller promises that no owner of the number is used afterwards.
    unsafe { libc::close(fd) };
}

/// Makes every descriptor from `first` on close at exec.
pub(crate) fn close_from_at_exec(first: i32) {
    // SAFETY: sets a flag of descriptors; no memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result != 0 {
        for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
            if let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
                && fd >= first
            {
                // SAFETY: as above.
                unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
    }
}

/// Puts `fd` in the place of standard stream `number` (0, 1 or 2).
pub(crate) fn become_stream(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: the three standard numbers are owned by nobody as `OwnedFd`; dup2 only replaces what they refer to.
    let result = if fd.as_raw_fd() == number {
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
    } else {
        unsafe { libc::dup2(fd.as_raw_fd(), number) }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets attributes (`MOUNT_ATTR_*`) on the mount that `mount` is the root of, and on those below it if `recursive`.
pub(crate) fn mount_set_attributes(mount: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { set: attributes, clear: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty null-terminated string and `attr` is as long as we say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches the loopback interface of this network namespace on.
pub(crate) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is valid; name and flags are the members that SIOCSIFFLAGS reads.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_ref(&request))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Drops everything but `keep` from the capability bounding set; what we do not have anyway is skipped.
pub(crate) fn bound_capabilities(keep: u64) -> io::Result<()> {
    for capability in 0..64_u64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: prctl with plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            let error = io::Error::last_os_error();
            // EINVAL: one past the last capability this kernel knows.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// This process and its threads die when the thread that forked it does.
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}
