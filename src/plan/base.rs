//! What a stage stands on: an image, files of a named context, nothing; and the trees COPY and mounts read.
//!
//! Turns names into steps and starting states with the facts that were asked for. Folds no instruction.

use crate::diagnostic::Diagnostic;
use crate::oci::platform::Platform;
use crate::plan::config;
use crate::plan::env::Env;
use crate::plan::facts::ImageFacts;
use crate::plan::fold::{Fold, State};
use crate::plan::graph::{BaseImage, Copy, From, Op, Step, StepId};
use crate::plan::lint::{self, Linter};
use crate::plan::name::Names;
use crate::plan::site::Site;
use crate::plan::stage::{Base, ImageName, MAIN_CONTEXT, Outside, Tree};
use crate::source::Lines;

impl<'a> Fold<'a> {
    pub(crate) fn target(&self) -> &'a Platform {
        self.options.target_platform()
    }

    /// The facts of an image; they were asked for before folding began.
    fn image(&self, image: &ImageName, wanted: &Platform, site: &Site) -> Result<&'a ImageFacts, Diagnostic> {
        self.facts
            .image(&image.reference, &wanted.to_string())
            .ok_or_else(|| site.fault("unknown-image", format!("{}: not resolved", image.written)))
    }

    pub(crate) fn has_step(&self, outside: &Outside, platform: Option<&Platform>) -> bool {
        let wanted = platform.unwrap_or(self.target());
        match outside {
            Outside::Image(image) if image.context.is_none() => {
                self.facts.image(&image.reference, &wanted.to_string()).is_some_and(|facts| !facts.is_empty())
            }
            Outside::Image(_) | Outside::Empty | Outside::Files(_) => false,
        }
    }

    /// The state a stage starts with that stands on something outside the file. `asked` is `--platform` of the FROM.
    pub(crate) fn outside_state(
        &mut self,
        outside: &Outside,
        asked: Option<&Platform>,
        names: Option<Names>,
        site: &Site,
    ) -> Result<State, Diagnostic> {
        let wanted = asked.unwrap_or(self.target()).clone();
        let empty = |platform: &Platform| State {
            config: config::empty(platform),
            base_history: Vec::new(),
            base_layers: 0,
            history: Vec::new(),
            env: Env::default(),
            declared: Vec::new(),
            workdir_seen: false,
            tip: None,
            platform: platform.clone(),
        };
        match outside {
            // `--platform` says nothing about an empty root (observed 48).
            Outside::Empty => Ok(empty(self.target())),
            Outside::Files(name) => {
                let mut state = empty(&wanted);
                state.tip = Some(self.steps.add(files_as_root(name, &wanted, site.lines)));
                Ok(state)
            }
            Outside::Image(image) => {
                let facts = self.image(image, &wanted, site)?;
                let platform = self.platform_of(facts, asked, image);
                let tip = self.image_step(image, facts, &wanted, &platform, names, site.lines);
                if image.context.is_none() && !facts.is_empty() {
                    let mut linter = Linter::new(self.file, self.options, None, &mut self.lints);
                    lint::base_platform(&mut linter, &image.written, &platform, &facts.config, site.lines);
                }
                Ok(State {
                    config: config::inherited(&facts.config),
                    base_history: facts.config.history.clone(),
                    base_layers: facts.config.rootfs.diff_ids.len(),
                    tip,
                    ..empty(&platform)
                })
            }
        }
    }

    /// What a stage on an image runs on: what was asked for; else the image's own platform if this machine runs it.
    fn platform_of(&self, facts: &ImageFacts, asked: Option<&Platform>, image: &ImageName) -> Platform {
        let target = self.target();
        let config = &facts.config;
        if let Some(asked) = asked {
            return asked.clone();
        }
        let same = target.os == config.os && target.architecture == config.architecture;
        if self.options.target_platform.is_some() || image.context.is_some() || same {
            return target.clone();
        }
        let mut runnable = self.options.build_platforms.iter();
        let own = runnable.find(|p| p.os == config.os && p.architecture == config.architecture);
        own.unwrap_or(target).clone()
    }

    /// The step of an image's layers; none when it has none.
    fn image_step(
        &mut self,
        image: &ImageName,
        facts: &ImageFacts,
        wanted: &Platform,
        platform: &Platform,
        names: Option<Names>,
        lines: Lines,
    ) -> Option<StepId> {
        if facts.is_empty() {
            return None;
        }
        let digest = facts.digest.as_ref().filter(|_| !image.reference.contains('@'));
        let full = digest.map_or(image.reference.clone(), |digest| format!("{}@{digest}", image.reference));
        let name = match (&image.context, names) {
            (Some(context), _) => format!("[context {context}] {}", image.written),
            (None, Some(mut names)) => names.next(&format!("FROM {full}"), false, &Env::default()),
            (None, None) => format!("FROM {full}"),
        };
        Some(self.steps.add(Step {
            op: Op::Image(BaseImage {
                reference: image.reference.clone(),
                platform: wanted.to_string(),
                handle: facts.handle.clone(),
                diff_ids: facts.config.rootfs.diff_ids.clone(),
            }),
            parent: None,
            name,
            lines,
            stage: String::new(),
            no_cache: false,
            platform: platform.to_string(),
        }))
    }

    /// The tree an instruction reads, as steps see it. `verb` words the fault of a stage that comes later.
    pub(crate) fn tree(
        &mut self,
        tree: &Tree,
        site: &Site,
        later: impl FnOnce() -> String,
    ) -> Result<From, Diagnostic> {
        match tree {
            Tree::Main => Ok(From::Context(MAIN_CONTEXT.to_owned())),
            Tree::Stage(index) => match (&self.states[*index], &self.stages.list[*index].base) {
                (None, _) => Err(site.fault("later-stage", later())),
                // Files are read where they are; only a stage built on them needs them as a root.
                (Some(_), Base::Replaced(Outside::Files(name))) => Ok(From::Context(name.clone())),
                (Some(state), Base::Replaced(_) | Base::Stage(_) | Base::Outside(_)) => {
                    Ok(state.tip.map_or(From::Scratch, From::Step))
                }
            },
            Tree::Outside(Outside::Empty) => Ok(From::Scratch),
            Tree::Outside(Outside::Files(name)) => Ok(From::Context(name.clone())),
            Tree::Outside(Outside::Image(image)) => {
                let wanted = self.target().clone();
                let facts = self.image(image, &wanted, site)?;
                let platform = self.platform_of(facts, None, image);
                let step = self.image_step(image, facts, &wanted, &platform, None, site.lines);
                Ok(step.map_or(From::Scratch, From::Step))
            }
        }
    }
}

/// A named context of files used as a base: its files are copied into an empty root.
fn files_as_root(name: &str, platform: &Platform, lines: Lines) -> Step {
    Step {
        op: Op::Copy(Copy::plain(From::Context(name.to_owned()), "/")),
        parent: None,
        name: format!("[context {name}] load from client"),
        lines,
        stage: String::new(),
        no_cache: false,
        platform: platform.to_string(),
    }
}
