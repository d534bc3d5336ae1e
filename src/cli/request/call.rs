//! `--call` and `--check`: questions about a Dockerfile instead of a build.

use super::{RequestError, usage};
use crate::cli::args::go_bool;
use crate::cli::fields;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// What is not as it should be?
    Check {
        /// Answer in JSON.
        json: bool,
        /// Succeed although there are warnings.
        ignore_status: bool,
    },
    /// Which build-args, secrets and agents does the target take?
    Outline {
        /// Answer in JSON.
        json: bool,
    },
    /// Which targets are there?
    Targets {
        /// Answer in JSON.
        json: bool,
    },
    /// Which questions are there?
    Describe {
        /// Answer in JSON.
        json: bool,
    },
}

/// The question asked, if any; `check` is `--check`.
pub(super) fn parse(text: Option<&str>, check: bool) -> Result<Option<Call>, RequestError> {
    let text = if check { "check" } else { text.unwrap_or("build") };
    let mut name = None;
    let (mut json, mut ignore_status) = (false, false);
    for field in fields::csv(text).map_err(RequestError::Usage)? {
        match field.split_once('=') {
            Some(("format", "json")) => json = true,
            Some(("format", "text")) => json = false,
            Some(("format", other)) => return usage(format!("invalid print format: {other}")),
            Some(("ignorestatus", value)) => {
                let value = go_bool(value);
                ignore_status =
                    value.map_err(|error| RequestError::Usage(format!("invalid ignorestatus print value: {error}")))?;
            }
            Some(_) => return usage(format!("invalid print field: {field}")),
            None if name.is_some() => return usage(format!("invalid print value: {text}")),
            None => name = Some(field),
        }
    }
    Ok(match name.as_deref().unwrap_or_default() {
        "build" | "" => None,
        "check" | "lint" => Some(Call::Check { json, ignore_status }),
        "outline" => Some(Call::Outline { json }),
        "targets" => Some(Call::Targets { json }),
        "subrequests.describe" => Some(Call::Describe { json }),
        other => {
            return usage(format!("unsupported call {other:?}; use check, outline, targets or subrequests.describe"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let table = [
            (None, false, None),
            (Some("build"), false, None),
            (None, true, Some(Call::Check { json: false, ignore_status: false })),
            (Some("lint,format=json"), false, Some(Call::Check { json: true, ignore_status: false })),
            (Some("check,ignorestatus=1"), false, Some(Call::Check { json: false, ignore_status: true })),
            (Some("outline,format=json"), false, Some(Call::Outline { json: true })),
            (Some("targets"), false, Some(Call::Targets { json: false })),
            (Some("subrequests.describe"), false, Some(Call::Describe { json: false })),
        ];
        for (text, check, want) in table {
            assert_eq!(parse(text, check), Ok(want), "{text:?}");
        }
        for text in ["x", "check,outline", "check,format=xml", "check,a=b", "check,ignorestatus=x"] {
            assert!(parse(Some(text), false).is_err(), "{text}");
        }
    }
}
