//! Earlier records of the same place in the same Dockerfile: what `explain` compares with and the scheduler guesses from.
//!
//! Each step has three *places*: its ordinal in the stage and its text, both within one project (Dockerfile and context), and its
//! text alone, for the same project in another directory (CI checks out where it likes). A place is a small file listing the
//! last keys seen there. Losing one costs an explanation, never a result.

use std::time::Duration;

use rbuild_cache::Kind;
use rbuild_cache::digest::{Blake3, KeyHasher, StepKey};
use serde::{Deserialize, Serialize};

use super::explain::{Listing, MissReason, difference, distance};
use super::record::{Facts, KEY_VERSION, ROOT, StepRecord};
use super::step::Job;
use super::{Engine, StepError};
use crate::plan::graph::{Op, Plan, StepId};

/// Keys kept per place.
const KEPT: usize = 6;
/// What a step that makes files itself is assumed to take.
const FILE_STEP: Duration = Duration::from_millis(1);

/// The last keys seen at a place, newest last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place(Vec<StepKey>);

/// A step's shown text without `[stage 2/5] `.
pub(super) fn plain_name(name: &str) -> &str {
    name.split_once("] ").map_or(name, |(_, text)| text)
}

/// The record under `key`, whether or not its layer is still there.
pub(super) fn record(engine: &Engine<'_>, key: StepKey) -> Option<StepRecord> {
    let bytes = engine.store.get(Kind::Record, &key.to_string()).ok()??;
    serde_json::from_slice(&bytes).ok()
}

fn places(engine: &Engine<'_>, plan: &Plan, id: StepId) -> [String; 3] {
    let step = &plan.steps[id];
    let ordinal =
        plan.steps.node_indices().take_while(|n| *n != id).filter(|n| plan.steps[*n].stage == step.stage).count();
    let name = |project: &str, stage: &str, what: &str, value: &str| {
        let mut hasher = KeyHasher::new("place", KEY_VERSION);
        hasher.text(project).text(stage).text(what).text(value);
        format!("place-{}", hasher.finish())
    };
    let (project, text) = (engine.options.project.as_str(), plain_name(&step.name));
    [
        name(project, &step.stage, "ordinal", &ordinal.to_string()),
        name(project, &step.stage, "text", text),
        name("", "", "text anywhere", text),
    ]
}

fn keys_at(engine: &Engine<'_>, place: &str) -> Place {
    let bytes = engine.store.get(Kind::Fact, place).ok().flatten();
    bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
}

/// Notes that `key` was the step's key in this build.
pub(super) fn remember(job: &Job<'_>, key: StepKey) -> Result<(), StepError> {
    for place in places(job.engine, job.plan, job.id) {
        let mut keys = keys_at(job.engine, &place);
        if keys.0.last() == Some(&key) {
            continue;
        }
        keys.0.retain(|k| *k != key);
        keys.0.push(key);
        let from = keys.0.len().saturating_sub(KEPT);
        let bytes = serde_json::to_vec(&keys.0[from..]).expect("plain data serialises");
        job.engine.store.put(Kind::Fact, &place, &bytes).map_err(|e| StepError::world("write to the store", &e))?;
    }
    Ok(())
}

/// Why a step with these facts has no result yet: compared with the nearest earlier record.
pub(super) fn why(job: &Job<'_>, facts: &Facts, key: StepKey) -> MissReason {
    if job.step.no_cache {
        return MissReason::Forced;
    }
    let [ordinal, text, anywhere] =
        places(job.engine, job.plan, job.id).map(|place| keys_at(job.engine, &place).0.into_iter().rev().collect());
    let here: Vec<StepKey> = [ordinal, text].concat();
    let anywhere: Vec<StepKey> = anywhere;
    if record(job.engine, key).is_some() || here.contains(&key) || anywhere.contains(&key) {
        return MissReason::ResultGone;
    }
    let alike = |record: &StepRecord| record.facts.value("op") == facts.value("op");
    let nearest = |records: &mut dyn Iterator<Item = StepRecord>| {
        records.filter(alike).min_by_key(|record| distance(&record.facts, facts))
    };
    let of = |keys: Vec<StepKey>| keys.into_iter().filter_map(|k| record(job.engine, k));
    let text = plain_name(&job.step.name);
    let elsewhere = job.engine.elsewhere.known().records.values().filter(|r| r.step == text).cloned();
    let nearest = nearest(&mut of(here)).or_else(|| nearest(&mut of(anywhere).chain(elsewhere)));
    let Some(nearest) = nearest else { return MissReason::FirstBuild };
    match difference(&nearest.facts, facts, &|value| listing(job.engine, value)) {
        Some(MissReason::Changed { input, .. }) if input == ROOT => root_change(job, &nearest.root),
        Some(reason) => reason,
        None => MissReason::FirstBuild,
    }
}

/// Which step made the first layer that is another one than in an earlier root.
fn root_change(job: &Job<'_>, before: &[String]) -> MissReason {
    let (now, mut steps) = (job.parent.marks(), Vec::new());
    let mut at = job.step.parent;
    while let Some(id) = at {
        steps.push(id);
        at = job.plan.steps[id].parent;
    }
    let name = |id: StepId| plain_name(&job.plan.steps[id].name).to_owned();
    // From the base on, each step has one layer; the base has the others.
    let base = steps.iter().position(|id| matches!(job.plan.steps[*id].op, Op::Image(_)));
    let made = &steps[..base.unwrap_or(steps.len())];
    let below = now.len().saturating_sub(made.len());
    let same = now.iter().zip(before).take_while(|(now, before)| now == before).count();
    match (same.checked_sub(below), base) {
        // Results inside an image do not say what they stood on.
        _ if before.is_empty() => {}
        (None, Some(base)) => return MissReason::Root { after: name(steps[base]) },
        (Some(n), _) if n < made.len() => return MissReason::Root { after: name(made[made.len() - 1 - n]) },
        (None, None) | (Some(_), _) => return MissReason::Removed { input: "a step before it".to_owned() },
    }
    let parent = job.step.parent.map_or_else(|| "its root".to_owned(), name);
    MissReason::Root { after: parent }
}

/// How long the step took last time.
pub(super) fn expected(engine: &Engine<'_>, plan: &Plan, id: StepId) -> Option<Duration> {
    let Op::Run(_) = plan.steps[id].op else { return Some(FILE_STEP) };
    let record = places(engine, plan, id)
        .iter()
        .find_map(|place| keys_at(engine, place).0.last().and_then(|k| record(engine, *k)))?;
    Some(Duration::from_millis(record.millis))
}

fn listing_name(value: &str) -> String {
    format!("listing-{}", Blake3::of(value.as_bytes()))
}

/// Keeps the files behind a content digest for later explanations.
pub(super) fn keep_listing(engine: &Engine<'_>, value: &str, listing: &Listing) -> Result<(), StepError> {
    if engine.store.contains(Kind::Fact, &listing_name(value)).unwrap_or(false) {
        return Ok(());
    }
    let bytes = serde_json::to_vec(listing).expect("plain data serialises");
    engine.store.put(Kind::Fact, &listing_name(value), &bytes).map_err(|e| StepError::world("write to the store", &e))
}

fn listing(engine: &Engine<'_>, value: &str) -> Option<Listing> {
    let bytes = engine.store.get(Kind::Fact, &listing_name(value)).ok()??;
    serde_json::from_slice(&bytes).ok()
}
