//! The attributes of one option (`--output`, `--cache-to`, `--cache-from`): each is taken by whoever understands it, and what nobody
//! took is for the option to refuse. Pure; which attributes there are is not known here.

use crate::oci::manifest::Packing;

/// A value that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value {value:?} for {name}: {message}")]
pub struct InvalidValue {
    /// The attribute.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What is wrong.
    pub message: String,
}

impl InvalidValue {
    /// A fault of one attribute.
    pub fn new(name: &str, value: &str, message: &str) -> Self {
        Self { name: name.to_owned(), value: value.to_owned(), message: message.to_owned() }
    }
}

/// Attributes that were not taken yet.
#[derive(Clone, Debug)]
pub struct Attributes {
    left: Vec<(String, String)>,
}

impl Attributes {
    /// All that were given, in order.
    pub fn new(given: &[(String, String)]) -> Self {
        Self { left: given.to_vec() }
    }

    /// The value of an attribute; the last one wins.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let mut found = None;
        self.left.retain_mut(|(key, value)| {
            let same = key == name;
            if same {
                found = Some(std::mem::take(value));
            }
            !same
        });
        found
    }

    /// The value of an attribute unless that is empty.
    pub fn filled(&mut self, name: &str) -> Option<String> {
        self.take(name).filter(|text| !text.is_empty())
    }

    /// All attributes whose names begin so, in order.
    pub fn beginning(&mut self, prefix: &str) -> Vec<(String, String)> {
        let (taken, left) = std::mem::take(&mut self.left).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.left = left;
        taken
    }

    /// A switch; without a value it is on.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, InvalidValue> {
        let Some(text) = self.take(name) else { return Ok(None) };
        match text.as_str() {
            // The spellings Go's ParseBool takes.
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(InvalidValue::new(name, &text, "expected true or false")),
        }
    }

    /// `compression` and `compression-level`.
    pub fn compression(&mut self) -> Result<(Option<Packing>, Option<u8>), InvalidValue> {
        let packing = match self.take("compression").as_deref() {
            None => None,
            Some("gzip") => Some(Packing::Gzip),
            Some("zstd") => Some(Packing::Zstd),
            Some("uncompressed") => Some(Packing::Tar),
            Some(other) => return Err(InvalidValue::new("compression", other, "expected gzip, zstd or uncompressed")),
        };
        let Some(text) = self.take("compression-level") else { return Ok((packing, None)) };
        let most = match packing.unwrap_or(Packing::Gzip) {
            Packing::Zstd => 22,
            Packing::Gzip | Packing::Tar => 9,
        };
        let level = text.parse().ok().filter(|level| *level <= most);
        let message = format!("expected a number from 0 to {most}");
        let level = level.ok_or_else(|| InvalidValue::new("compression-level", &text, &message))?;
        Ok((packing, Some(level)))
    }

    /// The name of an attribute that nobody took.
    pub fn untaken(self) -> Option<String> {
        self.left.into_iter().next().map(|(name, _)| name)
    }
}
