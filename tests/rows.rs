//! Every row of the reference that is about the language has a case: D001-D089, D160-D197, L01-L38 of the feature list (those
//! that exist), and all of what was observed (`O1` …). Cases name their rows in the first line of their expected text.
//!
//! A row without a case fails unless it is listed here with the place where it is tested instead. That a case names a row is not
//! believed: `testdata/rows.txt` says for each row what a case must have in it, or expect, to show it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Numbers that the reference uses, by letter.
const ROWS: &[(char, &[(u32, u32)])] = &[
    ('D', &[(1, 18), (20, 24), (30, 42), (50, 60), (70, 81), (160, 175), (180, 186), (190, 197)]),
    ('L', &[(1, 22), (30, 38)]),
    ('O', &[(1, 55)]),
];

/// Rows that no text case can show: where they are tested, and what stands there.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("D022", "src/dockerfile/directive.rs", "detect_syntax"),
    ("D081", "tests/registry/pulling.rs", "fn policies_decide_who_is_asked"),
    ("D185", "testdata/conformance/named-context/named/.dockerignore", "*.md"),
    ("L30", "src/ui/closing.rs", " 1 warning found (use --debug to expand):"),
    ("O19", "src/transfer/copy_tests.rs", "fn observed_19_"),
    ("O20", "src/transfer/copy_tests.rs", "fn observed_20_"),
    ("O21", "src/transfer/copy_tests.rs", "fn observed_21_"),
    ("O22", "src/transfer/copy_tests.rs", "fn observed_22_"),
    ("O23", "src/transfer/copy_tests.rs", "fn observed_23_"),
    ("O24", "src/transfer/copy_tests.rs", "fn observed_24_"),
    ("O25", "src/transfer/copy_tests.rs", "fn observed_25_"),
    ("O26", "src/transfer/copy_tests.rs", "fn observed_26_"),
    ("O27", "src/transfer/copy_tests.rs", "fn observed_27_"),
    ("O28", "src/transfer/copy_tests.rs", "fn observed_28_"),
    ("O29", "src/transfer/copy_tests.rs", "fn observed_29_"),
    ("O30", "src/transfer/copy_tests.rs", "fn observed_30_"),
    ("O31", "src/transfer/copy_tests.rs", "fn observed_31_33_"),
    ("O32", "src/transfer/copy_tests.rs", "fn observed_32_"),
    ("O33", "src/transfer/copy_tests.rs", "fn observed_31_33_"),
    ("O36", "src/transfer/add_tests.rs", "fn observed_36_"),
    ("O37", "src/transfer/add_tests.rs", "fn observed_37_"),
    ("O38", "src/transfer/add_tests.rs", "fn observed_38_"),
    ("O42", "src/transfer/users.rs", "fn observed_42_users_of_processes"),
    ("O49", "tests/sandbox/behaviours.rs", "fn first_process_of_its_namespace"),
    ("O50", "tests/sandbox/behaviours.rs", "fn nothing_stays"),
    ("O51", "testdata/conformance/cache-mounts/Dockerfile", "from=seed"),
    ("O53", "testdata/conformance/secrets/Dockerfile", "--mount=type=ssh"),
    ("O54", "testdata/conformance/network-host-is-refused/Dockerfile", "--network=host"),
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

/// A case: the rows it names, and the lines of what goes in and of what is expected.
struct Case {
    name: String,
    rows: Vec<String>,
    given: Vec<String>,
    expected: Vec<String>,
}

impl Case {
    fn read(path: &Path, inner: Option<&str>) -> Self {
        let name = path.strip_prefix(root().join("testdata")).unwrap().display().to_string();
        let mut case = Self { name, rows: Vec::new(), given: Vec::new(), expected: Vec::new() };
        let main = inner.map_or(path.to_owned(), |inner| path.join(inner));
        for file in files(path) {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
            let mut lines: Vec<String> = text.split('\n').map(|line| format!("\n{line}\n")).collect();
            if file == main {
                let first = lines.remove(0);
                let ids = first.trim().strip_prefix("rows: ").unwrap_or_else(|| panic!("{} names no rows", case.name));
                case.rows = ids.split(' ').map(str::to_owned).collect();
                case.expected.clone_from(&lines);
            }
            // Of a case in one file both are in it.
            if file != main || inner.is_none() {
                case.given.extend(lines);
            }
        }
        case
    }

    fn shows(&self, mark: &Mark) -> bool {
        let given = self.given.iter().filter(|_| mark.place != "out");
        let expected = self.expected.iter().filter(|_| mark.place != "in");
        given.chain(expected).any(|line| mark.fits(line))
    }
}

/// All files of a case, or the file that is the case.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        // Some are links that lead nowhere.
        return if path.is_file() { vec![path.to_owned()] } else { Vec::new() };
    }
    std::fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect()
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (folder, inner) in CASES {
        for entry in std::fs::read_dir(root().join("testdata").join(folder)).unwrap() {
            cases.push(Case::read(&entry.unwrap().path(), *inner));
        }
    }
    cases
}

/// A line of `testdata/rows.txt`, which says how to read it.
struct Mark {
    line: String,
    row: String,
    each: bool,
    place: String,
    parts: Vec<String>,
}

impl Mark {
    fn parse(line: &str) -> Self {
        let [row, kind, place, pattern] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        assert!(["each", "some"].contains(&kind) && ["in", "out", "any"].contains(&place), "{line:?}");
        let signs =
            [("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"), ("\\f", "\u{c}"), ("\\v", "\u{b}"), ("\\B", "\u{feff}")];
        let pattern = signs.iter().fold(pattern.to_owned(), |text, (sign, meant)| text.replace(sign, meant));
        Self {
            line: line.to_owned(),
            row: row.to_owned(),
            each: kind == "each",
            place: place.to_owned(),
            parts: pattern.split(" .. ").map(str::to_owned).collect(),
        }
    }

    /// Whether all parts stand in this line, one behind the other.
    fn fits(&self, line: &str) -> bool {
        let mut rest = line;
        self.parts.iter().all(|part| {
            let behind = rest.find(part).map(|at| &rest[at + part.len()..]);
            rest = behind.unwrap_or_default();
            behind.is_some()
        })
    }
}

fn marks() -> Vec<Mark> {
    let text = std::fs::read_to_string(root().join("testdata/rows.txt")).unwrap();
    text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#')).map(Mark::parse).collect()
}

fn shown_rows() -> BTreeSet<String> {
    cases().into_iter().flat_map(|case| case.rows).collect()
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
        wanted_rows().into_iter().filter(|row| !shown.contains(row) && !elsewhere.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "no case shows {}", missing.join(" "));
}

#[test]
fn cases_show_what_they_name() {
    let (cases, marks) = (cases(), marks());
    let mut faults = Vec::new();
    for row in wanted_rows().union(&marks.iter().map(|mark| mark.row.clone()).collect()) {
        let naming: Vec<&Case> = cases.iter().filter(|case| case.rows.contains(row)).collect();
        let (each, some): (Vec<&Mark>, Vec<&Mark>) =
            marks.iter().filter(|mark| mark.row == *row).partition(|mark| mark.each);
        if each.is_empty() && !naming.is_empty() {
            faults.push(format!("testdata/rows.txt does not say what shows {row}"));
        }
        let blind = naming.iter().filter(|case| !each.iter().any(|mark| case.shows(mark)));
        faults.extend(
            blind.filter(|_| !each.is_empty()).map(|case| format!("{} names {row} and does not show it", case.name)),
        );
        let lost = some.iter().filter(|mark| !naming.iter().any(|case| case.shows(mark)));
        faults.extend(lost.map(|mark| format!("no case shows `{}`", mark.line)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What every other case shows, too, is no mark of a row.
#[test]
fn marks_tell_cases_apart() {
    let (cases, marks) = (cases(), marks());
    for row in marks.iter().map(|mark| &mark.row).collect::<BTreeSet<_>>() {
        let of_row: Vec<&Mark> = marks.iter().filter(|mark| mark.row == *row && mark.each).collect();
        let count = cases.iter().filter(|case| of_row.iter().any(|mark| case.shows(mark))).count();
        assert!(count * 3 < cases.len() * 2, "{row}: {count} of {} cases show its marks", cases.len());
    }
}

#[test]
fn exceptions_exist_and_are_needed() {
    for (row, place, shown) in ELSEWHERE {
        assert!(wanted_rows().contains(*row), "{row} is no row that needs a case");
        let text = std::fs::read_to_string(root().join(place)).unwrap_or_else(|e| panic!("{row}: {place}: {e}"));
        assert!(text.contains(shown), "{row}: {place} has no {shown:?}");
        assert!(!shown_rows().contains(*row), "{row} has a case now");
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
