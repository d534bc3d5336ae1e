//! The compressions archives come in, told apart by content, and a decompressing reader for each.
//!
//! Writing compressed bytes is `layers::gzip`'s business: what we write must be the same on any machine, what we read must
//! merely be right.

use std::io::{self, BufRead, Read};

/// Bytes it takes to tell the compressions apart.
const MAGIC: u64 = 6;

/// Most memory for an xz dictionary, in KiB. The strongest preset takes 64 MiB; a stream that asks for more than this wants memory,
/// not compression. (Zstandard's decoder stops at windows of 128 MiB by itself.)
const MOST_XZ_MEMORY: u32 = 256 << 10;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952, one or more members.
    Gzip,
    /// bzip2, one or more streams.
    Bzip2,
    /// xz, one or more streams, any filter and check.
    Xz,
    /// Zstandard, one or more frames.
    Zstd,
}

/// Recognises a compression by the first bytes of a file (six are enough).
pub fn detect(start: &[u8]) -> Option<Compression> {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Some(Compression::Gzip),
        [b'B', b'Z', b'h', ..] => Some(Compression::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
        // A frame, or a skippable frame in front of one.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
        _ => None,
    }
}

/// The plain bytes of `input`, whatever it is compressed with, and what that was.
pub fn plain(mut input: Box<dyn BufRead + Send>) -> io::Result<(Box<dyn Read + Send>, Option<Compression>)> {
    let mut start = Vec::new();
    (&mut input).take(MAGIC).read_to_end(&mut start)?;
    let compression = detect(&start);
    let whole: Box<dyn BufRead + Send> = Box::new(io::Cursor::new(start).chain(input));
    Ok((
        match compression {
            Some(compression) => decompress(compression, whole)?,
            None => Box::new(whole),
        },
        compression,
    ))
}

/// Decompresses `input`.
pub fn decompress(compression: Compression, input: Box<dyn BufRead + Send>) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, MOST_XZ_MEMORY)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn round_trip(compressed: Vec<u8>) -> (Vec<u8>, Option<Compression>) {
        let (mut reader, compression) = plain(Box::new(io::Cursor::new(compressed))).expect("readable");
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("valid");
        (out, compression)
    }

    fn xz(text: &[u8], check: lzma_rust2::CheckType) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.set_check_sum_type(check);
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut out = lzma_rust2::XzWriter::new(Vec::new(), options).expect("good options");
        out.write_all(text).expect("memory");
        out.finish().expect("memory")
    }

    #[test]
    fn an_xz_stream_may_not_ask_for_gigabytes() {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("good options");
        writer.write_all(b"text").expect("memory");
        let mut bytes = writer.finish().expect("memory");
        // The block header begins after the stream header's 12 bytes, tells its own size and ends in its checksum.
        let end = 12 + (usize::from(bytes[12]) + 1) * 4 - 4;
        let filter = bytes[12..end].windows(2).position(|two| two == [0x21, 1]).expect("LZMA2 with one property");
        // 40 stands for 4 GiB - 1.
        bytes[12 + filter + 2] = 40;
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..end]);
        bytes[end..end + 4].copy_from_slice(&crc.sum().to_le_bytes());
        let (mut reader, _) = plain(Box::new(io::Cursor::new(bytes))).expect("recognised");
        let refused = reader.read_to_end(&mut Vec::new()).expect_err("4 GiB");
        assert!(refused.to_string().contains("memory"), "{refused}");
    }

    #[test]
    fn every_compression_is_recognised_and_read() {
        let text: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(3));
        gzip.write_all(&text).expect("memory");
        let gzip = gzip.finish().expect("memory");
        let (out, kind) = round_trip([gzip.as_slice(), gzip.as_slice()].concat());
        assert!(out == text.repeat(2) && kind == Some(Compression::Gzip), "both members");

        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).expect("memory");
        let bzip2 = bzip2.finish().expect("memory");
        let (out, kind) = round_trip([bzip2.as_slice(), bzip2.as_slice()].concat());
        assert!(out == text.repeat(2) && kind == Some(Compression::Bzip2), "both streams");

        let zstd = zstd::encode_all(text.as_slice(), 3).expect("memory");
        let (out, kind) = round_trip([b"\x50\x2a\x4d\x18\x01\0\0\0x".as_slice(), &zstd, &zstd].concat());
        assert!(out == text.repeat(2) && kind == Some(Compression::Zstd), "skippable frame and two frames");

        for check in [lzma_rust2::CheckType::Crc32, lzma_rust2::CheckType::Crc64, lzma_rust2::CheckType::Sha256] {
            let xz = xz(&text, check);
            let (out, kind) = round_trip([xz.as_slice(), xz.as_slice()].concat());
            assert!(out == text.repeat(2) && kind == Some(Compression::Xz), "both streams, {check:?}");
        }

        let mut xz = xz(&text, lzma_rust2::CheckType::Crc64);

        xz.truncate(xz.len() / 2);
        let (mut reader, _) = plain(Box::new(io::Cursor::new(xz))).expect("starts well");
        assert!(io::copy(&mut reader, &mut io::sink()).is_err(), "half an xz is an error");
        assert_eq!(round_trip(b"B".to_vec()), (b"B".to_vec(), None));
    }
}
