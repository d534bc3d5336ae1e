//! The processes of a step, and what those links of /proc say that are no links: /proc/PID/exe, cwd, root and fd/N.
//!
//! A step sees its own processes only: what the others hold (rbuild and its credentials, among them) is none of its business,
//! so to a step their directories in /proc are not there.

use std::collections::BTreeMap;
use std::fmt::Write;

use rustix::fs::{CWD, readlinkat};
use rustix::io::Errno;

use super::task::Task;
use super::view::below;

/// A link of /proc, or any other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProcLink {
    /// One like any other: its text is walked.
    Text(Vec<u8>),
    /// A root directory: the step's.
    Root,
    /// The program that a process runs, as the step calls it; `None`: none of the step's.
    Program(Option<Vec<u8>>),
    /// A working directory, by its place.
    Directory(Vec<u8>),
    /// An open file, by what the kernel says of it.
    Descriptor(Vec<u8>),
}

/// All threads of a step by their numbers.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// They.
    pub(super) tasks: BTreeMap<i32, Task>,
}

impl Processes {
    /// What is at `place`, if that is in /proc and something special. `ENOENT` for processes of others.
    pub(super) fn link(&self, place: &[u8], thread: i32) -> Result<Option<ProcLink>, Errno> {
        let Some(rest) = below(place, b"/proc").and_then(|rest| rest.strip_prefix(b"/")) else { return Ok(None) };
        let mut parts = rest.split(|byte| *byte == b'/');
        let first = parts.next().unwrap_or_default();
        let group = self.tasks.get(&thread).map_or(thread, |task| task.group);
        match first {
            b"self" if rest.len() == first.len() => return Ok(Some(ProcLink::Text(group.to_string().into_bytes()))),
            b"thread-self" if rest.len() == first.len() => {
                let mut text = String::new();
                let _infallible = write!(text, "{group}/task/{thread}");
                return Ok(Some(ProcLink::Text(text.into_bytes())));
            }
            _ => {}
        }
        let Some(mut number) = number(first) else { return Ok(None) };
        let mut part = parts.next();
        if part == Some(b"task") {
            match parts.next() {
                Some(thread) => number = self::number(thread).ok_or(Errno::NOENT)?,
                None => part = None,
            }
            if part.is_some() {
                part = parts.next();
            }
        }
        let task = self.tasks.get(&number).ok_or(Errno::NOENT)?;
        let text = || Ok(readlinkat(CWD, super::view::path(place), Vec::new())?.into_bytes());
        Ok(match (part, parts.next(), parts.next()) {
            (Some(b"exe"), None, _) => Some(ProcLink::Program(task.program.clone())),
            (Some(b"root"), None, _) => Some(ProcLink::Root),
            (Some(b"cwd"), None, _) => Some(ProcLink::Directory(text()?)),
            (Some(b"fd"), Some(_), None) => Some(ProcLink::Descriptor(text()?)),
            _ => None,
        })
    }
}

fn number(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
