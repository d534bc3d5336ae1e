//! One step: key, lookup, and on a miss the work under a lock, then the record. The same path for every kind of step.
//!
//! Knows the order of things, not what a RUN or COPY is.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rbuild_cache::digest::{LayerId, StepKey};
use rbuild_cache::{Kind, LockKind};

use super::drive::{Memo, StepReport};
use super::elsewhere::Need;
use super::explain::{Listing, MissReason};
use super::record::{Facts, ROOT, StepLayer, StepRecord};
use super::stack::{Stack, StackLayer};
use super::{Engine, StepError, copy, earlier, run, workdir};
use crate::event::{Outcome, Stream, Vertex};
use crate::plan::graph::{BaseImage, From, Op, Plan, Step, StepId};

/// What a step works with.
pub(super) struct Job<'a> {
    pub(super) engine: &'a Engine<'a>,
    pub(super) plan: &'a Plan,
    pub(super) id: StepId,
    pub(super) step: &'a Step,
    /// The root it starts from.
    pub(super) parent: Stack,
    pub(super) inputs: &'a BTreeMap<StepId, Arc<StepReport>>,
    pub(super) vertex: &'a Vertex,
    pub(super) priority: u64,
}

/// A step as the common path needs it: what its key is made of, and how it is done.
pub(super) trait Work {
    /// What is known after the exact inputs were looked at, handed on to `make`.
    type Prepared;
    /// Facts that name whole inputs and cost next to nothing; `None` when they are the exact ones.
    fn cheap(&self, job: &Job<'_>) -> Result<Option<Facts>, StepError>;
    /// The facts that are the key, with the file listings behind them.
    fn exact(&self, job: &Job<'_>) -> Result<(Facts, Self::Prepared), StepError>;
    /// The files behind digests among the facts, for explanations.
    fn listings<'p>(&self, prepared: &'p Self::Prepared) -> Vec<&'p (String, Listing)>;
    /// Does it.
    fn make(&self, job: &Job<'_>, prepared: Self::Prepared) -> Result<StepLayer, StepError>;
}

/// Does one step and tells how it went. The vertex is there once the step was shown.
pub(super) fn perform(
    engine: &Engine<'_>,
    plan: &Plan,
    id: StepId,
    inputs: &BTreeMap<StepId, Arc<StepReport>>,
    priority: u64,
) -> (Option<Vertex>, Result<StepReport, StepError>) {
    let step = &plan.steps[id];
    if let Op::Image(base) = &step.op {
        let stack = Stack::of_base(base);
        if engine.bases.present(base) {
            let vertex = engine.progress.vertex(step.name.clone(), &[]);
            vertex.start();
            vertex.finish(Outcome::Done);
        }
        let report = StepReport { stack, layer: None, memo: None, cached: true, reason: None, millis: 0, created: 0 };
        return (None, Ok(report));
    }
    let parent = step.parent.and_then(|p| inputs.get(&p)).map(|r| r.stack.clone()).unwrap_or_default();
    let vertex = engine.progress.vertex(step.name.clone(), &[]);
    let job = Job { engine, plan, id, step, parent, inputs, vertex: &vertex, priority };
    let begun = Instant::now();
    let given_up = engine.given_up();
    let damaged = engine.damaged.load(Ordering::Relaxed);
    let work = || match &step.op {
        Op::Image(_) => unreachable!("handled above"),
        Op::Run(op) => job.memoized(&run::RunWork(op)),
        Op::Copy(op) => job.memoized(&copy::CopyWork::new(op)),
        Op::Workdir(op) => job.memoized(&workdir::WorkdirWork(op)),
    };
    let outcome = match work() {
        // Nothing was recorded under the key of files that are no more. Whoever saves a file during a build does so once.
        Err(StepError::Changed(what)) => {
            vertex.log(Stream::Stderr, format!("{what}; reading it again\n").as_bytes());
            work()
        }
        other => other,
    };
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let outcome = outcome.map(|Memoized { memo, reason }| StepReport {
        stack: job.parent.with(memo.record.layer),
        layer: Some(memo.record.layer),
        cached: reason.is_none(),
        reason,
        millis,
        created: memo.record.created,
        memo: Some(Arc::new(memo)),
    });
    // Whatever failed while a layer was given up may have failed because of it.
    let outcome = outcome.map_err(|error| match error {
        error @ StepError::Cancelled(_) => error,
        error if engine.given_up() > given_up => StepError::Lost(error.to_string()),
        error => error,
    });
    // What is lost elsewhere was said by whoever tried to fetch it.
    if let Err(StepError::Lost(text)) = &outcome
        && engine.damaged.load(Ordering::Relaxed) > damaged
    {
        vertex.log(Stream::Stderr, format!("{text}\n").as_bytes());
    }
    if let Ok(report) = &outcome
        && let Some(memo) = &report.memo
        && report.cached
        && !engine.shown.is_first(shown_name(memo.key, step))
    {
        return (Some(vertex), outcome);
    }
    vertex.finish(match &outcome {
        Ok(report) if report.cached => Outcome::Cached,
        Ok(_) => Outcome::Done,
        Err(StepError::Cancelled(_) | StepError::Lost(_)) => Outcome::Canceled,
        Err(error) => Outcome::Error(error.to_string()),
    });
    (Some(vertex), outcome)
}

/// What a step counts as shown by. Named for the platform it is for, it is shown for each.
fn shown_name(key: StepKey, step: &Step) -> String {
    format!("{key} {}", step.name)
}

/// A step's result and where it came from.
struct Memoized {
    memo: Memo,
    /// Why it was worked; `None` if an earlier result was taken.
    reason: Option<MissReason>,
}

impl Memoized {
    fn taken(key: StepKey, alias: Option<String>, record: StepRecord) -> Self {
        Self { memo: Memo { key, alias, record }, reason: None }
    }
}

impl Job<'_> {
    /// The earlier result, or the work; with the reason when it was worked.
    fn memoized<W: Work>(&self, work: &W) -> Result<Memoized, StepError> {
        self.engine.cancel.check()?;
        let cheap = work.cheap(self)?.map(|facts| facts.input_key().to_string());
        if let Some(alias) = &cheap
            && !self.step.no_cache
            && let Some((key, record)) = self.alias(alias)
        {
            return Ok(Memoized::taken(key, cheap, record));
        }
        let (facts, prepared) = work.exact(self)?;
        let key = facts.step_key();
        let keys: Vec<StepKey> =
            std::iter::once(key).chain(facts.unflattened().map(|facts| facts.step_key())).collect();
        if let Some((key, record)) = self.taken(&keys, cheap.as_deref())? {
            return Ok(Memoized::taken(key, cheap, record));
        }
        let _lock = self.lock(key)?;
        if let Some((key, record)) = self.taken(&keys, cheap.as_deref())? {
            return Ok(Memoized::taken(key, cheap, record));
        }
        for (digest, listing) in work.listings(&prepared) {
            earlier::keep_listing(self.engine, digest, listing)?;
        }
        let reason = earlier::why(self, &facts, key);
        self.engine.shown.is_first(shown_name(key, self.step));
        self.vertex.start();
        if self.engine.options.explain {
            self.vertex.log(Stream::Stderr, format!("rebuilt: {reason}\n").as_bytes());
        }
        let begun = Instant::now();
        let (mut layer, mut created) = (work.make(self, prepared)?, self.engine.options.now);
        if let Some(older) = self.hit(key)
            && older.layer.means(&layer)
            && self.engine.usable(&older.layer.id)
        {
            // Early cut-off: the same files (and chosen times) as before, so the older layer stays and with it times and digests.
            (layer, created) = (older.layer, older.created);
        }
        let root = if facts.value(ROOT).is_some() { self.parent.marks() } else { Vec::new() };
        let record = StepRecord {
            layer,
            root,
            step: earlier::plain_name(&self.step.name).to_owned(),
            facts,
            created,
            millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            flattened: self.engine.options.flattened,
        };
        let bytes = serde_json::to_vec(&record).expect("plain data serialises");
        self.put(Kind::Record, &key.to_string(), &bytes)?;
        if let Some(alias) = &cheap {
            self.put(Kind::Alias, alias, key.to_string().as_bytes())?;
        }
        earlier::remember(self, key)?;
        Ok(Memoized { memo: Memo { key, alias: cheap, record }, reason: Some(reason) })
    }

    /// The recorded layer under the first of some keys that has one, with the alias pointing at it from now on.
    fn taken(&self, keys: &[StepKey], alias: Option<&str>) -> Result<Option<(StepKey, StepRecord)>, StepError> {
        if self.step.no_cache {
            return Ok(None);
        }
        let Some((key, record)) = keys.iter().find_map(|key| Some((*key, self.hit(*key)?))) else { return Ok(None) };
        if let Some(alias) = alias {
            self.put(Kind::Alias, alias, key.to_string().as_bytes())?;
        }
        earlier::remember(self, key)?;
        Ok(Some((key, record)))
    }

    /// The record under `key` if its layer can still be had. A damaged record counts as none. One from elsewhere is kept, so
    /// that it is there when its layer has been fetched.
    pub(super) fn hit(&self, key: StepKey) -> Option<StepRecord> {
        let here = earlier::record(self.engine, key);
        if let Some(record) = here.filter(|record| self.engine.attainable(&record.layer.id)) {
            return Some(record);
        }
        let record = self.engine.elsewhere.known().records.get(&key)?;
        if !self.engine.attainable(&record.layer.id) {
            return None;
        }
        let bytes = serde_json::to_vec(record).expect("plain data serialises");
        self.put(Kind::Record, &key.to_string(), &bytes).ok()?;
        Some(record.clone())
    }

    /// What the name of whole inputs leads to.
    fn alias(&self, name: &str) -> Option<(StepKey, StepRecord)> {
        let bytes = self.engine.store.get(Kind::Alias, name).ok().flatten();
        let here = bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok());
        let elsewhere = self.engine.elsewhere.known().aliases.get(name).copied();
        here.into_iter().chain(elsewhere).find_map(|key| Some((key, self.hit(key)?)))
    }

    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<(), StepError> {
        self.engine.store.put(kind, name, bytes).map_err(|e| StepError::world("write to the store", &e))
    }

    /// One builder of a key at a time, across processes; says for whom it waits.
    fn lock(&self, key: StepKey) -> Result<rbuild_cache::LockGuard, StepError> {
        let cancel = self.engine.cancel.clone();
        let mut told = false;
        self.engine
            .store
            .lock(LockKind::Step, &key.0.0, &|| cancel.is_cancelled(), &mut |pid| {
                // Steps of this build (for another platform) need no remark.
                if !told && pid != Some(std::process::id()) {
                    told = true;
                    let who = pid.map_or_else(|| "another process".to_owned(), |p| format!("process {p}"));
                    self.vertex
                        .log(Stream::Stderr, format!("waiting for {who}, which builds the same step\n").as_bytes());
                }
            })
            .map_err(|error| {
                if self.engine.cancel.is_cancelled() {
                    StepError::Cancelled(crate::cancel::Cancelled)
                } else {
                    StepError::world("lock the step", &error)
                }
            })
    }

    /// The root of an input.
    pub(super) fn stack_of(&self, from: &From) -> Stack {
        match from {
            From::Step(id) => self.inputs.get(id).map(|r| r.stack.clone()).unwrap_or_default(),
            From::Scratch | From::Context(_) => Stack::default(),
        }
    }
}

impl Engine<'_> {
    /// The layers of a stack, from the bottom; what is needed of them is fetched if it is not in the store.
    pub(super) fn layer_ids(&self, plan: &Plan, stack: &Stack, need: Need) -> Result<Vec<LayerId>, StepError> {
        let mut ids = Vec::with_capacity(stack.layers().len());
        for layer in stack.layers() {
            ids.push(match layer {
                StackLayer::Built(layer) => layer.id,
                StackLayer::Base { base, index } => self.base_layers(plan, base)?[*index],
            });
        }
        self.ensure(&ids, need)?;
        self.check_readable(stack.built().iter().map(|layer| layer.id))?;
        Ok(ids)
    }

    /// Makes sure that the entries of layers can be read. What is damaged is given up, so that the step that makes it is done again.
    pub fn check_readable(&self, ids: impl Iterator<Item = LayerId>) -> Result<(), StepError> {
        for id in ids {
            if self.usable(&id) && !self.layers.is_readable(&id).map_err(|e| StepError::world("read a layer", &e))? {
                let text = format!("layer {id} is damaged in the store; the step that makes it is run again");
                return Err(self.lost_here(text));
            }
        }
        Ok(())
    }

    /// The layers of a base image, asked for once a build. Whoever needs them first waits for them, and so does everybody else.
    fn base_layers(&self, plan: &Plan, base: &BaseImage) -> Result<Arc<Vec<LayerId>>, StepError> {
        let cell = {
            let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            fetched.entry(base.handle.clone()).or_default().clone()
        };
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layers) = cell.as_ref() {
            return Ok(layers.clone());
        }
        let name = plan
            .steps
            .node_weights()
            .find(|step| matches!(&step.op, Op::Image(b) if b.handle == base.handle))
            .map_or_else(|| format!("pull {}", base.reference), |step| step.name.clone());
        let silent = self.bases.present(base);
        let progress = if silent { crate::event::Progress::silent() } else { self.progress.clone() };
        let vertex = progress.vertex(name, &[]);
        vertex.start();
        let layers = self.bases.layers(base, &vertex, self.cancel);
        vertex.finish(match &layers {
            Ok(_) => Outcome::Done,
            Err(StepError::Cancelled(_)) => Outcome::Canceled,
            Err(error) => Outcome::Error(error.to_string()),
        });
        let layers = Arc::new(layers?);
        *cell = Some(layers.clone());
        Ok(layers)
    }

    /// Notes that a layer of the store was damaged and is gone.
    pub(super) fn lost_here(&self, text: String) -> StepError {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        StepError::Lost(text)
    }

    /// How many layers were given up, here and elsewhere.
    pub(super) fn given_up(&self) -> usize {
        self.elsewhere.given_up() + self.damaged.load(Ordering::Relaxed)
    }

    /// Whether a layer is in the store in a form from which all others can be made.
    pub(super) fn usable(&self, id: &LayerId) -> bool {
        self.layers.record(id).ok().flatten().is_some_and(|record| self.layers.has_form(&record).unwrap_or(false))
    }

    /// Whether the layers of `base` were needed in this build.
    pub(super) fn was_fetched(&self, base: &BaseImage) -> bool {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&base.handle)
    }
}
