//! Collects steps while stages are folded: equal steps become one, and only what the target needs gets into the graph.

use std::collections::BTreeMap;

use petgraph::graph::DiGraph;

use crate::plan::graph::{CopySource, From, MountKind, Op, Step, StepId};

/// Steps in an order in which each comes after its inputs.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    list: Vec<Step>,
    /// The steps on each step: only these can be equal, and in a long file they are few.
    on: BTreeMap<Option<StepId>, Vec<usize>>,
}

impl Steps {
    /// Adds a step, or finds the one that does the same to the same inputs. The first one's name stays.
    pub(crate) fn add(&mut self, step: Step) -> StepId {
        let siblings = self.on.entry(step.parent).or_default();
        let equal = |index: &&usize| {
            let other = &self.list[**index];
            other.platform == step.platform && other.op == step.op
        };
        if let Some(index) = siblings.iter().find(equal) {
            self.list[*index].no_cache |= step.no_cache;
            return StepId::new(*index);
        }
        siblings.push(self.list.len());
        self.list.push(step);
        StepId::new(self.list.len() - 1)
    }

    /// The graph of `target` and all it needs, with the new names of the steps that stayed.
    pub(crate) fn graph_of(self, target: Option<StepId>) -> (DiGraph<Step, ()>, BTreeMap<StepId, StepId>) {
        let mut needed = vec![false; self.list.len()];
        if let Some(target) = target {
            needed[target.index()] = true;
        }
        for index in (0..self.list.len()).rev() {
            if needed[index] {
                self.list[index].inputs().into_iter().for_each(|input| needed[input.index()] = true);
            }
        }
        let mut graph = DiGraph::new();
        let mut renamed = BTreeMap::new();
        for (index, mut step) in self.list.into_iter().enumerate().filter(|(index, _)| needed[*index]) {
            rename(&mut step, &renamed);
            let inputs = step.inputs();
            let id = graph.add_node(step);
            renamed.insert(StepId::new(index), id);
            for input in inputs {
                graph.update_edge(input, id, ());
            }
        }
        (graph, renamed)
    }
}

/// Replaces the names of a step's inputs.
fn rename(step: &mut Step, renamed: &BTreeMap<StepId, StepId>) {
    if let Some(parent) = &mut step.parent {
        *parent = renamed[parent];
    }
    let rename_from = |from: &mut From| match from {
        From::Step(id) => *id = renamed[id],
        From::Scratch | From::Context(_) => {}
    };
    match &mut step.op {
        Op::Image(_) | Op::Workdir(_) => {}
        Op::Run(run) => {
            for mount in &mut run.mounts {
                match &mut mount.kind {
                    MountKind::Bind { from, .. } | MountKind::Cache { from: Some(from), .. } => rename_from(from),
                    MountKind::Cache { from: None, .. }
                    | MountKind::Tmpfs { .. }
                    | MountKind::Secret { .. }
                    | MountKind::Ssh { .. } => {}
                }
            }
        }
        Op::Copy(copy) => {
            for source in &mut copy.sources {
                match source {
                    CopySource::Path { from, .. } => rename_from(from),
                    CopySource::Inline(_) | CopySource::Http { .. } | CopySource::Git(_) => {}
                }
            }
        }
    }
}
