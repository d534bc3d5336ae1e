//! The plan: a DAG of steps that make files, and the image that is assembled from them.
//!
//! Pure data, independent of how steps are run or cached. Everything in an [`Op`] is expanded and resolved as far as text
//! and base configs allow; what must be read from a root (passwd, destination links) is not in here.

use petgraph::graph::{DiGraph, NodeIndex};

use crate::oci::config::{History, ImageConfig};
use crate::plan::wanted::Wanted;
use crate::source::Lines;

/// A step of the plan.
pub type StepId = NodeIndex<u32>;

/// What a build of one platform does.
#[derive(Debug)]
pub struct Plan {
    /// Nodes are steps; an edge `a -> b` means b needs a (as parent, source or mount). Acyclic; equal steps are one node.
    pub steps: DiGraph<Step, ()>,
    /// The target stage's last file-making step: its stack is the image's layers. `None` for an image without layers.
    pub target: Option<StepId>,
    /// The image's config and history; `rootfs` is filled in at assembly.
    pub image: ImageDraft,
    /// `SOURCE_DATE_EPOCH` in seconds: the time of all that is new in the image.
    pub epoch: Option<i64>,
    /// What its steps take from contexts.
    pub wanted: Vec<Wanted>,
}

/// The image to be assembled.
#[derive(Debug, Clone)]
pub struct ImageDraft {
    /// Config with all metadata instructions folded in; `rootfs` and `created` not final, `history` not in it.
    pub config: ImageConfig,
    /// The base image's own history, kept as it is below the new entries.
    pub base_history: Vec<History>,
    /// How many layers the base image has; its history may name fewer.
    pub base_layers: usize,
    /// New history in order.
    pub history: Vec<HistoryDraft>,
}

/// One history entry above the base image's own ones (those are in the base's config and stay as they are).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryDraft {
    /// BuildKit's text, e.g. `RUN /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// The step whose layer it describes, `None` for an `empty_layer` entry.
    pub step: Option<StepId>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it does.
    pub op: Op,
    /// The step whose root it starts from; its stack plus this step's layer is this step's stack. `None`: an empty root.
    pub parent: Option<StepId>,
    /// Shown name, e.g. `[build 2/5] RUN make`.
    pub name: String,
    /// The lines in the Dockerfile it comes from, for excerpts.
    pub lines: Lines,
    /// Stage name or number it belongs to (for `--no-cache-filter` and explain).
    pub stage: String,
    /// Do not look for an earlier result.
    pub no_cache: bool,
    /// `os/arch[/variant]` the step runs for.
    pub platform: String,
}

/// What a step does to its parent's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The layers of an image; has no parent.
    Image(BaseImage),
    /// A process.
    Run(Run),
    /// Files put in.
    Copy(Copy),
    /// A directory made if missing.
    Workdir(Workdir),
}

/// A resolved external image: `plan` was told about it in its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// Normalised reference, e.g. `docker.io/library/alpine:3.20`, or a named context's reference.
    pub reference: String,
    /// The platform chosen.
    pub platform: String,
    /// Where its layers can be had: an opaque key into the facts the caller gave (`ImageFacts::handle`).
    pub handle: String,
    /// Its layers' diffIDs from the bottom: the identity used in keys.
    pub diff_ids: Vec<rbuild_cache::digest::DiffId>,
}

/// Host name of steps that ask for no other.
pub const HOSTNAME: &str = "buildkitsandbox";

/// A process to run in the parent's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// argv; the shell already in front for shell form.
    pub argv: Vec<String>,
    /// Environment in order, as BuildKit lists it (ENV and ARG in one list). No HOME, no proxies.
    pub env: Vec<(String, String)>,
    /// Names in `env` whose value an ARG gave: their values are never shown or stored, only their digests.
    pub args: Vec<String>,
    /// Proxy variables in both letter cases: given to the process, in no key and no history.
    pub proxy_env: Vec<(String, String)>,
    /// Absolute working directory; created if missing.
    pub cwd: String,
    /// USER as written and expanded (`""` = root); looked up in the root when it runs.
    pub user: String,
    /// Mounts in the order written.
    pub mounts: Vec<Mount>,
    /// Network of the process.
    pub network: Network,
    /// `--security=insecure`.
    pub insecure: bool,
    /// A `#!` heredoc: this file appears at `/dev/pipes/<name>`, mode 0755; argv is the shell with that path.
    pub script: Option<InlineFile>,
    /// Host name inside, default `buildkitsandbox`.
    pub hostname: String,
    /// `--add-host`: name and address (only the name is in the key).
    pub add_hosts: Vec<(String, String)>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<u64>,
    /// `--ulimit`: name, soft, hard (-1 = unlimited).
    pub ulimits: Vec<(String, i64, i64)>,
}

/// Network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The default: the host's.
    Default,
    /// Loopback only.
    None,
    /// The host's, asked for by `--network=host` (needs `--allow network.host`).
    Host,
}

/// A `--mount` of a RUN with values expanded. Targets are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute, cleaned path in the root.
    pub target: String,
    /// What is mounted there.
    pub kind: MountKind,
}

/// The kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// `type=bind`. Read-write ones discard what is written.
    Bind {
        /// What is bound.
        from: From,
        /// Path below it.
        source: String,
        /// Whether it can be written to (writes are discarded).
        writable: bool,
    },
    /// `type=cache`
    Cache {
        /// Its identity with namespace, e.g. `/root/.cache`.
        id: String,
        /// How concurrent users share it.
        sharing: Sharing,
        /// Seed content, if any.
        from: Option<From>,
        /// Path in the seed; without one, path in the cache itself.
        source: String,
        /// Mount read-only.
        readonly: bool,
        /// Mode of the directory when made.
        mode: u32,
        /// Owner when made.
        uid: u32,
        /// Group when made.
        gid: u32,
    },
    /// `type=tmpfs`
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
        /// Mount read-only.
        readonly: bool,
    },
    /// `type=secret`
    Secret {
        /// Which secret.
        id: String,
        /// Whether to mount a file at `target`; false when only `env=` was given.
        file: bool,
        /// Variable to set to its value.
        env: Option<String>,
        /// Whether its absence is an error.
        required: bool,
        /// File mode.
        mode: u32,
        /// File owner.
        uid: u32,
        /// File group.
        gid: u32,
    },
    /// `type=ssh`
    Ssh {
        /// Which agent; `default`.
        id: String,
        /// Whether its absence is an error.
        required: bool,
        /// Socket mode.
        mode: u32,
        /// Socket owner.
        uid: u32,
        /// Socket group.
        gid: u32,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Many at once.
    Shared,
    /// One of several copies each.
    Private,
    /// One at a time.
    Locked,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The root of another step.
    Step(StepId),
    /// An empty root (`--from=scratch` stage without steps).
    Scratch,
    /// A local directory: `context` is the main one, else the named context's name.
    Context(String),
}

/// COPY and ADD: actions done one after the other onto one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// In the order written.
    pub sources: Vec<CopySource>,
    /// Absolute destination; a trailing `/` is kept (it means "a directory").
    pub destination: String,
    /// `--chown` as written and expanded.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--link` (already false when BuildKit would fall back to a plain copy).
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// ADD rather than COPY (URLs, archives).
    pub add: bool,
    /// The Dockerfile's words for messages: path and span-independent text of each source, in order.
    pub labels: Vec<String>,
}

/// A git repository as a source of files, with all that its address says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitSource {
    /// Remote as given to git: an address without fragment and query.
    pub remote: String,
    /// Branch, tag or commit; `None` is the default branch.
    pub reference: Option<String>,
    /// Subdirectory.
    pub subdir: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Expected commit (prefix).
    pub checksum: Option<String>,
    /// Fetch submodules (default yes).
    pub submodules: bool,
    /// Fetch the commit that `checksum` names without asking what `reference` is now.
    pub fetch_by_commit: bool,
    /// Files get the commit's time instead of the checkout's.
    pub commit_times: bool,
}

/// One source of a COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path (maybe with wildcards) below a tree.
    Path {
        /// The tree.
        from: From,
        /// Expanded path text.
        path: String,
        /// Archives: `Auto` unpacks local ones found by content (ADD), `Never` copies.
        unpack: bool,
    },
    /// A heredoc.
    Inline(InlineFile),
    /// `ADD http(s)://…`
    Http {
        /// The address.
        url: String,
        /// Name for a destination that is a directory.
        name: String,
        /// Expected digest text, e.g. `sha256:…`.
        checksum: Option<String>,
        /// `--unpack=true`.
        unpack: bool,
    },
    /// `ADD <git>`
    Git(GitSource),
}

/// A file whose content stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// File name.
    pub name: String,
    /// Content, expanded.
    pub content: Vec<u8>,
}

/// `--chmod`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// Octal; also used for created parents.
    Octal(u32),
    /// Symbolic, e.g. `u=rwX,go=rX`, checked but not resolved.
    Symbolic(String),
}

/// WORKDIR: a directory (and its parents) made 0755 if missing, owned by the current user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir {
    /// Absolute, cleaned.
    pub path: String,
    /// USER as in [`Run::user`].
    pub user: String,
    /// mtime of what is created, in seconds (`SOURCE_DATE_EPOCH`); otherwise the time it is made.
    pub mtime: Option<i64>,
}

impl Step {
    /// The steps it needs: its parent, then the sources and mounts in the order written. May name one twice.
    pub fn inputs(&self) -> Vec<StepId> {
        let mut inputs: Vec<StepId> = self.parent.into_iter().collect();
        inputs.extend(self.op.sources().into_iter().filter_map(|from| match from {
            From::Step(step) => Some(*step),
            From::Scratch | From::Context(_) => None,
        }));
        inputs
    }
}

impl MountKind {
    /// The path that it shows or begins with, and of what.
    pub fn shown(&self) -> Option<(&str, &From)> {
        match self {
            Self::Bind { from, source, .. } | Self::Cache { from: Some(from), source, .. } => Some((source, from)),
            Self::Cache { from: None, .. } | Self::Tmpfs { .. } | Self::Secret { .. } | Self::Ssh { .. } => None,
        }
    }
}

impl Copy {
    /// One path of a tree put at the root, as it is.
    pub fn plain(from: From, path: &str) -> Self {
        Self {
            sources: vec![CopySource::Path { from, path: path.to_owned(), unpack: false }],
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            add: false,
            labels: vec![path.to_owned()],
        }
    }
}

impl Op {
    /// The trees it reads besides its parent, in the order written.
    pub fn sources(&self) -> Vec<&From> {
        match self {
            Self::Image(_) | Self::Workdir(_) => Vec::new(),
            Self::Run(run) => run.mounts.iter().filter_map(|mount| Some(mount.kind.shown()?.1)).collect(),
            Self::Copy(copy) => copy
                .sources
                .iter()
                .filter_map(|source| match source {
                    CopySource::Path { from, .. } => Some(from),
                    CopySource::Inline(_) | CopySource::Http { .. } | CopySource::Git(_) => None,
                })
                .collect(),
        }
    }
}
