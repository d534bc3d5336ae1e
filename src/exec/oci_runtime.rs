//! The second executor: an OCI runtime (crun, runc, …) makes each step's container, `--oci-runtime`.
//!
//! It is started by our own sandbox in a step's namespaces (`step::contained`), so that limits, cancelling, output and the end
//! of everything with rbuild are the same code. Here is what differs between runtimes: the options they want.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::host::{Host, HostCommand};
use super::step::Runtime;
use super::{ExecError, Executor, Exit, Output, Process, Root, Sandbox};
use crate::cancel::Cancel;

/// Names of runtimes that are looked for when nobody names one.
pub const KNOWN: [&str; 4] = ["crun", "runc", "youki", "runsc"];

/// Runs steps by way of a runtime.
#[derive(Debug)]
pub(crate) struct OciRuntime {
    sandbox: Arc<Sandbox>,
    host: Arc<Host>,
    program: PathBuf,
    runtime: OnceLock<Result<Runtime, String>>,
}

impl OciRuntime {
    /// With this `program`, which is asked what it is when the first step runs.
    pub(crate) fn new(sandbox: Arc<Sandbox>, host: Arc<Host>, program: PathBuf) -> Self {
        Self { sandbox, host, program, runtime: OnceLock::new() }
    }

    fn runtime(&self) -> Result<&Runtime, ExecError> {
        let found = self.runtime.get_or_init(|| {
            let version = version(&self.host, &self.program)?;
            Ok(Runtime { program: self.program.clone(), options: options(&version) })
        });
        found.as_ref().map_err(|why| ExecError::Setup(why.clone()))
    }
}

impl Executor for OciRuntime {
    fn run(&self, root: &Root, process: &Process, output: Output<'_>, cancel: &Cancel) -> Result<Exit, ExecError> {
        cancel.check()?;
        self.sandbox.run_by(Some(self.runtime()?), root, process, output, cancel)
    }
}

/// What a runtime calls itself: the first line of `--version`, such as `crun version 1.8.1`.
pub fn version(host: &Host, program: &Path) -> Result<String, String> {
    let command = HostCommand { argv: vec![program.into(), "--version".into()], ..HostCommand::default() };
    let said = |why: &str| format!("{} --version: {why}", program.display());
    let output = host.run(&command, &Cancel::new()).map_err(|error| said(&error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.code == 0 => Ok(line.trim().to_owned()),
        _ => Err(said(&format!("exit code {}: {}", output.code, String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

/// Options by which a runtime makes no control groups: the step is in its own, if it is to be in one.
fn options(version: &str) -> Vec<String> {
    let option = match version.split_whitespace().next() {
        Some("crun") => "--cgroup-manager=disabled",
        // Then it does without those that it cannot make, and it finds none that it can.
        Some("runc") => "--rootless=true",
        _ => return Vec::new(),
    };
    vec![option.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_told_apart_by_what_they_say() {
        let check = |version: &str, expected: &[&str]| assert_eq!(options(version), expected);
        check("crun version 1.8.1", &["--cgroup-manager=disabled"]);
        check("runc version 1.1.5+ds1", &["--rootless=true"]);
        check("youki version 0.5.0", &[]);
        check("", &[]);
    }

    #[test]
    fn what_is_no_runtime_is_said() {
        let check = |program: &str, expected: &str| {
            let why = version(&Host::here(), Path::new(program)).expect_err("is none");
            assert!(why.starts_with(expected), "{why}");
        };
        check("/does/not/exist", "/does/not/exist --version: No such file");
        check("/bin/false", "/bin/false --version: exit code 1");
    }
}
