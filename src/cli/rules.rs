//! The rules of `--check`, explained in a sentence, and where there is more to read.

/// Where a rule is explained at length.
const RULE_URL: &str = "https://docs.docker.com/go/dockerfile/rule/";

/// Each rule and what it is about.
const RULES: [(&str, &str); 22] = [
    ("ConsistentInstructionCasing", "All instructions of a Dockerfile should be written in the same case"),
    ("CopyIgnoredFile", "COPY and ADD find no file that .dockerignore keeps out of the context"),
    ("DuplicateStageName", "Two stages of the same name cannot be told apart"),
    ("ExposeInvalidFormat", "EXPOSE takes ports; addresses and host ports are chosen when a container is run"),
    ("ExposeProtoCasing", "Protocols in EXPOSE are written in lower case"),
    ("FromAsCasing", "AS should be written in the same case as the FROM before it"),
    ("FromPlatformFlagConstDisallowed", "A fixed platform in FROM keeps the image from being built for any other"),
    ("InvalidBaseImagePlatform", "The base image is for another platform than the build"),
    ("InvalidDefaultArgInFrom", "Without build arguments the name of the base image should still be one"),
    ("InvalidDefinitionDescription", "A comment that describes a stage or an argument begins with its name"),
    ("JSONArgsRecommended", "In JSON form the program gets the signals that the shell form gives to a shell"),
    ("LegacyKeyValueFormat", "A key and its value are joined by an equals sign; the form with a blank is outdated"),
    ("MaintainerDeprecated", "MAINTAINER is outdated; a label says the same and can be queried"),
    ("MultipleInstructionsDisallowed", "Of several CMD, ENTRYPOINT or HEALTHCHECK in a stage only the last one counts"),
    ("NoEmptyContinuation", "An empty line inside a continued instruction will become an error"),
    ("RedundantTargetPlatform", "FROM uses the target platform anyway"),
    ("ReservedStageName", "The names scratch and context mean something else already"),
    ("SecretsUsedInArgOrEnv", "Values of ARG and ENV can be read from the image; secrets belong in secret mounts"),
    ("StageNameCasing", "Names of stages are written in lower case"),
    ("UndefinedArgInFrom", "FROM can use only arguments declared before the first FROM"),
    ("UndefinedVar", "A variable that is not set anywhere expands to nothing, most likely because of a typing error"),
    ("WorkdirRelativePath", "A relative working directory depends on where the base image happens to leave off"),
];

/// What a rule is about, in a sentence; empty for one that is not known.
pub(super) fn description(rule: &str) -> &'static str {
    RULES.iter().find(|(name, _)| *name == rule).map_or("", |(_, about)| about)
}

/// Where a rule is explained; one has no page.
pub(super) fn url(rule: &str) -> Option<String> {
    if rule == "InvalidBaseImagePlatform" {
        return None;
    }
    let letters: Vec<char> = rule.chars().collect();
    let mut kebab = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let word_begins = at > 0
            && letter.is_uppercase()
            && (letters[at - 1].is_lowercase() || letters.get(at + 1).is_some_and(|next| next.is_lowercase()));
        if word_begins {
            kebab.push('-');
        }
        kebab.extend(letter.to_lowercase());
    }
    Some(format!("{RULE_URL}{kebab}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_an_address_in_kebab_case() {
        let page = |rule: &str| url(rule).and_then(|u| u.strip_prefix(RULE_URL).map(str::to_owned));
        assert_eq!(page("StageNameCasing").as_deref(), Some("stage-name-casing/"));
        assert_eq!(page("JSONArgsRecommended").as_deref(), Some("json-args-recommended/"));
        assert_eq!(page("FromAsCasing").as_deref(), Some("from-as-casing/"));
        assert_eq!(page("InvalidBaseImagePlatform"), None);
    }

    #[test]
    fn rules_are_explained() {
        assert!(RULES.is_sorted());
        assert!(description("UndefinedVar").starts_with("A variable"));
        assert_eq!(description("Unheard"), "");
    }
}
