//! A layer's tar in compressed parts: layers that hardly differ have nearly all parts in common, so who has one lacks little of
//! the other. For what changes a little between builds and is big: contents of cache mounts.
//!
//! ```text
//! derived-v1/…/part-<BLAKE3>-<form>     {"digest":"sha256:…","size":N}: the blob of a part with these bytes
//! ```
//! Parts end where the bytes before say so (a rolling hash of the last 64), hence an insertion moves one or two ends and no more.
//! Each is a whole stream of its own: one after the other they are the layer's tar, compressed. How big they are on average
//! follows from the size of the layer, so that there are never more than [`MOST_PARTS`].

use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::PathBuf;

use rbuild_cache::digest::{Blake3, LayerId};

use super::compress::{Compressed, Framing, PART_PREFIX};
use super::error::{LayerError, Result};
use super::{Layers, Record};

/// More parts than this no layer has.
pub const MOST_PARTS: usize = 1025;
/// Parts on average if a layer is big, to within a factor of two.
const USUAL_PARTS: u64 = 256;
/// Smaller parts on average are not worth their requests.
const LEAST_AVERAGE: u64 = 1 << 20;
/// A part may be so many times smaller or bigger than the average.
const SPREAD: u64 = 4;

/// A part of a layer's uncompressed tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    start: u64,
    size: u64,
    hash: Blake3,
}

impl Layers {
    /// Cuts a layer that rbuild made into parts.
    pub fn cut(&self, id: &LayerId) -> Result<Vec<Part>> {
        let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
        let fault = |source| LayerError::Stream { operation: "read layer", source };
        let mut tar = BufReader::with_capacity(256 << 10, self.plain_blob(&record)?);
        cut(&mut tar, record.size).map_err(fault)
    }

    /// The blob of a part, made unless it was made before; whether it is still here is for [`Layers::part_file`] to find out.
    pub fn compressed_part(&self, id: &LayerId, part: &Part, framing: Framing, threads: usize) -> Result<Compressed> {
        let name = format!("{PART_PREFIX}{}-{}", part.hash, framing.name());
        if let Some(known) = self.derived(&name)? {
            return Ok(known);
        }
        self.make_part(id, part, framing, threads, &name)
    }

    /// The file of a part's blob, made again if it is gone.
    pub fn part_file(&self, id: &LayerId, part: &Part, framing: Framing, threads: usize) -> Result<PathBuf> {
        let made = self.compressed_part(id, part, framing, threads)?;
        if let Some(found) = self.store().blob(&made.digest)? {
            return Ok(found.path);
        }
        let name = format!("{PART_PREFIX}{}-{}", part.hash, framing.name());
        let made = self.make_part(id, part, framing, threads, &name)?;
        let found = self.store().blob(&made.digest)?;
        found.map(|blob| blob.path).ok_or(LayerError::Missing(*id))
    }

    fn make_part(&self, id: &LayerId, part: &Part, framing: Framing, threads: usize, name: &str) -> Result<Compressed> {
        let record = self.record(id)?.ok_or(LayerError::Missing(*id))?;
        let mut tar = self.plain_blob(&record)?;
        let fault = |source| LayerError::Stream { operation: "read layer", source };
        tar.seek(SeekFrom::Start(part.start)).map_err(fault)?;
        // Parts are small, and found whole by their hash: nothing smaller is remembered.
        let (writer, _) = self.pack(Box::new(tar.take(part.size)), framing, threads, &|_, _| None)?;
        let (digest, size) = writer.commit(None)?;
        let made = Compressed { digest, size };
        self.keep_derived(name, made)?;
        Ok(made)
    }

    /// The uncompressed tar as a file.
    fn plain_blob(&self, record: &Record) -> Result<fs_err::File> {
        let plain = self.compressed(&record.id, Framing::None, 1)?;
        self.store().open_blob(&plain.digest)?.ok_or(LayerError::Missing(record.id))
    }
}

/// The average size of parts of a layer of this size: a power of two.
fn average(size: u64) -> u64 {
    size.div_ceil(USUAL_PARTS).next_power_of_two().max(LEAST_AVERAGE)
}

/// One random number for each byte.
const GEAR: [u64; 256] = gear();

/// splitmix64, from zero.
const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let (mut seed, mut n) = (0u64, 0);
    while n < table.len() {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[n] = z ^ (z >> 31);
        n += 1;
    }
    table
}

/// Cuts a stream of about `size` bytes.
fn cut(input: &mut impl io::BufRead, size: u64) -> io::Result<Vec<Part>> {
    let average = average(size);
    let (least, most, shift) = (average / SPREAD, average * SPREAD, 64 - average.trailing_zeros());
    let mut parts: Vec<Part> = Vec::new();
    let (mut start, mut length, mut rolling, mut hasher) = (0, 0u64, 0u64, blake3::Hasher::new());
    let end = |start: u64, size: u64, hasher: &blake3::Hasher| Part {
        start,
        size,
        hash: Blake3(*hasher.finalize().as_bytes()),
    };
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        let mut taken = 0;
        let mut at_end = false;
        for byte in bytes {
            taken += 1;
            rolling = (rolling << 1).wrapping_add(GEAR[usize::from(*byte)]);
            let so_far = length + taken as u64;
            if (so_far >= least && rolling >> shift == 0) || so_far >= most {
                at_end = true;
                break;
            }
        }
        hasher.update(&bytes[..taken]);
        length += taken as u64;
        if at_end {
            parts.push(end(start, length, &hasher));
            (start, length, rolling) = (start + length, 0, 0);
            hasher.reset();
        }
        input.consume(taken);
    }
    if length > 0 || parts.is_empty() {
        parts.push(end(start, length, &hasher));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn noise(seed: u64, size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.finalize_xof().fill(&mut out);
        out
    }

    fn parts(bytes: &[u8]) -> Vec<Part> {
        cut(&mut &bytes[..], bytes.len() as u64).expect("memory")
    }

    #[test]
    fn parts_cover_everything_and_are_few() {
        let bytes = noise(1, 24 << 20);
        let all = parts(&bytes);
        assert!(all.windows(2).all(|pair| pair[0].start + pair[0].size == pair[1].start));
        assert_eq!(all.iter().map(|part| part.size).sum::<u64>(), bytes.len() as u64);
        let inner = &all[..all.len() - 1];
        assert!(inner.iter().all(|part| (LEAST_AVERAGE / SPREAD..=LEAST_AVERAGE * SPREAD).contains(&part.size)));
        assert!((8..=64).contains(&all.len()), "{}", all.len());
        for part in &all {
            assert_eq!(part.hash, Blake3::of(&bytes[part.start as usize..][..part.size as usize]));
        }
        assert_eq!(parts(b"").len(), 1);
        // Whatever the bytes are, and however many.
        for size in [1, LEAST_AVERAGE * USUAL_PARTS + 1, 5 << 30, 1 << 40] {
            let least = average(size) / SPREAD;
            assert!(size.div_ceil(least) as usize <= MOST_PARTS, "{size}");
        }
    }

    #[test]
    fn a_small_change_changes_few_parts() {
        let before = noise(2, 32 << 20);
        let mut after = before.clone();
        after.splice(10_000_000..10_000_100, noise(3, 5000));
        after[20_000_000] ^= 1;
        let known: BTreeSet<_> = parts(&before).iter().map(|part| part.hash.0).collect();
        let new = parts(&after).into_iter().filter(|part| !known.contains(&part.hash.0)).count();
        assert!((1..=4).contains(&new), "{new} of {}", known.len());
    }
}
