//! A plan as a picture: steps in rows by how many steps they wait for, stages in columns, arrows from inputs to what needs them.
//!
//! A layout of our own: builds are few columns of long chains, for which rows by depth and a column a stage are enough.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::graph::{Op, Plan, StepId};

const BOX_HEIGHT: usize = 30;
const ROW: usize = 62;
const GAP: usize = 48;
const MARGIN: usize = 24;
/// Width of a character of the monospaced font at its size.
const CHARACTER: f32 = 7.3;
/// Longer names are cut; the whole name is in the tooltip.
const MAX_CHARACTERS: usize = 58;

struct Place {
    column: usize,
    row: usize,
}

/// The picture.
pub(crate) fn svg(plan: &Plan) -> String {
    let places = places(plan);
    let columns = places.values().map(|place| place.column + 1).max().unwrap_or(0);
    let rows = places.values().map(|place| place.row + 1).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for (id, place) in &places {
        let text = cut(&plan.steps[*id].name).chars().count();
        widths[place.column] = widths[place.column].max((f64::from(u32::try_from(text).unwrap_or(u32::MAX)) * f64::from(CHARACTER)) as usize + 24);
    }
    let lefts: Vec<usize> = widths
        .iter()
        .scan(MARGIN, |x, width| {
            let left = *x;
            *x += width + GAP;
            Some(left)
        })
        .collect();
    let width = widths.iter().sum::<usize>() + GAP * columns.saturating_sub(1) + 2 * MARGIN;
    let height = (rows * ROW).saturating_sub(ROW - BOX_HEIGHT) + 2 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"monospace\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#555\"/></marker></defs>\n"
    );
    let middle = |place: &Place| lefts[place.column] + widths[place.column] / 2;
    let top = |place: &Place| MARGIN + place.row * ROW;
    for id in plan.steps.node_indices() {
        let step = &plan.steps[id];
        let mut inputs = step.inputs();
        inputs.sort_unstable();
        inputs.dedup();
        for input in inputs {
            let (from, to) = (&places[&input], &places[&id]);
            let (x1, y1, x2, y2) = (middle(from), top(from) + BOX_HEIGHT, middle(to), top(to));
            let dash = if step.parent == Some(input) { "" } else { " stroke-dasharray=\"4 3\"" };
            let bend = (y2.saturating_sub(y1) / 2).max(12);
            let _ = writeln!(
                out,
                "<path d=\"M{x1} {y1}C{x1} {} {x2} {} {x2} {y2}\" fill=\"none\" stroke=\"#555\"{dash} marker-end=\"url(#a)\"/>",
                y1 + bend,
                y2.saturating_sub(bend)
            );
        }
    }
    for (id, place) in &places {
        let step = &plan.steps[*id];
        let fill = match step.op {
            Op::Image(_) => "#e3e8ef",
            Op::Run(_) => "#fdf0d5",
            Op::Copy(_) => "#dcefe0",
            Op::Workdir(_) => "#f1e6f5",
        };
        let border = if plan.target == Some(*id) { 2.5 } else { 1.0 };
        let (x, y) = (lefts[place.column], top(place));
        let _ = writeln!(
            out,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{BOX_HEIGHT}\" rx=\"5\" fill=\"{fill}\" \
             stroke=\"#333\" stroke-width=\"{border}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text></g>",
            escaped(&step.name),
            widths[place.column],
            middle(place),
            y + BOX_HEIGHT / 2 + 4,
            escaped(&cut(&step.name)),
        );
    }
    out + "</svg>\n"
}

/// A row below all inputs, a column for each chain: a step stands below its parent unless another one does already.
fn places(plan: &Plan) -> BTreeMap<StepId, Place> {
    let mut places: BTreeMap<StepId, Place> = BTreeMap::new();
    // The last row taken in each column; inputs come before what needs them.
    let mut taken: Vec<Option<usize>> = Vec::new();
    for id in plan.steps.node_indices() {
        let step = &plan.steps[id];
        let row = step.inputs().iter().map(|input| places[input].row + 1).max().unwrap_or(0);
        let free = |column: usize| taken.get(column).copied().flatten().is_none_or(|last| last < row);
        let below = step.parent.map(|parent| places[&parent].column).filter(|column| free(*column));
        let column = below.unwrap_or(taken.len());
        if column == taken.len() {
            taken.push(None);
        }
        taken[column] = Some(row);
        places.insert(id, Place { column, row });
    }
    places
}

fn cut(name: &str) -> String {
    let line: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= MAX_CHARACTERS {
        return line;
    }
    line.chars().take(MAX_CHARACTERS - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
