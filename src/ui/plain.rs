//! `--progress=plain`: the build as a log that grows at its end.
//!
//! Vertices get their numbers in the order they are first shown. One vertex is shown at a time; which one is decided a few
//! times a second by [`Plain::print`], so that parallel steps do not interleave line by line: ended ones first, then the
//! current one, and another only when it waited too long or the current one had its share. Nothing is ever left out: what a
//! hidden vertex wrote is kept until it is shown. Knows no terminal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::display::Sink;
use super::log::Log;
use super::trace::{Trace, Vertex};
use super::units::decimal_size;
use crate::event::{Event, EventKind, Outcome, VertexId, elapsed};

/// At least this long one vertex stays when others have something to show too.
const STAY: Duration = Duration::from_secs(5);
/// Longer than this nobody stays hidden with something to show.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A part is shown again after this time...
const PART_INTERVAL: Duration = Duration::from_secs(5);
/// ...or after this share of its total.
const PART_SHARE: f64 = 0.05;
/// Lines repeated at the end for a vertex that failed.
const LAST_LINES: usize = 10;
/// No more often than this the log is written.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);

/// The screen.
pub(super) struct Plain {
    sink: Sink,
    /// Shown as `#0 …` before anything else.
    header: Option<String>,
    trace: Trace,
    lanes: BTreeMap<VertexId, Lane>,
    /// Those with something to show.
    changed: BTreeSet<VertexId>,
    /// The one whose lines are being shown.
    current: Option<VertexId>,
    next_number: u32,
    wrote: Option<SystemTime>,
}

/// What of a vertex was shown and what was not.
#[derive(Default)]
struct Lane {
    number: Option<u32>,
    log: Log,
    /// Bytes of the open line that stand on the screen as its last line.
    open_shown: usize,
    last_lines: VecDeque<Vec<u8>>,
    parts_changed: BTreeSet<String>,
    parts_shown: BTreeMap<String, (u64, SystemTime)>,
    warnings_shown: usize,
    /// Reports since it was last opened or closed, and when the first of them came: its speed.
    reports: u32,
    since: Option<SystemTime>,
}

impl Lane {
    fn report(&mut self, now: SystemTime) {
        if self.reports == 0 {
            self.since = Some(now);
        }
        self.reports += 1;
    }

    /// How long it has had something to show, and how many reports came a second.
    fn speed(&self, now: SystemTime) -> (Duration, f64) {
        let waiting = self.since.map_or(Duration::ZERO, |since| elapsed(since, now));
        (waiting, f64::from(self.reports) / waiting.as_secs_f64().max(0.001))
    }
}

impl Plain {
    pub(super) fn new(sink: Sink, header: Option<String>) -> Self {
        Self {
            sink,
            header,
            trace: Trace::default(),
            lanes: BTreeMap::new(),
            changed: BTreeSet::new(),
            current: None,
            next_number: 1,
            wrote: None,
        }
    }

    /// Takes an event in and, if it is time, writes.
    pub(super) fn observe(&mut self, event: &Event) {
        if !self.trace.apply(event) {
            return;
        }
        let since_start = self
            .trace
            .get(event.vertex)
            .and_then(Vertex::since)
            .map_or(Duration::ZERO, |since| elapsed(since, event.time));
        let lane = self.lanes.entry(event.vertex).or_default();
        match &event.kind {
            EventKind::Vertex { .. } | EventKind::Excerpt(_) => return,
            EventKind::Log(_, data) => lane.log.push(since_start, data),
            EventKind::Status(status) => {
                lane.parts_changed.insert(status.id.clone());
            }
            EventKind::Started | EventKind::Warning(_) | EventKind::Finished(_) => {}
        }
        lane.report(event.time);
        self.changed.insert(event.vertex);
        if self.wrote.is_none_or(|wrote| elapsed(wrote, event.time) >= WRITE_INTERVAL) {
            self.refresh(event.time);
        }
    }

    /// Writes what is due at `now`; called now and then when no event comes.
    pub(super) fn refresh(&mut self, now: SystemTime) {
        let mut out = Vec::new();
        self.print(now, &mut out);
        self.wrote = Some(now);
        self.write(&out);
    }

    /// Writes everything not yet shown, and the end of the build.
    pub(super) fn close(&mut self, now: SystemTime) {
        let mut out = Vec::new();
        self.print(now, &mut out);
        for id in std::mem::take(&mut self.changed) {
            self.show(id, now, &mut out);
        }
        for (id, vertex) in self.trace.failed() {
            failure_block(&vertex.name, self.lanes.get(&id).into_iter().flat_map(Lane::tail), &mut out);
        }
        out.extend_from_slice(self.trace.excerpts().as_bytes());
        self.write(&out);
    }

    fn write(&mut self, out: &[u8]) {
        // A sink that is gone (closed pipe) must not stop the build.
        let _ = self.sink.write_all(out).and_then(|()| self.sink.flush());
    }

    /// Chooses what to show now.
    fn print(&mut self, now: SystemTime, out: &mut Vec<u8>) {
        let current = self.current;
        let ended = |id: &VertexId| self.trace.get(*id).and_then(Vertex::end).map(|(at, _)| at);
        let mut done: Vec<_> = self.changed.iter().filter_map(|id| Some((ended(id)?, *id))).collect();
        let mut rest: Vec<_> = self.changed.iter().copied().filter(|id| ended(id).is_none()).collect();
        done.sort_by_key(|(at, id)| (Some(*id) != current, *at, *id));
        let current_ended = done.iter().any(|(_, id)| Some(*id) == current);
        for (_, id) in done {
            self.show(id, now, out);
        }

        if rest.is_empty() {
            let running = |id: VertexId| self.trace.get(id).is_some_and(Vertex::is_running);
            if !current.is_some_and(running) {
                let open = self.trace.started().find(|(_, vertex)| vertex.is_running()).map(|(id, _)| id);
                if let Some(id) = open {
                    self.show(id, now, out);
                }
            }
            return;
        }
        if let Some(id) = current.filter(|id| rest.contains(id)) {
            self.show(id, now, out);
        } else if let Some(id) = current {
            rest.push(id);
        }
        let speeds: Vec<_> = rest.iter().filter_map(|id| Some((*id, self.lanes.get(id)?.speed(now)))).collect();
        let over_limit = |id: VertexId, waiting: Duration| waiting > LONGEST_WAIT && Some(id) != current;
        let Some(busiest) = speeds
            .iter()
            .copied()
            .reduce(|best, next| if over_limit(next.0, next.1.0) || next.1.1 > best.1.1 { next } else { best })
        else {
            return;
        };
        let Some(id) = current.filter(|_| !current_ended) else {
            self.show(busiest.0, now, out);
            return;
        };
        if let Some((hidden, _)) = speeds.iter().find(|(id, (waiting, _))| over_limit(*id, *waiting)) {
            self.show(*hidden, now, out);
            return;
        }
        let total: f64 = speeds.iter().map(|(_, (_, speed))| speed).sum();
        if let Some((_, (stayed, speed))) = speeds.iter().find(|(other, _)| *other == id) {
            let share = speed / total;
            if STAY.as_secs_f64() / (1.0 - share) < stayed.as_secs_f64() {
                self.show(busiest.0, now, out);
            }
        }
    }

    /// Shows all that is new of one vertex and makes it the current one.
    fn show(&mut self, id: VertexId, now: SystemTime, out: &mut Vec<u8>) {
        self.changed.remove(&id);
        let Some(vertex) = self.trace.get(id) else { return };
        if self.current != Some(id) {
            if let Some(lane) = self.current.and_then(|old| self.lanes.get_mut(&old)) {
                if lane.open_shown > 0 {
                    out.push(b'\n');
                }
                lane.open_shown = 0;
                lane.reports = 0;
                line(out, lane.number, "...");
            }
            if self.next_number > 1 {
                out.push(b'\n');
            } else if let Some(header) = &self.header {
                line(out, Some(0), header);
                out.push(b'\n');
            }
        }
        let lane = self.lanes.entry(id).or_default();
        let number = *lane.number.get_or_insert_with(|| {
            self.next_number += 1;
            self.next_number - 1
        });
        if self.current != Some(id) {
            line(out, Some(number), &vertex.name);
        }
        lane.parts(number, vertex, out);
        for warning in &vertex.warnings[lane.warnings_shown..] {
            lane.break_line(out);
            line(out, Some(number), &format!("WARN: {}", warning.short));
        }
        lane.warnings_shown = vertex.warnings.len();
        lane.lines(number, out);
        self.current = Some(id);
        if let Some((_, outcome)) = vertex.end() {
            lane.break_line(out);
            lane.reports = 0;
            let text = match outcome {
                Outcome::Done => format!("DONE {:.1}s", vertex.duration(now).as_secs_f64()),
                Outcome::Cached => "CACHED".to_owned(),
                Outcome::Canceled => "CANCELED".to_owned(),
                Outcome::Error(text) => format!("ERROR: {text}"),
            };
            line(out, Some(number), &text);
            self.current = None;
        }
    }
}

impl Lane {
    /// Ends the open line on the screen, if it is the last thing there. Its rest, if any, will begin a line of its own.
    fn break_line(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.open_shown) > 0 {
            out.push(b'\n');
        }
    }

    fn parts(&mut self, number: u32, vertex: &Vertex, out: &mut Vec<u8>) {
        let changed = std::mem::take(&mut self.parts_changed);
        for part in vertex.parts.iter().filter(|part| changed.contains(&part.status.id)) {
            let status = &part.status;
            if let Some((shown, at)) = self.parts_shown.get(&status.id).filter(|_| !status.completed) {
                let grown = status.current.saturating_sub(*shown);
                #[expect(clippy::cast_precision_loss, reason = "a share only")]
                let share = if status.total > 0 { grown as f64 / status.total as f64 } else { 0.0 };
                if share < PART_SHARE && elapsed(*at, part.at) < PART_INTERVAL {
                    continue;
                }
            }
            self.parts_shown.insert(status.id.clone(), (status.current, part.at));
            self.break_line(out);
            let mut text = status.id.clone();
            if status.total != 0 {
                let _ = write!(text, " {} / {}", decimal_size(status.current), decimal_size(status.total));
            } else if status.current != 0 {
                let _ = write!(text, " {}", decimal_size(status.current));
            }
            let took = elapsed(part.since, part.at).as_secs_f64();
            if took > 0.01 {
                let _ = write!(text, " {took:.1}s");
            }
            if status.completed {
                text += " done";
            }
            line(out, Some(number), &text);
        }
    }

    fn lines(&mut self, number: u32, out: &mut Vec<u8>) {
        let open = self.log.is_open();
        let count = self.log.lines().len();
        for (index, text) in self.log.lines().iter().enumerate() {
            if index == 0 && self.open_shown > 0 {
                out.extend_from_slice(&text[self.open_shown..]);
            } else {
                out.extend_from_slice(format!("#{number} ").as_bytes());
                out.extend_from_slice(text);
            }
            let is_open = open && index + 1 == count;
            self.open_shown = if is_open { text.len() } else { 0 };
            if !is_open {
                out.push(b'\n');
            }
        }
        self.last_lines.extend(self.log.take_complete());
        self.last_lines.drain(..self.last_lines.len().saturating_sub(LAST_LINES));
    }

    /// The last lines, with the open one.
    fn tail(&self) -> impl Iterator<Item = &[u8]> {
        let open = self.log.lines();
        let skip = (self.last_lines.len() + open.len()).saturating_sub(LAST_LINES);
        self.last_lines.iter().chain(open).map(Vec::as_slice).skip(skip)
    }
}

fn line(out: &mut Vec<u8>, number: Option<u32>, text: &str) {
    out.extend_from_slice(format!("#{} {text}\n", number.unwrap_or_default()).as_bytes());
}

/// What a step printed before it failed, set apart by rules.
pub(super) fn failure_block<'a>(name: &str, lines: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("------\n > {name}:\n").as_bytes());
    for text in lines {
        out.extend_from_slice(text);
        out.push(b'\n');
    }
    out.extend_from_slice(b"------\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::script::{self, Moment, Recorder};

    fn run(case: &script::Case) -> String {
        let recorder = Recorder::default();
        let mut screen = Plain::new(recorder.sink(), Some("building with rbuild".to_owned()));
        for moment in &case.moments {
            match moment {
                Moment::Event(event) => screen.observe(event),
                Moment::Tick(now) => screen.refresh(*now),
            }
        }
        screen.close(case.end);
        recorder.text()
    }

    #[test]
    fn golden_cases() {
        for case in script::cases() {
            script::check(&case, "plain", &run(&case));
        }
    }

    #[test]
    fn nothing_is_ever_left_out() {
        let mut text = String::from("0 vertex 1 a\n0 vertex 2 b\n0 start 1\n0 start 2\n");
        for n in 0..2000 {
            let _ = writeln!(text, "{} log {} line-{n}\\n", f64::from(n) * 0.013, 1 + n % 2);
        }
        text += "30 done 1\n30 done 2\n";
        let shown = run(&script::parse("many", &text));
        for n in 0..2000 {
            assert_eq!(shown.matches(&format!(" line-{n}\n")).count(), 1, "line {n}");
        }
    }
}
