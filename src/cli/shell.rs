//! Shells to look around in: where a step failed (`--on-error=shell`), in an image, or where a step of an earlier build ended.
//!
//! On a terminal the shell has one of its own; otherwise it reads its commands from stdin, as shells do.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use super::args_build::{BuildArgs, SourceArgs};
use super::args_run::{RunArgs, ShellArgs};
use super::env::Env;
use super::request::{BuildRequest, StoreRequest, pairs_with_env};
use super::run::{DEFAULT_PATH, account, all_here, launch};
use super::terminal::Terminal;
use super::world::{Opened, enter};
use super::{Done, Failure, build, run, shell_mounts};
use crate::engine::failed::FailedRun;
use crate::exec::{ExecError, Process, Stdio};
use crate::layers::View;
use crate::pipeline::notes::{self, BuildNote, ProcessNote};
use crate::plan::graph::HOSTNAME;
use crate::transfer::users::ProcessUser;

/// The shell where there is no other.
const SHELL: &str = "/bin/sh";
/// What the last build is called.
const LAST: &str = "last";

/// What a shell is wanted in.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Image(&'a str),
    LastBuild(Option<u32>),
    BuildOf(&'a str, Option<u32>),
}

impl<'a> Target<'a> {
    /// `last` and paths, which begin with `.` or `/`, are builds; everything else is an image.
    fn parse(text: &'a str) -> Self {
        let (name, line) = match text.rsplit_once(':') {
            Some((name, line)) if line.parse::<u32>().is_ok() => (name, line.parse().ok()),
            Some(_) | None => (text, None),
        };
        match name {
            LAST => Self::LastBuild(line),
            path if path.starts_with(['.', '/']) => Self::BuildOf(path, line),
            _ => Self::Image(text),
        }
    }
}

/// `rbuild shell`
pub(super) fn shell(args: &ShellArgs, env: &Env, place: &StoreRequest) -> Done {
    let (project, line) = match Target::parse(&args.target) {
        Target::Image(image) => {
            let (image, entrypoint) = (image.to_owned(), Some(SHELL.to_owned()));
            let args = RunArgs { image, entrypoint, interactive: true, tty: on_terminal(), ..RunArgs::default() };
            return run::run(&args, env, place);
        }
        Target::LastBuild(line) => (None, line),
        Target::BuildOf(context, line) => {
            let source = SourceArgs { context: context.to_owned(), file: args.file.clone(), ..SourceArgs::default() };
            let request = BuildRequest::new(&BuildArgs::from(source), env)?;
            (Some(build::project(&request)), line)
        }
    };
    let opened = Opened::new(enter(true)?, place)?;
    let note = notes::read(&opened.store, project.as_deref()).map_err(|e| Failure::of(&e))?;
    let Some(note) = note else {
        let what = if project.is_some() { "of this Dockerfile and context" } else { "" };
        return Err(Failure::text(format!("no build {what} is known in the store {}", place.root.display())));
    };
    let given = pairs_with_env(&args.build_arg, env)?;
    at_step(&note, line, given, env, &opened)
}

fn at_step(note: &BuildNote, line: Option<u32>, given: BTreeMap<String, String>, env: &Env, opened: &Opened) -> Done {
    let Some(at) = note.step(line) else { return Err(no_step(note, line)) };
    let step = &note.steps[at];
    let ids = note.layers(at);
    if !all_here(opened, &ids).map_err(|e| Failure::of(&e))? {
        let text =
            format!("the files of {} are not in the store (any more): build again, or pull its base image", step.name);
        return Err(Failure::text(text));
    }
    let mut noted = note.process(at);
    if let Some(name) = given.keys().find(|name| !noted.untold.contains(name)) {
        return Err(Failure::text(format!("{} was not given a build argument {name}", step.name)));
    }
    noted.untold.retain(|name| !given.contains_key(name));
    noted.env.extend(given);
    let view = View::new(&opened.layers, &ids).map_err(|e| Failure::of(&e).named(&step.name))?;
    let account = account(&view, &noted.user)?;
    let when = if step.done { "after" } else { "before" };
    let untold = match noted.untold.as_slice() {
        [] => String::new(),
        names => format!("; values of --build-arg are not kept, give them again: {}", names.join(", ")),
    };
    let mut mounts = shell_mounts::again(note, &noted, opened)?;
    let missing = match mounts.missing.as_slice() {
        [] => String::new(),
        missing => format!("; not mounted: {}", missing.join(", ")),
    };
    say(&format!("shell {when} {} (line {}){untold}{missing}\n", step.name, step.lines.0))?;
    let mut process = process(&noted, &account, env.filled("TERM"));
    process.mounts = std::mem::take(&mut mounts.list);
    match launch(opened, &ids, &step.name, &process, true, on_terminal())? {
        Ok(exit) => Ok(ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX))),
        Err(ExecError::Cancelled(_)) => Ok(ExitCode::from(run::INTERRUPTED)),
        Err(error @ ExecError::NotExecutable(_)) => {
            Err(Failure::of(&error).named(&format!("no shell after {}", step.name)))
        }
        Err(error @ (ExecError::Refused(_) | ExecError::Setup(_) | ExecError::Launcher(_))) => {
            Err(Failure::of(&error).named("set up the sandbox"))
        }
    }
}

fn no_step(note: &BuildNote, line: Option<u32>) -> Failure {
    let mut lines: Vec<u32> = note.steps.iter().map(|step| step.lines.0).collect();
    lines.sort_unstable();
    lines.dedup();
    let lines: Vec<_> = lines.iter().map(u32::to_string).collect();
    match line {
        Some(line) => Failure::text(format!("no step at line {line}; there are steps at {}", lines.join(", "))),
        None => Failure::text("that build had no steps"),
    }
}

fn process(noted: &ProcessNote, account: &ProcessUser, term: Option<String>) -> Process {
    let mut env = noted.env.clone();
    let more = [("PATH", DEFAULT_PATH.to_owned()), ("HOME", account.home.clone())];
    for (name, value) in more.into_iter().chain(term.map(|term| ("TERM", term))) {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value));
        }
    }
    Process {
        argv: vec![SHELL.to_owned()],
        env,
        cwd: noted.cwd.clone(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        mounts: Vec::new(),
        isolate_network: false,
        insecure: false,
        hostname: HOSTNAME.to_owned(),
        add_hosts: Vec::new(),
        shm_size: None,
        ulimits: Vec::new(),
        stdio: Stdio::Inherited,
    }
}

/// Opens a shell where a step failed, for as long as the user wants to look around.
pub(super) fn where_it_failed(failed: &FailedRun, env: &Env, opened: &Opened) -> Result<(), Failure> {
    let process = failed.process();
    let command = process.argv.join(" ");
    say(&format!(
        "\nshell where the step failed: user {}:{} in {}, with its mounts and environment; \"exit\" ends the build.\n\
         The step's command was: {command}\n",
        process.uid, process.gid, process.cwd
    ))?;
    let tty = on_terminal();
    let terminal = Terminal::attach(true, tty, opened.runtime.handle()).map_err(|e| Failure::text(e.to_string()))?;
    terminal.give_to(process.uid, process.gid);
    let term = env.filled("TERM").filter(|_| tty);
    // The build's own signal was raised by the failure.
    let cancel = crate::cancel::Cancel::new();
    let ended = failed.shell(opened.session.executor.as_ref(), term.as_deref(), &cancel);
    drop(terminal);
    match ended {
        Ok(_) | Err(ExecError::Cancelled(_)) => Ok(()),
        Err(
            error
            @ (ExecError::NotExecutable(_) | ExecError::Refused(_) | ExecError::Setup(_) | ExecError::Launcher(_)),
        ) => say(&format!("no shell there: {}: {error}\n", failed.program())),
    }
}

fn on_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin()) && rustix::termios::isatty(rustix::stdio::stdout())
}

fn say(text: &str) -> Result<(), Failure> {
    std::io::stderr().write_all(text.as_bytes()).map_err(|e| Failure::of(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_last_are_builds() {
        assert_eq!(Target::parse("last"), Target::LastBuild(None));
        assert_eq!(Target::parse("last:7"), Target::LastBuild(Some(7)));
        assert_eq!(Target::parse(".:12"), Target::BuildOf(".", Some(12)));
        assert_eq!(Target::parse("/src/app"), Target::BuildOf("/src/app", None));
        for image in ["app", "app:12", "127.0.0.1:5000/a", "last/app:1"] {
            assert_eq!(Target::parse(image), Target::Image(image));
        }
    }
}
