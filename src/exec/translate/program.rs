//! What starting a program means where the kernel would look for its interpreter in the wrong root: what is started instead.
//!
//! Reads programs' first bytes only. Of a script its interpreter is started, as the kernel does; of a program that wants a
//! dynamic loader that loader, into which `load` then maps the program.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::registers::MACHINE;
use super::resolve::{Found, Last, Walk};
use super::view::path;

/// Interpreters of interpreters that the kernel follows.
const MAX_INTERPRETERS: u32 = 5;
/// Bytes of a script's first line that the kernel looks at.
const FIRST_LINE: usize = 256;
/// Parts of a program at most.
const MAX_PARTS: usize = 128;

/// What is to be started.
#[derive(Debug)]
pub(super) struct Start {
    /// What the kernel is given.
    pub(super) run: Vec<u8>,
    /// What comes in the place of argv[0]; empty: nothing does.
    pub(super) arguments: Vec<Vec<u8>>,
    /// The program as the step calls it.
    pub(super) name: Vec<u8>,
    /// How it was asked for.
    pub(super) asked: Vec<u8>,
    /// A program to be mapped beside the loader that the kernel is given.
    pub(super) program: Option<Program>,
}

/// A program to be mapped.
#[derive(Debug)]
pub(super) struct Program {
    /// Where it is.
    pub(super) place: Vec<u8>,
    /// It.
    pub(super) image: Image,
    /// Where its loader begins, before that is moved.
    pub(super) loader_entry: u64,
}

/// What an ELF file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// It may be anywhere.
    pub(super) movable: bool,
    /// Where it begins.
    pub(super) entry: u64,
    /// Where the table of its parts is in the file.
    pub(super) table: u64,
    /// How many parts that has.
    pub(super) count: u64,
    /// Where that table is in memory, if it says so.
    pub(super) table_address: Option<u64>,
    /// Its loader.
    pub(super) loader: Option<Vec<u8>>,
    /// What is to be mapped.
    pub(super) parts: Vec<Part>,
}

/// A part of an ELF file to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where to.
    pub(super) address: u64,
    /// From where in the file.
    pub(super) offset: u64,
    /// Bytes of the file.
    pub(super) in_file: u64,
    /// Bytes in memory.
    pub(super) in_memory: u64,
    /// `PROT_*`.
    pub(super) protection: u64,
    /// What its address is to be a multiple of.
    pub(super) alignment: u64,
}

/// What is in a file that is to be started.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Script {
        interpreter: Vec<u8>,
        argument: Option<Vec<u8>>,
    },
    Elf(Image),
    /// A program of another machine, or nothing we know: the kernel's to judge.
    Other,
    /// A 32-bit program of this kind of machine.
    Narrow,
}

/// Why nothing is started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// This error.
    Errno(Errno),
    /// A 32-bit program.
    Narrow,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// What to start for `found`, which was asked for as `asked`.
pub(super) fn start(walk: &Walk<'_>, base: &[u8], found: Found, asked: Vec<u8>) -> Result<Start, Refusal> {
    let mut start = Start { run: found.place.path, arguments: Vec::new(), name: found.name, asked, program: None };
    let mut called = start.asked.clone();
    for _ in 0..MAX_INTERPRETERS {
        if accessat(CWD, path(&start.run), Access::EXEC_OK, AtFlags::EACCESS).is_err() {
            // The kernel says why.
            return Ok(start);
        }
        match kind(&start.run) {
            Kind::Other => return Ok(start),
            Kind::Narrow => return Err(Refusal::Narrow),
            Kind::Elf(image) => {
                let Some(loader) = &image.loader else { return Ok(start) };
                let loader = walk.to(base, loader, Last::Follow)?;
                let Kind::Elf(loader_image) = kind(&loader.place.path) else { return Err(Errno::LIBBAD.into()) };
                let place = std::mem::replace(&mut start.run, loader.place.path);
                start.program = Some(Program { place, image, loader_entry: loader_image.entry });
                return Ok(start);
            }
            Kind::Script { interpreter, argument } => {
                let found = walk.to(base, &interpreter, Last::Follow)?;
                (start.run, start.name) = (found.place.path, found.name);
                // The line's words, then the script's name in the place of argv[0].
                let rest = start.arguments.split_off(usize::from(!start.arguments.is_empty()));
                start.arguments = vec![interpreter.clone()];
                start.arguments.extend(argument);
                start.arguments.push(std::mem::replace(&mut called, interpreter));
                start.arguments.extend(rest);
            }
        }
    }
    Err(Errno::LOOP.into())
}

fn kind(place: &[u8]) -> Kind {
    let Ok(file) = File::open(path(place)) else { return Kind::Other };
    let mut first = [0; FIRST_LINE];
    let length = file.read_at(&mut first, 0).unwrap_or(0);
    let first = &first[..length];
    if let Some(line) = first.strip_prefix(b"#!") {
        return script(line).map_or(Kind::Other, |(interpreter, argument)| Kind::Script { interpreter, argument });
    }
    elf(first, &|offset, buffer| file.read_exact_at(buffer, offset).ok())
}

/// The interpreter and what follows it, up to the end of the line or of what was read.
fn script(line: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = line.split(|byte| *byte == b'\n').next()?;
    let start = line.iter().position(|byte| !blank(byte))?;
    let end = line.iter().rposition(|byte| !blank(byte) && *byte != 0)? + 1;
    let line = line.get(start..end)?;
    let cut = line.iter().position(blank).unwrap_or(line.len());
    let argument = line[cut..].iter().position(|byte| !blank(byte)).map(|at| line[cut + at..].to_vec());
    Some((line[..cut].to_vec(), argument))
}

fn elf(first: &[u8], read: &dyn Fn(u64, &mut [u8]) -> Option<()>) -> Kind {
    const X86: u16 = 3;
    const ARM: u16 = 40;
    let number = |bytes: &[u8], at: usize, length: usize| -> u64 {
        let mut word = [0; 8];
        word[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(word)
    };
    if first.len() < 64 || !first.starts_with(b"\x7fELF") {
        return Kind::Other;
    }
    let machine = number(first, 18, 2) as u16;
    if first[4] != 2 {
        let narrow = if MACHINE == 62 { X86 } else { ARM };
        return if machine == narrow || machine == MACHINE { Kind::Narrow } else { Kind::Other };
    }
    if machine != MACHINE {
        return Kind::Other;
    }
    let (table, size, count) = (number(first, 32, 8), number(first, 54, 2) as usize, number(first, 56, 2) as usize);
    let mut image = Image {
        movable: number(first, 16, 2) == 3,
        entry: number(first, 24, 8),
        table,
        count: count as u64,
        table_address: None,
        loader: None,
        parts: Vec::new(),
    };
    let mut headers = vec![0; size * count];
    if size < 56 || count > MAX_PARTS || read(table, &mut headers).is_none() {
        return Kind::Other;
    }
    for header in headers.chunks_exact(size) {
        let (offset, address) = (number(header, 8, 8), number(header, 16, 8));
        let (in_file, in_memory) = (number(header, 32, 8), number(header, 40, 8));
        match number(header, 0, 4) as u32 {
            libc::PT_LOAD => {
                let flags = number(header, 4, 4) as u32;
                let bit = |flag: u32, protection: i32| if flags & flag != 0 { protection as u64 } else { 0 };
                let protection = bit(libc::PF_R, libc::PROT_READ)
                    | bit(libc::PF_W, libc::PROT_WRITE)
                    | bit(libc::PF_X, libc::PROT_EXEC);
                let alignment = number(header, 48, 8);
                image.parts.push(Part { address, offset, in_file, in_memory, protection, alignment });
                if image.table_address.is_none() && offset <= table && table < offset + in_file {
                    image.table_address = Some(table - offset + address);
                }
            }
            libc::PT_PHDR => image.table_address = Some(address),
            libc::PT_INTERP => {
                let mut name = vec![0; in_file.min(super::thread::PATH_MAX as u64) as usize];
                if read(offset, &mut name).is_none() {
                    return Kind::Other;
                }
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                image.loader = Some(name);
            }
            _ => {}
        }
    }
    Kind::Elf(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_as_the_kernel_does() {
        let check = |line: &str, interpreter: &str, argument: Option<&str>| {
            let expected = (interpreter.as_bytes().to_vec(), argument.map(|text| text.as_bytes().to_vec()));
            assert_eq!(script(line.as_bytes()), Some(expected), "{line:?}");
        };
        check("/bin/sh\necho", "/bin/sh", None);
        check(" /usr/bin/env  python3 -u \n", "/usr/bin/env", Some("python3 -u"));
        check("/bin/sh\t-e", "/bin/sh", Some("-e"));
        assert_eq!(script(b" \n/bin/sh"), None);
    }

    #[test]
    fn our_own_program_is_understood() {
        let own = std::env::current_exe().expect("own path");
        let Kind::Elf(image) = kind(own.as_os_str().as_encoded_bytes()) else { panic!("{own:?}") };
        assert!(image.loader.is_some_and(|loader| loader.starts_with(b"/lib")));
        assert!(image.parts.len() >= 2 && image.table_address.is_some() && image.movable);
        assert_eq!(kind(b"/etc/passwd"), Kind::Other);
        assert_eq!(
            elf(&[&b"\x7fELF\x01\x01\x01"[..], &[0; 11], &[3, 0], &[0; 44]].concat(), &|_, _| None),
            Kind::Narrow
        );
    }
}
