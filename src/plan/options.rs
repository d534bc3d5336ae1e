//! What the user decided on the command line, as far as the plan depends on it.
//!
//! Filled by `cli` from flags and environment; this module reads neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::oci::platform::Platform;
use crate::plan::allowed::AllowedBases;
use crate::plan::graph::{HOSTNAME, Network};

/// Which steps must not take earlier results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// Every step may be taken from the cache.
    #[default]
    Nothing,
    /// `--no-cache`
    Everything,
    /// `--no-cache-filter`: steps of these stages (names in any case).
    Stages(Vec<String>),
}

impl NoCache {
    pub(crate) fn covers(&self, stage: Option<&str>) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Stages(names) => stage.is_some_and(|stage| names.iter().any(|name| name.eq_ignore_ascii_case(stage))),
        }
    }
}

/// What a `--build-context` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A tree of files without an image config: local directory, git or http(s). Its content is the engine's business.
    Files {
        /// Time of the commit (git) or of the last change (http), in seconds, if it has one.
        epoch: Option<i64>,
    },
    /// `docker-image://reference`; `scratch` is the empty image.
    Image(String),
    /// `oci-layout://…`: the whole text; asked for by it in an [`ImageRequest`](super::ImageRequest).
    Layout(String),
}

/// Everything of the request that the plan depends on, for one target platform.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `--target`
    pub target: Option<String>,
    /// `--build-arg` in order of names; `None` is `--build-arg k` without a value in the environment: not passed.
    /// `SOURCE_DATE_EPOCH`, `BUILDKIT_*` and proxies come here too.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// Platforms this machine runs, the native one first; at least one.
    pub build_platforms: Vec<Platform>,
    /// `--platform`, if it was asked for.
    pub target_platform: Option<Platform>,
    /// Whether several platforms are built: their names then show in step names.
    pub multi_platform: bool,
    /// `--no-cache`, `--no-cache-filter`
    pub no_cache: NoCache,
    /// `--network`: for every RUN without a `--network` of its own.
    pub network: Network,
    /// `--add-host`: name and address.
    pub add_hosts: Vec<(String, String)>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<u64>,
    /// `--ulimit`: name, soft, hard (-1 = unlimited).
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--build-context` by name as given (`name`, `name:tag`, `name::os/arch`).
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Look at every stage, not only those the target needs (`--check` without `--target`).
    pub all_stages: bool,
    /// Which paths of the main context `.dockerignore` hides; `None` without such a file, or when it has lines with `!`.
    pub ignored: Option<Ignored>,
    /// `--allow-base`: the images that may be used; `None` for all.
    pub allowed_bases: Option<AllowedBases>,
    /// What `SOURCE_DATE_EPOCH=context` means: the time of the main context's commit, if it has one.
    pub context_epoch: Option<i64>,
}

/// Tells whether `.dockerignore` hides a cleaned path or a directory above it.
#[derive(Clone)]
pub struct Ignored(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl std::fmt::Debug for Ignored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ignored")
    }
}

impl PlanOptions {
    /// No option given, on a machine of `platform`.
    pub fn new(platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            build_platforms: vec![platform],
            target_platform: None,
            multi_platform: false,
            no_cache: NoCache::default(),
            network: Network::Default,
            add_hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            named_contexts: BTreeMap::new(),
            all_stages: false,
            ignored: None,
            allowed_bases: None,
            context_epoch: None,
        }
    }

    /// The platform the image is for.
    pub fn target_platform(&self) -> &Platform {
        self.target_platform.as_ref().unwrap_or(&self.build_platforms[0])
    }

    /// The value of a build-arg that was passed.
    pub(crate) fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.get(name)?.as_deref()
    }

    /// Host name of processes: `BUILDKIT_SANDBOX_HOSTNAME` or BuildKit's default.
    pub(crate) fn hostname(&self) -> &str {
        self.build_arg("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty()).unwrap_or(HOSTNAME)
    }

    /// What stands before every cache mount's id: `BUILDKIT_CACHE_MOUNT_NS`.
    pub(crate) fn cache_namespace(&self) -> &str {
        self.build_arg("BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default()
    }

    /// Proxy variables in both letter cases, in BuildKit's order; of several spellings the last by name counts.
    pub(crate) fn proxy_env(&self) -> Vec<(String, String)> {
        let mut env = Vec::new();
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"] {
            let given = self
                .build_args
                .iter()
                .rev()
                .find_map(|(key, value)| value.as_deref().filter(|_| key.eq_ignore_ascii_case(name)));
            if let Some(value) = given.filter(|value| !value.is_empty()) {
                env.push((name.to_owned(), value.to_owned()));
                env.push((name.to_ascii_lowercase(), value.to_owned()));
            }
        }
        env
    }
}
