//! `build()`: the straight path from a Dockerfile to an image in the store, and the two loops on it.
//!
//! Knows the order of the stations, not their work, and words nothing: `cli` prints what comes back. Going on from the image
//! (push, archives, files) is `export`'s.

mod bases;
mod error;
pub mod notes;
mod reading;
mod resolve;
mod sources;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rbuild_cache::{Kind, Store};
use serde::{Deserialize, Serialize};

pub use error::BuildError;
pub use reading::{faults_of, parse, refuse_other_frontend};
pub use resolve::{Asked, Resolution, resolve, resolve_plan};
pub use sources::missing;
pub use time::newest_in;

use crate::cancel::Cancel;
use crate::catalog::pull::{Policy, Puller};
use crate::catalog::{Image, ImageLayer};
use crate::dockerfile::Lost;
use crate::dockerfile::ast::{Dockerfile, Lint};
use crate::engine::explain::MissReason;
use crate::engine::record::StepLayer;
use crate::engine::shown::Shown;
use crate::engine::slots::Slots;
use crate::engine::stack::{Stack, StackLayer};
use crate::engine::{self, Engine, Finished, Options, StepError};
use crate::event::{Outcome, Progress};
use crate::exchange;
use crate::exec::Executor;
use crate::export::Part;
use crate::fetch::Fetcher;
use crate::image;
use crate::layers::{self, Ahead, Layers};
use crate::oci::platform::Platform;
use crate::plan::graph::{From, Op, Plan, StepId};
use crate::plan::{self, PlanOptions};
use crate::snapshot::{Copied, Snapshots};
use crate::source::Source;
use crate::transfer::Tree;

/// What a build works with; the same for all builds of a process.
#[derive(Debug)]
pub struct World<'a> {
    /// Records, locks, temporary directories.
    pub store: &'a Store,
    /// Layers in their forms.
    pub layers: &'a Layers,
    /// Finds and fetches images.
    pub puller: &'a Puller,
    /// Downloads of ADD.
    pub fetcher: &'a Fetcher,
    /// Runs processes.
    pub executor: &'a dyn Executor,
    /// Makes roots.
    pub snapshots: &'a dyn Snapshots,
    /// Fills new cache mounts.
    pub seeds: Copied,
    /// For waiting on the network.
    pub runtime: &'a tokio::runtime::Handle,
    /// Where progress goes.
    pub progress: &'a Progress,
    /// Stops everything.
    pub cancel: &'a Cancel,
}

/// What to build, as decided.
pub struct Spec<'a> {
    /// The Dockerfile.
    pub source: Arc<Source>,
    /// What the plan depends on.
    pub plan: &'a PlanOptions,
    /// Local contexts by name; `context` is the main one.
    pub contexts: &'a BTreeMap<String, Arc<dyn Tree + Send + Sync>>,
    /// Those of them that need not be fetched.
    pub at_hand: &'a BTreeSet<String>,
    /// When to ask registries.
    pub pull: Policy,
    /// Secrets by id.
    pub secrets: &'a BTreeMap<String, Vec<u8>>,
    /// ssh agent sockets by id.
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// How steps are done.
    pub options: &'a Options,
    /// Caches to look into.
    pub cache_from: &'a [exchange::spec::Source],
    /// What layers are needed as that are only in caches.
    pub form: exchange::Form,
    /// Results go into the images' configs.
    pub inline_cache: bool,
    /// What of the result is wanted compressed.
    pub compressed: layers::Wanted,
    /// How many threads compress at once.
    pub threads: usize,
}

impl std::fmt::Debug for Spec<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec").field("plan", &self.plan).field("options", &self.options).finish_non_exhaustive()
    }
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The images' records, one a platform in the order asked for; not in the catalog yet.
    pub images: Vec<Part>,
    /// Findings about the Dockerfile, in order.
    pub lints: Vec<Lint>,
    /// `SOURCE_DATE_EPOCH` in seconds, if it was given.
    pub epoch: Option<i64>,
    /// What happened to each step, in the order of the plan.
    pub steps: Vec<StepSummary>,
    /// What caches are made of.
    pub results: exchange::Results,
    /// What came from caches.
    pub imported: Arc<exchange::Imported>,
    /// Goes on with the layer it is at while outputs are made.
    _ahead: Ahead,
}

impl Built {
    /// Whether some layer of the images is nowhere but, perhaps, in a cache.
    pub fn only_elsewhere(&self) -> bool {
        let mut layers = self.images.iter().flat_map(|part| &part.image.layers);
        layers.any(|layer| self.imported.is_only_elsewhere(&layer.layer))
    }
}

/// What happened to a step, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Its shown name.
    pub name: String,
    /// An earlier result was taken.
    pub cached: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<MissReason>,
    /// How long it took.
    pub millis: u64,
    /// The step failed or was not reached.
    #[serde(default)]
    pub unfinished: bool,
}

/// Name of the record of the last build's steps.
const LAST_BUILD: &str = "last-build";

/// Builds the image, for each of `platforms` if there are any. Platforms are built side by side; a step that is the same for
/// several is done once, by whoever comes first.
pub fn build(world: &World<'_>, spec: &Spec<'_>, platforms: &[Platform]) -> Result<Built, BuildError> {
    let World { puller, layers, runtime, progress, cancel, .. } = world;
    let caches = exchange::Pending::start(spec.cache_from, platforms, puller, layers, runtime, progress, cancel);
    let file = reading::load(world, spec)?;
    let slots = Slots::new(spec.options.jobs);
    let ahead = Ahead::new(layers, spec.compressed.clone(), spec.threads);
    let shown = Shown::default();
    let common = Common { world, spec, file: &file, slots: &slots, ahead: &ahead, shown: &shown, caches: &caches };
    let results: Vec<Result<One, BuildError>> = match platforms {
        [] | [_] => vec![common.one(spec.plan)],
        several => std::thread::scope(|scope| {
            let plans: Vec<_> = several
                .iter()
                .map(|platform| PlanOptions { target_platform: Some(platform.clone()), ..spec.plan.clone() })
                .collect();
            let running: Vec<_> = plans.into_iter().map(|plan| scope.spawn(move || common.one(&plan))).collect();
            running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        }),
    };
    ahead.close();
    let mut built = Built {
        images: Vec::new(),
        lints: Vec::new(),
        epoch: None,
        steps: Vec::new(),
        results: exchange::Results::default(),
        imported: caches.imported(),
        _ahead: ahead,
    };
    let mut failure = None;
    let mut note = notes::BuildNote::default();
    for result in results {
        match result {
            Ok(one) => {
                note.append(one.note);
                built.epoch = one.epoch;
                built.steps.extend(one.steps);
                built.results.extend(one.results);
                if built.lints.is_empty() {
                    built.lints = one.lints;
                }
                built.images.extend(one.image);
                failure = preferred(failure, one.failure);
            }
            Err(error) => failure = preferred(failure, Some(error)),
        }
    }
    note_last_build(world, &built.steps)?;
    notes::write(world.store, &spec.options.project, &note)?;
    match failure {
        Some(error) => Err(error),
        None => Ok(built),
    }
}

/// Of two failures the first one that is not only the other's consequence.
fn preferred(first: Option<BuildError>, second: Option<BuildError>) -> Option<BuildError> {
    match (first, second) {
        (Some(BuildError::Cancelled(_)), Some(second)) => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    }
}

/// What the builds for several platforms have in common.
#[derive(Clone, Copy)]
struct Common<'a> {
    world: &'a World<'a>,
    spec: &'a Spec<'a>,
    file: &'a Dockerfile,
    slots: &'a Slots,
    ahead: &'a Ahead,
    shown: &'a Shown,
    caches: &'a exchange::Pending,
}

/// What came of one platform; what was done is told even if it failed.
struct One {
    image: Option<Part>,
    lints: Vec<Lint>,
    epoch: Option<i64>,
    steps: Vec<StepSummary>,
    results: exchange::Results,
    note: notes::BuildNote,
    failure: Option<BuildError>,
}

impl Common<'_> {
    fn one(&self, options: &PlanOptions) -> Result<One, BuildError> {
        let Self { world, spec, file, slots, ahead, shown, caches } = *self;
        let (plan, lints, images) = resolve_plan(world, spec, options, file).map_err(|error| {
            sources::beside(spec, error, || plan::wanted_for_certain(file, Lost::default(), options))
        })?;
        show_contexts(world, &plan, shown);
        let faults = sources::refuse_missing(world, spec, &plan.wanted);
        if !faults.is_empty() {
            return Err(BuildError::Dockerfile(faults));
        }
        let bases = bases::Bases { world, images: &images };
        let imported = caches.imported();
        let engine = engine(world, spec, &bases, imported.clone(), slots, ahead, shown);
        let mut finished = drive(&engine, &plan, &imported, spec.form);
        let mut one = One {
            image: None,
            lints,
            epoch: plan.epoch,
            steps: summaries(&plan, &finished),
            results: exchange::Results::default(),
            note: notes::BuildNote::of(&plan, &finished, &|handle| images.get(handle), &options.build_args),
            failure: None,
        };
        if let Some((id, vertex, error)) = finished.failure.take() {
            let lines = plan.steps[id].lines;
            if let Some(vertex) = vertex {
                vertex.excerpt(crate::diagnostic::excerpt(&file.source, lines));
            }
            let lints = std::mem::take(&mut one.lints);
            one.failure = Some(BuildError::Step { file: file.source.clone(), lines, error, lints });
        } else if let Err(cancelled) = world.cancel.check() {
            one.failure = Some(cancelled.into());
        } else {
            let mut image = assemble(&plan, &finished, &images, &|layer| imported.image_layer(layer, spec.form))?;
            one.results.steps = finished.steps.values().filter_map(|report| report.memo.clone()).collect();
            one.results.layers = image.layers.iter().map(|layer| layer.layer).collect();
            one.results.mounts = engine::cache_mounts(&plan);
            exchange::embed(&mut image, spec.inline_cache.then_some(&one.results));
            let platform = image.platform().map_err(|e| BuildError::world("assemble the image", &e))?;
            // What FROM brought; the plan knows how much of it the image still has.
            let base = plan.image.base_layers.min(image.layers.len());
            one.image = Some(Part { platform, image, base });
        }
        Ok(one)
    }
}

/// Does all steps. When a layer of the result is damaged or not to be had from the cache that has it, they are done again
/// without it.
fn drive(engine: &Engine<'_>, plan: &Plan, imported: &exchange::Imported, form: exchange::Form) -> Finished {
    loop {
        let finished = engine::drive(engine, plan);
        let result = plan.target.filter(|_| finished.failure.is_none()).and_then(|id| finished.steps.get(&id));
        let layers = result.map(|report| report.stack.built()).unwrap_or_default();
        // Whoever wants more than names reads the entries; now is the time to find that they cannot be read.
        let readable = match form {
            exchange::Form::Names => Ok(()),
            exchange::Form::Blobs | exchange::Form::Files => engine.check_readable(layers.iter().map(|layer| layer.id)),
        };
        match readable.and_then(|()| imported.secure(&layers, form)) {
            Err(StepError::Lost(_)) => {}
            Ok(()) | Err(_) => return finished,
        }
    }
}

fn engine<'a>(
    world: &'a World<'a>,
    spec: &'a Spec<'a>,
    bases: &'a bases::Bases<'a>,
    elsewhere: Arc<exchange::Imported>,
    slots: &'a Slots,
    ahead: &'a Ahead,
    shown: &'a Shown,
) -> Engine<'a> {
    Engine {
        store: world.store,
        layers: world.layers,
        executor: world.executor,
        snapshots: world.snapshots,
        seeds: world.seeds,
        contexts: spec.contexts,
        bases,
        elsewhere,
        fetcher: world.fetcher,
        secrets: spec.secrets,
        agents: spec.agents,
        options: spec.options,
        progress: world.progress,
        cancel: world.cancel,
        slots,
        ahead,
        shown,
        damaged: std::sync::atomic::AtomicUsize::new(0),
        fetched: Mutex::default(),
    }
}

/// BuildKit sends contexts; we read them in place, and show the line its users look for.
fn show_contexts(world: &World<'_>, plan: &Plan, shown: &Shown) {
    let mut names: Vec<&str> = plan
        .steps
        .node_weights()
        .flat_map(|step| step.op.sources())
        .filter_map(|from| match from {
            From::Context(name) => Some(name.as_str()),
            From::Step(_) | From::Scratch => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        if !shown.is_first(format!("context {name}")) {
            continue;
        }
        let shown = if name == "context" {
            "[internal] load build context".to_owned()
        } else {
            format!("[context {name}] load from client")
        };
        let vertex = world.progress.vertex(shown, &[]);
        vertex.start();
        vertex.finish(Outcome::Done);
    }
}

fn summaries(plan: &Plan, finished: &Finished) -> Vec<StepSummary> {
    let of = |id: StepId| {
        let name = plan.steps[id].name.clone();
        match finished.steps.get(&id) {
            Some(report) => {
                let (cached, reason, millis) = (report.cached, report.reason.clone(), report.millis);
                StepSummary { name, cached, reason, millis, unfinished: false }
            }
            None => StepSummary { name, cached: false, reason: None, millis: 0, unfinished: true },
        }
    };
    plan.steps.node_indices().filter(|id| !matches!(plan.steps[*id].op, Op::Image(_))).map(of).collect()
}

fn note_last_build(world: &World<'_>, steps: &[StepSummary]) -> Result<(), BuildError> {
    let bytes = serde_json::to_vec(steps).expect("plain data serialises");
    world.store.put(Kind::History, LAST_BUILD, &bytes).map_err(|e| BuildError::world("write the build's history", &e))
}

/// What happened in the last build on this store; `None` if there was none.
pub fn last_build(store: &Store) -> Result<Option<Vec<StepSummary>>, rbuild_cache::StoreError> {
    Ok(store.get(Kind::History, LAST_BUILD)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The image's record: its config's bytes and its layers, base layers as they came.
fn assemble(
    plan: &Plan,
    finished: &Finished,
    images: &BTreeMap<String, Image>,
    own: &dyn Fn(&StepLayer) -> ImageLayer,
) -> Result<Image, BuildError> {
    let stack = plan.target.and_then(|id| finished.steps.get(&id)).map_or_else(Stack::default, |r| r.stack.clone());
    let diff_ids: Vec<_> = stack.layers().iter().map(StackLayer::diff_id).collect();
    let created = |id: StepId| {
        let report = finished.steps.get(&id)?;
        Timestamp::from_second(i64::try_from(report.created).ok()?).ok()
    };
    let built = image::Built { diff_ids: &diff_ids, created: &created, epoch: plan.epoch };
    let config = image::assemble(&plan.image, &built).map_err(|e| BuildError::world("assemble the image", &e))?;
    let config = String::from_utf8(config).map_err(|e| BuildError::world("assemble the image", &e))?;
    let layers = stack
        .layers()
        .iter()
        .map(|layer| match layer {
            StackLayer::Base { base, index } => images[&base.handle].layers[*index].clone(),
            StackLayer::Built(layer) => own(layer),
        })
        .collect();
    Ok(Image { config, layers, ..Image::default() })
}
