//! What steps are called: `[build 2/5] RUN make`, as BuildKit shows them.

use crate::dockerfile::words;
use crate::oci::platform::Platform;
use crate::plan::env::Env;

/// Gives out the names of one stage's steps in order.
#[derive(Debug)]
pub(crate) struct Names {
    /// Stage name, empty when it is not shown.
    label: String,
    /// The stage's platform, when several are built.
    platform: Option<Platform>,
    total: usize,
    given: usize,
}

impl Names {
    pub(crate) fn new(label: String, platform: Option<Platform>, total: usize) -> Self {
        Self { label, platform, total, given: 0 }
    }

    /// Passes over numbers that another gave out.
    pub(crate) fn skip(&mut self, given: usize) {
        self.given += given;
    }

    /// The next step's name. `env` tells which platform is compiled for.
    pub(crate) fn next(&mut self, text: &str, triggered: bool, env: &Env) -> String {
        self.given += 1;
        let platform = self.platform.as_ref().map(|platform| format!("{platform}{} ", arrow(platform, env)));
        let platform = platform.unwrap_or_default();
        let label = if self.label.is_empty() { String::new() } else { format!("{} ", self.label) };
        let width = self.total.to_string().len();
        let onbuild = if triggered { "ONBUILD " } else { "" };
        format!("[{platform}{label}{:width$}/{}] {onbuild}{text}", self.given, self.total)
    }
}

/// `->arch` when the stage compiles for another platform than its own.
fn arrow(own: &Platform, env: &Env) -> String {
    let Some(target) = target(own, env) else { return String::new() };
    if target.os != own.os {
        return format!("->{target}");
    }
    if target.architecture == own.architecture {
        return String::new();
    }
    let variant = if target.variant.is_empty() { String::new() } else { format!("/{}", target.variant) };
    format!("->{}{variant}", target.architecture)
}

/// The platform that the TARGET* variables name.
fn target(own: &Platform, env: &Env) -> Option<Platform> {
    let (mut os, mut architecture, mut variant) = (None, None, None);
    for name in env.names() {
        match name {
            "TARGETPLATFORM" => {
                if let Ok(platform) = Platform::parse(env.get(name)?, own) {
                    return Some(platform);
                }
            }
            "TARGETOS" => os = env.get(name),
            "TARGETARCH" => architecture = env.get(name),
            "TARGETVARIANT" => variant = env.get(name),
            _ => {}
        }
    }
    if os.is_none() && architecture.is_none() && variant.is_none() {
        return None;
    }
    let or = |given: Option<&str>, own: &str| given.filter(|text| !text.is_empty()).unwrap_or(own).to_owned();
    Some(Platform::new(&or(os, &own.os), &or(architecture, &own.architecture), variant.unwrap_or_default()))
}

/// The text of a RUN: variables are replaced where they have a value, quotes stay. `masked` names are secrets.
pub(crate) fn of_run(text: &str, escape: char, env: &Env, masked: &[&str]) -> String {
    let value = |name: &str| {
        if masked.contains(&name) { Some("****".to_owned()) } else { env.get(name).map(str::to_owned) }
    };
    with_upper_keyword(&words::expand_for_show(text, &value, escape))
}

/// The text of COPY, ADD and WORKDIR: expanded like their words.
pub(crate) fn of_files(text: &str, escape: char, env: &Env) -> String {
    let value = |name: &str| env.get(name).map(str::to_owned);
    let expanded = words::expand(text, &value, escape).map_or_else(|_| text.to_owned(), |expanded| expanded.text);
    with_upper_keyword(&expanded)
}

fn with_upper_keyword(text: &str) -> String {
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// The remark after `RUN <<EOF`: the first line of the script.
pub(crate) fn of_heredoc(content: &str) -> String {
    let content = content.trim();
    let first = content.lines().next().unwrap_or_default();
    let more = if content.contains('\n') { "..." } else { "" };
    format!(" ({first}{more})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::env::Origin;

    #[test]
    fn numbers_are_padded_and_platforms_shown() {
        let platform = Platform::new("linux", "amd64", "");
        let mut names = Names::new("build".into(), Some(platform), 10);
        let mut env = Env::default();
        assert_eq!(names.next("RUN x", false, &env), "[linux/amd64 build  1/10] RUN x");
        env.set("TARGETARCH", "arm", Origin::Arg);
        env.set("TARGETVARIANT", "v7", Origin::Arg);
        assert_eq!(names.next("RUN x", true, &env), "[linux/amd64->arm/v7 build  2/10] ONBUILD RUN x");
        env.set("TARGETPLATFORM", "windows/amd64", Origin::Arg);
        assert_eq!(names.next("RUN x", false, &env), "[linux/amd64->windows/amd64 build  3/10] RUN x");
        assert_eq!(Names::new(String::new(), None, 2).next("RUN x", false, &env), "[1/2] RUN x");
    }

    #[test]
    fn run_texts_keep_quotes_and_unset_variables() {
        let mut env = Env::default();
        env.set("A", "1", Origin::Env);
        assert_eq!(of_run("run echo \"$A\" $B '$A' $T", '\\', &env, &["T"]), "RUN echo \"1\" $B '$A' ****");
        assert_eq!(of_files("copy \"$A\" $B/x", '\\', &env), "COPY 1 /x");
        assert_eq!(of_heredoc("\n a\nb\n"), " (a...)");
        assert_eq!(of_heredoc("a\n"), " (a)");
    }
}
