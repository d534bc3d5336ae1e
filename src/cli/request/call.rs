//! `--call` and `--check`: questions about a Dockerfile instead of a build.

use super::{RequestError, usage};
use crate::cli::args::go_bool;
use crate::cli::fields;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// What is not as it should be?
    Check {
        /// How to write the answer.
        format: CheckFormat,
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

/// How the findings of `--check` are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckFormat {
    /// For people.
    #[default]
    Text,
    /// BuildKit's JSON.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Workflow commands that GitHub shows beside the lines.
    Github,
}

impl CheckFormat {
    fn parse(text: &str) -> Result<Self, RequestError> {
        Ok(match text {
            "text" | "" => Self::Text,
            "json" => Self::Json,
            "sarif" => Self::Sarif,
            "github" => Self::Github,
            other => return usage(format!("invalid print format: {other}")),
        })
    }

    /// For questions that have no other answers than text and JSON.
    fn is_json(self, question: &str) -> Result<bool, RequestError> {
        match self {
            Self::Text => Ok(false),
            Self::Json => Ok(true),
            Self::Sarif | Self::Github => usage(format!("{question} can be answered in text or json only")),
        }
    }
}

/// The question asked, if any; `check` is `--check`, `format` is `--format`.
pub(super) fn parse(text: Option<&str>, check: bool, format: Option<&str>) -> Result<Option<Call>, RequestError> {
    let text = if check { "check" } else { text.unwrap_or("build") };
    let mut name = None;
    let mut ignore_status = false;
    let mut how = format.map(CheckFormat::parse).transpose()?.unwrap_or_default();
    for field in fields::csv(text).map_err(RequestError::Usage)? {
        match field.split_once('=') {
            Some(("format", value)) => how = CheckFormat::parse(value)?,
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
    let name = name.as_deref().unwrap_or_default();
    Ok(match name {
        "build" | "" if format.is_some() => return usage("--format is for the answers of --check and --call"),
        "build" | "" => None,
        "check" | "lint" => Some(Call::Check { format: how, ignore_status }),
        "outline" => Some(Call::Outline { json: how.is_json(name)? }),
        "targets" => Some(Call::Targets { json: how.is_json(name)? }),
        "subrequests.describe" => Some(Call::Describe { json: how.is_json(name)? }),
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
            (None, true, Some(Call::Check { format: CheckFormat::Text, ignore_status: false })),
            (Some("lint,format=json"), false, Some(Call::Check { format: CheckFormat::Json, ignore_status: false })),
            (Some("check,ignorestatus=1"), false, Some(Call::Check { format: CheckFormat::Text, ignore_status: true })),
            (Some("outline,format=json"), false, Some(Call::Outline { json: true })),
            (Some("targets"), false, Some(Call::Targets { json: false })),
            (Some("subrequests.describe"), false, Some(Call::Describe { json: false })),
        ];
        for (text, check, want) in table {
            assert_eq!(parse(text, check, None), Ok(want), "{text:?}");
        }
        for text in
            ["x", "check,outline", "check,format=xml", "check,a=b", "check,ignorestatus=x", "outline,format=sarif"]
        {
            assert!(parse(Some(text), false, None).is_err(), "{text}");
        }
        let sarif = Some(Call::Check { format: CheckFormat::Sarif, ignore_status: false });
        assert_eq!(parse(None, true, Some("sarif")), Ok(sarif));
        assert_eq!(parse(Some("targets"), false, Some("json")), Ok(Some(Call::Targets { json: true })));
        assert!(parse(None, false, Some("json")).is_err());
    }
}
