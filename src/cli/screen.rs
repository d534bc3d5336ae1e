//! Progress on stderr, for the commands besides `build`.

use super::Failure;
use super::env::Env;
use super::request::{ProgressRequest, display_options};
use super::world::now;
use crate::event::Progress;
use crate::ui::{Display, Mode, Size};

/// Opens the display the environment asks for, or none. To be called after the sandbox launcher was forked.
pub(super) fn open(quiet: bool, env: &Env) -> Result<(Display, Progress), Failure> {
    let mode = if quiet { Mode::None } else { ProgressRequest::new(None, false, env)?.mode };
    let (looks, _notes_are_for_builds) = display_options(env, now, terminal_size);
    let display = Display::open(mode, Box::new(std::io::stderr()), looks).map_err(|e| Failure::of(&e))?;
    let progress = Progress::new(vec![display.observer()], now);
    Ok((display, progress))
}

/// The terminal behind stderr, if it is one.
pub(super) fn terminal_size() -> Option<Size> {
    let stderr = std::io::stderr();
    if !rustix::termios::isatty(&stderr) {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stderr).ok()?;
    Some(Size { columns: size.ws_col, rows: size.ws_row })
}
