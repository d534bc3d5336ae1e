//! The values of `RUN --mount` and `RUN --device`, read twice: once raw, when nothing can be expanded yet, and once with
//! variables. The order of keys matters: `type` must come before keys that only one type has.
//!
//! Knows no stages, no defaults that depend on them, and no paths: a relative target stays relative.

use std::fmt;
use std::ops::Range;

use pest::Parser as _;

use super::directive::parse_bool;
use super::grammar::record::{RecordParser, Rule};
use super::quote::quoted;
use super::words::WordError;
use crate::diagnostic::with_suggestion;

/// A mount with its values expanded; what was not given is `None` or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `type=`
    pub kind: MountKind,
    /// `from=`: a stage, named context or image; empty for the main context.
    pub from: String,
    /// `source=`
    pub source: String,
    /// `target=`, as written.
    pub target: String,
    /// `ro`/`rw` as given, or the type's default: cache and tmpfs are writable, the others not.
    pub read_only: bool,
    /// `size=` of a tmpfs in bytes; 0 without one.
    pub size_limit: i64,
    /// `id=`
    pub id: String,
    /// `sharing=` of a cache.
    pub sharing: Option<Sharing>,
    /// `required` of a secret or ssh mount.
    pub required: bool,
    /// `env=` of a secret.
    pub env: Option<String>,
    /// `mode=`
    pub mode: Option<u32>,
    /// `uid=`
    pub uid: Option<u32>,
    /// `gid=`
    pub gid: Option<u32>,
}

/// `type=` of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// An ssh agent.
    Ssh,
}

/// `sharing=` of a cache mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Many at once.
    Shared,
    /// A copy for each that comes while it is in use.
    Private,
    /// One at a time.
    Locked,
}

/// A `--device` value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// CDI name.
    pub name: String,
    /// Whether its absence is an error.
    pub required: bool,
}

/// Why a mount could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountError {
    /// A value could not be expanded.
    Word(WordError),
    /// Anything else, in BuildKit's words.
    Invalid(String),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(error) => error.fmt(f),
            Self::Invalid(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for MountError {}

const TYPES: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];

const SHARINGS: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

impl MountKind {
    /// As written, e.g. `bind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// The first reading: the record must be one, and `from` must not have variables in it.
pub(super) fn check(value: &str) -> Result<(), MountError> {
    for field in fields(value, "mounts")? {
        let Some((key, value)) = field.split_once('=') else { continue };
        let variable = value.find('$').is_some_and(|at| at + 1 < value.len());
        if key.eq_ignore_ascii_case("from") && variable {
            return Err(invalid("'from' doesn't support variable expansion, define alias stage instead"));
        }
    }
    Ok(())
}

/// The `from=` of a mount as far as it can be known without variables; used to find out which stages a RUN needs.
pub fn from_of(value: &str) -> Option<String> {
    let mut from = None;
    for field in fields(value, "mounts").ok()? {
        if let Some((_, value)) = field.split_once('=').filter(|(key, _)| key.eq_ignore_ascii_case("from")) {
            from = Some(value.to_owned());
        }
    }
    from.filter(|from| !from.is_empty())
}

/// The second reading: every value goes through `expand` and is checked.
pub fn parse(value: &str, expand: &mut dyn FnMut(&str) -> Result<String, WordError>) -> Result<Mount, MountError> {
    let mut mount = Mount {
        kind: MountKind::Bind,
        from: String::new(),
        source: String::new(),
        target: String::new(),
        read_only: false,
        size_limit: 0,
        id: String::new(),
        sharing: None,
        required: false,
        env: None,
        mode: None,
        uid: None,
        gid: None,
    };
    let mut read_only = None;
    for field in fields(value, "mounts")? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(expand(value).map_err(MountError::Word)?)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("readonly" | "ro", None) => read_only = Some(true),
            ("readwrite" | "rw", None) => read_only = Some(false),
            ("readonly" | "ro", Some(value)) => read_only = Some(boolean(&key, &value)?),
            ("readwrite" | "rw", Some(value)) => read_only = Some(!boolean(&key, &value)?),
            ("required", value) => {
                only_for(&key, mount.kind, matches!(mount.kind, MountKind::Secret | MountKind::Ssh))?;
                mount.required = value.map_or(Ok(true), |value| boolean(&key, &value))?;
            }
            (_, None) => return Err(invalid(format!("invalid field '{field}' must be a key=value pair"))),
            ("type", Some(value)) => {
                mount.kind =
                    named(&TYPES, &value).ok_or_else(|| unsupported("mount type", &value, TYPES.map(|(n, _)| n)))?;
            }
            ("sharing", Some(value)) => {
                let sharing = named(&SHARINGS, &value);
                mount.sharing =
                    Some(sharing.ok_or_else(|| unsupported("sharing value", &value, SHARINGS.map(|(n, _)| n)))?);
            }
            ("from", Some(value)) => mount.from = value,
            ("source" | "src", Some(value)) => mount.source = value,
            ("target" | "dst" | "destination", Some(value)) => mount.target = value,
            ("size", Some(value)) => {
                only_for(&key, mount.kind, mount.kind == MountKind::Tmpfs)?;
                mount.size_limit =
                    parse_size(&value).ok_or_else(|| invalid(format!("invalid value for {key}: {value}")))?;
            }
            ("id", Some(value)) => mount.id = value,
            ("mode", Some(value)) => mount.mode = Some(number(&key, &value, 8)?),
            ("uid", Some(value)) => mount.uid = Some(number(&key, &value, 10)?),
            ("gid", Some(value)) => mount.gid = Some(number(&key, &value, 10)?),
            ("env", Some(value)) => mount.env = Some(value),
            (_, Some(_)) => {
                let text = format!("unexpected key '{key}' in '{field}'");
                return Err(MountError::Invalid(with_suggestion(text, &key, KEYS, true)));
            }
        }
    }
    mount.read_only = read_only.unwrap_or(match mount.kind {
        MountKind::Cache | MountKind::Tmpfs => false,
        MountKind::Bind | MountKind::Secret | MountKind::Ssh => true,
    });
    mount.consistent()?;
    Ok(mount)
}

/// The field that is to blame for a fault of [`parse`]: what ends the shortest beginning of the mount that has the same fault.
pub fn faulty_field(mount: &str, fault: &str) -> Option<Range<usize>> {
    let is_fault = |end: usize| {
        let parsed = parse(&mount[..end], &mut |value| Ok(value.to_owned()));
        parsed.is_err_and(|error| error.to_string() == fault)
    };
    let mut ends = mount.match_indices(',').map(|(at, _)| at).chain([mount.len()]);
    let end = ends.find(|end| is_fault(*end))?;
    Some(mount[..end].rfind(',').map_or(0, |comma| comma + 1)..end)
}

impl Mount {
    /// Whether the keys given fit the type.
    fn consistent(&self) -> Result<(), MountError> {
        let has_owner = match self.kind {
            MountKind::Cache | MountKind::Secret | MountKind::Ssh => true,
            MountKind::Bind | MountKind::Tmpfs => false,
        };
        for (key, given) in [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())] {
            if given && !has_owner {
                return Err(invalid(format!("{key} not allowed for {} type mounts", quoted(self.kind.name()))));
            }
        }
        if self.kind == MountKind::Secret {
            if !self.from.is_empty() {
                return Err(invalid("secret mount should not have a from"));
            }
            if self.sharing.is_some() {
                return Err(invalid("secret mount should not define sharing"));
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err(invalid("invalid secret mount. one of source, target required"));
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err(invalid("both source and id can't be set"));
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(invalid(format!("invalid cache sharing set for {} mount", self.kind.name())));
        }
        Ok(())
    }
}

/// Reads a `--device` value: `name[,required]`.
pub fn parse_device(value: &str) -> Result<Device, MountError> {
    let mut device = Device::default();
    for field in fields(value, "devices")? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => device.required = boolean(&key, value)?,
            ("name", Some(value)) => {
                if !device.name.is_empty() {
                    return Err(invalid(format!("device name already set to {}", device.name)));
                }
                value.clone_into(&mut device.name);
            }
            // A CDI name may have `=` in it.
            (_, _) if device.name.is_empty() => device.name = field,
            (_, None) => return Err(invalid(format!("invalid field '{field}' must be a key=value pair"))),
            (_, Some(_)) => {
                let text = format!("unexpected key '{key}' in '{field}'");
                return Err(MountError::Invalid(with_suggestion(text, &key, ["name", "required"], true)));
            }
        }
    }
    Ok(device)
}

/// The fields of the record with CSV quoting undone.
fn fields(value: &str, of: &str) -> Result<Vec<String>, MountError> {
    let failed = |why: &str| invalid(format!("failed to parse csv {of}: {why}"));
    let record = value.strip_suffix('\n').map_or(value, |value| value.strip_suffix('\r').unwrap_or(value));
    if record.is_empty() {
        return Err(failed("EOF"));
    }
    let mut fields = Vec::new();
    let mut last_was_quoted = false;
    for pair in RecordParser::parse(Rule::record, record).map_err(|_| failed("not a record"))? {
        if pair.as_rule() == Rule::fault {
            let (start, text) = (pair.as_span().start(), pair.as_str());
            let bare = !last_was_quoted && fields.last().is_some_and(|field: &String| !field.is_empty());
            let (column, what) = if bare {
                (start + 1, "bare \" in non-quoted field")
            } else {
                // Behind the quote that was taken for the closing one.
                let column = if last_was_quoted { start } else { start + text.rfind('"').unwrap_or(0) + 2 };
                (column, "extraneous or missing \" in quoted-field")
            };
            return Err(failed(&format!("parse error on line 1, column {column}: {what}")));
        }
        let Some(content) = pair.into_inner().next() else { continue };
        last_was_quoted = content.as_rule() == Rule::quoted;
        fields.push(if last_was_quoted {
            content
                .into_inner()
                .map(|part| if part.as_rule() == Rule::doubled { "\"" } else { part.as_str() })
                .collect()
        } else {
            content.as_str().to_owned()
        });
    }
    Ok(fields)
}

fn invalid(text: impl Into<String>) -> MountError {
    MountError::Invalid(text.into())
}

fn named<T: std::marker::Copy>(table: &[(&str, T)], value: &str) -> Option<T> {
    let value = value.to_lowercase();
    table.iter().find(|(name, _)| *name == value).map(|(_, found)| *found)
}

fn unsupported<const N: usize>(what: &str, value: &str, options: [&str; N]) -> MountError {
    let text = format!("unsupported {what} {}", quoted(value));
    MountError::Invalid(with_suggestion(text, value, options, true))
}

fn only_for(key: &str, kind: MountKind, fits: bool) -> Result<(), MountError> {
    if fits { Ok(()) } else { Err(invalid(format!("unexpected key '{key}' for mount type '{}'", kind.name()))) }
}

fn boolean(key: &str, value: &str) -> Result<bool, MountError> {
    parse_bool(value).ok_or_else(|| invalid(format!("invalid value for {key}: {value}")))
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    let digits = value.chars().all(|c| c.is_digit(radix));
    let parsed = if digits { u32::from_str_radix(value, radix).ok() } else { None };
    parsed.ok_or_else(|| invalid(format!("invalid value {value} for {key}")))
}

/// A size like `64m`, `1.5GiB` or `4096`; units are powers of 1024.
pub fn parse_size(text: &str) -> Option<i64> {
    let split = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) =
        if text.as_bytes()[split] == b' ' { (&text[..split], &text[split + 1..]) } else { text.split_at(split + 1) };
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let (prefix, suffix) = match unit.chars().next() {
        None => return Some(number as i64),
        Some('b') if unit.len() == 1 => return Some(number as i64),
        Some(prefix) => (prefix, &unit[prefix.len_utf8()..]),
    };
    let power = "kmgtp".find(prefix)? as i32 + 1;
    matches!(suffix, "" | "b" | "ib").then(|| (number * 1024f64.powi(power)) as i64)
}
