//! `rbuild du`, `prune`, `cache`: what the store takes, and giving it back.
//!
//! Runs in the user namespace, because the files of trees belong to ids that exist only there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;

use rbuild_cache::digest::Blake3;
use rbuild_cache::{LockKind, Object, ObjectInfo, PruneOptions, Store};

use super::args_image::ListFormat;
use super::args_store::{CacheCommand, DuArgs, PruneArgs};
use super::command_du::{self, DuRow};
use super::images::Failures;
use super::request::{Filter, PruneRequest, StoreRequest, id};
use super::world::{Opened, enter, now};
use super::{Done, Failure, print};

/// Digits of a hash in tables.
const SHOWN_DIGITS: usize = 12;
/// Digits of a whole hash.
const HASH_DIGITS: usize = 64;

/// `rbuild du`
pub(super) fn usage(args: &DuArgs, place: &StoreRequest) -> Done {
    let filter = Filter::new(&args.filter)?;
    let opened = Opened::new(enter(false)?, place)?;
    let objects = opened.store.objects().map_err(|e| Failure::of(&e))?;
    let descriptions = Descriptions::read(&opened.store, &filter)?;
    let fits = |object: &&ObjectInfo| filter.fits(object, &descriptions.of(object), Some(now()));
    let mut rows: Vec<_> = objects.iter().filter(fits).map(|object| row(object, args.format)).collect();
    if args.filter.is_empty() {
        let (temporary, structure) = opened.store.overhead().map_err(|e| Failure::of(&e))?;
        rows.extend(overhead("tmp", "temporary", temporary));
        rows.extend(overhead("directories, locks, stamps", "structure", structure));
    }
    print(command_du::render(&rows, args, now()).as_bytes())
}

/// What the store takes beside its objects.
fn overhead(id: &str, kind: &str, tally: rbuild_cache::Tally) -> Option<DuRow> {
    let row =
        DuRow { id: id.to_owned(), kind: kind.to_owned(), reclaimable: false, size: tally.bytes, last_used: None };
    (tally.count > 0).then_some(row)
}

/// What objects are called besides their names.
struct Descriptions(BTreeMap<Blake3, String>);

impl Descriptions {
    /// Labels of cache mounts, if the filter looks at them.
    fn read(store: &Store, filter: &Filter) -> Result<Self, Failure> {
        if !filter.reads_descriptions() {
            return Ok(Self(BTreeMap::new()));
        }
        let mounts = store.cache_mounts().map_err(|e| Failure::of(&e))?;
        Ok(Self(mounts.into_iter().map(|mount| (mount.key, mount.label)).collect()))
    }

    fn of(&self, info: &ObjectInfo) -> String {
        match &info.object {
            Object::CacheMount(key) => format!("cache mount {}", self.0.get(key).map_or("", String::as_str)),
            other @ (Object::Small(..) | Object::Blob(_) | Object::Tree { .. }) => other.to_string(),
        }
    }
}

/// `rbuild prune`
pub(super) fn prune(args: &PruneArgs, place: &StoreRequest) -> Done {
    let request = PruneRequest::new(args)?;
    if !request.force && !request.dry_run && !confirmed(warning(&request))? {
        return Ok(ExitCode::SUCCESS);
    }
    let opened = Opened::new(enter(false)?, place)?;
    let descriptions = Descriptions::read(&opened.store, &request.filter)?;
    let fits = |object: &ObjectInfo| request.filter.fits(object, &descriptions.of(object), None);
    let report = opened.store.prune(&PruneOptions {
        all: request.all,
        until: request.filter.unused_for,
        max_used: request.max_used,
        min_free: request.min_free,
        keep: request.keep,
        filter: Some(&fits),
        dry_run: request.dry_run,
    });
    let report = report.map_err(|e| Failure::of(&e))?;
    let rows: Vec<_> = report.removed.iter().map(|object| row(object, ListFormat::Table)).collect();
    print(command_du::pruned(&rows, now()).as_bytes())?;
    let mut failures = Failures::default();
    report.failed.iter().for_each(|error| failures.add(Failure::of(error)));
    failures.done()
}

fn warning(request: &PruneRequest) -> &'static str {
    if request.all {
        "WARNING! This will remove all build cache, and images without a name."
    } else {
        "WARNING! This will remove all build cache that no named image is made of, and images without a name."
    }
}

/// Asks on stderr, so that stdout holds only the report; no answer is no.
fn confirmed(warning: &str) -> Result<bool, Failure> {
    let mut out = std::io::stderr().lock();
    let asked = write!(out, "{warning}\nAre you sure you want to continue? [y/N] ").and_then(|()| out.flush());
    asked.map_err(|e| Failure::of(&e))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|e| Failure::of(&e).named("read the answer"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// `rbuild cache`
pub(super) fn cache(command: &CacheCommand, place: &StoreRequest) -> Done {
    let opened = Opened::new(enter(false)?, place)?;
    match command {
        CacheCommand::Ls { format } => list_mounts(&opened.store, *format),
        CacheCommand::Rm { ids, all } => remove_mounts(&opened.store, ids, *all),
    }
}

fn list_mounts(store: &Store, format: ListFormat) -> Done {
    let mut rows = Vec::new();
    for mount in store.cache_mounts().map_err(|e| Failure::of(&e))? {
        let unused = store.try_lock(LockKind::CacheMount, &mount.key.0).map_err(|e| Failure::of(&e))?;
        let row = DuRow {
            id: shown(&mount.key.to_string(), format),
            kind: "cache mount".to_owned(),
            reclaimable: unused.is_some(),
            size: mount.bytes,
            last_used: Some(mount.last_used),
        };
        rows.push((row, mount.label));
    }
    print(command_du::cache_mounts(&rows, format, now()).as_bytes())
}

fn remove_mounts(store: &Store, ids: &[String], all: bool) -> Done {
    let mounts = store.cache_mounts().map_err(|e| Failure::of(&e))?;
    let keys: Vec<Blake3> = mounts.iter().map(|mount| mount.key).collect();
    let mut failures = Failures::default();
    let mut wanted = Vec::new();
    if all {
        wanted.clone_from(&keys);
    }
    for id in ids {
        match matching(&keys, id) {
            Ok(key) => wanted.push(key),
            Err(failure) => failures.add(failure),
        }
    }
    let mut out = String::new();
    for key in wanted {
        match store.remove_cache_mount(&key) {
            // Gone already is gone.
            Ok(true | false) => out.extend([shown(&key.to_string(), ListFormat::Table), "\n".to_owned()]),
            Err(error) => failures.add(Failure::of(&error)),
        }
    }
    print(out.as_bytes())?;
    failures.done()
}

/// The one key that begins with `id`.
fn matching(keys: &[Blake3], id: &str) -> Result<Blake3, Failure> {
    let found: Vec<_> = keys.iter().filter(|key| !id.is_empty() && key.to_string().starts_with(id)).collect();
    match found.as_slice() {
        [key] => Ok(**key),
        [] => Err(Failure::text(format!("No such cache mount: {id}"))),
        several => Err(Failure::text(format!("cache mount ID {id:?} is ambiguous: it begins {}", several.len()))),
    }
}

fn row(info: &ObjectInfo, format: ListFormat) -> DuRow {
    let kind = match &info.object {
        Object::Small(kind, _) => kind.to_string(),
        Object::Blob(_) => "blob".to_owned(),
        Object::Tree { .. } => "tree".to_owned(),
        Object::CacheMount(_) => "cache mount".to_owned(),
    };
    DuRow {
        id: shown(&id(&info.object), format),
        kind,
        reclaimable: info.reclaimable(),
        size: info.bytes,
        last_used: Some(info.last_used),
    }
}

/// An object's name: whole for programs; with its hashes cut for people.
fn shown(name: &str, format: ListFormat) -> String {
    match format {
        ListFormat::Json => name.to_owned(),
        ListFormat::Table => {
            let mut out = String::new();
            let mut rest = name;
            while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
                let digits = rest[at..].find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len() - at);
                let kept = if digits == HASH_DIGITS { SHOWN_DIGITS } else { digits };
                out += &rest[..at + kept];
                rest = &rest[at + digits..];
            }
            out + rest
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_cut_in_tables() {
        let hash = "0123456789abcdef".repeat(4);
        let table = |name: &str| shown(name, ListFormat::Table);
        assert_eq!(table(&hash), "0123456789ab");
        assert_eq!(table(&format!("sha256:{hash}")), "sha256:0123456789ab");
        assert_eq!(table(&format!("layer-sha256:{hash}-gzip-3-v1")), "layer-sha256:0123456789ab-gzip-3-v1");
        assert_eq!(table("docker.io/library/app:1.0"), "docker.io/library/app:1.0");
        assert_eq!(shown(&hash, ListFormat::Json), hash);
    }

    #[test]
    fn cache_mounts_are_found_by_the_beginning_of_their_id() {
        let keys = [Blake3([0xaa; 32]), Blake3([0xab; 32])];
        let found = |id: &str| matching(&keys, id).map_err(|failure| failure.to_string());
        assert_eq!(found("ab"), Ok(keys[1]));
        assert_eq!(found(&keys[0].to_string()), Ok(keys[0]));
        assert_eq!(found("a"), Err("ERROR: cache mount ID \"a\" is ambiguous: it begins 2\n".to_owned()));
        assert_eq!(found("b"), Err("ERROR: No such cache mount: b\n".to_owned()));
        assert_eq!(found(""), Err("ERROR: No such cache mount: \n".to_owned()));
    }
}
