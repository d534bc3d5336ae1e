//! The options of `rbuild build`, and of `plan` and `graph` which share those that say what to build.
//!
//! Names and meanings are those of `docker buildx build`. Hidden ones do nothing by nature (there is no daemon and no
//! intermediate container) or are known to Docker and get an error of their own instead of "unknown".

#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the texts of --help")]

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args_registry::RegistryArgs;

/// What to build.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "What to build")]
pub struct SourceArgs {
    /// Directory, address of a git repository or archive, or "-" for a Dockerfile or tar archive on stdin
    #[arg(value_name = "CONTEXT", help_heading = "Arguments")]
    pub context: String,

    /// Dockerfile [default: CONTEXT/Dockerfile]; relative to the current directory; "-" is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,

    /// Build only up to this stage
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,

    /// Value of an ARG; without "=VALUE" it is taken from the environment if set there
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,

    /// Further context for FROM, COPY --from and RUN --mount=from: directory, docker-image://REF, oci-layout://DIR, git, https
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,

    /// Platform of the image, e.g. linux/arm64 [default: $DOCKER_DEFAULT_PLATFORM, else this machine's]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<String>,

    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,

    /// How registries are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// `rbuild build`
#[derive(Args, Clone, Debug, Default)]
#[command(
    override_usage = "rbuild [build] [OPTIONS] CONTEXT",
    after_help = EXAMPLES,
    after_long_help = LONG_EXAMPLES,
)]
pub struct BuildArgs {
    /// What to build.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Name of the image; may be given several times
    #[arg(short, long, value_name = "NAME[:TAG]", help_heading = "Results")]
    pub tag: Vec<String>,

    /// Where the result goes [default: rbuild's store]; may be given several times
    ///
    /// DIR, "-" (a tar archive on stdout), or TYPE with attributes:
    ///   type=image[,push=true]           rbuild's store; push to the registry
    ///   type=registry                    the same with push=true
    ///   type=oci|docker,dest=FILE|-      image archive; tar=false writes a directory
    ///   type=docker                      load into Docker
    ///   type=local,dest=DIR              the files of the last stage
    ///   type=tar,dest=FILE|-             the same as an archive
    ///   type=cacheonly                   nothing
    /// Attributes of images:
    ///   name, push, push-by-digest, registry.insecure, name-canonical,
    ///   dangling-name-prefix, unpack, store, oci-mediatypes,
    ///   compression (gzip, zstd, uncompressed), compression-level,
    ///   force-compression, rewrite-timestamp,
    ///   annotation[-TYPE][[PLATFORM]].NAME
    /// Of local and tar:
    ///   platform-split
    #[arg(short, long, value_name = "DEST", help_heading = "Results", verbatim_doc_comment)]
    pub output: Vec<String>,

    /// Push to the registry: short for --output=type=registry
    #[arg(long, help_heading = "Results")]
    pub push: bool,

    /// Load into Docker: short for --output=type=docker
    #[arg(long, help_heading = "Results")]
    pub load: bool,

    /// Annotation of the image's manifest; TYPE is manifest, manifest-descriptor, index or index-descriptor
    #[arg(long, value_name = "[TYPE[PLATFORM][,TYPE]:]NAME=VALUE", help_heading = "Results")]
    pub annotation: Vec<String>,

    /// Make one layer of all that the build adds to the base image
    #[arg(long, help_heading = "Results")]
    pub squash: bool,

    /// Make one layer of everything
    #[arg(long, help_heading = "Results")]
    pub squash_all: bool,

    /// Write the image ID to a file
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub iidfile: Option<PathBuf>,

    /// Write digests and names of the result to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub metadata_file: Option<PathBuf>,

    /// Take results from a cache made elsewhere: NAME (a cache or an image in a registry), or TYPE with attributes
    ///
    ///   type=registry,ref=NAME           also registry.insecure
    ///   type=local,src=DIR               a directory; also tag, digest
    ///   type=s3,bucket=NAME,region=NAME  a bucket; also name, prefix,
    ///     blobs_prefix, manifests_prefix, endpoint_url, use_path_style,
    ///     access_key_id, secret_access_key, session_token
    ///     (the last three and region else from AWS_ variables)
    /// mounts=none or ids of cache mounts: fill only these from it.
    /// May be given several times.
    #[arg(long, value_name = "CACHE", help_heading = "Cache", verbatim_doc_comment)]
    pub cache_from: Vec<String>,

    /// Put results into a cache for other machines
    ///
    ///   type=registry,ref=NAME           a registry; also registry.insecure
    ///   type=local,dest=DIR              a directory; also tag
    ///   type=s3,bucket=NAME,region=NAME  a bucket, as above; also
    ///     upload_parallelism, touch_refresh, retry_max_attempts
    ///   type=inline                      the image itself
    /// Attributes:
    ///   mode (max, the default: all steps; min: those in the result),
    ///   mounts (all, or ids of cache mounts: their content, too),
    ///   ignore-error, oci-mediatypes, compression-level,
    ///   compression (gzip, zstd, uncompressed), force-compression
    /// May be given several times.
    #[arg(long, value_name = "CACHE", help_heading = "Cache", verbatim_doc_comment)]
    pub cache_to: Vec<String>,

    /// Run every step, whatever the cache holds
    #[arg(long, help_heading = "Cache")]
    pub no_cache: bool,

    /// Run every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',', help_heading = "Cache")]
    pub no_cache_filter: Vec<String>,

    /// Look for newer base images: always, missing (the default), newer or never; without a value: always
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always", help_heading = "Cache")]
    pub pull: Option<String>,

    /// Say why each step that was run could not be taken from the cache
    #[arg(long, help_heading = "Cache")]
    pub explain: bool,

    /// Secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=VARIABLE]
    #[arg(long, value_name = "SPEC", help_heading = "Steps")]
    pub secret: Vec<String>,

    /// SSH agent for RUN --mount=type=ssh: the user's, one at a socket, or one that holds these keys
    #[arg(long, value_name = "default|ID[=SOCKET|KEY[,KEY]]", help_heading = "Steps")]
    pub ssh: Vec<String>,

    /// Network of RUN: default, none or host
    #[arg(long, value_name = "MODE", help_heading = "Steps")]
    pub network: Option<String>,

    /// Further line for /etc/hosts; "host-gateway" is this machine
    #[arg(long, value_name = "HOST:IP", help_heading = "Steps")]
    pub add_host: Vec<String>,

    /// Let steps ask for more: network.host, security.insecure
    #[arg(long, value_name = "WHAT", help_heading = "Steps")]
    pub allow: Vec<String>,

    /// Fail if an image is used that no PATTERN allows, e.g. "registry.example.com/golden/**"; @FILE has one a line
    #[arg(long, value_name = "PATTERN|@FILE", help_heading = "Steps")]
    pub allow_base: Vec<String>,

    /// Size of /dev/shm, e.g. 64m
    #[arg(long, value_name = "SIZE", help_heading = "Steps")]
    pub shm_size: Option<String>,

    /// Limit of processes, e.g. nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Steps")]
    pub ulimit: Vec<String>,

    /// What a step may use.
    #[command(flatten)]
    pub limits: LimitArgs,

    /// How many steps may run at once [default: by cores and memory]
    #[arg(long, value_name = "N", help_heading = "Steps")]
    pub jobs: Option<NonZeroUsize>,

    /// When a RUN fails: fail, or open a shell where it did, with its mounts, environment, user and directory
    #[arg(long, value_name = "WHAT", default_value = "fail", help_heading = "Steps")]
    pub on_error: OnError,

    /// How to show what happens: auto, plain, tty, quiet, rawjson, none [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_name = "HOW", help_heading = "Display")]
    pub progress: Option<String>,

    /// Show nothing, print the image ID at the end
    #[arg(short, long, help_heading = "Display")]
    pub quiet: bool,

    /// Do not build but answer: check, outline, targets or subrequests.describe[,format=json]
    #[arg(long, value_name = "QUESTION", help_heading = "Display")]
    pub call: Option<String>,

    /// Check the Dockerfile: short for --call=check
    #[arg(long, help_heading = "Display")]
    pub check: bool,

    /// How to write the answer of --check and --call: text or json; for --check also sarif or github
    #[arg(long, value_name = "FORMAT", help_heading = "Display")]
    pub format: Option<String>,

    /// Without meaning here.
    #[command(flatten)]
    pub harmless: HarmlessArgs,

    /// Known to Docker, not to us.
    #[command(flatten)]
    pub unsupported: UnsupportedArgs,
}

macro_rules! examples {
    () => {
        "\
Examples:
  rbuild -t app:1.0 .
  rbuild -t registry.example.org/app:1.0 --push .
  rbuild --target test --build-arg VERSION=2 -f docker/Dockerfile .
  rbuild -o type=oci,dest=app.tar .
  rbuild -o out .                     files of the last stage to \"out\"
  rbuild --secret id=token,env=TOKEN .
  rbuild --check ."
    };
}

const EXAMPLES: &str = examples!();

const LONG_EXAMPLES: &str = concat!(
    examples!(),
    "

Accepted and without effect, for scripts written for Docker: --compress,
--rm, --force-rm, --isolation=default, --provenance=false, --sbom=false.
Any other option that is not listed here is an error.

Environment: RBUILD_ROOT, RBUILD_STORE_MAX, RBUILD_THREADS (default: all
cores), DOCKER_DEFAULT_PLATFORM,
SOURCE_DATE_EPOCH (passed on as a build-arg), BUILDKIT_PROGRESS, NO_COLOR,
BUILDKIT_COLORS, BUILDKIT_TTY_LOG_LINES, TTY_DISPLAY_RATE, SSH_AUTH_SOCK,
DOCKER_CONFIG (credentials and proxies)."
);

/// Options that ask for nothing: there is no daemon to send a context to and no intermediate container to remove.
#[derive(Args, Clone, Debug, Default)]
pub struct HarmlessArgs {
    /// Nothing is sent anywhere, so there is nothing to compress
    #[arg(long, hide = true)]
    pub compress: bool,
    /// There are no intermediate containers
    #[arg(long, hide = true)]
    pub rm: bool,
    /// There are no intermediate containers
    #[arg(long, hide = true)]
    pub force_rm: bool,
    /// Only "default" has a meaning on Linux
    #[arg(long, hide = true, value_name = "MODE")]
    pub isolation: Option<String>,
    /// Attestations are not made; "false" is accepted
    #[arg(long, hide = true, value_name = "BOOL")]
    pub provenance: Option<String>,
    /// Attestations are not made; "false" is accepted
    #[arg(long, hide = true, value_name = "BOOL")]
    pub sbom: Option<String>,
}

/// How steps are run and what they may use. The older flags are hidden, as they are with buildx.
#[derive(Args, Clone, Debug, Default)]
pub struct LimitArgs {
    /// Limit of a step, e.g. memory=1g: also memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, cpuset-mems
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Steps")]
    pub resource: Vec<String>,
    /// OCI runtime that makes the containers of steps (crun, runc), by name or path, instead of rbuild itself
    #[arg(long, value_name = "RUNTIME", help_heading = "Steps")]
    pub oci_runtime: Option<String>,
    /// Control group to make those of steps in
    #[arg(long, value_name = "PATH", help_heading = "Steps")]
    pub cgroup_parent: Option<String>,
    /// Memory of a step
    #[arg(long, short = 'm', value_name = "BYTES", hide = true)]
    pub memory: Option<String>,
    /// Memory and swap of a step; -1: any amount of swap
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Weight of a step's processor time
    #[arg(long, short = 'c', value_name = "N", hide = true)]
    pub cpu_shares: Option<String>,
    /// Microseconds of a period of processor time
    #[arg(long, value_name = "N", hide = true)]
    pub cpu_period: Option<String>,
    /// Microseconds of processor time in a period
    #[arg(long, value_name = "N", hide = true, allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// Processors a step may use
    #[arg(long, value_name = "LIST", hide = true)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes a step may use
    #[arg(long, value_name = "LIST", hide = true)]
    pub cpuset_mems: Option<String>,
}

macro_rules! unsupported {
    ($($(#[$attribute:meta])* $field:ident $name:literal;)*) => {
        /// Options of `docker buildx build` that rbuild has not: each is an error that says so.
        #[derive(Args, Clone, Debug, Default)]
        pub struct UnsupportedArgs {
            $(
                /// Not supported yet
                #[arg(long = $name, hide = true)]
                $(#[$attribute])*
                pub $field: Option<String>,
            )*
        }

        impl UnsupportedArgs {
            /// The first one that was given.
            pub fn first(&self) -> Option<&'static str> {
                $(if self.$field.is_some() { return Some(concat!("--", $name)); })*
                None
            }
        }
    };
}

unsupported! {
    attest "attest";
    policy "policy";
    security_opt "security-opt";
    builder "builder";
}

/// What to do about a RUN that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// End the build.
    #[default]
    Fail,
    /// Open a shell, then end the build.
    Shell,
}

/// `rbuild plan`
#[derive(Args, Clone, Debug, Default)]
pub struct PlanArgs {
    /// What to plan.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// `rbuild graph`
#[derive(Args, Clone, Debug)]
pub struct GraphArgs {
    /// What to draw.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Language of the output
    #[arg(long, value_name = "FORMAT", default_value = "dot")]
    pub format: GraphFormat,
}

/// `rbuild explain-rule`
#[derive(Args, Clone, Debug, Default)]
pub struct ExplainRuleArgs {
    /// Name of the rule, in any case or like-this
    #[arg(value_name = "RULE")]
    pub rule: Option<String>,
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// For Graphviz.
    Dot,
    /// For Mermaid.
    Mermaid,
    /// A picture.
    Svg,
    /// For programs.
    Json,
}

impl From<SourceArgs> for BuildArgs {
    /// A build of `source` with nothing else asked for.
    fn from(source: SourceArgs) -> Self {
        Self { source, ..Self::default() }
    }
}
