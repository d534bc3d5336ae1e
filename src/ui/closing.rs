//! Texts after the build: the summary of warnings, the report of `--check`, the last error line.
//!
//! Pure; `cli` prints them.

use std::fmt::Write as _;

use super::colors::Color;
use crate::diagnostic::excerpt;
use crate::event::{Place, Warning};

/// The last line of a build that failed. Scripts search for `failed to solve`.
pub fn failed_to_solve(cause: &str) -> String {
    error_line(&format!("failed to build: failed to solve: {cause}"))
}

/// The last line of anything that failed.
pub fn error_line(cause: &str) -> String {
    format!("ERROR: {cause}\n")
}

/// What is said about warnings after a build; empty when there are none. `expanded` (`--debug`) adds what each one means and
/// the lines it is about.
pub fn warnings_summary(warnings: &[Warning], expanded: bool, color: Option<Color>) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mut head = match warnings.len() {
        1 => "1 warning found".to_owned(),
        n => format!("{n} warnings found"),
    };
    if !expanded {
        head += " (use --debug to expand)";
    }
    head += ":";
    let mut out = format!("\n {}\n", color.map_or(head.clone(), |color| color.paint(&head)));
    for warning in warnings {
        let _ = writeln!(out, " - {}", warning.short);
        if !expanded {
            continue;
        }
        for line in &warning.detail {
            let _ = writeln!(out, "{line}");
        }
        if let Some(url) = &warning.url {
            let _ = writeln!(out, "More info: {url}");
        }
        if let Some(Place { source, lines }) = &warning.place {
            out += &excerpt(source, *lines);
        }
        out.push('\n');
    }
    out
}

/// A warning as `--check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckWarning {
    /// Name of the rule, e.g. `StageNameCasing`.
    pub rule: String,
    /// Where the rule is explained.
    pub url: Option<String>,
    /// What is wrong here.
    pub detail: String,
    /// The lines meant.
    pub place: Option<Place>,
}

/// What `--check` prints on stdout, sorted by file and line.
pub fn check_report(mut warnings: Vec<CheckWarning>) -> String {
    let mut out = match warnings.len() {
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        n => format!("Check complete, {n} warnings have been found!\n"),
    };
    warnings.sort_by_cached_key(|warning| {
        let place = warning.place.as_ref();
        place.map(|place| (place.source.name.clone(), place.lines.first))
    });
    for warning in warnings {
        let _ = write!(out, "\nWARNING: {}", warning.rule);
        if let Some(url) = &warning.url {
            let _ = write!(out, " - {url}");
        }
        let _ = writeln!(out, "\n{}", warning.detail);
        if let Some(Place { source, lines }) = &warning.place {
            out += &excerpt(source, *lines);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Lines, Source};

    fn place() -> Place {
        let source = Source::new("Dockerfile", "FROM alpine AS Base\nRUN true\n");
        Place { source, lines: Lines { first: 1, last: 1 } }
    }

    fn warning() -> Warning {
        Warning {
            short: "StageNameCasing: Stage name 'Base' should be lowercase (line 1)".to_owned(),
            detail: vec!["Stage names should be lowercase".to_owned()],
            url: Some("https://docs.docker.com/go/dockerfile/rule/stage-name-casing/".to_owned()),
            place: Some(place()),
        }
    }

    #[test]
    fn summary() {
        assert_eq!(warnings_summary(&[], true, None), "");
        let short = "\n 1 warning found (use --debug to expand):\n - StageNameCasing: Stage name 'Base' should be lowercase (line 1)\n";
        assert_eq!(warnings_summary(&[warning()], false, None), short);
        let colored = warnings_summary(&[warning(), warning()], false, Some(Color::Named(33)));
        assert!(
            colored.starts_with("\n \u{1b}[33m2 warnings found (use --debug to expand):\u{1b}[0m\n - "),
            "{colored}"
        );
    }

    #[test]
    fn summary_expanded() {
        let lines: Vec<_> = [
            "",
            " 1 warning found:",
            " - StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
            "Stage names should be lowercase",
            "More info: https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
            "Dockerfile:1",
            "--------------------",
            "   1 | >>> FROM alpine AS Base",
            "   2 |     RUN true",
            "   3 |     ",
            "--------------------",
            "",
            "",
        ]
        .into();
        assert_eq!(warnings_summary(&[warning()], true, None), lines.join("\n"));
    }

    #[test]
    fn check() {
        assert_eq!(check_report(vec![]), "Check complete, no warnings found.\n");
        let warning = CheckWarning {
            rule: "StageNameCasing".to_owned(),
            url: warning().url,
            detail: "Stage name 'Base' should be lowercase".to_owned(),
            place: Some(place()),
        };
        let late = Place { lines: Lines { first: 2, last: 2 }, ..place() };
        let other = CheckWarning { rule: "Other".to_owned(), url: None, detail: "x".to_owned(), place: Some(late) };
        insta::assert_snapshot!(check_report(vec![other, warning]), @"
        Check complete, 2 warnings have been found!

        WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
        Stage name 'Base' should be lowercase
        Dockerfile:1
        --------------------
           1 | >>> FROM alpine AS Base
           2 |     RUN true
           3 |     
        --------------------

        WARNING: Other
        x
        Dockerfile:2
        --------------------
           1 |     FROM alpine AS Base
           2 | >>> RUN true
           3 |     
        --------------------
        ");
    }
}
