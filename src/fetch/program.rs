//! Programs of the host that fetching needs: git, and what git starts.
//!
//! They run as the user really is, outside of any user namespace of ours, so this module only says what to run; whoever owns
//! the host process runs it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::Cancel;

/// A program to be run.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// argv; the first is looked up in PATH.
    pub argv: Vec<OsString>,
    /// Variables to set. Secrets go here and never into `argv`, which every user of the machine can see.
    pub env: Vec<(OsString, OsString)>,
    /// Variables it must not inherit.
    pub unset: Vec<OsString>,
    /// Working directory.
    pub cwd: PathBuf,
    /// What it reads.
    pub stdin: Vec<u8>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// Exit code; 128 + signal when killed by one.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

/// Runs a program to its end, or until cancelled.
pub type Runner = Arc<dyn Fn(&Program, &Cancel) -> io::Result<Ended> + Send + Sync>;
