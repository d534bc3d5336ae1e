//! Folding a stage: its instructions one after the other onto a config, a history, a list of variables and a tip, the
//! last step that made files. What makes files becomes a step; the rest only changes the config.
//!
//! `base` holds how a stage starts, `run` and `copy` how those two become steps. Knows no image store: everything it needs was asked for before.

use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;
use crate::dockerfile::ast::{self, Dockerfile, Instruction, InstructionKind, KeyValue, Lint, Word};
use crate::dockerfile::words::Expanded;
use crate::oci::config::{History, ImageConfig};
use crate::oci::platform::Platform;
use crate::plan::env::{Env, Origin};
use crate::plan::expose;
use crate::plan::facts::Facts;
use crate::plan::graph::{HistoryDraft, Op, Step, StepId, Workdir};
use crate::plan::lint::{self, Linter};
use crate::plan::name::{self, Names};
use crate::plan::options::PlanOptions;
use crate::plan::outline::Seen;
use crate::plan::reach::Trigger;
use crate::plan::scope::{self, ArgInfo, Globals, NOT_IN_ENV};
use crate::plan::site::Site;
use crate::plan::stage::{Base, Outside, SCRATCH, Stages, Tree};
use crate::plan::steps::Steps;
use crate::plan::wanted::Wanted;
use crate::plan::{config, paths};

/// What a stage has come to; a child stage starts from a copy of it.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The image's config so far; no history, no layers.
    pub(crate) config: ImageConfig,
    /// History of the image at the bottom.
    pub(crate) base_history: Vec<History>,
    /// Layers of the image at the bottom.
    pub(crate) base_layers: usize,
    /// New history.
    pub(crate) history: Vec<HistoryDraft>,
    /// ENV and ARG.
    pub(crate) env: Env,
    /// Every ARG in order with its value then.
    pub(crate) declared: Vec<(String, Option<String>)>,
    /// A WORKDIR was seen in this file.
    pub(crate) workdir_seen: bool,
    /// The last step that made files.
    pub(crate) tip: Option<StepId>,
    /// What the stage's processes run on.
    pub(crate) platform: Platform,
}

/// What all stages of one plan share.
#[derive(Debug)]
pub(crate) struct Fold<'a> {
    pub(crate) file: &'a Dockerfile,
    pub(crate) options: &'a PlanOptions,
    pub(crate) facts: &'a Facts,
    pub(crate) globals: &'a Globals,
    pub(crate) stages: &'a Stages<'a>,
    pub(crate) epoch: Option<i64>,
    pub(crate) steps: Steps,
    /// Folded stages; `None` for those that come later or are not needed.
    pub(crate) states: Vec<Option<State>>,
    /// What each stage can be given.
    pub(crate) seen: Vec<Seen>,
    pub(crate) lints: Vec<Lint>,
    /// What steps take from contexts.
    pub(crate) wanted: Vec<Wanted>,
    /// Stages some of whose variables are not known because of a fault.
    pub(crate) unsure: BTreeSet<usize>,
}

/// One stage being folded.
pub(crate) struct StageFold<'f, 'a> {
    pub(crate) fold: &'f mut Fold<'a>,
    pub(crate) index: usize,
    pub(crate) state: State,
    pub(crate) names: Names,
    /// This stage said CMD itself.
    cmd_set: bool,
    pub(crate) no_cache: bool,
}

/// The instruction at hand.
pub(crate) struct Here<'i> {
    pub(crate) instruction: &'i Instruction,
    pub(crate) site: Site,
    /// From an ONBUILD.
    pub(crate) triggered: bool,
}

impl Here<'_> {
    /// A part of the instruction; what is triggered has no place of its own in the file.
    pub(crate) fn at(&self, word: &Word) -> Site {
        if self.triggered { self.site.clone() } else { self.site.at(word.span) }
    }
}

impl Fold<'_> {
    /// Folds one stage and returns its faults; all it needs must have been folded before (later stages are faults).
    pub(crate) fn stage(&mut self, index: usize, triggers: &[Trigger]) -> Vec<Diagnostic> {
        let stage = &self.stages.list[index];
        let site = Site::from_line(self.file, stage.ast);
        let started = match &stage.base {
            Base::Replaced(outside) => {
                self.outside_state(outside, stage.platform.as_ref(), None, &site).map(|mut state| {
                    state.config.config.on_build = None;
                    (state, None)
                })
            }
            Base::Stage(base) => match &self.states[*base] {
                Some(state) => Ok((state.clone(), Some((0, 0)))),
                None => Err(site.fault("bad-from", "base stage failed")),
            },
            Base::Outside(outside) => {
                // What is no image of a registry is counted as a step, and yet has no number, as in BuildKit.
                let numbered = usize::from(self.has_step(outside, stage.platform.as_ref()));
                let counted = usize::from(!self.is_scratch(stage.ast));
                let named = self.names(index, counted + count(stage.ast, triggers));
                let state = self.outside_state(outside, stage.platform.as_ref(), Some(named), &site);
                state.map(|state| (state, Some((numbered, counted))))
            }
        };
        // What stands on a stage whose variables are not known would have faults of its own because of that.
        let unsure = matches!(stage.base, Base::Stage(base) if self.unsure.contains(&base));
        let (state, (numbered, counted)) = match started {
            Ok((state, Some(base))) if !unsure => (state, base),
            Ok((state, _)) => {
                if unsure {
                    self.unsure.insert(index);
                }
                self.states[index] = Some(state);
                return Vec::new();
            }
            Err(fault) => {
                self.unsure.insert(index);
                self.states[index] = self.outside_state(&Outside::Empty, None, None, &site).ok();
                return vec![fault];
            }
        };
        let mut names = self.names(index, counted + count(stage.ast, triggers));
        names.skip(numbered);
        let no_cache = self.options.no_cache.covers(stage.ast.name.as_deref());
        let mut folding = StageFold { fold: self, index, state, names, cmd_set: false, no_cache };
        folding.start();
        let file = folding.fold.file;
        let triggered = triggers.iter().map(|trigger| {
            let here = Here { instruction: &trigger.instruction, site: site.clone(), triggered: true };
            (here, trigger.reads.as_slice())
        });
        let own = stage.ast.instructions.iter().zip(&stage.reads).map(|(instruction, reads)| {
            let here = Here { instruction, site: Site::instruction(file, instruction), triggered: false };
            (here, reads.as_slice())
        });
        let mut faults = Vec::new();
        for (here, reads) in triggered.chain(own) {
            let Err(fault) = folding.instruction(&here, reads) else { continue };
            faults.push(fault);
            match here.instruction.kind {
                InstructionKind::Arg(_) | InstructionKind::Env(_) => {
                    folding.fold.unsure.insert(index);
                    break;
                }
                _ => {}
            }
        }
        let state = folding.state;
        self.states[index] = Some(state);
        faults
    }

    /// Whether a stage is said to stand on nothing, whatever else may turn out to be empty.
    fn is_scratch(&self, stage: &ast::Stage) -> bool {
        self.globals.expand(&stage.base.text).is_ok_and(|base| base.text == SCRATCH)
    }

    fn names(&self, index: usize, total: usize) -> Names {
        let stage = &self.stages.list[index];
        let label = if self.stages.show_labels { stage.label.clone() } else { String::new() };
        let platform = match &stage.base {
            Base::Stage(base) => self.states[*base].as_ref().map(|state| state.platform.clone()),
            Base::Outside(_) | Base::Replaced(_) => None,
        };
        let platform = platform.or_else(|| stage.platform.clone()).unwrap_or_else(|| self.target().clone());
        Names::new(label, self.options.multi_platform.then_some(platform), total)
    }
}

/// How many steps names speak of: those of the stage's instructions, and every trigger, whatever it is, as in BuildKit.
fn count(stage: &ast::Stage, triggers: &[Trigger]) -> usize {
    let own = stage.instructions.iter().filter(|instruction| match instruction.kind {
        InstructionKind::Run(_) | InstructionKind::Copy(_) | InstructionKind::Add(_) | InstructionKind::Workdir(_) => {
            true
        }
        InstructionKind::Env(_)
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
        | InstructionKind::Onbuild(_) => false,
    });
    triggers.len() + own.count()
}

impl StageFold<'_, '_> {
    /// Takes over what the base's config says about processes.
    fn start(&mut self) {
        let state = &mut self.state;
        state.config.config.on_build = None;
        config::ensure_path(&mut state.config, &state.platform);
        for (name, value) in config::env(&state.config) {
            state.env.set(name, value, Origin::Env);
        }
        let workdir = &mut state.config.config.working_dir;
        if !workdir.is_empty() && !workdir.starts_with('/') {
            *workdir = paths::absolute("/", workdir);
        }
    }

    fn instruction(&mut self, here: &Here<'_>, reads: &[Tree]) -> Result<(), Diagnostic> {
        let text = match &here.instruction.kind {
            InstructionKind::Run(run) => return self.run(here, run, reads),
            InstructionKind::Copy(copy) => return self.copy(here, copy, reads, false),
            InstructionKind::Add(copy) => return self.copy(here, copy, reads, true),
            InstructionKind::Workdir(path) => return self.workdir(here, path),
            InstructionKind::Arg(declarations) => self.arg(here, declarations)?,
            InstructionKind::Env(pairs) => {
                let pairs = self.expand_pairs(here, pairs)?;
                for (name, value) in &pairs {
                    self.state.env.set(name, value, Origin::Env);
                }
                config::envs(&mut self.state.config, &pairs)
            }
            InstructionKind::Label(pairs) => {
                let pairs = self.expand_pairs(here, pairs)?;
                config::labels(&mut self.state.config, &pairs)
            }
            InstructionKind::User(user) => {
                let user = self.expand(here, user)?;
                config::user(&mut self.state.config, &user)
            }
            InstructionKind::Cmd(command) => {
                self.lint_shell_form(here, command);
                self.cmd_set = true;
                config::cmd(&mut self.state.config, command)
            }
            InstructionKind::Entrypoint(command) => {
                self.lint_shell_form(here, command);
                config::entrypoint(&mut self.state.config, command, self.cmd_set)
            }
            InstructionKind::Expose(words) => self.expose(here, words)?,
            InstructionKind::Volume(words) => {
                let paths = self.expand_all(here, words)?;
                config::volume(&mut self.state.config, &paths).map_err(|text| here.site.fault("bad-volume", text))?
            }
            InstructionKind::Stopsignal(signal) => {
                let name = self.expand(here, signal)?;
                let text = config::stop_signal(&mut self.state.config, &name);
                text.map_err(|text| here.at(signal).fault("bad-signal", text))?
            }
            InstructionKind::Healthcheck(check) => config::healthcheck(&mut self.state.config, check),
            InstructionKind::Shell(words) => config::shell(&mut self.state.config, words),
            InstructionKind::Maintainer(name) => config::maintainer(&mut self.state.config, name),
            InstructionKind::Onbuild(trigger) => {
                config::onbuild(&mut self.state.config, trigger);
                return Ok(());
            }
        };
        self.remember(text, None);
        Ok(())
    }

    /// Adds a history entry.
    pub(crate) fn remember(&mut self, created_by: String, step: Option<StepId>) {
        self.state.history.push(HistoryDraft { created_by, step });
    }

    /// Adds a step on top of the tip.
    pub(crate) fn push(&mut self, here: &Here<'_>, op: Op, name: String) -> StepId {
        let stage = self.fold.stages.list[self.index].ast.name.clone();
        let step = self.fold.steps.add(Step {
            op,
            parent: self.state.tip,
            name,
            lines: here.site.lines,
            stage: stage.unwrap_or_else(|| self.index.to_string()),
            no_cache: self.no_cache,
            platform: self.state.platform.to_string(),
        });
        self.state.tip = Some(step);
        step
    }

    pub(crate) fn escape(&self) -> char {
        self.fold.file.directives.escape
    }

    pub(crate) fn linter<'h>(&'h mut self, here: &'h Here<'_>) -> Linter<'h> {
        let fold = &mut *self.fold;
        Linter::new(fold.file, fold.options, here.instruction.check.as_ref(), &mut fold.lints)
    }

    /// Expands a word of the instruction at hand.
    pub(crate) fn expand(&mut self, here: &Here<'_>, word: &Word) -> Result<String, Diagnostic> {
        let expanded = scope::expand(&word.text, self.escape(), &self.state.env);
        let expanded = expanded.map_err(|text| here.at(word).fault("expansion", text))?;
        self.lint_undefined(here, &expanded);
        Ok(expanded.text)
    }

    pub(crate) fn lint_undefined(&mut self, here: &Here<'_>, expanded: &Expanded) {
        if expanded.unmatched.is_empty() {
            return;
        }
        let (env, declared) = (self.state.env.clone(), self.state.declared.clone());
        let lines = here.site.lines;
        lint::undefined_variables(&mut self.linter(here), &env, &declared, expanded, lines);
    }

    fn expand_all(&mut self, here: &Here<'_>, words: &[Word]) -> Result<Vec<String>, Diagnostic> {
        words.iter().map(|word| self.expand(here, word)).collect()
    }

    /// All pairs see the variables as they were before the line.
    fn expand_pairs(&mut self, here: &Here<'_>, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, Diagnostic> {
        pairs.iter().map(|pair| Ok((self.expand(here, &pair.key)?, self.expand(here, &pair.value)?))).collect()
    }

    fn lint_shell_form(&mut self, here: &Here<'_>, command: &ast::CommandLine) {
        match command {
            ast::CommandLine::Exec(_) => {}
            ast::CommandLine::Shell(_) => {
                let config = self.state.config.clone();
                let (keyword, lines) = (&here.instruction.keyword, here.site.lines);
                lint::shell_form(&mut self.linter(here), &config, keyword, lines);
            }
        }
    }

    /// ARG: a build-arg wins, then the default, then the global ARG's value. Each pair sees the ones before it.
    fn arg(&mut self, here: &Here<'_>, declarations: &[ast::ArgDeclaration]) -> Result<String, Diagnostic> {
        let mut words = vec!["ARG".to_owned()];
        for declaration in declarations {
            let name = &declaration.key.text;
            let value = match (self.fold.options.build_arg(name), &declaration.default) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => Some(self.expand(here, default)?),
                (None, None) => self.fold.globals.env.get(name).map(str::to_owned),
            };
            words.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            if let Some(value) = value.as_ref().filter(|_| !NOT_IN_ENV.contains(&name.as_str())) {
                self.state.env.set(name, value, Origin::Arg);
            }
            let seen = &mut self.fold.seen[self.index];
            seen.used.insert(name.clone());
            if declaration.default.is_some() || self.fold.options.build_arg(name).is_some() || value.is_none() {
                let description = scope::description(&here.instruction.comments, name);
                let (value, uses, lines) = (value.clone(), BTreeSet::new(), here.site.lines);
                seen.declared.insert(name.clone(), ArgInfo { value, uses, lines, description });
            }
            self.state.declared.push((name.clone(), value));
        }
        Ok(words.join(" "))
    }

    fn expose(&mut self, here: &Here<'_>, words: &[Word]) -> Result<String, Diagnostic> {
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by(|a, b| a.text.cmp(&b.text));
        // All are expanded before the first is read.
        let mut split = Vec::new();
        for word in words {
            let texts = scope::expand_split(&word.text, self.escape(), &self.state.env);
            split.push((here.at(word), texts.map_err(|text| here.at(word).fault("expansion", text))?));
        }
        let mut names = Vec::new();
        for (site, texts) in split {
            for text in texts {
                let ports = expose::parse(&text).map_err(|text| {
                    site.fault("bad-port", text).with_help("write PORT, FIRST-LAST or PORT/PROTOCOL (tcp, udp or sctp)")
                })?;
                let lines = here.site.lines;
                let mut linter = self.linter(here);
                if ports.odd_case {
                    let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
                    linter.report("ExposeProtoCasing", lines, message);
                }
                if ports.maps_host {
                    let message = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
                    );
                    linter.report("ExposeInvalidFormat", lines, message);
                }
                names.extend(ports.names);
            }
        }
        Ok(config::expose(&mut self.state.config, &names))
    }

    fn workdir(&mut self, here: &Here<'_>, path: &Word) -> Result<(), Diagnostic> {
        let path = self.expand(here, path)?;
        if !self.state.workdir_seen {
            let lines = here.site.lines;
            lint::relative_workdir(&mut self.linter(here), &path, lines);
            self.state.workdir_seen = true;
        }
        let path = paths::workdir(&self.state.config.config.working_dir, &path);
        self.state.config.config.working_dir.clone_from(&path);
        let step = if path == "/" {
            None
        } else {
            let text = name::of_files(&here.instruction.original, self.escape(), &self.state.env);
            let name = self.names.next(&text, here.triggered, &self.state.env);
            let user = self.state.config.config.user.clone();
            let op = Op::Workdir(Workdir { path: paths::clean(&path), user, mtime: self.fold.epoch });
            Some(self.push(here, op, name))
        };
        self.remember(format!("WORKDIR {path}"), step);
        Ok(())
    }

    /// The current directory, absolute and cleaned.
    pub(crate) fn current_dir(&self) -> String {
        paths::clean(&self.state.config.config.working_dir)
    }
}
