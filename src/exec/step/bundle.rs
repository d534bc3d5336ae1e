//! A bundle and what belongs to it: config.json, the runtime's state and its log; how a runtime is started and what it says.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::staging::Staging;
use super::{During, Fault, Runtime, kernel};
use crate::exec::Process;

/// What the container is called. Nobody else sees its runtime's state.
const ID: &str = "step";

/// All that a runtime needs of the environment.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories on the step's tmpfs.
#[derive(Debug)]
pub(super) struct Bundle {
    directory: PathBuf,
    state: PathBuf,
    log: PathBuf,
    pid: PathBuf,
}

/// What a runtime is to do. In two steps, so that it need not stay to wait, and that the container can be looked over between.
#[derive(Debug)]
pub(super) enum Verb<'a> {
    /// Make the container; its terminal, if it is to have one, goes to this socket.
    Create {
        /// The socket.
        console: Option<&'a Path>,
    },
    /// Start the program in it.
    Start,
}

impl Bundle {
    /// Makes one with this config.json.
    pub(super) fn write(staging: &mut Staging, config: &Value) -> Result<Self, Fault> {
        let directory = staging.directory()?;
        let directory = staging.path(&directory.name);
        let state = staging.directory()?;
        let state = staging.path(&state.name);
        let bundle = Self { log: directory.join("log"), pid: directory.join("pid"), directory, state };
        std::fs::write(bundle.directory.join("config.json"), config.to_string()).during("write config.json")?;
        Ok(bundle)
    }

    /// Becomes the runtime.
    pub(super) fn become_runtime(&self, runtime: &Runtime, verb: &Verb<'_>) -> Result<std::convert::Infallible, Fault> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let program = text(&runtime.program);
        let mut argv = vec![program.clone()];
        argv.extend_from_slice(&runtime.options);
        let more = ["--root", &text(&self.state), "--log", &text(&self.log), "--log-format", "json"];
        argv.extend(more.map(str::to_owned));
        match verb {
            Verb::Create { console } => {
                argv.extend(["create", "--bundle", &text(&self.directory)].map(str::to_owned));
                argv.extend(["--pid-file", &text(&self.pid)].map(str::to_owned));
                argv.extend(console.iter().flat_map(|path| ["--console-socket".to_owned(), text(path)]));
            }
            Verb::Start => argv.push("start".to_owned()),
        }
        argv.push(ID.to_owned());
        let env = vec![PATH.to_owned(), "HOME=/".to_owned(), format!("XDG_RUNTIME_DIR={}", text(&self.state))];
        let strings = |texts: Vec<String>| -> Result<Vec<CString>, Fault> {
            texts.into_iter().map(|text| CString::new(text).during("a zero byte in a path")).collect()
        };
        rustix::process::chdir("/").during("chdir to /")?;
        let (argv, env) = (strings(argv)?, strings(env)?);
        let error = kernel::execute(&argv[0], &argv, &env);
        Err(Fault::Setup(format!("exec {program}: {error}")))
    }

    /// The container's first process, which has become ours.
    pub(super) fn container(&self) -> Result<(Pid, OwnedFd), Fault> {
        let text = std::fs::read_to_string(&self.pid).during("read the container's process number")?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Fault::Setup(format!("the runtime made a container of process {text:?}")))?;
        Ok((pid, pidfd_open(pid, PidfdFlags::empty()).during("open the container's process")?))
    }

    /// What the runtime says went wrong, if it was not the step's program.
    pub(super) fn fault(&self, runtime: &Runtime, process: &Process) -> Option<Fault> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let name = process.argv.first().map_or("", String::as_str);
        let program = runtime.program.file_name().unwrap_or_default().to_string_lossy();
        last_error(&log).map(|message| translated(&message, name, &program))
    }
}

/// The last message of that level.
fn last_error(log: &str) -> Option<String> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = lines.filter(|line| line["level"] == "error" || line["level"] == "fatal");
    errors.find_map(|line| line["msg"].as_str().map(str::to_owned))
}

/// A runtime's words about the program as runc's, which is what our own sandbox says; everything else is its own trouble.
fn translated(message: &str, name: &str, program: &str) -> Fault {
    let message = message.trim();
    let after = |text: &str| message.find(text).map(|at| message[at..].to_owned());
    // runc: "unable to start container process: exec: …"
    if let Some(text) = after("exec: \"").or_else(|| after("exec /")) {
        return Fault::NotExecutable(text);
    }
    let cause = message.rsplit(": ").next().unwrap_or_default().to_lowercase();
    // crun: "executable file `x` not found in $PATH: No such file or directory", "open executable: Permission denied"
    let not_found = message.starts_with("executable file") || message.starts_with("open executable");
    if not_found && (cause == "no such file or directory" || name.is_empty()) {
        return Fault::NotExecutable(if name.contains('/') {
            format!("exec: {name:?}: stat {name}: {cause}")
        } else {
            format!("exec: {name:?}: executable file not found in $PATH")
        });
    }
    if not_found {
        return Fault::NotExecutable(format!("exec: {name:?}: {cause}"));
    }
    if message.starts_with("exec container process") {
        return Fault::NotExecutable(format!("exec {name}: {cause}"));
    }
    Fault::Setup(format!("{program}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_cannot_be_started_are_told_in_one_way() {
        let check = |message: &str, name: &str, expected: &str| {
            let Fault::NotExecutable(text) = translated(message, name, "x") else { panic!("{message}") };
            assert_eq!(text, expected);
        };
        let runc =
            "runc run failed: unable to start container process: exec: \"a\": executable file not found in $PATH";
        check(runc, "a", "exec: \"a\": executable file not found in $PATH");
        let crun = "executable file `a` not found in $PATH: No such file or directory";
        check(crun, "a", "exec: \"a\": executable file not found in $PATH");
        let crun = "executable file `/a` not found: No such file or directory";
        check(crun, "/a", "exec: \"/a\": stat /a: no such file or directory");
        check("open executable: Permission denied", "/a", "exec: \"/a\": permission denied");
        check("open executable: Operation not permitted", "", "exec: \"\": executable file not found in $PATH");
        let runc = "runc run failed: unable to start container process: exec /a: exec format error";
        check(runc, "/a", "exec /a: exec format error");
        check("exec container process `/a`: Exec format error", "/a", "exec /a: exec format error");
    }

    #[test]
    fn other_trouble_is_the_runtimes() {
        let log = "{\"msg\":\"old\",\"level\":\"error\"}\n{\"level\":\"error\",\"msg\":\"mount `proc`: no\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\n";
        let message = last_error(log).expect("has one");
        let Fault::Setup(text) = translated(&message, "a", "crun") else { panic!("{message}") };
        assert_eq!(text, "crun: mount `proc`: no");
        assert_eq!(last_error("{\"level\":\"info\",\"msg\":\"fine\"}\nnot json\n"), None);
    }
}
