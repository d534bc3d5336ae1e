//! `rbuild build`: from the decided request to an image, its outputs, and the last lines on the screen.
//!
//! Owns the order in which things are shown: progress, then warnings, then on failure the error line scripts look for.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::agents::Agents;
use super::args_build::{BuildArgs, OnError};
use super::call::{self, Said};
use super::contexts::Inputs;
use super::env::Env;
use super::request::{
    Allow, BuildRequest, ContextSource, DockerfileSource, OutputSpec, PullPolicy, StoreRequest, display_options,
};
use super::world::{Opened, enter_with, now};
use super::{Done, Failure, caches, outputs};
use crate::catalog::pull::Policy;
use crate::diagnostic::{Diagnostic, headline, render_all};
use crate::dockerfile::ast::Lint;
use crate::dockerfile::rules::Rule;
use crate::engine::slots::Limit;
use crate::engine::{Options, StepError};
use crate::event::{Place as TextPlace, Progress, Warning};
use crate::exchange::Form;
use crate::exchange::spec::{self, Extent, Place};
use crate::exec::Limits;
use crate::export::output::Kind;
use crate::layers::Wanted;
use crate::pipeline::{self, BuildError, Built, Spec, World};
use crate::plan::PlanOptions;
use crate::snapshot::Copied;
use crate::source::Source;
use crate::ui::{Display, Mode, Size, WarningList, failed_to_solve, warnings_summary};

/// Builds, or answers a question about the Dockerfile.
pub(super) fn build(args: &BuildArgs, env: &Env, place: &StoreRequest, debug: bool) -> Done {
    let request = BuildRequest::new(args, env)?;
    if let Some(path) = &request.iidfile {
        remove_old(path)?;
    }
    // Threads begin to exist below this line.
    let (limits, runtime) = match request.call {
        None => (request.limits.clone(), request.oci_runtime.clone()),
        Some(_) => (Limits::default(), None),
    };
    let session = enter_with(request.call.is_none(), limits, runtime)?;
    let opened = Opened::new(session, place)?;
    // Both are used until the last shell was left.
    let scratch = opened.scratch()?;
    let agents = Agents::start(&request, &opened)?;
    let shown = match request.progress.mode {
        Mode::Auto | Mode::Plain | Mode::Tty => true,
        Mode::Quiet | Mode::RawJson | Mode::None => false,
    };
    if shown && request.call.is_none() {
        let mode = opened.session.mode(scratch.path());
        if mode.is_limited() {
            to_stderr(&format!("sandbox: {mode}\n"))?;
        }
    }
    let (looks, notes) = display_options(env, now, terminal_size);
    let display =
        Display::open(request.progress.mode, Box::new(std::io::stderr()), looks).map_err(|e| Failure::of(&e))?;
    let heard = WarningList::default();
    let progress = Progress::new(vec![display.observer(), Box::new(heard.clone())], now);
    let done = super::world::with_room(|| work(&request, env, &opened, &scratch, &agents, &progress))?;
    display.close();
    let mut warnings: Vec<Warning> = request.notes.iter().chain(&notes).map(|note| plain_warning(note)).collect();
    warnings.extend(heard.warnings());
    match done {
        Ok(Answer::Built { built, source, digest, cache_failures }) => {
            warnings.extend(cache_failures.iter().map(|text| plain_warning(text)));
            warnings.extend(built.lints.iter().map(|lint| lint_warning(lint, &source)));
            if shown {
                to_stderr(&warnings_summary(&warnings, debug, None))?;
            }
            if request.progress.print_id {
                super::print(format!("{digest}\n").as_bytes())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(Answer::Said(Said { stdout, code, failure })) => {
            super::print(stdout.as_bytes())?;
            failure.map_or(Ok(code), Err)
        }
        Err(Stop::Failure(failure)) => Err(failure),
        Err(Stop::Build(error)) => {
            if let BuildError::Step { lints, file: source, .. } = error.as_ref() {
                warnings.extend(lints.iter().map(|lint| lint_warning(lint, source)));
            }
            let before = if shown { warnings_summary(&warnings, debug, None) } else { String::new() };
            let failure = explained(&error, before);
            let BuildError::Step { error: StepError::Exit { kept: Some(failed), .. }, .. } = *error else {
                return Err(failure);
            };
            to_stderr(&failure.to_string())?;
            super::shell::where_it_failed(&failed, env, &opened)?;
            // Once more, because scripts look for it in the last line.
            Err(Failure::text(failure.last))
        }
    }
}

/// What came of it.
enum Answer {
    Built { built: Box<Built>, source: Arc<Source>, digest: String, cache_failures: Vec<String> },
    Said(Said),
}

enum Stop {
    Failure(Failure),
    Build(Box<BuildError>),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<BuildError> for Stop {
    fn from(error: BuildError) -> Self {
        Self::Build(Box::new(error))
    }
}

fn work(
    request: &BuildRequest,
    env: &Env,
    opened: &Opened,
    scratch: &rbuild_cache::TempDir,
    agents: &Agents,
    progress: &Progress,
) -> Result<Answer, Stop> {
    let time = now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let fetcher = super::far::fetcher(request, env, opened, agents);
    let inputs = Inputs::open(request, opened, &fetcher, progress, time as i64)?;
    let puller = opened.puller(env, &request.registries, progress)?;
    let snapshots = opened.snapshots(scratch.path());
    let world = World {
        store: &opened.store,
        layers: &opened.layers,
        puller: &puller,
        fetcher: &fetcher,
        executor: opened.session.executor.as_ref(),
        snapshots: snapshots.as_ref(),
        seeds: Copied { xattrs: opened.session.overlay_xattrs },
        runtime: opened.runtime.handle(),
        progress,
        cancel: &opened.cancel,
    };
    let Allow { network_host, security_insecure } = request.allow;
    let options = Options {
        jobs: request.jobs.map_or_else(default_jobs, |count| Limit::Fixed(count.get())),
        project: project(request),
        flattened: opened.session.ownership == crate::exec::Ownership::Flattened,
        now: time,
        explain: request.explain,
        allow_host_network: network_host,
        allow_insecure: security_insecure,
        keep_failed: request.on_error == OnError::Shell,
    };
    let secrets = request.secrets.iter().map(|(id, value)| (id.clone(), value.0.clone())).collect();
    let plan = PlanOptions { ignored: inputs.ignored(), ..inputs.plan.clone() };
    let spec = Spec {
        source: inputs.source.clone(),
        plan: &plan,
        contexts: &inputs.trees,
        at_hand: &inputs.at_hand,
        pull: policy(request.pull),
        secrets: &secrets,
        agents: &agents.sockets,
        options: &options,
        cache_from: &request.cache_from,
        form: match request.squash {
            Some(_) => Form::Files,
            None => request.outputs.iter().map(|o| form(o, &request.cache_from)).max().unwrap_or_default(),
        },
        inline_cache: request.cache_to.iter().any(|target| target.place == Place::Inline),
        compressed: compressed(request),
        threads: opened.threads,
    };
    if let Some(call) = &request.call {
        return Ok(Answer::Said(call::call(call, &world, &spec, &inputs, request, env)?));
    }
    let built = pipeline::build(&world, &spec, &request.platforms);
    inputs.save();
    let mut built = built?;
    let written = match outputs::write(request, &world, opened, &built, env) {
        Err(outputs::Unwritten::Lost(_)) => {
            // What the cache promised and nobody has is made here, from what the store has.
            built = pipeline::build(&world, &Spec { cache_from: &[], ..spec }, &request.platforms)?;
            outputs::write(request, &world, opened, &built, env)
        }
        written => written,
    };
    let digest = written.map_err(outputs::Unwritten::failure)?;
    let cache_failures = caches::write(request, &world, opened, &built)?;
    Ok(Answer::Built { built: Box::new(built), source: inputs.source.clone(), digest, cache_failures })
}

/// What an output needs of layers that are only in caches, before it begins to write.
fn form(output: &OutputSpec, sources: &[spec::Source]) -> Form {
    // Later commands do not know the way to a bucket, so what stays in the store is fetched from there.
    let buckets = sources.iter().any(|source| matches!(source.from, spec::From::Bucket { .. }));
    let (OutputSpec::Export(output) | OutputSpec::Load(output)) = output;
    match output.kind {
        // Times are rewritten in files.
        Kind::Image(_) | Kind::Archive { .. } if output.format.rewrite_timestamp => Form::Files,
        Kind::Archive { .. } => Form::Blobs,
        Kind::Image(None) if buckets && !output.names.is_empty() => Form::Blobs,
        Kind::Local { .. } | Kind::Tar { .. } => Form::Files,
        Kind::Image(_) | Kind::CacheOnly => Form::Names,
    }
}

/// What outputs and caches will want compressed of a finished layer, whatever else happens.
fn compressed(request: &BuildRequest) -> Wanted {
    let mut wanted = Wanted::default();
    for output in &request.outputs {
        let output = match output {
            // An engine mostly gets them as they are.
            OutputSpec::Load(output) if output.format.packing.is_none() => continue,
            OutputSpec::Export(output) | OutputSpec::Load(output) => output,
        };
        // Squashed layers and those with other times are made of these, later.
        let as_they_are = request.squash.is_none() && !output.format.rewrite_timestamp;
        if as_they_are && matches!(output.kind, Kind::Image(Some(_)) | Kind::Archive { .. }) {
            wanted.result.insert(output.format.framing());
        }
    }
    for target in request.cache_to.iter().filter(|target| target.place != Place::Inline) {
        match target.extent {
            Extent::Min => wanted.result.insert(target.framing),
            Extent::Max => wanted.every.insert(target.framing),
        };
    }
    wanted
}

/// RUNs at a time: as many as there are cores, and more while there is memory.
fn default_jobs() -> Limit {
    let always = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Limit::WhileMemoryLasts { always, room: memory_lasts }
}

/// Whether one more RUN can be let in: a tenth of the memory is free, and processes hardly ever wait for memory (PSI).
/// A machine that does not say is taken to have enough.
fn memory_lasts() -> bool {
    let text = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
    memory_lasts_by(&text("/proc/meminfo"), &text("/proc/pressure/memory"))
}

fn memory_lasts_by(meminfo: &str, pressure: &str) -> bool {
    /// Per cent of the last ten seconds in which some process waited for memory.
    const MOST_PRESSURE: f64 = 10.0;
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let some =
        pressure.lines().find_map(|line| line.strip_prefix("some avg10=")?.split(' ').next()?.parse::<f64>().ok());
    let enough = match (kib("MemTotal"), kib("MemAvailable")) {
        (Some(total), Some(available)) => available >= total / 10,
        (None, _) | (_, None) => true,
    };
    enough && some.is_none_or(|some| some < MOST_PRESSURE)
}

/// What the build is called among earlier ones: its Dockerfile and context.
pub(super) fn project(request: &BuildRequest) -> String {
    let context = match &request.context {
        ContextSource::Directory(dir) => dir.display().to_string(),
        ContextSource::Git(url) | ContextSource::Http(url) => url.clone(),
        ContextSource::Stdin => "-".to_owned(),
    };
    let file = match &request.dockerfile {
        DockerfileSource::File(path) => path.display().to_string(),
        DockerfileSource::InContext(path) => path.clone().unwrap_or_default(),
        DockerfileSource::Stdin => "-".to_owned(),
        DockerfileSource::Http(url) => url.clone(),
    };
    format!("{context}\n{file}")
}

pub(super) fn policy(pull: PullPolicy) -> Policy {
    match pull {
        PullPolicy::Missing => Policy::Missing,
        PullPolicy::Always => Policy::Always,
        PullPolicy::Newer => Policy::Newer,
        PullPolicy::Never => Policy::Never,
    }
}

/// The error as the last lines of the build: our own view with caret and help, then BuildKit's line.
pub(super) fn explained(error: &BuildError, before: String) -> Failure {
    let help = |help: &Option<String>| help.as_ref().map_or(String::new(), |text| format!("help: {text}\n"));
    let (above, last) = match error {
        BuildError::Cancelled(_) => (String::new(), error.to_string()),
        BuildError::Dockerfile(faults) => {
            let first = headline(faults).map_or_else(String::new, Diagnostic::excerpt);
            (render_all(faults) + &first, error.to_string())
        }
        BuildError::Step { error: StepError::Refused { help: text, .. }, .. } => (help(text), error.to_string()),
        BuildError::Step { error: StepError::Exit { help: text, kept: None, .. }, lines, .. } => {
            let line = lines.first;
            let shell = format!(
                "help: --on-error=shell opens a shell where this failed; \"rbuild shell last:{line}\" one where the step began\n"
            );
            (help(text) + &shell, error.to_string())
        }
        BuildError::Step { .. } | BuildError::World { .. } => (String::new(), error.to_string()),
    };
    let line = failed_to_solve(&last);
    let last = line.trim_end().strip_prefix("ERROR: ").unwrap_or(&line).to_owned();
    Failure::text(last).after(before + &above)
}

fn plain_warning(note: &str) -> Warning {
    Warning { short: note.to_owned(), detail: Vec::new(), url: None, place: None }
}

/// A finding in the words of the summary.
fn lint_warning(lint: &Lint, source: &Arc<Source>) -> Warning {
    let rule = Rule::find(lint.rule);
    Warning {
        short: format!("{}: {} (line {})", lint.rule, lint.message, lint.lines.first),
        detail: rule.map(|rule| rule.description.to_owned()).into_iter().collect(),
        url: rule.and_then(Rule::url),
        place: Some(TextPlace { source: source.clone(), lines: lint.lines }),
    }
}

fn remove_old(path: &PathBuf) -> Result<(), Failure> {
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::of(&e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn to_stderr(text: &str) -> Result<(), Failure> {
    std::io::stderr().write_all(text.as_bytes()).map_err(|e| Failure::of(&e))
}

/// The terminal behind stderr, if it is one.
fn terminal_size() -> Option<Size> {
    let stderr = std::io::stderr();
    if !rustix::termios::isatty(&stderr) {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stderr).ok()?;
    Some(Size { columns: size.ws_col, rows: size.ws_row })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lasts_while_a_tenth_is_free_and_nobody_waits() {
        let meminfo =
            |available: u64| format!("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:   {available} kB\n");
        assert!(memory_lasts_by(&meminfo(100), "some avg10=9.99 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00\n"));
        assert!(!memory_lasts_by(&meminfo(99), ""));
        assert!(!memory_lasts_by(&meminfo(900), "some avg10=10.00 avg60=0.00\n"));
        assert!(memory_lasts_by("", ""));
    }
}
