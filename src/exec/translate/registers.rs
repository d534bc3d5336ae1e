//! The registers of a stopped thread, by what they mean to a system call. The only file that knows one machine from another,
//! besides the table of calls.

/// All general registers, and which call is being made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    /// As ptrace(2) gives them.
    pub(super) raw: libc::user_regs_struct,
    /// The number of the call, where it is kept apart from the registers.
    #[cfg(target_arch = "aarch64")]
    pub(super) number: i32,
}

/// What ELF calls this machine.
#[cfg(target_arch = "x86_64")]
pub(super) const MACHINE: u16 = 62;
/// What ELF calls this machine.
#[cfg(target_arch = "aarch64")]
pub(super) const MACHINE: u16 = 183;

/// What seccomp calls programs of this machine.
#[cfg(target_arch = "x86_64")]
pub(super) const AUDIT_ARCH: u32 = 0xc000_003e;
/// What seccomp calls programs of this machine.
#[cfg(target_arch = "aarch64")]
pub(super) const AUDIT_ARCH: u32 = 0xc000_00b7;

/// The instruction that makes a system call, and its length.
#[cfg(target_arch = "x86_64")]
pub(super) const CALL_INSTRUCTION: &[u8] = &[0x0f, 0x05];
/// The instruction that makes a system call, and its length.
#[cfg(target_arch = "aarch64")]
pub(super) const CALL_INSTRUCTION: &[u8] = &[0x01, 0x00, 0x00, 0xd4];

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// The number of the call that is being made.
    pub(super) fn number(&self) -> i64 {
        self.raw.orig_rax as i64
    }

    /// Makes it another call; -1 makes it none, and what is in [`Self::set_result`] its result.
    pub(super) fn set_number(&mut self, number: i64) {
        self.raw.orig_rax = number as u64;
    }

    /// Its result, once it is over.
    pub(super) fn result(&self) -> i64 {
        self.raw.rax as i64
    }

    /// Another result.
    pub(super) fn set_result(&mut self, result: i64) {
        self.raw.rax = result as u64;
    }

    /// Argument `index` of six.
    pub(super) fn argument(&self, index: usize) -> u64 {
        let raw = &self.raw;
        [raw.rdi, raw.rsi, raw.rdx, raw.r10, raw.r8, raw.r9][index]
    }

    /// Another argument.
    pub(super) fn set_argument(&mut self, index: usize, value: u64) {
        let raw = &mut self.raw;
        *[&mut raw.rdi, &mut raw.rsi, &mut raw.rdx, &mut raw.r10, &mut raw.r8, &mut raw.r9][index] = value;
    }

    /// Whether an argument is still there once the call is over.
    pub(super) fn survives(_index: usize) -> bool {
        true
    }

    /// The address of the next instruction.
    pub(super) fn at(&self) -> u64 {
        self.raw.rip
    }

    /// Goes on elsewhere.
    pub(super) fn set_at(&mut self, address: u64) {
        self.raw.rip = address;
    }

    /// The top of the stack.
    pub(super) fn stack(&self) -> u64 {
        self.raw.rsp
    }

    /// Has call `number` made by the instruction that they stand at.
    pub(super) fn call(&mut self, number: i64) {
        self.raw.rax = number as u64;
        // The kernel takes this for a call of its own to be made again otherwise.
        self.raw.orig_rax = u64::MAX;
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    /// The number of the call that is being made.
    pub(super) fn number(&self) -> i64 {
        i64::from(self.number)
    }

    /// Makes it another call; -1 makes it none, and what is in [`Self::set_result`] its result.
    pub(super) fn set_number(&mut self, number: i64) {
        self.number = number as i32;
    }

    /// Its result, once it is over.
    pub(super) fn result(&self) -> i64 {
        self.raw.regs[0] as i64
    }

    /// Another result.
    pub(super) fn set_result(&mut self, result: i64) {
        self.raw.regs[0] = result as u64;
    }

    /// Argument `index` of six.
    pub(super) fn argument(&self, index: usize) -> u64 {
        self.raw.regs[index]
    }

    /// Another argument.
    pub(super) fn set_argument(&mut self, index: usize, value: u64) {
        self.raw.regs[index] = value;
    }

    /// Whether an argument is still there once the call is over: the first shares its register with the result.
    pub(super) fn survives(index: usize) -> bool {
        index != 0
    }

    /// The address of the next instruction.
    pub(super) fn at(&self) -> u64 {
        self.raw.pc
    }

    /// Goes on elsewhere.
    pub(super) fn set_at(&mut self, address: u64) {
        self.raw.pc = address;
    }

    /// The top of the stack.
    pub(super) fn stack(&self) -> u64 {
        self.raw.sp
    }

    /// Has call `number` made by the instruction that they stand at.
    pub(super) fn call(&mut self, number: i64) {
        self.raw.regs[8] = number as u64;
        self.number = -1;
    }
}

impl Registers {
    /// Takes back the arguments that others had, as far as a call leaves them alone.
    pub(super) fn restore(&mut self, before: &Self) {
        for index in (0..6).filter(|index| Self::survives(*index)) {
            self.set_argument(index, before.argument(index));
        }
    }
}
