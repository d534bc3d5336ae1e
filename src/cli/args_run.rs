//! The options of `rbuild run`: those of `docker run` that a command in a throw-away root has a use for.

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the texts of --help")]

use clap::Args;

use super::args_registry::RegistryArgs;

/// `rbuild shell`
#[derive(Args, Clone, Debug, Default)]
pub struct ShellArgs {
    /// IMAGE, or a step of an earlier build: "last" or the CONTEXT it had, and a line of its Dockerfile
    ///
    /// After a step that was done, before one that failed; without a line at the step that failed, else at the end:
    ///   app:1.0       an image
    ///   last:12       the last build, line 12
    ///   .:12          the last build of this directory, line 12
    /// A RUN's mounts are there too, but for secrets, ssh agents and files of a context, which only --on-error=shell has.
    #[arg(value_name = "IMAGE|BUILD[:LINE]", verbatim_doc_comment)]
    pub target: String,

    /// Dockerfile of the build, if CONTEXT was built with several
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,

    /// Value of an ARG that the build was given: those are not kept
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
}

/// `rbuild run`
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Name or ID
    #[arg(value_name = "IMAGE")]
    pub image: String,

    /// Command and arguments instead of the image's
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,

    /// Environment variable; without "=VALUE" it is taken from the environment if set there
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,

    /// Directory or file of this machine to be seen in the root
    #[arg(short, long, value_name = "HOST:PATH[:ro]")]
    pub volume: Vec<String>,

    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,

    /// User, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// Program instead of the image's entrypoint; "" is none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,

    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,

    /// Hand the terminal in
    #[arg(short, long)]
    pub tty: bool,

    /// Throw the root away at the end; it always is
    #[arg(long)]
    pub rm: bool,

    /// Network: default, none or host
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,

    /// Host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// Further line for /etc/hosts; "host-gateway" is this machine
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,

    /// All capabilities, nothing masked
    #[arg(long)]
    pub privileged: bool,

    /// Size of /dev/shm, e.g. 64m
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,

    /// Limit of processes, e.g. nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,

    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}
