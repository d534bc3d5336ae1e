//! What is written down about a build so that a shell can be opened later where a step of it began or ended.
//!
//! One note for each Dockerfile and context, and the name of the last. Layers are named, not kept: they go when the store is
//! tidied. Values of ARGs that were given are secrets for all we know, so only their names are noted; what the Dockerfile itself says is
//! no secret. Of mounts it is noted what can be mounted again.

use std::collections::BTreeMap;

use rbuild_cache::digest::{Blake3, LayerId};
use rbuild_cache::{Kind, Store};
use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::catalog::Image;
use crate::engine::{self, Finished};
use crate::plan::graph::{From, Mount, MountKind, Op, Plan, Run, StepId};

/// Name of the note of the last build; its content is the name of another.
const LAST: &str = "shell-last";

/// A build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildNote {
    /// Its steps, each after those it stands on.
    pub steps: Vec<StepNote>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepNote {
    /// Its shown name.
    pub name: String,
    /// First and last line.
    pub lines: (u32, u32),
    /// What it is for.
    pub platform: String,
    /// The step it stands on, by its place in the note.
    pub parent: Option<usize>,
    /// What it adds: one layer; all of them for a base image; nothing if it was not done.
    pub layers: Vec<LayerId>,
    /// It was done.
    pub done: bool,
    /// How its process was started, if it is one.
    pub process: Option<ProcessNote>,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessNote {
    /// Variables whose values may be told.
    pub env: Vec<(String, String)>,
    /// Names of the others.
    pub untold: Vec<String>,
    /// In the order to be mounted.
    #[serde(default)]
    pub mounts: Vec<MountNote>,
    /// Working directory.
    pub cwd: String,
    /// User as written.
    pub user: String,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountNote {
    /// Absolute path.
    pub target: String,
    /// What is there.
    pub shows: Shows,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shows {
    /// Files of a step, by its place in the note; of an empty tree.
    Step {
        /// The step.
        step: Option<usize>,
        /// Path in it.
        source: String,
        /// What is written is thrown away.
        writable: bool,
    },
    /// A cache of the store.
    Cache {
        /// Name of its directory, in hexadecimal digits.
        key: String,
        /// Its ID.
        id: String,
        /// Path in it.
        source: String,
        /// Cannot be written to.
        readonly: bool,
    },
    /// A tmpfs.
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        /// Cannot be written to.
        readonly: bool,
    },
    /// Nothing that is kept, in words.
    Nothing(String),
}

impl MountNote {
    fn of(mount: &Mount, place: &dyn Fn(StepId) -> usize) -> Self {
        let nothing = |what: &str| Shows::Nothing(what.to_owned());
        let shows = match &mount.kind {
            MountKind::Bind { from: From::Context(_), .. } => nothing("files of a context"),
            MountKind::Bind { from, source, writable } => {
                let step = match from {
                    From::Step(id) => Some(place(*id)),
                    From::Scratch | From::Context(_) => None,
                };
                Shows::Step { step, source: source.clone(), writable: *writable }
            }
            MountKind::Cache { source, readonly, .. } => match engine::lasting_cache(&mount.kind) {
                Some((key, id)) => {
                    let (id, source) = (id.to_owned(), source.clone());
                    Shows::Cache { key: key.to_string(), id, source, readonly: *readonly }
                }
                None => nothing("a private cache, or one that begins with files"),
            },
            MountKind::Tmpfs { size, readonly } => Shows::Tmpfs { size: *size, readonly: *readonly },
            MountKind::Secret { .. } => nothing("a secret"),
            MountKind::Ssh { .. } => nothing("an ssh agent"),
        };
        Self { target: mount.target.clone(), shows }
    }
}

impl ProcessNote {
    fn of(run: &Run, given: &BTreeMap<String, Option<String>>, place: &dyn Fn(StepId) -> usize) -> Self {
        // A value may be made of another.
        let told = |name: &String, value: &str| {
            let mut secret = given.values().flatten().filter(|given| !given.is_empty());
            !run.args.contains(name) || !given.contains_key(name) && !secret.any(|given| value.contains(given.as_str()))
        };
        let (env, untold): (Vec<_>, Vec<_>) = run.env.iter().cloned().partition(|(name, value)| told(name, value));
        let untold = untold.into_iter().map(|(name, _)| name).collect();
        let mut mounts: Vec<MountNote> = run.mounts.iter().map(|mount| MountNote::of(mount, place)).collect();
        mounts.sort_by_key(|mount| mount.target.matches('/').count());
        Self { env, untold, mounts, cwd: run.cwd.clone(), user: run.user.clone() }
    }
}

impl BuildNote {
    /// The steps of a plan; `given` are the build arguments of the command line.
    pub(super) fn of<'i>(
        plan: &Plan,
        finished: &Finished,
        images: &dyn Fn(&str) -> Option<&'i Image>,
        given: &BTreeMap<String, Option<String>>,
    ) -> Self {
        let mut note = Self::default();
        let order = petgraph::algo::toposort(&plan.steps, None).expect("the graph is acyclic: plan checked");
        let place = |id: StepId| order.iter().position(|other| *other == id).unwrap_or_default();
        for id in &order {
            let step = &plan.steps[*id];
            let report = finished.steps.get(id);
            let layers = match &step.op {
                Op::Image(base) => images(&base.handle).map(Image::layer_ids).unwrap_or_default(),
                Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => {
                    report.and_then(|report| report.layer).map(|layer| layer.id).into_iter().collect()
                }
            };
            let process = match &step.op {
                Op::Run(run) => Some(ProcessNote::of(run, given, &place)),
                Op::Image(_) | Op::Copy(_) | Op::Workdir(_) => None,
            };
            note.steps.push(StepNote {
                name: step.name.clone(),
                lines: (step.lines.first, step.lines.last),
                platform: step.platform.clone(),
                parent: step.parent.map(place),
                layers,
                done: report.is_some(),
                process,
            });
        }
        note
    }

    /// The steps of another platform come after those that are there.
    pub(super) fn append(&mut self, other: Self) {
        let first = self.steps.len();
        self.steps.extend(other.steps.into_iter().map(|mut step| {
            step.parent = step.parent.map(|at| first + at);
            for mount in step.process.iter_mut().flat_map(|process| &mut process.mounts) {
                if let Shows::Step { step: Some(at), .. } = &mut mount.shows {
                    *at += first;
                }
            }
            step
        }));
    }

    /// The step to look at: the one at `line`, else the one that was not done, else the last.
    pub fn step(&self, line: Option<u32>) -> Option<usize> {
        match line {
            Some(line) => self.steps.iter().position(|step| (step.lines.0..=step.lines.1).contains(&line)),
            None => self.steps.iter().position(|step| !step.done).or(self.steps.len().checked_sub(1)),
        }
    }

    /// The layers of the root that a step left, or began with if it was not done, from the bottom.
    pub fn layers(&self, at: usize) -> Vec<LayerId> {
        let mut chain = Vec::new();
        let mut next = Some(at);
        while let Some(at) = next {
            chain.push(at);
            next = self.steps[at].parent;
        }
        chain.into_iter().rev().flat_map(|at| self.steps[at].layers.iter().copied()).collect()
    }

    /// How a process is started there: as the step's own, else that of the nearest step below or above it.
    pub fn process(&self, at: usize) -> ProcessNote {
        let mut next = Some(at);
        while let Some(at) = next {
            if let Some(process) = &self.steps[at].process {
                return process.clone();
            }
            next = self.steps[at].parent;
        }
        let above = self.steps.iter().filter(|step| step.parent == Some(at)).find_map(|step| step.process.clone());
        above.unwrap_or_else(|| ProcessNote { cwd: "/".to_owned(), ..ProcessNote::default() })
    }
}

fn name(project: &str) -> String {
    format!("shell-{}", Blake3::of(project.as_bytes()))
}

/// Writes the note of a build.
pub(super) fn write(store: &Store, project: &str, note: &BuildNote) -> Result<(), BuildError> {
    let name = name(project);
    let bytes = serde_json::to_vec(note).expect("plain data serialises");
    let put = |name: &str, bytes: &[u8]| {
        if store.get(Kind::History, name)?.as_deref() == Some(bytes) {
            return Ok(());
        }
        store.put(Kind::History, name, bytes)
    };
    put(&name, &bytes)
        .and_then(|()| put(LAST, name.as_bytes()))
        .map_err(|e| BuildError::world("write the build's history", &e))
}

/// The note of the last build of `project`, or of the last build of all.
pub fn read(store: &Store, project: Option<&str>) -> Result<Option<BuildNote>, rbuild_cache::StoreError> {
    let name = match project {
        Some(project) => Some(name(project)),
        None => store.get(Kind::History, LAST)?.and_then(|bytes| String::from_utf8(bytes).ok()),
    };
    let Some(name) = name else { return Ok(None) };
    Ok(store.get(Kind::History, &name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(line: u32, parent: Option<usize>, done: bool, process: Option<&str>) -> StepNote {
        let process = process.map(|cwd| ProcessNote { cwd: cwd.to_owned(), ..ProcessNote::default() });
        let layers = if done { vec![LayerId(Blake3::of(&line.to_le_bytes()))] } else { Vec::new() };
        StepNote { name: String::new(), lines: (line, line), platform: String::new(), parent, layers, done, process }
    }

    #[test]
    fn steps_are_found_by_line_and_stand_on_others() {
        let steps = vec![
            step(1, None, true, None),
            step(2, Some(0), true, Some("/a")),
            step(3, Some(1), true, None),
            step(5, Some(2), false, Some("/b")),
        ];
        let note = BuildNote { steps };
        assert_eq!((note.step(Some(2)), note.step(Some(4)), note.step(None)), (Some(1), None, Some(3)));
        assert_eq!((note.layers(0).len(), note.layers(2).len(), note.layers(3).len()), (1, 3, 3));
        let cwd = |at: usize| note.process(at).cwd;
        assert_eq!((cwd(0), cwd(1), cwd(2), cwd(3)), ("/a".into(), "/a".into(), "/a".into(), "/b".into()));
        assert_eq!(BuildNote::default().step(None), None);
    }
}
