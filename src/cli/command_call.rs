//! Answers to `--check` and `--call`: the tables and JSON objects Docker's client prints.
//!
//! Pure.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::table::table;
use crate::diagnostic::{Diagnostic, excerpt};
use crate::dockerfile::ast::Lint;
use crate::dockerfile::rules::Rule;
use crate::event::Place;
use crate::plan::outline::{Outline, OutlineSecret, Target};
use crate::source::{Lines, Source};
use crate::ui::{CheckWarning, check_report, error_line};

/// What can be asked: name, version, what is answered.
const QUESTIONS: [(&str, &str, &str); 4] = [
    ("outline", "1.0.0", "What the target can be given: build arguments, secrets, ssh agents"),
    ("targets", "1.0.0", "The targets there are"),
    ("lint", "1.0.0", "What is not as it should be (also called check)"),
    ("subrequests.describe", "1.0.0", "The questions there are"),
];

/// What `--check` came to.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// What is not as it should be.
    pub lints: Vec<Lint>,
    /// Advice that counts for nothing.
    pub notes: Vec<Lint>,
    /// What would keep the Dockerfile from being built.
    pub faults: Vec<Diagnostic>,
}

/// The findings of `--check`.
pub fn check(source: &Arc<Source>, findings: &Findings, as_json: bool) -> String {
    if as_json {
        return check_json(source, findings);
    }
    let warning = |lint: &Lint| CheckWarning {
        rule: lint.rule.to_owned(),
        url: url(lint),
        detail: lint.message.clone(),
        place: Some(Place { source: source.clone(), lines: lint.lines }),
    };
    let mut parts = Vec::new();
    if findings.faults.is_empty() || !findings.lints.is_empty() {
        parts.push(check_report(findings.lints.iter().map(warning).collect()));
    }
    for note in by_line(&findings.notes) {
        parts.push(format!("NOTE: {}\n{}\n{}", note.rule, note.message, excerpt(source, note.lines)));
    }
    for fault in &findings.faults {
        parts.push(format!("{}\n{}", fault.render().trim_end(), error_line(&fault.message())));
    }
    parts.join("\n")
}

fn check_json(source: &Source, findings: &Findings) -> String {
    let finding = |lint: &Lint| {
        let mut object = Map::new();
        object.insert("ruleName".to_owned(), json!(lint.rule));
        object.insert("description".to_owned(), json!(Rule::find(lint.rule).map_or("", |rule| rule.description)));
        put_text(&mut object, "url", url(lint).as_deref());
        object.insert("detail".to_owned(), json!(lint.message));
        object.insert("location".to_owned(), location(lint.lines));
        Value::Object(object)
    };
    let mut out = Map::new();
    out.insert("warnings".to_owned(), by_line(&findings.lints).into_iter().map(finding).collect());
    put_list(&mut out, "notes", by_line(&findings.notes).into_iter().map(finding).collect());
    let text = json!({ "filename": source.name, "language": "Dockerfile", "data": STANDARD.encode(&source.text) });
    out.insert("sources".to_owned(), json!([text]));
    if let Some(fault) = findings.faults.first() {
        out.insert(
            "buildError".to_owned(),
            json!({ "message": fault.message(), "location": fault.lines.map(location) }),
        );
    }
    format!("{:#}\n", Value::Object(out))
}

fn by_line(lints: &[Lint]) -> Vec<&Lint> {
    let mut sorted: Vec<&Lint> = lints.iter().collect();
    sorted.sort_by_key(|lint| lint.lines.first);
    sorted
}

fn url(lint: &Lint) -> Option<String> {
    Rule::find(lint.rule)?.url()
}

/// What the target can be given.
pub fn outline(source: &Source, outline: &Outline, as_json: bool) -> String {
    if as_json {
        return outline_json(source, outline);
    }
    let mut parts = Vec::new();
    let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
    let description = outline.description.as_ref().map_or(String::new(), |text| format!("DESCRIPTION: {text}\n"));
    parts.push(format!("TARGET:      {name}\n{description}"));
    if !outline.args.is_empty() {
        let cells = |arg: &crate::plan::outline::OutlineArg| {
            [arg.name.clone(), arg.value.clone().unwrap_or_default(), arg.description.clone().unwrap_or_default()]
        };
        parts.push(table(["BUILD ARG", "VALUE", "DESCRIPTION"], &outline.args.iter().map(cells).collect::<Vec<_>>()));
    }
    for (heading, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let cells = |one: &OutlineSecret| [one.id.clone(), if one.required { "true" } else { "" }.to_owned()];
            parts.push(table([heading, "REQUIRED"], &list.iter().map(cells).collect::<Vec<_>>()));
        }
    }
    trimmed(&parts.join("\n"))
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
    out.insert("sources".to_owned(), json!([STANDARD.encode(&source.text)]));
    format!("{:#}\n", Value::Object(out))
}

/// The targets there are.
pub fn targets(source: &Source, targets: &[Target], as_json: bool) -> String {
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
    trimmed(&table(["TARGET", "DESCRIPTION"], &targets.iter().map(cells).collect::<Vec<_>>()))
}

/// The questions there are.
pub fn questions(as_json: bool) -> String {
    if as_json {
        let one = |(name, version, text): &(&str, &str, &str)| json!({ "name": name, "version": version, "type": "rpc", "description": text });
        return format!("{:#}\n", Value::Array(QUESTIONS.iter().map(one).collect()));
    }
    let cells = |(name, version, text): &(&str, &str, &str)| [name, version, text].map(|text| (*text).to_owned());
    table(["NAME", "VERSION", "DESCRIPTION"], &QUESTIONS.iter().map(cells).collect::<Vec<_>>())
}

fn location(lines: Lines) -> Value {
    json!({ "ranges": [{ "start": { "line": lines.first }, "end": { "line": lines.last } }] })
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

/// Without blanks at the ends of lines, where last cells are empty.
fn trimmed(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::outline::OutlineArg;

    fn source() -> Arc<Source> {
        Source::new("Dockerfile", "FROM alpine AS Base\nRUN true\nFROM base\n")
    }

    fn at(line: u32) -> Lines {
        Lines { first: line, last: line }
    }

    fn lint() -> Lint {
        let message = "Stage name 'Base' should be lowercase".to_owned();
        Lint { rule: "StageNameCasing", message, lines: at(1) }
    }

    #[test]
    fn findings() {
        let none = Findings::default();
        assert_eq!(check(&source(), &none, false), "Check complete, no warnings found.\n");
        let some = Findings { lints: vec![lint()], ..none.clone() };
        let text = check(&source(), &some, false);
        let want = "Check complete, 1 warning has been found!\n\nWARNING: StageNameCasing - https:";
        assert!(text.starts_with(want), "{text}");
        let parsed: Value = serde_json::from_str(&check(&source(), &some, true)).expect("JSON");
        assert_eq!(parsed["warnings"][0]["ruleName"], "StageNameCasing");
        assert_eq!(parsed["warnings"][0]["location"], location(at(1)));
        assert_eq!((&parsed["buildError"], &parsed["notes"]), (&Value::Null, &Value::Null));
        let advice = Findings { notes: vec![lint()], ..none.clone() };
        let text = check(&source(), &advice, false);
        let want = "Check complete, no warnings found.\n\nNOTE: StageNameCasing\nStage name 'Base' should be lowercase\nDockerfile:1\n";
        assert!(text.starts_with(want), "{text}");
    }

    #[test]
    fn faults() {
        let text = "FROM a\nRUNN x\n";
        let faults = crate::dockerfile::parse(Source::new("Dockerfile", text)).expect_err("no such instruction");
        let findings = Findings { faults, ..Findings::default() };
        let text = check(&source(), &findings, false);
        let last = "ERROR: dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)";
        assert_eq!(text.lines().last(), Some(last), "{text}");
        let parsed: Value = serde_json::from_str(&check(&source(), &findings, true)).expect("JSON");
        assert_eq!(parsed["buildError"]["location"], location(at(2)));
    }

    #[test]
    fn outlines() {
        let arg = |name: &str, value: Option<&str>, description: Option<&str>| OutlineArg {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            description: description.map(str::to_owned),
            lines: at(2),
        };
        let target = Outline {
            name: "release".to_owned(),
            description: Some("what is shipped".to_owned()),
            args: vec![arg("GO_VERSION", Some("1.22"), Some("which Go")), arg("X", None, None)],
            secrets: vec![OutlineSecret { id: "token".to_owned(), required: true, lines: at(3) }],
            ssh: vec![OutlineSecret { id: "default".to_owned(), required: false, lines: at(4) }],
        };
        insta::assert_snapshot!(outline(&source(), &target, false), @"
        TARGET:      release
        DESCRIPTION: what is shipped

        BUILD ARG    VALUE     DESCRIPTION
        GO_VERSION   1.22      which Go
        X

        SECRET    REQUIRED
        token     true

        SSH       REQUIRED
        default
        ");
        let parsed: Value = serde_json::from_str(&outline(&source(), &target, true)).expect("JSON");
        assert_eq!(parsed["args"][1], json!({ "name": "X", "location": location(at(2)) }));
        assert_eq!(parsed["ssh"], json!([{ "name": "default", "location": location(at(4)) }]));
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
        insta::assert_snapshot!(targets(&source(), &list, false), @"
        TARGET      DESCRIPTION
        base        tools

        (default)
        ");
        assert!(targets(&source(), &[target("app", true, None)], false).ends_with("app (default)\n"));
        let parsed: Value = serde_json::from_str(&targets(&source(), &list, true)).expect("JSON");
        assert_eq!(parsed["targets"][2], json!({ "default": true, "base": "alpine", "location": location(at(1)) }));
        assert!(questions(false).contains("subrequests.describe   1.0.0     The questions"));
        assert_eq!(serde_json::from_str::<Value>(&questions(true)).expect("JSON")[0]["name"], "outline");
    }
}
