//! Which stages the target needs, what their ONBUILD triggers are, and which image configs are missing to know that.
//!
//! Triggers can name further stages and images, so the search goes on until nothing new turns up.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{Dockerfile, Instruction, InstructionKind};
use crate::dockerfile::parse_trigger;
use crate::oci::platform::Platform;
use crate::plan::facts::{Facts, ImageRequest, Purpose};
use crate::plan::options::PlanOptions;
use crate::plan::site::Site;
use crate::plan::stage::{Base, ImageName, Outside, Stages, Tree, suggest_image};

/// The stages to fold and their triggers.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// In order of the file.
    pub(crate) stages: BTreeSet<usize>,
    /// Triggered instructions by stage.
    pub(crate) triggers: BTreeMap<usize, Vec<Trigger>>,
    /// What to ask before anything can be folded.
    pub(crate) missing: Vec<ImageRequest>,
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
) -> Result<Reached, Diagnostic> {
    let mut search = Search { file, stages, options, facts, reached: Reached::default() };
    let mut open: Vec<usize> = roots.into_iter().collect();
    while let Some(index) = open.pop() {
        if search.reached.stages.insert(index) {
            search.visit(index, &mut open)?;
        }
    }
    let mut reached = search.reached;
    reached.missing.sort_by(|a, b| (a.lines, &a.reference).cmp(&(b.lines, &b.reference)));
    reached.missing.dedup_by(|a, b| (&a.reference, &a.platform) == (&b.reference, &b.platform));
    Ok(reached)
}

struct Search<'a, 'f> {
    file: &'f Dockerfile,
    stages: &'a Stages<'f>,
    options: &'a PlanOptions,
    facts: &'a Facts,
    reached: Reached,
}

impl Search<'_, '_> {
    fn visit(&mut self, index: usize, open: &mut Vec<usize>) -> Result<(), Diagnostic> {
        let stage = &self.stages.list[index];
        let platform = stage.platform.clone().unwrap_or_else(|| self.options.target_platform().clone());
        let site = Site::from_line(self.file, stage.ast);
        let mut triggers: Vec<String> = Vec::new();
        match &stage.base {
            Base::Stage(base) => {
                open.push(*base);
                triggers = self.triggers_of(*base);
            }
            Base::Outside(Outside::Image(image)) => match self.facts.image(&image.reference, &platform.to_string()) {
                Some(known) => triggers = known.config.config.on_build.clone().unwrap_or_default(),
                None => self.ask(image, &platform, &site, Purpose::Base),
            },
            Base::Replaced(Outside::Image(image)) => {
                if self.facts.image(&image.reference, &platform.to_string()).is_none() {
                    self.ask(image, &platform, &site, Purpose::Base);
                }
                return Ok(());
            }
            Base::Replaced(Outside::Empty | Outside::Files(_)) => return Ok(()),
            Base::Outside(Outside::Empty | Outside::Files(_)) => {}
        }
        let mut parsed = Vec::new();
        for text in triggers {
            let instructions = parse_trigger(&text).map_err(|faults| match faults.into_iter().next() {
                Some(fault) => site.adopt(fault),
                None => site.fault("onbuild-trigger", "not an instruction"),
            })?;
            for mut instruction in instructions {
                // It stands in no file of the reader's; the FROM is what he can change.
                (instruction.span, instruction.lines) = (stage.ast.span, stage.ast.lines);
                let reads = self.stages.reads(&instruction, self.options);
                let reads = reads.map_err(|text| site.fault("bad-source", text))?;
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
        Ok(())
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
        for tree in reads {
            match tree {
                Tree::Main | Tree::Outside(Outside::Empty | Outside::Files(_)) => {}
                Tree::Stage(stage) => open.push(*stage),
                Tree::Outside(Outside::Image(image)) => {
                    let platform = self.options.target_platform().clone();
                    if self.facts.image(&image.reference, &platform.to_string()).is_none() {
                        self.ask(image, &platform, site, purpose);
                    }
                }
            }
        }
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
