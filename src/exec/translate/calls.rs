//! Which system calls take paths, in which arguments, and what is done about them. Pure: numbers in, a description out, and the
//! filter that has the kernel stop a thread before each of them.

use super::super::seccomp::{ARCH_OFFSET, FIRST_ARGUMENT_OFFSET as ARGUMENTS_OFFSET, NUMBER_OFFSET, jump, load};
use super::registers::AUDIT_ARCH;

/// What is done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// The kernel does it, with other paths.
    Changed,
    /// stat(2) and its kin: answered by us.
    Stat {
        /// The argument with the buffer.
        buffer: usize,
    },
    /// statx(2): answered by us.
    Statx,
    /// fstat(2): answered by us.
    StatOpen,
    /// access(2) and its kin, with the mode in this argument: answered by us.
    Access {
        /// The argument with the mode; the next one has flags if `flags`.
        mode: usize,
        /// Whether it has flags.
        flags: bool,
    },
    /// readlink(2), with buffer and size from this argument on: answered by us.
    ReadLink {
        /// The argument with the buffer; the next one has its size.
        buffer: usize,
    },
    /// getcwd(2): answered by us.
    WorkingDirectory,
    /// chroot(2): taken note of.
    Root,
    /// execve(2) and execveat(2), with argv in this argument.
    Execute {
        /// The argument with argv.
        arguments: usize,
    },
    /// openat2(2).
    OpenHow,
    /// bind(2), connect(2) and sendto(2), with the address in this argument and its length in the next.
    Address {
        /// The argument with the address.
        address: usize,
    },
    /// fchmod(2) and its kin: done unless the open file is shown read-only.
    ChangeOpen,
    /// kill(2) and its kin: the step's own processes only.
    Signal,
    /// getresuid(2) and getresgid(2): three zeros.
    Ids,
}

/// One path of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathArgument {
    /// The argument with the directory that it starts from.
    pub(super) directory: Option<usize>,
    /// The argument with the path.
    pub(super) path: usize,
    /// Whether a link at its end is followed.
    pub(super) links: Links,
}

/// Whether a link at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Always.
    Follow,
    /// Never.
    Keep,
    /// Unless this argument has `AT_SYMLINK_NOFOLLOW`.
    KeepIf(usize),
    /// If this argument has `AT_SYMLINK_FOLLOW`.
    FollowIf(usize),
    /// Unless this argument has `O_NOFOLLOW`, or `O_CREAT` and `O_EXCL`.
    Open(usize),
    /// Unless this argument has `IN_DONT_FOLLOW`.
    Watch(usize),
}

/// A call that takes paths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Its number.
    pub(super) number: i64,
    /// What is done.
    pub(super) does: Does,
    /// Its paths.
    pub(super) paths: [Option<PathArgument>; 2],
    /// It changes what is there, so it may not be what is shown read-only.
    pub(super) changes: bool,
    /// It takes a directory's entry away, so that may not be where something is shown.
    pub(super) removes: bool,
}

const fn at(path: usize, links: Links) -> PathArgument {
    PathArgument { directory: None, path, links }
}

const fn from(directory: usize, links: Links) -> PathArgument {
    PathArgument { directory: Some(directory), path: directory + 1, links }
}

const fn call(number: i64, does: Does, path: PathArgument) -> Call {
    Call { number, does, paths: [Some(path), None], changes: false, removes: false }
}

const fn change(number: i64, path: PathArgument) -> Call {
    Call { number, does: Does::Changed, paths: [Some(path), None], changes: true, removes: false }
}

const fn remove(number: i64, path: PathArgument, other: Option<PathArgument>) -> Call {
    Call { number, does: Does::Changed, paths: [Some(path), other], changes: true, removes: true }
}

const fn plain(number: i64, does: Does) -> Call {
    Call { number, does, paths: [None, None], changes: false, removes: false }
}

use Links::{Follow, FollowIf, Keep, KeepIf, Open, Watch};

/// Calls that every machine has.
const CALLS: &[Call] = &[
    call(libc::SYS_openat, Does::Changed, from(0, Open(2))),
    call(libc::SYS_openat2, Does::OpenHow, from(0, Follow)),
    call(libc::SYS_newfstatat, Does::Stat { buffer: 2 }, from(0, KeepIf(3))),
    call(libc::SYS_statx, Does::Statx, from(0, KeepIf(2))),
    call(libc::SYS_faccessat, Does::Access { mode: 2, flags: false }, from(0, Follow)),
    call(SYS_FACCESSAT2, Does::Access { mode: 2, flags: true }, from(0, KeepIf(3))),
    call(libc::SYS_readlinkat, Does::ReadLink { buffer: 2 }, from(0, Keep)),
    plain(libc::SYS_getcwd, Does::WorkingDirectory),
    call(libc::SYS_chdir, Does::Changed, at(0, Follow)),
    call(libc::SYS_chroot, Does::Root, at(0, Follow)),
    call(libc::SYS_execve, Does::Execute { arguments: 1 }, at(0, Follow)),
    call(libc::SYS_execveat, Does::Execute { arguments: 2 }, from(0, KeepIf(4))),
    change(libc::SYS_mkdirat, from(0, Keep)),
    change(libc::SYS_mknodat, from(0, Keep)),
    remove(libc::SYS_unlinkat, from(0, Keep), None),
    remove(libc::SYS_renameat2, from(0, Keep), Some(from(2, Keep))),
    Call {
        number: libc::SYS_linkat,
        does: Does::Changed,
        paths: [Some(from(0, FollowIf(4))), Some(from(2, Keep))],
        changes: true,
        removes: false,
    },
    change(libc::SYS_symlinkat, from(1, Keep)),
    change(libc::SYS_fchmodat, from(0, Follow)),
    change(SYS_FCHMODAT2, from(0, KeepIf(3))),
    change(libc::SYS_fchownat, from(0, KeepIf(4))),
    change(libc::SYS_utimensat, from(0, KeepIf(3))),
    change(libc::SYS_truncate, at(0, Follow)),
    change(libc::SYS_setxattr, at(0, Follow)),
    change(libc::SYS_lsetxattr, at(0, Keep)),
    change(libc::SYS_removexattr, at(0, Follow)),
    change(libc::SYS_lremovexattr, at(0, Keep)),
    call(libc::SYS_getxattr, Does::Changed, at(0, Follow)),
    call(libc::SYS_lgetxattr, Does::Changed, at(0, Keep)),
    call(libc::SYS_listxattr, Does::Changed, at(0, Follow)),
    call(libc::SYS_llistxattr, Does::Changed, at(0, Keep)),
    call(libc::SYS_statfs, Does::Changed, at(0, Follow)),
    call(libc::SYS_inotify_add_watch, Does::Changed, at(1, Watch(2))),
    call(libc::SYS_name_to_handle_at, Does::Changed, from(0, FollowIf(4))),
    plain(libc::SYS_fchmod, Does::ChangeOpen),
    plain(libc::SYS_fsetxattr, Does::ChangeOpen),
    plain(libc::SYS_fremovexattr, Does::ChangeOpen),
    plain(libc::SYS_kill, Does::Signal),
    plain(libc::SYS_tkill, Does::Signal),
    plain(libc::SYS_tgkill, Does::Signal),
    plain(libc::SYS_pidfd_open, Does::Signal),
    plain(libc::SYS_bind, Does::Address { address: 1 }),
    plain(libc::SYS_connect, Does::Address { address: 1 }),
    plain(libc::SYS_sendto, Does::Address { address: 4 }),
];

/// Calls of machines that are older than the ones with a directory.
#[cfg(target_arch = "x86_64")]
const OLDER_CALLS: &[Call] = &[
    call(libc::SYS_open, Does::Changed, at(0, Open(1))),
    change(libc::SYS_creat, at(0, Follow)),
    call(libc::SYS_stat, Does::Stat { buffer: 1 }, at(0, Follow)),
    call(libc::SYS_lstat, Does::Stat { buffer: 1 }, at(0, Keep)),
    call(libc::SYS_access, Does::Access { mode: 1, flags: false }, at(0, Follow)),
    call(libc::SYS_readlink, Does::ReadLink { buffer: 1 }, at(0, Keep)),
    change(libc::SYS_mkdir, at(0, Keep)),
    change(libc::SYS_mknod, at(0, Keep)),
    remove(libc::SYS_rmdir, at(0, Keep), None),
    remove(libc::SYS_unlink, at(0, Keep), None),
    remove(libc::SYS_rename, at(0, Keep), Some(at(1, Keep))),
    remove(libc::SYS_renameat, from(0, Keep), Some(from(2, Keep))),
    Call {
        number: libc::SYS_link,
        does: Does::Changed,
        paths: [Some(at(0, Keep)), Some(at(1, Keep))],
        changes: true,
        removes: false,
    },
    change(libc::SYS_symlink, at(1, Keep)),
    change(libc::SYS_chmod, at(0, Follow)),
    change(libc::SYS_chown, at(0, Follow)),
    change(libc::SYS_lchown, at(0, Keep)),
    change(libc::SYS_utime, at(0, Follow)),
    change(libc::SYS_utimes, at(0, Follow)),
    change(libc::SYS_futimesat, from(0, Follow)),
];
/// Calls of machines that are older than the ones with a directory.
#[cfg(target_arch = "aarch64")]
const OLDER_CALLS: &[Call] = &[remove(libc::SYS_renameat, from(0, Keep), Some(from(2, Keep)))];

/// Looked at only where files have other owners or modes than they show.
const OPEN_FILES: &[Call] = &[plain(libc::SYS_fstat, Does::StatOpen)];

/// Looked at only where the user of a step is told to be root without being it.
const NOT_ROOT: &[Call] = &[plain(libc::SYS_getresuid, Does::Ids), plain(libc::SYS_getresgid, Does::Ids)];

/// Calls that say "user and group 0" there.
const IDS: &[i64] = &[libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid];

/// Calls that are refused: they would see or change what is behind the view.
const REFUSED: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    SYS_MOUNT_SETATTR,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_swapon,
    libc::SYS_acct,
];

/// Calls that are not there: their paths are in memory that the kernel reads on its own.
const ABSENT: &[i64] = &[libc::SYS_io_uring_setup];

const SYS_FACCESSAT2: i64 = 439;
const SYS_MOUNT_SETATTR: i64 = 442;
/// Newer than the names we have.
pub(super) const SYS_FCHMODAT2: i64 = 452;

/// The description of a call that we stop at.
pub(super) fn find(number: i64) -> Option<&'static Call> {
    [CALLS, OLDER_CALLS, OPEN_FILES, NOT_ROOT].into_iter().flatten().find(|call| call.number == number)
}

/// The filter that has threads stop at these calls. With `not_root` the user is told to be root; with `modes` files have
/// other modes than they show.
pub(super) fn filter(not_root: bool, modes: bool) -> Vec<libc::sock_filter> {
    const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
    let mut rules: Vec<(i64, u32)> = Vec::new();
    rules.extend(CALLS.iter().chain(OLDER_CALLS).map(|call| (call.number, libc::SECCOMP_RET_TRACE)));
    rules.extend(REFUSED.iter().map(|number| (*number, ERRNO | libc::EPERM as u32)));
    rules.extend(ABSENT.iter().map(|number| (*number, ERRNO | libc::ENOSYS as u32)));
    if not_root || modes {
        rules.extend(OPEN_FILES.iter().map(|call| (call.number, libc::SECCOMP_RET_TRACE)));
    }
    if not_root {
        rules.extend(NOT_ROOT.iter().map(|call| (call.number, libc::SECCOMP_RET_TRACE)));
        rules.extend(IDS.iter().map(|number| (*number, ERRNO)));
    }
    rules.sort_unstable();
    let mut program = vec![
        load(ARCH_OFFSET),
        jump(libc::BPF_JEQ, AUDIT_ARCH, 1, 0),
        // Programs of another word size, whose calls have other numbers.
        ret(ERRNO | libc::ENOSYS as u32),
        load(NUMBER_OFFSET),
        // Undumpable processes cannot be looked into: they are told that they are.
        jump(libc::BPF_JEQ, libc::SYS_prctl as u32, 0, 4),
        load(ARGUMENTS_OFFSET),
        jump(libc::BPF_JEQ, libc::PR_SET_DUMPABLE as u32, 0, 1),
        ret(ERRNO),
        ret(libc::SECCOMP_RET_ALLOW),
        // Most sends have no address.
        jump(libc::BPF_JEQ, libc::SYS_sendto as u32, 0, 5),
        load(ARGUMENTS_OFFSET + 4 * 8),
        jump(libc::BPF_JEQ, 0, 0, 3),
        load(ARGUMENTS_OFFSET + 4 * 8 + 4),
        jump(libc::BPF_JEQ, 0, 0, 1),
        ret(libc::SECCOMP_RET_ALLOW),
        load(NUMBER_OFFSET),
    ];
    program.extend(search(&rules));
    program
}

/// A search by halves.
fn search(rules: &[(i64, u32)]) -> Vec<libc::sock_filter> {
    if let [(number, verdict)] = rules {
        return vec![jump(libc::BPF_JEQ, *number as u32, 0, 1), ret(*verdict), ret(libc::SECCOMP_RET_ALLOW)];
    }
    let (low, high) = rules.split_at(rules.len() / 2);
    let (first, low, high) = (high[0].0, search(low), search(high));
    let mut code = vec![
        jump(libc::BPF_JGE, first as u32, 0, 1),
        libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: low.len() as u32 },
    ];
    code.extend(low);
    code.extend(high);
    code
}

fn ret(k: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::super::super::seccomp::tests::decide;
    use super::*;

    #[test]
    fn threads_stop_at_calls_with_paths_and_at_no_others() {
        let program = filter(true, true);
        let verdict = |number: i64, arguments| decide(&program, AUDIT_ARCH, number as u32, arguments);
        let listed = [CALLS, OLDER_CALLS, OPEN_FILES, NOT_ROOT];
        for call in listed.into_iter().flatten() {
            let sends = [0, 0, 0, 0, 1 << 32, 0];
            assert_eq!(verdict(call.number, sends), libc::SECCOMP_RET_TRACE, "{call:?}");
            assert_eq!(find(call.number).map(|found| found.does), Some(call.does), "{call:?} is listed once");
        }
        for number in [libc::SYS_read, libc::SYS_mmap, libc::SYS_clone, libc::SYS_exit_group, 2000] {
            assert_eq!(verdict(number, [0; 6]), libc::SECCOMP_RET_ALLOW, "{number}");
        }
        assert_eq!(verdict(libc::SYS_sendto, [0; 6]), libc::SECCOMP_RET_ALLOW, "no address");
        let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
        assert_eq!(verdict(libc::SYS_ptrace, [0; 6]), errno(libc::EPERM));
        assert_eq!(verdict(libc::SYS_io_uring_setup, [0; 6]), errno(libc::ENOSYS));
        assert_eq!(verdict(libc::SYS_getuid, [0; 6]), errno(0));
        assert_eq!(verdict(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0, 0]), errno(0));
        assert_eq!(verdict(libc::SYS_prctl, [libc::PR_SET_NAME as u64, 0, 0, 0, 0, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(decide(&program, 1, 0, [0; 6]), errno(libc::ENOSYS), "another word size");
    }

    #[test]
    fn root_with_all_rights_is_told_the_truth() {
        let program = filter(false, false);
        for number in [libc::SYS_fstat, libc::SYS_getuid, libc::SYS_getresuid] {
            assert_eq!(decide(&program, AUDIT_ARCH, number as u32, [0; 6]), libc::SECCOMP_RET_ALLOW);
        }
    }
}
