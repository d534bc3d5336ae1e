//! `--progress=tty`: rows that are redrawn while the build goes on.
//!
//! What to show is the pure function [`frame`]; drawing it over the former one is `indicatif`'s work. The live area is never
//! higher than the terminal; when the build is over all rows are written once more, to stay. Only the view is limited: output of
//! a running step is kept, so that all of it can be shown if the step fails.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::colors::Colors;
use super::columns::{columns, fit, justify};
use super::display::{Sink, Size};
use super::log::Log;
use super::plain::failure_block;
use super::trace::{State, Trace, Vertex};
use super::units::decimal_size;
use super::window::Window;
use crate::event::{Event, EventKind, Outcome, VertexId, elapsed};

/// Output of a running step that is held for the case that it fails; older lines are dropped and the failure block says so.
const HELD_OUTPUT: usize = 16 << 20;
/// Terminal rows that are not for step output.
const OTHER_ROWS: usize = 7;
/// Columns that output lines leave free.
const INDENT: usize = 10;
/// What is assumed when the terminal does not say.
const USUAL_SIZE: Size = Size { columns: 80, rows: 24 };

/// How it looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Text at the right end of the first row.
    pub(super) label: &'static str,
    /// `None`: no colours.
    pub(super) colors: Option<Colors>,
    /// Rows of output beneath a running step.
    pub(super) log_lines: usize,
    /// How often it is redrawn at most.
    pub(super) interval: Duration,
}

/// The screen.
pub(super) struct Tty {
    terminal: Terminal,
    rows: MultiProgress,
    area: ProgressBar,
    look: Look,
    trace: Trace,
    output: BTreeMap<VertexId, Output>,
    drawn: Option<SystemTime>,
}

/// What a step printed.
struct Output {
    window: Window,
    log: Log,
    held: VecDeque<Vec<u8>>,
    held_bytes: usize,
    dropped_lines: u64,
    /// How much it has to say: steps with more are given room first.
    bytes: u64,
}

impl Tty {
    pub(super) fn new(sink: Sink, size: fn() -> Option<Size>, look: Look) -> Self {
        let terminal = Terminal { out: Arc::new(Mutex::new(Buffered { sink, buffer: Vec::new() })), size };
        // Our own interval is the limit; 255 Hz keeps indicatif from adding another one.
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let rows = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{msg}").expect("the template has one known key");
        let area = rows.add(ProgressBar::new_spinner().with_style(style));
        Self { terminal, rows, area, look, trace: Trace::default(), output: BTreeMap::new(), drawn: None }
    }

    /// Takes an event in and, if it is time, draws.
    pub(super) fn observe(&mut self, event: &Event) {
        if !self.trace.apply(event) {
            return;
        }
        match &event.kind {
            EventKind::Log(_, data) => {
                let since = self.trace.get(event.vertex).and_then(Vertex::since).unwrap_or(event.time);
                let lines = self.look.log_lines;
                let output = self.output.entry(event.vertex).or_insert_with(|| Output::new(lines));
                output.push(elapsed(since, event.time), data);
            }
            // What went well is not shown again.
            EventKind::Finished(Outcome::Done | Outcome::Cached | Outcome::Canceled) => {
                self.output.remove(&event.vertex);
            }
            EventKind::Finished(Outcome::Error(_))
            | EventKind::Vertex { .. }
            | EventKind::Started
            | EventKind::Status(_)
            | EventKind::Warning(_)
            | EventKind::Excerpt(_) => {}
        }
        if self.drawn.is_none_or(|drawn| elapsed(drawn, event.time) >= self.look.interval) {
            self.refresh(event.time);
        }
    }

    /// Draws the state at `now`.
    pub(super) fn refresh(&mut self, now: SystemTime) {
        self.area.set_message(self.live(now).join("\n"));
        self.drawn = Some(now);
    }

    /// The rows of the live area.
    fn live(&self, now: SystemTime) -> Vec<String> {
        let size = (self.terminal.size)().unwrap_or(USUAL_SIZE);
        frame(&self.trace, &self.output, now, size, &self.look, false)
    }

    /// Removes the live area and writes what is to stay.
    pub(super) fn close(&mut self, now: SystemTime) {
        self.area.finish_and_clear();
        let _ = self.rows.clear();
        let out = self.last_words(now);
        let mut terminal = self.terminal.lock();
        terminal.buffer.extend_from_slice(&out);
        let _ = terminal.flush();
    }

    /// All rows, what failed steps printed, and where they stand in the Dockerfile.
    fn last_words(&self, now: SystemTime) -> Vec<u8> {
        let size = (self.terminal.size)().unwrap_or(USUAL_SIZE);
        let mut out = Vec::new();
        if self.trace.began().is_some() {
            for row in frame(&self.trace, &self.output, now, size, &self.look, true) {
                out.extend_from_slice(row.as_bytes());
                out.push(b'\n');
            }
        }
        for (id, vertex) in self.trace.failed() {
            let output = self.output.get(&id);
            let dropped = output.map_or(0, |output| output.dropped_lines);
            let note = format!("[{dropped} earlier lines are not shown; --progress=plain shows everything]");
            let lines = output.into_iter().flat_map(|output| output.held.iter().chain(output.log.lines()));
            let note = (dropped > 0).then_some(note.as_bytes());
            failure_block(&vertex.name, note.into_iter().chain(lines.map(Vec::as_slice)), &mut out);
        }
        out.extend_from_slice(self.trace.excerpts().as_bytes());
        out
    }
}

impl Output {
    fn new(log_lines: usize) -> Self {
        Self {
            window: Window::new(log_lines),
            log: Log::default(),
            held: VecDeque::new(),
            held_bytes: 0,
            dropped_lines: 0,
            bytes: 0,
        }
    }

    fn push(&mut self, since_start: Duration, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.window.push(data);
        self.log.push(since_start, data);
        for line in self.log.take_complete() {
            self.held_bytes += line.len();
            self.held.push_back(line);
        }
        while self.held_bytes > HELD_OUTPUT {
            let Some(line) = self.held.pop_front() else { break };
            self.held_bytes -= line.len();
            self.dropped_lines += 1;
        }
    }
}

/// One row before it is fitted into the terminal.
struct Row<'a> {
    name: String,
    status: Option<String>,
    took: Duration,
    kind: RowKind,
    /// The step it stands for, if it is a step's own row.
    step: Option<(VertexId, &'a Vertex)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RowKind {
    Running,
    Done,
    Canceled,
    Failed,
    Warning,
}

/// The lines to show at `now`; `all` of them, or as many as fit.
fn frame(
    trace: &Trace,
    output: &BTreeMap<VertexId, Output>,
    now: SystemTime,
    size: Size,
    look: &Look,
    all: bool,
) -> Vec<String> {
    let (width, height) = (usize::from(size.columns), usize::from(size.rows));
    let rows: Vec<_> = trace.started().flat_map(|(id, vertex)| rows_of(id, vertex, now)).collect();

    // Room for output goes to the steps that print most.
    let log_lines = look.log_lines.min(height.saturating_sub(OTHER_ROWS)).max(1);
    let mut talking: Vec<_> = rows
        .iter()
        .filter_map(|row| row.step)
        .filter(|(_, vertex)| vertex.is_running())
        .filter_map(|(id, _)| Some((id, output.get(&id)?)))
        .collect();
    talking.sort_by_key(|(_, output)| std::cmp::Reverse(output.bytes));
    let running = rows.iter().filter(|row| row.kind == RowKind::Running).count();
    let mut free = height.saturating_sub(2 + running);
    let mut windows = BTreeMap::new();
    for (id, output) in talking {
        if all || free <= log_lines + 3 {
            break;
        }
        free -= log_lines + 3;
        let mut lines = output.window.lines();
        lines.drain(..lines.len().saturating_sub(log_lines));
        windows.insert(id, lines);
    }

    let taken: usize = windows.values().map(Vec::len).sum();
    let shown = if all { rows } else { fold(rows, height.saturating_sub(2 + taken)) };

    let (ended, known) = trace.progress();
    let finished = if all && ended == known && ended > 0 { "FINISHED" } else { "" };
    let took = trace.began().map_or(0.0, |began| elapsed(began, now).as_secs_f64());
    let head = format!("[+] Building {took:.1}s ({ended}/{known}) {finished}");
    let head = justify(head.trim_end(), look.label, width.saturating_sub(1));
    let mut lines = vec![fit(head.trim_end(), width).to_owned()];
    for row in shown {
        let Some(line) = fitted(&row, width) else { continue };
        let color = look.colors.and_then(|colors| match row.kind {
            RowKind::Running => None,
            RowKind::Done => Some(colors.run),
            RowKind::Canceled => Some(colors.cancel),
            RowKind::Failed => Some(colors.error),
            RowKind::Warning => Some(colors.warning),
        });
        lines.push(color.map_or(line.clone(), |color| color.paint(&line)));
        for text in row.step.and_then(|(id, _)| windows.get(&id)).into_iter().flatten() {
            let text = format!(" => => # {}", fit(text, width.saturating_sub(INDENT)));
            lines.push(if look.colors.is_some() { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text });
        }
    }
    lines
}

/// The rows of one step: itself, its parts, its warnings.
fn rows_of(id: VertexId, vertex: &Vertex, now: SystemTime) -> Vec<Row<'_>> {
    let (prefix, kind) = match &vertex.state {
        State::Waiting | State::Running(_) => ("", RowKind::Running),
        State::Ended(_, _, Outcome::Done) => ("", RowKind::Done),
        State::Ended(_, _, Outcome::Cached) => ("CACHED ", RowKind::Done),
        State::Ended(_, _, Outcome::Canceled) => ("CANCELED ", RowKind::Canceled),
        State::Ended(_, _, Outcome::Error(_)) => ("ERROR ", RowKind::Failed),
    };
    let name = format!("{prefix}{}", vertex.name.replace(['\t', '\n', '\r'], " "));
    let took = vertex.duration(now);
    let mut rows = vec![Row { name, status: None, took, kind, step: Some((id, vertex)) }];
    for part in &vertex.parts {
        let status = &part.status;
        // A part that never reported its end is over when its step is.
        let over = status.completed || vertex.end().is_some();
        let until = if status.completed { part.at } else { vertex.end().map_or(now, |(at, _)| at) };
        rows.push(Row {
            name: format!("=> {}", status.id),
            status: match (status.current, status.total) {
                (0, 0) => None,
                (current, 0) => Some(decimal_size(current)),
                (current, total) => Some(format!("{} / {}", decimal_size(current), decimal_size(total))),
            },
            took: elapsed(part.since, until),
            kind: if over { RowKind::Done } else { RowKind::Running },
            step: None,
        });
    }
    rows.extend(vertex.warnings.iter().map(|warning| Row {
        name: format!("WARN: {}", warning.short),
        status: None,
        took,
        kind: RowKind::Warning,
        step: None,
    }));
    rows
}

/// The last `limit` rows; running ones that would be cut off take the places of ended ones.
fn fold(mut rows: Vec<Row<'_>>, limit: usize) -> Vec<Row<'_>> {
    let mut surplus = rows.len().saturating_sub(limit);
    rows.retain(|row| {
        let drop = surplus > 0 && row.kind != RowKind::Running;
        surplus -= usize::from(drop);
        !drop
    });
    let cut = rows.len().saturating_sub(limit);
    rows.drain(..cut);
    rows
}

/// ` => name status   1.2s`, or nothing if the terminal is too narrow for that.
fn fitted(row: &Row<'_>, width: usize) -> Option<String> {
    let seconds = row.took.as_secs_f64();
    let timer = format!("{:.1}s", if seconds < 0.05 { 0.0 } else { seconds });
    let mut left = width.checked_sub(4 + timer.len() + 3)?;
    let status = row.status.as_deref().filter(|status| left + status.len() > 20);
    if let Some(status) = status {
        left = left.checked_sub(status.len() + 1)?;
    }
    if left < 12 {
        return None;
    }
    let mut text = format!(" => {}", fit(&row.name, left));
    if let Some(status) = status {
        text.push(' ');
        text.push_str(status);
    }
    debug_assert!(columns(&text) < width);
    Some(justify(&text, &timer, width - 1))
}

/// The terminal as `indicatif` wants it: a frame is gathered and written in one piece.
#[derive(Clone)]
struct Terminal {
    out: Arc<Mutex<Buffered>>,
    size: fn() -> Option<Size>,
}

struct Buffered {
    sink: Sink,
    buffer: Vec<u8>,
}

impl Buffered {
    fn flush(&mut self) -> io::Result<()> {
        let result = self.sink.write_all(&self.buffer).and_then(|()| self.sink.flush());
        self.buffer.clear();
        result
    }
}

impl Terminal {
    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: &str) {
        self.lock().buffer.extend_from_slice(text.as_bytes());
    }

    fn cursor(&self, n: usize, direction: char) {
        if n > 0 {
            self.put(&format!("\u{1b}[{n}{direction}"));
        }
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        (self.size)().unwrap_or(USUAL_SIZE).columns
    }
    fn height(&self) -> u16 {
        (self.size)().unwrap_or(USUAL_SIZE).rows
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.cursor(n, 'A');
        Ok(())
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.cursor(n, 'B');
        Ok(())
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.cursor(n, 'C');
        Ok(())
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.cursor(n, 'D');
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text);
        self.put("\n");
        Ok(())
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\u{1b}[2K");
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        self.lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::ui::script::{self, Moment, Recorder};

    /// All frames a build gives on a terminal of 60 by 14, and what stays.
    fn run(case: &script::Case, colors: Option<Colors>) -> String {
        let look = Look { label: "rbuild", colors, log_lines: 6, interval: Duration::from_secs(1 << 30) };
        let recorder = Recorder::default();
        let mut screen = Tty::new(recorder.sink(), || Some(Size { columns: 60, rows: 14 }), look);
        let mut text = String::new();
        for moment in &case.moments {
            match moment {
                Moment::Event(event) => screen.observe(event),
                Moment::Tick(now) => {
                    let lines = screen.live(*now);
                    assert!(lines.len() <= 13, "the live area fits the terminal");
                    let _ = write!(text, "--- at {:.1}\n{}\n", script::seconds(*now), lines.join("\n"));
                }
            }
        }
        let words = screen.last_words(case.end);
        let _ = write!(text, "--- end\n{}", String::from_utf8_lossy(&words));
        screen.close(case.end);
        let written = recorder.text();
        assert!(written.ends_with(&*String::from_utf8_lossy(&words)), "what is to stay is written last");
        text
    }

    #[test]
    fn golden_cases() {
        for case in script::cases() {
            script::check(&case, "tty", &run(&case, None));
        }
    }

    #[test]
    fn colors() {
        let case =
            script::parse("colors", "0 vertex 1 a\n0 start 1\n1 cached 1\n1 vertex 2 b\n1 start 2\n2 error 2 x\n");
        let text = run(&case, Some(Colors::default()));
        assert!(text.contains("\u{1b}[34m => CACHED a"), "{text}");
        assert!(text.contains("\u{1b}[31m => ERROR b"), "{text}");
    }

    #[test]
    fn a_frame_replaces_the_one_before() {
        let recorder = Recorder::default();
        let look = Look { label: "", colors: None, log_lines: 6, interval: Duration::ZERO };
        let mut screen = Tty::new(recorder.sink(), || Some(Size { columns: 40, rows: 10 }), look);
        let case = script::parse("x", "0 vertex 1 a\n0 start 1\n1 done 1\n");
        for moment in &case.moments {
            if let Moment::Event(event) = moment {
                screen.observe(event);
            }
        }
        screen.close(case.end);
        let text = recorder.text();
        assert!(text.contains("\u{1b}[1A"), "goes up a row: {text:?}");
        assert_eq!(text.matches("FINISHED").count(), 1, "{text:?}");
    }

    #[test]
    fn nothing_but_the_last_words_stays_on_the_terminal() {
        for case in script::cases() {
            let recorder = Recorder::default();
            let look = Look { label: "rbuild", colors: None, log_lines: 6, interval: Duration::ZERO };
            let mut screen = Tty::new(recorder.sink(), || Some(Size { columns: 60, rows: 14 }), look);
            for moment in &case.moments {
                match moment {
                    Moment::Event(event) => screen.observe(event),
                    Moment::Tick(now) => screen.refresh(*now),
                }
            }
            let words = String::from_utf8(screen.last_words(case.end)).expect("scripts are UTF-8");
            screen.close(case.end);
            let left: Vec<_> = words.lines().map(str::trim_end).collect();
            assert_eq!(script::terminal_after(&recorder.text(), 60), left, "{}", case.name);
        }
    }

    #[test]
    fn running_rows_are_never_cut_off_while_ended_ones_are_shown() {
        let row =
            |name: &str, kind| Row { name: name.to_owned(), status: None, took: Duration::ZERO, kind, step: None };
        let names = |rows: Vec<Row<'_>>| rows.into_iter().map(|row| row.name).collect::<String>();
        let rows = || {
            vec![
                row("a", RowKind::Running),
                row("b", RowKind::Done),
                row("c", RowKind::Done),
                row("d", RowKind::Running),
            ]
        };
        assert_eq!(names(fold(rows(), 9)), "abcd");
        assert_eq!(names(fold(rows(), 3)), "acd");
        assert_eq!(names(fold(rows(), 2)), "ad");
        assert_eq!(names(fold(rows(), 1)), "d");
        assert_eq!(names(fold(rows(), 0)), "");
    }
}
