//! Faults of a file that cannot be planned as a whole, because some of it cannot be read or an image is not known.
//!
//! Only what is wrong whatever stands in the unknown parts is a fault here; what may be the consequence of another fault is
//! left out. Asks for nothing.

use super::{Folded, Inputs, Start};
use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::{Lost, Reading};
use crate::oci::platform::Platform;
use crate::plan::facts::{Facts, ImageFacts, ImageRequest};
use crate::plan::options::PlanOptions;
use crate::plan::{config, mount};

/// What could not be read of a file, in the order of the lines, and then what is certainly wrong with the rest.
pub fn all_faults(reading: &Reading, options: &PlanOptions) -> Vec<Diagnostic> {
    let mut faults = reading.faults.clone();
    faults.extend(faults_of_rest(&reading.file, reading.lost, options));
    faults
}

/// What is wrong with a file whatever the images it names turn out to be.
pub fn faults_without_images(file: &Dockerfile, options: &PlanOptions) -> Vec<Diagnostic> {
    faults_of_rest(file, Lost::default(), options)
}

fn faults_of_rest(file: &Dockerfile, lost: Lost, options: &PlanOptions) -> Vec<Diagnostic> {
    if file.stages.is_empty() {
        return Vec::new();
    }
    // Findings are told by whoever gets to the end.
    match Inputs::with_faults(file, options, &Facts::new(), &mut Vec::new()) {
        // A time is asked for before stages are looked at.
        Ok((Start::Needs(_), _)) => Vec::new(),
        Ok((Start::Ready(inputs), mut faults)) => {
            faults.retain(|fault| is_certain(fault, lost));
            inputs.with_faults_of_folding(faults, lost)
        }
        Err(mut faults) => {
            faults.retain(|fault| is_certain(fault, lost));
            faults
        }
    }
}

impl Inputs<'_> {
    /// Faults of the stages, and what folding finds in any case.
    pub(super) fn with_faults_of_folding(&self, mut faults: Vec<Diagnostic>, lost: Lost) -> Vec<Diagnostic> {
        // Stages in a circle have no order in which they could be folded.
        if faults.iter().all(|fault| fault.code != "circular-dependency") {
            faults.extend(self.certain_faults(lost));
        }
        faults
    }

    fn certain_faults(&self, lost: Lost) -> Vec<Diagnostic> {
        let last = self.stages.list.last().map_or(0, |stage| stage.ast.lines.first);
        let builds_last = self.options.target.as_deref().is_none_or(str::is_empty) && !self.options.all_stages;
        if builds_last && lost.stage.is_some_and(|line| line > last) {
            // The target could not be read, and what it needs is not known.
            return Vec::new();
        }
        let mut facts = Facts::new();
        loop {
            match self.fold(&facts, &mut Vec::new()) {
                Ok(Folded::Done(..)) => return Vec::new(),
                // Each is asked for once, and these have no triggers that could ask for more.
                Ok(Folded::Needs(requests)) => {
                    requests.iter().for_each(|request| facts.answer(request, unknown_image(request)));
                }
                Err(mut faults) => {
                    faults.retain(|fault| is_certain(fault, lost));
                    return faults;
                }
            }
        }
    }
}

/// Stands for an image of which nothing is known.
fn unknown_image(request: &ImageRequest) -> ImageFacts {
    let host = Platform::host();
    let platform = Platform::parse(&request.platform, &host).unwrap_or(host);
    ImageFacts { handle: request.reference.clone(), config: config::empty(&platform), digest: None }
}

/// Whether a fault is one whatever the parts say that are not known: variables and directories of base images and of
/// instructions that could not be read, names of stages.
fn is_certain(fault: &Diagnostic, lost: Lost) -> bool {
    let of_stages =
        ["bad-from", "bad-source", "base-image-not-allowed", "circular-dependency", "later-stage", "unknown-target"];
    if lost.stage.is_some() && of_stages.contains(&fault.code) {
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
        "base-image-not-allowed" => true,
        // What is triggered is shown at a FROM that does not say what it depends on.
        _ if is_from(text_of(fault)) => return false,
        _ => true,
    };
    !(variables_unknown && text_of(fault).contains('$'))
}

fn is_from(text: &str) -> bool {
    text.trim_start().get(..4).is_some_and(|word| word.eq_ignore_ascii_case("from"))
}

/// The text of the instruction.
fn text_of(fault: &Diagnostic) -> &str {
    let Some(lines) = fault.lines else { return "" };
    let start = fault.source.line_start(lines.first) as usize;
    let end = fault.source.line_start(lines.last + 1) as usize;
    &fault.source.text[start..end]
}
