//! Docker's default system call filter as a classic BPF program, made by an assembler of our own.
//!
//! Why not a library: two refusals (EPERM, and ENOSYS where glibc must fall back), programs of other word sizes must run,
//! and a balanced search over number ranges is several times shorter than a chain of comparisons, which the kernel would
//! verify and compile for every step. Knows nothing of steps; pure, except for [`install`].

#![expect(unsafe_code, reason = "seccomp(2) takes a raw pointer to the program")]

mod profile;
mod table;

pub(crate) use profile::profile;
use table::{CALLS, Column, NONE};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes through.
    Allow,
    /// It returns this error without being done; 0 claims success.
    Errno(u16),
    /// It goes through if the low word of its first argument passes.
    Narrow(Test),
}

/// A test of the low 32 bits of the first argument: the calls tested take an `int` there, so the kernel ignores the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    /// One of these.
    In(&'static [u32]),
    /// None of these.
    NotIn(&'static [u32]),
    /// None of these bits.
    Without(u32),
}

/// Which of the two filters a process gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Docker's default list; otherwise everything is allowed (`--security=insecure`).
    pub(crate) confined: bool,
    /// Changes of owner and user claim success without being done: the namespace has one id only.
    pub(crate) pretend_ownership: bool,
}

/// `AF_ALG`, `AF_VSOCK`
const REFUSED_FAMILIES: &[u32] = &[38, 40];
/// `PER_LINUX`, `PER_LINUX32`, `UNAME26`, `UNAME26|PER_LINUX32`, and "tell me".
const PERSONALITIES: &[u32] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Every `CLONE_NEW*` bit.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// Marks x32 numbers.
const X32_BIT: u32 = 0x4000_0000;

const EPERM: u16 = libc::EPERM as u16;
const ENOSYS: u16 = libc::ENOSYS as u16;

/// Calls that fail in a namespace with one id and that package managers insist on.
const OWNERSHIP: &[&str] = &[
    "chown",
    "chown32",
    "fchown",
    "fchown32",
    "fchownat",
    "lchown",
    "lchown32",
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "setgid",
    "setgid32",
    "setgroups",
    "setgroups32",
    "setregid",
    "setregid32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "setreuid",
    "setreuid32",
    "setuid",
    "setuid32",
];

/// The kernel's names for what a program was compiled for, each with the columns that share it.
#[cfg(target_arch = "x86_64")]
const ARCHES: &[(u32, &[(Column, u32)])] =
    &[(0xc000_003e, &[(Column::X86_64, 0), (Column::X32, X32_BIT)]), (0x4000_0003, &[(Column::X86, 0)])];
#[cfg(target_arch = "aarch64")]
const ARCHES: &[(u32, &[(Column, u32)])] =
    &[(0xc000_00b7, &[(Column::Aarch64, 0)]), (0x4000_0028, &[(Column::Arm, 0)])];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHES: &[(u32, &[(Column, u32)])] = &[];

/// The program for `policy`; empty when nothing is to be filtered or we have no table for this machine.
pub(crate) fn program(policy: Policy) -> Vec<libc::sock_filter> {
    if !policy.confined && !policy.pretend_ownership || ARCHES.is_empty() {
        return Vec::new();
    }
    let mut program = vec![load(ARCH_OFFSET)];
    for &(arch, columns) in ARCHES {
        let mut body = vec![load(NUMBER_OFFSET)];
        body.extend(search(&segments(policy, columns)));
        program.extend(unless(libc::BPF_JEQ, arch, body.len()));
        program.extend(body);
    }
    program.push(ret(if policy.confined { Verdict::Errno(EPERM) } else { Verdict::Allow }));
    program
}

/// Puts `program` on this thread; needs `CAP_SYS_ADMIN` in its user namespace. An empty one does nothing.
pub(crate) fn install(program: &[libc::sock_filter]) -> std::io::Result<()> {
    if program.is_empty() {
        return Ok(());
    }
    let prog = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // Without the flag the kernel slows the whole process down against Spectre; Docker sets it as well.
    for flags in [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0] {
        // SAFETY: `prog` points at `len` instructions that outlive the call; the kernel only reads them.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&prog))
        };
        if result == 0 {
            return Ok(());
        }
    }
    Err(std::io::Error::last_os_error())
}

fn verdict(policy: Policy, name: &str) -> Verdict {
    if policy.pretend_ownership && OWNERSHIP.contains(&name) {
        return Verdict::Errno(0);
    }
    if !policy.confined {
        return Verdict::Allow;
    }
    match name {
        "socket" => Verdict::Narrow(Test::NotIn(REFUSED_FAMILIES)),
        "personality" => Verdict::Narrow(Test::In(PERSONALITIES)),
        "clone" => Verdict::Narrow(Test::Without(NEW_NAMESPACES)),
        // Its flags are behind a pointer, so they cannot be tested; with ENOSYS libraries fall back to clone.
        "clone3" => Verdict::Errno(ENOSYS),
        _ => Verdict::Allow,
    }
}

/// `(first number, verdict)` in order, each up to the next one's first number; starts at 0.
fn segments(policy: Policy, columns: &[(Column, u32)]) -> Vec<(u32, Verdict)> {
    let mut calls: Vec<(u32, Verdict)> = Vec::new();
    for &(column, bit) in columns {
        calls.extend(CALLS.iter().filter_map(|(name, numbers)| {
            let number = numbers[column as usize];
            (number != NONE).then(|| (bit | number as u32, verdict(policy, name)))
        }));
    }
    calls.sort_by_key(|(number, _)| *number);
    let unlisted = if policy.confined { Verdict::Errno(EPERM) } else { Verdict::Allow };
    // Calls newer than the list: ENOSYS lets programs fall back to the older ones, as they do on an older kernel.
    let unknown = if policy.confined { Verdict::Errno(ENOSYS) } else { Verdict::Allow };
    let mut segments: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |start: u32, verdict: Verdict| {
        if segments.last().is_none_or(|(_, last)| *last != verdict) {
            segments.push((start, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in calls {
        if number > next {
            // The gap between the two kinds of x86-64 numbers is beyond the end of the first.
            let gap = if next < X32_BIT && number >= X32_BIT { unknown } else { unlisted };
            push(next, gap);
        }
        push(number, verdict);
        next = number + 1;
    }
    push(next, unknown);
    segments
}

/// A balanced search; falls off nowhere.
fn search(segments: &[(u32, Verdict)]) -> Vec<libc::sock_filter> {
    let [(_, verdict)] = segments else {
        let (low, high) = segments.split_at(segments.len() / 2);
        let pivot = high[0].0;
        let low = search(low);
        let mut code = unless(libc::BPF_JGE, pivot, low.len());
        // `unless` runs what follows if the comparison holds; here the low half must follow, so swap the two targets.
        swap(&mut code);
        code.extend(low);
        code.extend(search(high));
        return code;
    };
    match verdict {
        Verdict::Allow | Verdict::Errno(_) => vec![ret(*verdict)],
        Verdict::Narrow(test) => narrow(*test),
    }
}

fn narrow(test: Test) -> Vec<libc::sock_filter> {
    let mut code = vec![load(FIRST_ARGUMENT_OFFSET)];
    let (values, hit, miss) = match test {
        Test::In(values) => (values, Verdict::Allow, Verdict::Errno(EPERM)),
        Test::NotIn(values) => (values, Verdict::Errno(EPERM), Verdict::Allow),
        Test::Without(bits) => {
            code.push(jump(libc::BPF_JSET, bits, 0, 1));
            code.push(ret(Verdict::Errno(EPERM)));
            code.push(ret(Verdict::Allow));
            return code;
        }
    };
    for (index, value) in values.iter().enumerate() {
        code.push(jump(libc::BPF_JEQ, *value, (values.len() - index) as u8, 0));
    }
    code.push(ret(miss));
    code.push(ret(hit));
    code
}

/// Jumps over the next `skip` instructions unless the comparison with the accumulator holds.
fn unless(comparison: u32, value: u32, skip: usize) -> Vec<libc::sock_filter> {
    match u8::try_from(skip) {
        Ok(skip) => vec![jump(comparison, value, 0, skip)],
        Err(_) => vec![jump(comparison, value, 1, 0), jump(libc::BPF_JA, skip as u32, 0, 0)],
    }
}

/// Turns "unless" into "if".
fn swap(code: &mut [libc::sock_filter]) {
    if let Some(first) = code.first_mut() {
        std::mem::swap(&mut first.jt, &mut first.jf);
    }
}

/// Where a filter finds the number of a call.
pub(super) const NUMBER_OFFSET: u32 = 0;
/// Where it finds what the program was compiled for.
pub(super) const ARCH_OFFSET: u32 = 4;
/// Where it finds the arguments, of eight bytes each. The low word comes first: both machines we have tables for are little-endian.
pub(super) const FIRST_ARGUMENT_OFFSET: u32 = 16;

/// Loads a word of what is known of the call.
pub(super) fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Compares it.
pub(super) fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt, jf, k }
}

fn ret(verdict: Verdict) -> libc::sock_filter {
    let k = match verdict {
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Verdict::Allow | Verdict::Narrow(_) => libc::SECCOMP_RET_ALLOW,
    };
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn run(program: &[libc::sock_filter], arch: u32, number: u32, argument: u32) -> u32 {
        decide(program, arch, number, [u64::from(argument), 0, 0, 0, 0, 0])
    }

    /// Runs the program as the kernel would.
    pub(in crate::exec) fn decide(program: &[libc::sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let (mut pc, mut accumulator) = (0_usize, 0_u32);
        loop {
            let insn = &program[pc];
            pc += 1;
            let code = u32::from(insn.code);
            match code & 0x07 {
                libc::BPF_LD => {
                    accumulator = match insn.k {
                        NUMBER_OFFSET => number,
                        ARCH_OFFSET => arch,
                        other => {
                            let word = (other - FIRST_ARGUMENT_OFFSET) as usize / 4;
                            (arguments[word / 2] >> (32 * (word % 2))) as u32
                        }
                    }
                }
                libc::BPF_RET => return insn.k,
                libc::BPF_JMP => {
                    let taken = match code & 0xf0 {
                        libc::BPF_JA => {
                            pc += insn.k as usize;
                            continue;
                        }
                        libc::BPF_JEQ => accumulator == insn.k,
                        libc::BPF_JGE => accumulator >= insn.k,
                        libc::BPF_JSET => accumulator & insn.k != 0,
                        other => panic!("jump {other}"),
                    };
                    pc += usize::from(if taken { insn.jt } else { insn.jf });
                }
                other => panic!("class {other}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(errno: u16) -> u32 {
        libc::SECCOMP_RET_ERRNO | u32::from(errno)
    }

    const DOCKER: Policy = Policy { confined: true, pretend_ownership: false };

    #[test]
    fn every_listed_call_gets_its_verdict_and_every_other_is_refused() {
        let program = program(DOCKER);
        assert!(program.len() < 700, "{} instructions", program.len());
        for &(arch, columns) in ARCHES {
            for &(column, bit) in columns {
                let end = CALLS.iter().map(|(_, numbers)| numbers[column as usize]).max().expect("not empty");
                for number in 0..=(end.min(1000) as u32 + 20) {
                    let listed = CALLS.iter().find(|(_, numbers)| numbers[column as usize] == number as i32);
                    let expected = match listed {
                        Some((name, _)) => match verdict(DOCKER, name) {
                            Verdict::Allow | Verdict::Narrow(_) => ALLOW,
                            Verdict::Errno(number) => errno(number),
                        },
                        None if number as i32 > end => errno(ENOSYS),
                        None => errno(EPERM),
                    };
                    assert_eq!(run(&program, arch, bit | number, 0), expected, "{arch:x} {number}");
                }
            }
        }
        assert_eq!(run(&program, 0x1234, 1, 0), errno(EPERM));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn arguments_narrow_some_calls() {
        let program = program(DOCKER);
        let call = |number: i64, argument| run(&program, 0xc000_003e, number as u32, argument);
        assert_eq!(call(libc::SYS_socket, libc::AF_INET as u32), ALLOW);
        assert_eq!(call(libc::SYS_socket, libc::AF_ALG as u32), errno(EPERM));
        assert_eq!(call(libc::SYS_socket, libc::AF_VSOCK as u32), errno(EPERM));
        assert_eq!(call(libc::SYS_socket, 39), ALLOW);
        assert_eq!(call(libc::SYS_socket, 41), ALLOW);
        assert_eq!(call(libc::SYS_clone, libc::SIGCHLD as u32), ALLOW);
        assert_eq!(call(libc::SYS_clone, libc::CLONE_NEWUSER as u32), errno(EPERM));
        assert_eq!(call(libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(call(libc::SYS_personality, 4), errno(EPERM));
        assert_eq!(call(libc::SYS_clone3, 0), errno(ENOSYS));
        assert_eq!(call(libc::SYS_mount, 0), errno(EPERM));
        assert_eq!(call(5000, 0), errno(ENOSYS));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn one_id_makes_changes_of_owner_succeed() {
        let program = program(Policy { confined: false, pretend_ownership: true });
        let call = |number: i64| run(&program, 0xc000_003e, number as u32, 0);
        assert_eq!(call(libc::SYS_fchownat), errno(0));
        assert_eq!(call(libc::SYS_setgroups), errno(0));
        assert_eq!(call(libc::SYS_mount), ALLOW);
        assert!(super::program(Policy { confined: false, pretend_ownership: false }).is_empty());
    }
}
