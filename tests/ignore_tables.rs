//! Tables of `.dockerignore`: `testdata/ignore/*.txt`. A line with the reference rows, the ignore file, `---`, and then paths with
//! whether they are in the context or out of it; or one line `error …` with words of the fault.

use std::path::Path;

use rbuild::context::Ignore;

#[test]
fn paths_are_in_or_out_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ignore");
    let mut failed = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let (rows, text) = text.split_once('\n').unwrap();
        assert!(rows.starts_with("rows: "), "{name} names no rows");
        let (file, paths) = text.split_once("\n---\n").unwrap_or_else(|| panic!("{name}: no ---"));
        let ignore = Ignore::parse(".dockerignore", file.as_bytes());
        for line in paths.lines() {
            count += 1;
            if let Some(words) = line.strip_prefix("error ") {
                let message = ignore.as_ref().err().map(ToString::to_string).unwrap_or_default();
                if !message.contains(words) {
                    failed.push(format!("{name}: expected the fault {words:?}, got {message:?}"));
                }
                continue;
            }
            let (path, expected) = line.rsplit_once(" | ").unwrap_or_else(|| panic!("{name}: {line}"));
            let ignore = ignore.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
            let actual = if ignore.patterns().matches(path.as_bytes()) { "out" } else { "in" };
            if actual != expected {
                failed.push(format!("{name}: {path} is {actual}, expected {expected}"));
            }
        }
    }
    assert!(count >= 60, "only {count} lines");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
