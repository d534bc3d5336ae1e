//! What may go, in which order, and taking it away.
//!
//! Names are the roots. What they need stays; what they merely want (a form that can be made again) and what they do not reach may go,
//! least recently used first. An object counts as used when anything that refers to it was, so a referrer never outlives what
//! it refers to by accident of touching. What was last used after the oldest live lease began is in use and stays. Each object
//! leaves by one rename under an exclusive byte lock that also covers the last look at its mtime (see `shield.rs`); whoever looks
//! it up then has a miss.

use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use crate::directory::last_used;
use crate::error::{At as _, Result, StoreError};
use crate::graph::{Graph, Standing};
use crate::lease::{self, Moment};
use crate::lock::{self, LockKind, Share, ofd};
use crate::object::{Kind, Object};
use crate::removal;
use crate::shield::{shield_file, shield_offset};
use crate::store::Store;
use crate::usage::Found;

/// One object, as lists and filters see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Which it is.
    pub object: Object,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it, or something that refers to it, was last used.
    pub last_used: SystemTime,
    /// How it stands to the names.
    pub standing: Standing,
    /// Whether a live process may be using it: it was used since the oldest of them began.
    pub in_use: bool,
}

impl ObjectInfo {
    /// Whether a prune of everything would remove it.
    pub fn reclaimable(&self) -> bool {
        self.standing != Standing::Named && !self.in_use
    }
}

/// What to prune. The default removes all that no name reaches, except facts and build history.
#[derive(Clone, Copy, Default)]
pub struct PruneOptions<'a> {
    /// Also what names could do without, facts, and build history.
    pub all: bool,
    /// Only what was not used for this long.
    pub until: Option<Duration>,
    /// Stop as soon as the store takes no more than this.
    pub max_used: Option<u64>,
    /// Stop as soon as the file system has this much free (and `max_used`, if given, is reached too).
    pub min_free: Option<u64>,
    /// Never go below this.
    pub keep: u64,
    /// Only what this says yes to.
    pub filter: Option<&'a dyn Fn(&ObjectInfo) -> bool>,
    /// Only report.
    pub dry_run: bool,
}

impl fmt::Debug for PruneOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PruneOptions")
            .field("all", &self.all)
            .field("until", &self.until)
            .field("max_used", &self.max_used)
            .field("min_free", &self.min_free)
            .field("keep", &self.keep)
            .field("filter", &self.filter.is_some())
            .field("dry_run", &self.dry_run)
            .finish()
    }
}

/// What a prune did, or would do.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// What was removed, in order.
    pub removed: Vec<ObjectInfo>,
    /// Their bytes together.
    pub bytes: u64,
    /// What could not be deleted completely; the next sweep tries again.
    pub failed: Vec<StoreError>,
}

impl Store {
    /// All objects, least recently used first.
    pub fn objects(&self) -> Result<Vec<ObjectInfo>> {
        let survey = survey(self)?;
        Ok(survey.nodes.iter().map(|node| node.info(survey.cutoff)).collect())
    }

    /// Removes objects, least recently used first. Waits for another process that is removing.
    pub fn prune(&self, options: &PruneOptions<'_>) -> Result<PruneReport> {
        let _alone = self.lock(LockKind::Collect, b"", &|| false, &mut |_| {})?;
        let survey = survey(self)?;
        let oldest_kept = options.until.and_then(|age| SystemTime::from(Now).checked_sub(age));
        let mut used: u64 = survey.nodes.iter().map(|node| node.bytes).sum();
        let mut free = match options.min_free {
            Some(_) => free_bytes(self)?,
            None => 0,
        };
        let limited = options.max_used.is_some() || options.min_free.is_some();
        let mut taker = Taker::new(self, survey.cutoff)?;
        let mut report = PruneReport::default();
        for node in &survey.nodes {
            let reached =
                options.max_used.is_none_or(|most| used <= most) && options.min_free.is_none_or(|least| free >= least);
            if limited && reached {
                break;
            }
            let info = node.info(survey.cutoff);
            let wanted = info.reclaimable()
                && (options.all || node.goes_by_default())
                && oldest_kept.is_none_or(|oldest| info.last_used < oldest)
                && used.saturating_sub(info.bytes) >= options.keep
                && options.filter.is_none_or(|filter| filter(&info));
            if !wanted || !(options.dry_run || taker.take(node)?) {
                continue;
            }
            used = used.saturating_sub(info.bytes);
            free += info.bytes;
            report.bytes += info.bytes;
            report.removed.push(info);
        }
        report.failed = taker.finish()?;
        Ok(report)
    }
}

/// Evicts at least `bytes` if that much may go; returns how many went. The caller holds `LockKind::Collect`.
pub(crate) fn evict(store: &Store, bytes: u64) -> Result<u64> {
    let survey = survey(store)?;
    let mut taker = Taker::new(store, survey.cutoff)?;
    let mut freed = 0;
    for node in &survey.nodes {
        if freed >= bytes {
            break;
        }
        if node.info(survey.cutoff).reclaimable() && taker.take(node)? {
            freed += node.bytes;
        }
    }
    taker.finish()?;
    Ok(freed)
}

/// The wall clock, for ages that a user states.
struct Now;

impl From<Now> for SystemTime {
    fn from(_: Now) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Moment(now.tv_sec, now.tv_nsec as u32).system()
    }
}

fn free_bytes(store: &Store) -> Result<u64> {
    let root = store.root();
    rustix::fs::statvfs(root).at("stat the file system of", root).map(|stat| stat.f_bavail * stat.f_frsize)
}

/// Everything in the store in the order in which it would go.
struct Survey {
    nodes: Vec<Node>,
    cutoff: Moment,
}

struct Node {
    object: Object,
    bytes: u64,
    /// Its own last use, to notice a new one.
    marked: Moment,
    /// The last use of it or of anything that refers to it.
    used: Moment,
    standing: Standing,
}

impl Node {
    fn info(&self, cutoff: Moment) -> ObjectInfo {
        ObjectInfo {
            object: self.object.clone(),
            bytes: self.bytes,
            last_used: self.used.system(),
            standing: self.standing,
            in_use: self.used >= cutoff,
        }
    }

    /// Whether a prune without `all` removes it.
    fn goes_by_default(&self) -> bool {
        self.standing == Standing::Loose && !matches!(self.object, Object::Small(Kind::Fact | Kind::History, _))
    }
}

fn survey(store: &Store) -> Result<Survey> {
    // Leases first: whoever comes later began later, and marks what it uses later still.
    let leases = lease::live(store.root())?;
    let cutoff = leases.iter().map(|l| l.start).fold(store.inner.lease.start, Ord::min);
    let found = store.scan()?;
    let graph = Graph::read(store, &found);
    let standing = graph.standing(&found);
    let order = graph.order(&found);
    let mut found: Vec<Option<Found>> = found.into_iter().map(Some).collect();
    let nodes = order.into_iter().filter_map(|(at, used)| {
        let Found { object, used: marked, bytes } = found[at].take()?;
        Some(Node { object, bytes, marked, used, standing: standing[at] })
    });
    Ok(Survey { nodes: nodes.collect(), cutoff })
}

/// Takes objects out of the store and deletes them together.
struct Taker<'a> {
    store: &'a Store,
    cutoff: Moment,
    shield: OwnedFd,
    rubble: Vec<PathBuf>,
}

impl<'a> Taker<'a> {
    fn new(store: &'a Store, cutoff: Moment) -> Result<Self> {
        let shield = lock::open_lock_file(store.root(), &shield_file(store.root()))?;
        Ok(Self { store, cutoff, shield, rubble: Vec::new() })
    }

    /// Takes one object unless somebody used it meanwhile or is using it; true when it is gone by our doing.
    fn take(&mut self, node: &Node) -> Result<bool> {
        let _mount = match &node.object {
            Object::CacheMount(key) => match self.store.try_lock(LockKind::CacheMount, &key.0)? {
                Some(lock) => Some(lock),
                None => return Ok(false),
            },
            Object::Small(..) | Object::Blob(_) | Object::Tree { .. } => None,
        };
        let relative = node.object.path();
        let path = self.store.root().join(&relative);
        let at = shield_offset(&relative);
        if !ofd::try_lock(self.shield.as_fd(), at, 1, Share::Exclusive).at("lock", &path)? {
            return Ok(false);
        }
        let taken = self.take_shielded(node, &path);
        ofd::unlock(self.shield.as_fd(), at, 1);
        taken
    }

    fn take_shielded(&mut self, node: &Node, path: &Path) -> Result<bool> {
        let file = node.object.used(path);
        let marked = last_used(&file).at("stat", &file)?.unwrap_or(Moment(0, 0));
        if marked != node.marked || marked >= self.cutoff {
            return Ok(false);
        }
        self.store.inner.temp.directory()?;
        let away = self.store.inner.temp.fresh("evicted");
        match rustix::fs::rename(path, &away) {
            Ok(()) => {
                self.rubble.push(away);
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e).at("remove", path),
        }
    }

    /// Deletes what was taken.
    fn finish(self) -> Result<Vec<StoreError>> {
        if self.rubble.is_empty() {
            return Ok(Vec::new());
        }
        let failed = removal::remove_all(self.rubble, self.store.inner.temp.directory()?);
        Ok(failed.into_iter().map(|(path, source)| StoreError::Io { operation: "remove", path, source }).collect())
    }
}
