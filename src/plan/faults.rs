//! Faults of a file that cannot be planned as a whole, because some of it cannot be read or an image is not known.
//!
//! Only what is wrong whatever stands in the unknown parts is a fault here; what may be the consequence of another fault is
//! left out. Asks for nothing.

use std::ops::Range;

use super::Inputs;
use crate::diagnostic::{Diagnostic, suggest};
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::{Lost, Reading};
use crate::oci::platform::Platform;
use crate::plan::facts::{Facts, ImageFacts, ImageRequest};
use crate::plan::options::PlanOptions;
use crate::plan::wanted::Wanted;
use crate::plan::{config, mount};
use crate::source::{Lines, Source};

/// What could not be read of a file, in the order of the lines, and then what is certainly wrong with the rest.
pub fn all_faults(reading: &Reading, options: &PlanOptions) -> Vec<Diagnostic> {
    let mut faults = reading.faults.clone();
    faults.extend(rest_of(&reading.file, reading.lost, options, &Facts::new()).faults);
    faults
}

/// What is wrong with a file whatever the images turn out to be of which nothing is known.
pub fn faults_without_images(file: &Dockerfile, options: &PlanOptions, facts: &Facts) -> Vec<Diagnostic> {
    rest_of(file, Lost::default(), options, facts).faults
}

/// What a build takes from contexts whatever stands in the parts that are not known.
pub fn wanted_for_certain(file: &Dockerfile, lost: Lost, options: &PlanOptions) -> Vec<Wanted> {
    if lost.stage.is_some() {
        // Then it is not known which stages are needed, nor, maybe, where instructions begin.
        return Vec::new();
    }
    rest_of(file, lost, options, &Facts::new()).wanted
}

/// The images of a file with faults whose names are nearly those of stages: most likely slips, but that only a registry can tell.
pub fn doubtful_images(reading: &Reading, options: &PlanOptions) -> Vec<ImageRequest> {
    if reading.lost.stage.is_some() {
        // It may be the name of the stage that could not be read.
        return Vec::new();
    }
    rest_of(&reading.file, reading.lost, options, &Facts::new()).doubtful
}

/// What is certain of a file that is not known as a whole.
#[derive(Default)]
struct Rest {
    faults: Vec<Diagnostic>,
    wanted: Vec<Wanted>,
    doubtful: Vec<ImageRequest>,
}

fn rest_of(file: &Dockerfile, mut lost: Lost, options: &PlanOptions, facts: &Facts) -> Rest {
    if file.stages.is_empty() {
        return Rest::default();
    }
    // Findings are told by whoever gets to the end, and times are asked for by him.
    let (inputs, _, mut faults) = Inputs::with_faults(file, options, facts, &mut Vec::new());
    lost.globals |= inputs.in_doubt;
    faults.retain(|fault| is_certain(fault, lost));
    if is_circular(&faults) {
        return Rest { faults, ..Rest::default() };
    }
    let FoldedRest { of_images, of_stages, wanted, doubtful } = inputs.rest(lost, facts);
    faults.extend(of_images);
    faults.extend(of_stages);
    Rest { faults, wanted, doubtful }
}

/// Stages in a circle have no order in which they could be folded.
fn is_circular(faults: &[Diagnostic]) -> bool {
    faults.iter().any(|fault| fault.code == "circular-dependency")
}

/// What is certain after folding without knowing all images.
#[derive(Default)]
struct FoldedRest {
    /// Of the target, of images and of what they trigger.
    of_images: Vec<Diagnostic>,
    of_stages: Vec<Diagnostic>,
    wanted: Vec<Wanted>,
    doubtful: Vec<ImageRequest>,
}

impl Inputs<'_> {
    /// These faults of stages, and what folding finds in any case: what is wrong with the target and with images, and the rest.
    pub(super) fn with_faults_of_folding(&self, mut faults: Vec<Diagnostic>, facts: &Facts) -> Vec<Diagnostic> {
        if !is_circular(&faults) {
            let FoldedRest { of_images, of_stages, .. } = self.rest(Lost::default(), facts);
            faults.extend(of_images);
            faults.extend(of_stages);
        }
        faults
    }

    fn rest(&self, mut lost: Lost, known: &Facts) -> FoldedRest {
        lost.globals |= self.in_doubt;
        let mut rest = FoldedRest::default();
        let Some(roots) = self.likely_roots(lost, &mut rest.of_images) else { return rest };
        let mut facts = known.clone();
        let reached = loop {
            let mut reached = self.reach(roots.clone(), &facts);
            if reached.missing.is_empty() {
                break reached;
            }
            // Each is asked for once, and these have no triggers that could ask for more.
            for request in std::mem::take(&mut reached.missing) {
                facts.answer(&request, unknown_image(&request));
                rest.doubtful.push(request);
            }
        };
        rest.doubtful.retain(|request| self.may_be_a_slip(request));
        let (fold, mut faults) = self.fold_stages(&reached, &facts, &mut Vec::new());
        rest.wanted = fold.wanted;
        // What is triggered is not shown in the file, and variables may have any value.
        let is_certain_path = |lines| {
            let text = text_at(&self.file.source, lines);
            !text.contains('$') && !is_from(text)
        };
        rest.wanted.retain(|wanted| is_certain_path(wanted.lines()));
        rest.of_images.extend(reached.faults.into_iter().filter(|fault| is_certain_of_image(fault, lost)));
        faults.retain(|fault| is_certain(fault, lost));
        rest.of_stages = faults;
        rest
    }

    /// The stages to look at. That there is no target of that name is a fault, but does not keep us from looking at the one that
    /// was meant, or at all if there is none like it.
    fn likely_roots(&self, lost: Lost, faults: &mut Vec<Diagnostic>) -> Option<Range<usize>> {
        let last = self.stages.list.last().map_or(0, |stage| stage.ast.lines.first);
        let builds_last = self.options.target.as_deref().is_none_or(str::is_empty) && !self.options.all_stages;
        if builds_last && lost.stage.is_some_and(|line| line > last) {
            // The target could not be read, and what it needs is not known.
            return None;
        }
        match self.target() {
            Ok(target) => Some(self.roots(target)),
            Err(_) if lost.stage.is_some() => None,
            Err(fault) => {
                faults.push(fault);
                let near = suggest(self.options.target.as_deref().unwrap_or_default(), self.stages.labels(), true);
                let meant = self.stages.labels().position(|label| Some(label) == near.as_deref());
                Some(meant.map_or(0..self.stages.list.len(), |target| target..target + 1))
            }
        }
    }

    /// Whether the name of an image is nearly that of a stage, and stands in the file as it is.
    fn may_be_a_slip(&self, request: &ImageRequest) -> bool {
        let allowed = self.options.allowed_bases.as_ref().is_none_or(|allowed| allowed.allows(&request.reference));
        let of_stage =
            request.suggestion.as_deref().is_some_and(|near| self.stages.labels().any(|label| label == near));
        allowed && of_stage && !text_at(&self.file.source, request.lines).contains('$')
    }
}

/// Stands for an image of which nothing is known.
fn unknown_image(request: &ImageRequest) -> ImageFacts {
    let host = Platform::host();
    let platform = Platform::parse(&request.platform, &host).unwrap_or(host);
    ImageFacts { handle: request.reference.clone(), config: config::empty(&platform), digest: None }
}

/// Faults that may be the consequence of a FROM that could not be read.
const OF_STAGES: [&str; 7] = [
    "bad-from",
    "bad-source",
    "base-image-not-allowed",
    "circular-dependency",
    "later-stage",
    "source-date-epoch",
    "unknown-target",
];

/// Whether a fault is one whatever the parts say that are not known: variables and directories of base images and of
/// instructions that could not be read, names of stages.
pub(super) fn is_certain(fault: &Diagnostic, lost: Lost) -> bool {
    if lost.stage.is_some() && OF_STAGES.contains(&fault.code) {
        return false;
    }
    if fault.text == mount::TARGET_IS_ROOT {
        // Targets are relative to the working directory, which a base image may have set.
        return false;
    }
    let variables_unknown = match fault.code {
        "bad-from" => lost.globals,
        "bad-source" => false,
        // How an expansion is written is wrong with any value, unless it is one that asks for a value.
        "expansion" if !is_from(text_of(fault)) => text_of(fault).contains('?'),
        // What is triggered is shown at a FROM that does not say what it depends on.
        _ if is_from(text_of(fault)) => return false,
        _ => true,
    };
    !(variables_unknown && text_of(fault).contains('$'))
}

/// The same for what is wrong with images and with the triggers of those that are known.
fn is_certain_of_image(fault: &Diagnostic, lost: Lost) -> bool {
    let of_lost_stage = lost.stage.is_some() && OF_STAGES.contains(&fault.code);
    let of_lost_variable = lost.globals && text_of(fault).contains('$');
    !of_lost_stage && !of_lost_variable
}

fn is_from(text: &str) -> bool {
    text.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from"))
}

/// The text of the instruction.
fn text_of(fault: &Diagnostic) -> &str {
    fault.lines.map_or("", |lines| text_at(&fault.source, lines))
}

fn text_at(source: &Source, lines: Lines) -> &str {
    let start = source.line_start(lines.first) as usize;
    let end = source.line_start(lines.last + 1) as usize;
    &source.text[start..end]
}
