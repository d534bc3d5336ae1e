//! rbuild: builds container images from Dockerfiles, in one process.
//!
//! The module list tells the story from bottom to top; imports go downward only (`tests/tidy.rs` checks it).
//! `docs/architecture.md` has the map and the invariants.

// Layer 0: words every module may use.
pub mod cancel;
pub mod diagnostic;
pub mod source;

// Layer 1: pure over bytes handed in.
pub mod dockerfile;
pub mod oci;
pub mod tar;

// Layer 2: pure; no file, clock, environment, network or thread.
pub mod attributes;
pub mod event;
pub mod image;
pub mod plan;
pub mod schedule;
pub mod transfer;

// Layer 3: files beneath a root; layers and their forms.
pub mod files;
pub mod layers;

// Layer 4: one part of the outside world each; they never import one another.
pub mod agent;
pub mod context;
pub mod docker;
pub mod exec;
pub mod fetch;
pub mod registry;
pub mod snapshot;

// Layer 5: images by name, and getting them; export and exchange use it, the engine does not.
pub mod catalog;
pub mod engine;
pub mod exchange;
pub mod export;

// Layer 6
pub mod pipeline;

// Layer 7: wording, exit codes, terminal, environment, signals.
pub mod cli;
pub mod ui;
