//! A build as decided: flags, environment and files of the user turned into one value that leaves no question open.
//!
//! Reads the file system only to answer what the command line asks (is the context a directory, what is in a secret) and never
//! asks the process anything: that is in [`Env`]. Everything the build needs later (secrets, addresses of agents) is read here,
//! because later the process may be in another user namespace. Words of errors are those of `docker buildx build`.

mod annotation;
mod aws;
mod cache;
mod call;
mod context;
mod filter;
mod limits;
mod output;
mod progress;
mod proxy;
mod prune;
mod registries;
mod run;
mod runtime;
mod secret;

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;

pub(super) use annotation::add as add_annotation;
pub use call::{Call, CheckFormat};
pub use context::{ContextSource, DockerfileSource, StdinKind, is_archive, stdin_kind};
pub use filter::{Filter, id};
pub use output::OutputSpec;
pub use progress::{ProgressRequest, display_options};
pub use prune::PruneRequest;
pub use registries::RegistryRequest;
pub(super) use registries::host as registry_host;
pub use run::{RunRequest, Volume};
pub(super) use runtime::found as oci_runtime;
pub use secret::{SecretValue, SshSource};

use super::args::Globals;
use super::args_build::{BuildArgs, HarmlessArgs, OnError};
use super::env::Env;
use super::fields;
use crate::exchange::spec::{Source, Target};
use crate::exec::Limits;
use crate::export::Squash;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::plan::allowed::AllowedBases;
use crate::plan::graph::Network;
use crate::plan::{NamedContext, NoCache, PlanOptions};

/// The command line asks for something that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The options contradict themselves or are not understood.
    #[error("{0}")]
    Usage(String),
    /// What they name does not work; the prefix is the one Docker's client puts there.
    #[error("failed to build: {0}")]
    Build(String),
}

fn usage<T>(text: impl Into<String>) -> Result<T, RequestError> {
    Err(RequestError::Usage(text.into()))
}

/// When to ask the registry although the store has an image of that name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only when it is not in the store.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Always, but take the store's image when the registry cannot be reached.
    Newer,
    /// Not at all.
    Never,
}

/// What steps may ask for beyond the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// `network.host`
    pub network_host: bool,
    /// `security.insecure`
    pub security_insecure: bool,
}

/// A build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The main context.
    pub context: ContextSource,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// The named contexts that are files; those that are images are only in `plan.named_contexts`.
    pub named_contexts: BTreeMap<String, ContextSource>,
    /// What the plan depends on; its target platform is the first one.
    pub plan: PlanOptions,
    /// The platforms asked for; none: this machine's.
    pub platforms: Vec<Platform>,
    /// What steps may ask for.
    pub allow: Allow,
    /// Secrets by ID.
    pub secrets: BTreeMap<String, SecretValue>,
    /// What becomes of a RUN that fails.
    pub on_error: OnError,
    /// What SSH agents are made of, by ID.
    pub ssh: BTreeMap<String, SshSource>,
    /// Whether to look for newer base images.
    pub pull: PullPolicy,
    /// How registries are reached.
    pub registries: RegistryRequest,
    /// A question to answer instead of building.
    pub call: Option<Call>,
    /// `--tag`
    pub tags: Vec<Reference>,
    /// Where the result goes; at least one.
    pub outputs: Vec<OutputSpec>,
    /// Whether layers are made one first.
    pub squash: Option<Squash>,
    /// Caches to look into.
    pub cache_from: Vec<Source>,
    /// Caches to write.
    pub cache_to: Vec<Target>,
    /// Gets the image ID. An old file is to be removed before the build.
    pub iidfile: Option<PathBuf>,
    /// Gets digests and names.
    pub metadata_file: Option<PathBuf>,
    /// What to show.
    pub progress: ProgressRequest,
    /// What a step may use.
    pub limits: Limits,
    /// The OCI runtime that makes their containers; `None`: we do.
    pub oci_runtime: Option<PathBuf>,
    /// How many RUNs at once.
    pub jobs: Option<NonZeroUsize>,
    /// Say why steps were run.
    pub explain: bool,
    /// Remarks on options and variables that do less than somebody may expect; to be shown as warnings.
    pub notes: Vec<String>,
}

impl BuildRequest {
    /// Decides on everything `args` leaves open.
    pub fn new(args: &BuildArgs, env: &Env) -> Result<Self, RequestError> {
        refuse_unsupported(args)?;
        let mut notes = Vec::new();

        let mut build_args = pairs_with_env(&args.source.build_arg, env)?;
        let labels = args.source.label.iter().map(|text| fields::pair(text)).collect::<Result<Vec<_>, _>>();
        let labels = labels.map_err(RequestError::Usage)?;
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()));
        if let Some(epoch) = env.filled(EPOCH) {
            build_args.entry(EPOCH.to_owned()).or_insert(epoch);
        }
        let inline_cache = check_special_args(&build_args)?;
        let mut proxies = proxy::from_docker_config(env, &mut notes);
        proxies.retain(|(name, _)| !build_args.keys().any(|given| given.eq_ignore_ascii_case(name)));
        build_args.extend(proxies);

        let call = call::parse(args.call.as_deref(), args.check, args.format.as_deref())?;
        let progress = ProgressRequest::new(args.progress.as_deref(), args.quiet, env)?;
        let tags = tags(&args.tag)?;
        let outputs = output::decide(args, &tags, env, &mut notes)?;
        if args.iidfile.is_some() && outputs.iter().any(OutputSpec::is_files) {
            return usage("local and tar exporters are incompatible with image ID file");
        }

        let context = ContextSource::main(&args.source.context, env)?;
        let dockerfile = DockerfileSource::new(args.source.file.as_deref(), &context, env)?;
        let (named_contexts, named_images) = context::named(&args.source.build_context, env)?;
        let ssh = secret::ssh(&args.ssh, &args.source.context, env)?;

        let platforms = platforms(&args.source.platform, env)?;
        let no_cache = match (args.no_cache, args.no_cache_filter.is_empty()) {
            (false, true) => NoCache::Nothing,
            (true, true) => NoCache::Everything,
            (false, false) => NoCache::Stages(args.no_cache_filter.clone()),
            (true, false) => {
                let text = "--no-cache and --no-cache-filter cannot currently be used together";
                return Err(RequestError::Build(text.to_owned()));
            }
        };
        let multi_platform = multi_platform(&build_args, platforms.len())?;
        let network = network(args.network.as_deref())?;
        let steps = StepOptions::new(&args.add_host, args.shm_size.as_deref(), &args.ulimit)?;
        let allow = Allow { network_host: network == Network::Host, ..Allow::default() };
        let files = named_contexts.keys().map(|name| (name.clone(), NamedContext::Files { epoch: None }));
        let plan = PlanOptions {
            target: args.source.target.clone().filter(|target| !target.is_empty()),
            build_args: build_args.into_iter().map(|(name, value)| (name, Some(value))).collect(),
            labels: labels.collect(),
            target_platform: platforms.first().cloned(),
            multi_platform,
            no_cache,
            network,
            add_hosts: steps.add_hosts,
            shm_size: steps.shm_size,
            ulimits: steps.ulimits,
            named_contexts: files.chain(named_images).collect(),
            allowed_bases: allowed_bases(&args.allow_base, env)?,
            all_stages: matches!(call, Some(Call::Check { .. })) && args.source.target.is_none(),
            ..PlanOptions::new(Platform::host())
        };
        Ok(Self {
            context,
            dockerfile,
            named_contexts,
            plan,
            platforms,
            allow: entitlements(&args.allow, allow)?,
            secrets: secret::secrets(&args.secret, env)?,
            ssh,
            on_error: args.on_error,
            pull: pull_policy(args.pull.as_deref(), args.source.registries.offline)?,
            registries: RegistryRequest::new(&args.source.registries, env)?,
            call,
            tags,
            outputs,
            squash: match (args.squash, args.squash_all) {
                (_, true) => Some(Squash::All),
                (true, false) => Some(Squash::Own),
                (false, false) => None,
            },
            cache_from: cache::sources(&args.cache_from, env)?,
            cache_to: cache::targets(&args.cache_to, inline_cache, env)?,
            iidfile: args.iidfile.as_ref().map(|path| env.path(path)),
            metadata_file: args.metadata_file.as_ref().map(|path| env.path(path)),
            progress,
            limits: limits::limits(&args.limits)?,
            oci_runtime: runtime::named(args.limits.oci_runtime.as_deref(), env)?,
            jobs: args.jobs,
            explain: args.explain,
            notes,
        })
    }
}

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Where the store is and how big it may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRequest {
    /// Its directory.
    pub root: PathBuf,
    /// Its limit in bytes.
    pub max_bytes: Option<u64>,
    /// How many threads read, hash and compress at once.
    pub threads: usize,
}

impl StoreRequest {
    /// Decides from the options of every command and the environment.
    pub fn new(globals: &Globals, env: &Env) -> Result<Self, RequestError> {
        let root = globals.root.as_ref().map(|root| env.path(root)).or_else(|| env.store_root());
        let Some(root) = root else {
            return usage("no place for the store: set HOME or RBUILD_ROOT, or use --root");
        };
        let max = globals.store_max.clone().map(|text| ("--store-max", text));
        let max = max.or_else(|| env.filled("RBUILD_STORE_MAX").map(|text| ("RBUILD_STORE_MAX", text)));
        let max_bytes = max
            .map(|(name, text)| fields::storage(&text).map_err(|error| RequestError::Usage(format!("{name}: {error}"))))
            .transpose()?;
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = match env.filled("RBUILD_THREADS") {
            None => cores(),
            Some(text) => match text.parse::<NonZeroUsize>() {
                Ok(threads) => threads.get(),
                Err(_) => return usage(format!("RBUILD_THREADS={text}: expected a number from 1")),
            },
        };
        Ok(Self { root, max_bytes, threads })
    }
}

/// Options for processes that `build` and `run` share.
struct StepOptions {
    add_hosts: Vec<(String, String)>,
    shm_size: Option<u64>,
    ulimits: Vec<(String, i64, i64)>,
}

impl StepOptions {
    fn new(add_host: &[String], shm_size: Option<&str>, ulimit: &[String]) -> Result<Self, RequestError> {
        let mut add_hosts = Vec::new();
        for text in add_host {
            add_hosts.extend(fields::hosts(text).map_err(RequestError::Build)?);
        }
        let shm_size = shm_size.map(fields::memory).transpose();
        let shm_size = shm_size.map_err(|error| RequestError::Usage(format!("--shm-size: {error}")))?;
        // As with Docker the last one of a name counts, and they are sorted.
        let mut limits = BTreeMap::new();
        for text in ulimit {
            let (name, soft, hard) = fields::ulimit(text).map_err(RequestError::Usage)?;
            limits.insert(name, (soft, hard));
        }
        let ulimits = limits.into_iter().map(|(name, (soft, hard))| (name, soft, hard)).collect();
        Ok(Self { add_hosts, shm_size: shm_size.filter(|size| *size > 0), ulimits })
    }
}

/// Options that Docker has and rbuild has not must not pass unnoticed.
fn refuse_unsupported(args: &BuildArgs) -> Result<(), RequestError> {
    if let Some(name) = args.unsupported.first() {
        return usage(match name {
            "--builder" => "--builder: rbuild has no builders; it builds in its own process".to_owned(),
            name => format!("{name} is not supported yet"),
        });
    }
    let HarmlessArgs { compress: _, rm: _, force_rm: _, isolation, provenance, sbom } = &args.harmless;
    if let Some(mode) = isolation.as_deref().filter(|mode| !matches!(*mode, "" | "default")) {
        return usage(format!("--isolation={mode} is not supported; on Linux there is only \"default\""));
    }
    for (name, value) in [("provenance", provenance), ("sbom", sbom)] {
        if value.as_deref().is_some_and(|value| super::args::go_bool(value) != Ok(false)) {
            return usage(format!("--{name}: attestations are not supported yet; only --{name}=false is"));
        }
    }
    Ok(())
}

/// `NAME=VALUE`, or `NAME` with its value from the environment (left out if it is not set there).
pub(in crate::cli) fn pairs_with_env(texts: &[String], env: &Env) -> Result<BTreeMap<String, String>, RequestError> {
    let mut pairs = BTreeMap::new();
    for text in texts {
        let (name, value) = fields::pair(text).map_err(RequestError::Usage)?;
        if let Some(value) = value.map(str::to_owned).or_else(|| env.var(name)) {
            pairs.insert(name.to_owned(), value);
        }
    }
    Ok(pairs)
}

/// Build-args that mean something to the client; whether the image is to be its own cache.
fn check_special_args(args: &BTreeMap<String, String>) -> Result<bool, RequestError> {
    let is_true = |name: &str| args.get(name).is_some_and(|value| super::args::go_bool(value) == Ok(true));
    if args.get("BUILDKIT_SYNTAX").is_some_and(|value| value.trim().is_empty()) {
        return Err(RequestError::Build(
            "empty BUILDKIT_SYNTAX build-arg is invalid, use --build-arg BUILDKIT_SYNTAX without '=' for optional behavior".to_owned(),
        ));
    }
    Ok(is_true("BUILDKIT_INLINE_CACHE"))
}

/// Whether the result is an index: of several platforms, or of one because `BUILDKIT_MULTI_PLATFORM` says so.
fn multi_platform(args: &BTreeMap<String, String>, platforms: usize) -> Result<bool, RequestError> {
    let Some(text) = args.get("BUILDKIT_MULTI_PLATFORM") else { return Ok(platforms > 1) };
    match super::args::go_bool(text) {
        Ok(false) if platforms > 1 => Err(RequestError::Build(
            "conflicting config: returning multiple target platforms is not allowed".to_owned(),
        )),
        Ok(wanted) => Ok(wanted),
        Err(_) => Err(RequestError::Build(format!("invalid boolean value for multi-platform: {text}"))),
    }
}

/// `--allow-base`: patterns, and with `@` files of patterns.
fn allowed_bases(texts: &[String], env: &Env) -> Result<Option<AllowedBases>, RequestError> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut patterns = Vec::new();
    for text in texts {
        let Some(file) = text.strip_prefix('@') else {
            patterns.push(text.clone());
            continue;
        };
        let lines = fs_err::read_to_string(env.path(file))
            .map_err(|error| RequestError::Usage(format!("--allow-base {text}: {}", os_words(&error))))?;
        let line = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
        patterns.extend(lines.lines().map(line).filter(|line| !line.starts_with('#')));
    }
    Ok(Some(AllowedBases::new(patterns)))
}

fn tags(texts: &[String]) -> Result<Vec<Reference>, RequestError> {
    let mut tags: Vec<Reference> = Vec::new();
    for text in texts {
        let tag = Reference::parse_tagged(text);
        let tag = tag.map_err(|error| RequestError::Build(format!("invalid tag {text:?}: {error}")))?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

/// What `--platform` asks for, in that order, each once; none if it does not.
fn platforms(typed: &[String], env: &Env) -> Result<Vec<Platform>, RequestError> {
    let default = env.filled("DOCKER_DEFAULT_PLATFORM");
    let names: Vec<&str> = if typed.is_empty() {
        default.iter().map(String::as_str).collect()
    } else {
        typed.iter().map(String::as_str).collect()
    };
    let mut platforms = Vec::new();
    for name in names.iter().flat_map(|name| name.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        let platform = parse_platform(name)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// A platform as typed; `local` is this machine's.
pub fn parse_platform(name: &str) -> Result<Platform, RequestError> {
    if name == "local" {
        return Ok(Platform::host());
    }
    Platform::parse(name, &Platform::host()).map_err(|error| RequestError::Build(error.to_string()))
}

fn network(mode: Option<&str>) -> Result<Network, RequestError> {
    match mode {
        None | Some("" | "default") => Ok(Network::Default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(mode) => {
            Err(RequestError::Build(format!("network mode {mode:?} not supported; use default, none or host")))
        }
    }
}

fn entitlements(names: &[String], mut allow: Allow) -> Result<Allow, RequestError> {
    for name in names.iter().filter(|name| !name.is_empty()) {
        match name.as_str() {
            "network.host" => allow.network_host = true,
            "security.insecure" => allow.security_insecure = true,
            name if name == "device" || name.starts_with("device=") => {
                return usage(format!("--allow={name}: devices are not supported yet"));
            }
            name => return Err(RequestError::Build(format!("invalid entitlement: {name}"))),
        }
    }
    Ok(allow)
}

fn pull_policy(text: Option<&str>, offline: bool) -> Result<PullPolicy, RequestError> {
    let policy = parse_pull_policy(text)?;
    match policy {
        PullPolicy::Always if offline => usage("--pull=always and --offline contradict one another"),
        // What is here is as new as it gets.
        PullPolicy::Newer if offline => Ok(PullPolicy::Missing),
        PullPolicy::Always | PullPolicy::Newer | PullPolicy::Missing | PullPolicy::Never => Ok(policy),
    }
}

fn parse_pull_policy(text: Option<&str>) -> Result<PullPolicy, RequestError> {
    match text {
        None | Some("missing") => Ok(PullPolicy::Missing),
        Some("always") => Ok(PullPolicy::Always),
        Some("newer") => Ok(PullPolicy::Newer),
        Some("never") => Ok(PullPolicy::Never),
        Some(text) => match super::args::go_bool(text) {
            Ok(true) => Ok(PullPolicy::Always),
            Ok(false) => Ok(PullPolicy::Missing),
            Err(_) => usage(format!("--pull={text}: use always, missing, newer or never")),
        },
    }
}

/// What the system said, in the words Go's programs use.
fn os_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotADirectory => "not a directory".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
