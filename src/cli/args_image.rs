//! The options of the commands on images.

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the texts of --help")]

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args_registry::RegistryArgs;

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

/// `rbuild images`
#[derive(Args, Clone, Debug, Default)]
pub struct ImagesArgs {
    /// Only images of this name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// Print only IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
}

/// `rbuild inspect`
#[derive(Args, Clone, Debug, Default)]
pub struct InspectArgs {
    /// Names or IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// `rbuild history`
#[derive(Args, Clone, Debug, Default)]
pub struct HistoryArgs {
    /// Name or ID
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Do not shorten the instructions
    #[arg(long)]
    pub no_trunc: bool,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
}

/// `rbuild tag`
#[derive(Args, Clone, Debug, Default)]
pub struct TagArgs {
    /// Name or ID of an image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Its new name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

/// `rbuild rmi`
#[derive(Args, Clone, Debug, Default)]
pub struct RmiArgs {
    /// Names or IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove an image by ID with all its names; do not fail if there is none
    #[arg(short, long)]
    pub force: bool,
}

/// `rbuild save`
#[derive(Args, Clone, Debug)]
pub struct SaveArgs {
    /// Names or IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// The archive [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Kind of archive
    #[arg(long, value_name = "FORMAT", default_value = "docker")]
    pub format: ArchiveFormat,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// Kinds of image archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArchiveFormat {
    /// What `docker load` reads.
    Docker,
    /// An OCI image layout.
    Oci,
}

/// `rbuild load`
#[derive(Args, Clone, Debug, Default)]
pub struct LoadArgs {
    /// The archive [default: stdin]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Print only names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `rbuild import`
#[derive(Args, Clone, Debug, Default)]
pub struct ImportArgs {
    /// Tar archive, possibly compressed, of a root directory; "-" is stdin
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// Platform of the image [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
}

/// `rbuild pull`
#[derive(Args, Clone, Debug, Default)]
pub struct PullArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
    /// Platform wanted [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print only the name
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild push`
#[derive(Args, Clone, Debug, Default)]
pub struct PushArgs {
    /// Name of the image; it says where to
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
    /// Print nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}
