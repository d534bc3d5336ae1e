//! The root file system of an image as files in a directory, or as a tar: what a container would see, without whiteouts.
//!
//! Files in a directory belong to whoever runs rbuild; everything else about them stays. They are made one component at a
//! time below an open directory and never through a symbolic link, neither the image's nor one that was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rbuild_cache::digest::LayerId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::archive::{Sent, copy, read_error, write_file};
use super::output::Dest;
use super::{ExportError, Exporter, Subject};
use crate::cancel::Cancel;
use crate::catalog::Image;
use crate::event::{Stream, Vertex};
use crate::layers::View;
use crate::layers::view::Found;
use crate::oci::platform::Platform;
use crate::tar::TarWriter;
use crate::tar::entry::{Entry, Kind, LayerPath, Meta};

impl Exporter {
    /// Writes the files of the images below `dest`, which is made if missing.
    pub(super) fn write_files(
        &self,
        subject: &Subject,
        dest: &Path,
        split: Option<bool>,
        vertex: &Vertex,
    ) -> Result<(), ExportError> {
        let mut sent = Sent { vertex, bytes: 0, reported: 0, id: "copying files" };
        sent.begin();
        let mut written = Written::default();
        for (directory, image) in places(subject, split) {
            let view = self.view(image, vertex)?;
            let dest = if directory.is_root() { dest.to_owned() } else { dest.join(directory.as_path()) };
            fs_err::create_dir_all(&dest)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(&dest, flags, Mode::empty());
            let root = root.map_err(|error| super::archive::file_error("open", &dest, error.into()))?;
            written.next(!directory.is_root());
            let (written, epoch) = (&mut written, subject.epoch);
            let mut files = Files { view: &view, dest: &dest, root: &root, written, epoch, sent: &mut sent };
            files.fill(root.as_fd(), &LayerPath::root(), &|| self.cancel.check().map_err(Into::into))?;
        }
        sent.end();
        Ok(())
    }

    /// Writes the files of the images as one tar.
    pub(super) fn write_tar(
        &self,
        subject: &Subject,
        dest: &Dest,
        split: Option<bool>,
        vertex: &Vertex,
        stream: &mut (dyn Write + Send),
    ) -> Result<(), ExportError> {
        match dest {
            Dest::Stream => {
                let mut out = io::BufWriter::with_capacity(256 << 10, stream);
                self.stream_tar(subject, split, &mut out, vertex)?;
                out.flush().map_err(ExportError::Stream)
            }
            Dest::File(path) | Dest::Directory(path) => {
                write_file(path, &mut |out| self.stream_tar(subject, split, out, vertex))
            }
        }
    }

    fn stream_tar<W: Write>(
        &self,
        subject: &Subject,
        split: Option<bool>,
        out: &mut W,
        vertex: &Vertex,
    ) -> Result<(), ExportError> {
        let mut sent = Sent { vertex, bytes: 0, reported: 0, id: "sending tarball" };
        sent.begin();
        let mut tar = TarWriter::new(out);
        let mut written = Written::default();
        for (directory, image) in places(subject, split) {
            let view = self.view(image, vertex)?;
            if !directory.is_root() {
                let (kind, meta) = (Kind::Directory { opaque: false }, Meta { mode: 0o755, ..Meta::default() });
                tar.entry(&Entry { path: directory.clone(), kind, meta }, None)?;
            }
            written.next(!directory.is_root());
            let mut files = TarFiles { view: &view, prefix: &directory, epoch: subject.epoch, cancel: &self.cancel };
            files.append_below(&mut tar, &LayerPath::root(), &mut written, &mut sent)?;
        }
        tar.finish().map_err(ExportError::Stream)?;
        sent.end();
        Ok(())
    }

    /// The merged layers of an image, fetched if need be.
    fn view(&self, image: &Image, vertex: &Vertex) -> Result<View, ExportError> {
        let stack = self.runtime.block_on(self.puller.ensure_layers(image, vertex, &self.cancel))?;
        Ok(View::new(&self.layers, &stack)?)
    }
}

/// What one image adds to a tar of files.
struct TarFiles<'a> {
    view: &'a View,
    prefix: &'a LayerPath,
    epoch: Option<i64>,
    cancel: &'a Cancel,
}

impl TarFiles<'_> {
    fn append_below<W: Write>(
        &mut self,
        tar: &mut TarWriter<W>,
        directory: &LayerPath,
        written: &mut Written,
        sent: &mut Sent<'_>,
    ) -> Result<(), ExportError> {
        for (_, found) in self.view.children(directory) {
            self.cancel.check()?;
            let below = found.entry.path.clone();
            let mut entry = Entry { path: self.prefix.append(&below), ..found.entry.clone() };
            entry.meta.mtime = self.epoch.unwrap_or(entry.meta.mtime);
            match (&found.entry.kind, written.first(&found)?) {
                (_, Some(first)) => {
                    let first = self.prefix.append(&first);
                    let link = Entry { kind: Kind::Hardlink(first.clone()), ..entry.clone() };
                    tar.entry(&link, Some(&Entry { path: first, ..entry }))?;
                }
                (Kind::File { .. }, None) => {
                    tar.entry(&entry, None)?;
                    copy(tar, &mut self.view.open(&found)?, sent)?;
                }
                // A merged directory hides nothing.
                (Kind::Directory { .. }, None) => {
                    tar.entry(&Entry { kind: Kind::Directory { opaque: false }, ..entry }, None)?;
                    self.append_below(tar, &below, written, sent)?;
                }
                (
                    Kind::Symlink(_)
                    | Kind::Hardlink(_)
                    | Kind::CharDevice(..)
                    | Kind::BlockDevice(..)
                    | Kind::Fifo
                    | Kind::Whiteout,
                    None,
                ) => tar.entry(&entry, None)?,
            }
        }
        Ok(())
    }
}

/// Where each image's files go: the top, or a directory like `linux_arm64`.
fn places(subject: &Subject, split: Option<bool>) -> Vec<(LayerPath, &Image)> {
    let split = split.unwrap_or(subject.indexed || subject.images.len() > 1);
    let directory = |platform: &Platform| {
        if split { LayerPath::clean(platform.short().replace('/', "_")) } else { LayerPath::root() }
    };
    subject.images.iter().map(|part| (directory(&part.platform), &part.image)).collect()
}

/// What was written so far.
#[derive(Default)]
struct Written {
    /// The first path of each file of the current image: later ones are hard links to it.
    firsts: BTreeMap<(LayerId, LayerPath), LayerPath>,
    /// What other images have put into the same place.
    others: BTreeSet<LayerPath>,
}

impl Written {
    /// The path already written for the same file, if there is one; else this path is noted as the first.
    fn first(&mut self, found: &Found) -> Result<Option<LayerPath>, ExportError> {
        if found.entry.is_dir() {
            return Ok(None);
        }
        let path = &found.entry.path;
        if self.others.contains(path) {
            let text = format!("{path} comes from several platforms; platform-split=true keeps them apart");
            return Err(ExportError::Unsupported(text));
        }
        let key = (found.layer, found.origin.clone());
        let first = self.firsts.get(&key).cloned();
        if first.is_none() {
            self.firsts.insert(key, path.clone());
        }
        Ok(first)
    }

    /// Another image begins, in the same place unless `split`. Its paths may not meet those of the one before.
    fn next(&mut self, split: bool) {
        let before = std::mem::take(&mut self.firsts);
        if !split {
            self.others.extend(before.into_values());
        }
    }
}

/// One tree of files being written.
struct Files<'a, 'b> {
    view: &'a View,
    dest: &'a Path,
    root: &'a OwnedFd,
    written: &'a mut Written,
    epoch: Option<i64>,
    sent: &'a mut Sent<'b>,
}

impl Files<'_, '_> {
    fn fill(
        &mut self,
        here: BorrowedFd<'_>,
        directory: &LayerPath,
        check: &dyn Fn() -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        for (name, found) in self.view.children(directory) {
            check()?;
            let entry = &found.entry;
            let fault = |operation: &'static str, dest: &Path| {
                let path = dest.join(entry.path.as_path());
                move |error: Errno| super::archive::file_error(operation, &path, error.into())
            };
            let dest = self.dest;
            if let Some(first) = self.written.first(&found)? {
                clear(here, &name, false).map_err(fault("replace", dest))?;
                let linked = rustix::fs::linkat(self.root, first.as_path(), here, &*name, AtFlags::empty());
                linked.map_err(fault("link", dest))?;
                continue;
            }
            let mode = Mode::from_raw_mode(entry.meta.mode);
            match &entry.kind {
                Kind::Directory { .. } => {
                    clear(here, &name, true).map_err(fault("replace", dest))?;
                    match rustix::fs::mkdirat(here, &*name, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(fault("make", dest)(error)),
                    }
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let below = rustix::fs::openat(here, &*name, flags, Mode::empty()).map_err(fault("open", dest))?;
                    // One that was there before may not let us write.
                    rustix::fs::fchmod(&below, Mode::RWXU).map_err(fault("change mode of", dest))?;
                    self.fill(below.as_fd(), &entry.path, check)?;
                    rustix::fs::fchmod(&below, mode).map_err(fault("change mode of", dest))?;
                    rustix::fs::futimens(&below, &self.times(&entry.meta)).map_err(fault("set time of", dest))?;
                    continue;
                }
                Kind::File { .. } => {
                    clear(here, &name, false).map_err(fault("replace", dest))?;
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(here, &*name, flags, Mode::RUSR | Mode::WUSR);
                    let mut file = std::fs::File::from(file.map_err(fault("make", dest))?);
                    let mut content = self.view.open(&found)?;
                    if let Err(error) = self.write(&mut content, &mut file, &entry.path) {
                        // What cannot be written whole is not left there.
                        let _told_already = rustix::fs::unlinkat(here, &*name, AtFlags::empty());
                        return Err(error);
                    }
                    for (key, value) in &entry.meta.xattrs {
                        // The file system may know no attributes, and others than user.* need root.
                        let _best_effort = rustix::fs::fsetxattr(&file, &**key, value, rustix::fs::XattrFlags::empty());
                    }
                    rustix::fs::fchmod(&file, mode).map_err(fault("change mode of", dest))?;
                    rustix::fs::futimens(&file, &self.times(&entry.meta)).map_err(fault("set time of", dest))?;
                    continue;
                }
                Kind::Symlink(to) => {
                    clear(here, &name, false).map_err(fault("replace", dest))?;
                    rustix::fs::symlinkat(&**to, here, &*name).map_err(fault("link", dest))?;
                }
                Kind::Fifo => self.special(here, &name, entry, FileType::Fifo, 0)?,
                Kind::CharDevice(major, minor) => {
                    let device = rustix::fs::makedev(*major, *minor);
                    self.special(here, &name, entry, FileType::CharacterDevice, device)?;
                }
                Kind::BlockDevice(major, minor) => {
                    let device = rustix::fs::makedev(*major, *minor);
                    self.special(here, &name, entry, FileType::BlockDevice, device)?;
                }
                // A view has neither: links are seen as what they name, and what is deleted is not seen.
                Kind::Hardlink(_) | Kind::Whiteout => continue,
            }
            let set = rustix::fs::utimensat(here, &*name, &self.times(&entry.meta), AtFlags::SYMLINK_NOFOLLOW);
            match set {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(fault("set time of", dest)(error)),
            }
        }
        Ok(())
    }

    /// Makes a device or a pipe; a device that we may not make is told about and left out.
    fn special(
        &self,
        here: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), ExportError> {
        let path = self.dest.join(entry.path.as_path());
        let fault = |error: Errno| super::archive::file_error("make", &path, error.into());
        clear(here, name, false).map_err(fault)?;
        match rustix::fs::mknodat(here, name, kind, Mode::from_raw_mode(entry.meta.mode), device) {
            Err(Errno::PERM) => {
                let line = format!("leaving out the device {}: making it needs root\n", entry.path);
                self.sent.vertex.log(Stream::Stderr, line.as_bytes());
                Ok(())
            }
            made => made.map_err(fault),
        }
    }

    fn times(&self, meta: &Meta) -> Timestamps {
        Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
            last_modification: Timespec { tv_sec: self.epoch.unwrap_or(meta.mtime), tv_nsec: 0 },
        }
    }

    fn write(&mut self, content: &mut dyn Read, file: &mut std::fs::File, path: &LayerPath) -> Result<(), ExportError> {
        let fault = |error| super::archive::file_error("write", &self.dest.join(path.as_path()), error);
        let mut buffer = vec![0; 128 << 10];
        loop {
            match content.read(&mut buffer).map_err(read_error)? {
                0 => return Ok(()),
                n => {
                    file.write_all(&buffer[..n]).map_err(fault)?;
                    self.sent.more(n as u64);
                }
            }
        }
    }
}

/// Takes away what is in the way of a new entry; a directory may stay where a directory is wanted.
fn clear(here: BorrowedFd<'_>, name: &[u8], directory: bool) -> Result<(), Errno> {
    let found = match rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    match (found, directory) {
        (true, true) => Ok(()),
        // Only an empty one goes: nothing of the user's is deleted wholesale.
        (true, false) => rustix::fs::unlinkat(here, name, AtFlags::REMOVEDIR),
        (false, _) => rustix::fs::unlinkat(here, name, AtFlags::empty()),
    }
}
