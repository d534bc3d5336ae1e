//! What to show: `--progress`, `--quiet`, and the variables that change the looks.

use std::time::{Duration, SystemTime};

use super::{RequestError, usage};
use crate::cli::env::Env;
use crate::ui::{Colors, Mode, Options, Size};

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressRequest {
    /// Which screen.
    pub mode: Mode,
    /// Print the image ID on stdout at the end.
    pub print_id: bool,
}

impl ProgressRequest {
    /// Decides from both options; `BUILDKIT_PROGRESS` counts when they leave it open.
    pub fn new(progress: Option<&str>, quiet: bool, env: &Env) -> Result<Self, RequestError> {
        let parse =
            |name: &str| Mode::parse(name).ok_or_else(|| RequestError::Usage(format!("invalid progress mode {name}")));
        let asked = progress.filter(|name| !name.is_empty()).map(parse).transpose()?.unwrap_or_default();
        let print_id = quiet || asked == Mode::Quiet;
        if print_id {
            return match asked {
                Mode::Auto | Mode::Quiet | Mode::None => Ok(Self { mode: Mode::Quiet, print_id }),
                Mode::Plain | Mode::Tty | Mode::RawJson => {
                    usage(format!("progress={} and quiet cannot be used together", asked.name()))
                }
            };
        }
        let mode = match (asked, env.filled("BUILDKIT_PROGRESS")) {
            (Mode::Auto, Some(name)) => parse(&name)?,
            (asked, _) => asked,
        };
        Ok(Self { mode, print_id: mode == Mode::Quiet })
    }
}

/// The looks of displays as the environment wants them, and remarks on what in it makes no sense.
pub fn display_options(env: &Env, clock: fn() -> SystemTime, size: fn() -> Option<Size>) -> (Options, Vec<String>) {
    let mut options = Options::new(clock, size);
    let mut notes = Vec::new();
    if env.filled("NO_COLOR").is_some() {
        options.colors = None;
    } else if let Some(text) = env.filled("BUILDKIT_COLORS") {
        let (colors, problems) = Colors::parse(&text);
        options.colors = Some(colors);
        notes = problems;
    }
    let number = |name: &str| env.filled(name).and_then(|text| text.parse::<u32>().ok()).filter(|number| *number > 0);
    if let Some(lines) = number("BUILDKIT_TTY_LOG_LINES") {
        options.log_lines = lines as usize;
    }
    if let Some(milliseconds) = number("TTY_DISPLAY_RATE") {
        options.interval = Duration::from_millis(u64::from(milliseconds));
    }
    (options, notes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn modes() {
        let decide = |progress: Option<&str>, quiet, variable: &str| {
            let env = Env::test(Path::new("/"), &[("BUILDKIT_PROGRESS", variable)]);
            ProgressRequest::new(progress, quiet, &env)
                .map(|got| (got.mode, got.print_id))
                .map_err(|error| error.to_string())
        };
        assert_eq!(decide(None, false, ""), Ok((Mode::Auto, false)));
        assert_eq!(decide(None, false, "plain"), Ok((Mode::Plain, false)));
        assert_eq!(decide(Some("auto"), false, "plain"), Ok((Mode::Plain, false)));
        assert_eq!(decide(Some("tty"), false, "plain"), Ok((Mode::Tty, false)));
        assert_eq!(decide(None, true, "plain"), Ok((Mode::Quiet, true)));
        assert_eq!(decide(Some("quiet"), false, ""), Ok((Mode::Quiet, true)));
        assert_eq!(decide(None, false, "quiet"), Ok((Mode::Quiet, true)));
        assert_eq!(decide(Some("none"), false, ""), Ok((Mode::None, false)));
        assert_eq!(decide(Some("none"), true, ""), Ok((Mode::Quiet, true)));
        assert_eq!(decide(Some("plain"), true, ""), Err("progress=plain and quiet cannot be used together".to_owned()));
        assert_eq!(decide(Some("x"), false, ""), Err("invalid progress mode x".to_owned()));
        assert_eq!(decide(None, false, "x"), Err("invalid progress mode x".to_owned()));
    }

    #[test]
    fn looks() {
        let looks = |vars: &[(&str, &str)]| {
            let (options, notes) =
                display_options(&Env::test(Path::new("/"), vars), || SystemTime::UNIX_EPOCH, || None);
            (options.colors.is_some(), options.log_lines, options.interval.as_millis(), notes.len())
        };
        assert_eq!(looks(&[]), (true, 6, 100, 0));
        assert_eq!(looks(&[("NO_COLOR", "1"), ("BUILDKIT_COLORS", "x")]), (false, 6, 100, 0));
        assert_eq!(looks(&[("NO_COLOR", ""), ("BUILDKIT_COLORS", "x")]), (true, 6, 100, 1));
        assert_eq!(looks(&[("BUILDKIT_TTY_LOG_LINES", "12"), ("TTY_DISPLAY_RATE", "500")]), (true, 12, 500, 0));
        assert_eq!(looks(&[("BUILDKIT_TTY_LOG_LINES", "-3")]), (true, 6, 100, 0));
    }
}
