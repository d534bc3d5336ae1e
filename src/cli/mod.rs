//! The command line: words, exit codes, environment. Each command goes from as typed (`args*`) to as decided (`request`).

pub mod args;
pub mod args_build;
pub mod args_image;
pub mod args_run;
pub mod args_store;
pub mod command_du;
pub mod command_history;
pub mod command_images;
pub mod env;
mod fields;
pub mod metadata;
pub mod request;
mod table;

/// Where the tests of this module keep whole outputs.
#[cfg(test)]
const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/cli");
