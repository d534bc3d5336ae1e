//! From where a build's files were said to be to trees and a Dockerfile text.
//!
//! Directories are opened through their ignore files; stdin is read once, whatever it holds.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::Store;
use rbuild_cache::digest::Blake3;

use super::Failure;
use super::request::{BuildRequest, ContextSource, DockerfileSource, StdinKind, stdin_kind};
use crate::context::{Context, Ignore, TarContext};
use crate::event::{Outcome, Progress};
use crate::files::{Root, Spool};
use crate::plan::Ignored;
use crate::source::Source;
use crate::tar::entry::LayerPath;
use crate::transfer::Tree;

/// A Dockerfile larger than this is none.
const MAX_DOCKERFILE: u64 = 64 << 20;

/// Trees by name.
pub(super) type Trees = BTreeMap<String, Arc<dyn Tree + Send + Sync>>;

/// What a build reads from.
pub(super) struct Inputs {
    /// The Dockerfile.
    pub(super) source: Arc<Source>,
    /// The contexts.
    pub(super) trees: Trees,
    /// Local directories among them, whose hashes are kept.
    pub(super) local: Vec<Arc<Context>>,
    /// The main context's ignore file, for lint.
    pub(super) ignore: Option<Arc<Context>>,
}

impl Inputs {
    /// Opens everything `request` names. `now` is the time of what has none.
    pub(super) fn open(request: &BuildRequest, store: &Store, progress: &Progress, now: i64) -> Result<Self, Failure> {
        let mut inputs = Self { source: Source::new("", ""), trees: Trees::new(), local: Vec::new(), ignore: None };
        let mut opener = Opener { store, now, inputs: &mut inputs };
        let mut text = None;
        match &request.context {
            ContextSource::Directory(dir) => {
                let vertex = progress.vertex("[internal] load .dockerignore", &[]);
                vertex.start();
                let dockerfile = match &request.dockerfile {
                    DockerfileSource::File(path) => Some(path.as_path()),
                    DockerfileSource::InContext(_) | DockerfileSource::Stdin | DockerfileSource::Http(_) => None,
                };
                let opened = opener.directory("context", dir, dockerfile);
                vertex.status("transferring context:", 2, 0, true);
                vertex.finish(Outcome::Done);
                opener.inputs.ignore = Some(opened?);
            }
            ContextSource::Stdin => text = opener.stdin(&request.dockerfile)?,
            ContextSource::Git(url) | ContextSource::Http(url) => {
                return Err(unsupported(url));
            }
        }
        for (name, source) in &request.named_contexts {
            match source {
                ContextSource::Directory(dir) => drop(opener.directory(name, dir, None)?),
                ContextSource::Git(url) | ContextSource::Http(url) => return Err(unsupported(url)),
                ContextSource::Stdin => {
                    return Err(Failure::text(format!("failed to build: context {name} cannot be stdin")));
                }
            }
        }
        inputs.source = match text {
            Some(text) => Source::new("Dockerfile", text),
            None => dockerfile(&request.dockerfile, &inputs.trees)?,
        };
        Ok(inputs)
    }

    /// What `.dockerignore` hides, for lint; BuildKit leaves that alone when lines with `!` take something back.
    pub(super) fn ignored(&self) -> Option<Ignored> {
        let context = self.ignore.clone()?;
        let patterns = context.ignore()?.patterns();
        let plain = !patterns.is_empty() && !patterns.has_negated();
        plain.then(|| {
            Ignored(Arc::new(move |path: &str| {
                context.ignore().is_some_and(|ignore| ignore.patterns().matches(path.as_bytes()))
            }))
        })
    }

    /// Keeps the hashes of context files for the next build. Losing them costs time only, so a failure is not one of the build.
    pub(super) fn save(&self) {
        for context in &self.local {
            let _ = context.save();
        }
    }
}

fn unsupported(url: &str) -> Failure {
    Failure::text(format!(
        "failed to build: {url}: git and http contexts are not supported yet; clone or download it first"
    ))
}

struct Opener<'a> {
    store: &'a Store,
    now: i64,
    inputs: &'a mut Inputs,
}

impl Opener<'_> {
    fn directory(&mut self, name: &str, dir: &Path, dockerfile: Option<&Path>) -> Result<Arc<Context>, Failure> {
        let failed = |e: &dyn std::error::Error| {
            Failure::of(e).named(&format!("failed to build: failed to load context {name}"))
        };
        let root = Root::open(dir).map_err(|e| failed(&e))?;
        let beside = match dockerfile.and_then(|path| Some((path.parent()?, path.file_name()?.to_str()?))) {
            Some((parent, file)) => Root::open(parent).ok().map(|root| (root, file.to_owned())),
            None => None,
        };
        let beside = beside.as_ref().map(|(root, file)| (root, file.as_str()));
        let ignore = Ignore::load(&root, beside).map_err(|e| failed(&e))?;
        let context = Arc::new(Context::open(dir, ignore, &self.stat_cache(dir)).map_err(|e| failed(&e))?);
        self.inputs.trees.insert(name.to_owned(), Arc::<Context>::clone(&context));
        self.inputs.local.push(context.clone());
        Ok(context)
    }

    /// One file of hashes for each directory ever used as a context.
    fn stat_cache(&self, dir: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        let name = Blake3::of(dir.as_os_str().as_bytes()).to_string();
        self.store.root().join("stat-v1").join(name)
    }

    /// A Dockerfile on stdin (the context is empty then), or an archive that is the context.
    fn stdin(&mut self, wanted: &DockerfileSource) -> Result<Option<String>, Failure> {
        let mut input = BufReader::with_capacity(64 << 10, std::io::stdin());
        let mut head = Vec::with_capacity(512);
        input
            .by_ref()
            .take(512)
            .read_to_end(&mut head)
            .map_err(|e| Failure::of(&e).named("failed to build: read stdin"))?;
        let kind = stdin_kind(&head, wanted)?;
        let whole = std::io::Cursor::new(head).chain(input);
        match kind {
            StdinKind::Dockerfile => {
                self.inputs.trees.insert("context".to_owned(), Arc::new(crate::transfer::forest::EMPTY));
                read_text(whole).map(Some)
            }
            StdinKind::Archive => {
                let scratch = self.store.temp_dir("context").map_err(|e| Failure::of(&e))?;
                let spool = Spool::create(scratch.path()).map_err(|e| Failure::of(&e))?;
                let tree = TarContext::read(Box::new(whole), spool, self.now)
                    .map_err(|e| Failure::of(&e).named("failed to build"))?;
                self.inputs.trees.insert("context".to_owned(), Arc::new(tree));
                Ok(None)
            }
        }
    }
}

fn read_text(input: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    input
        .take(MAX_DOCKERFILE)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::of(&e).named("failed to read dockerfile"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn dockerfile(wanted: &DockerfileSource, trees: &Trees) -> Result<Arc<Source>, Failure> {
    let missing = |name: &str| {
        Failure::text(format!(
            "failed to build: failed to solve: failed to read dockerfile: open {name}: no such file or directory"
        ))
    };
    match wanted {
        DockerfileSource::File(path) => {
            let name =
                path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
            match fs_err::File::open(path) {
                Ok(file) => Ok(Source::new(name, read_text(file)?)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(missing(&name)),
                Err(e) => Err(Failure::of(&e).named("failed to build: failed to solve: failed to read dockerfile")),
            }
        }
        DockerfileSource::InContext(path) => {
            let path = path.as_deref().unwrap_or("Dockerfile");
            let at = LayerPath::clean(path);
            let tree = &trees["context"];
            match tree.lookup(&at).map_err(|e| Failure::of(&e))? {
                Some(_) => Ok(Source::new(
                    String::from_utf8_lossy(at.name()),
                    read_text(tree.read(&at).map_err(|e| Failure::of(&e))?)?,
                )),
                None => Err(missing(path)),
            }
        }
        DockerfileSource::Stdin => Ok(Source::new("Dockerfile", read_text(std::io::stdin())?)),
        DockerfileSource::Http(url) => Err(Failure::text(format!(
            "failed to build: {url}: a Dockerfile from http is not supported yet; download it first"
        ))),
    }
}
