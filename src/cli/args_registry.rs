//! The options on registries, shared by all commands that talk to one, and the commands on registries themselves.

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the texts of --help")]

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// How registries are reached.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArgs {
    /// Where to look before docker.io, or before HOST; http:// is allowed. May be given several times
    #[arg(long, value_name = "[HOST=]MIRROR[/PATH]")]
    pub registry_mirror: Vec<String>,

    /// Registry whose certificate is not verified, and that may speak plain http
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,

    /// Further root certificates (PEM), for all registries or for one
    #[arg(long, value_name = "[HOST=]FILE")]
    pub registry_ca: Vec<String>,

    /// Give up a connection to a registry on which nothing moves for so long [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub registry_timeout: Option<u32>,

    /// Ask no registry: what is not in the store is an error
    #[arg(long)]
    pub offline: bool,
}

/// `rbuild login`
#[derive(Args, Clone, Debug, Default)]
pub struct LoginArgs {
    /// Registry
    #[arg(value_name = "HOST", default_value = "docker.io")]
    pub host: String,

    /// User name; without it, it is asked for
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,

    /// Password or token; others can see it in the list of processes, so prefer --password-stdin
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,

    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,

    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild logout`
#[derive(Args, Clone, Debug, Default)]
pub struct LogoutArgs {
    /// Registry
    #[arg(value_name = "HOST", default_value = "docker.io")]
    pub host: String,
}

/// `rbuild registry`
#[derive(Clone, Debug, Subcommand)]
pub enum RegistryCommand {
    /// List the repositories of a registry
    Ls(RegistryLsArgs),
    /// List the tags of a repository
    Tags(RegistryTagsArgs),
}

/// `rbuild registry ls`
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryLsArgs {
    /// Registry
    #[arg(value_name = "HOST")]
    pub host: String,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild registry tags`
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryTagsArgs {
    /// Repository
    #[arg(value_name = "NAME")]
    pub name: String,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild manifest`
#[derive(Clone, Debug, Subcommand)]
pub enum ManifestCommand {
    /// Print a manifest or an index as it is
    Inspect(ManifestInspectArgs),
    /// Join manifests that are in registries to an index
    Create(ManifestCreateArgs),
    /// Send an index that was created, with what its registry lacks
    Push(ManifestPushArgs),
}

/// `rbuild manifest inspect`
#[derive(Args, Clone, Debug, Default)]
pub struct ManifestInspectArgs {
    /// Name; an index that was created and not sent yet comes before the registry's
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
    /// Of an index, the manifest for this platform
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print only the digest
    #[arg(long)]
    pub digest: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild manifest create`
#[derive(Args, Clone, Debug, Default)]
pub struct ManifestCreateArgs {
    /// Name of the index
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
    /// Its members: images or indexes in registries; a bare digest is one of NAME's repository. A platform says what an
    /// image is for if its config does not, or which one of an index is meant
    #[arg(value_name = "MEMBER[=OS/ARCH]", required = true)]
    pub members: Vec<String>,
    /// Add to the index of that name that was created before
    #[arg(short, long)]
    pub amend: bool,
    /// Annotation: [index|manifest-descriptor[PLATFORM]:]KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Send it at once
    #[arg(long)]
    pub push: bool,
    /// Print the index, do nothing
    #[arg(long, conflicts_with = "push")]
    pub dry_run: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild manifest push`
#[derive(Args, Clone, Debug, Default)]
pub struct ManifestPushArgs {
    /// Name of the index
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
    /// Forget it here afterwards
    #[arg(short, long)]
    pub purge: bool,
    /// Print nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild copy`
#[derive(Args, Clone, Debug, Default)]
pub struct CopyArgs {
    /// Image or index: a name in a registry, or oci-layout://DIR[:TAG][@DIGEST]. docker:// and oci: are understood, too
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where to: a name in a registry, or oci-layout://DIR[:TAG]; without a tag it gets the source's
    #[arg(value_name = "DESTINATION")]
    pub dest: String,
    /// Of an index, only the image for this platform; otherwise all of it
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// File that gets the digest
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}
