//! Walking and hashing a local context on all cores.
//!
//! Names are listed sorted, directory by directory, so the result comes out in order without a sort over paths; files whose
//! hash is known cost one `stat` relative to their directory. A directory is closed before its subdirectories are entered:
//! threads that help each other out stack up walks, and descriptors are few.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read as _};

use rayon::prelude::*;
use rbuild_cache::digest::Blake3;

use super::Context;
use crate::files::{Dir, FileKind, Name, Stat};
use crate::tar::entry::LayerPath;
use crate::transfer::{Filter, Node, State, TreeError, Verdict, Walked, Want};

/// Fewest names one thread takes at a time.
const NAMES_PER_JOB: usize = 8;
/// Files up to this size are read in one go.
const SMALL: u64 = 128 << 10;
/// Bytes of a large file hashed at a time, by several threads.
const CHUNK: usize = 1 << 20;

thread_local! {
    static SMALL_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A name worth a look, with what the filters say of it.
struct Job {
    name: Name,
    path: LayerPath,
    /// By the ignore file.
    seen: (Verdict, State),
    /// By the walk's filter.
    kept: (Verdict, State),
}

/// What a job came to.
enum Found {
    Nothing,
    One(Walked),
    /// A directory still to be entered, with what the filters say of it.
    Dir(Walked, (Verdict, State), (Verdict, State)),
    Many(Vec<Walked>),
}

struct Walk<'a> {
    context: &'a Context,
    filter: &'a Filter,
    /// Bytes of a path up to where the walk's own paths begin.
    prefix: usize,
}

impl Context {
    /// All below `top` that both the ignore file and `filter` keep.
    pub(super) fn scan(
        &self,
        dir: Dir,
        top: &LayerPath,
        state: &State,
        filter: &Filter,
    ) -> Result<Vec<Walked>, TreeError> {
        let prefix = if top.is_root() { 0 } else { top.as_bytes().len() + 1 };
        Walk { context: self, filter, prefix }.dir(dir, top, state, &State::default())
    }

    /// The children of a directory that are wanted.
    pub(super) fn list(
        &self,
        dir: &Dir,
        path: &LayerPath,
        state: &State,
        want: &Want<'_>,
    ) -> Result<Vec<Node>, TreeError> {
        let names = dir.names().map_err(TreeError::at(path))?;
        let one = |name: &Name| -> Result<Option<Node>, TreeError> {
            let is_dir = name.kind == FileKind::Directory;
            let child = path.join(&name.bytes);
            let (verdict, below) = self.ignored().judge(child.as_bytes(), state);
            if verdict == Verdict::Drop || (verdict == Verdict::Descend && !is_dir) || !want(&name.bytes, is_dir) {
                return Ok(None);
            }
            if verdict == Verdict::Descend && !self.has_kept(&child, &below)? {
                return Ok(None);
            }
            match dir.stat(&name.bytes).map_err(TreeError::at(&child))? {
                Some(stat) => self.node(dir, child, &stat),
                None => Ok(None),
            }
        };
        let found: Result<Vec<_>, _> = names.par_iter().with_min_len(NAMES_PER_JOB).map(one).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// Whether the ignore file keeps anything below the directory `path`.
    pub(super) fn has_kept(&self, path: &LayerPath, state: &State) -> Result<bool, TreeError> {
        let names = self.root.dir(path).and_then(|dir| dir.names()).map_err(TreeError::at(path))?;
        for name in names {
            let child = path.join(&name.bytes);
            let (verdict, below) = self.ignored().judge(child.as_bytes(), state);
            let kept = match verdict {
                Verdict::Keep => true,
                Verdict::Descend => name.kind == FileKind::Directory && self.has_kept(&child, &below)?,
                Verdict::Drop => false,
            };
            if kept {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The hash of a regular file, with what it was when it was hashed.
    pub(super) fn hash(&self, dir: &Dir, name: &[u8], stat: &Stat) -> io::Result<(Stat, Blake3)> {
        if let Some(hash) = self.hashes.get(stat) {
            return Ok((*stat, hash));
        }
        let mut file = dir.file(name)?;
        let mut before = Stat::of(&file)?;
        let mut tries = 0;
        loop {
            let (size, hash) = hash_file(&mut file, before.size)?;
            let after = Stat::of(&file)?;
            let steady = size == after.size && (before.mtime, before.ctime) == (after.mtime, after.ctime);
            if steady {
                self.hashes.put(&after, hash);
            }
            // Something that never stands still is taken as read; the layer writer will see.
            if steady || tries == 1 {
                return Ok((Stat { size, ..after }, hash));
            }
            tries += 1;
            before = after;
            io::Seek::rewind(&mut file)?;
        }
    }
}

impl Walk<'_> {
    fn dir(&self, dir: Dir, path: &LayerPath, seen: &State, kept: &State) -> Result<Vec<Walked>, TreeError> {
        let names = dir.names().map_err(TreeError::at(path))?;
        let jobs: Vec<Job> = names.into_iter().filter_map(|name| self.job(name, path, seen, kept)).collect();
        let listed: Vec<Found> = jobs
            .into_par_iter()
            .with_min_len(NAMES_PER_JOB)
            .map(|job| self.one(&dir, job))
            .collect::<Result<_, _>>()?;
        drop(dir);
        let entered = listed.into_par_iter().with_min_len(1).map(|found| match found {
            Found::Dir(walked, seen, kept) => self.enter(walked, &seen, &kept),
            other @ (Found::Nothing | Found::One(_) | Found::Many(_)) => Ok(other),
        });
        let found: Vec<Found> = entered.collect::<Result<_, _>>()?;
        let count = found.iter().map(|f| match f {
            Found::Nothing => 0,
            Found::One(_) | Found::Dir(..) => 1,
            Found::Many(many) => many.len(),
        });
        let mut out = Vec::with_capacity(count.sum());
        for found in found {
            match found {
                Found::Nothing => {}
                Found::One(one) | Found::Dir(one, ..) => out.push(one),
                Found::Many(many) => out.extend(many),
            }
        }
        Ok(out)
    }

    fn job(&self, name: Name, dir: &LayerPath, seen: &State, kept: &State) -> Option<Job> {
        let path = dir.join(&name.bytes);
        let is_dir = name.kind == FileKind::Directory;
        let passes = |verdict| verdict == Verdict::Keep || (verdict == Verdict::Descend && is_dir);
        let seen = self.context.ignored().judge(path.as_bytes(), seen);
        if !passes(seen.0) {
            return None;
        }
        let kept = self.filter.judge(&path.as_bytes()[self.prefix..], kept);
        passes(kept.0).then_some(Job { name, path, seen, kept })
    }

    fn one(&self, dir: &Dir, job: Job) -> Result<Found, TreeError> {
        let Job { name, path, seen, kept } = job;
        let Some(stat) = dir.stat(&name.bytes).map_err(TreeError::at(&path))? else { return Ok(Found::Nothing) };
        let Some(node) = self.context.node(dir, path, &stat)? else { return Ok(Found::Nothing) };
        let walked = Walked { node, implied: kept.0 != Verdict::Keep };
        Ok(if walked.node.is_dir() { Found::Dir(walked, seen, kept) } else { Found::One(walked) })
    }

    fn enter(&self, walked: Walked, seen: &(Verdict, State), kept: &(Verdict, State)) -> Result<Found, TreeError> {
        let path = &walked.node.entry.path;
        let open = match self.context.root.dir(path) {
            Ok(open) => open,
            Err(e) if crate::files::is_absence(&e) => return Ok(Found::Nothing),
            Err(e) => return Err(TreeError::at(path)(e)),
        };
        let below = self.dir(open, path, &seen.1, &kept.1)?;
        if below.is_empty() {
            // It is there for its own sake, or for something the filter dropped but the ignore file keeps.
            let there = kept.0 == Verdict::Keep && (seen.0 == Verdict::Keep || self.context.has_kept(path, &seen.1)?);
            return Ok(if there { Found::One(walked) } else { Found::Nothing });
        }
        let mut many = Vec::with_capacity(below.len() + 1);
        many.push(walked);
        many.extend(below);
        Ok(Found::Many(many))
    }
}

/// Hashes a file from where it stands to its end; `size` is what it is believed to have.
fn hash_file(file: &mut File, size: u64) -> io::Result<(u64, Blake3)> {
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    if size <= SMALL {
        return SMALL_BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(SMALL as usize, 0);
            loop {
                match file.read(buffer) {
                    Ok(0) => return Ok((total, Blake3(*hasher.finalize().as_bytes()))),
                    Ok(n) => {
                        total += n as u64;
                        hasher.update(&buffer[..n]);
                        // One read usually has it all; asking for the end again costs a call per file.
                        if total == size && n < buffer.len() {
                            return Ok((total, Blake3(*hasher.finalize().as_bytes())));
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        });
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if filled == 0 {
            return Ok((total, Blake3(*hasher.finalize().as_bytes())));
        }
        total += filled as u64;
        hasher.update_rayon(&buffer[..filled]);
    }
}
