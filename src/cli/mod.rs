//! The command line: words, exit codes, environment. Each command goes from as typed (`args*`) to as decided (`request`) to
//! done (`command_*`).

mod agents;
pub mod args;
pub mod args_build;
pub mod args_image;
pub mod args_registry;
pub mod args_run;
pub mod args_store;
mod build;
mod caches;
mod call;
mod clutter;
pub mod command_call;
pub mod command_du;
pub mod command_explain;
pub mod command_history;
pub mod command_images;
pub mod command_inspect;
mod contexts;
mod docker_config;
pub mod env;
mod far;
mod fields;
mod images;
mod login;
mod moving;
mod outputs;
mod questions;
mod records;
mod registries;
mod registries_conf;
mod remote;
pub mod request;
mod run;
mod screen;
mod shell;
mod shell_mounts;
mod store;
mod table;
mod terminal;
mod world;

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use self::args::{Cli, Task};
use self::env::Env;
use self::request::{RequestError, StoreRequest};

/// Where the tests of this module keep whole outputs.
#[cfg(test)]
const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/cli");

/// Why a command ended early: what to print before, and the text of the last line.
#[derive(Debug)]
pub(crate) struct Failure {
    before: String,
    last: String,
    code: u8,
}

impl Failure {
    /// One line.
    fn text(last: impl Into<String>) -> Self {
        Self { before: String::new(), last: last.into(), code: 1 }
    }

    /// An error with its causes.
    fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let words = inner.to_string();
            if !text.contains(&words) {
                text = format!("{text}: {words}");
            }
            cause = inner.source();
        }
        Self::text(text)
    }

    /// The same with a line of help above it, if there is one.
    fn helped(self, help: Option<String>) -> Self {
        match help {
            Some(text) => self.after(format!("help: {text}\n")),
            None => self,
        }
    }

    /// The same with what was being done in front.
    fn named(self, doing: &str) -> Self {
        Self { last: format!("{doing}: {}", self.last), ..self }
    }

    /// The same with something to be shown above the last line.
    fn after(self, before: String) -> Self {
        Self { before, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.before.is_empty() || self.before.ends_with('\n') { "" } else { "\n" };
        write!(f, "{}{gap}{}", self.before, crate::ui::error_line(&self.last))
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::text(error.to_string())
    }
}

/// What a command that succeeded ends with; `run` passes the code of its process on.
type Done = Result<ExitCode, Failure>;

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, too.
            let shown = error.print();
            return if error.use_stderr() || shown.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let done = Env::current().map_err(|e| Failure::of(&e)).and_then(|env| dispatch(cli, &env));
    done.unwrap_or_else(|failure| {
        let code = failure.code;
        // There is nobody left to tell when stderr is gone.
        let _ = write!(std::io::stderr(), "{failure}");
        ExitCode::from(code)
    })
}

fn dispatch(cli: Cli, env: &Env) -> Done {
    let place = StoreRequest::new(&cli.globals, env);
    let debug = cli.globals.debug;
    match cli.command {
        Task::Build(args) => build::build(&args, env, &place?, debug),
        Task::Plan(args) => questions::plan(*args, env, &place?),
        Task::Graph(args) => questions::graph(*args, env, &place?),
        Task::Explain(args) => questions::explain(&args, &place?),
        Task::Images(args) => images::list(&args, &place?),
        Task::Inspect(args) => images::inspect(&args, &place?),
        Task::History(args) => images::history(&args, &place?),
        Task::Tag(args) => images::tag(&args, &place?),
        Task::Rmi(args) => images::remove(&args, &place?),
        Task::Run(args) => run::run(&args, env, &place?),
        Task::Shell(args) => shell::shell(&args, env, &place?),
        Task::Pull(args) => moving::pull(&args, env, &place?),
        Task::Push(args) => moving::push(&args, env, &place?),
        Task::Save(args) => moving::save(&args, env, &place?),
        Task::Load(args) => moving::load(&args, env, &place?),
        Task::Import(args) => moving::import(&args, env, &place?),
        Task::Login(args) => login::login(&args, env),
        Task::Logout(args) => login::logout(&args, env),
        Task::Registry(command) => remote::registry(&command, env),
        Task::Manifest(command) => remote::manifest(&command, env, &place?),
        Task::Copy(args) => remote::copy(&args, env),
        Task::Du(args) => store::usage(&args, &place?),
        Task::Prune(args) => store::prune(&args, &place?),
        Task::Cache(command) => store::cache(&command, &place?),
        Task::Doctor => run::doctor(env, &place?),
        Task::ExplainRule(args) => call::explain_rule(args.rule.as_deref()),
        Task::Completions(args) => print(&args.script()),
        Task::Version => print(format!("rbuild {}\n", env!("CARGO_PKG_VERSION")).as_bytes()),
    }
}

/// Writes to stdout.
fn print(bytes: &[u8]) -> Done {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Failure::of(&e))?;
    Ok(ExitCode::SUCCESS)
}
