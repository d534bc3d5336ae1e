//! `--check` and `--call` through the binary: `testdata/lint/<case>/` is the context, `Dockerfile` the file asked about, `args` what
//! else is on the command line (`--check` if there is none). `expected.txt` names its reference rows (`U` is a number in the
//! list of what users want), then the exit status, the error line if any, and stdout.
//!
//! Expected texts are written by hand from the rows; there is no way to bless them. No case needs a registry.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Fewer cases than this means that some got lost.
const LEAST_CASES: usize = 120;

#[test]
fn every_case_is_answered_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/lint");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= LEAST_CASES, "only {} cases in {}", cases.len(), root.display());
    let store = tempfile::tempdir().unwrap();
    let failed: Vec<String> = cases.iter().filter_map(|case| differs(case, store.path())).collect();
    assert!(failed.is_empty(), "{} of {} cases differ\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn differs(case: &Path, store: &Path) -> Option<String> {
    let name = case.file_name().unwrap().to_string_lossy();
    let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (rows, expected) = expected.split_once('\n').unwrap_or_default();
    assert!(rows.starts_with("rows: "), "{name}: the first line must be `rows: L01 …`");
    let actual = answer(case, store);
    (actual != expected).then(|| format!("--- {name}: expected\n{expected}--- {name}: actual\n{actual}"))
}

fn answer(case: &Path, store: &Path) -> String {
    let typed = std::fs::read_to_string(case.join("args")).unwrap_or_else(|_| "--check".to_owned());
    let typed: Vec<&str> = typed.split_whitespace().collect();
    let question = typed.iter().any(|word| word.starts_with("--call") || *word == "--check");
    let output = Command::new(env!("CARGO_BIN_EXE_rbuild"))
        .current_dir(case)
        .env_clear()
        .arg("--root")
        .arg(store)
        .args((!question).then_some("--check"))
        .args(typed)
        .arg(".")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().map_or("signal".to_owned(), |code| code.to_string());
    let error = stderr.lines().find_map(|line| line.strip_prefix("ERROR: ")).map(|text| format!("error: {text}\n"));
    format!("exit {code}\n{}\n{}", error.unwrap_or_default(), String::from_utf8_lossy(&output.stdout))
}
