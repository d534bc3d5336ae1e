//! Opens one of the screens, feeds it with events and keeps its clocks ticking.
//!
//! The ticker is a thread: open a display only after the sandbox launcher was forked.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::colors::Colors;
use super::plain::Plain;
use super::quiet::Quiet;
use super::rawjson::RawJson;
use super::tty::{Look, Tty};
use crate::cancel::Cancel;
use crate::event::{Event, Observer};

/// Where a display writes.
pub type Sink = Box<dyn Write + Send>;

/// Which screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `tty` on a terminal, else `plain`.
    #[default]
    Auto,
    /// A log that grows at its end.
    Plain,
    /// Live rows.
    Tty,
    /// JSON lines.
    RawJson,
    /// Nothing while it goes well; the caller prints the image ID.
    Quiet,
    /// Nothing while it goes well, and no image ID either.
    None,
}

impl Mode {
    /// All, in the order of `--help`.
    pub const ALL: [Self; 6] = [Self::Auto, Self::Plain, Self::Tty, Self::Quiet, Self::RawJson, Self::None];

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// As given to `--progress`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plain => "plain",
            Self::Tty => "tty",
            Self::RawJson => "rawjson",
            Self::Quiet => "quiet",
            Self::None => "none",
        }
    }
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// How a display looks and what it may ask.
#[derive(Clone, Debug)]
pub struct Options {
    /// What `#0` says in plain mode.
    pub header: Option<String>,
    /// Colours of the live display; `None`: no colour at all.
    pub colors: Option<Colors>,
    /// Rows of output beneath a running step of the live display.
    pub log_lines: usize,
    /// How often the live display is redrawn at most.
    pub interval: Duration,
    /// What time it is.
    pub clock: fn() -> SystemTime,
    /// The size of the terminal behind the sink; `None` when it is not one.
    pub size: fn() -> Option<Size>,
}

impl Options {
    /// The usual look.
    pub fn new(clock: fn() -> SystemTime, size: fn() -> Option<Size>) -> Self {
        Self {
            header: None,
            colors: Some(Colors::default()),
            log_lines: 6,
            interval: Duration::from_millis(100),
            clock,
            size,
        }
    }
}

/// A display cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisplayError {
    /// `tty` without a terminal.
    #[error("failed to get console")]
    NoConsole,
}

enum Screen {
    Plain(Plain),
    Tty(Tty),
    RawJson(RawJson),
    Quiet(Quiet),
    /// After the end.
    Closed,
}

impl Screen {
    fn observe(&mut self, event: &Event) {
        match self {
            Self::Plain(screen) => screen.observe(event),
            Self::Tty(screen) => screen.observe(event),
            Self::RawJson(screen) => screen.observe(event),
            Self::Quiet(screen) => screen.observe(event),
            Self::Closed => {}
        }
    }

    fn refresh(&mut self, now: SystemTime) {
        match self {
            Self::Plain(screen) => screen.refresh(now),
            Self::Tty(screen) => screen.refresh(now),
            Self::RawJson(_) | Self::Quiet(_) | Self::Closed => {}
        }
    }

    fn close(&mut self, now: SystemTime) {
        match std::mem::replace(self, Self::Closed) {
            Self::Plain(mut screen) => screen.close(now),
            Self::Tty(mut screen) => screen.close(now),
            Self::RawJson(mut screen) => screen.close(),
            Self::Quiet(mut screen) => screen.close(),
            Self::Closed => {}
        }
    }
}

/// An open display. Closing it (or dropping it) writes what is to stay on the screen: the rest of the log, what failed steps
/// printed, and the excerpts of the Dockerfile they came from.
#[derive(Debug)]
pub struct Display {
    screen: Shared,
    stop: Cancel,
    ticker: Option<JoinHandle<()>>,
    clock: fn() -> SystemTime,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Screen>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Screen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl Observer for Shared {
    fn observe(&mut self, event: &Event) {
        self.lock().observe(event);
    }
}

impl Display {
    /// Opens the screen for `mode`, writing to `sink`.
    pub fn open(mode: Mode, sink: Sink, options: Options) -> Result<Self, DisplayError> {
        let terminal = (options.size)().is_some();
        let look = Look {
            label: "rbuild",
            colors: options.colors,
            log_lines: options.log_lines.max(1),
            interval: options.interval,
        };
        let tty = |sink| Screen::Tty(Tty::new(sink, options.size, look));
        let screen = match mode {
            Mode::Auto | Mode::Tty if terminal => tty(sink),
            Mode::Tty => return Err(DisplayError::NoConsole),
            Mode::Auto | Mode::Plain => Screen::Plain(Plain::new(sink, options.header)),
            Mode::RawJson => Screen::RawJson(RawJson::new(sink)),
            Mode::Quiet | Mode::None => Screen::Quiet(Quiet::new(sink)),
        };
        let ticks = matches!(screen, Screen::Plain(_) | Screen::Tty(_));
        let screen = Shared(Arc::new(Mutex::new(screen)));
        let stop = Cancel::new();
        let ticker = ticks.then(|| {
            let (screen, stop, clock) = (screen.clone(), stop.clone(), options.clock);
            let pause = options.interval + options.interval / 2;
            std::thread::spawn(move || {
                while stop.sleep(pause).is_ok() {
                    screen.lock().refresh(clock());
                }
            })
        });
        Ok(Self { screen, stop, ticker, clock: options.clock })
    }

    /// The end to hand to [`crate::event::Progress`].
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(self.screen.clone())
    }

    /// Ends it; events that come later are not shown.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(ticker) = self.ticker.take() {
            // A ticker that panicked has nothing left to stop.
            let _ = ticker.join();
        }
        self.screen.lock().close((self.clock)());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Outcome, Progress, Stream};
    use crate::ui::script::Recorder;

    fn build(mode: Mode, size: fn() -> Option<Size>) -> Result<String, DisplayError> {
        let recorder = Recorder::default();
        let options = Options { colors: None, ..Options::new(|| SystemTime::UNIX_EPOCH, size) };
        let display = Display::open(mode, recorder.sink(), options)?;
        let progress = Progress::new(vec![display.observer()], || SystemTime::UNIX_EPOCH);
        let vertex = progress.vertex("[1/1] RUN x", &[]);
        vertex.start();
        vertex.log(Stream::Stdout, b"output");
        vertex.finish(Outcome::Error("it broke".to_owned()));
        vertex.excerpt("Dockerfile:1\n".to_owned());
        display.close();
        vertex.log(Stream::Stdout, b"too late");
        Ok(recorder.text())
    }

    #[test]
    fn each_mode_opens_its_screen() {
        let terminal = || Some(Size { columns: 50, rows: 20 });
        let block = "------\n > [1/1] RUN x:\n0.000 output\n------\nDockerfile:1\n";
        let plain = format!("#1 [1/1] RUN x\n#1 0.000 output\n#1 ERROR: it broke\n{block}");
        assert_eq!(build(Mode::Plain, terminal), Ok(plain.clone()));
        assert_eq!(build(Mode::Auto, || None), Ok(plain));
        assert_eq!(build(Mode::Tty, || None), Err(DisplayError::NoConsole));
        for mode in [Mode::Auto, Mode::Tty] {
            let text = build(mode, terminal).expect("a terminal");
            assert!(text.contains("FINISHED") && text.ends_with(block), "{text:?}");
        }
        assert_eq!(build(Mode::Quiet, terminal), Ok("Dockerfile:1\n".to_owned()));
        assert_eq!(build(Mode::None, terminal), Ok("Dockerfile:1\n".to_owned()));
        assert_eq!(build(Mode::RawJson, terminal).expect("opens").lines().count(), 5);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the display is what is tested, clock and all")]
    fn the_ticker_shows_what_no_later_event_would() {
        let recorder = Recorder::default();
        let display = Display::open(
            Mode::Plain,
            recorder.sink(),
            Options { interval: Duration::from_millis(2), ..Options::new(SystemTime::now, || None) },
        )
        .expect("plain always opens");
        let progress = Progress::new(vec![display.observer()], SystemTime::now);
        let vertex = progress.vertex("RUN sleep", &[]);
        vertex.start();
        vertex.log(Stream::Stdout, b"before a long silence\n");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !recorder.text().contains("silence") {
            assert!(std::time::Instant::now() < deadline, "the ticker never came");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(display);
    }

    #[test]
    fn modes_have_names() {
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(mode.name()), Some(mode));
        }
        assert_eq!(Mode::parse("fancy"), None);
    }
}
