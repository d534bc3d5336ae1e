//! The little of DER that keys in PEM files are made of.

/// `SEQUENCE`
pub(super) const SEQUENCE: u8 = 0x30;
/// `INTEGER`
pub(super) const INTEGER: u8 = 0x02;
/// `BIT STRING`
pub(super) const BITS: u8 = 0x03;
/// `OCTET STRING`
pub(super) const OCTETS: u8 = 0x04;
/// `OBJECT IDENTIFIER`
pub(super) const OBJECT: u8 = 0x06;
/// The elements that an elliptic key marks with 0 and 1.
pub(super) const PARAMETERS: u8 = 0xa0;
/// See [`PARAMETERS`].
pub(super) const PUBLIC: u8 = 0xa1;

/// The next element's content, if it is of this kind; goes on behind it.
pub(super) fn element<'a>(input: &mut &'a [u8], kind: u8) -> Option<&'a [u8]> {
    let [first, length, rest @ ..] = *input else { return None };
    if *first != kind {
        return None;
    }
    let (length, rest) = match *length {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if bytes.len() > 4 {
                return None;
            }
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_follow_one_another() {
        let mut input = &[INTEGER, 1, 7, OCTETS, 0x81, 2, 1, 2, BITS, 9][..];
        assert_eq!(element(&mut input, OCTETS), None);
        assert_eq!(element(&mut input, INTEGER), Some(&[7][..]));
        assert_eq!(element(&mut input, OCTETS), Some(&[1, 2][..]));
        assert_eq!(element(&mut input, BITS), None, "longer than what is there");
    }
}
