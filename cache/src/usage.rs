//! What is in the store and how much of the disk it takes: blocks, not lengths, with hard links counted once.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

use crate::digest::{BlobDigest, LayerId};
use crate::directory::{list_names, read};
use crate::error::Result;
use crate::lease::{self, Moment};
use crate::object::{BLOBS, Kind, MOUNTS, Object, SIZE, STAMP, TREES};
use crate::store::{Inner, Store};
use crate::{name, tree};

/// A number of objects and their bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Small files by kind; kinds without any are there with zeros.
    pub small: BTreeMap<Kind, Tally>,
    /// Blobs.
    pub blobs: Tally,
    /// Unpacked layers, of all uid maps.
    pub trees: Tally,
    /// Cache mounts.
    pub cache_mounts: Tally,
    /// Unfinished work of live processes and leftovers of dead ones; counted per process.
    pub temporary: Tally,
}

impl Usage {
    /// Everything together.
    pub fn total(&self) -> Tally {
        let rest = [self.blobs, self.trees, self.cache_mounts, self.temporary];
        self.small.values().chain(&rest).fold(Tally::default(), |sum, tally| Tally {
            count: sum.count + tally.count,
            bytes: sum.bytes + tally.bytes,
        })
    }
}

/// One object met by a scan.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) object: Object,
    pub(crate) used: Moment,
    pub(crate) bytes: u64,
}

impl Store {
    /// Counts everything, unfinished work included. Walks cache mounts and temporary directories.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage { small: Kind::ALL.map(|kind| (kind, Tally::default())).into(), ..Usage::default() };
        for found in self.scan()? {
            match &found.object {
                Object::Small(kind, _) => usage.small.entry(*kind).or_default().add(found.bytes),
                Object::Blob(_) => usage.blobs.add(found.bytes),
                Object::Tree { .. } => usage.trees.add(found.bytes),
                Object::CacheMount(_) => usage.cache_mounts.add(found.bytes),
            }
        }
        let temporary = self.inner.root.join("tmp");
        for lease in list_names(&temporary)? {
            usage.temporary.add(bytes_below(&temporary.join(lease)));
        }
        Ok(usage)
    }

    /// What the store takes beside its objects: unfinished work and leftovers by process, and its own structure (directories,
    /// locks, leases, ledgers, stamps).
    pub fn overhead(&self) -> Result<(Tally, Tally)> {
        let (mut temporary, mut structure) = (Tally::default(), Tally::default());
        let root = &self.inner.root;
        let own = |path: &Path| rustix::fs::lstat(path).map_or(0, |stat| on_disk(&stat));
        structure.add(own(root));
        for name in list_names(root)? {
            let path = root.join(&name);
            structure.add(own(&path));
            let hashed = name == BLOBS || name == MOUNTS || name.starts_with(TREES);
            let fans = hashed || Kind::ALL.iter().any(|kind| kind.fans_out() && kind.directory() == name);
            let flat = Kind::ALL.iter().any(|kind| !kind.fans_out() && kind.directory() == name);
            if flat || path.is_file() {
                continue;
            }
            for below in list_names(&path)? {
                let below = path.join(below);
                if name == "tmp" {
                    temporary.add(bytes_below(&below));
                    continue;
                }
                structure.add(own(&below));
                // All of a blob's directory is counted with it; of the others only what is inside.
                if fans && hashed && name != BLOBS {
                    for object in list_names(&below)? {
                        let object = below.join(object);
                        structure.add(own(&object) + own(&object.join(STAMP)) + own(&object.join(SIZE)));
                    }
                }
            }
        }
        Ok((temporary, structure))
    }

    /// Meets every object once. What vanishes meanwhile is left out.
    pub(crate) fn scan(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for kind in Kind::ALL {
            self.scan_small(kind, &mut found)?;
        }
        for directory in list_names(&self.inner.root)? {
            if directory == BLOBS {
                self.scan_hashed(&directory, &mut found, |hex| {
                    format!("sha256:{hex}").parse().ok().map(|digest: BlobDigest| Object::Blob(digest))
                })?;
            } else if directory == MOUNTS {
                self.scan_hashed(&directory, &mut found, |hex| hex.parse().ok().map(Object::CacheMount))?;
            } else if let Some(map) = directory.strip_prefix(TREES) {
                self.scan_hashed(&directory, &mut found, |hex| {
                    hex.parse().ok().map(|id: LayerId| Object::Tree { map: map.to_owned(), id })
                })?;
            }
        }
        Ok(found)
    }

    fn scan_small(&self, kind: Kind, found: &mut Vec<Found>) -> Result<()> {
        let directory = self.inner.root.join(kind.directory());
        let directories = if kind.fans_out() {
            list_names(&directory)?.into_iter().map(|prefix| directory.join(prefix)).collect()
        } else {
            vec![directory]
        };
        for directory in directories {
            for file in list_names(&directory)? {
                let path = directory.join(&file);
                let Ok(stat) = rustix::fs::lstat(&path) else { continue };
                let name = match name::decode(&file) {
                    Some(name) => name,
                    None => match self.name_of(&path, &file)? {
                        Some(name) => name,
                        None => continue,
                    },
                };
                found.push(Found { object: Object::Small(kind, name), used: Moment::of(&stat), bytes: on_disk(&stat) });
            }
        }
        Ok(())
    }

    fn scan_hashed(
        &self,
        directory: &str,
        found: &mut Vec<Found>,
        object: impl Fn(&str) -> Option<Object>,
    ) -> Result<()> {
        let directory = self.inner.root.join(directory);
        let oldest = lease::oldest(&self.inner.root)?;
        for prefix in list_names(&directory)? {
            for rest in list_names(&directory.join(&prefix))? {
                let Some(object) = object(&format!("{prefix}{rest}")) else { continue };
                let path = directory.join(&prefix).join(&rest);
                // An object without a stamp is half lost; it counts as used at the beginning of time.
                let used = rustix::fs::lstat(path.join(STAMP)).map_or(Moment(0, 0), |stat| Moment::of(&stat));
                let bytes = match &object {
                    Object::Tree { .. } => self.tree_bytes(&path)?,
                    Object::CacheMount(_) => self.mount_bytes(&path, used, oldest)?,
                    Object::Blob(_) | Object::Small(..) => bytes_below(&path),
                };
                found.push(Found { object, used, bytes });
            }
        }
        Ok(())
    }

    /// The size of a tree: as it was written down, or by walking it once and writing it down.
    fn tree_bytes(&self, path: &Path) -> Result<u64> {
        let size = path.join(SIZE);
        let known = read(&size)?.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok());
        if let Some(known) = known {
            return Ok(known);
        }
        let bytes = bytes_below(&path.join(tree::ROOT));
        self.inner.write_size(&size, bytes);
        Ok(bytes)
    }
}

impl Inner {
    /// Writes down how many bytes an object takes. When that fails they are counted again another time.
    pub(crate) fn write_size(&self, path: &Path, bytes: u64) {
        if let Ok(temp) = self.temp_file(bytes.to_string().as_bytes())
            && rustix::fs::rename(&temp, path).is_err()
        {
            let _swept_later_otherwise = rustix::fs::unlink(&temp);
        }
    }
}

/// Bytes on disk of a file or directory and all below it. What cannot be read counts as nothing; links are not followed and
/// other file systems not entered.
pub(crate) fn bytes_below(path: &Path) -> u64 {
    let Ok(stat) = rustix::fs::lstat(path) else { return 0 };
    let mut walk = Walk { device: stat.st_dev, linked: BTreeSet::new(), bytes: on_disk(&stat) };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        walk.directory(CWD, path);
    }
    walk.bytes
}

/// What a file takes on disk. A network file system that knows no blocks is given the length.
fn on_disk(stat: &Stat) -> u64 {
    let blocks = stat.st_blocks as u64 * 512;
    if blocks == 0 && stat.st_blksize == 0 { stat.st_size as u64 } else { blocks }
}

struct Walk {
    device: u64,
    linked: BTreeSet<u64>,
    bytes: u64,
}

impl Walk {
    fn directory<P: rustix::path::Arg>(&mut self, parent: BorrowedFd<'_>, name: P) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::openat(parent, name, flags, Mode::empty()) else { return };
        let Ok(reader) = Dir::read_from(&fd) else { return };
        let mut below = Vec::new();
        for entry in reader.flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if stat.st_dev != self.device {
                continue;
            }
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory {
                below.push(name.to_owned());
            } else if stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
                continue;
            }
            self.bytes += on_disk(&stat);
        }
        for name in below {
            self.directory(fd.as_fd(), name.as_c_str());
        }
    }
}
