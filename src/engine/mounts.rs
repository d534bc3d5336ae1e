//! The mounts of a RUN: what they add to its key, and what is mounted when it runs.
//!
//! A bind mount of a context shows the filtered view with owners 0:0, so it is a layer made of the selected files (content
//! addressed, made once); one of a step is that step's stack. Cache mounts are directories of the store under its locks.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rbuild_cache::digest::{Blake3, KeyHasher, LayerId};
use rbuild_cache::{LockGuard, LockKind};

use rustix::fs::{Gid, Mode, Uid};

use super::copy::{self, Selected};
use super::elsewhere::Need;
use super::record::Facts;
use super::step::Job;
use super::{Engine, StepError, run};
use crate::exec;
use crate::files::{FileKind, Root};
use crate::plan::graph::{From, MountKind, Op, Plan, Run, Sharing};
use crate::tar::entry::LayerPath;

/// Version of how a cache mount's directory is named.
const CACHE_MOUNT_VERSION: u32 = 1;
/// The agent of an ssh mount that names none.
const DEFAULT_AGENT: &str = "default";
/// Copies a `private` cache mount may have at a time.
const MOST_PRIVATE: u32 = 1000;

/// What the bind mounts (and seeds of cache mounts) select, by their place in the RUN's list.
pub(super) type MountInputs = BTreeMap<usize, Selected>;

/// Mounts ready for the executor, the variables they bring, and the locks held while the process runs.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) list: Vec<exec::Mount>,
    /// Variables where nothing else sets them.
    pub(super) env: Vec<(String, String)>,
    /// Variables whatever else sets them.
    pub(super) secret_env: Vec<(String, String)>,
    pub(super) locks: Vec<LockGuard>,
}

/// Whether some mount shows a step's files, so that a cheap key (whole stacks) differs from the exact one (selected files).
pub(super) fn any_from_steps(op: &Run) -> bool {
    op.mounts.iter().any(|m| matches!(m.kind.shown(), Some((_, From::Step(_)))))
}

/// Adds the identity of all inputs without opening a layer.
pub(super) fn whole_inputs(job: &Job<'_>, op: &Run, facts: &mut Facts) -> Result<(), StepError> {
    for mount in &op.mounts {
        match mount.kind.shown() {
            Some((path, from @ From::Step(_))) => {
                facts.push(format!("mount {}", mount.target), format!("{path} of {}", job.stack_of(from).identity()));
            }
            Some((path, from @ From::Context(_))) => {
                let selected = copy::select_one(job, from, path)?;
                facts.push(format!("files mounted at {}", mount.target), selected.digest.clone());
            }
            Some((_, From::Scratch)) | None => {}
        }
    }
    Ok(())
}

/// Adds the identity of exactly the files the mounts show.
pub(super) fn read_inputs(job: &Job<'_>, op: &Run, facts: &mut Facts) -> Result<MountInputs, StepError> {
    let mut inputs = MountInputs::new();
    for (index, mount) in op.mounts.iter().enumerate() {
        let Some((path, from)) = mount.kind.shown() else { continue };
        let selected = copy::select_one(job, from, path)?;
        let what = match mount.kind {
            MountKind::Cache { .. } => "files the cache begins with at",
            MountKind::Bind { .. } | MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => {
                "files mounted at"
            }
        };
        facts.push(format!("{what} {}", mount.target), selected.digest.clone());
        inputs.insert(index, selected);
    }
    Ok(inputs)
}

/// Makes everything ready; waits for locked cache mounts.
pub(super) fn prepare(job: &Job<'_>, op: &Run, inputs: MountInputs, scratch: &Path) -> Result<Prepared, StepError> {
    let mut prepared = Prepared::default();
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut caches = CacheDirs::of(job, op, &inputs)?;
    for (index, mount) in op.mounts.iter().enumerate() {
        let push = |list: &mut Vec<exec::Mount>, kind| list.push(exec::Mount { target: mount.target.clone(), kind });
        match &mount.kind {
            MountKind::Bind { from, source, writable } => {
                let discard = scratch.join(format!("mount-{index}"));
                let (lowers, subpath) = bound_trees(job, from, source, &inputs[&index], scratch)?;
                let scratch = if *writable {
                    fs_err::create_dir(&discard).map_err(|e| StepError::world("prepare a mount", &e))?;
                    Some(discard)
                } else {
                    None
                };
                push(&mut first, exec::MountKind::Stack { lowers, subpath, scratch });
            }
            MountKind::Cache { readonly, .. } => {
                let source = caches.dirs.remove(&index).expect("one for each cache mount");
                push(&mut first, exec::MountKind::Bind { source, readonly: *readonly });
            }
            MountKind::Tmpfs { size, readonly } => {
                push(&mut first, exec::MountKind::Tmpfs { size: *size, mode: None, readonly: *readonly });
            }
            MountKind::Secret { id, file, env, required, mode, uid, gid } => {
                let value = job.engine.secrets.get(id);
                if value.is_none() && *required {
                    let help = format!("give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE");
                    return Err(StepError::refused_with_help(format!("secret {id}: not found"), help));
                }
                if let Some(name) = env {
                    // One that is not there makes no file, but an empty variable.
                    let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
                    prepared.secret_env.push((name.clone(), text.unwrap_or_default()));
                }
                if let Some(content) = value.filter(|_| *file).cloned() {
                    let (executable, mode, uid, gid) = (false, *mode, *uid, *gid);
                    push(&mut last, exec::MountKind::File { content, executable, mode, uid, gid });
                }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                if !prepared.env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK") {
                    prepared.env.push(("SSH_AUTH_SOCK".to_owned(), mount.target.clone()));
                }
                let Some(source) = job.engine.agents.get(id) else {
                    if *required {
                        let help = format!("forward your agent with --ssh {id}, or a socket with --ssh {id}=SOCKET");
                        let fault = no_agent(id, job.engine.agents.is_empty());
                        return Err(StepError::refused_with_help(fault, help));
                    }
                    continue;
                };
                let (source, mode, uid, gid) = (source.clone(), *mode, *uid, *gid);
                push(&mut last, exec::MountKind::Socket { source, mode, uid, gid });
            }
        }
    }
    if let Some(script) = &op.script {
        let content = script.content.clone();
        let kind = exec::MountKind::File { content, executable: true, mode: 0o755, uid: 0, gid: 0 };
        last.push(exec::Mount { target: format!("/dev/pipes/{}", script.name), kind });
    }
    first.sort_by_key(|m| m.target.matches('/').count());
    first.append(&mut last);
    prepared.list = last_of_each_target(first);
    prepared.locks = caches.locks;
    Ok(prepared)
}

/// Why an agent cannot be had: `--ssh` was not given at all, or not for this one. BuildKit has no name for the usual one.
fn no_agent(id: &str, none_at_all: bool) -> String {
    if none_at_all {
        let id = if id == DEFAULT_AGENT { "" } else { id };
        format!("no SSH key {id:?} forwarded from the client")
    } else {
        format!("unset ssh forward key {id}")
    }
}

/// Of several mounts at one place only the last is made: the others could not be seen, and one of a file over one of a
/// directory could not even be mounted.
fn last_of_each_target(list: Vec<exec::Mount>) -> Vec<exec::Mount> {
    let mut kept: Vec<exec::Mount> = Vec::with_capacity(list.len());
    for mount in list {
        match kept.iter_mut().find(|earlier| earlier.target == mount.target) {
            Some(earlier) => *earlier = mount,
            None => kept.push(mount),
        }
    }
    kept
}

/// The trees of a stack's layers; an empty directory stands for no layers at all.
pub(super) fn trees(engine: &Engine<'_>, ids: &[LayerId], scratch: &Path) -> Result<Vec<PathBuf>, StepError> {
    let world = |e: &dyn std::error::Error| StepError::world("unpack a layer", e);
    if ids.is_empty() {
        let empty = scratch.join("empty");
        fs_err::create_dir_all(&empty).map_err(|e| world(&e))?;
        return Ok(vec![empty]);
    }
    engine.layers.lowers(ids).map_err(|e| world(&e))
}

/// The trees a bind mount shows, and the path in them.
fn bound_trees(
    job: &Job<'_>,
    from: &From,
    source: &str,
    selected: &Selected,
    scratch: &Path,
) -> Result<(Vec<PathBuf>, String), StepError> {
    match from {
        From::Step(_) | From::Scratch => {
            let ids = job.engine.layer_ids(job.plan, &job.stack_of(from), Need::Files)?;
            Ok((trees(job.engine, &ids, scratch)?, source.to_owned()))
        }
        From::Context(_) => {
            let layer = copy::layer_of(job, selected)?;
            Ok((trees(job.engine, &[layer], scratch)?, selected.path_in_layer()))
        }
    }
}

/// What a cache mount's directory is called, as far as the mount's own options say it.
fn cache_hasher(id: &str, mode: u32, uid: u32, gid: u32) -> KeyHasher {
    let mut hasher = KeyHasher::new("cache-mount", CACHE_MOUNT_VERSION);
    hasher.text(id).number(mode.into()).number(uid.into()).number(gid.into());
    hasher
}

/// The cache mounts of a plan by directory, with their ids; without those that start as a copy of something or are private.
pub fn cache_mounts(plan: &Plan) -> BTreeMap<Blake3, String> {
    let runs = plan.steps.node_weights().filter_map(|step| match &step.op {
        Op::Run(run) => Some(run),
        Op::Image(_) | Op::Copy(_) | Op::Workdir(_) => None,
    });
    let named = |(key, id): (Blake3, &str)| (key, id.to_owned());
    runs.flat_map(|run| run.mounts.iter().filter_map(|mount| lasting_cache(&mount.kind)).map(named)).collect()
}

/// The directory and id of a mount's cache, if that is the same for every step that names it.
pub fn lasting_cache(kind: &MountKind) -> Option<(Blake3, &str)> {
    match kind {
        MountKind::Cache { id, from: None, sharing: Sharing::Shared | Sharing::Locked, mode, uid, gid, .. } => {
            Some((cache_hasher(id, *mode, *uid, *gid).finish(), id))
        }
        MountKind::Cache { .. }
        | MountKind::Bind { .. }
        | MountKind::Tmpfs { .. }
        | MountKind::Secret { .. }
        | MountKind::Ssh { .. } => None,
    }
}

/// One cache that a RUN mounts.
struct Cache<'a> {
    hasher: KeyHasher,
    id: &'a str,
    sharing: Sharing,
    /// Mode, user and group of a new one.
    owner: (u32, u32, u32),
    seed: Option<&'a Selected>,
}

/// The path `shown` in a cache. What leads there by a link is not found: steps write to it.
fn inside(op: &Run, dir: &Path, shown: &str) -> Result<PathBuf, StepError> {
    let path = LayerPath::clean(shown);
    let found = Root::open(dir).and_then(|root| root.stat(&path));
    match found.map_err(|e| StepError::world(format!("open {shown} in a cache mount"), &e))? {
        Some(stat) if stat.kind != FileKind::Symlink => Ok(dir.join(path.as_path())),
        Some(_) | None => Err(run::failed(op, format!("open {shown}: no such file or directory"))),
    }
}

/// The directories of all cache mounts of a RUN, locked as their sharing asks.
struct CacheDirs {
    dirs: BTreeMap<usize, PathBuf>,
    locks: Vec<LockGuard>,
}

impl CacheDirs {
    /// Locks are taken in the order of the directories' names, whatever order the mounts are in, so that two RUNs never wait
    /// for each other; before the job slot, so that a waiting RUN keeps nobody from working.
    fn of(job: &Job<'_>, op: &Run, inputs: &MountInputs) -> Result<Self, StepError> {
        let mut wanted = Vec::new();
        for (index, mount) in op.mounts.iter().enumerate() {
            if let MountKind::Cache { id, sharing, mode, uid, gid, source, .. } = &mount.kind {
                let mut hasher = cache_hasher(id, *mode, *uid, *gid);
                let seed = inputs.get(&index);
                if let Some(selected) = seed {
                    hasher.text(&selected.digest);
                }
                let shown = seed.map_or_else(|| source.clone(), Selected::path_in_cache);
                let cache = Cache { hasher, id, sharing: *sharing, owner: (*mode, *uid, *gid), seed };
                wanted.push((cache, index, shown));
            }
        }
        wanted.sort_by_key(|(cache, index, _)| (cache.hasher.finish(), *index));
        let mut found = Self { dirs: BTreeMap::new(), locks: Vec::new() };
        // One RUN may mount the same cache several times; the first decides how it is shared with others.
        let mut opened: BTreeMap<Blake3, PathBuf> = BTreeMap::new();
        for (cache, index, shown) in wanted {
            let own = cache.hasher.finish();
            let dir = match opened.get(&own) {
                Some(dir) => dir.clone(),
                None => found.open(job, &cache)?,
            };
            found.dirs.insert(index, inside(op, &dir, &shown)?);
            opened.insert(own, dir);
        }
        Ok(found)
    }

    /// Locks a cache and gives its directory, made if there was none.
    fn open(&mut self, job: &Job<'_>, cache: &Cache<'_>) -> Result<PathBuf, StepError> {
        let key = match cache.sharing {
            Sharing::Shared | Sharing::Locked => {
                let key = cache.hasher.finish();
                self.locks.push(lock(job, &key.0, cache.id, cache.sharing)?);
                key
            }
            Sharing::Private => self.private(job, &cache.hasher)?,
        };
        let layer = cache.seed.map(|selected| copy::layer_of(job, selected)).transpose()?;
        let fill = |dir: &Path| {
            // A cache that cannot be had is an empty one.
            if let Some(content) = job.engine.elsewhere.fetch_mount(&key)
                && let Ok(tree) = job.engine.layers.tree(&content)
            {
                job.engine.seeds.replace(&tree, dir)?;
            }
            fill(job.engine, dir, layer.zip(cache.seed), cache.owner)
        };
        let dir = job.engine.store.cache_mount_with(&key, cache.id, fill);
        dir.map_err(|e| StepError::world(format!("open cache mount {}", cache.id), &e))
    }

    /// A copy of the cache nobody uses now.
    fn private(&mut self, job: &Job<'_>, hasher: &KeyHasher) -> Result<Blake3, StepError> {
        for number in 0..MOST_PRIVATE {
            let mut hasher = hasher.clone();
            hasher.text("private").number(number.into());
            let key = hasher.finish();
            let lock = job.engine.store.try_lock(LockKind::CacheMount, &key.0);
            if let Some(lock) = lock.map_err(|e| StepError::world("lock a cache mount", &e))? {
                self.locks.push(lock);
                return Ok(key);
            }
        }
        Err(StepError::refused(format!("more than {MOST_PRIVATE} private copies of a cache mount in use")))
    }
}

/// Holds the cache: alone, or with others; either way nobody removes it meanwhile.
fn lock(job: &Job<'_>, key: &[u8], id: &str, sharing: Sharing) -> Result<LockGuard, StepError> {
    let cancel = job.engine.cancel.clone();
    let mut told = false;
    let waiting = &mut |pid: Option<u32>| {
        if !told && pid != Some(std::process::id()) {
            told = true;
            let who = pid.map_or_else(|| "another step".to_owned(), |p| format!("process {p}"));
            job.vertex.log(
                crate::event::Stream::Stderr,
                format!("waiting for {who}, which has cache {id} locked\n").as_bytes(),
            );
        }
    };
    let stop = || cancel.is_cancelled();
    let locked = match sharing {
        Sharing::Shared => job.engine.store.lock_shared(LockKind::CacheMount, key, &stop, waiting),
        Sharing::Private | Sharing::Locked => job.engine.store.lock(LockKind::CacheMount, key, &stop, waiting),
    };
    locked.map_err(|error| {
        if job.engine.cancel.is_cancelled() {
            StepError::Cancelled(crate::cancel::Cancelled)
        } else {
            StepError::world(format!("lock cache mount {id}"), &error)
        }
    })
}

/// Gives a new cache directory its seed, owner and mode.
fn fill(engine: &Engine<'_>, dir: &Path, seed: Option<(LayerId, &Selected)>, owner: (u32, u32, u32)) -> io::Result<()> {
    let (mode, uid, gid) = match seed {
        Some((layer, selected)) => {
            let tree = engine.layers.tree(&layer).map_err(io::Error::other)?;
            engine.seeds.replace(&tree.join(selected.seed_in_layer()), dir)?;
            selected.top().map_or((0o755, 0, 0), |meta| (meta.mode, meta.uid, meta.gid))
        }
        None => owner,
    };
    // The directory is new and ours alone: nobody can have put a link in its place.
    if !engine.options.flattened {
        rustix::fs::chown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::chmod(dir, Mode::from_raw_mode(mode))?;
    Ok(())
}
