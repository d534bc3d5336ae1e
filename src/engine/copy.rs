//! COPY and ADD: the facts of their key, and the layer that `transfer` says they come to.
//!
//! Knows which tree a plan's source is and where downloads lie; what is copied where is `transfer`'s business.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use rbuild_cache::digest::{Blake3, LayerId};
use rbuild_cache::{Kind as ObjectKind, Scratch, ScratchReader};

use super::elsewhere::Need;
use super::explain::{Listed, Listing};
use super::record::{Facts, ROOT, StepLayer, Times};
use super::root_tree::RootTree;
use super::step::{Job, Work};
use super::{Engine, StepError};
use crate::context::CheckoutContext;
use crate::event::Stream;
use crate::fetch::git::{Checkout, Commit, GitError};
use crate::fetch::{FetchError, Fetched};
use crate::layers::view::View;
use crate::layers::{self, LayerError};
use crate::plan::graph::{Copy, CopySource, From, GitSource, Op, Step};
use crate::plan::key;
use crate::tar::entry::{Entry, Kind, Meta};
use crate::transfer::select::Match;
use crate::transfer::{self, Planned, Selection, Source, TransferError, Tree};

/// A tree that workers can share.
pub(super) type SharedTree = Arc<dyn Tree + Send + Sync>;

/// Files listed for explanations; larger selections are compared as a whole only.
const MOST_LISTED: usize = 50_000;

pub(super) struct CopyWork<'a> {
    op: &'a Copy,
    remotes: OnceCell<BTreeMap<usize, Remote>>,
    sources: OnceCell<Vec<Owned>>,
    contexts: OnceCell<BTreeMap<usize, Selection>>,
}

/// What a source elsewhere was found to be in this build.
enum Remote {
    Http(Fetched),
    Git(Commit),
}

/// A source with everything it is read through.
#[derive(Clone)]
enum Owned {
    Path { tree: SharedTree, path: String, unpack: bool, label: String },
    Inline { name: String, content: Vec<u8> },
    Download { name: String, size: u64, content: Blake3, mtime: i64, unpack: bool, open: Arc<Opening> },
}

type Opening = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync;

impl Owned {
    fn source(&self) -> Source<'_> {
        match self {
            Self::Path { tree, path, unpack, label } => {
                Source::Path { tree: tree.as_ref(), path, unpack: *unpack, label }
            }
            Self::Inline { name, content } => Source::Inline { name, content },
            Self::Download { name, size, content, mtime, unpack, open } => Source::Download {
                name,
                size: *size,
                content: *content,
                mtime: *mtime,
                unpack: *unpack,
                open: open.as_ref(),
            },
        }
    }
}

/// What is to be written, and the file that unpacked archives were spooled to.
pub(super) struct Prepared {
    entries: Vec<Planned>,
    destination: SharedTree,
    spool: Option<ScratchReader>,
    listings: Vec<(String, Listing)>,
}

impl<'a> CopyWork<'a> {
    pub(super) fn new(op: &'a Copy) -> Self {
        Self { op, remotes: OnceCell::new(), sources: OnceCell::new(), contexts: OnceCell::new() }
    }

    /// What the sources elsewhere are now: asked whatever the key, and once a step.
    fn remotes(&self, job: &Job<'_>) -> Result<&BTreeMap<usize, Remote>, StepError> {
        if let Some(remotes) = self.remotes.get() {
            return Ok(remotes);
        }
        let mut remotes = BTreeMap::new();
        for (index, source) in self.op.sources.iter().enumerate() {
            let remote = match source {
                CopySource::Http { url, checksum, .. } => Remote::Http(download(job, url, checksum.as_deref())?),
                CopySource::Git(source) => Remote::Git(resolve(job, source)?),
                CopySource::Path { .. } | CopySource::Inline(_) => continue,
            };
            remotes.insert(index, remote);
        }
        Ok(self.remotes.get_or_init(|| remotes))
    }

    fn sources(&self, job: &Job<'_>) -> Result<&[Owned], StepError> {
        if let Some(sources) = self.sources.get() {
            return Ok(sources);
        }
        let mut sources = Vec::new();
        for (index, source) in self.op.sources.iter().enumerate() {
            sources.push(owned(job, source, self.remotes(job)?.get(&index))?);
        }
        Ok(self.sources.get_or_init(|| sources))
    }

    /// What the sources in contexts select: walked and hashed once a step.
    fn contexts(&self, job: &Job<'_>) -> Result<&BTreeMap<usize, Selection>, StepError> {
        if let Some(selections) = self.contexts.get() {
            return Ok(selections);
        }
        let mut selections = BTreeMap::new();
        for (index, source) in self.op.sources.iter().enumerate() {
            if let CopySource::Path { from: From::Context(name), path, unpack } = source {
                let (tree, label) = (context(job, name)?, name.as_str());
                let source = Source::Path { tree: tree.as_ref(), path, unpack: *unpack, label };
                selections.insert(index, transfer::select(self.op, index, &source).map_err(refused)?);
            }
        }
        Ok(self.contexts.get_or_init(|| selections))
    }
}

fn op_facts(job: &Job<'_>) -> Facts {
    let mut facts = Facts::default();
    for (name, value) in key::facts(job.step) {
        facts.push(name, value);
    }
    facts
}

impl Work for CopyWork<'_> {
    type Prepared = Prepared;

    fn cheap(&self, job: &Job<'_>) -> Result<Option<Facts>, StepError> {
        let mut facts = op_facts(job);
        let (contexts, remotes) = (self.contexts(job)?, self.remotes(job)?);
        for (index, source) in self.op.sources.iter().enumerate() {
            let name = format!("files of source {}", index + 1);
            match source {
                CopySource::Path { from: From::Context(_), .. } => {
                    facts.push(name, contexts[&index].digest.to_string());
                }
                CopySource::Path { from: from @ From::Step(_), path, .. } => {
                    facts.push(name, format!("{path} of {}", job.stack_of(from).identity()));
                }
                CopySource::Path { from: From::Scratch, path, .. } => facts.push(name, format!("{path} of nothing")),
                CopySource::Http { .. } | CopySource::Git(_) => facts.push(name, remotes[&index].identity(source)),
                CopySource::Inline(_) => {}
            }
        }
        facts.push(ROOT, job.parent.identity());
        Ok(Some(facts))
    }

    fn exact(&self, job: &Job<'_>) -> Result<(Facts, Prepared), StepError> {
        let owned = self.sources(job)?;
        let sources: Vec<Source<'_>> = owned.iter().map(Owned::source).collect();
        let mut facts = op_facts(job);
        let (mut selections, mut listings) = (Vec::new(), Vec::new());
        for (index, source) in sources.iter().enumerate() {
            let selection = match self.contexts(job)?.get(&index) {
                Some(known) => known.clone(),
                None => transfer::select(self.op, index, source).map_err(refused)?,
            };
            let name = format!("files of {}", self.op.labels.get(index).map_or("source", String::as_str));
            let identity = match &self.op.sources[index] {
                http @ CopySource::Http { .. } => self.remotes(job)?[&index].identity(http),
                // What git keeps in a repository is never twice the same.
                kept @ CopySource::Git(git) if git.keep_git_dir => self.remotes(job)?[&index].identity(kept),
                CopySource::Git(_) | CopySource::Path { .. } | CopySource::Inline(_) => selection.digest.to_string(),
            };
            facts.push(format!("{name} ({})", index + 1), identity);
            listings.extend(listing(&selection).map(|l| (selection.digest.to_string(), l)));
            selections.push(selection);
        }
        let destination: SharedTree =
            if self.op.link { Arc::new(transfer::forest::EMPTY) } else { tree_of(job, &job.parent)? };
        let unpacks = sources.iter().any(Source::unpacks);
        let unpacked = |e: &dyn std::error::Error| StepError::world("write unpacked files", e);
        let mut scratch = if unpacks { Some(job.engine.store.scratch().map_err(|e| unpacked(&e))?) } else { None };
        let mut nowhere = io::sink();
        let spool: &mut dyn io::Write = match &mut scratch {
            Some(scratch) => scratch,
            None => &mut nowhere,
        };
        let now = job.plan.epoch.unwrap_or(job.engine.options.now as i64);
        let copied =
            transfer::copy(self.op, &sources, selections, destination.as_ref(), now, spool).map_err(refused)?;
        let spool = scratch.map(Scratch::finish).transpose().map_err(|e| unpacked(&e))?;
        for (path, fact) in &copied.facts.0 {
            facts.push(format!("destination {path}"), fact.to_string());
        }
        Ok((facts, Prepared { entries: copied.entries, destination, spool, listings }))
    }

    fn listings<'p>(&self, prepared: &'p Prepared) -> Vec<&'p (String, Listing)> {
        prepared.listings.iter().collect()
    }

    fn make(&self, job: &Job<'_>, prepared: Prepared) -> Result<StepLayer, StepError> {
        let owned: Arc<[Owned]> = self.sources(job)?.into();
        let (destination, spool) = (prepared.destination, prepared.spool);
        let times = chosen_times(&prepared.entries, &owned);
        let entries = prepared.entries.into_iter().map(|planned| {
            let content = content(&planned, &owned, &destination, spool.as_ref());
            (planned.entry, content)
        });
        Ok(StepLayer { times, ..write(job.engine, entries)? })
    }
}

/// Writes a layer; a context file that changed since it was keyed is named.
pub(super) fn write(
    engine: &Engine<'_>,
    entries: impl Iterator<Item = (Entry, layers::Content)>,
) -> Result<StepLayer, StepError> {
    let record = engine.layers.write(entries).map_err(|error| match error {
        LayerError::Cancelled(cancelled) => StepError::Cancelled(cancelled),
        changed @ LayerError::ContextChanged(_) => StepError::Changed(changed.to_string()),
        // What is copied from is gone now, and made again.
        other if other.is_damage() => engine.lost_here(other.to_string()),
        other => StepError::world("write the layer", &other),
    })?;
    Ok(StepLayer { id: record.id, tree: record.tree_id, diff_id: record.diff_id, times: None })
}

/// The times that archives and servers give to what they hold. Those of files that are copied do not count, as in the key.
fn chosen_times(entries: &[Planned], sources: &[Owned]) -> Option<Times> {
    let chosen = entries.iter().filter(|planned| match &planned.content {
        transfer::Content::Spooled(_) => true,
        transfer::Content::Source { index, .. } => matches!(sources[*index], Owned::Download { .. }),
        transfer::Content::None | transfer::Content::Destination(_) => false,
    });
    Times::of(chosen.map(|planned| &planned.entry), |_| true)
}

fn content(
    planned: &Planned,
    owned: &Arc<[Owned]>,
    destination: &SharedTree,
    spool: Option<&ScratchReader>,
) -> layers::Content {
    if matches!(planned.content, transfer::Content::None) {
        return layers::Content::None;
    }
    let (planned, owned, destination, spool) = (planned.clone(), owned.clone(), destination.clone(), spool.cloned());
    layers::Content::Open(Box::new(move || {
        let sources: Vec<Source<'_>> = match &planned.content {
            transfer::Content::Source { .. } => owned.iter().map(Owned::source).collect(),
            transfer::Content::None | transfer::Content::Spooled(_) | transfer::Content::Destination(_) => Vec::new(),
        };
        let spooled = |offset: u64, size: u64| -> io::Result<Box<dyn Read + Send>> {
            let spool = spool.as_ref().ok_or_else(|| io::Error::other("nothing was spooled"))?;
            // Each file is one entry of the layer, and is read for that once.
            Ok(spool.consume(offset, size))
        };
        match planned.open(&sources, destination.as_ref(), &spooled).map_err(|e| e.source)? {
            Some(reader) => Ok(layers::Content::Reader(reader)),
            None => Ok(layers::Content::None),
        }
    }))
}

/// A fault of the step, with help where `transfer` knows some.
pub(super) fn refused(error: TransferError) -> StepError {
    StepError::Refused { help: error.help(), message: error.to_string() }
}

fn context(job: &Job<'_>, name: &str) -> Result<SharedTree, StepError> {
    let tree = job.engine.contexts.get(name).cloned();
    tree.ok_or_else(|| StepError::refused(format!("no build context named {name:?}")))
}

/// The merged root of a stack as a tree; base layers are fetched for their indexes, layers made elsewhere once they are read.
pub(super) fn tree_of(job: &Job<'_>, stack: &super::stack::Stack) -> Result<SharedTree, StepError> {
    let engine = job.engine;
    let ids = engine.layer_ids(job.plan, stack, Need::Entries)?;
    let view = View::new(engine.layers, &ids).map_err(|e| StepError::world("read the root", &e))?;
    let elsewhere = ids.iter().filter(|id| engine.elsewhere.offers(id) && !engine.usable(id)).copied().collect();
    Ok(Arc::new(RootTree::new(view, elsewhere, engine.elsewhere.clone())))
}

fn owned(job: &Job<'_>, source: &CopySource, remote: Option<&Remote>) -> Result<Owned, StepError> {
    Ok(match (source, remote) {
        (CopySource::Path { from, path, unpack }, _) => {
            let (tree, label) = tree_from(job, from)?;
            Owned::Path { tree, path: path.clone(), unpack: *unpack, label }
        }
        (CopySource::Inline(file), _) => Owned::Inline { name: file.name.clone(), content: file.content.clone() },
        (CopySource::Http { name, unpack, .. }, Some(Remote::Http(fetched))) => {
            let (store, digest) = (job.engine.store.clone(), fetched.digest);
            let open: Arc<Opening> = Arc::new(move || {
                let file = store.open_blob(&digest).map_err(io::Error::other)?;
                Ok(Box::new(file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?))
            });
            let (name, unpack, mtime) = (name.clone(), *unpack, fetched.last_modified.unwrap_or(0));
            Owned::Download { name, size: fetched.size, content: fetched.content, mtime, unpack, open }
        }
        (CopySource::Git(source), Some(Remote::Git(commit))) => {
            let label = source.remote.clone();
            Owned::Path { tree: checkout(job, source, commit)?, path: "/".to_owned(), unpack: false, label }
        }
        (CopySource::Http { .. } | CopySource::Git(_), _) => unreachable!("remotes() has one for each"),
    })
}

fn tree_from(job: &Job<'_>, from: &From) -> Result<(SharedTree, String), StepError> {
    Ok(match from {
        From::Context(name) => (context(job, name)?, name.clone()),
        From::Scratch => (Arc::new(transfer::forest::EMPTY), "scratch".to_owned()),
        From::Step(id) => (tree_of(job, &job.stack_of(from))?, called(&job.plan.steps[*id])),
    })
}

/// What messages call the files a step leaves: a stage, or the image itself when nothing was done in it.
fn called(step: &Step) -> String {
    match &step.op {
        Op::Image(base) => base.reference.clone(),
        Op::Run(_) | Op::Copy(_) | Op::Workdir(_) => step.stage.clone(),
    }
}

impl Remote {
    /// What it means for a key.
    fn identity(&self, source: &CopySource) -> String {
        match self {
            // The time becomes the file's.
            Self::Http(Fetched { content, last_modified, .. }) => match last_modified {
                Some(seconds) => format!("{content} modified {seconds}"),
                None => content.to_string(),
            },
            Self::Git(commit) => {
                // What the ref is called, and the tag, can be seen in `.git` only.
                let kept = matches!(source, CopySource::Git(git) if git.keep_git_dir);
                let names = [&commit.reference, &commit.tag].into_iter().flatten().filter(|_| kept);
                names.fold(format!("commit {}", commit.id), |text, name| format!("{text} {name}"))
            }
        }
    }
}

fn download(job: &Job<'_>, url: &str, checksum: Option<&str>) -> Result<Fetched, StepError> {
    let progress = |received: u64, total: u64| job.vertex.status(url, received, total, false);
    job.engine.fetcher.get(url, checksum, &progress, job.engine.cancel).map_err(|error| match error {
        FetchError::Cancelled(cancelled) => StepError::Cancelled(cancelled),
        other => StepError::refused(format!("failed to load cache key: {other}")),
    })
}

fn resolve(job: &Job<'_>, source: &GitSource) -> Result<Commit, StepError> {
    let resolved = job.engine.fetcher.git().resolve(source, job.engine.cancel);
    resolved.map_err(|error| git_fault(error, "failed to load cache key: "))
}

fn checkout(job: &Job<'_>, source: &GitSource, commit: &Commit) -> Result<SharedTree, StepError> {
    job.vertex.start();
    job.vertex
        .log(Stream::Stdout, format!("{}\t{}\n", commit.id, commit.reference.as_deref().unwrap_or("")).as_bytes());
    let checkout = job.engine.fetcher.git().checkout(source, commit, job.engine.cancel);
    let Checkout { directory, root, committed } = checkout.map_err(|error| git_fault(error, ""))?;
    let by_commit = source.commit_times || job.plan.epoch.is_some();
    let mtime = if by_commit { committed } else { job.engine.options.now as i64 };
    let tree = CheckoutContext::open(&root, mtime, directory).map_err(|e| StepError::world("read a checkout", &e))?;
    Ok(Arc::new(tree))
}

fn git_fault(error: GitError, doing: &str) -> StepError {
    match error {
        GitError::Cancelled(cancelled) => StepError::Cancelled(cancelled),
        other => StepError::Refused { message: format!("{doing}{other}"), help: other.help() },
    }
}

/// The files of a selection for explanations; `None` if there are too many.
fn listing(selection: &Selection) -> Option<Listing> {
    let mut files = BTreeMap::new();
    for found in &selection.matches {
        let all = std::iter::once(&found.top).chain(found.below.iter().map(|w| &w.node));
        for node in all {
            let entry = &node.entry;
            let content = match &entry.kind {
                Kind::File { content, .. } => content.to_string()[..16].to_owned(),
                Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
                Kind::Directory { .. } => "directory".to_owned(),
                Kind::Hardlink(_) | Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo | Kind::Whiteout => {
                    format!("{:?}", entry.kind)
                }
            };
            files.insert(entry.path.to_string(), Listed { content, mode: entry.meta.mode });
            if files.len() > MOST_LISTED {
                return None;
            }
        }
    }
    Some(Listing(files))
}

/// What one path of a tree selects, for mounts.
#[derive(Clone)]
pub(super) struct Selected {
    /// What it means for a key.
    pub(super) digest: String,
    /// The files behind the digest, for explanations.
    pub(super) listing: Option<(String, Listing)>,
    selection: Selection,
    tree: SharedTree,
}

/// Selects `path` of `from` as a COPY without flags would.
pub(super) fn select_one(job: &Job<'_>, from: &From, path: &str) -> Result<Selected, StepError> {
    let (tree, label) = tree_from(job, from)?;
    let op = Copy::plain(from.clone(), path);
    let selection = {
        // A mount's source is one path; wildcards mean themselves.
        let source = Source::Path { tree: tree.as_ref(), path, unpack: false, label: &label };
        transfer::select(&op, 0, &source).map_err(refused)?
    };
    let mut digest = selection.digest.to_string();
    if let Some(Match { top, .. }) = selection.matches.first().filter(|found| shows_itself(found)) {
        // COPY leaves the directory itself behind, a mount shows it.
        let itself = transfer::Fact::Directory(Some(top.entry.meta.clone()));
        let mut facts = Facts::default();
        facts.push("directory", itself.to_string());
        facts.push("files in it", digest);
        digest = facts.hash("mounted").to_string();
    }
    let listing = listing(&selection).map(|files| (digest.clone(), files));
    Ok(Selected { digest, listing, selection, tree })
}

/// Whether owner and mode of what is mounted are to be seen: not of a file, which is in the digest, nor of a whole root.
fn shows_itself(found: &Match) -> bool {
    found.top.is_dir() && !found.top.entry.path.is_root()
}

impl Selected {
    /// Owner and mode of the selected thing.
    pub(super) fn top(&self) -> Option<&Meta> {
        self.selection.matches.first().map(|found| &found.top.entry.meta)
    }

    /// The directory of [`layer_of`]'s layer that a cache mount begins as.
    pub(super) fn seed_in_layer(&self) -> &'static str {
        let shown = self.selection.matches.first().is_some_and(shows_itself);
        if shown { MOUNTED } else { "" }
    }

    /// Where the selected thing lies in a cache that begins with it: a directory is the cache itself.
    pub(super) fn path_in_cache(&self) -> String {
        let file = self.selection.matches.first().filter(|found| !found.top.is_dir());
        file.map_or_else(|| "/".to_owned(), |found| format!("/{}", String::from_utf8_lossy(&found.name)))
    }

    /// Where the selected thing lies in [`layer_of`]'s layer: a whole tree is the root, a directory has a name for all of them, a
    /// file its own.
    pub(super) fn path_in_layer(&self) -> String {
        match self.selection.matches.first() {
            Some(found) if !found.top.is_dir() => format!("/{}", String::from_utf8_lossy(&found.name)),
            Some(found) if shows_itself(found) => format!("/{MOUNTED}"),
            Some(_) | None => "/".to_owned(),
        }
    }
}

/// What a mounted directory is called in its layer.
const MOUNTED: &str = "mounted";

/// A layer with what was selected; made once for each digest.
pub(super) fn layer_of(job: &Job<'_>, selected: &Selected) -> Result<LayerId, StepError> {
    let engine = job.engine;
    let alias = format!("mount-{}", selected.digest);
    let known = engine.store.get(ObjectKind::Alias, &alias).map_err(|e| StepError::world("read the store", &e))?;
    let known: Option<LayerId> = known.and_then(|b| std::str::from_utf8(&b).ok()?.parse().ok());
    if let Some(id) = known.filter(|id| engine.usable(id)) {
        return Ok(id);
    }
    let shown = selected.selection.matches.first().filter(|found| shows_itself(found));
    let mut op = Copy::plain(From::Scratch, "/");
    if shown.is_some() {
        op.destination = format!("/{MOUNTED}");
    }
    let source = Source::Path { tree: selected.tree.as_ref(), path: "/", unpack: false, label: "mount" };
    let selections = vec![selected.selection.clone()];
    let copied =
        transfer::copy(&op, &[source], selections, &transfer::forest::EMPTY, 0, &mut io::sink()).map_err(refused)?;
    let owned: Arc<[Owned]> = Arc::new([Owned::Path {
        tree: selected.tree.clone(),
        path: "/".to_owned(),
        unpack: false,
        label: "mount".to_owned(),
    }]);
    let destination: SharedTree = Arc::new(transfer::forest::EMPTY);
    let top = shown.map(|found| found.top.entry.meta.clone());
    let entries = copied.entries.into_iter().map(|mut planned| {
        if let Some(meta) = top.as_ref().filter(|_| planned.entry.path.as_bytes() == MOUNTED.as_bytes()) {
            planned.entry.meta = meta.clone();
        }
        let content = content(&planned, &owned, &destination, None);
        (planned.entry, content)
    });
    let layer = write(engine, entries)?;
    engine
        .store
        .put(ObjectKind::Alias, &alias, layer.id.to_string().as_bytes())
        .map_err(|e| StepError::world("write to the store", &e))?;
    Ok(layer.id)
}
