//! Parser directives (`# syntax=`, `# escape=`, `# check=`) and the options of `check`.
//!
//! Knows single lines only; `split` decides which lines are still in the zone where directives count.

use super::ast::Check;
use super::quote::quoted;

/// The directives there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Syntax,
    Escape,
    Check,
}

impl Name {
    /// As written in the file, in lower case.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

/// Reads `name = value` behind a comment mark; only known names count.
pub(super) fn read(comment: &str) -> Option<(Name, &str)> {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\u{0c}' | '\r');
    let text = comment.trim_start();
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let length = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (name, rest) = text.split_at(length);
    let value = rest.trim_start_matches(is_blank).strip_prefix('=')?.trim_matches(is_blank);
    if value.is_empty() {
        return None;
    }
    let name =
        [Name::Syntax, Name::Escape, Name::Check].into_iter().find(|known| known.text().eq_ignore_ascii_case(name))?;
    Some((name, value))
}

/// Reads the value of a check directive or of `BUILDKIT_DOCKERFILE_CHECK`: `skip=A,B;error=true;experimental=all`.
/// The directive's value ends at its first blank; the build argument's does not.
pub fn parse_check(value: &str) -> Result<Check, String> {
    const MAX_OPTIONS: usize = 3;
    let mut check = Check::default();
    let value = value.trim();
    if value.is_empty() {
        return Ok(check);
    }
    for option in value.splitn(MAX_OPTIONS, ';') {
        let Some((name, value)) = option.split_once('=') else {
            return Err(format!("invalid check option {}", quoted(option)));
        };
        let value = value.trim();
        let rules = || value.split(',').map(|rule| rule.trim().to_owned()).collect();
        match name.trim() {
            "skip" => check.skip = rules(),
            "experimental" => check.experimental = rules(),
            "error" => {
                check.error = parse_bool(value).ok_or_else(|| {
                    let cause = format!("strconv.ParseBool: parsing {}: invalid syntax", quoted(value));
                    format!("failed to parse check option {}: {cause}", quoted(option))
                })?;
            }
            name => return Err(format!("invalid check option {}", quoted(name))),
        }
    }
    Ok(check)
}

/// The check options in a block of comments above an instruction; there a faulty one counts for nothing.
pub(super) fn check_in_comments(comments: &[String]) -> Option<Check> {
    let value = comments.iter().find_map(|comment| match read(comment) {
        Some((Name::Check, value)) => Some(value),
        Some((Name::Syntax | Name::Escape, _)) | None => None,
    })?;
    parse_check(up_to_blank(value)).ok()
}

/// A directive's value up to its first blank.
pub fn up_to_blank(value: &str) -> &str {
    value.split(' ').next().unwrap_or(value)
}

/// The value of a syntax directive in any of the styles a front end may be chosen with: `# syntax=`, `// syntax=`, a JSON
/// object with a `syntax` key; a `#!` line may come first.
pub fn detect_syntax(text: &str) -> Option<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = if text.starts_with("#!") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
    for mark in ["#", "//"] {
        let comments = text.lines().map_while(|line| line.strip_prefix(mark)).map_while(read);
        for (name, value) in comments {
            if name == Name::Syntax {
                return Some(value.to_owned());
            }
        }
    }
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Value = serde_json::from_str(text).ok()?;
    object.get("syntax")?.as_str().map(ToOwned::to_owned)
}

/// What Go's `strconv.ParseBool` takes.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_known_names_with_a_value() {
        for (comment, expected) in [
            (" syntax = a/b:1 ", Some((Name::Syntax, "a/b:1"))),
            ("ESCAPE=`", Some((Name::Escape, "`"))),
            ("check=skip=A b", Some((Name::Check, "skip=A b"))),
            ("foo=bar", None),
            ("syntax=", None),
            ("syntax", None),
            ("1syntax=x", None),
            ("escape: x=1", None),
        ] {
            assert_eq!(read(comment), expected, "{comment}");
        }
    }

    #[test]
    fn check_options() {
        // features.md D024
        let check = parse_check("skip=A, B;error=true;experimental=all").unwrap();
        assert_eq!(check, Check { skip: vec!["A".into(), "B".into()], error: true, experimental: vec!["all".into()] });
        assert_eq!(parse_check(" "), Ok(Check::default()));
        for (value, fault) in [
            ("skp=A", "invalid check option \"skp\""),
            ("skip", "invalid check option \"skip\""),
            ("skip=a;b", "invalid check option \"b\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(parse_check(value), Err(fault.into()));
        }
    }

    #[test]
    fn syntax_in_other_comment_styles() {
        // features.md D022
        for (text, expected) in [
            ("# syntax=a", Some("a")),
            ("\u{feff}# escape=`\n# syntax=a\nFROM x", Some("a")),
            ("#!/usr/bin/x\n# syntax=a", Some("a")),
            ("// syntax=a b\n", Some("a b")),
            ("{\"syntax\": \"a\"}", Some("a")),
            ("# other\n# syntax=a", None),
            ("FROM x", None),
        ] {
            assert_eq!(detect_syntax(text).as_deref(), expected, "{text}");
        }
    }
}
