//! The loop that owns all state of a build: starts what is ready, hears what ended, stops at the first failure.
//!
//! Workers only report; every transition happens here, in [`Schedule`]. Finished results stay when another step fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};

use rbuild_cache::digest::{LayerId, StepKey};

use super::explain::MissReason;
use super::record::{StepLayer, StepRecord};
use super::stack::Stack;
use super::{Engine, StepError};
use crate::event::Vertex;
use crate::plan::graph::{Op, Plan, StepId};
use crate::schedule::{self, Schedule};

/// A result and the names it is found under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memo {
    /// Its key.
    pub key: StepKey,
    /// The name of its whole inputs, for steps that have one.
    pub alias: Option<String>,
    /// What is written down about it.
    pub record: StepRecord,
}

/// What a step left behind.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The root after it.
    pub stack: Stack,
    /// Its own layer; base images have none.
    pub layer: Option<StepLayer>,
    /// Its result as it is recorded; base images have none.
    pub memo: Option<Arc<Memo>>,
    /// An earlier result was taken.
    pub cached: bool,
    /// Why it was not.
    pub reason: Option<MissReason>,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// When its layer was made, in seconds since 1970.
    pub created: u64,
}

/// All that was done, and the first failure if there was one.
#[derive(Debug, Default)]
pub struct Finished {
    /// Steps that ended well.
    pub steps: BTreeMap<StepId, StepReport>,
    /// The first step that failed, its vertex and why.
    pub failure: Option<(StepId, Option<Vertex>, StepError)>,
}

/// Stack of a step's thread. A path has at most 2048 parts, and a nested destination is walked part by part; untouched pages
/// cost nothing.
const STACK: usize = 64 << 20;

/// Does all steps of `plan`. When a layer that was a hit turns out to be lost, elsewhere or here, all begins anew without it: what is
/// done by then is found in the store.
pub fn drive(engine: &Engine<'_>, plan: &Plan) -> Finished {
    loop {
        let given_up = engine.given_up();
        let finished = once(engine, plan);
        match &finished.failure {
            Some((_, _, StepError::Lost(_))) if engine.given_up() > given_up => {}
            Some(_) | None => {
                show_untouched_bases(engine, plan);
                return finished;
            }
        }
    }
}

fn once(engine: &Engine<'_>, plan: &Plan) -> Finished {
    let mut schedule = Schedule::new(&plan.steps, |id| super::earlier::expected(engine, plan, id));
    let result = result_steps(plan);
    let mut finished = Finished::default();
    let (report, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        let mut running = 0usize;
        loop {
            while finished.failure.is_none() && !engine.cancel.is_cancelled() {
                let Some(id) = schedule.next() else { break };
                let inputs: BTreeMap<StepId, Arc<StepReport>> = plan
                    .steps
                    .neighbors_directed(id, petgraph::Direction::Incoming)
                    .filter_map(|input| Some((input, Arc::new(finished.steps.get(&input)?.clone()))))
                    .collect();
                let (report, priority) = (report.clone(), schedule.priority(id));
                running += 1;
                let worker = std::thread::Builder::new().name("step".to_owned()).stack_size(STACK);
                let worker = worker.spawn_scoped(scope, move || {
                    let outcome = undying(|| super::step::perform(engine, plan, id, &inputs, priority));
                    // The receiver lives until every worker has reported.
                    let _ = report.send((id, outcome));
                });
                if let Err(error) = worker {
                    running -= 1;
                    schedule.finish(id, schedule::Outcome::Failed);
                    finished.failure = Some((id, None, StepError::world("start a thread", &error)));
                    engine.cancel.cancel();
                }
            }
            if running == 0 {
                break;
            }
            let Ok((id, (vertex, outcome))) = reports.recv() else { break };
            running -= 1;
            match outcome {
                Ok(done) => {
                    schedule.finish(id, schedule::Outcome::Done);
                    // What comes last is exported at once.
                    if let Some(layer) = done.layer.filter(|_| !schedule.is_over()) {
                        compress_ahead(engine, &layer.id, result.contains(&id));
                    }
                    finished.steps.insert(id, done);
                }
                Err(error) => {
                    schedule.finish(id, schedule::Outcome::Failed);
                    let first = finished.failure.is_none() && !matches!(error, StepError::Cancelled(_));
                    if first {
                        let fatal = !matches!(error, StepError::Lost(_));
                        finished.failure = Some((id, vertex, error));
                        if fatal {
                            engine.cancel.cancel();
                        }
                    }
                }
            }
        }
    });
    finished
}

/// The steps whose layers the image will have.
fn result_steps(plan: &Plan) -> BTreeSet<StepId> {
    std::iter::successors(plan.target, |id| plan.steps[*id].parent).collect()
}

/// A layer that a cache has is exported as it is there.
fn compress_ahead(engine: &Engine<'_>, layer: &LayerId, in_result: bool) {
    if !engine.elsewhere.offers(layer) {
        engine.ahead.finished(*layer, in_result);
    }
}

/// What `perform` says of its step. A panic, which is a fault of ours, fails the step: a worker that never reports would let
/// the build wait for ever.
fn undying(
    perform: impl FnOnce() -> (Option<Vertex>, Result<StepReport, StepError>),
) -> (Option<Vertex>, Result<StepReport, StepError>) {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(perform)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panic");
        (None, Err(StepError::refused(format!("internal error of rbuild: {text}"))))
    })
}

/// Base images nobody needed a file of were never shown; they are part of the build all the same.
fn show_untouched_bases(engine: &Engine<'_>, plan: &Plan) {
    for id in plan.steps.node_indices() {
        let step = &plan.steps[id];
        if let Op::Image(base) = &step.op
            && !engine.bases.present(base)
            && !engine.was_fetched(base)
        {
            let vertex = engine.progress.vertex(step.name.clone(), &[]);
            vertex.start();
            vertex.finish(crate::event::Outcome::Cached);
        }
    }
}
