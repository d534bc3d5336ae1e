//! One stopped thread of a step, by the operations of ptrace(2): registers, memory, going on, and system calls that it makes
//! for us.
//!
//! Knows nothing of paths. Everything fails with an error when the thread is killed meanwhile, which is no fault.

#![expect(unsafe_code, reason = "ptrace and the memory of other processes have no safe wrappers")]

use std::io;

use rustix::io::Errno;

use super::registers::{CALL_INSTRUCTION, Registers};

/// Events that we want to hear of, and that everything dies with us.
const OPTIONS: i32 = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_EXITKILL;

/// A path's bytes at most, with the zero.
pub(super) const PATH_MAX: usize = libc::PATH_MAX as usize;
/// Memory is readable or not in units of this.
pub(super) const PAGE: u64 = 4096;

/// A thread by its number; only the tracer's own are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Thread(pub(super) i32);

/// How far a thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Its next event.
    Event,
    /// Its next event, or the end of its system call.
    CallEnds,
}

/// Why a thread stopped, or that it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It ended, with what wait(2) says.
    Ended { code: i32, signal: i32 },
    /// One of `PTRACE_EVENT_*`, with the signal that a stop of its group comes with.
    Event { event: i32, signal: i32 },
    /// Before or after a system call.
    Call,
    /// It is about to get this signal.
    Signal(i32),
}

thread_local! {
    /// Ends heard of while something else was waited for.
    static HEARD: std::cell::RefCell<Vec<(Thread, Stop)>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Waits for any thread, or for one; none left is `ECHILD`.
pub(super) fn wait(thread: Option<Thread>) -> io::Result<(Thread, Stop)> {
    if thread.is_none()
        && let Some(heard) = HEARD.with_borrow_mut(Vec::pop)
    {
        return Ok(heard);
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is written by the kernel and lives as long as the call.
        let pid = unsafe { libc::waitpid(thread.map_or(-1, |thread| thread.0), &raw mut status, libc::__WALL) };
        if pid >= 0 {
            return Ok((Thread(pid), explain(status)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn explain(status: i32) -> Stop {
    if libc::WIFEXITED(status) {
        return Stop::Ended { code: libc::WEXITSTATUS(status), signal: 0 };
    }
    if libc::WIFSIGNALED(status) {
        return Stop::Ended { code: 0, signal: libc::WTERMSIG(status) };
    }
    let (event, signal) = (status >> 16, libc::WSTOPSIG(status));
    match (event, signal) {
        (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        (0, signal) => Stop::Signal(signal),
        (event, signal) => Stop::Event { event, signal },
    }
}

impl Thread {
    fn request(self, request: libc::c_uint, address: usize, data: usize) -> io::Result<libc::c_long> {
        // SAFETY: the requests used in this file take numbers, or pointers to memory that outlives the call.
        checked(unsafe { libc::ptrace(request, self.0, address, data) })
    }

    /// Becomes its tracer. It goes on running.
    pub(super) fn seize(self) -> io::Result<()> {
        self.request(libc::PTRACE_SEIZE, 0, OPTIONS as usize).map(drop)
    }

    /// Lets it go on, with a signal unless that is 0.
    pub(super) fn resume(self, until: Until, signal: i32) -> io::Result<()> {
        let request = match until {
            Until::Event => libc::PTRACE_CONT,
            Until::CallEnds => libc::PTRACE_SYSCALL,
        };
        self.request(request, 0, signal as usize).map(drop)
    }

    /// Leaves it stopped together with its group.
    pub(super) fn stay_stopped(self) -> io::Result<()> {
        self.request(libc::PTRACE_LISTEN, 0, 0).map(drop)
    }

    /// The number that came with an event.
    pub(super) fn message(self) -> io::Result<i32> {
        let mut message: libc::c_ulong = 0;
        self.request(libc::PTRACE_GETEVENTMSG, 0, std::ptr::from_mut(&mut message) as usize)?;
        Ok(message as i32)
    }

    /// Its registers.
    pub(super) fn registers(self) -> io::Result<Registers> {
        // SAFETY: all-zero registers are registers.
        let mut raw: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec { iov_base: (&raw mut raw).cast(), iov_len: size_of_val(&raw) };
        self.request(libc::PTRACE_GETREGSET, libc::NT_PRSTATUS as usize, (&raw mut part) as usize)?;
        #[cfg(target_arch = "aarch64")]
        {
            let mut number = 0_i32;
            let mut part = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: 4 };
            self.request(libc::PTRACE_GETREGSET, NT_ARM_SYSTEM_CALL, (&raw mut part) as usize)?;
            Ok(Registers { raw, number })
        }
        #[cfg(not(target_arch = "aarch64"))]
        Ok(Registers { raw })
    }

    /// Other registers.
    pub(super) fn set_registers(self, registers: &Registers) -> io::Result<()> {
        let mut raw = registers.raw;
        let mut part = libc::iovec { iov_base: (&raw mut raw).cast(), iov_len: size_of_val(&raw) };
        self.request(libc::PTRACE_SETREGSET, libc::NT_PRSTATUS as usize, (&raw mut part) as usize)?;
        #[cfg(target_arch = "aarch64")]
        {
            let mut number = registers.number;
            let mut part = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: 4 };
            self.request(libc::PTRACE_SETREGSET, NT_ARM_SYSTEM_CALL, (&raw mut part) as usize)?;
        }
        Ok(())
    }

    /// Fills `buffer` from its memory, as far as there is any; gives how far.
    pub(super) fn read(self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
        // SAFETY: the kernel writes to `buffer` only, and checks the address in the other process.
        let result = unsafe { libc::process_vm_readv(self.0, &raw const local, 1, &raw const remote, 1, 0) };
        Ok(checked(result as libc::c_long)? as usize)
    }

    /// Fills `buffer` from its memory.
    pub(super) fn read_all(self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.read(address, buffer)? == buffer.len() { Ok(()) } else { Err(Errno::FAULT.into()) }
    }

    /// The bytes up to a zero byte; `ENAMETOOLONG` if there is none within a path's length.
    pub(super) fn read_path(self, address: u64) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut chunk = [0; 512];
        while text.len() < PATH_MAX {
            let at = address + text.len() as u64;
            // Never across a page that may not be there.
            let length = (PAGE - at % PAGE).min(chunk.len() as u64) as usize;
            let read = self.read(at, &mut chunk[..length])?;
            if let Some(end) = chunk[..read].iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&chunk[..end]);
                return Ok(text);
            }
            if read == 0 {
                return Err(Errno::FAULT.into());
            }
            text.extend_from_slice(&chunk[..read]);
        }
        Err(Errno::NAMETOOLONG.into())
    }

    /// A pointer or another number of that size.
    pub(super) fn read_word(self, address: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read_all(address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Writes to its memory, where it might itself.
    pub(super) fn write(self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: the kernel reads from `bytes` only, and checks the address in the other process.
        let result = unsafe { libc::process_vm_writev(self.0, &raw const local, 1, &raw const remote, 1, 0) };
        let written = checked(result as libc::c_long)? as usize;
        if written == bytes.len() { Ok(()) } else { Err(Errno::FAULT.into()) }
    }

    /// Replaces one word of its program, where that may not write.
    pub(super) fn patch(self, address: u64, word: u64) -> io::Result<()> {
        self.request(libc::PTRACE_POKETEXT, address as usize, word as usize).map(drop)
    }

    /// Has it make a system call. It must be stopped before one of its own (`Start::Before`: that is replaced and has to be
    /// made again) or stand at a call instruction.
    pub(super) fn call(self, start: Start, number: i64, arguments: &[u64]) -> io::Result<i64> {
        let mut registers = self.registers()?;
        for (index, argument) in arguments.iter().enumerate() {
            registers.set_argument(index, *argument);
        }
        let entries = match start {
            Start::Before => {
                registers.set_number(number);
                0
            }
            Start::Instruction(address) => {
                registers.set_at(address);
                registers.call(number);
                1
            }
        };
        self.set_registers(&registers)?;
        self.through(entries)?;
        Ok(self.registers()?.result())
    }

    /// Lets it end the call that it is in.
    pub(super) fn finish_call(self) -> io::Result<()> {
        self.through(0)
    }

    /// Lets it go on to the end of a call, past so many beginnings. Signals come later.
    fn through(self, mut entries: u32) -> io::Result<()> {
        let mut signals = Vec::new();
        self.resume(Until::CallEnds, 0)?;
        loop {
            match wait(Some(self))?.1 {
                stop @ Stop::Ended { .. } => {
                    HEARD.with_borrow_mut(|heard| heard.push((self, stop)));
                    return Err(Errno::SRCH.into());
                }
                Stop::Call if entries == 0 => break,
                Stop::Call => entries -= 1,
                Stop::Signal(signal) => signals.push(signal),
                // Calls of ours that are looked at like any other, and stops of the group, which wait.
                Stop::Event { .. } => {}
            }
            self.resume(Until::CallEnds, 0)?;
        }
        for signal in signals {
            self.signal(signal);
        }
        Ok(())
    }

    /// Sends it a signal, which comes once it goes on.
    pub(super) fn signal(self, signal: i32) {
        // SAFETY: sends a signal; no memory is involved.
        unsafe { libc::syscall(libc::SYS_tkill, self.0, signal) };
    }

    /// Ends it.
    pub(super) fn kill(self) {
        self.signal(libc::SIGKILL);
    }
}

/// Where a call of ours begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    /// In the place of the one that the thread is just about to make.
    Before,
    /// At a call instruction at this address.
    Instruction(u64),
}

/// Where the call instruction is that a thread has just gone through.
pub(super) fn instruction_before(registers: &Registers) -> u64 {
    registers.at() - CALL_INSTRUCTION.len() as u64
}

#[cfg(target_arch = "aarch64")]
const NT_ARM_SYSTEM_CALL: usize = 0x404;

/// A value of the kernel's as it gave it.
pub(super) fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: used for structures that the kernel has filled, of numbers only; the slice lives as long as the value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
