//! Golden cases of the plan: `testdata/plan/<case>/Dockerfile`, maybe `options.json`, beside `expected.txt`, whose first line
//! names the reference rows it was derived from (`rows: D050 O11`; `O` is a number in observed.md).
//!
//! A new case: write the Dockerfile and the `rows` line, run with `RBUILD_BLESS=1`, and compare every line with the rows.
//!
//! `options.json`: `target`, `platform`, `multi_platform`, `build_args`, `labels`, `no_cache` (true or stage names),
//! `network`, `named_contexts` (`"files"` or an image), `all_stages`, `allowed_bases`, and `images`: reference → config (fields of the OCI
//! config, `layers`: how many). An image that is not listed is a plain one with one layer.
//! `source_time`: seconds, what is answered when the time of a source is asked for. `show`: which parts of the answer
//! are in `expected.txt` (`plan`, `names`, `history`, `config`, `env`, `lints`, `outline`, `targets`, `dot`, `mermaid`,
//! `svg`, `json`); without it `names`, `history` and `lints`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rbuild::diagnostic::render_all;
use rbuild::dockerfile::ast::{Dockerfile, Lint};
use rbuild::dockerfile::{parse, read};
use rbuild::oci::config::ImageConfig;
use rbuild::oci::platform::Platform;
use rbuild::plan::allowed::AllowedBases;
use rbuild::plan::dump::{GraphFormat, dump, graph};
use rbuild::plan::graph::{Network, Op, Plan};
use rbuild::plan::{
    Checked, Facts, ImageFacts, ImageRequest, NamedContext, Needs, NoCache, Outlined, PlanOptions, Planned, SourceTime,
    all_faults, check, outline, plan,
};
use rbuild::source::Source;
use rbuild_cache::digest::{DiffId, Sha256};
use serde_json::Value;

/// Fewer cases than this means that some got lost.
const LEAST_CASES: usize = 60;
/// Triggers can ask for images a few times; no case needs more rounds.
const MAX_ROUNDS: usize = 4;

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of the tests, not of rbuild")]
fn every_case_is_planned_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan");
    let bless = std::env::var_os("RBUILD_BLESS").is_some();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= LEAST_CASES, "only {} cases in {}", cases.len(), root.display());
    let mut failed = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(case.join("Dockerfile")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let options = std::fs::read_to_string(case.join("options.json")).unwrap_or_else(|_| "{}".to_owned());
        let options: Value = serde_json::from_str(&options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let rows = expected.lines().next().unwrap_or_default().to_owned();
        check_rows(&name, &rows);
        let actual = format!("{rows}\n{}", answer(&text, &options));
        if bless {
            std::fs::write(case.join("expected.txt"), &actual).unwrap();
        } else if actual != expected {
            failed.push(format!("--- {name}: expected\n{expected}--- {name}: actual\n{actual}"));
        }
    }
    assert!(failed.is_empty(), "{} cases differ\n{}", failed.len(), failed.join("\n"));
}

/// Whatever the parser accepts is planned or explained, and so are all its stages; the rest of what it refuses is looked at.
#[test]
fn nothing_the_parser_accepts_is_too_much_for_the_plan() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files = 0;
    for area in ["parse", "plan"] {
        for case in std::fs::read_dir(root.join(area)).unwrap() {
            let bytes = std::fs::read(case.unwrap().path().join("Dockerfile")).unwrap();
            let decided = plan_options(&Value::Null);
            let reading = read(Source::new("Dockerfile", String::from_utf8_lossy(&bytes)));
            if !reading.faults.is_empty() {
                assert!(all_faults(&reading, &decided).starts_with(&reading.faults));
                continue;
            }
            let file = reading.file;
            files += 1;
            let mut facts = Facts::new();
            for round in 0.. {
                assert!(round < MAX_ROUNDS, "asks too often");
                match check(&file, &decided, &facts) {
                    Checked::Done { .. } => break,
                    Checked::Needs(needs) => answer_all(&mut facts, &needs),
                }
            }
            if let Ok(Planned::Plan(plan, _)) = plan(&file, &decided, &facts) {
                assert!(!petgraph::algo::is_cyclic_directed(&plan.steps));
                assert!(!dump(&plan).is_empty());
            }
        }
    }
    assert!(files > LEAST_CASES);
}

/// A long file costs time in proportion: no pass over all steps or stages for each step.
#[test]
fn long_files_are_planned_quickly() {
    let stages: String = (1..3000).map(|n| format!("FROM s{} AS s{n}\nCOPY --from=s{} a /b\n", n - 1, n - 1)).collect();
    let runs: String = (0..3000).map(|n| format!("ENV A{}={n}\nRUN echo {n}\n", n % 50)).collect();
    for text in [format!("FROM alpine AS s0\n{stages}"), format!("FROM alpine\n{runs}")] {
        let file = parse(Source::new("Dockerfile", text)).unwrap();
        let decided = plan_options(&Value::Null);
        let mut facts = Facts::new();
        let started = std::time::Instant::now();
        let Ok(Planned::Needs(needs)) = plan(&file, &decided, &facts) else { panic!("the base is not known") };
        answer_all(&mut facts, &needs);
        let Ok(Planned::Plan(plan, _)) = plan(&file, &decided, &facts) else { panic!("the base is known") };
        assert!(plan.steps.node_count() >= 3000);
        assert!(started.elapsed().as_secs() < 10, "took {:?}", started.elapsed());
    }
}

/// Plain answers to all that is asked.
fn answer_all(facts: &mut Facts, needs: &Needs) {
    match needs {
        Needs::Time(request) => facts.answer_time(request, SourceTime { seconds: None }),
        Needs::Images(requests) => {
            requests.iter().for_each(|request| facts.answer(request, image(request, &Value::Null)));
        }
    }
}

fn check_rows(case: &str, rows: &str) {
    let ids: Vec<&str> = rows.strip_prefix("rows: ").unwrap_or_default().split(' ').collect();
    let known = |id: &&str| {
        id.len() > 1 && id.as_bytes()[0].is_ascii_uppercase() && id[1..].bytes().all(|b| b.is_ascii_digit())
    };
    assert!(ids.iter().all(known), "{case}: the first line must be `rows: D050 …`, not {rows:?}");
}

fn answer(text: &str, options: &Value) -> String {
    let decided = plan_options(options);
    let reading = read(Source::new("Dockerfile", text));
    if !reading.faults.is_empty() {
        return render_all(&all_faults(&reading, &decided));
    }
    let file = reading.file;
    let mut out = String::new();
    let mut facts = Facts::new();
    for _ in 0..MAX_ROUNDS {
        match plan(&file, &decided, &facts) {
            Err(faults) => {
                out.extend(faults.iter().map(|fault| format!("{}\n", fault.render())));
                return out;
            }
            Ok(Planned::Needs(Needs::Time(request))) => {
                let _ = writeln!(out, "{} (line {})", request.vertex, request.lines.first);
                let _ = writeln!(out, "  {:?}", request.source);
                facts.answer_time(&request, SourceTime { seconds: options["source_time"].as_i64() });
            }
            Ok(Planned::Needs(Needs::Images(requests))) => {
                for request in requests {
                    let _ = writeln!(out, "{} ({}, {:?})", request.vertex, request.platform, request.purpose);
                    if let Some(suggestion) = &request.suggestion {
                        let _ = writeln!(out, "  did you mean {suggestion}?");
                    }
                    facts.answer(&request, image(&request, options));
                }
            }
            Ok(Planned::Plan(plan, lints)) => {
                show(&mut out, &plan, &lints, &file, &decided, &facts, options);
                return out;
            }
        }
    }
    out + "asks too often\n"
}

fn show(
    out: &mut String,
    plan: &Plan,
    lints: &[Lint],
    file: &Dockerfile,
    decided: &PlanOptions,
    facts: &Facts,
    options: &Value,
) {
    let parts: Vec<&str> = match options["show"].as_array() {
        Some(parts) => parts.iter().map(|part| part.as_str().unwrap()).collect(),
        None => vec!["names", "history", "lints"],
    };
    for part in parts {
        match part {
            "plan" => out.push_str(&dump(plan)),
            "names" => plan.steps.node_weights().for_each(|step| writeln!(out, "{}", step.name).unwrap()),
            "history" => {
                for entry in &plan.image.history {
                    let mark = if entry.step.is_some() { 'L' } else { '-' };
                    let _ = writeln!(out, "{mark} {}", entry.created_by);
                }
            }
            "config" => {
                let _ = writeln!(out, "{:#}", serde_json::to_value(&plan.image.config).unwrap());
            }
            "env" => {
                for step in plan.steps.node_weights() {
                    let Op::Run(run) = &step.op else { continue };
                    let _ = writeln!(out, "{}", step.name);
                    for (name, value) in &run.env {
                        let origin = if run.args.contains(name) { " (arg)" } else { "" };
                        let _ = writeln!(out, "  {name}={value}{origin}");
                    }
                    run.proxy_env.iter().for_each(|(name, value)| writeln!(out, "  proxy {name}={value}").unwrap());
                }
            }
            "lints" => {
                for lint in lints {
                    let _ = writeln!(out, "{}: {} (line {})", lint.rule, lint.message, lint.lines.first);
                }
            }
            "outline" => match outline(file, decided, facts) {
                Ok(Outlined::Outline(outline)) => writeln!(out, "{outline:#?}").unwrap(),
                other => panic!("the plan is known, the outline must be: {other:?}"),
            },
            "targets" => {
                for target in rbuild::plan::outline::targets(file) {
                    let _ = writeln!(out, "{target:?}");
                }
            }
            "dot" => out.push_str(&graph(plan, GraphFormat::Dot)),
            "mermaid" => out.push_str(&graph(plan, GraphFormat::Mermaid)),
            "svg" => out.push_str(&graph(plan, GraphFormat::Svg)),
            "json" => out.push_str(&graph(plan, GraphFormat::Json)),
            other => panic!("nothing is called {other}"),
        }
    }
}

fn plan_options(options: &Value) -> PlanOptions {
    let host = Platform::new("linux", "amd64", "");
    let mut decided = PlanOptions::new(host.clone());
    decided.target = options["target"].as_str().map(str::to_owned);
    decided.target_platform = options["platform"].as_str().map(|text| Platform::parse(text, &host).unwrap());
    decided.multi_platform = options["multi_platform"].as_bool().unwrap_or(false);
    decided.all_stages = options["all_stages"].as_bool().unwrap_or(false);
    decided.allowed_bases = options["allowed_bases"]
        .as_array()
        .map(|patterns| AllowedBases::new(patterns.iter().map(|pattern| pattern.as_str().unwrap().to_owned())));
    decided.context_epoch = options["context_epoch"].as_i64();
    for (name, value) in options["build_args"].as_object().into_iter().flatten() {
        decided.build_args.insert(name.clone(), value.as_str().map(str::to_owned));
    }
    for (name, value) in options["labels"].as_object().into_iter().flatten() {
        decided.labels.insert(name.clone(), value.as_str().unwrap().to_owned());
    }
    decided.no_cache = match &options["no_cache"] {
        Value::Bool(true) => NoCache::Everything,
        Value::Array(names) => NoCache::Stages(names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()),
        _ => NoCache::Nothing,
    };
    decided.network = match options["network"].as_str() {
        None => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => panic!("no network {other}"),
    };
    for (name, value) in options["named_contexts"].as_object().into_iter().flatten() {
        let context = match value.as_str().unwrap() {
            "files" => NamedContext::Files { epoch: None },
            image => NamedContext::Image(image.to_owned()),
        };
        decided.named_contexts.insert(name.clone(), context);
    }
    decided
}

/// The image a case lists, or a plain one with one layer.
fn image(request: &ImageRequest, options: &Value) -> ImageFacts {
    let plain = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] }
    });
    let listed = options["images"].get(&request.reference).cloned().unwrap_or(plain);
    let layers = listed["layers"].as_u64().unwrap_or(1);
    let mut config: ImageConfig = serde_json::from_value(listed).unwrap();
    config.other.clear();
    let diff_id = |n: u64| DiffId(Sha256::of(format!("{}{n}", request.reference).as_bytes()));
    config.rootfs.diff_ids = (0..layers).map(diff_id).collect();
    ImageFacts { handle: request.reference.clone(), config, digest: None }
}
