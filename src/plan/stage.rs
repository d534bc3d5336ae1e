//! The stages of a file and what each stands on: another stage, an image, a named context, nothing.
//!
//! Names are resolved here, once; after this module a stage is an index and an outside tree is an [`Outside`]. Knows no
//! image config and folds no instruction.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Diagnostic, suggest, with_suggestion};
use crate::dockerfile::ast::{self, Dockerfile, Instruction, InstructionKind, Lint};
use crate::dockerfile::mount;
use crate::dockerfile::words::Expanded;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::plan::env::Env;
use crate::plan::lint::{self, Linter};
use crate::plan::options::{NamedContext, PlanOptions};
use crate::plan::scope::{Globals, expand};
use crate::plan::site::Site;

/// The empty root.
pub(crate) const SCRATCH: &str = "scratch";
/// The main context; like `scratch` no named context may replace it.
pub(crate) const MAIN_CONTEXT: &str = "context";

/// A stage with its FROM line resolved.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) ast: &'a ast::Stage,
    /// `name` or `stage-N`.
    pub(crate) label: String,
    pub(crate) base: Base,
    /// `--platform=`
    pub(crate) platform: Option<Platform>,
    /// ARGs its FROM line used.
    pub(crate) used_args: BTreeSet<String>,
    /// For each instruction the trees it reads besides the stage's own root.
    pub(crate) reads: Vec<Vec<Tree>>,
}

/// What a stage starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// An earlier stage.
    Stage(usize),
    /// An image, a named context or nothing.
    Outside(Outside),
    /// A named context has the stage's name: it is the stage, no instruction of it counts.
    Replaced(Outside),
}

/// A tree that no stage of the file makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    /// The empty root.
    Empty,
    /// A named context of files, by its name as given.
    Files(String),
    /// An image.
    Image(ImageName),
}

/// An image as it must be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageName {
    /// Normalised, or `oci-layout://…`.
    pub(crate) reference: String,
    /// The text that was written.
    pub(crate) written: String,
    /// The named context it comes from.
    pub(crate) context: Option<String>,
}

/// A tree an instruction reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// The main context.
    Main,
    /// The root of a stage (maybe a later one: an error when it is used).
    Stage(usize),
    /// Something outside the file.
    Outside(Outside),
}

/// All stages of a file.
#[derive(Debug)]
pub(crate) struct Stages<'a> {
    pub(crate) list: Vec<Stage<'a>>,
    names: BTreeMap<String, usize>,
    /// Whether step names show the stage: BuildKit leaves it out when there is one stage and no other tree.
    pub(crate) show_labels: bool,
}

impl<'a> Stages<'a> {
    /// Resolves every FROM line and every `--from`; faults of unreachable stages count too, as in BuildKit.
    /// What is beside the faults is fit to look for more: a stage with a faulty FROM is an empty one,
    /// and so is a faulty `--from`.
    pub(crate) fn new(
        file: &'a Dockerfile,
        options: &PlanOptions,
        globals: &Globals,
        lints: &mut Vec<Lint>,
    ) -> (Self, Vec<Diagnostic>) {
        let mut stages = Self { list: Vec::new(), names: BTreeMap::new(), show_labels: true };
        let mut faults = Vec::new();
        for stage in &file.stages {
            stages.add(stage, file, options, globals, lints).unwrap_or_else(|fault| {
                faults.push(fault);
                // The others are looked at all the same; an empty root has no faults of its own.
                stages.put(stage, Base::Outside(Outside::Empty), None, BTreeSet::new());
            });
        }
        let mut alone = stages.list.len() == 1;
        for index in 0..stages.list.len() {
            let mut reads = Vec::new();
            for instruction in &stages.list[index].ast.instructions {
                reads.push(stages.reads(instruction, options).unwrap_or_else(|(word, text)| {
                    let fault = Site::instruction(file, instruction).at(word.span).fault("bad-source", text);
                    faults.push(match word.text.parse::<i64>() {
                        Ok(_) => fault.with_help(format!("stages count from 0; the last is {}", file.stages.len() - 1)),
                        Err(_) => fault,
                    });
                    vec![Tree::Outside(Outside::Empty)]
                }));
                alone &= !stages.names_another_tree(instruction);
            }
            stages.list[index].reads = reads;
        }
        stages.show_labels = !alone;
        if faults.is_empty() {
            faults.extend(stages.refuse_cycles(file).err());
        }
        (stages, faults)
    }

    fn add(
        &mut self,
        stage: &'a ast::Stage,
        file: &Dockerfile,
        options: &PlanOptions,
        globals: &Globals,
        lints: &mut Vec<Lint>,
    ) -> Result<(), Diagnostic> {
        let site = Site::from_line(file, stage);
        let failed = |text: String| site.at(stage.base.span).fault("bad-from", text);
        let mut linter = Linter::new(file, options, stage.check.as_ref(), lints);
        let base = globals.expand(&stage.base.text).map_err(failed)?;
        lint::undefined_in_from(&mut linter, globals, &base, stage.lines);
        let help = unset(&base);
        let failed = |text: String| Diagnostic { help: help.clone(), ..failed(text) };
        if base.text.is_empty() {
            return Err(failed(format!("base name ({}) should not be blank", stage.base.text)));
        }
        let mut used_args = base.matched;
        let platform = match &stage.platform {
            Some(word) => {
                let failed = |text: String| site.at(word.span).fault("bad-from", text);
                let expansion = globals.expand(&word.text).map_err(|error| {
                    failed(format!("failed to process arguments for platform {}: {error}", word.text))
                })?;
                lint::undefined_in_from(&mut linter, globals, &expansion, stage.lines);
                lint::platform_of_from(&mut linter, globals, stage, &word.text, &expansion);
                let platform = parse_platform(&word.text, &expansion, globals, options).map_err(failed)?;
                used_args.extend(expansion.matched);
                Some(platform)
            }
            None => None,
        };
        let wanted = platform.as_ref().unwrap_or(options.target_platform());
        let replacement = match &stage.name {
            Some(name) => {
                if may_be_replaced(name) {
                    // BuildKit asks for a context of each stage's name, and not every stage's name can be one.
                    let text = |error| format!("invalid context name {name}: {error}");
                    Reference::parse(name).map_err(|error| site.fault("bad-from", text(error)))?;
                }
                named_context(name, wanted, options)
            }
            None => None,
        };
        let base = match replacement {
            Some(context) => Base::Replaced(context.map_err(failed)?),
            None => match self.names.get(&base.text) {
                Some(earlier) => Base::Stage(*earlier),
                None => Base::Outside(outside(&base.text, wanted, options).map_err(failed)?),
            },
        };
        self.put(stage, base, platform, used_args);
        Ok(())
    }

    fn put(&mut self, stage: &'a ast::Stage, base: Base, platform: Option<Platform>, used_args: BTreeSet<String>) {
        let index = self.list.len();
        let label = stage.name.clone().unwrap_or_else(|| format!("stage-{index}"));
        if let Some(name) = &stage.name {
            self.names.insert(name.to_lowercase(), index);
        }
        self.list.push(Stage { ast: stage, label, base, platform, used_args, reads: Vec::new() });
    }

    /// The stage of a name, in any case; of several the last.
    pub(crate) fn by_name(&self, name: &str) -> Option<usize> {
        self.names.get(&name.to_lowercase()).copied()
    }

    /// Labels of all stages, in order.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|stage| stage.label.as_str())
    }

    /// The stage to build.
    pub(crate) fn target(&self, wanted: Option<&str>) -> Result<usize, String> {
        match wanted.filter(|name| !name.is_empty()) {
            None => Ok(self.list.len() - 1),
            Some(name) => self.by_name(name).ok_or_else(|| {
                let text = format!("target stage {name:?} could not be found");
                with_suggestion(text, name, self.labels(), true)
            }),
        }
    }

    /// The trees an instruction reads: one for COPY, one for each mount of a RUN, none for others. A fault comes with the
    /// word that is to blame.
    pub(crate) fn reads<'i>(
        &self,
        instruction: &'i Instruction,
        options: &PlanOptions,
    ) -> Result<Vec<Tree>, (&'i ast::Word, String)> {
        match &instruction.kind {
            InstructionKind::Copy(copy) => match &copy.from {
                Some(from) => Ok(vec![self.copy_source(&from.text, options).map_err(|text| (from, text))?]),
                None => Ok(vec![Tree::Main]),
            },
            InstructionKind::Add(_) => Ok(vec![Tree::Main]),
            InstructionKind::Run(run) => {
                let read = |mount: &'i ast::Word| self.mount_source(&mount.text, options).map_err(|text| (mount, text));
                run.mounts.iter().map(read).collect()
            }
            InstructionKind::Workdir(_)
            | InstructionKind::Env(_)
            | InstructionKind::Label(_)
            | InstructionKind::Arg(_)
            | InstructionKind::User(_)
            | InstructionKind::Cmd(_)
            | InstructionKind::Entrypoint(_)
            | InstructionKind::Expose(_)
            | InstructionKind::Volume(_)
            | InstructionKind::Stopsignal(_)
            | InstructionKind::Healthcheck(_)
            | InstructionKind::Shell(_)
            | InstructionKind::Maintainer(_)
            | InstructionKind::Onbuild(_) => Ok(Vec::new()),
        }
    }

    /// `COPY --from=`: a stage's name, its index, a named context, an image.
    fn copy_source(&self, from: &str, options: &PlanOptions) -> Result<Tree, String> {
        let expansion = expand(from, '\\', &Env::default())?;
        if expansion.text != from {
            return Err("variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                        global scope as a workaround"
                .to_owned());
        }
        if let Ok(index) = from.parse::<i64>() {
            return usize::try_from(index)
                .ok()
                .filter(|index| *index < self.list.len())
                .map(Tree::Stage)
                .ok_or_else(|| format!("invalid stage index {index}"));
        }
        self.other_tree(from, options)
    }

    /// `from=` of a mount: no index here (observed 35).
    fn mount_source(&self, mount: &str, options: &PlanOptions) -> Result<Tree, String> {
        match mount::from_of(mount) {
            Some(from) => self.other_tree(&from, options),
            None => Ok(Tree::Main),
        }
    }

    fn other_tree(&self, from: &str, options: &PlanOptions) -> Result<Tree, String> {
        match self.by_name(from) {
            Some(stage) => Ok(Tree::Stage(stage)),
            None => Ok(Tree::Outside(outside(from, options.target_platform(), options)?)),
        }
    }

    /// BuildKit counts a mount without `from` as one of an unnamed other stage; step names depend on it.
    fn names_another_tree(&self, instruction: &Instruction) -> bool {
        match &instruction.kind {
            InstructionKind::Run(run) => !run.mounts.is_empty(),
            InstructionKind::Copy(copy) => copy
                .from
                .as_ref()
                .is_some_and(|from| self.by_name(&from.text).is_none() && from.text.parse::<i64>().is_err()),
            _ => false,
        }
    }

    /// Looks for circles through `--from`, from each stage in turn; the stage the search began at is named, as in BuildKit.
    fn refuse_cycles(&self, file: &Dockerfile) -> Result<(), Diagnostic> {
        let mut visits = vec![Visit::Not; self.list.len()];
        for root in 0..self.list.len() {
            if visits[root] != Visit::Not {
                continue;
            }
            visits[root] = Visit::Now;
            let mut path = vec![(root, self.needs(root))];
            let mut first = None;
            while let Some((stage, needs)) = path.last_mut() {
                let Some((instruction, next)) = needs.pop() else {
                    visits[*stage] = Visit::Done;
                    path.pop();
                    continue;
                };
                if *stage == root {
                    first = Some(instruction);
                }
                match visits[next] {
                    Visit::Done => {}
                    Visit::Not => {
                        visits[next] = Visit::Now;
                        path.push((next, self.needs(next)));
                    }
                    Visit::Now => {
                        let text = format!("circular dependency detected on stage: {}", self.list[root].label);
                        let site = Site::instruction(file, first.unwrap_or(instruction));
                        let round = path.iter().map(|(stage, _)| *stage).skip_while(|stage| *stage != next);
                        let names: Vec<_> = round.chain([next]).map(|stage| self.list[stage].label.as_str()).collect();
                        let help = format!("each of these needs the next one: {}", names.join(", "));
                        return Err(site.fault("circular-dependency", text).with_help(help));
                    }
                }
            }
        }
        Ok(())
    }

    /// The stages a stage reads and the instructions that do, last first.
    fn needs(&self, stage: usize) -> Vec<(&'a Instruction, usize)> {
        let stage = &self.list[stage];
        let pairs = stage.ast.instructions.iter().zip(&stage.reads);
        let needs = pairs.flat_map(|(instruction, trees)| trees.iter().map(move |tree| (instruction, tree)));
        let mut needs: Vec<_> = needs
            .filter_map(|(instruction, tree)| match tree {
                Tree::Stage(next) => Some((instruction, *next)),
                Tree::Main | Tree::Outside(_) => None,
            })
            .collect();
        needs.reverse();
        needs
    }
}

/// How far the search for cycles is with a stage.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    Not,
    Now,
    Done,
}

/// What helps when a FROM line comes out wrong because of variables without a value.
fn unset(expansion: &Expanded) -> Option<String> {
    let names: Vec<&str> = expansion.unmatched.iter().map(String::as_str).collect();
    let name = names.first()?;
    Some(format!(
        "{} has no value; give it one with ARG {name}=… before the first FROM, or with --build-arg {name}=…",
        names.join(", ")
    ))
}

fn parse_platform(
    written: &str,
    expansion: &Expanded,
    globals: &Globals,
    options: &PlanOptions,
) -> Result<Platform, String> {
    let suggested = |text: String| {
        let found = expansion.unmatched.iter().find_map(|name| suggest(name, globals.env.names(), true));
        found.map_or(text.clone(), |option| format!("{text} (did you mean {option}?)"))
    };
    if expansion.text.is_empty() {
        return Err(suggested(format!("empty platform value from expression {written}")));
    }
    Platform::parse(&expansion.text, &options.build_platforms[0])
        .map_err(|error| suggested(format!("failed to parse platform {written}: {error}")))
}

/// What a name that is no stage stands for.
fn outside(text: &str, platform: &Platform, options: &PlanOptions) -> Result<Outside, String> {
    if text == SCRATCH {
        return Ok(Outside::Empty);
    }
    let reference =
        Reference::parse_tagged(text).map_err(|error| format!("failed to parse stage name {text:?}: {error}"))?;
    match named_context(&reference.to_string(), platform, options) {
        Some(context) => context,
        None => {
            Ok(Outside::Image(ImageName { reference: reference.to_string(), written: text.to_owned(), context: None }))
        }
    }
}

/// Whether a named context may stand for this name.
fn may_be_replaced(name: &str) -> bool {
    !name.eq_ignore_ascii_case(SCRATCH) && !name.eq_ignore_ascii_case(MAIN_CONTEXT)
}

/// The named context of a name, first the one for this platform. `scratch` and `context` cannot be replaced.
fn named_context(name: &str, platform: &Platform, options: &PlanOptions) -> Option<Result<Outside, String>> {
    if !may_be_replaced(name) {
        return None;
    }
    let key = context_key(name)?;
    let with_platform = format!("{key}::{}", platform.normalize());
    [with_platform, key].into_iter().find_map(|key| {
        let (given, context) = options.named_contexts.iter().find(|(given, _)| normal_key(given) == key)?;
        Some(match context {
            NamedContext::Files { .. } => Ok(Outside::Files(given.clone())),
            NamedContext::Image(reference) if reference == SCRATCH => Ok(Outside::Empty),
            NamedContext::Image(reference) => Reference::parse_tagged(reference)
                .map(|full| {
                    Outside::Image(ImageName {
                        reference: full.to_string(),
                        written: reference.clone(),
                        context: Some(given.clone()),
                    })
                })
                .map_err(|error| error.to_string()),
            NamedContext::Layout(text) => Ok(Outside::Image(ImageName {
                reference: text.clone(),
                written: text.clone(),
                context: Some(given.clone()),
            })),
        })
    })
}

/// The familiar name without `:latest`.
fn context_key(name: &str) -> Option<String> {
    let familiar = Reference::parse(name).ok()?.familiar();
    Some(familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned))
}

fn normal_key(given: &str) -> String {
    let (name, platform) = given.split_once("::").map_or((given, None), |(name, platform)| (name, Some(platform)));
    let name = context_key(name).unwrap_or_else(|| name.to_owned());
    platform.map_or(name.clone(), |platform| format!("{name}::{platform}"))
}

/// A stage or well-known image that `text` may be a slip of.
pub(crate) fn suggest_image(text: &str, stages: &Stages<'_>) -> Option<String> {
    const COMMON: [&str; 7] = ["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];
    let tagged: Vec<String> = COMMON.iter().map(|name| format!("{name}:latest")).collect();
    let options = stages.labels().chain(COMMON).chain(tagged.iter().map(String::as_str));
    suggest(text, options, true)
}
