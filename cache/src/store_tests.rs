//! The store as its users meet it, on a real directory. "Later" is another `Store` on it: GC spares what was used since the oldest
//! one began. "Another boot" is a store opened under another boot id.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::digest::{Blake3, BlobDigest, LayerId, Sha256};
use crate::{LockKind, ObjectRef, PruneOptions, StoreError};

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::default()).unwrap()
}

fn boot(digit: char) -> BootId {
    digit.to_string().repeat(32).parse().unwrap()
}

fn in_boot(root: &Path, digit: char) -> Store {
    Store::open_in_boot(root, StoreOptions::default(), boot(digit)).unwrap()
}

fn layer(n: u8) -> LayerId {
    LayerId(Blake3([n; 32]))
}

/// Makes a directory with one file in a temp directory and publishes it.
fn publish(store: &Store, id: LayerId, content: &str) -> PathBuf {
    let temp = store.temp_dir("step").unwrap();
    let upper = temp.path().join("upper");
    fs_err::create_dir(&upper).unwrap();
    fs_err::write(upper.join("file"), content).unwrap();
    store.publish_tree(&id, &upper).unwrap()
}

/// Waits until the file system's clock has moved, so that "before" and "after" differ.
fn tick(root: &Path) {
    let probe = root.join("locks/probe");
    let now = || {
        fs_err::create_dir_all(root.join("locks")).unwrap();
        fs_err::write(&probe, "").unwrap();
        last_used(&probe).unwrap().unwrap()
    };
    let before = now();
    while now() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn small_files_come_back() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let long = "x".repeat(400);
    for name in ["docker.io/library/a:1", "", "..", "ab", long.as_str()] {
        for kind in Kind::ALL {
            assert_eq!(store.get(kind, name).unwrap(), None);
            store.put(kind, name, b"one").unwrap();
            store.put(kind, name, format!("{kind} {name}").as_bytes()).unwrap();
            assert_eq!(store.get(kind, name).unwrap(), Some(format!("{kind} {name}").into_bytes()));
        }
    }
    for kind in Kind::ALL {
        assert_eq!(store.list(kind).unwrap(), ["", "..", "ab", "docker.io/library/a:1", long.as_str()]);
    }
    assert!(store.contains(Kind::Name, "..").unwrap());
    assert!(store.remove(Kind::Name, "..").unwrap());
    assert!(!store.remove(Kind::Name, "..").unwrap());
    assert!(!store.contains(Kind::Name, "..").unwrap());
}

#[test]
fn blobs_are_what_was_written() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = store.blob_writer().unwrap();
    for piece in content.chunks(777) {
        writer.write_all(piece).unwrap();
    }
    let expected = BlobDigest(Sha256::of(&content));
    assert_eq!(writer.commit(Some(expected)).unwrap(), (expected, content.len() as u64));
    let blob = store.blob(&expected).unwrap().unwrap();
    assert_eq!((fs_err::read(&blob.path).unwrap(), blob.size), (content, 1_000_000));

    let other = BlobDigest(Sha256::of(b"other"));
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"not that").unwrap();
    assert!(matches!(writer.commit(Some(other)), Err(StoreError::DigestMismatch { .. })));
    drop(store.blob_writer().unwrap());
    assert_eq!(store.blob(&other).unwrap(), None);
    assert_eq!(store.usage().unwrap().blobs.count, 1);
    assert!(store.remove_blob(&expected).unwrap());
    assert!(store.open_blob(&expected).unwrap().is_none());
}

#[test]
fn bytes_that_were_written_to_are_hashed_before_they_are_given_out() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (touched, altered) = (store.put_blob(b"touched").unwrap(), store.put_blob(b"altered").unwrap());
    tick(root.path());
    let path = store.blob(&altered).unwrap().unwrap().path;
    fs_err::write(&path, b"ALTERED").unwrap();
    assert_eq!(store.blob(&altered).unwrap(), None, "other bytes of the same size");
    assert!(!path.exists(), "a miss from now on");
    let path = store.blob(&touched).unwrap().unwrap().path;
    fs_err::write(&path, b"touched").unwrap();
    for _ in 0..2 {
        assert_eq!(store.blob(&touched).unwrap().unwrap().size, 7, "the same bytes");
    }
}

#[test]
fn the_first_tree_of_a_layer_stays() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    assert_eq!(store.tree(&layer(1)).unwrap(), None);
    let path = publish(&store, layer(1), "first");
    assert_eq!(publish(&store, layer(1), "second"), path);
    assert_eq!(store.tree(&layer(1)).unwrap(), Some(path.clone()));
    assert_eq!(fs_err::read_to_string(path.join("file")).unwrap(), "first");
    assert_eq!(list_names(store.inner.temp.directory().unwrap()).unwrap(), [""; 0]);
}

#[test]
fn a_tree_keeps_the_mode_of_its_root() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let temp = store.temp_dir("step").unwrap();
    let upper = temp.path().join("upper");
    fs_err::create_dir(&upper).unwrap();
    rustix::fs::chmod(&upper, Mode::from_raw_mode(0o555)).unwrap();
    let mtime = last_used(&upper).unwrap();
    let path = store.publish_tree_sized(&layer(1), &upper, 4096).unwrap();
    tick(root.path());
    let later = open(root.path());
    assert_eq!(later.tree(&layer(1)).unwrap(), Some(path.clone()));
    assert_eq!(rustix::fs::lstat(&path).unwrap().st_mode & 0o7777, 0o555);
    assert_eq!(last_used(&path).unwrap(), mtime, "using a tree does not change it");
    assert!(later.remove_tree(&layer(1)).unwrap());
}

#[test]
fn the_root_is_made_for_its_owner_alone_and_only_on_opening() {
    use std::os::unix::fs::PermissionsExt as _;
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("data/rbuild");
    let store = open(&root);
    assert_eq!(fs_err::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    fs_err::remove_dir_all(&root).unwrap();
    store.put(Kind::Record, "x", b"").unwrap_err();
    store.temp_dir("x").unwrap_err();
    assert!(store.try_lock(LockKind::Step, b"x").is_err());
    assert!(!root.exists());
}

#[test]
fn closing_leaves_nothing_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let kept = store.temp_dir("x").unwrap().keep();
    assert!(kept.exists());
    drop(store);
    assert!(!kept.exists());
    assert_eq!(list_names(&root.path().join("leases")).unwrap(), [""; 0]);
    assert_eq!(list_names(&root.path().join("tmp")).unwrap(), [""; 0]);
}

#[test]
fn what_the_dead_left_is_swept_and_what_the_living_have_is_not() {
    let root = tempfile::tempdir().unwrap();
    let living = open(root.path());
    let theirs = living.temp_dir("step").unwrap();
    let dead = root.path().join("tmp/00000000000000000000000000000000.1.1/step-0/work/work/deep");
    fs_err::create_dir_all(&dead).unwrap();
    fs_err::write(dead.join("file"), "").unwrap();
    rustix::fs::chmod(dead.parent().unwrap(), Mode::empty()).unwrap();
    fs_err::write(root.path().join("leases/00000000000000000000000000000000.1.1"), "").unwrap();
    let report = open(root.path()).sweep().unwrap();
    assert_eq!(report.removed, 1);
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(theirs.path().exists());
    assert_eq!(list_names(&root.path().join("tmp")).unwrap().len(), 1);
    assert_eq!(list_names(&root.path().join("leases")).unwrap(), [living.inner.lease.id.as_str()]);
}

#[test]
fn a_lock_is_for_one_thread() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let guard = store.try_lock(LockKind::Step, b"key").unwrap().unwrap();
    assert!(store.try_lock(LockKind::Step, b"key").unwrap().is_none());
    assert!(store.try_lock_shared(LockKind::Step, b"key").unwrap().is_none());
    assert!(store.try_lock(LockKind::Step, b"other").unwrap().is_some());
    assert!(store.try_lock(LockKind::Blob, b"key").unwrap().is_some());
    let mut holders = Vec::new();
    let tried = std::cell::Cell::new(0);
    let cancel = || {
        tried.set(tried.get() + 1);
        tried.get() > 3
    };
    let result = store.lock(LockKind::Step, b"key", &cancel, &mut |pid| holders.push(pid));
    assert!(matches!(result, Err(StoreError::Cancelled)));
    assert_eq!(holders, [Some(std::process::id())], "told once");
    drop(guard);
    let shared = store.try_lock_shared(LockKind::Step, b"key").unwrap().unwrap();
    assert!(store.try_lock_shared(LockKind::Step, b"key").unwrap().is_some());
    assert!(store.try_lock(LockKind::Step, b"key").unwrap().is_none());
    drop(shared);
    let many = store.lock_many(LockKind::Step, &[b"b", b"a", b"b"], &|| false, &mut |_| {}).unwrap();
    assert_eq!(many.len(), 2);
}

#[test]
fn after_a_reboot_only_what_was_synced_is_believed() {
    let root = tempfile::tempdir().unwrap();
    let (digest, later) = {
        let store = in_boot(root.path(), 'a');
        let digest = store.put_blob(b"synced").unwrap();
        publish(&store, layer(1), "synced");
        store.syncer().sync().unwrap();
        publish(&store, layer(2), "later");
        publish(&store, layer(3), "lost");
        store.put(Kind::Record, "whole", b"payload").unwrap();
        store.put(Kind::Record, "torn", b"payload").unwrap();
        (digest, [store.put_blob(b"later").unwrap(), store.put_blob(b"zeroed").unwrap()])
    };
    let zero = |path: PathBuf| {
        let length = fs_err::metadata(&path).unwrap().len();
        fs_err::write(&path, vec![0; length as usize]).unwrap();
    };
    zero(root.path().join(Object::Blob(later[1]).path()).join("data"));
    zero(root.path().join(object::small(Kind::Record, "torn")));

    let store = in_boot(root.path(), 'b');
    assert!(store.blob(&digest).unwrap().is_some());
    assert!(store.tree(&layer(1)).unwrap().is_some());
    assert_eq!(store.get(Kind::Record, "whole").unwrap().unwrap(), b"payload");
    assert_eq!(store.get(Kind::Record, "torn").unwrap(), None);
    assert!(store.blob(&later[0]).unwrap().is_some(), "found whole by hashing it");
    assert!(store.blob(&later[1]).unwrap().is_none());
    assert!(!root.path().join(Object::Blob(later[1]).path()).exists());

    assert_eq!(store.tree(&layer(2)).unwrap(), None);
    let found = store.unverified_tree(&layer(2)).unwrap().unwrap();
    assert_eq!(fs_err::read_to_string(found.join("file")).unwrap(), "later");
    assert!(store.confirm_tree(&layer(2)).unwrap());
    assert_eq!(store.tree(&layer(2)).unwrap(), Some(found));
    assert_eq!(store.unverified_tree(&layer(2)).unwrap(), None);
    assert!(!store.confirm_tree(&layer(9)).unwrap());

    let made_again = publish(&store, layer(3), "again");
    assert_eq!(fs_err::read_to_string(made_again.join("file")).unwrap(), "again");
}

#[test]
fn a_live_process_of_another_machine_vouches_for_its_boot() {
    let root = tempfile::tempdir().unwrap();
    let there = in_boot(root.path(), 'a');
    publish(&there, layer(1), "");
    let here = in_boot(root.path(), 'b');
    assert!(here.tree(&layer(1)).unwrap().is_some());
    drop(there);
    assert!(here.tree(&layer(1)).unwrap().is_none());
}

/// A store in which names and records refer to the objects their lines name.
fn referring() -> StoreOptions {
    let references = References::new(|_, _, bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines()
            .filter_map(|line| match line.split_once(' ')? {
                ("record", name) => Some(ObjectRef::Small(Kind::Record, name.to_owned())),
                ("image", name) => Some(ObjectRef::Small(Kind::Image, name.to_owned())),
                ("blob", digest) => digest.parse().ok().map(ObjectRef::Blob),
                ("tree", id) => id.parse().ok().map(ObjectRef::Tree),
                ("tree?", id) => id.parse().ok().map(ObjectRef::RemakableTree),
                _ => None,
            })
            .collect()
    });
    StoreOptions { references, ..StoreOptions::default() }
}

fn removed(store: &Store, options: &PruneOptions<'_>) -> Vec<String> {
    let report = store.prune(options).unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert_eq!(report.bytes, report.removed.iter().map(|info| info.bytes).sum::<u64>());
    report.removed.iter().map(|info| info.object.to_string()).collect()
}

/// One named image with a blob and a remakable tree; a record with a tree; a fact; a blob nobody knows.
fn furnished(root: &Path) -> [BlobDigest; 2] {
    let store = Store::open(root, referring()).unwrap();
    let named = store.put_blob(b"named").unwrap();
    let lost = store.put_blob(b"lost").unwrap();
    publish(&store, layer(1), "of the image");
    store.put(Kind::Image, "i", format!("blob {named}\ntree? {}", layer(1)).as_bytes()).unwrap();
    store.put(Kind::Name, "n", b"image i").unwrap();
    tick(root);
    store.put(Kind::Fact, "f", b"").unwrap();
    tick(root);
    publish(&store, layer(2), "of the record");
    tick(root);
    store.put(Kind::Record, "r", format!("tree {}", layer(2)).as_bytes()).unwrap();
    tick(root);
    [named, lost]
}

#[test]
fn prune_takes_what_no_name_reaches() {
    let root = tempfile::tempdir().unwrap();
    let [named, lost] = furnished(root.path());
    let store = Store::open(root.path(), referring()).unwrap();
    let expected = [format!("blob {lost}"), "record r".to_owned(), format!("tree {}", layer(2))];
    let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
    assert_eq!(removed(&store, &dry), expected);
    assert_eq!(removed(&store, &PruneOptions::default()), expected);
    assert_eq!(removed(&store, &PruneOptions::default()), [""; 0]);
    assert!(store.blob(&named).unwrap().is_some() && store.blob(&lost).unwrap().is_none());
    assert!(store.get(Kind::Record, "r").unwrap().is_none());
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    assert_eq!(removed(&store, &all), [format!("tree {}", layer(1)), "fact f".to_owned()]);
    assert_eq!(store.get(Kind::Name, "n").unwrap().unwrap(), b"image i");
}

#[test]
fn prune_spares_what_a_live_process_uses() {
    let root = tempfile::tempdir().unwrap();
    let [_, lost] = furnished(root.path());
    let building = Store::open(root.path(), referring()).unwrap();
    assert!(building.touch(Kind::Record, "r").unwrap());
    assert!(building.blob(&lost).unwrap().is_some());
    tick(root.path());
    let pruning = Store::open(root.path(), referring()).unwrap();
    assert_eq!(removed(&pruning, &PruneOptions::default()), [""; 0], "the tree is in use through its record");
    building.put(Kind::Record, "new", b"").unwrap();
    assert_eq!(removed(&pruning, &PruneOptions::default()), [""; 0]);
    drop(building);
    assert_eq!(removed(&pruning, &PruneOptions::default()).len(), 3, "all but `new`, which is younger than the pruner");
}

#[test]
fn prune_knows_ages_limits_and_filters() {
    let root = tempfile::tempdir().unwrap();
    let [_, lost] = furnished(root.path());
    let store = Store::open(root.path(), referring()).unwrap();
    let hour = PruneOptions { until: Some(Duration::from_secs(3600)), ..PruneOptions::default() };
    assert_eq!(removed(&store, &hour), [""; 0]);
    let total = store.objects().unwrap().iter().map(|info| info.bytes).sum();
    let keep = PruneOptions { keep: total, ..PruneOptions::default() };
    assert_eq!(removed(&store, &keep), [""; 0]);
    let roomy = PruneOptions { max_used: Some(total), ..PruneOptions::default() };
    assert_eq!(removed(&store, &roomy), [""; 0]);
    let free = PruneOptions { min_free: Some(1), ..PruneOptions::default() };
    assert_eq!(removed(&store, &free), [""; 0]);
    let only_records = |info: &crate::ObjectInfo| matches!(info.object, Object::Small(Kind::Record, _));
    let filter = PruneOptions { filter: Some(&only_records), ..PruneOptions::default() };
    assert_eq!(removed(&store, &filter), ["record r"]);
    let less = PruneOptions { max_used: Some(total - 4097), ..PruneOptions::default() };
    assert_eq!(removed(&store, &less), [format!("blob {lost}")]);
}

#[test]
fn the_ceiling_evicts_the_oldest_and_then_refuses() {
    let root = tempfile::tempdir().unwrap();
    let mut blobs = Vec::new();
    {
        let store = open(root.path());
        for n in 0..4_u8 {
            blobs.push(store.put_blob(&vec![n; 100_000]).unwrap());
            tick(root.path());
        }
    }
    let options = StoreOptions { max_bytes: Some(500_000), ..StoreOptions::default() };
    let store = Store::open(root.path(), options).unwrap();
    assert!(store.blob(&blobs[0]).unwrap().is_some(), "used now, so no longer the oldest");
    drop(store.reserve(50_000).unwrap());
    assert!(blobs.iter().all(|b| store.blob(b).unwrap().is_some() || *b == blobs[1]));
    drop(store);
    tick(root.path());

    let options = StoreOptions { max_bytes: Some(500_000), ..StoreOptions::default() };
    let store = Store::open(root.path(), options).unwrap();
    let first = store.reserve(350_000).unwrap();
    let second = Store::open(root.path(), store.inner.options.clone()).unwrap();
    assert!(matches!(second.reserve(350_000), Err(StoreError::Full { limit: 500_000, .. })), "both see both");
    drop(first);
    drop(second.reserve(350_000).unwrap());
    let mut writer = second.blob_writer().unwrap();
    assert!(matches!(writer.reserve(500_001), Err(StoreError::Full { .. })));
}

#[test]
fn what_is_consumed_gives_its_room_back() {
    const MIB: usize = 1 << 20;
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { max_bytes: Some(14 << 20), ..StoreOptions::default() };
    let store = Store::open(root.path(), options).unwrap();
    let filled = |seed: u8| {
        let mut scratch = store.scratch().unwrap();
        for n in 0..10_u8 {
            scratch.write_all(&vec![seed + n; MIB]).unwrap();
        }
        scratch.finish().unwrap()
    };
    let copy = |reader: &mut dyn std::io::Read| {
        let mut writer = store.blob_writer().unwrap();
        std::io::copy(reader, &mut writer).map(|_| writer)
    };
    let kept = filled(1);
    assert_eq!(copy(&mut kept.range(0, 10 << 20)).unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded, "both");
    let mut again = Vec::new();
    kept.range(0, 10 << 20).read_to_end(&mut again).unwrap();
    assert!(again == (1..=10_u8).map(|n| vec![n; MIB]).collect::<Vec<_>>().concat());
    drop(kept);
    // In any order, in pieces that end anywhere.
    let moved = filled(1);
    let halves = [(5 << 20, 5 << 20), (0, 700_001), (700_001, (5 << 20) - 700_001)];
    let mut pieces: Box<dyn std::io::Read> = Box::new(std::io::empty());
    for (offset, length) in halves {
        pieces = Box::new(pieces.chain(moved.consume(offset, length)));
    }
    let (digest, size) = copy(&mut pieces).unwrap().commit(None).unwrap();
    let mut content = Vec::new();
    store.open_blob(&digest).unwrap().unwrap().read_to_end(&mut content).unwrap();
    let order = [6, 7, 8, 9, 10, 1, 2, 3, 4, 5];
    assert!(size == 10 << 20 && content == order.map(|n| vec![n; MIB]).concat());
}

#[test]
fn what_grows_takes_room_as_it_grows() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { max_bytes: Some(1 << 20), ..StoreOptions::default() };
    let store = Store::open(root.path(), options).unwrap();
    let mut scratch = store.scratch().unwrap();
    scratch.write_all(&vec![7; 600_000]).unwrap();
    scratch.write_all(&[8; 3]).unwrap();
    let reader = scratch.finish().unwrap();
    assert!(matches!(store.put_blob(&vec![1; 600_000]), Err(StoreError::Full { .. })), "the scratch file is there");
    let mut end = Vec::new();
    reader.range(599_999, 4).read_to_end(&mut end).unwrap();
    assert_eq!(end, [7, 8, 8, 8]);
    drop(reader);
    store.put_blob(&vec![1; 600_000]).unwrap();
    let mut bomb = store.scratch().unwrap();
    let endless = std::io::copy(&mut std::io::repeat(9).take(1 << 30), &mut bomb).unwrap_err();
    assert_eq!(endless.kind(), std::io::ErrorKind::QuotaExceeded);
    drop(bomb);
    assert_eq!(
        fs_err::read_dir(root.path().join("tmp"))
            .unwrap()
            .flat_map(|own| fs_err::read_dir(own.unwrap().path()).unwrap())
            .count(),
        0
    );
}

#[test]
fn a_total_is_remembered_until_it_may_be_wrong() {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { max_bytes: Some(100 << 20), ..StoreOptions::default() };
    let total = root.path().join("total-v1");
    let begin = || {
        let store = Store::open(root.path(), options.clone()).unwrap();
        drop(store.reserve(1).unwrap());
        assert!(total.exists(), "scanned, or remembered");
        store
    };
    let remembered = || {
        let text = fs_err::read_to_string(&total).unwrap();
        let (_, payload) = text.split_once('\n').unwrap();
        payload.split_once(' ').unwrap().0.parse::<u64>().unwrap()
    };
    drop(begin());
    assert_eq!(remembered(), 0);
    let store = begin();
    store.put_blob(&vec![1; 50_000]).unwrap();
    store.put(Kind::Record, "r", b"").unwrap();
    drop(store);
    assert_eq!(remembered(), 53_248 + 4096);

    let store = begin();
    publish(&store, layer(1), "of a size nobody told");
    drop(store);
    assert!(!total.exists());

    let store = begin();
    store.put_blob(&vec![2; 50_000]).unwrap();
    std::mem::forget(store.clone()); // dies without settling
    let id = store.inner.lease.id.clone();
    let left = root.path().join("ledger").join("00000000000000000000000000000000.1.1");
    fs_err::copy(root.path().join("ledger").join(id), &left).unwrap();
    assert!(store.inner.ledgers().unwrap().lost);
    open(root.path()).sweep().unwrap();
    assert!(!left.exists() && !total.exists());
}

#[test]
fn the_size_of_a_cache_mount_is_counted_again_after_a_use() {
    let root = tempfile::tempdir().unwrap();
    let key = Blake3::of(b"mount");
    let write = |name: &str| {
        let store = open(root.path());
        fs_err::write(store.cache_mount(&key, "mount").unwrap().join(name), [1; 10_000]).unwrap();
    };
    let bytes = || {
        tick(root.path());
        let bytes = open(root.path()).cache_mounts().unwrap()[0].bytes;
        tick(root.path());
        bytes
    };
    write("a");
    let first = bytes();
    let size = root.path().join(Object::CacheMount(key).path()).join("size");
    assert_eq!(fs_err::read_to_string(&size).unwrap(), first.to_string());
    write("b");
    assert!(bytes() > first + 8192);
    fs_err::write(&size, "7").unwrap();
    assert_eq!(bytes(), 7, "believed while nobody used the mount");
}

#[test]
fn cache_mounts_last_until_removed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let key = Blake3::of(b"/root/.cache");
    let path = store.cache_mount_with(&key, "/root/.cache", |d| fs_err::write(d.join("seed"), "1")).unwrap();
    fs_err::write(path.join("more"), "2").unwrap();
    assert_eq!(store.cache_mount_with(&key, "x", |_| panic!("not new")).unwrap(), path);
    let listed = store.cache_mounts().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].label.as_str(), &listed[0].path), ("/root/.cache", &path));
    assert!(listed[0].bytes >= 8192);
    let lock = store.try_lock_shared(LockKind::CacheMount, &key.0).unwrap();
    assert!(matches!(store.remove_cache_mount(&key), Err(StoreError::Busy { holder: Some(_), .. })));
    drop(lock);
    assert!(store.remove_cache_mount(&key).unwrap());
    assert!(!store.remove_cache_mount(&key).unwrap());
    assert_eq!(store.cache_mounts().unwrap(), []);
}
