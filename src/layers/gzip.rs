//! gzip whose bytes depend on the input and the level only: parallel, deterministic, readable by every gunzip.
//!
//! ```text
//! header | deflate(chunk) sync-flush | stored(chunk) | … | final empty block | CRC | size        (one member)
//! ```
//! The input is a tar. Chunks end where the first file ends past 128 KiB, at most after 1 MiB; that follows from the bytes,
//! not from who compresses them or with how many threads. No chunk refers to an earlier one, so each can be compressed alone,
//! by whichever thread is free. Chunks that look random and do not shrink are stored. Anything that changes the bytes,
//! the deflate implementation included, is a new [`GZIP_VERSION`].

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Compress, Crc, FlushCompress, Status};
use rbuild_cache::digest::Blake3;

use crate::tar::{BLOCK, reader};

/// Version of the compressed form; part of the name of derived blobs.
pub const GZIP_VERSION: u32 = 1;
/// The level used when nobody asks for another.
pub const DEFAULT_LEVEL: u32 = 3;

const CHUNK_MIN: usize = 128 << 10;
const CHUNK_MAX: usize = 1 << 20;
/// Read at once; chunks are cut out of it.
const WINDOW: usize = 8 * CHUNK_MAX;
/// Chunks in work for each thread.
const AHEAD: usize = 3;

/// No name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty last block with fixed codes.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A chunk that was deflated: where its bytes are in the compressed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Of the chunk as it was before.
    pub hash: Blake3,
    /// Where its compressed bytes begin.
    pub offset: u64,
    /// How many they are.
    pub length: u32,
}

/// Gives the compressed bytes of a chunk that was compressed at this level before; the flag says that it is the first one.
pub(super) type Recall<'a> = dyn Fn(&Blake3, bool) -> Option<Vec<u8>> + Sync + 'a;

/// Compresses the tar `input` at `level` (0 to 9) with this many threads. Returns the output and the chunks deflate made of it.
pub(super) fn compress<W: Write>(
    input: impl Read + Send,
    mut output: W,
    level: u32,
    threads: usize,
    recall: &Recall<'_>,
) -> io::Result<(W, Vec<Piece>)> {
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        let (jobs, todo) = sync_channel::<Job>(threads);
        let (order, results) = sync_channel::<io::Result<Receiver<Done>>>(threads * AHEAD);
        scope.spawn(move || cut_up(input, &jobs, &order));
        let todo = Arc::new(Mutex::new(todo));
        let worker = || {
            let todo = Arc::clone(&todo);
            scope.spawn(move || work(&todo, level, recall))
        };
        let workers: Vec<_> = (0..threads).map(|_| worker()).collect();
        drop(todo);
        let mut pieces = Vec::new();
        let written = (|| {
            output.write_all(&HEADER)?;
            let mut crc = Crc::new();
            let mut offset = HEADER.len() as u64;
            for done in &results {
                let done = done?.recv().map_err(|_| io::Error::other("a compressing thread died"))?;
                output.write_all(&done.bytes)?;
                crc.combine(&done.crc);
                pieces.extend(done.hash.map(|hash| Piece { hash, offset, length: done.bytes.len() as u32 }));
                offset += done.bytes.len() as u64;
            }
            output.write_all(&LAST_BLOCK)?;
            output.write_all(&crc.sum().to_le_bytes())?;
            output.write_all(&crc.amount().to_le_bytes())
        })();
        // Whoever still waits to hand something over gives up.
        drop(results);
        for worker in workers {
            let _result_already_known = worker.join();
        }
        written.map(|()| (output, pieces))
    })
}

struct Job {
    chunk: Vec<u8>,
    first: bool,
    reply: Sender<Done>,
}

struct Done {
    bytes: Vec<u8>,
    crc: Crc,
    /// Of a chunk that deflate made something of.
    hash: Option<Blake3>,
}

fn work(todo: &Mutex<Receiver<Job>>, level: u32, recall: &Recall<'_>) {
    let mut deflate = Compress::new(flate2::Compression::new(level.min(9)), false);
    loop {
        let next = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { chunk, first, reply }) = next else { return };
        let mut crc = Crc::new();
        crc.update(&chunk);
        let (bytes, hash) = if level == 0 || looks_random(&chunk) {
            (stored(&chunk), None)
        } else {
            let hash = Blake3::of(&chunk);
            let known = recall(&hash, first);
            (known.unwrap_or_else(|| compress_chunk(&chunk, &mut deflate)), Some(hash))
        };
        // If nobody waits for it any more the stream has failed elsewhere.
        let _gone = reply.send(Done { bytes, crc, hash });
    }
}

/// Cuts the input and queues the chunks, in order, for the workers and for the writer.
fn cut_up(input: impl Read, jobs: &SyncSender<Job>, order: &SyncSender<io::Result<Receiver<Done>>>) {
    let mut first = true;
    let cut = cut(input, |chunk| {
        let (reply, done) = channel();
        let job = Job { chunk: chunk.to_vec(), first: std::mem::take(&mut first), reply };
        order.send(Ok(done)).is_ok() && jobs.send(job).is_ok()
    });
    if let Err(error) = cut {
        let _gone = order.send(Err(error));
    }
}

/// Hands the input to `each` chunk by chunk, until that says no.
fn cut(mut input: impl Read, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut window = Vec::with_capacity(WINDOW);
    // Where in the window the next tar header is.
    let mut header = 0u64;
    loop {
        let room = (WINDOW - window.len()) as u64;
        let ended = ((&mut input).take(room).read_to_end(&mut window)? as u64) < room;
        let mut at = 0;
        while window.len() - at >= CHUNK_MAX || (ended && at < window.len()) {
            let rest = &window[at..];
            let size = next_cut(rest, &mut header);
            if !each(&rest[..size]) {
                return Ok(());
            }
            at += size;
        }
        if ended {
            return Ok(());
        }
        window.drain(..at);
    }
}

/// How long the chunk at the start of `rest` is; `header` is relative to it, before and after.
fn next_cut(rest: &[u8], header: &mut u64) -> usize {
    let limit = rest.len().min(CHUNK_MAX) as u64;
    let mut end = limit;
    loop {
        if *header >= CHUNK_MIN as u64 && *header <= limit {
            end = *header;
            break;
        }
        let at = *header as usize;
        let Some(block) = rest.get(at..at + BLOCK).and_then(|b| b.first_chunk::<BLOCK>()).filter(|_| *header < limit)
        else {
            break;
        };
        // What is no header (the end of the archive, or a file whose size is elsewhere) counts as a block.
        let content = reader::content_size(block).and_then(crate::tar::padded).unwrap_or(0);
        *header = header.saturating_add(BLOCK as u64).saturating_add(content);
    }
    *header = header.saturating_sub(end);
    end as usize
}

fn compress_chunk(chunk: &[u8], deflate: &mut Compress) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunk.len() + chunk.len() / 100 + 1024);
    deflate.reset();
    let status = deflate.compress_vec(chunk, &mut out, FlushCompress::Sync);
    let whole =
        matches!(status, Ok(Status::Ok)) && deflate.total_in() == chunk.len() as u64 && out.len() < out.capacity();
    if whole && out.len() < chunk.len() { out } else { stored(chunk) }
}

/// Deflate blocks that hold the bytes as they are.
fn stored(chunk: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunk.len() + 5 * chunk.len().div_ceil(0xffff));
    for piece in chunk.chunks(0xffff) {
        let length = piece.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
    out
}

/// Whether samples of a chunk have all byte values equally often, and do not shrink either.
fn looks_random(chunk: &[u8]) -> bool {
    const SAMPLES: usize = 4;
    const SAMPLE: usize = 4 << 10;
    if chunk.len() < SAMPLES * SAMPLE * 2 {
        return false;
    }
    let step = chunk.len() / SAMPLES;
    let mut sample = Vec::with_capacity(SAMPLES * SAMPLE);
    for n in 0..SAMPLES {
        sample.extend_from_slice(&chunk[n * step + step / 2..][..SAMPLE]);
    }
    let mut counts = [0u64; 256];
    for byte in &sample {
        counts[usize::from(*byte)] += 1;
    }
    // For random bytes the sum of squares is near n²/256 + n; text and code are far above.
    let n = sample.len() as u64;
    let squares: u64 = counts.iter().map(|c| c * c).sum();
    if squares > n * n / 256 * 5 / 4 + n {
        return false;
    }
    let mut out = Vec::with_capacity(sample.len() * 2);
    let mut deflate = Compress::new(flate2::Compression::new(1), false);
    let status = deflate.compress_vec(&sample, &mut out, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)) && out.len() * 100 > sample.len() * 98
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rbuild_cache::digest::Sha256;

    use super::*;
    use crate::layers::samples;
    use crate::tar::TarWriter;
    use crate::tar::entry::{Entry, Kind};

    /// Pseudo-random bytes, the same everywhere.
    fn noise(mut seed: u64, size: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(size + 8);
        while out.len() < size {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            out.extend_from_slice(&seed.to_le_bytes());
        }
        out.truncate(size);
        out
    }

    /// A tar of texts of many sizes and some noise.
    fn sample() -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        for n in 0..120u64 {
            let content = if n % 10 == 3 {
                noise(n + 1, 200_000)
            } else {
                let words = noise(n + 1, 4000);
                let text: Vec<_> = words.iter().map(|w| format!("word{} ", w % 60)).collect();
                text.concat().repeat(n as usize % 7).into_bytes()
            };
            let entry = samples::entry(&format!("f file{n:03}"));
            let Kind::File { content: hash, .. } = entry.kind else { panic!("a file") };
            let kind = Kind::File { size: content.len() as u64, content: hash };
            tar.entry(&Entry { kind, ..entry }, None).expect("memory");
            tar.data(&content).expect("memory");
        }
        tar.finish().expect("memory").0
    }

    fn gzip(input: &[u8], level: u32, threads: usize) -> Vec<u8> {
        compress(input, Vec::new(), level, threads, &|_, _| None).expect("memory").0
    }

    #[test]
    fn the_bytes_depend_on_data_and_level_only() {
        /// Reads a few bytes at a time.
        struct Trickle<'a>(&'a [u8], usize);
        impl Read for Trickle<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.1 = self.1 % 9000 + 77;
                let n = self.1.min(buffer.len());
                self.0.read(&mut buffer[..n])
            }
        }
        let tar = sample();
        let one = gzip(&tar, 3, 1);
        assert!(one == gzip(&tar, 3, 2) && one == gzip(&tar, 3, 5), "any number of threads");
        assert!(
            one == compress(Trickle(&tar, 0), Vec::new(), 3, 2, &|_, _| None).expect("memory").0,
            "any way of reading"
        );
        assert_ne!(one, gzip(&tar, 6, 1));
        assert!(one.len() < tar.len() * 6 / 10, "{} of {}", one.len(), tar.len());
    }

    #[test]
    fn what_was_compressed_before_is_taken() {
        let tar = sample();
        let (zipped, pieces) = compress(tar.as_slice(), Vec::new(), 3, 2, &|_, _| None).expect("memory");
        assert!(pieces.len() > 5, "{}", pieces.len());
        let asked = Mutex::new(Vec::new());
        let recall = |hash: &Blake3, first| {
            asked.lock().expect("no panic").push(first);
            let piece = pieces.iter().find(|piece| piece.hash == *hash)?;
            Some(zipped[piece.offset as usize..][..piece.length as usize].to_vec())
        };
        let (again, same) = compress(tar.as_slice(), Vec::new(), 3, 2, &recall).expect("memory");
        assert!(again == zipped && same == pieces);
        let asked = asked.into_inner().expect("no panic");
        assert_eq!((asked.len(), asked.iter().filter(|first| **first).count()), (pieces.len(), 1));
        // What is remembered is what is written, so it had better be right.
        let (other, _) = compress(tar.as_slice(), Vec::new(), 3, 1, &|_, _| Some(Vec::new())).expect("memory");
        assert!(other.len() < zipped.len());
    }

    #[test]
    fn the_form_is_frozen() {
        let digests: Vec<_> =
            [0, 1, 3, 6, 9].iter().map(|level| Sha256::of(&gzip(&sample(), *level, 2)).hex()).collect();
        insta::assert_snapshot!(digests.join("\n"), @r"
        0b582aab6ed8a17ce14ad189d80f7b2ed0bc58ace391a204ba71351aaa818557
        aca47d17971584712a797b0b63af83c51b83a08641d5dee04cdda58d7679afec
        bf42e8cc1cfdc5e72bd97fb2c2bd34b096d3166ce6a4e5fdc8435253a6818fc7
        a2eb48662d5bcb39897cf6261741a8fdbc4e5c0093f35ee8c06ba3d9d0c90b1f
        7204ef1f5f2207bf5af9b8a140a7823d1653d9063fc7f86412cd391973a1dd61
        ");
    }

    #[test]
    fn every_gunzip_reads_it() {
        let tar = sample();
        for input in [&tar[..], &[], &[0; 1024], &noise(9, 3_000_000), b"not a tar at all"] {
            for level in [0, 1, 3, 9] {
                let zipped = gzip(input, level, 2);
                let mut out = Vec::new();
                flate2::read::GzDecoder::new(zipped.as_slice()).read_to_end(&mut out).expect("valid");
                assert!(out == input, "flate2, level {level}, {} bytes", input.len());
            }
        }
        let zipped = gzip(&tar, 3, 2);
        for command in [
            &["gzip", "-dc"][..],
            &["python3", "-c", "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))"],
            &["unpigz", "-c"],
        ] {
            let Some(out) = pipe_through(command, &zipped) else { continue };
            assert!(out == tar, "{command:?}");
        }
    }

    /// `None` if there is no such program here.
    fn pipe_through(command: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut child =
            Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).expect("read"));
            let out = child.wait_with_output().expect("ran");
            assert!(out.status.success(), "{command:?}");
            Some(out.stdout)
        })
    }

    #[test]
    fn chunks_end_where_files_end() {
        let tar = sample();
        let mut sizes = Vec::new();
        let mut whole = Vec::new();
        cut(tar.as_slice(), |chunk| {
            sizes.push(chunk.len());
            whole.extend_from_slice(chunk);
            true
        })
        .expect("memory");
        assert!(whole == tar);
        let (last, others) = sizes.split_last().expect("chunks");
        assert!(others.iter().all(|s| (CHUNK_MIN..=CHUNK_MAX).contains(s)) && *last <= CHUNK_MAX, "{sizes:?}");
        // After each cut there is a header: the name of a file is at its start.
        let mut at = 0;
        for size in others {
            at += size;
            assert!(tar[at..].starts_with(b"file") || tar[at] == 0, "cut at {at}");
        }
    }

    #[test]
    fn errors_of_both_ends_arrive() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("source"))
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("sink"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(compress(Broken, Vec::new(), 3, 2, &|_, _| None).expect_err("fails").to_string(), "source");
        let tar = sample();
        assert_eq!(
            compress(tar.as_slice(), Broken, 3, 2, &|_, _| None).map(|_| ()).expect_err("fails").to_string(),
            "sink"
        );
    }
}
