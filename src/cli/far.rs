//! Contexts and Dockerfiles that are elsewhere: in a git repository, or behind an http(s) address.
//!
//! What is fetched for a context that may not be needed is fetched when it is (`Deferred`), unless its time is asked for.

use std::io::{Read, Seek as _};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::Failure;
use super::agents::Agents;
use super::env::Env;
use super::request::{BuildRequest, is_archive};
use super::world::Opened;
use crate::cancel::Cancel;
use crate::context::{CheckoutContext, Deferred, SharedTree, TarContext};
use crate::event::{Outcome, Progress, Vertex};
use crate::exec::HostCommand;
use crate::fetch::git::{Checkout, GitError};
use crate::fetch::program::{Ended, Program, Runner};
use crate::fetch::{Access, FetchError, Fetched, Fetcher};
use crate::pipeline::newest_in;
use crate::plan::git_context;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};
use crate::transfer::forest::Forest;
use crate::transfer::{Node, Tree, TreeError, Want};

/// The only file of a context that is no archive, as BuildKit calls it.
pub(super) const FILE: &str = "context";
/// Its mode.
const FILE_MODE: u32 = 0o600;
/// How much of a download tells whether it is an archive.
const HEAD: u64 = 1024;

/// What fetches for this build, with what the user's environment and options allow.
pub(super) fn fetcher(request: &BuildRequest, env: &Env, opened: &Opened, agents: &Agents) -> Arc<Fetcher> {
    let host = opened.session.host().clone();
    let runner: Runner = Arc::new(move |program: &Program, cancel: &Cancel| {
        let Program { argv, env, unset, cwd, stdin } = program.clone();
        let command = HostCommand { argv, env, unset, cwd: Some(cwd), stdin };
        host.run(&command, cancel).map(|out| Ended { code: out.code, stdout: out.stdout, stderr: out.stderr })
    });
    let agent = env.filled("SSH_AUTH_SOCK").map(PathBuf::from);
    let access = Access {
        secrets: request.secrets.iter().map(|(id, value)| (id.clone(), value.0.clone())).collect(),
        ssh_agent: agents.sockets.get("default").cloned().or(agent),
        own_ssh: env.filled("GIT_SSH_COMMAND").or_else(|| env.filled("GIT_SSH")).is_some(),
        config_entries: env.filled("GIT_CONFIG_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0),
    };
    Arc::new(Fetcher::new(opened.store.clone(), opened.runtime.handle().clone(), runner, access))
}

/// Why something elsewhere cannot be had.
#[derive(Clone, Debug)]
pub(super) struct Unavailable {
    message: String,
    help: Option<String>,
}

impl Unavailable {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }
}

impl From<Unavailable> for Failure {
    fn from(why: Unavailable) -> Self {
        let help = why.help.map_or(String::new(), |text| format!("help: {text}\n"));
        Self::text(format!("failed to build: failed to solve: {}", why.message)).after(help)
    }
}

/// A context that was fetched.
#[derive(Clone)]
pub(super) struct Far {
    pub(super) tree: SharedTree,
    /// When it last changed: the commit's time, or the file's.
    pub(super) epoch: Option<i64>,
    /// It is no context but a Dockerfile.
    pub(super) dockerfile: Option<String>,
    /// The one file it is, if it may be an archive whose files have times.
    file: Option<Fetched>,
}

/// Where a context is to be had, and what for.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A git address as typed.
    Git { address: String, keep_git_dir: bool, commit_times: bool },
    /// The main context: an archive, or a Dockerfile.
    HttpContext(String),
    /// A named context: always one file.
    HttpFile { name: String, address: String },
}

/// A context to be fetched when it is needed, once.
#[derive(Clone)]
pub(super) struct Source {
    reach: Reach,
    place: Place,
    fetched: Arc<OnceLock<Result<Far, Unavailable>>>,
}

/// What is needed to reach contexts.
#[derive(Clone)]
pub(super) struct Reach {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) store: rbuild_cache::Store,
    pub(super) cancel: Cancel,
    pub(super) progress: Progress,
    /// The time of what has none.
    pub(super) now: i64,
}

impl Source {
    pub(super) fn new(reach: &Reach, place: Place) -> Self {
        Self { reach: reach.clone(), place, fetched: Arc::default() }
    }

    /// Fetches it, if that was not done before.
    pub(super) fn get(&self) -> Result<&Far, Unavailable> {
        let fetched = self.fetched.get_or_init(|| match &self.place {
            Place::Git { address, keep_git_dir, commit_times } => self.reach.git(address, *keep_git_dir, *commit_times),
            Place::HttpContext(address) => self.reach.http_context(address),
            Place::HttpFile { name, address } => self.reach.http_file(name, address),
        });
        fetched.as_ref().map_err(Clone::clone)
    }

    /// When it last changed; of a file whose server does not tell that, when the newest file in it did.
    pub(super) fn epoch(&self) -> Result<Option<i64>, Unavailable> {
        let Far { epoch, file, .. } = self.get()?;
        match (epoch, file) {
            (None, Some(file)) => newest_in(&self.reach.fetcher, &self.reach.store, file)
                .map_err(|reason| Unavailable::new(format!("failed to read downloaded context: {reason}"))),
            (epoch, _) => Ok(*epoch),
        }
    }

    /// Whether it was fetched.
    pub(super) fn is_here(&self) -> bool {
        self.fetched.get().is_some_and(Result::is_ok)
    }

    /// A tree that is fetched when something looks into it.
    pub(super) fn tree(&self) -> SharedTree {
        let source = self.clone();
        Arc::new(Deferred::new(move || source.get().map(|far| far.tree.clone()).map_err(|why| why.message)))
    }
}

impl Reach {
    fn git(&self, address: &str, keep_git_dir: bool, commit_times: bool) -> Result<Far, Unavailable> {
        let mut source = git_context(address)
            .map_err(Unavailable::new)?
            .ok_or_else(|| Unavailable::new(format!("invalid git context {address}")))?;
        source.keep_git_dir |= keep_git_dir;
        source.commit_times |= commit_times;
        let shown = crate::fetch::git::redacted(address);
        self.shown(&format!("[internal] load git source {shown}"), |vertex| {
            let git = self.fetcher.git();
            let commit = git.resolve(&source, &self.cancel).map_err(|e| git_fault(&e, "failed to load cache key: "))?;
            let line = format!("{}\t{}\n", commit.id, commit.reference.as_deref().unwrap_or_default());
            vertex.log(crate::event::Stream::Stdout, line.as_bytes());
            let checkout = git.checkout(&source, &commit, &self.cancel).map_err(|e| git_fault(&e, ""))?;
            let Checkout { directory, root, committed } = checkout;
            let mtime = if source.commit_times { committed } else { self.now };
            let tree = CheckoutContext::open(&root, mtime, directory).map_err(|e| Unavailable::new(e.to_string()))?;
            Ok(Far { tree: Arc::new(tree), epoch: Some(committed), dockerfile: None, file: None })
        })
    }

    fn http_context(&self, address: &str) -> Result<Far, Unavailable> {
        self.shown("[internal] load remote build context", |vertex| {
            let fetched = self.download(address, vertex)?;
            let opened = |e: std::io::Error| Unavailable::new(format!("failed to read downloaded context: {e}"));
            let mut file = self.fetcher.open(&fetched).map_err(opened)?;
            let mut head = Vec::new();
            (&mut file).take(HEAD).read_to_end(&mut head).map_err(opened)?;
            file.rewind().map_err(opened)?;
            if !is_archive(&head) {
                let text = super::contexts::read_text(file).map_err(|e| Unavailable::new(e.to_string()))?;
                let (tree, epoch) = (self.one_file(&fetched), fetched.last_modified);
                return Ok(Far { tree, epoch, dockerfile: Some(text), file: None });
            }
            let scratch = self.store.scratch().map_err(|e| Unavailable::new(e.to_string()))?;
            let tree =
                TarContext::read(Box::new(file), scratch, self.now).map_err(|e| Unavailable::new(e.to_string()))?;
            let epoch = fetched.last_modified.or_else(|| tree.newest());
            Ok(Far { tree: Arc::new(tree), epoch, dockerfile: None, file: None })
        })
    }

    fn http_file(&self, name: &str, address: &str) -> Result<Far, Unavailable> {
        self.shown(&format!("[context {name}] {}", crate::fetch::git::redacted(address)), |vertex| {
            let fetched = self.download(address, vertex)?;
            let (tree, epoch) = (self.one_file(&fetched), fetched.last_modified);
            Ok(Far { tree, epoch, dockerfile: None, file: Some(fetched) })
        })
    }

    /// The Dockerfile behind an address.
    pub(super) fn dockerfile(&self, address: &str) -> Result<String, Unavailable> {
        self.shown("[internal] load remote build definition", |vertex| {
            let fetched = self.download(address, vertex)?;
            let file = self.fetcher.open(&fetched);
            let file = file.map_err(|e| Unavailable::new(format!("failed to read dockerfile: {e}")))?;
            super::contexts::read_text(file).map_err(|e| Unavailable::new(e.to_string()))
        })
    }

    fn download(&self, address: &str, vertex: &Vertex) -> Result<Fetched, Unavailable> {
        let shown = crate::fetch::git::redacted(address);
        let progress = |received, total| vertex.status(&shown, received, total, false);
        let fetched = self.fetcher.get(address, None, &progress, &self.cancel);
        fetched.map_err(|error| match error {
            FetchError::Cancelled(cancelled) => Unavailable::new(cancelled.to_string()),
            other => Unavailable::new(format!("failed to load cache key: {other}")),
        })
    }

    fn one_file(&self, fetched: &Fetched) -> SharedTree {
        let mtime = fetched.last_modified.unwrap_or(0);
        let meta = Meta { mode: FILE_MODE, mtime, ..Meta::default() };
        let kind = Kind::File { size: fetched.size, content: fetched.content };
        let mut nodes = Forest::default();
        nodes.insert(Node::new(Entry { path: LayerPath::clean(FILE), kind, meta }), ());
        Arc::new(OneFile { nodes, fetched: fetched.clone(), fetcher: self.fetcher.clone() })
    }

    fn shown<T>(&self, name: &str, work: impl FnOnce(&Vertex) -> Result<T, Unavailable>) -> Result<T, Unavailable> {
        let vertex = self.progress.vertex(name, &[]);
        vertex.start();
        let done = work(&vertex);
        vertex.finish(match &done {
            Ok(_) => Outcome::Done,
            Err(_) if self.cancel.is_cancelled() => Outcome::Canceled,
            Err(why) => Outcome::Error(why.message.clone()),
        });
        done
    }
}

fn git_fault(error: &GitError, doing: &str) -> Unavailable {
    match error {
        GitError::Cancelled(cancelled) => Unavailable::new(cancelled.to_string()),
        other => Unavailable { message: format!("{doing}{other}"), help: other.help() },
    }
}

/// A context of one downloaded file.
struct OneFile {
    nodes: Forest<()>,
    fetched: Fetched,
    fetcher: Arc<Fetcher>,
}

impl Tree for OneFile {
    fn lookup(&self, path: &LayerPath) -> Result<Option<Node>, TreeError> {
        Ok(self.nodes.node(path))
    }

    fn children(&self, dir: &LayerPath, want: &Want<'_>) -> Result<Vec<Node>, TreeError> {
        Ok(self.nodes.list(dir, want))
    }

    fn read(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
        if self.nodes.get(path).is_none() {
            return Err(TreeError::at(path)(std::io::ErrorKind::NotFound.into()));
        }
        Ok(Box::new(self.fetcher.open(&self.fetched).map_err(TreeError::at(path))?))
    }
}
