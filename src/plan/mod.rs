//! Dockerfile, options and facts to a plan: a graph of steps that make files, and the image they end in.
//!
//! Pure. When the config of an image or the time of a source is missing, [`plan`] *returns what it needs* and is called again; it
//! never asks anybody.
//! The way through: `scope` (global ARGs) → `stage` (names) → `reach` (what the target needs) → `base` and `fold`
//! (instructions of a stage onto its state, with `run`, `copy`, `config`) → `steps` (the graph). Nothing here knows how a step is run, stored
//! or keyed, except that [`key`] says which facts of a step are its identity.

pub mod allowed;
mod base;
mod config;
mod copy;
pub mod dump;
mod env;
mod epoch;
mod expose;
mod facts;
mod faults;
mod fold;
mod gotext;
pub mod graph;
pub mod key;
pub mod lint;
mod mount;
mod name;
mod options;
pub mod outline;
mod paths;
mod reach;
mod remote;
mod run;
mod scope;
mod site;
mod stage;
mod steps;
mod svg;
mod wanted;

use std::collections::BTreeSet;
use std::ops::Range;

pub use facts::{Facts, ImageFacts, ImageRequest, Needs, Purpose, SourceTime, TimeRequest, TimeSource};
pub use faults::{all_faults, doubtful_images, faults_without_images, wanted_for_certain};
pub use options::{Ignored, NamedContext, NoCache, PlanOptions};
pub use remote::git_context;
pub use wanted::Wanted;

use crate::diagnostic::{Diagnostic, headline};
use crate::dockerfile::ast::{Dockerfile, Lint};
use crate::dockerfile::lint::{lint_instructions, lint_stages};
use crate::dockerfile::rules::{Pass, Rule, in_order};
use crate::dockerfile::{Lost, Reading};
use epoch::Epoch;
use fold::Fold;
use graph::{HistoryDraft, ImageDraft, Plan};
use outline::Outline;
use reach::Reached;
use scope::Globals;
use stage::Stages;

/// The answer of [`plan`].
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub enum Planned {
    /// Everything is known. The findings are all there are, the parser's among them.
    Plan(Plan, Vec<Lint>),
    /// This is missing; ask again with it in the facts.
    Needs(Needs),
}

/// The answer of [`outline()`].
#[derive(Debug)]
pub enum Outlined {
    /// Everything is known.
    Outline(Outline),
    /// As in [`Planned::Needs`].
    Needs(Needs),
}

/// The answer of [`check`].
#[derive(Debug)]
pub enum Checked {
    /// Everything was looked at.
    Done {
        /// All findings of the rules.
        lints: Vec<Lint>,
        /// Findings of our own rules that nobody asked for: they count for nothing.
        notes: Vec<Lint>,
        /// What would keep the build from being planned.
        faults: Vec<Diagnostic>,
    },
    /// As in [`Planned::Needs`].
    Needs(Needs),
}

/// Plans the build of one platform.
pub fn plan(file: &Dockerfile, options: &PlanOptions, facts: &Facts) -> Result<Planned, Vec<Diagnostic>> {
    let mut lints = Vec::new();
    let inputs = match Inputs::gather(file, options, facts, &mut lints)? {
        Start::Needs(time) => return Ok(Planned::Needs(Needs::Time(time))),
        Start::Ready(inputs) => inputs,
    };
    Ok(match inputs.fold(facts, &mut lints)? {
        Folded::Needs(missing) => Planned::Needs(Needs::Images(missing)),
        Folded::Done(fold, target, reached) => {
            inputs.add_text_lints(&reached, &mut lints);
            inputs.advise(&reached, &mut lints);
            inputs.refuse_lints(&lints)?;
            Planned::Plan(inputs.finish(fold, target), lints)
        }
    })
}

/// Looks for findings and faults (`--check`): without a target in all stages. Findings come out beside faults.
pub fn check(file: &Dockerfile, options: &PlanOptions, facts: &Facts) -> Checked {
    let options = check_options(options);
    let (mut lints, mut notes) = (Vec::new(), None);
    let checked = Inputs::gather(file, &options, facts, &mut lints).and_then(|start| {
        let inputs = match start {
            Start::Needs(time) => return Ok(Some(Needs::Time(time))),
            Start::Ready(inputs) => inputs,
        };
        match inputs.fold(facts, &mut lints)? {
            Folded::Needs(missing) => Ok(Some(Needs::Images(missing))),
            Folded::Done(_, _, reached) => {
                inputs.add_text_lints(&reached, &mut lints);
                notes = Some(inputs.advise(&reached, &mut lints));
                inputs.refuse_lints(&lints).map(|()| None)
            }
        }
    });
    let faults = match checked {
        Ok(Some(missing)) => return Checked::Needs(missing),
        Ok(None) => Vec::new(),
        Err(faults) => faults,
    };
    let notes = notes.unwrap_or_else(|| {
        // It could not be worked out what the target needs; what is wrong with the text can be said nevertheless.
        let (of_text, notes) = check_text(file, &options);
        lints.extend(of_text);
        in_order(&mut lints);
        notes
    });
    Checked::Done { lints, notes, faults }
}

/// Without a target all stages are looked at.
pub fn check_options(options: &PlanOptions) -> PlanOptions {
    let all_stages = options.target.as_deref().is_none_or(str::is_empty);
    PlanOptions { all_stages, ..options.clone() }
}

/// Findings of the rules that need no image, and notes, as in [`Checked::Done`].
pub fn check_without_images(file: &Dockerfile, options: &PlanOptions) -> (Vec<Lint>, Vec<Lint>) {
    let mut lints = Vec::new();
    // Faults were reported before any image was asked for.
    let _ = Inputs::gather(file, options, &Facts::new(), &mut lints);
    let (of_text, notes) = check_text(file, options);
    lints.extend(of_text);
    in_order(&mut lints);
    (lints, notes)
}

/// Findings in a file that could not be read to its end, those that BuildKit reports before it meets the fault.
pub fn check_unreadable(reading: &Reading, options: &PlanOptions) -> Vec<Lint> {
    let file = &reading.file;
    let Some(fault) = headline(&reading.faults).filter(|fault| !fault.is_of_shape()) else { return Vec::new() };
    let end = fault.lines.map_or(u32::MAX, |lines| lines.first);
    let mut lints = lint_stages(file, lint::check_of_file(file, options).as_ref(), &|_| false);
    lints.retain(|lint| match Rule::find(lint.rule).map(|rule| rule.pass) {
        Some(Pass::Lines) => true,
        Some(Pass::Instructions) => lint.lines.first < end,
        Some(Pass::Names | Pass::Casing | Pass::Defaults | Pass::From | Pass::Bases | Pass::Meaning) | None => false,
    });
    in_order(&mut lints);
    lints
}

/// Findings of the rules that look at the text only, and notes.
fn check_text(file: &Dockerfile, options: &PlanOptions) -> (Vec<Lint>, Vec<Lint>) {
    let check = lint::check_of_file(file, options);
    let mut lints = lint_stages(file, check.as_ref(), &|_| true);
    let (warnings, notes) = lint::advise(file, check.as_ref(), &|_| true);
    lints.extend(warnings);
    (lints, notes)
}

/// What a target can be given (`--call=outline`).
pub fn outline(file: &Dockerfile, options: &PlanOptions, facts: &Facts) -> Result<Outlined, Vec<Diagnostic>> {
    let mut lints = Vec::new();
    let inputs = match Inputs::gather(file, options, facts, &mut lints)? {
        Start::Needs(time) => return Ok(Outlined::Needs(Needs::Time(time))),
        Start::Ready(inputs) => inputs,
    };
    Ok(match inputs.fold(facts, &mut lints)? {
        Folded::Needs(missing) => Outlined::Needs(Needs::Images(missing)),
        Folded::Done(fold, target, reached) => {
            inputs.add_text_lints(&reached, &mut lints);
            inputs.advise(&reached, &mut lints);
            inputs.refuse_lints(&lints)?;
            let reads = |stage: usize| {
                let triggers = reached.triggers.get(&stage).into_iter().flatten();
                triggers.flat_map(|trigger| trigger.reads.clone()).collect()
            };
            let declared = &inputs.globals.declared;
            Outlined::Outline(outline::outline(target, &inputs.stages, &fold.seen, declared, &reads))
        }
    })
}

/// What is known before any image is.
struct Inputs<'a> {
    file: &'a Dockerfile,
    options: PlanOptions,
    epoch: Option<i64>,
    globals: Globals,
    /// The values of some global variables are not known.
    in_doubt: bool,
    stages: Stages<'a>,
}

/// How far one comes before any image is asked for.
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
enum Start<'a> {
    Needs(TimeRequest),
    Ready(Inputs<'a>),
}

/// How far folding came.
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
enum Folded<'i> {
    Needs(Vec<ImageRequest>),
    Done(Fold<'i>, usize, Reached),
}

impl<'a> Inputs<'a> {
    fn gather(
        file: &'a Dockerfile,
        options: &PlanOptions,
        facts: &Facts,
        lints: &mut Vec<Lint>,
    ) -> Result<Start<'a>, Vec<Diagnostic>> {
        let (inputs, time, faults) = Self::with_faults(file, options, facts, lints);
        match time {
            _ if !faults.is_empty() => Err(inputs.with_faults_of_folding(faults, facts)),
            Some(time) => Ok(Start::Needs(time)),
            None => Ok(Start::Ready(inputs)),
        }
    }

    /// The inputs as far as there are any, the time they depend on, and the faults of global ARGs, stages and the trees these read.
    fn with_faults(
        file: &'a Dockerfile,
        options: &PlanOptions,
        facts: &Facts,
        lints: &mut Vec<Lint>,
    ) -> (Self, Option<TimeRequest>, Vec<Diagnostic>) {
        let mut faults: Vec<Diagnostic> = lint::build_arg_is_readable(file, options).err().into_iter().collect();
        lint::default_base_names(file, options, lints);
        let (mut globals, fault) = Globals::new(file, options);
        let mut in_doubt = fault.is_some();
        faults.extend(fault);
        let (mut epoch, mut options, mut time) = (None, options.clone(), None);
        if !in_doubt {
            match epoch::resolve(file, &options, facts, &mut globals) {
                Ok(Epoch::Resolved(seconds, with_it)) => (epoch, options) = (seconds, with_it),
                Ok(Epoch::Needs(request)) => time = Some(request),
                Err(fault) => faults.push(fault),
            }
            in_doubt = time.is_some() || !faults.is_empty();
        }
        let (stages, mut of_stages) = Stages::new(file, &options, &globals, lints);
        let lost = Lost { globals: in_doubt, ..Lost::default() };
        of_stages.retain(|fault| !in_doubt || faults::is_certain(fault, lost));
        faults.append(&mut of_stages);
        (Self { file, options, epoch, globals, in_doubt, stages }, time, faults)
    }

    /// The stage to build.
    fn target(&self) -> Result<usize, Diagnostic> {
        self.stages.target(self.options.target.as_deref()).map_err(|text| {
            let names: Vec<&str> = self.file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
            let fault = site::of_file(self.file, "unknown-target", text);
            match names.as_slice() {
                [] => fault.with_help("no stage has a name; FROM image AS name gives one"),
                names => fault.with_help(format!("there are {}", names.join(", "))),
            }
        })
    }

    /// The stages that are wanted for their own sake.
    fn roots(&self, target: usize) -> Range<usize> {
        if self.options.all_stages { 0..self.stages.list.len() } else { target..target + 1 }
    }

    fn reach(&self, roots: Range<usize>, facts: &Facts) -> Reached {
        reach::reach(roots, self.file, &self.stages, &self.options, facts)
    }

    /// Folds what the target needs, or says what must be known for that.
    fn fold<'i>(&'i self, facts: &'i Facts, lints: &mut Vec<Lint>) -> Result<Folded<'i>, Vec<Diagnostic>> {
        let Ok(target) = self.target() else { return Err(self.with_faults_of_folding(Vec::new(), facts)) };
        let mut reached = self.reach(self.roots(target), facts);
        if !reached.faults.is_empty() {
            return Err(self.with_faults_of_folding(Vec::new(), facts));
        }
        if !reached.missing.is_empty() {
            return Ok(Folded::Needs(std::mem::take(&mut reached.missing)));
        }
        let (fold, faults) = self.fold_stages(&reached, facts, lints);
        if faults.is_empty() { Ok(Folded::Done(fold, target, reached)) } else { Err(faults) }
    }

    /// Folds all stages that were reached, whatever is wrong with some.
    fn fold_stages<'i>(
        &'i self,
        reached: &Reached,
        facts: &'i Facts,
        lints: &mut Vec<Lint>,
    ) -> (Fold<'i>, Vec<Diagnostic>) {
        let count = self.stages.list.len();
        let mut fold = Fold {
            file: self.file,
            options: &self.options,
            facts,
            globals: &self.globals,
            stages: &self.stages,
            epoch: self.epoch,
            steps: steps::Steps::default(),
            states: (0..count).map(|_| None).collect(),
            seen: vec![outline::Seen::default(); count],
            lints: Vec::new(),
            wanted: Vec::new(),
            unsure: BTreeSet::new(),
        };
        let mut faults = Vec::new();
        for index in &reached.stages {
            let triggers = reached.triggers.get(index).map_or(&[][..], Vec::as_slice);
            faults.extend(fold.stage(*index, triggers));
            lints.append(&mut fold.lints);
        }
        (fold, faults)
    }

    /// Adds the findings that need no expansion: of what is folded all, of the rest how it is written.
    fn add_text_lints(&self, reached: &Reached, lints: &mut Vec<Lint>) {
        let check = lint::check_of_file(self.file, &self.options);
        let plain = |index: usize| reached.stages.contains(&index) && !reached.triggers.contains_key(&index);
        lints.extend(lint_stages(self.file, check.as_ref(), &plain));
        for (index, triggers) in &reached.triggers {
            let triggered = triggers.iter().map(|trigger| &trigger.instruction);
            let own = &self.stages.list[*index].ast.instructions;
            lints.extend(lint_instructions(triggered.chain(own), check.as_ref()));
        }
        in_order(lints);
    }

    /// Adds the findings of our own rules that a check option asks for; the others come back.
    fn advise(&self, reached: &Reached, lints: &mut Vec<Lint>) -> Vec<Lint> {
        let check = lint::check_of_file(self.file, &self.options);
        let (warnings, notes) = lint::advise(self.file, check.as_ref(), &|index| reached.stages.contains(&index));
        lints.extend(warnings);
        in_order(lints);
        notes
    }

    /// With `error=true` in the check options findings are faults.
    fn refuse_lints(&self, lints: &[Lint]) -> Result<(), Vec<Diagnostic>> {
        match lint::violation(lint::check_of_file(self.file, &self.options).as_ref(), lints) {
            Some(text) => Err(one(site::of_file(self.file, "lint-violation", text))),
            None => Ok(()),
        }
    }

    /// The plan of the target's state.
    fn finish(&self, mut fold: Fold<'_>, target: usize) -> Plan {
        let state = fold.states[target].take().expect("reach puts the target among the stages that are folded");
        let (steps, renamed) = fold.steps.graph_of(state.tip);
        let mut config = state.config;
        if !self.options.labels.is_empty() {
            config.config.labels.get_or_insert_default().extend(self.options.labels.clone());
        }
        config::set_platform(&mut config, self.options.target_platform.as_ref());
        let rename = |draft: HistoryDraft| HistoryDraft { step: draft.step.map(|step| renamed[&step]), ..draft };
        let image = ImageDraft {
            config,
            base_history: state.base_history,
            base_layers: state.base_layers,
            history: state.history.into_iter().map(rename).collect(),
        };
        let wanted = fold.wanted.into_iter().filter_map(|wanted| {
            let step = *renamed.get(&wanted.step)?;
            Some(wanted.of_step(step))
        });
        let wanted = wanted.collect();
        Plan { steps, target: state.tip.map(|step| renamed[&step]), image, epoch: self.epoch, wanted }
    }
}

fn one(fault: Diagnostic) -> Vec<Diagnostic> {
    vec![fault]
}
