//! The lint rules by name: what each is about, whose it is, and its page.
//!
//! The names and one-line descriptions of BuildKit's rules are part of its output, which people and editors read. Our own
//! rules give advice only: a Dockerfile that passes with BuildKit passes here, unless it names one of them in
//! `# check=experimental=`. Knows no Dockerfile; `lint` and `plan` find, this module explains.

use super::ast::{Check, Lint};

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, e.g. `StageNameCasing`.
    pub name: &'static str,
    /// What it is about, in one sentence.
    pub description: &'static str,
    /// Its page in `docs/lint/`.
    pub page: &'static str,
    /// Whose it is.
    pub origin: Origin,
    /// When BuildKit looks for it.
    pub pass: Pass,
}

/// BuildKit goes over a file several times and reports as it goes: by pass, and in a pass by line. It stops where it meets a
/// fault, so what later passes would find is not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// Physical lines are joined.
    Lines,
    /// Each instruction is read.
    Instructions,
    /// Stage names are compared.
    Names,
    /// Keywords are compared.
    Casing,
    /// FROM lines are expanded with the defaults of their arguments.
    Defaults,
    /// FROM lines are expanded.
    From,
    /// Base images are asked for.
    Bases,
    /// Each instruction is worked out.
    Meaning,
}

/// Puts findings in the order in which BuildKit reports them.
pub fn in_order(lints: &mut [Lint]) {
    let pass = |lint: &Lint| Rule::find(lint.rule).map_or(Pass::Meaning, |rule| rule.pass);
    lints.sort_by_cached_key(|lint| (pass(lint), lint.lines.first));
}

/// Whose a rule is, which decides when it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// BuildKit's: a finding is a warning.
    BuildKit,
    /// BuildKit's, but only when `# check=experimental=` asks for it.
    Experimental,
    /// Ours: a finding is a note, unless `# check=experimental=` names the rule.
    Ours,
    /// Ours, and no finding but a fault: the build fails.
    Policy,
}

/// Where BuildKit's rules are explained.
const URL: &str = "https://docs.docker.com/go/dockerfile/rule/";

macro_rules! rules {
    ($($origin:ident $pass:ident $name:literal $file:literal $description:literal;)*) => {
        /// All rules, BuildKit's first.
        pub const RULES: &[Rule] = &[$(Rule {
            name: $name,
            description: $description,
            page: include_str!(concat!("../../docs/lint/", $file, ".md")),
            origin: Origin::$origin,
            pass: Pass::$pass,
        },)*];
    };
}

rules! {
    BuildKit Instructions "StageNameCasing" "stage-name-casing" "Stage names should be lowercase";
    BuildKit Instructions "FromAsCasing" "from-as-casing" "The 'as' keyword should match the case of the 'from' keyword";
    BuildKit Lines "NoEmptyContinuation" "no-empty-continuation" "Empty continuation lines will become errors in a future release";
    BuildKit Casing "ConsistentInstructionCasing" "consistent-instruction-casing" "All commands within the Dockerfile should use the same casing (either upper or lower)";
    BuildKit Names "DuplicateStageName" "duplicate-stage-name" "Stage names should be unique";
    BuildKit Names "ReservedStageName" "reserved-stage-name" "Reserved words should not be used as stage names";
    BuildKit Meaning "JSONArgsRecommended" "json-args-recommended" "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    BuildKit Instructions "MaintainerDeprecated" "maintainer-deprecated" "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    BuildKit From "UndefinedArgInFrom" "undefined-arg-in-from" "FROM command must use declared ARGs";
    BuildKit Meaning "WorkdirRelativePath" "workdir-relative-path" "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    BuildKit Meaning "UndefinedVar" "undefined-var" "Variables should be defined before their use";
    BuildKit Meaning "MultipleInstructionsDisallowed" "multiple-instructions-disallowed" "Multiple instructions of the same type should not be used in the same stage";
    BuildKit Meaning "LegacyKeyValueFormat" "legacy-key-value-format" "Legacy key/value format with whitespace separator should not be used";
    BuildKit Bases "InvalidBaseImagePlatform" "invalid-base-image-platform" "Base image platform does not match expected target platform";
    BuildKit From "RedundantTargetPlatform" "redundant-target-platform" "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    BuildKit Meaning "SecretsUsedInArgOrEnv" "secrets-used-in-arg-or-env" "Sensitive data should not be used in the ARG or ENV commands";
    BuildKit Defaults "InvalidDefaultArgInFrom" "invalid-default-arg-in-from" "Default value for global ARG results in an empty or invalid base image name";
    BuildKit From "FromPlatformFlagConstDisallowed" "from-platform-flag-const-disallowed" "FROM --platform flag should not use a constant value";
    BuildKit Meaning "CopyIgnoredFile" "copy-ignored-file" "Attempting to Copy file that is excluded by .dockerignore";
    Experimental Instructions "InvalidDefinitionDescription" "invalid-definition-description" "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    BuildKit Meaning "ExposeProtoCasing" "expose-proto-casing" "Protocol in EXPOSE instruction should be lowercase";
    BuildKit Meaning "ExposeInvalidFormat" "expose-invalid-format" "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";
    Ours Meaning "ArgInvalidatesCache" "arg-invalidates-cache" "An ARG that changes with every build should not come before RUN instructions that do not use it";
    Ours Meaning "HeredocWithoutErrexit" "heredoc-without-errexit" "A heredoc with several commands should stop at the first one that fails";
    Ours Meaning "AptUpdateAlone" "apt-update-alone" "apt-get update belongs into the same RUN as the installation that needs it";
    Ours Meaning "AptCacheSharing" "apt-cache-sharing" "Cache mounts for apt should use sharing=locked";
    Ours Meaning "ContextMissingIgnore" "context-missing-ignore" "What no image needs should be excluded by .dockerignore";
    Ours Meaning "MissingSource" "missing-source" "What COPY, ADD and bind mounts take from a context should be there";
    Policy Meaning "BaseImageNotAllowed" "base-image-not-allowed" "Images must be among those that --allow-base names";
}

impl Rule {
    /// The rule of a name, which may be in any case or in kebab case.
    pub fn find(name: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.name.eq_ignore_ascii_case(name) || rule.kebab() == name.to_lowercase())
    }

    /// Where BuildKit's documentation explains it.
    pub fn url(&self) -> Option<String> {
        match self.origin {
            // The one rule of BuildKit that has no address.
            Origin::BuildKit if self.name == "InvalidBaseImagePlatform" => None,
            Origin::BuildKit | Origin::Experimental => Some(format!("{URL}{}/", self.kebab())),
            Origin::Ours | Origin::Policy => None,
        }
    }

    /// The name in kebab case, as files and addresses have it.
    pub fn kebab(&self) -> String {
        let letters: Vec<char> = self.name.chars().collect();
        let mut kebab = String::new();
        for (at, letter) in letters.iter().enumerate() {
            let begins = at > 0
                && letter.is_uppercase()
                && (letters[at - 1].is_lowercase() || letters.get(at + 1).is_some_and(|next| next.is_lowercase()));
            if begins {
                kebab.push('-');
            }
            kebab.extend(letter.to_lowercase());
        }
        kebab
    }
}

/// Whether a finding is a warning rather than a note: BuildKit's all are, ours when a check option names the rule.
pub fn counts(lint: &Lint, file: Option<&Check>, above: Option<&Check>) -> bool {
    let named = || [file, above].into_iter().flatten().any(|check| check.experimental.iter().any(|r| r == lint.rule));
    Rule::find(lint.rule).is_none_or(|rule| match rule.origin {
        Origin::BuildKit | Origin::Experimental | Origin::Policy => true,
        Origin::Ours => named(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_kebab_case() {
        let kebab = |name| Rule::find(name).map(Rule::kebab);
        assert_eq!(kebab("StageNameCasing").as_deref(), Some("stage-name-casing"));
        assert_eq!(kebab("jsonargsrecommended").as_deref(), Some("json-args-recommended"));
        assert_eq!(kebab("from-as-casing").as_deref(), Some("from-as-casing"));
        assert_eq!(kebab("NoSuchRule"), None);
    }

    #[test]
    fn only_buildkits_rules_have_addresses() {
        let url = |name| Rule::find(name).and_then(Rule::url);
        let expected = "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/";
        assert_eq!(url("JSONArgsRecommended").as_deref(), Some(expected));
        assert_eq!(url("InvalidBaseImagePlatform"), None);
        assert_eq!(url("AptUpdateAlone"), None);
    }

    /// Every page begins with the rule's name, says what it is about and shows a bad and a good example.
    #[test]
    fn every_rule_has_a_page() {
        for rule in RULES {
            assert!(rule.page.starts_with(&format!("# {}\n", rule.name)), "{}", rule.name);
            for heading in ["\n## Bad\n", "\n## Good\n"] {
                assert!(rule.page.contains(heading), "{}: no{heading}", rule.name);
            }
        }
    }

    /// No page in `docs/lint/` belongs to no rule, and the index lists all.
    #[test]
    fn every_page_has_a_rule() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/lint");
        let index = fs_err::read_to_string(format!("{dir}/README.md")).expect("there is an index");
        for entry in fs_err::read_dir(dir).expect("there are pages") {
            let name = entry.expect("readable").file_name().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".md").expect("only pages");
            assert!(stem == "README" || RULES.iter().any(|rule| rule.kebab() == stem), "{name}");
        }
        for rule in RULES {
            assert!(index.contains(&format!("({}.md)", rule.kebab())), "{} is not in the index", rule.name);
        }
    }
}
