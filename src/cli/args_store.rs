//! The options of the commands on the store, and of `explain` and `completions`.

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the texts of --help")]

use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::args_image::ListFormat;

/// `rbuild explain`
#[derive(Args, Clone, Debug, Default)]
pub struct ExplainArgs {
    /// Only steps whose name contains this, e.g. "2/5" or "COPY" [default: all that were run]
    #[arg(value_name = "STEP")]
    pub step: Option<String>,
}

/// `rbuild du`
#[derive(Args, Clone, Debug, Default)]
pub struct DuArgs {
    /// List every object
    #[arg(long)]
    pub verbose: bool,
    /// Only objects like this: until=24h, id=, type=, inuse, mutable, shared, private, description~=
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
}

/// `rbuild prune`
#[derive(Args, Clone, Debug, Default)]
pub struct PruneArgs {
    /// Also what may still be of use: everything that no named image needs
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only objects like this: until=24h, id=, type=, inuse, mutable, shared, private, description~=
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Remove the least recently used until no more than this is left, e.g. 10GB
    #[arg(long, value_name = "SIZE")]
    pub max_used_space: Option<String>,
    /// Remove the least recently used until the disk has this much free
    #[arg(long, value_name = "SIZE")]
    pub min_free_space: Option<String>,
    /// Keep this much in any case
    #[arg(long, alias = "keep-storage", value_name = "SIZE")]
    pub reserved_space: Option<String>,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// `rbuild cache`
#[derive(Clone, Debug, Subcommand)]
pub enum CacheCommand {
    /// List cache mounts
    Ls {
        /// How to print
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: ListFormat,
    },
    /// Remove cache mounts
    Rm {
        /// IDs as "ls" shows them
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// `rbuild completions`
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

impl CompletionsArgs {
    /// The script.
    pub fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::args::command(), "rbuild", &mut script);
        script
    }
}
