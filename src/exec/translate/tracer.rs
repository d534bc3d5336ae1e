//! Watches all threads of a step: hears of each that begins and ends, and has `answer` look at the calls they stop at.
//!
//! One thread, one loop, and nothing that waits for anything but the step. When it ends, so does the step: the kernel kills
//! what is traced by nobody any more.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use super::super::step::Report;
use super::answer::{Outcome, Sockets, again};
use super::processes::Processes;
use super::task::{After, Task};
use super::thread::{Stop, Thread, Until, wait};
use super::view::{View, path};
use super::{calls, load, may_pass_over_modes};
use crate::layers::locked;

/// The watcher of a step.
#[derive(Debug)]
pub(super) struct Tracer {
    /// What the step sees.
    pub(super) view: View,
    /// Its first process, once there is one.
    pub(super) first: i32,
    /// Its threads.
    pub(super) processes: Processes,
    /// User and group that the step takes for root's, where it is not root.
    pub(super) owner: Option<(u32, u32)>,
    /// Whether modes of files bind us, where they would not bind root.
    pub(super) bound_by_modes: bool,
    /// What the step writes its errors to.
    pub(super) stderr: Option<OwnedFd>,
    /// Directories held open for sockets.
    pub(super) sockets: Sockets,
    /// Threads heard of before those that made them told.
    early: BTreeMap<i32, Early>,
}

/// What became of a thread that nobody has told of yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    Waits,
    Ended,
}

impl Tracer {
    /// A watcher of nobody yet.
    pub(super) fn new(view: View, owner: Option<(u32, u32)>, stderr: Option<OwnedFd>) -> Self {
        Self {
            view,
            first: 0,
            processes: Processes::default(),
            owner,
            bound_by_modes: !may_pass_over_modes(),
            stderr,
            sockets: Sockets::default(),
            early: BTreeMap::new(),
        }
    }

    /// Watches until `first` has ended; gives how.
    pub(super) fn watch(&mut self, first: Thread) -> io::Result<Report> {
        self.first = first.0;
        self.processes.tasks.insert(first.0, Task::first(first.0));
        loop {
            let (thread, stop) = wait(None)?;
            if let (Stop::Ended { code, signal }, true) = (stop, thread == first) {
                return Ok(Report::Ended { code, signal });
            }
            match self.at(thread, stop) {
                // It was killed meanwhile; its end is still to be heard of.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                result => result?,
            }
        }
    }

    fn at(&mut self, thread: Thread, stop: Stop) -> io::Result<()> {
        if !self.processes.tasks.contains_key(&thread.0) {
            let early = if matches!(stop, Stop::Ended { .. }) { Early::Ended } else { Early::Waits };
            self.early.insert(thread.0, early);
            return Ok(());
        }
        match stop {
            Stop::Ended { .. } => {
                if let Some(mut task) = self.processes.tasks.remove(&thread.0) {
                    task.give_back();
                    self.adopt(&task);
                }
                Ok(())
            }
            Stop::Call => self.call_ended(thread),
            Stop::Signal(signal) => self.resume(thread, signal),
            Stop::Event { event: libc::PTRACE_EVENT_SECCOMP, .. } => self.call_begins(thread),
            Stop::Event { event: libc::PTRACE_EVENT_EXEC, .. } => self.started(thread),
            Stop::Event { event: libc::PTRACE_EVENT_STOP, signal } => match signal {
                libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => thread.stay_stopped(),
                _ => self.resume(thread, 0),
            },
            Stop::Event {
                event: libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
                ..
            } => self.made_another(thread),
            Stop::Event { .. } => self.resume(thread, 0),
        }
    }

    fn task(&mut self, thread: Thread) -> &mut Task {
        self.processes.tasks.get_mut(&thread.0).expect("known: looked up before")
    }

    fn resume(&mut self, thread: Thread, signal: i32) -> io::Result<()> {
        let until = if self.task(thread).after.is_some() { Until::CallEnds } else { Until::Event };
        thread.resume(until, signal)
    }

    fn made_another(&mut self, thread: Thread) -> io::Result<()> {
        let number = thread.message()?;
        let flags = flags_of_clone(thread)?;
        if self.early.get(&number) != Some(&Early::Ended) {
            let group = if flags & libc::CLONE_THREAD as u64 == 0 { number } else { self.task(thread).group };
            let child = self.task(thread).child(group, flags & libc::CLONE_VM as u64 != 0);
            self.processes.tasks.insert(number, child);
        }
        if self.early.remove(&number) == Some(Early::Waits) {
            // It may have been killed.
            let _gone = Thread(number).resume(Until::Event, 0);
        }
        self.resume(thread, 0)
    }

    /// Lets those go on that nobody will tell of, because `parent` was killed before it could.
    fn adopt(&mut self, parent: &Task) {
        let told_of = |number: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            let above = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            above.is_some_and(|above: i32| self.processes.tasks.values().any(|task| task.group == above))
        };
        let waiting = self.early.iter().filter(|(_, early)| **early == Early::Waits).map(|(number, _)| *number);
        for number in waiting.filter(|number| !told_of(*number)).collect::<Vec<_>>() {
            self.early.remove(&number);
            self.processes.tasks.insert(number, Task { slot: None, ..parent.child(number, false) });
            let _gone = Thread(number).resume(Until::Event, 0);
        }
    }

    /// Execve(2) has gone well: whoever made the call has its process's number now, and its siblings are gone.
    fn started(&mut self, thread: Thread) -> io::Result<()> {
        let former = thread.message()?;
        let Some(mut task) = self.processes.tasks.remove(&former) else { return thread.resume(Until::Event, 0) };
        self.processes.tasks.retain(|number, other| {
            let sibling = *number == thread.0 || other.group == task.group;
            if sibling {
                other.give_back();
            }
            !sibling
        });
        let after = task.after.take();
        task.restarted();
        let result = match after {
            Some(After::Started(_, start)) => {
                let finished = thread.finish_call().and_then(|()| load::finish(thread, &start));
                task.program = Some(start.name);
                match finished {
                    Ok(slot) => {
                        task.slot = slot;
                        Ok(())
                    }
                    Err(error) => Err((error, start.asked)),
                }
            }
            // A program that was not looked at: nothing of it is known.
            Some(After::Restore(..)) | None => Ok(()),
        };
        self.processes.tasks.insert(thread.0, task);
        if let Err((error, name)) = result {
            if error.raw_os_error() != Some(libc::ESRCH) {
                self.say(&format!("start {}: {error}", String::from_utf8_lossy(&name)));
                thread.kill();
            }
            return Err(error);
        }
        self.resume(thread, 0)
    }

    fn call_begins(&mut self, thread: Thread) -> io::Result<()> {
        let mut registers = thread.registers()?;
        let Some(call) = calls::find(registers.number()) else { return self.resume(thread, 0) };
        let outcome = self
            .answer(thread, &registers, call)
            .unwrap_or_else(|error| Outcome::Answered(-i64::from(error.raw_os_error().unwrap_or(libc::EIO))));
        match outcome {
            Outcome::Pass => {}
            Outcome::Answered(result) => {
                registers.set_number(-1);
                registers.set_result(result);
                thread.set_registers(&registers)?;
            }
            Outcome::Changed(changed, after) => {
                thread.set_registers(&changed)?;
                self.task(thread).after = Some(after);
            }
            Outcome::Again(changed) => thread.set_registers(&changed)?,
        }
        self.resume(thread, 0)
    }

    /// Gives back the arguments of a call, which compilers rely on.
    fn call_ended(&mut self, thread: Thread) -> io::Result<()> {
        let (before, places) = match self.task(thread).after.take() {
            Some(After::Restore(before, places)) => (before, places),
            Some(After::Started(before, _)) => (before, Vec::new()),
            None => return self.resume(thread, 0),
        };
        let mut registers = thread.registers()?;
        let refused = registers.result() == -i64::from(libc::EACCES);
        // All of them, not only up to the first.
        let unlocked = refused && places.iter().filter(|place| self.unlock(place)).count() > 0;
        if unlocked {
            // Root would not have been refused.
            registers = again(&registers, &before);
        } else {
            registers.restore(&before);
        }
        thread.set_registers(&registers)?;
        self.resume(thread, 0)
    }

    /// Unlocks what lies on the way to a place that root would get at; says whether there was anything.
    pub(super) fn unlock(&self, place: &[u8]) -> bool {
        let slashes = place.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let unlock = |part: &[u8]| match self.view.name(part) {
            Some(name) => !self.view.is_readonly(&self.view.place(&name)) && locked::unlock(&path(part)),
            None => false,
        };
        self.bound_by_modes && slashes.chain([place.len()]).filter(|end| unlock(&place[..*end])).count() > 0
    }

    /// Says something where the step says what goes wrong.
    pub(super) fn say(&self, text: &str) {
        if let Some(stderr) = &self.stderr {
            let _full = rustix::io::write(stderr, format!("rbuild: {text}\n").as_bytes());
        }
    }
}

/// The flags by which a thread has just made another one.
fn flags_of_clone(thread: Thread) -> io::Result<u64> {
    let registers = thread.registers()?;
    match registers.number() {
        libc::SYS_clone => Ok(registers.argument(0)),
        libc::SYS_clone3 => thread.read_word(registers.argument(0)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => Ok(libc::CLONE_VM as u64),
        _ => Ok(0),
    }
}
