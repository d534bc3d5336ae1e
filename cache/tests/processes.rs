//! Many processes on one store: this test binary starts itself. `RBUILD_CACHE_ROLE` says what a child is to do, `…_ROOT` where,
//! `…_SEED` with which numbers. `child` is the entry of all of them and does nothing without a role.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbuild_cache::digest::{Blake3, BlobDigest, LayerId, Sha256};
use rbuild_cache::{Kind, LockKind, Object, PruneOptions, Store, StoreError, StoreOptions};

const ROLE: &str = "RBUILD_CACHE_ROLE";
const ROOT: &str = "RBUILD_CACHE_ROOT";
const SEED: &str = "RBUILD_CACHE_SEED";

#[test]
#[expect(clippy::disallowed_methods, reason = "how a test tells its child what to do")]
fn child() {
    let (Ok(role), Ok(root)) = (std::env::var(ROLE), std::env::var(ROOT)) else { return };
    let seed = std::env::var(SEED).ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let root = PathBuf::from(root);
    match role.as_str() {
        "hammer" => Hammer::new(&root, seed).strike(400),
        "hammer until killed" => Hammer::new(&root, seed).strike(u64::MAX),
        "hold a lock" => hold_a_lock(&root),
        "fill the disk" => fill_the_disk(&root),
        "meet a mount" => meet_a_mount(&root),
        other => panic!("unknown role {other}"),
    }
}

fn command(role: &str, root: &Path, seed: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(ROOT, root).env(SEED, seed.to_string());
    command
}

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::default()).unwrap()
}

/// The content every process gives object number `n`.
fn content(n: u64) -> Vec<u8> {
    let length = (n * 7919 % 40_000) as usize;
    blake3::hash(&n.to_le_bytes()).as_bytes().iter().copied().cycle().take(length).collect()
}

fn layer(n: u64) -> LayerId {
    LayerId(Blake3::of(&n.to_le_bytes()))
}

fn check_tree(root: &Path, n: u64) {
    for part in 0..4 {
        let path = root.join(format!("d{part}/file"));
        assert_eq!(fs_err::read(&path).unwrap(), content(n + part), "tree {n}");
    }
}

const OBJECTS: u64 = 24;
/// About half of what all objects take.
const CEILING: u64 = 2 << 20;

/// A process that does everything at once, forgetting the store now and then so that leases end and GC has something to take.
struct Hammer {
    root: PathBuf,
    random: u64,
}

impl Hammer {
    fn new(root: &Path, seed: u64) -> Self {
        Self { root: root.to_owned(), random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    fn strike(&mut self, times: u64) {
        let mut done = 0;
        while done < times {
            let max_bytes = (self.next(2) == 0).then_some(CEILING);
            let store = Store::open(&self.root, StoreOptions { max_bytes, ..StoreOptions::default() }).unwrap();
            for _ in 0..self.next(30) {
                self.one(&store);
                done += 1;
            }
        }
    }

    fn one(&mut self, store: &Store) {
        let n = self.next(OBJECTS);
        match self.next(12) {
            0 | 1 => {
                let name = format!("{n}");
                store.put(Kind::Record, &name, &content(n)).unwrap();
                assert_eq!(store.get(Kind::Record, &name).unwrap(), Some(content(n)), "put now, so in use");
            }
            2 | 3 => {
                if store.touch(Kind::Record, &n.to_string()).unwrap() {
                    assert_eq!(store.get(Kind::Record, &n.to_string()).unwrap(), Some(content(n)), "touched");
                }
            }
            4 => {
                let digest = match store.put_blob(&content(n)) {
                    Err(StoreError::Full { limit: CEILING, .. }) => return,
                    other => other.unwrap(),
                };
                let mut bytes = Vec::new();
                store.open_blob(&digest).unwrap().expect("just stored").read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, content(n));
            }
            5 => {
                if let Some(blob) = store.blob(&BlobDigest(Sha256::of(&content(n)))).unwrap() {
                    assert_eq!(fs_err::read(&blob.path).unwrap(), content(n));
                }
            }
            6 => {
                let temp = store.temp_dir("step").unwrap();
                let upper = temp.path().join("upper");
                for part in 0..4 {
                    fs_err::create_dir_all(upper.join(format!("d{part}"))).unwrap();
                    fs_err::write(upper.join(format!("d{part}/file")), content(n + part)).unwrap();
                }
                // All that the ceiling allows may be in use by the five of them: then there is no room, and that is said.
                match store.publish_tree(&layer(n), &upper) {
                    Err(StoreError::Full { limit: CEILING, .. }) => {}
                    other => check_tree(&other.unwrap(), n),
                }
            }
            7 | 8 => {
                if let Some(root) = store.tree(&layer(n)).unwrap() {
                    check_tree(&root, n);
                }
            }
            9 => self.count(store),
            10 => {
                store.sweep().unwrap();
            }
            _ => {
                let report = store.prune(&PruneOptions { all: true, ..PruneOptions::default() }).unwrap();
                assert!(report.failed.is_empty(), "{report:?}");
            }
        }
    }

    /// Reads and rewrites a number, which only a lock makes safe.
    fn count(&mut self, store: &Store) {
        let key = self.next(3);
        let file = self.root.join(format!("counter-{key}"));
        let own = self.root.join(format!("counted-{}", std::process::id()));
        let _lock = store.lock(LockKind::Step, &key.to_le_bytes(), &|| false, &mut |_| {}).unwrap();
        for file in [file, own] {
            let number: u64 = fs_err::read_to_string(&file).map_or(0, |text| text.parse().unwrap_or(0));
            fs_err::write(&file, (number + 1).to_string()).unwrap();
        }
    }
}

fn files_starting(root: &Path, prefix: &str) -> Vec<PathBuf> {
    fs_err::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .collect()
}

fn entries(directory: &Path) -> usize {
    fs_err::read_dir(directory).map_or(0, Iterator::count)
}

/// All objects are whole; returns how many there are.
fn check_store(store: &Store) -> usize {
    let objects = store.objects().unwrap();
    for info in &objects {
        match &info.object {
            Object::Small(kind, name) => {
                assert_eq!(store.get(*kind, name).unwrap(), Some(content(name.parse().unwrap())), "{}", info.object);
            }
            Object::Blob(digest) => {
                let blob = store.blob(digest).unwrap().expect("scanned");
                assert_eq!(BlobDigest(Sha256::of(&fs_err::read(blob.path).unwrap())), *digest);
            }
            Object::Tree { id, .. } => {
                let n = (0..OBJECTS).find(|n| layer(*n) == *id).expect("one of ours");
                check_tree(&store.tree(id).unwrap().expect("scanned"), n);
            }
            Object::CacheMount(key) => panic!("nobody made {key}"),
        }
    }
    objects.len()
}

#[test]
fn many_processes_share_a_store() {
    let root = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> =
        (1..=5).map(|seed| command("hammer", root.path(), seed).stdout(Stdio::null()).spawn().unwrap()).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let sum = |prefix| -> u64 {
        let read = |path: &PathBuf| fs_err::read_to_string(path).unwrap().parse::<u64>().unwrap();
        files_starting(root.path(), prefix).iter().map(read).sum()
    };
    assert!(sum("counter-") > 50);
    assert_eq!(sum("counter-"), sum("counted-"), "no increment was lost");
    for place in ["tmp", "leases", "ledger"] {
        assert_eq!(entries(&root.path().join(place)), 0, "{place} is empty");
    }
    check_store(&open(root.path()));
}

#[test]
fn killed_processes_leave_nothing_broken_and_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let mut met = 0;
    for round in 0..25 {
        let mut children: Vec<Child> = (0..2)
            .map(|n| {
                let mut command = command("hammer until killed", root.path(), round * 2 + n + 100);
                let faults = fs_err::File::create(root.path().join(format!("stderr-{n}"))).unwrap();
                command.stdout(Stdio::null()).stderr(faults.into_parts().0).spawn().unwrap()
            })
            .collect();
        let began = Instant::now();
        while entries(&root.path().join("leases")) == 0 && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(5 + round * 13 % 70));
        for (n, child) in children.iter_mut().enumerate() {
            let faults = fs_err::read_to_string(root.path().join(format!("stderr-{n}"))).unwrap();
            assert_eq!(child.try_wait().unwrap(), None, "it only ends when it is killed: {faults}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let store = open(root.path());
        let report = store.sweep().unwrap();
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!(entries(&root.path().join("leases")), 1, "only ours");
        assert!(entries(&root.path().join("tmp")) <= 1, "only ours");
        assert_eq!(entries(&root.path().join("ledger")), 0);
        met += check_store(&store);
    }
    assert!(met > 25, "the processes got somewhere: {met}");
    std::thread::sleep(Duration::from_millis(20)); // what was checked just now would count as in use
    let store = open(root.path());
    store.prune(&PruneOptions { all: true, ..PruneOptions::default() }).unwrap();
    assert_eq!(store.objects().unwrap(), [], "nothing was leaked that GC does not see");
}

fn hold_a_lock(root: &Path) {
    let store = open(root);
    let _lock = store.try_lock(LockKind::Step, b"key").unwrap().expect("free");
    fs_err::write(root.join("locked"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_waiting_process_learns_the_holder_and_survives_its_death() {
    let root = tempfile::tempdir().unwrap();
    let mut child = command("hold a lock", root.path(), 1).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !root.path().join("locked").exists() {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(2));
    }
    let store = open(root.path());
    let pid = child.id();
    let mut holders = Vec::new();
    let lock = store.lock(LockKind::Step, b"key", &|| false, &mut |holder| {
        holders.push(holder);
        child.kill().unwrap();
    });
    drop(lock.unwrap());
    child.wait().unwrap();
    assert_eq!(holders, [Some(pid)]);
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(why: &str) -> bool {
    eprintln!("SKIPPED: {why}");
    false
}

/// Runs a role as root of a new user namespace with a small tmpfs at `root`; false, said loudly, where that is not allowed.
fn in_sandbox(role: &str, root: &Path) -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "sh", "-ec"]);
    unshare.arg("mount -t tmpfs -o size=8m none \"$RBUILD_CACHE_ROOT\"; echo ready; exec \"$@\"").arg("sh");
    let inner = command(role, root, 1);
    unshare.arg(inner.get_program()).args(inner.get_args());
    unshare.env(ROLE, role).env(ROOT, root).stdout(Stdio::piped());
    let Ok(mut child) = unshare.spawn() else { return skipped("no unshare") };
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    if first != "ready\n" {
        return skipped("no user namespaces");
    }
    assert!(status.success(), "{rest}");
    true
}

fn fill_the_disk(root: &Path) {
    let root = root.join("store");
    let megabyte = |n: u8| vec![n; 1 << 20];
    {
        let store = open(&root);
        for n in 0..6 {
            store.put_blob(&megabyte(n)).unwrap();
        }
        store.put(Kind::Name, "kept", b"").unwrap();
        // While these are in use nothing can go.
        let full = store.put_blob(&vec![9; 4 << 20]).unwrap_err();
        assert!(full.is_no_space(), "{full}");
        assert_eq!(store.usage().unwrap().blobs.count, 6);
    }
    std::thread::sleep(Duration::from_millis(20));
    let store = open(&root);
    store.put_blob(&vec![9; 4 << 20]).unwrap();
    assert_eq!(store.usage().unwrap().blobs.count, 1, "the old ones made room");
    assert!(store.contains(Kind::Name, "kept").unwrap());
}

#[test]
fn sandbox_a_full_disk_makes_room_by_eviction() {
    in_sandbox("fill the disk", tempfile::tempdir().unwrap().path());
}

fn meet_a_mount(root: &Path) {
    let store = open(&root.join("store"));
    let outside = root.join("outside");
    fs_err::create_dir(&outside).unwrap();
    fs_err::write(outside.join("precious"), "").unwrap();
    let temp = store.temp_dir("step").unwrap();
    let target = temp.path().join("a/b");
    fs_err::create_dir_all(&target).unwrap();
    std::os::unix::fs::symlink(&outside, temp.path().join("a/link")).unwrap();
    let mount = |arguments: &[&Path]| assert!(Command::new("mount").args(arguments).status().unwrap().success());
    mount(&[Path::new("--bind"), &outside, &target]);
    let path = temp.path().to_owned();
    temp.close().unwrap_err();
    assert!(outside.join("precious").exists());
    assert!(!path.join("a/link").exists(), "what is ours was removed all the same");
}

#[test]
fn sandbox_removal_stops_at_mounts_and_links() {
    in_sandbox("meet a mount", tempfile::tempdir().unwrap().path());
}
