//! A plan as text: for goldens, `rbuild plan` and `rbuild graph`.
//!
//! Shows what is planned, not what was built; secrets are not in a plan, ARG values show as digests.

use std::fmt::Write as _;

use serde_json::json;

use crate::dockerfile::quote::quoted;
use crate::plan::graph::{CopySource, From, Op, Plan, Step, StepId};
use crate::plan::key;
use crate::plan::svg::svg;

/// The whole plan: steps with their facts and inputs, then the image.
pub fn dump(plan: &Plan) -> String {
    let mut out = String::new();
    for id in plan.steps.node_indices() {
        step(&mut out, plan, id);
    }
    let target = plan.target.map_or("an empty root".to_owned(), |step| format!("step {}", step.index()));
    let _ = writeln!(out, "image of {target}");
    if let Some(seconds) = plan.epoch {
        let _ = writeln!(out, "  time {seconds}");
    }
    for entry in &plan.image.history {
        let layer = entry.step.map_or("-".to_owned(), |step| step.index().to_string());
        let _ = writeln!(out, "  {layer} {}", entry.created_by);
    }
    let config = serde_json::to_string_pretty(&plan.image.config).unwrap_or_else(|error| error.to_string());
    for line in config.lines() {
        let _ = writeln!(out, "  {line}");
    }
    out
}

fn step(out: &mut String, plan: &Plan, id: StepId) {
    let step = &plan.steps[id];
    let lines = match (step.lines.first, step.lines.last) {
        (first, last) if first == last => format!("line {first}"),
        (first, last) => format!("lines {first}-{last}"),
    };
    let _ = writeln!(out, "step {} {}", id.index(), step.name);
    let parent = step.parent.map_or("an empty root".to_owned(), |parent| format!("step {}", parent.index()));
    let no_cache = if step.no_cache { ", no cache" } else { "" };
    let _ = writeln!(out, "  {lines}, on {parent}{no_cache}");
    for (path, from) in read(&step.op) {
        let _ = writeln!(out, "  reads {} of {}", quoted(path), tree(from));
    }
    for (name, value) in key::facts(step) {
        let _ = writeln!(out, "  {name}: {value}");
    }
}

/// The paths a step reads of other trees, whole, in the order written; its facts have of each only what counts for a key.
fn read(op: &Op) -> Vec<(&str, &From)> {
    match op {
        Op::Image(_) | Op::Workdir(_) => Vec::new(),
        Op::Run(run) => run.mounts.iter().filter_map(|mount| mount.kind.shown()).collect(),
        Op::Copy(copy) => copy
            .sources
            .iter()
            .filter_map(|source| match source {
                CopySource::Path { from, path, .. } => Some((path.as_str(), from)),
                CopySource::Inline(_) | CopySource::Http { .. } | CopySource::Git(_) => None,
            })
            .collect(),
    }
}

fn tree(from: &From) -> String {
    match from {
        From::Step(step) => format!("step {}", step.index()),
        From::Scratch => "an empty root".to_owned(),
        From::Context(name) => format!("context {name}"),
    }
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphFormat {
    /// Graphviz
    Dot,
    /// Mermaid flowchart
    Mermaid,
    /// A picture
    Svg,
    /// `{"steps": [{"id", "name", "stage", "lines", "parent", "inputs", "contexts"}], "target"}`
    Json,
}

/// The graph of steps; an arrow leads from an input to the step that needs it.
pub fn graph(plan: &Plan, format: GraphFormat) -> String {
    match format {
        GraphFormat::Dot => {
            let mut out = "digraph rbuild {\n  node [shape=box];\n".to_owned();
            for id in plan.steps.node_indices() {
                let label = plan.steps[id].name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let style = if plan.target == Some(id) { ", style=bold" } else { "" };
                let _ = writeln!(out, "  s{} [label=\"{label}\"{style}];", id.index());
            }
            for (input, step, parent) in arrows(plan) {
                let style = if parent { "" } else { " [style=dashed]" };
                let _ = writeln!(out, "  s{} -> s{}{style};", input.index(), step.index());
            }
            out + "}\n"
        }
        GraphFormat::Mermaid => {
            let mut out = "flowchart TD\n".to_owned();
            for id in plan.steps.node_indices() {
                // Labels are HTML there.
                let name = [("#", "#35;"), ("\"", "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", "<br/>")]
                    .iter()
                    .fold(plan.steps[id].name.clone(), |name, (sign, shown)| name.replace(sign, shown));
                let _ = writeln!(out, "  s{}[\"{name}\"]", id.index());
            }
            for (input, step, parent) in arrows(plan) {
                let arrow = if parent { "-->" } else { "-.->" };
                let _ = writeln!(out, "  s{} {arrow} s{}", input.index(), step.index());
            }
            out
        }
        GraphFormat::Svg => svg(plan),
        GraphFormat::Json => {
            let steps: Vec<_> = plan.steps.node_indices().map(|id| json_step(&plan.steps[id], id)).collect();
            let value = json!({ "steps": steps, "target": plan.target.map(StepId::index) });
            format!("{value:#}\n")
        }
    }
}

/// Each input of each step once, and whether it is the parent.
fn arrows(plan: &Plan) -> Vec<(StepId, StepId, bool)> {
    let mut arrows = Vec::new();
    for id in plan.steps.node_indices() {
        let step = &plan.steps[id];
        let mut inputs = step.inputs();
        inputs.sort_unstable();
        inputs.dedup();
        arrows.extend(inputs.into_iter().map(|input| (input, id, step.parent == Some(input))));
    }
    arrows
}

fn json_step(step: &Step, id: StepId) -> serde_json::Value {
    let contexts: Vec<&String> = step
        .op
        .sources()
        .into_iter()
        .filter_map(|from| match from {
            From::Context(name) => Some(name),
            From::Step(_) | From::Scratch => None,
        })
        .collect();
    json!({
        "id": id.index(),
        "name": step.name,
        "stage": step.stage,
        "platform": step.platform,
        "lines": [step.lines.first, step.lines.last],
        "parent": step.parent.map(StepId::index),
        "inputs": step.inputs().into_iter().map(StepId::index).collect::<Vec<_>>(),
        "contexts": contexts,
    })
}
