//! From where a build's files were said to be to trees and a Dockerfile text.
//!
//! Directories are opened through their ignore files; stdin is read once, whatever it holds; what is elsewhere is fetched by
//! [`far`](super::far), the main context before the Dockerfile is read if that is in it, everything else when it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::Store;
use rbuild_cache::digest::Blake3;

use super::Failure;
use super::far::{self, Place, Reach};
use super::request::{BuildRequest, ContextSource, DockerfileSource, StdinKind, stdin_kind};
use super::world::Opened;
use crate::context::{Context, Ignore, TarContext};
use crate::diagnostic::suggest;
use crate::event::{Outcome, Progress};
use crate::fetch::Fetcher;
use crate::files::Root;
use crate::plan::{Ignored, NamedContext, PlanOptions};
use crate::source::Source;
use crate::tar::entry::LayerPath;
use crate::transfer::{Tree, follow};

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
    /// Those that are here: directories, an archive on stdin, and what had to be fetched for the Dockerfile's sake.
    pub(super) at_hand: BTreeSet<String>,
    /// Local directories among them, whose hashes are kept.
    pub(super) local: Vec<Arc<Context>>,
    /// The main context's ignore file, for lint.
    pub(super) ignore: Option<Arc<Context>>,
    /// What the plan depends on, with the times of contexts that are elsewhere, if it asks for them.
    pub(super) plan: PlanOptions,
}

/// The variable that times of contexts are asked for by, and the one that keeps `.git` in a context.
const EPOCH: &str = "SOURCE_DATE_EPOCH";
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
/// The main context's name.
const MAIN: &str = "context";

impl Inputs {
    /// Opens everything `request` names. `now` is the time of what has none.
    pub(super) fn open(
        request: &BuildRequest,
        opened: &Opened,
        fetcher: &Arc<Fetcher>,
        progress: &Progress,
        now: i64,
    ) -> Result<Self, Failure> {
        let mut inputs = Self {
            source: Source::new("", ""),
            trees: Trees::new(),
            at_hand: BTreeSet::new(),
            local: Vec::new(),
            ignore: None,
            plan: request.plan.clone(),
        };
        let store = &opened.store;
        let mut opener = Opener { store, now, inputs: &mut inputs };
        let reach = Reach {
            fetcher: fetcher.clone(),
            store: store.clone(),
            cancel: opened.cancel.clone(),
            progress: progress.clone(),
            now,
        };
        let mut far = BTreeMap::new();
        let mut text = None;
        let arg = |name: &str| request.plan.build_args.get(name).and_then(Option::as_deref).unwrap_or_default();
        match &request.context {
            ContextSource::Directory(dir) => {
                let vertex = progress.vertex("[internal] load .dockerignore", &[]);
                vertex.start();
                let dockerfile = match &request.dockerfile {
                    DockerfileSource::File(path) => Some(path.as_path()),
                    DockerfileSource::InContext(_) | DockerfileSource::Stdin | DockerfileSource::Http(_) => None,
                };
                let opened = opener.directory(MAIN, dir, dockerfile);
                vertex.status("transferring context:", 2, 0, true);
                vertex.finish(Outcome::Done);
                opener.inputs.ignore = Some(opened?);
            }
            ContextSource::Stdin => text = opener.stdin(&request.dockerfile)?,
            ContextSource::Git(address) => {
                let keep_git_dir = super::args::go_bool(arg(KEEP_GIT_DIR)) == Ok(true);
                let commit_times = !arg(EPOCH).is_empty();
                let place = Place::Git { address: address.clone(), keep_git_dir, commit_times };
                far.insert(MAIN.to_owned(), far::Source::new(&reach, place));
            }
            ContextSource::Http(address) => {
                far.insert(MAIN.to_owned(), far::Source::new(&reach, Place::HttpContext(address.clone())));
            }
        }
        // The plan never asks for contexts of these names: what they mean cannot be changed.
        let reserved = |name: &str| [MAIN, "scratch"].iter().any(|own| name.eq_ignore_ascii_case(own));
        for (name, source) in request.named_contexts.iter().filter(|(name, _)| !reserved(name)) {
            let place = match source {
                ContextSource::Directory(dir) => {
                    opener.directory(name, dir, None)?;
                    continue;
                }
                ContextSource::Git(address) => {
                    Place::Git { address: address.clone(), keep_git_dir: false, commit_times: false }
                }
                ContextSource::Http(address) => Place::HttpFile { name: name.clone(), address: address.clone() },
                ContextSource::Stdin => {
                    return Err(Failure::text(format!("failed to build: context {name} cannot be stdin")));
                }
            };
            far.insert(name.clone(), far::Source::new(&reach, place));
        }
        inputs.at_hand = inputs.trees.keys().cloned().collect();
        inputs.trees.extend(far.iter().map(|(name, source)| (name.clone(), source.tree())));
        inputs.source = match text {
            Some(text) => Source::new("Dockerfile", text),
            None => dockerfile(&request.dockerfile, &inputs.trees, far.get(MAIN), &reach)?,
        };
        inputs.at_hand.extend(far.iter().filter(|(_, source)| source.is_here()).map(|(name, _)| name.clone()));
        // What is given is seconds, or names whose time is asked for; what the Dockerfile says may be any name.
        let given = arg(EPOCH);
        let declared = given.is_empty() && inputs.source.text.contains(EPOCH);
        for (name, source) in far.iter().filter(|(name, _)| declared || *name == given) {
            let epoch = source.epoch()?;
            match inputs.plan.named_contexts.get_mut(name) {
                Some(context) => *context = NamedContext::Files { epoch },
                None => inputs.plan.context_epoch = epoch,
            }
        }
        Ok(inputs)
    }

    /// What `.dockerignore` hides, for lint; BuildKit leaves that alone when lines with `!` take something back.
    pub(super) fn ignored(&self) -> Option<Ignored> {
        let context = self.ignore.clone()?;
        let patterns = context.ignore()?.patterns();
        let plain = !patterns.is_empty() && !patterns.has_negated();
        // The context itself is hidden by what hides everything in it, not by whatever pattern happens to match a dot.
        let everything = patterns.iter().any(|p| matches!(p.to_string().as_str(), "*" | "**" | "**/*"));
        plain.then(|| {
            Ignored(Arc::new(move |path: &str| {
                let may_be = everything || !matches!(path, "." | "/");
                may_be && context.ignore().is_some_and(|ignore| ignore.patterns().matches(path.as_bytes()))
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
                let scratch = self.store.scratch().map_err(|e| Failure::of(&e))?;
                let tree = TarContext::read(Box::new(whole), scratch, self.now)
                    .map_err(|e| Failure::of(&e).named("failed to build"))?;
                self.inputs.trees.insert("context".to_owned(), Arc::new(tree));
                Ok(None)
            }
        }
    }
}

pub(super) fn read_text(input: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    input
        .take(MAX_DOCKERFILE)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::of(&e).named("failed to read dockerfile"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn dockerfile(
    wanted: &DockerfileSource,
    trees: &Trees,
    main: Option<&far::Source>,
    reach: &Reach,
) -> Result<Arc<Source>, Failure> {
    match wanted {
        DockerfileSource::File(path) => {
            let name =
                path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
            match fs_err::File::open(path) {
                Ok(file) => Ok(Source::new(name, read_text(file)?)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    let entries = path.parent().and_then(|dir| fs_err::read_dir(dir).ok()).into_iter().flatten();
                    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
                    Err(missing(&name, names))
                }
                Err(e) => Err(Failure::of(&e).named("failed to build: failed to solve: failed to read dockerfile")),
            }
        }
        DockerfileSource::InContext(path) => match main.map(far::Source::get).transpose()? {
            // What is no archive is the Dockerfile, whatever name was asked for.
            Some(far::Far { dockerfile: Some(text), .. }) => Ok(Source::new(far::FILE, text.clone())),
            Some(far) => in_context(path.as_deref(), far.tree.as_ref()),
            None => in_context(path.as_deref(), trees[MAIN].as_ref()),
        },
        DockerfileSource::Stdin => Ok(Source::new("Dockerfile", read_text(std::io::stdin())?)),
        DockerfileSource::Http(address) => Ok(Source::new("Dockerfile", reach.dockerfile(address)?)),
    }
}

/// There is no such Dockerfile; `names` are what stands where it was looked for.
fn missing(wanted: &str, mut names: Vec<String>) -> Failure {
    let file = wanted.rsplit('/').next().unwrap_or(wanted);
    let near = suggest(file, names.iter().map(String::as_str), false).map(|near| near.to_lowercase());
    names.retain(|name| {
        let lower = name.to_lowercase();
        let is_one = lower.contains("dockerfile") || lower.contains("containerfile") || near.as_ref() == Some(&lower);
        is_one && !lower.ends_with(".dockerignore")
    });
    names.sort();
    let help = match names.as_slice() {
        [] => "help: -f names a Dockerfile elsewhere; a path in it is relative to the current directory".to_owned(),
        names => format!("help: there is {}; choose one with -f", names.join(", ")),
    };
    Failure::text(format!(
        "failed to build: failed to solve: failed to read dockerfile: open {wanted}: no such file or directory"
    ))
    .after(help)
}

/// The Dockerfile in a context; `dockerfile` does where `Dockerfile` is missing.
fn in_context(path: Option<&str>, tree: &dyn Tree) -> Result<Arc<Source>, Failure> {
    let wanted = path.unwrap_or("Dockerfile");
    let at = LayerPath::clean(wanted);
    let failed = |e: &dyn std::error::Error| Failure::of(e).named("failed to build: failed to solve");
    let mut found = follow(tree, &at).map_err(|e| failed(&e))?;
    if found.is_none() && at.name() == b"Dockerfile" {
        let lower = at.parent().unwrap_or_default().join(b"dockerfile");
        found = follow(tree, &lower).map_err(|e| failed(&e))?;
    }
    let Some(found) = found else {
        let names = Mutex::new(Vec::new());
        let note = |name: &[u8], _| {
            let name = String::from_utf8_lossy(name).into_owned();
            names.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            false
        };
        // Where there is no such directory there are no names to tell.
        let _ = tree.children(&at.parent().unwrap_or_default(), &note);
        return Err(missing(wanted, names.into_inner().unwrap_or_else(PoisonError::into_inner)));
    };
    let text = read_text(tree.read(&found.entry.path).map_err(|e| failed(&e))?)?;
    Ok(Source::new(String::from_utf8_lossy(at.name()), text))
}
