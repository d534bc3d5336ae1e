//! Which front end a file is written for. Ours stands for every version of BuildKit's own; others are images with programs
//! that translate another language, and rbuild does not run them (features D021, D022).
//!
//! Looks at the first lines only, and before anything else is: what follows need not be a Dockerfile to us.

use std::sync::Arc;

use super::directive::{detect_syntax, up_to_blank};
use super::quote::quoted;
use crate::diagnostic::{Diagnostic, Kind};
use crate::source::{Lines, Source, Span};

/// The build-arg that counts instead of what the file says.
pub const SYNTAX_ARG: &str = "BUILDKIT_SYNTAX";
/// The name of the front end that is built in, here as in BuildKit.
const BUILT_IN: &str = "dockerfile.v0";
/// How the references of BuildKit's own front end begin, `docker/dockerfile-upstream` among them.
const OWN: &str = "docker/dockerfile";
/// What may stand before it.
const OWN_DOMAINS: [&str; 2] = ["docker.io/", "index.docker.io/"];

/// Refuses a file for a front end that we are not. `given` is the value of [`SYNTAX_ARG`].
pub fn refuse_other(source: &Arc<Source>, given: Option<&str>) -> Result<(), Diagnostic> {
    let help = format!("--build-arg {SYNTAX_ARG}={BUILT_IN} builds the file as a plain Dockerfile");
    let text = |name: &str| format!("syntax {} is another front end: rbuild runs only its own", quoted(name));
    if let Some(given) = given.filter(|given| !given.trim().is_empty()) {
        let name = up_to_blank(given.trim());
        if name == BUILT_IN || is_own(name) {
            return Ok(());
        }
        let fault = Diagnostic {
            lines: None,
            kind: Kind::Meaning,
            ..Diagnostic::meaning("other-frontend", text(name), source, Span::default(), Lines { first: 1, last: 1 })
        };
        return Err(fault.with_help(help));
    }
    let Some(value) = detect_syntax(&source.text) else { return Ok(()) };
    let name = up_to_blank(&value);
    if is_own(name) {
        return Ok(());
    }
    let start = source.text.find(name).unwrap_or_default();
    let line = source.text[..start].matches('\n').count() as u32 + 1;
    let (span, lines) = (Span::new(start, start + name.len()), Lines { first: line, last: line });
    Err(Diagnostic::meaning("other-frontend", text(name), source, span, lines).with_help(help))
}

fn is_own(name: &str) -> bool {
    let path = OWN_DOMAINS.iter().find_map(|domain| name.strip_prefix(domain)).unwrap_or(name);
    path.starts_with(OWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, given: Option<&str>, expected: Option<&str>) {
        let refused = refuse_other(&Source::new("Dockerfile", text), given).err();
        assert_eq!(refused.map(|fault| fault.render()).as_deref(), expected, "{text:?} {given:?}");
    }

    #[test]
    fn d021_only_our_own_front_end_is_run() {
        for own in ["docker/dockerfile", "docker/dockerfile:1.7-labs", "docker/dockerfile-upstream:master"] {
            check(&format!("# syntax={own}\nFROM a"), None, None);
            check(&format!("# syntax=docker.io/{own} with words\nFROM a"), None, None);
        }
        check("FROM a", None, None);
        check(
            "#!/x\n# syntax = ghcr.io/o/f:1 x\nWHATEVER",
            None,
            Some(
                "Dockerfile:2:12: syntax \"ghcr.io/o/f:1\" is another front end: rbuild runs only its own\n \
                 2 | # syntax = ghcr.io/o/f:1 x\n   |            ^^^^^^^^^^^^^\n\
                 \x20  = help: --build-arg BUILDKIT_SYNTAX=dockerfile.v0 builds the file as a plain Dockerfile",
            ),
        );
        for other in ["docker/x", "x/docker/dockerfile", "dockerfile.v0"] {
            assert!(refuse_other(&Source::new("f", format!("# syntax={other}\nFROM a")), None).is_err(), "{other}");
        }
    }

    #[test]
    fn d021_the_build_arg_counts_instead() {
        for own in ["dockerfile.v0", "docker/dockerfile:1", " dockerfile.v0 x"] {
            check("# syntax=other/f\nFROM a", Some(own), None);
        }
        let fault = refuse_other(&Source::new("f", "# syntax=docker/dockerfile\nFROM a"), Some("o/f:1 x")).err();
        let text = "syntax \"o/f:1\" is another front end: rbuild runs only its own";
        assert_eq!(fault.map(|fault| fault.message()).as_deref(), Some(text));
    }

    #[test]
    fn d022_other_styles_of_comments_are_seen() {
        for text in ["// syntax=o/f\nx", "{\"syntax\": \"o/f\"}", "\u{feff}# escape=`\n# syntax=o/f\n"] {
            assert!(refuse_other(&Source::new("f", text), None).is_err(), "{text}");
        }
    }
}
