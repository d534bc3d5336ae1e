//! Every row of the reference that is about the language has a case: D001-D089, D160-D197, L01-L38 of the feature list (those
//! that exist), and 1-18, 39-48 of what was observed (`O1` …). Cases name their rows in the first line of their expected text.
//!
//! A row without a case fails unless it is listed here with the place where it is tested instead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Numbers that the reference uses, by letter.
const ROWS: &[(char, &[(u32, u32)])] = &[
    ('D', &[(1, 18), (20, 24), (30, 42), (50, 60), (70, 81), (160, 175), (180, 186), (190, 197)]),
    ('L', &[(1, 22), (30, 38)]),
    ('O', &[(1, 18), (39, 48)]),
];

/// Rows that no text case can show, and where they are tested.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("D022", "src/dockerfile/directive.rs", "detect_syntax: which frontend a file asks for, not how it is read"),
    ("D081", "tests/registry/pulling.rs", "when registries are asked"),
    ("D185", "src/context/context_tests.rs", "each local context has its own ignore file"),
    ("O42", "tests/sandbox/behaviours.rs", "users and groups of processes"),
    ("L30", "src/ui/closing.rs", "the summary at the end of a build"),
];

/// Folders of cases, with what holds the rows.
const CASES: &[(&str, Option<&str>)] = &[
    ("parse", Some("expected.txt")),
    ("plan", Some("expected.txt")),
    ("lint", Some("expected.txt")),
    ("words", None),
    ("mounts", None),
    ("ignore", None),
];

/// There are at least this many cases in `parse`, `plan` and `lint`.
const LEAST_CASES: usize = 330;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (folder, inner) in CASES {
        for entry in std::fs::read_dir(root().join("testdata").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            files.push(inner.map_or(path.clone(), |inner| path.join(inner)));
        }
    }
    files
}

fn shown_rows() -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for file in cases() {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let line = text.lines().next().unwrap_or_default();
        let ids = line.strip_prefix("rows: ").unwrap_or_else(|| panic!("{} names no rows", file.display()));
        for id in ids.split(' ') {
            *rows.entry(id.to_owned()).or_default() += 1;
        }
    }
    rows
}

fn wanted_rows() -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for (letter, ranges) in ROWS {
        for number in ranges.iter().flat_map(|(first, last)| *first..=*last) {
            wanted.insert(match letter {
                'D' => format!("D{number:03}"),
                'L' => format!("L{number:02}"),
                _ => format!("{letter}{number}"),
            });
        }
    }
    wanted
}

#[test]
fn every_row_has_a_case() {
    let shown = shown_rows();
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(row, ..)| *row).collect();
    let missing: Vec<String> =
        wanted_rows().into_iter().filter(|row| !shown.contains_key(row) && !elsewhere.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "no case shows {}", missing.join(" "));
}

#[test]
fn exceptions_exist_and_are_needed() {
    for (row, place, reason) in ELSEWHERE {
        assert!(wanted_rows().contains(*row), "{row} is no row that needs a case");
        assert!(Path::new(&root().join(place)).exists(), "{row}: {place} is gone");
        assert!(!reason.is_empty());
        assert!(!shown_rows().contains_key(*row), "{row} has a case now");
    }
}

#[test]
fn there_are_enough_cases() {
    let count: usize = ["parse", "plan", "lint"]
        .iter()
        .map(|folder| std::fs::read_dir(root().join("testdata").join(folder)).unwrap().count())
        .sum();
    assert!(count >= LEAST_CASES, "only {count} cases");
}
