//! Tables of words and mounts: `testdata/words/*.txt` and `testdata/mounts/*.txt`. After a header (`rows:`, `env:`, `mode:`,
//! `escape:`) each line is `input | expected`; an expected `error …` is the fault.

use std::fmt::Write as _;
use std::path::Path;

use rbuild::dockerfile::mount::{self, Mount};
use rbuild::dockerfile::words::{WordError, expand, expand_for_show, expand_heredoc, expand_list};

struct Table {
    name: String,
    variables: Vec<(String, String)>,
    mode: String,
    escape: char,
    lines: Vec<(String, String)>,
}

impl Table {
    fn read(path: &Path) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let header = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        assert!(header("rows: ").is_some_and(|rows| !rows.is_empty()), "{name} names no rows");
        let mut variables: Vec<(String, String)> = Vec::new();
        for word in header("env: ").unwrap_or_default().split(' ') {
            match word.split_once('=') {
                Some((key, value)) => variables.push((key.to_owned(), value.to_owned())),
                // A blank inside a value.
                None => write!(variables.last_mut().unwrap().1, " {word}").unwrap(),
            }
        }
        let lines =
            text.lines().filter_map(|line| line.split_once(" | ").or_else(|| line.strip_suffix(" |").map(|l| (l, ""))));
        Self {
            variables,
            mode: header("mode: ").unwrap_or_else(|| "word".to_owned()),
            escape: header("escape: ").map_or('\\', |escape| escape.chars().next().unwrap()),
            lines: lines.map(|(input, expected)| (input.to_owned(), expected.to_owned())).collect(),
            name,
        }
    }

    fn env(&self, name: &str) -> Option<String> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }
}

fn each_table(folder: &str, least: usize, run: impl Fn(&Table, &str) -> String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let (mut count, mut failed) = (0, String::new());
    for table in paths.iter().map(|path| Table::read(path)) {
        for (input, expected) in &table.lines {
            count += 1;
            let actual = run(&table, input);
            if actual != *expected {
                writeln!(failed, "{}: {input:?} gives {actual:?}, expected {expected:?}", table.name).unwrap();
            }
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
    assert!(count >= least, "only {count} lines in {folder}");
}

#[test]
fn words() {
    each_table("words", 150, |table, input| {
        let env = |name: &str| table.env(name);
        let result = match table.mode.as_str() {
            "word" => expand(input, &env, table.escape).map(|expanded| expanded.text),
            "list" => expand_list(input, &env, table.escape).map(|words| words.join(",")),
            "heredoc" => expand_heredoc(input, &env).map(|expanded| expanded.text),
            "show" => Ok(expand_for_show(input, &env, table.escape)),
            other => panic!("{}: no mode {other}", table.name),
        };
        result.unwrap_or_else(|WordError { reason, .. }| format!("error {reason}"))
    });
}

#[test]
fn mounts() {
    each_table("mounts", 50, |table, input| {
        let mut expander = |word: &str| expand(word, &|name| table.env(name), '\\').map(|expanded| expanded.text);
        mount::parse(input, &mut expander).map_or_else(|error| format!("error {error}"), |mount| show(&mount))
    });
}

/// What was given, in a fixed order.
fn show(mount: &Mount) -> String {
    let Mount { kind, from, source, target, read_only, size_limit, id, sharing, required, env, mode, uid, gid } = mount;
    let mut out = kind.name().to_owned();
    for (key, value) in [("from", from), ("id", id), ("source", source), ("target", target)] {
        if !value.is_empty() {
            write!(out, " {key}={value}").unwrap();
        }
    }
    for (word, set) in [(" ro", *read_only), (" required", *required)] {
        out.push_str(if set { word } else { "" });
    }
    if *size_limit != 0 {
        write!(out, " size={size_limit}").unwrap();
    }
    if let Some(sharing) = sharing {
        write!(out, " sharing={sharing:?}").unwrap();
    }
    if let Some(env) = env {
        write!(out, " env={env}").unwrap();
    }
    if let Some(mode) = mode {
        write!(out, " mode={mode:o}").unwrap();
    }
    if let Some(uid) = uid {
        write!(out, " uid={uid}").unwrap();
    }
    if let Some(gid) = gid {
        write!(out, " gid={gid}").unwrap();
    }
    out
}
