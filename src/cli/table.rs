//! Lists in columns, spaced as Docker's are.
//!
//! Pure.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::ui::{columns, duration_words};

/// Blanks between columns.
const GAP: usize = 3;
/// No column but the last is narrower, gap included.
const NARROWEST: usize = 10;

/// Rows below their headings; all have as many cells as there are headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(columns);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = columns(cell).max(*width);
        }
    }
    let mut out = String::new();
    let mut line = |cells: [&str; N]| {
        for (index, cell) in cells.iter().enumerate() {
            let gap = (widths[index] + GAP).max(NARROWEST).saturating_sub(columns(cell));
            let gap = if index + 1 == N { 0 } else { gap };
            let _ = write!(out, "{cell}{:gap$}", "");
        }
        out.push('\n');
    };
    line(headings);
    for row in rows {
        line(std::array::from_fn(|index| row[index].as_str()));
    }
    out
}

/// One object a line.
pub(super) fn json_lines(objects: impl Iterator<Item = serde_json::Value>) -> String {
    objects.fold(String::new(), |mut out, object| {
        let _ = writeln!(out, "{object}");
        out
    })
}

/// `4 hours ago`; nothing for what never was, or lies in the future.
pub(super) fn ago(at: Option<SystemTime>, now: SystemTime) -> String {
    match at.map(|at| now.duration_since(at)) {
        None => "N/A".to_owned(),
        Some(since) => format!("{} ago", duration_words(since.unwrap_or(Duration::ZERO))),
    }
}

/// RFC 3339, empty for what never was.
pub(super) fn timestamp(at: Option<SystemTime>) -> String {
    at.and_then(|at| jiff::Timestamp::try_from(at).ok()).map(|at| at.to_string()).unwrap_or_default()
}

/// An image ID as lists show it: 12 digits, or all of it with its algorithm.
pub(super) fn shown_id(id: &str, whole: bool) -> String {
    if whole {
        return id.to_owned();
    }
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_wide_enough() {
        let rows = [["a".to_owned(), "b".to_owned()], ["a long cell".to_owned(), "日本".to_owned()]];
        assert_eq!(table(["X", "LAST"], &rows), "X             LAST\na             b\na long cell   日本\n");
        assert_eq!(table(["ID", "LAST"], &[]), "ID        LAST\n");
    }

    #[test]
    fn ids() {
        assert_eq!(shown_id("sha256:0123456789abcdef", false), "0123456789ab");
        assert_eq!(shown_id("sha256:0123456789abcdef", true), "sha256:0123456789abcdef");
    }
}
