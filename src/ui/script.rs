//! Builds written as text, for the tests of the screens: `testdata/progress/*.events`, one event a line.
//!
//! `SECONDS WORD VERTEX TEXT`; words: vertex, start, log, err (log on stderr), part (`NAME|CURRENT|TOTAL` and `|done`), warn,
//! excerpt, done, cached, canceled, error; `SECONDS tick` lets time pass. `\n`, `\r` and `\t` in TEXT mean what they usually do.
//! The result of each screen stands beside it as `<case>.<screen>.snap`.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::display::Sink;
use crate::event::{Event, EventKind, Outcome, Place, Status, Stream, VertexId, Warning};
use crate::source::{Lines, Source};

/// One line of a script.
pub(super) enum Moment {
    Event(Event),
    Tick(SystemTime),
}

/// One script.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) moments: Vec<Moment>,
    pub(super) end: SystemTime,
}

/// Where all scripts begin.
fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

pub(super) fn seconds(at: SystemTime) -> f64 {
    at.duration_since(epoch()).expect("scripts do not begin before their epoch").as_secs_f64()
}

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/progress");

/// All scripts on disk.
pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = fs_err::read_dir(DIRECTORY)
        .expect("testdata is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "events"))
        .map(|path| {
            let name = path.file_stem().expect("it has an extension").to_string_lossy().into_owned();
            parse(&name, &fs_err::read_to_string(path).expect("readable"))
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!cases.is_empty());
    cases
}

/// Reads a script.
pub(super) fn parse(name: &str, text: &str) -> Case {
    let mut end = epoch();
    let mut moments = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.splitn(4, ' ');
        let at: f64 = words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("time in {line}"));
        let time = epoch() + Duration::from_millis((at * 1000.0).round() as u64);
        end = time;
        let word = words.next().unwrap_or_default();
        if word == "tick" {
            moments.push(Moment::Tick(time));
            continue;
        }
        let vertex =
            VertexId(words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("vertex in {line}")));
        let text = words.next().unwrap_or_default().replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t");
        let kind = match word {
            "vertex" => EventKind::Vertex {
                name: text,
                inputs: vertex.0.checked_sub(1).filter(|n| *n > 0).map(VertexId).into_iter().collect(),
            },
            "start" => EventKind::Started,
            "log" => EventKind::Log(Stream::Stdout, text.into_bytes()),
            "err" => EventKind::Log(Stream::Stderr, text.into_bytes()),
            "part" => {
                let mut fields = text.split('|');
                let id = fields.next().unwrap_or_default().to_owned();
                let mut number = || fields.next().and_then(|text| text.parse().ok()).unwrap_or(0);
                let (current, total) = (number(), number());
                EventKind::Status(Status { id, current, total, completed: text.ends_with("|done") })
            }
            "warn" => EventKind::Warning(Warning {
                short: text,
                detail: vec!["What it means".to_owned()],
                url: None,
                place: Some(Place {
                    source: Source::new("Dockerfile", "FROM a AS B\n"),
                    lines: Lines { first: 1, last: 1 },
                }),
            }),
            "excerpt" => EventKind::Excerpt(text),
            "done" => EventKind::Finished(Outcome::Done),
            "cached" => EventKind::Finished(Outcome::Cached),
            "canceled" => EventKind::Finished(Outcome::Canceled),
            "error" => EventKind::Finished(Outcome::Error(text)),
            other => panic!("unknown word {other}"),
        };
        moments.push(Moment::Event(Event { vertex, time, kind }));
    }
    Case { name: name.to_owned(), moments, end }
}

/// Compares with the file beside the script.
pub(super) fn check(case: &Case, screen: &str, text: &str) {
    insta::with_settings!({ snapshot_path => DIRECTORY, prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(format!("{}.{screen}", case.name), text);
    });
}

/// What stands on a terminal of that width and endless height after `text` was written to it.
pub(super) fn terminal_after(text: &str, width: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    let (mut row, mut full) = (0_usize, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\u{1b}' => {
                let end = rest.find(|c: char| c.is_ascii_alphabetic()).expect("a final byte");
                let count = rest[1..end].parse().unwrap_or(1);
                match &rest[end..=end] {
                    "A" => row = row.checked_sub(count).expect("not above the first row"),
                    "B" => row += count,
                    "K" => rows[row].clear(),
                    other => panic!("escape {other}"),
                }
                full = false;
                rest = &rest[end + 1..];
            }
            // Whatever is cleared or rewritten is so from its first column on.
            '\r' => full = false,
            '\n' => (row, full) = (row + 1, false),
            c => {
                row += usize::from(std::mem::take(&mut full));
                rows.resize(rows.len().max(row + 1), String::new());
                rows[row].push(c);
                full = rows[row].chars().count() == width;
            }
        }
        rows.resize(rows.len().max(row + 1), String::new());
    }
    rows.truncate(rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1));
    rows.into_iter().map(|row| row.trim_end().to_owned()).collect()
}

/// A sink that remembers.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Vec<u8>>>);

impl Recorder {
    pub(super) fn sink(&self) -> Sink {
        Box::new(self.clone())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic while writing")).into_owned()
    }
}

impl Write for Recorder {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while writing").extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
