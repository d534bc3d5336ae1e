//! Dockerfile + options + facts to a plan (owner: plan helper; graph.rs is shared contract).

pub mod graph;
