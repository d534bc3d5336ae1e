//! GNU's sparse files: which parts of a file are in the archive, and the file they make with zeros between them.
//!
//! A map is checked as a whole before a byte of content is delivered: ascending, without overlap, inside the file, and
//! exactly as long as the data that is there.

use std::io::{self, Read};

/// The stored parts of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    /// Offset and length of each part.
    segments: Vec<(u64, u64)>,
    /// Size of the whole file.
    pub size: u64,
}

impl Map {
    /// Checks a map against the file's size and the bytes stored for it.
    pub(super) fn new(segments: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, String> {
        let (mut end, mut total) = (0u64, 0u64);
        for (offset, length) in &segments {
            if *offset < end {
                return Err("overlapping or unordered parts in a sparse file".to_owned());
            }
            end =
                offset.checked_add(*length).filter(|end| *end <= size).ok_or("part beyond the end of a sparse file")?;
            total += length;
        }
        if total != stored {
            return Err(format!("sparse file lists {total} bytes of data but has {stored}"));
        }
        Ok(Self { segments, size })
    }

    /// Parses version 0.1's text: `offset,length,offset,length,…`.
    pub(super) fn parse_list(text: &[u8]) -> Result<Vec<(u64, u64)>, String> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let numbers = text.split(|b| *b == b',').map(super::pax::number).collect::<Result<Vec<_>, _>>()?;
        if numbers.len() % 2 != 0 {
            return Err("sparse map with an offset but no length".to_owned());
        }
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

/// Delivers the whole file from its stored parts.
pub(super) struct Expand<'a, R> {
    stored: R,
    map: &'a Map,
    next: usize,
    at: u64,
}

impl<'a, R: Read> Expand<'a, R> {
    pub(super) fn new(stored: R, map: &'a Map) -> Self {
        Self { stored, map, next: 0, at: 0 }
    }
}

impl<R: Read> Read for Expand<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((offset, length)) = self.map.segments.get(self.next) {
            if self.at < *offset {
                return Ok(self.zeros(buffer, *offset));
            }
            let left = offset + length - self.at;
            if left > 0 {
                let want = left.min(buffer.len() as u64) as usize;
                let got = self.stored.read(&mut buffer[..want])?;
                self.at += got as u64;
                return Ok(got);
            }
            self.next += 1;
        }
        Ok(self.zeros(buffer, self.map.size))
    }
}

impl<R> Expand<'_, R> {
    fn zeros(&mut self, buffer: &mut [u8], until: u64) -> usize {
        let n = (until - self.at).min(buffer.len() as u64) as usize;
        buffer[..n].fill(0);
        self.at += n as u64;
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_become_zeros() {
        let map = Map::new(vec![(2, 3), (5, 0), (7, 1)], 10, 4).expect("valid");
        let mut whole = Vec::new();
        Expand::new(&b"abcd"[..], &map).read_to_end(&mut whole).expect("memory");
        assert_eq!(whole, b"\0\0abc\0\0d\0\0");
    }

    #[test]
    fn maps_that_do_not_fit_are_refused() {
        assert!(Map::new(vec![(0, 4), (2, 4)], 10, 8).is_err());
        assert!(Map::new(vec![(8, 4)], 10, 4).is_err());
        assert!(Map::new(vec![(0, 4)], 10, 5).is_err());
        assert!(Map::new(vec![(u64::MAX, 4)], u64::MAX, 4).is_err());
        assert!(Map::parse_list(b"1,2,3").is_err());
    }
}
