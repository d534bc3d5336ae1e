//! Our own rules about the text of a Dockerfile: what works, but costs time or hides a failure. Each has a page in `docs/lint/`.
//!
//! Findings are notes unless a check option names the rule (`rules::counts`). Only plain cases are reported: a rule that is
//! wrong now and then is switched off for good.

use std::collections::BTreeMap;

use super::ast::{Check, CommandLine, Dockerfile, Heredoc, Instruction, InstructionKind, Lint, Run, Stage};
use super::lint::is_skipped;
use super::mount;

/// Findings about the stages that are `reached`, by line; `check` stands for the file's check directive.
pub fn advice(file: &Dockerfile, check: Option<&Check>, reached: &dyn Fn(usize) -> bool) -> Vec<Lint> {
    let mut lints = Vec::new();
    let mut shells: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (index, stage) in file.stages.iter().enumerate() {
        let mut shell = shells.get(stage.base.text.as_str()).cloned().unwrap_or_default();
        let mut stage_lints = Vec::new();
        args(stage, &mut stage_lints);
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Shell(words) => shell.clone_from(words),
                InstructionKind::Run(run) => {
                    stage_lints.extend(heredoc(instruction, run, &shell));
                    stage_lints.extend(apt(instruction, run));
                }
                _ => {}
            }
        }
        if let Some(name) = &stage.name {
            shells.insert(name, shell);
        }
        if reached(index) {
            let allowed = |(instruction, lint): (&Instruction, Lint)| {
                (!is_skipped(lint.rule, check, instruction.check.as_ref())).then_some(lint)
            };
            lints.extend(stage_lints.into_iter().filter_map(allowed));
        }
    }
    lints.sort_by_key(|lint| lint.lines.first);
    lints
}

fn found<'i>(instruction: &'i Instruction, rule: &'static str, message: impl Into<String>) -> (&'i Instruction, Lint) {
    (instruction, Lint { rule, message: message.into(), lines: instruction.lines })
}

/// ArgInvalidatesCache
fn args<'i>(stage: &'i Stage, out: &mut Vec<(&'i Instruction, Lint)>) {
    for (at, instruction) in stage.instructions.iter().enumerate() {
        let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
        for declaration in declarations.iter().filter(|arg| changes_each_time(&arg.key.text)) {
            let name = &declaration.key.text;
            let unrelated = stage.instructions[at + 1..].iter().filter(|later| match &later.kind {
                InstructionKind::Run(run) => !mentions(later, run, name),
                _ => false,
            });
            let runs = match unrelated.count() {
                0 => continue,
                1 => "a RUN that does not use it and is".to_owned(),
                count => format!("{count} RUNs that do not use it and are"),
            };
            let message = format!("ARG {name} changes with every build and precedes {runs} run again each time");
            out.push(found(instruction, "ArgInvalidatesCache", message));
        }
    }
}

/// Whether a name is usual for what is different in every build.
fn changes_each_time(name: &str) -> bool {
    const WHOLE: [&str; 14] = [
        "BUILD_NUMBER",
        "BUILD_NUM",
        "BUILD_ID",
        "BUILDNUMBER",
        "BUILD_COUNTER",
        "BUILD_TAG",
        "BUILD_URL",
        "CACHEBUST",
        "CACHE_BUST",
        "CACHE_BUSTER",
        "CACHEBUSTER",
        "RUN_ID",
        "RUN_NUMBER",
        "JOB_ID",
    ];
    const PARTS: [&str; 9] = ["SHA", "SHA1", "COMMIT", "REVISION", "DATE", "TIME", "TIMESTAMP", "DATETIME", "NOW"];
    // Set by the one who builds, for reproducible builds: constant by intention.
    if name == "SOURCE_DATE_EPOCH" {
        return false;
    }
    let upper = name.to_uppercase();
    // A checksum of a download is no commit, and the version of git is no state of the tree.
    let fixed = ["SHA256", "SHA512", "VERSION", "CHECKSUM", "REPO", "REPOSITORY", "URL", "USER", "NAME", "TIMEZONE"];
    let parts: Vec<&str> = upper.split('_').collect();
    if WHOLE.iter().any(|whole| upper == *whole || upper.ends_with(&format!("_{whole}"))) {
        return true;
    }
    !parts.iter().any(|part| fixed.contains(part))
        && (parts.iter().any(|part| PARTS.contains(part)) || upper.starts_with("GIT_") || upper == "VCS_REF")
}

/// Whether a RUN has the word anywhere: in its command, its scripts or its mounts.
fn mentions(instruction: &Instruction, run: &Run, name: &str) -> bool {
    let texts = std::iter::once(instruction.original.as_str()).chain(run.heredocs.iter().map(|h| h.content.as_str()));
    texts.into_iter().any(|text| has_word(text, name))
}

fn has_word(text: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_name) && !text[at + word.len()..].starts_with(is_name))
}

/// HeredocWithoutErrexit
fn heredoc<'i>(instruction: &'i Instruction, run: &Run, shell: &[String]) -> Option<(&'i Instruction, Lint)> {
    let (CommandLine::Shell(text), [heredoc]) = (&run.command, run.heredocs.as_slice()) else { return None };
    let stops = match interpreter(text, heredoc, shell)? {
        Interpreter::Shell { stops } => stops,
        Interpreter::Other => true,
    };
    if stops || sets_errexit(&heredoc.content) {
        return None;
    }
    let commands = commands(&heredoc.content);
    (commands > 1).then(|| {
        let message = format!(
            "This heredoc has {commands} commands and goes on when one of them fails; begin it with \"set -e\""
        );
        found(instruction, "HeredocWithoutErrexit", message)
    })
}

/// What reads the lines of a heredoc.
enum Interpreter {
    /// A shell; whether it stops at the first failure.
    Shell { stops: bool },
    /// Something whose ways we do not know.
    Other,
}

/// What runs the heredoc as a script; `None` when it is only the input of some command.
fn interpreter(text: &str, heredoc: &Heredoc, shell: &[String]) -> Option<Interpreter> {
    let of = |words: &[&str]| {
        let (program, options) = words.split_first()?;
        let name = program.rsplit('/').next().unwrap_or(program);
        if !["sh", "bash", "dash", "ash", "ksh", "zsh"].contains(&name) {
            return None;
        }
        // A script file or a command instead of stdin.
        let stops = options.iter().any(|word| has_e(word)) || options.windows(2).any(|w| w == ["-o", "errexit"]);
        Some(Interpreter::Shell { stops })
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let marker = words.iter().position(|word| word.contains("<<"))?;
    let rest: Vec<&str> = words.iter().enumerate().filter(|(at, _)| *at != marker).map(|(_, word)| *word).collect();
    // `<< EOF` and `<<"A B"` leave a part of the marker behind; such files are rare, and nothing is said about them.
    if rest.is_empty() {
        if let Some(first) = heredoc.content.strip_prefix("#!") {
            let line = first.lines().next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().filter(|word| !word.ends_with("/env")).collect();
            return Some(of(&words).unwrap_or(Interpreter::Other));
        }
        let configured: Vec<&str> = shell.iter().map(String::as_str).collect();
        return match configured.as_slice() {
            [] => Some(Interpreter::Shell { stops: false }),
            words => Some(of(words).unwrap_or(Interpreter::Other)),
        };
    }
    let options_only = rest[1..].iter().all(|word| word.starts_with('-') || *word == "errexit" || *word == "pipefail");
    if options_only && !rest[1..].iter().any(|word| word.starts_with("-c")) { of(&rest) } else { None }
}

/// A bundle of short options with `e` among them.
fn has_e(word: &str) -> bool {
    word.strip_prefix('-')
        .is_some_and(|flags| !flags.starts_with('-') && flags.chars().all(char::is_alphabetic) && flags.contains('e'))
}

fn sets_errexit(script: &str) -> bool {
    script.lines().map(str::trim).any(|line| {
        let mut words = line.split([' ', '\t', ';', '&']).filter(|word| !word.is_empty());
        words.next() == Some("set") && {
            let options: Vec<&str> = words.collect();
            options.iter().any(|word| has_e(word))
                || options.windows(2).any(|w| w[0].ends_with('o') && w[1] == "errexit")
        }
    })
}

/// How many commands a script has, roughly: its lines, those joined that belong together.
fn commands(script: &str) -> usize {
    const WORDS: [&str; 10] = ["then", "else", "fi", "do", "done", "esac", "}", "{", ";;", ")"];
    let mut count = 0;
    let mut goes_on = false;
    let mut inner = Vec::new();
    for line in script.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') || WORDS.contains(&line) {
            continue;
        }
        // The body of a heredoc inside the script is no command.
        if let Some(end) = inner.last() {
            if line == end {
                inner.pop();
            }
            continue;
        }
        if let Some((_, marker)) = line.split_once("<<") {
            let name = marker.trim_start_matches(['-', '~']).split_whitespace().next().unwrap_or_default();
            inner.push(name.trim_matches(['"', '\'', '\\']).to_owned());
        }
        count += usize::from(!goes_on);
        goes_on = line.ends_with('\\') || line.ends_with("&&") || line.ends_with("||") || line.ends_with('|');
    }
    count
}

/// AptUpdateAlone and AptCacheSharing
fn apt<'i>(instruction: &'i Instruction, run: &Run) -> Vec<(&'i Instruction, Lint)> {
    let mut out = Vec::new();
    let mounts = run.mounts.iter().filter_map(|word| mount::parse(&word.text, &mut |v| Ok(v.to_owned())).ok());
    let caches: Vec<mount::Mount> = mounts.filter(|mount| mount.kind == mount::MountKind::Cache).collect();
    let below = |target: &str, dir: &str| target == dir || target.strip_prefix(dir).is_some_and(|r| r.starts_with('/'));
    for cache in &caches {
        let apt = ["/var/cache/apt", "/var/lib/apt"].iter().any(|dir| below(cache.target.trim_end_matches('/'), dir));
        if apt && matches!(cache.sharing, None | Some(mount::Sharing::Shared)) {
            let message = format!(
                "The cache mount on {} can be used by several steps at once, which apt does not allow; add sharing=locked",
                cache.target
            );
            out.push(found(instruction, "AptCacheSharing", message));
        }
    }
    let lists_kept = caches.iter().any(|cache| below(cache.target.trim_end_matches('/'), "/var/lib/apt"));
    if !lists_kept && updates_only(run) {
        let message = "apt-get update alone in a RUN is cached apart from the installation that needs it";
        out.push(found(instruction, "AptUpdateAlone", message));
    }
    out
}

/// Whether a RUN updates package lists and does nothing with them.
fn updates_only(run: &Run) -> bool {
    let mut words: Vec<&str> = match &run.command {
        CommandLine::Exec(words) => words.iter().flat_map(|word| word.split_whitespace()).collect(),
        CommandLine::Shell(text) => text.split_whitespace().collect(),
    };
    words.extend(run.heredocs.iter().flat_map(|heredoc| heredoc.content.split_whitespace()));
    let plain = |word: &str| word.trim_matches([';', '&', '(', ')', '"', '\'']).to_owned();
    let words: Vec<String> = words.into_iter().map(plain).filter(|word| !word.is_empty()).collect();
    let is_apt = |word: &str| matches!(word.rsplit('/').next(), Some("apt" | "apt-get" | "aptitude"));
    let mut updates = false;
    for (at, word) in words.iter().enumerate() {
        if is_apt(word) {
            let action = words[at + 1..].iter().find(|word| !word.starts_with('-') && !word.contains('='));
            match action.map(String::as_str) {
                Some("update") => updates = true,
                _ => return false,
            }
        } else if word.ends_with(".sh") || word.starts_with("./") || word == "xargs" || word == "dpkg" {
            // Something that may install.
            return false;
        }
    }
    updates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    #[test]
    fn names_of_what_changes() {
        for yes in [
            "GIT_SHA",
            "COMMIT_SHA",
            "BUILD_NUMBER",
            "CI_BUILD_ID",
            "build_date",
            "VCS_REF",
            "GIT_COMMIT",
            "CACHEBUST",
            "REVISION",
        ] {
            assert!(changes_each_time(yes), "{yes}");
        }
        for no in [
            "VERSION",
            "GIT_VERSION",
            "TOOL_SHA256",
            "GO_SHA256",
            "GIT_REPO",
            "SHARED",
            "UPDATE",
            "TZ",
            "BUILD_TYPE",
            "SOURCE_DATE_EPOCH",
        ] {
            assert!(!changes_each_time(no), "{no}");
        }
    }

    /// Rules found in the RUN, without the stage.
    fn rules(run: &str) -> Vec<&'static str> {
        let file = super::super::parse(Source::new("Dockerfile", format!("FROM a\n{run}\n"))).expect("parses");
        advice(&file, None, &|_| true).iter().map(|lint| lint.rule).collect()
    }

    #[test]
    fn heredocs() {
        for bad in [
            "RUN <<EOF\na\nb\nEOF",
            "RUN <<-EOF\n\ta\n\tb\nEOF",
            "RUN bash <<EOF\na\nb\nEOF",
            "RUN <<EOF bash\na\nb\nEOF",
            "RUN <<EOF\n#!/bin/bash\na\nb\nEOF",
            "RUN <<EOF\n#!/usr/bin/env bash\na\nb\nEOF",
            "RUN <<EOF\nif a; then\n  b\nfi\nc\nEOF",
            "SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN <<EOF\na\nb\nEOF",
        ] {
            assert_eq!(rules(bad), ["HeredocWithoutErrexit"], "{bad}");
        }
        for good in [
            "RUN <<EOF\na\nEOF",
            "RUN <<EOF\na && \\\n  b\nEOF",
            "RUN <<EOF\na &&\nb\nEOF",
            "RUN <<EOF\nset -e\na\nb\nEOF",
            "RUN <<EOF\nset -euo pipefail\na\nb\nEOF",
            "RUN <<EOF\nset -o errexit\na\nb\nEOF",
            "RUN bash -e <<EOF\na\nb\nEOF",
            "RUN <<EOF\n#!/bin/sh -e\na\nb\nEOF",
            "RUN <<EOF\n#!/usr/bin/python3\na\nb\nEOF",
            "RUN python3 <<EOF\na\nb\nEOF",
            "RUN cat <<EOF > /x\na\nb\nEOF",
            "RUN <<EOF\ncat > /x <<END\na\nb\nEND\nEOF",
            "SHELL [\"/bin/bash\", \"-ec\"]\nRUN <<EOF\na\nb\nEOF",
            "# check=skip=HeredocWithoutErrexit\nRUN <<EOF\na\nb\nEOF",
        ] {
            assert_eq!(rules(good), [""; 0], "{good}");
        }
    }

    #[test]
    fn apt_rules() {
        for bad in [
            "RUN apt-get update",
            "RUN apt update -y",
            "RUN set -x; apt-get -qq update; rm /x",
            "RUN [\"apt-get\", \"update\"]",
        ] {
            assert_eq!(rules(bad), ["AptUpdateAlone"], "{bad}");
        }
        for good in [
            "RUN apt-get update && apt-get install -y curl",
            "RUN apt-get update && apt-get -y upgrade",
            "RUN apt-get install -y curl",
            "RUN apt-get update && ./install.sh",
            "RUN --mount=type=cache,target=/var/lib/apt,sharing=locked apt-get update",
            "RUN --mount=type=cache,target=/root/.cache make",
            "RUN echo update",
        ] {
            assert_eq!(rules(good), [""; 0], "{good}");
        }
        let both = "RUN --mount=type=cache,target=/var/cache/apt --mount=type=cache,target=/var/lib/apt,sharing=shared apt-get install x";
        assert_eq!(rules(both), ["AptCacheSharing", "AptCacheSharing"]);
    }

    #[test]
    fn args_before_what_does_not_use_them() {
        assert_eq!(rules("ARG GIT_SHA\nRUN make\nRUN echo $GIT_SHA"), ["ArgInvalidatesCache"]);
        assert_eq!(rules("RUN make\nARG GIT_SHA\nRUN echo ${GIT_SHA}\nLABEL a=$GIT_SHA"), [""; 0]);
        assert_eq!(rules("ARG VERSION\nRUN make"), [""; 0]);
    }
}
