//! What the user sees of a build: displays fed by [`crate::event`], and the texts printed at the end.
//!
//! Decides nothing about the build and is asked nothing by it; reads no environment, clock, file or terminal by itself: the
//! sink, the clock, the terminal's size and all options are handed in. The looks are BuildKit's (`docs/` of the feature rows
//! P01-P18), because people and scripts read them.
//!
//! [`Display`] runs one of the screens: `plain` (a log), `tty` (live rows), `rawjson` (for programs), `quiet` (nothing but
//! excerpts of what failed). `trace` folds events into vertices, `log` turns output into lines; both are pure.

mod closing;
mod colors;
mod columns;
mod display;
mod log;
mod plain;
mod quiet;
mod rawjson;
#[cfg(test)]
mod script;
mod trace;
mod tty;
mod units;
mod warnings;
mod window;

pub use closing::{CheckWarning, check_report, error_line, failed_to_solve, warnings_summary};
pub use colors::{Color, Colors};
pub use columns::columns;
pub use display::{Display, DisplayError, Mode, Options, Sink, Size};
pub use units::{decimal_size, duration_words, short_size};
pub use warnings::WarningList;
