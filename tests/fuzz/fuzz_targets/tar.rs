//! Any bytes are an archive or refused; paths stay below the root, content has the length it was said to have, and what was read
//! can be written and read again.
#![no_main]

use std::convert::Infallible;
use std::io::Read;

use libfuzzer_sys::fuzz_target;
use rbuild::tar::entry::{Entry, Kind, LayerPath};
use rbuild::tar::{BLOCK, RawEntry, RawKind, TarError, TarWriter, Whiteouts, reader};
use rbuild_cache::digest::Blake3;

/// A few bytes of sparse map can claim any size; so much of it is read.
const MOST_CONTENT: u64 = 64 << 10;

#[derive(Debug)]
enum Stop {
    Refused,
}

impl From<TarError> for Stop {
    fn from(error: TarError) -> Self {
        assert!(!error.to_string().is_empty());
        Self::Refused
    }
}

impl From<Infallible> for Stop {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn members(bytes: &[u8], whiteouts: Whiteouts) -> (Vec<(RawEntry, Vec<u8>)>, Result<(), Stop>) {
    let mut out = Vec::new();
    let done = reader::read(bytes, whiteouts, &mut |entry: RawEntry, content: &mut dyn Read| {
        for path in [Some(&entry.path), if let RawKind::Hardlink(to) = &entry.kind { Some(to) } else { None }] {
            let Some(path) = path else { continue };
            assert_eq!(LayerPath::clean(path.as_bytes()), *path, "not a clean path");
        }
        let mut data = Vec::new();
        let read = content.take(MOST_CONTENT).read_to_end(&mut data);
        match (&entry.kind, read) {
            (RawKind::File(size), Ok(read)) => assert_eq!(read as u64, (*size).min(MOST_CONTENT)),
            // Deletions, and directories by their slash, may claim some, which nobody reads.
            (_, Ok(_)) => data.clear(),
            (_, Err(_)) => return Err(Stop::Refused),
        }
        out.push((entry, data));
        Ok(())
    });
    (out, done)
}

/// An entry as the writer takes it; hard links need their target, and files their whole content.
fn entry(raw: &RawEntry, data: &[u8]) -> Option<Entry> {
    let kind = match &raw.kind {
        RawKind::File(size) if *size == data.len() as u64 => Kind::File { size: *size, content: Blake3::of(data) },
        RawKind::File(_) | RawKind::Hardlink(_) | RawKind::Opaque => return None,
        RawKind::Directory => Kind::Directory { opaque: false },
        RawKind::Symlink(to) => Kind::Symlink(to.clone()),
        RawKind::CharDevice(major, minor) => Kind::CharDevice(*major, *minor),
        RawKind::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
        RawKind::Fifo => Kind::Fifo,
        RawKind::Whiteout => Kind::Whiteout,
    };
    Some(Entry { path: raw.path.clone(), kind, meta: raw.meta.clone() })
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    // A checksum is hardly ever met by chance.
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    drop(reader::looks_like_tar(&bytes));
    drop(bytes.first_chunk::<BLOCK>().map(reader::content_size));
    drop(members(&bytes, Whiteouts::Literal));
    let (read, _) = members(&bytes, Whiteouts::Interpret);
    let mut writer = TarWriter::new(Vec::new());
    let mut written = Vec::new();
    for (raw, data) in read {
        let Some(entry) = entry(&raw, &data) else { continue };
        match writer.entry(&entry, None) {
            Ok(()) => {}
            Err(TarError::Unrepresentable { .. }) => continue,
            Err(error) => panic!("{error}"),
        }
        writer.data(&data).expect("as long as it was said to be");
        written.push((raw, data));
    }
    let (again, _) = writer.finish().expect("memory takes it");
    let (again, done) = members(&again, Whiteouts::Interpret);
    done.expect("what was written can be read");
    assert_eq!(again.len(), written.len());
    for ((one, data), (two, same)) in written.iter().zip(&again) {
        assert_eq!((&one.path, &one.kind, data), (&two.path, &two.kind, same));
        if one.kind != RawKind::Whiteout {
            assert_eq!(one.meta, two.meta);
        }
    }
});
