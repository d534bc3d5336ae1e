//! Hashes of files by what `stat` says of them, kept between builds.
//!
//! ```text
//! "rbuild-stat-v1\n\0"  generation u32, 12 bytes 0   records sorted by (device, inode)   BLAKE3 of all before
//! record: device u64, inode u64, size u64, mtime i64 + u32, ctime i64 + u32, generation last used u32, hash [u8; 32]
//! ```
//! All numbers little-endian. A file that does not check out is as good as none; it is replaced by rename and never changed.
//! A hash is only kept if the file was last touched well before it was hashed: what was written to within the same tick of
//! the clock has the same times and other bytes. Knows no context and no path but its own.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rbuild_cache::digest::Blake3;

use crate::files::{Stat, Time};

const MAGIC: &[u8; 16] = b"rbuild-stat-v1\n\0";
const HEADER: usize = 32;
const RECORD: usize = 84;
const CHECKSUM: usize = 32;
/// Files touched this many seconds before the scan, or later, are hashed again next time.
const RACY_SECONDS: i64 = 2;
/// Records not used during this many writes are dropped.
const KEPT_GENERATIONS: u32 = 32;

/// The cache of one context directory.
#[derive(Debug)]
pub(super) struct StatCache {
    path: PathBuf,
    /// The file as it was read; records only.
    records: Vec<u8>,
    generation: u32,
    /// One bit per record that was used.
    used: Vec<AtomicU64>,
    fresh: Mutex<BTreeMap<(u64, u64), Record>>,
    /// When this scan began, seconds since 1970.
    started: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    device: u64,
    inode: u64,
    size: u64,
    mtime: Time,
    ctime: Time,
    used: u32,
    hash: Blake3,
}

impl StatCache {
    /// Reads the cache at `path`; a missing or damaged one is empty. `started` is the time now.
    pub(super) fn open(path: &Path, started: i64) -> Self {
        let (records, generation) = fs_err::read(path).ok().and_then(checked).unwrap_or_default();
        let used = (0..(records.len() / RECORD).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { path: path.to_owned(), records, generation, used, fresh: Mutex::default(), started }
    }

    /// The hash of a file that is as it was.
    pub(super) fn get(&self, stat: &Stat) -> Option<Blake3> {
        if let Some(i) = self.find(stat.device, stat.inode)
            && let Some(record) = self.record(i).filter(|r| r.is(stat))
        {
            self.used[i / 64].fetch_or(1 << (i % 64), Ordering::Relaxed);
            return Some(record.hash);
        }
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.get(&(stat.device, stat.inode)).filter(|r| r.is(stat)).map(|r| r.hash)
    }

    /// Notes the hash of a file, unless it was touched too recently to be sure.
    pub(super) fn put(&self, stat: &Stat, hash: Blake3) {
        if self.is_racy(stat) {
            return;
        }
        let Stat { device, inode, size, mtime, ctime, .. } = *stat;
        let record = Record { device, inode, size, mtime, ctime, used: 0, hash };
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert((device, inode), record);
    }

    fn is_racy(&self, stat: &Stat) -> bool {
        let border = self.started - RACY_SECONDS;
        // A change time cannot be set back; a modification time in the future says nothing.
        stat.ctime.seconds >= border || (border..=self.started + RACY_SECONDS).contains(&stat.mtime.seconds)
    }

    /// Writes what was learned, if anything was.
    pub(super) fn save(&self) -> io::Result<()> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.is_empty() {
            return Ok(());
        }
        let generation = self.generation.wrapping_add(1);
        let mut all: BTreeMap<(u64, u64), Record> = BTreeMap::new();
        for i in 0..self.records.len() / RECORD {
            let Some(mut record) = self.record(i) else { continue };
            if self.used[i / 64].load(Ordering::Relaxed) >> (i % 64) & 1 == 1 {
                record.used = generation;
            }
            if generation.wrapping_sub(record.used) <= KEPT_GENERATIONS {
                all.insert((record.device, record.inode), record);
            }
        }
        all.extend(fresh.iter().map(|(key, record)| (*key, Record { used: generation, ..*record })));
        let mut bytes = Vec::with_capacity(HEADER + all.len() * RECORD + CHECKSUM);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&generation.to_le_bytes());
        bytes.resize(HEADER, 0);
        for record in all.values() {
            record.write(&mut bytes);
        }
        let checksum = Blake3::of(&bytes);
        bytes.extend_from_slice(&checksum.0);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        fs_err::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&bytes)?;
        file.persist(&self.path).map_err(|e| e.error)?;
        fresh.clear();
        Ok(())
    }

    fn find(&self, device: u64, inode: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.records.len() / RECORD);
        while low < high {
            let middle = usize::midpoint(low, high);
            let at = middle * RECORD;
            let key = (number(&self.records[at..]), number(&self.records[at + 8..]));
            match key.cmp(&(device, inode)) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    fn record(&self, i: usize) -> Option<Record> {
        self.records.get(i * RECORD..(i + 1) * RECORD).map(Record::read)
    }
}

impl Record {
    fn is(&self, stat: &Stat) -> bool {
        (self.device, self.inode, self.size, self.mtime, self.ctime)
            == (stat.device, stat.inode, stat.size, stat.mtime, stat.ctime)
    }

    fn write(&self, out: &mut Vec<u8>) {
        for n in [self.device, self.inode, self.size] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        for time in [self.mtime, self.ctime] {
            out.extend_from_slice(&time.seconds.to_le_bytes());
            out.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        out.extend_from_slice(&self.used.to_le_bytes());
        out.extend_from_slice(&self.hash.0);
    }

    /// Reads a record of exactly [`RECORD`] bytes.
    fn read(bytes: &[u8]) -> Self {
        let time = |at: usize| Time {
            seconds: number(&bytes[at..]).cast_signed(),
            nanoseconds: number(&bytes[at + 4..]).wrapping_shr(32) as u32,
        };
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[52..84]);
        Self {
            device: number(bytes),
            inode: number(&bytes[8..]),
            size: number(&bytes[16..]),
            mtime: time(24),
            ctime: time(36),
            used: number(&bytes[44..]).wrapping_shr(32) as u32,
            hash: Blake3(hash),
        }
    }
}

/// The little-endian number in the first eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Checks a whole file; returns its records and generation.
fn checked(mut bytes: Vec<u8>) -> Option<(Vec<u8>, u32)> {
    let body = bytes.len().checked_sub(CHECKSUM)?;
    if !bytes.starts_with(MAGIC) || body < HEADER || !(body - HEADER).is_multiple_of(RECORD) {
        return None;
    }
    if Blake3::of(&bytes[..body]).0 != bytes[body..] {
        return None;
    }
    let generation = number(&bytes[16..]) as u32;
    bytes.truncate(body);
    bytes.drain(..HEADER);
    Some((bytes, generation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FileKind;

    fn stat(inode: u64, size: u64, ctime: i64) -> Stat {
        let time = Time { seconds: ctime, nanoseconds: 999_999_999 };
        Stat {
            kind: FileKind::Regular,
            device: 1,
            inode,
            links: 1,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size,
            mtime: time,
            ctime: time,
            device_number: (0, 0),
        }
    }

    #[test]
    fn hashes_come_back_as_long_as_nothing_changed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("sub/cache");
        let hash = |n: u64| Blake3::of(&n.to_le_bytes());
        let cache = StatCache::open(&path, 1000);
        (0..200).for_each(|n| cache.put(&stat(n * 7, n, 500), hash(n)));
        cache.save().expect("saved");
        let cache = StatCache::open(&path, 2000);
        for n in 0..200 {
            assert_eq!(cache.get(&stat(n * 7, n, 500)), Some(hash(n)), "{n}");
        }
        assert_eq!(cache.get(&stat(7, 2, 500)), None, "other size");
        assert_eq!(cache.get(&stat(7, 1, 501)), None, "other time");
        assert_eq!(cache.get(&stat(8, 1, 500)), None, "other file");
    }

    #[test]
    fn what_was_touched_just_now_is_not_trusted() {
        let dir = tempfile::tempdir().expect("temp dir");
        let cache = StatCache::open(&dir.path().join("c"), 1000);
        for ctime in [998, 1000, 1005] {
            cache.put(&stat(1, 1, ctime), Blake3::of(b""));
            assert_eq!(cache.get(&stat(1, 1, ctime)), None, "{ctime}");
        }
        cache.put(&stat(1, 1, 997), Blake3::of(b""));
        assert!(cache.get(&stat(1, 1, 997)).is_some());
    }

    #[test]
    fn damage_means_empty() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("c");
        let cache = StatCache::open(&path, 1000);
        cache.put(&stat(1, 1, 5), Blake3::of(b""));
        cache.save().expect("saved");
        let good = fs_err::read(&path).expect("there");
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            fs_err::write(&path, &bad).expect("written");
            assert_eq!(StatCache::open(&path, 1000).get(&stat(1, 1, 5)), None, "byte {i}");
        }
        fs_err::write(&path, &good[..good.len() - 1]).expect("written");
        assert_eq!(StatCache::open(&path, 1000).get(&stat(1, 1, 5)), None);
    }

    #[test]
    fn records_nobody_uses_go_in_the_end() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("c");
        for round in 0..KEPT_GENERATIONS + 3 {
            let cache = StatCache::open(&path, 1000);
            if round == 0 {
                cache.put(&stat(1, 1, 5), Blake3::of(b"unused"));
                cache.put(&stat(2, 1, 5), Blake3::of(b"used"));
            }
            cache.get(&stat(2, 1, 5));
            cache.put(&stat(100 + u64::from(round), 1, 5), Blake3::of(b""));
            cache.save().expect("saved");
        }
        let cache = StatCache::open(&path, 1000);
        assert_eq!(cache.get(&stat(1, 1, 5)), None);
        assert!(cache.get(&stat(2, 1, 5)).is_some());
    }
}
