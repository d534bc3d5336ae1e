//! What a target can be given: build arguments, secrets, ssh agents (`--call=outline`), and which targets there are
//! (`--call=targets`).
//!
//! Data only; `ui` makes tables and JSON of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::ast::Dockerfile;
use crate::plan::scope::{ArgInfo, description};
use crate::plan::stage::{Base, Stages, Tree};
use crate::source::Lines;

/// What one target uses, itself and through the stages it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name; empty for an unnamed stage.
    pub name: String,
    /// From the comment above its FROM.
    pub description: Option<String>,
    /// Arguments it uses, by line.
    pub args: Vec<OutlineArg>,
    /// Secrets it mounts, by line.
    pub secrets: Vec<OutlineSecret>,
    /// Agents it mounts, by line.
    pub ssh: Vec<OutlineSecret>,
    /// Cache mounts it uses, by line.
    pub caches: Vec<OutlineSecret>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    /// Name
    pub name: String,
    /// Value it has in this build.
    pub value: Option<String>,
    /// From the comment above it.
    pub description: Option<String>,
    /// Its ARG.
    pub lines: Lines,
}

/// A secret, an ssh agent or a cache mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineSecret {
    /// Its id.
    pub id: String,
    /// Whether its absence is an error.
    pub required: bool,
    /// The first RUN that mounts it.
    pub lines: Lines,
}

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Empty for an unnamed stage.
    pub name: String,
    /// Whether it is built without `--target`.
    pub default: bool,
    /// From the comment above its FROM.
    pub description: Option<String>,
    /// What stands after FROM, unexpanded.
    pub base: String,
    /// What stands after `--platform=`, unexpanded.
    pub platform: Option<String>,
    /// The FROM line.
    pub lines: Lines,
}

/// All stages of a file.
pub fn targets(file: &Dockerfile) -> Vec<Target> {
    let last = file.stages.len().saturating_sub(1);
    file.stages
        .iter()
        .enumerate()
        .map(|(index, stage)| Target {
            name: stage.name.clone().unwrap_or_default(),
            default: index == last,
            description: stage.name.as_deref().and_then(|name| description(&stage.comments, name)),
            base: stage.base.text.clone(),
            platform: stage.platform.as_ref().map(|word| word.text.clone()),
            lines: stage.lines,
        })
        .collect()
}

/// What folding a stage has seen of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// ARGs with a value or default of their own.
    pub(crate) declared: BTreeMap<String, ArgInfo>,
    /// Names that an ARG of the stage mentions.
    pub(crate) used: BTreeSet<String>,
    pub(crate) secrets: Vec<OutlineSecret>,
    pub(crate) ssh: Vec<OutlineSecret>,
    pub(crate) caches: Vec<OutlineSecret>,
}

impl Seen {
    pub(crate) fn secret(list: &mut Vec<OutlineSecret>, id: &str, required: bool, lines: Lines) {
        if !list.iter().any(|known| known.id == id) {
            list.push(OutlineSecret { id: id.to_owned(), required, lines });
        }
    }
}

/// Collects what `target` uses from what was seen in each stage; `reads` are the trees a stage's triggers read.
pub(crate) fn outline(
    target: usize,
    stages: &Stages<'_>,
    seen: &[Seen],
    globals: &BTreeMap<String, ArgInfo>,
    reads: &dyn Fn(usize) -> Vec<Tree>,
) -> Outline {
    let ast = stages.list[target].ast;
    let mut outline = Outline {
        name: ast.name.clone().unwrap_or_default(),
        description: ast.name.as_deref().and_then(|name| description(&ast.comments, name)),
        ..Outline::default()
    };
    let mut visited = BTreeSet::new();
    let mut open = vec![target];
    while let Some(index) = open.pop() {
        if !visited.insert(index) {
            continue;
        }
        let stage = &stages.list[index];
        outline.add(&seen[index], &stage.used_args, globals);
        if let Base::Stage(base) = stage.base {
            open.push(base);
        }
        let trees = stage.reads.iter().flatten().cloned().chain(reads(index));
        open.extend(trees.filter_map(|tree| match tree {
            Tree::Stage(stage) => Some(stage),
            Tree::Main | Tree::Outside(_) => None,
        }));
    }
    outline.args.sort_by(|a, b| (a.lines, &a.name).cmp(&(b.lines, &b.name)));
    outline.secrets.sort_by_key(|secret| secret.lines);
    outline.ssh.sort_by_key(|secret| secret.lines);
    outline.caches.sort_by_key(|cache| cache.lines);
    outline
}

impl Outline {
    /// Adds what one stage uses; a name that is known already stays as it is.
    fn add(&mut self, seen: &Seen, from_line: &BTreeSet<String>, globals: &BTreeMap<String, ArgInfo>) {
        let mut done = BTreeSet::new();
        let mut open: Vec<&String> = seen.used.iter().chain(from_line).collect();
        while let Some(name) = open.pop() {
            if !done.insert(name) {
                continue;
            }
            let Some(info) = seen.declared.get(name).or_else(|| globals.get(name)) else { continue };
            open.extend(&info.uses);
            if self.args.iter().all(|arg| arg.name != *name) {
                self.args.push(OutlineArg {
                    name: name.clone(),
                    value: info.value.clone(),
                    description: info.description.clone(),
                    lines: info.lines,
                });
            }
        }
        let lists = [(&seen.secrets, &mut self.secrets), (&seen.ssh, &mut self.ssh), (&seen.caches, &mut self.caches)];
        for (from, to) in lists {
            for secret in from {
                Seen::secret(to, &secret.id, secret.required, secret.lines);
            }
        }
    }
}
