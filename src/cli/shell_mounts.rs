//! The mounts of an earlier step, made again for a shell: what of them is in the store still.

use rbuild_cache::digest::Blake3;
use rbuild_cache::{LockGuard, LockKind, TempDir};

use super::Failure;
use super::run::all_here;
use super::world::Opened;
use crate::exec::{Mount, MountKind};
use crate::pipeline::notes::{BuildNote, MountNote, ProcessNote, Shows};
use crate::tar::entry::LayerPath;

/// Mounts, and what must be kept while they are in use.
pub(super) struct Again {
    /// In order.
    pub(super) list: Vec<Mount>,
    /// What cannot be had, in words.
    pub(super) missing: Vec<String>,
    _locks: Vec<LockGuard>,
    _scratch: TempDir,
}

/// Makes ready what can be.
pub(super) fn again(note: &BuildNote, process: &ProcessNote, opened: &Opened) -> Result<Again, Failure> {
    let scratch = opened.scratch()?;
    let (mut list, mut missing, mut locks) = (Vec::new(), Vec::new(), Vec::new());
    for (number, MountNote { target, shows }) in process.mounts.iter().enumerate() {
        let mut lacks = |what: &str| missing.push(format!("{target} ({what})"));
        let kind = match shows {
            Shows::Nothing(what) => {
                lacks(what);
                continue;
            }
            Shows::Tmpfs { size, readonly } => MountKind::Tmpfs { size: *size, mode: None, readonly: *readonly },
            Shows::Cache { key, id, source, readonly } => {
                let Ok(key) = key.parse::<Blake3>() else {
                    lacks("a cache of another version");
                    continue;
                };
                let waiting = &mut |_| {};
                let stop = || opened.cancel.is_cancelled();
                let lock = opened.store.lock_shared(LockKind::CacheMount, &key.0, &stop, waiting);
                locks.push(lock.map_err(|e| Failure::of(&e).named("lock a cache mount"))?);
                let directory = opened.store.cache_mount(&key, id).map_err(|e| Failure::of(&e))?;
                MountKind::Bind { source: directory.join(LayerPath::clean(source).as_path()), readonly: *readonly }
            }
            Shows::Step { step, source, writable } => {
                let ids = step.map(|at| note.layers(at)).unwrap_or_default();
                if !all_here(opened, &ids).map_err(|e| Failure::of(&e))? {
                    lacks("files that are not in the store any more");
                    continue;
                }
                let place = scratch.path().join(number.to_string());
                fs_err::create_dir(&place).map_err(|e| Failure::of(&e))?;
                let mut lowers = opened.layers.lowers(&ids).map_err(|e| Failure::of(&e))?;
                if lowers.is_empty() {
                    let empty = place.join("empty");
                    fs_err::create_dir(&empty).map_err(|e| Failure::of(&e))?;
                    lowers.push(empty);
                }
                let writes = place.join("writes");
                fs_err::create_dir(&writes).map_err(|e| Failure::of(&e))?;
                MountKind::Stack { lowers, subpath: source.clone(), scratch: writable.then_some(writes) }
            }
        };
        list.push(Mount { target: target.clone(), kind });
    }
    Ok(Again { list, missing, _locks: locks, _scratch: scratch })
}
