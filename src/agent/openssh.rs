//! The content of an `OPENSSH PRIVATE KEY` file without a passphrase, and what its numbers lack for our RSA.

use ring::rsa::{KeyPairComponents, PublicKeyComponents};

use super::key::{Curve, KeyError, Pair, PrivateKey};
use super::text::{Reader, trimmed};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Reads the first key.
pub(super) fn parse(bytes: &[u8]) -> Result<PrivateKey, KeyError> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(KeyError::Malformed)?);
    let [cipher, _kdf, _options] = three(&mut reader)?;
    if cipher != b"none" {
        return Err(KeyError::Passphrase);
    }
    let _keys = reader.number().ok_or(KeyError::Malformed)?;
    let _public = reader.string().ok_or(KeyError::Malformed)?;
    let mut secret = Reader(reader.string().ok_or(KeyError::Malformed)?);
    let checks = (secret.number(), secret.number());
    if checks.0.is_none() || checks.0 != checks.1 {
        return Err(KeyError::Malformed);
    }
    let kind = secret.string().ok_or(KeyError::Malformed)?;
    let pair = match kind {
        b"ssh-ed25519" => {
            let [public, secret] = two(&mut secret)?;
            // The seed, and the public key once more.
            Pair::ed25519(secret.get(..32).ok_or(KeyError::Malformed)?, public)?
        }
        b"ssh-rsa" => {
            let (public, exponent) = (two(&mut secret)?.map(trimmed), two(&mut secret)?.map(trimmed));
            let primes = two(&mut secret)?.map(trimmed);
            let reduced = primes.map(|prime| reduced(exponent[0], prime));
            Pair::rsa(&KeyPairComponents {
                public_key: PublicKeyComponents { n: public[0], e: public[1] },
                d: exponent[0],
                p: primes[0],
                q: primes[1],
                dP: trimmed(&reduced[0]),
                dQ: trimmed(&reduced[1]),
                qInv: exponent[1],
            })?
        }
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => {
            let [_curve, point, scalar] = three(&mut secret)?;
            let curve = if kind.ends_with(b"256") { Curve::P256 } else { Curve::P384 };
            Pair::ecdsa(curve, scalar, point)?
        }
        other => return Err(KeyError::Kind(String::from_utf8_lossy(other).into_owned())),
    };
    let comment = secret.string().ok_or(KeyError::Malformed)?;
    Ok(PrivateKey::new(pair, String::from_utf8_lossy(comment).into_owned()))
}

fn two<'a>(reader: &mut Reader<'a>) -> Result<[&'a [u8]; 2], KeyError> {
    reader.string().zip(reader.string()).map(<[_; 2]>::from).ok_or(KeyError::Malformed)
}

fn three<'a>(reader: &mut Reader<'a>) -> Result<[&'a [u8]; 3], KeyError> {
    let [first, second] = two(reader)?;
    Ok([first, second, reader.string().ok_or(KeyError::Malformed)?])
}

/// `number` modulo `prime - 1`, as the Chinese remainder theorem wants exponents; the file has none. Bit by bit, which is quick
/// enough for once.
fn reduced(number: &[u8], prime: &[u8]) -> Vec<u8> {
    let mut modulus = [&[0], trimmed(prime)].concat();
    // A prime is odd: nothing to borrow.
    if let Some(last) = modulus.last_mut() {
        *last &= 0xfe;
    }
    let mut rest = vec![0_u8; modulus.len()];
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = byte >> bit & 1;
            for digit in rest.iter_mut().rev() {
                (carry, *digit) = (*digit >> 7, *digit << 1 | carry);
            }
            if rest >= modulus {
                let mut borrow = false;
                for (digit, less) in rest.iter_mut().zip(&modulus).rev() {
                    let (once, under) = digit.overflowing_sub(*less);
                    let (twice, under_again) = once.overflowing_sub(u8::from(borrow));
                    (*digit, borrow) = (twice, under || under_again);
                }
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_reduced() {
        let check = |number: u64, prime: u64| {
            let rest = reduced(&number.to_be_bytes(), &prime.to_be_bytes());
            let rest = trimmed(&rest).iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
            assert_eq!(rest, number % (prime - 1));
        };
        for (number, prime) in [(0, 3), (1, 3), (65_537, 257), (u64::MAX, 65_537), (u64::MAX, 0xffff_ffff_ffff_ffc5)] {
            check(number, prime);
        }
    }
}
