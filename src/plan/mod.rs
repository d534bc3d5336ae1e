//! Dockerfile, options and facts to a plan: a graph of steps that make files, and the image they end in.
//!
//! Pure. When the config of an image is missing, [`plan`] *returns what it needs* and is called again; it never asks anybody.
//! The way through: `scope` (global ARGs) → `stage` (names) → `reach` (what the target needs) → `fold` (instructions of a
//! stage onto its state, with `run`, `copy`, `config`) → `steps` (the graph). Nothing here knows how a step is run, stored
//! or keyed, except that [`key`] says which facts of a step are its identity.

mod config;
mod copy;
mod env;
mod epoch;
mod expose;
mod facts;
mod fold;
mod gotext;
pub mod graph;
pub mod lint;
mod mount;
mod name;
mod options;
mod paths;
mod reach;
mod remote;
mod run;
mod scope;
mod site;
mod stage;
mod steps;

pub use facts::{Facts, ImageFacts, ImageRequest, Purpose};
pub use options::{NamedContext, NoCache, PlanOptions};

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{Dockerfile, Lint};
use fold::Fold;
use graph::{HistoryDraft, ImageDraft, Plan};
use scope::Globals;
use site::Site;
use stage::Stages;

/// The answer of [`plan`].
#[derive(Debug)]
pub enum Planned {
    /// Everything is known.
    Plan(Plan, Vec<Lint>),
    /// Configs of these images are missing; ask again with them in the facts. ONBUILD triggers may ask for more then.
    Needs(Vec<ImageRequest>),
}

/// Plans the build of one platform. Findings of the parser (`file.lints`) are not repeated in the plan's lints.
pub fn plan(file: &Dockerfile, options: &PlanOptions, facts: &Facts) -> Result<Planned, Vec<Diagnostic>> {
    let mut lints = Vec::new();
    lint::default_base_names(file, options, &mut lints);
    let mut globals = Globals::new(file, options).map_err(one)?;
    let (epoch, options) = epoch::resolve(file, options, &mut globals).map_err(one)?;
    let options = &options;
    let stages = Stages::new(file, options, &globals, &mut lints).map_err(one)?;
    let last = Site::from_line(file, stages.list[stages.list.len() - 1].ast);
    let target = stages.target(options.target.as_deref());
    let target = target.map_err(|text| one(last.fault("unknown-target", text)))?;
    let roots = if options.all_stages { (0..stages.list.len()).collect() } else { vec![target] };
    let reached = reach::reach(roots, file, &stages, options, facts).map_err(one)?;
    if !reached.missing.is_empty() {
        return Ok(Planned::Needs(reached.missing));
    }
    let states = stages.list.iter().map(|_| None).collect();
    let globals = &globals;
    let mut fold = Fold {
        file,
        options,
        facts,
        globals,
        stages: &stages,
        epoch,
        steps: steps::Steps::default(),
        states,
        lints,
    };
    let mut faults = Vec::new();
    for index in &reached.stages {
        let triggers = reached.triggers.get(index).map_or(&[][..], Vec::as_slice);
        if let Err(fault) = fold.stage(*index, triggers) {
            faults.push(fault);
            // Stages that build on this one would only repeat that it failed.
            break;
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut lints = fold.lints;
    lints.sort_by(|a, b| (a.lines, a.rule).cmp(&(b.lines, b.rule)));
    lints.dedup();
    let all: Vec<Lint> = file.lints.iter().chain(&lints).cloned().collect();
    if let Some(text) = lint::violation(lint::check_of_file(file, options).as_ref(), &all) {
        return Err(vec![last.fault("lint-violation", text)]);
    }
    let state = fold.states.into_iter().nth(target).flatten().expect("the target was folded");
    let (steps, renamed) = fold.steps.graph_of(state.tip);
    let mut config = state.config;
    if !options.labels.is_empty() {
        config.config.labels.get_or_insert_default().extend(options.labels.clone());
    }
    config::set_platform(&mut config, options.target_platform.as_ref());
    let renamed_history = |draft: HistoryDraft| HistoryDraft { step: draft.step.map(|step| renamed[&step]), ..draft };
    let image = ImageDraft {
        config,
        base_history: state.base_history,
        base_layers: state.base_layers,
        history: state.history.into_iter().map(renamed_history).collect(),
    };
    Ok(Planned::Plan(Plan { steps, target: state.tip.map(|step| renamed[&step]), image, epoch }, lints))
}

fn one(fault: Diagnostic) -> Vec<Diagnostic> {
    vec![fault]
}
