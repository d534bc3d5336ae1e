//! Golden cases of the Dockerfile parser: `testdata/parse/<case>/Dockerfile` beside `expected.txt`, whose first line names
//! the reference rows it was derived from (`rows: D006 O1`; `O` is a number in observed.md).
//!
//! A new case: write the Dockerfile and the `rows` line, run with `RBUILD_BLESS=1`, and compare every line with the rows.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rbuild::diagnostic::Diagnostic;
use rbuild::dockerfile::ast::{
    Check, CommandLine, Copy, Dockerfile, Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue, Run, SourceRef,
    Word,
};
use rbuild::dockerfile::lint::lint;
use rbuild::dockerfile::{parse, parse_trigger};
use rbuild::source::{Lines, Source};

/// Fewer cases than this means that some got lost.
const LEAST_CASES: usize = 80;

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of the tests, not of rbuild")]
fn every_case_parses_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/parse");
    let bless = std::env::var_os("RBUILD_BLESS").is_some();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= LEAST_CASES, "only {} cases in {}", cases.len(), root.display());
    let mut failed = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(case.join("Dockerfile")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let rows = expected.lines().next().unwrap_or_default().to_owned();
        check_rows(&name, &rows);
        let source = Source::new("Dockerfile", String::from_utf8_lossy(&bytes));
        let shown = match parse(source) {
            Ok(file) => show(&file),
            Err(faults) => show_faults(&faults),
        };
        let actual = format!("{rows}\n{shown}");
        if bless {
            std::fs::write(case.join("expected.txt"), &actual).unwrap();
        } else if actual != expected {
            failed.push(format!("--- {name}: expected\n{expected}--- {name}: actual\n{actual}"));
        }
    }
    assert!(failed.is_empty(), "{} cases differ\n{}", failed.len(), failed.join("\n"));
}

fn check_rows(case: &str, rows: &str) {
    let ids: Vec<&str> = rows.strip_prefix("rows: ").unwrap_or_default().split(' ').collect();
    let known =
        |id: &&str| id.len() > 1 && id.starts_with(['D', 'L', 'O', 'P']) && id[1..].bytes().all(|b| b.is_ascii_digit());
    assert!(ids.iter().all(known), "{case}: the first line must be `rows: D001 …`, not {rows:?}");
}

fn show(file: &Dockerfile) -> String {
    let mut out = String::new();
    let directives = &file.directives;
    if let Some(syntax) = &directives.syntax {
        let _ = writeln!(out, "syntax {syntax:?}");
    }
    if directives.escape != '\\' {
        let _ = writeln!(out, "escape {}", directives.escape);
    }
    show_check(&mut out, "", directives.check.as_ref());
    for arg in &file.global_args {
        show_instruction(&mut out, "", arg);
    }
    for stage in &file.stages {
        let (from, as_keyword) = &stage.keywords;
        let _ = write!(out, "{} {from} {:?}", span(stage.lines), stage.base.text);
        if let (Some(name), Some(written), Some(keyword)) = (&stage.name, &stage.name_as_written, as_keyword) {
            let _ = write!(out, " {keyword} {:?} ({name})", written.text);
        }
        out.push('\n');
        show_word(&mut out, "  platform", stage.platform.as_ref());
        for comment in &stage.comments {
            show_comment(&mut out, "  ", comment);
        }
        show_check(&mut out, "  ", stage.check.as_ref());
        for instruction in &stage.instructions {
            show_instruction(&mut out, "  ", instruction);
        }
    }
    for lint in lint(file) {
        let _ = writeln!(out, "lint {} {}: {}", span(lint.lines), lint.rule, lint.message);
    }
    out
}

fn show_faults(faults: &[Diagnostic]) -> String {
    let mut out = String::new();
    for fault in faults {
        let _ = writeln!(out, "fault {}: {}", fault.code, fault.message());
        if fault.lines.is_some() {
            out.extend(fault.render().lines().skip(1).map(|line| format!("  {line}\n")));
        }
    }
    out
}

fn show_instruction(out: &mut String, indent: &str, instruction: &Instruction) {
    let _ = write!(out, "{indent}{} {}", span(instruction.lines), instruction.keyword);
    let detail = format!("{indent}  ");
    match &instruction.kind {
        InstructionKind::Run(run) => show_run(out, &detail, run),
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => show_copy(out, &detail, copy),
        InstructionKind::Workdir(word) | InstructionKind::User(word) | InstructionKind::Stopsignal(word) => {
            let _ = writeln!(out, " {:?}", word.text);
        }
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            let show = |KeyValue { key, value, legacy }: &KeyValue| {
                format!(" {:?}{}{:?}", key.text, if *legacy { " " } else { "=" }, value.text)
            };
            let _ = writeln!(out, "{}", pairs.iter().map(show).collect::<String>());
        }
        InstructionKind::Arg(declarations) => {
            for arg in declarations {
                let _ = write!(out, " {:?}", arg.key.text);
                if let Some(default) = &arg.default {
                    write!(out, "={:?}", default.text).unwrap();
                }
            }
            out.push('\n');
        }
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => {
            let _ = writeln!(out, " {}", show_command(command));
        }
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => {
            for word in words {
                let _ = write!(out, " {:?}", word.text);
            }
            out.push('\n');
        }
        InstructionKind::Healthcheck(Healthcheck::None) => out.push_str(" none\n"),
        InstructionKind::Healthcheck(Healthcheck::Cmd {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        }) => {
            let _ = writeln!(out, " {}", show_command(command));
            for (name, duration) in [
                ("interval", interval),
                ("timeout", timeout),
                ("start-period", start_period),
                ("start-interval", start_interval),
            ] {
                if let Some(duration) = duration {
                    writeln!(out, "{detail}{name} {duration:?}").unwrap();
                }
            }
            if let Some(retries) = retries {
                writeln!(out, "{detail}retries {retries}").unwrap();
            }
        }
        InstructionKind::Shell(words) => writeln!(out, " {words:?}").unwrap(),
        InstructionKind::Maintainer(name) => writeln!(out, " {name:?}").unwrap(),
        InstructionKind::Onbuild(text) => show_trigger(out, &detail, text),
    }
    for comment in &instruction.comments {
        show_comment(out, &detail, comment);
    }
    show_check(out, &detail, instruction.check.as_ref());
}

fn show_run(out: &mut String, detail: &str, run: &Run) {
    let _ = writeln!(out, " {}", show_command(&run.command));
    for word in &run.mounts {
        show_word(out, &format!("{detail}mount"), Some(word));
    }
    show_word(out, &format!("{detail}network"), run.network.as_ref());
    show_word(out, &format!("{detail}security"), run.security.as_ref());
    for word in &run.devices {
        show_word(out, &format!("{detail}device"), Some(word));
    }
    for heredoc in &run.heredocs {
        show_heredoc(out, detail, heredoc);
    }
}

fn show_copy(out: &mut String, detail: &str, copy: &Copy) {
    for source in &copy.order {
        let _ = match source {
            SourceRef::Path(index) => write!(out, " {:?}", copy.sources[*index].text),
            SourceRef::Heredoc(index) => write!(out, " <<{:?}", copy.heredocs[*index].name),
        };
    }
    let _ = writeln!(out, " -> {:?}", copy.destination.text);
    for (name, word) in
        [("from", &copy.from), ("chown", &copy.chown), ("chmod", &copy.chmod), ("checksum", &copy.checksum)]
    {
        show_word(out, &format!("{detail}{name}"), word.as_ref());
    }
    for (name, set) in [("link", copy.link), ("parents", copy.parents)] {
        if set {
            let _ = writeln!(out, "{detail}{name}");
        }
    }
    for (name, set) in [("keep-git-dir", copy.keep_git_dir), ("unpack", copy.unpack)] {
        if let Some(set) = set {
            writeln!(out, "{detail}{name}={set}").unwrap();
        }
    }
    for word in &copy.exclude {
        show_word(out, &format!("{detail}exclude"), Some(word));
    }
    for heredoc in &copy.heredocs {
        show_heredoc(out, detail, heredoc);
    }
}

fn show_trigger(out: &mut String, detail: &str, text: &str) {
    let _ = writeln!(out, " {text:?}");
    match parse_trigger(text) {
        Ok(instructions) => {
            for instruction in &instructions {
                show_instruction(out, &format!("{detail}when triggered "), instruction);
            }
        }
        Err(faults) => {
            for fault in &faults {
                writeln!(out, "{detail}when triggered: {}", fault.message()).unwrap();
            }
        }
    }
}

fn show_heredoc(out: &mut String, detail: &str, heredoc: &Heredoc) {
    let Heredoc { name, fd, expand, chomp, content, .. } = heredoc;
    let flags = [("expand", *expand), ("chomp", *chomp)]
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(flag, _)| format!(" {flag}"));
    let _ = writeln!(out, "{detail}heredoc {name:?} fd={fd}{} {content:?}", flags.collect::<String>());
}

fn show_command(command: &CommandLine) -> String {
    match command {
        CommandLine::Exec(words) => format!("exec {words:?}"),
        CommandLine::Shell(text) => format!("shell {text:?}"),
    }
}

fn show_comment(out: &mut String, indent: &str, comment: &str) {
    let _ = match comment.len() {
        0..200 => writeln!(out, "{indent}comment {comment:?}"),
        length => writeln!(out, "{indent}comment of {length} bytes"),
    };
}

fn show_word(out: &mut String, name: &str, word: Option<&Word>) {
    if let Some(word) = word {
        writeln!(out, "{name} {:?}", word.text).unwrap();
    }
}

fn show_check(out: &mut String, indent: &str, check: Option<&Check>) {
    if let Some(Check { skip, error, experimental }) = check {
        let _ = writeln!(out, "{indent}check skip={skip:?} error={error} experimental={experimental:?}");
    }
}

fn span(lines: Lines) -> String {
    if lines.first == lines.last { lines.first.to_string() } else { format!("{}-{}", lines.first, lines.last) }
}
