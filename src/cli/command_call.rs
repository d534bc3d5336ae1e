//! Answers to `--check` and `--call`: the tables and JSON objects Docker's client prints, and what code scanners read.
//!
//! Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::diagnostic::{Diagnostic, excerpt, headline, in_order};
use crate::dockerfile::ast::Lint;
use crate::dockerfile::rules::Rule;
use crate::event::Place;
use crate::plan::outline::{Outline, OutlineArg, OutlineSecret, Target};
use crate::source::{Lines, Source};
use crate::ui::{CheckWarning, check_report};

/// What can be asked: name, version, description, as BuildKit tells its clients; it leaves out the check.
const QUESTIONS: [(&str, &str, &str); 3] = [
    ("frontend.outline", "1.0.0", "List all parameters current build target supports"),
    ("frontend.targets", "1.0.0", "List all targets current build supports"),
    ("frontend.subrequests.describe", "1.0.0", "List available subrequest types"),
];

/// All that `--check` found.
pub(super) struct Report {
    /// The Dockerfile.
    pub(super) source: Arc<Source>,
    /// Warnings.
    pub(super) lints: Vec<Lint>,
    /// Findings that count for nothing.
    pub(super) notes: Vec<Lint>,
    /// What keeps it from being built.
    pub(super) faults: Vec<Diagnostic>,
}

/// The report for people. Faults are not in it: they go to stderr.
pub(super) fn check(report: &Report) -> String {
    let Report { source, lints, notes, faults } = report;
    let warning = |lint: &Lint| CheckWarning {
        rule: lint.rule.to_owned(),
        url: Rule::find(lint.rule).and_then(Rule::url),
        detail: lint.message.clone(),
        place: Some(Place { source: source.clone(), lines: lint.lines }),
    };
    let mut out = String::new();
    if faults.is_empty() || !lints.is_empty() {
        out += &check_report(lints.iter().map(warning).collect());
    }
    for note in notes {
        let _ = write!(out, "\nNOTE: {} - rbuild explain-rule {0}\n{}\n", note.rule, note.message);
        out += &excerpt(source, note.lines);
    }
    out
}

/// BuildKit's JSON; `notes`, and `buildErrors` when there are several, are ours.
pub(super) fn check_json(report: &Report) -> String {
    let Report { source, lints, notes, faults } = report;
    let mut out = Map::new();
    out.insert("warnings".to_owned(), lints.iter().map(json_lint).collect());
    if !notes.is_empty() {
        out.insert("notes".to_owned(), notes.iter().map(json_lint).collect());
    }
    let text = json!({ "filename": source.name, "language": "Dockerfile", "data": STANDARD.encode(&source.text) });
    out.insert("sources".to_owned(), json!([text]));
    let error = |fault: &Diagnostic| {
        let mut object = Map::new();
        object.insert("message".to_owned(), json!(fault.message()));
        object.insert("location".to_owned(), fault.lines.map_or(json!({}), location));
        Value::Object(object)
    };
    if let Some(fault) = headline(faults) {
        out.insert("buildError".to_owned(), error(fault));
    }
    if faults.len() > 1 {
        out.insert("buildErrors".to_owned(), in_order(faults).into_iter().map(error).collect());
    }
    format!("{:#}\n", Value::Object(out))
}

fn by_line(lints: &[Lint]) -> impl Iterator<Item = &Lint> {
    let mut sorted: Vec<&Lint> = lints.iter().collect();
    sorted.sort_by_key(|lint| lint.lines.first);
    sorted.into_iter()
}

fn json_lint(lint: &Lint) -> Value {
    let rule = Rule::find(lint.rule);
    let mut object = Map::new();
    object.insert("ruleName".to_owned(), json!(lint.rule));
    object.insert("description".to_owned(), json!(rule.map_or("", |rule| rule.description)));
    if let Some(url) = rule.and_then(Rule::url) {
        object.insert("url".to_owned(), json!(url));
    }
    object.insert("detail".to_owned(), json!(lint.message));
    object.insert("location".to_owned(), location(lint.lines));
    Value::Object(object)
}

/// A path as a URI reference: what has a meaning there, or none, is escaped; an absolute one names a file.
pub(super) fn uri_of_path(path: &str) -> String {
    let scheme = if path.starts_with('/') { "file://" } else { "" };
    path.bytes().fold(scheme.to_owned(), |mut uri, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            other => uri += &format!("%{other:02X}"),
        }
        uri
    })
}

/// SARIF 2.1.0, which code scanning services read. `uri` is the Dockerfile's, relative to the repository.
pub(super) fn sarif(report: &Report, uri: &str) -> String {
    let used: BTreeSet<&str> = report.lints.iter().chain(&report.notes).map(|lint| lint.rule).collect();
    let faults: BTreeSet<&str> = report.faults.iter().map(|fault| fault.code).collect();
    let mut rules: Vec<Value> = used
        .iter()
        .filter_map(|name| Rule::find(name))
        .map(|rule| {
            let mut object = Map::new();
            object.insert("id".to_owned(), json!(rule.name));
            object.insert("shortDescription".to_owned(), json!({ "text": rule.description }));
            object.insert("help".to_owned(), json!({ "text": rule.page, "markdown": rule.page }));
            if let Some(url) = rule.url() {
                object.insert("helpUri".to_owned(), json!(url));
            }
            Value::Object(object)
        })
        .collect();
    rules.extend(faults.iter().map(|code| json!({ "id": code })));
    let place =
        |region: Value| json!([{ "physicalLocation": { "artifactLocation": { "uri": uri }, "region": region } }]);
    let result = |level: &str| {
        let level = level.to_owned();
        move |lint: &Lint| {
            let region = json!({ "startLine": lint.lines.first, "endLine": lint.lines.last });
            json!({ "ruleId": lint.rule, "level": level, "message": { "text": lint.message }, "locations": place(region) })
        }
    };
    let mut results: Vec<Value> = by_line(&report.lints).map(result("warning")).collect();
    results.extend(by_line(&report.notes).map(result("note")));
    results.extend(in_order(&report.faults).into_iter().map(|fault| {
        let (line, column) = fault_position(fault);
        let region = json!({ "startLine": line, "startColumn": column });
        let text = fault.help.as_ref().map_or(fault.text.clone(), |help| format!("{} ({help})", fault.text));
        json!({ "ruleId": fault.code, "level": "error", "message": { "text": text }, "locations": place(region) })
    }));
    let driver = json!({ "name": "rbuild", "version": env!("CARGO_PKG_VERSION"), "rules": rules });
    let run = json!({ "tool": { "driver": driver }, "results": results, "columnKind": "unicodeCodePoints" });
    let schema = "https://json.schemastore.org/sarif-2.1.0.json";
    format!("{:#}\n", json!({ "$schema": schema, "version": "2.1.0", "runs": [run] }))
}

/// Workflow commands of GitHub Actions: shown beside the lines of a pull request.
pub(super) fn github(report: &Report, path: &str) -> String {
    let text = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |value: &str| text(value).replace(':', "%3A").replace(',', "%2C");
    let mut out = String::new();
    for (level, lints) in [("warning", &report.lints), ("notice", &report.notes)] {
        for lint in by_line(lints) {
            let Lines { first, last } = lint.lines;
            let (file, message) = (property(path), text(&lint.message));
            let _ = writeln!(out, "::{level} file={file},line={first},endLine={last},title={}::{message}", lint.rule);
        }
    }
    for fault in in_order(&report.faults) {
        let (line, column) = fault_position(fault);
        let help = fault.help.as_ref().map_or(String::new(), |help| format!("\nhelp: {help}"));
        let (file, message) = (property(path), text(&format!("{}{help}", fault.text)));
        let _ = writeln!(out, "::error file={file},line={line},col={column},title={}::{message}", fault.code);
    }
    out
}

fn fault_position(fault: &Diagnostic) -> (u32, u32) {
    match fault.lines {
        Some(_) => fault.source.position(fault.span.start),
        None => (1, 1),
    }
}

/// What the target can be given.
pub(super) fn outline(source: &Source, outline: &Outline, as_json: bool) -> String {
    if as_json {
        return outline_json(source, outline);
    }
    let mut out = String::new();
    if !outline.name.is_empty() || outline.description.is_some() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let mut rows = vec![["TARGET:", name]];
        rows.extend(outline.description.as_deref().map(|text| ["DESCRIPTION:", text]));
        out += &tabs(&rows, 1);
        out.push('\n');
    }
    if !outline.args.is_empty() {
        let cells = |arg: &OutlineArg| {
            [arg.name.clone(), arg.value.clone().unwrap_or_default(), arg.description.clone().unwrap_or_default()]
        };
        let heading = ["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned);
        out += &tabs(&std::iter::once(heading).chain(outline.args.iter().map(cells)).collect::<Vec<_>>(), 3);
        out.push('\n');
    }
    for (heading, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let cells = |one: &OutlineSecret| [one.id.clone(), if one.required { "true" } else { "" }.to_owned()];
            let heading = [heading, "REQUIRED"].map(str::to_owned);
            out += &tabs(&std::iter::once(heading).chain(list.iter().map(cells)).collect::<Vec<_>>(), 3);
            out.push('\n');
        }
    }
    out
}

/// Columns as Go's tabwriter makes them: each but the last as wide as its widest cell and the gap.
fn tabs<const N: usize, S: AsRef<str>>(rows: &[[S; N]], gap: usize) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].as_ref().chars().count()).max().unwrap_or(0) + gap;
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = if column + 1 == N { 0 } else { widths[column] };
            let _ = write!(out, "{:width$}", cell.as_ref());
        }
        out.push('\n');
    }
    out
}

fn outline_json(source: &Source, outline: &Outline) -> String {
    let mut out = Map::new();
    put_text(&mut out, "name", Some(&outline.name));
    put_text(&mut out, "description", outline.description.as_deref());
    let args = outline.args.iter().map(|arg| {
        let mut object = Map::new();
        put_text(&mut object, "name", Some(&arg.name));
        put_text(&mut object, "description", arg.description.as_deref());
        put_text(&mut object, "value", arg.value.as_deref());
        object.insert("location".to_owned(), location(arg.lines));
        Value::Object(object)
    });
    put_list(&mut out, "args", args.collect());
    for (key, list) in [("secrets", &outline.secrets), ("ssh", &outline.ssh)] {
        let secrets = list.iter().map(|one| {
            let mut object = Map::new();
            put_text(&mut object, "name", Some(&one.id));
            put_true(&mut object, "required", one.required);
            object.insert("location".to_owned(), location(one.lines));
            Value::Object(object)
        });
        put_list(&mut out, key, secrets.collect());
    }
    let caches = outline.caches.iter().map(|one| json!({ "ID": one.id, "location": location(one.lines) }));
    put_list(&mut out, "cache", caches.collect());
    out.insert("sources".to_owned(), json!([STANDARD.encode(&source.text)]));
    format!("{:#}\n", Value::Object(out))
}

/// The targets there are.
pub(super) fn targets(source: &Source, targets: &[Target], as_json: bool) -> String {
    if as_json {
        let list = targets.iter().map(|target| {
            let mut object = Map::new();
            put_text(&mut object, "name", Some(&target.name));
            put_true(&mut object, "default", target.default);
            put_text(&mut object, "description", target.description.as_deref());
            put_text(&mut object, "base", Some(&target.base));
            put_text(&mut object, "platform", target.platform.as_deref());
            object.insert("location".to_owned(), location(target.lines));
            Value::Object(object)
        });
        let list: Vec<_> = list.collect();
        return format!("{:#}\n", json!({ "targets": list, "sources": [STANDARD.encode(&source.text)] }));
    }
    let cells = |target: &Target| {
        let name = match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        [name, target.description.clone().unwrap_or_default()]
    };
    let heading = ["TARGET", "DESCRIPTION"].map(str::to_owned);
    tabs(&std::iter::once(heading).chain(targets.iter().map(cells)).collect::<Vec<_>>(), 1)
}

/// The questions there are.
pub(super) fn questions(as_json: bool) -> String {
    if as_json {
        let one = |(name, version, text): &(&str, &str, &str)| {
            let opts = match *name {
                "frontend.outline" => json!([{ "name": "target", "description": "Target build stage" }]),
                _ => Value::Null,
            };
            let metadata = ["result.json", "result.txt"].map(|name| json!({ "name": name, "description": "" }));
            json!({
                "name": name, "version": version, "type": "rpc", "description": text, "opts": opts, "inputs": null,
                "metadata": metadata, "refs": null,
            })
        };
        return format!("{:#}\n", Value::Array(QUESTIONS.iter().map(one).collect()));
    }
    let cells = |(name, version, text): (&'static str, &'static str, &'static str)| {
        [name.trim_start_matches("frontend."), version, text]
    };
    let heading = ["NAME", "VERSION", "DESCRIPTION"];
    tabs(&std::iter::once(heading).chain(QUESTIONS.into_iter().map(cells)).collect::<Vec<_>>(), 1)
}

/// Each line is a range of its own.
fn location(lines: Lines) -> Value {
    let range = |line: u32| json!({ "start": { "line": line }, "end": { "line": line } });
    json!({ "ranges": (lines.first..=lines.last).map(range).collect::<Vec<_>>() })
}

/// Empty texts are left out.
fn put_text(object: &mut Map<String, Value>, key: &str, text: Option<&str>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        object.insert(key.to_owned(), json!(text));
    }
}

/// So are empty lists, and what is false.
fn put_list(object: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        object.insert(key.to_owned(), Value::Array(list));
    }
}

fn put_true(object: &mut Map<String, Value>, key: &str, value: bool) {
    if value {
        object.insert(key.to_owned(), json!(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Arc<Source> {
        Source::new("Dockerfile", "FROM alpine AS Base\nRUN true\nFROM base\n")
    }

    fn at(line: u32) -> Lines {
        Lines { first: line, last: line }
    }

    fn report() -> Report {
        let lint = |rule, message: &str, line| Lint { rule, message: message.to_owned(), lines: at(line) };
        Report {
            source: source(),
            lints: vec![lint("StageNameCasing", "Stage name 'Base' should be lowercase", 1)],
            notes: vec![lint("AptUpdateAlone", "100% alone", 2)],
            faults: Vec::new(),
        }
    }

    fn broken() -> Report {
        let source = Source::new("Dockerfile", "FROM a\nRUNN x\nCOPY\n");
        let faults = crate::dockerfile::parse(source.clone()).expect_err("no such instruction");
        Report { source, lints: Vec::new(), notes: Vec::new(), faults }
    }

    #[test]
    fn notes_come_after_what_buildkit_says() {
        let clean = Report { lints: Vec::new(), notes: Vec::new(), ..report() };
        assert_eq!(check(&clean), "Check complete, no warnings found.\n");
        assert_eq!(check(&broken()), "");
        let text = check(&report());
        assert!(
            text.starts_with("Check complete, 1 warning has been found!\n\nWARNING: StageNameCasing - https:"),
            "{text}"
        );
        assert!(
            text.contains("\nNOTE: AptUpdateAlone - rbuild explain-rule AptUpdateAlone\n100% alone\nDockerfile:2\n"),
            "{text}"
        );
        let clean = check(&Report { lints: Vec::new(), ..report() });
        assert!(clean.starts_with("Check complete, no warnings found.\n\nNOTE: "), "{clean}");
    }

    #[test]
    fn json_has_buildkits_keys() {
        let parsed: Value = serde_json::from_str(&check_json(&report())).expect("JSON");
        let warning = json!({
            "ruleName": "StageNameCasing",
            "description": "Stage names should be lowercase",
            "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
            "detail": "Stage name 'Base' should be lowercase",
            "location": { "ranges": [{ "start": { "line": 1 }, "end": { "line": 1 } }] },
        });
        assert_eq!(parsed["warnings"], json!([warning]));
        assert_eq!(parsed["notes"][0]["ruleName"], "AptUpdateAlone");
        assert_eq!(parsed["sources"][0]["filename"], "Dockerfile");
        assert_eq!(parsed.get("buildError"), None);
        let parsed: Value = serde_json::from_str(&check_json(&broken())).expect("JSON");
        let message = "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)";
        assert_eq!(parsed["buildError"], json!({ "message": message, "location": location(at(2)) }));
        assert_eq!(parsed["buildErrors"].as_array().map(Vec::len), Some(2));
        assert_eq!(parsed["warnings"], json!([]));
    }

    #[test]
    fn sarif_names_rules_levels_and_lines() {
        let parsed: Value = serde_json::from_str(&sarif(&report(), "docker/Dockerfile")).expect("JSON");
        let run = &parsed["runs"][0];
        assert_eq!(parsed["version"], "2.1.0");
        assert_eq!(run["results"][0]["ruleId"], "StageNameCasing");
        assert_eq!(run["results"][0]["level"], "warning");
        assert_eq!(run["results"][1]["level"], "note");
        let location = &run["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(location["artifactLocation"]["uri"], "docker/Dockerfile");
        assert_eq!(location["region"], json!({ "startLine": 1, "endLine": 1 }));
        let ids: Vec<_> = run["tool"]["driver"]["rules"].as_array().expect("rules").iter().map(|r| &r["id"]).collect();
        assert_eq!(ids, ["AptUpdateAlone", "StageNameCasing"]);
        let parsed: Value = serde_json::from_str(&sarif(&broken(), "Dockerfile")).expect("JSON");
        assert_eq!(parsed["runs"][0]["results"][0]["level"], "error");
    }

    #[test]
    fn paths_are_escaped_in_uris() {
        for (path, uri) in [
            ("docker/Dockerfile", "docker/Dockerfile"),
            ("my files/50%/Döckerfile", "my%20files/50%25/D%C3%B6ckerfile"),
            ("a:b?c#d[e]", "a%3Ab%3Fc%23d%5Be%5D"),
            ("/srv/a b/Dockerfile", "file:///srv/a%20b/Dockerfile"),
        ] {
            assert_eq!(uri_of_path(path), uri);
        }
    }

    #[test]
    fn github_annotations_are_escaped() {
        assert_eq!(
            github(&report(), "a,b/Dockerfile"),
            "::warning file=a%2Cb/Dockerfile,line=1,endLine=1,title=StageNameCasing::Stage name 'Base' should be lowercase\n\
             ::notice file=a%2Cb/Dockerfile,line=2,endLine=2,title=AptUpdateAlone::100%25 alone\n"
        );
        assert!(github(&broken(), "Dockerfile").starts_with("::error file=Dockerfile,line=2,col=1,title="));
    }

    #[test]
    fn outlines() {
        let arg = |name: &str, value: Option<&str>, description: Option<&str>| OutlineArg {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            description: description.map(str::to_owned),
            lines: at(2),
        };
        let one = |id: &str, required, line| OutlineSecret { id: id.to_owned(), required, lines: at(line) };
        let target = Outline {
            name: "release".to_owned(),
            description: Some("what is shipped".to_owned()),
            args: vec![arg("GO_VERSION", Some("1.22"), Some("which Go")), arg("X", None, None)],
            secrets: vec![one("token", true, 3)],
            ssh: vec![one("default", false, 4)],
            caches: vec![one("/root/.cache", false, 4)],
        };
        let expected = [
            "TARGET:      release",
            "DESCRIPTION: what is shipped",
            "",
            "BUILD ARG    VALUE   DESCRIPTION",
            "GO_VERSION   1.22    which Go",
            "X                    ",
            "",
            "SECRET   REQUIRED",
            "token    true",
            "",
            "SSH       REQUIRED",
            "default   ",
            "",
            "",
        ];
        assert_eq!(outline(&source(), &target, false), expected.join("\n"));
        let parsed: Value = serde_json::from_str(&outline(&source(), &target, true)).expect("JSON");
        assert_eq!(parsed["args"][1], json!({ "name": "X", "location": location(at(2)) }));
        assert_eq!(parsed["ssh"], json!([{ "name": "default", "location": location(at(4)) }]));
        assert_eq!(parsed["cache"], json!([{ "ID": "/root/.cache", "location": location(at(4)) }]));
        assert_eq!(outline(&source(), &Outline::default(), false), "");
    }

    #[test]
    fn targets_and_questions() {
        let target = |name: &str, default, description: Option<&str>| Target {
            name: name.to_owned(),
            default,
            description: description.map(str::to_owned),
            base: "alpine".to_owned(),
            platform: None,
            lines: at(1),
        };
        let list = [target("base", false, Some("tools")), target("", false, None), target("", true, None)];
        let expected = "TARGET    DESCRIPTION\nbase      tools\n          \n(default) \n";
        assert_eq!(targets(&source(), &list, false), expected);
        assert!(targets(&source(), &[target("app", true, None)], false).ends_with("app (default) \n"));
        let parsed: Value = serde_json::from_str(&targets(&source(), &list, true)).expect("JSON");
        assert_eq!(parsed["targets"][2], json!({ "default": true, "base": "alpine", "location": location(at(1)) }));
        let expected = "\
NAME                 VERSION DESCRIPTION
outline              1.0.0   List all parameters current build target supports
targets              1.0.0   List all targets current build supports
subrequests.describe 1.0.0   List available subrequest types
";
        assert_eq!(questions(false), expected);
        assert_eq!(serde_json::from_str::<Value>(&questions(true)).expect("JSON")[0]["name"], "frontend.outline");
    }
}
