//! Lint rules that the text alone decides; those that need variables, base images or a context are the plan's.
//!
//! A rule is switched off by `# check=skip=…` at the top of the file (or by what replaces that directive), and most also by
//! such a comment above the instruction. Rules that compare instructions with each other heed the whole file's only.

use std::collections::BTreeSet;

use super::ast::{Check, Dockerfile, Instruction, InstructionKind, Lint, Stage};
use super::quote::quoted;
use super::words;
use crate::source::Lines;

/// All findings in a file, by line, as the file's own check directive wants them.
pub fn lint(file: &Dockerfile) -> Vec<Lint> {
    lint_stages(file, file.directives.check.as_ref(), &|_| true)
}

/// All findings by line; `check` stands for the file's check directive. Rules about what instructions mean only look at
/// stages that `reached` says are built; rules about how the file is written look at all.
pub fn lint_stages(file: &Dockerfile, check: Option<&Check>, reached: &dyn Fn(usize) -> bool) -> Vec<Lint> {
    let mut found = Findings { check, lints: Vec::new() };
    for lint in &file.lints {
        found.report(lint.rule, None, lint.lines, lint.message.clone());
    }
    for arg in &file.global_args {
        found.description(arg);
    }
    for (index, stage) in file.stages.iter().enumerate() {
        found.from(stage);
        for instruction in &stage.instructions {
            found.writing(instruction);
        }
        if reached(index) {
            found.meaning(stage.instructions.iter());
        }
    }
    found.stage_names(&file.stages);
    found.casing(&file.stages);
    let mut lints = found.lints;
    lints.sort_by_key(|lint| lint.lines.first);
    lints
}

/// Findings about what a run of instructions means: a stage's, with the triggers of its base in front.
pub fn lint_instructions<'a>(
    instructions: impl IntoIterator<Item = &'a Instruction>,
    check: Option<&Check>,
) -> Vec<Lint> {
    let mut found = Findings { check, lints: Vec::new() };
    found.meaning(instructions.into_iter());
    found.lints
}

/// Whether a rule is switched off, by the file's check options or those above an instruction.
pub fn is_skipped(rule: &str, file: Option<&Check>, above: Option<&Check>) -> bool {
    [file, above].into_iter().flatten().any(|check| names(&check.skip, rule))
}

fn names(rules: &[String], rule: &str) -> bool {
    rules.iter().any(|name| name == rule) || rules.iter().any(|name| name == "all") && rules.len() == 1
}

struct Findings<'a> {
    check: Option<&'a Check>,
    lints: Vec<Lint>,
}

impl Findings<'_> {
    fn report(&mut self, rule: &'static str, above: Option<&Check>, lines: Lines, message: String) {
        if !is_skipped(rule, self.check, above) {
            self.lints.push(Lint { rule, message, lines });
        }
    }

    /// L01, L02, L20: one FROM by itself.
    fn from(&mut self, stage: &Stage) {
        let above = stage.check.as_ref();
        if let Some(name) = stage.name_as_written.as_ref().filter(|name| name.text != name.text.to_lowercase()) {
            let message = format!("Stage name '{}' should be lowercase", name.text);
            self.report("StageNameCasing", above, stage.lines, message);
        }
        if let (from, Some(as_keyword)) = &stage.keywords {
            let (lower, upper) = (from.to_lowercase(), from.to_uppercase());
            let fits = if *from == lower {
                *as_keyword == as_keyword.to_lowercase()
            } else {
                // A mixed FROM is another rule's business.
                *from != upper || *as_keyword == as_keyword.to_uppercase()
            };
            if !fits {
                let message = format!("'{as_keyword}' and '{from}' keywords' casing do not match");
                self.report("FromAsCasing", above, stage.lines, message);
            }
        }
        if let Some(name) = &stage.name {
            self.describes("FROM", &[name], &stage.comments, above, stage.lines);
        }
    }

    /// L08, L20: how one instruction is written.
    fn writing(&mut self, instruction: &Instruction) {
        if matches!(instruction.kind, InstructionKind::Maintainer(_)) {
            let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
            self.report("MaintainerDeprecated", instruction.check.as_ref(), instruction.lines, message);
        }
        self.description(instruction);
    }

    fn description(&mut self, instruction: &Instruction) {
        if let InstructionKind::Arg(declarations) = &instruction.kind {
            let keys: Vec<&str> = declarations.iter().map(|arg| arg.key.text.as_str()).collect();
            self.describes("ARG", &keys, &instruction.comments, instruction.check.as_ref(), instruction.lines);
        }
    }

    /// L20, experimental: the last comment line above must begin with the name it describes.
    fn describes(&mut self, keyword: &str, keys: &[&str], comments: &[String], above: Option<&Check>, lines: Lines) {
        const RULE: &str = "InvalidDefinitionDescription";
        let wanted = [self.check, above].into_iter().flatten().any(|check| names(&check.experimental, RULE));
        let Some(comment) = comments.last().filter(|_| wanted) else { return };
        let first = comment.split(' ').next().unwrap_or_default();
        if keys.contains(&first) {
            return;
        }
        let example = match keys {
            [key] => key,
            _ => "<arg_key>",
        };
        let message = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
        self.lints.push(Lint { rule: RULE, message, lines });
    }

    /// L12, L13, L16.
    fn meaning<'i>(&mut self, instructions: impl Iterator<Item = &'i Instruction>) {
        let (mut cmd, mut entrypoint, mut healthcheck) = (None, None, None);
        for instruction in instructions {
            match &instruction.kind {
                InstructionKind::Env(pairs) => {
                    for pair in pairs {
                        self.legacy(instruction, pair.legacy);
                        self.secret(instruction, "ENV", &pair.key.text);
                    }
                }
                InstructionKind::Label(pairs) => pairs.iter().for_each(|pair| self.legacy(instruction, pair.legacy)),
                InstructionKind::Arg(declarations) => {
                    for declaration in declarations {
                        self.secret(instruction, "ARG", &declaration.key.text);
                    }
                }
                InstructionKind::Cmd(_) => self.once(&mut cmd, instruction),
                InstructionKind::Entrypoint(_) => self.once(&mut entrypoint, instruction),
                InstructionKind::Healthcheck(_) => self.once(&mut healthcheck, instruction),
                InstructionKind::Run(_)
                | InstructionKind::Copy(_)
                | InstructionKind::Add(_)
                | InstructionKind::Workdir(_)
                | InstructionKind::User(_)
                | InstructionKind::Expose(_)
                | InstructionKind::Volume(_)
                | InstructionKind::Stopsignal(_)
                | InstructionKind::Shell(_)
                | InstructionKind::Maintainer(_)
                | InstructionKind::Onbuild(_) => {}
            }
        }
    }

    fn legacy(&mut self, instruction: &Instruction, legacy: bool) {
        if legacy {
            let name = &instruction.keyword;
            let message = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
            self.report("LegacyKeyValueFormat", instruction.check.as_ref(), instruction.lines, message);
        }
    }

    fn secret(&mut self, instruction: &Instruction, keyword: &str, key: &str) {
        // A key with variables in it is no name yet, and says nothing about its content.
        let key = words::expand(key, &|_| None, '\\').map_or_else(|_| key.to_owned(), |expanded| expanded.text);
        if is_secret(&key) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {})", quoted(&key));
            self.report("SecretsUsedInArgOrEnv", instruction.check.as_ref(), instruction.lines, message);
        }
    }

    /// The earlier one is reported: it is the one that does nothing.
    fn once(&mut self, earlier: &mut Option<Lines>, instruction: &Instruction) {
        if let Some(lines) = earlier.replace(instruction.lines) {
            let message = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                instruction.keyword
            );
            self.report("MultipleInstructionsDisallowed", instruction.check.as_ref(), lines, message);
        }
    }

    /// L05, L06.
    fn stage_names(&mut self, stages: &[Stage]) {
        let mut seen = BTreeSet::new();
        for stage in stages {
            let Some(name) = stage.name.as_deref() else { continue };
            if name == "context" || name == "scratch" {
                let message = format!("Stage name should not use the same name as reserved stage {}", quoted(name));
                self.report("ReservedStageName", None, stage.lines, message);
            }
            if !seen.insert(name) {
                let message = format!("Duplicate stage name {}, stage names should be unique", quoted(name));
                self.report("DuplicateStageName", None, stage.lines, message);
            }
        }
    }

    /// L04: upper case wins when there are as many of each.
    fn casing(&mut self, stages: &[Stage]) {
        let keywords: Vec<(&str, Lines)> = stages
            .iter()
            .flat_map(|stage| {
                let instructions = stage.instructions.iter().map(|i| (i.keyword.as_str(), i.lines));
                std::iter::once((stage.keywords.0.as_str(), stage.lines)).chain(instructions)
            })
            .collect();
        let lower = keywords.iter().filter(|(keyword, _)| *keyword == keyword.to_lowercase()).count();
        let upper = keywords.iter().filter(|(keyword, _)| *keyword == keyword.to_uppercase()).count();
        for (keyword, lines) in keywords {
            let (wanted, casing) = if lower > upper {
                (keyword.to_lowercase(), "lowercase")
            } else {
                (keyword.to_uppercase(), "uppercase")
            };
            if keyword != wanted {
                let message = format!("Command '{keyword}' should match the case of the command majority ({casing})");
                self.report("ConsistentInstructionCasing", None, lines, message);
            }
        }
    }
}

/// Whether a name looks like that of a secret: one of its parts says so, and none says that it is public.
fn is_secret(key: &str) -> bool {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const PUBLIC: [&str; 3] = ["public", "file", "version"];
    let has = |words: &[&str]| key.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
    has(&SECRET) && !has(&PUBLIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    /// Findings as `line rule: message`.
    fn check(text: &str, expected: &[&str]) {
        let file = super::super::parse(Source::new("Dockerfile", text)).unwrap();
        let shown: Vec<String> =
            lint(&file).iter().map(|lint| format!("{} {}: {}", lint.lines.first, lint.rule, lint.message)).collect();
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn stage_names_and_from() {
        // features.md L01, L02, L05, L06
        check("FROM a AS Build", &["1 StageNameCasing: Stage name 'Build' should be lowercase"]);
        check("FROM a as b", &["1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"]);
        check("from a AS b", &["1 FromAsCasing: 'AS' and 'from' keywords' casing do not match"]);
        check("from a as b", &[]);
        check(
            "FROM a AS b\nFROM a AS B",
            &[
                "2 StageNameCasing: Stage name 'B' should be lowercase",
                "2 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique",
            ],
        );
        check(
            "FROM a AS scratch",
            &["1 ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\""],
        );
    }

    #[test]
    fn casing_follows_the_majority() {
        // features.md L04
        check(
            "FROM a\nrun x",
            &["2 ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)"],
        );
        check(
            "From a\nrun x",
            &[
                "1 ConsistentInstructionCasing: Command 'From' should match the case of the command majority (lowercase)",
            ],
        );
        check("arg X\nFROM a", &[]);
    }

    #[test]
    fn instructions() {
        // features.md L03, L08, L12, L13, L16
        check("FROM a\nRUN x \\\n\n y", &["4 NoEmptyContinuation: Empty continuation line"]);
        check(
            "FROM a\nMAINTAINER me",
            &["2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"],
        );
        let multiple = "instructions should not be used in the same stage because only the last one will be used";
        check(
            "FROM a\nCMD a\nENTRYPOINT x\nCMD b\nFROM b\nCMD c",
            &[&format!("2 MultipleInstructionsDisallowed: Multiple CMD {multiple}")],
        );
        check(
            "FROM a\nENV k v\nLABEL k=v",
            &["2 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format"],
        );
        check(
            "ARG GLOBAL_TOKEN\nFROM a\nARG db_Password\nENV \"API_KEY\"=1 PUBLIC_KEY=2 TOKENS=3",
            &[
                "3 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"db_Password\")",
                "4 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"API_KEY\")",
            ],
        );
    }

    #[test]
    fn rules_can_be_skipped() {
        // features.md D024
        check("# check=skip=all\nFROM a as B\nMAINTAINER x", &[]);
        check("# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER x", &[]);
        check("FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER x", &[]);
        check(
            "# check=skip=maintainerdeprecated\nFROM a\nMAINTAINER x",
            &["3 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"],
        );
        check(
            "# check=experimental=all\n\n# builds it\nFROM a AS b\n# X is it\nARG X",
            &["4 InvalidDefinitionDescription: Comment for FROM should follow the format: `# b <description>`"],
        );
    }
}
