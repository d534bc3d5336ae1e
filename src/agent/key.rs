//! Private keys as ssh-keygen and openssl write them, and signing with them. Kinds and sizes are those that ring can sign with.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::KeyPairComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};

use super::text::Text;
use super::{der, openssh};

/// Asks for `rsa-sha2-256`.
const SHA2_256: u32 = 2;
/// Asks for `rsa-sha2-512`.
const SHA2_512: u32 = 4;

/// A file holds no key we can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is none in it.
    #[error("no private key found")]
    NoKey,
    /// It is encrypted.
    #[error("this private key is passphrase protected")]
    Passphrase,
    /// It is of a kind we cannot sign with.
    #[error(
        "keys of type {0} are not supported; supported are ed25519, rsa of 2048 bits or more, ecdsa nistp256 and nistp384"
    )]
    Kind(String),
    /// It says that it is one, but it is not.
    #[error("the private key is damaged or of an unknown type")]
    Malformed,
}

/// A key that can sign.
#[derive(Clone)]
pub struct PrivateKey {
    pair: Arc<Pair>,
    public: Vec<u8>,
    comment: String,
}

/// Nothing of the secret.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("comment", &self.comment).finish_non_exhaustive()
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for PrivateKey {}

/// Curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    fn algorithm(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    /// Bytes of a number on it.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn of(object: &[u8]) -> Option<Self> {
        match object {
            [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => Some(Self::P256),
            [0x2b, 0x81, 0x04, 0x00, 0x22] => Some(Self::P384),
            _ => None,
        }
    }
}

/// A key pair of some kind.
pub(super) enum Pair {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Curve, EcdsaKeyPair),
}

impl Pair {
    pub(super) fn ed25519(seed: &[u8], public: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_seed_and_public_key(seed, public).map(Self::Ed25519).map_err(|_| KeyError::Malformed)
    }

    /// From its numbers.
    pub(super) fn rsa(components: &KeyPairComponents<&[u8]>) -> Result<Self, KeyError> {
        RsaKeyPair::from_components(components).map(|pair| Self::Rsa(Box::new(pair))).map_err(rsa_refused)
    }

    pub(super) fn ecdsa(curve: Curve, scalar: &[u8], point: &[u8]) -> Result<Self, KeyError> {
        let scalar = padded(scalar, curve.size()).ok_or(KeyError::Malformed)?;
        EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm(), &scalar, point, &SystemRandom::new())
            .map(|pair| Self::Ecdsa(curve, pair))
            .map_err(|_| KeyError::Malformed)
    }

    /// The public key as ssh writes it.
    fn public(&self) -> Option<Vec<u8>> {
        let mut text = Text::default();
        match self {
            Self::Ed25519(pair) => text.string(b"ssh-ed25519").string(pair.public_key().as_ref()),
            Self::Rsa(pair) => {
                let mut numbers = der::element(&mut pair.public_key().as_ref(), der::SEQUENCE)?;
                let (n, e) = (der::element(&mut numbers, der::INTEGER)?, der::element(&mut numbers, der::INTEGER)?);
                text.string(b"ssh-rsa").large(e).large(n)
            }
            Self::Ecdsa(curve, pair) => text
                .string(format!("ecdsa-sha2-{}", curve.name()).as_bytes())
                .string(curve.name().as_bytes())
                .string(pair.public_key().as_ref()),
        };
        Some(text.0)
    }
}

/// ring takes no RSA of less than 2048 bits.
fn rsa_refused(error: ring::error::KeyRejected) -> KeyError {
    if error.to_string().contains("TooSmall") {
        KeyError::Kind("rsa of less than 2048 bits".to_owned())
    } else {
        KeyError::Malformed
    }
}

/// A number with as many leading zeros as it takes.
fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let number = super::text::trimmed(number);
    let zeros = size.checked_sub(number.len())?;
    Some([vec![0; zeros].as_slice(), number].concat())
}

impl PrivateKey {
    /// A key with the comment that came with it.
    pub(super) fn new(pair: Pair, comment: String) -> Self {
        let public = pair.public().unwrap_or_default();
        Self { pair: Arc::new(pair), public, comment }
    }

    /// Reads the first key of a PEM file.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.lines().map(str::trim);
        let label = lines
            .find_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("PRIVATE KEY-----"))
            .ok_or(KeyError::NoKey)?;
        let body: Vec<&str> = lines.take_while(|line| !line.starts_with("-----END ")).collect();
        // "Proc-Type: 4,ENCRYPTED" of the old form, and a label of its own in PKCS #8.
        if label == "ENCRYPTED " || body.iter().any(|line| line.contains("ENCRYPTED")) {
            return Err(KeyError::Passphrase);
        }
        let bytes = STANDARD.decode(body.concat()).map_err(|_| KeyError::Malformed)?;
        let pair = match label {
            "OPENSSH " => return openssh::parse(&bytes),
            "RSA " => RsaKeyPair::from_der(&bytes).map(|pair| Pair::Rsa(Box::new(pair))).map_err(rsa_refused)?,
            "EC " => elliptic(&bytes, None)?,
            "" => pkcs8(&bytes)?,
            other => return Err(KeyError::Kind(other.trim().to_lowercase())),
        };
        Ok(Self::new(pair, String::new()))
    }

    /// The public key, as the protocol carries it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// What the file calls it.
    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// Signs as `flags` ask for; `None` if we cannot: SHA-1 is what RSA keys sign with when nothing is asked for.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let mut text = Text::default();
        match self.pair.as_ref() {
            Pair::Ed25519(pair) => text.string(b"ssh-ed25519").string(pair.sign(data).as_ref()),
            Pair::Rsa(pair) => {
                let (name, how): (&str, &dyn RsaEncoding) = match flags {
                    flags if flags & SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    flags if flags & SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(how, &SystemRandom::new(), data, &mut signature).ok()?;
                text.string(name.as_bytes()).string(&signature)
            }
            Pair::Ecdsa(curve, pair) => {
                let signature = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signature.as_ref().split_at(curve.size());
                let mut numbers = Text::default();
                numbers.large(r).large(s);
                text.string(format!("ecdsa-sha2-{}", curve.name()).as_bytes()).string(&numbers.0)
            }
        };
        Some(text.0)
    }
}

/// RFC 5208: what kind of key, and the key.
fn pkcs8(bytes: &[u8]) -> Result<Pair, KeyError> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const ELLIPTIC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let parse = || {
        let mut key = der::element(&mut &*bytes, der::SEQUENCE)?;
        der::element(&mut key, der::INTEGER)?;
        let mut algorithm = der::element(&mut key, der::SEQUENCE)?;
        let kind = der::element(&mut algorithm, der::OBJECT)?;
        let curve = der::element(&mut algorithm, der::OBJECT);
        Some((kind, curve, der::element(&mut key, der::OCTETS)?))
    };
    match parse() {
        Some((RSA, _, key)) => RsaKeyPair::from_der(key).map(|pair| Pair::Rsa(Box::new(pair))).map_err(rsa_refused),
        Some((ELLIPTIC, curve, key)) => elliptic(key, curve),
        Some((ED25519, ..)) => {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(Pair::Ed25519).map_err(|_| KeyError::Malformed)
        }
        Some(_) | None => Err(KeyError::Malformed),
    }
}

/// RFC 5915: the number, maybe the curve, and the point.
fn elliptic(bytes: &[u8], curve: Option<&[u8]>) -> Result<Pair, KeyError> {
    let parse = || {
        let mut key = der::element(&mut &*bytes, der::SEQUENCE)?;
        der::element(&mut key, der::INTEGER)?;
        let scalar = der::element(&mut key, der::OCTETS)?;
        let named = der::element(&mut key, der::PARAMETERS).and_then(|mut inner| der::element(&mut inner, der::OBJECT));
        let point = der::element(&mut key, der::PUBLIC).and_then(|mut inner| der::element(&mut inner, der::BITS))?;
        // The first byte counts unused bits, of which there are none.
        Some((named.or(curve)?, scalar, point.get(1..)?))
    };
    let (object, scalar, point) = parse().ok_or(KeyError::Malformed)?;
    let curve = Curve::of(object).ok_or_else(|| KeyError::Kind("ecdsa with another curve".to_owned()))?;
    Pair::ecdsa(curve, scalar, point)
}
