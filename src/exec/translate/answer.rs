//! What a call with paths comes to: the kernel does it with other paths, or we answer it ourselves.
//!
//! Questions (stat, access, readlink) are answered by asking the kernel ourselves, which saves a second stop; what changes
//! something is done by the thread itself, with its own umask, limits and signals.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Statx, StatxFlags, accessat, openat, readlinkat,
    stat, statat, statx,
};
use rustix::io::Errno;

use super::calls::{Call, Does, Links, PathArgument, SYS_FCHMODAT2};
use super::program::{self, Refusal};
use super::registers::Registers;
use super::resolve::{Found, Last, Walk};
use super::task::{After, SLOT, Slot};
use super::thread::{self, Thread, bytes_of, instruction_before};
use super::tracer::Tracer;
use super::view::{below, path};
use crate::layers::locked;

/// What becomes of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The kernel does it as it is.
    Pass,
    /// The kernel does it with these registers, and something is to be done after it.
    Changed(Box<Registers>, After),
    /// We have done it, with this result.
    Answered(i64),
    /// With these registers the thread makes it once more.
    Again(Registers),
}

/// Directories that we hold for calls whose path would be too long otherwise.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    held: std::collections::VecDeque<OwnedFd>,
}

/// Of those at most: a call is over long before so many others began.
const HELD: usize = 64;
/// Bytes of a socket's path at most.
const SOCKET_PATH: usize = 107;
/// What comes before it.
const FAMILY: usize = 2;

impl Sockets {
    /// A path of ours to an open file.
    fn hold(&mut self, file: OwnedFd) -> String {
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        self.held.push_back(file);
        if self.held.len() > HELD {
            self.held.pop_front();
        }
        path
    }
}

fn done(result: usize) -> Outcome {
    Outcome::Answered(result as i64)
}

impl Tracer {
    /// Looks at a call that `thread` is about to make; an error is its result.
    pub(super) fn answer(&mut self, thread: Thread, registers: &Registers, call: &Call) -> io::Result<Outcome> {
        match call.does {
            Does::WorkingDirectory => return self.working_directory(thread, registers),
            Does::StatOpen => return self.stat_open(thread, registers.argument(0) as i32, registers.argument(1)),
            Does::Address { address } => return self.address(thread, registers, call, address),
            Does::Ids => {
                for index in 0..3 {
                    thread.write(registers.argument(index), &0_u32.to_ne_bytes())?;
                }
                return Ok(done(0));
            }
            Does::Signal => return self.signal(thread, registers, call),
            Does::Execute { arguments } => return self.execute(thread, registers, call, arguments),
            Does::Changed
            | Does::Stat { .. }
            | Does::Statx
            | Does::Access { .. }
            | Does::ReadLink { .. }
            | Does::Root => {}
            Does::ChangeOpen => {
                let file = registers.argument(0) as i32;
                self.guard_open(thread, file)?;
                if self.bound_by_modes
                    && call.number == libc::SYS_fchmod
                    && let Ok(place) = readlinkat(CWD, open_place(thread, file), Vec::new())
                {
                    locked::forget(&path(place.as_bytes()));
                }
                return Ok(Outcome::Pass);
            }
            Does::OpenHow => return self.open_how(thread, registers, call),
        }
        let mut found = Vec::new();
        for argument in call.paths.iter().flatten() {
            match self.find(thread, registers, *argument)? {
                Some(one) => found.push((argument.path, one)),
                None => return self.without_path(thread, registers, call),
            }
        }
        let flags = match call.paths[0].map(|argument| argument.links) {
            Some(Links::Open(index)) => Some(registers.argument(index) as i32),
            _ => None,
        };
        self.permitted(flags, call, &found)?;
        let (_, Looked { found: first, .. }) = &found[0];
        match call.does {
            Does::Stat { buffer } => {
                let (place, flags) = (path(&first.place.path), at_flags(call, registers));
                let mut answer = self.ask(first, || statat(CWD, &place, flags))?;
                self.dress(&mut answer, &place);
                thread.write(registers.argument(buffer), bytes_of(&answer))?;
                Ok(done(0))
            }
            Does::Statx => {
                let (place, flags) = (path(&first.place.path), at_flags(call, registers));
                let mask = StatxFlags::from_bits_retain(registers.argument(3) as u32);
                let mut answer = self.ask(first, || statx(CWD, &place, flags, mask))?;
                self.dress_more(&mut answer, &place);
                thread.write(registers.argument(4), bytes_of(&answer))?;
                Ok(done(0))
            }
            Does::Access { mode, flags } => {
                let flags = if flags { registers.argument(mode + 1) as u32 } else { 0 };
                let mode = Access::from_bits_retain(registers.argument(mode) as u32);
                let place = path(&first.place.path);
                self.ask(first, || accessat(CWD, &place, mode, AtFlags::from_bits_retain(flags)))?;
                Ok(done(0))
            }
            Does::ReadLink { buffer } => {
                let text = match &first.text {
                    Some(text) => text.clone(),
                    None => {
                        let place = path(&first.place.path);
                        self.ask(first, || readlinkat(CWD, &place, Vec::new()))?.into_bytes()
                    }
                };
                let length = text.len().min(registers.argument(buffer + 1) as usize);
                thread.write(registers.argument(buffer), &text[..length])?;
                Ok(done(length))
            }
            Does::Root => {
                let _directory = openat(CWD, path(&first.place.path), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                let group = self.processes.tasks[&thread.0].group;
                for task in self.processes.tasks.values_mut().filter(|task| task.group == group) {
                    task.root.clone_from(&first.name);
                }
                Ok(done(0))
            }
            _ => {
                if matches!(call.number, libc::SYS_fchmodat | SYS_FCHMODAT2) || is_chmod(call.number) {
                    locked::forget(&path(&first.place.path));
                }
                self.change(thread, registers, found)
            }
        }
    }

    /// Asks the kernel; once more if root would have had an answer.
    fn ask<T>(&self, found: &Found, question: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match question() {
            Err(Errno::ACCESS) if self.unlock(&found.place.path) => question(),
            answer => answer,
        }
    }

    /// Refuses what a mount would refuse.
    fn permitted(&self, flags: Option<i32>, call: &Call, found: &[(usize, Looked)]) -> io::Result<()> {
        for (_, Looked { found: Found { place, .. }, .. }) in found {
            let writes = match flags {
                Some(flags) => {
                    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
                    writes || flags & libc::O_CREAT != 0 && stat(path(&place.path)).is_err()
                }
                None => call.changes,
            };
            if writes && self.view.is_readonly(place) {
                return Err(Errno::ROFS.into());
            }
            if call.removes && place.is_mount {
                return Err(Errno::BUSY.into());
            }
        }
        match found {
            [(_, from), (_, to)] if from.found.place.mount != to.found.place.mount => Err(Errno::XDEV.into()),
            _ => Ok(()),
        }
    }

    /// openat2(2): a path that stays below its directory does so without us.
    fn open_how(&mut self, thread: Thread, registers: &Registers, call: &Call) -> io::Result<Outcome> {
        let how = registers.argument(2);
        let (flags, resolve) = (thread.read_word(how)? as i32, thread.read_word(how + 16)?);
        let resolve = ResolveFlags::from_bits_retain(resolve);
        if resolve.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
            return Ok(Outcome::Pass);
        }
        if resolve.contains(ResolveFlags::NO_SYMLINKS) {
            // Which links there were is not to be seen in the path that the kernel gets.
            return Err(Errno::NOSYS.into());
        }
        let keep = flags & libc::O_NOFOLLOW != 0 || flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0;
        let links = if keep { Links::Keep } else { Links::Follow };
        let argument = call.paths[0].expect("it has one");
        let Some(found) = self.find(thread, registers, PathArgument { links, ..argument })? else {
            return Ok(Outcome::Pass);
        };
        let found = vec![(argument.path, found)];
        self.permitted(Some(flags), call, &found)?;
        self.change(thread, registers, found)
    }

    /// Refuses changes of an open file by a way that a read-only mount would refuse.
    fn guard_open(&self, thread: Thread, file: i32) -> io::Result<()> {
        let Ok(place) = readlinkat(CWD, open_place(thread, file), Vec::new()) else { return Ok(()) };
        let place = self.view.name(place.as_bytes()).map(|name| self.view.place(&name));
        if place.is_some_and(|place| self.view.is_readonly(&place)) { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    /// A call that is about an open file, or that the kernel refuses by itself.
    fn without_path(&mut self, thread: Thread, registers: &Registers, call: &Call) -> io::Result<Outcome> {
        let open = |flags: usize| registers.argument(flags) as i32 & libc::AT_EMPTY_PATH != 0;
        if call.number == libc::SYS_utimensat {
            self.guard_open(thread, registers.argument(0) as i32)?;
        }
        match call.does {
            _ if self.owner.is_none() && !self.bound_by_modes => Ok(Outcome::Pass),
            Does::Stat { buffer } if open(3) => {
                self.stat_open(thread, registers.argument(0) as i32, registers.argument(buffer))
            }
            Does::Statx if open(2) => {
                let mask = StatxFlags::from_bits_retain(registers.argument(3) as u32);
                let place = open_place(thread, registers.argument(0) as i32);
                let mut answer = statx(CWD, &place, AtFlags::empty(), mask).map_err(not_open)?;
                self.dress_more(&mut answer, &real_place(&place));
                thread.write(registers.argument(4), bytes_of(&answer))?;
                Ok(done(0))
            }
            _ => Ok(Outcome::Pass),
        }
    }

    /// Whose the step's own files are, as it is told.
    fn disown(&self, uid: &mut u32, gid: &mut u32) {
        if let Some((owner, group)) = self.owner {
            *uid = if *uid == owner { 0 } else { *uid };
            *gid = if *gid == group { 0 } else { *gid };
        }
    }

    /// A signal to one process, to a group of them, or to all there are: those of the step.
    fn signal(&mut self, thread: Thread, registers: &Registers, call: &Call) -> io::Result<Outcome> {
        let (target, signal) = (registers.argument(0) as i32, registers.argument(1) as i32);
        if target > 0 && !self.processes.tasks.contains_key(&target) {
            return Err(Errno::SRCH.into());
        }
        if target != -1 || call.number != libc::SYS_kill {
            return Ok(Outcome::Pass);
        }
        // Not who asks, nor the first of all, which the kernel spares in a namespace.
        let spared = [self.processes.tasks[&thread.0].group, self.first];
        let groups: BTreeSet<i32> = self.processes.tasks.values().map(|task| task.group).collect();
        for group in groups.into_iter().filter(|group| !spared.contains(group)) {
            Thread(group).signal(signal);
        }
        Ok(done(0))
    }

    /// Owner and mode of a file as the step is to see them.
    fn dress(&self, answer: &mut Stat, place: &Path) {
        self.disown(&mut answer.st_uid, &mut answer.st_gid);
        answer.st_mode = self.mode(answer.st_mode, place);
    }

    fn dress_more(&self, answer: &mut Statx, place: &Path) {
        self.disown(&mut answer.stx_uid, &mut answer.stx_gid);
        answer.stx_mode = self.mode(u32::from(answer.stx_mode), place) as u16;
    }

    fn mode(&self, mode: u32, place: &Path) -> u32 {
        let kind = FileType::from_raw_mode(mode);
        if !self.bound_by_modes || !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return mode;
        }
        mode & !0o7777 | locked::meant_at(place, mode & 0o7777, kind == FileType::Directory)
    }

    fn stat_open(&mut self, thread: Thread, file: i32, buffer: u64) -> io::Result<Outcome> {
        let place = open_place(thread, file);
        let mut answer = stat(&place).map_err(not_open)?;
        self.dress(&mut answer, &real_place(&place));
        thread.write(buffer, bytes_of(&answer))?;
        Ok(done(0))
    }

    fn working_directory(&mut self, thread: Thread, registers: &Registers) -> io::Result<Outcome> {
        let root = &self.processes.tasks[&thread.0].root;
        let base = self.base(thread, libc::AT_FDCWD)?.ok_or(Errno::NOENT)?;
        let name = below(&base.name, root).ok_or(Errno::NOENT)?;
        let mut text = if name.is_empty() { b"/".to_vec() } else { name.to_vec() };
        text.push(0);
        if text.len() > registers.argument(1) as usize {
            return Err(Errno::RANGE.into());
        }
        thread.write(registers.argument(0), &text)?;
        Ok(done(text.len()))
    }

    /// The address of a socket: only those in the file system are of interest.
    fn address(&mut self, thread: Thread, registers: &Registers, call: &Call, index: usize) -> io::Result<Outcome> {
        let (address, length) = (registers.argument(index), registers.argument(index + 1) as usize);
        if length <= FAMILY || length > FAMILY + SOCKET_PATH + 1 {
            return Ok(Outcome::Pass);
        }
        let mut bytes = vec![0; length];
        thread.read_all(address, &mut bytes)?;
        let (family, name) = bytes.split_at(FAMILY);
        if family != (libc::AF_UNIX as u16).to_ne_bytes() || name[0] == 0 {
            return Ok(Outcome::Pass);
        }
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let last = if call.number == libc::SYS_bind { Last::Keep } else { Last::Follow };
        let base =
            if name[0] == b'/' { Base::default() } else { self.base(thread, libc::AT_FDCWD)?.unwrap_or_default() };
        let found = self.walk(thread).to(&base.name, name, last)?;
        if last == Last::Keep && self.view.is_readonly(&found.place) {
            return Err(Errno::ROFS.into());
        }
        let mut place = found.place.path;
        if place.len() > SOCKET_PATH {
            let cut = place.iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
            let directory = openat(CWD, path(&place[..cut]), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            place = [self.sockets.hold(directory).as_bytes(), &place[cut..]].concat();
            if place.len() > SOCKET_PATH {
                return Err(Errno::NAMETOOLONG.into());
            }
        }
        let Some(slot) = self.slot(thread, SLOT)? else { return call_again(thread, registers) };
        let bytes = [family, &place, &[0]].concat();
        thread.write(slot.address, &bytes)?;
        let mut changed = *registers;
        changed.set_argument(index, slot.address);
        changed.set_argument(index + 1, bytes.len() as u64);
        Ok(Outcome::Changed(Box::new(changed), After::Restore(*registers, Vec::new())))
    }

    fn execute(&mut self, thread: Thread, registers: &Registers, call: &Call, index: usize) -> io::Result<Outcome> {
        let argument = call.paths[0].expect("it has one");
        let (asked, base, found) = match self.find(thread, registers, argument)? {
            Some(Looked { text, base, found, .. }) => (text, base, found),
            None => match self.open_program(thread, registers, call)? {
                Some(found) => (found.name.clone(), Vec::new(), found),
                None => return Ok(Outcome::Pass),
            },
        };
        let start = match program::start(&self.walk(thread), &base, found, asked.clone()) {
            Ok(start) => start,
            Err(Refusal::Errno(errno)) => return Err(errno.into()),
            Err(Refusal::Narrow) => {
                let name = String::from_utf8_lossy(&asked).into_owned();
                self.say(&format!(
                    "{name} is a 32-bit program: those need a place where chroot or namespaces are allowed"
                ));
                return Err(Errno::NOEXEC.into());
            }
        };
        let pointers =
            if start.arguments.is_empty() { Vec::new() } else { pointers(thread, registers.argument(index))? };
        let words = start.arguments.len() + pointers.len() + 1;
        let length =
            start.run.len() + start.arguments.iter().map(|text| text.len() + 1).sum::<usize>() + words * 8 + 16;
        let Some(slot) = self.slot(thread, length as u64)? else { return call_again(thread, registers) };
        let mut changed = *registers;
        changed.set_argument(argument.path, slot.address);
        let mut bytes = [start.run.as_slice(), &[0]].concat();
        if !start.arguments.is_empty() {
            let mut list = Vec::new();
            for text in &start.arguments {
                list.push(slot.address + bytes.len() as u64);
                bytes.extend_from_slice(text);
                bytes.push(0);
            }
            list.extend(pointers.iter().skip(1).copied().chain([0]));
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            changed.set_argument(index, slot.address + bytes.len() as u64);
            bytes.extend(list.iter().flat_map(|pointer| pointer.to_ne_bytes()));
        }
        thread.write(slot.address, &bytes)?;
        Ok(Outcome::Changed(Box::new(changed), After::Started(*registers, Box::new(start))))
    }

    /// The program that execveat(2) is given as an open file.
    fn open_program(&mut self, thread: Thread, registers: &Registers, call: &Call) -> io::Result<Option<Found>> {
        if call.number != libc::SYS_execveat || registers.argument(4) as i32 & libc::AT_EMPTY_PATH == 0 {
            return Ok(None);
        }
        let file = registers.argument(0) as i32;
        let place = readlinkat(CWD, open_place(thread, file), Vec::new()).map_err(not_open)?.into_bytes();
        if let Some(name) = self.view.name(&place)
            && !place.ends_with(b" (deleted)")
        {
            return Ok(Some(Found { place: self.view.place(&name), name, text: None }));
        }
        // In memory only. It closes with the old program, so we hold it for the new one.
        let held =
            openat(CWD, open_place(thread, file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(not_open)?;
        let held = self.sockets.hold(held).into_bytes();
        let place = super::view::Place { path: held, mount: None, is_mount: false };
        Ok(Some(Found { name: format!("/dev/fd/{file}").into_bytes(), place, text: None }))
    }

    fn walk(&self, thread: Thread) -> Walk<'_> {
        let root = self.processes.tasks.get(&thread.0).map_or(b"".as_slice(), |task| &task.root);
        Walk { view: &self.view, processes: &self.processes, thread: thread.0, root }
    }

    /// Where one path of a call leads; `None` if it has none.
    fn find(&self, thread: Thread, registers: &Registers, argument: PathArgument) -> io::Result<Option<Looked>> {
        let address = registers.argument(argument.path);
        if address == 0 {
            return Ok(None);
        }
        let text = thread.read_path(address)?;
        if text.is_empty() {
            return Ok(None);
        }
        let base = if text[0] == b'/' {
            Base::default()
        } else {
            let directory = argument.directory.map_or(libc::AT_FDCWD, |index| registers.argument(index) as i32);
            match self.base(thread, directory)? {
                Some(base) => base,
                None => return Ok(None),
            }
        };
        let found = self.walk(thread).to(&base.name, &text, last(argument.links, registers))?;
        if found.place.path.len() >= thread::PATH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let same = text[0] == b'/' && text == found.place.path
            || found.place.path.strip_prefix(base.place.as_slice()).and_then(|rest| rest.strip_prefix(b"/"))
                == Some(text.as_slice())
                && !base.place.is_empty();
        Ok(Some(Looked { text, base: base.name, found, same }))
    }

    /// The directory that relative paths start from; `None` if it is none.
    fn base(&self, thread: Thread, directory: i32) -> io::Result<Option<Base>> {
        let place = match readlinkat(CWD, open_place(thread, directory), Vec::new()) {
            Ok(place) => place.into_bytes(),
            Err(_) => return Ok(None),
        };
        if !place.starts_with(b"/") {
            return Ok(None);
        }
        if place.ends_with(b" (deleted)") && stat(path(&place)).is_err() {
            return Err(Errno::NOENT.into());
        }
        let name = self.view.name(&place).ok_or(Errno::ACCESS)?;
        Ok(Some(Base { name, place }))
    }

    /// Has the kernel do the call with the paths that were found.
    fn change(&mut self, thread: Thread, registers: &Registers, found: Vec<(usize, Looked)>) -> io::Result<Outcome> {
        if found.iter().all(|(_, looked)| looked.same) {
            if !self.bound_by_modes {
                return Ok(Outcome::Pass);
            }
            let places = found.into_iter().map(|(_, looked)| looked.found.place.path).collect();
            return Ok(Outcome::Changed(Box::new(*registers), After::Restore(*registers, places)));
        }
        let Some(slot) = self.slot(thread, SLOT)? else { return call_again(thread, registers) };
        let (mut bytes, mut changed, mut places) = (Vec::new(), *registers, Vec::new());
        for (index, looked) in found.into_iter().filter(|(_, looked)| !looked.same) {
            changed.set_argument(index, slot.address + bytes.len() as u64);
            bytes.extend_from_slice(&looked.found.place.path);
            bytes.push(0);
            places.push(looked.found.place.path);
        }
        thread.write(slot.address, &bytes)?;
        Ok(Outcome::Changed(Box::new(changed), After::Restore(*registers, places)))
    }

    /// Memory of ours in the thread's process; `None` if it had to make some, so that its own call is still to be made.
    fn slot(&mut self, thread: Thread, length: u64) -> io::Result<Option<Slot>> {
        let task = self.processes.tasks.get_mut(&thread.0).ok_or(Errno::SRCH)?;
        if let Some(slot) = task.slot(length) {
            return Ok(Some(slot));
        }
        let length = length.next_multiple_of(SLOT);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let arguments = [0, length, protection as u64, flags as u64, u64::MAX, 0];
        let address = thread.call(thread::Start::Before, libc::SYS_mmap, &arguments)?;
        if (-4095..0).contains(&address) {
            return Err(io::Error::from_raw_os_error(-address as i32));
        }
        task.space.borrow_mut().free.push(Slot { address: address as u64, length });
        Ok(None)
    }
}

/// A path of a call and where it leads.
#[derive(Debug)]
struct Looked {
    text: Vec<u8>,
    /// What relative ones start from.
    base: Vec<u8>,
    found: Found,
    /// The kernel finds the same place by itself.
    same: bool,
}

/// A directory that a path starts from.
#[derive(Debug, Default)]
struct Base {
    name: Vec<u8>,
    place: Vec<u8>,
}

/// Has a thread make its call once more, after it has made another one for us.
fn call_again(thread: Thread, before: &Registers) -> io::Result<Outcome> {
    Ok(Outcome::Again(again(&thread.registers()?, before)))
}

/// The registers by which a thread that has ended a call makes the one that it wanted `before`.
pub(super) fn again(now: &Registers, before: &Registers) -> Registers {
    let mut registers = *before;
    registers.set_at(instruction_before(now));
    registers.call(before.number());
    registers
}

/// The pointers of a list that ends with a null.
fn pointers(thread: Thread, mut address: u64) -> io::Result<Vec<u64>> {
    let mut list = Vec::new();
    while address != 0 {
        match thread.read_word(address)? {
            0 => break,
            pointer => list.push(pointer),
        }
        address += 8;
    }
    Ok(list)
}

/// Where an open file of a thread, or its working directory, is in /proc.
fn open_place(thread: Thread, file: i32) -> String {
    if file == libc::AT_FDCWD { format!("/proc/{}/cwd", thread.0) } else { format!("/proc/{}/fd/{file}", thread.0) }
}

/// Where an open file is by its name.
fn real_place(place: &str) -> PathBuf {
    readlinkat(CWD, place, Vec::new()).map(|text| path(text.as_bytes())).unwrap_or_default()
}

#[cfg(target_arch = "x86_64")]
fn is_chmod(number: i64) -> bool {
    number == libc::SYS_chmod
}
#[cfg(not(target_arch = "x86_64"))]
fn is_chmod(_number: i64) -> bool {
    false
}

fn not_open(errno: Errno) -> Errno {
    if errno == Errno::NOENT { Errno::BADF } else { errno }
}

fn last(links: Links, registers: &Registers) -> Last {
    let has = |index: usize, flag: i32| registers.argument(index) as i32 & flag != 0;
    let keep = match links {
        Links::Follow => false,
        Links::Keep => true,
        Links::KeepIf(index) => has(index, libc::AT_SYMLINK_NOFOLLOW),
        Links::FollowIf(index) => !has(index, libc::AT_SYMLINK_FOLLOW),
        Links::Open(index) => has(index, libc::O_NOFOLLOW) || has(index, libc::O_CREAT) && has(index, libc::O_EXCL),
        Links::Watch(index) => has(index, libc::IN_DONT_FOLLOW as i32),
    };
    if keep { Last::Keep } else { Last::Follow }
}

/// Flags for a question that we ask: a link that was to be followed has been.
fn at_flags(call: &Call, registers: &Registers) -> AtFlags {
    match call.paths[0].map(|argument| argument.links) {
        Some(Links::KeepIf(index)) => {
            AtFlags::from_bits_retain(registers.argument(index) as u32).difference(AtFlags::EMPTY_PATH)
        }
        Some(Links::Keep) => AtFlags::SYMLINK_NOFOLLOW,
        _ => AtFlags::empty(),
    }
}
