//! Platforms: `os[(version)]/arch[/variant]`, their aliases, and which built image serves which wish.
//!
//! Pure: the host's own platform is an argument where a default is needed.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How the first part of a platform looks; both shapes are quoted in messages.
const OS_SHAPE: &str = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$";
/// How the others look.
const PART_SHAPE: &str = r"^[A-Za-z0-9_.-]+$";

/// A text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// Neither an operating system nor an architecture.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// The first part is no operating system by its shape.
    #[error(
        "{part:?} is an invalid OS component of {whole:?}: OSAndVersion specifier component must match {OS_SHAPE:?}: invalid argument"
    )]
    Os {
        /// The first part.
        part: String,
        /// All of it.
        whole: String,
    },
    /// Another part has strange characters, or none.
    #[error(
        "{part:?} is an invalid component of {whole:?}: platform specifier component must match {PART_SHAPE:?}: invalid argument"
    )]
    Part {
        /// The part.
        part: String,
        /// All of it.
        whole: String,
    },
    /// Too many parts.
    #[error("{0:?}: cannot parse platform specifier: invalid argument")]
    TooManyParts(String),
    /// `*` is reserved.
    #[error("{0:?}: wildcards not yet supported: invalid argument")]
    Wildcard(String),
}

/// `os/arch/variant`
const MAX_PARTS: usize = 3;

/// A platform in its normal form (`amd64`, not `x86_64`; no `v8` on `arm64`). Field names are those of OCI indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// CPU architecture as Go names it.
    #[serde(default)]
    pub architecture: String,
    /// Operating system as Go names it.
    #[serde(default)]
    pub os: String,
    /// Of Windows.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Of Windows.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// CPU variant, e.g. `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// A platform from its parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normal_architecture(architecture, variant);
        Self { os: normal_os(os), architecture, variant, ..Self::default() }
    }

    /// The platform this program was compiled for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, "")
    }

    /// Parses `os`, `arch`, `os/arch` or `os/arch/variant`, where `os` may carry `(version+feature…)`.
    /// What is missing is taken from `host`.
    pub fn parse(text: &str, host: &Platform) -> Result<Self, PlatformError> {
        if text.contains('*') {
            return Err(PlatformError::Wildcard(text.to_owned()));
        }
        let parts: Vec<&str> = text.splitn(MAX_PARTS + 1, '/').collect();
        let (first, others) = parts.split_first().expect("a split text has a first part");
        let Some((name, options)) = split_os(first) else {
            return Err(PlatformError::Os { part: (*first).to_owned(), whole: text.to_owned() });
        };
        if let Some(part) = others.iter().find(|part| !is_word(part, "_.-")) {
            return Err(PlatformError::Part { part: (*part).to_owned(), whole: text.to_owned() });
        }
        let parts: Vec<&str> = std::iter::once(name).chain(others.iter().copied()).collect();
        let mut platform = match parts.as_slice() {
            [os] if is_os(&normal_os(os)) => Self::new(os, &host.architecture, &host.variant),
            [arch] if options.is_none() => {
                let (architecture, variant) = normal_architecture(arch, "");
                if !is_architecture(&architecture) {
                    return Err(PlatformError::Unknown(text.to_owned()));
                }
                Self { os: host.os.clone(), architecture, variant, ..Self::default() }
            }
            [_] => return Err(PlatformError::Unknown(text.to_owned())),
            [os, arch] => Self::new(os, arch, ""),
            [os, arch, variant] => Self::new(os, arch, variant),
            _ => return Err(PlatformError::TooManyParts(text.to_owned())),
        };
        if let Some(options) = options {
            let mut options = options.split('+');
            options.next().unwrap_or_default().clone_into(&mut platform.os_version);
            platform.os_features = options.filter(|o| !o.is_empty()).map(str::to_owned).collect();
        }
        Ok(platform)
    }

    /// The same platform in normal form; what registries and configs say need not be.
    #[must_use]
    pub fn normalize(&self) -> Self {
        let (architecture, variant) = normal_architecture(&self.architecture, &self.variant);
        Self { os: normal_os(&self.os), architecture, variant, ..self.clone() }
    }

    /// `os/arch[/variant]` as in `TARGETPLATFORM`.
    pub fn short(&self) -> String {
        [&self.os, &self.architecture, &self.variant]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("/")
    }

    /// How well an image built for `offer` serves this wish: 0 is exact, bigger is worse, `None` does not run.
    pub fn rank(&self, offer: &Platform) -> Option<usize> {
        let (wish, offer) = (self.normalize(), offer.normalize());
        if wish.os != offer.os || !version_fits(&wish, &offer) || !features_fit(&wish, &offer) {
            return None;
        }
        runnable(&wish.architecture, &wish.variant)
            .iter()
            .position(|(arch, variant)| *arch == offer.architecture && *variant == offer.variant)
    }

    /// The best of `offers` for this wish; among equals the one that uses most features, then the first. `None` offers are
    /// passed over.
    pub fn best<'a>(&self, offers: impl IntoIterator<Item = Option<&'a Platform>>) -> Option<usize> {
        let ranked = offers.into_iter().enumerate().filter_map(|(i, offer)| {
            let offer = offer?;
            Some((self.rank(offer)?, Reverse(offer.os_features.len()), i))
        });
        ranked.min().map(|(_, _, i)| i)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() || !self.os_features.is_empty() {
            write!(f, "({}", self.os_version)?;
            self.os_features.iter().try_for_each(|feature| write!(f, "+{feature}"))?;
            f.write_str(")")?;
        }
        [&self.architecture, &self.variant]
            .into_iter()
            .filter(|part| !part.is_empty())
            .try_for_each(|part| write!(f, "/{part}"))
    }
}

/// The name of an operating system, and what stands in brackets behind it: `version+feature…`.
fn split_os(part: &str) -> Option<(&str, Option<&str>)> {
    let (name, options) = match part.split_once('(') {
        Some((name, options)) => (name, Some(options.strip_suffix(')')?)),
        None => (part, None),
    };
    let (version, features) = options.map_or((None, None), |text| match text.split_once('+') {
        Some((version, features)) => (Some(version), Some(features)),
        None => (Some(text), None),
    });
    let fits = is_word(name, "_-")
        && version.is_none_or(|text| text.is_empty() || is_word(text, "_.%-"))
        && features.is_none_or(|text| text.split('+').all(|feature| is_word(feature, "_.%-")));
    fits.then_some((name, options))
}

/// At least one letter, digit or one of `signs`.
fn is_word(text: &str, signs: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

/// Windows images run only on the build number they were made for; elsewhere versions are not compared.
fn version_fits(wish: &Platform, offer: &Platform) -> bool {
    let build = |version: &str| version.splitn(4, '.').take(3).map(str::to_owned).collect::<Vec<_>>();
    wish.os != "windows"
        || wish.os_version.is_empty()
        || offer.os_version.is_empty()
        || build(&wish.os_version) == build(&offer.os_version)
}

/// What an image needs of its system must be there; `win32k` is on every Windows.
fn features_fit(wish: &Platform, offer: &Platform) -> bool {
    let free = |feature: &str| offer.os == "windows" && feature == "win32k";
    offer.os_features.iter().all(|feature| free(feature) || wish.os_features.contains(feature))
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        "" => "linux".to_owned(),
        other => other.to_owned(),
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "v9" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

/// The highest level of an architecture that has others below it; what claims a higher one runs what this one runs.
const MAX_LEVEL: u32 = 32;

/// What a machine of this kind runs, best first.
fn runnable(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let own = |variant: String| (architecture.to_owned(), variant);
    let level = variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok()).map(|level| level.min(MAX_LEVEL));
    let mut out = vec![own(variant.to_owned())];
    match architecture {
        "amd64" => {
            let lower = (1..level.unwrap_or(1)).rev();
            out.extend(lower.map(|n| own(if n == 1 { String::new() } else { format!("v{n}") })));
            out.push(("386".to_owned(), String::new()));
        }
        "arm" => out.extend((5..level.unwrap_or(5)).rev().map(|n| own(format!("v{n}")))),
        "arm64" => {
            out.extend(lower_arm64(variant).into_iter().map(own));
            out.extend((5..=8).rev().map(|n| ("arm".to_owned(), format!("v{n}"))));
        }
        _ => {}
    }
    out
}

/// The `arm64` variants below `variant`: v9.n includes v9.(n-1) and v8.(n+5), which includes those below it.
fn lower_arm64(variant: &str) -> Vec<String> {
    let name = |major: u32, minor: u32| match (major, minor) {
        (8, 0) => String::new(),
        (major, 0) => format!("v{major}"),
        (major, minor) => format!("v{major}.{minor}"),
    };
    let Some(number) = variant.strip_prefix('v') else { return Vec::new() };
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(9), Ok(minor)) if minor < 10 => {
            let nine = (0..minor).rev().map(|m| name(9, m));
            nine.chain((0..=minor + 5).rev().map(|m| name(8, m))).collect()
        }
        (Ok(8), Ok(minor)) if minor < 20 => (0..minor).rev().map(|m| name(8, m)).collect(),
        _ => Vec::new(),
    }
}

fn is_os(os: &str) -> bool {
    matches!(
        os,
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "hurd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "nacl"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
            | "zos"
            | "wasip1"
            | "wasi"
    )
}

fn is_architecture(architecture: &str) -> bool {
    matches!(
        architecture,
        "386"
            | "amd64"
            | "amd64p32"
            | "arm"
            | "armbe"
            | "arm64"
            | "arm64be"
            | "loong64"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "mips64p32"
            | "mips64p32le"
            | "ppc"
            | "ppc64"
            | "ppc64le"
            | "riscv"
            | "riscv64"
            | "s390"
            | "s390x"
            | "sparc"
            | "sparc64"
            | "wasm"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        Platform::parse(text, &Platform::new("linux", "amd64", "")).expect(text)
    }

    #[test]
    fn all_forms_are_normalised() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"),
        ] {
            assert_eq!(parse(text).to_string(), normal, "{text}");
        }
        assert_eq!(parse("windows(10.0.17763)/amd64").short(), "windows/amd64");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_platform_or_an_error(text in "[a-zA-Z0-9/()+.*_-]{0,24}") {
            let host = Platform::new("linux", "amd64", "");
            if let Ok(platform) = Platform::parse(&text, &host) {
                proptest::prop_assert_eq!(Platform::parse(&platform.to_string(), &host), Ok(platform.clone()));
                proptest::prop_assert_eq!(platform.rank(&platform), Some(0));
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let error = |text: &str| Platform::parse(text, &parse("linux")).expect_err(text).to_string();
        assert_eq!(error("bogus"), "\"bogus\": unknown operating system or architecture: invalid argument");
        assert_eq!(error("a/b/c/d"), "\"a/b/c/d\": cannot parse platform specifier: invalid argument");
        assert_eq!(
            error("linux/"),
            r#""" is an invalid component of "linux/": platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument"#
        );
        assert_eq!(error("linux/*"), "\"linux/*\": wildcards not yet supported: invalid argument");
        assert_eq!(
            error("linux(1/amd64"),
            r#""linux(1" is an invalid OS component of "linux(1/amd64": OSAndVersion specifier component must match "^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$": invalid argument"#
        );
    }

    #[test]
    fn the_best_match_goes_down_the_variants() {
        let offers: Vec<_> =
            ["linux/386", "linux/amd64", "linux/amd64/v2", "linux/arm/v6", "linux/arm64", "linux/arm64/v8.2"]
                .map(parse)
                .to_vec();
        let best = |wish: &str| parse(wish).best(offers.iter().map(Some)).map(|i| offers[i].to_string());
        assert_eq!(best("linux/amd64").as_deref(), Some("linux/amd64"));
        assert_eq!(best("linux/amd64/v3").as_deref(), Some("linux/amd64/v2"));
        assert_eq!(best("linux/arm/v7").as_deref(), Some("linux/arm/v6"));
        assert_eq!(best("linux/arm/v5"), None);
        assert_eq!(best("linux/arm64/v9").as_deref(), Some("linux/arm64/v8.2"));
        assert_eq!(best("linux/s390x"), None);
        assert_eq!(parse("amd64").rank(&parse("386")), Some(1));
        assert_eq!(parse("386").rank(&parse("amd64")), None);
        // Levels that nobody has do not take time or memory; found by fuzzing.
        assert_eq!(parse("linux/arm/v4294967295").rank(&parse("linux/arm/v7")), Some(25));
        assert_eq!(parse("linux/amd64/v4294967295").rank(&parse("linux/amd64/v4294967295")), Some(0));
        assert_eq!(parse("linux/amd64").best([None, Some(&parse("linux/amd64"))]), Some(1));
    }

    #[test]
    fn what_an_image_needs_must_be_there() {
        let offers: Vec<_> = ["linux(+x)/amd64", "linux/amd64", "linux(+x+y)/amd64"].map(parse).to_vec();
        let best = |wish: &str| parse(wish).best(offers.iter().map(Some)).map(|i| offers[i].to_string());
        assert_eq!(best("linux/amd64").as_deref(), Some("linux/amd64"));
        assert_eq!(best("linux(+x)/amd64").as_deref(), Some("linux(+x)/amd64"), "the more of it is used the better");
        assert_eq!(best("linux(+z+y+x)/amd64").as_deref(), Some("linux(+x+y)/amd64"));
        assert_eq!(best("linux(9)/amd64").as_deref(), Some("linux/amd64"), "versions count on Windows only");
        let windows = parse("windows(10.0.1+win32k)/amd64");
        assert_eq!(parse("windows(10.0.1)/amd64").rank(&windows), Some(0));
        assert_eq!(parse("windows(10.0.2)/amd64").rank(&windows), None);
    }
}
