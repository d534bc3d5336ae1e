//! A RUN that failed, kept as it was, so that somebody may look around in it.

use rbuild_cache::{LockGuard, TempDir};

use crate::cancel::Cancel;
use crate::exec::{ExecError, Executor, Exit, Process, Root, Stdio};

/// The root as the step left it, what was mounted there, and the process that failed. Locks of cache mounts are held.
#[derive(Debug)]
pub struct FailedRun {
    pub(super) root: Root,
    pub(super) process: Process,
    pub(super) _scratch: TempDir,
    pub(super) _locks: Vec<LockGuard>,
}

impl FailedRun {
    /// The process that failed.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Runs a shell in its place, with our own streams; `term` is the name of the terminal's kind, if it is one.
    pub fn shell(&self, executor: &dyn Executor, term: Option<&str>, cancel: &Cancel) -> Result<Exit, ExecError> {
        let mut process = Process { argv: vec![self.program()], stdio: Stdio::Inherited, ..self.process.clone() };
        if let Some(term) = term.filter(|_| !process.env.iter().any(|(name, _)| name == "TERM")) {
            process.env.push(("TERM".to_owned(), term.to_owned()));
        }
        executor.run(&self.root, &process, &mut |_, _| {}, cancel)
    }

    /// The step's own shell if it had one, else the usual one.
    pub fn program(&self) -> String {
        let own = self.process.argv.first().map_or("", String::as_str);
        let name = own.rsplit('/').next().unwrap_or_default();
        if ["sh", "bash", "dash", "ash", "zsh", "ksh", "fish"].contains(&name) {
            own.to_owned()
        } else {
            "/bin/sh".to_owned()
        }
    }
}
