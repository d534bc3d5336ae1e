//! Which stages the target needs, what their ONBUILD triggers are, and which image configs are missing to know that.
//!
//! Triggers can name further stages and images, so the search goes on until nothing new turns up.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{Dockerfile, Instruction, InstructionKind};
use crate::dockerfile::parse_trigger;
use crate::oci::platform::Platform;
use crate::plan::facts::{Facts, ImageFacts, ImageRequest, Purpose};
use crate::plan::options::PlanOptions;
use crate::plan::site::Site;
use crate::plan::stage::{Base, ImageName, Outside, Stages, Tree, suggest_image};
use crate::source::Span;

/// The stages to fold and their triggers.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// In order of the file.
    pub(crate) stages: BTreeSet<usize>,
    /// Triggered instructions by stage.
    pub(crate) triggers: BTreeMap<usize, Vec<Trigger>>,
    /// What to ask before anything can be folded. An image that may not be used is among them and among the faults.
    pub(crate) missing: Vec<ImageRequest>,
    /// What is wrong with triggers and images, in the order of the lines.
    pub(crate) faults: Vec<Diagnostic>,
}

/// An ONBUILD instruction that runs now, and the trees it reads.
#[derive(Clone, Debug)]
pub(crate) struct Trigger {
    pub(crate) instruction: Instruction,
    pub(crate) reads: Vec<Tree>,
}

/// Finds all that the `roots` need.
pub(crate) fn reach(
    roots: impl IntoIterator<Item = usize>,
    file: &Dockerfile,
    stages: &Stages<'_>,
    options: &PlanOptions,
    facts: &Facts,
) -> Reached {
    let mut search = Search { file, stages, options, facts, reached: Reached::default() };
    let mut open: Vec<usize> = roots.into_iter().collect();
    while let Some(index) = open.pop() {
        if search.reached.stages.insert(index) {
            search.visit(index, &mut open);
        }
    }
    let mut reached = search.reached;
    reached.faults.sort_by_key(|fault| fault.lines);
    reached.faults.dedup();
    reached.missing.sort_by(|a, b| (a.lines, &a.reference).cmp(&(b.lines, &b.reference)));
    reached.missing.dedup_by(|a, b| (&a.reference, &a.platform) == (&b.reference, &b.platform));
    reached
}

struct Search<'a, 'f> {
    file: &'f Dockerfile,
    stages: &'a Stages<'f>,
    options: &'a PlanOptions,
    facts: &'a Facts,
    reached: Reached,
}

impl Search<'_, '_> {
    fn visit(&mut self, index: usize, open: &mut Vec<usize>) {
        let stage = &self.stages.list[index];
        let platform = stage.platform.clone().unwrap_or_else(|| self.options.target_platform().clone());
        let site = Site::from_line(self.file, stage.ast);
        let mut triggers: Vec<String> = Vec::new();
        match &stage.base {
            Base::Stage(base) => {
                open.push(*base);
                triggers = self.triggers_of(*base);
            }
            Base::Outside(Outside::Image(image)) => {
                if let Some(known) = self.image(image, &platform, &site, stage.ast.base.span, Purpose::Base) {
                    triggers = known.config.config.on_build.clone().unwrap_or_default();
                }
            }
            Base::Replaced(Outside::Image(image)) => {
                self.image(image, &platform, &site, stage.ast.base.span, Purpose::Base);
                return;
            }
            Base::Replaced(Outside::Empty | Outside::Files(_)) => return,
            Base::Outside(Outside::Empty | Outside::Files(_)) => {}
        }
        let mut parsed = Vec::new();
        for text in triggers {
            let instructions = match parse_trigger(&text) {
                Ok(instructions) => instructions,
                Err(faults) => {
                    self.reached.faults.extend(faults.into_iter().map(|fault| site.adopt(fault)));
                    continue;
                }
            };
            for mut instruction in instructions {
                // It stands in no file of the reader's; the FROM is what he can change.
                (instruction.span, instruction.lines) = (stage.ast.span, stage.ast.lines);
                let reads = match self.stages.reads(&instruction, self.options) {
                    Ok(reads) => reads,
                    Err((_, text)) => {
                        self.reached.faults.push(site.fault("bad-source", text));
                        continue;
                    }
                };
                self.follow(&instruction, &reads, &site, open);
                parsed.push(Trigger { instruction, reads });
            }
        }
        if !parsed.is_empty() {
            self.reached.triggers.insert(index, parsed);
        }
        for (instruction, reads) in stage.ast.instructions.iter().zip(&stage.reads) {
            self.follow(instruction, reads, &Site::instruction(self.file, instruction), open);
        }
    }

    /// The ONBUILD instructions of a stage of this file.
    fn triggers_of(&self, stage: usize) -> Vec<String> {
        let stage = &self.stages.list[stage];
        match stage.base {
            Base::Replaced(_) => Vec::new(),
            Base::Stage(_) | Base::Outside(_) => stage
                .ast
                .instructions
                .iter()
                .filter_map(|instruction| match &instruction.kind {
                    InstructionKind::Onbuild(text) => Some(text.clone()),
                    _ => None,
                })
                .collect(),
        }
    }

    fn follow(&mut self, instruction: &Instruction, reads: &[Tree], site: &Site, open: &mut Vec<usize>) {
        let purpose = match instruction.kind {
            InstructionKind::Run(_) => Purpose::MountSource,
            _ => Purpose::CopySource,
        };
        for (index, tree) in reads.iter().enumerate() {
            match tree {
                Tree::Main | Tree::Outside(Outside::Empty | Outside::Files(_)) => {}
                Tree::Stage(stage) => open.push(*stage),
                Tree::Outside(Outside::Image(image)) => {
                    let platform = self.options.target_platform().clone();
                    let word = match &instruction.kind {
                        InstructionKind::Run(run) => run.mounts.get(index),
                        InstructionKind::Copy(copy) => copy.from.as_ref(),
                        _ => None,
                    };
                    // What is triggered has no place of its own in the file.
                    let written = site.covers(instruction.span) && word.is_some_and(|word| site.covers(word.span));
                    let span = word.filter(|_| written).map_or(instruction.span, |word| word.span);
                    self.image(image, &platform, site, span, purpose);
                }
            }
        }
    }

    /// What is known of an image that the build uses; asks for it if nothing is.
    fn image(
        &mut self,
        image: &ImageName,
        platform: &Platform,
        site: &Site,
        span: Span,
        purpose: Purpose,
    ) -> Option<&ImageFacts> {
        if let Some(allowed) = &self.options.allowed_bases
            && !allowed.allows(&image.reference)
        {
            let text = format!("image {} is not among the allowed bases", image.reference);
            let help = match allowed.patterns() {
                [] => "--allow-base allows none".to_owned(),
                patterns => format!("--allow-base allows {}", patterns.join(", ")),
            };
            self.reached.faults.push(site.at(span).fault("base-image-not-allowed", text).with_help(help));
        }
        if self.facts.image(&image.reference, &platform.to_string()).is_none() {
            self.ask(image, platform, site, purpose);
        }
        self.facts.image(&image.reference, &platform.to_string())
    }

    fn ask(&mut self, image: &ImageName, platform: &Platform, site: &Site, purpose: Purpose) {
        let vertex = match &image.context {
            Some(name) => format!("[context {name}] load metadata for {}", image.written),
            None if self.options.multi_platform => {
                format!("[{platform} internal] load metadata for {}", image.reference)
            }
            None => format!("[internal] load metadata for {}", image.reference),
        };
        self.reached.missing.push(ImageRequest {
            reference: image.reference.clone(),
            platform: platform.to_string(),
            vertex,
            written: image.written.clone(),
            lines: site.lines,
            suggestion: suggest_image(&image.written, self.stages),
            purpose,
        });
    }
}
