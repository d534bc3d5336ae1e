//! RUN: the facts of its key, the process it becomes, and the layer made of what it changed.
//!
//! Knows how a plan's Run maps to a [`Process`]; mounts are prepared in `mounts`, files read through views.

use std::io::Read as _;
use std::path::Path;

use super::StepError;
use super::elsewhere::Need;
use super::explain::Listing;
use super::failed::FailedRun;
use super::mounts::{self, MountInputs};
use super::record::{Facts, ROOT, StepLayer, Times};
use super::step::{Job, Work};
use crate::event::{Stream, Vertex};
use crate::exec::{ExecError, Memory, Process, Root, Stdio, emulator};
use crate::layers::view::View;
use crate::oci::platform::Platform;
use crate::plan::graph::{Network, Run};
use crate::plan::key;
use crate::tar::entry::LayerPath;
use crate::transfer::users::{self, MAX_USER_FILE, ProcessUser};

/// PATH of a process whose image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Leads what a step's output says of a program that was not started.
const NOT_STARTED: &str = "unable to start container process: error during container init: ";

pub(super) struct RunWork<'a>(pub(super) &'a Run);

impl RunWork<'_> {
    fn facts(&self, job: &Job<'_>) -> Facts {
        let mut facts = Facts::default();
        for (name, value) in key::facts(job.step) {
            facts.push(name, value);
        }
        if job.engine.options.flattened {
            facts.push_flattened();
        }
        facts
    }
}

impl Work for RunWork<'_> {
    type Prepared = MountInputs;

    fn cheap(&self, job: &Job<'_>) -> Result<Option<Facts>, StepError> {
        if !mounts::any_from_steps(self.0) {
            return Ok(None);
        }
        let mut facts = self.facts(job);
        mounts::whole_inputs(job, self.0, &mut facts)?;
        facts.push(ROOT, job.parent.identity());
        Ok(Some(facts))
    }

    fn exact(&self, job: &Job<'_>) -> Result<(Facts, MountInputs), StepError> {
        let mut facts = self.facts(job);
        let inputs = mounts::read_inputs(job, self.0, &mut facts)?;
        facts.push(ROOT, job.parent.identity());
        Ok((facts, inputs))
    }

    fn listings<'p>(&self, inputs: &'p MountInputs) -> Vec<&'p (String, Listing)> {
        inputs.values().filter_map(|selected| selected.listing.as_ref()).collect()
    }

    fn make(&self, job: &Job<'_>, inputs: MountInputs) -> Result<StepLayer, StepError> {
        let (op, engine) = (self.0, job.engine);
        if op.network == Network::Host && !engine.options.allow_host_network {
            let help = "allow it with --allow network.host";
            return Err(StepError::refused_with_help("network.host is not allowed", help));
        }
        if op.insecure && !engine.options.allow_insecure {
            let help = "allow it with --allow security.insecure";
            return Err(StepError::refused_with_help("security.insecure is not allowed", help));
        }
        let ids = engine.layer_ids(job.plan, &job.parent, Need::Files)?;
        let account = account(&View::new(engine.layers, &ids).map_err(|e| StepError::world("read the root", &e))?, op)?;
        let scratch = engine.store.temp_dir("run").map_err(|e| StepError::world("make a working directory", &e))?;
        let mut mounts = mounts::prepare(job, op, inputs, scratch.path())?;
        let mut env = op.env.clone();
        for (name, value) in op.proxy_env.iter().chain(&mounts.env) {
            set_default(&mut env, name, value);
        }
        set_default(&mut env, "PATH", DEFAULT_PATH);
        for (name, value) in mounts.secret_env {
            env.retain(|(known, _)| *known != name);
            env.push((name, value));
        }
        set_default(&mut env, "HOME", &account.home);
        let process = Process {
            argv: op.argv.clone(),
            env,
            cwd: op.cwd.clone(),
            uid: account.uid,
            gid: account.gid,
            groups: account.groups,
            mounts: std::mem::take(&mut mounts.list),
            isolate_network: op.network == Network::None,
            insecure: op.insecure,
            hostname: op.hostname.clone(),
            add_hosts: op.add_hosts.clone(),
            shm_size: op.shm_size,
            ulimits: op.ulimits.clone(),
            stdio: Stdio::Captured,
        };
        let lowers = super::mounts::trees(engine, &ids, scratch.path())?;
        let slot = engine.slots.take(job.priority, engine.cancel)?;
        let root =
            engine.snapshots.prepare(&lowers, scratch.path()).map_err(|e| StepError::world("prepare the root", &e))?;
        let vertex = job.vertex;
        let begun = file_time(&scratch.path().join("begun"))?;
        let ran = engine.executor.run(&root, &process, &mut |stream, data| vertex.log(stream, data), engine.cancel);
        drop(slot);
        let ended = file_time(&scratch.path().join("ended"))?;
        let bad_end = match ran {
            Ok(exit) if exit.code == 0 => None,
            Ok(exit) if exit.out_of_memory => {
                let text = format!("killed: out of memory{} (exit code: {})\n", amounts(exit.memory), exit.code);
                vertex.log(Stream::Stderr, text.as_bytes());
                Some(("cannot allocate memory".to_owned(), None))
            }
            Ok(exit) => Some((format!("exit code: {}", exit.code), None)),
            Err(error) => Some(not_started(error, &job.step.platform, vertex)?),
        };
        if let Some((end, help)) = bad_end {
            let kept = engine.options.keep_failed.then(|| {
                Box::new(FailedRun { root, process, _scratch: scratch, _locks: std::mem::take(&mut mounts.locks) })
            });
            return Err(StepError::Exit { command: op.argv.join(" "), end, help, kept });
        }
        let record = match &root {
            Root::Overlay { upper, .. } => engine.layers.adopt(upper, &ids),
            Root::Directory(dir) => engine.layers.diff_dirs(dir, &ids),
        }
        .map_err(|e| StepError::world("make a layer of what changed", &e))?;
        // What a RUN writes is not known before: the ceiling is enforced after it.
        drop(engine.store.reserve(0).map_err(|e| StepError::world("keep the store below its limit", &e))?);
        let index = engine.layers.index(&record.id).map_err(|e| StepError::world("read the layer", &e))?;
        // What was written by the process as it went along has a time of the run; any other was chosen.
        let times = Times::of(index.entries().iter(), |entry| !(begun..=ended).contains(&entry.meta.mtime));
        Ok(StepLayer { id: record.id, tree: record.tree_id, diff_id: record.diff_id, times })
    }
}

/// The time now, in seconds, by the clock that files in the store get theirs from.
fn file_time(marker: &Path) -> Result<i64, StepError> {
    use std::os::unix::fs::MetadataExt as _;
    let made = fs_err::File::create(marker).and_then(|file| file.metadata());
    Ok(made.map_err(|e| StepError::world("tell the time", &e))?.mtime())
}

/// `, limit 64.0 MiB, peak 64.0 MiB` as far as they are known.
fn amounts(memory: Option<Memory>) -> String {
    let amount = |name: &str, bytes: Option<u64>| {
        bytes.map_or_else(String::new, |bytes| format!(", {name} {:.1} MiB", bytes as f64 / f64::from(1 << 20)))
    };
    memory.map_or_else(String::new, |memory| amount("limit", memory.limit) + &amount("peak", memory.peak))
}

/// `process "…" did not complete successfully`.
pub(super) fn failed(op: &Run, end: impl Into<String>) -> StepError {
    StepError::Exit { command: op.argv.join(" "), end: end.into(), help: None, kept: None }
}

/// What of the sandbox's faults is the step's own: how it ended, and what may help.
///
/// A program that cannot be started, or a mount that does not fit, is told in the step's output, as runc does, and ends like a
/// program that failed: with 1 where it was not found or may not be run, with 255 where the kernel refused it.
fn not_started(error: ExecError, platform: &str, vertex: &Vertex) -> Result<(String, Option<String>), StepError> {
    match error {
        ExecError::Cancelled(c) => Err(StepError::Cancelled(c)),
        ExecError::NotExecutable(text) => {
            let looked_up = text.starts_with("exec: ");
            let before = if looked_up { NOT_STARTED } else { "" };
            vertex.log(Stream::Stderr, format!("{before}{text}\n").as_bytes());
            // Without an emulator the kernel knows no such format, and one that it cannot reach is no such file.
            let foreign =
                !looked_up && ["exec format error", "no such file or directory"].iter().any(|e| text.ends_with(e));
            let platform = Platform::parse(platform, &Platform::host()).ok().filter(|_| foreign);
            let help = platform.and_then(|platform| emulator::advice(&platform));
            Ok((if looked_up { "exit code: 1" } else { "exit code: 255" }.to_owned(), help))
        }
        ExecError::Refused(text) => {
            vertex.log(Stream::Stderr, format!("{NOT_STARTED}{text}\n").as_bytes());
            Ok(("exit code: 1".to_owned(), None))
        }
        other @ (ExecError::Setup(_) | ExecError::Launcher(_)) => Err(StepError::world("set up the sandbox", &other)),
    }
}

fn set_default(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !env.iter().any(|(n, _)| n == name) {
        env.push((name.to_owned(), value.to_owned()));
    }
}

/// Looks the step's user up in the root's passwd and group files, following links inside the root.
fn account(view: &View, op: &Run) -> Result<ProcessUser, StepError> {
    let read = |path: &str| -> Result<Option<Vec<u8>>, StepError> {
        let resolved =
            view.resolve(&LayerPath::clean(path), true).map_err(|e| StepError::world(format!("read {path}"), &e))?;
        let Some(found) = resolved.found else { return Ok(None) };
        let mut bytes = Vec::new();
        let file = view.open(&found).map_err(|e| StepError::world(format!("read {path}"), &e))?;
        file.take(MAX_USER_FILE).read_to_end(&mut bytes).map_err(|e| StepError::world(format!("read {path}"), &e))?;
        Ok(Some(bytes))
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    users::process_user(passwd.as_deref(), group.as_deref(), &op.user).map_err(|e| failed(op, e.to_string()))
}
