//! Maps a program into a process that has just started that program's dynamic loader, and tells the loader of it, as the kernel
//! would have done had it found the two together.
//!
//! The process makes the calls itself, one by one, at a call instruction that is put over its first one meanwhile. So it holds
//! for every loader: glibc's of any age, musl's, others.

use std::io;

use rustix::io::Errno;

use super::program::{Image, Program, Start};
use super::registers::CALL_INSTRUCTION;
use super::task::{SLOT, Slot};
use super::thread::{self, PAGE, Thread};

/// Pairs of the auxiliary vector.
const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_PAGESZ: u64 = 6;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;
const AT_EXECFN: u64 = 31;

const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
const FIXED: u64 = libc::MAP_FIXED as u64;
const NOWHERE: u64 = u64::MAX;

/// Finishes the start of a program at the end of its execve(2); gives the memory that we then have in it.
pub(super) fn finish(thread: Thread, start: &Start) -> io::Result<Option<Slot>> {
    let vector = Vector::read(thread)?;
    vector.rename(thread, &start.asked)?;
    let Some(program) = &start.program else { return Ok(None) };
    let before = thread.registers()?;
    let entry = before.at();
    let word = thread.read_word(entry)?;
    let mut patched = word.to_ne_bytes();
    patched[..CALL_INSTRUCTION.len()].copy_from_slice(CALL_INSTRUCTION);
    thread.patch(entry, u64::from_ne_bytes(patched))?;
    let page = vector.get(AT_PAGESZ).unwrap_or(PAGE);
    let calls = Calls { thread, at: entry, page };
    let slot = Slot {
        address: calls.map(0, SLOT, (libc::PROT_READ | libc::PROT_WRITE) as u64, ANONYMOUS, NOWHERE, 0)?,
        length: SLOT,
    };
    let shift = calls.map_program(program, slot)?;
    calls.name(&start.name, slot)?;
    let image = &program.image;
    vector.set(thread, AT_BASE, entry.wrapping_sub(program.loader_entry))?;
    vector.set(thread, AT_ENTRY, image.entry.wrapping_add(shift))?;
    vector.set(thread, AT_PHDR, image.table_address.unwrap_or(image.table).wrapping_add(shift))?;
    vector.set(thread, AT_PHNUM, image.count)?;
    thread.patch(entry, word)?;
    thread.set_registers(&before)?;
    Ok(Some(slot))
}

/// Calls made in a process that stands at its first instruction.
#[derive(Clone, Copy, Debug)]
struct Calls {
    thread: Thread,
    at: u64,
    /// Bytes of a page of memory.
    page: u64,
}

impl Calls {
    fn call(self, number: i64, arguments: &[u64]) -> io::Result<u64> {
        let result = self.thread.call(thread::Start::Instruction(self.at), number, arguments)?;
        if (-4095..0).contains(&result) { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as u64) }
    }

    fn map(self, at: u64, length: u64, protection: u64, flags: u64, file: u64, offset: u64) -> io::Result<u64> {
        self.call(libc::SYS_mmap, &[at, length, protection, flags, file, offset])
    }

    /// Maps all parts; gives how far they are from where they say.
    fn map_program(self, program: &Program, slot: Slot) -> io::Result<u64> {
        let mut name = program.place.clone();
        name.push(0);
        self.thread.write(slot.address, &name)?;
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u64;
        let file = self.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, slot.address, flags, 0])?;
        let shift = self.reserve(&program.image)?;
        for part in &program.image.parts {
            let address = part.address.wrapping_add(shift);
            let (start, skipped) = (self.floor(address), address % self.page);
            let (file_end, end) = (address + part.in_file, self.ceiling(address + part.in_memory));
            if part.in_file > 0 {
                let flags = FIXED | libc::MAP_PRIVATE as u64;
                let offset = part.offset.checked_sub(skipped).ok_or(Errno::NOEXEC)?;
                self.map(start, part.in_file + skipped, part.protection, flags, file, offset)?;
            }
            let anonymous = if part.in_file > 0 { self.ceiling(file_end) } else { start };
            if end > anonymous {
                self.map(anonymous, end - anonymous, part.protection, FIXED | ANONYMOUS, NOWHERE, 0)?;
            }
            if part.in_memory > part.in_file && part.in_file > 0 && part.protection & libc::PROT_WRITE as u64 != 0 {
                self.thread.write(file_end, &vec![0; (self.ceiling(file_end) - file_end) as usize])?;
            }
        }
        self.call(libc::SYS_close, &[file])?;
        Ok(shift)
    }

    /// Finds room for all parts together; gives how far they are moved.
    fn reserve(self, image: &Image) -> io::Result<u64> {
        let alignment = image.parts.iter().map(|part| part.alignment).fold(self.page, u64::max);
        let low = image.parts.iter().map(|part| part.address).min().ok_or(Errno::NOEXEC)?;
        let low = if image.movable { low / alignment * alignment } else { self.floor(low) };
        let high = image.parts.iter().map(|part| self.ceiling(part.address + part.in_memory)).fold(low, u64::max);
        let (nothing, sparse) = (libc::PROT_NONE as u64, ANONYMOUS | libc::MAP_NORESERVE as u64);
        if !image.movable {
            let flags = sparse | libc::MAP_FIXED_NOREPLACE as u64;
            let at = self.map(low, high - low, nothing, flags, NOWHERE, 0)?;
            return if at == low { Ok(0) } else { Err(Errno::NOMEM.into()) };
        }
        let slack = if alignment > self.page { alignment } else { 0 };
        let at = self.map(0, high - low + slack, nothing, sparse, NOWHERE, 0)?;
        Ok(((at + slack) / alignment * alignment).wrapping_sub(low))
    }

    fn floor(self, address: u64) -> u64 {
        address - address % self.page
    }

    fn ceiling(self, address: u64) -> u64 {
        self.floor(address + self.page - 1)
    }

    /// Gives the process the name of its program instead of its loader's.
    fn name(self, program: &[u8], slot: Slot) -> io::Result<()> {
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mut name = name[..name.len().min(15)].to_vec();
        name.push(0);
        self.thread.write(slot.address, &name)?;
        self.call(libc::SYS_prctl, &[libc::PR_SET_NAME as u64, slot.address, 0, 0, 0]).map(drop)
    }
}

/// What the kernel tells a new program, above its arguments and variables.
#[derive(Debug)]
struct Vector {
    at: u64,
    pairs: Vec<(u64, u64)>,
}

impl Vector {
    fn read(thread: Thread) -> io::Result<Self> {
        let mut at = thread.registers()?.stack();
        let mut words = Words { thread, next: at, buffer: Vec::new() };
        at += 8 * (words.take()? + 2);
        words = Words { thread, next: at, buffer: Vec::new() };
        at += 8;
        while words.take()? != 0 {
            at += 8;
        }
        let mut pairs = Vec::new();
        loop {
            match (words.take()?, words.take()?) {
                (0, _) => return Ok(Self { at, pairs }),
                pair => pairs.push(pair),
            }
        }
    }

    fn index(&self, key: u64) -> Option<usize> {
        self.pairs.iter().position(|(known, _)| *known == key)
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.index(key).map(|index| self.pairs[index].1)
    }

    fn set(&self, thread: Thread, key: u64, value: u64) -> io::Result<()> {
        let index = self.index(key).ok_or(Errno::NOEXEC)?;
        thread.write(self.at + index as u64 * 16 + 8, &value.to_ne_bytes())
    }

    /// Puts the name by which a program was started over the one that the kernel was given, if there is room for it.
    fn rename(&self, thread: Thread, name: &[u8]) -> io::Result<()> {
        let Some(address) = self.get(AT_EXECFN) else { return Ok(()) };
        if thread.read_path(address)?.len() >= name.len() {
            thread.write(address, &[name, &[0]].concat())?;
        }
        Ok(())
    }
}

/// Reads numbers in a row.
#[derive(Debug)]
struct Words {
    thread: Thread,
    next: u64,
    buffer: Vec<u64>,
}

impl Words {
    fn take(&mut self) -> io::Result<u64> {
        if self.buffer.is_empty() {
            let mut bytes = vec![0; (PAGE - self.next % PAGE) as usize];
            let length = self.thread.read(self.next, &mut bytes)? / 8 * 8;
            if length == 0 {
                return Err(Errno::FAULT.into());
            }
            self.next += length as u64;
            self.buffer = bytes[..length]
                .chunks_exact(8)
                .map(|word| u64::from_ne_bytes(word.try_into().expect("eight")))
                .collect();
            self.buffer.reverse();
        }
        self.buffer.pop().ok_or_else(|| Errno::FAULT.into())
    }
}
